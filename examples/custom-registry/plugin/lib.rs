//! Lines: a text file with an instance on each line, followed while it changes.
//!
//! ```text
//! # service host:port weight
//! orders 10.0.0.1:8080 2
//! orders 10.0.0.2:8080
//! ```

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use witgate::file::file;
use witgate::registry::types::State;

// Reads the WIT text and writes the types and traits used here.
wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Lines);

struct Lines;

impl Guest for Lines {
    type Subscription = Followed;

    fn check(settings: String) -> Result<(), String> {
        match settings.as_str() {
            "{}" => Ok(()),
            other => Err(format!("settings of lines: there are none, and {other} was given")),
        }
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        Self::check(settings).map_err(Failure::Invalid)?;
        // Which file that is stands in the gateway's configuration. A plugin never learns.
        let feed = file::follow(None)?;
        Ok(Subscription::new(Followed { service, feed }))
    }
}

/// One service in one gateway.
struct Followed {
    service: String,
    feed: file::Feed,
}

impl GuestSubscription for Followed {
    fn next(&self) -> Result<News, Failure> {
        // The first time this is the file as it is. After that it waits until the file has changed, however long.
        let content = self.feed.next()?;
        // A file that makes no sense is a failure and no list: the gateway goes on with the list it has.
        let text = str::from_utf8(&content).map_err(|error| Failure::Invalid(error.to_string()))?;
        instances(text, &self.service).map(News::Complete).map_err(Failure::Invalid)
    }
}

/// The instances of a service.
fn instances(text: &str, service: &str) -> Result<Vec<Endpoint>, String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, address, weight) = match words[..] {
            [] => continue,
            [name, address] => (name, address, "1"),
            [name, address, weight] => (name, address, weight),
            _ => return Err(format!("line {number}: {line:?} is not: service host:port weight")),
        };
        let weight = weight.parse().map_err(|_| format!("line {number}: {weight:?} is no weight"))?;
        if name == service {
            // The id tells the gateway which instance a later change means. Here the address will do.
            let (id, address) = (address.to_owned(), address.to_owned());
            found.push(Endpoint {
                id,
                address,
                weight,
                priority: 0,
                state: State::Ready,
                hostname: None,
                zone: None,
                labels: Vec::new(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Result<Vec<(String, u32)>, String> {
        let found = instances(text, "orders")?;
        Ok(found.into_iter().map(|endpoint| (endpoint.address, endpoint.weight)).collect())
    }

    #[test]
    fn a_service_has_its_lines() {
        let text = "# comment\norders 10.0.0.1:80 2\n\nusers 10.0.0.3:80\norders 10.0.0.2:80 # new\n";
        assert_eq!(addresses(text), Ok(vec![("10.0.0.1:80".into(), 2), ("10.0.0.2:80".into(), 1)]));
        assert_eq!(addresses(""), Ok(vec![]));
    }

    #[test]
    fn a_mistake_names_its_line() {
        assert_eq!(addresses("orders 10.0.0.1:80 two"), Err("line 1: \"two\" is no weight".into()));
        assert!(addresses("\norders").unwrap_err().starts_with("line 2: \"orders\" is not"));
    }
}
