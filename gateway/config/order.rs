//! Which of several routes that match a request is taken.

use std::cmp::Reverse;

use super::running::{Matches, Route};

/// The most specific first: by host (exact, then the longest wildcard, then any), by the length of the path, by the
/// number of headers, by whether a listener is named; routes that are alike stay in their order.
pub(super) fn most_specific_first(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| rank(&route.matches));
    routes
}

fn rank(matches: &Matches) -> impl Ord + use<> {
    let host = match matches.host.as_deref() {
        Some(host) if !host.starts_with("*.") => (0, Reverse(0)),
        Some(host) => (1, Reverse(host.len())),
        None => (2, Reverse(0)),
    };
    (host, Reverse(matches.path.len()), Reverse(matches.headers.len()), matches.listeners.is_empty())
}
