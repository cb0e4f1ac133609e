//! The request path: from the head of a request to the last byte of its answer.
//!
//! `service` is the path, step by step. Everything that can go wrong on it becomes a status in `respond`.

mod admission;
mod attempt;
mod cdn_loop;
mod cors;
mod door;
mod exchange;
mod forward;
mod grpc;
mod grpc_web;
mod hedge;
mod logged;
mod redirect;
mod replay;
mod reply;
mod request_id;
mod respond;
mod route;
mod rpcx;
mod seen;
mod service;
mod set_aside;
mod spare;
mod traced;
mod tries;
mod tunnel;
mod upload;
mod verdict;
mod waits;
mod worker;

pub use logged::explain;
pub use respond::RequestError;
pub use rpcx::call_counts_as;
pub use verdict::{is_success, told};
pub use waits::Wait;
pub use worker::Worker;
