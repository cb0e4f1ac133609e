//! What tests stand on.

pub mod backend;
pub mod certs;
pub mod client;
pub mod etcd;
pub mod gateway;
pub mod guest;
pub mod origin;
pub mod session;
