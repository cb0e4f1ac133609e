//! A stream of requests as a client may send it: the first byte of the input says how it is cut, the rest is sent.
//!
//! What is found must not depend on the cuts, and the parser behind must take every head that is let through, as one of
//! the same length: two who disagree about that are how requests are smuggled.

#![no_main]

use libfuzzer_sys::fuzz_target;

use crate::{
    framing::{Framing, Step},
    heads::heads,
};

#[expect(dead_code, reason = "the server uses more of it")]
#[path = "../../gateway/server/framing.rs"]
mod framing;
mod heads;
mod parser;
#[expect(dead_code, reason = "the gateway uses more of it")]
#[path = "../../gateway/syntax/mod.rs"]
mod syntax;

/// The longest head. Much shorter than that of a gateway, so that inputs of a few hundred bytes reach it.
const LIMIT: usize = 512;

/// More than the gateway lets through.
const HEADERS: usize = 128;

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let (whole, end) = heads(LIMIT, stream, &[stream.len()]);
    assert_eq!(heads(LIMIT, stream, &[(*cut).into()]), (whole.clone(), end));
    for (at, len) in whole {
        let head = &stream[at..at + len];
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let parsed = httparse::Request::new(&mut headers).parse(head);
        assert_eq!(parsed, Ok(httparse::Status::Complete(len)));
        assert!(parser::takes(head), "the parser refuses {:?}", head.escape_ascii().to_string());
    }
});
