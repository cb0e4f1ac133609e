//! Tasks that have an owner: one that panics is reported, and what must go on is begun anew.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinSet};

/// Before what panicked is begun anew: it may panic at once again.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs what `make` makes until it ends by itself, and makes it anew after a panic, which is reported. Must be called
/// where `spawn_local` works. Dropping it ends it.
pub async fn supervised<F>(what: &'static str, make: impl Fn() -> F)
where
    F: Future<Output = ()> + 'static,
{
    // Dropped, it takes its task with it.
    let mut task = JoinSet::new();
    loop {
        task.spawn_local(make());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                tracing::error!(task = what, %error, "A task of a worker panicked, beginning it anew");
            }
            _ => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The tasks of the connections of one worker. A panic ends its connection and no other. Dropping it ends them all.
#[derive(Default)]
pub(super) struct Tasks {
    running: RefCell<JoinSet<()>>,
    begun: Notify,
    ended: Notify,
}

impl Tasks {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut running = self.running.borrow_mut();
        if running.is_empty() {
            self.begun.notify_one();
        }
        running.spawn_local(task);
    }

    pub(super) fn len(&self) -> usize {
        self.running.borrow().len()
    }

    /// Waits for what ends, and reports what panicked, for ever.
    pub(super) async fn watch(&self) {
        loop {
            match poll_fn(|cx| self.running.borrow_mut().poll_join_next(cx)).await {
                None => self.begun.notified().await,
                Some(ended) => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "A connection's task panicked");
                    }
                    self.ended.notify_one();
                }
            }
        }
    }

    /// Waits until there are none. For one to wait.
    pub(super) async fn emptied(&self) {
        while self.len() > 0 {
            self.ended.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn what_panics_is_begun_anew_and_what_ends_is_not() {
        let begun = Rc::new(Cell::new(0));
        let count = begun.clone();
        supervised("test", move || {
            let count = count.clone();
            async move {
                count.set(count.get() + 1);
                assert!(count.get() > 2, "as asked");
            }
        })
        .await;
        assert_eq!(begun.get(), 3);
    }
}
