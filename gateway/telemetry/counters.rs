//! What requests count: by upstream and worker, read by nobody until somebody scrapes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Fault, RouteTimes,
    histogram::{Histogram, Latencies, Native, Took, add, collect},
};
use crate::{resilience::Cause, upstream::Evidence};

/// Whose fault it was that a request did not come to its end, as it is counted.
pub const FAULTS: [&str; 3] = ["client", "endpoint", "gateway"];

/// The failures of tries, by kind, as they are counted.
pub const FAILURES: [&str; 4] = ["connect", "timeout", "reset", "gateway-error"];

/// Why the gateway did not send a request to its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    BreakerOpen,
    InFlightLimit,
    QueueFull,
    QueueTimeout,
    BodyTooLarge,
}

impl Refused {
    pub const ALL: [Self; 5] =
        [Self::BreakerOpen, Self::InFlightLimit, Self::QueueFull, Self::QueueTimeout, Self::BodyTooLarge];

    /// As clients and metrics are told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker-open",
            Self::InFlightLimit => "in-flight-limit",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::BodyTooLarge => "request-body-too-large",
        }
    }
}

/// Counters of one upstream. Each worker writes its own, so a count is a plain load and store.
#[derive(Debug)]
pub struct UpstreamMetrics {
    workers: Box<[WorkerCounters]>,
    /// By the name of the route, which is its place: so there are no more than there were routes at once. Locked when a
    /// worker meets a route for the first time, and to scrape.
    times: Mutex<BTreeMap<Arc<str>, Arc<RouteTimes>>>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerCounters {
    /// 1xx to 5xx.
    statuses: [AtomicU64; 5],
    /// Requests that an endpoint was picked for.
    requests: AtomicU64,
    /// By [`Cause`].
    retries: [AtomicU64; Cause::ALL.len()],
    refused: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    hedges_cancelled: AtomicU64,
    interim: AtomicU64,
    trailers_dropped: AtomicU64,
    /// Connections that were passed on as they are: how many ended, their bytes from and to clients, and how long they took.
    carried: [AtomicU64; 4],
    left: AtomicU64,
    /// As in [`FAULTS`].
    cut: [AtomicU64; FAULTS.len()],
    /// As in [`FAILURES`].
    failures: [AtomicU64; FAILURES.len()],
    /// As in [`Refused::ALL`].
    not_sent: [AtomicU64; Refused::ALL.len()],
    took: Histogram,
}

impl UpstreamMetrics {
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| WorkerCounters::default()).collect(), times: Mutex::default() }
    }

    /// Those of the requests that took this route, for as long as there is the upstream.
    pub fn times_of(&self, route: &Arc<str>) -> Arc<RouteTimes> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RouteTimes::new(self.workers.len()));
        times.entry(route.clone()).or_insert_with(new).clone()
    }

    /// Those of all routes that requests took.
    pub fn times(&self) -> BTreeMap<Arc<str>, Arc<RouteTimes>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An answer was passed on, or made by the gateway; `took` until its head was there.
    pub fn answered(&self, worker: usize, status: u16, took: Took) {
        let counters = &self.workers[worker];
        add(&counters.statuses[(status / 100).clamp(1, 5) as usize - 1], 1);
        counters.took.count(took);
    }

    /// The first try of a request begins.
    pub fn began(&self, worker: usize) {
        add(&self.workers[worker].requests, 1);
    }

    /// A request is tried again.
    pub fn retried(&self, worker: usize, cause: Cause) {
        add(&self.workers[worker].retries[cause as usize], 1);
    }

    /// A request would have been tried again, were there more in the budget.
    pub fn refused(&self, worker: usize) {
        add(&self.workers[worker].refused, 1);
    }

    /// A second try of a request begins beside the first.
    pub fn hedged(&self, worker: usize) {
        add(&self.workers[worker].hedges, 1);
    }

    /// The answer of that one is taken.
    pub fn hedge_won(&self, worker: usize) {
        add(&self.workers[worker].hedges_won, 1);
    }

    /// One of two tries is ended, because the other one has the answer.
    pub fn hedge_cancelled(&self, worker: usize) {
        add(&self.workers[worker].hedges_cancelled, 1);
    }

    /// How many requests began so far.
    pub fn requests(&self) -> u64 {
        self.workers.iter().map(|worker| worker.requests.load(Relaxed)).sum()
    }

    /// A request was not sent, or not to its end.
    pub fn not_sent(&self, worker: usize, refused: Refused) {
        add(&self.workers[worker].not_sent[refused as usize], 1);
    }

    /// A request did not come to the end of its answer.
    pub fn cut(&self, worker: usize, fault: Fault) {
        let index = match fault {
            Fault::Client => 0,
            Fault::Endpoint => 1,
            Fault::Local => 2,
        };
        add(&self.workers[worker].cut[index], 1);
    }

    /// An endpoint sent so many interim answers, which were dropped.
    pub fn interim(&self, worker: usize, answers: u64) {
        add(&self.workers[worker].interim, answers);
    }

    /// So many trailers of a request did not reach an endpoint.
    pub fn dropped_trailers(&self, worker: usize, trailers: u64) {
        add(&self.workers[worker].trailers_dropped, trailers);
    }

    /// A connection that was passed on as it is has ended.
    pub fn carried(&self, worker: usize, carried: Carried) {
        let Carried { connections, received, sent, took } = carried;
        let all = [connections, received, sent, took.as_nanos() as u64];
        self.workers[worker].carried.iter().zip(all).for_each(|(count, more)| add(count, more));
    }

    /// A request, or an upgraded connection, was ended because its endpoint had left.
    pub fn left(&self, worker: usize) {
        add(&self.workers[worker].left, 1);
    }

    /// A try told something of an endpoint. Counts failures; a success costs nothing.
    pub fn learned(&self, worker: usize, evidence: Evidence) {
        let kind = match evidence {
            Evidence::Answered => return,
            Evidence::ConnectFailed => 0,
            Evidence::TimedOut => 1,
            Evidence::Broke => 2,
            Evidence::GatewayError => 3,
        };
        add(&self.workers[worker].failures[kind], 1);
    }

    /// The sum over the workers. Counts that are made meanwhile may be in one figure and not yet in another.
    pub fn counts(&self) -> UpstreamCounts {
        let mut counts = UpstreamCounts::default();
        for worker in &self.workers {
            collect(&mut counts.statuses, &worker.statuses);
            counts.latencies.collect(&worker.took);
            collect(&mut counts.failures, &worker.failures);
            collect(&mut counts.cut, &worker.cut);
            collect(&mut counts.retries, &worker.retries);
            collect(&mut counts.not_sent, &worker.not_sent);
            counts.requests += worker.requests.load(Relaxed);
            counts.refused += worker.refused.load(Relaxed);
            counts.hedges += worker.hedges.load(Relaxed);
            counts.hedges_won += worker.hedges_won.load(Relaxed);
            counts.hedges_cancelled += worker.hedges_cancelled.load(Relaxed);
            counts.left += worker.left.load(Relaxed);
            counts.interim += worker.interim.load(Relaxed);
            counts.trailers_dropped += worker.trailers_dropped.load(Relaxed);
            let [connections, received, sent, took] = &worker.carried;
            counts.carried.connections += connections.load(Relaxed);
            counts.carried.received += received.load(Relaxed);
            counts.carried.sent += sent.load(Relaxed);
            counts.carried.took += Duration::from_nanos(took.load(Relaxed));
        }
        counts
    }

    /// How long answers took, in native buckets.
    pub fn native(&self) -> Native {
        let mut native = Native::default();
        self.workers.iter().for_each(|worker| native.collect(&worker.took));
        native
    }
}

