//! A stream of requests as a client may send it: the first byte of the input says how it is cut, the rest is sent.
//!
//! What is found must not depend on the cuts, and the parser behind must read every head that is let through as one of
//! the same length: two who disagree about that are how requests are smuggled.

#![no_main]

use libfuzzer_sys::fuzz_target;

use crate::framing::{Framing, Step};

#[expect(dead_code, reason = "the server uses more of it")]
#[path = "../../gateway/server/framing.rs"]
mod framing;

/// As in the gateway, whose default is 16 KiB, but within reach of short inputs.
const LIMIT: usize = 512;

/// More than the gateway lets through.
const HEADERS: usize = 128;

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let (whole, end) = heads(stream, stream.len());
    assert_eq!(heads(stream, usize::from(*cut).max(1)), (whole.clone(), end));
    for (at, len) in whole {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let parsed = httparse::Request::new(&mut headers).parse(&stream[at..at + len]);
        assert_eq!(parsed, Ok(httparse::Status::Complete(len)));
    }
});

/// Where the heads are in a stream that comes in pieces, and how it ends.
fn heads(stream: &[u8], piece: usize) -> (Vec<(usize, usize)>, Option<Step>) {
    let mut framing = Framing::new(LIMIT);
    let (mut heads, mut at, mut end) = (Vec::new(), 0, 0);
    while end < stream.len() {
        end = (end + piece).min(stream.len());
        while at < end {
            match framing.step(&stream[at..end]) {
                Step::Body(len) => at += len,
                Step::Head { len, .. } => {
                    heads.push((at, len));
                    at += len;
                }
                Step::Partial => break,
                last => return (heads, Some(last)),
            }
        }
    }
    (heads, None)
}
