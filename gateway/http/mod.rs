//! The request path: from the head of a request to the last byte of its answer.
//!
//! `service` is the path, step by step. Everything that can go wrong on it becomes a status in `respond`.

mod attempt;
mod body;
mod exchange;
mod forward;
mod kept;
mod respond;
mod route;
mod service;
mod tunnel;
mod worker;

pub use respond::RequestError;
pub use worker::run_worker;
