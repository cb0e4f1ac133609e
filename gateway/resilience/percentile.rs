//! How long 19 of 20 requests of an upstream take, lately.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::{Duration, Instant},
};

/// Each doubling of time has so many buckets: a value is right within an eighth of itself.
const PARTS: u32 = 8;

/// From a microsecond to a minute.
const DOUBLINGS: u32 = 26;
const BUCKETS: usize = (DOUBLINGS * PARTS) as usize;

/// How often the value is found anew. What was seen before counts half then.
const TURN_SECS: u64 = 3;

/// With fewer nothing is known.
const FEWEST: u32 = 20;

/// The 95th percentile of what was recorded, in the hands of all workers. A record costs two additions.
#[derive(Debug)]
pub struct Percentile {
    began: Instant,
    counts: Box<[AtomicU32]>,
    recorded: AtomicU32,
    turn: AtomicU64,
    /// Microseconds, 0 while nothing is known.
    value: AtomicU64,
}

impl Percentile {
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
            recorded: AtomicU32::new(0),
            turn: AtomicU64::new(0),
            value: AtomicU64::new(0),
        }
    }

    /// None until enough was seen.
    pub fn get(&self) -> Option<Duration> {
        Some(self.value.load(Relaxed)).filter(|value| *value > 0).map(Duration::from_micros)
    }

    pub fn record(&self, now: Instant, took: Duration) {
        self.counts[bucket(took)].fetch_add(1, Relaxed);
        let recorded = self.recorded.fetch_add(1, Relaxed) + 1;
        let turn = now.saturating_duration_since(self.began).as_secs() / TURN_SECS;
        let last = self.turn.load(Relaxed);
        if turn > last && self.turn.compare_exchange(last, turn, AcqRel, Relaxed).is_ok() {
            self.find();
            self.fade();
        } else if recorded == FEWEST {
            self.find();
        }
    }

    fn find(&self) {
        let total: u64 = self.counts.iter().map(|count| u64::from(count.load(Relaxed))).sum();
        if total < u64::from(FEWEST) {
            return;
        }
        let mut below = 0;
        let found = self.counts.iter().position(|count| {
            below += u64::from(count.load(Relaxed));
            below * 20 >= total * 19
        });
        if let Some(found) = found {
            self.value.store(upper(found), Relaxed);
        }
    }

    /// What is recorded meanwhile may be lost: it is one of many.
    fn fade(&self) {
        for count in &self.counts {
            count.store(count.load(Relaxed) / 2, Relaxed);
        }
    }
}

fn bucket(took: Duration) -> usize {
    let micros = (took.as_micros() as u64).max(1);
    let doubling = micros.ilog2();
    // The bits behind the first.
    let part = ((micros << 3) >> doubling) as u32 % PARTS;
    ((doubling * PARTS + part) as usize).min(BUCKETS - 1)
}

/// The least number of microseconds that is above all in a bucket.
fn upper(bucket: usize) -> u64 {
    let (doubling, part) = (bucket as u64 / u64::from(PARTS), bucket as u64 % u64::from(PARTS));
    (((u64::from(PARTS) + part + 1) << doubling) / u64::from(PARTS)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_no_wider_than_an_eighth() {
        for micros in (1..100_000).step_by(7).chain([1 << 20, 1 << 25, 60_000_000]) {
            let upper = upper(bucket(Duration::from_micros(micros)));
            assert!(micros <= upper && upper <= micros + micros / 8 + 1, "{micros} {upper}");
        }
        assert_eq!(bucket(Duration::from_secs(3600)), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[test]
    fn the_value_is_that_of_19_of_20_and_unknown_before_there_are_so_many() {
        let start = Instant::now();
        let percentile = Percentile::new(start);
        for millis in 1..20 {
            percentile.record(start, Duration::from_millis(millis));
            assert_eq!(percentile.get(), None);
        }
        percentile.record(start, Duration::from_millis(20));
        let value = percentile.get().unwrap();
        assert!((Duration::from_millis(19)..Duration::from_millis(22)).contains(&value), "{value:?}");
    }

    #[test]
    fn what_is_long_ago_counts_less_and_less() {
        let start = Instant::now();
        let percentile = Percentile::new(start);
        for second in 0..60 {
            let took = Duration::from_millis(if second < 30 { 100 } else { 5 });
            for _ in 0..50 {
                percentile.record(start + Duration::from_secs(second), took);
            }
            if second == 29 {
                assert!(percentile.get().unwrap() >= Duration::from_millis(100));
            }
        }
        let value = percentile.get().unwrap();
        assert!(value < Duration::from_millis(6), "{value:?}");
    }
}
