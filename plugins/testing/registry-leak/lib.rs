//! Claims the `endpoints` of its settings, and then leaks a mebibyte in each `next`.

use std::cell::Cell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    endpoints: Vec<Entry>,
}

impl Guest for Plugin {
    type Subscription = Feed;

    fn check(settings: String) -> Result<(), String> {
        guest::settings::read::<Settings>(&settings).map(drop)
    }

    fn follow(_: String, settings: String) -> Result<Subscription, Failure> {
        let settings: Settings = guest::settings::read(&settings).map_err(Failure::Invalid)?;
        Ok(Subscription::new(Feed { settings, told: Cell::new(false) }))
    }
}

struct Feed {
    settings: Settings,
    told: Cell<bool>,
}

impl GuestSubscription for Feed {
    fn next(&self) -> Result<News, Failure> {
        if !self.told.replace(true) {
            return Ok(News::Complete(endpoints(&self.settings.endpoints)));
        }
        std::thread::sleep(Duration::from_millis(1));
        std::hint::black_box(vec![1u8; 1 << 20].leak());
        Ok(News::Unchanged)
    }
}

/// What is claimed, as `static` reads it; the addresses are the ids.
fn endpoints(entries: &[Entry]) -> Vec<Endpoint> {
    entries.iter().map(|entry| guest::endpoint!(entry.address.clone(), entry.clone())).collect()
}
