//! What the gateway knows of an endpoint from the requests it sent there.
//!
//! All of it is atomics behind an `Arc` that belongs to the endpoint's address, so that it outlives list changes,
//! a new registration of the same address, and a change of selector. Updates are relaxed and may lose a sample to
//! a race: an average that forgives a lost sample needs no lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The time constant of the averages, as in go-zero's `p2c_ewma`.
const DECAY: Duration = Duration::from_secs(10);

/// Statistics of one endpoint.
#[derive(Debug)]
pub struct Stats {
    /// The moment that the times below are counted from.
    epoch: Instant,
    in_flight: AtomicU32,
    /// Nanoseconds, 0 while there is no sample.
    latency: AtomicU64,
    /// The bits of an `f64` between 0 and 1.
    success: AtomicU64,
    consecutive_failures: AtomicU32,
    /// Nanoseconds since `epoch` plus one, 0 for never.
    last_sample: AtomicU64,
    last_pick: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    /// The keeper was told of a failure, and not of a success since.
    suspected: AtomicBool,
}

/// A copy of the statistics at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub in_flight: u32,
    /// Zero while there is no sample.
    pub latency: Duration,
    pub success: f64,
    pub consecutive_failures: u32,
    pub requests: u64,
    pub failures: u64,
}

impl Stats {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            success: AtomicU64::new(1f64.to_bits()),
            consecutive_failures: AtomicU32::new(0),
            last_sample: AtomicU64::new(0),
            last_pick: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            suspected: AtomicBool::new(false),
        }
    }

    /// Counts a request from now until the guard is dropped.
    pub fn begin(self: &Arc<Self>, now: Instant) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.last_pick.store(self.since_epoch(now), Relaxed);
        InFlight(self.clone())
    }

    /// Takes in the outcome of one request: how long the head of the answer took, and whether it was a success.
    ///
    /// The averages decay as in go-zero: `w = exp(-Δt / 10 s)`, the first sample counts whole.
    pub fn record(&self, now: Instant, took: Duration, ok: bool) {
        let at = self.since_epoch(now);
        let last = self.last_sample.swap(at, Relaxed);
        let keep = match last {
            0 => 0.0,
            last => (-(at.saturating_sub(last) as f64) / DECAY.as_nanos() as f64).exp(),
        };
        let sample = took.as_nanos().clamp(1, u64::MAX as u128) as f64;
        let latency = self.latency.load(Relaxed) as f64 * keep + sample * (1.0 - keep);
        self.latency.store((latency as u64).max(1), Relaxed);
        let success = f64::from_bits(self.success.load(Relaxed)) * keep + if ok { 1.0 - keep } else { 0.0 };
        self.success.store(success.to_bits(), Relaxed);
        if ok {
            if self.consecutive_failures.load(Relaxed) != 0 {
                self.consecutive_failures.store(0, Relaxed);
            }
        } else {
            self.consecutive_failures.fetch_add(1, Relaxed);
            self.failures.fetch_add(1, Relaxed);
        }
    }

    /// Whether the keeper thinks ill of the endpoint because of a request.
    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Relaxed)
    }

    pub fn suspect(&self, suspected: bool) {
        self.suspected.store(suspected, Relaxed);
    }

    /// Requests sent whose answer is not complete yet.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The latency average in nanoseconds, 0 while there is no sample.
    pub fn latency_ns(&self) -> u64 {
        self.latency.load(Relaxed)
    }

    /// The share of requests that succeeded, averaged.
    pub fn success(&self) -> f64 {
        f64::from_bits(self.success.load(Relaxed))
    }

    /// How long ago the last request was sent, `Duration::MAX` when never.
    pub fn idle(&self, now: Instant) -> Duration {
        match self.last_pick.load(Relaxed) {
            0 => Duration::MAX,
            last => Duration::from_nanos(self.since_epoch(now).saturating_sub(last)),
        }
    }

    pub fn figures(&self) -> Figures {
        Figures {
            in_flight: self.in_flight(),
            latency: Duration::from_nanos(self.latency_ns()),
            success: self.success(),
            consecutive_failures: self.consecutive_failures.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        (now.saturating_duration_since(self.epoch).as_nanos() as u64).saturating_add(1)
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

/// A request on its way. Dropping it says that the request is over, however it ended.
#[derive(Debug)]
pub struct InFlight(Arc<Stats>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_counts_whole_and_later_ones_decay() {
        let stats = Stats::new();
        let start = Instant::now();
        stats.record(start, Duration::from_millis(10), true);
        assert_eq!(stats.latency_ns(), 10_000_000);

        stats.record(start + DECAY, Duration::from_millis(20), false);
        let keep = (-1f64).exp();
        let expected = 10e6 * keep + 20e6 * (1.0 - keep);
        assert!((stats.latency_ns() as f64 - expected).abs() < 1e3, "{}", stats.latency_ns());
        assert!((stats.success() - keep).abs() < 1e-6);
        assert_eq!(stats.figures().consecutive_failures, 1);
    }

    #[test]
    fn in_flight_ends_when_the_guard_is_dropped() {
        let stats = Arc::new(Stats::new());
        assert_eq!(stats.idle(Instant::now()), Duration::MAX);
        let guard = stats.begin(Instant::now());
        assert_eq!(stats.in_flight(), 1);
        drop(guard);
        assert_eq!(stats.in_flight(), 0);
        assert!(stats.idle(Instant::now()) < Duration::from_secs(60));
    }
}
