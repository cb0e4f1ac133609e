//! The native round robin: what serves while no plugin does.

use std::{cell::Cell, sync::Arc};

use crate::upstream::{Member, Slot, Snapshot};

/// Goes round the slots of a snapshot. Keeps nothing but its place, so no list change can upset it.
#[derive(Debug)]
pub struct RoundRobin(Cell<usize>);

impl RoundRobin {
    /// Starts anywhere, so that workers do not march in step.
    pub fn new() -> Self {
        Self(Cell::new(fastrand::usize(..)))
    }

    /// The next member, one not tried before where there is a choice. Weights are not looked at.
    pub fn pick<'a>(&self, snapshot: &'a Snapshot, tried: &[Slot]) -> Option<&'a Arc<Member>> {
        let slots = snapshot.slots();
        if slots == 0 {
            return None;
        }
        let start = self.0.get() % slots;
        let member = snapshot
            .next_from(start, |member| !tried.contains(&member.slot()))
            .or_else(|| snapshot.next_from(start, |_| true))?;
        self.0.set(member.slot().index() + 1);
        Some(member)
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}
