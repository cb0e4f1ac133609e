//! Connections out: made, kept while idle, handed out again. Never knows what is sent over them.

mod connection;
mod dial;
mod pool;
mod relay;

pub use connection::Connection;
pub use dial::{DialError, dial};
pub use pool::Pool;
