//! Any text at all.

use proptest::prelude::*;

use super::parse;
use crate::{resilience::RetryPolicy, upstream::UpstreamName};

/// Right, and with a bit of everything.
const RIGHT: &str = r#"
workers = 2

[[listener]]
name = "public"
address = "127.0.0.1:8080"
trusted_proxies = ["10.0.0.0/8"]

[admin]
registrations = { address = "127.0.0.1:9902" }

[registry.main]
plugin = "etcd"
etcd = { endpoints = ["127.0.0.1:2379"], tls = { ca_file = "ca.pem" } }
settings = { layout = "go-zero" }

[registry.memory]
plugin = "memory"
memory = true

[upstream.orders]
service = "orders.rpc"
registry = "main"
labels = { version = "2" }
selector = { plugin = "consistent-hash", settings = { key = "header:x-user", bound = 1.25 } }

[upstream.users]
sources = [{ registry = "main", service = "users" }, { registry = "memory", service = "users" }]

[[route]]
listener = ["public"]
host = "*.example.com"
path = "/orders"
header = { x-env = "canary", x-any = true }
upstream = { orders = 9, users = 1 }

[[route]]
path = "/svc/{service}"
registry = "memory"
pattern = "[a-z]+"
"#;

/// Pieces that are more likely to hit something than letters at random.
const PIECES: [&str; 20] = [
    "=",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"",
    "'''",
    "\n",
    ".",
    ",",
    "-1",
    "0",
    "1e400",
    "99999999999999999999",
    "nan",
    "1979-05-27",
    "true",
    "é",
    "\u{0}",
];

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in any::<String>()) {
        let _ = parse(&text).map_err(|problems| problems.to_string());
    }

    #[test]
    fn a_right_text_gone_wrong_is_taken_or_refused_with_places_in_it(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, 0_usize..=PIECES.len()), 1..6),
    ) {
        let mut text: Vec<char> = RIGHT.chars().collect();
        for (at, length, piece) in edits {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, PIECES.get(piece).copied().unwrap_or_default().chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(problems) = parse(&text) {
            prop_assert!(!problems.list().is_empty());
            let lines = text.split('\n').count();
            for problem in problems.list() {
                let (line, column) = problem.place.unwrap_or((1, 1));
                prop_assert!(line <= lines && column >= 1, "{problems}");
            }
        }
    }

    #[test]
    fn a_right_text_says_what_it_says(
        name in "[a-z][a-z0-9._-]{0,20}",
        service in "[ -~&&[^'\\\\]]{1,20}",
        connect in 1_u64..2_592_000_000,
        retries in 0_u32..=10,
        share in 1_u32..=1_000_000,
    ) {
        prop_assume!(!service.trim().is_empty());
        let text = format!(
            "[[listener]]\naddress = '[::1]:80'\n[upstream.'{name}']\nservice = '{service}'\nregistry = 'memory'\n\
             retries = {retries}\ntimeouts = {{ connect_ms = {connect} }}\n[[route]]\nupstream = {{ '{name}' = {share} }}",
        );
        let config = parse(&text).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        let upstream = &config.upstreams[&UpstreamName::new(name.as_str())];
        prop_assert_eq!(&*upstream.sources[0].service, service.as_str());
        prop_assert_eq!(upstream.timeouts.connect.as_millis(), u128::from(connect));
        prop_assert_eq!(upstream.retries, RetryPolicy { most: retries, ..RetryPolicy::default() });
        let shares = crate::config::Target::Weighted(vec![(UpstreamName::new(name.as_str()), share)]);
        prop_assert_eq!(&config.routes[0].target, &shares);
    }
}

#[test]
fn the_right_text_is_right() {
    if let Err(problems) = parse(RIGHT) {
        panic!("{problems}");
    }
}
