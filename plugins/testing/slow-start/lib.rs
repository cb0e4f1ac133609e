//! Computes for long while an instance is made, as a runtime that sets itself up does, and for a moment only after that.
//! Picks slot 0.

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

/// Called when an instance is made.
#[unsafe(export_name = "_initialize")]
pub extern "C" fn initialize() {
    for number in 0..500_000_000u64 {
        std::hint::black_box(number);
    }
}

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(_: String) -> Result<Created, String> {
        Ok(Created { balancer: Balancer::new(State), hash_on: None, attributes: Vec::new() })
    }
}

struct State;

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {}

    fn pick(&self, _: Request) -> Option<u32> {
        Some(0)
    }
}
