//! The accept loop of one listener on one worker.

use std::{future::Future, io, net::SocketAddr, rc::Rc, time::Duration};

use hyper::{
    Response,
    body::{Body, Bytes},
};
use tokio::net::TcpStream;

use super::{
    Arrival, ConnInfo,
    connection::{self, Accepted, Surroundings},
    listen::Accepting,
    spread,
    tasks::Tasks,
};
use crate::{
    backoff::{Backoff, Lasting},
    net::Tcp,
};

/// Pauses after an error that will not go away by itself, such as no file descriptors being left.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Accepts for ever. Dropping it closes the listener and leaves the connections alone.
///
/// A client is accepted before it has a permit. While it waits for one it is the only one of this worker that does, and
/// the others are in the kernel's queue.
pub(super) async fn accept<A, C, F, B>(
    listening: Rc<Accepting>,
    surroundings: Rc<Surroundings>,
    tasks: Rc<Tasks>,
    answers: Rc<A>,
) where
    A: Fn(&Rc<ConnInfo>) -> C + 'static,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut errors = AcceptErrors::default();
    let (worker, mut handed) = spread::Worker::open(listening.spread.clone(), listening.index);
    loop {
        let (socket, peer) = tokio::select! {
            accepted = listening.socket.accept() => match accepted {
                Ok((socket, peer)) => {
                    errors.accepted();
                    // Who has to wait for a permit does so here.
                    let stays = if listening.capacity.has_room() { worker.place(socket, peer) } else { Some(socket) };
                    let Some(socket) = stays else { continue };
                    (socket, peer)
                }
                Err(error) => {
                    errors.pause_after(&error).await;
                    continue;
                }
            },
            Some(handed) = handed.recv() => match handed.register() {
                Ok(registered) => registered,
                Err(error) => {
                    errors.pause_after(&error).await;
                    continue;
                }
            },
        };
        let Some(seat) = listening.capacity.enter().await else { return };
        let counted = (listening.counters.accepted(), worker.count());
        if let Err(error) = connection::prepare(&socket) {
            tracing::debug!(client = %peer, %error, "Client was gone before it was served");
            continue;
        }
        let local = local(&socket, &listening);
        let stream = Tcp::new(socket);
        let info = Rc::new(ConnInfo::new(
            peer,
            local,
            stream.meter().clone(),
            worker.clone(),
            listening.settings.max_age,
        ));
        let Accepting { tls, settings, counters, .. } = &*listening;
        let (tls, settings, counters) = (tls.clone(), settings.clone(), counters.clone());
        let accepted = Accepted { stream, tls, info, seat, settings, counters };
        let (surroundings, answers) = (surroundings.clone(), answers.clone());
        tasks.spawn(async move {
            let _counted = counted;
            connection::run(accepted, surroundings, &*answers).await;
        });
    }
}

fn local(socket: &TcpStream, listening: &Accepting) -> SocketAddr {
    socket.local_addr().unwrap_or(listening.address)
}

/// What a listener makes of errors of `accept`: they end no loop, and are no reason to go round at once.
pub struct AcceptErrors {
    backoff: Backoff,
    failing: Lasting,
}

impl Default for AcceptErrors {
    fn default() -> Self {
        Self { backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), failing: Lasting::default() }
    }
}

impl AcceptErrors {
    /// Waits before the next `accept` where an error would come again at once. A client that went away while it
    /// waited concerns nobody.
    pub async fn pause_after(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
            return;
        }
        if let Some(lasts) = self.failing.met(&error.to_string()) {
            tracing::warn!(%error, for_seconds = lasts.for_seconds, times = lasts.times, "Accept failed");
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
        let mut errors = AcceptErrors::default();
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
        AcceptErrors::default().pause_after(&io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
