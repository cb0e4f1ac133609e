//! Clients that the host lends to registry plugins.
//!
//! Addresses, credentials and certificates stay here. A plugin sees a [`Connectors`], which is what its registry's
//! table grants and nothing else.
//!
//! To add one: its text in `wit/`, its folder here with its `mod` line, and its line in `each_connector`. A
//! folder has
//!
//! - `Keys`, what the operator writes under its name in the table of a registry, and `SETTING`, how that is written
//! - `Grant`, what that comes to, and `grant`, which checks it; none if the keys grant nothing
//! - `Shared`, what the process has for all registries, `share`, which makes it once, and its `lend`, which makes `Lent`,
//!   what an instance of a plugin has, granted or not
//! - `INTERFACES`, what plugins may import to use it, and `add_to_linker`, which gives that to them
//! - `USERS`, the shipped plugins that are of no use without it
//!
//! and the answers of [`Connectors`] to what plugins import. Whatever can be waited for is a `Followed` of `host`, so that a
//! plugin can wait for several things at once.

pub mod dns;
pub mod etcd;
pub mod file;
mod fresh;
mod host;
pub mod http;
pub mod mdns;
pub mod memory;
mod refused;
mod sessions;
pub mod tcp;
mod tls;
pub mod zookeeper;

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, ResourceTable},
};

use self::refused::{Asks, Refusals};
pub use self::{memory::Memory, tls::ClientTls};
use crate::{backoff::Backoff, bindings::wit::types};

/// What one instance may hold at once: feeds and leases, requests, answers and their parts, sleeps.
const MOST_RESOURCES: usize = 1_024;

/// How much later an instance hears of a failure, which it may answer by asking again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// All connectors, with what the configuration says of the key of each.
macro_rules! each_connector {
    ($then:ident) => {
        $then! {
            /// Lends the plugin DNS by some servers. Default: none.
            dns
            /// Lends the plugin a client for etcd. Default: none.
            etcd
            /// Lends the plugin a file to follow, or a folder of them: a path, relative to the folder of the configuration.
            /// Default: none.
            file
            /// Lends the plugin HTTP to some URLs, or, with `in-cluster`, to the API server of the cluster that the gateway is a pod
            /// of. Default: none.
            http
            /// Lends the plugin multicast DNS on some links. Default: none.
            mdns
            /// Lends the plugin the registry inside the gateway. Default: false.
            memory
            /// Lends the plugin TCP to some addresses. Default: none.
            tcp
            /// Lends the plugin a client for ZooKeeper. Default: none.
            zookeeper
        }
    };
}
pub(crate) use each_connector;

macro_rules! connectors {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// The connectors a registry plugin may use. None of them: every call of that connector is denied.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct Grants {
            $(pub $name: Option<$name::Grant>,)*
        }

        impl Grants {
            /// The names of those that may be used.
            pub fn names(&self) -> impl Iterator<Item = &'static str> {
                let all = [$((stringify!($name), self.$name.is_some())),*];
                all.into_iter().filter(|(_, granted)| *granted).map(|(name, _)| name)
            }
        }

        /// What the process has to lend: one per process.
        pub struct Lent {
            refusals: Arc<Refusals>,
            $($name: $name::Shared,)*
        }

        /// What one plugin instance may use. Part of the instance's store.
        pub struct Connectors {
            table: ResourceTable,
            asks: Arc<Asks>,
            /// Failures that the instance was told of.
            failing: Backoff,
            $($name: $name::Lent,)*
        }

        /// The name of each, how its key is written, and which shipped plugins are of no use without it.
        pub(crate) const SETTINGS: &[(&str, &str, &[&str])] =
            &[$((stringify!($name), $name::SETTING, $name::USERS)),*];

        /// The interfaces that plugins may import, without version.
        pub(crate) const INTERFACES: &[&[&str]] = &[$($name::INTERFACES),*];

        impl Lent {
            pub fn new(memory: Arc<Memory>) -> Self {
                Self { refusals: Arc::default(), $($name: $name::share(&memory),)* }
            }

            /// What an instance of the plugin of a registry may use.
            pub fn connectors(&self, plugin: &str, registry: &Arc<str>, grants: &Grants) -> Connectors {
                self.refusals.granted(registry, grants.names());
                self.lend(plugin, registry, grants, false)
            }

            fn lend(&self, plugin: &str, registry: &Arc<str>, grants: &Grants, only_checks: bool) -> Connectors {
                let mut table = ResourceTable::new();
                table.set_max_capacity(MOST_RESOURCES);
                let asks = Arc::new(Asks {
                    plugin: plugin.into(),
                    registry: registry.clone(),
                    service: OnceLock::new(),
                    only_checks,
                    refusals: self.refusals.clone(),
                });
                $(let $name = self.$name.lend(&asks, grants.$name.as_ref());)*
                Connectors { table, asks, failing: pauses(), $($name,)* }
            }
        }

        /// Gives every import of a registry plugin that is a connector to `linker`.
        pub fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
            types::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)?;
            $($name::add_to_linker(linker)?;)*
            Ok(())
        }
    };
}

each_connector!(connectors);

impl Lent {
    /// What an instance that only checks settings may use: nothing. `registry` is empty when none uses the plugin.
    pub fn nothing(&self, plugin: &str, registry: &str) -> Connectors {
        self.lend(plugin, &registry.into(), &Grants::default(), true)
    }
}

impl Connectors {
    /// The registry whose table grants them.
    pub fn registry(&self) -> &Arc<str> {
        &self.asks.registry
    }

    /// Where everything is that the instance holds, whoever lends it.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// The service that the instance asks for. There is one for all its life.
    pub fn ask_for(&self, service: &str) {
        let _ = self.asks.service.set(service.into());
    }
}

/// What is kept beside an instance.
pub trait HasConnectors: Send + 'static {
    fn connectors(&mut self) -> &mut Connectors;
}

fn pauses() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)
}

/// A panic elsewhere does not make what is guarded here wrong: every change is complete before it can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
