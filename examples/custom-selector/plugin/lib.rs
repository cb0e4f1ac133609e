//! Prefer zone: endpoints in the zone of the settings, as long as there are any to try.
//!
//! Settings: `{ "zone": "a" }`.

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};

// Reads the WIT text and writes the types and traits used here.
wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(PreferZone);

struct PreferZone;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    zone: String,
}

impl Guest for PreferZone {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings { zone } =
            serde_json::from_str(&settings).map_err(|error| format!("settings of prefer-zone: {error}"))?;
        let state = State { zone, turns: RefCell::default() };
        // Nothing of a request matters here. A selector that hashes one of its headers would say so in `hash_on`.
        Ok(Created { balancer: Balancer::new(state), hash_on: None, attributes: Vec::new() })
    }
}

/// One upstream in one worker.
struct State {
    zone: String,
    /// There is never more than one call at a time, so a `RefCell` is all the protection needed.
    turns: RefCell<Turns>,
}

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let mut turns = self.turns.borrow_mut();
        for change in changes {
            match change {
                CandidateChange::Reset(all) => {
                    *turns = Turns::default();
                    all.into_iter().for_each(|candidate| turns.put(candidate, &self.zone));
                }
                CandidateChange::Put(candidate) => turns.put(candidate, &self.zone),
                CandidateChange::Remove(slot) => turns.remove(slot),
            }
        }
    }

    fn pick(&self, request: Request) -> Option<u32> {
        let mut turns = self.turns.borrow_mut();
        let tried = request.tried.unwrap_or_default();
        let untried = |turn: &Turn| !tried.contains(&turn.slot);
        turns
            .next(|turn| turn.near && untried(turn))
            .or_else(|| turns.next(untried))
            // All were tried: better the same one again than none.
            .or_else(|| turns.next(|_| true))
    }
}

/// Smooth weighted round robin, as nginx does it.
#[derive(Default)]
struct Turns(Vec<Turn>);

struct Turn {
    slot: u32,
    weight: i64,
    near: bool,
    /// Grows by the weight while others have their turn.
    credit: i64,
}

impl Turns {
    fn put(&mut self, candidate: Candidate, zone: &str) {
        self.remove(candidate.slot);
        let weight = i64::from(candidate.weight);
        let near = candidate.zone.as_deref() == Some(zone);
        // A random start, or the workers would all begin with the same endpoint.
        let credit = fastrand::i64(0..=weight);
        self.0.push(Turn { slot: candidate.slot, weight, near, credit });
    }

    fn remove(&mut self, slot: u32) {
        self.0.retain(|turn| turn.slot != slot);
    }

    /// Whose turn it is among those that suit.
    fn next(&mut self, suits: impl Fn(&Turn) -> bool) -> Option<u32> {
        let mut total = 0;
        let mut chosen: Option<&mut Turn> = None;
        for turn in self.0.iter_mut().filter(|turn| suits(turn)) {
            turn.credit += turn.weight;
            total += turn.weight;
            if chosen.as_ref().is_none_or(|chosen| turn.credit > chosen.credit) {
                chosen = Some(turn);
            }
        }
        let chosen = chosen?;
        chosen.credit -= total;
        Some(chosen.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(slot: u32, weight: u32, zone: &str) -> Candidate {
        let (key, zone) = (format!("10.0.0.{slot}:80"), Some(zone.to_owned()));
        Candidate { slot, weight, key, zone, labels: Vec::new() }
    }

    fn state() -> State {
        let state = State { zone: "a".to_owned(), turns: RefCell::default() };
        let all = vec![candidate(0, 1, "a"), candidate(1, 3, "a"), candidate(2, 1, "b")];
        state.update(vec![CandidateChange::Reset(all)]);
        state
    }

    fn pick(state: &State, tried: &[u32]) -> Option<u32> {
        state.pick(Request { hash: None, attempt: 0, tried: Some(tried.to_vec()), attributes: None })
    }

    #[test]
    fn the_own_zone_has_all_requests_by_weight() {
        let state = state();
        let mut counts = [0i32; 3];
        (0..400).for_each(|_| counts[pick(&state, &[]).unwrap() as usize] += 1);
        // The random start is worth one turn at most.
        assert!((counts[0] - 100).abs() <= 1 && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn the_other_zone_steps_in_when_the_own_is_tried_or_gone() {
        let state = state();
        assert_eq!(pick(&state, &[0, 1]), Some(2));
        state.update(vec![CandidateChange::Remove(0), CandidateChange::Remove(1)]);
        assert_eq!(pick(&state, &[]), Some(2));
        assert_eq!(pick(&state, &[2]), Some(2));
        state.update(vec![CandidateChange::Reset(Vec::new())]);
        assert_eq!(pick(&state, &[]), None);
    }
}
