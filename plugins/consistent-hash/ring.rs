//! The ring: which endpoint a hash belongs to.
//!
//! Every candidate has points on a circle of 2^32 places, computed from its key and nothing else. A hash belongs to
//! the candidate of the first point at or after it. So the ring is the same for the same candidates, whatever the
//! order they came in.
//!
//! **How many points.** `virtual_nodes` times the weight, of which 100 is one, halved until a candidate of mean weight has at most twice
//! `virtual_nodes` points, and all together at most 262,144; at least one each. The halving depends on the set alone.
//! When it changes, because the mean weight or the total passes a power of two, each point of every other pair goes
//! or comes and a part of the keys moves; in between only keys of candidates that come or go do.
//!
//! **How they are kept.** Points are spread evenly by their hash, so each is stored where the top bits of its hash
//! say, or a few places behind, in order (linear probing, sorted). To find a hash is to look at about two places; a
//! point is added or removed by shifting a few. Neither depends on the number of candidates.

type Slot = u32;

const MOST_POINTS: u64 = 1 << 18;

/// Weights come times this.
const RESOLUTION: u64 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Point {
    hash: u32,
    slot: Slot,
}

/// No candidate has this slot: it would need a table of four thousand million.
const EMPTY: Point = Point { hash: 0, slot: Slot::MAX };

#[derive(Clone, Copy)]
struct Member {
    /// The hash of the key: who this is, in every process.
    id: u64,
    weight: u32,
    /// Points on the ring now. 0 until the ring is settled.
    points: u32,
}

/// Candidates on a circle.
pub struct Ring {
    virtual_nodes: u64,
    members: Vec<Option<Member>>,
    count: u64,
    weight: u64,
    /// How often the number of points is halved.
    halvings: u32,
    /// Slots whose points are not on the ring yet.
    unsettled: Vec<Slot>,
    /// At least twice as many places as points, and a few more behind for those pushed over the end.
    table: Vec<Point>,
    /// The table has 2^bits home places.
    bits: u32,
    points: usize,
}

impl Ring {
    pub fn new(virtual_nodes: u32) -> Ring {
        Ring {
            virtual_nodes: virtual_nodes.into(),
            members: Vec::new(),
            count: 0,
            weight: 0,
            halvings: 0,
            unsettled: Vec::new(),
            table: Vec::new(),
            bits: 0,
            points: 0,
        }
    }

    pub fn clear(&mut self) {
        *self = Ring::new(self.virtual_nodes as u32);
    }

    /// Makes the slot a candidate. Counts after `settle`.
    pub fn put(&mut self, slot: Slot, weight: u32, key: &str) {
        let (id, weight) = (hash_key(key), weight.max(1));
        if self.member(slot).is_some_and(|member| (member.id, member.weight) == (id, weight)) {
            return;
        }
        self.remove(slot);
        let index = slot as usize;
        if self.members.len() <= index {
            self.members.resize(index + 1, None);
        }
        self.members[index] = Some(Member { id, weight, points: 0 });
        self.count += 1;
        self.weight += u64::from(weight);
        self.unsettled.push(slot);
    }

    /// The slot is no candidate any more. An unknown one is no error.
    pub fn remove(&mut self, slot: Slot) {
        let Some(member) = self.members.get_mut(slot as usize).and_then(Option::take) else { return };
        for number in 0..member.points {
            self.take_off(Point { hash: hash_point(member.id, number), slot });
        }
        self.count -= 1;
        self.weight -= u64::from(member.weight);
    }

    /// Brings the points up to date with the candidates. Call it once after a batch of changes.
    pub fn settle(&mut self) {
        let unsettled = std::mem::take(&mut self.unsettled);
        let halvings = self.halvings_wanted();
        let wanted: u64 = match halvings == self.halvings {
            true => unsettled.iter().filter_map(|slot| self.member(*slot)).map(|m| self.points_of(m)).sum(),
            false => 0,
        };
        let full = (self.points as u64 + wanted) * 2 > 1 << self.bits;
        if full || halvings != self.halvings {
            self.rebuild(halvings);
        } else {
            unsettled.into_iter().for_each(|slot| self.put_on(slot));
        }
    }

