//! What happened lately: the difference between what is counted and what was counted some seconds ago.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    telemetry::{UpstreamCounts, UpstreamMetrics},
    upstream::UpstreamName,
};

/// The time that rates are about, as nearly as somebody looked so long ago.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Counts are kept this far apart, however often somebody looks.
const PACE: Duration = Duration::from_millis(500);

/// After so long without anybody who looks, what was counted before tells nothing of now.
const FORGET: Duration = Duration::from_secs(15);

/// What the upstreams had counted, oldest first.
#[derive(Default)]
pub(super) struct Rates {
    samples: VecDeque<Sample>,
    /// How many follow what they look at.
    watchers: usize,
    /// When somebody else looked last, who may do so again.
    asked: Option<Instant>,
}

struct Sample {
    at: Instant,
    counts: HashMap<UpstreamName, Counted>,
}

/// What was counted, and by what: an upstream that is built anew under its name counts from zero.
struct Counted {
    metrics: Arc<UpstreamMetrics>,
    counts: UpstreamCounts,
}

/// What one upstream did within the window.
#[derive(Debug, PartialEq)]
pub(super) struct Lately {
    /// A second, like the next. Connections where they are passed on as they are.
    pub requests: f64,
    pub retries: f64,
    /// Of the requests, 0 to 1; none without any.
    pub success: Option<f64>,
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
}

impl Rates {
    /// Somebody begins to follow.
    pub(super) fn joined(&mut self) {
        self.watchers += 1;
    }

    /// Somebody looks who follows nothing.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// One follows no more. After the last there is nothing to remember, unless somebody else looks again and again.
    pub(super) fn left(&mut self, now: Instant) {
        self.watchers -= 1;
        let asked = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) <= FORGET);
        if self.watchers == 0 && !asked {
            self.samples = VecDeque::new();
        }
    }

    /// Takes in what is counted now, unless it has done so a moment ago; only then are `upstreams` asked for.
    pub(super) fn sample(
        &mut self,
        upstreams: impl FnOnce() -> Vec<(UpstreamName, Arc<UpstreamMetrics>)>,
        now: Instant,
    ) {
        let ago = self.samples.back().map(|last| now.saturating_duration_since(last.at));
        if ago.is_some_and(|ago| ago < PACE) {
            return;
        }
        if ago.is_some_and(|ago| ago > FORGET) {
            self.samples.clear();
        }
        let counted = |(name, metrics): (UpstreamName, Arc<UpstreamMetrics>)| {
            let counts = metrics.counts();
            (name, Counted { metrics, counts })
        };
        self.samples.push_back(Sample { at: now, counts: upstreams().into_iter().map(counted).collect() });
        // The first is the one that is nearest to a window ago.
        let beside = |sample: &Sample| now.saturating_duration_since(sample.at).abs_diff(WINDOW);
        while self.samples.len() > 2 && beside(&self.samples[1]) <= beside(&self.samples[0]) {
            self.samples.pop_front();
        }
    }

    /// None until it has been counted twice.
    pub(super) fn of(&self, name: &UpstreamName) -> Option<Lately> {
        let last = self.samples.back()?;
        let now = last.counts.get(name)?;
        let of_the_same = |sample: &'_ Sample| {
            sample.counts.get(name).is_some_and(|before| Arc::ptr_eq(&before.metrics, &now.metrics))
        };
        let first = self.samples.iter().find(|sample| of_the_same(sample))?;
        let before = first.counts.get(name)?;
        let time = last.at.saturating_duration_since(first.at);
        (!time.is_zero()).then(|| lately(&before.counts, &now.counts, time))
    }
}

