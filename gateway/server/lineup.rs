//! What is to be served, from whoever decides to all workers: one value, which each worker follows.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::Listener;
use crate::config::Shutdown;

/// The listeners, and how those end that are not among them any more.
#[derive(Debug, Clone)]
pub struct Lineup {
    pub listeners: Vec<Listener>,
    /// Everything goes on, and every answer tells its client to come back over another connection.
    pub leaving: bool,
    /// How long the connections of a listener that is gone may do what.
    pub ending: Shutdown,
    /// Where another process serves new clients: has a permit from each worker that has heard of it, whose answers say
    /// from then on that their connections close.
    pub heard: Option<Arc<Semaphore>>,
}

impl Lineup {
    /// What was bound, with no time for what is taken away.
    pub fn of(listeners: Vec<Listener>) -> Self {
        let ending = Shutdown { delay: Duration::ZERO, drain: Duration::ZERO };
        Self { listeners, leaving: false, ending, heard: None }
    }

    /// Every listener goes; connections may finish what they are doing for so long.
    pub fn close(&mut self, drain: Duration) {
        self.listeners.clear();
        self.ending = Shutdown { delay: Duration::ZERO, drain };
    }

    /// The same where another process serves new clients. Nobody has to hurry then: a connection that is idle stays
    /// until its next answer has said that it closes. Returns what has a permit from each worker that has heard of it.
    pub fn hand_over(&mut self, drain: Duration) -> Arc<Semaphore> {
        self.listeners.clear();
        self.ending = Shutdown { delay: drain, drain };
        self.heard.get_or_insert_with(|| Arc::new(Semaphore::new(0))).clone()
    }
}
