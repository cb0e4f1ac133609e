//! From a file to what runs: everything is checked, and all that is wrong is recorded.
//!
//! A part with a mistake becomes nothing, and what refers to it is still checked as if it were there.

mod access_log;
mod json;
mod limits;
mod listen;
mod offer;
mod registry;
mod reliability;
mod retries;
mod route;
mod tls;
mod tracing;
mod upstream;

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use super::{
    file::{self, File},
    order,
    running::*,
};
use crate::{
    document::{Document, Examiner, Mistake, Way, similar},
    upstream::UpstreamName,
};

/// The registry that exists when a file names none.
const EMBEDDED: &str = "memory";

pub(super) struct Checker<'a> {
    examiner: Examiner<'a>,
    /// What the tables of registries say of their trust.
    trusts: BTreeMap<Arc<str>, file::Trust>,
    identity: offer::Identity,
}

impl<'a> Deref for Checker<'a> {
    type Target = Examiner<'a>;

    fn deref(&self) -> &Examiner<'a> {
        &self.examiner
    }
}

impl DerefMut for Checker<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.examiner
    }
}

impl<'a> Checker<'a> {
    pub(super) fn new(document: &'a Document<'a>, path: &Path, mistakes: Vec<Mistake>) -> Self {
        let examiner = Examiner::new(document, path, mistakes);
        Self { examiner, trusts: BTreeMap::new(), identity: offer::Identity::default() }
    }

    pub(super) fn into_problems(self) -> Vec<Mistake> {
        self.examiner.into_problems()
    }

    /// What runs. None if a part could not be made; each reason is recorded.
    pub(super) fn config(&mut self, file: &File) -> Option<Config> {
        let top = Way::default();
        let workers = self.workers(file.workers);
        let listeners = self.listeners(&file.listener);
        let admin = self.admin(&top.key("admin"), &file.admin);
        self.distinct_addresses(&file.listener, &file.admin);
        let state = self.path(&top.key("state").key("directory"), &file.state.directory);
        let dns_servers = self.dns_servers(&top.key("resolver").key("servers"), &file.resolver.servers);
        let plugins = self.plugins(&top.key("plugins"), &file.plugins);
        let shutdown = self.shutdown(&top.key("shutdown"), &file.shutdown);
        let upgrade = top.key("upgrade").key("timeout_ms");
        let upgrade_timeout = self.duration_ms(&upgrade, file.upgrade.timeout_ms);
        self.trusts = trusts(&file.registry);
        self.identity = self.identity(&top.key("gateway"), &file.gateway);
        let tracing = self.tracing(&top.key("tracing"), file.tracing.as_ref());
        let registries = self.registries(&file.registry);
        let upstreams = self.upstreams(&file.upstream);
        let route::Routes { requests, connections, calls } = self.routes(&file.route, &file.listener);
        Some(Config {
            workers,
            listeners,
            admin: admin?,
            state: state?,
            dns_servers,
            plugins: plugins?,
            tracing: tracing?.map(Arc::new),
            shutdown,
            upgrade_timeout,
            registries,
            upstreams,
            routes: order::most_specific_first(requests),
            tcp_routes: order::most_specific_first_of_tcp(connections),
            rpcx_routes: calls,
        })
    }

    fn workers(&mut self, workers: Option<u64>) -> usize {
        let one_per_core = || std::thread::available_parallelism().map_or(1, usize::from);
        let way = Way::default().key("workers");
        workers.map_or_else(one_per_core, |workers| self.count(&way, workers, 1..=1024))
    }

    fn plugins(&mut self, way: &Way, plugins: &file::Plugins) -> Option<Plugins> {
        let directory = self.path(&way.key("directory"), &plugins.directory);
        let memory = self.count(&way.key("memory_mib"), plugins.memory_mib, 1..=1 << 20);
        let selector = self.selector_limits(&way.key("selector"), &plugins.selector);
        let registry = self.registry_limits(&way.key("registry"), &plugins.registry);
        let memory_bytes = memory.saturating_mul(1 << 20);
        Some(Plugins { directory: directory?, memory_bytes, selector, registry })
    }

