//! Numbers for endpoints: small, dense, and used again only after the last holder has let go.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, mpsc},
};

use super::Slot;

/// Gives out slots. Owned by the one writer of an upstream.
#[derive(Debug)]
pub(super) struct Slots {
    next: u32,
    free: BinaryHeap<Reverse<u32>>,
    returned: mpsc::Receiver<u32>,
    back: mpsc::Sender<u32>,
}

impl Slots {
    pub(super) fn new() -> Self {
        let (back, returned) = mpsc::channel();
        Self { next: 0, free: BinaryHeap::new(), returned, back }
    }

    /// The lowest slot that nobody holds.
    pub(super) fn take(&mut self) -> SlotLease {
        self.free.extend(self.returned.try_iter().map(Reverse));
        let slot = match self.free.pop() {
            Some(Reverse(slot)) => slot,
            None => {
                self.next += 1;
                self.next - 1
            }
        };
        SlotLease(Arc::new(Held { slot: Slot(slot), back: self.back.clone() }))
    }
}

/// The right to a slot. It is free again when the last clone is dropped, on whatever thread that happens.
#[derive(Debug, Clone)]
pub(super) struct SlotLease(Arc<Held>);

impl SlotLease {
    pub(super) fn slot(&self) -> Slot {
        self.0.slot
    }
}

#[derive(Debug)]
struct Held {
    slot: Slot,
    back: mpsc::Sender<u32>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // The upstream itself may be gone already; then nobody wants the slot.
        let _ = self.back.send(self.slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_is_used_again_only_after_its_last_holder_let_go() {
        let mut slots = Slots::new();
        let first = slots.take();
        let holder = first.clone();
        drop(first);
        assert_eq!(slots.take().slot(), Slot(1), "still held");
        drop(holder);
        assert_eq!(slots.take().slot(), Slot(0));
    }
}
