//! The names of headers that matter on the way through a gateway, and which of them a message has.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::syntax::field::{OURS, is_odd};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers that concern one connection and not the message. The last is answered here, when the endpoint asks for the
/// body.
pub(super) static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HTTP2_SETTINGS,
    header::EXPECT,
];
/// Places in `HOP_BY_HOP`.
const CONNECTION: usize = 0;
const TRANSFER_ENCODING: usize = 5;
const UPGRADE: usize = 6;
const EXPECT: usize = 8;

/// What kinds of headers there are, found in one pass: most messages have few of them or none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// One bit for each of `HOP_BY_HOP`.
    hop_by_hop: u16,
    /// A `Connection` header names others.
    pub names: bool,
    pub forwarded: bool,
    pub cdn_loop: bool,
    pub trailer: bool,
    length: bool,
    /// The length is said more than once.
    pub repeated: bool,
    /// What a server of rpcx says with, why a call failed.
    pub rpcx_error: bool,
    /// A name may be one of ours in disguise: it has bytes that hardly any has.
    pub odd: bool,
}

impl Seen {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            if !is_of_interest(name) {
                continue;
            }
            match name {
                "connection" => {
                    seen.hop_by_hop |= 1 << CONNECTION;
                    seen.names |= !is_common(value);
                }
                "keep-alive" => seen.hop_by_hop |= 1 << 1,
                "proxy-connection" => seen.hop_by_hop |= 1 << 2,
                "proxy-authorization" => seen.hop_by_hop |= 1 << 3,
                "te" => seen.hop_by_hop |= 1 << 4,
                "transfer-encoding" => seen.hop_by_hop |= 1 << TRANSFER_ENCODING,
                "upgrade" => seen.hop_by_hop |= 1 << UPGRADE,
                "http2-settings" => seen.hop_by_hop |= 1 << 7,
                "expect" => seen.hop_by_hop |= 1 << EXPECT,
                "forwarded" => seen.forwarded = true,
                "cdn-loop" => seen.cdn_loop = true,
                "trailer" => seen.trailer = true,
                "content-length" => {
                    seen.repeated |= seen.length || value.as_bytes().contains(&b',');
                    seen.length = true;
                }
                "x-rpcx-errormessage" => seen.rpcx_error = true,
                name => {
                    seen.forwarded |= name.starts_with("x-forwarded-");
                    // Folded without a short cut, which lets the compiler look at many bytes at once.
                    seen.odd |= name.bytes().fold(false, |odd, byte| odd | is_odd(byte));
                }
            }
        }
        seen
    }

    pub(super) fn has_hop_by_hop(&self) -> bool {
        self.hop_by_hop != 0
    }

    /// A body has a transfer coding.
    pub(super) fn is_coded(&self) -> bool {
        self.has(TRANSFER_ENCODING)
    }

    pub(super) fn is_expecting(&self) -> bool {
        self.has(EXPECT)
    }

    /// Whether there is this one of `HOP_BY_HOP`.
    pub(super) fn has(&self, place: usize) -> bool {
        self.hop_by_hop & (1 << place) != 0
    }
}

/// Whether a name could be one that `Seen` knows, in disguise or not. Hardly any other begins and is as long as one of these.
fn is_of_interest(name: &str) -> bool {
    name.bytes().next().is_some_and(|first| LENGTHS[first as usize] & length_bit(name.len()) != 0)
}

/// For each first byte, one bit for each length that a name of interest with it has.
const LENGTHS: [u32; 256] = {
    let mut lengths = [0; 256];
    let mut place = 0;
    while place < OURS.len() {
        lengths[OURS[place].as_bytes()[0] as usize] |= length_bit(OURS[place].len());
        place += 1;
    }
    lengths[b't' as usize] |= length_bit("trailer".len());
    // Every request has it, and it is read elsewhere.
    lengths[b'h' as usize] &= !length_bit("host".len());
    // `x-forwarded-` and anything behind it.
    lengths[b'x' as usize] = u32::MAX << 12;
    lengths
};

/// One bit for all that are longer than any of interest.
const fn length_bit(length: usize) -> u32 {
    1 << if length < 31 { length } else { 31 }
}

/// What most `Connection` headers say. The first names a header that is removed anyway, the second none.
fn is_common(line: &HeaderValue) -> bool {
    let line = line.as_bytes();
    line == b"keep-alive"
        || line == b"close"
        || line.eq_ignore_ascii_case(b"keep-alive")
        || line.eq_ignore_ascii_case(b"close")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::field::{is_disguised, is_ours};

    #[test]
    fn every_hop_by_hop_header_is_seen_as_itself() {
        for (index, name) in HOP_BY_HOP.iter().enumerate() {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            assert_eq!(Seen::of(&headers).hop_by_hop, 1 << index, "{name}");
            assert!(is_ours(name.as_str()));
        }
    }

    #[test]
    fn names_of_interest_are_seen_and_others_passed_over() {
        let seen = |name: &str| {
            Seen::of(&HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static("a,b"))]))
        };
        assert!(seen("forwarded").forwarded && seen("x-forwarded-").forwarded);
        assert!(seen("x-forwarded-for-a-name-that-is-long").forwarded && !seen("x-forwarded").forwarded);
        assert!(seen("x-rpcx-errormessage").rpcx_error && !seen("x-rpcx-errormessages").rpcx_error);
        assert!(seen("cdn-loop").cdn_loop && seen("trailer").trailer && seen("content-length").repeated);
        for name in ["x_forwarded_for", "cdn_loop", "transfer.encoding", "content_length", "proxy_connection"]
        {
            assert!(seen(name).odd && is_disguised(name), "{name}");
        }
        for name in ["content-type", "user-agent", "accept", "x-request-id", "host", "te2", "x_user"] {
            let Seen { hop_by_hop, names, forwarded, cdn_loop, trailer, length, repeated, rpcx_error, odd } =
                seen(name);
            assert_eq!(hop_by_hop, 0, "{name}");
            assert!(
                !(names || forwarded || cdn_loop || trailer || length || repeated || rpcx_error || odd),
                "{name}"
            );
        }
    }
}
