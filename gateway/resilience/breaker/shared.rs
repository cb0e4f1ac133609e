//! The window of a breaker as all workers count in it: atomics, without a lock. A count that is made in the moment when a
//! bucket begins anew may be lost.

use std::{
    array,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{BUCKET, BUCKETS, BreakerPolicy, Bucket, History, Verdict, patience};

/// How much of the usual time an answer makes: one in so many.
const SMOOTHING: u64 = 16;

/// The breaker of one upstream.
#[derive(Debug)]
pub struct Breaker {
    epoch: Instant,
    buckets: [Shared; BUCKETS],
    /// How long answers usually take, in nanoseconds; 0 before the first.
    usual: AtomicU64,
    /// When a request went through last that others were refused beside, in nanoseconds since `epoch`.
    let_through: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shared {
    /// Which bucket since the epoch this is, from 1.
    number: AtomicU64,
    /// Less than none for a moment, when the end of a request meets the beginning of the bucket.
    pending: AtomicI32,
    accepted: AtomicU32,
    failed: AtomicU32,
    refused: AtomicU32,
}

impl Breaker {
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            buckets: array::from_fn(|_| Shared::default()),
            usual: AtomicU64::new(0),
            let_through: AtomicU64::new(0),
        }
    }

    /// Whether a request is to be refused, which is counted. Of those that come at the same time one is the probe.
    pub fn refuses(&self, policy: &BreakerPolicy, now: Instant) -> bool {
        let (at, let_through) = (self.nanoseconds(now), self.let_through.load(Relaxed));
        let since = Duration::from_nanos(at.saturating_sub(let_through));
        let verdict = self.history(now).verdict(policy, since, fastrand::f64());
        let goes = match verdict {
            Verdict::Closed => true,
            Verdict::Let => {
                self.let_through.store(at, Relaxed);
                true
            }
            Verdict::Probe => self.let_through.compare_exchange(let_through, at, Relaxed, Relaxed).is_ok(),
            Verdict::Refused => false,
        };
        if !goes {
            self.bucket(self.number(now)).refused.fetch_add(1, Relaxed);
        }
        !goes
    }

    /// Whether some requests are refused.
    pub fn is_open(&self, policy: &BreakerPolicy, now: Instant) -> bool {
        self.history(now).ratio(policy) > 0.0
    }

    /// Counts a request from now on.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Started {
        let number = self.number(now);
        self.bucket(number).pending.fetch_add(1, Relaxed);
        Started { breaker: self.clone(), number, begun: now, state: State::Pending }
    }

    fn history(&self, now: Instant) -> History {
        let newest = self.number(now);
        let buckets = array::from_fn(|index| {
            // The oldest first.
            let number = (newest + index as u64 + 1).saturating_sub(BUCKETS as u64);
            let shared = &self.buckets[index_of(number)];
            if number == 0 || shared.number.load(Relaxed) != number {
                Bucket::default()
            } else {
                shared.read()
            }
        });
        History::new(&buckets, self.usual())
    }

    /// How long answers usually take, if there were any.
    fn usual(&self) -> Option<Duration> {
        Some(self.usual.load(Relaxed)).filter(|usual| *usual > 0).map(Duration::from_nanos)
    }

    /// The bucket of this number, begun anew if it is an older one still.
    fn bucket(&self, number: u64) -> &Shared {
        let shared = &self.buckets[index_of(number)];
        let known = shared.number.load(Relaxed);
        if known < number && shared.number.compare_exchange(known, number, Relaxed, Relaxed).is_ok() {
            shared.pending.store(0, Relaxed);
            shared.accepted.store(0, Relaxed);
            shared.failed.store(0, Relaxed);
            shared.refused.store(0, Relaxed);
        }
        shared
    }

    fn took(&self, took: Duration) {
        let (usual, sample) = (self.usual.load(Relaxed), (took.as_nanos() as u64).max(1));
        let next = if usual == 0 { sample } else { usual - usual / SMOOTHING + sample / SMOOTHING };
        self.usual.store(next.max(1), Relaxed);
    }

    fn number(&self, now: Instant) -> u64 {
        self.nanoseconds(now) / BUCKET.as_nanos() as u64 + 1
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

impl Shared {
    fn read(&self) -> Bucket {
        Bucket {
            pending: self.pending.load(Relaxed).max(0) as u32,
            accepted: self.accepted.load(Relaxed),
            failed: self.failed.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

fn index_of(number: u64) -> usize {
    (number % BUCKETS as u64) as usize
}

/// A request that counts. Dropped before its outcome is told it counts as if it had not been: its client went, or the
/// gateway gave it up.
#[derive(Debug)]
pub struct Started {
    breaker: Arc<Breaker>,
    number: u64,
    begun: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Accepted,
    Failed,
}

impl Started {
    /// Tells the outcome. A success may be made worse afterwards, when the answer breaks off.
    pub fn ended(&mut self, accepted: bool, now: Instant) {
        let before = self.state;
        self.state = match before {
            State::Pending if accepted => State::Accepted,
            State::Pending | State::Accepted if !accepted => State::Failed,
            _ => return,
        };
        if self.state == State::Accepted {
            self.breaker.took(now.saturating_duration_since(self.begun));
        }
        let newest = self.breaker.number(now);
        let bucket = match self.own().filter(|_| self.number + BUCKETS as u64 > newest) {
            Some(bucket) => {
                match before {
                    State::Pending => bucket.pending.fetch_sub(1, Relaxed) as u32,
                    _ => bucket.accepted.fetch_sub(1, Relaxed),
                };
                bucket
            }
            // It began before the window, and has counted as failed while it was in it.
            None if !accepted && patience(self.breaker.usual()) < BUCKETS => return,
            // What it turned out to be is news.
            None => self.breaker.bucket(newest),
        };
        let count = if self.state == State::Accepted { &bucket.accepted } else { &bucket.failed };
        count.fetch_add(1, Relaxed);
    }

    /// The bucket that it began in, unless it has begun anew since.
    fn own(&self) -> Option<&Shared> {
        let shared = &self.breaker.buckets[index_of(self.number)];
        (shared.number.load(Relaxed) == self.number).then_some(shared)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.state == State::Pending
            && let Some(bucket) = self.own()
        {
            bucket.pending.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(breaker: &Arc<Breaker>, count: u32, accepted: bool, at: Instant) {
        for _ in 0..count {
            breaker.begin(at).ended(accepted, at + Duration::from_millis(5));
        }
    }

    fn refused(breaker: &Breaker, count: u32, at: Instant) -> u32 {
        (0..count).map(|_| u32::from(breaker.refuses(&BreakerPolicy::default(), at))).sum()
    }

    #[test]
    fn it_opens_while_everything_fails_and_closes_when_all_is_well_again() {
        let (policy, start) = (BreakerPolicy::default(), Instant::now());
        let breaker = Arc::new(Breaker::new(start));
        requests(&breaker, 100, true, start);
        assert_eq!(refused(&breaker, 100, start), 0);

        let outage = start + Duration::from_secs(10);
        requests(&breaker, 200, false, outage);
        assert!(breaker.is_open(&policy, outage));
        let share = refused(&breaker, 1000, outage + Duration::from_millis(250));
        assert!(share > 900, "{share}");

        let later = outage + Duration::from_secs(11);
        assert!(!breaker.is_open(&policy, later), "the window has forgotten it");
        assert_eq!(refused(&breaker, 10, later), 0);
    }

    #[test]
    fn a_request_that_hangs_is_seen_before_it_ends() {
        let (policy, start) = (BreakerPolicy::default(), Instant::now());
        let breaker = Arc::new(Breaker::new(start));
        requests(&breaker, 20, true, start);
        let hanging: Vec<_> = (0..100).map(|_| breaker.begin(start + BUCKET)).collect();
        assert!(!breaker.is_open(&policy, start + BUCKET));
        assert!(breaker.is_open(&policy, start + 7 * BUCKET));
        drop(hanging);
        assert!(!breaker.is_open(&policy, start + 7 * BUCKET), "clients that go are no failures");
    }

    #[test]
    fn a_failure_counts_when_it_is_known_later_than_the_window_lasts() {
        let (policy, start) = (BreakerPolicy::default(), Instant::now());
        let breaker = Arc::new(Breaker::new(start));
        let hanging: Vec<_> = (0..100).map(|_| breaker.begin(start)).collect();
        let end = start + Duration::from_secs(30);
        for mut request in hanging {
            request.ended(false, end);
        }
        assert!(breaker.is_open(&policy, end));
    }

    #[test]
    fn an_answer_that_breaks_off_was_no_success() {
        let start = Instant::now();
        let breaker = Arc::new(Breaker::new(start));
        let mut request = breaker.begin(start);
        request.ended(true, start);
        request.ended(false, start);
        request.ended(true, start);
        drop(request);
        let bucket = breaker.buckets[index_of(1)].read();
        assert_eq!(bucket, Bucket { failed: 1, ..Bucket::default() });
    }

    #[test]
    fn of_many_workers_one_probes() {
        let start = Instant::now();
        let breaker = Arc::new(Breaker::new(start));
        let outage = start + Duration::from_secs(20);
        requests(&breaker, 100_000, false, outage);
        let through = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| 100 - refused(&breaker, 100, outage));
            let asking: Vec<_> = (0..4).map(|_| ask()).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        });
        // With this ratio chance lets almost nobody through.
        assert!((1..4).contains(&through), "{through}");
    }

    #[test]
    fn nothing_is_pending_when_all_has_ended() {
        let start = Instant::now();
        let breaker = Arc::new(Breaker::new(start));
        std::thread::scope(|scope| {
            for worker in 0..4u32 {
                let breaker = &breaker;
                scope.spawn(move || {
                    for number in 0..10_000u32 {
                        let at = start + Duration::from_micros(900 * u64::from(number));
                        let mut request = breaker.begin(at);
                        match (number + worker) % 3 {
                            0 => request.ended(true, at),
                            1 => request.ended(false, at),
                            _ => {}
                        }
                    }
                });
            }
        });
        let pending: u32 = breaker.buckets.iter().map(|bucket| bucket.read().pending).sum();
        assert_eq!(pending, 0);
    }
}
