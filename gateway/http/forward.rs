//! What is changed in a head on its way through, and nothing else is. Pure.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Version, header,
    request::Parts,
    uri::{self, Authority, Uri},
};
use ipnet::IpNet;

use super::{
    RequestError, cdn_loop,
    seen::{HOP_BY_HOP, Seen},
};
use crate::{
    config::{HeaderChanges, Scheme},
    selector::Altered,
    syntax::{
        authority,
        field::{is_disguised, is_ours},
        list,
        target::{self, HostAndPath},
        upgrade,
    },
    tls,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What every forwarded request has of us, whatever the client sent.
static OURS: [HeaderName; 5] = [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, CLIENT_CERT, cdn_loop::NAME];

/// Who sent a request over a connection, as far as the connection says.
pub(super) struct Sender {
    pub address: IpAddr,
    /// Its text, made once per connection.
    text: HeaderValue,
    /// Whether it is a proxy whose word counts.
    trusted: bool,
    /// How the connection came.
    scheme: Scheme,
    /// What its certificate says, if it showed one.
    certificate: Option<HeaderValue>,
}

impl Sender {
    pub(super) fn new(peer: SocketAddr, trusted: &[IpNet], tls: Option<&tls::Accepted>) -> Self {
        let address = peer.ip().to_canonical();
        // The text of an IP address is always a header value.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
        let certificate = tls.and_then(|tls| HeaderValue::from_str(tls.client.as_deref()?).ok());
        Self { address, text, trusted: is_trusted(trusted, address), scheme, certificate }
    }

    /// Whether it is a proxy whose word counts.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// How the client came: as a trusted proxy says it, or else as the connection did.
    pub(super) fn scheme(&self, headers: &HeaderMap) -> Scheme {
        let said = headers.get(FORWARDED_PROTO).filter(|_| self.trusted);
        let first = said.and_then(|said| list::elements(said.as_bytes()).next());
        match first {
            Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => Scheme::Https,
            Some(_) => Scheme::Http,
            None => self.scheme,
        }
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

/// Makes of a client's head the one for an endpoint. Says whether it asks for another protocol, and what was altered.
pub(super) fn request(
    head: &mut Parts,
    asked: &HostAndPath,
    sender: &Sender,
    strip: usize,
    has_body: bool,
    seen: Seen,
) -> (bool, Altered) {
    let mut altered = Altered::new(&OURS);
    aim(head, asked, strip);
    let keep = if seen.has_hop_by_hop() { Kept::of(head, has_body) } else { Kept::default() };
    remove_hop_by_hop(&mut head.headers, &seen, |headers, name| altered.remove(headers, name));
    if seen.odd {
        remove(&mut head.headers, is_disguised, &mut altered);
    }
    if seen.trailer {
        announce(&mut head.headers, &mut altered);
    }
    let upgrading = keep.upgrade.is_some();
    keep.restore(&mut head.headers);
    // Room for all at once: growing one by one sorts the headers anew each time.
    head.headers.reserve(4);
    forwarded(&mut head.headers, asked, sender, seen.forwarded, &mut altered);
    if seen.cdn_loop {
        altered.remember(&head.headers, &cdn_loop::NAME);
    }
    cdn_loop::visit(&mut head.headers, seen.cdn_loop);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    (upgrading, altered)
}

/// Makes of the head for an endpoint, which is one by HTTP/1, one by HTTP/2 (RFC 9113 8.2.2 and 8.3.1). `scheme` is
/// that of the connection to it.
pub(super) fn to_http2<B>(request: &mut Request<B>, address: SocketAddr, scheme: Scheme) {
    let headers = request.headers_mut();
    let host = headers.remove(header::HOST);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    let named = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    // Whoever names no host, or one that only HTTP/1 can name, is forwarded to the address.
    let authority = named.or_else(|| Authority::try_from(address.to_string()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let scheme = match scheme {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    };
    (parts.scheme, parts.authority) = (Some(scheme), authority);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Makes the changes that a route says of requests, and remembers what was there.
pub(super) fn change_request(headers: &mut HeaderMap, changes: &HeaderChanges, altered: &mut Altered) {
    let written = changes.set.iter().chain(&changes.add).map(|(name, _)| name);
    changes.remove.iter().chain(written).for_each(|name| altered.overwrite(headers, name));
    change(headers, changes);
}

/// Makes the changes that a route says of heads.
pub(super) fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &changes.add {
        headers.append(name.clone(), value.clone());
    }
}

/// What a client that knows an endpoint by this name, or by its address alone, says in `Host`.
pub(super) fn host_of(name: Option<&str>, address: SocketAddr, scheme: Scheme) -> Option<HeaderValue> {
    let is_whole =
        |name: &str| authority::parse(name.as_bytes()).is_some_and(|named| named.host == name.len());
    let name = name.filter(|name| is_whole(name) && target::check_host(name.as_bytes()) == Some(true));
    let named = name.map(|name| match address.port() {
        port if port == scheme.port() => name.to_owned(),
        port => format!("{name}:{port}"),
    });
    // A scope says something on this machine only.
    let address = || SocketAddr::new(address.ip(), address.port()).to_string();
    HeaderValue::try_from(named.unwrap_or_else(address)).ok()
}

/// Whether what a client expects can be fulfilled: it is asked for its body by everybody, and nothing else is known
/// (RFC 9110 10.1.1).
pub(super) fn expectation(headers: &HeaderMap) -> Result<(), RequestError> {
    let known = |element: &[u8]| element.eq_ignore_ascii_case(b"100-continue");
    if !list::of(headers, &header::EXPECT).all(known) {
        return Err(RequestError::Expectation);
    }
    Ok(())
}

/// Whether an answer can be understood: its body is chunked or not coded at all. The name of any other coding goes no
/// further than this connection, so that nobody after it could decode the body.
pub(super) fn coding(headers: &HeaderMap) -> Result<(), RequestError> {
    let mut last = None;
    for line in headers.get_all(header::TRANSFER_ENCODING) {
        for coding in list::elements(line.as_bytes()) {
            if last.is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(RequestError::AnswerCoding);
            }
            last = Some(line);
        }
    }
    // The parser looks for it behind the last comma of the last line, and else takes the body for one without an end.
    let end = headers.get_all(header::TRANSFER_ENCODING).into_iter().next_back();
    let understood = match (end, last) {
        (None, _) => true,
        (Some(end), Some(last)) => {
            std::ptr::eq(end, last) && end.as_bytes().trim_ascii().last() != Some(&b',')
        }
        (Some(_), None) => false,
    };
    if understood { Ok(()) } else { Err(RequestError::AnswerCoding) }
}

/// Whether an endpoint goes on with a protocol that it may have been offered.
pub(super) fn may_switch(headers: &HeaderMap) -> bool {
    list::of(headers, &header::UPGRADE).all(upgrade::may_pass)
}

/// Makes of an endpoint's head the one for the client. `switching` keeps what a 101 needs.
pub(super) fn response(headers: &mut HeaderMap, seen: Seen, switching: bool) {
    if seen.repeated {
        one_length(headers);
    }
    if !seen.has_hop_by_hop() {
        return;
    }
    let upgrade = if switching { headers.get(header::UPGRADE).cloned() } else { None };
    if seen.is_coded() {
        headers.remove(header::CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers, &seen, |headers, name| drop(headers.remove(name)));
    if let Some(upgrade) = upgrade {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// An endpoint may say the length more than once, always the same or the parser would refuse it; the client gets it once.
fn one_length(headers: &mut HeaderMap) {
    let length = list::of(headers, &header::CONTENT_LENGTH).next();
    if let Some(length) = length.and_then(|length| HeaderValue::from_bytes(length).ok()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Origin-form, and `Host` names what an absolute form named. The bytes of the client, unless something is stripped.
fn aim(head: &mut Parts, asked: &HostAndPath, strip: usize) {
    let absolute = head.uri.authority().is_some();
    if strip > 0 {
        head.uri = Uri::from(asked.stripped(strip).unwrap_or_else(|| asked.sent().clone()));
    } else if absolute {
        head.uri = Uri::from(asked.sent().clone());
    }
    if absolute && let Some(authority) = asked.authority() {
        head.headers.insert(header::HOST, authority.clone());
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
        let trailers = |element: &[u8]| list::bare(element).eq_ignore_ascii_case(b"trailers");
        Self {
            chunked: has_body && headers.contains_key(header::TRANSFER_ENCODING),
            trailers: list::of(headers, &header::TE).any(trailers),
            upgrade: if has_body || head.version != Version::HTTP_11 { None } else { offer(headers) },
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

/// The protocols that a client offers and an endpoint may choose from. The server holds back what follows such a request,
/// and reads its offers with the same functions.
fn offer(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked =
        headers.get_all(header::CONNECTION).into_iter().any(|line| upgrade::is_asked(line.as_bytes()));
    let lines = headers.get_all(header::UPGRADE).into_iter().filter(|_| asked);
    let protocols: Vec<&[u8]> = lines.flat_map(|line| upgrade::offered(line.as_bytes())).collect();
    if protocols.is_empty() { None } else { HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok() }
}

fn remove_hop_by_hop(
    headers: &mut HeaderMap,
    seen: &Seen,
    mut remove: impl FnMut(&mut HeaderMap, &HeaderName),
) {
    if seen.names {
        let named: Vec<HeaderName> = list::of(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| !is_ours(name.as_str()))
            .collect();
        named.iter().for_each(|name| remove(headers, name));
    }
    // Looking for a header that is not there costs as much as removing one.
    for (_, name) in HOP_BY_HOP.iter().enumerate().filter(|(place, _)| seen.has(*place)) {
        remove(headers, name);
    }
}

/// Removes the headers whose names are like that.
fn remove(headers: &mut HeaderMap, is_like_that: impl Fn(&str) -> bool, altered: &mut Altered) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_like_that(name.as_str())).cloned().collect();
    names.iter().for_each(|name| altered.remove(headers, name));
}

/// `Trailer` without the names of headers that an endpoint must not take from a client: trailers that are not announced
/// are not sent on.
fn announce(headers: &mut HeaderMap, altered: &mut Altered) {
    let unsafe_name = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        is_ours(&name) || is_disguised(&name)
    };
    if !list::of(headers, &header::TRAILER).any(unsafe_name) {
        return;
    }
    let names = list::of(headers, &header::TRAILER).filter(|name| !unsafe_name(name));
    let rest = names.collect::<Vec<_>>().join(&b", "[..]);
    altered.remove(headers, &header::TRAILER);
    if let Ok(rest) = HeaderValue::from_bytes(&rest)
        && !rest.is_empty()
    {
        headers.insert(header::TRAILER, rest);
    }
}

/// `X-Forwarded-*`: continued when a trusted proxy began it, begun anew otherwise.
fn forwarded(
    headers: &mut HeaderMap,
    asked: &HostAndPath,
    sender: &Sender,
    seen: bool,
    altered: &mut Altered,
) {
    let claims = |name: &str| name.starts_with("x-forwarded-") || name == header::FORWARDED.as_str();
    if seen && !sender.trusted {
        remove(headers, claims, altered);
    }
    let seen = seen && sender.trusted;
    if seen {
        OURS.iter().take(3).for_each(|name| altered.remember(headers, name));
        // Nobody else's word counts for what was proved here.
        altered.remove(headers, &CLIENT_CERT);
    }
    let chain = if seen { chain(headers, &sender.text) } else { None };
    headers.insert(FORWARDED_FOR, chain.unwrap_or_else(|| sender.text.clone()));
    if !seen || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(sender.scheme.as_str()));
    }
    if let Some(certificate) = &sender.certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
    if (!seen || !headers.contains_key(FORWARDED_HOST))
        && let Some(host) = asked.authority()
    {
        headers.insert(FORWARDED_HOST, host.clone());
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
    use crate::selector::{HttpFacts, Key, RequestFacts};

    fn sender(peer: &str, trusted: &[IpNet]) -> Sender {
        Sender::new(format!("{peer}:1").parse().unwrap(), trusted, None)
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

    /// The head as it is forwarded, whether it asks for another protocol, and what was altered.
    fn forwarded(
        target: &str,
        lines: &[(&str, &str)],
        strip: usize,
        has_body: bool,
    ) -> (Parts, bool, Altered) {
        let mut request = http::Request::new(());
        *request.uri_mut() = target.parse().unwrap();
        for (name, line) in lines {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), line.parse().unwrap());
        }
        let (mut head, ()) = request.into_parts();
        let (asked, seen) = (HostAndPath::read(&head).unwrap(), Seen::of(&head.headers));
        let (upgrading, altered) =
            super::request(&mut head, &asked, &sender("9.9.9.9", &[]), strip, has_body, seen);
        (head, upgrading, altered)
    }

    #[test]
    fn the_bytes_of_the_client_go_on_unless_something_is_stripped() {
        let check = |target: &str, strip: usize, expected: &str, host: &str| {
            let (head, ..) = forwarded(target, &[("host", "a.test")], strip, false);
            assert_eq!(
                (head.uri.to_string().as_str(), head.headers["host"].to_str().unwrap()),
                (expected, host),
                "{target}"
            );
            assert_eq!(head.headers[FORWARDED_HOST], head.headers["host"]);
        };
        check("//a/../%6f%2f?%61", 0, "//a/../%6f%2f?%61", "a.test");
        check("//x/../%6f%2f?%61", 2, "/%2F?%61", "a.test");
        check("http://B.test:1", 0, "/", "B.test:1");
        check("http://B.test?x", 0, "/?x", "B.test");
        check("http://b.test/%6f//x", 0, "/%6f//x", "b.test");
        check("http://b.test/%6f//x", 2, "/x", "b.test");
    }

    #[test]
    fn offers_are_read_as_lists_and_made_without_a_body_only() {
        let check = |lines: &[(&str, &str)], expected: Option<&str>| {
            let (head, upgrading, _) = forwarded("/", lines, 0, false);
            let upgrade = head.headers.get(header::UPGRADE).map(|value| value.to_str().unwrap());
            assert_eq!((upgrade, upgrading), (expected, expected.is_some()), "{lines:?}");
            let (head, upgrading, _) = forwarded("/", lines, 0, true);
            assert!(!upgrading && !head.headers.contains_key(header::UPGRADE), "{lines:?}");
        };
        check(&[("connection", "Upgrade"), ("upgrade", "websocket")], Some("websocket"));
        check(
            &[("connection", "x, ,upgrade,"), ("upgrade", ",h2c , WebSocket,, irc/6.9")],
            Some("WebSocket, irc/6.9"),
        );
        check(
            &[("connection", "x"), ("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket")],
            Some("websocket"),
        );
        check(&[("upgrade", "websocket")], None);
        check(&[("connection", "upgrade"), ("upgrade", "h2c, TLS/1.2, HTTP/2.0")], None);
        check(
            &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
            None,
        );
    }

    #[test]
    fn headers_that_would_stand_for_ours_are_dropped() {
        let names = [
            "x_forwarded_for",
            "x-forwarded_proto",
            "x_forwarded-host",
            "x_forwarded_port",
            "x.forwarded.for",
            "x~forwarded~for",
            "cdn_loop",
            "transfer_encoding",
            "content_length",
            "proxy_connection",
        ];
        let kept = ["x_user", "x-my_forwarded-for", "forwarded_by", "_", "x_real_ip"];
        let lines: Vec<(&str, &str)> = names.iter().chain(&kept).map(|name| (*name, "1.2.3.4")).collect();
        let (head, ..) = forwarded("/", &lines, 0, false);
        for name in names {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        for name in kept {
            assert!(head.headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn what_is_ours_is_not_taken_away_by_a_client() {
        let lines = [
            ("host", "a"),
            ("connection", "cdn-loop, x-forwarded-for, host, Content-Length, x-mine\u{e9}, x-yours"),
            ("cdn-loop", "other"),
            ("content-length", "5"),
            ("x-yours", "1"),
        ];
        let (head, ..) = forwarded("/", &lines, 0, true);
        assert!(head.headers["cdn-loop"].to_str().unwrap().starts_with("other, witgate-"));
        assert_eq!(head.headers["x-forwarded-for"], "9.9.9.9");
        assert_eq!(head.headers["content-length"], "5");
        assert!(!head.headers.contains_key("x-yours"));
    }

    #[test]
    fn trailers_that_would_stand_for_ours_are_not_announced() {
        let trailer = |line: &str| {
            let (head, ..) = forwarded("/", &[("trailer", line)], 0, true);
            head.headers.get(header::TRAILER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(trailer("x-sum").as_deref(), Some("x-sum"));
        assert_eq!(trailer("X-Sum, ,Expires").as_deref(), Some("X-Sum, ,Expires"));
        assert_eq!(trailer("x-a,X-Forwarded-For, x_forwarded_host ,x-b").as_deref(), Some("x-a, x-b"));
        assert_eq!(trailer("content-length"), None);
    }

    #[test]
    fn an_endpoint_is_called_by_its_name_or_its_address() {
        let by = |scheme, name: Option<&str>, address: &str, expected: &str| {
            assert_eq!(host_of(name, address.parse().unwrap(), scheme).unwrap(), expected, "{name:?}");
        };
        let check = |name, address, expected| by(Scheme::Http, name, address, expected);
        by(Scheme::Https, Some("one.internal"), "10.0.0.1:443", "one.internal");
        by(Scheme::Https, Some("one.internal"), "10.0.0.1:80", "one.internal:80");
        check(Some("one.internal"), "10.0.0.1:80", "one.internal");
        check(Some("one.internal"), "10.0.0.1:8080", "one.internal:8080");
        check(Some("[::1]"), "10.0.0.1:81", "[::1]:81");
        check(None, "10.0.0.1:80", "10.0.0.1:80");
        check(None, "[fe80::1%2]:80", "[fe80::1]:80");
        // What a registry calls a name need not be one.
        for name in ["", ".", "a b", "a\r\nx: y", "one:8080", "u@one", "::1", "caf\u{e9}"] {
            check(Some(name), "10.0.0.1:81", "10.0.0.1:81");
        }
    }

    #[test]
    fn what_was_proved_here_is_told_and_nobody_elses_word_counts_for_it() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let told = |peer: &str, client: Option<Option<&str>>| {
            let tls = client.map(|client| tls::Accepted {
                name: None,
                http2: false,
                resumed: false,
                client: client.map(str::to_owned),
            });
            let sender = Sender::new(format!("{peer}:1").parse().unwrap(), &trusted, tls.as_ref());
            let request = http::Request::get("/").header("host", "a").header(CLIENT_CERT, "Hash=forged");
            let (mut head, ()) = request.header(CLIENT_CERT, "Hash=again").body(()).unwrap().into_parts();
            let (asked, seen) = (HostAndPath::read(&head).unwrap(), Seen::of(&head.headers));
            super::request(&mut head, &asked, &sender, 0, false, seen);
            let lines = head.headers.get_all(CLIENT_CERT).into_iter();
            let lines: Vec<_> = lines.map(|line| line.to_str().unwrap().to_owned()).collect();
            (lines.join("|"), head.headers[FORWARDED_PROTO].to_str().unwrap().to_owned())
        };
        for peer in ["9.9.9.9", "10.0.0.1"] {
            assert_eq!(told(peer, None), (String::new(), "http".into()), "{peer}");
            assert_eq!(told(peer, Some(None)), (String::new(), "https".into()), "{peer}");
            assert_eq!(told(peer, Some(Some("Hash=1"))), ("Hash=1".into(), "https".into()), "{peer}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_that_a_client_came_encrypted() {
        let scheme = |trusted: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_PROTO, line.parse().unwrap());
            }
            sender("10.0.0.1", &[trusted.parse().unwrap()]).scheme(&headers)
        };
        for said in [&["https"][..], &["HTTPS"], &["https, http"], &["https", "http"]] {
            assert_eq!(scheme("10.0.0.0/8", said), Scheme::Https, "{said:?}");
            assert_eq!(scheme("10.9.0.0/16", said), Scheme::Http, "{said:?}");
        }
        for said in [&[][..], &["http"], &["http, https"], &[""], &["wss"]] {
            assert_eq!(scheme("10.0.0.0/8", said), Scheme::Http, "{said:?}");
        }
    }

    #[test]
    fn answers_are_chunked_or_not_coded() {
        let check = |lines: &[&str], understood: bool| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::TRANSFER_ENCODING, line.parse().unwrap());
            }
            assert_eq!(coding(&headers).is_ok(), understood, "{lines:?}");
        };
        for lines in [&[][..], &["chunked"], &["Chunked "], &[", chunked"], &["", "chunked"]] {
            check(lines, true);
        }
        for lines in [
            &["gzip, chunked"][..],
            &["gzip"],
            &["identity"],
            &["chunked, gzip"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["chunked", ""],
            &["chunked,"],
            &[""],
            &["chunked;a=b"],
            &["\"chunked\""],
            &["chunked", "identity"],
            &["x\u{e9}, chunked"],
        ] {
            check(lines, false);
        }
    }

    #[test]
    fn nothing_is_expected_but_to_be_asked_for_the_body() {
        let check = |lines: &[&str], fulfilled: bool| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::EXPECT, line.parse().unwrap());
            }
            assert_eq!(expectation(&headers).is_ok(), fulfilled, "{lines:?}");
        };
        for lines in [&[][..], &["100-continue"], &["100-Continue"], &["", "100-continue,"]] {
            check(lines, true);
        }
        for lines in
            [&["200-ok"][..], &["100-continue, x"], &["100-continue", "x"], &["100-continue;a"], &["\u{e9}"]]
        {
            check(lines, false);
        }
    }

    proptest! {
        /// Whatever comes and whatever a route says: what is removed is gone, what is set is there once, what is added is
        /// there too, nothing else is touched, and a second try is picked on what the client sent.
        #[test]
        fn changes_are_made_as_they_are_written(
            sent in prop::collection::vec(("[a-d]", "[0-4]"), 0..8),
            remove in prop::collection::vec("[a-e]", 0..3),
            set in prop::collection::btree_map("[a-e]", "[5-6]", 0..3),
            add in prop::collection::vec(("[a-e]", "[7-9]"), 0..3),
        ) {
            let name = |text: &String| text.parse::<HeaderName>().unwrap();
            let line = |(key, text): (&String, &String)| (name(key), text.parse::<HeaderValue>().unwrap());
            let sent: HeaderMap = sent.iter().map(|(key, text)| line((key, text))).collect();
            let changes = HeaderChanges {
                remove: remove.iter().map(name).filter(|name| !set.contains_key(name.as_str())).collect(),
                set: set.iter().map(line).collect(),
                add: add.iter().map(|(key, text)| line((key, text))).collect(),
            };
            let (mut head, ()) = http::Request::new(()).into_parts();
            head.headers = sent.clone();
            let mut altered = Altered::new(&OURS);
            change_request(&mut head.headers, &changes, &mut altered);

            let asked = HostAndPath::read(&head).unwrap();
            let client = IpAddr::from([10, 0, 0, 1]);
            let request = Some(HttpFacts { head: &head, asked: &asked, altered: Some(&altered) });
            let facts = RequestFacts { request, client, sni: None };
            for key in ["a", "b", "c", "d", "e"] {
                let was: Vec<_> = sent.get_all(key).iter().collect();
                let mut expected = if changes.remove.contains(&name(&key.into())) { vec![] } else { was.clone() };
                if let Some((_, value)) = changes.set.iter().find(|(name, _)| name == key) {
                    expected = vec![value];
                }
                expected.extend(changes.add.iter().filter(|(name, _)| name == key).map(|(_, value)| value));
                prop_assert_eq!(head.headers.get_all(key).iter().collect::<Vec<_>>(), expected);
                let seen = facts.value(&Key::Header(name(&key.into())));
                prop_assert_eq!(seen.as_deref(), was.first().map(|value| value.to_str().unwrap()));
            }
        }

        /// Whatever headers come: none that concerns one connection goes on, and nothing else is lost.
        #[test]
        fn no_hop_by_hop_header_is_forwarded(
            names in prop::collection::vec(prop::sample::select(vec![
                "connection", "Keep-Alive", "proxy-connection", "proxy-authorization", "te", "transfer-encoding",
                "upgrade", "expect", "x-a", "x-b", "accept", "x-forwarded-for", "forwarded", "cookie", "cdn-loop", "x_forwarded_for",
                "x-forwarded_proto", "http2-settings",
            ]), 0..20),
            values in prop::collection::vec(prop::sample::select(vec![
                "close", "x-a", "X-A, keep-alive", "upgrade", "h2c", "websocket", "trailers", "gzip", "host", "1.2.3.4", ",",
            ]), 20),
            has_body in prop::bool::ANY,
        ) {
            let lines: Vec<(&str, &str)> = names.iter().copied().zip(values).collect();
            let mut before = HeaderMap::new();
            for (name, value) in &lines {
                before.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            let (head, ..) = forwarded("/", &lines, 0, has_body);

            let named: Vec<String> = list::of(&before, &header::CONNECTION)
                .map(|token| String::from_utf8_lossy(token).to_ascii_lowercase())
                .collect();
            let after = &head.headers;
            for name in [
                "keep-alive", "proxy-connection", "proxy-authorization", "expect", "forwarded", "x_forwarded_for",
                "x-forwarded_proto", "http2-settings",
            ] {
                prop_assert!(!after.contains_key(name), "{}", name);
            }
            for token in list::of(after, &header::CONNECTION) {
                prop_assert!([&b"te"[..], b"upgrade"].contains(&token), "{:?}", token);
                prop_assert!(after.contains_key(str::from_utf8(token).unwrap()));
            }
            let visits = before.get_all("cdn-loop").into_iter().count();
            prop_assert!(visits == 0 || list::of(after, &cdn_loop::NAME).count() > 1 || list::of(&before, &cdn_loop::NAME).count() == 0);
            prop_assert!(after.get(header::TE).is_none_or(|te| te == "trailers"));
            prop_assert!(after.get(header::UPGRADE).is_none_or(|to| !to.as_bytes().starts_with(b"h2") && !has_body));
            prop_assert!(has_body || !after.contains_key(header::TRANSFER_ENCODING));
            for name in ["x-a", "x-b", "accept", "cookie"] {
                let gone = named.contains(&name.to_owned());
                let expected: Vec<_> = before.get_all(name).iter().filter(|_| !gone).collect();
                prop_assert_eq!(after.get_all(name).iter().collect::<Vec<_>>(), expected);
            }
            prop_assert_eq!(after.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["9.9.9.9"]);
        }
    }
}
