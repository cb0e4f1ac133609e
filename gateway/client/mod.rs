//! Connections out: made, kept while idle, handed out again. Never knows what is sent over them.

mod dial;
mod pool;

pub use dial::{Connection, DialError, connect, dial};
pub use pool::Pool;
