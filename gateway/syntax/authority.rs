//! `host` and `host:port`, as they stand in `Host` and in the absolute form of a target (RFC 3986 3.2).

use std::{borrow::Cow, net::Ipv6Addr};

use http::{HeaderMap, Uri, header};

use super::{alphanumeric_or, path, push_encoded};

/// A host, and perhaps a port. No user: in a request it only misleads (RFC 9110 4.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority {
    /// How many bytes the host has, at the beginning. It may be empty.
    pub host: usize,
    /// None also where there is a colon and nothing behind it.
    pub port: Option<u16>,
    /// Whether the host is in its normal form, so that it can be compared as it is.
    pub normal: bool,
}

/// Reads an authority. None if it is not one.
///
/// A comma, which RFC 3986 allows in names, is refused: what has one may be two hosts that somebody joined.
pub fn parse(text: &[u8]) -> Option<Authority> {
    if text.first() == Some(&b'[') {
        let end = memchr::memchr(b']', text)?;
        let normal = literal(&text[1..end])?;
        return Some(Authority { host: end + 1, port: port(&text[end + 1..])?, normal });
    }
    let end = memchr::memchr(b':', text).unwrap_or(text.len());
    // Folded without a short cut: names are short, and most have nothing in them that is worth a second look.
    let seen = text[..end].iter().fold(0, |seen, byte| seen | KINDS[*byte as usize]);
    if seen & NEVER != 0 || seen & SPECIAL != 0 && !path::is_encoded_well(&text[..end]) {
        return None;
    }
    let dot = end > 0 && text[end - 1] == b'.';
    Some(Authority { host: end, port: port(&text[end..])?, normal: seen == 0 && !dot })
}

/// The form in which hosts are compared: lower case, nothing encoded that need not be, without the dot of the root, an
/// IPv6 address in its shortest form. What `parse` refuses is left as it is.
pub fn normal(host: &str) -> Cow<'_, str> {
    match parse(host.as_bytes()) {
        Some(authority) if !authority.normal && authority.host == host.len() => Cow::Owned(normalised(host)),
        _ => host.into(),
    }
}

/// Whom a request names, as it was sent, for whoever only reports it. There is no user in it: such a request is refused
/// before.
pub fn sent<'r>(target: &'r Uri, headers: &'r HeaderMap) -> Option<Cow<'r, str>> {
    let host = || headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
    target.authority().map(|authority| authority.as_str().into()).or_else(host)
}

fn normalised(host: &str) -> String {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_ascii_lowercase(),
        };
    }
    let (mut normal, mut at) = (String::with_capacity(host.len()), 0);
    let bytes = host.as_bytes();
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let before = normal.len();
            push_encoded(&mut normal, &bytes[at..]);
            if normal.len() == before + 1 {
                normal[before..].make_ascii_lowercase();
            }
            at += 3;
        } else {
            normal.push(byte.to_ascii_lowercase() as char);
            at += 1;
        }
    }
    if normal.ends_with('.') {
        normal.pop();
    }
    normal
}

/// What is between brackets: whether it is normal, or none if it is no address.
fn literal(text: &[u8]) -> Option<bool> {
    let text = str::from_utf8(text).ok()?;
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        let (version, address) = future.split_once('.')?;
        let hex = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        let legal = |byte: u8| byte != b'%' && (is_name(byte) || byte == b':' || byte == b',');
        let sound = hex && !address.is_empty() && address.bytes().all(legal);
        return sound.then(|| !text.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    let address: Ipv6Addr = text.parse().ok()?;
    Some(address.to_string() == text)
}

/// A colon and digits, or nothing.
fn port(text: &[u8]) -> Option<Option<u16>> {
    let Some((colon, digits)) = text.split_first() else { return Some(None) };
    if *colon != b':' {
        return None;
    }
    let port = digits.iter().try_fold(0u16, |port, digit| {
        let digit = (*digit as char).to_digit(10)?;
        port.checked_mul(10)?.checked_add(digit as u16)
    })?;
    Some((!digits.is_empty()).then_some(port))
}

/// Not in the form in which hosts are compared.
const UPPER: u8 = 1;
/// Is followed by two digits.
const SPECIAL: u8 = 2;
const NEVER: u8 = 4;

/// What a byte of a name means; zero for most.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < kinds.len() {
        kinds[byte] = match byte as u8 {
            b'%' => SPECIAL,
            b'A'..=b'Z' => UPPER,
            other if !is_name(other) => NEVER,
            _ => 0,
        };
        byte += 1;
    }
    kinds
};

