//! The native round robin: what serves while no plugin does.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use rustc_hash::FxHashMap;

use crate::upstream::{CatchUp, Change, Member, Slot, Snapshot, Weight};

/// Goes round the endpoints of a list, to each as often as its weight says.
///
/// Where all weights are the same it goes round the slots and keeps nothing but its place. Otherwise each endpoint
/// has its turns, at even distances that are the shorter the greater its weight is, and the next turn is picked: a
/// pick costs the logarithm of the list's length, and weights of any size are kept exactly. The turns are laid out
/// when a list is picked from for the first time: a list that a plugin picks from costs nothing here.
#[derive(Debug)]
pub struct RoundRobin {
    /// The slot after the one picked last.
    place: usize,
    plan: Option<Plan>,
}

/// How a list is gone round.
#[derive(Debug)]
struct Plan {
    generation: u64,
    order: Order,
}

#[derive(Debug)]
enum Order {
    /// All weights are this one.
    Slots(Weight),
    Turns(Turns),
}

impl RoundRobin {
    /// Starts anywhere, so that workers do not march in step.
    pub fn new() -> Self {
        Self { place: fastrand::usize(..), plan: None }
    }

    /// The next member, one not tried before where there is a choice.
    pub fn pick<'a>(&mut self, snapshot: &'a Snapshot, tried: &[Slot]) -> Option<&'a Arc<Member>> {
        match self.order(snapshot)? {
            Order::Slots(_) => self.by_slots(snapshot, tried),
            Order::Turns(turns) => turns.pick(tried).and_then(|slot| snapshot.get(slot)),
        }
    }

    fn by_slots<'a>(&mut self, snapshot: &'a Snapshot, tried: &[Slot]) -> Option<&'a Arc<Member>> {
        let start = self.place.checked_rem(snapshot.slots())?;
        let member = snapshot
            .next_from(start, |member| !tried.contains(&member.slot()))
            .or_else(|| snapshot.next_from(start, |_| true))?;
        self.place = member.slot().index() + 1;
        Some(member)
    }

    /// The order for this list; none when it is empty.
    fn order(&mut self, snapshot: &Snapshot) -> Option<&mut Order> {
        let known = self.plan.take().and_then(|plan| plan.moved_on(snapshot));
        let order = match known {
            Some(order) => order,
            None => Order::new(snapshot)?,
        };
        let plan = self.plan.insert(Plan { generation: snapshot.generation(), order });
        Some(&mut plan.order)
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// The order for another list, if it can be had from this one without going through all of the list.
    fn moved_on(self, snapshot: &Snapshot) -> Option<Order> {
        if self.generation == snapshot.generation() {
            return Some(self.order);
        }
        let CatchUp::Changes(generations) = snapshot.since(self.generation) else { return None };
        let changes = generations.iter().flat_map(|generation| &generation.changes);
        match self.order {
            Order::Slots(weight) => {
                let same = |change: &Change| match change {
                    Change::Put(member) => member.weight() == weight,
                    Change::Remove(_) => true,
                };
                changes.clone().all(same).then_some(Order::Slots(weight))
            }
            Order::Turns(turns) => {
                let heavier = |change: &Change| match change {
                    Change::Put(member) => member.weight().get() > turns.greatest,
                    Change::Remove(_) => false,
                };
                (!changes.clone().any(heavier)).then(|| Order::Turns(turns.changed(changes)))
            }
        }
    }
}

impl Order {
    fn new(snapshot: &Snapshot) -> Option<Self> {
        let first = snapshot.iter().next()?.weight();
        if snapshot.iter().all(|member| member.weight() == first) {
            return Some(Self::Slots(first));
        }
        let greatest = snapshot.iter().map(|member| member.weight().get()).max()?;
        let turn = |member: &Arc<Member>| Turn::new(member, greatest, 0.0);
        Some(Self::Turns(Turns { greatest, heap: snapshot.iter().map(turn).collect() }))
    }
}

/// The next turn of every endpoint.
#[derive(Debug)]
struct Turns {
    /// The weight whose turns are at a distance of 1: the greatest there was when they were laid out.
    greatest: u32,
    heap: BinaryHeap<Turn>,
}

