//! The immutable state of one upstream at one generation, and how the next one is made from it.
//!
//! Members stand in a table by slot. The table is cut into chunks behind `Arc`s, so that the next snapshot shares
//! all chunks but the ones that changed: one change at 10,000 endpoints copies a hundred pointers. Each snapshot
//! carries the changes of its last generations, from which a worker's view catches up.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::SystemTime};

use super::{Effective, Endpoint, Facts, InFlight, Slot, Stats, Weight, slots::SlotLease};

const CHUNK: usize = 128;

/// How many generations a snapshot remembers. A view further behind than this takes the full list.
const RECENT: usize = 64;

/// An endpoint in a snapshot, with its slot and its statistics.
#[derive(Debug)]
pub struct Member {
    lease: SlotLease,
    endpoint: Endpoint,
    effective: Effective,
    stats: Arc<Stats>,
}

impl Member {
    pub(super) fn new(lease: SlotLease, endpoint: Endpoint, effective: Effective, stats: Arc<Stats>) -> Self {
        Self { lease, endpoint, effective, stats }
    }

    pub fn slot(&self) -> Slot {
        self.lease.slot()
    }

    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The weight as selectors see it.
    pub fn weight(&self) -> Weight {
        self.effective.weight
    }

    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    pub fn facts(&self) -> &Facts {
        &self.endpoint.facts
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    pub(super) fn lease(&self) -> &SlotLease {
        &self.lease
    }

    /// See [`Stats::begin`].
    pub fn begin(&self, now: std::time::Instant) -> InFlight {
        self.stats.begin(now)
    }
}

/// One change between two snapshots, as selectors are told of it.
#[derive(Debug, Clone)]
pub enum Change {
    /// This member stands in its slot now, new or with other facts.
    Put(Arc<Member>),
    /// Nothing stands in this slot any more.
    Remove(Slot),
}

/// What one generation changed.
#[derive(Debug)]
pub struct Generation {
    pub number: u64,
    pub at: SystemTime,
    pub changes: Vec<Change>,
}

/// What a view that stands at some generation needs to reach a snapshot.
#[derive(Debug)]
pub enum CatchUp<'a> {
    /// Apply these generations, oldest first. Empty when the view is up to date.
    Changes(Vec<&'a Generation>),
    /// Too far behind: start again from the full list.
    Reset,
}

/// The immutable state of one upstream at one generation.
#[derive(Debug, Clone)]
pub struct Snapshot {
    generation: u64,
    len: usize,
    chunks: Vec<Arc<[Option<Arc<Member>>; CHUNK]>>,
    recent: VecDeque<Arc<Generation>>,
}

impl Snapshot {
    /// The snapshot before anything is known: generation 0, no members.
    pub fn empty() -> Self {
        Self { generation: 0, len: 0, chunks: Vec::new(), recent: VecDeque::new() }
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more than the greatest slot that may be taken.
    pub fn slots(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    pub fn get(&self, slot: Slot) -> Option<&Arc<Member>> {
        self.chunks.get(slot.index() / CHUNK)?[slot.index() % CHUNK].as_ref()
    }

    /// All members in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }

    /// The first member at or after `start`, going round at the end, that `suits`. Waits for nothing, keeps no state.
    pub fn next_from(&self, start: usize, suits: impl Fn(&Member) -> bool) -> Option<&Arc<Member>> {
        let slots = self.slots();
        (0..slots)
            .filter_map(|step| self.get(Slot(((start + step) % slots) as u32)))
            .find(|member| suits(member))
    }

    /// What a view at `generation` has to do to reach this snapshot.
    pub fn since(&self, generation: u64) -> CatchUp<'_> {
        let missing = self.generation.saturating_sub(generation);
        if missing > self.recent.len() as u64 || generation > self.generation {
            return CatchUp::Reset;
        }
        CatchUp::Changes(
            self.recent.iter().skip(self.recent.len() - missing as usize).map(|g| &**g).collect(),
        )
    }

    /// The next snapshot, one generation on.
    pub fn apply(&self, changes: Vec<Change>, at: SystemTime) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        for change in &changes {
            match change {
                Change::Put(member) => next.set(member.slot(), Some(member.clone())),
                Change::Remove(slot) => next.set(*slot, None),
            }
        }
        // A long list is not kept as changes: a view that far behind resets anyway.
        if changes.len() > 1_000 {
            next.recent.clear();
        } else {
            next.recent.push_back(Arc::new(Generation { number: next.generation, at, changes }));
            if next.recent.len() > RECENT {
                next.recent.pop_front();
            }
        }
        next
    }

    fn set(&mut self, slot: Slot, member: Option<Arc<Member>>) {
        let chunk = slot.index() / CHUNK;
        if self.chunks.len() <= chunk {
            if member.is_none() {
                return;
            }
            self.chunks.resize_with(chunk + 1, || Arc::new([const { None }; CHUNK]));
        }
        let place = &mut Arc::make_mut(&mut self.chunks[chunk])[slot.index() % CHUNK];
        self.len = self.len - place.is_some() as usize + member.is_some() as usize;
        *place = member;
        while self.chunks.last().is_some_and(|chunk| chunk.iter().all(Option::is_none)) {
            self.chunks.pop();
        }
    }
}
