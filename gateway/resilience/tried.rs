//! The endpoints that a request was sent to.

use crate::upstream::Slot;

/// Those of one request, each once. Allocates nothing before the first try has failed.
#[derive(Debug)]
pub struct Tried<T> {
    slots: Vec<Slot>,
    /// Keeps the slots from being given to other endpoints while this request avoids them.
    holders: Vec<T>,
}

impl<T> Default for Tried<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), holders: Vec::new() }
    }
}

impl<T> Tried<T> {
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn contains(&self, slot: Slot) -> bool {
        self.slots.contains(&slot)
    }

    pub fn add(&mut self, slot: Slot, holder: T) {
        if !self.contains(slot) {
            self.slots.push(slot);
            self.holders.push(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_held_once_however_often_it_was_tried() {
        let mut tried = Tried::default();
        for slot in [3, 4, 3] {
            tried.add(Slot(slot), ());
        }
        assert_eq!((tried.slots(), tried.holders.len()), (&[Slot(3), Slot(4)][..], 2));
        assert!(tried.contains(Slot(4)) && !tried.contains(Slot(5)));
    }
}
