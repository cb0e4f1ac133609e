//! Offers to go on with another protocol (RFC 9110 7.8): whether a request makes one that is taken up.
//!
//! It is not where there is a body, which would have to come through before it is known what the bytes after it are; nor
//! of a client of HTTP/1.0. An offer that is not taken up is as if it were not there, and the request goes on.

use super::{is_token, list};

/// Whether a line of `Connection` says that `Upgrade` is meant for the next hop.
pub fn is_asked(connection: &[u8]) -> bool {
    list::elements(connection).any(|element| element.eq_ignore_ascii_case(b"upgrade"))
}

/// The protocols of a line of `Upgrade` that an endpoint may be offered.
///
/// What would carry requests past the routes is none of them: HTTP in any version, and TLS with HTTP in it.
pub fn offered(upgrade: &[u8]) -> impl Iterator<Item = &[u8]> {
    list::elements(upgrade).filter(|protocol| may_pass(protocol))
}

/// Whether an endpoint may be offered this protocol, or answer with it.
pub fn may_pass(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    let legal = !name.is_empty() && protocol.iter().all(|byte| is_token(*byte) || *byte == b'/');
    let carries_http = name.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case(b"h2"))
        || name.eq_ignore_ascii_case(b"http")
        || name.eq_ignore_ascii_case(b"tls");
    legal && !carries_http
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_that_carry_http_are_not_offered() {
        let check = |line: &str, expected: &[&str]| {
            let found: Vec<&str> =
                offered(line.as_bytes()).map(|protocol| str::from_utf8(protocol).unwrap()).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("websocket", &["websocket"]);
        check("h2c", &[]);
        check("H2C, h2, h2-14", &[]);
        check("h2c , WebSocket,", &["WebSocket"]);
        check("HTTP/2.0, http/3, TLS/1.2, tls", &[]);
        check("httpx/1, IRC/6.9", &["httpx/1", "IRC/6.9"]);
        check("/1, two words, \"websocket\"", &[]);
    }

    #[test]
    fn an_offer_is_asked_for_by_connection() {
        for (line, asked) in [
            ("upgrade", true),
            ("keep-alive, UPGRADE", true),
            ("upgrades", false),
            ("", false),
            ("\"upgrade\"", false),
        ] {
            assert_eq!(is_asked(line.as_bytes()), asked, "{line}");
        }
    }
}
