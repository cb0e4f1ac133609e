//! The bound on load: an endpoint that is busier than its share passes requests on.
//!
//! A pick may use an endpoint as long as its requests in flight, the new one included, are at most
//! `bound * all requests in flight * its share of the weight`, rounded up. The requests in flight of one endpoint are
//! asked when it matters, but to ask ten thousand for their sum would cost too much. So the sum is that of what was
//! last seen of each: an endpoint is seen when it is considered, and one more, in turn, at every fourth pick.
//!
//! The same holds for the way to an endpoint with room. The first on the ring are asked. If all of them are busy, a key
//! that all the world wants has filled what is next to it; behind them only those are asked that had room when they
//! were last seen. There is always one, because the bounds of all together are more than what is in flight.

use crate::ring::Ring;

type Slot = u32;

/// How many endpoints are asked, whatever was seen of them.
const NEAREST: usize = 16;
/// How many are asked altogether before the least busy of them is taken. Only who sees little of what is in flight,
/// because other workers sent it, comes so far.
const ASKED: usize = 64;
/// At every so manieth pick one endpoint is looked at beside the way.
const LOOK: u32 = 4;

/// A ring whose endpoints are used within a bound.
pub struct Bounded {
    ring: Ring,
    /// 0 for none.
    bound: f64,
    /// Requests in flight by slot, as last seen, and their sum.
    seen: Vec<u32>,
    sum: u64,
    picks: u32,
    next_look: usize,
}

impl Bounded {
    pub fn new(virtual_nodes: u32, bound: f64) -> Bounded {
        Bounded { ring: Ring::new(virtual_nodes), bound, seen: Vec::new(), sum: 0, picks: 0, next_look: 0 }
    }

    pub fn clear(&mut self) {
        self.ring.clear();
        self.seen.clear();
        self.sum = 0;
    }

    pub fn put(&mut self, slot: Slot, weight: u32, key: &str) {
        self.ring.put(slot, weight, key);
        if self.seen.len() <= slot as usize {
            self.seen.resize(slot as usize + 1, 0);
        }
    }

    pub fn remove(&mut self, slot: Slot) {
        self.ring.remove(slot);
        if (slot as usize) < self.seen.len() {
            self.note(slot, 0);
        }
    }

    pub fn settle(&mut self) {
        self.ring.settle();
    }

    /// The first endpoint from `hash` on that is neither tried nor busy; failing that the least busy one asked;
    /// failing that one that was tried. None when there are no candidates.
    pub fn pick(&mut self, hash: u64, tried: &[Slot], in_flight: impl Fn(Slot) -> u32) -> Option<Slot> {
        if self.bound == 0.0 {
            let untried = self.ring.walk(hash).find(|slot| !tried.contains(slot));
            return untried.or_else(|| self.ring.walk(hash).next());
        }
        self.look_around(&in_flight);
        let mut passed: Vec<(f64, Slot)> = Vec::new();
        for slot in self.ring.walk(hash) {
            let share = self.ring.share(slot);
            let has_room = |sum: u64, load: u32| {
                f64::from(load) + 1.0 <= (self.bound * (sum as f64 + 1.0) * share).ceil()
            };
            let asked = passed.len() < NEAREST || has_room(self.sum, self.seen[slot as usize]);
            if !asked || tried.contains(&slot) || passed.iter().any(|(_, other)| *other == slot) {
                continue;
            }
            let now = in_flight(slot);
            note(&mut self.seen, &mut self.sum, slot, now);
            if has_room(self.sum, now) {
                note(&mut self.seen, &mut self.sum, slot, now + 1);
                return Some(slot);
            }
            passed.push((f64::from(now) / share, slot));
            if passed.len() == ASKED {
                break;
            }
        }
        let least_busy = passed.iter().min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, slot)| *slot);
        least_busy.or_else(|| self.ring.walk(hash).next())
    }

    fn look_around(&mut self, in_flight: impl Fn(Slot) -> u32) {
        self.picks = self.picks.wrapping_add(1);
        if !self.picks.is_multiple_of(LOOK) || self.seen.is_empty() {
            return;
        }
        self.next_look = (self.next_look + 1) % self.seen.len();
        let slot = self.next_look as Slot;
        if self.ring.share(slot) > 0.0 {
            self.note(slot, in_flight(slot));
        }
    }

    fn note(&mut self, slot: Slot, now: u32) {
        note(&mut self.seen, &mut self.sum, slot, now);
    }
}

fn note(seen: &mut [u32], sum: &mut u64, slot: Slot, now: u32) {
    let before = std::mem::replace(&mut seen[slot as usize], now);
    *sum = *sum - u64::from(before) + u64::from(now);
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn bounded(bound: f64, endpoints: u32) -> Bounded {
        let mut bounded = Bounded::new(100, bound);
        (0..endpoints).for_each(|slot| bounded.put(slot, 100, &format!("10.0.0.{slot}:80")));
        bounded.settle();
        bounded
    }

    #[test]
    fn a_key_stays_where_it_is_while_nothing_is_busy() {
        let mut bounded = bounded(1.25, 10);
        let home = bounded.pick(42, &[], |_| 0);
        assert!((0..100).all(|_| bounded.pick(42, &[], |_| 0) == home));
    }

    #[test]
    fn a_hot_key_spills_over_at_the_bound() {
        // Many endpoints, too: what is next to the key is filled, and not more than filled.
        for endpoints in [10, 100] {
            let mut bounded = bounded(1.25, endpoints);
            let loads = RefCell::new(vec![0u32; endpoints as usize]);
            for _ in 0..endpoints * 40 {
                let slot = bounded.pick(42, &[], |slot| loads.borrow()[slot as usize]).unwrap();
                loads.borrow_mut()[slot as usize] += 1;
            }
            let most = *loads.borrow().iter().max().unwrap();
            assert!(most <= 50, "{loads:?}");
        }
        // Without a bound all of them go to one.
        let mut unbounded = self::bounded(0.0, 10);
        let home = unbounded.pick(42, &[], |_| 1000);
        assert!((0..100).all(|_| unbounded.pick(42, &[], |_| 1000) == home));
    }

    #[test]
    fn the_sum_follows_what_ends() {
        let mut bounded = bounded(1.25, 10);
        for number in 0..1000 {
            bounded.pick(number << 54, &[], |_| 100);
        }
        assert!((900..1100).contains(&bounded.sum), "{}", bounded.sum);
        for number in 0..100 {
            bounded.pick(number << 57, &[], |_| 0);
        }
        assert!(bounded.sum < 20, "{}", bounded.sum);
    }

    #[test]
    fn a_retry_walks_on() {
        for bound in [0.0, 1.25] {
            let mut bounded = bounded(bound, 3);
            let first = bounded.pick(9, &[], |_| 0).unwrap();
            let second = bounded.pick(9, &[first], |_| 0).unwrap();
            let third = bounded.pick(9, &[first, second], |_| 0).unwrap();
            let mut all = [first, second, third];
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
            assert_eq!(bounded.pick(9, &[0, 1, 2], |_| 0), Some(first));
            assert_eq!(self::bounded(bound, 0).pick(9, &[], |_| 0), None);
        }
    }

    #[test]
    fn when_all_are_busy_the_least_busy_is_taken() {
        let mut bounded = bounded(1.0, 3);
        assert_eq!(bounded.pick(9, &[], |slot| 1000 - slot), Some(2));
    }
}
