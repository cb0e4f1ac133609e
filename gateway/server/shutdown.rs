//! The order to close, from whoever decides to all workers.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Gives the order. Dropping it gives it, too, without time to finish.
#[derive(Debug)]
pub struct Closer(watch::Sender<Option<Instant>>);

/// Receives the order.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Option<Instant>>);

/// Both ends.
pub fn shutdown() -> (Closer, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (Closer(sender), Shutdown(receiver))
}

impl Closer {
    /// Listeners close at once; connections may finish what they are doing for so long.
    pub fn close(&self, drain: Duration) {
        self.0.send_replace(Some(Instant::now() + drain));
    }
}

impl Shutdown {
    /// Waits for the order; returns the moment when connections must have finished.
    pub(super) async fn ordered(&mut self) -> Instant {
        match self.0.wait_for(Option::is_some).await {
            Ok(deadline) => deadline.unwrap_or_else(Instant::now),
            Err(_) => Instant::now(),
        }
    }
}