/// Bytes of a name, and of an IPv4 address.
const fn is_name(byte: u8) -> bool {
    const NAME: [bool; 256] = alphanumeric_or(b"-._~!$&'()*+;=%");
    NAME[byte as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let check = |text: &str, host: &str, port: Option<u16>| {
            let authority = parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is refused"));
            assert_eq!((&text[..authority.host], authority.port), (host, port), "{text}");
        };
        check("shop.test", "shop.test", None);
        check("shop.test:80", "shop.test", Some(80));
        check("shop.test:", "shop.test", None);
        check("shop.test:00080", "shop.test", Some(80));
        check("shop.test:0", "shop.test", Some(0));
        check("shop.test:65535", "shop.test", Some(65535));
        check("SHOP_1.test.", "SHOP_1.test.", None);
        check("10.0.0.1:8080", "10.0.0.1", Some(8080));
        check("[::1]", "[::1]", None);
        check("[::1]:80", "[::1]", Some(80));
        check("[::ffff:10.0.0.1]:", "[::ffff:10.0.0.1]", None);
        check("[1:2:3:4:5:6:7:8]:80", "[1:2:3:4:5:6:7:8]", Some(80));
        check("[v1.a:b]", "[v1.a:b]", None);
        check("caf%C3%A9.test", "caf%C3%A9.test", None);
        check("a!$&'()*+;=~b", "a!$&'()*+;=~b", None);
        check("", "", None);
        check(":80", "", Some(80));
    }

    #[test]
    fn the_target_says_before_the_host_whom_a_request_names() {
        for (target, host, expected) in [
            ("/", Some("shop.test:80"), Some("shop.test:80")),
            ("http://a.test/b", Some("shop.test"), Some("a.test")),
            ("/", None, None),
        ] {
            let headers = host.map(|host| (header::HOST, host.parse().unwrap()));
            let (target, headers) = (target.parse().unwrap(), HeaderMap::from_iter(headers));
            assert_eq!(sent(&target, &headers).as_deref(), expected, "{target} {host:?}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for text in [
            "a:b",
            "a:80:80",
            "a:65536",
            "a:99999999999999999999",
            "a:-1",
            "a:+1",
            "a: 80",
            "a:8o",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "a:x@b",
            "a,b",
            "a\\b",
            "a\"b",
            "a<b",
            "a|b",
            "a^b",
            "a{b}",
            "caf\u{e9}",
            "a%",
            "a%2",
            "a%zz",
            "a%2g",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[:]",
            "[1]",
            "[::1]]",
            "[[::1]]",
            "[::1]80",
            "[::1]a",
            "[::1]:x",
            "[1:2:3:4:5:6:7:8:9]",
            "[1:2:3:4:5:6:7]",
            "[::1::]",
            "[12345::]",
            "[g::]",
            "[fe80::1%25eth0]",
            "[fe80::1%1]",
            "[::10.0.0.256]",
            "[::10.0.0]",
            "[10.0.0.1]",
            "[shop.test]",
            "[v]",
            "[v.]",
            "[v1]",
            "[v1.]",
            "[vg.a]",
            "[v1.a%20]",
            "a[::1]",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn hosts_are_compared_in_one_form() {
        let check = |host: &str, expected: &str| assert_eq!(normal(host), expected, "{host}");
        check("shop.test", "shop.test");
        check("SHOP.Test.", "shop.test");
        check("shop.test..", "shop.test.");
        check("%73ho%50.test%2e", "shop.test");
        check("caf%c3%a9.test", "caf%C3%A9.test");
        check("[::1]", "[::1]");
        check("[0:0:0:0:0:0:0:1]", "[::1]");
        check("[2001:DB8::0001]", "[2001:db8::1]");
        check("[V1.A]", "[v1.a]");
        check(".", "");
    }

    proptest! {
        #[test]
        fn the_normal_form_is_normal(host in "[a-zA-Z0-9.%:\\[\\]-]{0,12}|\\[[0-9a-fA-F:]{2,12}\\]|(%[0-9a-fA-F]{2}|[a-zA-Z.]){0,8}") {
            let once = normal(&host).into_owned();
            let Some(authority) = parse(host.as_bytes()) else { return Ok(()) };
            prop_assert!(parse(once.as_bytes()).is_some(), "{}", once);
            if authority.normal {
                prop_assert_eq!(&once, &host);
            }
        }
    }
}
