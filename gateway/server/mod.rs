//! Connections in: listen, accept, stages, drain. Takes what answers requests as an argument and never knows it.

mod accept;
mod capacity;
mod carried;
mod connection;
mod drain;
mod framing;
mod handshake;
mod http1;
mod http2;
mod info;
mod lineup;
mod linger;
mod listen;
mod orders;
mod proxy_header;
mod served;
mod spread;
mod stage;
mod tasks;
mod upgraded;
mod worker;

pub use accept::AcceptErrors;
pub use carried::{Carried, Carries};
pub use framing::Refusal;
pub use http1::Arrival;
pub use http2::OpenStream;
pub use info::{ConnInfo, Takeover};
pub use lineup::Lineup;
pub use listen::{BindError, Inherited, Listener, probe};
pub use tasks::supervised;
pub use upgraded::Upgraded;
pub use worker::{Server, Workers, serve};
