//! The breaker of an upstream: the more of its requests fail, the more of them are refused before they are sent.
//!
//! The formula is that of the SRE book ("Handling overload", client-side throttling) as go-zero tunes it: a window of ten
//! seconds in forty buckets, a factor that slides from `k` to 1.1 the longer everything fails, a few requests that are
//! free, one forced probe per second, and less refused the longer everything works.
//!
//! A request counts from its start, in the bucket in which it began, so that an outage shows at once and not only when
//! the first requests time out. Until it ends nobody knows what it is: it counts as failed once it has taken several times
//! as long as answers usually do, and more than a second. What was refused here counts as asked for, and nothing that is the client's or the
//! gateway's own fault counts at all.
//!
//! This file is pure; `shared` is what the workers count in.

mod shared;
#[cfg(test)]
mod simulation;

use std::{sync::Arc, time::Duration};

pub use shared::{Breaker, Started};

pub const BUCKETS: usize = 40;

/// The time of one bucket.
pub const BUCKET: Duration = Duration::from_millis(250);

/// While anything is refused, a request goes through after so long without one.
const PROBE: Duration = Duration::from_secs(1);

/// What the factor slides to while everything fails, and the least that it may be.
pub const LEAST_K: f64 = 1.1;

/// A request that takes so many times as long as answers usually do counts as failed, and none that is not as many
/// buckets old: a second.
const PATIENCE: u32 = 3;
const LEAST_PATIENCE: usize = 4;

/// What an operator may tune.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerPolicy {
    /// So many requests may be asked for per one that succeeds, before any is refused. 1.5 by default.
    pub k: f64,
    /// So many requests within the window are free. 5 by default.
    pub free: u32,
    /// Answers that count as failures. 500, 502, 503 and 504 by default.
    pub statuses: Arc<[u16]>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { k: 1.5, free: 5, statuses: [500, 502, 503, 504].into() }
    }
}

/// The requests that began in the time of one bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// On their way.
    pub pending: u32,
    pub accepted: u32,
    pub failed: u32,
    /// By the breaker itself.
    pub refused: u32,
}

/// What the buckets come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct History {
    asked: u64,
    accepted: u64,
    /// How many buckets in a row, up to now, had only failures.
    failing: u32,
    /// And how many had only successes.
    working: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nothing is refused.
    Closed,
    /// Others are refused, and this one goes through by chance.
    Let,
    /// One goes through, because none has for a while.
    Probe,
    Refused,
}

impl History {
    /// Sums up the buckets, the oldest first. Answers usually take `usual`; none: nothing was answered yet, so nobody knows
    /// what is long.
    fn new(buckets: &[Bucket; BUCKETS], usual: Option<Duration>) -> Self {
        let patience = patience(usual);
        let mut history = Self::default();
        for (bucket, age) in buckets.iter().zip((0..BUCKETS).rev()) {
            let overdue = if age > patience { bucket.pending } else { 0 };
            let (accepted, failed) =
                (u64::from(bucket.accepted), u64::from(bucket.failed) + u64::from(overdue));
            history.asked += accepted + failed + u64::from(bucket.refused);
            history.accepted += accepted;
            match (accepted > 0, failed > 0) {
                (true, true) => (history.working, history.failing) = (0, 0),
                (true, false) => (history.working, history.failing) = (history.working + 1, 0),
                (false, true) => (history.working, history.failing) = (0, history.failing + 1),
                (false, false) => {}
            }
        }
        history
    }

    /// The share of requests that the formula refuses, 0 to 1, before what works is taken into account.
    fn ratio(&self, policy: &BreakerPolicy) -> f64 {
        let k = policy.k - (policy.k - LEAST_K) * f64::from(self.failing) / BUCKETS as f64;
        let beyond = self.asked as f64 - f64::from(policy.free) - k * self.accepted as f64;
        (beyond / (self.asked as f64 + 1.0)).max(0.0)
    }

    /// `since` is how long no request has gone through that others were refused beside, and `drawn` a number from 0 to 1.
    fn verdict(&self, policy: &BreakerPolicy, since: Duration, drawn: f64) -> Verdict {
        let ratio = self.ratio(policy);
        if ratio <= 0.0 {
            return Verdict::Closed;
        }
        let lenient = ratio * f64::from(BUCKETS as u32 - self.working) / BUCKETS as f64;
        match drawn >= lenient {
            true => Verdict::Let,
            false if since > PROBE => Verdict::Probe,
            false => Verdict::Refused,
        }
    }
}

