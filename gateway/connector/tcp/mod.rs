//! TCP to the addresses that a registry's table names.
//!
//! A plugin uses sockets as any program does, by `wasi:sockets`. The gateway holds each use against the grant and does
//! nothing else for it: what is spoken over the connection is the plugin's business.

mod host;
mod keys;

pub use self::keys::Grant;
pub(crate) use self::{
    host::{Lent, Shared, Sockets, add_to_linker, share},
    keys::{INTERFACES, SETTING, Tcp as Keys, USERS, grant},
};
