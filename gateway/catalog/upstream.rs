//! One running upstream, as workers and the admin API see it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    config, selector,
    telemetry::UpstreamMetrics,
    upstream::{Reader, UpstreamName},
};

/// One running upstream.
pub struct Upstream {
    pub config: Arc<config::Upstream>,
    pub reader: Reader,
    pub selector: selector::Current,
    /// By worker.
    pub progress: Box<[Arc<selector::Progress>]>,
    pub metrics: Arc<UpstreamMetrics>,
    started: Instant,
    /// Seconds since `started`.
    used: AtomicU64,
}

impl Upstream {
    pub fn name(&self) -> &UpstreamName {
        self.reader.name()
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
