//! Who may use the API: tokens for reading and for changes, no web page that a browser on this machine happens to
//! show, and nothing that a proxy passed on unless the configuration names it.

use std::net::IpAddr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::request::Parts as Head;
use hyper::{
    HeaderMap, Version,
    header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN, VIA},
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::{Access, answer::Rejection};
use crate::config::Secret;

pub(super) struct Guard {
    /// The digests of the tokens that are taken, if any is asked for: comparing digests tells nothing by the time it
    /// takes.
    change: Option<Vec<[u8; 32]>>,
    read: Option<Vec<[u8; 32]>>,
    loopback: bool,
    /// In lower case.
    hosts: Vec<String>,
    trusted_proxies: Vec<IpNet>,
}

impl Guard {
    pub(super) fn new(access: Access, loopback: bool) -> Self {
        let Access {
            token,
            read_token,
            hosts,
            trusted_proxies,
            discovery: _,
            eureka: _,
            consul: _,
            nacos: _,
        } = access;
        let digest = |token: &Secret| digest(token.0.as_bytes());
        let (token, read_token) = (token.as_ref().map(digest), read_token.as_ref().map(digest));
        Self {
            // Whoever may not even read may not change.
            change: token.or(read_token).map(|token| vec![token]),
            // Whoever may change may read.
            read: read_token.map(|read| [Some(read), token].into_iter().flatten().collect()),
            loopback,
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            trusted_proxies,
        }
    }

    /// A page can make a browser on this machine speak to a loopback address by a name of its own (DNS rebinding). The
    /// name stands in `Host`, or in the target of the request where that has one, so on loopback only loopback
    /// addresses, `localhost` and configured names are taken.
    pub(super) fn check_host(&self, head: &Head) -> Result<(), Rejection> {
        let host = host(head)?;
        let believed = match host {
            None => true,
            Some(_) if !self.loopback && self.hosts.is_empty() => true,
            Some(host) => name(host).is_some_and(|name| self.believes(name)),
        };
        if believed { Ok(()) } else { Err(Rejection::ForeignHost(host.unwrap_or_default().to_owned())) }
    }

    fn believes(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        match name.parse::<IpAddr>() {
            Ok(address) if address.to_canonical().is_loopback() => true,
            // Elsewhere an address says nothing that a name would: no page reaches it by a name of its own.
            Ok(_) if !self.loopback => true,
            _ => {
                name.eq_ignore_ascii_case("localhost")
                    || self.hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
            }
        }
    }

    /// Reading needs a token, if the configuration restricts it.
    pub(super) fn check_read(&self, head: &Head) -> Result<(), Rejection> {
        check_token(&self.read, &head.headers, "reading needs")
    }

    /// A page of another origin can read nothing here, and shall not take the places of those who can. Browsers say
    /// where a request comes from; other clients do not.
    pub(super) fn check_follow(&self, head: &Head) -> Result<(), Rejection> {
        match head.headers.get("sec-fetch-site").map(|site| site.as_bytes()) {
            None | Some(b"same-origin" | b"none") => match foreign_origin(head)? {
                Some(origin) => Err(Rejection::ForeignViewer(format!("{origin:?}"))),
                None => Ok(()),
            },
            Some(_) => Err(Rejection::ForeignViewer("another origin".into())),
        }
    }

    /// A change needs the token, if there is one, and a sender who may.
    pub(super) fn check_change(&self, head: &Head, peer: IpAddr) -> Result<(), Rejection> {
        self.check_sender(head, peer)?;
        self.check_token(head, true)
    }

    /// The token for changes, or for reading.
    pub(super) fn check_token(&self, head: &Head, changes: bool) -> Result<(), Rejection> {
        match changes {
            true => match check_token(&self.change, &head.headers, "changes need") {
                Err(Rejection::WrongToken) if self.read.is_some() && self.check_read(head).is_ok() => {
                    Err(Rejection::TokenForReading)
                }
                checked => checked,
            },
            false => self.check_read(head),
        }
    }

