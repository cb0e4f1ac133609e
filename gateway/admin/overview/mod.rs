//! How everything stands, on one screen: a line of verdict, the registries, the services, the last changes.
//!
//! Nothing is counted for it on the way of a request: it reads what is counted anyway, when somebody looks, and what
//! came since it looked before is the rate.

mod changes;
mod rates;
mod registries;
mod services;
mod state;
mod verdict;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use serde::Serialize;

pub(super) use self::services::Service;
use self::{
    changes::Change,
    rates::{Rates, WINDOW},
    registries::Registry,
    state::count,
    verdict::{Verdict, verdict},
};
use super::Parts;
use crate::{
    catalog::Upstream,
    plugin::{Plugins, State as PluginState},
    telemetry::{UpstreamMetrics, rfc3339, text::shown},
    upstream::{Status, UpstreamName},
};

/// Services told of; the rest, which is the best of them, is counted.
const MOST_SERVICES: usize = 2_000;

#[derive(Serialize)]
pub(super) struct Answer {
    version: &'static str,
    /// Since when this process has answered here.
    started: String,
    /// The time that rates are about, in seconds.
    window_seconds: u64,
    verdict: Verdict,
    registries: Vec<Registry>,
    service_count: usize,
    services: Vec<Service>,
    changes: Vec<Change>,
}

/// What has to be remembered from one look to the next.
pub(super) struct Overview {
    started: SystemTime,
    rates: Arc<Mutex<Rates>>,
}

impl Default for Overview {
    fn default() -> Self {
        Self { started: SystemTime::now(), rates: Arc::default() }
    }
}

/// Somebody follows. When nobody looks any more, what was counted is forgotten.
pub(super) struct Watch(Arc<Mutex<Rates>>);

impl Drop for Watch {
    fn drop(&mut self) {
        locked(&self.0).left(Instant::now());
    }
}

impl Overview {
    pub(super) fn watch(&self) -> Watch {
        locked(&self.rates).joined();
        Watch(self.rates.clone())
    }

    /// Somebody asks for one answer, and may ask again.
    pub(super) fn asked(&self) {
        locked(&self.rates).asked(Instant::now());
    }

    /// How one service stands.
    pub(super) fn of(&self, parts: &Parts, upstream: &Upstream) -> Service {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut rates = locked(&self.rates);
        rates.sample(|| super::upstreams::running(&parts.catalog).iter().map(counted).collect(), now);
        services::service(upstream, &upstream.status(), rates.of(upstream.name()).as_ref(), (now, wall))
    }

    pub(super) fn look(&self, parts: &Parts) -> Answer {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let upstreams = services::with_status(super::upstreams::running(&parts.catalog));
        let mut services: Vec<Service> = {
            let mut rates = locked(&self.rates);
            rates.sample(|| upstreams.iter().map(|(upstream, _)| counted(upstream)).collect(), now);
            let row = |(upstream, status): &(Arc<Upstream>, Arc<Status>)| {
                let lately = rates.of(upstream.name());
                services::service(upstream, status, lately.as_ref(), (now, wall))
            };
            upstreams.iter().map(row).collect()
        };
        services::sort(&mut services);
        let sources = registries::sources(upstreams.iter().map(|(_, status)| &**status));
        let table = parts.catalog.table();
        let registries = registries::all(&table.config, &sources, wall);
        let complaints = registries.iter().filter_map(|(registry, of)| registry.complaint(of, wall));
        let complaints =
            complaints.chain(of_plugins(&parts.plugins)).chain(of_configuration(parts)).collect();
        let states: Vec<_> = services.iter().map(|service| (&*service.name, service.state)).collect();
        let verdict = verdict(parts.readiness.as_str(), &states, complaints);
        let service_count = services.len();
        services.truncate(MOST_SERVICES);
        Answer {
            version: env!("CARGO_PKG_VERSION"),
            started: rfc3339(self.started),
            window_seconds: WINDOW.as_secs(),
            verdict,
            registries: registries.into_iter().map(|(registry, _)| registry).collect(),
            service_count,
            services,
            changes: changes::last(&upstreams),
        }
    }
}

fn locked(rates: &Mutex<Rates>) -> MutexGuard<'_, Rates> {
    rates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts for an upstream.
fn counted(upstream: &Arc<Upstream>) -> (UpstreamName, Arc<UpstreamMetrics>) {
    (upstream.name().clone(), upstream.metrics.clone())
}

/// What is wrong with plugins.
fn of_plugins(plugins: &Plugins) -> impl Iterator<Item = String> + use<> {
    let list = plugins.list();
    let names = |state: PluginState| {
        let those = list.iter().filter(|of| of.state == state);
        those.map(|of| shown(&of.name).to_string()).collect::<Vec<_>>()
    };
    let tell = |(state, word): (PluginState, &str)| {
        let names = names(state);
        (!names.is_empty()).then(|| format!("{} {word}: {}", count(names.len(), "plugin"), names.join(", ")))
    };
    let told = [(PluginState::Quarantined, "quarantined"), (PluginState::Missing, "missing")].map(tell);
    told.into_iter().flatten()
}

/// What is wrong with the configuration file.
fn of_configuration(parts: &Parts) -> Option<String> {
    let refused = parts.metrics.configured.refused()?;
    Some(format!("the configuration file is refused, {}", count(refused.problems.len(), "problem")))
}
