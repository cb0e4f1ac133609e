//! The question of gRPC's own health service: is a service in use (`grpc.health.v1`, as grpc-go and go-zero serve it)?

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, header};

use super::probe::{ProbeError, To};
use crate::net::Wire;

const PATH: &str = "/grpc.health.v1.Health/Check";

/// The part of an answer that is looked at.
const LONGEST: usize = 4 * 1024;

/// Before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// `SERVING`, of the field `status`.
const SERVING: u64 = 1;

/// Asks over a connection, which is closed after that. `service` is empty for the server as a whole.
pub(super) async fn ask(service: &str, stream: Box<dyn Wire>, to: To<'_>) -> Result<(), ProbeError> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(ProbeError::NotHttp2)?;
    tokio::select! {
        judged = judged(service, sender, to) => judged,
        ended = connection => Err(match ended {
            Ok(()) => ProbeError::NotGrpc,
            Err(error) => ProbeError::NotHttp2(error),
        }),
    }
}

async fn judged(service: &str, sender: SendRequest<Bytes>, to: To<'_>) -> Result<(), ProbeError> {
    let (scheme, address) = (to.scheme().as_str(), to.address);
    let request = Request::post(format!("{scheme}://{address}{PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "witgate-check")
        .body(())?;
    let mut sender = sender.ready().await.map_err(ProbeError::NotHttp2)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(ProbeError::NotHttp2)?;
    stream.send_data(question(service), true).map_err(ProbeError::NotHttp2)?;
    let (head, mut body) = response.await.map_err(ProbeError::NotHttp2)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(ProbeError::Status(head.status.as_u16()));
    }
    succeeded(&head.headers, false)?;
    let mut message = Vec::new();
    while let Some(piece) = body.data().await {
        message.extend_from_slice(&piece.map_err(ProbeError::NotHttp2)?);
        if message.len() > LONGEST {
            return Err(ProbeError::NotGrpc);
        }
    }
    let trailers = body.trailers().await.map_err(ProbeError::NotHttp2)?;
    succeeded(&trailers.unwrap_or_default(), !head.headers.contains_key("grpc-status"))?;
    match status(&message) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(ProbeError::NotServing(other)),
        None => Err(ProbeError::NotGrpc),
    }
}

/// A call went well if it says so, where it has to say anything.
fn succeeded(headers: &HeaderMap, must_say: bool) -> Result<(), ProbeError> {
    match headers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        Some(status) => Err(ProbeError::Call(String::from_utf8_lossy(status).into_owned())),
        None if must_say => Err(ProbeError::NotGrpc),
        None => Ok(()),
    }
}

/// `HealthCheckRequest { service }`, with its prefix. Names are shorter than 128 bytes, so that one byte says how long.
fn question(service: &str) -> Bytes {
    let field = match service.len() as u8 {
        0 => Vec::new(),
        length => [&[0x0a, length], service.as_bytes()].concat(),
    };
    [&[0, 0, 0, 0, field.len() as u8][..], &field].concat().into()
}

/// The `status` of a `HealthCheckResponse`: 0 if it is left out. None if it is no such message.
fn status(message: &[u8]) -> Option<u64> {
    let (prefix, message) = message.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    if prefix[0] != 0 || length != message.len() {
        return None;
    }
    let (mut rest, mut status) = (message, 0);
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(place * 7)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_those_of_protocol_buffers() {
        assert_eq!(question(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(question("a.B"), &b"\0\0\0\0\x05\x0a\x03a.B"[..]);
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(status(b"\0\0\0\0\0"), Some(0));
        // Fields that nobody knows are passed over.
        assert_eq!(status(b"\0\0\0\0\x06\x12\x02hi\x08\x01"), Some(1));
        for wrong in
            [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x03\x08\x01", b"\0\0\0\0\x01\x08"]
        {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_answered_is_understood_or_not(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = status(&bytes);
            let framed = [&[0, 0, 0, 0, bytes.len() as u8][..], &bytes].concat();
            let _ = status(&framed);
        }
    }
}
