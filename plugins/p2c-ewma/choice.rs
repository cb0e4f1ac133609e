//! Which of two.

use fastrand::Rng;
use guest::weighted::Weighted;

use crate::witgate::selector::load::Statistics;

type Slot = u32;

/// Draws before two endpoints are taken although one of them fails too often.
const DRAWS: usize = 3;
/// The share of requests that must succeed for a draw to count.
const HEALTHY: f32 = 0.5;
/// After so long without a request an endpoint gets one, whatever its load: one second, in nanoseconds.
const STALE: u64 = 1_000_000_000;
/// An endpoint that never succeeds is taken for one that succeeds once in a hundred times, to have a finite load.
const WORST: f64 = 0.01;

/// The candidates, and the chance that draws among them.
pub struct Choice {
    pub candidates: Weighted,
    random: Rng,
    /// What cannot be drawn any more in this pick. Kept, so that a pick allocates nothing.
    out: Vec<Slot>,
}

impl Choice {
    pub fn new(random: Rng) -> Choice {
        Choice { candidates: Weighted::default(), random, out: Vec::new() }
    }

    /// The better one of two, avoiding `tried` where there is a choice. None when there are no candidates.
    pub fn pick(
        &mut self,
        tried: &[Slot],
        statistics: impl Fn(Slot, Slot) -> (Statistics, Statistics),
    ) -> Option<Slot> {
        self.out.clear();
        self.out.extend_from_slice(tried);
        for draw in 1..=DRAWS {
            let Some(a) = self.draw() else {
                // All were tried. Trying one again is better than giving up.
                return self.candidates.draw(&mut self.random, &[]);
            };
            self.out.push(a);
            let Some(b) = self.draw() else { return Some(a) };
            self.out.truncate(tried.len());
            let (of_a, of_b) = statistics(a, b);
            let (a, b) = (self.seen(a, of_a), self.seen(b, of_b));
            // Of two endpoints, three draws are the same two.
            let again = draw < DRAWS && self.candidates.len() > 2;
            if !again || (a.statistics.success > HEALTHY && b.statistics.success > HEALTHY) {
                return Some(better(&a, &b).slot);
            }
        }
        unreachable!("the last draw returns")
    }

    fn draw(&mut self) -> Option<Slot> {
        self.candidates.draw(&mut self.random, &self.out)
    }

    fn seen(&self, slot: Slot, statistics: Statistics) -> Seen {
        let weight = f64::from(self.candidates.weight(slot)) / self.candidates.mean_weight();
        Seen { slot, weight, statistics }
    }
}

/// One of the two.
struct Seen {
    slot: Slot,
    /// Relative to the mean.
    weight: f64,
    statistics: Statistics,
}

impl Seen {
    fn load(&self, other: &Seen) -> f64 {
        let latency = if self.statistics.latency == 0 { other } else { self }.statistics.latency as f64;
        let waiting = f64::from(self.statistics.in_flight) / self.weight;
        (latency + 1.0).sqrt() * (waiting + 1.0) / f64::from(self.statistics.success).max(WORST)
    }
}

fn better<'a>(a: &'a Seen, b: &'a Seen) -> &'a Seen {
    let (winner, loser) = if a.load(b) <= b.load(a) { (a, b) } else { (b, a) };
    if loser.statistics.idle > STALE { loser } else { winner }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn choice(weights: &[u32]) -> Choice {
        let mut choice = Choice::new(Rng::with_seed(11));
        (0..).zip(weights).for_each(|(slot, weight)| choice.candidates.put(slot, *weight));
        choice
    }

    fn fine(latency: u64) -> Statistics {
        Statistics { in_flight: 0, latency, success: 1.0, idle: 0 }
    }

    fn of(statistics: &[Statistics]) -> impl Fn(Slot, Slot) -> (Statistics, Statistics) {
        |a, b| (statistics[a as usize], statistics[b as usize])
    }

    fn share(choice: &mut Choice, slot: Slot, statistics: &[Statistics]) -> f64 {
        let picks = 4000;
        let hits = (0..picks).filter(|_| choice.pick(&[], of(statistics)) == Some(slot)).count();
        hits as f64 / f64::from(picks)
    }

    #[test]
    fn of_two_the_faster() {
        assert_eq!(share(&mut choice(&[1, 1]), 1, &[fine(20 * MS), fine(5 * MS)]), 1.0);
    }

    #[test]
    fn load_is_that_of_go_zero_when_weights_are_equal() {
        let seen =
            |in_flight| Seen { slot: 0, weight: 1.0, statistics: Statistics { in_flight, ..fine(99) } };
        assert_eq!(seen(3).load(&seen(0)), 40.0);
    }

    #[test]
    fn a_newcomer_does_not_take_every_request() {
        let newcomer = Statistics { latency: 0, ..fine(0) };
        let share = share(&mut choice(&[1, 1]), 1, &[fine(5 * MS), newcomer]);
        assert!((0.45..0.55).contains(&share), "{share}");
    }

    #[test]
    fn one_that_fails_fast_is_not_fast() {
        let failing = Statistics { success: 0.6, ..fine(4 * MS) };
        assert_eq!(share(&mut choice(&[1, 1]), 1, &[fine(5 * MS), failing]), 0.0);
    }

    #[test]
    fn sick_endpoints_are_drawn_again() {
        let sick = Statistics { success: 0.1, ..fine(5 * MS) };
        let share = share(&mut choice(&[1; 4]), 0, &[sick, fine(5 * MS), fine(5 * MS), fine(5 * MS)]);
        assert!(share < 0.01, "{share}");
    }

    #[test]
    fn one_that_is_idle_for_a_second_gets_a_request() {
        let idle = Statistics { idle: STALE + 1, ..fine(50 * MS) };
        assert_eq!(share(&mut choice(&[1, 1]), 1, &[fine(5 * MS), idle]), 1.0);
    }

    #[test]
    fn equals_share_by_weight() {
        let share = share(&mut choice(&[3, 1, 1, 1]), 0, &[fine(MS); 4]);
        assert!((0.46..0.54).contains(&share), "{share}");
    }

    #[test]
    fn requests_in_flight_count_for_their_weight() {
        let busy = |in_flight| Statistics { in_flight, ..fine(MS) };
        assert_eq!(share(&mut choice(&[10, 1]), 0, &[busy(9), busy(1)]), 1.0);
        assert_eq!(share(&mut choice(&[10, 1]), 0, &[busy(11), busy(1)]), 0.0);
    }

    #[test]
    fn tried_ones_come_last() {
        let (mut choice, equal) = (choice(&[1, 1, 1]), [fine(MS); 3]);
        assert!((0..50).all(|_| choice.pick(&[0, 2], of(&equal)) == Some(1)));
        assert!((0..50).all(|_| choice.pick(&[0], of(&equal)) != Some(0)));
        assert!(choice.pick(&[0, 1, 2], of(&equal)).is_some());
        assert_eq!(self::choice(&[]).pick(&[], of(&equal)), None);
        assert_eq!(self::choice(&[1]).pick(&[], of(&equal)), Some(0));
    }
}
