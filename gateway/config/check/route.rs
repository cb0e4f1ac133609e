//! Routes: what a request must be, and where it goes then.

mod by_name;
mod carried;
mod grpc_web;
mod heads;
mod matches;
mod redirect;
mod rpcx;
mod tcp;

use std::{collections::BTreeMap, sync::Arc};

use super::Checker;
use crate::{
    config::{
        file,
        running::{ListenerProtocol, Matches, Route, RouteTimeouts, RpcxRoute, Target, TcpRoute},
    },
    document::{Part, TextOr, Way, similar},
    upstream::UpstreamName,
};

/// More than anybody splits traffic into.
const LARGEST_SHARE: u64 = 1_000_000;

/// A limit beyond it is none.
const LARGEST_BODY: u64 = 1 << 50;

/// The routes of a configuration, by what takes them.
#[derive(Default)]
pub(super) struct Routes {
    pub requests: Vec<Route>,
    /// Those whose bytes are passed on as they are.
    pub connections: Vec<TcpRoute>,
    /// Those of rpcx.
    pub calls: Vec<RpcxRoute>,
}

impl Routes {
    fn targets(&self) -> Vec<(Arc<str>, Target)> {
        let of_requests = self.requests.iter().map(|route| (&route.name, &route.target));
        let of_connections = self.connections.iter().map(|route| (&route.name, &route.target));
        let of_calls = self.calls.iter().map(|route| (&route.name, &route.target));
        let all = of_requests.chain(of_connections).chain(of_calls);
        all.map(|(name, target)| (name.clone(), target.clone())).collect()
    }
}

