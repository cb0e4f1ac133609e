//! A stream of rpcx frames as a client or a server may send it: the first byte of the input says how it is cut, the rest is
//! sent.
//!
//! What is found must not depend on the cuts, and a frame is written as it was read.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

use crate::frame::{Frame, FrameError};

#[expect(dead_code, reason = "the gateway uses more of it")]
#[path = "../../gateway/rpcx/frame.rs"]
mod frame;

/// The longest frame. Much shorter than that of a gateway, so that inputs of a few hundred bytes reach it.
const MOST: usize = 256;

/// The frames of a stream that comes in pieces of this length, and how it ends if it is refused.
fn frames(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut read, mut frames) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece.max(1)) {
        read.extend_from_slice(piece);
        loop {
            match Frame::take(&mut read, MOST) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let (whole, end) = frames(stream, stream.len());
    assert_eq!(frames(stream, (*cut).into()), (whole.clone(), end));
    let mut written = BytesMut::new();
    for frame in &whole {
        frame.put(frame.number(), &mut written);
        let error = Frame::error(frame, "reason: text");
        assert!(error.is_error() && error.metadata(b"__rpcx_error__") == Some(b"reason: text"));
    }
    assert!(stream.starts_with(&written));
});
