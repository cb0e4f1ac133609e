//! One binary for all tests that need more than the library: an index.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what helps it, says what it expects by failing"
)]

#[path = "../support/mod.rs"]
mod support;

mod connector_etcd;
