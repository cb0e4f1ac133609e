//! Whose turn it is.
//!
//! The usual weighted round robin (nginx's "smooth" one) adds to a counter of every endpoint on each pick, so ten
//! thousand endpoints cost ten thousand additions. The same spread is had for less:
//!
//! - Endpoints of equal weight form a *class*, and inside a class turns simply rotate.
//! - Among classes the turns are handed out like seats in a parliament, by the method of Webster and Sainte-Laguë: a
//!   class of `share` (weight times members) is due for its turn number `k` at time `(k + 1/2) / share`, and whoever
//!   is due first is next. In one unit of time every class is due exactly `share` times, evenly spaced.
//!
//! So after every full round each endpoint has had exactly `weight` turns. A heap holds the classes by due time: a
//! pick costs the logarithm of the number of *different weights*, which for most upstreams is one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use fastrand::Rng;

type Slot = u32;

/// The candidates of one upstream and the order in which they are due.
pub struct Turns {
    /// The class that is due first is on top. No class in here is empty.
    classes: BinaryHeap<Class>,
    /// Where each slot is: its weight and its position in the class of that weight.
    places: Vec<Option<Place>>,
    random: Rng,
}

#[derive(Clone, Copy)]
struct Place {
    weight: u32,
    position: usize,
}

impl Turns {
    pub fn new(random: Rng) -> Turns {
        Turns { classes: BinaryHeap::new(), places: Vec::new(), random }
    }

    /// The next slot that is not among `tried`, or simply the next when all of them are.
    ///
    /// None when there are no candidates.
    pub fn next(&mut self, tried: &[Slot]) -> Option<Slot> {
        let mut passed_over = Vec::new();
        let mut found = None;
        while let Some(mut class) = self.classes.peek_mut() {
            if let Some(slot) = class.next(tried) {
                found = Some(slot);
                break;
            }
            // All members were tried. The class keeps its due time for the requests to come.
            passed_over.push(PeekMut::pop(class));
        }
        self.classes.extend(passed_over);
        if found.is_none() && !tried.is_empty() { self.next(&[]) } else { found }
    }

    /// Opens the schedule for changes. Dropping the edit sets due times anew, once for all changes made.
    pub fn edit(&mut self) -> Edit<'_> {
        let now = self.classes.peek().map(|class| class.due);
        let classes = std::mem::take(&mut self.classes).into_vec();
        Edit { classes, fresh: now.is_none(), now, turns: self }
    }
}

/// Changes to the candidates of a [`Turns`].
pub struct Edit<'a> {
    classes: Vec<Class>,
    /// Nobody had a turn yet.
    fresh: bool,
    now: Option<f64>,
    turns: &'a mut Turns,
}

impl Edit<'_> {
    pub fn clear(&mut self) {
        self.classes.clear();
        self.turns.places.clear();
        self.fresh = true;
        self.now = None;
    }

    /// Makes the slot a candidate of this weight, whether it was one or not.
    pub fn put(&mut self, slot: Slot, weight: u32) {
        if self.turns.places.get(slot as usize).is_some_and(|place| place.is_some_and(|p| p.weight == weight))
        {
            return;
        }
        self.remove(slot);
        // Workers must not march in step, so they do not begin at the same point of time.
        let now = *self.now.get_or_insert_with(|| self.turns.random.f64());
        if !self.classes.iter().any(|class| class.weight == weight) {
            self.classes.push(Class::new(weight, now));
        }
        let class = self.class(weight);
        let position = class.slots.len();
        class.slots.push(slot);
        self.settle(weight, position, slot);
        // A random place among those who still have their turn in this round. For a new list that is a shuffle.
        let cursor = self.class(weight).cursor;
        let place = self.turns.random.usize(cursor..=position);
        self.swap(weight, position, place);
    }

    /// The slot is no candidate any more. An unknown one is no error.
    pub fn remove(&mut self, slot: Slot) {
        let Some(Place { weight, mut position }) =
            self.turns.places.get_mut(slot as usize).and_then(Option::take)
        else {
            return;
        };
        let class = self.class(weight);
        let last = class.slots.len() - 1;
        if position < class.cursor {
            // Fill the hole with one that also had its turn, so that nobody is skipped or served twice.
            class.cursor -= 1;
            let cursor = class.cursor;
            self.swap(weight, position, cursor);
            position = cursor;
        }
        self.swap(weight, position, last);
        self.turns.places[slot as usize] = None;
        let class = self.class(weight);
        class.slots.pop();
        if class.slots.is_empty() {
            self.classes.retain(|class| class.weight != weight);
        } else if class.cursor == last {
            class.cursor = 0;
        }
    }

    /// A class that exists. There are so few that looking through them is the quickest.
    fn class(&mut self, weight: u32) -> &mut Class {
        self.classes.iter_mut().find(|class| class.weight == weight).expect("the class of a candidate exists")
    }

    fn swap(&mut self, weight: u32, a: usize, b: usize) {
        let class = self.class(weight);
        class.slots.swap(a, b);
        let (at_a, at_b) = (class.slots[a], class.slots[b]);
        self.settle(weight, a, at_a);
        self.settle(weight, b, at_b);
    }

    fn settle(&mut self, weight: u32, position: usize, slot: Slot) {
        let index = slot as usize;
        if self.turns.places.len() <= index {
            self.turns.places.resize(index + 1, None);
        }
        self.turns.places[index] = Some(Place { weight, position });
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        // Time begins anew at every edit, so that its numbers stay small and exact.
        let past = self.now.unwrap_or(0.0).floor();
        let mut classes = std::mem::take(&mut self.classes);
        classes.iter_mut().for_each(|class| class.reschedule(past, self.fresh));
        self.turns.classes = classes.into();
    }
}

