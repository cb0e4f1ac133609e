//! Routes of connections whose bytes are passed on as they are.

use std::sync::Arc;

use super::Routes;
use crate::{
    config::{
        check::{Checker, listen},
        file,
        running::{ListenerProtocol, NameFrom, Target, TcpRoute},
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

/// Whether a route is for listeners that speak this. A route that names no listener is for requests.
pub(super) fn is_for(route: &file::Route, listeners: &[file::Listener], protocol: ListenerProtocol) -> bool {
    let names = route.listener.as_slice();
    let is_named =
        |listener: &&file::Listener| listen::name(listener).is_some_and(|name| names.contains(&name));
    let mut named = listeners.iter().filter(is_named).peekable();
    named.peek().is_some() && named.all(|listener| listen::protocol(listener) == Some(protocol))
}

impl Checker<'_> {
    pub(super) fn tcp_route(
        &mut self,
        way: &Way,
        route: &file::Route,
        listeners: &[file::Listener],
    ) -> Option<TcpRoute> {
        for key in KEYS {
            let at = key.split('.').fold(way.clone(), |at, key| at.key(key));
            if self.document.has(&at) {
                self.wrong_key(&at, "this is for requests of HTTP, and the listener takes any connection")
                    .hint("a route of a listener with `protocol = \"tcp\"` has `sni` at most");
            }
        }
        let listeners = self.listener_names(&way.key("listener"), route.listener.as_slice(), listeners);
        let sni = route.sni.as_ref().map(|name| self.host(&way.key("sni"), name));
        let target = self.tcp_target(way, route);
        let retries = match target {
            Some(Target::ByName(_)) => None,
            _ => route.retries.as_ref().map(|retries| self.retries(&way.key("retries"), Some(retries))),
        };
        let sni = match sni {
            Some(sni) => Some(sni?),
            None => None,
        };
        Some(TcpRoute { name: way.to_string().into(), listeners, sni, retries, target: target? })
    }

    fn tcp_target(&mut self, way: &Way, route: &file::Route) -> Option<Target> {
        match (self.mentions(&way.key("upstream")), self.mentions(&way.key("registry"))) {
            (false, false) => {
                self.wrong(way, "this route leads nowhere")
                    .hint("write `upstream`, or `registry` to take the name of the service from what clients ask for in TLS");
                None
            }
            (false, true) => self.found_by(way, route, Some(NameFrom::Sni)).map(Target::ByName),
            (true, _) => {
                self.nothing_of_by_name(way);
                self.upstream_of(way, route)
            }
        }
    }

    /// Records a key that only such routes have.
    pub(super) fn nothing_of_tcp(&mut self, way: &Way) {
        let at = way.key("sni");
        if self.document.has(&at) {
            self.wrong_key(&at, "this is for the connections of a listener with `protocol = \"tcp\"`")
                .hint("name such a listener in `listener`; requests have `host`");
        }
    }

    /// A listener whose connections, or calls, lead nowhere is a mistake.
    pub(super) fn listeners_lead_somewhere(&mut self, listeners: &[file::Listener], routes: &Routes) {
        for (index, listener) in listeners.iter().enumerate() {
            let Some(name) = listen::name(listener) else { continue };
            let is_named = |named: &[Arc<str>]| named.iter().any(|named| **named == *name);
            let (what, key, leads) = match listen::protocol(listener) {
                Some(ListenerProtocol::Tcp) => (
                    "connections",
                    "upstream",
                    routes.connections.iter().any(|route| is_named(&route.listeners)),
                ),
                Some(ListenerProtocol::Rpcx) => {
                    ("calls", "registry", routes.calls.iter().any(|route| is_named(&route.listeners)))
                }
                Some(ListenerProtocol::Http) | None => continue,
            };
            if !leads {
                let way = Way::default().key("listener").index(index);
                self.wrong(&way, format!("no route is for its {what}"))
                    .hint(format!("write [[route]] with `listener = {name:?}` and `{key}`"));
            }
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
