//! What the gateway knows of an endpoint from the requests it sent there.
//!
//! All of it is atomics behind an `Arc` that belongs to the endpoint's address, so that it outlives list changes,
//! a new registration of the same address, and a change of selector. Updates are relaxed and may lose a sample to
//! a race: an average that forgives a lost sample needs no lock.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The time constant of the averages, as in go-zero's `p2c_ewma`.
const DECAY: Duration = Duration::from_secs(10);

/// What a failure counts as, in time.
const FAILURE: Duration = Duration::from_secs(5);

/// The moment that times here are counted from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds from there to a later moment, plus one: 0 stands for never.
pub fn since_epoch(now: Instant) -> u64 {
    (now.saturating_duration_since(*EPOCH).as_nanos() as u64).saturating_add(1)
}

/// Statistics of one endpoint.
#[derive(Debug)]
pub struct Stats {
    in_flight: AtomicU32,
    /// Open ones, in the hands of all workers.
    connections: AtomicU32,
    /// Nanoseconds, 0 while there is no sample.
    latency: AtomicU64,
    /// The bits of an `f64` between 0 and 1.
    success: AtomicU64,
    /// Until a connection was there, in nanoseconds; 0 while there was none.
    connect_time: AtomicU64,
    last_connect: AtomicU64,
    consecutive_failures: AtomicU32,
    /// As [`since_epoch`], 0 for never; with [`SEEDED`] while what is averaged was never measured.
    last_sample: AtomicU64,
    /// The same.
    last_pick: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    /// The owner was told of a failure, and not of a success since.
    suspected: AtomicBool,
    /// One of [`OPEN`], [`FREE`], [`TAKEN`] and [`CLOSED`].
    trial: AtomicU8,
    /// When it left the list, as [`since_epoch`]; 0 while it is in it.
    left: AtomicU64,
}

/// A bit that no time since the start of a process has.
const SEEDED: u64 = 1 << 63;

/// Requests go to the endpoint as they come.
const OPEN: u8 = 0;

/// The endpoint is half-open, and the next request tries it.
const FREE: u8 = 1;

/// The endpoint is half-open, and a request tries it now, or has failed and the owner is about to hear of it.
const TAKEN: u8 = 2;

/// The endpoint is not offered any more.
const CLOSED: u8 = 3;

/// A copy of the statistics at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    pub in_flight: u32,
    pub connections: u32,
    /// Zero while there is no sample.
    pub latency: Duration,
    pub success: f64,
    pub consecutive_failures: u32,
    pub requests: u64,
    pub failures: u64,
}

impl Stats {
    pub fn new() -> Self {
        // No time that is told to these is before that.
        LazyLock::force(&EPOCH);
        Self {
            in_flight: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            success: AtomicU64::new(1f64.to_bits()),
            connect_time: AtomicU64::new(0),
            last_connect: AtomicU64::new(0),
            consecutive_failures: AtomicU32::new(0),
            last_sample: AtomicU64::new(0),
            last_pick: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            suspected: AtomicBool::new(false),
            trial: AtomicU8::new(OPEN),
            left: AtomicU64::new(0),
        }
    }

