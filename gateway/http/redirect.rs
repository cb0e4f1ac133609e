//! The answer of a route that sends clients elsewhere. Pure.

use http::{HeaderValue, Response, header};

use super::{RequestError, reply::ReplyBody};
use crate::{
    config::{Redirect, Scheme},
    server::Refusal,
    syntax::{authority, target::HostAndPath},
};

/// Whether the place that it leads to is another than the one that was asked for, by this scheme.
pub(super) fn leads_on(to: &Redirect, asked: &HostAndPath, scheme: Scheme) -> bool {
    let sent = asked.authority().and_then(|sent| authority::parse(sent.as_bytes()));
    let here = sent.and_then(|sent| sent.port).unwrap_or(scheme.port());
    let there = to.scheme.unwrap_or(scheme);
    there != scheme
        || to.host.as_deref().is_some_and(|host| host != asked.host())
        || to.port.unwrap_or(there.port()) != here
}

/// Sends a client elsewhere. Path and query stay as it sent them, to the byte.
pub(super) fn answer(
    to: &Redirect,
    asked: &HostAndPath,
    scheme: Scheme,
) -> Result<Response<ReplyBody>, RequestError> {
    let location = location(to, asked, scheme)?;
    let mut response = Response::new(ReplyBody::Text("what is asked for is elsewhere"));
    *response.status_mut() = to.status;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// An absolute URI, so that no path can be taken for a host. The host is the configured one or that of the request, which
/// names no user; a client that names none cannot be sent to another place there.
fn location(to: &Redirect, asked: &HostAndPath, scheme: Scheme) -> Result<HeaderValue, RequestError> {
    let host = to.host.as_deref().unwrap_or_else(|| asked.host());
    if host.is_empty() {
        return Err(Refusal::Host.into());
    }
    let scheme = to.scheme.unwrap_or(scheme);
    let port = to.port.filter(|port| *port != scheme.port());
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    // The server as a whole is written as an empty path (RFC 9110 7.1).
    let sent = Some(asked.sent().as_str()).filter(|sent| *sent != "*").unwrap_or_default();
    let location = [scheme.as_str(), "://", host, &port, sent].concat();
    HeaderValue::try_from(location).map_err(|_| Refusal::Target.into())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn to(scheme: Option<Scheme>, host: Option<&str>, port: Option<u16>) -> Redirect {
        Redirect { scheme, host: host.map(Into::into), port, status: StatusCode::PERMANENT_REDIRECT }
    }

    fn asked(method: &str, target: &str, host: &str) -> HostAndPath {
        let mut request = http::Request::builder().method(method).uri(target);
        if !host.is_empty() {
            request = request.header("host", host);
        }
        HostAndPath::read(&request.body(()).unwrap().into_parts().0).unwrap()
    }

    const HTTPS: Option<Scheme> = Some(Scheme::Https);

    #[test]
    fn a_location_is_what_is_written_and_else_what_was_asked_for() {
        let check = |to: Redirect, host: &str, target: &str, scheme: Scheme, expected: &str| {
            let method = if target == "*" { "OPTIONS" } else { "GET" };
            let location = location(&to, &asked(method, target, host), scheme).unwrap();
            assert_eq!(location, expected, "{to:?} {host} {target}");
        };
        let http = Scheme::Http;
        check(to(HTTPS, None, None), "Shop.test:8080", "/a?b=%61", http, "https://shop.test/a?b=%61");
        check(to(HTTPS, None, Some(8443)), "shop.test", "/", http, "https://shop.test:8443/");
        check(to(HTTPS, None, Some(443)), "shop.test", "/", http, "https://shop.test/");
        check(to(HTTPS, Some("b.test"), None), "shop.test", "//x/../y", http, "https://b.test//x/../y");
        check(to(None, Some("b.test"), None), "shop.test:81", "/", http, "http://b.test/");
        check(to(None, Some("b.test"), None), "shop.test", "/", Scheme::Https, "https://b.test/");
        check(to(None, None, Some(81)), "[::1]:80", "/", http, "http://[::1]:81/");
        check(to(HTTPS, None, None), "other", "http://shop.test/a", http, "https://shop.test/a");
        check(to(HTTPS, None, None), "a.test", "*", http, "https://a.test");
        check(to(None, Some("b.test"), None), "", "/", http, "http://b.test/");
    }

    #[test]
    fn a_client_that_names_no_host_is_sent_to_none_of_its_own() {
        let refused = location(&to(HTTPS, None, None), &asked("GET", "/", ""), Scheme::Http);
        assert!(matches!(refused, Err(RequestError::Refused(Refusal::Host))));
    }

    #[test]
    fn where_a_request_is_already_it_is_not_sent() {
        let check = |to: Redirect, host: &str, scheme: Scheme, expected: bool| {
            assert_eq!(leads_on(&to, &asked("GET", "/", host), scheme), expected, "{to:?} {host} {scheme:?}");
        };
        check(to(HTTPS, None, None), "a.test", Scheme::Http, true);
        check(to(HTTPS, None, None), "a.test", Scheme::Https, false);
        check(to(HTTPS, None, None), "a.test:443", Scheme::Https, false);
        check(to(HTTPS, None, None), "a.test:8443", Scheme::Https, true);
        check(to(None, Some("a.test"), None), "A.test.:80", Scheme::Http, false);
        check(to(None, Some("a.test"), None), "www.a.test", Scheme::Http, true);
        check(to(None, Some("a.test"), None), "", Scheme::Http, true);
        check(to(None, None, Some(81)), "a.test:81", Scheme::Http, false);
        check(to(None, None, Some(81)), "a.test", Scheme::Http, true);
    }

    proptest! {
        /// Whatever hosts and targets are let through, a client stays at the host that it named, with all that it asked for;
        /// and where it has been sent, it is not sent again.
        #[test]
        fn nobody_is_sent_to_a_host_that_he_did_not_name(
            host in "[a-zA-Z0-9.%@:;=~_-]{1,12}",
            target in "/[-a-zA-Z0-9./?#%@:;=\\\\~_]{0,12}",
            port in prop::option::of(1u16..),
        ) {
            let Ok(request) = http::Request::get(&target).header("host", &host).body(()) else { return Ok(()) };
            let head = request.into_parts().0;
            let Ok(asked) = HostAndPath::read(&head) else { return Ok(()) };
            let to = to(HTTPS, None, port);
            let location = location(&to, &asked, Scheme::Http).unwrap();
            let rest = location.to_str().unwrap().strip_prefix("https://").unwrap();
            let end = rest.find('/').unwrap();
            let named = authority::parse(&rest.as_bytes()[..end]).unwrap();
            prop_assert_eq!(&rest[..named.host], asked.host());
            prop_assert!(!rest[..end].contains('@'));
            prop_assert_eq!(&rest[end..], asked.sent().as_str());

            let (head, ()) = http::Request::get(&rest[end..]).header("host", &rest[..end]).body(()).unwrap().into_parts();
            prop_assert!(!leads_on(&to, &HostAndPath::read(&head).unwrap(), Scheme::Https));
        }
    }
}
