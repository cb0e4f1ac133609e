//! One running upstream, as workers and the admin API see it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{feed, task::FIRST_LISTS};
use crate::{
    config,
    resilience::{Breaker, Budget, Gate, Percentile, RetryPolicy},
    selector,
    telemetry::UpstreamMetrics,
    tls,
    upstream::{
        Command, Event, Evidence, HalfOpenTry, Order, OrderError, Reader, Report, Stats, Status, UpstreamName,
    },
};

/// The way to the owner of an upstream.
#[derive(Clone)]
pub(super) struct ToOwner {
    pub(super) status: watch::Receiver<Arc<Status>>,
    pub(super) reports: mpsc::Sender<Report>,
    /// Weak, because the owner ends with its last sender.
    pub(super) events: mpsc::WeakSender<Event>,
}

/// Takes evidence about endpoints to whoever judges them.
#[derive(Debug, Clone)]
pub struct EvidenceSender(mpsc::Sender<Report>);

impl EvidenceSender {
    /// Tells what a request learned of an endpoint; `trial` is what it was admitted with, if it was the one that tries
    /// the endpoint.
    ///
    /// Never waits. A success costs one load, unless the endpoint failed before; of more failures than can be taken
    /// in, some are lost.
    pub fn send(&self, address: SocketAddr, stats: &Stats, evidence: Evidence, trial: Option<HalfOpenTry>) {
        let failed = evidence != Evidence::Answered;
        let needless = if failed { stats.is_half_open() } else { !stats.is_suspected() };
        // Who fails beside a trial began before it, or had no choice: the one that was admitted tells how it is now.
        if needless && trial.is_none() {
            return;
        }
        stats.suspect(failed);
        if self.0.try_send(Report { address, evidence }).is_err() {
            // A lost success is told by the next one, and the next request is the trial.
            stats.suspect(true);
            return;
        }
        match trial {
            Some(trial) if failed => trial.fail(),
            Some(trial) => trial.pass(),
            None => {}
        }
    }
}

/// One running upstream.
pub struct Upstream {
    pub config: Arc<config::Upstream>,
    pub reader: Reader,
    pub selector: selector::Current,
    /// By which endpoints are spoken to. None: without TLS.
    pub tls: Option<Arc<tls::Client>>,
    /// By worker.
    pub progress: Box<[Arc<selector::Progress>]>,
    pub metrics: Arc<UpstreamMetrics>,
    /// How long the first tries of its requests took, where that is wanted.
    pub latencies: Arc<Percentile>,
    budget: Arc<Budget>,
    /// If its requests are limited.
    pub gate: Option<Arc<Gate>>,
    pub breaker: Option<Arc<Breaker>>,
    owner: ToOwner,
    started: Instant,
    /// Seconds since `started`.
    used: AtomicU64,
}

impl Upstream {
    pub(super) fn new(
        config: Arc<config::Upstream>,
        reader: Reader,
        owner: ToOwner,
        selector: selector::Current,
        tls: Option<Arc<tls::Client>>,
        workers: usize,
    ) -> Self {
        let started = Instant::now();
        let gate = config.limits.map(|limits| Arc::new(Gate::new(limits.bounds, workers)));
        let breaker = config.breaker.as_ref().map(|_| Arc::new(Breaker::new(started)));
        Self {
            config,
            reader,
            selector,
            tls,
            progress: (0..workers).map(|_| Arc::default()).collect(),
            metrics: Arc::new(UpstreamMetrics::new(workers)),
            latencies: Arc::new(Percentile::new(started)),
            budget: Arc::new(Budget::new(started)),
            gate,
            breaker,
            owner,
            started,
            used: AtomicU64::new(0),
        }
    }

    /// Whether every worker picks with the selector, or could not.
    pub fn has_tried_selector(&self) -> bool {
        self.progress.iter().all(|progress| progress.has_tried(&self.selector))
    }

    /// The same upstream with other settings: its list, its status and its counters go on. Other limits are put in force
    /// when requests use it.
    pub(super) fn with_config(
        &self,
        config: Arc<config::Upstream>,
        selector: selector::Current,
        tls: Option<Arc<tls::Client>>,
    ) -> Self {
        let workers = self.progress.len();
        let mut next = Self::new(config, self.reader.clone(), self.owner.clone(), selector, tls, workers);
        next.metrics = self.metrics.clone();
        next.latencies = self.latencies.clone();
        next.budget = self.budget.clone();
        // The seconds of the budget go on, too, and the new settings count as a use.
        next.used = AtomicU64::new(next.started.saturating_duration_since(self.started).as_secs());
        next.started = self.started;
        next.gate = next.gate.map(|gate| self.gate.clone().unwrap_or(gate));
        next.breaker = next.breaker.map(|breaker| self.breaker.clone().unwrap_or(breaker));
        next
    }

    pub fn name(&self) -> &UpstreamName {
        self.reader.name()
    }

    /// How its sources stand, and what changed last.
    pub fn status(&self) -> Arc<Status> {
        self.owner.status.borrow().clone()
    }

