//! What the user wrote, as far as its keys and the kinds of its values are right.
//!
//! Everything is optional here; what must be present is told by the checks, which say so better. The comments are
//! the descriptions in the schema, and so what editors show.

mod access_log;
mod grpc_web;
mod heads;
mod limits;
mod listen;
mod offer;
mod plugins;
mod registry;
mod reliability;
mod retries;
mod route;
mod tls;
mod tracing;
mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::{
    access_log::AccessLog,
    grpc_web::GrpcWeb,
    heads::{HeaderChanges, Redirect},
    limits::{Breaker, Limits, Rate},
    listen::{Admin, Consul, Discovery, Listener, ProxyProtocol, Registrations},
    offer::{Gateway, Subset, ZoneAware},
    plugins::{Plugins, RegistryLimits, SelectorLimits},
    registry::Registry,
    reliability::{Check, Health, HttpCheck, Trust},
    retries::{BackupAfter, Retries, Tries},
    route::{Route, RouteTimeouts},
    tls::{Certificate, ListenerTls, UpstreamTls},
    tracing::Tracing,
    upstream::{Pool, Selector, Timeouts, Upstream},
};

/// The configuration of Witgate.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(title = "witgate.toml", extend("required" = ["listener"]))]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// Threads that serve connections. Default: one per core.
    pub workers: Option<u64>,
    /// Where clients connect. At least one.
    pub listener: Vec<Listener>,
    /// The admin listener: health, metrics, the state of everything, and the embedded registry.
    pub admin: Admin,
    /// Which of several gateways this is, and where.
    pub gateway: Gateway,
    /// What outlives the process.
    pub state: State,
    /// How host names in lists of endpoints become addresses.
    pub resolver: Resolver,
    /// The plugins folder, and the limits that all plugins live under.
    pub plugins: Plugins,
    /// Traces of requests, sent to a collector by OTLP. Default: none.
    pub tracing: Option<Tracing>,
    /// How the gateway ends.
    pub shutdown: Shutdown,
    /// How the gateway hands over to a new process.
    pub upgrade: Upgrade,
    /// Registries by name. Default: `memory`, the registry inside the gateway, if the file names none.
    pub registry: BTreeMap<String, Registry>,
    /// Upstreams by name.
    pub upstream: BTreeMap<String, Upstream>,
    /// Which requests go where. The most specific route that matches wins, whatever the order.
    pub route: Vec<Route>,
}

/// What outlives the process: the last good lists, compiled plugins.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct State {
    /// A folder, relative to that of the configuration; made if there is none. Default: `state`.
    pub directory: String,
}

impl Default for State {
    fn default() -> Self {
        Self { directory: "state".into() }
    }
}

/// How host names in lists of endpoints become addresses.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Resolver {
    /// The DNS servers to ask, `IP` or `IP:PORT`, in this order. Default: those of `/etc/resolv.conf`.
    pub servers: Vec<String>,
}

/// How the gateway ends.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// Milliseconds between "not ready" and closing the listeners, so that load balancers notice. Default: 1000.
    pub delay_ms: u64,
    /// Milliseconds that connections may take to finish after that. Default: 30000.
    pub drain_ms: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { delay_ms: 1_000, drain_ms: 30_000 }
    }
}

/// How the gateway hands over to a new process.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upgrade {
    /// Milliseconds that a new process has to be ready; after that the old one serves on without it. Default: 60000.
    pub timeout_ms: u64,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { timeout_ms: 60_000 }
    }
}
