//! What changed in an upstream, when, and by which source: the last so many generations.

use std::{collections::VecDeque, net::SocketAddr, time::SystemTime};

use super::Published;

/// Generations remembered.
const KEPT: usize = 50;

/// Addresses named per kind of change; the rest is only counted.
const NAMED: usize = 20;

/// Addresses that one generation changed in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub count: usize,
    /// The first few of them.
    pub first: Vec<SocketAddr>,
}

impl From<Vec<SocketAddr>> for Addresses {
    fn from(mut all: Vec<SocketAddr>) -> Self {
        let count = all.len();
        all.truncate(NAMED);
        Self { count, first: all }
    }
}

/// One generation in the history of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub generation: u64,
    pub at: SystemTime,
    /// The source whose news made it.
    pub source: usize,
    /// It came from disk, not from the registry.
    pub restored: bool,
    pub added: Addresses,
    pub updated: Addresses,
    pub removed: Addresses,
}

/// The last generations of an upstream, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History(VecDeque<Entry>);

impl History {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.0.iter()
    }

    pub(super) fn record(&mut self, published: Published, source: usize, restored: bool, at: SystemTime) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let Published { generation, added, updated, removed } = published;
        let (added, updated, removed) = (added.into(), updated.into(), removed.into());
        self.0.push_back(Entry { generation, at, source, restored, added, updated, removed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generations_are_kept_and_long_lists_only_counted() {
        let mut history = History::default();
        for generation in 1..=KEPT as u64 + 5 {
            let added = (0..100).map(|port| ([10, 0, 0, 1], port).into()).collect();
            let published = Published { generation, added, ..Published::default() };
            history.record(published, 0, false, SystemTime::UNIX_EPOCH);
        }
        assert_eq!(history.iter().count(), KEPT);
        let last = history.iter().next_back().unwrap();
        assert_eq!(
            (last.generation, last.added.count, last.added.first.len()),
            (KEPT as u64 + 5, 100, NAMED)
        );
    }
}
