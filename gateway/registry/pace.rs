//! How fast a registry is asked: back-off after failures, and a ceiling on news.

use std::time::{Duration, Instant};

/// Jittered, doubling pauses between attempts. The jitter keeps a thousand sources of one registry apart when it
/// comes back.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The pause before the next attempt: between half and all of a duration that doubles up to the greatest.
    pub fn pause(&mut self) -> Duration {
        let whole = self.first.saturating_mul(2u32.saturating_pow(self.failures.min(31))).min(self.most);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A ceiling on how often something may happen, with room for bursts: a token bucket.
#[derive(Debug)]
pub struct Ceiling {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Ceiling {
    pub fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        Self { per_second, burst, tokens: burst, at: now }
    }

    /// Counts one more and says how long to wait before it.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_grow_up_to_the_greatest_and_never_vanish(failures in 0usize..60) {
            let (first, most) = (Duration::from_millis(100), Duration::from_secs(10));
            let mut backoff = Backoff::new(first, most);
            let last = (0..=failures).map(|_| backoff.pause()).last().unwrap();
            let whole = first.saturating_mul(2u32.saturating_pow(failures.min(31) as u32)).min(most);
            prop_assert!(last >= whole / 2 && last <= whole, "{last:?} of {whole:?}");
            backoff.reset();
            prop_assert!(backoff.pause() <= first);
        }
    }

    #[test]
    fn bursts_pass_and_a_steady_stream_is_slowed() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(100.0, 10.0, start);
        for _ in 0..10 {
            assert_eq!(ceiling.take(start), Duration::ZERO);
        }
        assert_eq!(ceiling.take(start), Duration::from_millis(10));
        assert_eq!(ceiling.take(start + Duration::from_secs(1)), Duration::ZERO);
    }
}
