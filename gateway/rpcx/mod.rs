//! The path of calls of rpcx, each of which goes its own way.

pub mod frame;