/// How many buckets old a request is that has taken too long. As many as there are: none is in the window.
fn patience(usual: Option<Duration>) -> usize {
    let Some(usual) = usual else { return BUCKETS };
    let long = usual.saturating_mul(PATIENCE).as_nanos().div_ceil(BUCKET.as_nanos());
    usize::try_from(long).unwrap_or(BUCKETS).clamp(LEAST_PATIENCE, BUCKETS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket() -> impl Strategy<Value = Bucket> {
        (0..50u32, 0..50u32, 0..50u32, 0..50u32).prop_map(|(pending, accepted, failed, refused)| Bucket {
            pending,
            accepted,
            failed,
            refused,
        })
    }

    fn window() -> impl Strategy<Value = [Bucket; BUCKETS]> {
        prop::collection::vec(bucket(), BUCKETS).prop_map(|buckets| buckets.try_into().unwrap())
    }

    fn even(each: Bucket) -> [Bucket; BUCKETS] {
        [each; BUCKETS]
    }

    const FAST: Option<Duration> = Some(Duration::from_millis(10));

    fn ratio(buckets: &[Bucket; BUCKETS]) -> f64 {
        History::new(buckets, FAST).ratio(&BreakerPolicy::default())
    }

    #[test]
    fn it_is_the_formula_with_the_figures_of_go_zero() {
        // 400 asked for, 200 accepted, no bucket with only one of both: (400 - 5 - 1.5 * 200) / 401.
        let half = even(Bucket { accepted: 5, failed: 5, ..Bucket::default() });
        assert!((ratio(&half) - 95.0 / 401.0).abs() < 1e-9);
        // The last ten buckets only failed: k is 1.5 - 0.4 * 10 / 40 = 1.4.
        let mut failing = half;
        failing[30..].fill(Bucket { failed: 10, ..Bucket::default() });
        assert!((ratio(&failing) - (395.0 - 1.4 * 150.0) / 401.0).abs() < 1e-9);
        // The last ten only worked: three quarters of the ratio.
        let mut working = even(Bucket { failed: 10, ..Bucket::default() });
        working[30..].fill(Bucket { accepted: 10, ..Bucket::default() });
        let (history, policy) = (History::new(&working, FAST), BreakerPolicy::default());
        let whole = (395.0 - 150.0) / 401.0;
        assert!((history.ratio(&policy) - whole).abs() < 1e-9);
        let of = |drawn| history.verdict(&policy, Duration::ZERO, drawn);
        assert_eq!(of(whole * 0.75 - 0.01), Verdict::Refused);
        assert_eq!(of(whole * 0.75 + 0.01), Verdict::Let);
    }

    #[test]
    fn one_request_per_second_goes_through_whatever_happens() {
        let history = History::new(&even(Bucket { failed: 1000, ..Bucket::default() }), FAST);
        let policy = BreakerPolicy::default();
        assert_eq!(history.verdict(&policy, PROBE, 0.0), Verdict::Refused);
        assert_eq!(history.verdict(&policy, PROBE + Duration::from_millis(1), 0.0), Verdict::Probe);
    }

    #[test]
    fn what_hangs_counts_when_it_takes_several_times_as_long_as_usual() {
        let mut buckets = even(Bucket { accepted: 10, ..Bucket::default() });
        buckets[30..].fill(Bucket { pending: 200, ..Bucket::default() });
        let of = |usual| History::new(&buckets, usual).ratio(&BreakerPolicy::default());
        assert!(of(Some(Duration::from_millis(50))) > 0.0, "half of it is more than a second old");
        assert_eq!(of(Some(Duration::from_secs(1))), 0.0, "nothing of it is three seconds old");
        assert_eq!(of(None), 0.0, "nothing was answered yet");
    }

    proptest! {
        #[test]
        fn the_ratio_is_a_share(buckets in window(), k in LEAST_K..5.0, free in 0..1000u32) {
            let policy = BreakerPolicy { k, free, ..BreakerPolicy::default() };
            let ratio = History::new(&buckets, FAST).ratio(&policy);
            prop_assert!((0.0..1.0).contains(&ratio), "{ratio}");
        }

        #[test]
        fn nothing_is_refused_while_nothing_fails(mut buckets in window(), drawn in 0.0..1.0f64) {
            for bucket in &mut buckets {
                *bucket = Bucket { accepted: bucket.accepted, ..Bucket::default() };
            }
            let verdict =
                History::new(&buckets, FAST).verdict(&BreakerPolicy::default(), Duration::ZERO, drawn);
            prop_assert_eq!(verdict, Verdict::Closed);
        }

        #[test]
        fn few_requests_are_free(age in 0..BUCKETS, failed in 0..=5u32) {
            let mut buckets = even(Bucket::default());
            buckets[age].failed = failed;
            prop_assert_eq!(ratio(&buckets), 0.0);
        }

        #[test]
        fn one_more_failure_never_lowers_the_ratio_and_one_more_success_never_raises_it(
            buckets in window(), age in 0..BUCKETS,
        ) {
            let before = ratio(&buckets);
            let (mut worse, mut better) = (buckets, buckets);
            worse[age].failed += 1;
            better[age].accepted += 1;
            prop_assert!(ratio(&worse) >= before);
            // A success may end the run of failing buckets, which makes the factor larger still.
            prop_assert!(ratio(&better) <= before + 1e-9);
        }

        #[test]
        fn requests_on_their_way_are_nothing_until_they_are_overdue(buckets in window(), young in 0..=LEAST_PATIENCE) {
            let mut more = buckets;
            more[BUCKETS - 1 - young].pending += 1000;
            prop_assert_eq!(History::new(&more, FAST), History::new(&buckets, FAST));
        }
    }
}
