//! The list of one application, asked for as a whole once in a while and kept by what has changed in between.
//!
//! A server tells again and again what has changed in the last three minutes, and how many instances of all applications
//! have which status. If that is not what it comes to by the changes that are told, some were missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::answer::{Action, Change, Counts, Delta, Known};

/// When one instance takes the place of another the numbers stay, so the whole list is asked for that often anyway.
const WHOLE_EVERY: Duration = Duration::from_secs(300);

pub struct Book {
    counts: Counts,
    /// The changes that were told last.
    seen: BTreeSet<u64>,
    list: BTreeMap<String, Known>,
    since: Instant,
}

impl Book {
    /// `delta` was asked for before the list was, which may be as old as that or older: both come out of caches.
    pub fn new(list: Vec<Known>, delta: Delta, now: Instant) -> Book {
        let list = list.into_iter().map(|known| (known.id.clone(), known)).collect();
        let mut book = Book { counts: Counts::new(), seen: BTreeSet::new(), list, since: now };
        book.apply(delta);
        book
    }

    pub fn list(&self) -> &BTreeMap<String, Known> {
        &self.list
    }

    /// Takes in what has changed; false if the whole list is to be asked for.
    pub fn take(&mut self, delta: Delta, now: Instant) -> Result<(), Delta> {
        if now.saturating_duration_since(self.since) >= WHOLE_EVERY || !self.explains(&delta) {
            return Err(delta);
        }
        self.apply(delta);
        Ok(())
    }

    /// Whether the numbers are what they were, but for the changes that are new.
    fn explains(&self, Delta { counts, changes }: &Delta) -> bool {
        let (mut rest, mut modified) = (counts.clone(), 0);
        for (status, count) in &self.counts {
            *rest.entry(status.clone()).or_default() -= count;
        }
        let mut told = self.seen.clone();
        for Change { action, status, .. } in changes.iter().filter(|change| told.insert(change.print)) {
            let left = rest.entry(status.clone()).or_default();
            match action {
                Action::Added => *left -= 1,
                Action::Deleted => *left += 1,
                // It had some status before.
                Action::Modified => (*left, modified) = (*left - 1, modified + 1),
            }
        }
        rest.values().all(|left| *left <= 0) && rest.values().sum::<i64>() == -modified
    }

    fn apply(&mut self, Delta { counts, changes }: Delta) {
        self.counts = counts;
        self.seen = changes.iter().map(|change| change.print).collect();
        for (action, known) in changes.into_iter().filter_map(|change| Some((change.action, change.ours?))) {
            if self.list.get(&known.id).is_some_and(|newer| newer.updated > known.updated) {
                continue;
            }
            match action {
                Action::Added | Action::Modified => self.list.insert(known.id.clone(), known),
                Action::Deleted => self.list.remove(&known.id),
            };
        }
    }
}

#[cfg(test)]
pub mod tests {
    use guest::entries::Entry;

    use super::*;
    use crate::answer;

    pub fn known(id: &str, updated: i64) -> Known {
        let lease = Duration::from_secs(90);
        Known { id: id.to_owned(), updated, lease, entry: Entry::plain(&format!("{id}:80")) }
    }

    /// `+a1`, `~a2` and `-a3` are instances of ours that came, changed and left at a time; in upper case they are those
    /// of another application.
    pub fn delta(hash: &str, changes: &str) -> Delta {
        let change = |word: &str| {
            let (action, rest) = word.split_at(1);
            let (id, at) = rest.split_at(1);
            let action = match action {
                "+" => Action::Added,
                "~" => Action::Modified,
                _ => Action::Deleted,
            };
            let ours = id.starts_with(|c: char| c.is_lowercase()).then(|| known(id, at.parse().unwrap()));
            let print = word.bytes().fold(0, |print, byte| print * 256 + u64::from(byte));
            Change { print, action, status: "UP".to_owned(), ours }
        };
        let changes = changes.split_whitespace().map(change).collect();
        Delta { counts: answer::counts(hash).unwrap(), changes }
    }

    struct Bench(Book, Instant);

    impl Bench {
        fn new(list: &[(&str, i64)], hash: &str, changes: &str) -> Bench {
            let now = Instant::now();
            let list = list.iter().map(|(id, updated)| known(id, *updated)).collect();
            Bench(Book::new(list, delta(hash, changes), now), now)
        }

        /// What there is; none if the whole list is to be asked for.
        fn take(&mut self, hash: &str, changes: &str) -> Option<String> {
            let Bench(book, now) = self;
            book.take(delta(hash, changes), *now).ok()?;
            Some(self.list())
        }

        fn list(&self) -> String {
            self.0.list().values().map(|known| format!("{}{}", known.id, known.updated)).collect()
        }
    }

    #[test]
    fn what_is_told_again_counts_once() {
        let mut bench = Bench::new(&[("a", 1)], "UP_1_", "");
        assert_eq!(bench.take("UP_2_", "+b2").as_deref(), Some("a1b2"));
        assert_eq!(bench.take("UP_2_", "+b2").as_deref(), Some("a1b2"));
        assert_eq!(bench.take("UP_1_", "+b2 -a3").as_deref(), Some("b2"));
        assert_eq!(bench.take("UP_1_", "-a3 ~b4").as_deref(), Some("b4"));
        assert_eq!(bench.take("UP_1_", "").as_deref(), Some("b4"));
    }

    #[test]
    fn what_the_numbers_do_not_bear_out_needs_the_whole_list() {
        for (hash, changes) in [
            // Nobody is told of, somebody too many, and somebody who was told of before.
            ("UP_2_", ""),
            ("", ""),
            ("UP_1_", "+b2"),
            ("UP_2_", "-a1"),
            ("UP_2_", "+Z1"),
            // It has another status, of which nobody is told.
            ("DOWN_1_", ""),
            ("DOWN_1_", "~a2"),
        ] {
            let mut bench = Bench::new(&[("a", 1)], "UP_1_", "+Z1");
            assert_eq!(bench.take(hash, changes), None, "{hash} {changes}");
            assert_eq!(bench.list(), "a1");
        }
    }

    #[test]
    fn other_applications_change_the_numbers_and_not_the_list() {
        let mut bench = Bench::new(&[("a", 1)], "OUT_OF_SERVICE_1_UP_1_", "");
        assert_eq!(bench.take("OUT_OF_SERVICE_1_UP_2_", "+B2").as_deref(), Some("a1"));
        // It was out of service.
        assert_eq!(bench.take("UP_3_", "+B2 ~C3").as_deref(), Some("a1"));
        assert_eq!(bench.take("UP_2_", "+B2 ~C3 -B4").as_deref(), Some("a1"));
    }

    #[test]
    fn the_whole_list_may_be_older_than_the_changes_or_newer() {
        assert_eq!(Bench::new(&[("a", 1), ("b", 1)], "UP_1_", "~a2 -b2").list(), "a2");
        assert_eq!(Bench::new(&[("a", 3), ("b", 3)], "UP_2_", "~a2 -b2").list(), "a3b3");
    }

    #[test]
    fn the_whole_list_is_asked_for_once_in_a_while() {
        let Bench(mut book, now) = Bench::new(&[("a", 1)], "UP_1_", "");
        assert!(book.take(delta("UP_1_", ""), now + WHOLE_EVERY - Duration::from_secs(1)).is_ok());
        assert!(book.take(delta("UP_1_", ""), now + WHOLE_EVERY).is_err());
    }
}
