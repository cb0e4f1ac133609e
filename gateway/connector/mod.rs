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
//!   what an instance of a plugin has
//!
//! and the answers of [`Connectors`] to what plugins import: interface, package and folder have one name.

pub mod etcd;
pub mod file;
mod host;
pub mod memory;
mod refused;
mod tls;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, ResourceTable},
};

use self::refused::{Asks, Refusals};
pub use self::{memory::Memory, tls::ClientTls};
use crate::{
    backoff::Backoff,
    bindings::{registry::witgate, wit::types},
};

/// Feeds and leases one instance may hold at once.
const MOST_RESOURCES: usize = 256;

/// How much later an instance hears of a failure, which it may answer by asking again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// All connectors, with what the configuration says of the key of each.
macro_rules! each_connector {
    ($then:ident) => {
        $then! {
            /// Lends the plugin a client for etcd. Default: none.
            etcd
            /// Lends the plugin a file to follow, or a folder of them: a path, relative to the folder of the configuration.
            /// Default: none.
            file
            /// Lends the plugin the registry inside the gateway. Default: false.
            memory
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
            fn names(&self) -> impl Iterator<Item = &'static str> {
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
            asks: Asks,
            /// Failures that the instance was told of.
            failing: Backoff,
            $($name: Option<$name::Lent>,)*
        }

        /// The name of each, and how its key is written.
        pub(crate) const SETTINGS: &[(&str, &str)] = &[$((stringify!($name), $name::SETTING)),*];

        /// The interfaces that plugins may import.
        pub(crate) const INTERFACES: &[&str] = &[$(concat!(stringify!($name), "/", stringify!($name))),*];

        impl Lent {
            pub fn new(memory: Arc<Memory>) -> Self {
                Self { refusals: Arc::default(), $($name: $name::share(&memory),)* }
            }

            /// What an instance of the plugin of a registry may use.
            pub fn connectors(&self, plugin: &str, registry: &Arc<str>, grants: &Grants) -> Connectors {
                self.refusals.granted(registry, grants.names());
                let mut table = ResourceTable::new();
                table.set_max_capacity(MOST_RESOURCES);
                Connectors {
                    table,
                    asks: Asks {
                        plugin: plugin.into(),
                        registry: registry.clone(),
                        service: None,
                        only_checks: false,
                        refusals: self.refusals.clone(),
                    },
                    failing: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
                    $($name: grants.$name.as_ref().map(|grant| self.$name.lend(registry, grant)),)*
                }
            }
        }

        /// Gives every import of a registry plugin that is a connector to `linker`.
        pub fn add_to_linker<T: Send + 'static>(
            linker: &mut Linker<T>,
            get: fn(&mut T) -> &mut Connectors,
        ) -> Result<()> {
            types::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;
            $(witgate::$name::$name::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;)*
            Ok(())
        }
    };
}

each_connector!(connectors);

impl Lent {
    /// What an instance that only checks settings may use: nothing. `registry` is empty when none uses the plugin.
    pub fn nothing(&self, plugin: &str, registry: &str) -> Connectors {
        let mut connectors = self.connectors(plugin, &registry.into(), &Grants::default());
        connectors.asks.only_checks = true;
        connectors
    }
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
