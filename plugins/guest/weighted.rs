//! Draws in proportion to weight, at a cost that does not grow with the number of candidates.
//!
//! Candidates are grouped by the power of two above their weight. A draw chooses a group by its total, then a member
//! by chance, and keeps it with the chance of its weight to the greatest in the group, which is more than a half. After
//! Matias, Vitter and Ni, "Dynamic Generation of Discrete Random Variates" (2003). A change costs the same few steps.

use fastrand::Rng;

type Slot = u32;

/// Draws that may hit an excepted candidate before it is worth the cost to leave those out exactly.
const TRIES: u32 = 4;

/// Candidates and their weights.
pub struct Weighted {
    /// Group `n` holds the weights above 2^(n-1), up to 2^n.
    groups: [Group; 33],
    /// One bit for each group that has members: most lists have very few such groups.
    filled: u64,
    places: Vec<Option<Place>>,
    total: u64,
    count: usize,
}

#[derive(Default)]
struct Group {
    members: Vec<(Slot, u32)>,
    total: u64,
    /// No member weighs more.
    top: u32,
}

#[derive(Clone, Copy)]
struct Place {
    weight: u32,
    position: usize,
}

impl Default for Weighted {
    fn default() -> Weighted {
        let groups = std::array::from_fn(|_| Group::default());
        Weighted { groups, filled: 0, places: Vec::new(), total: 0, count: 0 }
    }
}

impl Weighted {
    pub fn clear(&mut self) {
        *self = Weighted::default();
    }

    /// Makes the slot a candidate of this weight, whether it was one or not.
    pub fn put(&mut self, slot: Slot, weight: u32) {
        self.remove(slot);
        let weight = weight.max(1);
        let number = group_of(weight);
        let group = &mut self.groups[number];
        self.filled |= 1 << number;
        let place = Place { weight, position: group.members.len() };
        group.members.push((slot, weight));
        group.total += u64::from(weight);
        group.top = group.top.max(weight);
        self.total += u64::from(weight);
        self.count += 1;
        let index = slot as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, None);
        }
        self.places[index] = Some(place);
    }

    /// The slot is no candidate any more. An unknown one is no error.
    pub fn remove(&mut self, slot: Slot) {
        let Some(Place { weight, position }) = self.places.get_mut(slot as usize).and_then(Option::take)
        else {
            return;
        };
        let number = group_of(weight);
        let group = &mut self.groups[number];
        group.members.swap_remove(position);
        if group.members.is_empty() {
            self.filled &= !(1 << number);
            group.top = 0;
        }
        group.total -= u64::from(weight);
        self.total -= u64::from(weight);
        self.count -= 1;
        if let Some((moved, weight)) = group.members.get(position).copied() {
            self.places[moved as usize] = Some(Place { weight, position });
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The weight of a candidate, 0 for a slot that is none.
    pub fn weight(&self, slot: Slot) -> u32 {
        self.places.get(slot as usize).copied().flatten().map_or(0, |place| place.weight)
    }

    /// What a candidate weighs on average, 1 when there is none.
    pub fn mean_weight(&self) -> f64 {
        if self.count == 0 { 1.0 } else { self.total as f64 / self.count as f64 }
    }

    /// A candidate that is not among `except`, each with the chance of its weight. None when there is no such.
    pub fn draw(&self, random: &mut Rng, except: &[Slot]) -> Option<Slot> {
        let rest = self.total - self.weight_of(except, |_| true);
        if rest == 0 {
            return None;
        }
        // As a rule the excepted are few, and the first draw is none of them.
        for _ in 0..TRIES {
            let slot = self.draw_among(random, self.total, &[]);
            if !except.contains(&slot) {
                return Some(slot);
            }
        }
        Some(self.draw_among(random, rest, except))
    }

    /// Draws among all but the excepted; these weigh `total`, at least 1.
    fn draw_among(&self, random: &mut Rng, total: u64, except: &[Slot]) -> Slot {
        // Where weights are alike there is one group, and nothing to leave to chance, which costs.
        let mut at = if self.filled.is_power_of_two() { 0 } else { random.u64(..total) };
        for number in bits(self.filled) {
            let group = &self.groups[number];
            let total = group.total - self.weight_of(except, |weight| group_of(weight) == number);
            if at < total {
                return group.draw(random, except);
            }
            at -= total;
        }
        unreachable!("the total is the sum of the groups")
    }

    fn weight_of(&self, slots: &[Slot], counts: impl Fn(u32) -> bool) -> u64 {
        let distinct = slots.iter().enumerate().filter(|(at, slot)| !slots[..*at].contains(slot));
        let weights = distinct.map(|(_, slot)| self.weight(*slot));
        weights.filter(|weight| *weight > 0 && counts(*weight)).map(u64::from).sum()
    }
}

impl Group {
    /// Only called when a member is left that is not excepted.
    fn draw(&self, random: &mut Rng, except: &[Slot]) -> Slot {
        loop {
            let (slot, weight) = self.members[random.usize(..self.members.len())];
            if (weight == self.top || random.u32(..self.top) < weight) && !except.contains(&slot) {
                return slot;
            }
        }
    }
}

/// The numbers of the bits that are set, the lowest first.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(lowest)
    })
}

