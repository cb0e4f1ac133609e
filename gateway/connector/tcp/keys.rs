//! The table `tcp` of a registry, and what it grants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{Examiner, Way},
    registry::HostPort,
};

/// How the table is written.
pub(crate) const SETTING: &str = "tcp = { addresses = [\"HOST:PORT\"] }";

/// What a plugin may import to use it, beside sockets, which every language's runtime imports.
pub(crate) const INTERFACES: &[&str] = &["witgate:tcp/tcp"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &[];

/// TCP to the addresses of a registry.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["addresses"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tcp {
    /// `HOST:PORT` of each server that may be connected to. Required, at least one.
    pub addresses: Vec<String>,
}

/// TCP to some addresses.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// At least one.
    pub addresses: Vec<Address>,
}

/// One that may be connected to, and how the operator wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    pub text: String,
    pub place: HostPort,
}

pub(crate) fn grant(tcp: &Tcp, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let way = way.key("addresses");
    examiner.missing_unless_told(&way.parent().unwrap_or_default(), "addresses");
    examiner.not_empty(&way);
    let mut addresses = Vec::new();
    for (index, text) in tcp.addresses.iter().enumerate() {
        match text.parse() {
            Ok(place) => addresses.push(Address { text: text.clone(), place }),
            Err(error) => {
                let error: crate::registry::AddressError = error;
                examiner.wrong(&way.index(index), error.to_string());
            }
        }
    }
    Some(Some(Grant { addresses }))
}
