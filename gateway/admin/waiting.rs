//! Clients that wait for a change before they are answered. They cannot be told to leave, so there is a bound.

use std::{future::Future, sync::Arc};

use tokio::sync::{Semaphore, watch};

use super::{answer::Rejection, roster::MOST_CONNECTIONS};

/// Waiting at once: half of all that may be connected, since others have to renew and to ask.
pub(super) const MOST_WAITING: usize = MOST_CONNECTIONS / 2;

pub(super) struct Waiting {
    places: Arc<Semaphore>,
    /// The listener serves nobody.
    closed: watch::Sender<bool>,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST_WAITING)), closed: watch::Sender::new(false) }
    }
}

impl Waiting {
    /// The listener serves, again or for the first time.
    pub(super) fn open(&self) {
        self.closed.send_replace(false);
    }

    /// Nobody waits any longer.
    pub(super) fn end(&self) {
        self.closed.send_replace(true);
    }

    /// Waits for `change`, or until the listener closes. An error says that too many wait already.
    pub(super) async fn wait(&self, change: impl Future<Output = ()>) -> Result<(), Rejection> {
        let _place = self.places.try_acquire().map_err(|_| Rejection::Busy)?;
        let mut closed = self.closed.subscribe();
        tokio::select! {
            () = change => {}
            // An error says the same.
            _ = closed.wait_for(|closed| *closed) => {}
        }
        Ok(())
    }
}
