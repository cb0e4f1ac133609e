//! What tests share.

pub mod certs;
pub mod etcd;
