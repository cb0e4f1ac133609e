//! Registries by WebAssembly: an instance per follow, of the version that is in force then.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::watch;
use wasmtime::component::ResourceAny;

use super::instance::{Instance, RegistryPlugin};
use crate::{
    bindings::wit,
    config,
    connector::Lent,
    files,
    registry::{BoxFuture, Failure, Registry, Resolver, Subscription},
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
    invalid: Invalid,
}

/// What the last follow read was invalid: tells when that has changed. None while nothing is wrong with it.
type Invalid = Arc<Mutex<Option<Arc<files::Subscription>>>>;

impl WasmRegistry {
    pub fn new(config: Arc<config::Registry>, lent: Arc<Lent>, current: Current) -> Self {
        Self { config, lent, current, used: AtomicU64::new(0), invalid: Invalid::default() }
    }

    async fn start(&self, service: &str) -> Result<Box<dyn Subscription>, Failure> {
        let current = self.current.borrow().clone();
        self.used.store(version(&current), Relaxed);
        set(&self.invalid, None);
        let plugin = current.ok_or_else(|| missing(&self.config.plugin))?;
        // From before anything is read, so that no change after it is missed.
        let changes = self.lent.file_changes(&self.config.grants).map(Arc::new);
        let mut instance = Instance::new(
            plugin,
            self.lent.connectors(&self.config.plugin, &self.config.name, &self.config.grants),
        )
        .await?;
        let subscription = instance.follow(service, &self.config.settings).await;
        let subscription = subscription.inspect_err(|failure| note(&self.invalid, failure, &changes))?;
        Ok(Box::new(WasmSubscription { instance, subscription, changes, invalid: self.invalid.clone() }))
    }
}

impl Registry for WasmRegistry {
    fn follow<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
        Box::pin(self.start(service))
    }

    fn resolver(&self) -> Option<Resolver> {
        self.lent.resolver(&self.config.name, &self.config.grants)
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut current = self.current.clone();
        let invalid = self.invalid.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move {
            let another_version = async {
                while version(&current.borrow_and_update()) == self.used.load(Relaxed) {
                    if current.changed().await.is_err() {
                        // The plugins are gone, and the process is about to be.
                        std::future::pending::<()>().await;
                    }
                }
            };
            let another_file = async {
                match &invalid {
                    Some(changes) => changes.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = another_version => {}
                () = another_file => {}
            }
        })
    }
}

/// A service being followed, with the instance that does it.
struct WasmSubscription {
    instance: Instance,
    subscription: ResourceAny,
    changes: Option<Arc<files::Subscription>>,
    invalid: Invalid,
}

impl Subscription for WasmSubscription {
    fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
        Box::pin(async {
            let news = self.instance.next(self.subscription).await;
            news.inspect_err(|failure| note(&self.invalid, failure, &self.changes))
        })
    }
}

fn note(invalid: &Invalid, failure: &Failure, changes: &Option<Arc<files::Subscription>>) {
    if let Failure::Invalid(_) = failure {
        set(invalid, changes.clone());
    }
}

fn set(invalid: &Invalid, changes: Option<Arc<files::Subscription>>) {
    *invalid.lock().unwrap_or_else(PoisonError::into_inner) = changes;
}

pub(super) fn version(plugin: &Option<Arc<RegistryPlugin>>) -> u64 {
    plugin.as_ref().map_or(0, |plugin| plugin.version)
}

pub(super) fn missing(plugin: &str) -> Failure {
    Failure::Plugin(format!("no registry plugin {plugin:?} is loaded"))
}
