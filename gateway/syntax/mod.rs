//! What the parts of a request's head mean, by RFC 3986, 9110 and 9112, by W3C Trace Context and by gRPC. Pure, and
//! nothing of it is read anywhere else: what the server lets through, where a request is sent, what an endpoint gets
//! and what a selector sees are one reading.

pub mod authority;
pub mod field;
pub mod grpc;
pub mod list;
pub mod path;
pub mod query;
pub mod target;
pub mod trace_context;
pub mod upgrade;
pub mod websocket;

/// Bytes of a token: methods, names of headers and of protocols.
pub const fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = alphanumeric_or(b"!#$%&'*+-.^_`|~");
    TOKEN[byte as usize]
}

/// Bytes that mean the same in a URI whether they are percent-encoded or not.
const fn is_unreserved(byte: u8) -> bool {
    const UNRESERVED: [bool; 256] = alphanumeric_or(b"-._~");
    UNRESERVED[byte as usize]
}

/// Letters, digits and these.
const fn alphanumeric_or(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        table[others[other] as usize] = true;
        other += 1;
    }
    table
}

/// The byte that is written `%XY` where the text begins.
fn encoded(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = *text else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

/// Appends the byte that is percent-encoded where the text begins, in its normal form; nothing else.
fn push_encoded(to: &mut String, text: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    match encoded(text) {
        Some(byte) if is_unreserved(byte) => to.push(byte as char),
        Some(byte) => {
            let digit = |four: u8| DIGITS[usize::from(four)] as char;
            to.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
        None => {}
    }
}