    /// The same, where the token may be `given` in another way: clients that know nothing of `Authorization` have one.
    pub(super) fn check_given(
        &self,
        head: &Head,
        changes: bool,
        given: Option<&str>,
    ) -> Result<(), Rejection> {
        let taken = if changes { &self.change } else { &self.read };
        let Some(given) = given else { return self.check_token(head, changes) };
        match taken {
            Some(taken) if !taken.contains(&digest(given.as_bytes())) => Err(Rejection::WrongToken),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this is a token for anything, where one is asked for.
    pub(super) fn knows(&self, token: &str) -> bool {
        let known = [&self.change, &self.read].into_iter().flatten().flatten();
        self.change.is_none() || known.into_iter().any(|known| *known == digest(token.as_bytes()))
    }

    /// Who changes something must come neither from a page of another origin nor through a proxy: a proxy passes on what
    /// others send, so that its address says nothing.
    pub(super) fn check_sender(&self, head: &Head, peer: IpAddr) -> Result<(), Rejection> {
        let peer = peer.to_canonical();
        if let Some(header) = of_proxy(&head.headers)
            && !self.trusted_proxies.iter().any(|network| network.contains(&peer))
        {
            return Err(Rejection::ThroughProxy { header: header.to_owned(), peer });
        }
        match foreign_origin(head)? {
            Some(origin) => Err(Rejection::ForeignOrigin(origin)),
            None => Ok(()),
        }
    }
}

/// The header that says that a proxy passed the request on.
pub(super) fn of_proxy(headers: &HeaderMap) -> Option<&str> {
    let tells = |name: &&hyper::header::HeaderName| {
        let text = name.as_str();
        **name == FORWARDED || **name == VIA || text.starts_with("x-forwarded") || text == "x-real-ip"
    };
    headers.keys().find(tells).map(|name| name.as_str())
}

/// Whom the request is for: the target says so if it names a host, else the header. None for an old client that
/// does not say it.
pub(super) fn host(head: &Head) -> Result<Option<&str>, Rejection> {
    let mut lines = head.headers.get_all(HOST).iter();
    let line = match (lines.next(), lines.next()) {
        (_, Some(_)) => return Err(Rejection::Host("there are two")),
        (None, None) if head.version >= Version::HTTP_11 => return Err(Rejection::Host("there is none")),
        (None, None) => None,
        (Some(line), None) => Some(line.to_str().map_err(|_| Rejection::Host("it is no text"))?),
    };
    let Some(target) = head.uri.authority().map(|authority| authority.as_str()) else { return Ok(line) };
    match line {
        Some(line) if !line.eq_ignore_ascii_case(target) => {
            Err(Rejection::Host("it differs from that of the target"))
        }
        _ => Ok(Some(target)),
    }
}

/// The host without its port and brackets; none if it is not written like one.
fn name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    (is_port && !name.is_empty()).then_some(name)
}

/// The page of somebody else that sends this. Browsers send `Origin` with every change that a page makes; other clients
/// do not.
fn foreign_origin(head: &Head) -> Result<Option<String>, Rejection> {
    let host = host(head)?;
    for origin in head.headers.get_all(ORIGIN) {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let own = origin
            .split_once("://")
            .zip(host)
            .is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host));
        if !own {
            return Ok(Some(origin.into_owned()));
        }
    }
    Ok(None)
}

fn check_token(
    taken: &Option<Vec<[u8; 32]>>,
    headers: &HeaderMap,
    what: &'static str,
) -> Result<(), Rejection> {
    let Some(taken) = taken else { return Ok(()) };
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (lines.next(), lines.next()) else { return Err(Rejection::NoToken(what)) };
    let (scheme, given) =
        given.as_bytes().split_at_checked("Bearer ".len()).ok_or(Rejection::NoToken(what))?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(Rejection::NoToken(what));
    }
    if taken.contains(&digest(given.trim_ascii())) { Ok(()) } else { Err(Rejection::WrongToken) }
}

