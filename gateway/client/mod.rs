//! Connections out: made, kept while idle, handed out again. Never knows what is sent over them.

mod connection;
mod dial;
mod interim;
mod outgoing;
mod pool;
mod shared;
mod transport;

pub use connection::{Connection, Sent, dial, open};
pub use dial::{DialError, connect};
pub use pool::Pool;
pub use transport::{Transport, Ways};
