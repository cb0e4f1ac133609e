//! Reads its file as `file` does; one that begins with `suspect` it does not believe, and says why: with that line.

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use witgate::file::file::{self, Feed};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Subscription = Following;

    fn check(_: String) -> Result<(), String> {
        Ok(())
    }

    fn follow(_: String, _: String) -> Result<Subscription, Failure> {
        Ok(Subscription::new(Following(file::follow(None)?)))
    }
}

struct Following(Feed);

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let content = self.0.next()?;
        if content.starts_with(b"suspect") {
            return Ok(News::Suspect(String::from_utf8_lossy(&content).trim().to_owned()));
        }
        let entries: Vec<Entry> =
            serde_json::from_slice(&content).map_err(|error| Failure::Invalid(error.to_string()))?;
        let endpoints = entries.iter().map(|entry| guest::endpoint!(entry.address.clone(), entry.clone()));
        Ok(News::Complete(endpoints.collect()))
    }
}
