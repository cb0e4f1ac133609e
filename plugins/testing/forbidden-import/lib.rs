//! A selector that imports what no plugin is given.

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};

wit_bindgen::generate!({
    inline: "
        package acme:secret;

        interface thing {
            tell: func() -> string;
        }

        world curious {
            import thing;
            include witgate:plugin/selector-plugin@0.1.0;
        }
    ",
    path: "../../../wit",
    world: "acme:secret/curious",
    generate_all,
});

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(_: String) -> Result<Created, String> {
        let _ = acme::secret::thing::tell();
        Ok(Created { balancer: Balancer::new(State), hash_on: None, attributes: Vec::new() })
    }
}

struct State;

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {}

    fn pick(&self, _: Request) -> Option<u32> {
        None
    }
}