    /// The candidates a hash belongs to, best first. One may come several times; every one comes.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = Slot> {
        let hash = (hash >> 32) as u32;
        let home = self.home(hash);
        let (before, after) = self.table.split_at(home.min(self.table.len()));
        let skipped = after.iter().take_while(|point| **point == EMPTY || point.hash < hash).count();
        let (skipped, first) = after.split_at(skipped);
        let circle = first.iter().chain(before).chain(skipped);
        circle.filter(|point| **point != EMPTY).map(|point| point.slot)
    }

    /// The share of the total weight that a candidate has, 0 for a slot that is none.
    pub fn share(&self, slot: Slot) -> f64 {
        self.member(slot).map_or(0.0, |member| f64::from(member.weight) / self.weight as f64)
    }

    fn member(&self, slot: Slot) -> Option<&Member> {
        self.members.get(slot as usize)?.as_ref()
    }

    fn halvings_wanted(&self) -> u32 {
        let limit = (2 * self.virtual_nodes * self.count).min(MOST_POINTS);
        let all = self.virtual_nodes * self.weight / RESOLUTION;
        (0..).find(|halvings| all >> halvings <= limit).expect("a number shifted far enough is 0")
    }

    fn points_of(&self, member: &Member) -> u64 {
        ((self.virtual_nodes * u64::from(member.weight) / RESOLUTION) >> self.halvings).max(1)
    }

    fn rebuild(&mut self, halvings: u32) {
        self.halvings = halvings;
        let points: u64 = self.members.iter().flatten().map(|member| self.points_of(member)).sum();
        // Room to double before the next time.
        self.bits = (points * 4).next_power_of_two().ilog2();
        self.points = 0;
        self.table.clear();
        self.table.resize(1 << self.bits, EMPTY);
        for slot in 0..self.members.len() as Slot {
            if let Some(member) = &mut self.members[slot as usize] {
                member.points = 0;
                self.put_on(slot);
            }
        }
    }

    fn put_on(&mut self, slot: Slot) {
        let Some(member) = self.member(slot).copied().filter(|member| member.points == 0) else { return };
        let points = self.points_of(&member) as u32;
        for number in 0..points {
            self.insert(Point { hash: hash_point(member.id, number), slot }, member.id);
        }
        self.members[slot as usize] = Some(Member { points, ..member });
    }

    fn insert(&mut self, mut point: Point, id: u64) {
        let mut at = self.home(point.hash);
        while let Some(other) = self.table.get(at).filter(|other| **other != EMPTY) {
            // Points of one hash are ordered by who they belong to, not by who came first.
            let other_id = || self.member(other.slot).map_or(0, |member| member.id);
            if other.hash > point.hash || (other.hash == point.hash && other_id() > id) {
                break;
            }
            at += 1;
        }
        while let Some(other) = self.table.get_mut(at) {
            std::mem::swap(other, &mut point);
            if point == EMPTY {
                break;
            }
            at += 1;
        }
        if point != EMPTY {
            self.table.push(point);
        }
        self.points += 1;
    }

    fn take_off(&mut self, point: Point) {
        let home = self.home(point.hash);
        let Some(mut at) = self.table[home..].iter().position(|other| *other == point).map(|at| home + at)
        else {
            return;
        };
        // Those behind move up, as long as they are not at home already.
        while let Some(next) = self.table.get(at + 1).copied().filter(|next| *next != EMPTY) {
            if self.home(next.hash) > at {
                break;
            }
            self.table[at] = next;
            at += 1;
        }
        self.table[at] = EMPTY;
        self.points -= 1;
    }

    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) << self.bits) >> 32) as usize
    }
}

/// FNV-1a of the key, mixed.
fn hash_key(key: &str) -> u64 {
    let fnv = key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    mix(fnv)
}