    /// Waits for its first list, a few seconds at most.
    pub(super) fn first_list(&self) -> impl Future<Output = ()> + Send + 'static {
        feed::first_list(self.owner.status.clone(), FIRST_LISTS)
    }

    /// The way for evidence about its endpoints. Whoever holds it holds nothing else of the upstream.
    pub fn evidence(&self) -> EvidenceSender {
        EvidenceSender(self.owner.reports.clone())
    }

    /// Carries out what the operator wants. Waits until it is in force and on disk; dropping the future does not take
    /// it back.
    pub async fn order(&self, order: Order) -> Result<(), OrderError> {
        let (answer, answered) = oneshot::channel();
        let events = self.owner.events.upgrade().ok_or(OrderError::Gone)?;
        let sent = events.send(Event::Command(Command { order, answer })).await;
        drop(events);
        sent.map_err(|_| OrderError::Gone)?;
        answered.await.unwrap_or(Err(OrderError::Gone))
    }

    /// Which source each endpoint is from, by its place; none once the upstream is gone.
    pub async fn sources(&self) -> Option<HashMap<SocketAddr, usize>> {
        let (answer, told) = oneshot::channel();
        // Not held while it waits: the owner ends with its last sender.
        let sent = self.owner.events.upgrade()?.try_send(Event::Sources(answer));
        sent.ok()?;
        told.await.ok()
    }

    /// Says that a request used this upstream, before it is counted. Writes at most once a second.
    pub fn touch(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.started).as_secs();
        if self.used.load(Relaxed) < seconds {
            self.used.store(seconds, Relaxed);
            self.budget.mark(now, self.metrics.requests());
        }
    }

    /// Takes a retry from the budget, if one is left.
    pub fn spend_retry(&self, policy: &RetryPolicy, now: Instant) -> bool {
        self.budget.take(now, self.metrics.requests(), policy.budget, policy.budget_min)
    }

    /// How many retries are left in the budget, and how many there are in all.
    pub fn retries_left(&self, now: Instant) -> (u64, u64) {
        let policy = &self.config.retries;
        self.budget.left(now, self.metrics.requests(), policy.budget, policy.budget_min)
    }

    /// Whether the breaker refuses requests. None without one.
    pub fn is_breaker_open(&self, now: Instant) -> Option<bool> {
        Some(self.breaker.as_ref()?.is_open(self.config.breaker.as_ref()?, now))
    }

    /// How long no request has used it.
    pub fn unused(&self, now: Instant) -> Duration {
        let used = self.started + Duration::from_secs(self.used.load(Relaxed));
        now.saturating_duration_since(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Admission;

    fn sender(room: usize) -> (EvidenceSender, mpsc::Receiver<Report>, Arc<Stats>) {
        let (sender, reports) = mpsc::channel(room);
        (EvidenceSender(sender), reports, Arc::default())
    }

    fn told(reports: &mut mpsc::Receiver<Report>) -> Vec<Evidence> {
        std::iter::from_fn(|| reports.try_recv().ok()).map(|report| report.evidence).collect()
    }

    fn trial(stats: &Arc<Stats>) -> Option<HalfOpenTry> {
        match stats.admit() {
            Admission::HalfOpen(trial) => Some(trial),
            Admission::Open | Admission::Refused => None,
        }
    }

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

    #[test]
    fn of_successes_only_the_first_after_a_failure_is_told() {
        let (sender, mut reports, stats) = sender(10);
        let tell = |evidence| sender.send(ADDRESS, &stats, evidence, None);
        tell(Evidence::Answered);
        assert_eq!(told(&mut reports), []);
        for evidence in [Evidence::Broke, Evidence::TimedOut, Evidence::Answered, Evidence::Answered] {
            tell(evidence);
        }
        assert_eq!(told(&mut reports), [Evidence::Broke, Evidence::TimedOut, Evidence::Answered]);
    }

    #[test]
    fn while_a_request_tries_an_endpoint_only_that_one_tells_of_failures_and_decides() {
        let (sender, mut reports, stats) = sender(10);
        stats.set_half_open(true);
        let failing = trial(&stats);
        assert!(failing.is_some());
        sender.send(ADDRESS, &stats, Evidence::TimedOut, None);
        assert_eq!(told(&mut reports), [], "it began before the trial, or had no choice");
        sender.send(ADDRESS, &stats, Evidence::Broke, failing);
        assert_eq!(told(&mut reports), [Evidence::Broke]);
        assert!(
            matches!(stats.admit(), Admission::Refused),
            "nobody goes there before the owner has decided"
        );

        stats.set_half_open(true);
        let passing = trial(&stats);
        assert!(passing.is_some());
        sender.send(ADDRESS, &stats, Evidence::Answered, passing);
        assert_eq!(told(&mut reports), [Evidence::Answered]);
        assert!(!stats.is_half_open());
    }

    #[test]
    fn what_is_lost_is_told_by_the_next_request() {
        let (sender, mut reports, stats) = sender(1);
        sender.send(ADDRESS, &stats, Evidence::Broke, None);
        stats.set_half_open(true);
        let lost = trial(&stats);
        assert!(lost.is_some());
        sender.send(ADDRESS, &stats, Evidence::Answered, lost);
        assert_eq!(told(&mut reports), [Evidence::Broke]);
        assert!(stats.is_suspected());
        let next = trial(&stats);
        assert!(next.is_some());
        sender.send(ADDRESS, &stats, Evidence::Answered, next);
        assert_eq!(told(&mut reports), [Evidence::Answered]);
        assert!(!stats.is_half_open() && !stats.is_suspected());
    }
}
