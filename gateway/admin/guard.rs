//! Who may use the API: a token for changes, and no web page that a browser on this machine happens to show.

use std::net::IpAddr;

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HOST, ORIGIN},
};
use sha2::{Digest, Sha256};

use super::answer::Rejection;
use crate::config::Secret;

pub(super) struct Guard {
    /// The digest of the token: comparing digests tells nothing by the time it takes.
    token: Option<[u8; 32]>,
    loopback: bool,
}

impl Guard {
    pub(super) fn new(token: Option<Secret>, loopback: bool) -> Self {
        Self { token: token.map(|token| digest(token.0.as_bytes())), loopback }
    }

    /// A page can make a browser on this machine speak to a loopback address by a name of its own (DNS rebinding).
    /// The name stands in `Host`, so on loopback only addresses and `localhost` are taken.
    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let Some(host) = headers.get(HOST).filter(|_| self.loopback) else { return Ok(()) };
        let host = String::from_utf8_lossy(host.as_bytes());
        if is_local(&host) { Ok(()) } else { Err(Rejection::ForeignHost(host.into_owned())) }
    }

    /// A change needs the token, if there is one, and must not come from a page of another origin.
    pub(super) fn check_change(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        check_origin(headers)?;
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(AUTHORIZATION).ok_or(Rejection::NoToken)?.as_bytes();
        let (scheme, given) = given.split_at_checked("Bearer ".len()).ok_or(Rejection::NoToken)?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Err(Rejection::NoToken);
        }
        if digest(given.trim_ascii()) == *token { Ok(()) } else { Err(Rejection::WrongToken) }
    }
}

/// Browsers send `Origin` with every change that a page makes; other clients do not.
fn check_origin(headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = String::from_utf8_lossy(origin.as_bytes());
    let authority = origin.split_once("://").map(|(_, authority)| authority.as_bytes());
    if authority.is_some() && authority == headers.get(HOST).map(|host| host.as_bytes()) {
        return Ok(());
    }
    Err(Rejection::ForeignOrigin(origin.into_owned()))
}

/// Whether `host`, with or without a port, is an address or `localhost`.
fn is_local(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok());
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn changes_need_the_token() {
        let guard = Guard::new(Some(Secret("tea".into())), true);
        let check = |value: &'static str| guard.check_change(&headers(&[("authorization", value)]));
        assert!(check("Bearer tea").is_ok());
        assert!(check("bearer tea").is_ok());
        assert!(matches!(check("Bearer coffee"), Err(Rejection::WrongToken)));
        assert!(matches!(check("Bearer "), Err(Rejection::WrongToken)));
        assert!(matches!(check("Basic dGVhOg=="), Err(Rejection::NoToken)));
        assert!(matches!(check("tea"), Err(Rejection::NoToken)));
        assert!(matches!(guard.check_change(&HeaderMap::new()), Err(Rejection::NoToken)));
        assert!(Guard::new(None, true).check_change(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_page_of_another_origin_may_change_nothing() {
        let guard = Guard::new(None, true);
        let check = |origin: &'static str| {
            guard.check_change(&headers(&[("host", "127.0.0.1:9901"), ("origin", origin)])).is_ok()
        };
        assert!(check("http://127.0.0.1:9901"));
        assert!(!check("http://127.0.0.1:8080"));
        assert!(!check("https://example.com"));
        assert!(!check("null"));
    }

    #[test]
    fn on_loopback_only_addresses_and_localhost_are_hosts() {
        let check = |loopback, host: &'static str| {
            Guard::new(None, loopback).check_host(&headers(&[("host", host)])).is_ok()
        };
        for host in ["127.0.0.1:9901", "[::1]:9901", "[::1]", "localhost", "LOCALHOST:80", "192.168.0.1"] {
            assert!(check(true, host), "{host}");
        }
        for host in ["example.com", "localhost.example.com:9901", "[example.com]", ""] {
            assert!(!check(true, host), "{host}");
            assert!(check(false, host), "{host}");
        }
    }
}
