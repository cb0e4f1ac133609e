//! One running upstream, as workers and the admin API see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    config, selector,
    telemetry::UpstreamMetrics,
    upstream::{Reader, Status, UpstreamName},
};

/// One running upstream.
pub struct Upstream {
    pub config: Arc<config::Upstream>,
    pub reader: Reader,
    pub selector: selector::Current,
    /// By worker.
    pub progress: Box<[Arc<selector::Progress>]>,
    pub metrics: Arc<UpstreamMetrics>,
    status: watch::Receiver<Arc<Status>>,
    started: Instant,
    /// Seconds since `started`.
    used: AtomicU64,
}

impl Upstream {
    pub fn new(
        config: Arc<config::Upstream>,
        reader: Reader,
        status: watch::Receiver<Arc<Status>>,
        selector: selector::Current,
        workers: usize,
    ) -> Self {
        Self {
            config,
            reader,
            selector,
            progress: (0..workers).map(|_| Arc::default()).collect(),
            metrics: Arc::new(UpstreamMetrics::new(workers)),
            status,
            started: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// The same upstream with other settings: its list, its status and its counters go on.
    pub(super) fn with_config(&self, config: Arc<config::Upstream>, selector: selector::Current) -> Self {
        let workers = self.progress.len();
        let mut next = Self::new(config, self.reader.clone(), self.status.clone(), selector, workers);
        next.metrics = self.metrics.clone();
        next
    }

    pub fn name(&self) -> &UpstreamName {
        self.reader.name()
    }

    /// How its sources stand, and what changed last.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Says that a request used this upstream. Writes at most once a second.
    pub fn touch(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        if self.used.load(Relaxed) < seconds {
            self.used.store(seconds, Relaxed);
        }
    }

    /// How long no request has used it.
    pub fn unused(&self, now: Instant) -> Duration {
        let used = self.started + Duration::from_secs(self.used.load(Relaxed));
        now.saturating_duration_since(used)
    }
}
