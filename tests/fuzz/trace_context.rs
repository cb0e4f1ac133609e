//! A `traceparent`: what is read of it is written as the same, and read from that again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use witgate::syntax::trace_context::TraceParent;

fuzz_target!(|data: &[u8]| {
    let Some(read) = TraceParent::parse(data) else { return };
    let written = read.text();
    assert_eq!(TraceParent::parse(&written), Some(read));
    // The version may be a later one, and flags be there that nobody knows.
    assert_eq!(written[2..53], data[2..53]);
});
