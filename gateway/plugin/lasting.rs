//! A state that lasts is told once, and then seldom.

use std::time::{Duration, Instant};

use crate::registry::Backoff;

/// Between the first reports of a state, and between later ones.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// When something that is wrong is told again.
#[derive(Debug)]
pub(super) struct Lasting {
    what: String,
    since: Instant,
    due: Instant,
    backoff: Backoff,
}

/// A report that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It was something else until now, or nothing.
    New,
    /// It has been so for this long.
    Lasting(Duration),
}

impl Lasting {
    /// Takes note of what is wrong now, and says whether to tell it.
    pub fn note(known: &mut Option<Self>, what: String, now: Instant) -> Option<Report> {
        match known {
            Some(state) if state.what == what => state.again(now),
            _ => {
                let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
                *known = Some(Self { what, since: now, due: now + backoff.pause(), backoff });
                Some(Report::New)
            }
        }
    }

    fn again(&mut self, now: Instant) -> Option<Report> {
        if now < self.due {
            return None;
        }
        self.due = now + self.backoff.pause();
        Some(Report::Lasting(now.saturating_duration_since(self.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_when_it_begins_and_then_less_and_less_often() {
        let (mut known, start) = (None, Instant::now());
        let looks = (0..24 * 3600 / 2).map(|look| start + Duration::from_secs(2 * look));
        let told: Vec<Report> =
            looks.filter_map(|now| Lasting::note(&mut known, "it is a pipe".into(), now)).collect();
        assert_eq!(told[0], Report::New);
        assert!((20..70).contains(&told.len()), "{} in a day", told.len());
        assert!(matches!(told.last(), Some(Report::Lasting(time)) if time.as_secs() > 20 * 3600), "{told:?}");
    }

    #[test]
    fn another_state_is_told_at_once() {
        let (mut known, now) = (None, Instant::now());
        assert_eq!(Lasting::note(&mut known, "one".into(), now), Some(Report::New));
        assert_eq!(Lasting::note(&mut known, "one".into(), now), None);
        assert_eq!(Lasting::note(&mut known, "two".into(), now), Some(Report::New));
    }
}
