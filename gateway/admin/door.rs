//! Whether the admin listeners take clients: one process at a time does, where one hands over to another.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

/// Decides over all admin listeners of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stands: watch::Sender<Stands>,
    /// Each listener that has clients holds a receiver.
    serving: watch::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// The same, but every answer says that its connection closes, and nobody gives orders that may not last.
    Leaving,
    /// Clients wait in the queues of the listeners.
    Shut,
    /// The listeners are closed.
    Gone,
}

impl Default for Door {
    /// One that is open.
    fn default() -> Self {
        Self::new(Stands::Open)
    }
}

impl Door {
    /// One that is shut until it is opened.
    pub fn shut() -> Self {
        Self::new(Stands::Shut)
    }

    fn new(stands: Stands) -> Self {
        Self(Arc::new(Shared { stands: watch::Sender::new(stands), serving: watch::Sender::new(()) }))
    }

    /// Takes clients, again or for the first time.
    pub fn open(&self) {
        self.set(Stands::Open);
    }

    /// Another process may take over soon.
    pub fn leave(&self) {
        self.set(Stands::Leaving);
    }

    pub(super) fn is_leaving(&self) -> bool {
        *self.0.stands.borrow() != Stands::Open
    }

    /// Takes no clients any more. When this returns those that there were have had their answers, and nothing is
    /// changed by anybody.
    pub async fn close(&self) {
        self.set(Stands::Shut);
        self.0.serving.closed().await;
    }

    /// Closes the listeners, too, for good.
    pub async fn remove(&self) {
        self.set(Stands::Gone);
        self.0.serving.closed().await;
    }

    fn set(&self, stands: Stands) {
        self.0.stands.send_if_modified(|known| {
            let other = *known != stands && *known != Stands::Gone;
            if other {
                *known = stands;
            }
            other
        });
    }

    /// Runs `serve` whenever the door is open, until it is gone. What it is given ends when clients are to leave.
    pub(super) async fn while_open<F: Future<Output = ()>>(&self, serve: impl Fn(Shutting) -> F) {
        let mut stands = self.0.stands.subscribe();
        loop {
            let opened = stands.wait_for(|stands| *stands != Stands::Shut).await.map(|stands| *stands);
            if !matches!(opened, Ok(Stands::Open | Stands::Leaving)) {
                return;
            }
            let _serving = self.0.serving.subscribe();
            // Whoever shut it before this did not wait.
            if matches!(*stands.borrow(), Stands::Open | Stands::Leaving) {
                serve(Shutting(stands.clone())).await;
            }
        }
    }
}

/// The end of a time in which a door is open.
pub(super) struct Shutting(watch::Receiver<Stands>);

impl Shutting {
    pub(super) async fn wait(mut self) {
        // An error says that nobody can open it any more.
        let _ = self.0.wait_for(|stands| matches!(stands, Stands::Shut | Stands::Gone)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    #[tokio::test]
    async fn who_shuts_a_door_waits_for_clients_and_it_opens_again_until_it_is_gone() {
        let (door, served) = (Door::shut(), Arc::new(AtomicUsize::new(0)));
        let (inside, count) = (door.clone(), served.clone());
        let task = tokio::spawn(async move {
            let serve = |shutting: Shutting| {
                let count = count.clone();
                async move {
                    shutting.wait().await;
                    tokio::task::yield_now().await;
                    count.fetch_add(1, SeqCst);
                }
            };
            inside.while_open(serve).await;
        });
        for times in 1..=3 {
            door.open();
            while door.0.serving.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
            door.leave();
            assert!(door.is_leaving() && served.load(SeqCst) == times - 1);
            door.close().await;
            assert_eq!(served.load(SeqCst), times);
        }
        door.remove().await;
        door.open();
        task.await.unwrap();
        assert_eq!(served.load(SeqCst), 3);
    }
}
