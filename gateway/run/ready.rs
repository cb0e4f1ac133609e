//! When the gateway is ready: it picks as it was configured to, and has what a process before it had.

use std::{sync::Arc, time::Duration};

use super::{say, systemd, uses};
use crate::{
    catalog::Catalog, config::Config, plugin::Plugins, telemetry::Readiness, upstream::UpstreamName,
};

/// How long a gateway that has just started may wait for plugins, and for balancers of them, before it is ready.
const FIRST_PLUGINS: Duration = Duration::from_secs(60);

/// How often it is looked whether the workers have the balancers that they begin with.
const LOOK_FOR_BALANCERS: Duration = Duration::from_millis(20);

/// Says that the gateway is ready once it picks as it was configured to: until a file that it needs for that is
/// compiled, and all workers have their balancers of it, the native round robin picks, which breaks the affinity of
/// clients. Some time later it is better than nothing.
pub(super) async fn become_ready(
    config: Arc<Config>,
    plugins: Plugins,
    catalog: Catalog,
    readiness: Readiness,
) {
    let settled = tokio::time::timeout(FIRST_PLUGINS, balanced(&config, &plugins, &catalog));
    if settled.await.is_err() {
        tracing::warn!(waited = ?FIRST_PLUGINS,
            "Plugins are still being compiled, or balancers made of them, going on without them");
    }
    // Those of a registry whose plugin has just come.
    catalog.first_lists().await;
    readiness.ready();
    systemd::ready();
    say("ready");
}

/// Waits until it picks as it was configured to.
async fn balanced(config: &Config, plugins: &Plugins, catalog: &Catalog) {
    plugins.settled(uses(config, None)).await;
    while !catalog.table().upstreams.values().all(|upstream| upstream.has_tried_selector()) {
        tokio::time::sleep(LOOK_FOR_BALANCERS).await;
    }
}

/// Waits until it is as ready as it can be: with another process that serves there is no reason to hurry.
pub(super) async fn settle(config: &Config, plugins: &Plugins, catalog: &Catalog) {
    balanced(config, plugins, catalog).await;
    catalog.first_lists().await;
}

/// Waits until those of these upstreams that are configured have endpoints.
pub(super) async fn have_endpoints(catalog: &Catalog, upstreams: &[String]) {
    let table = catalog.table();
    for upstream in upstreams.iter().filter_map(|name| table.upstreams.get(&UpstreamName::new(name.as_str())))
    {
        let mut told = false;
        while upstream.reader.snapshot().is_empty() {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(upstream = %upstream.config.name,
                    "The running process has endpoints of it, and this one none yet");
            }
            tokio::time::sleep(LOOK_FOR_BALANCERS).await;
        }
    }
}
