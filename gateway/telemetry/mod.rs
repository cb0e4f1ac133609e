//! Names of log fields and metrics, and the counters behind them.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counters of one upstream. Each worker writes its own, so a count is a plain load and store.
#[derive(Debug)]
pub struct UpstreamMetrics {
    workers: Box<[WorkerCounters]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerCounters {
    /// 1xx to 5xx.
    statuses: [AtomicU64; 5],
    retries: AtomicU64,
}

impl UpstreamMetrics {
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| WorkerCounters::default()).collect() }
    }

    /// An answer was passed on, or made by the gateway.
    pub fn answered(&self, worker: usize, status: u16, _took: Duration) {
        add(&self.workers[worker].statuses[(status / 100).clamp(1, 5) as usize - 1]);
    }

    /// A request was tried again on another endpoint.
    pub fn retried(&self, worker: usize) {
        add(&self.workers[worker].retries);
    }
}

/// One writer, so no read-modify-write is needed.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}
