//! What tests stand on.

pub mod client;
pub mod origin;
