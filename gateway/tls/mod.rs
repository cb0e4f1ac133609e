//! TLS on both sides of the gateway: which cryptography it is, what is believed and shown, and the files that say so.
//!
//! A [`Server`] is what a listener needs to end TLS, a [`Client`] is one policy towards endpoints. Both are made of
//! files, which [`Files`] follows: what fits takes effect for the next connection, what does not changes nothing. A
//! policy is made once, so that sessions resume, and never knows the streams that use it.

mod certificate;
mod client;
mod failure;
mod files;
mod hello;
mod identity;
mod inspect;
mod names;
mod pair;
mod provider;
mod server;
mod settings;
mod tickets;

pub(crate) use self::{
    certificate::FileError,
    client::check as check_client,
    inspect::{gap, inspect},
    pair::check_pair,
    server::check_clients,
    tickets::check_keys,
};
pub use self::{
    client::{Client, HandshakeError, Protocol},
    failure::reason,
    files::{Counted, Files},
    hello::{Asked, Hello},
    server::{Accepted, Server},
    settings::{Authorities, Certificate, ClientRule, ClientSettings, PairFiles, ServerName, ServerSettings},
};
