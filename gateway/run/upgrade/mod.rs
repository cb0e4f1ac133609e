//! A new process takes the place of this one, and no client notices.
//!
//! The running process ([`predecessor`]) starts its program anew and gives the new process ([`successor`]) its sockets:
//! the very ones, queues included. The new one gets as far as it can without them: configuration, plugins, lists,
//! workers. When it is ready the old one stops answering its admin API and writing its files, and says what is
//! registered in the end. Then the new one accepts, and says so, and the old one stops accepting and lets its clients
//! finish. Until that last word everything can be taken back: whatever becomes of the new one, the old one serves on.
//!
//! Both speak over a pair of sockets, one of which is the standard input of the new process ([`channel`]).

mod candidate;
mod channel;
mod predecessor;
mod program;
mod successor;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::successor::SuccessionError;
pub(super) use self::{
    candidate::UpgradeError,
    predecessor::{Admins, Given, Predecessor, Upgraded},
    program::Program,
    successor::{Estate, InheritedAdmin, Succession, taken},
};

/// The version of what both say to each other. A process that speaks another one is not taken over from.
const VERSION: u32 = 1;

/// Whom a process succeeds: the id of the one that started it. Where that is another one, the variable came from
/// somewhere else and means nothing.
const VARIABLE: &str = "WITGATE_SUCCEEDS";

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ToSuccessor {
    /// How it begins. With a file of what is registered.
    Registry { version: u32 },
    /// It has endpoints of this upstream.
    Upstream(String),
    /// With the socket.
    Socket { number: usize, of: SocketOf },
    /// That was all.
    Complete,
    /// The new one is to accept. With a file of what is registered in the end.
    TakeOver,
}

/// Whose a socket is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SocketOf {
    Admin(SocketAddr),
    Registrations(SocketAddr),
    /// Of a worker, in the order of workers. `wanted` is the address as the configuration says it.
    Listener {
        name: String,
        wanted: SocketAddr,
        address: SocketAddr,
    },
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ToPredecessor {
    /// It could take over, and would accept on the sockets with these numbers.
    Ready { taken: Vec<usize> },
    /// It accepts.
    Serving,
}
