//! What routes have in common whose listeners carry something else than HTTP.

use std::sync::Arc;

use super::Routes;
use crate::{
    config::{
        check::{Checker, listen},
        file,
        running::{ListenerProtocol, NameFrom, RouteRetries, Target},
    },
    document::Way,
};

/// Whether a route is for listeners that speak this. A route that names no listener is for requests.
pub(super) fn is_for(route: &file::Route, listeners: &[file::Listener], protocol: ListenerProtocol) -> bool {
    let names = route.listener.as_slice();
    let is_named =
        |listener: &&file::Listener| listen::name(listener).is_some_and(|name| names.contains(&name));
    let mut named = listeners.iter().filter(is_named).peekable();
    named.peek().is_some() && named.all(|listener| listen::protocol(listener) == Some(protocol))
}

impl Checker<'_> {
    /// Records the keys that such a route cannot have. Those in tables are written with a dot.
    pub(super) fn none_of(&mut self, way: &Way, keys: &[&str], problem: &str, hint: &str) {
        for key in keys {
            let at = key.split('.').fold(way.clone(), |at, key| at.key(key));
            if self.document.has(&at) {
                self.wrong_key(&at, problem).hint(hint);
            }
        }
    }

    /// Where such a route leads, and its own retries. `nowhere` helps whom has written neither.
    pub(super) fn carried_target(
        &mut self,
        way: &Way,
        route: &file::Route,
        name_from: NameFrom,
        nowhere: &str,
    ) -> (Option<Target>, Option<RouteRetries>) {
        match (self.mentions(&way.key("upstream")), self.mentions(&way.key("registry"))) {
            (false, true) => {
                // Its retries are those of the services, and checked with the rest of them.
                return (self.found_by(way, route, Some(name_from)).map(Target::ByName), None);
            }
            (false, false) => {
                self.wrong(way, "this route leads nowhere").hint(nowhere);
            }
            (true, _) => self.nothing_of_by_name(way),
        }
        let retries = route.retries.as_ref().map(|retries| self.retries(&way.key("retries"), Some(retries)));
        (self.upstream_of(way, route), retries)
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
