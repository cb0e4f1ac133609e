//! Least request: of a few endpoints drawn by chance, the one with the fewest requests in flight for its weight.
//!
//! Comparing two drawn at random is nearly as good as comparing all, and does not send every worker to the same
//! endpoint at once (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; Envoy's
//! `LEAST_REQUEST` does the same). Endpoints are drawn in proportion to weight and the first drawn wins a tie, so
//! an idle upstream gets its requests in proportion to weight, too.
//!
//! A failure counts as a slow answer, or an endpoint that fails at once would look idle and draw all requests.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `choices` | 2 | how many are drawn, 1 to 16; each costs a look at its load |
//!
//! For plugin authors: requests in flight come from the gateway (`load.both`), counted over all workers. A plugin
//! could not count them, since it never hears of an answer.

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use fastrand::Rng;
use guest::weighted::Weighted;
use witgate::selector::load;

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(LeastRequest);

struct LeastRequest;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    choices: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { choices: 2 }
    }
}

impl Settings {
    fn read(settings: &str) -> Result<Settings, String> {
        let settings: Settings = guest::settings::read(settings)?;
        match settings.choices {
            1..=16 => Ok(settings),
            wrong => Err(format!("settings: choices: {wrong} is not between 1 and 16")),
        }
    }
}

impl Guest for LeastRequest {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings { choices } = Settings::read(&settings)?;
        let draws = Draws { candidates: Weighted::default(), choices, random: Rng::new(), out: Vec::new() };
        let balancer = Balancer::new(State(RefCell::new(draws)));
        Ok(Created { balancer, hash_on: None, attributes: Vec::new() })
    }
}

struct State(RefCell<Draws>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let candidates = &mut self.0.borrow_mut().candidates;
        for change in changes {
            match change {
                CandidateChange::Reset(all) => {
                    candidates.clear();
                    all.iter().for_each(|Candidate { slot, weight, .. }| candidates.put(*slot, *weight));
                }
                CandidateChange::Put(Candidate { slot, weight, .. }) => candidates.put(slot, weight),
                CandidateChange::Remove(slot) => candidates.remove(slot),
            }
        }
    }

    fn pick(&self, request: Request) -> Option<u32> {
        self.0.borrow_mut().pick(request.tried.as_deref().unwrap_or_default(), |first, second| {
            let (first, second) = load::both(first, second);
            [burden(&first), burden(&second)]
        })
    }
}

/// Nanoseconds without a request after which failures are forgiven, so that an endpoint that works again is found out.
const FORGIVEN: u64 = 1_000_000_000;

/// An endpoint that fails every request counts as if so many were in flight.
const FAILING: f32 = 32.0;

/// Requests in flight, and failures as slow answers: an endpoint that fails at once has nothing in flight, and would draw
/// the requests of all others.
fn burden(load: &load::Statistics) -> u32 {
    let failing = if load.idle < FORGIVEN { (1.0 - load.success) * FAILING } else { 0.0 };
    load.in_flight.saturating_add(failing as u32)
}

struct Draws {
    candidates: Weighted,
    choices: usize,
    random: Rng,
    /// What cannot be drawn any more in this pick. Kept, so that a pick allocates nothing.
    out: Vec<u32>,
}

impl Draws {
    /// Asks for requests in flight by twos, because a call costs more than what it tells.
    fn pick(&mut self, tried: &[u32], in_flight: impl Fn(u32, u32) -> [u32; 2]) -> Option<u32> {
        self.out.clear();
        self.out.extend_from_slice(tried);
        for _ in 0..self.choices {
            let Some(slot) = self.candidates.draw(&mut self.random, &self.out) else { break };
            self.out.push(slot);
        }
        let drawn = &self.out[tried.len()..];
        if drawn.len() < 2 {
            // There is nothing to compare, and where all were tried, one is tried again.
            return drawn.first().copied().or_else(|| self.candidates.draw(&mut self.random, &[]));
        }
        let mut best = None;
        for two in drawn.chunks(2) {
            let loads = in_flight(two[0], two[two.len() - 1]);
            for (slot, load) in two.iter().zip(loads) {
                let (load, weight) = (u64::from(load), u64::from(self.candidates.weight(*slot)));
                // load / weight < best load / best weight, without the division.
                if best.is_none_or(|(_, best, its_weight)| load * its_weight < best * weight) {
                    best = Some((*slot, load, weight));
                }
            }
        }
        best.map(|(slot, ..)| slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(choices: usize, weights: &[u32]) -> Draws {
        let mut candidates = Weighted::default();
        (0..).zip(weights).for_each(|(slot, weight)| candidates.put(slot, *weight));
        Draws { candidates, choices, random: Rng::with_seed(5), out: Vec::new() }
    }

    fn of(in_flight: &[u32]) -> impl Fn(u32, u32) -> [u32; 2] {
        |first, second| [in_flight[first as usize], in_flight[second as usize]]
    }

    #[test]
    fn the_least_loaded_of_an_odd_number_wins() {
        for least in 0..3 {
            let mut loads = [5; 3];
            loads[least as usize] = 4;
            let mut draws = draws(3, &[1, 1, 1]);
            assert!((0..20).all(|_| draws.pick(&[], of(&loads)) == Some(least)));
        }
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        let mut draws = draws(2, &[1, 1]);
        assert!((0..20).all(|_| draws.pick(&[], of(&[3, 2])) == Some(1)));
    }

    #[test]
    fn failures_count_as_requests_in_flight() {
        let load = |in_flight, success, idle| load::Statistics { in_flight, latency: 1, success, idle };
        assert_eq!(burden(&load(3, 1.0, 0)), 3);
        assert_eq!(burden(&load(3, 0.5, 0)), 19);
        assert_eq!(burden(&load(u32::MAX, 0.0, 0)), u32::MAX);
        assert_eq!(burden(&load(0, 0.0, FORGIVEN)), 0, "forgiven for once");
    }

    #[test]
    fn load_counts_for_its_weight() {
        let mut draws = draws(2, &[10, 1]);
        assert!((0..20).all(|_| draws.pick(&[], of(&[9, 1])) == Some(0)));
        assert!((0..20).all(|_| draws.pick(&[], of(&[11, 1])) == Some(1)));
    }

    #[test]
    fn an_idle_upstream_is_used_by_weight() {
        let mut draws = draws(2, &[3, 1]);
        let heavy = (0..4000).filter(|_| draws.pick(&[], of(&[0, 0])) == Some(0)).count();
        assert!((2850..3150).contains(&heavy), "{heavy}");
    }

    #[test]
    fn tried_ones_come_last() {
        let mut draws = draws(4, &[1, 1, 1]);
        assert!((0..20).all(|_| draws.pick(&[0, 2], of(&[0, 1, 2])) == Some(1)));
        assert!(draws.pick(&[0, 1, 2], of(&[0; 3])).is_some());
        assert_eq!(self::draws(2, &[]).pick(&[], of(&[])), None);
    }

    #[test]
    fn settings_say_what_is_wrong() {
        assert_eq!(Settings::read("{}").map(|settings| settings.choices), Ok(2));
        for (settings, error) in [
            (r#"{"choices":0}"#, "settings: choices: 0 is not between 1 and 16"),
            (r#"{"choices":"x"}"#, r#"settings: choices: invalid type: string "x", expected usize"#),
        ] {
            assert_eq!(Settings::read(settings).map(|settings| settings.choices), Err(error.to_owned()));
        }
    }
}
