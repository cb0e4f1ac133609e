//! The table `dns` of a registry, and what it grants.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Examiner, Way};

/// How the table is written.
pub(crate) const SETTING: &str = "dns = { servers = [\"IP:53\"] }";

/// What a plugin may import to use it.
pub(crate) const INTERFACES: &[&str] = &["witgate:dns/dns"];

/// Shipped plugins that are of no use without it.
pub(crate) const USERS: &[&str] = &["dns"];

/// DNS by some servers.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["servers"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Dns {
    /// The servers to ask, in this order until one knows: `IP` or `IP:PORT`, 53 without a port. Required, at least one.
    pub servers: Vec<String>,
}

/// DNS by some servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// At least one.
    pub servers: Vec<SocketAddr>,
}

pub(crate) fn grant(dns: &Dns, examiner: &mut Examiner<'_>, way: &Way) -> Option<Option<Grant>> {
    let way = way.key("servers");
    examiner.missing_unless_told(&way.parent().unwrap_or_default(), "servers");
    examiner.not_empty(&way);
    let servers = examiner.dns_servers(&way, &dns.servers);
    Some(Some(Grant { servers }))
}
