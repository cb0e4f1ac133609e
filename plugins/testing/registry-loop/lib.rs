//! Claims the `endpoints` of its settings and never returns from call `n` of `next` (default 1).

use std::cell::Cell;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    endpoints: Vec<Entry>,
    /// On which call of `next`.
    n: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { endpoints: Vec::new(), n: 1 }
    }
}

impl Guest for Plugin {
    type Subscription = Feed;

    fn check(settings: String) -> Result<(), String> {
        guest::settings::read::<Settings>(&settings).map(drop)
    }

    fn follow(_: String, settings: String) -> Result<Subscription, Failure> {
        let settings: Settings = guest::settings::read(&settings).map_err(Failure::Invalid)?;
        Ok(Subscription::new(Feed { settings, calls: Cell::new(0) }))
    }
}

struct Feed {
    settings: Settings,
    calls: Cell<u32>,
}

impl GuestSubscription for Feed {
    fn next(&self) -> Result<News, Failure> {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        if call >= self.settings.n {
            loop {
                std::hint::spin_loop();
            }
        }
        match call {
            1 => Ok(News::Complete(endpoints(&self.settings.endpoints))),
            _ => Ok(News::Unchanged),
        }
    }
}

/// What is claimed, as `static` reads it; the addresses are the ids.
fn endpoints(entries: &[Entry]) -> Vec<Endpoint> {
    entries.iter().map(|entry| guest::endpoint!(entry.address.clone(), entry.clone())).collect()
}
