//! The handshake of WebSocket (RFC 6455 4), of which a gateway makes the half that HTTP/2 has no use for (RFC 8441 5).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use sha1::{Digest as _, Sha1};

use super::{list, upgrade};

/// What a client puts in `:protocol`, and in `Upgrade`.
const NAME: &str = "websocket";

/// What is hashed behind a key, as everybody does.
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// With a request whose key is the gateway's: what the answer has to say to that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept(HeaderValue);

/// Whether this is the protocol.
pub fn is_named(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(NAME.as_bytes())
}

/// Makes of a head one that offers WebSocket. The number is its key: another one each time, and no secret.
pub fn offer(headers: &mut HeaderMap, number: u128) -> Accept {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(NAME));
    let key = STANDARD.encode(number.to_be_bytes());
    let accept = Accept(value(&digest(key.as_bytes())));
    headers.insert(header::SEC_WEBSOCKET_KEY, value(&key));
    accept
}

impl Accept {
    /// Whether a head agrees to the offer.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let mut protocols = list::of(headers, &header::UPGRADE);
        let named = protocols.next().is_some_and(is_named) && protocols.next().is_none();
        let mut asked = headers.get_all(header::CONNECTION).iter();
        named
            && asked.any(|line| upgrade::is_asked(line.as_bytes()))
            && headers.get(header::SEC_WEBSOCKET_ACCEPT) == Some(&self.0)
    }
}

fn digest(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(SALT).finalize())
}

/// What is encoded like that is always a value.
fn value(encoded: &str) -> HeaderValue {
    HeaderValue::from_str(encoded).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(digest(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_offer_is_agreed_to_by_all_three_headers() {
        let mut offered = HeaderMap::new();
        let accept = offer(&mut offered, 1);
        let key = &offered["sec-websocket-key"];
        assert_eq!(STANDARD.decode(key.as_bytes()).unwrap().len(), 16);
        assert_ne!(offer(&mut HeaderMap::new(), 2), accept, "another key");
        assert!(offered["upgrade"] == "websocket" && offered["connection"] == "upgrade");
        let check = |changed: Option<(&'static str, &str)>| {
            let said = digest(key.as_bytes());
            let mut headers = HeaderMap::new();
            for (name, value) in
                [("upgrade", "WebSocket"), ("connection", "x, Upgrade"), ("sec-websocket-accept", &said)]
            {
                let other = changed.filter(|(of, _)| *of == name).map(|(_, value)| value);
                headers.insert(name, other.unwrap_or(value).parse().unwrap());
            }
            accept.is_in(&headers)
        };
        assert!(check(None));
        for (name, value) in [
            ("upgrade", "irc"),
            ("upgrade", "websocket, irc"),
            ("connection", "close"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ] {
            assert!(!check(Some((name, value))), "{name}: {value}");
        }
        assert!(!accept.is_in(&HeaderMap::new()));
    }
}
