//! Upstreams: services as the gateway knows them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Breaker, Check, Health, Limits, Subset, Tries, Trust, UpstreamTls, ZoneAware};
use crate::document::{SwitchOr, TextOr};

/// A service as the gateway knows it: where its instances are found, and how one is chosen and called.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Upstream {
    /// The name of the service in the registry. Required, unless there are `sources`.
    pub service: Option<String>,
    /// The name of the registry. Required, unless there are `sources`.
    pub registry: Option<String>,
    /// Several registries, or several names; where two differ about an instance, the first wins. Instead of
    /// `service` and `registry`.
    pub sources: Option<Vec<Source>>,
    /// Only instances that have all of these labels. Default: every instance.
    pub labels: BTreeMap<String, String>,
    /// The rule that chooses an instance: the name of a plugin, or its name and settings. Default: `p2c-ewma`.
    pub selector: Option<TextOr<Selector>>,
    /// How long the gateway waits for an instance.
    pub timeouts: Timeouts,
    /// What instances speak: `auto`, `http1` or `http2`. With `auto` calls of gRPC go over HTTP/2 and all else over HTTP/1.1,
    /// unless the label `protocol` of an instance says otherwise. Default: `auto`.
    pub protocol: Option<String>,
    /// Speak TLS to instances: `true`, or a table that says more. Default: false.
    pub tls: Option<SwitchOr<UpstreamTls>>,
    /// Tell instances of the client with a PROXY header, `v1` or `v2`, at the beginning of each connection; one client's
    /// connections carry nobody else's requests. Default: none.
    pub proxy_protocol: Option<String>,
    /// Connections to instances.
    pub pool: Pool,
    /// How many tries there may be after the first, or a table that says more. Default: 1, on another instance.
    pub retries: Option<Tries>,
    /// Milliseconds that requests and upgraded connections may go on at an instance that has left the list; 0 is no
    /// limit. Default: 0.
    pub leave_ms: u64,
    /// Refuse the more requests the more of them fail: `true`, or a table. Default: false.
    pub breaker: Option<SwitchOr<Breaker>>,
    /// How many requests are in flight at once. Default: no limit.
    pub limits: Option<Limits>,
    /// How much the registries are believed when they say that instances are gone.
    pub trust: Trust,
    /// When an instance that fails is taken out, and how it comes back.
    pub health: Health,
    /// How every instance is asked whether it answers. Default: only those that failed are asked.
    pub check: Option<Check>,
    /// Seconds in which an instance that is new, or comes back, gets all of its share, from a tenth of it on; 0 is at once.
    /// Default: 0.
    pub slow_start_secs: u64,
    /// Prefer instances in the zone of the gateway: `true`, or a table that says more. Default: false.
    pub zone_aware: Option<SwitchOr<ZoneAware>>,
    /// With less than this share of the instances of a priority well, 0 to 1, those of the next get requests, too.
    /// Default: 0.7.
    pub priority_threshold: Option<f64>,
    /// Use only some of the instances and leave the others to other gateways. Default: use all.
    pub subset: Option<Subset>,
}

/// One registry's view of a service.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["registry", "service"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Source {
    /// The name of the registry. Required.
    pub registry: Option<String>,
    /// The name of the service in that registry. Required.
    pub service: Option<String>,
}

/// The rule that chooses an instance.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["plugin"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Selector {
    /// A shipped plugin (`round-robin`, `random`, `least-request`, `p2c-ewma`, `consistent-hash`, `closest`,
    /// `latency-weighted`) or the name of a file in the plugins folder. Required.
    pub plugin: Option<String>,
    /// What the plugin understands; passed to it as JSON. Default: empty.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub settings: toml::Table,
}

/// How long the gateway waits for an instance.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Timeouts {
    /// Milliseconds for the connection. Default: 1000.
    pub connect_ms: u64,
    /// Milliseconds from the last byte of the request to the head of the answer; 0 is no limit. Default: 30000.
    pub response_ms: u64,
    /// Milliseconds that an instance may pause within its answer; 0 is no limit. Default: 0.
    pub idle_ms: u64,
    /// Milliseconds from the head of the request to the end of the answer; 0 is no limit. Default: 0.
    pub request_ms: u64,
    /// Milliseconds that an instance may take nothing of a request while there is something to take. Default: 60000.
    pub write_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect_ms: 1_000, response_ms: 30_000, idle_ms: 0, request_ms: 0, write_ms: 60_000 }
    }
}

/// Connections to instances.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Pool {
    /// Milliseconds after which an idle connection is closed. Default: 60000.
    pub idle_timeout_ms: u64,
    /// Idle connections kept per instance and worker; 0 keeps none. Default: 64.
    pub max_idle: u64,
    /// Connections of HTTP/2 per instance and worker; each carries 32 requests at once, or as many as the instance takes.
    /// Default: 4.
    pub max_http2_connections: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle_timeout_ms: 60_000, max_idle: 64, max_http2_connections: 4 }
    }
}
