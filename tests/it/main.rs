//! One binary for all tests that need more than the library, the repository around the code included: an index.

#[path = "../support/mod.rs"]
mod support;

mod connector_etcd;
mod docs;
mod etcd;
mod examples;
mod http_forward;
mod http_harness;
mod layers;
mod names;
mod plugins;
mod process;
mod source;
mod swaps;
