//! Checks of an instance that somebody has to pass again and again, and when something happens to it by itself.
//!
//! Pure: whoever asks says what time it is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{InstanceState, Registration};

/// A check that stands as somebody said last, until its time is over without another word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtlCheck {
    /// Its own among those of the instance.
    pub id: String,
    /// Seconds without a word after which it is critical; 0 means never.
    pub ttl_seconds: u32,
    /// Seconds for which it is critical after which the instance is removed; 0 means never.
    #[serde(default)]
    pub remove_after_seconds: u32,
    #[serde(default)]
    pub status: CheckStatus,
    /// What people call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What was said with its status.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    #[default]
    Passing,
    Warning,
    /// The instance is unwell.
    Critical,
}

impl TtlCheck {
    /// When something happens to it if nobody says a word after `now`.
    fn due(&self, now: Instant) -> Option<Instant> {
        let seconds = match self.status {
            CheckStatus::Critical => self.remove_after_seconds,
            CheckStatus::Passing | CheckStatus::Warning => self.ttl_seconds,
        };
        (seconds > 0).then(|| now + Duration::from_secs(seconds.into()))
    }

    fn is_critical(&self) -> bool {
        self.status == CheckStatus::Critical
    }
}

impl Registration {
    /// The worst that its checks say.
    pub fn health(&self) -> CheckStatus {
        self.checks.iter().map(|check| check.status).max().unwrap_or_default()
    }

    /// How it stands: by its own word, unless a check says that it is worse.
    pub fn stands(&self) -> InstanceState {
        if self.health() == CheckStatus::Critical { InstanceState::Unwell } else { self.state }
    }
}

/// When something happens to an instance unless somebody is heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// Its own end.
    end: Option<Instant>,
    /// Those of its checks, in their order.
    checks: Vec<Option<Instant>>,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It has ended; the check says which one was critical for too long.
    End {
        check: Option<String>,
    },
    /// Some of its checks are critical now.
    Becomes(Registration),
    Nothing,
}

impl Deadlines {
    /// Those of an instance that has just been heard of.
    pub fn new(of: &Registration, now: Instant) -> Self {
        let end = (of.ttl_seconds > 0).then(|| now + Duration::from_secs(of.ttl_seconds.into()));
        Self { end, checks: of.checks.iter().map(|check| check.due(now)).collect() }
    }

    pub fn end(&self) -> Option<Instant> {
        self.end
    }

    /// When there is something to do next.
    pub fn next(&self) -> Option<Instant> {
        self.end.into_iter().chain(self.checks.iter().copied().flatten()).min()
    }

    /// What becomes of them when the instance changes from `before` to `after`, and somebody has just been heard of the
    /// check `heard`. What is critical is so since it became it.
    pub fn after(
        &self,
        before: &Registration,
        after: &Registration,
        heard: Option<&str>,
        now: Instant,
    ) -> Self {
        let known = |check: &TtlCheck| {
            let at = before.checks.iter().position(|known| known.id == check.id)?;
            Some((before.checks.get(at)?, *self.checks.get(at)?))
        };
        let check = |check: &TtlCheck| match known(check) {
            Some((was, due)) if was.is_critical() && check.is_critical() && same_times(was, check) => due,
            Some((was, due))
                if was.is_critical() == check.is_critical()
                    && same_times(was, check)
                    && heard != Some(check.id.as_str()) =>
            {
                due
            }
            _ => check.due(now),
        };
        Self { end: self.end, checks: after.checks.iter().map(check).collect() }
    }

    /// What has to be done by `now` with the instance that they are of.
    pub fn due(&self, of: &Registration, now: Instant) -> Due {
        let is_over = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
        if is_over(&self.end) {
            return Due::End { check: None };
        }
        let over = |(check, at): (&TtlCheck, &Option<Instant>)| is_over(at).then(|| check.clone());
        let over: Vec<TtlCheck> = of.checks.iter().zip(&self.checks).filter_map(over).collect();
        if let Some(critical) = over.iter().find(|check| check.is_critical()) {
            return Due::End { check: Some(critical.id.clone()) };
        }
        if over.is_empty() {
            return Due::Nothing;
        }
        let mut becomes = of.clone();
        for check in becomes.checks.iter_mut().filter(|check| over.contains(check)) {
            check.status = CheckStatus::Critical;
            check.output = format!("nobody passed it within {} s", check.ttl_seconds);
        }
        Due::Becomes(becomes)
    }
}

