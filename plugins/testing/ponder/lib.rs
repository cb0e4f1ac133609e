//! Picks the lowest slot, and computes for so many milliseconds (default 0) in `create`, in `update` for a list and for
//! changes, and when a balancer is dropped.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

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
    create_ms: u64,
    #[serde(default)]
    list_ms: u64,
    #[serde(default)]
    change_ms: u64,
    #[serde(default)]
    drop_ms: u64,
}

impl Guest for Plugin {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let settings: Settings = guest::settings::read(&settings)?;
        ponder(settings.create_ms);
        let state = State { settings, slots: RefCell::default() };
        Ok(Created { balancer: Balancer::new(state), hash_on: None, attributes: Vec::new() })
    }
}

struct State {
    settings: Settings,
    slots: RefCell<BTreeSet<u32>>,
}

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let is_list = matches!(changes.first(), Some(CandidateChange::Reset(_)));
        ponder(if is_list { self.settings.list_ms } else { self.settings.change_ms });
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
        self.slots.borrow().first().copied()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        ponder(self.settings.drop_ms);
    }
}

fn ponder(milliseconds: u64) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(milliseconds) {
        std::hint::spin_loop();
    }
}
