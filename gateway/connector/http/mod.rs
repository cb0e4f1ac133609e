//! HTTP to the URLs that a registry's table names, and what lies under them.
//!
//! A plugin makes requests by `wasi:http`, as any program does. Here they are held against the grant, get the
//! credential that the plugin never sees, and are sent over connections that are kept, by the TLS policy of the table.

mod client;
mod credential;
mod dial;
mod host;
mod in_cluster;
mod keys;
mod kubeconfig;
mod login;
mod urls;

use self::client::Client;
pub use self::{credential::Credential, keys::Grant, login::Login, urls::Prefix};
pub(crate) use self::{
    credential::Current,
    dial::{DialError, dial},
    host::{Lent, Shared, add_to_linker, share},
    keys::{Keys, SETTING, grant, token_kind},
    urls::place,
};

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] =
    &["witgate:http/http", "wasi:http/types", "wasi:http/outgoing-handler"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["consul", "discovery", "eureka", "kubernetes", "nacos"];
