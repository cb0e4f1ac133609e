//! One binary for all tests that need more than the library: an index.

#[path = "../support/mod.rs"]
mod support;

mod connector_etcd;

mod http_harness;

mod http_forward;

mod docs;
mod etcd;
mod examples;
mod layers;
mod names;
mod plugins;
mod process;
mod source;
mod swaps;
