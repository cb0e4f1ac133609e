//! How fast a registry is asked: a ceiling on news.

use std::time::{Duration, Instant};

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
    use super::*;

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