    /// Counts a request from now until the guard is dropped.
    pub fn begin(self: &Arc<Self>, now: Instant) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.last_pick.store(since_epoch(now), Relaxed);
        InFlight(self.clone())
    }

    /// The same, unless there are `most` already.
    pub fn begin_within(self: &Arc<Self>, now: Instant, most: u32) -> Option<InFlight> {
        let more = |in_flight| (in_flight < most).then_some(in_flight + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, more).ok()?;
        self.requests.fetch_add(1, Relaxed);
        self.last_pick.store(since_epoch(now), Relaxed);
        Some(InFlight(self.clone()))
    }

    /// Takes in the outcome of one request: how long the head of the answer took, and whether it was a success.
    ///
    /// The averages decay as in go-zero: `w = exp(-Δt / 10 s)`, the first sample counts whole. A failure counts as a
    /// slow answer, or an endpoint that fails at once would draw the requests of all others (as Linkerd's load
    /// biaser has it).
    pub fn record(&self, now: Instant, took: Duration, ok: bool) {
        let took = if ok { took } else { took.max(FAILURE) };
        let at = since_epoch(now);
        let last = self.last_sample.swap(at, Relaxed);
        let keep = kept(last & !SEEDED, at);
        average(&self.latency, took, keep);
        // That it succeeds is nothing that others can tell.
        let keep = if last & SEEDED == 0 { keep } else { 0.0 };
        let success = f64::from_bits(self.success.load(Relaxed)) * keep + if ok { 1.0 - keep } else { 0.0 };
        self.success.store(success.to_bits(), Relaxed);
        if !ok {
            self.consecutive_failures.fetch_add(1, Relaxed);
            self.failures.fetch_add(1, Relaxed);
        }
    }

    /// Begins the averages anew: the latency with one that others have, and as if nothing had failed.
    pub fn seed(&self, latency_ns: u64, now: Instant) {
        self.latency.store(latency_ns, Relaxed);
        self.success.store(1f64.to_bits(), Relaxed);
        self.last_sample.store(since_epoch(now) | SEEDED, Relaxed);
    }

    /// Takes in how long a connection took that is there now.
    pub fn connected(&self, now: Instant, took: Duration) {
        let at = since_epoch(now);
        let last = self.last_connect.swap(at, Relaxed);
        average(&self.connect_time, took, kept(last, at));
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Relaxed);
        OpenConnection(self.clone())
    }

    /// What had been recorded as a success is one, now that its answer has ended: failures before it are not in a row
    /// with those after it.
    pub fn confirm(&self) {
        if self.consecutive_failures.load(Relaxed) != 0 {
            self.consecutive_failures.store(0, Relaxed);
        }
    }

    /// What had been recorded as a success was none after all: its answer broke off.
    pub fn worsen(&self, now: Instant) {
        self.record(now, FAILURE, false);
    }

    /// Whether the owner thinks ill of the endpoint because of a request.
    pub fn is_suspected(&self) -> bool {
        self.suspected.load(Relaxed)
    }

    pub fn suspect(&self, suspected: bool) {
        self.suspected.store(suspected, Relaxed);
    }

    /// Whether this request may go to the endpoint: always, unless it is half-open and another request tries it, or it is
    /// not offered any more.
    pub fn admit(self: &Arc<Self>) -> Admission {
        if self.trial.load(Relaxed) == OPEN {
            return Admission::Open;
        }
        match self.trial.compare_exchange(FREE, TAKEN, Relaxed, Relaxed) {
            Ok(_) => Admission::HalfOpen(HalfOpenTry { stats: self.clone(), failed: false }),
            Err(OPEN) => Admission::Open,
            Err(_) => Admission::Refused,
        }
    }

    /// Whether one request at a time decides if the endpoint gets others, or it gets none any more.
    pub fn is_half_open(&self) -> bool {
        self.trial.load(Relaxed) != OPEN
    }

    /// Begins a trial, or ends whatever trial there is.
    pub fn set_half_open(&self, half_open: bool) {
        self.trial.store(if half_open { FREE } else { OPEN }, Relaxed);
    }

    /// The endpoint is not offered any more: whoever does not know yet goes elsewhere.
    pub fn close(&self) {
        self.trial.store(CLOSED, Relaxed);
    }

    /// The endpoint is in no list any more since now, unless since before; or is in one.
    pub fn set_left(&self, left: bool, now: Instant) {
        match (left, self.has_left()) {
            (true, false) => self.left.store(since_epoch(now), Relaxed),
            (false, true) => self.left.store(0, Relaxed),
            _ => {}
        }
    }

    pub fn has_left(&self) -> bool {
        self.left.load(Relaxed) != 0
    }

    /// How long ago the endpoint left the list; none while it is in it, be it ejected or not.
    pub fn gone_for(&self, now: Instant) -> Option<Duration> {
        match self.left.load(Relaxed) {
            0 => None,
            left => Some(Duration::from_nanos(since_epoch(now).saturating_sub(left))),
        }
    }

    /// Requests sent whose answer is not complete yet.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Whether a request or a connection is counted here that has not ended.
    pub fn is_in_use(&self) -> bool {
        self.in_flight() > 0 || self.connections.load(Relaxed) > 0
    }

    /// The latency average in nanoseconds, 0 while there is no sample and it was not [seeded](Self::seed).
    pub fn latency_ns(&self) -> u64 {
        self.latency.load(Relaxed)
    }

    /// How long connections took, averaged, in microseconds; 0 while there was none.
    pub fn connect_time_us(&self) -> u64 {
        self.connect_time.load(Relaxed).div_ceil(1_000)
    }

    /// The share of requests that succeeded, averaged.
    pub fn success(&self) -> f64 {
        f64::from_bits(self.success.load(Relaxed))
    }

    /// Whether any request succeeded.
    pub fn has_answered(&self) -> bool {
        self.is_sampled() && self.success() > 0.0
    }

    /// Whether the averages are of this endpoint.
    fn is_sampled(&self) -> bool {
        let last = self.last_sample.load(Relaxed);
        last != 0 && last & SEEDED == 0
    }

    /// How long ago the last request was sent, in nanoseconds, [`since_epoch`] being the time; the greatest number when
    /// never.
    pub fn idle(&self, since_epoch: u64) -> u64 {
        match self.last_pick.load(Relaxed) {
            0 => u64::MAX,
            last => since_epoch.saturating_sub(last),
        }
    }

    pub fn figures(&self) -> Figures {
        Figures {
            in_flight: self.in_flight(),
            connections: self.connections.load(Relaxed),
            latency: Duration::from_nanos(if self.is_sampled() { self.latency_ns() } else { 0 }),
            success: self.success(),
            consecutive_failures: self.consecutive_failures.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}

/// How much the average so far counts beside a sample of now, when the one before was at `last`; 0 for never.
fn kept(last: u64, at: u64) -> f64 {
    match last {
        0 => 0.0,
        last => (-(at.saturating_sub(last) as f64) / DECAY.as_nanos() as f64).exp(),
    }
}

/// Takes a sample into an average that is never 0 from then on.
fn average(of: &AtomicU64, sample: Duration, keep: f64) {
    let sample = (sample.as_nanos() as u64).max(1) as f64;
    let average = of.load(Relaxed) as f64 * keep + sample * (1.0 - keep);
    of.store((average as u64).max(1), Relaxed);
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}

/// A request on its way. Dropping it says that the request is over, however it ended.
#[derive(Debug)]
pub struct InFlight(Arc<Stats>);

impl InFlight {
    /// The statistics of the endpoint that it is sent to.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// An open connection to an endpoint. Dropping it says that it is closed.
#[derive(Debug)]
pub struct OpenConnection(Arc<Stats>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// Whether a request may go to an endpoint.
#[derive(Debug)]
pub enum Admission {
    Open,
    /// It is the one that tries an endpoint which came back by time alone.
    HalfOpen(HalfOpenTry),
    /// Another one does, or the endpoint is not offered any more.
    Refused,
}

/// The right to try an endpoint, of one request. Dropped, the next request has it.
#[derive(Debug)]
pub struct HalfOpenTry {
    stats: Arc<Stats>,
    failed: bool,
}

impl HalfOpenTry {
    /// The endpoint has answered: everybody may go there, unless the owner has decided something else meanwhile.
    pub fn pass(self) {
        let _ = self.stats.trial.compare_exchange(TAKEN, OPEN, Relaxed, Relaxed);
    }

    /// The owner was told of the failure: nobody goes there until it has decided.
    pub fn fail(mut self) {
        self.failed = true;
    }
}

impl Drop for HalfOpenTry {
    fn drop(&mut self) {
        if !self.failed {
            // Unless the endpoint is not half-open any more.
            let _ = self.stats.trial.compare_exchange(TAKEN, FREE, Relaxed, Relaxed);
        }
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

        stats.record(start + DECAY, Duration::from_millis(20), true);
        let keep = (-1f64).exp();
        let expected = 10e6 * keep + 20e6 * (1.0 - keep);
        assert!((stats.latency_ns() as f64 - expected).abs() < 1e3, "{}", stats.latency_ns());
        assert_eq!(stats.success(), 1.0);
    }

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let stats = Arc::new(Stats::new());
        let (one, _other) = (stats.opened(), stats.opened());
        assert_eq!(stats.figures().connections, 2);
        drop(one);
        assert_eq!(stats.figures().connections, 1);
    }

    #[test]
    fn connections_have_an_average_of_their_own() {
        let stats = Stats::new();
        let start = Instant::now();
        assert_eq!(stats.connect_time_us(), 0);
        stats.connected(start, Duration::from_nanos(1));
        assert_eq!(stats.connect_time_us(), 1, "known, and so not 0");
        stats.connected(start + DECAY * 100, Duration::from_millis(20));
        assert_eq!((stats.connect_time_us(), stats.latency_ns()), (20_000, 0));
        stats.connected(start + DECAY * 101, Duration::from_millis(40));
        let expected = 40_000.0 - 20_000.0 * (-1f64).exp();
        assert!((stats.connect_time_us() as f64 - expected).abs() < 2.0, "{}", stats.connect_time_us());
    }

    #[test]
    fn a_failure_counts_as_a_slow_answer_and_ends_a_row_of_successes() {
        let stats = Stats::new();
        let start = Instant::now();
        stats.record(start, Duration::from_millis(10), true);
        stats.record(start + DECAY, Duration::from_millis(1), false);
        let keep = (-1f64).exp();
        let expected = 10e6 * keep + 5e9 * (1.0 - keep);
        assert!((stats.latency_ns() as f64 - expected).abs() < 1e3, "{}", stats.latency_ns());
        assert!((stats.success() - keep).abs() < 1e-6);
        assert_eq!(stats.figures().consecutive_failures, 1);

        // An answer whose head is there may still break off, and then it is one more in the row.
        stats.record(start + DECAY, Duration::from_millis(1), true);
        stats.worsen(start + DECAY);
        assert_eq!(stats.figures().consecutive_failures, 2);
        stats.confirm();
        assert_eq!(stats.figures().consecutive_failures, 0);
    }

    #[test]
    fn what_was_seeded_is_averaged_with_what_is_measured_and_is_no_answer() {
        let (stats, start) = (Stats::new(), Instant::now());
        stats.record(start, Duration::from_secs(9), false);
        stats.seed(10_000_000, start);
        assert_eq!((stats.latency_ns(), stats.success(), stats.has_answered()), (10_000_000, 1.0, false));
        assert_eq!(stats.figures().latency, Duration::ZERO, "nothing was measured");

        stats.record(start + DECAY, Duration::from_millis(20), true);
        let keep = (-1f64).exp();
        let expected = 10e6 * keep + 20e6 * (1.0 - keep);
        assert!((stats.latency_ns() as f64 - expected).abs() < 1e3, "{}", stats.latency_ns());
        assert!(stats.has_answered());

        stats.seed(10_000_000, start);
        stats.record(start, Duration::from_millis(1), false);
        assert!(!stats.has_answered(), "its first request failed");
    }

    #[test]
    fn an_endpoint_half_open_takes_one_request_at_a_time() {
        let stats = Arc::new(Stats::new());
        assert!(matches!(stats.admit(), Admission::Open));
        stats.set_half_open(true);
        let Admission::HalfOpen(given_up) = stats.admit() else { panic!() };
        assert!(matches!(stats.admit(), Admission::Refused));
        drop(given_up);
        let Admission::HalfOpen(failing) = stats.admit() else { panic!() };
        failing.fail();
        assert!(matches!(stats.admit(), Admission::Refused), "until the owner has decided");
        stats.set_half_open(true);
        let Admission::HalfOpen(passing) = stats.admit() else { panic!() };
        passing.pass();
        assert!(matches!(stats.admit(), Admission::Open) && !stats.is_half_open());
    }

    #[test]
    fn a_trial_that_ends_after_the_owner_has_spoken_changes_nothing() {
        let stats = Arc::new(Stats::new());
        stats.set_half_open(true);
        let Admission::HalfOpen(trial) = stats.admit() else { panic!() };
        stats.set_half_open(false);
        drop(trial);
        assert!(matches!(stats.admit(), Admission::Open));
    }

    #[test]
    fn an_endpoint_that_is_not_offered_is_opened_by_no_trial() {
        for end in [HalfOpenTry::pass, HalfOpenTry::fail, drop] {
            let stats = Arc::new(Stats::new());
            stats.set_half_open(true);
            let Admission::HalfOpen(trial) = stats.admit() else { panic!() };
            stats.close();
            end(trial);
            assert!(matches!(stats.admit(), Admission::Refused));
        }
    }

    #[test]
    fn an_endpoint_has_left_since_it_was_said_first() {
        let stats = Stats::new();
        let start = Instant::now();
        assert_eq!(stats.gone_for(start), None);
        stats.set_left(true, start);
        stats.set_left(true, start + Duration::from_secs(1));
        assert_eq!(stats.gone_for(start + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        stats.set_left(false, start);
        assert!(!stats.has_left());
    }

    #[test]
    fn no_more_begin_than_may() {
        let stats = Arc::new(Stats::new());
        let _others = stats.begin(Instant::now());
        let guard = stats.begin_within(Instant::now(), 2).unwrap();
        assert!(stats.begin_within(Instant::now(), 2).is_none());
        drop(guard);
        assert!(stats.begin_within(Instant::now(), 2).is_some());
        assert_eq!(stats.figures().requests, 3);
    }

    #[test]
    fn in_flight_ends_when_the_guard_is_dropped() {
        let stats = Arc::new(Stats::new());
        assert_eq!(stats.idle(since_epoch(Instant::now())), u64::MAX);
        let guard = stats.begin(Instant::now());
        assert_eq!(stats.in_flight(), 1);
        drop(guard);
        assert_eq!(stats.in_flight(), 0);
        assert!(stats.idle(since_epoch(Instant::now())) < 60_000_000_000);
    }
}
