//! What the gateway is told of a list, and what of it is doubted.
//!
//! Whoever leaves is told of for three minutes. An instance that is missing without a word is so because the server was
//! started a moment ago, or has not heard of it yet: it comes again with its next heartbeat, which is within its lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use guest::entries::Entry;

use crate::answer::{Action, Delta, Known};

/// How long a server is new when it was so at first: within that, whoever lives has registered again.
const NEW: Duration = Duration::from_secs(90);

/// What one server said.
pub struct Said<'s> {
    pub url: &'s str,
    pub list: &'s BTreeMap<String, Known>,
    /// Who has left in the last three minutes. None: it does not tell.
    pub left: Option<&'s BTreeSet<String>>,
    /// It knows of nothing older than three minutes.
    pub is_new: bool,
}

/// As the WIT has it.
#[derive(Debug, PartialEq)]
pub enum News {
    Complete(Vec<(String, Entry)>),
    Partial(Vec<(String, Entry)>),
    Changes(Vec<Step>),
    Unchanged,
    Suspect(String),
}

#[derive(Debug, PartialEq)]
pub enum Step {
    Put(String, Entry),
    Remove(String),
}

/// What the gateway has been told.
#[derive(Default)]
pub struct Told {
    list: BTreeMap<String, Known>,
    /// Of these, the ones that are missing, and until when that is doubted.
    missing: BTreeMap<String, Instant>,
    stage: Stage,
    has_begun: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    Nothing,
    /// The first server was new: what it did not know when it was asked first, nobody can say. Until then.
    New(Instant),
    /// All of it.
    All,
}

/// Whether all that a server knows of has come within the last three minutes, as after a start.
pub fn is_new(delta: &Delta) -> bool {
    let added = delta.changes.iter().filter(|change| change.action == Action::Added);
    let added: BTreeSet<u64> = added.map(|change| change.print).collect();
    delta.counts.values().sum::<i64>() <= i64::try_from(added.len()).unwrap_or(i64::MAX)
}

/// Who has left, by a server's word.
pub fn left(delta: &Delta) -> BTreeSet<String> {
    let deleted = delta.changes.iter().filter(|change| change.action == Action::Deleted);
    deleted.filter_map(|change| Some(change.ours.as_ref()?.id.clone())).collect()
}

impl Told {
    /// Whether something is missing without a word: another server may know it.
    pub fn doubts(&self) -> bool {
        !self.missing.is_empty()
    }

    pub fn hear(&mut self, said: &Said<'_>, now: Instant) -> News {
        let mut steps = self.come(said.list);
        steps.extend(self.go(said, now));
        let is_all = match self.stage {
            Stage::Nothing if said.is_new => {
                self.stage = Stage::New(now + NEW);
                false
            }
            Stage::Nothing => true,
            Stage::New(until) => now >= until,
            Stage::All => false,
        };
        if is_all {
            (self.stage, self.has_begun) = (Stage::All, true);
            return News::Complete(self.all());
        }
        if !self.has_begun && !self.list.is_empty() {
            self.has_begun = true;
            return News::Partial(self.all());
        }
        if steps.is_empty() { self.nothing(said) } else { News::Changes(steps) }
    }

    /// Takes in who is there.
    fn come(&mut self, list: &BTreeMap<String, Known>) -> Vec<Step> {
        let mut steps = Vec::new();
        for (id, known) in list {
            self.missing.remove(id);
            let before = self.list.insert(id.clone(), known.clone());
            if before.is_none_or(|before| before.entry != known.entry) {
                steps.push(Step::Put(id.clone(), known.entry.clone()));
            }
        }
        steps
    }

    /// Lets go who is not, as far as that is to be believed.
    fn go(&mut self, said: &Said<'_>, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        let missing = &mut self.missing;
        self.list.retain(|id, known| {
            let is_believed = |missing: &mut BTreeMap<String, Instant>| {
                let until = *missing.entry(id.clone()).or_insert(now + known.lease);
                said.left.is_none_or(|left| left.contains(id)) || now >= until
            };
            if said.list.contains_key(id) || !is_believed(missing) {
                return true;
            }
            missing.remove(id);
            steps.push(Step::Remove(id.clone()));
            false
        });
        steps
    }

    /// What is told when nothing is to be changed.
    fn nothing(&self, Said { url, .. }: &Said<'_>) -> News {
        match (self.missing.keys().next(), &self.stage) {
            (Some(first), _) => News::Suspect(format!(
                "{url} knows nothing of {} instances, {first} among them, and does not say that they have left: it has \
                 just started, or has not heard of them yet",
                self.missing.len()
            )),
            (None, Stage::New(_)) if self.list.is_empty() => News::Suspect(format!(
                "{url} knows no instance, and of nothing that is older than three minutes: it has just started"
            )),
            _ => News::Unchanged,
        }
    }

