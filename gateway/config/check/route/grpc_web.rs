//! Routes that translate gRPC-Web.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::matches::is_host;
use crate::{
    config::{check::Checker, file, running::GrpcWeb},
    document::{Part, Way},
    syntax::authority,
};

/// Browsers take a longer time for this.
const LONGEST_MAX_AGE: u64 = 86_400;

impl Checker<'_> {
    pub(super) fn grpc_web(&mut self, way: &Way, web: &file::GrpcWeb) -> Option<GrpcWeb> {
        let at = way.key("allow_origins");
        if web.allow_origins.is_empty() {
            self.wrong_key(way, "no page could use this")
                .hint("write the origins of the pages: `allow_origins = [\"https://app.example.com\"]`");
        }
        let origins = web.allow_origins.iter().enumerate();
        let origins: Vec<_> = origins.map(|(index, text)| self.origin(&at.index(index), text)).collect();
        let allow_headers = self.cors_headers(&way.key("allow_headers"), &web.allow_headers);
        let expose_headers = self.cors_headers(&way.key("expose_headers"), &web.expose_headers);
        let max_age = self.count(&way.key("max_age_secs"), web.max_age_secs, 0..=LONGEST_MAX_AGE);
        Some(GrpcWeb {
            allow_origins: origins.into_iter().collect::<Option<_>>()?,
            allow_headers: allow_headers?,
            expose_headers: expose_headers?,
            max_age: Duration::from_secs(max_age as u64),
            allow_credentials: web.allow_credentials,
        })
    }

    fn origin(&mut self, way: &Way, text: &str) -> Option<Arc<str>> {
        if is_origin(text) {
            return Some(text.into());
        }
        self.wrong(way, format!("{text:?} is no origin")).hint(
            "write scheme and host as browsers do: `https://app.example.com`, or `http://localhost:8080` with a port that \
             is not the usual one",
        );
        None
    }

    fn cors_headers(&mut self, way: &Way, names: &[String]) -> Option<Vec<HeaderName>> {
        let names = names.iter().enumerate();
        let names = names.map(|(index, name)| {
            let way = way.index(index);
            if name == "*" {
                self.wrong(&way, "`*` is no name of a header").hint("write each of them");
                return None;
            }
            self.header_name(&way, name, Part::Value)
        });
        let names: Vec<_> = names.collect();
        names.into_iter().collect()
    }
}

/// Whether browsers write an origin like that (RFC 6454 6.2). They leave out the usual port.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
    let Some(named) = authority::parse(host.as_bytes()) else { return false };
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let name = &host[..named.host];
    let written = match named.port.filter(|port| Some(*port) != usual) {
        Some(port) => format!("{scheme}://{name}:{port}"),
        None => format!("{scheme}://{name}"),
    };
    is_scheme && named.normal && is_host(name) && written == text
}
