//! Answers that are not what is wanted, such as a 503: the last one is kept while there is hope for a better one, and
//! goes to the client if none comes.

use std::{
    future::poll_fn,
    pin::Pin,
    time::{Duration, Instant},
};

use hyper::body::{Body, Incoming};

use super::{
    RequestError,
    attempt::{Attempt, Step, Tries, Try},
    exchange::{Exchange, Headed},
    reply::give_back,
    waits::Wait,
};
use crate::net;

/// What is left of an answer that nobody gets is read up to so many bytes, for its connection to be of use still.
const SHORT: usize = 16 * 1024;

/// And for so long.
const SOON: Duration = Duration::from_secs(1);

/// An answer, and the try that it came of.
pub(super) struct Aside {
    headed: Headed,
    ended: Try,
}

impl Exchange {
    /// Keeps the answer that came in the place of the one before.
    pub(super) fn set_aside(&mut self, ended: Try) {
        self.forget_aside();
        let Some(headed) = self.headed.take() else { return };
        if self.upload.as_ref().is_none_or(|upload| upload.is_over()) {
            self.aside = Some(Box::new(Aside { headed, ended }));
        } else if let Step::Sent(attempt) = ended.step {
            // It came before the whole request was sent, and the rest is for another one now.
            attempt.connection.close();
        }
    }

    /// After a failure the client gets the answer that was kept, instead of one of the gateway's own. Says whether there
    /// is one.
    pub(super) fn take_aside(&mut self, error: &RequestError) -> bool {
        // An answer is kept only after the whole request, so that the client can have spoilt nothing of it since.
        let is_over = matches!(error, RequestError::Expired(Wait::WholeOfClient | Wait::WholeOfEndpoint));
        let Some(aside) = self.aside.take().filter(|_| !is_over) else { return false };
        let Aside { mut headed, ended } = *aside;
        if let Step::Sent(attempt) = &ended.step {
            self.waits.sent(&attempt.connection, ended.opened.in_flight.stats());
        }
        headed.at = Instant::now();
        self.headed = Some(headed);
        self.tries = Tries::One(ended);
        true
    }

    /// A better answer came: the connection of the one that was kept is free, once what is left of it is read.
    pub(super) fn forget_aside(&mut self) {
        let Some(aside) = self.aside.take() else { return };
        let Aside { headed, ended: Try { opened, step, .. } } = *aside;
        let Step::Sent(Attempt { connection, .. }) = step else { return };
        let upstream = &self.target.upstream.config;
        let (pool, keep) = (self.peer.pool(upstream).clone(), upstream.pool);
        let mut body = headed.response.into_body();
        let endpoint = opened.in_flight.stats().clone();
        if body.is_end_stream() {
            return give_back(connection, pool, endpoint, keep);
        }
        if body.size_hint().lower() > SHORT as u64 {
            return connection.close();
        }
        tokio::task::spawn_local(net::guarded("rest of an answer", async move {
            // Until then the endpoint is busy with it.
            let _opened = opened;
            match tokio::time::timeout(SOON, drain(&mut body)).await {
                Ok(true) => give_back(connection, pool, endpoint, keep),
                _ => connection.close(),
            }
        }));
    }
}

/// Reads a short rest. False if it is longer. The connection of one that breaks off is closed by itself.
async fn drain(body: &mut Incoming) -> bool {
    let mut read = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        read += frame.data_ref().map_or(0, |data| data.len());
        if read > SHORT {
            return false;
        }
    }
    true
}
