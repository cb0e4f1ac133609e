//! What a route writes into the heads of requests and answers.

use http::{HeaderName, HeaderValue};

use super::matches::is_host;
use crate::{
    config::{
        check::Checker,
        file,
        running::{HeaderChanges, Heads, UpstreamHost},
    },
    document::{Part, Way},
    syntax::{authority, field, target},
};

impl Checker<'_> {
    pub(super) fn heads(&mut self, way: &Way, route: &file::Route) -> Option<Heads> {
        let request = self.header_changes(&way.key("request_headers"), &route.request_headers);
        let response = self.header_changes(&way.key("response_headers"), &route.response_headers);
        let host = match &route.upstream_host {
            Some(host) => self.upstream_host(&way.key("upstream_host"), host),
            None => Some(UpstreamHost::Keep),
        };
        Some(Heads { request: request?, response: response?, host: host? })
    }

    fn header_changes(&mut self, way: &Way, changes: &file::HeaderChanges) -> Option<HeaderChanges> {
        let at = way.key("set");
        let set = changes.set.iter().map(|(name, value)| {
            let way = at.key(name);
            let value = self.header_value(&way, value);
            self.own_header(&way, name, Part::Key).zip(value)
        });
        let set: Vec<_> = set.collect();
        let at = way.key("add");
        let mut add = Vec::new();
        for (name, values) in &changes.add {
            let way = at.key(name);
            let name = self.own_header(&way, name, Part::Key);
            add.extend(
                values.as_slice().iter().map(|value| name.clone().zip(self.header_value(&way, value))),
            );
        }
        let at = way.key("remove");
        let remove = changes.remove.iter().enumerate();
        let remove: Vec<_> =
            remove.map(|(index, name)| self.own_header(&at.index(index), name, Part::Value)).collect();
        let set: Vec<(HeaderName, HeaderValue)> = set.into_iter().collect::<Option<_>>()?;
        let made = HeaderChanges {
            remove: remove.into_iter().collect::<Option<_>>()?,
            set,
            add: add.into_iter().collect::<Option<_>>()?,
        };
        self.set_once(way, &made);
        Some(made)
    }

    /// What is set is there once: neither written in two ways nor removed besides.
    fn set_once(&mut self, way: &Way, changes: &HeaderChanges) {
        for (index, (name, _)) in changes.set.iter().enumerate() {
            if changes.set[..index].iter().any(|(other, _)| other == name) {
                self.wrong_key(&way.key("set"), format!("`{name}` is set twice"))
                    .hint("names of headers are the same in upper and in lower case");
            }
            if let Some(at) = changes.remove.iter().position(|other| other == name) {
                self.wrong(&way.key("remove").index(at), format!("`{name}` is set and removed"))
                    .hint("take it out of `remove`: what is set replaces what was there");
            }
        }
    }

    /// The name of a header that is not the gateway's.
    fn own_header(&mut self, way: &Way, name: &str, part: Part) -> Option<HeaderName> {
        let name = self.header_name(way, name, part)?;
        if !field::is_reserved(name.as_str()) {
            return Some(name);
        }
        let wrong = self.wrong_part(part, way, format!("`{name}` is the gateway's to write"));
        match name.as_str() {
            "host" => wrong.hint("write `upstream_host` for the `Host` that an instance gets"),
            _ => wrong
                .hint("it is about the connection, where a message ends, who sent it, or why it was refused"),
        }
        None
    }

    fn upstream_host(&mut self, way: &Way, text: &str) -> Option<UpstreamHost> {
        match text {
            "keep" => return Some(UpstreamHost::Keep),
            "endpoint" => return Some(UpstreamHost::Endpoint),
            _ => {}
        }
        let named =
            authority::parse(text.as_bytes()).is_some_and(|authority| is_host(&text[..authority.host]));
        let value = text.parse().ok().filter(|_| named && target::check_host(text.as_bytes()) == Some(true));
        if value.is_none() {
            self.wrong(way, format!("{text:?} is no host"))
                .hint("write `keep`, `endpoint`, or a name like `shop.internal` or `shop.internal:8080`");
        }
        value.map(UpstreamHost::Name)
    }
}