impl Turns {
    /// Endpoints that did not change keep their turns, so that lists that change all the time keep their weights.
    fn changed<'a>(self, changes: impl Iterator<Item = &'a Change>) -> Self {
        let now = self.heap.peek().map_or(0.0, |turn| turn.at);
        let slot = |change: &Change| match change {
            Change::Put(member) => member.slot(),
            Change::Remove(slot) => *slot,
        };
        // The last change of a slot is the one that counts.
        let changed: FxHashMap<Slot, &Change> = changes.map(|change| (slot(change), change)).collect();
        let kept = self.heap.into_iter().filter(|turn| !changed.contains_key(&turn.slot));
        let put = changed.values().filter_map(|change| match change {
            Change::Put(member) => Some(Turn::new(member, self.greatest, now)),
            Change::Remove(_) => None,
        });
        Self { greatest: self.greatest, heap: kept.chain(put).collect() }
    }

    fn pick(&mut self, tried: &[Slot]) -> Option<Slot> {
        if let Some(mut first) = self.heap.peek_mut()
            && !tried.contains(&first.slot)
        {
            return Some(first.taken());
        }
        self.pick_beside(tried)
    }

    /// A retry: as many turns are passed over as endpoints were tried, and they stay where they are.
    fn pick_beside(&mut self, tried: &[Slot]) -> Option<Slot> {
        let mut passed = Vec::new();
        let mut found = None;
        while let Some(turn) = self.heap.pop() {
            if !tried.contains(&turn.slot) {
                found = Some(turn);
                break;
            }
            passed.push(turn);
        }
        if found.is_none() && !passed.is_empty() {
            found = Some(passed.swap_remove(0));
        }
        self.heap.extend(passed);
        let mut turn = found?;
        let slot = turn.taken();
        self.heap.push(turn);
        Some(slot)
    }
}

/// When an endpoint is picked next. The heaviest is picked once in a distance of 1.
#[derive(Debug)]
struct Turn {
    at: f64,
    distance: f64,
    slot: Slot,
}

impl Turn {
    /// Anywhere in the first distance from `now`: otherwise all would begin in step.
    fn new(member: &Arc<Member>, greatest: u32, now: f64) -> Self {
        let distance = f64::from(greatest) / f64::from(member.weight().get());
        Self { at: now + distance * fastrand::f64(), distance, slot: member.slot() }
    }

    fn taken(&mut self) -> Slot {
        self.at += self.distance;
        self.slot
    }
}