/// The smallest `n` with `weight <= 2^n`.
fn group_of(weight: u32) -> usize {
    (u32::BITS - (weight - 1).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use fastrand::Rng;
    use proptest::prelude::*;

    use super::*;

    fn weighted(weights: &[u32]) -> Weighted {
        let mut weighted = Weighted::default();
        (0..).zip(weights).for_each(|(slot, weight)| weighted.put(slot, *weight));
        weighted
    }

    fn check(weights: &[u32], except: &[Slot]) {
        let (weighted, mut random) = (weighted(weights), Rng::with_seed(3));
        let mut counts = vec![0; weights.len()];
        let draws = 200_000;
        (0..draws).for_each(|_| counts[weighted.draw(&mut random, except).unwrap() as usize] += 1);
        let share =
            |slot: usize| if except.contains(&(slot as Slot)) { 0.0 } else { f64::from(weights[slot]) };
        let total: f64 = (0..weights.len()).map(share).sum();
        for (slot, count) in counts.iter().enumerate() {
            let expected = share(slot) / total * f64::from(draws);
            let slack = 5.0 * expected.sqrt() + 0.5;
            assert!((f64::from(*count) - expected).abs() <= slack, "{weights:?} {except:?}: {counts:?}");
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        check(&[1], &[]);
        check(&[1, 1, 1, 1], &[]);
        check(&[1, 2, 3, 4, 5, 100], &[]);
        check(&[u32::MAX, 1 << 31, 1 << 30, 7], &[]);
        check(&[1, 2, 3, 4, 5, 100], &[5]);
        check(&[1, 2, 3, 4, 5, 100], &[5, 3, 3, 77]);
    }

    /// Where weights are alike nothing but the place is left to chance.
    #[test]
    fn equal_weights_are_drawn_alike_whatever_they_are() {
        let drawn = |weight| {
            let (weighted, mut random) = (weighted(&[weight; 5]), Rng::with_seed(3));
            (0..1_000).map(|_| weighted.draw(&mut random, &[])).collect::<Vec<_>>()
        };
        assert_eq!(drawn(100), drawn(1));
    }

    proptest! {
        #[test]
        fn any_changes_leave_exactly_the_candidates(
            steps in proptest::collection::vec((0..12u32, 0..9u32), 0..80),
            except in proptest::collection::vec(0..14u32, 0..6),
        ) {
            let (mut weighted, mut model) = (Weighted::default(), BTreeMap::new());
            for (slot, weight) in steps {
                if weight == 0 {
                    weighted.remove(slot);
                    model.remove(&slot);
                } else {
                    weighted.put(slot, weight * 1000);
                    model.insert(slot, weight * 1000);
                }
            }
            prop_assert_eq!(weighted.len(), model.len());
            prop_assert_eq!(weighted.total, model.values().map(|weight| u64::from(*weight)).sum::<u64>());
            model.retain(|slot, _| !except.contains(slot));
            let drawn = weighted.draw(&mut Rng::with_seed(1), &except);
            prop_assert_eq!(drawn.is_some(), !model.is_empty());
            prop_assert!(drawn.is_none_or(|slot| model.contains_key(&slot)));
        }
    }
}
