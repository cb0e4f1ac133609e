//! What each name of a source came to, and when it is asked about again.
//!
//! A pure function of what was asked and answered, and of time. Each name has its own last answer, its own pause and
//! its own trouble; whether another one answers is nothing to it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Answer, Outcome};
use crate::backoff::Backoff;

/// An answer is good for as long as it says, but not for less and not for more: a changed address is noticed within
/// this, the time of one question, and a turn.
const SOONEST: Duration = Duration::from_secs(5);
const LATEST: Duration = Duration::from_secs(25);

/// The first pause after a failure; the next are longer, up to `LATEST`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// How often a name that keeps failing is told of.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// The names of one source.
#[derive(Debug, Default)]
pub struct Names {
    names: HashMap<Arc<str>, Name>,
    /// When which is to be asked about; not those that are being asked about.
    due: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Name {
    /// How many instances have it.
    users: usize,
    due: Option<Instant>,
    /// The last good answer, by family.
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
    answered: bool,
    trouble: Option<Trouble>,
    backoff: Backoff,
}

#[derive(Debug)]
struct Trouble {
    reason: String,
    since: Instant,
    told: Instant,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The name has other addresses than before, or is in trouble in another way.
    pub changed: bool,
    /// What to tell the operator.
    pub news: Option<Report>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// It came to nothing; for so long by now.
    Failing { reason: String, lasted: Duration },
    /// It came to something again, after so long.
    Recovered(Duration),
}

impl Names {
    /// One more instance has this name. A new name is due at once.
    pub fn add(&mut self, name: &Arc<str>, now: Instant) {
        let entry = self.names.entry(name.clone()).or_insert_with(|| {
            self.due.insert((now, name.clone()));
            Name {
                users: 0,
                due: Some(now),
                v4: Vec::new(),
                v6: Vec::new(),
                answered: false,
                trouble: None,
                backoff: Backoff::new(FIRST_PAUSE, LATEST),
            }
        });
        entry.users += 1;
    }

    /// One instance less has this name. Says whether it was the last, and the name is forgotten.
    pub fn remove(&mut self, name: &Arc<str>) -> bool {
        let Some(known) = self.names.get_mut(name) else { return false };
        known.users = known.users.saturating_sub(1);
        if known.users > 0 {
            return false;
        }
        if let Some(due) = known.due {
            self.due.remove(&(due, name.clone()));
        }
        self.names.remove(name);
        true
    }

    /// When the next name is to be asked about.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A name that is to be asked about now, and whether it came to nothing the last time. Its answer is waited for
    /// from here on.
    pub fn take_due(&mut self, now: Instant) -> Option<(Arc<str>, bool)> {
        let (due, name) = self.due.first().cloned().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, name.clone()));
        let known = self.names.get_mut(&name)?;
        known.due = None;
        Some((name, known.trouble.is_some()))
    }

    /// Takes in what a name came to. One that nobody has any more is none.
    pub fn answer(&mut self, name: &Arc<str>, answer: Answer, now: Instant) -> Told {
        let Some(known) = self.names.get_mut(name) else { return Told::default() };
        let next = now + known.take(&answer);
        if let Some(due) = known.due.replace(next) {
            self.due.remove(&(due, name.clone()));
        }
        self.due.insert((next, name.clone()));
        let first = !std::mem::replace(&mut known.answered, true);
        let (moved, outcome) = known.judge(answer);
        let (told_apart, news) = known.tell(outcome, now);
        Told { changed: moved || told_apart || first, news }
    }

    /// The addresses of a name: those of its last good answer.
    pub fn ips(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.names.get(name).into_iter().flat_map(|name| name.v4.iter().chain(&name.v6).copied())
    }

    /// Whether it was asked about and came to something, or to nothing.
    pub fn is_answered(&self, name: &str) -> bool {
        self.names.get(name).is_none_or(|name| name.answered)
    }

    /// Why it came to nothing the last time.
    pub fn trouble(&self, name: &str) -> Option<&str> {
        Some(&self.names.get(name)?.trouble.as_ref()?.reason)
    }

    /// How many came to nothing the last time.
    pub fn troubled(&self) -> usize {
        self.names.values().filter(|name| name.trouble.is_some()).count()
    }
}

impl Name {
    /// How long to wait before the next question.
    fn take(&mut self, answer: &Answer) -> Duration {
        let good = [&answer.v4, &answer.v6].into_iter().filter_map(|outcome| match outcome {
            Outcome::Found { good_for, .. } => Some(*good_for),
            _ => None,
        });
        match good.min() {
            Some(good_for) => {
                self.backoff.reset();
                good_for.clamp(SOONEST, LATEST)
            }
            None => self.backoff.pause(),
        }
    }

