//! P2C with EWMA: of two endpoints drawn by chance, the one that is expected to answer sooner.
//!
//! The rule is that of go-zero's `p2c_ewma` balancer, so a fleet keeps its behaviour when the gateway takes over:
//!
//! - the load of an endpoint is `sqrt(latency + 1) * (in flight + 1)`, with latency the decaying average in ns,
//! - two different endpoints are drawn, up to three times until both have succeeded more often than not,
//! - the one with the lower load is picked, unless the other has had no request for a second: then that one, so that
//!   what is known of it does not grow old.
//!
//! It differs in these points, on purpose:
//!
//! - Weights count. Endpoints are drawn in proportion to weight, and requests in flight are compared for their weight
//!   (relative to the mean, so with equal weights the formula is go-zero's).
//! - An endpoint without a sample takes the latency of the other one. In go-zero its latency is 0, and a newcomer
//!   wins every comparison until its first answer.
//! - Load is divided by the share of requests that succeed: an endpoint that fails fast is not a fast endpoint.
//! - Statistics belong to the gateway and outlive a change of the list. In go-zero every change resets them all.
//!
//! There are no settings.
//!
//! For plugin authors: everything about an endpoint's behaviour is asked of the gateway when it is needed, which is
//! once per pick as a rule, for both endpoints. A plugin keeps only the candidates.

mod choice;
#[cfg(test)]
mod compared;

use std::cell::RefCell;

use choice::Choice;
use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use fastrand::Rng;
use witgate::selector::load;

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(P2cEwma);

struct P2cEwma;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Guest for P2cEwma {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings {} = guest::settings::read(&settings)?;
        let balancer = Balancer::new(State(RefCell::new(Choice::new(Rng::new()))));
        Ok(Created { balancer, hash_on: None, attributes: Vec::new() })
    }
}

struct State(RefCell<Choice>);

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
        self.0.borrow_mut().pick(request.tried.as_deref().unwrap_or_default(), load::both)
    }
}
