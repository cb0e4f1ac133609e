//! Well behaved: always the highest slot, so a test sees which plugin is live.

use std::cell::RefCell;
use std::collections::BTreeSet;

use exports::witgate::selector::selector::{
    Balancer, CandidateChange, Created, Guest, GuestBalancer, Request,
};

wit_bindgen::generate!({ path: "../../../wit", world: "selector-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Balancer = State;

    fn create(_: String) -> Result<Created, String> {
        Ok(Created {
            balancer: Balancer::new(State(RefCell::default())),
            hash_on: None,
            attributes: Vec::new(),
        })
    }
}

/// The slots that may be picked.
struct State(RefCell<BTreeSet<u32>>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let mut slots = self.0.borrow_mut();
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
        self.0.borrow().last().copied()
    }
}