/// The candidates of one weight, taking turns.
struct Class {
    weight: u32,
    slots: Vec<Slot>,
    /// Whose turn is next. Those before it had their turn in this round.
    cursor: usize,
    /// Turns all members together have per unit of time: weight times members.
    share: u64,
    /// Turns taken since time 0.
    served: u64,
    /// When the next turn is due.
    due: f64,
}

impl Class {
    fn new(weight: u32, now: f64) -> Class {
        Class { weight, slots: Vec::new(), cursor: 0, share: 0, served: 0, due: now }
    }

    fn next(&mut self, tried: &[Slot]) -> Option<Slot> {
        for _ in 0..self.slots.len().min(tried.len() + 1) {
            let slot = self.slots[self.cursor];
            self.cursor += 1;
            if self.cursor == self.slots.len() {
                self.cursor = 0;
            }
            if !tried.contains(&slot) {
                self.served += 1;
                self.set_due();
                return Some(slot);
            }
        }
        None
    }

    /// Counts members and turns anew, so that the class is due at about the time it was due before.
    ///
    /// Not before it when the schedule begins: half of all workers would begin with the endpoint that has one turn in
    /// a thousand.
    fn reschedule(&mut self, past: f64, fresh: bool) {
        self.share = u64::from(self.weight) * self.slots.len() as u64;
        let turns = (self.due - past) * self.share as f64;
        self.served = if fresh { (turns - 0.5).ceil() as u64 } else { turns as u64 };
        self.set_due();
    }

    // Computed from whole numbers each time, so errors do not add up.
    fn set_due(&mut self) {
        self.due = (self.served as f64 + 0.5) / self.share as f64;
    }
}

impl Ord for Class {
    // The heap keeps the greatest on top, and that has to be the one due first.
    fn cmp(&self, other: &Class) -> Ordering {
        other.due.total_cmp(&self.due).then(self.weight.cmp(&other.weight))
    }
}

