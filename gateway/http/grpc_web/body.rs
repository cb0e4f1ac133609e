//! The body of an answer of gRPC-Web: that of gRPC, and its trailers as one message more.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use hyper::body::{Body, Bytes, Frame};

use super::text;
use crate::http::{
    grpc::{self, Code},
    reply::{ReplyBody, ReplyError},
    verdict,
};

/// The first byte of the message that has the trailers.
const TRAILERS: u8 = 0x80;

/// What an answer of gRPC becomes on its way to the client.
pub(in crate::http) struct WebBody {
    inner: ReplyBody,
    text: bool,
    /// How the call went is in the head of the answer already.
    told: bool,
    /// There are messages in it. Else nobody could read it, and nobody gets it.
    messages: bool,
    over: bool,
}

impl WebBody {
    pub(super) fn new(inner: ReplyBody, text: bool, told: bool, understood: bool) -> Self {
        Self { inner, text, told: told || !understood, messages: understood, over: false }
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        while !self.over {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) if self.told => {
                    self.over = true;
                    return Poll::Ready(self.messages.then_some(Err(error)));
                }
                Some(Err(error)) => return self.end(grpc::trailers(code(&error), &error.to_string())),
                None => return self.end(HeaderMap::new()),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() || !self.messages => {}
                Ok(data) => return Poll::Ready(Some(Ok(self.frame(data)))),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return self.end(trailers);
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    /// Nothing comes after this.
    pub(in crate::http) fn is_over(&self) -> bool {
        self.over
    }

    fn end(&mut self, mut trailers: HeaderMap) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        self.over = true;
        if !self.told && !grpc::is_told(&trailers) {
            // Clients of gRPC take it for the same; others might take it for success.
            grpc::set_status(&mut trailers, Code::Internal, "the answer ended without a status");
        }
        let last = (self.messages && !trailers.is_empty()).then(|| self.frame(message(&trailers)));
        Poll::Ready(last.map(Ok))
    }

    fn frame(&self, data: Bytes) -> Frame<Bytes> {
        Frame::data(if self.text { text::encode(&data).into() } else { data })
    }
}

/// Trailers as a message. The names of headers are lower case here.
fn message(trailers: &HeaderMap) -> Bytes {
    let mut message = vec![TRAILERS, 0, 0, 0, 0];
    for (name, value) in trailers {
        let line: [&[u8]; 4] = [name.as_ref(), b":", value.as_bytes(), b"\r\n"];
        message.extend(line.concat());
    }
    let length = (message.len() - 5) as u32;
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message.into()
}

/// What it means to a client that an answer broke off. A reset says it by its code (gRPC's `doc/PROTOCOL-HTTP2.md`).
fn code(error: &ReplyError) -> Code {
    let ReplyError::Broken(error) = error else { return Code::DeadlineExceeded };
    let reset = verdict::h2_error(error).filter(|error| error.is_reset());
    match reset.and_then(h2::Error::reason) {
        None | Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the trailers are, the message says its length, and its lines are they.
        #[test]
        fn trailers_are_lines_of_one_message(
            lines in prop::collection::vec(("[a-zA-Z-]{1,8}", "[ -~]{0,12}"), 0..6),
        ) {
            let mut trailers = HeaderMap::new();
            for (name, value) in &lines {
                let (name, value) = (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap());
                trailers.append(name, value);
            }
            let message = message(&trailers);
            let (head, block) = message.split_at(5);
            prop_assert_eq!(head, [&[0x80][..], &(block.len() as u32).to_be_bytes()].concat());
            let mut read = HeaderMap::new();
            for line in str::from_utf8(block).unwrap().split_terminator("\r\n") {
                let (name, value) = line.split_once(':').unwrap();
                prop_assert_eq!(name, name.to_ascii_lowercase());
                read.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            prop_assert_eq!(read, trailers);
        }
    }
}
