//! The registry that is written down: the lists of endpoints in the settings.
//!
//! ```json
//! { "services": { "orders": ["10.0.0.1:8080", { "address": "10.0.0.2:8080", "weight": 2 }] } }
//! { "endpoints": ["10.0.0.1:8080", "10.0.0.2:8080"] }
//! ```
//!
//! With `services` each service has a list of its own, and a service that is not there has no endpoints. With
//! `endpoints` (or `Endpoints`, as in a go-zero client's configuration) there is one list, whatever name is asked for.
//! How an entry may be written is told in `guest/entries.rs`; rpcx's pairs of key and metadata are among the ways.
//!
//! For plugin authors: the smallest registry there is. `next` says once what is known, and then waits; waiting costs
//! the gateway nothing.

use std::cell::Cell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::identified;
use guest::lists::{ListOf, Lists};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registry-plugin", generate_all });

export!(Static);

struct Static;

impl Guest for Static {
    type Subscription = List;

    fn check(settings: String) -> Result<(), String> {
        guest::settings::read::<Lists>(&settings)?.check_usable()
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let list = ListOf(&service).read(settings.as_bytes());
        let list = list.map_err(|error| Failure::Invalid(format!("settings: {error}")))?;
        let endpoints = identified(list).map(|(id, entry)| guest::endpoint!(id, entry)).collect();
        Ok(Subscription::new(List(Cell::new(Some(endpoints)))))
    }
}

/// The list, until it has been told.
struct List(Cell<Option<Vec<Endpoint>>>);

impl GuestSubscription for List {
    fn next(&self) -> Result<News, Failure> {
        if let Some(endpoints) = self.0.take() {
            return Ok(News::Complete(endpoints));
        }
        std::thread::sleep(Duration::from_secs(3600));
        Ok(News::Unchanged)
    }
}
