//! Routes of calls of rpcx.

use std::sync::Arc;

use crate::{
    config::{
        check::Checker,
        file,
        running::{NameFrom, RpcxRoute},
    },
    document::Way,
};

/// What says something of requests of HTTP.
const KEYS: [&str; 14] = [
    "host",
    "path",
    "header",
    "strip_prefix",
    "request_headers",
    "response_headers",
    "upstream_host",
    "redirect",
    "max_body_bytes",
    "rate",
    "service_header",
    "grpc_web",
    "protocol",
    "timeouts.idle_ms",
];

impl Checker<'_> {
    pub(super) fn rpcx_route(
        &mut self,
        way: &Way,
        route: &file::Route,
        listeners: &[file::Listener],
    ) -> Option<RpcxRoute> {
        self.none_of(
            way,
            &KEYS,
            "this is for requests of HTTP, and the listener takes calls of rpcx",
            "a route of a listener with `protocol = \"rpcx\"` is for all its calls",
        );
        let listeners = self.listener_names(&way.key("listener"), route.listener.as_slice(), listeners);
        let timeouts = self.route_timeouts(&way.key("timeouts"), &route.timeouts);
        let (target, retries) = self.carried_target(
            way,
            route,
            NameFrom::ServicePath,
            "write `registry` to take the name of the service from each call, or `upstream` for all of them",
        );
        Some(RpcxRoute {
            name: way.to_string().into(),
            listeners,
            timeouts,
            retries,
            repeatable: route.repeatable,
            target: target?,
        })
    }
}

/// Whether every call that would take the second route takes the first.
pub(super) fn takes_all(first: &RpcxRoute, second: &RpcxRoute) -> bool {
    let is_taken = |name: &Arc<str>| first.listeners.contains(name);
    second.listeners.iter().all(is_taken)
}
