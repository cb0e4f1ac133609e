//! Clients that the host lends to registry plugins: etcd, the embedded registry, files.
//!
//! Addresses, credentials and certificates stay here. A plugin sees a [`Connectors`], which is what its registry's
//! table grants and nothing else.

pub mod etcd;
pub mod file;
mod host;
pub mod memory;
mod refused;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wasmtime::component::ResourceTable;

use self::refused::{Asks, Refusals};
pub use self::{
    etcd::{Feed as EtcdFeed, Lease as EtcdLease},
    file::Feed as FileFeed,
    host::add_to_linker,
    memory::{Feed as MemoryFeed, Memory},
};
use crate::{backoff::Backoff, config};

/// Feeds and leases one instance may hold at once.
const MOST_RESOURCES: usize = 256;

/// How much later an instance hears of a failure, which it may answer by asking again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the process has to lend: one per process.
pub struct Lent {
    memory: Arc<Memory>,
    folders: Arc<file::Folders>,
    etcd: Mutex<HashMap<Arc<str>, Arc<etcd::Client>>>,
    refusals: Arc<Refusals>,
}

impl Lent {
    pub fn new(memory: Arc<Memory>) -> Self {
        Self { memory, folders: Arc::default(), etcd: Mutex::default(), refusals: Arc::default() }
    }

    /// What an instance of `registry`'s plugin may use.
    ///
    /// Everything that follows the same registry shares one connection to it, until its table changes.
    pub fn connectors(&self, registry: &config::Registry) -> Connectors {
        let grants = &registry.grants;
        self.refusals.granted(registry);
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        Connectors {
            table,
            etcd: grants.etcd.as_ref().map(|etcd| self.client(&registry.name, etcd)),
            memory: grants.memory.then(|| self.memory.clone()),
            file: grants.file.clone().map(|path| (path, self.folders.clone())),
            asks: Asks {
                plugin: registry.plugin.as_str().into(),
                registry: registry.name.clone(),
                service: None,
                only_checks: false,
                refusals: self.refusals.clone(),
            },
            failing: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// What an instance that only checks settings may use: nothing. `registry` is empty when none uses the plugin.
    pub fn nothing(&self, plugin: &str, registry: &str) -> Connectors {
        let registry = config::Registry {
            name: registry.into(),
            plugin: plugin.into(),
            grants: config::Grants::default(),
            settings: "{}".into(),
        };
        let mut connectors = self.connectors(&registry);
        connectors.asks.only_checks = true;
        connectors
    }

    /// Tells of changes of the file that a registry grants, from now on; none if it grants none.
    pub fn file_changes(&self, registry: &config::Registry) -> Option<file::Subscription> {
        registry.grants.file.as_deref().map(|path| file::changes(path, &self.folders))
    }

    /// A client holds no connection unless something follows, so that those of removed registries cost nothing.
    fn client(&self, registry: &Arc<str>, config: &config::Etcd) -> Arc<etcd::Client> {
        let mut clients = lock(&self.etcd);
        match clients.get(registry) {
            Some(client) if client.config() == config => client.clone(),
            _ => {
                let client = etcd::Client::new(registry.clone(), config.clone());
                clients.insert(registry.clone(), client.clone());
                client
            }
        }
    }
}

/// What one plugin instance may use. Part of the instance's store.
pub struct Connectors {
    table: ResourceTable,
    asks: Asks,
    etcd: Option<Arc<etcd::Client>>,
    memory: Option<Arc<Memory>>,
    file: Option<(PathBuf, Arc<file::Folders>)>,
    /// Failures that the instance was told of.
    failing: Backoff,
}

impl Connectors {
    /// The registry whose table grants them.
    pub fn registry(&self) -> &Arc<str> {
        &self.asks.registry
    }

    /// From now on the instance asks for this service.
    pub fn ask_for(&mut self, service: &str) {
        self.asks.service = Some(service.into());
    }
}

/// A panic elsewhere does not make what is guarded here wrong: every change is complete before it can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
