//! How long answers took, as histograms: in the buckets that everybody can read, and beside them in those of Prometheus'
//! native histograms, whose bounds grow by the eighth root of two, so that a quantile is right to nine per cent.

use std::{
    array,
    f64::consts::SQRT_2,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the classic buckets; a last one without bound follows.
const BOUNDS: [Duration; 14] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// With the last.
const BUCKETS: usize = BOUNDS.len() + 1;

/// What Prometheus calls the schema: there are two to the power of this buckets from one power of two to the next.
pub const SCHEMA: i32 = 3;

const STEPS: usize = 1 << SCHEMA;

/// Two to this power, in seconds (61 µs), is where the native buckets begin; what took at most so long is in one of its own.
const LOWEST_POWER: i32 = -14;

/// And where they end (64 s). What took longer is in the last.
const HIGHEST_POWER: i32 = 6;

const NATIVE: usize = (HIGHEST_POWER - LOWEST_POWER) as usize * STEPS;

/// Bounds between one power of two and the next, as the bits of their fractions: those of 2^(1/8) to 2^(7/8).
const FRACTIONS: [u64; STEPS - 1] = [
    fraction(1.090_507_732_665_257_7),
    fraction(1.189_207_115_002_721),
    fraction(1.296_839_554_651_009_6),
    fraction(SQRT_2),
    fraction(1.542_210_825_407_940_7),
    fraction(1.681_792_830_507_429),
    fraction(1.834_008_086_409_342_4),
];

const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// Those bits of a number that say where it is between two powers of two.
const fn fraction(number: f64) -> u64 {
    number.to_bits() & ((1 << FRACTION_BITS) - 1)
}

/// One answer, and where it belongs: found once, however many histograms it is counted in.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    bucket: usize,
    native: usize,
    nanoseconds: u64,
}

impl Took {
    pub fn of(took: Duration) -> Self {
        Self {
            bucket: BOUNDS.partition_point(|bound| *bound < took),
            native: native(took.as_secs_f64()),
            nanoseconds: took.as_nanos() as u64,
        }
    }
}

/// The place of so many seconds among the native buckets, the one of what took least being 0. Each holds its upper bound.
fn native(seconds: f64) -> usize {
    let (bits, fraction) = (seconds.to_bits(), fraction(seconds));
    // Not negative, so what is left of the fraction is the exponent.
    let power = (bits >> FRACTION_BITS) as i32 - (f64::MAX_EXP - 1);
    if power < LOWEST_POWER {
        return 0;
    }
    let power = (power - LOWEST_POWER) as usize;
    let steps = FRACTIONS.iter().filter(|bound| **bound < fraction).count() + usize::from(fraction > 0);
    (power * STEPS + steps).min(NATIVE)
}

/// What one worker counts; nobody else writes it, so a count is a plain load and store.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// How many answers took at most as long as each bound, and longer than the one before.
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
    /// Many, so made when there is an answer.
    native: OnceLock<Box<NativeBuckets>>,
}

#[derive(Debug)]
struct NativeBuckets([AtomicU64; NATIVE + 1]);

impl Default for NativeBuckets {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    pub(super) fn count(&self, sample: Took) {
        add(&self.native.get_or_init(Box::default).0[sample.native], 1);
        add(&self.buckets[sample.bucket], 1);
        add(&self.nanoseconds, sample.nanoseconds);
    }
}

/// How long answers took, in the classic buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    buckets: [u64; BUCKETS],
    pub sum: Duration,
}

impl Latencies {
    /// Adds what one worker has counted.
    pub(super) fn collect(&mut self, histogram: &Histogram) {
        collect(&mut self.buckets, &histogram.buckets);
        self.sum += Duration::from_nanos(histogram.nanoseconds.load(Relaxed));
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Those that came after `before`, which is an earlier count of the same.
    pub fn since(&self, before: &Self) -> Self {
        let buckets = array::from_fn(|at| self.buckets[at].saturating_sub(before.buckets[at]));
        Self { buckets, sum: self.sum.saturating_sub(before.sum) }
    }

    /// How long this share of them took at most, as if those of a bucket were spread evenly; none if there are none.
    /// What is beyond the last bound counts as that.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = share * self.count() as f64;
        let (mut before, mut lower) = (0.0, Duration::ZERO);
        for (bound, in_it) in BOUNDS.iter().zip(self.buckets) {
            let in_it = in_it as f64;
            if in_it > 0.0 && before + in_it >= wanted {
                let part = ((wanted - before) / in_it).clamp(0.0, 1.0);
                return Some(lower + (*bound - lower).mul_f64(part));
            }
            (before, lower) = (before + in_it, *bound);
        }
        (self.count() > 0).then_some(lower)
    }

    /// Upper bounds in seconds, the last without bound, and how many answers fell in each and not in one before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        bounds.zip(self.buckets).collect()
    }
}

/// The same answers in the native buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// The first is that of what took at most [`Native::threshold`].
    buckets: [u64; NATIVE + 1],
}

impl Default for Native {
    fn default() -> Self {
        Self { buckets: [0; NATIVE + 1] }
    }
}

