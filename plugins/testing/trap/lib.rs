//! Picks the lowest slot `after` times (default 0), then traps on every pick.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    after: u32,
}

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings { after } = guest::settings::read(&settings)?;
        let state = State { slots: RefCell::default(), left: Cell::new(after) };
        Ok(Created { balancer: Balancer::new(state), hash_on: None, attributes: Vec::new() })
    }
}

struct State {
    slots: RefCell<BTreeSet<u32>>,
    /// Picks until the trap.
    left: Cell<u32>,
}

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let mut slots = self.slots.borrow_mut();
        for change in changes {
            match change {
                CandidateChange::Reset(all) => *slots = all.iter().map(|candidate| candidate.slot).collect(),
                CandidateChange::Put(candidate) => {
                    slots.insert(candidate.slot);
                }
                CandidateChange::Remove(slot) => {
                    slots.remove(&slot);
                }
            }
        }
    }

    fn pick(&self, _: Request) -> Option<u32> {
        let left = self.left.get().checked_sub(1).expect("a trap on purpose");
        self.left.set(left);
        self.slots.borrow().first().copied()
    }
}