/// The earliest turn is the greatest, as the heap wants it.
impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then_with(|| other.slot.cmp(&self.slot))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Endpoint, Facts, Offer, Publisher, Reader, UpstreamName};

    fn endpoint(port: u16, weight: u32) -> Offer {
        let (address, weight) = (([127, 0, 0, 1], port).into(), Weight::new(weight).unwrap());
        Offer::Put(Endpoint { address, weight, facts: Facts::default() })
    }

    fn list(weights: &[u32]) -> (Publisher, Reader) {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let offers = weights.iter().zip(1..).map(|(weight, port)| endpoint(port, *weight));
        publisher.publish(offers.collect(), Instant::now());
        (publisher, reader)
    }

    /// How often each slot is picked.
    fn counts(native: &mut RoundRobin, snapshot: &Snapshot, picks: u64) -> Vec<u64> {
        let mut counts = vec![0; snapshot.len()];
        for _ in 0..picks {
            counts[native.pick(snapshot, &[]).unwrap().slot().index()] += 1;
        }
        counts
    }

    #[test]
    fn equal_weights_take_turns_whatever_joins_and_leaves() {
        let (mut publisher, reader) = list(&[5, 5, 5]);
        let mut native = RoundRobin::new();
        assert_eq!(counts(&mut native, &reader.snapshot(), 300), [100; 3]);
        publisher.publish(vec![endpoint(4, 5)], Instant::now());
        assert_eq!(counts(&mut native, &reader.snapshot(), 400), [100; 4]);
        publisher.publish(vec![endpoint(4, 10)], Instant::now());
        assert_eq!(counts(&mut native, &reader.snapshot(), 500), [100, 100, 100, 200]);
        publisher.publish(vec![endpoint(4, 5)], Instant::now());
        assert_eq!(counts(&mut native, &reader.snapshot(), 400), [100; 4]);
    }

    #[test]
    fn weights_are_kept_in_every_round_and_evenly_within_it() {
        let (_publisher, reader) = list(&[5, 1, 3]);
        let (snapshot, mut native) = (reader.snapshot(), RoundRobin::new());
        let mut in_a_row = 0;
        for _ in 0..50 {
            let mut round = [0; 3];
            for _ in 0..9 {
                let slot = native.pick(&snapshot, &[]).unwrap().slot().index();
                round[slot] += 1;
                in_a_row = if slot == 0 { in_a_row + 1 } else { 0 };
                assert!(in_a_row <= 3, "the heaviest has no more turns in a row than there is room for");
            }
            assert_eq!(round, [5, 1, 3]);
        }
    }

    #[test]
    fn weights_of_any_size_are_kept() {
        let (_publisher, reader) = list(&[u32::MAX, 1, u32::MAX]);
        let counts = counts(&mut RoundRobin::new(), &reader.snapshot(), 100_000);
        assert!(counts[0].abs_diff(counts[2]) <= 1 && counts[1] <= 1, "{counts:?}");
    }

    #[test]
    fn a_long_list_with_unequal_weights_is_served() {
        let weights: Vec<u32> = (0..60_000).map(|number| 1 + number % 3).collect();
        let (_publisher, reader) = list(&weights);
        let counts = counts(&mut RoundRobin::new(), &reader.snapshot(), 120_000);
        assert!(counts.iter().zip(&weights).all(|(count, weight)| *count == u64::from(*weight)));
    }

    #[test]
    fn a_list_that_changes_after_every_pick_keeps_its_weights() {
        let (mut publisher, reader) = list(&[9, 1]);
        let mut native = RoundRobin::new();
        let (mut light, picks) = (0, 4_000);
        for pick in 0..picks {
            // A third that comes and goes.
            let offer =
                if pick % 2 == 0 { endpoint(3, 1) } else { Offer::Remove(([127, 0, 0, 1], 3).into()) };
            publisher.publish(vec![offer], Instant::now());
            light += usize::from(native.pick(&reader.snapshot(), &[]).unwrap().slot() == Slot(1));
        }
        assert!((picks / 12..picks / 9).contains(&light), "{light} of {picks} for a tenth of the weight");
    }

    #[test]
    fn what_was_tried_is_avoided_while_there_is_another() {
        for weights in [&[1, 1, 1], &[7, 1, 2]] {
            let (_publisher, reader) = list(weights);
            let (snapshot, mut native) = (reader.snapshot(), RoundRobin::new());
            for _ in 0..20 {
                assert_eq!(native.pick(&snapshot, &[Slot(0), Slot(2)]).unwrap().slot(), Slot(1));
                assert!(native.pick(&snapshot, &[Slot(0), Slot(1), Slot(2)]).is_some());
            }
        }
    }

    #[test]
    fn an_empty_list_has_nothing_to_pick() {
        let (mut publisher, reader) = list(&[1, 2]);
        let mut native = RoundRobin::new();
        assert!(native.pick(&reader.snapshot(), &[]).is_some());
        publisher
            .publish([1, 2].map(|port| Offer::Remove(([127, 0, 0, 1], port).into())).into(), Instant::now());
        assert!(native.pick(&reader.snapshot(), &[]).is_none());
    }

    proptest! {
        /// Whatever the weights are and wherever one begins to count: each endpoint has its share of the picks, one
        /// more or less.
        #[test]
        fn every_endpoint_has_its_share(
            weights in prop::collection::vec(1u32..50, 1..12), before in 0u64..500, picks in 1u64..2_000,
        ) {
            let (_publisher, reader) = list(&weights);
            let (snapshot, mut native) = (reader.snapshot(), RoundRobin::new());
            counts(&mut native, &snapshot, before);
            let counts = counts(&mut native, &snapshot, picks);
            let total: u32 = weights.iter().sum();
            for (slot, weight) in weights.iter().enumerate() {
                let share = picks as f64 * f64::from(*weight) / f64::from(total);
                // The clock that all go by is itself one turn of each long or short.
                let slack = 2.0 + f64::from(*weight) * weights.len() as f64 / f64::from(total);
                prop_assert!((counts[slot] as f64 - share).abs() <= slack, "{slot}: {} of {share}", counts[slot]);
            }
        }
    }
}
