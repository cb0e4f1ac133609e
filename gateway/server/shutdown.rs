//! The order to close, from whoever decides to all workers.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Gives the order. Dropping it gives it, too, without time to finish.
#[derive(Debug)]
pub struct Closer(watch::Sender<Stage>);

/// Receives the order.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Stage>);

#[derive(Debug, Clone, Copy)]
enum Stage {
    Open,
    Leaving,
    Closed { deadline: Instant },
}

/// Both ends.
pub fn shutdown() -> (Closer, Shutdown) {
    let (sender, receiver) = watch::channel(Stage::Open);
    (Closer(sender), Shutdown(receiver))
}

impl Closer {
    /// Everything goes on, and every answer tells its client to come back over another connection.
    pub fn leave(&self) {
        self.0.send_if_modified(|stage| {
            let open = matches!(stage, Stage::Open);
            if open {
                *stage = Stage::Leaving;
            }
            open
        });
    }

    /// Listeners close at once; connections may finish what they are doing for so long.
    pub fn close(&self, drain: Duration) {
        self.0.send_replace(Stage::Closed { deadline: Instant::now() + drain });
    }
}

impl Shutdown {
    /// Waits until closing is at hand.
    pub(super) async fn announced(&mut self) {
        // An error says that the sender is gone, which is the same.
        let _ = self.0.wait_for(|stage| !matches!(stage, Stage::Open)).await;
    }

    /// Waits for the order; returns the moment when connections must have finished.
    pub(super) async fn ordered(&mut self) -> Instant {
        match self.0.wait_for(|stage| matches!(stage, Stage::Closed { .. })).await.as_deref() {
            Ok(Stage::Closed { deadline }) => *deadline,
            _ => Instant::now(),
        }
    }
}
