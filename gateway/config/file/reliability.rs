//! How lists are believed, and how endpoints are judged.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Flag, TextOr};

/// How much a registry is believed when it says that instances are gone.
///
/// What is written in the table of an upstream counts for it, what is written in that of a registry for everything
/// found there, the rest has its default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Trust {
    /// The share of a list, 0 to 1, that may leave within `window_secs` without doubt. With 0 every removal is in doubt,
    /// with 1 none but that of everything. Default: 0.5.
    pub max_drop: Option<f64>,
    /// Seconds within which removals count together. Default: 60.
    pub window_secs: Option<u64>,
    /// Seconds that a registry must stand by a removal in doubt, while it claims an instance that answers. Default: 300.
    pub confirm_secs: Option<u64>,
    /// The same for a removal that leaves nothing that answers. Default: never.
    pub confirm_all_secs: Option<u64>,
    /// Seconds after which a list that its registry does not answer for is an alarm. It removes nothing. Default: 3600.
    pub max_stale_secs: Option<u64>,
}

/// When an instance that fails is taken out, and how it comes back.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// Requests in a row that found no connection, after which an instance is taken out. Default: 2.
    pub connect_failures: u64,
    /// Requests in a row that failed in any way: no connection, no answer in time, an answer that broke off, or a 502,
    /// 503 or 504. Default: 5.
    pub failures: u64,
    /// Milliseconds that an instance stays out the first time; twice as long the second time, and so on. Default: 10000.
    pub eject_ms: u64,
    /// The longest it stays out, in milliseconds; so long it has to behave until its past is forgotten. Default: 300000.
    pub max_eject_ms: u64,
    /// The share of a list, 0 to 1, that failing requests may take out. 0 takes none out. Default: 0.5.
    pub max_ejected: f64,
    /// With less than this share of a list well, 0 to 1, all of it gets requests. Default: 0.1.
    pub panic: f64,
    /// Milliseconds for which a new instance may refuse connections without that being held against it. Default: 10000.
    pub grace_ms: u64,
    /// Seconds of silence after which an instance that its registry no longer names is let go. Default: 60.
    pub gone_after_secs: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            connect_failures: 2,
            failures: 5,
            eject_ms: 10_000,
            max_eject_ms: 300_000,
            max_ejected: 0.5,
            panic: 0.1,
            grace_ms: 10_000,
            gone_after_secs: 60,
        }
    }
}

/// How every instance is asked whether it answers.
///
/// Without this table only those that failed are asked, by connecting.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Check {
    /// Ask by connecting. Instead of `http` and `grpc`.
    pub tcp: Option<Flag>,
    /// Ask with a `GET`: its path, or a table that says more. Instead of `tcp` and `grpc`.
    pub http: Option<TextOr<HttpCheck>>,
    /// Ask the health service of gRPC (`grpc.health.v1`) about this service; empty: about the server. Instead of `tcp` and
    /// `http`.
    pub grpc: Option<String>,
    /// Milliseconds between two questions to an instance, give or take a fifth. Default: 5000.
    pub interval_ms: u64,
    /// Milliseconds that an answer may take. Default: 2000.
    pub timeout_ms: u64,
    /// Checks in a row that take an instance out. Default: 3.
    pub fall: u64,
    /// Checks in a row that bring it back. Default: 2.
    pub rise: u64,
    /// What failing requests took out comes back by requests alone: a check that passes, while they fail, asks for
    /// something else than they do. Default: false.
    pub traffic_decides: bool,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            tcp: None,
            http: None,
            grpc: None,
            interval_ms: 5_000,
            timeout_ms: 2_000,
            fall: 3,
            rise: 2,
            traffic_decides: false,
        }
    }
}

/// A `GET`, and what its answer must be like.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct HttpCheck {
    /// Default: `/`.
    pub path: Option<String>,
    /// The `Host` header. Default: the address of the instance.
    pub host: Option<String>,
    /// A status, `"200"`, or a range of them. Default: `"200-299"`.
    pub status: Option<String>,
    /// A text that the answer must have in its first 64 KiB, so that another service at the address does not pass.
    /// Default: none.
    pub body: Option<String>,
    /// A header that the answer must have, with its value. Default: none.
    pub header: BTreeMap<String, String>,
}
