//! Streams as both sides of the gateway use them, and the one mechanism that bounds every wait on them.
//!
//! A [`Stream`] is TCP, or TLS on it, and counts what goes through its socket in its [`Meter`]. Whoever waits for
//! something registers with the worker's [`Watch`], which looks at it a few times per limit: no request arms a timer,
//! and no read or write asks for the time.

mod meter;
pub mod proxy_protocol;
mod relay;
mod socket;
mod stream;
mod task;
mod tcp;
mod watch;
mod wire;

pub use meter::Meter;
pub use proxy_protocol::{Proxied, ProxyVersion};
pub use relay::{Broken, Scratch, relay};
pub use socket::prepare;
pub use stream::Stream;
pub use task::guarded;
pub use tcp::{Sight, Tcp};
pub use watch::{Place, Standstill, Watch, Watched};
pub use wire::Wire;
