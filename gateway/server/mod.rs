//! Connections in: listen, accept, watch, drain. Takes what answers requests as an argument and never knows it.
//!
//! Bytes of a client reach the HTTP parser only through `guard`, which vouches for every request head.

mod accept;
mod connection;
mod framing;
mod guard;
mod link;
mod listen;
mod roster;
mod shutdown;
mod worker;

pub use accept::AcceptErrors;
pub use connection::Arrival;
pub use framing::Refusal;
pub use link::{Link, Takeover};
pub use listen::{BindError, Listening, bind};
pub use shutdown::{Closer, Shutdown, shutdown};
pub use worker::{Workers, serve};
