//! The connection path: what clients send is passed on as it is, to an endpoint that is picked once.
//!
//! `service` is the path, step by step.

mod record;
mod route;
mod service;

pub use service::Worker;
