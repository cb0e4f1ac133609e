//! The head of a request by HTTP/2, as strictly read as one by HTTP/1: whoever comes after this sees no difference.

use http::{HeaderMap, HeaderValue, Method, Request, Version, header, request::Parts};
use hyper::{body::Incoming, ext::Protocol};

use crate::{
    server::Refusal,
    syntax::{authority, target, websocket},
};

/// Fields of a head, each crumb of a cookie counted: one byte of a client can be a whole one of ours.
const FIELDS_MOST: usize = 128;

/// The longest head, in bytes, with what the protocol counts for each field.
const LONGEST: usize = 16 * 1024;
const FIELD: usize = 32;

/// The request, with its host and its cookies as a request by HTTP/1 has them; or why it is refused.
pub(super) fn check(request: Request<Incoming>) -> Result<Request<Incoming>, Refusal> {
    let (mut head, body) = request.into_parts();
    read(&mut head)?;
    Ok(Request::from_parts(head, body))
}

fn read(head: &mut Parts) -> Result<(), Refusal> {
    if head.headers.len() > FIELDS_MOST || size(head) > LONGEST {
        return Err(Refusal::HeadTooLarge);
    }
    if head.method == Method::CONNECT {
        websocket(head)?;
    }
    let blank = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b' ' | b'\t'));
    let padded = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        blank(bytes.first()) || blank(bytes.last())
    };
    if head.headers.values().any(padded) {
        return Err(Refusal::HeaderLine);
    }
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    target::check(head.method.as_str().as_bytes(), path.as_bytes())?;
    host(head)?;
    join_cookies(&mut head.headers);
    Ok(())
}

/// Makes of a request for a WebSocket (RFC 8441) what a client of HTTP/1 sends for one, with a key of our own.
fn websocket(head: &mut Parts) -> Result<(), Refusal> {
    let protocol = head.extensions.get::<Protocol>().ok_or(Refusal::Connect)?;
    if !websocket::is_named(protocol.as_ref()) {
        return Err(Refusal::Protocol);
    }
    (head.method, head.version) = (Method::GET, Version::HTTP_11);
    // What comes behind it is no body.
    head.headers.remove(header::CONTENT_LENGTH);
    let accept = websocket::offer(&mut head.headers, fastrand::u128(..));
    head.extensions.insert(accept);
    Ok(())
}

fn size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    target + authority + fields.sum::<usize>()
}

/// There is a host, and only one (RFC 9113 8.3.1).
fn host(head: &Parts) -> Result<(), Refusal> {
    let mut lines = head.headers.get_all(header::HOST).iter();
    let (line, authority) = (lines.next(), head.uri.authority());
    if lines.next().is_some() {
        return Err(Refusal::Host);
    }
    let named = match (authority, line) {
        (Some(authority), None) => authority.as_str().as_bytes(),
        (None, Some(line)) => line.as_bytes(),
        (Some(authority), Some(line)) if same(authority.as_str(), line) => line.as_bytes(),
        _ => return Err(Refusal::Host),
    };
    if target::check_host(named) == Some(true) { Ok(()) } else { Err(Refusal::Host) }
}

fn same(one: &str, other: &HeaderValue) -> bool {
    let parts = |text: &str| {
        let named = authority::parse(text.as_bytes())?;
        Some((authority::normal(&text[..named.host]).into_owned(), named.port))
    };
    let other = str::from_utf8(other.as_bytes()).ok();
    other.is_some_and(|other| one == other || parts(one).is_some() && parts(one) == parts(other))
}

