//! What a registry's table does not lend, and its plugin asked for all the same: told in the log, by kind and seldom.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Arc, Mutex},
};

use super::lock;
use crate::{
    backoff::{Lasting, Report},
    config,
    telemetry::text::shown,
};

/// What may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Etcd,
    Memory,
    File,
    /// A file that is not inside the folder that is lent.
    Outside,
}

/// The refusals of all instances, since each attempt of a registry that is not granted what it needs has an instance of
/// its own. Their number is that of the registries that ever were in the configuration.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<(Arc<str>, Kind), Lasting>>);

impl Refusals {
    /// Whether it is worth a line in the log.
    fn met(&self, registry: &Arc<str>, kind: Kind, service: &str) -> Option<Report> {
        lock(&self.0).entry((registry.clone(), kind)).or_default().met(service)
    }

    /// A registry's table lends this now: what is refused after it was taken away is told again.
    pub fn granted(&self, registry: &config::Registry) {
        let grants = &registry.grants;
        let granted = [
            (Kind::Etcd, grants.etcd.is_some()),
            (Kind::Memory, grants.memory),
            (Kind::File, grants.file.is_some()),
        ];
        let mut told = lock(&self.0);
        if !told.is_empty() {
            for (kind, _) in granted.into_iter().filter(|(_, is_granted)| *is_granted) {
                told.remove(&(registry.name.clone(), kind));
            }
        }
    }
}

/// On whose behalf an instance asks.
pub(super) struct Asks {
    pub plugin: Arc<str>,
    /// Empty when the plugin is tried and no registry uses it.
    pub registry: Arc<str>,
    pub service: Option<Arc<str>>,
    /// Only to check settings, for which nothing is lent, whatever the table says.
    pub only_checks: bool,
    pub refusals: Arc<Refusals>,
}

impl Asks {
    /// What the plugin is told, after the log was.
    pub fn refused(&self, kind: Kind, what: &dyn Display) -> String {
        let granted_by = self.granted_by(kind);
        let service = self.service.as_deref().unwrap_or_default();
        if let Some(lasts) = self.refusals.met(&self.registry, kind, service) {
            tracing::warn!(
                plugin = %self.plugin,
                registry = (!self.registry.is_empty()).then_some(&*self.registry),
                service = self.service.as_deref(),
                refused = %shown(what),
                granted_by,
                for_seconds = lasts.for_seconds,
                times = lasts.times,
                "Plugin was refused something"
            );
        }
        match kind {
            Kind::Outside => what.to_string(),
            _ if self.only_checks => format!("no {what} is lent while settings are checked"),
            _ => format!("registry {:?} does not grant the {what}; {granted_by} does", self.registry),
        }
    }

    fn granted_by(&self, kind: Kind) -> String {
        let registry = if self.registry.is_empty() { "NAME" } else { &self.registry };
        let setting = match kind {
            Kind::Outside => {
                return format!(
                    "nothing: `file` in [registry.{registry}] lends one folder and what is in it"
                );
            }
            _ if self.only_checks => {
                return "nothing: settings are checked without connectors".into();
            }
            Kind::Etcd => "etcd = { endpoints = [...] }",
            Kind::Memory => "memory = true",
            Kind::File => "file = \"PATH\"",
        };
        format!("`{setting}` in [registry.{registry}]")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Grants, Registry};

    /// A registry that is followed for a thousand services, each of which tries again every second.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_all_the_time_is_told_seldom_and_again_when_it_was_granted_meanwhile() {
        let refusals = Refusals::default();
        let registry =
            |grants| Registry { name: "main".into(), plugin: "any".into(), grants, settings: "{}".into() };
        let nothing = registry(Grants::default());
        let mut told = 0;
        for _ in 0..3_600 {
            for service in 0..1_000 {
                refusals.granted(&nothing);
                told +=
                    usize::from(refusals.met(&nothing.name, Kind::Memory, &format!("s{service}")).is_some());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((2..=20).contains(&told), "{told} lines in an hour");
        assert!(refusals.met(&nothing.name, Kind::Etcd, "s0").is_some(), "another kind");
        assert!(refusals.met(&"other".into(), Kind::Memory, "s0").is_some(), "another registry");

        refusals.granted(&registry(Grants { memory: true, ..Grants::default() }));
        assert!(refusals.met(&nothing.name, Kind::Memory, "s0").is_some());
        assert!(refusals.met(&nothing.name, Kind::Etcd, "s0").is_none(), "it was not granted");
    }
}