impl Checker<'_> {
    pub(super) fn routes(&mut self, routes: &[file::Route], listeners: &[file::Listener]) -> Routes {
        let way = Way::default().key("route");
        let mut made = Routes::default();
        for (index, route) in routes.iter().enumerate() {
            let way = way.index(index);
            if carried::is_for(route, listeners, ListenerProtocol::Tcp) {
                let Some(route) = self.tcp_route(&way, route, listeners) else { continue };
                if let Some(first) = made.connections.iter().find(|other| tcp::takes_all(other, &route)) {
                    self.gets_none(&way, &first.name, "connections");
                }
                self.agrees(&way, &route.target, made.targets());
                made.connections.push(route);
                continue;
            }
            self.nothing_of_tcp(&way);
            if carried::is_for(route, listeners, ListenerProtocol::Rpcx) {
                let Some(route) = self.rpcx_route(&way, route, listeners) else { continue };
                if let Some(first) = made.calls.iter().find(|other| rpcx::takes_all(other, &route)) {
                    self.gets_none(&way, &first.name, "calls");
                }
                self.agrees(&way, &route.target, made.targets());
                made.calls.push(route);
                continue;
            }
            let Some(route) = self.route(&way, route, listeners) else { continue };
            if let Some(first) = made.requests.iter().find(|other| takes_all(other, &route)) {
                self.gets_none(&way, &first.name, "requests");
            }
            self.agrees(&way, &route.target, made.targets());
            if let Some(last) = redirect::leads_back(&made.requests, &route) {
                let message = match last.name == route.name {
                    true => "this leads to where the request is already".to_owned(),
                    false => format!("requests go round in a circle: {} leads back to this one", last.name),
                };
                self.wrong_key(&way.key("redirect"), message);
            }
            made.requests.push(route);
        }
        self.listeners_lead_somewhere(listeners, &made);
        made
    }

    fn gets_none(&mut self, way: &Way, first: &str, what: &str) {
        self.wrong_key(way, format!("{first} matches the same {what}, so this route gets none"));
    }

    /// A service is treated in one way, whichever of the routes before this one finds it.
    fn agrees(&mut self, way: &Way, target: &Target, others: Vec<(Arc<str>, Target)>) {
        let first = others.iter().find(|(_, other)| by_name::same_registry(other, target));
        if let Some((first, _)) = first.filter(|(_, first)| by_name::disagree(first, target)) {
            let message = format!("{first} finds services of the same registry with other settings");
            self.wrong_key(way, message).hint(
                "a service has one set of settings, however it was found: write the same in both routes, or \
                 give one of them a registry table of its own",
            );
        }
    }

    fn route(&mut self, way: &Way, route: &file::Route, listeners: &[file::Listener]) -> Option<Route> {
        let matches = self.matches(way, route, listeners);
        let target = self.target(way, route);
        let no_prefix = matches.as_ref().is_some_and(|matches| &*matches.path == "/");
        if route.strip_prefix && no_prefix && !by_name::in_path(route) {
            self.wrong_key(&way.key("strip_prefix"), "there is no prefix to strip")
                .hint("write the prefix as `path`");
        }
        let timeouts = self.route_timeouts(&way.key("timeouts"), &route.timeouts);
        // Where the services are found by name it is theirs, and checked with the rest of them.
        let retries = match self.finds_by_name(way, route) {
            true => None,
            false => route.retries.as_ref().map(|retries| self.retries(&way.key("retries"), Some(retries))),
        };
        let heads = self.heads(way, route);
        if let Some(most) = route.max_body_bytes {
            self.count(&way.key("max_body_bytes"), most, 0..=LARGEST_BODY);
        }
        let grpc_web = route.grpc_web.as_ref().map(|web| self.grpc_web(&way.key("grpc_web"), web));
        let rate = route.rate.as_ref().and_then(|rate| self.rate(&way.key("rate"), rate));
        Some(Route {
            name: way.to_string().into(),
            matches: matches?,
            strip_prefix: route.strip_prefix,
            timeouts,
            retries,
            repeatable: route.repeatable,
            heads: heads?,
            max_body: route.max_body_bytes,
            // The outer absence is nothing written, the inner one a mistake.
            grpc_web: grpc_web.map_or(Some(None), |web| web.map(Some))?,
            rate,
            target: target?,
        })
    }

    /// The times that a request has however its upstream was found.
    fn route_timeouts(&mut self, way: &Way, timeouts: &file::RouteTimeouts) -> RouteTimeouts {
        let mut limit = |key, limit: Option<u64>| limit.map(|limit| self.limit_ms(&way.key(key), limit));
        RouteTimeouts {
            response: limit("response_ms", timeouts.response_ms),
            idle: limit("idle_ms", timeouts.idle_ms),
            request: limit("request_ms", timeouts.request_ms),
        }
    }

    fn target(&mut self, way: &Way, route: &file::Route) -> Option<Target> {
        if self.mentions(&way.key("redirect")) {
            return self.redirect(way, route);
        }
        let at = way.key("upstream");
        let named = self.mentions(&at);
        match (self.finds_by_name(way, route), named) {
            (true, false) => return self.by_name(way, route).map(Target::ByName),
            (true, true) => {
                self.wrong_key(&at, "the request names the service, so there can be no `upstream`");
                return None;
            }
            (false, false) => {
                self.wrong(way, "this route leads nowhere").hint(
                    "write `upstream` or `redirect`, or take the name of a service from the path (`/svc/{service}`) or \
                     from a header (`service_header`)",
                );
                return None;
            }
            (false, true) => self.nothing_of_by_name(way),
        }
        self.upstream_of(way, route)
    }

    fn upstream_of(&mut self, way: &Way, route: &file::Route) -> Option<Target> {
        let at = way.key("upstream");
        match route.upstream.as_ref()? {
            TextOr::Text(name) => self.upstream_name(&at, name, Part::Value).map(Target::Upstream),
            TextOr::Table(shares) => self.shares(&at, shares),
        }
    }

    fn finds_by_name(&self, way: &Way, route: &file::Route) -> bool {
        by_name::in_path(route) || self.mentions(&way.key("service_header"))
    }

    fn shares(&mut self, way: &Way, shares: &BTreeMap<String, u64>) -> Option<Target> {
        if shares.is_empty() {
            // It may be empty because all its values were of the wrong kind.
            if self.document.is_empty_table(way) {
                self.wrong(way, "this must name an upstream");
            }
            return None;
        }
        let shares: Vec<_> =
            shares.iter().map(|(name, share)| self.share(&way.key(name), name, *share)).collect();
        shares.into_iter().collect::<Option<_>>().map(Target::Weighted)
    }

    fn share(&mut self, way: &Way, name: &str, share: u64) -> Option<(UpstreamName, u32)> {
        let name = self.upstream_name(way, name, Part::Key);
        match share {
            0 => {
                self.wrong(way, "a share of 0 gets no request").hint("take the upstream out of the table");
            }
            share => {
                self.count(way, share, 1..=LARGEST_SHARE);
            }
        }
        Some((name?, share as u32))
    }

    fn upstream_name(&mut self, way: &Way, name: &str, part: Part) -> Option<UpstreamName> {
        let known = self.document.keys("upstream")?;
        if !known.iter().any(|known| known == name) {
            let hint = similar::hint(name, known.iter().map(String::as_str));
            self.wrong_part(part, way, format!("there is no upstream `{name}`")).hint_if_any(hint);
            return None;
        }
        Some(UpstreamName::new(name))
    }
}

/// Whether every request that would take the second route takes the first. A redirect leaves those that are where it
/// leads to.
fn takes_all(first: &Route, second: &Route) -> bool {
    let redirects = |route: &Route| matches!(route.target, Target::Redirect(_));
    same(&first.matches, &second.matches) && (!redirects(first) || redirects(second))
}

/// Whether every request that matches one matches the other.
fn same(a: &Matches, b: &Matches) -> bool {
    let sorted = |matches: &Matches| {
        let mut listeners = matches.listeners.clone();
        listeners.sort();
        listeners
    };
    // Headers come from a table, and so in one order.
    a.host == b.host && a.path == b.path && a.headers == b.headers && sorted(a) == sorted(b)
}
