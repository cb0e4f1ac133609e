//! Latency weighted: each request goes to an endpoint drawn by chance, the likelier the nearer it is in the network.
//!
//! How near an endpoint is, the time says in which it takes connections of the gateway. The table is that of rpcx's weighting by
//! ICMP, which its author calls experience:
//!
//! | time to connect | weight |
//! |---|---|
//! | up to 10 ms | 191 |
//! | up to 200 ms | 201 less the milliseconds |
//! | longer | 1 |
//!
//! The weight of the registry is multiplied with it. Where rpcx leaves out what takes a second or does not answer, this leaves
//! that to the gateway, which takes out what fails. An endpoint that nobody has connected to yet counts as near: only
//! requests find out how near it is. There are no settings.
//!
//! For plugin authors: what is drawn is looked at, and has its new weight from the next pick on. So a pick costs one look at
//! the gateway's figures however many candidates there are, and one that is drawn often is looked at often.

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use fastrand::Rng;
use guest::weighted::Weighted;
use witgate::selector::load;

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(LatencyWeighted);

struct LatencyWeighted;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Guest for LatencyWeighted {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings {} = guest::settings::read(&settings)?;
        let balancer = Balancer::new(State(RefCell::new(Draws::new(Rng::new()))));
        Ok(Created { balancer, hash_on: None, attributes: Vec::new() })
    }
}

struct State(RefCell<Draws>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let draws = &mut *self.0.borrow_mut();
        let put = |Candidate { slot, weight, .. }: &Candidate, draws: &mut Draws| {
            draws.put(*slot, *weight, load::connect_time(*slot));
        };
        for change in changes {
            match change {
                CandidateChange::Reset(all) => {
                    draws.clear();
                    all.iter().for_each(|candidate| put(candidate, draws));
                }
                CandidateChange::Put(candidate) => put(&candidate, draws),
                CandidateChange::Remove(slot) => draws.remove(slot),
            }
        }
    }

    fn pick(&self, request: Request) -> Option<u32> {
        self.0.borrow_mut().pick(request.tried.as_deref().unwrap_or_default(), load::connect_time)
    }
}

/// What a time to connect weighs, in microseconds; 0 where none is known.
fn worth(connect_time: u64) -> u32 {
    match connect_time / 1_000 {
        0..=10 => 191,
        milliseconds @ 11..=200 => 201 - milliseconds as u32,
        _ => 1,
    }
}

struct Draws {
    candidates: Weighted,
    /// What the registry says, by slot.
    weights: Vec<u32>,
    random: Rng,
}

impl Draws {
    fn new(random: Rng) -> Draws {
        Draws { candidates: Weighted::default(), weights: Vec::new(), random }
    }

    fn clear(&mut self) {
        self.candidates.clear();
        self.weights.clear();
    }

    fn put(&mut self, slot: u32, weight: u32, connect_time: u64) {
        let index = slot as usize;
        if self.weights.len() <= index {
            self.weights.resize(index + 1, 0);
        }
        self.weights[index] = weight;
        self.candidates.put(slot, weight.saturating_mul(worth(connect_time)));
    }

    fn remove(&mut self, slot: u32) {
        self.candidates.remove(slot);
    }

    /// Tried ones come last.
    fn pick(&mut self, tried: &[u32], connect_time: impl Fn(u32) -> u64) -> Option<u32> {
        let Draws { candidates, weights, random } = self;
        let slot = candidates.draw(random, tried).or_else(|| candidates.draw(random, &[]))?;
        let weight = weights[slot as usize].saturating_mul(worth(connect_time(slot)));
        if weight != candidates.weight(slot) {
            candidates.put(slot, weight);
        }
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_rpcx() {
        for (milliseconds, weight) in
            [(0, 191), (10, 191), (11, 190), (100, 101), (199, 2), (200, 1), (201, 1), (999, 1), (60_000, 1)]
        {
            assert_eq!(worth(milliseconds * 1_000), weight, "{milliseconds} ms");
        }
        assert_eq!((worth(10_999), worth(11_000)), (191, 190));
    }

    fn draws(candidates: &[(u32, u64)]) -> Draws {
        let mut draws = Draws::new(Rng::with_seed(5));
        (0..).zip(candidates).for_each(|(slot, (weight, time))| draws.put(slot, *weight, *time));
        draws
    }

    fn share(draws: &mut Draws, of: u32, times: &[u64]) -> f64 {
        let picks = 20_000;
        (0..picks).filter(|_| draws.pick(&[], |slot| times[slot as usize]) == Some(of)).count() as f64
            / f64::from(picks)
    }

    #[test]
    fn the_near_get_more_and_weight_counts_beside() {
        let times = [1_000, 101_000, 500_000];
        let mut draws = draws(&[(1, times[0]), (1, times[1]), (2, times[2])]);
        let all = f64::from(191 + 100 + 2);
        for (slot, weight) in [(0, 191.0), (1, 100.0), (2, 2.0)] {
            let share = share(&mut draws, slot, &times);
            assert!((share - weight / all).abs() < 0.02, "{slot}: {share}");
        }
    }

    #[test]
    fn what_changes_is_taken_up_with_the_next_picks() {
        let mut draws = draws(&[(1, 0), (1, 0)]);
        assert!((share(&mut draws, 0, &[0, 0]) - 0.5).abs() < 0.02);
        assert!(share(&mut draws, 1, &[1_000, 300_000]) < 0.02);
        assert!((share(&mut draws, 1, &[1_000, 1_000]) - 0.5).abs() < 0.05, "it is drawn now and then");
    }

    #[test]
    fn tried_ones_come_last_and_great_weights_do_not_overflow() {
        let mut draws = draws(&[(u32::MAX, 0), (1, 0)]);
        assert_eq!(draws.pick(&[0], |_| 0), Some(1));
        assert!(draws.pick(&[0, 1], |_| 0).is_some());
        draws.remove(0);
        draws.remove(1);
        assert_eq!(draws.pick(&[], |_| 0), None);
    }
}
