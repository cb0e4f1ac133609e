//! The body of a gRPC-Web request as text: the first byte of the input says how it is cut, the rest is the body.
//!
//! What it stands for must not depend on the cuts, and what is read and written again is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;

use crate::text::{Decoder, encode};

mod pieces;
#[path = "../../gateway/http/grpc_web/text.rs"]
mod text;

fuzz_target!(|data: &[u8]| {
    let Some((cut, body)) = data.split_first() else { return };
    let whole = pieces::decode(body, &[body.len()]);
    assert_eq!(pieces::decode(body, &[(*cut).into()]), whole);
    if let Some(bytes) = whole {
        assert_eq!(pieces::decode(encode(&bytes).as_bytes(), &[(*cut).into()]), Some(bytes));
    }
});
