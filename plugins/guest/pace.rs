//! How often a registry is asked, whatever it answers.

use std::time::{Duration, Instant};

/// Questions at once, and per second in the long run. A list that changes all the time is read that often.
const AT_ONCE: f64 = 10.0;
const PER_SECOND: f64 = 1.0;

pub struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Pace {
        Pace { tokens: AT_ONCE, at: now }
    }

    /// Counts one question and says how long to wait before it.
    pub fn take(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(AT_ONCE) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.tokens).max(0.0) / PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_at_once_and_then_one_per_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..10 {
            assert_eq!(pace.take(start), Duration::ZERO);
        }
        assert_eq!(pace.take(start), Duration::from_secs(1));
        assert_eq!(pace.take(start + Duration::from_secs(5)), Duration::ZERO);
    }
}
