//! Routes of connections whose bytes are passed on as they are.

use std::sync::Arc;

use crate::{
    config::{
        check::Checker,
        file,
        running::{NameFrom, TcpRoute},
    },
    document::Way,
};

/// What says something of requests, of which nobody knows here.
const KEYS: [&str; 15] = [
    "host",
    "path",
    "header",
    "strip_prefix",
    "repeatable",
    "request_headers",
    "response_headers",
    "upstream_host",
    "redirect",
    "max_body_bytes",
    "rate",
    "service_header",
    "grpc_web",
    "timeouts.response_ms",
    "timeouts.request_ms",
];

impl Checker<'_> {
    pub(super) fn tcp_route(
        &mut self,
        way: &Way,
        route: &file::Route,
        listeners: &[file::Listener],
    ) -> Option<TcpRoute> {
        self.none_of(
            way,
            &KEYS,
            "this is for requests of HTTP, and the listener takes any connection",
            "a route of a listener with `protocol = \"tcp\"` has `sni` at most",
        );
        let listeners = self.listener_names(&way.key("listener"), route.listener.as_slice(), listeners);
        let sni = route.sni.as_ref().map(|name| self.host(&way.key("sni"), name));
        let (target, retries) = self.carried_target(
            way,
            route,
            NameFrom::Sni,
            "write `upstream`, or `registry` to take the name of the service from what clients ask for in TLS",
        );
        let sni = match sni {
            Some(sni) => Some(sni?),
            None => None,
        };
        Some(TcpRoute { name: way.to_string().into(), listeners, sni, retries, target: target? })
    }

    /// Records a key that only such routes have.
    pub(super) fn nothing_of_tcp(&mut self, way: &Way) {
        let at = way.key("sni");
        if self.document.has(&at) {
            self.wrong_key(&at, "this is for the connections of a listener with `protocol = \"tcp\"`")
                .hint("name such a listener in `listener`; requests have `host`");
        }
    }
}

/// Whether every connection that would take the second route takes the first.
pub(super) fn takes_all(first: &TcpRoute, second: &TcpRoute) -> bool {
    let names = |route: &TcpRoute| {
        let mut names: Vec<Arc<str>> = route.listeners.clone();
        names.sort();
        names
    };
    first.sni == second.sni && names(first) == names(second)
}
