//! What has changed in the last minutes, as `apps/delta` tells it.
//!
//! It is found out whenever somebody asks, by what was there the last time. So it may tell of more than somebody has
//! missed, never of less: whoever asks within [`KEPT`] hears of everything.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::instance;
use crate::connector::memory::{Memory, Registration};

/// As long as Eureka does it.
const KEPT: Duration = Duration::from_secs(180);

/// Changes at most. Whoever misses one sees by the numbers that it does.
const MOST: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Added,
    Modified,
    Deleted,
}

/// An instance as it was when somebody asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) service: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) registration: Arc<Registration>,
    /// In milliseconds since 1970.
    updated: u64,
}

impl Entry {
    pub(super) fn app(&self) -> String {
        self.service.to_ascii_uppercase()
    }

    pub(super) fn is_of(&self, app: &str) -> bool {
        self.service.eq_ignore_ascii_case(app)
    }

    /// Whether it is asked for by this name, of which there may be several between commas.
    pub(super) fn has_vip(&self, address: &str, secure: bool) -> bool {
        let mut vips = instance::vip(&self.registration, &self.service, secure).split(',');
        vips.any(|vip| vip.trim().eq_ignore_ascii_case(address))
    }

    pub(super) fn shown(&self, action: Action) -> Value {
        let mut shown = instance::shown(&self.service, &self.id, &self.registration, self.updated);
        shown["actionType"] = json!(match action {
            Action::Added => "ADDED",
            Action::Modified => "MODIFIED",
            Action::Deleted => "DELETED",
        });
        shown
    }
}

#[derive(Default)]
pub(super) struct Journal {
    entries: BTreeMap<(Arc<str>, Arc<str>), Entry>,
    changes: VecDeque<(Instant, Action, Entry)>,
    version: u64,
}

impl Journal {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (&Action, &Entry)> {
        self.changes.iter().map(|(_, action, entry)| (action, entry))
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Takes in what is there at this time, which in milliseconds since 1970 is `millis`.
    pub(super) fn look(&mut self, memory: &Memory, now: Instant, millis: u64) {
        let services = memory.services().into_iter().map(|summary| summary.service);
        let all = services.flat_map(|service| {
            let instances = memory.instances(&service).into_iter();
            instances.map(move |one| (service.clone(), one.id, one.registration)).collect::<Vec<_>>()
        });
        self.take(all, now, millis);
    }

    fn take(
        &mut self,
        all: impl Iterator<Item = (Arc<str>, Arc<str>, Arc<Registration>)>,
        now: Instant,
        millis: u64,
    ) {
        let mut before = std::mem::take(&mut self.entries);
        for (service, id, registration) in all {
            let key = (service.clone(), id.clone());
            let known = before.remove(&key);
            let action = match &known {
                Some(known) if known.registration == registration => None,
                Some(_) => Some(Action::Modified),
                None => Some(Action::Added),
            };
            let entry = match (action, known) {
                (None, Some(known)) => known,
                _ => Entry { service, id, registration, updated: millis },
            };
            if let Some(action) = action {
                self.changes.push_back((now, action, entry.clone()));
                self.version += 1;
            }
            self.entries.insert(key, entry);
        }
        for entry in before.into_values() {
            self.changes.push_back((now, Action::Deleted, Entry { updated: millis, ..entry }));
            self.version += 1;
        }
        let is_old = |(at, ..): &(Instant, Action, Entry)| now.saturating_duration_since(*at) > KEPT;
        while self.changes.len() > MOST || self.changes.front().is_some_and(is_old) {
            self.changes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::memory::InstanceState;

    /// Takes instances as `id=port`, and says what has changed.
    fn take(journal: &mut Journal, instances: &str, now: Instant, millis: u64) -> String {
        let registration = |port: &str| Registration {
            address: format!("10.0.0.1:{port}"),
            weight: 1,
            labels: Vec::new(),
            state: InstanceState::Ready,
            priority: 0,
            hostname: None,
            zone: None,
            ttl_seconds: 30,
            checks: Vec::new(),
        };
        let all = instances.split_whitespace().map(|word| word.split_once('=').unwrap());
        let all = all.map(|(id, port)| ("orders".into(), id.into(), Arc::new(registration(port))));
        journal.take(all, now, millis);
        let told =
            journal.changes().map(|(action, entry)| format!("{action:?} {}{}", entry.id, entry.updated));
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn whoever_asks_in_time_hears_of_everything() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        assert_eq!(take(&mut journal, "a=1 b=1", now, 1), "Added a1 Added b1");
        assert_eq!(take(&mut journal, "a=1 b=1", now, 2), "Added a1 Added b1");
        assert_eq!(
            take(&mut journal, "a=2 c=1", now, 3),
            "Added a1 Added b1 Modified a3 Added c3 Deleted b3"
        );
        assert_eq!(journal.entries().map(|entry| &*entry.id).collect::<String>(), "ac");
        assert_eq!(journal.version(), 5);
        let later = now + KEPT + Duration::from_secs(1);
        assert_eq!(take(&mut journal, "a=2 c=1 b=1", later, 4), "Added b4");
    }

    #[test]
    fn names_that_are_asked_for_may_be_several() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        take(&mut journal, "a=1", now, 1);
        let mut entry = journal.entries().next().unwrap().clone();
        assert!(
            entry.has_vip("ORDERS", false) && entry.has_vip("orders", true) && !entry.has_vip("users", false)
        );
        let mut registration = (*entry.registration).clone();
        registration.labels.push(("eureka.vipAddress".to_owned(), "one, two".to_owned()));
        entry.registration = Arc::new(registration);
        assert!(
            entry.has_vip("Two", false) && entry.has_vip("orders", true) && !entry.has_vip("orders", false)
        );
    }
}
