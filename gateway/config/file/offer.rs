//! How those who are well share requests: zones, subsets, and which of the gateways this is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of several gateways this is, and where.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Gateway {
    /// The zone it runs in, as registries call it. Default: none.
    pub zone: Option<String>,
    /// What tells it from the other gateways: a number, or a name that ends in one, counted from 0 or 1. Default: the host
    /// name.
    pub id: Option<String>,
}

/// When instances in the zone of the gateway are preferred.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ZoneAware {
    /// With fewer instances that are well, zones make no difference. Default: 6.
    pub min_endpoints: u64,
}

impl Default for ZoneAware {
    fn default() -> Self {
        Self { min_endpoints: 6 }
    }
}

/// How many of the instances this gateway uses.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["size"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Subset {
    /// So many. Required.
    pub size: Option<u64>,
}
