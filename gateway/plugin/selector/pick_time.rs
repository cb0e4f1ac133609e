//! How long a pick takes. One of a few hundred is timed, so that requests pay for no clock: an instance counts its picks,
//! and that is all the others cost.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Of so many picks of an instance one is timed.
const EVERY: u32 = 256;

/// Which of them: the first ones find nothing in the caches.
const FIRST: u32 = 16;

/// The average is about the last so many that were timed.
const WEIGHT: u64 = 64;

/// One that was interrupted is not what a pick takes: none counts as more than so many times the average.
const MOST: u64 = 8;

/// Parts of a nanosecond that are reckoned with, so that small differences are not lost.
const PARTS: u64 = 1_024;

/// Counts the picks of one instance.
#[derive(Debug, Default)]
pub(super) struct Turn(u32);

impl Turn {
    /// Whether the pick that begins is to be timed.
    pub fn is_next(&mut self) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0 % EVERY == FIRST
    }
}

/// The average over all workers. Of two samples at the same moment one may be lost.
#[derive(Debug, Default)]
pub(super) struct PickTime {
    /// Samples taken, up to the weight of the average.
    samples: AtomicU64,
    average: AtomicU64,
}

impl PickTime {
    pub fn note(&self, time: Duration) {
        let (samples, average) = (self.samples.load(Relaxed), self.average.load(Relaxed));
        let weight = WEIGHT.min(samples + 1);
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(PARTS);
        let time = if samples == 0 { time } else { time.min(average.saturating_mul(MOST)) };
        // A clock may say that no time has passed; of an average of nothing there would be no other any more.
        let time = time.max(PARTS);
        let next = average - average / weight + time / weight;
        self.average.store(next, Relaxed);
        self.samples.store(weight, Relaxed);
    }

    /// None until one was timed.
    pub fn average(&self) -> Option<Duration> {
        let known = self.samples.load(Relaxed) > 0;
        known.then(|| Duration::from_nanos(self.average.load(Relaxed) / PARTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_few_hundred_is_timed_and_not_the_first() {
        let mut turn = Turn::default();
        let timed: Vec<u32> = (1..=600).filter(|_| turn.is_next()).collect();
        assert_eq!(timed, [16, 272, 528]);
    }

    #[test]
    fn a_pick_that_took_no_time_by_the_clock_does_not_hold_the_average_at_nothing() {
        let time = PickTime::default();
        time.note(Duration::ZERO);
        assert_eq!(time.average(), Some(Duration::from_nanos(1)));
        (0..500).for_each(|_| time.note(Duration::from_nanos(150)));
        assert!(time.average() > Some(Duration::from_nanos(140)), "{:?}", time.average());
    }

    #[test]
    fn the_average_is_about_the_last_ones_and_no_interruption_spoils_it() {
        let time = PickTime::default();
        assert_eq!(time.average(), None);
        let note = |times, ns| (0..times).for_each(|_| time.note(Duration::from_nanos(ns)));
        let is_about = |ns: f64| {
            let average = time.average().unwrap().as_nanos() as f64;
            assert!((average / ns - 1.0).abs() < 0.05, "{average} is not about {ns}");
        };
        note(1, 150);
        is_about(150.0);
        note(100, 150);
        is_about(150.0);
        note(1, 10_000_000);
        is_about(150.0 * (1.0 + 7.0 / 64.0));
        note(400, 300);
        is_about(300.0);
    }
}
