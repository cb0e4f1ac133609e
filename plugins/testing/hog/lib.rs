//! Allocates until the memory cap ends it: in a pick, or in an update with `{ "in": "update" }`.

use exports::witgate::plugin::selector::{Balancer, CandidateChange, Created, Guest, GuestBalancer, Request};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin" });

export!(Plugin);

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default, rename = "in")]
    place: Place,
}

#[derive(Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    #[default]
    Pick,
    Update,
}

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings { place } = guest::settings::read(&settings)?;
        Ok(Created { balancer: Balancer::new(State(place)), hash_on: None, attributes: Vec::new() })
    }
}

struct State(Place);

impl GuestBalancer for State {
    fn update(&self, _: Vec<CandidateChange>) {
        if self.0 == Place::Update {
            hog();
        }
    }

    fn pick(&self, _: Request) -> Option<u32> {
        if self.0 == Place::Pick {
            hog();
        }
        None
    }
}

fn hog() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}
