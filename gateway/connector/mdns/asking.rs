//! Asks for instances with dots in their names. `mdns-sd` takes each dot for the end of a label when it asks, and
//! nobody has such a name. The answers go to everybody on the link, and it does take those for what they are.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    links::{Interfaced, Link},
    wire::{Kind, Message, Name},
};

/// How often all are asked for. What says where one is, is good for two minutes.
const ASKS: Duration = Duration::from_secs(40);

/// A name of which only part was heard is asked for after this.
const MISSING_FOR: Duration = Duration::from_millis(100);

#[derive(Default)]
pub struct Asking {
    rounds: Rounds,
    /// Opened when there is something to ask.
    links: BTreeMap<u32, Link>,
}

/// When which names are asked for.
#[derive(Default)]
struct Rounds {
    names: BTreeSet<Name>,
    asked: BTreeSet<Name>,
    /// When all are, and when those are that were not yet.
    all: Option<Instant>,
    new: Option<Instant>,
}

impl Asking {
    /// These are the names that there are, and no others.
    pub fn set(&mut self, names: BTreeSet<Name>, now: Instant) {
        self.rounds.set(names, now);
    }

    /// Asks for what is to be asked for now.
    pub fn ask(&mut self, links: &BTreeMap<u32, Interfaced>, now: Instant) {
        if self.rounds.names.is_empty() {
            self.links.clear();
        }
        let names = self.rounds.due(now);
        if names.is_empty() {
            return;
        }
        self.links.retain(|index, link| links.get(index) == Some(&link.at));
        for (index, at) in links {
            if let Entry::Vacant(vacant) = self.links.entry(*index)
                && let Ok(link) = Link::speaking(*index, at.clone())
            {
                vacant.insert(link);
            }
        }
        let questions = names.iter().flat_map(|name| [Kind::SRV, Kind::TXT].map(|kind| (name.clone(), kind)));
        let packets = Message { questions: questions.collect(), ..Message::default() }.write();
        self.links.values().for_each(|link| packets.iter().for_each(|packet| link.say(packet)));
    }

    /// When `ask` has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.rounds.all.into_iter().chain(self.rounds.new).min()
    }
}

impl Rounds {
    fn set(&mut self, names: BTreeSet<Name>, now: Instant) {
        self.asked.retain(|name| names.contains(name));
        let is_new = self.asked.len() < names.len();
        self.new = is_new.then(|| self.new.unwrap_or(now + MISSING_FOR));
        self.all = (!names.is_empty()).then(|| self.all.unwrap_or(now + ASKS));
        self.names = names;
    }

    fn due(&mut self, now: Instant) -> Vec<Name> {
        if self.all.is_some_and(|due| due <= now) {
            (self.all, self.new, self.asked) = (Some(now + ASKS), None, self.names.clone());
            self.names.iter().cloned().collect()
        } else if self.new.is_some_and(|due| due <= now) {
            self.new = None;
            // Whoever makes up names would otherwise have all the others asked for, again and again.
            let new: Vec<Name> = self.names.difference(&self.asked).cloned().collect();
            self.asked.extend(new.iter().cloned());
            new
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::mdns::wire::local;

    fn names(labels: &[&str]) -> BTreeSet<Name> {
        labels.iter().map(|label| local(&[label.as_bytes(), b"_http", b"_tcp"]).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_name_is_asked_for_alone_and_all_together_from_time_to_time() {
        let (mut asking, start) = (Asking::default(), Instant::now());
        assert_eq!(asking.next_due(), None);
        let mut at = |milliseconds, labels: &[&str]| {
            let now = start + Duration::from_millis(milliseconds);
            asking.set(names(labels), now);
            let due = asking.rounds.due(now).into_iter().collect::<BTreeSet<_>>();
            (due, asking.next_due().map(|due| (due - start).as_millis()))
        };
        assert_eq!(at(0, &["a.1"]), (names(&[]), Some(100)));
        assert_eq!(at(50, &["a.1", "b.1"]), (names(&[]), Some(100)));
        assert_eq!(at(100, &["a.1", "b.1"]), (names(&["a.1", "b.1"]), Some(40_000)));
        assert_eq!(at(500, &["a.1", "b.1", "c.1"]), (names(&[]), Some(600)));
        assert_eq!(at(600, &["a.1", "b.1", "c.1"]), (names(&["c.1"]), Some(40_000)));
        // One that was gone is new.
        assert_eq!(at(700, &["a.1", "b.1"]), (names(&[]), Some(40_000)));
        assert_eq!(at(800, &["a.1", "b.1", "c.1"]), (names(&[]), Some(900)));
        assert_eq!(at(850, &["a.1", "b.1"]), (names(&[]), Some(40_000)));
        assert_eq!(at(40_000, &["a.1", "b.1"]), (names(&["a.1", "b.1"]), Some(80_000)));
        assert_eq!(at(40_100, &[]), (names(&[]), None));
    }
}
