//! The parts of a request that a selector may ask for: `header:x-user`, `cookie:sid`, `path`, `client-ip` ...

use std::{borrow::Cow, net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use crate::syntax::target::HostAndPath;

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
    Sni,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown request key {0:?}: use header:NAME, cookie:NAME, query:NAME, path, host, method, client-ip or sni"
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
                "sni" => Self::Sni,
                _ => return Err(error()),
            },
            Some(_) => return Err(error()),
        })
    }
}

/// A request as far as selectors may see it, or a connection that is sent as a whole. Borrowed: nothing is copied before a
/// selector asks for it.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// None: it is a connection.
    pub request: Option<HttpFacts<'a>>,
    /// The client, after trusted proxies were believed.
    pub client: IpAddr,
    /// What the client of a connection asked for in TLS.
    pub sni: Option<&'a str>,
}

/// What is known of a request of HTTP.
#[derive(Debug, Clone, Copy)]
pub struct HttpFacts<'a> {
    pub head: &'a Parts,
    /// What the request was for when it came.
    pub asked: &'a HostAndPath,
    /// Where the head has been made one for an endpoint: what it was before.
    pub altered: Option<&'a Altered>,
}

/// Headers of a request as they came, as far as others are forwarded in their place. With it a second try has the same
/// facts as the first.
#[derive(Debug, Default)]
pub struct Altered {
    /// These say nothing of the client in a head that is forwarded.
    ours: &'static [HeaderName],
    /// None stands for a header that was not there.
    lines: Vec<(HeaderName, Option<HeaderValue>)>,
}

impl Altered {
    /// Nothing is altered yet but these.
    pub fn new(ours: &'static [HeaderName]) -> Self {
        Self { ours, ..Self::default() }
    }

    /// Removes a header, and remembers it. `Connection`, which most clients send, is nobody's to see.
    pub fn remove(&mut self, headers: &mut HeaderMap, name: &HeaderName) {
        if *name != header::CONNECTION {
            self.remember(headers, name);
        }
        headers.remove(name);
    }

    /// Remembers a header that will be replaced.
    pub fn remember(&mut self, headers: &HeaderMap, name: &HeaderName) {
        let lines = headers.get_all(name).into_iter();
        self.lines.extend(lines.map(|line| (name.clone(), Some(line.clone()))));
    }

    /// Remembers a header that will be written, also that it was not there. Nothing if it has been altered before.
    pub fn overwrite(&mut self, headers: &HeaderMap, name: &HeaderName) {
        if self.holds(name) {
            return;
        }
        self.remember(headers, name);
        if !self.holds(name) {
            self.lines.push((name.clone(), None));
        }
    }

    fn holds(&self, name: &HeaderName) -> bool {
        self.ours.contains(name) || self.lines.iter().any(|(altered, _)| altered == name)
    }

    fn lines<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
        let name = name.clone();
        let lines = self.lines.iter().filter(move |(altered, _)| *altered == name);
        lines.filter_map(|(_, line)| line.as_ref())
    }
}

impl<'a> RequestFacts<'a> {
    /// The value of a key, if there is one.
    pub fn value(&self, key: &Key) -> Option<Cow<'a, str>> {
        match key {
            Key::ClientIp => Some(self.client.to_string().into()),
            Key::Sni => self.sni.map(Cow::from),
            key => self.request.as_ref()?.value(key),
        }
    }

    /// The hash of a key's value: XXH64 with seed 0 over its bytes, so that every gateway agrees.
    pub fn hash(&self, key: &Key) -> Option<u64> {
        self.value(key).map(|value| xxhash_rust::xxh64::xxh64(value.as_bytes(), 0))
    }
}

