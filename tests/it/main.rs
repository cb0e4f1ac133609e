//! One binary for all tests that need more than the library: an index.

#[path = "../support/mod.rs"]
mod support;

mod http_harness;

mod http_forward;
