//! Registries by WebAssembly: an instance per follow, of the version that is in force then.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::watch;
use wasmtime::component::ResourceAny;

use super::instance::{Instance, RegistryPlugin};
use crate::{
    config,
    connector::Lent,
    registry::{BoxFuture, Failure, RawNews, Registry, Subscription},
};

/// The version of a registry plugin that is in force.
pub(super) type Current = watch::Receiver<Option<Arc<RegistryPlugin>>>;

/// One registry of the configuration, for one source.
pub(super) struct WasmRegistry {
    config: Arc<config::Registry>,
    lent: Arc<Lent>,
    current: Current,
    /// The version that the last follow used, 0 for none.
    used: AtomicU64,
}

impl WasmRegistry {
    pub fn new(config: Arc<config::Registry>, lent: Arc<Lent>, current: Current) -> Self {
        Self { config, lent, current, used: AtomicU64::new(0) }
    }

    async fn start(&self, service: &str) -> Result<Box<dyn Subscription>, Failure> {
        let current = self.current.borrow().clone();
        self.used.store(version(&current), Relaxed);
        let plugin = current.ok_or_else(|| missing(&self.config.plugin))?;
        let mut instance = Instance::new(plugin, self.lent.connectors(&self.config)).await?;
        let subscription = instance.follow(service, &self.config.settings).await?;
        Ok(Box::new(WasmSubscription { instance, subscription }))
    }
}

impl Registry for WasmRegistry {
    fn follow<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
        Box::pin(self.start(service))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut current = self.current.clone();
        Box::pin(async move {
            while version(&current.borrow_and_update()) == self.used.load(Relaxed) {
                if current.changed().await.is_err() {
                    // The plugins are gone, and the process is about to be.
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

/// A service being followed, with the instance that does it.
struct WasmSubscription {
    instance: Instance,
    subscription: ResourceAny,
}

impl Subscription for WasmSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<RawNews, Failure>> {
        Box::pin(self.instance.next(self.subscription))
    }
}

pub(super) fn version(plugin: &Option<Arc<RegistryPlugin>>) -> u64 {
    plugin.as_ref().map_or(0, |plugin| plugin.version)
}

pub(super) fn missing(plugin: &str) -> Failure {
    Failure::Plugin(format!("no registry plugin {plugin:?} is loaded"))
}