    fn selector_limits(&mut self, way: &Way, limits: &file::SelectorLimits) -> SelectorLimits {
        SelectorLimits {
            pick: self.duration_ms(&way.key("pick_timeout_ms"), limits.pick_timeout_ms),
            update: self.duration_ms(&way.key("update_timeout_ms"), limits.update_timeout_ms),
            memory_bytes: self.mebibytes(&way.key("memory_mib"), limits.memory_mib),
            table_elements: self.count(&way.key("table_elements"), limits.table_elements, 1..=10_000_000),
            faults: self.count(&way.key("faults_per_minute"), limits.faults_per_minute, 1..=1_000_000) as u32,
        }
    }

    fn registry_limits(&mut self, way: &Way, limits: &file::RegistryLimits) -> RegistryLimits {
        RegistryLimits {
            cpu: self.duration_ms(&way.key("cpu_timeout_ms"), limits.cpu_timeout_ms),
            memory_bytes: self.mebibytes(&way.key("memory_mib"), limits.memory_mib),
            table_elements: self.count(&way.key("table_elements"), limits.table_elements, 1..=10_000_000),
        }
    }

    fn shutdown(&mut self, way: &Way, shutdown: &file::Shutdown) -> Shutdown {
        Shutdown {
            delay: self.delay_ms(&way.key("delay_ms"), shutdown.delay_ms),
            drain: self.delay_ms(&way.key("drain_ms"), shutdown.drain_ms),
        }
    }

    fn registries(
        &mut self,
        registries: &BTreeMap<String, file::Registry>,
    ) -> BTreeMap<String, Arc<Registry>> {
        let way = Way::default().key("registry");
        let made = registries.iter().filter_map(|(name, registry)| {
            let way = way.key(name);
            self.own_name(&way, name);
            Some((name.clone(), Arc::new(self.registry(&way, name, registry)?)))
        });
        let mut made: BTreeMap<_, _> = made.collect();
        if registries.is_empty() {
            made.insert(EMBEDDED.into(), Arc::new(registry::embedded()));
        }
        made
    }

    fn upstreams(
        &mut self,
        upstreams: &BTreeMap<String, file::Upstream>,
    ) -> BTreeMap<UpstreamName, Arc<Upstream>> {
        let way = Way::default().key("upstream");
        let made = upstreams.iter().filter_map(|(name, upstream)| {
            let way = way.key(name);
            self.own_name(&way, name);
            let upstream = self.upstream(&way, name, upstream)?;
            Some((upstream.name.clone(), Arc::new(upstream)))
        });
        made.collect()
    }

    /// A registry by its name, which must be one of the file's.
    fn registry_name(&mut self, way: &Way, name: &str) -> Option<Arc<str>> {
        let mut known = self.document.keys("registry")?;
        if known.is_empty() {
            known.push(EMBEDDED.into());
        }
        if known.iter().any(|known| known == name) {
            return Some(name.into());
        }
        let hint = match name {
            EMBEDDED => Some(format!(
                "the embedded registry has a table like any other once there is one: [registry.{EMBEDDED}] with \
                 plugin = \"memory\" and memory = true"
            )),
            _ => similar::hint(name, known.iter().map(String::as_str)),
        };
        self.wrong(way, format!("there is no registry `{name}`")).hint_if_any(hint);
        None
    }
}

/// Only of registries that are believed otherwise than the rest.
fn trusts(registries: &BTreeMap<String, file::Registry>) -> BTreeMap<Arc<str>, file::Trust> {
    let of_their_own = registries.iter().filter(|(_, registry)| registry.trust != file::Trust::default());
    of_their_own.map(|(name, registry)| (name.as_str().into(), registry.trust.clone())).collect()
}
