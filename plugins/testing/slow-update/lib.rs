//! Never returns from an update; with settings that say `create`, not from that either.

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        if settings.contains("create") {
            forever();
        }
        Ok(Created { balancer: Balancer::new(State), hash_on: None, attributes: Vec::new() })
    }
}

struct State;

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {
        forever();
    }

    fn pick(&self, _: Request) -> Option<u32> {
        None
    }
}

fn forever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}
