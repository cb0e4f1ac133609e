//! Names of headers that mean something to a gateway.

/// Headers of the gateway's, or about the message itself; beside all that begin with `x-forwarded-`. In lower case.
pub const OURS: [&str; 13] = [
    "forwarded",
    "host",
    "content-length",
    "cdn-loop",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "expect",
];

/// Whether an endpoint believes that a header with this name is the gateway's, or it is about the message itself. A client
/// neither takes such a header away by naming it in `Connection`, nor sends it as a trailer or under a name that some
/// servers take for the same. Names are in lower case.
pub fn is_ours(name: &str) -> bool {
    name.starts_with("x-forwarded-") || OURS.contains(&name)
}

/// Whether a name is that of a header of ours to a server that makes one byte of all that is neither letter nor digit, as
/// CGI does: `x_forwarded_for`.
pub fn is_disguised(name: &str) -> bool {
    name.bytes().any(is_odd) && {
        let plain: String = name.bytes().map(|byte| if is_odd(byte) { '-' } else { byte as char }).collect();
        is_ours(&plain)
    }
}

/// Whether nobody who configures the gateway writes a header with this name: what is ours, what is about the connection
/// or the end of the message, and the reason of a refusal.
pub fn is_reserved(name: &str) -> bool {
    is_ours(name) || is_disguised(name) || name == "trailer" || name.starts_with("x-witgate-")
}

/// Bytes that are not in the name of any header of ours. Names are in lower case.
pub fn is_odd(byte: u8) -> bool {
    !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_connection_the_message_or_its_sender_is_reserved() {
        for name in [
            "host",
            "content-length",
            "connection",
            "te",
            "trailer",
            "x-forwarded-for",
            "x-forwarded-anything",
            "x_forwarded_for",
            "transfer_encoding",
            "x-witgate-reason",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["x-a", "x_a", "authorization", "set-cookie", "x-real-ip", "content-type", "server"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
