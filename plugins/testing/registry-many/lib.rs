//! Claims `count` endpoints (default 100,000) at once: 10.0.0.0:8080 and up.

use std::cell::Cell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    count: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { count: 100_000 }
    }
}

impl Guest for Plugin {
    type Subscription = Feed;

    fn check(settings: String) -> Result<(), String> {
        guest::settings::read::<Settings>(&settings).map(drop)
    }

    fn follow(_: String, settings: String) -> Result<Subscription, Failure> {
        let settings: Settings = guest::settings::read(&settings).map_err(Failure::Invalid)?;
        Ok(Subscription::new(Feed(Cell::new(Some(settings.count)))))
    }
}

/// How many, until they were told.
struct Feed(Cell<Option<u32>>);

impl GuestSubscription for Feed {
    fn next(&self) -> Result<News, Failure> {
        let Some(count) = self.0.take() else {
            std::thread::sleep(Duration::from_secs(3600));
            return Ok(News::Unchanged);
        };
        Ok(News::Complete((0..count).map(endpoint).collect()))
    }
}

fn endpoint(number: u32) -> Endpoint {
    let address = format!("10.{}.{}.{}:8080", number >> 16 & 255, number >> 8 & 255, number & 255);
    let (priority, state, hostname, zone) = (0, State::Ready, None, None);
    Endpoint { id: address.clone(), address, weight: 1, priority, state, hostname, zone, labels: Vec::new() }
}
