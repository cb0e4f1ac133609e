//! The parts of a request that a selector may ask for: `header:x-user`, `cookie:sid`, `path`, `client-ip` ...

use std::{borrow::Cow, net::IpAddr, str::FromStr};

use http::{HeaderName, request::Parts};

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Header(HeaderName),
    Cookie(String),
    Query(String),
    Path,
    Host,
    Method,
    ClientIp,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown request key {0:?}: use header:NAME, cookie:NAME, query:NAME, path, host, method or client-ip"
)]
pub struct KeyError(String);

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError(text.to_owned());
        Ok(match text.split_once(':') {
            Some(("header", name)) => Self::Header(name.parse().map_err(|_| error())?),
            Some(("cookie", name)) if !name.is_empty() => Self::Cookie(name.to_owned()),
            Some(("query", name)) if !name.is_empty() => Self::Query(name.to_owned()),
            None => match text {
                "path" => Self::Path,
                "host" => Self::Host,
                "method" => Self::Method,
                "client-ip" => Self::ClientIp,
                _ => return Err(error()),
            },
            Some(_) => return Err(error()),
        })
    }
}

/// A request as far as selectors may see it. Borrowed: nothing is copied before a selector asks for it.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    pub head: &'a Parts,
    /// The client, after trusted proxies were believed.
    pub client: IpAddr,
}

impl<'a> RequestFacts<'a> {
    /// The value of a key, if the request carries it.
    pub fn value(&self, key: &Key) -> Option<Cow<'a, str>> {
        let text = |name: &HeaderName| self.head.headers.get(name)?.to_str().ok();
        match key {
            Key::Header(name) => text(name).map(Cow::from),
            Key::Cookie(name) => {
                let pairs = self.head.headers.get_all(http::header::COOKIE).into_iter();
                let mut pairs = pairs.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
                pairs.find_map(|pair| {
                    let value = pair.trim().strip_prefix(name.as_str())?.strip_prefix('=')?;
                    Some(unquoted(value).into())
                })
            }
            Key::Query(name) => {
                // Copies only what is encoded.
                let mut pairs = form_urlencoded::parse(self.head.uri.query()?.as_bytes());
                pairs.find_map(|(key, value)| (key == name.as_str()).then_some(value))
            }
            Key::Path => Some(self.head.uri.path().into()),
            Key::Host => text(&http::header::HOST).or(self.head.uri.host()).map(Cow::from),
            Key::Method => Some(self.head.method.as_str().into()),
            Key::ClientIp => Some(self.client.to_string().into()),
        }
    }

    /// The hash of a key's value: XXH64 with seed 0 over its bytes, so that every gateway agrees.
    pub fn hash(&self, key: &Key) -> Option<u64> {
        self.value(key).map(|value| xxhash_rust::xxh64::xxh64(value.as_bytes(), 0))
    }
}

/// The value of a cookie: quotes around it are no part of it.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_parts_of_a_request() {
        let request = http::Request::get("http://shop.test/orders?user=7&x=1")
            .header("x-user", "anna")
            .header("cookie", "a=1; sid=s3cret")
            .header("cookie", "b=2");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let facts = RequestFacts { head: &head, client: [10, 0, 0, 9].into() };
        let check = |key: &str, expected: Option<&str>| {
            assert_eq!(facts.value(&key.parse().unwrap()).as_deref(), expected, "{key}");
        };
        check("header:X-User", Some("anna"));
        check("header:x-none", None);
        check("cookie:sid", Some("s3cret"));
        check("cookie:b", Some("2"));
        check("query:user", Some("7"));
        check("query:use", None);
        check("path", Some("/orders"));
        check("host", Some("shop.test"));
        check("method", Some("GET"));
        check("client-ip", Some("10.0.0.9"));
    }

    #[test]
    fn the_same_value_is_the_same_however_a_client_writes_it() {
        let value = |key: &str, query: &str, cookie: &str| {
            let request = http::Request::get(format!("/?{query}")).header("cookie", cookie);
            let (head, ()) = request.body(()).unwrap().into_parts();
            let facts = RequestFacts { head: &head, client: [10, 0, 0, 9].into() };
            facts.value(&key.parse().unwrap()).map(Cow::into_owned)
        };
        for query in ["user=a%2Fb%20c", "user=a/b+c", "x=1&us%65r=%61/b%20c&user=2"] {
            assert_eq!(value("query:user", query, "").as_deref(), Some("a/b c"), "{query}");
        }
        assert_eq!(value("query:user", "user=%ff%", "").as_deref(), Some("\u{fffd}%"));
        assert_eq!(value("query:user", "user&user=", "").as_deref(), Some(""));
        for cookie in ["sid=s3cret", "sid=\"s3cret\"", "a=\"b\"; sid=\"s3cret\" ; c=d"] {
            assert_eq!(value("cookie:sid", "", cookie).as_deref(), Some("s3cret"), "{cookie}");
        }
        assert_eq!(value("cookie:sid", "", "sid=\"").as_deref(), Some("\""));
        assert_eq!(value("cookie:sid", "", "sid=a%20b").as_deref(), Some("a%20b"), "no rule encodes cookies");
    }

    #[test]
    fn unknown_keys_are_refused_with_the_value() {
        for key in ["", "body", "header:", "header:b a d", "cookie:", "ip:1"] {
            assert!(key.parse::<Key>().unwrap_err().to_string().contains(&format!("{key:?}")));
        }
    }
}