/// What one upstream has counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamCounts {
    /// 1xx to 5xx.
    pub statuses: [u64; 5],
    /// Requests that an endpoint was picked for.
    pub requests: u64,
    /// Further tries one after the other, by [`Cause`].
    pub retries: [u64; Cause::ALL.len()],
    /// Tries that the budget did not allow.
    pub refused: u64,
    /// Second tries beside the first.
    pub hedges: u64,
    /// Those of them whose answer was taken.
    pub hedges_won: u64,
    /// Tries that were ended because the one beside them had the answer.
    pub hedges_cancelled: u64,
    pub interim: u64,
    /// Trailers of requests that did not reach an endpoint.
    pub trailers_dropped: u64,
    pub carried: Carried,
    /// Requests and upgraded connections that were ended because their endpoint had left.
    pub left: u64,
    /// Requests that did not come to their end, as in [`FAULTS`].
    pub cut: [u64; FAULTS.len()],
    /// Failed tries, as in [`FAILURES`].
    pub failures: [u64; FAILURES.len()],
    /// Requests that were not sent, as in [`Refused::ALL`].
    pub not_sent: [u64; Refused::ALL.len()],
    pub latencies: Latencies,
}

/// Connections that were passed on as they are, and have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub connections: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// From the connection to the endpoint to the end.
    pub took: Duration,
}

impl UpstreamCounts {
    /// How often requests were sent to an endpoint, or were to be.
    pub fn tries(&self) -> u64 {
        self.requests + self.retried() + self.hedges
    }

    /// Tries after one that failed, whatever the cause.
    pub fn retried(&self) -> u64 {
        self.retries.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_the_sum_over_the_workers() {
        let metrics = UpstreamMetrics::new(2);
        metrics.answered(0, 200, Took::of(Duration::from_millis(1)));
        metrics.answered(1, 204, Took::of(Duration::from_secs(60)));
        metrics.answered(1, 503, Took::of(Duration::ZERO));
        metrics.began(0);
        metrics.began(1);
        metrics.retried(0, Cause::Stale);
        metrics.retried(1, Cause::Status503);
        metrics.hedged(1);
        metrics.hedge_won(1);
        metrics.hedge_cancelled(1);
        metrics.hedge_cancelled(0);
        metrics.not_sent(0, Refused::QueueFull);
        metrics.not_sent(1, Refused::QueueFull);
        metrics.learned(0, Evidence::TimedOut);
        metrics.learned(1, Evidence::TimedOut);
        metrics.learned(1, Evidence::GatewayError);
        metrics.learned(1, Evidence::Answered);

        let counts = metrics.counts();
        assert_eq!(counts.statuses, [0, 2, 0, 0, 1]);
        assert_eq!((counts.requests, counts.retried(), counts.tries(), metrics.requests()), (2, 2, 5, 2));
        assert_eq!(
            counts.retries,
            Cause::ALL.map(|of| u64::from([Cause::Stale, Cause::Status503].contains(&of)))
        );
        assert_eq!((counts.hedges, counts.hedges_won, counts.hedges_cancelled), (1, 1, 2));
        assert_eq!(counts.not_sent, [0, 0, 2, 0, 0]);
        assert_eq!(counts.failures, [0, 2, 0, 1]);
        assert_eq!(counts.latencies.count(), 3);
        assert_eq!(counts.latencies.sum, Duration::from_millis(60_001));
    }

    #[test]
    fn a_status_out_of_range_is_counted_in_the_nearest_class() {
        let metrics = UpstreamMetrics::new(1);
        metrics.answered(0, 0, Took::of(Duration::ZERO));
        metrics.answered(0, 999, Took::of(Duration::ZERO));
        assert_eq!(metrics.counts().statuses, [1, 0, 0, 0, 1]);
    }
}
