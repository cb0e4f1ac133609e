//! What the API says of the configuration: what runs, since when, and why a later file does not. Credentials are not
//! told, and neither are settings of registry plugins, in which somebody may have written one.

use serde::Serialize;

use super::Parts;
use crate::{
    config::{self, Config, describe},
    telemetry::{Reload, rfc3339, text::shown},
};

#[derive(Serialize)]
pub(super) struct Configuration {
    /// Null where none is followed.
    file: Option<String>,
    applied: String,
    /// Null, or why the file as it is now is not in force.
    refused: Option<Refused>,
    reloads: Reloads,
    workers: usize,
    state_directory: String,
    plugins_directory: String,
    registries: Vec<Registry>,
    upstreams: Vec<Upstream>,
    routes: Vec<Route>,
}

#[derive(Serialize)]
struct Refused {
    at: String,
    problems: Vec<String>,
}

/// How often the file changed, by what came of it.
#[derive(Default, Serialize)]
struct Reloads {
    applied: u64,
    invalid: u64,
    needs_restart: u64,
}

#[derive(Serialize)]
struct Registry {
    name: String,
    plugin: String,
}

#[derive(Serialize)]
struct Upstream {
    name: String,
    sources: Vec<String>,
    selector: String,
    protocol: &'static str,
    tls: bool,
}

/// The first of its listeners that matches counts.
#[derive(Serialize)]
struct Route {
    name: String,
    /// Null for all listeners of HTTP.
    listeners: Option<Vec<String>>,
    matches: String,
    target: String,
}

pub(super) fn of(parts: &Parts) -> Configuration {
    let table = parts.catalog.table();
    let (config, configured) = (&table.config, &parts.metrics.configured);
    let mut reloads = Reloads::default();
    for (result, count) in parts.metrics.reloads() {
        match result {
            Reload::Applied => reloads.applied = count,
            Reload::Invalid => reloads.invalid = count,
            Reload::NeedsRestart => reloads.needs_restart = count,
        }
    }
    Configuration {
        file: configured.file().map(|file| file.display().to_string()),
        applied: rfc3339(configured.since()),
        refused: configured.refused().map(|refused| Refused {
            at: rfc3339(refused.at),
            problems: refused.problems.iter().map(|problem| shown(problem).to_string()).collect(),
        }),
        reloads,
        workers: config.workers,
        state_directory: config.state.display().to_string(),
        plugins_directory: config.plugins.directory.display().to_string(),
        registries: config
            .registries
            .values()
            .map(|of| Registry { name: of.name.to_string(), plugin: of.plugin.clone() })
            .collect(),
        upstreams: config.upstreams.values().map(|of| upstream(of)).collect(),
        routes: routes(config),
    }
}

fn upstream(of: &config::Upstream) -> Upstream {
    Upstream {
        name: of.name.to_string(),
        sources: of
            .sources
            .iter()
            .map(|source| format!("{} in {}", source.service, source.registry))
            .collect(),
        selector: of.selector.plugin.to_string(),
        protocol: of.protocol.as_str(),
        tls: of.tls.is_some(),
    }
}

fn routes(config: &Config) -> Vec<Route> {
    let names = |names: &[std::sync::Arc<str>]| names.iter().map(|name| name.to_string()).collect();
    let of_requests = config.routes.iter().map(|route| Route {
        name: route.name.to_string(),
        listeners: (!route.matches.listeners.is_empty()).then(|| names(&route.matches.listeners)),
        matches: describe::matches(&route.matches),
        target: describe::target(&route.target),
    });
    let of_connections = config.tcp_routes.iter().map(|route| Route {
        name: route.name.to_string(),
        listeners: Some(names(&route.listeners)),
        matches: route.sni.as_deref().map_or("connections".into(), |name| format!("connections for {name}")),
        target: describe::target(&route.target),
    });
    let of_calls = config.rpcx_routes.iter().map(|route| Route {
        name: route.name.to_string(),
        listeners: Some(names(&route.listeners)),
        matches: "calls".into(),
        target: describe::target(&route.target),
    });
    of_requests.chain(of_connections).chain(of_calls).collect()
}