    fn all(&self) -> Vec<(String, Entry)> {
        self.list.iter().map(|(id, known)| (id.clone(), known.entry.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::tests::{delta, known};

    struct Bench(Told, Instant);

    impl Bench {
        fn new() -> Bench {
            Bench(Told::default(), Instant::now())
        }

        /// What is told when a server says this: instances of one letter each.
        fn hear(&mut self, ids: &str, left: Option<&str>, is_new: bool) -> String {
            let Bench(told, now) = self;
            let letters = |ids: &str| ids.chars().map(String::from).collect::<BTreeSet<_>>();
            let list = letters(ids).into_iter().map(|id| (id.clone(), known(&id, 1))).collect();
            let left = left.map(letters);
            let said = Said { url: "e", list: &list, left: left.as_ref(), is_new };
            let all = |list: Vec<(String, Entry)>| list.into_iter().map(|(id, _)| id).collect::<String>();
            match told.hear(&said, *now) {
                News::Complete(list) => format!("complete {}", all(list)),
                News::Partial(list) => format!("partial {}", all(list)),
                News::Changes(steps) => steps.iter().fold("changes".to_owned(), |text, step| match step {
                    Step::Put(id, _) => format!("{text} +{id}"),
                    Step::Remove(id) => format!("{text} -{id}"),
                }),
                News::Unchanged => "unchanged".to_owned(),
                News::Suspect(why) => why,
            }
        }

        /// The same of a server that has run for long and says that nobody has left.
        fn list(&mut self, ids: &str) -> String {
            self.hear(ids, Some(""), false)
        }

        fn pass(&mut self, seconds: u64) {
            self.1 += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn the_first_list_is_all_of_it_and_then_what_changes_is_told() {
        let mut bench = Bench::new();
        assert_eq!(bench.list("ab"), "complete ab");
        assert_eq!(bench.list("ab"), "unchanged");
        assert_eq!(bench.hear("bc", Some("a"), false), "changes +c -a");
        assert_eq!(bench.hear("", Some("bc"), false), "changes -b -c");
        assert_eq!(bench.list(""), "unchanged");
    }

    #[test]
    fn whoever_is_missing_without_a_word_is_doubted_for_as_long_as_its_lease() {
        let mut bench = Bench::new();
        bench.list("abc");
        assert_eq!(
            bench.hear("c", Some(""), true),
            "e knows nothing of 2 instances, a among them, and does not say that they have left: it has just started, \
             or has not heard of them yet"
        );
        assert!(bench.0.doubts());
        bench.pass(60);
        assert_eq!(bench.list("bcd"), "changes +d", "those that come are told of");
        assert!(bench.list("bcd").contains("of 1 instances"));
        bench.pass(29);
        assert!(bench.list("bcd").contains("of 1 instances"));
        bench.pass(1);
        assert_eq!(bench.list("bcd"), "changes -a");
        assert!(!bench.0.doubts());
        assert_eq!(bench.list("bcd"), "unchanged");
    }

    #[test]
    fn a_server_that_does_not_tell_who_left_is_believed() {
        let mut bench = Bench::new();
        bench.hear("abc", None, false);
        assert_eq!(bench.hear("c", None, false), "changes -a -b");
    }

    #[test]
    fn a_server_that_is_new_when_it_is_asked_first_removes_nothing_that_it_cannot_know() {
        let mut bench = Bench::new();
        let why = "e knows no instance, and of nothing that is older than three minutes: it has just started";
        assert_eq!(bench.hear("", Some(""), true), why);
        assert_eq!(bench.hear("", Some(""), true), why);
        assert_eq!(bench.hear("a", Some(""), true), "partial a");
        assert_eq!(bench.hear("a", Some(""), true), "unchanged");
        assert_eq!(bench.hear("b", Some("a"), true), "changes +b -a");
        bench.pass(90);
        assert_eq!(bench.hear("b", Some("a"), true), "complete b");
        assert_eq!(bench.hear("b", Some("a"), true), "unchanged");

        let mut bench = Bench::new();
        bench.hear("", Some(""), true);
        bench.pass(90);
        assert_eq!(bench.hear("", Some(""), true), "complete ");
    }

    #[test]
    fn a_server_is_new_when_all_that_it_knows_has_just_come() {
        for (hash, changes, expected) in [
            ("", "", true),
            ("UP_2_", "+a1 +B1", true),
            ("UP_2_", "+a1 +a1", false),
            ("UP_2_", "+a1 ~B1", false),
            ("UP_1_", "+a1 +B1 -B2", true),
        ] {
            assert_eq!(is_new(&delta(hash, changes)), expected, "{hash} {changes}");
        }
        assert_eq!(left(&delta("", "+a1 -b2 -C2")), ["b".to_owned()].into());
    }
}
