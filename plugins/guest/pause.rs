//! Pauses between questions.

use std::time::Duration;

/// A tenth more at most, so that many who ask do not ask at once.
pub fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_as_long_as_it_says_or_a_little_longer() {
        let pause = Duration::from_secs(10);
        for _ in 0..100 {
            assert!((pause..=pause * 11 / 10).contains(&jittered(pause)));
        }
    }
}
