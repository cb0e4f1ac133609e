//! What a request must be for a route to match.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::by_name;
use crate::{
    config::{
        check::{Checker, listen},
        file,
        running::{HeaderMatch, Matches},
    },
    document::{HeaderIs, Part, Way, similar},
    syntax::{authority, path},
};

impl Checker<'_> {
    pub(super) fn matches(
        &mut self,
        way: &Way,
        route: &file::Route,
        listeners: &[file::Listener],
    ) -> Option<Matches> {
        let listeners = self.listener_names(&way.key("listener"), route.listener.as_slice(), listeners);
        let host = route.host.as_ref().map(|host| self.host(&way.key("host"), host));
        let path = self.prefix(&way.key("path"), route.path.as_deref().unwrap_or("/"));
        let mut headers = self.headers(&way.key("header"), route);
        // A request without the header names no service, and may be meant for another route.
        let service = route.service_header.as_ref().and_then(|name| name.parse().ok());
        headers.extend(service.map(|name| HeaderMatch { name, value: None }));
        let host = match host {
            Some(host) => Some(host?),
            None => None,
        };
        Some(Matches { listeners, host, path: path?, headers })
    }

    pub(super) fn listener_names(
        &mut self,
        way: &Way,
        names: &[String],
        listeners: &[file::Listener],
    ) -> Vec<Arc<str>> {
        let known: Vec<_> = listeners.iter().filter_map(listen::name).collect();
        for (index, name) in names.iter().enumerate() {
            if !known.contains(name) {
                // A single name stands where its list would.
                let element = way.index(index);
                let way = if self.document.has(&element) { element } else { way.clone() };
                let hint = similar::hint(name, known.iter().map(String::as_str));
                self.wrong(&way, format!("there is no listener `{name}`")).hint_if_any(hint);
            }
        }
        names.iter().map(|name| name.as_str().into()).collect()
    }

    /// A host name in the form in which requests are compared with it.
    pub(super) fn host(&mut self, way: &Way, text: &str) -> Option<Arc<str>> {
        let host = text.to_ascii_lowercase();
        let name = host.strip_prefix("*.").unwrap_or(&host);
        let hint = match (name, name.rsplit_once(':')) {
            _ if is_host(name) => return Some(authority::normal(&host).into()),
            ("*", _) => "leave `host` out to match every host".to_owned(),
            (_, Some((name, port))) if is_host(name) && port.parse::<u16>().is_ok() => {
                format!("write `{name}`: the port does not count")
            }
            _ => "write a name like `api.example.com` or `*.example.com`".to_owned(),
        };
        self.wrong(way, format!("{text:?} is no host name")).hint(hint);
        None
    }

    /// The prefix that paths are compared with, in the form in which they are: without the place of a service.
    fn prefix(&mut self, way: &Way, text: &str) -> Option<Arc<str>> {
        let prefix = text.strip_suffix(by_name::SERVICE).unwrap_or(text);
        let legal = |c: char| c.is_ascii_graphic() && !"?#{}\"<>\\^`|".contains(c);
        let (message, hint) = match prefix {
            _ if !text.starts_with('/') => {
                ("does not begin with `/`", format!("write `/{}`", text.trim_start_matches('*')))
            }
            _ if prefix.contains('{') => {
                ("has braces that mean nothing", "`{service}` can only be the last segment, whole".to_owned())
            }
            _ if prefix.contains('*') => {
                ("has a `*`", "a path matches everything below it; leave the `*` out".to_owned())
            }
            _ if prefix != text && !prefix.ends_with('/') => {
                ("has a segment that is more than `{service}`", "write `/svc/{service}`".to_owned())
            }
            _ if !prefix.chars().all(legal) => (
                "has a character that no path has",
                "write it as it stands in requests, like `%20`".to_owned(),
            ),
            _ if !path::is_encoded_well(prefix.as_bytes()) => (
                "has a percent sign without two digits behind it",
                "write a percent sign as `%25`".to_owned(),
            ),
            _ => return Some(path::normal(prefix).into()),
        };
        self.wrong(way, format!("the path {text:?} {message}")).hint(hint);
        None
    }

    fn headers(&mut self, way: &Way, route: &file::Route) -> Vec<HeaderMatch> {
        let headers = route.header.iter().filter_map(|(name, is)| self.header(&way.key(name), name, is));
        let mut headers: Vec<_> = headers.collect();
        headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        headers
    }

    fn header(&mut self, way: &Way, name: &str, is: &HeaderIs) -> Option<HeaderMatch> {
        let name = self.header_name(way, name, Part::Key);
        let value = match is {
            HeaderIs::Value(text) => self.header_value(way, text).map(Some),
            HeaderIs::Present(true) => Some(None),
            HeaderIs::Present(false) => {
                self.wrong(way, "a route cannot ask for the absence of a header")
                    .hint("routes that ask for a header come first; the others get the rest");
                None
            }
        };
        Some(HeaderMatch { name: name?, value: value? })
    }

    pub(in crate::config::check) fn header_name(
        &mut self,
        way: &Way,
        name: &str,
        part: Part,
    ) -> Option<HeaderName> {
        let parsed = name.parse().ok();
        if parsed.is_none() {
            self.wrong_part(part, way, format!("{name:?} cannot be the name of a header"));
        }
        parsed
    }

    pub(in crate::config::check) fn header_value(&mut self, way: &Way, text: &str) -> Option<HeaderValue> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(way, format!("{text:?} cannot be the value of a header"));
        }
        parsed
    }
}

pub(super) fn is_host(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let label = |label: &str| !label.is_empty() && label.chars().all(legal);
    name.len() <= 253 && name.split('.').all(label)
}