    /// Puts the new addresses in the place of the old ones, each family by itself: one that was not answered for stays
    /// as it was, and so does a name that has no address at all any more. Says whether that changed anything, or why
    /// the name came to nothing.
    fn judge(&mut self, answer: Answer) -> (bool, Result<(), String>) {
        let reason = match (&answer.v4, &answer.v6) {
            (Outcome::Found { .. }, _) | (_, Outcome::Found { .. }) => None,
            (Outcome::Failed(reason), _) | (_, Outcome::Failed(reason)) => Some(reason.clone()),
            (Outcome::Nothing(reason), _) => Some(reason.clone()),
        };
        if let Some(reason) = reason {
            return (false, Err(reason));
        }
        let of = |outcome, before: &Vec<IpAddr>| match outcome {
            Outcome::Found { mut ips, .. } => {
                ips.sort();
                ips.dedup();
                ips
            }
            Outcome::Nothing(_) => Vec::new(),
            Outcome::Failed(_) => before.clone(),
        };
        let (v4, v6) = (of(answer.v4, &self.v4), of(answer.v6, &self.v6));
        let moved = (&v4, &v6) != (&self.v4, &self.v6);
        (self.v4, self.v6) = (v4, v6);
        (moved, Ok(()))
    }

    /// Says whether the trouble is another, and what of it is worth telling.
    fn tell(&mut self, outcome: Result<(), String>, now: Instant) -> (bool, Option<Report>) {
        match (outcome, &mut self.trouble) {
            (Ok(()), None) => (false, None),
            (Ok(()), Some(trouble)) => {
                let lasted = now - trouble.since;
                self.trouble = None;
                (true, Some(Report::Recovered(lasted)))
            }
            (Err(reason), None) => {
                self.trouble = Some(Trouble { reason: reason.clone(), since: now, told: now });
                (true, Some(Report::Failing { reason, lasted: Duration::ZERO }))
            }
            (Err(reason), Some(trouble)) => {
                let again = now >= trouble.told + TELL_AGAIN;
                let other = trouble.reason != reason;
                trouble.reason.clone_from(&reason);
                if again {
                    trouble.told = now;
                }
                (other, again.then(|| Report::Failing { reason, lasted: now - trouble.since }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(ips: &[&str], seconds: u64) -> Outcome {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Outcome::Found { ips, good_for: Duration::from_secs(seconds) }
    }

    fn nothing() -> Outcome {
        Outcome::Nothing("there is no such name".into())
    }

    fn failed() -> Outcome {
        Outcome::Failed("no answer".into())
    }

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    fn ips(names: &Names, of: &str) -> Vec<String> {
        names.ips(of).map(|ip| ip.to_string()).collect()
    }

    fn one() -> (Names, Arc<str>, Instant) {
        let (mut names, now, db) = (Names::default(), Instant::now(), name("db"));
        names.add(&db, now);
        assert_eq!(names.take_due(now), Some((db.clone(), false)));
        (names, db, now)
    }

    #[test]
    fn each_kind_of_answer_does_what_it_says() {
        let both = || Answer { v4: found(&["10.0.0.1"], 10), v6: found(&["::1"], 10) };
        for (answer, expected, trouble) in [
            (
                Answer { v4: found(&["10.0.0.3", "10.0.0.2", "10.0.0.3"], 9), v6: nothing() },
                "10.0.0.2 10.0.0.3",
                false,
            ),
            (Answer { v4: found(&["10.0.0.2"], 9), v6: failed() }, "10.0.0.2 ::1", false),
            (Answer { v4: nothing(), v6: found(&["::2"], 9) }, "::2", false),
            (Answer { v4: failed(), v6: found(&["::2"], 9) }, "10.0.0.1 ::2", false),
            // A name that has no address at all keeps those it had, whoever says so.
            (Answer { v4: nothing(), v6: nothing() }, "10.0.0.1 ::1", true),
            (Answer { v4: failed(), v6: nothing() }, "10.0.0.1 ::1", true),
            (Answer { v4: nothing(), v6: failed() }, "10.0.0.1 ::1", true),
            (Answer { v4: failed(), v6: failed() }, "10.0.0.1 ::1", true),
        ] {
            let (mut names, db, now) = one();
            assert!(names.answer(&db, both(), now).changed);
            names.answer(&db, answer.clone(), now);
            assert_eq!(ips(&names, "db").join(" "), expected, "{answer:?}");
            assert_eq!(names.trouble("db").is_some(), trouble, "{answer:?}");
        }
    }

    #[test]
    fn an_answer_is_good_for_as_long_as_it_says_within_bounds() {
        for (seconds, expected) in [(0, 5), (7, 7), (86_400, 25)] {
            let (mut names, db, now) = one();
            names.answer(&db, Answer { v4: found(&["10.0.0.1"], seconds), v6: nothing() }, now);
            assert_eq!(names.next(), Some(now + Duration::from_secs(expected)));
        }
    }

    #[test]
    fn trouble_is_told_once_and_then_seldom() {
        let (mut names, db, start) = one();
        let (mut now, mut told) = (start, 0);
        let answer = || Answer { v4: failed(), v6: failed() };
        while now < start + Duration::from_secs(3_599) {
            told += usize::from(names.answer(&db, answer(), now).news.is_some());
            now = names.next().unwrap();
            assert_eq!(names.take_due(now), Some((db.clone(), true)));
        }
        assert!((5..=6).contains(&told), "{told} lines in an hour");
        let good = Answer { v4: found(&["10.0.0.1"], 5), v6: nothing() };
        let Told { news: Some(Report::Recovered(lasted)), .. } = names.answer(&db, good, now) else {
            panic!()
        };
        assert_eq!(lasted, now - start);
    }

    #[test]
    fn a_name_is_asked_about_once_however_many_have_it_and_never_when_nobody_has() {
        let (mut names, db, now) = one();
        names.add(&db, now);
        assert_eq!(names.take_due(now), None);
        assert!(!names.remove(&db));
        names.answer(&db, Answer { v4: failed(), v6: failed() }, now);
        assert!(names.next().is_some());
        assert!(names.remove(&db));
        assert_eq!((names.next(), names.is_answered("db")), (None, true));
        // What was still on its way.
        assert_eq!(
            names.answer(&db, Answer { v4: found(&["10.0.0.1"], 5), v6: nothing() }, now),
            Told::default()
        );
        assert_eq!(names.next(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8),
        Remove(u8),
        Ask,
        Answer(u8, Option<u8>),
        Wait(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..4u8).prop_map(Step::Add),
            (0..4u8).prop_map(Step::Remove),
            Just(Step::Ask),
            (0..4u8, any::<Option<u8>>()).prop_map(|(name, ip)| Step::Answer(name, ip)),
            (0..60u8).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        /// Whatever happens: a name in use keeps its last good answer, is asked about again within the bounds, and
        /// nothing that happens to one changes another.
        #[test]
        fn names_go_their_own_way(steps in steps()) {
            let (mut names, mut now) = (Names::default(), Instant::now());
            let mut users = [0usize; 4];
            let mut good: [Option<IpAddr>; 4] = [None; 4];
            let mut asked = BTreeSet::new();
            let of = |number: u8| name(&format!("name-{number}"));
            for step in steps {
                match step {
                    Step::Add(number) => {
                        names.add(&of(number), now);
                        users[number as usize] += 1;
                    }
                    Step::Remove(number) => {
                        let left = users[number as usize].saturating_sub(1);
                        let last = users[number as usize] == 1;
                        prop_assert_eq!(names.remove(&of(number)), last);
                        users[number as usize] = left;
                        if left == 0 {
                            good[number as usize] = None;
                            asked.remove(&of(number));
                        }
                    }
                    Step::Ask => while let Some((name, _)) = names.take_due(now) {
                        prop_assert!(asked.insert(name), "asked about twice at once");
                    },
                    Step::Answer(number, ip) => {
                        if !asked.remove(&of(number)) {
                            continue;
                        }
                        let v4 = match ip {
                            Some(last) => found(&[&format!("10.0.0.{last}")], last.into()),
                            None => failed(),
                        };
                        names.answer(&of(number), Answer { v4, v6: nothing() }, now);
                        if let Some(last) = ip {
                            good[number as usize] = Some(IpAddr::from([10, 0, 0, last]));
                        }
                    }
                    Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
                }
                for number in 0..4u8 {
                    let expected: Vec<IpAddr> = good[number as usize].into_iter().collect();
                    prop_assert_eq!(names.ips(&of(number)).collect::<Vec<_>>(), expected);
                    let waits = users[number as usize] > 0 && !asked.contains(&of(number));
                    let due = names.due.iter().find(|(_, name)| *name == of(number));
                    prop_assert_eq!(due.is_some(), waits);
                    prop_assert!(due.is_none_or(|(due, _)| *due <= now + LATEST));
                }
            }
        }
    }
}
