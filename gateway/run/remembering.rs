//! The embedded registry at work, as long as its file is this process'.

use std::sync::Arc;

use tokio::{sync::oneshot, task::JoinHandle};

use crate::connector::Memory;

/// Expires and saves what is registered, between [`start`](Self::start) and [`stop`](Self::stop).
pub(super) struct Remembering {
    pub memory: Arc<Memory>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Remembering {
    /// Not yet.
    pub(super) fn of(memory: Arc<Memory>) -> Self {
        Self { memory, running: None }
    }

    pub(super) fn start(&mut self) {
        let (enough, stopped) = oneshot::channel::<()>();
        let memory = self.memory.clone();
        let task = tokio::spawn(async move { memory.run(async { stopped.await.unwrap_or_default() }).await });
        self.running = Some((enough, task));
    }

    /// Everything is saved when this returns.
    pub(super) async fn stop(&mut self) {
        if let Some((enough, task)) = self.running.take() {
            drop(enough);
            // A panic there has been reported where it happened.
            let _ = task.await;
        }
    }
}