fn hash_point(id: u64, number: u32) -> u32 {
    (mix(id.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32) as u32
}

/// The finishing step of SplitMix64: each bit of the result depends on all bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u32) -> String {
        format!("10.0.{}.{}:8080", number / 256, number % 256)
    }

    fn ring(weights: &[u32]) -> Ring {
        let mut ring = Ring::new(100);
        (0..).zip(weights).for_each(|(slot, weight)| ring.put(slot, weight.saturating_mul(100), &key(slot)));
        ring.settle();
        ring
    }

    fn hashes() -> impl Iterator<Item = u64> {
        (0..20_000u64).map(|number| mix(number + 1))
    }

    fn owner(ring: &Ring, hash: u64) -> Slot {
        ring.walk(hash).next().unwrap()
    }

    #[test]
    fn only_keys_of_the_removed_move() {
        let before = ring(&[1; 20]);
        let mut after = ring(&[1; 20]);
        after.remove(7);
        after.settle();
        for hash in hashes() {
            let (old, new) = (owner(&before, hash), owner(&after, hash));
            assert!(old == new || old == 7);
            assert_ne!(new, 7);
        }
    }

    #[test]
    fn keys_are_spread_by_weight() {
        let weights = [1, 1, 2, 4, 1, 1];
        let ring = ring(&weights);
        let mut counts = [0; 6];
        hashes().for_each(|hash| counts[owner(&ring, hash) as usize] += 1);
        for (weight, count) in weights.iter().zip(counts) {
            let share = f64::from(count) / 2000.0 / f64::from(*weight);
            assert!((0.7..1.3).contains(&share), "{counts:?}");
        }
    }

    #[test]
    fn huge_weights_make_no_huge_ring() {
        let ring = ring(&[u32::MAX, 1, u32::MAX, 1]);
        assert!(ring.points <= 802, "{}", ring.points);
        let many = self::ring(&vec![1; 10_000]);
        assert!(many.points as u64 <= MOST_POINTS, "{}", many.points);
        assert!(many.points > 200_000, "{}", many.points);
    }

    #[test]
    fn a_walk_meets_everyone() {
        let ring = ring(&[1, 5, 1000, 1]);
        for hash in hashes().take(100).chain([0, u64::MAX]) {
            let mut met: Vec<_> = ring.walk(hash).collect();
            assert_eq!(met.len(), ring.points);
            met.sort_unstable();
            met.dedup();
            assert_eq!(met, [0, 1, 2, 3]);
        }
        assert_eq!(Ring::new(100).walk(3).next(), None);
    }

    // A ring of another process, where the same endpoints have other slots and came in another order.
    fn rebuilt(members: &BTreeMap<u32, u32>) -> (Ring, Vec<u32>) {
        let mut ring = Ring::new(3);
        let numbers: Vec<_> = members.keys().rev().copied().collect();
        (0..).zip(&numbers).for_each(|(slot, number)| ring.put(slot, 100 * members[number], &key(*number)));
        ring.settle();
        (ring, numbers)
    }

    proptest! {
        #[test]
        fn any_history_makes_the_same_ring(
            steps in proptest::collection::vec((0..30u32, 0..9u32, any::<bool>()), 1..150),
        ) {
            let (mut ring, mut members) = (Ring::new(3), BTreeMap::new());
            for (number, weight, settle) in steps {
                if weight == 0 {
                    ring.remove(number);
                    members.remove(&number);
                } else {
                    ring.put(number, 100 * weight, &key(number));
                    members.insert(number, weight);
                }
                if settle {
                    ring.settle();
                }
            }
            ring.settle();
            let (other, numbers) = rebuilt(&members);
            prop_assert_eq!(ring.points, other.points);
            for hash in hashes().take(300) {
                let walk: Vec<_> = ring.walk(hash).collect();
                let same: Vec<_> = other.walk(hash).map(|slot| numbers[slot as usize]).collect();
                prop_assert_eq!(walk, same);
            }
        }
    }
}