/// Buckets that follow each other, from the one with this index on, as Prometheus counts them: the index of a bucket is
/// the power of [`SCHEMA`]'s base that is its upper bound.
#[derive(Debug, PartialEq, Eq)]
pub struct Run<'a> {
    pub first: i32,
    pub counts: &'a [u64],
}

impl Native {
    pub(super) fn collect(&mut self, histogram: &Histogram) {
        if let Some(native) = histogram.native.get() {
            collect(&mut self.buckets, &native.0);
        }
    }

    /// In seconds: what took at most so long counts as nothing.
    pub fn threshold() -> f64 {
        f64::from(LOWEST_POWER).exp2()
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Answers that took at most [`Native::threshold`].
    pub fn zeros(&self) -> u64 {
        self.buckets[0]
    }

    /// All others, without the buckets that are empty.
    pub fn runs(&self) -> Vec<Run<'_>> {
        let (mut first, mut runs) = (LOWEST_POWER * STEPS as i32 + 1, Vec::new());
        for counts in self.buckets[1..].chunk_by(|one, other| (*one == 0) == (*other == 0)) {
            if counts[0] > 0 {
                runs.push(Run { first, counts });
            }
            first += counts.len() as i32;
        }
        runs
    }
}

/// One writer, so no read-modify-write is needed.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

pub(super) fn collect(sums: &mut [u64], counters: &[AtomicU64]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum += counter.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(answers: impl IntoIterator<Item = Duration>) -> (Latencies, Native) {
        let histogram = Histogram::default();
        answers.into_iter().for_each(|took| histogram.count(Took::of(took)));
        let (mut latencies, mut native) = (Latencies::default(), Native::default());
        latencies.collect(&histogram);
        native.collect(&histogram);
        (latencies, native)
    }

    #[test]
    fn an_answer_falls_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (took, bound) in [
            (Duration::ZERO, 0.0005),
            (Duration::from_millis(1), 0.001),
            (Duration::from_nanos(1_000_001), 0.0025),
            (Duration::from_secs(10), 10.0),
            (Duration::from_secs(11), f64::INFINITY),
        ] {
            let (latencies, _) = counted([took]);
            let filled: Vec<_> = latencies.buckets().into_iter().filter(|bucket| bucket.1 > 0).collect();
            assert_eq!(filled, [(bound, 1)], "{took:?}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_came_since() {
        let millis = Duration::from_millis;
        let (before, _) = counted([Duration::from_secs(9)]);
        assert_eq!(before.since(&before).quantile(0.5), None);
        let answers = [Duration::from_secs(9), millis(80), Duration::from_secs(60)];
        let since = counted(answers.into_iter().chain([millis(1); 98])).0.since(&before);
        assert_eq!(since.count(), 100);
        let half = since.quantile(0.5).unwrap();
        assert!((millis(0)..millis(1)).contains(&half), "{half:?}");
        let most = since.quantile(0.99).unwrap();
        assert!((millis(50)..=millis(100)).contains(&most), "{most:?}");
        assert_eq!(since.quantile(1.0), Some(Duration::from_secs(10)));
    }

    #[test]
    fn native_buckets_are_those_of_prometheus() {
        let check = |took: Duration, zeros: u64, runs: &[Run<'_>]| {
            let (_, native) = counted([took]);
            assert_eq!((native.zeros(), &native.runs()[..]), (zeros, runs), "{took:?}");
        };
        let one = |first| [Run { first, counts: &[1] }];
        check(Duration::ZERO, 1, &[]);
        check(Duration::from_micros(61), 1, &[]);
        check(Duration::from_micros(62), 0, &one(-111));
        // A bound is in the bucket that it ends: 2^(0/8) is one second, 2^(-8/8) half of it.
        check(Duration::from_secs(1), 0, &one(0));
        check(Duration::from_nanos(1_000_000_001), 0, &one(1));
        check(Duration::from_millis(500), 0, &one(-8));
        check(Duration::from_nanos(499_999_999), 0, &one(-8));
        check(Duration::from_secs(64), 0, &one(48));
        check(Duration::from_secs(1_000_000), 0, &one(48));
    }

    #[test]
    fn empty_buckets_are_left_out() {
        let millis = Duration::from_millis;
        let (_, native) =
            counted([millis(1_000), millis(1_000), millis(1_050), millis(4_000), Duration::ZERO]);
        let runs = [Run { first: 0, counts: &[2, 1] }, Run { first: 16, counts: &[1] }];
        assert_eq!((native.count(), native.zeros(), &native.runs()[..]), (5, 1, &runs[..]));
    }

    proptest! {
        #[test]
        fn a_native_bucket_holds_what_took_longer_than_the_bound_before_it(nanoseconds in 61_036u64..64_000_000_000) {
            let took = Duration::from_nanos(nanoseconds);
            let (_, native) = counted([took]);
            let runs = native.runs();
            prop_assert_eq!(runs.len(), 1);
            let bound = |index: i32| (f64::from(index) / STEPS as f64).exp2();
            // The bounds are powers that no float holds, so the last digits may differ.
            let seconds = took.as_secs_f64();
            prop_assert!(seconds > bound(runs[0].first - 1) * (1.0 - 1e-12), "{:?}", runs);
            prop_assert!(seconds <= bound(runs[0].first) * (1.0 + 1e-12), "{:?}", runs);
        }
    }
}
