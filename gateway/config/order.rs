//! Which of several routes that match a request is taken.

use std::cmp::Reverse;

use super::running::{Matches, Route, TcpRoute};

/// The most specific first: by host (exact, then the longest wildcard, then any), by the length of the path, by the
/// number of headers, by whether a listener is named; routes that are alike stay in their order.
pub(super) fn most_specific_first(mut routes: Vec<Route>) -> Vec<Route> {
    routes.sort_by_key(|route| rank(&route.matches));
    routes
}

/// The same for connections, by the name that the client asks for.
pub(super) fn most_specific_first_of_tcp(mut routes: Vec<TcpRoute>) -> Vec<TcpRoute> {
    routes.sort_by_key(|route| rank_of_name(route.sni.as_deref()));
    routes
}

fn rank_of_name(name: Option<&str>) -> (u8, Reverse<usize>) {
    match name {
        Some(name) if !name.starts_with("*.") => (0, Reverse(0)),
        Some(name) => (1, Reverse(name.len())),
        None => (2, Reverse(0)),
    }
}

fn rank(matches: &Matches) -> impl Ord + use<> {
    let host = rank_of_name(matches.host.as_deref());
    (host, Reverse(matches.path.len()), Reverse(matches.headers.len()), matches.listeners.is_empty())
}
