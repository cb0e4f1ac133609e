//! Picks slot 0 `after` times (default 0), then picks a slot that nobody offered.

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use guest::fuse::Fuse;

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let state = State(Fuse::read(&settings)?);
        Ok(Created { balancer: Balancer::new(state), hash_on: None, attributes: Vec::new() })
    }
}

struct State(Fuse);

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {}

    fn pick(&self, _: Request) -> Option<u32> {
        if self.0.has_burnt() {
            return Some(4_000_000_000);
        }
        Some(0)
    }
}
