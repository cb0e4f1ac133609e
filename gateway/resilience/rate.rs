//! How many requests a route takes per second, in all or from each of those that send them.
//!
//! Each key has a bucket that holds `burst` tokens and gets `requests` of them per `per`; a request takes one. It is kept as
//! one number, the moment at which the bucket would be full again (GCRA). The keys stand in a table of fixed size that all
//! workers share, without a lock: a key has its place in one of a few neighbouring slots, and where these are taken, the
//! one that has been quiet for the longest gives way. So a full table refuses nobody and does not grow; whoever was
//! forgotten begins with a full bucket. Workers that meet in one slot may let a request pass that was one too many.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::{Duration, Instant},
};

/// Slots in which one key can stand.
const WAYS: usize = 8;

/// No key has this hash.
const FREE: u64 = 0;

/// What a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    pub per: Duration,
    /// So many at once, after a pause.
    pub burst: u32,
}

/// The buckets of one route.
#[derive(Debug)]
pub struct RateTable {
    epoch: Instant,
    hasher: RandomState,
    sets: Box<[Box<[Slot]>]>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    key: AtomicU64,
    /// When the bucket is full again, in nanoseconds since the epoch.
    full_at: AtomicU64,
}

impl Rate {
    /// The moment at which the bucket is full after one more request, or how long it takes until there is a token.
    fn take(&self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let each = (self.per.as_nanos() as u64 / u64::from(self.requests).max(1)).max(1);
        let most = each.saturating_mul(u64::from(self.burst.max(1)));
        let next = full_at.max(now).saturating_add(each);
        match next.checked_sub(now.saturating_add(most)) {
            None | Some(0) => Ok(next),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }
}

impl RateTable {
    /// A table for so many keys, rounded down to a multiple of eight.
    pub fn new(most_keys: usize) -> Self {
        let (sets, ways) = ((most_keys / WAYS).max(1), most_keys.clamp(1, WAYS));
        let set = |_| (0..ways).map(|_| Slot::default()).collect();
        Self {
            epoch: Instant::now(),
            hasher: RandomState::new(),
            sets: (0..sets).map(set).collect(),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes a token for a request with this key, or says how long it takes until there is one.
    pub fn take(&self, rate: Rate, key: impl Hash, now: Instant) -> Result<(), Duration> {
        let hash = self.hasher.hash_one(key).max(1);
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        let slot = self.slot(hash, now);
        let mut full_at = slot.full_at.load(Relaxed);
        loop {
            let next = rate.take(full_at, now).inspect_err(|_| {
                self.refused.fetch_add(1, Relaxed);
            })?;
            match slot.full_at.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Keys that are remembered.
    pub fn keys(&self) -> usize {
        let slots = self.sets.iter().flat_map(|set| set.iter());
        slots.filter(|slot| slot.key.load(Relaxed) != FREE).count()
    }

    /// The slot of a key. If it has none, it gets a free one, or that of whoever has been quiet for the longest.
    fn slot(&self, hash: u64, now: u64) -> &Slot {
        let index = (u128::from(hash) * self.sets.len() as u128) >> 64;
        let set = &self.sets[index as usize];
        let mut oldest = &set[0];
        for slot in set {
            if slot.key.load(Acquire) == hash {
                return slot;
            }
            if slot.full_at.load(Relaxed) < oldest.full_at.load(Relaxed) {
                oldest = slot;
            }
        }
        oldest.full_at.store(now, Relaxed);
        oldest.key.store(hash, Release);
        oldest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate { requests, per: SECOND, burst }
    }

    #[test]
    fn a_burst_passes_and_then_so_many_per_second() {
        let (table, start) = (RateTable::new(100), Instant::now());
        let passed = |at: Duration, of: u32| {
            (0..of).filter(|_| table.take(rate(10, 5), "a", start + at).is_ok()).count()
        };
        assert_eq!(passed(Duration::ZERO, 100), 5);
        assert_eq!(passed(Duration::from_millis(90), 100), 0);
        assert_eq!(passed(Duration::from_millis(101), 100), 1);
        assert_eq!(passed(Duration::from_millis(401), 100), 3);
        assert_eq!(passed(Duration::from_secs(60), 100), 5, "no more is saved up than a burst");
        assert_eq!(table.refused(), 95 + 100 + 99 + 97 + 95);
    }

    #[test]
    fn who_waits_as_long_as_is_said_passes() {
        let (table, start) = (RateTable::new(100), Instant::now());
        assert!(table.take(rate(3, 1), "a", start).is_ok());
        let wait = table.take(rate(3, 1), "a", start).unwrap_err();
        assert!(table.take(rate(3, 1), "a", start + wait).is_ok(), "{wait:?}");
    }

    #[test]
    fn each_key_has_its_own() {
        let (table, now) = (RateTable::new(100), Instant::now());
        for key in 0..20 {
            assert!(table.take(rate(1, 1), key, now).is_ok());
            assert!(table.take(rate(1, 1), key, now).is_err());
        }
    }

    #[test]
    fn a_full_table_refuses_nobody_new_and_does_not_grow() {
        let (table, start) = (RateTable::new(64), Instant::now());
        for key in 0..100_000u32 {
            let now = start + Duration::from_micros(u64::from(key));
            assert!(table.take(rate(1, 1), key, now).is_ok(), "{key}");
        }
        assert_eq!(table.keys(), 64);
        assert_eq!(RateTable::new(3).sets.iter().map(|set| set.len()).sum::<usize>(), 3);
    }

    #[test]
    fn who_sends_all_the_time_is_not_forgotten_for_those_that_come_once() {
        let (table, start) = (RateTable::new(64), Instant::now());
        let mut passed = 0;
        for number in 0..10_000u32 {
            let now = start + Duration::from_millis(u64::from(number));
            passed += u32::from(table.take(rate(10, 10), "busy", now).is_ok());
            assert!(table.take(rate(10, 10), number, now).is_ok());
        }
        assert!((100..=120).contains(&passed), "{passed}");
    }

    #[test]
    fn workers_share_what_there_is() {
        let (table, now) = (RateTable::new(100), Instant::now());
        let passed: usize = std::thread::scope(|scope| {
            let ask = || (0..10_000).filter(|_| table.take(rate(1, 100), "a", now).is_ok()).count();
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // Both may have found a free slot at first.
        assert!((100..=101).contains(&passed), "{passed}");
    }

    proptest! {
        /// Whatever comes when: never more than the burst and what has flowed in since.
        #[test]
        fn never_more_than_the_burst_and_what_flowed_in(
            requests in 1..50u32, burst in 1..50u32,
            pauses in prop::collection::vec(0..200u64, 1..500),
        ) {
            let (table, start) = (RateTable::new(8), Instant::now());
            let (mut at, mut passed) = (Duration::ZERO, 0u32);
            for pause in pauses {
                at += Duration::from_millis(pause);
                passed += u32::from(table.take(rate(requests, burst), "a", start + at).is_ok());
                let most = f64::from(burst) + f64::from(requests) * at.as_secs_f64();
                prop_assert!(f64::from(passed) <= most + 1e-3, "{passed} of {most}");
            }
        }
    }
}
