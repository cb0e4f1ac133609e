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
use std::collections::BTreeMap;
use std::time::Duration;

use exports::witgate::plugin::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::{Entry, identified};

wit_bindgen::generate!({ path: "../../wit", world: "registry-plugin" });

export!(Static);

struct Static;

/// Exactly one of the two is given.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    services: Option<BTreeMap<String, Vec<Entry>>>,
    #[serde(alias = "Endpoints")]
    endpoints: Option<Vec<Entry>>,
}

enum Lists {
    ByService(BTreeMap<String, Vec<Entry>>),
    One(Vec<Entry>),
}

impl Lists {
    fn read(settings: &str) -> Result<Lists, String> {
        match guest::settings::read(settings)? {
            Settings { services: Some(services), endpoints: None } => Ok(Lists::ByService(services)),
            Settings { services: None, endpoints: Some(endpoints) } => Ok(Lists::One(endpoints)),
            Settings { services: None, endpoints: None } => {
                Err("settings: services: missing, and endpoints, too; give one of them".to_owned())
            }
            _ => Err("settings: services and endpoints are both given; give one of them".to_owned()),
        }
    }

    fn of(self, service: &str) -> Vec<Entry> {
        match self {
            Lists::ByService(mut services) => services.remove(service).unwrap_or_default(),
            Lists::One(entries) => entries,
        }
    }
}

impl Guest for Static {
    type Subscription = List;

    fn check(settings: String) -> Result<(), String> {
        Lists::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let entries = Lists::read(&settings).map_err(Failure::Invalid)?.of(&service);
        let endpoints = identified(entries)
            .map(|(id, Entry { address, weight, labels })| Endpoint { id, address, weight, labels })
            .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(settings: &str, service: &str) -> Vec<String> {
        let entries =
            Lists::read(settings).map(|lists| lists.of(service)).unwrap_or_else(|error| panic!("{error}"));
        entries.into_iter().map(|entry| entry.address).collect()
    }

    #[test]
    fn a_service_has_its_own_list() {
        let settings = r#"{"services":{"orders":["a:1","tcp@b:2"],"users":[]}}"#;
        assert_eq!(addresses(settings, "orders"), ["a:1", "b:2"]);
        assert!(addresses(settings, "users").is_empty());
        assert!(addresses(settings, "nobody").is_empty());
    }

    #[test]
    fn one_list_serves_every_name() {
        assert_eq!(addresses(r#"{"endpoints":["a:1"]}"#, "x"), ["a:1"]);
        assert_eq!(addresses(r#"{"Endpoints":["a:1"]}"#, "y"), ["a:1"]);
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            ("{}", "services: missing"),
            (r#"{"services":{},"endpoints":[]}"#, "both given"),
            (r#"{"services":{"orders":["a"]}}"#, r#"services.orders[0]: "a" has no port"#),
            (r#"{"endpoints":["a:1","b:x"]}"#, r#"endpoints[1]: "x" in "b:x" is no port"#),
            (r#"{"service":{}}"#, "unknown field `service`"),
        ] {
            let error = Lists::read(settings).err().unwrap();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }
}
