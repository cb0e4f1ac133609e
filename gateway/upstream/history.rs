//! What changed in an upstream, when, and by which source: the last so many changes, and the way back to each.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::SystemTime,
};

use super::{Changed, Endpoint};

/// Changes of the list remembered, and orders that let endpoints drain or no more: those are no reason to forget a list.
const KEPT: usize = 50;
const KEPT_DRAINS: usize = 10;

/// Endpoints remembered for the way back, over all changes together. Past this the oldest changes can still be read,
/// and no longer be gone back to.
const KEPT_ENDPOINTS: usize = 100_000;

/// Addresses named per kind of change; the rest is only counted.
const NAMED: usize = 20;

/// Addresses that one change treated in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    pub count: usize,
    /// The first few of them.
    pub first: Vec<SocketAddr>,
}

impl FromIterator<SocketAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(all: I) -> Self {
        let mut addresses = Self::default();
        for address in all {
            addresses.count += 1;
            if addresses.count <= NAMED {
                addresses.first.push(address);
            }
        }
        addresses
    }
}

/// Why a list changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The registry said so.
    News,
    /// It came from disk, not from the registry.
    Restored,
    /// Endpoints stopped answering, or answer again, and the reserve changed or its use.
    Health,
    /// The registry stood by a removal for long enough.
    Confirmed,
    /// The operator accepted a removal.
    Accepted,
    Pinned,
    RolledBack {
        to: u64,
    },
    Unpinned,
    /// The operator lets endpoints drain, or no more.
    Drained,
    Undrained,
}

impl Cause {
    /// Whether the list stays as it is, and only who drains is another.
    fn is_drain(self) -> bool {
        matches!(self, Self::Drained | Self::Undrained)
    }

    /// The word for the API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::News => "news",
            Self::Restored => "restored",
            Self::Health => "health",
            Self::Confirmed => "confirmed",
            Self::Accepted => "accepted",
            Self::Pinned => "pinned",
            Self::RolledBack { .. } => "rolled back",
            Self::Unpinned => "unpinned",
            Self::Drained => "drained",
            Self::Undrained => "undrained",
        }
    }
}

/// One change in the history of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The list in force after it. Endpoints taken out and brought back by their health make generations too, which
    /// have no entry.
    pub generation: u64,
    pub at: SystemTime,
    /// The source it came from; none where the operator made it.
    pub source: Option<usize>,
    pub cause: Cause,
    /// False: the list is pinned, so this was recorded and changed nothing.
    pub applied: bool,
    pub added: Addresses,
    pub updated: Addresses,
    pub removed: Addresses,
    /// Removed by the registry, and kept as reserve.
    pub held: Addresses,
    /// What stood there before. None: forgotten.
    undo: Option<Vec<(SocketAddr, Option<Endpoint>)>>,
}

/// Why there is no way back to a generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("generation {wanted} is not there yet, the latest is {latest}")]
    NotYet { wanted: u64, latest: u64 },
    #[error("generation {0} is not remembered any more")]
    Forgotten(u64),
}

/// What is to be remembered of a change.
pub(super) struct Recorded<'a> {
    pub generation: u64,
    pub at: SystemTime,
    pub source: Option<usize>,
    pub cause: Cause,
    pub applied: bool,
    pub changed: &'a [Changed],
    pub held: &'a [SocketAddr],
}

/// The last changes of an upstream, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    /// Endpoints in the undo lists of all entries.
    endpoints: usize,
    /// The generation before the oldest entry.
    begin: u64,
}

impl History {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn record(&mut self, recorded: Recorded<'_>) {
        let Recorded { generation, at, source, cause, applied, changed, held } = recorded;
        let of = |kind: fn(&Changed) -> bool| changed.iter().filter(|c| kind(c)).map(|c| c.address).collect();
        let undo = match applied && !cause.is_drain() {
            true => changed.iter().map(|c| (c.address, c.before.clone())).collect(),
            false => Vec::new(),
        };
        self.endpoints += undo.len();
        self.entries.push_back(Entry {
            generation,
            at,
            source,
            cause,
            applied,
            added: of(|c| c.before.is_none()),
            updated: of(|c| c.before.is_some() && c.after.is_some()),
            removed: of(|c| c.after.is_none()),
            held: held.iter().copied().collect(),
            undo: Some(undo),
        });
        self.trim();
    }

    fn trim(&mut self) {
        let is_drain = |entry: &Entry| entry.cause.is_drain();
        let drains = self.entries.iter().filter(|entry| is_drain(entry)).count();
        if drains > KEPT_DRAINS
            && let Some(oldest) = self.entries.iter().position(is_drain)
        {
            // There is nothing to undo in it, so the way back is as long as before.
            self.entries.remove(oldest);
        } else if self.entries.len() - drains > KEPT {
            let oldest = self.entries.iter().position(|entry| !is_drain(entry)).unwrap_or_default();
            for entry in self.entries.drain(..=oldest) {
                self.begin = entry.generation;
                self.endpoints -= entry.undo.map_or(0, |undo| undo.len());
            }
        }
        for entry in &mut self.entries {
            if self.endpoints <= KEPT_ENDPOINTS {
                break;
            }
            self.endpoints -= entry.undo.take().map_or(0, |undo| undo.len());
        }
    }

