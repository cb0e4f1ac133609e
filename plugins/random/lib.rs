//! Random: each request goes to an endpoint drawn by chance, in proportion to its weight.
//!
//! Needs nothing of the requests before, so it stays fair however requests are spread over workers and gateways.
//! There are no settings. A retry draws among the endpoints that the request has not tried yet.
//!
//! For plugin authors: the draw is in `guest/weighted.rs` and costs the same for any number of endpoints.

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use fastrand::Rng;
use guest::weighted::Weighted;

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(Random);

struct Random;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Guest for Random {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings {} = guest::settings::read(&settings)?;
        let state = State(RefCell::new((Weighted::default(), Rng::new())));
        Ok(Created { balancer: Balancer::new(state), hash_on: None, attributes: Vec::new() })
    }
}

struct State(RefCell<(Weighted, Rng)>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let (candidates, _) = &mut *self.0.borrow_mut();
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
        let (candidates, random) = &mut *self.0.borrow_mut();
        candidates
            .draw(random, request.tried.as_deref().unwrap_or_default())
            .or_else(|| candidates.draw(random, &[]))
    }
}
