//! The id of a request, by which its lines in the logs of all that it went through are found.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::Record;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer one is not taken over.
const LONGEST: usize = 128;

/// Gives a request its id: the one that it has from a proxy that is believed, or a new one.
pub(super) fn assign(headers: &mut HeaderMap, trusted: bool) -> Box<HeaderValue> {
    let given = headers.get(REQUEST_ID).filter(|id| trusted && is_id(id)).cloned();
    let id = given.unwrap_or_else(new);
    headers.insert(REQUEST_ID, id.clone());
    Box::new(id)
}

/// A UUID of version 4 (RFC 9562).
pub(super) fn new() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = fastrand::u128(..) & !(0xf << 76 | 0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let (mut text, mut shift) = ([b'-'; 36], 128);
    for (place, byte) in text.iter_mut().enumerate() {
        if ![8, 13, 18, 23].contains(&place) {
            shift -= 4;
            *byte = DIGITS[(bits >> shift) as usize & 0xf];
        }
    }
    // Digits and dashes are always a header value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Says the id of a request in its answer, if it has one.
pub(super) fn answer(record: &Record, headers: &mut HeaderMap) {
    if let Some(id) = &record.request_id {
        headers.insert(REQUEST_ID, (**id).clone());
    }
}

fn is_id(value: &HeaderValue) -> bool {
    (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(given: Option<&'static str>, trusted: bool) -> String {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.append(REQUEST_ID, HeaderValue::from_static(given));
            headers.append(REQUEST_ID, HeaderValue::from_static("another"));
        }
        let id = assign(&mut headers, trusted);
        let sent: Vec<_> = headers.get_all(REQUEST_ID).iter().collect();
        assert_eq!(sent, [&*id]);
        id.to_str().unwrap().to_owned()
    }

    #[test]
    fn only_a_trusted_proxy_gives_an_id_and_only_one_that_is_one() {
        assert_eq!(assigned(Some("abc-1"), true), "abc-1");
        for (given, trusted) in [(Some("abc-1"), false), (Some(""), true), (Some("a b"), true), (None, true)]
        {
            assert_eq!(assigned(given, trusted).len(), 36, "{given:?}");
        }
    }

    #[test]
    fn a_new_id_is_a_uuid_and_no_two_are_the_same() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| assigned(None, false)).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert!(id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