fn lately(before: &UpstreamCounts, now: &UpstreamCounts, time: Duration) -> Lately {
    let more = |of: fn(&UpstreamCounts) -> u64| of(now).saturating_sub(of(before)) as f64;
    let answered = more(|of| of.statuses.iter().sum());
    // Those of clients that went are neither.
    let failed = more(|of| of.statuses[4] + of.cut[1] + of.cut[2]).min(answered);
    let latencies = now.latencies.since(&before.latencies);
    Lately {
        requests: more(|of| of.statuses.iter().sum::<u64>() + of.carried.connections) / time.as_secs_f64(),
        retries: more(UpstreamCounts::retried) / time.as_secs_f64(),
        success: (answered > 0.0).then(|| 1.0 - failed / answered),
        p50: latencies.quantile(0.5),
        p99: latencies.quantile(0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Fault, Took};

    #[test]
    fn rates_are_about_what_came_between() {
        let metrics = UpstreamMetrics::new(1);
        let answer = |status, times| {
            (0..times).for_each(|_| metrics.answered(0, status, Took::of(Duration::from_millis(2))));
        };
        answer(500, 100);
        let before = metrics.counts();
        answer(200, 78);
        answer(503, 2);
        metrics.cut(0, Fault::Endpoint);
        metrics.cut(0, Fault::Client);
        let lately = lately(&before, &metrics.counts(), Duration::from_secs(4));
        assert_eq!((lately.requests, lately.success), (20.0, Some(1.0 - 3.0 / 80.0)));
        assert!(lately.p99 <= Some(Duration::from_millis(3)), "{lately:?}");
        let nothing = super::lately(&before, &before, Duration::from_secs(1));
        assert_eq!((nothing.requests, nothing.success, nothing.p50), (0.0, None, None));
    }

    #[test]
    fn an_upstream_that_is_built_anew_is_not_compared_with_the_one_before() {
        let (mut rates, name) = (Rates::default(), UpstreamName::new("orders"));
        let (old, new) = (Arc::new(UpstreamMetrics::new(1)), Arc::new(UpstreamMetrics::new(1)));
        let answer = |metrics: &UpstreamMetrics, times: u64, took: u64| {
            (0..times).for_each(|_| metrics.answered(0, 200, Took::of(Duration::from_millis(took))));
        };
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        answer(&old, 100, 2);
        rates.sample(|| vec![(name.clone(), old.clone())], at(0));
        answer(&new, 10, 2);
        rates.sample(|| vec![(name.clone(), new.clone())], at(1));
        assert_eq!(rates.of(&name), None, "of the new one nothing is known yet");
        answer(&new, 30, 2_000);
        rates.sample(|| vec![(name.clone(), new.clone())], at(3));
        let lately = rates.of(&name).unwrap();
        assert_eq!((lately.requests, lately.success), (15.0, Some(1.0)));
        assert!(lately.p50 > Some(Duration::from_secs(1)), "{lately:?}");
    }

    /// The rate when somebody looks at these seconds, while ten requests come each second, a hundred at the first.
    fn rate(seconds: &[u64]) -> f64 {
        let (mut rates, name) = (Rates::default(), UpstreamName::new("orders"));
        let (metrics, start) = (Arc::new(UpstreamMetrics::new(1)), Instant::now());
        for second in 0..=seconds[seconds.len() - 1] {
            let came = if second == 0 { 100 } else { 10 };
            (0..came).for_each(|_| metrics.answered(0, 200, Took::of(Duration::from_millis(2))));
            if seconds.contains(&second) {
                rates.sample(|| vec![(name.clone(), metrics.clone())], start + Duration::from_secs(second));
            }
            if second == 0 {
                (0..1_000).for_each(|_| metrics.answered(0, 200, Took::of(Duration::from_millis(2))));
            }
        }
        rates.of(&name).unwrap().requests
    }

    #[test]
    fn rates_are_about_the_window_however_seldom_somebody_looks() {
        assert_eq!(rate(&(0..=11).collect::<Vec<_>>()), 10.0);
        assert_eq!(rate(&[0, 9, 18]), 10.0, "of the last 9 seconds, not of 18");
        assert_eq!(rate(&[0, 14, 28]), 10.0);
        assert_eq!(rate(&[0, 10]), 110.0);
    }

    #[test]
    fn counts_are_asked_for_when_they_are_due_and_forgotten_when_nobody_looks() {
        let (mut rates, name) = (Rates::default(), UpstreamName::new("orders"));
        let (metrics, start) = (Arc::new(UpstreamMetrics::new(1)), Instant::now());
        rates.joined();
        rates.joined();
        rates.sample(|| vec![(name.clone(), metrics.clone())], start);
        rates.sample(|| panic!("not so soon again"), start + PACE / 2);
        rates.sample(|| vec![(name.clone(), metrics.clone())], start + PACE);
        rates.left(start + PACE);
        assert!(rates.of(&name).is_some());
        rates.left(start + PACE);
        assert!(rates.of(&name).is_none());
    }

    #[test]
    fn who_looks_by_himself_keeps_what_was_counted_when_the_last_follower_leaves() {
        let (mut rates, name) = (Rates::default(), UpstreamName::new("orders"));
        let (metrics, start) = (Arc::new(UpstreamMetrics::new(1)), Instant::now());
        let mut looks_while_others_leave = |asked: Duration| {
            rates.asked(start + asked);
            rates.joined();
            for second in [30, 31] {
                let now = start + Duration::from_secs(second);
                rates.sample(|| vec![(name.clone(), metrics.clone())], now);
            }
            rates.left(start + Duration::from_secs(31));
            rates.of(&name).is_some()
        };
        assert!(looks_while_others_leave(Duration::from_secs(29)));
        assert!(!looks_while_others_leave(Duration::ZERO), "he has gone, too");
    }
}