fn same_times(one: &TtlCheck, other: &TtlCheck) -> bool {
    (one.ttl_seconds, one.remove_after_seconds) == (other.ttl_seconds, other.remove_after_seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(id: &str, ttl_seconds: u32, remove_after_seconds: u32, status: CheckStatus) -> TtlCheck {
        let (name, output) = (String::new(), String::new());
        TtlCheck { id: id.to_owned(), ttl_seconds, remove_after_seconds, status, name, output }
    }

    fn with(checks: Vec<TtlCheck>) -> Registration {
        Registration { ttl_seconds: 0, checks, ..Registration::at("10.0.0.1:80") }
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn a_check_that_nobody_passes_is_critical_and_later_the_instance_goes() {
        let now = Instant::now();
        let registration = with(vec![check("a", 10, 60, CheckStatus::Passing)]);
        let deadlines = Deadlines::new(&registration, now);
        assert_eq!(deadlines.next(), Some(after(now, 10)));
        assert_eq!(deadlines.due(&registration, after(now, 9)), Due::Nothing);
        let Due::Becomes(critical) = deadlines.due(&registration, after(now, 10)) else { panic!() };
        assert_eq!((critical.health(), critical.stands()), (CheckStatus::Critical, InstanceState::Unwell));
        let deadlines = deadlines.after(&registration, &critical, None, after(now, 10));
        assert_eq!(deadlines.next(), Some(after(now, 70)));
        assert_eq!(deadlines.due(&critical, after(now, 70)), Due::End { check: Some("a".into()) });
        // Said again that it is critical, it is so since before.
        assert_eq!(
            deadlines.after(&critical, &critical, Some("a"), after(now, 50)).next(),
            Some(after(now, 70))
        );
        let passes = deadlines.after(&critical, &registration, Some("a"), after(now, 50));
        assert_eq!(passes.next(), Some(after(now, 60)));
    }

    #[test]
    fn who_passes_one_check_passes_no_other() {
        let now = Instant::now();
        let registration =
            with(vec![check("a", 10, 0, CheckStatus::Passing), check("b", 20, 0, CheckStatus::Warning)]);
        let deadlines = Deadlines::new(&registration, now);
        let heard = deadlines.after(&registration, &registration, Some("a"), after(now, 9));
        assert_eq!(heard.checks, [Some(after(now, 19)), Some(after(now, 20))]);
        let Due::Becomes(critical) = heard.due(&registration, after(now, 20)) else { panic!() };
        assert_eq!(critical.checks[1].status, CheckStatus::Critical);
        assert_eq!(critical.checks[1].output, "nobody passed it within 20 s");
    }

    #[test]
    fn zero_is_never() {
        let now = Instant::now();
        let registration =
            with(vec![check("a", 0, 10, CheckStatus::Passing), check("b", 5, 0, CheckStatus::Critical)]);
        assert_eq!(Deadlines::new(&registration, now).next(), None);
    }

    proptest! {
        /// Whatever is said and however late it is looked at: nothing is due that is not over, and what is done is done
        /// once.
        #[test]
        fn what_is_done_is_done_once(
            checks in proptest::collection::vec((0u32..20, 0u32..20, 0u8..3), 0..4),
            ttl_seconds in 0u32..30,
            looks in proptest::collection::vec((0u64..30, proptest::option::of(0usize..4)), 1..10),
        ) {
            let statuses = [CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical];
            let checks = checks.into_iter().enumerate();
            let checks = checks.map(|(id, (ttl, remove, status))| {
                check(&id.to_string(), ttl, remove, statuses[usize::from(status)])
            });
            let mut registration = Registration { ttl_seconds, ..with(checks.collect()) };
            let mut now = Instant::now();
            let mut deadlines = Deadlines::new(&registration, now);
            for (seconds, heard) in looks {
                now += Duration::from_secs(seconds);
                let is_due = deadlines.next().is_some_and(|next| next <= now);
                match deadlines.due(&registration, now) {
                    Due::Nothing => prop_assert!(!is_due),
                    Due::End { .. } => {
                        prop_assert!(is_due);
                        return Ok(());
                    }
                    Due::Becomes(after) => {
                        prop_assert!(is_due && after.stands() == InstanceState::Unwell);
                        deadlines = deadlines.after(&registration, &after, None, now);
                        registration = after;
                        prop_assert!(deadlines.next().is_none_or(|next| next > now));
                    }
                }
                if let Some(heard) = heard {
                    deadlines = deadlines.after(&registration, &registration, Some(&heard.to_string()), now);
                }
            }
        }
    }
}
