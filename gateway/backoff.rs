//! What to do about a failure that may last: try again after pauses that grow, and say little about it.
//!
//! Whatever goes round because of an error has both: [`Backoff`] keeps it from going round at once, [`Lasting`] keeps
//! the log from being filled with one fact.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use tokio::time::Instant;

/// What has worked for so long works; what fails again sooner has not recovered.
const STEADY: Duration = Duration::from_secs(10);

/// From the first report of a state to the second. The times after that double, up to the longest.
const SECOND_REPORT: Duration = Duration::from_secs(10);
const LONGEST_SILENCE: Duration = Duration::from_secs(3_600);

/// Different texts of one state that are reported at once. A text that is different each time is noise after that.
const MOST_TEXTS: usize = 8;

/// Jittered, doubling pauses between attempts. The jitter keeps a thousand sources of one registry apart when it
/// comes back.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
    works_since: Option<Instant>,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0, works_since: None }
    }

    /// The pause before the next attempt, after one that failed or no longer works: between half and all of a
    /// duration that doubles up to the greatest.
    pub fn pause(&mut self) -> Duration {
        let steady = STEADY.min(self.most);
        if self.works_since.take().is_some_and(|since| since.elapsed() >= steady) {
            self.failures = 0;
        }
        let whole = self.first.saturating_mul(2u32.saturating_pow(self.failures.min(31))).min(self.most);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// It works now. The pauses begin anew once that has lasted for a while, 10 s at most: what works for a moment and
    /// fails again, for ever, is not tried without end.
    pub fn works(&mut self) {
        self.works_since.get_or_insert_with(Instant::now);
    }

    /// What made it fail may be gone, so that the next attempt is like the first.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.works_since = None;
    }
}

/// Decides what is reported of a state that lasts: its beginning, each new reason for it, then ever more seldom that
/// it goes on, and its end.
///
/// A state that ends and is back within 10 s has gone on.
#[derive(Debug, Default)]
pub struct Lasting {
    since: Option<Instant>,
    /// None while it goes on.
    ended: Option<Instant>,
    times: u64,
    /// The hashes of the texts that were reported.
    told: Vec<u64>,
    silence: Duration,
    report_at: Option<Instant>,
    /// Something was reported that has not been reported to be over.
    open: bool,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// How long it lasts already.
    pub for_seconds: u64,
    /// How often it was met.
    pub times: u64,
}

impl Lasting {
    /// It is met, for the reason in `text`. None when that is not worth a report.
    pub fn met(&mut self, text: &str) -> Option<Report> {
        let now = Instant::now();
        if self.ended.take().is_some_and(|ended| now - ended >= STEADY) {
            *self = Self::default();
        }
        self.since.get_or_insert(now);
        self.times += 1;
        let due = self.report_at.is_none_or(|at| now >= at);
        // In this order, so that each text is noted.
        if !self.is_new(text) && !due {
            return None;
        }
        if due {
            self.silence = (self.silence * 2).clamp(SECOND_REPORT, LONGEST_SILENCE);
            self.report_at = Some(now + self.silence);
        }
        self.open = true;
        Some(self.report(now))
    }

    /// It is over. None when that is not worth a report, for it was over already, or what is over was not reported.
    pub fn over(&mut self) -> Option<Report> {
        if self.since.is_none() || self.ended.is_some() {
            return None;
        }
        let now = Instant::now();
        self.ended = Some(now);
        std::mem::take(&mut self.open).then(|| self.report(now))
    }

    /// It happened, and is over at once. Reported each time, unless it happens again and again.
    pub fn happened(&mut self, text: &str) -> Option<Report> {
        let report = self.met(text);
        self.ended = Some(Instant::now());
        self.open = false;
        report
    }

    fn is_new(&mut self, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        let is_new = self.told.len() < MOST_TEXTS && !self.told.contains(&hash);
        if is_new {
            self.told.push(hash);
        }
        is_new
    }

    fn report(&self, now: Instant) -> Report {
        let lasted = self.since.map_or(Duration::ZERO, |since| now - since);
        Report { for_seconds: lasted.as_secs(), times: self.times }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(10);

    proptest! {
        #[test]
        fn pauses_grow_up_to_the_greatest_and_never_vanish(failures in 0usize..60) {
            let mut backoff = Backoff::new(FIRST, MOST);
            let last = (0..=failures).map(|_| backoff.pause()).last().unwrap();
            let whole = FIRST.saturating_mul(2u32.saturating_pow(failures.min(31) as u32)).min(MOST);
            prop_assert!(last >= whole / 2 && last <= whole, "{last:?} of {whole:?}");
            backoff.reset();
            prop_assert!(backoff.pause() <= FIRST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_works_only_for_a_moment_is_tried_ever_more_seldom() {
        let mut backoff = Backoff::new(FIRST, MOST);
        for _ in 0..10 {
            backoff.works();
            advance(Duration::from_secs(1)).await;
            backoff.works();
            backoff.pause();
        }
        assert!(backoff.pause() >= MOST / 2);
        backoff.works();
        advance(STEADY).await;
        assert!(backoff.pause() <= FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_lasts_is_reported_once_and_then_seldom() {
        let mut lasting = Lasting::default();
        let mut reported = Vec::new();
        for _ in 0..10 * 3_600 {
            reported.extend(lasting.met("gone").map(|report| report.for_seconds));
            advance(Duration::from_secs(1)).await;
        }
        let expected = [0, 10, 30, 70, 150, 310, 630, 1270, 2550, 5110, 8710];
        assert_eq!(reported[..11], expected);
        assert!(reported.len() < 20, "{reported:?}");
        assert_eq!(lasting.over(), Some(Report { for_seconds: 36_000, times: 36_000 }));
        assert_eq!(lasting.over(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_reason_is_reported_at_once_unless_it_is_new_each_time() {
        let mut lasting = Lasting::default();
        assert!(lasting.met("gone").is_some() && lasting.met("a folder").is_some());
        assert!(lasting.met("gone").is_none() && lasting.met("a folder").is_none());
        let reported = (0..1_000).filter(|number| lasting.met(&number.to_string()).is_some()).count();
        assert_eq!(reported, MOST_TEXTS - 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_that_comes_and_goes_is_one_that_lasts() {
        let mut lasting = Lasting::default();
        let mut reports = 0;
        for _ in 0..600 {
            reports += usize::from(lasting.met("gone").is_some());
            advance(Duration::from_millis(50)).await;
            reports += usize::from(lasting.over().is_some());
            advance(Duration::from_millis(50)).await;
        }
        assert!((2..=6).contains(&reports), "{reports} within a minute");
        advance(STEADY).await;
        assert_eq!(lasting.met("gone"), Some(Report { for_seconds: 0, times: 1 }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_reported_unless_it_happens_all_the_time() {
        let mut lasting = Lasting::default();
        for _ in 0..10 {
            assert!(lasting.happened("connected").is_some());
            assert_eq!(lasting.over(), None);
            advance(STEADY).await;
        }
        let mut reports = 0;
        for _ in 0..60 {
            reports += usize::from(lasting.happened("connected").is_some());
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(reports, 3);
    }

    #[test]
    fn what_never_was_is_not_over() {
        assert_eq!(Lasting::default().over(), None);
    }
}
