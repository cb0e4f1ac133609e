//! `witgate check`: all mistakes of a configuration, or what it would run.

use std::{fmt::Write as _, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use super::{StartError, uses::uses};
use crate::{
    config::{self, Config, NameFrom, Target},
    connector::{Lent, Memory},
    plugin::{Cause, Plugins, Problem},
    telemetry::text::shown,
};

/// Reads a configuration as `run` would, asks every plugin about its settings, and says what would run.
///
/// Binds nothing, contacts no registry, writes nothing but the cache of compiled plugins, and that only in a state
/// directory of its own user: what root leaves in the one of a service, or makes for it, the service cannot write.
pub fn check(path: &Path) -> Result<String, StartError> {
    let config = config::load(path)?;
    let runtime = tokio::runtime::Runtime::new().map_err(StartError::Threads)?;
    let warnings = runtime.block_on(async {
        let lent = Arc::new(Lent::new(Memory::unkept()));
        let plugins = Plugins::start_with(&config, lent, is_own(&config.state))?;
        let problems = plugins.check(uses(&config, None)).await;
        let line = |problem: &Problem| format!("{}: {}", shown(&problem.used_by), shown(&problem.text));
        // A selector may be dropped into the folder later, and its upstream is served meanwhile.
        let (warnings, mistakes): (Vec<_>, Vec<_>) =
            problems.iter().partition(|problem| problem.cause == Cause::NoSelector);
        match mistakes.is_empty() {
            true => Ok(warnings.into_iter().map(line).collect::<Vec<_>>()),
            false => Err(StartError::Settings(
                mistakes
                    .into_iter()
                    .map(|problem| format!("  {}", line(problem)))
                    .collect::<Vec<_>>()
                    .join("\n"),
            )),
        }
    })?;
    let mut text = describe(&config);
    for warning in warnings {
        let _ = writeln!(text, "warning   {warning}; the native round robin picks");
    }
    if let Some(warning) = Memory::look(&config.state.join(super::REGISTRY)) {
        let _ = writeln!(text, "warning   {warning}");
    }
    Ok(text)
}

/// Whether a folder is there and belongs to whoever runs this.
fn is_own(folder: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    std::fs::metadata(folder).is_ok_and(|folder| folder.is_dir() && folder.uid() == user)
}

fn describe(config: &Config) -> String {
    let mut text = String::from("configuration is valid\n");
    for listener in &config.listeners {
        let _ = writeln!(text, "listener  {}", listener.address);
    }
    if let Some(address) = config.admin.address {
        let _ = writeln!(text, "admin     {address}");
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
    text
}

fn matches(matches: &config::Matches) -> String {
    let host = matches.host.as_deref().unwrap_or("*");
    let headers: String = matches.headers.iter().map(|header| format!(" with {}", header.name)).collect();
    format!("{host}{}{headers}", matches.path)
}

fn target(target: &Target) -> String {
    match target {
        Target::Upstream(name) => name.to_string(),
        Target::Weighted(shares) => {
            let shares: Vec<String> = shares.iter().map(|(name, share)| format!("{name} x{share}")).collect();
            shares.join(", ")
        }
        Target::ByName(by_name) => match &by_name.from {
            NameFrom::Path(prefix) => format!("the service named after {prefix}, in {}", by_name.registry),
            NameFrom::Header(name) => format!("the service named by header {name}, in {}", by_name.registry),
        },
    }
}
