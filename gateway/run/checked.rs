//! `witgate check`: all mistakes of a configuration, or what it would run.

use std::{
    fmt::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{PluginsError, Signals, StartError, blocking, uses::uses};
use crate::{
    config::{
        self, Config,
        describe::{matches, target},
    },
    connector::{Lent, Memory},
    plugin::{Cause, Plugins, Problem},
    telemetry::text::shown,
};

/// Reads a configuration as `run` would, asks every plugin about its settings, and says what would run.
///
/// Binds nothing, contacts no registry, writes nothing but the cache of compiled plugins, and that only in a state
/// directory of its own user: what root leaves in the one of a service, or makes for it, the service cannot write.
///
/// Waits until every plugin is compiled; SIGTERM and SIGINT end it before.
pub fn check(path: &Path) -> Result<String, StartError> {
    let runtime = tokio::runtime::Runtime::new().map_err(StartError::Threads)?;
    let own = path.to_owned();
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new().map_err(StartError::Threads)?;
        signals.unless_stopped(problems(own)).await.unwrap_or(Err(StartError::Stopped))
    });
    // What still runs then is of no use to anybody.
    runtime.shutdown_background();
    let (config, problems, damaged) = outcome?;
    // A plugin may be dropped into the folder later, and the gateway serves meanwhile.
    let (warnings, mistakes): (Vec<_>, Vec<_>) = problems
        .into_iter()
        .partition(|problem| matches!(problem.cause, Cause::NoSelector | Cause::NoRegistry));
    if !mistakes.is_empty() {
        return Err(PluginsError::new(&mistakes).into());
    }
    let warning = |Problem { cause, used_by, text, .. }: &Problem| {
        let meanwhile = match cause {
            Cause::NoRegistry => "lists come from disk until it comes",
            _ => "the native round robin picks until it comes",
        };
        format!("warning   {}: {}; {meanwhile}\n", shown(used_by), shown(text))
    };
    let mut text = warnings.iter().fold(describe(&config), |text, problem| text + &warning(problem));
    if let Some(warning) = damaged {
        let _ = writeln!(text, "warning   {warning}");
    }
    Ok(text)
}

/// With what is wrong with the file of the embedded registry.
async fn problems(path: PathBuf) -> Result<(Config, Vec<Problem>, Option<String>), StartError> {
    let (config, keep_code, damaged) = blocking(move || {
        let config = config::load(&path)?;
        let damaged = Memory::look(&config.state.join(super::REGISTRY));
        let keep_code = is_own(&config.state);
        Ok::<_, StartError>((config, keep_code, damaged))
    })
    .await?;
    let plugins = Plugins::start_with(&config, Arc::new(Lent::new(Memory::unkept())), keep_code)?;
    plugins.settled(uses(&config, None)).await;
    let problems = plugins.check(uses(&config, None)).await;
    Ok((config, problems, damaged))
}

/// Whether a folder is there and belongs to whoever runs this.
pub(super) fn is_own(folder: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    std::fs::metadata(folder).is_ok_and(|folder| folder.is_dir() && folder.uid() == user)
}

fn describe(config: &Config) -> String {
    let mut text = String::from("configuration is valid\n");
    for listener in &config.listeners {
        let tls = if listener.tls.is_some() { ", TLS" } else { "" };
        let _ = writeln!(text, "listener  {}{tls}", listener.address);
    }
    if let Some(address) = config.admin.address {
        let tls = if config.admin.tls.is_some() { ", TLS" } else { "" };
        let _ = writeln!(text, "admin     {address}{tls}");
    }
    for registry in config.registries.values() {
        let _ = writeln!(text, "registry  {} (plugin {})", shown(&registry.name), shown(&registry.plugin));
    }
    for upstream in config.upstreams.values() {
        let sources: Vec<String> = upstream
            .sources
            .iter()
            .map(|source| format!("{} in {}", source.service, source.registry))
            .collect();
        let _ = writeln!(
            text,
            "upstream  {} = {}, selector {}",
            shown(&upstream.name),
            shown(sources.join(" and ")),
            shown(&upstream.selector.plugin)
        );
    }
    for route in &config.routes {
        let _ = writeln!(
            text,
            "route     {} -> {}",
            shown(matches(&route.matches)),
            shown(target(&route.target))
        );
    }
    for route in &config.tcp_routes {
        let names = route.listeners.join(", ");
        let sni = route.sni.as_deref().map_or(String::new(), |name| format!(" for {name}"));
        let _ = writeln!(
            text,
            "route     connections of {}{} -> {}",
            shown(names),
            shown(sni),
            shown(target(&route.target))
        );
    }
    for route in &config.rpcx_routes {
        let names = route.listeners.join(", ");
        let _ = writeln!(text, "route     calls of {} -> {}", shown(names), shown(target(&route.target)));
    }
    text
}
