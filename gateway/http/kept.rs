//! What a client's connection keeps from one of its requests to the next, because making it anew would cost more than
//! using it. Requests of a connection come one after the other, so one of each is enough.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Request, uri::PathAndQuery};
use tokio::time::{Instant, Sleep};

use super::body::{Sending, Upload};

#[derive(Default)]
pub(super) struct Kept {
    alarm: Cell<Option<Alarm>>,
    spare: Cell<Option<Box<Spare>>>,
}

impl Kept {
    /// Rings when `limit` has passed since `begun`. While the body of the request is under way every frame of it
    /// counts as a beginning.
    pub(super) fn timer(&self, begun: Instant, limit: Option<Duration>, upload: Option<Rc<Upload>>) -> Timer {
        let limit = limit.unwrap_or(FOR_EVER);
        let due = begun + limit;
        let mut alarm = self.alarm.take().unwrap_or_else(|| Alarm::new(due));
        alarm.no_later_than(due);
        let frames = upload.as_ref().map_or(0, |upload| upload.frames());
        Timer { alarm, due, limit, upload, frames }
    }

    /// A copy of a request without a body, whose target is in origin form.
    pub(super) fn spare<B>(&self, request: &Request<B>) -> Box<Spare> {
        let mut spare = self.spare.take().unwrap_or_default();
        spare.method = request.method().clone();
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        spare.text.extend_from_slice(target.as_bytes());
        for (name, value) in request.headers() {
            for part in [name.as_ref(), value.as_bytes()] {
                spare.text.push(SEPARATOR);
                spare.text.extend_from_slice(part);
            }
        }
        spare
    }

    /// Takes back what is not needed any more.
    pub(super) fn keep(&self, timer: Timer, spare: Option<Box<Spare>>) {
        self.alarm.set(Some(timer.alarm));
        if let Some(mut spare) = spare {
            spare.text.clear();
            self.spare.set(Some(spare));
        }
    }
}

/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Neither a target nor a header has it.
const SEPARATOR: u8 = b'\n';

/// A request as it was sent, to be sent again: as text, because that costs less to write and to forget than a copy of
/// each header, and is seldom read.
#[derive(Default)]
pub(super) struct Spare {
    method: Method,
    /// The target, then a name and a value for each header.
    text: Vec<u8>,
}

impl Spare {
    /// None if the text cannot be understood, which nothing that was sent leads to.
    pub(super) fn into_request(self) -> Option<Request<Sending>> {
        let mut request = Request::new(Sending::Empty);
        *request.method_mut() = self.method;
        let mut parts = self.text.split(|byte| *byte == SEPARATOR);
        *request.uri_mut() = PathAndQuery::try_from(parts.next()?).ok()?.into();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let (name, value) = (HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

/// How long an answer may take.
pub(super) struct Timer {
    alarm: Alarm,
    due: Instant,
    limit: Duration,
    upload: Option<Rc<Upload>>,
    /// Frames that were seen when it was set.
    frames: u64,
}

impl Timer {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.alarm.poll(cx));
            let now = Instant::now();
            let frames = self.upload.as_ref().map_or(0, |upload| upload.frames());
            if frames != self.frames {
                self.frames = frames;
                self.due = now + self.limit;
            } else if now >= self.due {
                return Poll::Ready(());
            }
            self.alarm.set(self.due);
        }
    }
}

/// Wakes the task of the connection. It is left as it is from request to request and may ring too early: then it is set
/// again, once in the time that an answer may take and not with every request.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// Whom it wakes.
    waker: Option<Waker>,
}

impl Alarm {
    fn new(due: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(due)), waker: None }
    }

    fn set(&mut self, due: Instant) {
        self.sleep.as_mut().reset(due);
        self.waker = None;
    }

    fn no_later_than(&mut self, due: Instant) {
        if self.sleep.deadline() > due {
            self.set(due);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        let rung = self.sleep.as_mut().poll(cx);
        self.waker = rung.is_pending().then(|| cx.waker().clone());
        rung
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn rings(timer: &mut Timer) -> Instant {
        poll_fn(|cx| timer.poll(cx)).await;
        Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_rings_at_its_time_whatever_was_set_before() {
        let (kept, start) = (Kept::default(), Instant::now());
        let mut first = kept.timer(start, Some(LIMIT), None);
        assert!(poll_fn(|cx| Poll::Ready(first.poll(cx))).await.is_pending());
        kept.keep(first, None);

        tokio::time::advance(LIMIT / 2).await;
        let mut later = kept.timer(Instant::now(), Some(LIMIT), None);
        assert_eq!((rings(&mut later).await - start).as_secs(), 15);
        kept.keep(later, None);

        let mut long = kept.timer(Instant::now(), Some(LIMIT * 10), None);
        assert!(poll_fn(|cx| Poll::Ready(long.poll(cx))).await.is_pending());
        kept.keep(long, None);
        let mut short = kept.timer(Instant::now(), Some(LIMIT), None);
        assert_eq!((rings(&mut short).await - start).as_secs(), 25);
    }

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
        kept.keep(kept.timer(Instant::now(), Some(Duration::from_secs(1)), None), Some(first));

        let sent = request("/second", &["x-c", "x-b", "x-c"]);
        let again = kept.spare(&sent).into_request().unwrap();
        assert_eq!(
            (again.method(), again.uri(), again.headers()),
            (sent.method(), sent.uri(), sent.headers())
        );
    }
}