/// That of basic authentication, if that is what the header says, whoever the user is: some clients put it into the URL
/// that they are given.
pub(super) fn password(headers: &HeaderMap) -> Option<String> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (lines.next(), lines.next()) else { return None };
    let (scheme, given) = given.as_bytes().split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let given = String::from_utf8(BASE64_STANDARD.decode(given.trim_ascii()).ok()?).ok()?;
    given.split_once(':').map(|(_, password)| password.to_owned())
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn head(target: &str, headers: &[(&str, &str)]) -> Head {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn with(headers: &[(&str, &str)]) -> Head {
        head("/", headers)
    }

    fn tokens(change: Option<&str>, read: Option<&str>) -> Guard {
        let secret = |token: &str| Secret(token.into());
        let access = Access { token: change.map(secret), read_token: read.map(secret), ..Access::default() };
        Guard::new(access, true)
    }

    fn bearer(token: &str) -> Head {
        with(&[("host", "localhost"), ("authorization", &format!("Bearer {token}"))])
    }

    #[test]
    fn changes_need_the_token() {
        let guard = tokens(Some("tea"), None);
        let check =
            |value: &str| guard.check_change(&with(&[("host", "localhost"), ("authorization", value)]), HERE);
        assert!(check("Bearer tea").is_ok());
        assert!(check("bearer tea").is_ok());
        assert!(matches!(check("Bearer coffee"), Err(Rejection::WrongToken)));
        assert!(matches!(check("Bearer "), Err(Rejection::WrongToken)));
        assert!(matches!(check("Basic dGVhOg=="), Err(Rejection::NoToken(_))));
        assert!(matches!(check("tea"), Err(Rejection::NoToken(_))));
        let none = with(&[("host", "localhost")]);
        assert!(matches!(guard.check_change(&none, HERE), Err(Rejection::NoToken(_))));
        let two = with(&[("host", "a"), ("authorization", "Bearer tea"), ("authorization", "Bearer coffee")]);
        assert!(matches!(guard.check_change(&two, HERE), Err(Rejection::NoToken(_))));
        assert!(tokens(None, None).check_change(&none, HERE).is_ok());
        assert!(guard.check_read(&none).is_ok());
    }

    #[test]
    fn the_token_may_be_a_password_where_clients_know_nothing_else() {
        let checked = |guard: &Guard, head: &Head, changes: bool| {
            guard.check_given(head, changes, password(&head.headers).as_deref())
        };
        let guard = tokens(Some("tea"), Some("milk"));
        let basic = |text: &str| {
            let value = format!("Basic {}", BASE64_STANDARD.encode(text));
            with(&[("host", "localhost"), ("authorization", &value)])
        };
        assert!(checked(&guard, &basic("anybody:tea"), true).is_ok());
        assert!(checked(&guard, &basic(":milk"), false).is_ok());
        assert!(checked(&guard, &bearer("tea"), true).is_ok());
        assert!(matches!(checked(&guard, &basic("anybody:milk"), true), Err(Rejection::WrongToken)));
        assert!(matches!(checked(&guard, &basic("tea"), true), Err(Rejection::NoToken(_))));
        let none = with(&[("host", "localhost")]);
        assert!(matches!(checked(&guard, &none, true), Err(Rejection::NoToken(_))));
        assert!(checked(&tokens(None, None), &basic("a:b"), true).is_ok());
        assert!(guard.check_change(&basic("anybody:tea"), HERE).is_err(), "elsewhere it is no token");
    }

    #[test]
    fn a_token_is_known_whatever_it_is_for() {
        let knows = |change, read| ["tea", "milk", "water"].map(|token| tokens(change, read).knows(token));
        assert_eq!(knows(Some("tea"), Some("milk")), [true, true, false]);
        assert_eq!(knows(Some("tea"), None), [true, false, false]);
        assert_eq!(knows(None, Some("milk")), [false, true, false]);
        assert_eq!(knows(None, None), [true; 3]);
    }

    #[test]
    fn whoever_may_change_may_read_and_not_the_other_way() {
        let guard = tokens(Some("tea"), Some("milk"));
        assert!(guard.check_read(&bearer("milk")).is_ok());
        assert!(guard.check_read(&bearer("tea")).is_ok());
        assert!(matches!(guard.check_read(&bearer("water")), Err(Rejection::WrongToken)));
        assert!(matches!(guard.check_read(&with(&[])), Err(Rejection::NoToken(_))));
        assert!(guard.check_change(&bearer("tea"), HERE).is_ok());
        assert!(matches!(guard.check_change(&bearer("milk"), HERE), Err(Rejection::TokenForReading)));
        assert!(matches!(guard.check_change(&bearer("water"), HERE), Err(Rejection::WrongToken)));
        // With nothing but a token for reading, changes are not freer than that.
        let guard = tokens(None, Some("milk"));
        assert!(guard.check_change(&bearer("milk"), HERE).is_ok());
        assert!(guard.check_change(&with(&[("host", "localhost")]), HERE).is_err());
    }

    #[test]
    fn a_page_of_another_origin_may_change_nothing() {
        let guard = tokens(None, None);
        let check = |origins: &[&str]| {
            let mut headers = vec![("host", "127.0.0.1:9901")];
            headers.extend(origins.iter().map(|origin| ("origin", *origin)));
            guard.check_change(&with(&headers), HERE).is_ok()
        };
        assert!(check(&["http://127.0.0.1:9901"]));
        assert!(!check(&["http://127.0.0.1:8080"]));
        assert!(!check(&["https://example.com"]));
        assert!(!check(&["null"]));
        assert!(!check(&["http://127.0.0.1:9901", "https://example.com"]));
    }

    #[test]
    fn a_page_of_another_origin_follows_nothing() {
        let guard = tokens(None, None);
        let told = |name: &str, value: &str| {
            guard
                .check_follow(&with(&[("host", "127.0.0.1:9901"), (name, value)]))
                .map_err(|of| of.to_string())
        };
        let check = |name: &str, value: &str| told(name, value).is_ok();
        let refused = "a page of another origin may not follow anything here";
        assert_eq!(told("sec-fetch-site", "cross-site"), Err(refused.into()));
        let refused = "a page of \"https://example.com\" may not follow anything here";
        assert_eq!(told("origin", "https://example.com"), Err(refused.into()));
        assert!(check("sec-fetch-site", "same-origin") && check("sec-fetch-site", "none"));
        assert!(!check("sec-fetch-site", "cross-site") && !check("sec-fetch-site", "same-site"));
        assert!(check("origin", "http://127.0.0.1:9901") && !check("origin", "http://127.0.0.1:8080"));
        assert!(check("accept", "text/event-stream"), "curl says nothing of that");
    }

    #[test]
    fn what_came_through_a_proxy_may_change_nothing_unless_it_is_named() {
        let headers = [
            "X-Forwarded-For",
            "x-forwarded-host",
            "X-Forwarded-Proto",
            "x-forwarded-port",
            "X-Forwarded-Prefix",
            "Forwarded",
            "Via",
            "X-Real-IP",
        ];
        let closed = tokens(None, None);
        let open = Guard::new(
            Access { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Access::default() },
            true,
        );
        for header in headers {
            let head = with(&[("host", "localhost"), (header, "")]);
            let refused = closed.check_change(&head, HERE).unwrap_err();
            assert!(matches!(refused, Rejection::ThroughProxy { .. }), "{header}");
            assert!(refused.to_string().ends_with("unless `trusted_proxies` has 127.0.0.1"), "{refused}");
            assert!(closed.check_read(&head).is_ok(), "{header}");
            assert!(open.check_change(&head, HERE).is_err(), "{header}");
            assert!(open.check_change(&head, "10.1.2.3".parse().unwrap()).is_ok(), "{header}");
            assert!(open.check_change(&head, "::ffff:10.1.2.3".parse().unwrap()).is_ok(), "{header}");
        }
    }

    fn host_is_taken(guard: &Guard, head: &Head) -> bool {
        guard.check_host(head).is_ok()
    }

    #[test]
    fn on_loopback_only_loopback_addresses_localhost_and_configured_names_are_hosts() {
        let guard = |loopback, hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| host.to_string()).collect();
            Guard::new(Access { hosts, ..Access::default() }, loopback)
        };
        let (here, named, there, strict) = (
            guard(true, &[]),
            guard(true, &["gateway.internal"]),
            guard(false, &[]),
            guard(false, &["gateway.internal"]),
        );
        let own = [
            "127.0.0.1:9901",
            "127.1.2.3",
            "[::1]:9901",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
            "localhost",
            "LOCALHOST:80",
            "localhost.",
        ];
        for host in own {
            for guard in [&here, &named, &there, &strict] {
                assert!(host_is_taken(guard, &with(&[("host", host)])), "{host}");
            }
        }
        let foreign = [
            "example.com",
            "localhost.example.com:9901",
            "127.0.0.1.example.com",
            "[example.com]",
            "",
            ":80",
            "192.168.0.1",
            "0.0.0.0:9901",
            "127.0.0.1:80:80",
            "127.0.0.1@example.com",
            "localhost:x",
        ];
        for host in foreign {
            assert!(!host_is_taken(&here, &with(&[("host", host)])), "{host}");
            assert!(host_is_taken(&there, &with(&[("host", host)])), "{host}");
        }
        let name = with(&[("host", "Gateway.Internal:9901")]);
        assert!(
            host_is_taken(&named, &name) && host_is_taken(&strict, &name) && !host_is_taken(&here, &name)
        );
        assert!(!host_is_taken(&strict, &with(&[("host", "example.com")])));
        assert!(host_is_taken(&strict, &with(&[("host", "192.168.0.1")])));
    }

    #[test]
    fn a_target_that_names_a_host_is_believed_no_more_than_the_header() {
        let guard = tokens(None, None);
        let check = |target: &str, host: &str| guard.check_host(&head(target, &[("host", host)]));
        assert!(check("http://127.0.0.1:9901/healthz", "127.0.0.1:9901").is_ok());
        assert!(matches!(check("http://example.com/healthz", "example.com"), Err(Rejection::ForeignHost(_))));
        assert!(matches!(check("http://example.com/healthz", "127.0.0.1"), Err(Rejection::Host(_))));
        assert!(matches!(check("http://127.0.0.1/healthz", "example.com"), Err(Rejection::Host(_))));
        assert!(check("http://user@127.0.0.1/healthz", "user@127.0.0.1").is_err());
    }

    #[test]
    fn a_request_names_one_host() {
        let guard = Guard::new(Access::default(), false);
        let two = with(&[("host", "127.0.0.1"), ("host", "127.0.0.1")]);
        assert!(matches!(guard.check_host(&two), Err(Rejection::Host("there are two"))));
        assert!(matches!(guard.check_host(&with(&[])), Err(Rejection::Host("there is none"))));
        let mut old = with(&[]);
        old.version = Version::HTTP_10;
        assert!(guard.check_host(&old).is_ok());
    }
}
