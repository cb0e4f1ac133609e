//! Routes that send clients elsewhere.

use std::sync::Arc;

use http::StatusCode;

use super::{by_name, matches::is_host};
use crate::{
    config::{
        check::Checker,
        file,
        running::{Redirect, Route, Scheme, Target},
    },
    document::{Way, similar},
    syntax::authority,
};

/// What says something of requests that are forwarded, or of where to.
const KEYS: [&str; 10] = [
    "upstream",
    "service_header",
    "strip_prefix",
    "timeouts",
    "retries",
    "repeatable",
    "request_headers",
    "upstream_host",
    "max_body_bytes",
    "grpc_web",
];

const STATUSES: [u64; 5] = [301, 302, 303, 307, 308];
const DEFAULT_STATUS: u64 = 308;

impl Checker<'_> {
    pub(super) fn redirect(&mut self, way: &Way, route: &file::Route) -> Option<Target> {
        for key in KEYS.iter().chain(&by_name::KEYS) {
            let at = way.key(key);
            if self.document.has(&at) {
                self.wrong_key(&at, format!("a redirect forwards nothing, so there can be no `{key}`"));
            }
        }
        if by_name::in_path(route) {
            self.wrong(&way.key("path"), "a redirect has no use for the name of a service");
        }
        let (at, redirect) = (way.key("redirect"), route.redirect.as_ref()?);
        let written = ["scheme", "host", "port"].iter().any(|key| self.mentions(&at.key(key)));
        if !written {
            self.wrong_key(&at, "this leads to where the request is already")
                .hint("write `scheme`, `host` or `port`: `{ scheme = \"https\" }`");
        }
        // The outer absence is a mistake, the inner one nothing written.
        let scheme = redirect.scheme.as_ref().map(|text| self.scheme(&at.key("scheme"), text));
        let host = redirect.host.as_ref().map(|text| self.redirect_host(&at.key("host"), text));
        let port =
            redirect.port.map(|port| self.count(&at.key("port"), port, 1..=u64::from(u16::MAX)) as u16);
        let status = self.redirect_status(&at.key("status"), redirect.status.unwrap_or(DEFAULT_STATUS));
        let scheme = scheme.map_or(Some(None), |scheme| scheme.map(Some));
        let host = host.map_or(Some(None), |host| host.map(Some));
        Some(Target::Redirect(Redirect { scheme: scheme?, host: host?, port, status: status? }))
    }

    fn scheme(&mut self, way: &Way, text: &str) -> Option<Scheme> {
        let known = [Scheme::Https, Scheme::Http];
        let scheme = known.into_iter().find(|scheme| scheme.as_str() == text);
        if scheme.is_none() {
            let hint = similar::hint(text, known.map(Scheme::as_str));
            self.wrong(way, format!("{text:?} is no scheme")).hint_if_any(hint);
        }
        scheme
    }

    fn redirect_host(&mut self, way: &Way, text: &str) -> Option<Arc<str>> {
        if is_host(text) {
            return Some(authority::normal(text).into());
        }
        self.wrong(way, format!("{text:?} is no host name"))
            .hint("write a name like `shop.example.com`; a port is written as `port`");
        None
    }

    fn redirect_status(&mut self, way: &Way, status: u64) -> Option<StatusCode> {
        if STATUSES.contains(&status) {
            return StatusCode::from_u16(status as u16).ok();
        }
        self.wrong(way, format!("{status} sends nobody elsewhere")).hint("write 301, 302, 303, 307 or 308");
        None
    }
}

/// Of the routes before this one and itself, the one that leads back to where it begins, as far as hosts tell it.
pub(super) fn leads_back<'r>(made: &'r [Route], route: &'r Route) -> Option<&'r Route> {
    let (from, to) = hop(route)?;
    let (mut last, mut at) = (route, to);
    for _ in 0..=made.len() {
        if at == from {
            return Some(last);
        }
        let alike = made.iter().filter(|other| other.matches.path == route.matches.path);
        (last, at) = alike
            .filter_map(|other| Some((other, hop(other)?)))
            .find_map(|(other, (from, to))| (from == at).then_some((other, to)))?;
    }
    None
}

/// From which host a redirect leads to which, for whatever else is in the request.
fn hop(route: &Route) -> Option<(&str, &str)> {
    let Target::Redirect(Redirect { scheme, host: Some(to), port, .. }) = &route.target else { return None };
    let from = route.matches.host.as_ref().filter(|_| route.matches.headers.is_empty())?;
    // The same host by another scheme or at another port is another place.
    (from != to || scheme.is_none() && port.is_none()).then_some((from, to))
}