/// Clients send the cookies in pieces, which are one line for everybody who does not speak HTTP/2 (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    // What is made of values is one.
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, target: &str, lines: &[(&str, &str)]) -> Result<Parts, Refusal> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        read(&mut head).map(|()| head)
    }

    #[test]
    fn a_request_has_one_host() {
        let check = |target: &str, hosts: &[&str]| {
            let lines: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            check("GET", target, &lines).map(drop)
        };
        for (target, hosts) in [
            ("http://a.test/", &[][..]),
            ("/", &["a.test"]),
            ("http://a.test/", &["a.test"]),
            ("http://A.test:80/", &["a.TEST:80"]),
            ("http://a.test./", &["a.test"]),
        ] {
            assert_eq!(check(target, hosts), Ok(()), "{target} {hosts:?}");
        }
        for (target, hosts) in [
            ("/", &[][..]),
            ("/", &[""]),
            ("/", &["a.test", "a.test"]),
            ("/", &["a b"]),
            ("http://a.test/", &["b.test"]),
            ("http://a.test/", &["a.test:81"]),
            ("http://a.test:80/", &["a.test"]),
            ("http://a.test/", &["a.test", "a.test"]),
            ("http://u@a.test/", &[]),
        ] {
            assert_eq!(check(target, hosts), Err(Refusal::Host), "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_request_for_a_websocket_is_a_get_that_offers_it() {
        let read = |protocol: &str| {
            let request = Request::builder().method("CONNECT").uri("http://a.test/chat");
            let request = request.header("content-length", "0").header("sec-websocket-key", "theirs");
            let request = request.extension(Protocol::from(protocol));
            let mut head = request.body(()).unwrap().into_parts().0;
            super::read(&mut head).map(|()| head)
        };
        for protocol in ["websocket", "WebSocket"] {
            let head = read(protocol).unwrap();
            assert_eq!(
                (&head.method, head.version, head.uri.path()),
                (&Method::GET, Version::HTTP_11, "/chat")
            );
            assert!(head.headers["upgrade"] == "websocket" && head.headers["connection"] == "upgrade");
            assert!(!head.headers.contains_key("content-length"));
            assert_ne!(head.headers["sec-websocket-key"], "theirs");
            assert!(head.extensions.get::<websocket::Accept>().is_some());
        }
        for protocol in ["connect-udp", "websocket2", ""] {
            assert_eq!(read(protocol).map(drop), Err(Refusal::Protocol), "{protocol}");
        }
    }

    #[test]
    fn cookies_are_one_line() {
        let cookies = |crumbs: &[&str]| {
            let lines: Vec<_> = crumbs.iter().map(|crumb| ("cookie", *crumb)).collect();
            let head = check("GET", "http://a/", &lines).unwrap();
            let lines = head.headers.get_all("cookie").iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cookies(&[]), Vec::<String>::new());
        assert_eq!(cookies(&["a=1"]), ["a=1"]);
        assert_eq!(cookies(&["a=1", "b=2; c=3", "d=4"]), ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn what_is_too_large_or_no_request_is_refused() {
        let value = |len: usize| "x".repeat(len);
        let one = |len: usize| check("GET", "http://a/", &[("x", &value(len))]).map(drop);
        let rest = "/".len() + "a".len() + "x".len() + FIELD;
        assert_eq!(one(LONGEST - rest), Ok(()));
        assert_eq!(one(LONGEST - rest + 1), Err(Refusal::HeadTooLarge));
        let many = |count: usize| check("GET", "http://a/", &vec![("cookie", "a"); count]).map(drop);
        assert_eq!(many(FIELDS_MOST), Ok(()));
        assert_eq!(many(FIELDS_MOST + 1), Err(Refusal::HeadTooLarge));
        assert_eq!(check("CONNECT", "a:80", &[]).map(drop), Err(Refusal::Connect));
        for padded in [" a", "a ", "\ta", " "] {
            assert_eq!(check("GET", "http://a/", &[("x", padded)]).map(drop), Err(Refusal::HeaderLine));
        }
        assert_eq!(check("OPTIONS", "*", &[("host", "a")]).map(drop), Ok(()));
        assert_eq!(check("GET", "*", &[("host", "a")]).map(drop), Err(Refusal::Target));
    }
}
