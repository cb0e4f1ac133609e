//! Refuses all settings.

use exports::witgate::selector::selector::{CandidateChange, Created, Guest, GuestBalancer, Request};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(_: String) -> Result<Created, String> {
        Err("settings: refused on purpose".to_owned())
    }
}

/// Never made.
enum State {}

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {}

    fn pick(&self, _: Request) -> Option<u32> {
        None
    }
}