impl<'a> HttpFacts<'a> {
    fn value(&self, key: &Key) -> Option<Cow<'a, str>> {
        match key {
            Key::Header(name) => self.header(name)?.to_str().ok().map(Cow::from),
            Key::Cookie(name) => match self.altered.filter(|altered| altered.holds(&header::COOKIE)) {
                Some(altered) => cookie(altered.lines(&header::COOKIE), name),
                None => cookie(self.head.headers.get_all(header::COOKIE).into_iter(), name),
            },
            Key::Query(name) => {
                // Copies only what is encoded.
                let mut pairs = form_urlencoded::parse(self.asked.query()?.as_bytes());
                pairs.find_map(|(key, value)| (key == name.as_str()).then_some(value))
            }
            Key::Path => Some(self.asked.path().into()),
            Key::Host => Some(self.asked.host()).filter(|host| !host.is_empty()).map(Cow::from),
            Key::Method => Some(self.head.method.as_str().into()),
            Key::ClientIp | Key::Sni => None,
        }
    }

    /// The first line of a header, as the client sent it. `Connection` says nothing of a request.
    fn header(&self, name: &HeaderName) -> Option<&'a HeaderValue> {
        if *name == header::CONNECTION {
            return None;
        }
        if *name == header::HOST {
            return self.asked.authority();
        }
        match self.altered.filter(|altered| altered.holds(name)) {
            Some(altered) => altered.lines(name).next(),
            None => self.head.headers.get(name),
        }
    }
}

fn cookie<'a>(lines: impl Iterator<Item = &'a HeaderValue>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let value = pair.trim().strip_prefix(name)?.strip_prefix('=')?;
        Some(unquoted(value).into())
    })
}

/// The value of a cookie: quotes around it are no part of it.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a key in a request.
    fn value(key: &str, request: http::request::Builder, altered: Option<&Altered>) -> Option<String> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let asked = HostAndPath::read(&head).unwrap();
        let request = Some(HttpFacts { head: &head, asked: &asked, altered });
        let facts = RequestFacts { request, client: [10, 0, 0, 9].into(), sni: None };
        facts.value(&key.parse().unwrap()).map(Cow::into_owned)
    }

    #[test]
    fn keys_name_parts_of_a_request() {
        let check = |key: &str, expected: Option<&str>| {
            let request = http::Request::get("http://Shop.test.:80/x/../%6frders?user=7&x=1")
                .header("host", "other.test")
                .header("x-user", "anna")
                .header("cookie", "a=1; sid=s3cret")
                .header("cookie", "b=2");
            assert_eq!(value(key, request, None).as_deref(), expected, "{key}");
        };
        check("header:X-User", Some("anna"));
        check("header:x-none", None);
        check("header:host", Some("Shop.test.:80"));
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
            value(key, http::Request::get(format!("/?{query}")).header("cookie", cookie), None)
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
    fn what_was_altered_is_seen_as_it_came() {
        static OURS: [HeaderName; 1] = [HeaderName::from_static("x-ours")];
        let mut came = HeaderMap::new();
        for (name, line) in [
            ("connection", "x-a"),
            ("connection", "x-b"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-a", "first"),
        ] {
            came.append(name, line.parse().unwrap());
        }
        let mut altered = Altered::new(&OURS);
        for name in ["connection", "cookie", "x-a"] {
            altered.remove(&mut came, &name.parse().unwrap());
        }
        assert!(came.is_empty());
        let check = |key: &str, expected: Option<&str>| {
            let request = http::Request::get("/")
                .header("connection", "te")
                .header("cookie", "b=3")
                .header("x-a", "second")
                .header("x-ours", "set")
                .header("x-same", "same");
            assert_eq!(value(key, request, Some(&altered)).as_deref(), expected, "{key}");
        };
        check("header:connection", None);
        check("cookie:b", Some("2"));
        check("header:x-a", Some("first"));
        check("header:x-ours", None);
        check("header:x-same", Some("same"));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_value() {
        for key in ["", "body", "header:", "header:b a d", "cookie:", "ip:1"] {
            assert!(key.parse::<Key>().unwrap_err().to_string().contains(&format!("{key:?}")));
        }
    }
}
