//! Inventory: what a web server has under `/services/NAME`, asked for every two seconds.
//!
//! ```json
//! [{ "host": "10.0.0.1", "port": 8080, "rack": "a" }]
//! ```

use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::poll::{Polled, Poller};
use witgate::registry::types::State;

// Reads the WIT text and writes the types and traits used here.
wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Inventory);

struct Inventory;

impl Guest for Inventory {
    type Subscription = Followed;

    fn check(settings: String) -> Result<(), String> {
        match settings.as_str() {
            "{}" => Ok(()),
            other => Err(format!("settings of inventory: there are none, and {other} was given")),
        }
    }

    fn follow(service: String, _: String) -> Result<Subscription, Failure> {
        // Where the server is, and who the gateway is there, stands in the gateway's configuration.
        let poller = Poller::new(&format!("/services/{service}"), Duration::from_secs(2));
        Ok(Subscription::new(Followed(poller.map_err(|failure| guest::failure!(failure))?)))
    }
}

/// One service in one gateway.
struct Followed(Poller);

impl GuestSubscription for Followed {
    fn next(&self) -> Result<News, Failure> {
        // Sends what the server said of the version before, so that a list that is the same costs little.
        Ok(match self.0.next(instances).map_err(|failure| guest::failure!(failure))? {
            Polled::New(list) => News::Complete(list),
            Polled::Same => News::Unchanged,
            // An answer, and not one of an inventory: the gateway goes on with the list it has, and shows why.
            Polled::Suspect(why) => News::Suspect(why),
        })
    }
}

#[derive(serde::Deserialize)]
struct Instance {
    host: String,
    port: u16,
    rack: Option<String>,
}

fn instances(body: &[u8]) -> Result<Vec<Endpoint>, String> {
    let all: Vec<Instance> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let endpoint = |Instance { host, port, rack }: Instance| {
        let address = format!("{host}:{port}");
        Endpoint {
            id: address.clone(),
            address,
            weight: 1,
            priority: 0,
            state: State::Ready,
            hostname: None,
            zone: rack,
            labels: Vec::new(),
        }
    };
    Ok(all.into_iter().map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_is_a_list_of_instances() {
        let list = instances(br#"[{ "host": "a", "port": 80, "rack": "r1" }, { "host": "b", "port": 81 }]"#);
        let list: Vec<_> = list.unwrap().into_iter().map(|one| (one.address, one.zone)).collect();
        assert_eq!(list, [("a:80".to_owned(), Some("r1".to_owned())), ("b:81".to_owned(), None)]);
        assert!(instances(b"<html>").is_err());
    }
}
