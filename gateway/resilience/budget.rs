//! How many requests of an upstream may be sent once more: a share of its requests, so that an upstream that fails is
//! not asked twice as much.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

/// The time that requests and retries are compared over, in seconds.
pub const WINDOW_SECS: u64 = 10;

/// Seconds that are remembered: more than the window has.
const KEPT: usize = 16;

/// What an upstream has left for retries, in the hands of all workers.
///
/// Requests are not counted here, where each would cost: whoever asks tells how many there were, and once in a second
/// one of them [marks](Self::mark) it.
#[derive(Debug)]
pub struct Budget {
    began: Instant,
    /// By second: the requests before it.
    marks: [Second; KEPT],
    /// By second: the retries in it.
    spent: [Second; KEPT],
}

/// A second since the beginning, and a count: 32 bits of each.
#[derive(Debug, Default)]
struct Second(AtomicU64);

impl Second {
    fn get(&self) -> (u64, u32) {
        unpack(self.0.load(Relaxed))
    }

    fn set(&self, second: u64, count: u32) {
        self.0.store(pack(second, count), Relaxed);
    }

    /// Changes the count in this second, which is 0 where another one was here.
    fn change(&self, second: u64, change: impl Fn(u32) -> u32) {
        let changed = |packed| {
            let (then, count) = unpack(packed);
            Some(pack(second, change(if then == second { count } else { 0 })))
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, changed);
    }
}

fn pack(second: u64, count: u32) -> u64 {
    second << 32 | u64::from(count)
}

fn unpack(packed: u64) -> (u64, u32) {
    (packed >> 32, packed as u32)
}

/// What is remembered of these seconds.
fn within(seconds: &[Second; KEPT], wanted: RangeInclusive<u64>) -> impl Iterator<Item = (u64, u32)> {
    let known = seconds.iter().map(Second::get).enumerate();
    known
        .filter(move |(at, (second, _))| place(*second) == *at && wanted.contains(second))
        .map(|(_, known)| known)
}

fn place(second: u64) -> usize {
    (second % KEPT as u64) as usize
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { began: now, marks: Default::default(), spent: Default::default() }
    }

    /// So many requests came before now. Wanted once in every second that has requests; the count may wrap.
    pub fn mark(&self, now: Instant, requests: u64) {
        let second = self.second(now);
        self.marks[place(second)].set(second, requests as u32);
    }

    /// Takes one retry, if the retries of the last ten seconds are fewer than this share of the requests in them, or
    /// fewer than `least`. `requests` is how many came so far.
    ///
    /// Counts a second of retries too many rather than one too few, and of requests the other way round, so that no ten
    /// seconds ever have more.
    pub fn take(&self, now: Instant, requests: u64, share: f64, least: u32) -> bool {
        let second = self.second(now);
        self.spent[place(second)].change(second, |spent| spent.saturating_add(1));
        let first = second.saturating_sub(WINDOW_SECS);
        let spent: u64 = within(&self.spent, first..=second).map(|(_, spent)| u64::from(spent)).sum();
        let allowed = (f64::from(self.requests(second, requests)) * share) as u64;
        let granted = spent <= allowed.max(u64::from(least));
        if !granted {
            self.spent[place(second)].change(second, |spent| spent.saturating_sub(1));
        }
        granted
    }

    /// How many retries are left now, and how many there are in all, as [`Self::take`] would grant them.
    pub fn left(&self, now: Instant, requests: u64, share: f64, least: u32) -> (u64, u64) {
        let second = self.second(now);
        let first = second.saturating_sub(WINDOW_SECS);
        let spent: u64 = within(&self.spent, first..=second).map(|(_, spent)| u64::from(spent)).sum();
        let allowed = ((f64::from(self.requests(second, requests)) * share) as u64).max(u64::from(least));
        (allowed.saturating_sub(spent), allowed)
    }

    /// How many requests came within the window.
    fn requests(&self, second: u64, requests: u64) -> u32 {
        let first = (second + 1).saturating_sub(WINDOW_SECS);
        within(&self.marks, first..=second)
            .min()
            .map_or(0, |(_, before)| (requests as u32).wrapping_sub(before))
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_requests_there_is_the_least_in_every_ten_seconds() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken = |now| (0..100).filter(|_| budget.take(now, 0, 0.2, 10)).count();
        assert_eq!(taken(at(3)), 10);
        assert_eq!(taken(at(13)), 0);
        assert_eq!(taken(at(14)), 10);
        assert_eq!(taken(at(1_000)), 10);
        assert_eq!(budget.left(at(1_000), 0, 0.2, 10), (0, 10));
        assert_eq!(budget.left(at(1_011), 0, 0.2, 10), (10, 10));
        assert!(!Budget::new(start).take(start, 1_000, 0.0, 0));
    }

    #[test]
    fn a_share_of_the_requests_of_the_last_ten_seconds_may_be_tried_again() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut requests = 0;
        for second in 0..20 {
            budget.mark(at(second), requests);
            requests += 100;
        }
        // As many requests as ten seconds have.
        assert_eq!(budget.left(at(19), requests, 0.2, 10), (200, 200));
        assert_eq!((0..1_000).filter(|_| budget.take(at(19), requests, 0.2, 10)).count(), 200);
        // A minute later none of them counts.
        budget.mark(at(80), requests);
        assert_eq!((0..1_000).filter(|_| budget.take(at(80), requests, 0.2, 10)).count(), 10);
    }

    #[test]
    fn the_count_of_requests_may_wrap() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let requests = u64::from(u32::MAX) - 10;
        budget.mark(start, requests);
        assert_eq!((0..1_000).filter(|_| budget.take(start, requests + 100, 0.5, 0)).count(), 50);
    }

    proptest! {
        /// A request or a retry on one of the workers, and the time until the next, in milliseconds.
        #[test]
        fn no_ten_seconds_have_more(
            steps in prop::collection::vec((any::<bool>(), 0..3_000_u64), 1..300),
            share in 0.0..1.0_f64,
            least in 0..5_u32,
        ) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let mut now = start;
            let (mut requests, mut spent, mut marked) = (Vec::new(), Vec::new(), None);
            for (retry, pause) in steps {
                let second = now.saturating_duration_since(start).as_secs();
                if retry {
                    if budget.take(now, requests.len() as u64, share, least) {
                        spent.push(now);
                    }
                } else {
                    if marked < Some(second) {
                        budget.mark(now, requests.len() as u64);
                        marked = Some(second);
                    }
                    requests.push(now);
                }
                let recent = |all: &[Instant]| {
                    all.iter().filter(|at| now.duration_since(**at) < Duration::from_secs(WINDOW_SECS)).count()
                };
                // Requests of the first second may be a mark late.
                let allowed = (recent(&requests) as f64 * share) as usize;
                if retry && spent.last() == Some(&now) {
                    prop_assert!(recent(&spent) <= allowed.max(least as usize));
                }
                now += Duration::from_millis(pause);
            }
        }
    }
}
