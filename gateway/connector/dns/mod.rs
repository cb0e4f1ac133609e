//! DNS by the servers that a registry's table names.
//!
//! A plugin asks about names. Who is asked, how, and what counts as an answer is decided here and in
//! `gateway/registry/resolve`, where names in lists are resolved as well.

mod host;
mod keys;

pub use self::keys::Grant;
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{Dns as Keys, INTERFACES, SETTING, USERS, grant},
};
