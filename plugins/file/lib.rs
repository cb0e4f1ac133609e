//! The registry that is a file: JSON with the endpoints of each service, read again whenever it changes.
//!
//! ```json
//! { "services": { "orders": ["10.0.0.1:8080", { "address": "10.0.0.2:8080", "weight": 2 }] } }
//! ```
//!
//! Which file is the gateway's configuration to say (`file = "endpoints.json"` in the registry's table). How an entry
//! may be written is told in `guest/entries.rs`. A service that the file does not name has no endpoints. A file that
//! does not parse changes nothing: the gateway keeps the list it has and shows line and column of the mistake. There
//! are no settings.
//!
//! For plugin authors: every content is told as `complete`. To find out what that changes is the gateway's business.

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::{Entry, identified};
use guest::lists::ListOf;
use witgate::file::file::{self, Feed};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registry-plugin", generate_all });

export!(File);

struct File;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

impl Guest for File {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        let Settings {} = guest::settings::read(&settings)?;
        Ok(())
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let Settings {} = guest::settings::read(&settings).map_err(Failure::Invalid)?;
        Ok(Subscription::new(Following { feed: file::follow(None)?, service }))
    }
}

struct Following {
    feed: Feed,
    service: String,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let entries = read(&self.feed.next()?, &self.service).map_err(Failure::Invalid)?;
        let endpoints = identified(entries).map(|(id, entry)| guest::endpoint!(id, entry)).collect();
        Ok(News::Complete(endpoints))
    }
}

fn read(content: &[u8], service: &str) -> Result<Vec<Entry>, String> {
    ListOf(service).read(content).map_err(|error| format!("file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_what_the_file_says() {
        let content = br#"{ "services": { "orders": ["a:1", { "address": "b:2", "weight": 3 }] } }"#;
        let entries = read(content, "orders").unwrap();
        assert_eq!(entries.iter().map(|entry| entry.weight).collect::<Vec<_>>(), [1, 3]);
        assert!(read(content, "nobody").unwrap().is_empty());
    }

    #[test]
    fn a_mistake_has_a_line_and_a_column() {
        for (content, error) in [
            ("", "file: EOF while parsing a value at line 1 column 0"),
            ("{ \"services\": {\n  \"orders\": [\"a:1\",] } }", "file: trailing comma at line 2 column 20"),
            ("{ \"services\": {\n  \"orders\": [\"a\"] } }", "file: \"a\" has no port at line 2 column 16"),
            ("{ \"services\": {}", "file: EOF while parsing an object at line 1 column 16"),
        ] {
            assert_eq!(read(content.as_bytes(), "orders").unwrap_err(), error, "{content}");
        }
        assert!(read(b"\xff\xfe", "orders").is_err());
    }
}
