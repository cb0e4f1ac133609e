//! What is changed in a head on its way through, and nothing else is. Pure.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Version, header,
    request::Parts,
    uri::{PathAndQuery, Uri},
};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that concern one connection and not the message. The last is answered here, when the endpoint asks for the
/// body.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];
/// Places in `HOP_BY_HOP`.
const CONNECTION: usize = 0;
const TRANSFER_ENCODING: usize = 5;

/// Who sent a request over a connection, as far as the connection says.
pub(super) struct Sender {
    pub address: IpAddr,
    /// Its text, made once per connection.
    text: HeaderValue,
    /// Whether it is a proxy whose word counts.
    trusted: bool,
}

impl Sender {
    pub(super) fn new(peer: SocketAddr, trusted: &[IpNet]) -> Self {
        let address = peer.ip().to_canonical();
        // The text of an IP address is always a header value.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, text, trusted: is_trusted(trusted, address) }
    }

    /// The client: the sender, or the last of those it names who is no trusted proxy itself.
    pub(super) fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
        if !self.trusted {
            return self.address;
        }
        let mut client = self.address;
        let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
        for named in lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')) {
            // What cannot be read ends the chain: whoever stands before it cannot be known.
            let Some(address) = address(named.trim()) else { break };
            client = address;
            if !is_trusted(trusted, address) {
                break;
            }
        }
        client
    }
}

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` and `[::1]:5` are all in use.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|full| full.ip()))?;
    Some(IpAddr::to_canonical(&address))
}

/// Makes of a client's head the one for an endpoint. Says whether it asks for another protocol.
pub(super) fn request(head: &mut Parts, sender: &Sender, strip: usize, has_body: bool) -> bool {
    aim(head, strip);
    let seen = Seen::of(&head.headers);
    let keep = if seen.hop_by_hop != 0 { Kept::of(head, has_body) } else { Kept::default() };
    remove_hop_by_hop(&mut head.headers, &seen);
    let upgrading = keep.upgrade.is_some();
    keep.restore(&mut head.headers);
    forwarded(&mut head.headers, sender, seen.forwarded);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    upgrading
}

/// Makes of an endpoint's head the one for the client. `switching` keeps what a 101 needs.
pub(super) fn response(headers: &mut HeaderMap, switching: bool) {
    let seen = Seen::of(headers);
    if seen.hop_by_hop == 0 {
        return;
    }
    let upgrade = if switching { headers.get(header::UPGRADE).cloned() } else { None };
    if seen.has(TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers, &seen);
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Origin-form without the prefix that is stripped; `Host` names what an absolute form named.
fn aim(head: &mut Parts, strip: usize) {
    let authority = head.uri.authority().and_then(|name| HeaderValue::from_str(name.as_str()).ok());
    if authority.is_none() && strip == 0 {
        return;
    }
    let path = match head.uri.path_and_query() {
        Some(path) if strip == 0 => path.clone(),
        Some(path) => stripped(path, strip).unwrap_or_else(|| path.clone()),
        None => PathAndQuery::from_static("/"),
    };
    head.uri = Uri::from(path);
    if let Some(authority) = authority {
        // A user in front of the host is for nobody.
        let host = authority.as_bytes().rsplit(|byte| *byte == b'@').next();
        let host = host.and_then(|host| HeaderValue::from_bytes(host).ok()).unwrap_or(authority.clone());
        head.headers.insert(header::HOST, host);
    }
}

fn stripped(path: &PathAndQuery, strip: usize) -> Option<PathAndQuery> {
    let rest = path.as_str().get(strip..)?;
    if rest.starts_with('/') { rest.parse().ok() } else { format!("/{rest}").parse().ok() }
}

/// What kinds of headers there are, found in one pass: most messages have few of them or none.
#[derive(Default)]
struct Seen {
    /// One bit for each of `HOP_BY_HOP`.
    hop_by_hop: u8,
    /// A `Connection` header names others.
    names: bool,
    forwarded: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            match name.as_str() {
                "connection" => {
                    seen.hop_by_hop |= 1 << CONNECTION;
                    seen.names |= !is_common(value);
                }
                "keep-alive" => seen.hop_by_hop |= 1 << 1,
                "proxy-connection" => seen.hop_by_hop |= 1 << 2,
                "proxy-authorization" => seen.hop_by_hop |= 1 << 3,
                "te" => seen.hop_by_hop |= 1 << 4,
                "transfer-encoding" => seen.hop_by_hop |= 1 << TRANSFER_ENCODING,
                "upgrade" => seen.hop_by_hop |= 1 << 6,
                "expect" => seen.hop_by_hop |= 1 << 7,
                "forwarded" => seen.forwarded = true,
                name => seen.forwarded |= name.starts_with("x-forwarded-"),
            }
        }
        seen
    }

    fn has(&self, place: usize) -> bool {
        self.hop_by_hop & (1 << place) != 0
    }
}

/// Hop-by-hop headers that the next hop gets anew.
#[derive(Default)]
struct Kept {
    chunked: bool,
    trailers: bool,
    upgrade: Option<HeaderValue>,
}

impl Kept {
    fn of(head: &Parts, has_body: bool) -> Self {
        let headers = &head.headers;
        let upgrade = headers.get(header::UPGRADE).filter(|protocol| {
            let asked =
                tokens(headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
            // An upgrade to HTTP/2 would carry requests past the routes.
            asked && !has_body && !protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2")
        });
        Self {
            chunked: has_body && headers.contains_key(header::TRANSFER_ENCODING),
            trailers: tokens(headers, header::TE).any(|token| token.eq_ignore_ascii_case("trailers")),
            upgrade: upgrade.cloned(),
        }
    }

    fn restore(self, headers: &mut HeaderMap) {
        if self.chunked {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if self.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.append(header::CONNECTION, HeaderValue::from_static("te"));
        }
        if let Some(protocol) = self.upgrade {
            headers.insert(header::UPGRADE, protocol);
            headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap, seen: &Seen) {
    if seen.names {
        let named: Vec<HeaderName> = tokens(headers, header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // Whoever names these wants to change what the message is, not how it travels.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
            .collect();
        named.iter().for_each(|name| drop(headers.remove(name)));
    }
    // Looking for a header that is not there costs as much as removing one.
    for (_, name) in HOP_BY_HOP.iter().enumerate().filter(|(place, _)| seen.has(*place)) {
        headers.remove(name);
    }
}

/// What most `Connection` headers say. The first names a header that is removed anyway, the second none.
fn is_common(line: &HeaderValue) -> bool {
    line.as_bytes().eq_ignore_ascii_case(b"keep-alive") || line.as_bytes().eq_ignore_ascii_case(b"close")
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// `X-Forwarded-*`: continued when a trusted proxy began it, begun anew otherwise.
fn forwarded(headers: &mut HeaderMap, sender: &Sender, seen: bool) {
    if seen && !sender.trusted {
        let claims =
            |name: &&HeaderName| name.as_str().starts_with("x-forwarded-") || *name == header::FORWARDED;
        let claims: Vec<HeaderName> = headers.keys().filter(claims).cloned().collect();
        claims.iter().for_each(|name| drop(headers.remove(name)));
    }
    let chain = if seen { chain(headers, &sender.text) } else { None };
    // Room for all three at once: growing one by one sorts the headers anew each time.
    headers.reserve(3);
    headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| sender.text.clone()));
    if !seen || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if (!seen || !headers.contains_key(FORWARDED_HOST))
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// The chain of addresses so far with the sender behind it.
fn chain(headers: &HeaderMap, sender: &HeaderValue) -> Option<HeaderValue> {
    let mut chain = Vec::new();
    for line in headers.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(line.as_bytes());
        chain.extend_from_slice(b", ");
    }
    if chain.is_empty() {
        return None;
    }
    chain.extend_from_slice(sender.as_bytes());
    HeaderValue::from_bytes(&chain).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sender(peer: &str, trusted: &[IpNet]) -> Sender {
        Sender::new(format!("{peer}:1").parse().unwrap(), trusted)
    }

    #[test]
    fn the_client_is_the_last_who_is_no_trusted_proxy() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let check = |peer: &str, lines: &[&str], expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let client = sender(peer, &trusted).client(&headers, &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        };
        check("9.9.9.9", &["1.1.1.1"], "9.9.9.9");
        check("10.0.0.1", &[], "10.0.0.1");
        check("10.0.0.1", &["1.1.1.1"], "1.1.1.1");
        check("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1");
        check("10.0.0.1", &["6.6.6.6, 1.1.1.1", "10.0.0.2"], "1.1.1.1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2");
        check("10.0.0.1", &["1.1.1.1:80"], "1.1.1.1");
        check("[fd00::1]", &["[2001:db8::1]:80"], "2001:db8::1");
        check("[::ffff:10.0.0.1]", &["1.1.1.1"], "1.1.1.1");
    }

    #[test]
    fn every_hop_by_hop_header_is_seen_as_itself() {
        for (index, name) in HOP_BY_HOP.iter().enumerate() {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            assert_eq!(Seen::of(&headers).hop_by_hop, 1 << index, "{name}");
        }
    }

    proptest! {
        /// Whatever headers come: none that concerns one connection goes on, and nothing else is lost.
        #[test]
        fn no_hop_by_hop_header_is_forwarded(
            names in prop::collection::vec(prop::sample::select(vec![
                "connection", "Keep-Alive", "proxy-connection", "proxy-authorization", "te", "transfer-encoding",
                "upgrade", "expect", "x-a", "x-b", "accept", "host", "x-forwarded-for", "forwarded", "cookie",
            ]), 0..20),
            values in prop::collection::vec(prop::sample::select(vec![
                "close", "x-a", "X-A, keep-alive", "upgrade", "h2c", "websocket", "trailers", "gzip", "host", "1.2.3.4", ",",
            ]), 20),
            has_body in prop::bool::ANY,
        ) {
            let mut request = http::Request::new(());
            for (name, value) in names.iter().zip(&values) {
                request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let (mut head, ()) = request.into_parts();
            let before = head.headers.clone();
            super::request(&mut head, &sender("9.9.9.9", &[]), 0, has_body);

            let named: Vec<String> =
                tokens(&before, header::CONNECTION).map(str::to_ascii_lowercase).collect();
            let after = &head.headers;
            for name in ["keep-alive", "proxy-connection", "proxy-authorization", "expect", "forwarded"] {
                prop_assert!(!after.contains_key(name), "{}", name);
            }
            for token in tokens(after, header::CONNECTION) {
                prop_assert!(["te", "upgrade"].contains(&token), "{}", token);
                prop_assert!(after.contains_key(token));
            }
            prop_assert!(after.get(header::TE).is_none_or(|te| te == "trailers"));
            prop_assert!(after.get(header::UPGRADE).is_none_or(|to| !to.as_bytes().starts_with(b"h2") && !has_body));
            prop_assert!(has_body || !after.contains_key(header::TRANSFER_ENCODING));
            for name in ["x-a", "x-b", "accept", "cookie", "host"] {
                let gone = named.contains(&name.to_owned()) && name != "host";
                let expected: Vec<_> = before.get_all(name).iter().filter(|_| !gone).collect();
                prop_assert_eq!(after.get_all(name).iter().collect::<Vec<_>>(), expected);
            }
            prop_assert_eq!(after.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["9.9.9.9"]);
        }
    }
}
