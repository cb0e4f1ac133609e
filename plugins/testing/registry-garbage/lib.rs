//! Claims addresses that are none, repeated ids, repeated addresses, and weights of all sizes.
//!
//! Two of its claims make sense: `127.0.0.1:9` and, after the repeated id, `127.0.0.1:10`.

use std::cell::Cell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../../wit", world: "registry-plugin", generate_all });

export!(Plugin);

struct Plugin;

impl Guest for Plugin {
    type Subscription = Feed;

    fn check(_: String) -> Result<(), String> {
        Ok(())
    }

    fn follow(_: String, _: String) -> Result<Subscription, Failure> {
        Ok(Subscription::new(Feed(Cell::new(false))))
    }
}

struct Feed(Cell<bool>);

impl GuestSubscription for Feed {
    fn next(&self) -> Result<News, Failure> {
        if self.0.replace(true) {
            std::thread::sleep(Duration::from_secs(3600));
            return Ok(News::Unchanged);
        }
        let long = "x".repeat(1 << 16);
        let claims = [
            ("a", "", 1),
            ("b", "127.0.0.1", 1),
            ("c", "127.0.0.1:99999", 1),
            ("d", "::1:80", 1),
            ("e", "[::1:80", 1),
            ("f", "http://127.0.0.1:80/", 1),
            ("g", "host name:80", 1),
            ("h", "\u{0}:80", 1),
            ("i", "127.0.0.1:-1", 1),
            ("j", long.as_str(), 1),
            ("same", "127.0.0.1:8", u32::MAX),
            ("same", "127.0.0.1:10", u32::MAX),
            ("", "127.0.0.1:9", 1),
            ("another id", "127.0.0.1:9", u32::MAX),
            (long.as_str(), "127.0.0.1:9", 0),
        ];
        Ok(News::Complete(claims.map(endpoint).to_vec()))
    }
}

fn endpoint((id, address, weight): (&str, &str, u32)) -> Endpoint {
    let labels = vec![(String::new(), id.to_owned()), (String::new(), String::new())];
    let (id, address) = (id.to_owned(), address.to_owned());
    // An id of 64 KiB is a name of that length, too.
    let (hostname, zone) = (Some(id.clone()), Some(String::new()));
    Endpoint { id, address, weight, priority: u32::MAX, state: State::Ready, hostname, zone, labels }
}
