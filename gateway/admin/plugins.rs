//! What the API says of plugins.

use std::sync::Arc;

use serde::Serialize;

use super::answer::Rejection;
use crate::{
    config::{self, Config},
    plugin::{MemoryUse, Origin, PluginInfo, Plugins, Refused, State},
    telemetry::{rfc3339, text::shown},
};

#[derive(Serialize)]
pub(super) struct List {
    plugins: Vec<Plugin>,
}

#[derive(Serialize)]
pub(super) struct Plugin {
    name: String,
    /// Null while no version is loaded, like the next five, and `memory`.
    kind: Option<String>,
    origin: Option<&'static str>,
    file: Option<String>,
    digest: Option<String>,
    loaded_at: Option<String>,
    /// Or the time to find it compiled.
    compile_ms: Option<f64>,
    /// What a pick takes, lately; null of a registry plugin, and until some were timed.
    pick_ns: Option<u64>,
    memory: Option<Memory>,
    version: u64,
    state: &'static str,
    /// Only of a selector that is loaded and used by nothing.
    trial_error: Option<String>,
    faults: u64,
    last_fault: Option<Fault>,
    refusals: u64,
    last_refusal: Option<LastRefusal>,
    /// Configured ones that pick with it.
    upstreams: usize,
    /// Those that it reads.
    registries: Vec<Registry>,
}

/// Of its instances.
#[derive(Serialize)]
struct Memory {
    instances: usize,
    bytes: usize,
    largest: usize,
}

#[derive(Serialize)]
struct Registry {
    name: String,
    /// Names of connectors.
    may_use: Vec<&'static str>,
}

#[derive(Serialize)]
struct Fault {
    at: String,
    error: String,
}

#[derive(Serialize)]
struct LastRefusal {
    at: String,
    file: Option<String>,
    reason: String,
}

pub(super) fn all(plugins: &Plugins, config: &Config) -> List {
    List { plugins: plugins.list().into_iter().map(|info| plugin(info, config)).collect() }
}

pub(super) fn one(plugins: &Plugins, config: &Config, name: &str) -> Result<Plugin, Rejection> {
    let found = plugins.list().into_iter().find(|plugin| *plugin.name == *name);
    found
        .map(|info| plugin(info, config))
        .ok_or_else(|| Rejection::NotFound { kind: "plugin", name: name.to_owned() })
}

fn plugin(info: PluginInfo, config: &Config) -> Plugin {
    let upstreams = config.upstreams.values().filter(|upstream| upstream.selector.plugin == info.name);
    let registries = config.registries.values().filter(|registry| *registry.plugin == *info.name);
    let registry = |of: &Arc<config::Registry>| Registry {
        name: of.name.to_string(),
        may_use: of.grants.names().collect(),
    };
    Plugin {
        name: info.name.to_string(),
        kind: info.kind.map(|kind| kind.to_string()),
        origin: info.origin.as_ref().map(origin),
        file: match &info.origin {
            Some(Origin::File(path)) => Some(path.display().to_string()),
            _ => None,
        },
        digest: info.digest.map(|digest| digest.to_string()),
        loaded_at: info.loaded_at.map(rfc3339),
        compile_ms: info.compile_time.map(|time| time.as_micros() as f64 / 1e3),
        pick_ns: info.pick_time.map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        memory: info.memory.map(|MemoryUse { instances, bytes, largest }| Memory {
            instances,
            bytes,
            largest,
        }),
        version: info.version,
        state: state(info.state),
        trial_error: info.trial_error,
        faults: info.faults,
        last_fault: info
            .last_fault
            .map(|fault| Fault { at: rfc3339(fault.at), error: shown(fault.text).to_string() }),
        refusals: info.refusals,
        last_refusal: info.last_refusal.map(last_refusal),
        upstreams: upstreams.count(),
        registries: registries.map(registry).collect(),
    }
}

fn last_refusal(refused: Refused) -> LastRefusal {
    LastRefusal {
        at: rfc3339(refused.at),
        file: refused.file.map(|path| path.display().to_string()),
        reason: shown(refused.reason).to_string(),
    }
}

/// The word for the API and the metrics.
pub(super) fn origin(origin: &Origin) -> &'static str {
    match origin {
        Origin::Shipped => "shipped",
        Origin::File(_) => "file",
    }
}

/// The word for the API and the metrics.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Loaded => "loaded",
        State::Compiling => "compiling",
        State::Quarantined => "quarantined",
        State::Missing => "missing",
        State::Unused => "unused",
    }
}
