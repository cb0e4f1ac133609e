//! What a client's connection keeps from one of its requests to the next, because making it anew would cost more than
//! using it. Requests of a connection come one after the other, so one of each is enough.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use tokio::time::Sleep;

use super::body::{Sending, Upload};

#[derive(Default)]
pub(super) struct Kept {
    sleep: Cell<Option<Pin<Box<Sleep>>>>,
    spare: Cell<Option<Box<Spare>>>,
}

impl Kept {
    /// Rings when `limit` has passed since `begun`. While the body of the request is under way every frame of it
    /// counts as a beginning.
    pub(super) fn timer(&self, begun: Instant, limit: Duration, upload: Option<Rc<Upload>>) -> Timer {
        let mut sleep = self.sleep.take().unwrap_or_else(|| Box::pin(tokio::time::sleep(limit)));
        // Moving it further away costs next to nothing.
        sleep.as_mut().reset(tokio::time::Instant::from_std(begun) + limit);
        let frames = upload.as_ref().map_or(0, |upload| upload.frames());
        Timer { sleep, limit, upload, frames }
    }

    /// A copy of a request without a body.
    pub(super) fn spare<B>(&self, request: &Request<B>) -> Box<Spare> {
        let mut spare = self.spare.take().unwrap_or_default();
        spare.method = request.method().clone();
        spare.uri = request.uri().clone();
        let headers = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        spare.headers.extend(headers);
        spare
    }

    /// Takes back what is not needed any more.
    pub(super) fn keep(&self, timer: Timer, spare: Option<Box<Spare>>) {
        self.sleep.set(Some(timer.sleep));
        if let Some(mut spare) = spare {
            spare.uri = Uri::default();
            spare.headers.clear();
            self.spare.set(Some(spare));
        }
    }
}

/// A request as it was sent, to be sent again.
#[derive(Default)]
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Spare {
    pub(super) fn into_request(self) -> Request<Sending> {
        let mut request = Request::new(Sending::Empty);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        for (name, value) in self.headers {
            request.headers_mut().append(name, value);
        }
        request
    }
}

/// How long an answer may take.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    limit: Duration,
    upload: Option<Rc<Upload>>,
    /// Frames that were seen when it was set.
    frames: u64,
}

impl Timer {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = self.upload.as_ref().map_or(0, |upload| upload.frames());
            if now == self.frames {
                return Poll::Ready(());
            }
            self.frames = now;
            self.sleep.as_mut().reset(tokio::time::Instant::now() + self.limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spare_is_the_request_and_nothing_of_the_one_before() {
        let request = |path: &str, names: &[&str]| {
            let mut request = Request::put(path).body(()).unwrap();
            for name in names {
                request.headers_mut().append(name.parse::<HeaderName>().unwrap(), "1".parse().unwrap());
            }
            request
        };
        let kept = Kept::default();
        let first = kept.spare(&request("/first", &["x-a", "x-b", "x-a"]));
        kept.keep(kept.timer(Instant::now(), Duration::from_secs(1), None), Some(first));

        let sent = request("/second", &["x-c", "x-b", "x-c"]);
        let again = kept.spare(&sent).into_request();
        assert_eq!(
            (again.method(), again.uri(), again.headers()),
            (sent.method(), sent.uri(), sent.headers())
        );
    }
}
