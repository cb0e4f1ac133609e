//! Round robin: the endpoints take turns, each as often as its weight says, and turns of one endpoint are
//! spread out evenly.
//!
//! This is the plugin to copy when you write your own selector. A selector is three functions:
//!
//! 1. `create` reads the settings and makes a balancer. One balancer serves one upstream in one worker.
//! 2. `update` hears which endpoints may be picked, as changes. Do the costly work here: it runs between requests.
//! 3. `pick` answers with the slot of an endpoint. It runs for every request, so it should cost nanoseconds and
//!    the same number of them for ten endpoints and for ten thousand.
//!
//! Everything else is the gateway's business. An endpoint that fails its health checks simply leaves by a change,
//! and comes back by one. What a plugin gets wrong costs it the request: the gateway falls back to a round robin of
//! its own, so a mistake here is a line in the log and not an outage.
//!
//! `lib.rs` speaks the interface of the gateway, and `turns.rs` is the algorithm, which knows nothing of
//! components and is tested like any other Rust. Build it with
//! `cargo build --release --target wasm32-wasip2 -p round-robin`, put the `.wasm` into the gateway's plugin folder,
//! and it is in use.

mod turns;

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use turns::Turns;

// Reads the WIT text and writes the types and traits used below. In a project of your own, copy the gateway's
// `wit` folder and point `path` at it.
wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(RoundRobin);

struct RoundRobin;

/// This selector has no settings, and says so when it is given one.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Guest for RoundRobin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings {} =
            serde_json::from_str(&settings).map_err(|error| format!("settings of round-robin: {error}"))?;
        Ok(Created {
            balancer: Balancer::new(State(RefCell::new(Turns::new(fastrand::Rng::new())))),
            // A selector that looks at the request asks for it here.
            hash_on: None,
            attributes: Vec::new(),
        })
    }
}

/// The gateway never makes two calls at once, so a `RefCell` is all the protection the state needs.
struct State(RefCell<Turns>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let mut turns = self.0.borrow_mut();
        let mut edit = turns.edit();
        for change in changes {
            match change {
                CandidateChange::Reset(candidates) => {
                    edit.clear();
                    for Candidate { slot, weight, .. } in candidates {
                        edit.put(slot, weight);
                    }
                }
                CandidateChange::Put(Candidate { slot, weight, .. }) => edit.put(slot, weight),
                CandidateChange::Remove(slot) => edit.remove(slot),
            }
        }
    }

    fn pick(&self, request: Request) -> Option<u32> {
        self.0.borrow_mut().next(request.tried.as_deref().unwrap_or_default())
    }
}
