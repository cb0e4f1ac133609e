//! The accept loop of one listener on one worker.

use std::{future::Future, io, pin::pin, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Response,
    body::{Body, Bytes},
};

use super::{
    Arrival, ConnInfo, Listener,
    connection::{self, Accepted},
    listen::Open,
    served::Served,
    spread::{self, Handed},
};
use crate::{
    backoff::{Backoff, Lasting},
    net::Tcp,
};

/// Pauses after an error that will not go away by itself, such as no file descriptors being left.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Accepts until the listener is gone and its queue is empty. Dropping it closes the socket and leaves the connections
/// alone.
///
/// A client is accepted before it has a permit. While it waits for one it is the only one of this worker that does, and
/// the others are in the kernel's queue.
pub(super) async fn accept<A, C, F, B>(open: Rc<Open>, served: Rc<Served>, answers: Rc<A>)
where
    A: Fn(&Listener, &Rc<ConnInfo>) -> C + 'static,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut errors = AcceptErrors::of(served.listener().settings.name.clone());
    let (worker, mut handed) = spread::Worker::open(open.spread(), open.worker);
    let mut gone = pin!(served.reached(|ending| ending.gone));
    let mut nobody_comes = pin!(served.reached(|ending| ending.nobody_comes));
    let (mut leaving, mut closing) = (false, false);
    loop {
        let capacity = served.listener().capacity().clone();
        let (socket, peer) = tokio::select! {
            // In this order: the last is only for when there is nobody.
            biased;
            handed = handed.recv() => match handed.map(Handed::register) {
                Some(Ok(registered)) => registered,
                Some(Err(error)) => {
                    errors.pause_after(&error).await;
                    continue;
                }
                // Nobody can hand over any more, and this was the last.
                None => return,
            },
            () = &mut gone, if !leaving => {
                leaving = true;
                // Who waits in the queue waits for the other process that accepts there.
                if open.is_handed_over() {
                    closing = true;
                    handed.close();
                }
                continue;
            }
            accepted = open.socket.accept() => match accepted {
                Ok((socket, peer)) => {
                    errors.accepted();
                    // Who has to wait for a permit does so here.
                    let stays = if capacity.has_room() { worker.place(socket, peer) } else { Some(socket) };
                    let Some(socket) = stays else { continue };
                    (socket, peer)
                }
                Err(error) => {
                    errors.pause_after(&error).await;
                    continue;
                }
            },
            () = &mut nobody_comes, if !closing => {
                closing = true;
                handed.close();
                continue;
            }
        };
        let Some(seat) = capacity.enter().await else { return };
        let listener = served.listener();
        let counted = (listener.counters.accepted(), worker.count());
        let local = match listener.address() {
            // Which of the machine's addresses it is, the kernel says.
            any if any.ip().is_unspecified() => socket.local_addr().unwrap_or(any),
            one => one,
        };
        let stream = Tcp::new(socket);
        let info = Rc::new(ConnInfo::new(
            peer,
            local,
            stream.meter().clone(),
            worker.clone(),
            listener.settings.max_age,
        ));
        let Listener { tls, settings, access_log, counters, .. } = listener.clone();
        let accepted = Accepted { stream, tls, info, seat, settings, access_log, counters };
        let (surroundings, answers) = (served.surroundings.clone(), answers.clone());
        served.tasks.spawn(async move {
            let _counted = counted;
            connection::run(accepted, surroundings, &|info: &Rc<ConnInfo>| answers(&listener, info)).await;
        });
    }
}

/// What a listener makes of errors of `accept`: they end no loop, and are no reason to go round at once.
pub struct AcceptErrors {
    listener: Arc<str>,
    backoff: Backoff,
    failing: Lasting,
}

impl AcceptErrors {
    /// The name of the listener is for the log.
    pub fn of(listener: impl Into<Arc<str>>) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { listener: listener.into(), backoff, failing: Lasting::default() }
    }

    /// Waits before the next `accept` where an error would come again at once. A client that went away while it
    /// waited concerns nobody.
    pub async fn pause_after(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        if let Some(lasts) = self.failing.met(&error.to_string()) {
            tracing::warn!(listener = &*self.listener, %error, for_seconds = lasts.for_seconds,
                times = lasts.times, "Accept failed");
        }
        tokio::time::sleep(self.backoff.pause()).await;
    }

    pub fn accepted(&mut self) {
        self.backoff.works();
        if let Some(lasted) = self.failing.over() {
            tracing::info!(for_seconds = lasted.for_seconds, "Accepting again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_the_next_attempt_comes_ever_later() {
        let mut errors = AcceptErrors::of("web");
        let none_left = io::Error::from_raw_os_error(24);
        let start = tokio::time::Instant::now();
        for _ in 0..100 {
            errors.pause_after(&none_left).await;
            // One connection ends, another takes its place.
            errors.accepted();
        }
        assert!(start.elapsed() > LONGEST_PAUSE * 40, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_went_away_delays_nobody() {
        let start = tokio::time::Instant::now();
        AcceptErrors::of("web").pause_after(&io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