impl PartialOrd for Class {
    fn partial_cmp(&self, other: &Class) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Class {
    fn eq(&self, other: &Class) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Class {}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u32]) -> Turns {
        let mut turns = Turns::new(Rng::with_seed(7));
        let mut edit = turns.edit();
        for (slot, weight) in (0..).zip(weights) {
            edit.put(slot, *weight);
        }
        drop(edit);
        turns
    }

    fn count(turns: &mut Turns, picks: usize) -> BTreeMap<Slot, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(turns.next(&[]).unwrap()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn no_candidates_no_pick() {
        assert_eq!(turns(&[]).next(&[]), None);
        assert_eq!(turns(&[]).next(&[3]), None);
    }

    #[test]
    fn a_round_gives_each_its_weight() {
        let mut turns = turns(&[5, 1, 1, 3]);
        for _ in 0..3 {
            assert_eq!(count(&mut turns, 10), BTreeMap::from([(0, 5), (1, 1), (2, 1), (3, 3)]));
        }
    }

    #[test]
    fn turns_of_a_heavy_endpoint_are_spread_out() {
        let mut turns = turns(&[5, 1, 1]);
        let order: Vec<_> = (0..70).map(|_| turns.next(&[]).unwrap()).collect();
        let light = order.iter().enumerate().filter(|(_, slot)| **slot != 0).map(|(at, _)| at);
        let gaps: BTreeSet<_> = light.clone().skip(1).zip(light).map(|(a, b)| a - b).collect();
        assert_eq!(gaps, BTreeSet::from([3, 4]));
    }

    #[test]
    fn workers_begin_at_different_places() {
        let first = |seed| {
            let mut turns = Turns::new(Rng::with_seed(seed));
            let mut edit = turns.edit();
            (0..100).for_each(|slot| edit.put(slot, 1));
            drop(edit);
            turns.next(&[])
        };
        assert!((0..20).map(first).collect::<BTreeSet<_>>().len() > 10);
    }

    #[test]
    fn workers_that_begin_with_a_light_endpoint_are_few() {
        let begins_light = |seed: &u64| {
            let mut turns = Turns::new(Rng::with_seed(*seed));
            let mut edit = turns.edit();
            edit.put(0, 100);
            edit.put(1, 1);
            drop(edit);
            turns.next(&[]) == Some(1)
        };
        let light = (0..10_000).filter(begins_light).count();
        assert!((1..200).contains(&light), "{light}");
    }

    #[test]
    fn a_heavy_endpoint_that_was_tried_is_not_picked_again() {
        let mut turns = turns(&[1_000_000, 1, 1]);
        for _ in 0..10 {
            assert_ne!(turns.next(&[0]), Some(0));
        }
        assert_eq!(turns.next(&[0, 1]), Some(2));
        assert!(turns.next(&[0, 1, 2]).is_some());
    }

    #[test]
    fn a_removal_in_the_middle_of_a_round_skips_nobody() {
        let mut turns = turns(&[1; 10]);
        let served: Vec<_> = (0..6).map(|_| turns.next(&[]).unwrap()).collect();
        turns.edit().remove(served[2]);
        let rest: BTreeSet<_> = (0..4).map(|_| turns.next(&[]).unwrap()).collect();
        assert_eq!(rest.len(), 4);
        assert!(rest.iter().all(|slot| !served.contains(slot)));
    }

    #[test]
    fn changes_without_end_starve_nobody() {
        let mut turns = turns(&[9, 1, 1]);
        let mut counts = [0; 4];
        for round in 0..1000 {
            let mut edit = turns.edit();
            if round % 2 == 0 {
                edit.put(3, 4)
            } else {
                edit.remove(3)
            }
            drop(edit);
            counts[turns.next(&[]).unwrap() as usize] += 1;
        }
        assert!(counts[1] > 40 && counts[2] > 40, "{counts:?}");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Clear,
        Put(Slot, u32),
        Remove(Slot),
        Pick(Vec<Slot>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let weight = prop_oneof![1..5u32, Just(100), Just(u32::MAX)];
        prop_oneof![
            1 => Just(Step::Clear),
            20 => (0..12u32, weight).prop_map(|(slot, weight)| Step::Put(slot, weight)),
            10 => (0..14u32).prop_map(Step::Remove),
            30 => proptest::collection::vec(0..14u32, 0..5).prop_map(Step::Pick),
        ]
    }

    proptest! {
        #[test]
        fn only_candidates_are_picked_and_tried_ones_last(steps in proptest::collection::vec(step(), 0..200)) {
            let mut turns = Turns::new(Rng::with_seed(1));
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Clear => { turns.edit().clear(); model.clear(); }
                    Step::Put(slot, weight) => { turns.edit().put(slot, weight); model.insert(slot, weight); }
                    Step::Remove(slot) => { turns.edit().remove(slot); model.remove(&slot); }
                    Step::Pick(tried) => match turns.next(&tried) {
                        None => prop_assert!(model.is_empty()),
                        Some(slot) => {
                            prop_assert!(model.contains_key(&slot));
                            let choice = model.keys().any(|slot| !tried.contains(slot));
                            prop_assert!(!choice || !tried.contains(&slot));
                        }
                    },
                }
            }
        }

        #[test]
        fn a_round_is_exact_wherever_it_begins(
            weights in proptest::collection::vec(1..20u32, 1..20),
            seed in any::<u64>(),
            before in 0..100usize,
        ) {
            let mut turns = Turns::new(Rng::with_seed(seed));
            let mut edit = turns.edit();
            (0..).zip(&weights).for_each(|(slot, weight)| edit.put(slot, *weight));
            drop(edit);
            let round: u32 = weights.iter().sum();
            count(&mut turns, before);
            let counts = count(&mut turns, round as usize);
            for (slot, weight) in (0..).zip(&weights) {
                prop_assert_eq!(counts.get(&slot), Some(weight));
            }
        }
    }
}
