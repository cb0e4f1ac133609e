//! What a registry's table does not lend, and its plugin asked for all the same: told in the log, by kind and seldom.

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Arc, Mutex, OnceLock},
};

use super::{SETTINGS, lock};
use crate::{
    backoff::{Lasting, Report},
    telemetry::text::shown,
};

/// What may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    /// One that the registry's table does not name, by its name.
    Connector(&'static str),
    /// A file that is not inside the folder that is lent.
    Outside,
    /// A request that is to none of the URLs that are granted.
    Url,
    /// A use of sockets that is none of those that are granted.
    Address,
}

/// The refusals of all instances, since each attempt of a registry that is not granted what it needs has an instance of
/// its own. Their number is that of the registries that ever were in the configuration.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<(Arc<str>, Refused), Lasting>>);

impl Refusals {
    /// Whether it is worth a line in the log.
    fn met(&self, registry: &Arc<str>, kind: Refused, service: &str) -> Option<Report> {
        lock(&self.0).entry((registry.clone(), kind)).or_default().met(service)
    }

    /// A registry's table lends these now: what is refused after it was taken away is told again.
    pub fn granted(&self, registry: &Arc<str>, connectors: impl Iterator<Item = &'static str>) {
        let mut told = lock(&self.0);
        if !told.is_empty() {
            for connector in connectors {
                told.remove(&(registry.clone(), Refused::Connector(connector)));
            }
        }
    }
}

/// On whose behalf an instance asks.
pub(super) struct Asks {
    pub plugin: Arc<str>,
    /// Empty when the plugin is tried and no registry uses it.
    pub registry: Arc<str>,
    pub service: OnceLock<Arc<str>>,
    /// Only to check settings, for which nothing is lent, whatever the table says.
    pub only_checks: bool,
    pub refusals: Arc<Refusals>,
}

impl Asks {
    /// What the plugin is told, after the log was.
    pub fn refused(&self, kind: Refused, what: &dyn Display) -> String {
        let granted_by = self.granted_by(kind);
        let service = self.service.get().map(|service| &**service);
        if let Some(lasts) = self.refusals.met(&self.registry, kind, service.unwrap_or_default()) {
            tracing::warn!(
                plugin = %self.plugin,
                registry = (!self.registry.is_empty()).then_some(&*self.registry),
                service,
                refused = %shown(what),
                granted_by,
                for_seconds = lasts.for_seconds,
                times = lasts.times,
                "Plugin was refused something"
            );
        }
        match kind {
            Refused::Outside => what.to_string(),
            _ if self.only_checks => format!("no {what} is lent while settings are checked"),
            _ => format!("registry {:?} does not grant the {what}; {granted_by} does", self.registry),
        }
    }

    fn granted_by(&self, kind: Refused) -> String {
        let registry = if self.registry.is_empty() { "NAME" } else { &self.registry };
        let setting = match kind {
            Refused::Outside => {
                return format!(
                    "nothing: `file` in [registry.{registry}] lends one folder and what is in it"
                );
            }
            _ if self.only_checks => {
                return "nothing: settings are checked without connectors".into();
            }
            Refused::Url => "urls` of `http",
            Refused::Address => "addresses` of `tcp",
            Refused::Connector(name) => {
                let of = SETTINGS.iter().find(|(connector, ..)| *connector == name);
                of.map_or(name, |(_, setting, _)| setting)
            }
        };
        format!("`{setting}` in [registry.{registry}]")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A registry that is followed for a thousand services, each of which tries again every second.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_all_the_time_is_told_seldom_and_again_when_it_was_granted_meanwhile() {
        let refusals = Refusals::default();
        let (main, memory) = (Arc::<str>::from("main"), Refused::Connector("memory"));
        let mut told = 0;
        for _ in 0..3_600 {
            for service in 0..1_000 {
                refusals.granted(&main, [].into_iter());
                told += usize::from(refusals.met(&main, memory, &format!("s{service}")).is_some());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!((2..=20).contains(&told), "{told} lines in an hour");
        assert!(refusals.met(&main, Refused::Connector("etcd"), "s0").is_some(), "another kind");
        assert!(refusals.met(&"other".into(), memory, "s0").is_some(), "another registry");

        refusals.granted(&main, ["memory"].into_iter());
        assert!(refusals.met(&main, memory, "s0").is_some());
        assert!(refusals.met(&main, Refused::Connector("etcd"), "s0").is_none(), "it was not granted");
    }
}