    /// The list as it was at `generation`, given the list as it is now.
    pub(super) fn list_at(
        &self,
        generation: u64,
        latest: u64,
        mut list: HashMap<SocketAddr, Endpoint>,
    ) -> Result<HashMap<SocketAddr, Endpoint>, RollbackError> {
        if generation > latest {
            return Err(RollbackError::NotYet { wanted: generation, latest });
        }
        if generation < self.begin {
            return Err(RollbackError::Forgotten(generation));
        }
        for entry in self.entries.iter().rev().take_while(|entry| entry.generation > generation) {
            let undo = entry.undo.as_ref().ok_or(RollbackError::Forgotten(generation))?;
            for (address, before) in undo {
                match before {
                    Some(endpoint) => list.insert(*address, endpoint.clone()),
                    None => list.remove(address),
                };
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Facts, Weight};

    fn endpoint(port: u16, weight: u32) -> Endpoint {
        let weight = Weight::new(weight).unwrap();
        Endpoint { address: ([10, 0, 0, 1], port).into(), weight, facts: Facts::default() }
    }

    fn record(history: &mut History, generation: u64, changed: &[Changed]) {
        record_cause(history, generation, changed, Cause::News);
    }

    fn record_cause(history: &mut History, generation: u64, changed: &[Changed], cause: Cause) {
        let (at, source) = (SystemTime::UNIX_EPOCH, Some(0));
        history.record(Recorded { generation, at, source, cause, applied: true, changed, held: &[] });
    }

    #[test]
    fn drains_are_no_reason_to_forget_a_list() {
        let mut history = History::default();
        let (changes, latest) = (KEPT as u64 + 5, KEPT as u64 + 105);
        let put = |before, weight| Changed {
            address: endpoint(1, 1).address,
            before,
            after: Some(endpoint(1, weight)),
        };
        // Each list says its generation as the weight.
        for generation in 1..=changes {
            let before = (generation > 1).then(|| endpoint(1, generation as u32 - 1));
            record(&mut history, generation, &[put(before, generation as u32)]);
        }
        let last = endpoint(1, changes as u32);
        for generation in changes + 1..=latest {
            let cause = if generation % 2 == 0 { Cause::Drained } else { Cause::Undrained };
            record_cause(&mut history, generation, &[put(Some(last.clone()), changes as u32)], cause);
        }
        let list = HashMap::from([(last.address, last.clone())]);
        let at = |history: &History, generation, latest| {
            let list = history.list_at(generation, latest, list.clone())?;
            Ok(list.values().next().unwrap().weight.get())
        };
        assert_eq!(history.iter().count(), KEPT + KEPT_DRAINS);
        assert_eq!(at(&history, 5, latest), Ok(5));
        assert_eq!(at(&history, 4, latest), Err(RollbackError::Forgotten(4)));
        assert_eq!(at(&history, changes + 50, latest), Ok(changes as u32), "the list was the same then");
        let drains: Vec<u64> =
            history.iter().filter(|of| of.cause.is_drain()).map(|of| of.generation).collect();
        assert_eq!(drains, (latest - KEPT_DRAINS as u64 + 1..=latest).collect::<Vec<_>>(), "the last ones");
        assert_eq!(history.endpoints, KEPT);

        // They go with the lists that they were about.
        for generation in latest + 1..=latest + KEPT as u64 {
            record(&mut history, generation, &[put(Some(last.clone()), changes as u32)]);
        }
        assert_eq!(history.iter().count(), KEPT + KEPT_DRAINS, "the last list before them is still known");
        record(&mut history, latest + KEPT as u64 + 1, &[put(Some(last.clone()), changes as u32)]);
        assert_eq!((history.iter().count(), history.begin), (KEPT, latest + 1));
    }

    #[test]
    fn the_last_changes_are_kept_and_long_lists_only_counted() {
        let mut history = History::default();
        for generation in 1..=KEPT as u64 + 5 {
            let added = |port| Changed {
                address: ([10, 0, 0, 1], port).into(),
                before: None,
                after: Some(endpoint(port, 1)),
            };
            let changed: Vec<Changed> = (0..5_000).map(added).collect();
            record(&mut history, generation, &changed);
        }
        assert_eq!(history.iter().count(), KEPT);
        let last = history.iter().next_back().unwrap();
        assert_eq!(
            (last.generation, last.added.count, last.added.first.len()),
            (KEPT as u64 + 5, 5_000, NAMED)
        );
        let kept: usize = history.iter().filter_map(|entry| Some(entry.undo.as_ref()?.len())).sum();
        assert!(kept <= KEPT_ENDPOINTS && kept == history.endpoints);
        let latest = KEPT as u64 + 5;
        assert!(history.list_at(latest - 10, latest, HashMap::new()).is_ok());
        for (wanted, expected) in [
            (latest - 30, RollbackError::Forgotten(latest - 30)),
            (2, RollbackError::Forgotten(2)),
            (latest + 1, RollbackError::NotYet { wanted: latest + 1, latest }),
        ] {
            assert_eq!(history.list_at(wanted, latest, HashMap::new()), Err(expected));
        }
    }

    proptest! {
        #[test]
        fn every_remembered_generation_can_be_gone_back_to(
            steps in prop::collection::vec((0u16..6, 0u32..3), 1..40), back in 0usize..40,
        ) {
            let mut history = History::default();
            let mut lists = vec![HashMap::new()];
            for (port, weight) in steps {
                let mut list = lists.last().unwrap().clone();
                let address = endpoint(port, 1).address;
                let after = (weight > 0).then(|| endpoint(port, weight));
                let before = match &after {
                    Some(endpoint) => list.insert(address, endpoint.clone()),
                    None => list.remove(&address),
                };
                record(&mut history, lists.len() as u64, &[Changed { address, before, after }]);
                lists.push(list);
            }
            let latest = lists.len() - 1;
            let wanted = latest.saturating_sub(back);
            let found = history.list_at(wanted as u64, latest as u64, lists[latest].clone());
            prop_assert_eq!(found.as_ref(), Ok(&lists[wanted]));
        }
    }
}
