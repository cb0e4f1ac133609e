//! Selectors and registries by WebAssembly: loading, testing, exchanging, and what they may do.
//!
//! Shipped plugins and files in the plugins folder take the same path: compiled and checked off the request path
//! (`load`), tested with the settings of everything that will use them (`trial`), and then put in force with one
//! store per name, on all workers or on none (`supervisor`). A file that fails any of this changes nothing.

mod engine;
mod faults;
mod folder;
mod instance;
mod supervisor;
mod limits;
mod load;
mod memory;
mod names;
mod registrar;
mod registry;
mod runtime;
mod selector;
mod shipped;
mod trial;
mod uses;

#[cfg(test)]
#[path = "../../tests/support/guest.rs"]
mod testing;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot, watch};

pub use self::{
    engine::EngineError,
    faults::LastFault,
    folder::files,
    load::{Digest, Kind, LoadError},
    memory::MemoryUse,
    registrar::Announcement,
    uses::{Cause, Problem, RegistryUse, SelectorUse, Uses},
};
use self::{names::Names, registrar::WasmRegistrar, registry::WasmRegistry, supervisor::Command};
use crate::{
    config::{self, Config},
    connector::Lent,
    registry::{Registration, Registry},
};

/// All plugins of the process. Cheap to clone; the thread behind it ends with the last clone.
#[derive(Clone)]
pub struct Plugins {
    names: Arc<Names>,
    commands: mpsc::UnboundedSender<Command>,
    lent: Arc<Lent>,
}

impl Plugins {
    /// Looks at the folder and follows it from then on. Waits for nothing.
    pub fn start(config: &Config, lent: Arc<Lent>) -> Result<Self, EngineError> {
        Self::start_with(config, lent, true)
    }

    /// The same for whoever may leave nothing behind: compiled code is kept only if `keep_code` says so.
    pub fn start_with(config: &Config, lent: Arc<Lent>, keep_code: bool) -> Result<Self, EngineError> {
        let names = Arc::new(Names::default());
        let commands = supervisor::start(config, lent.clone(), names.clone(), keep_code)?;
        Ok(Self { names, commands, lent })
    }

    /// The selector plugin of this name, in whatever version is in force; none until one is.
    pub fn selector(&self, name: &str) -> crate::selector::Current {
        self.want(name);
        self.names.with(name, |entry| entry.selector.subscribe())
    }

    /// A registry of the configuration, for one source: another source needs a value of its own.
    pub fn registry(&self, registry: &Arc<config::Registry>) -> Arc<dyn Registry> {
        let current = self.registry_plugin(&registry.plugin);
        Arc::new(WasmRegistry::new(registry.clone(), self.lent.clone(), current))
    }

    /// Announces an instance in a registry until that is withdrawn or dropped. Must be called on a runtime.
    pub fn announce(&self, registry: &Arc<config::Registry>, announcement: Announcement) -> Registration {
        let current = self.registry_plugin(&registry.plugin);
        let service = announcement.service.clone();
        let registrar = WasmRegistrar::new(registry.clone(), self.lent.clone(), current, announcement);
        Registration::start(registry.name.clone(), service, registrar)
    }

    /// Says what plugins are used for from now on: a new version is tested with it. Waits until every shipped plugin
    /// that is named is loaded, and for no file.
    pub async fn set_uses(&self, uses: Uses) {
        self.ask(|done| Command::Uses(uses, done)).await;
    }

    /// Waits until no plugin of these uses is being loaded that has no version in force: each has one, or cannot.
    pub async fn settled(&self, uses: Uses) {
        self.ask(|done| Command::Settle(uses, done)).await;
    }

    /// Tells when a version has come into force, gone, or been refused.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.names.news()
    }

    /// Tests the plugins with uses that are not in force yet, and tells what is wrong. Waits for no file.
    pub async fn check(&self, uses: Uses) -> Vec<Problem> {
        self.ask(|done| Command::Check(uses, done)).await.unwrap_or_default()
    }

    /// Every plugin that is shipped, in the folder, or used, by name.
    pub fn list(&self) -> Vec<PluginInfo> {
        self.names.list()
    }

    fn registry_plugin(&self, name: &str) -> registry::Current {
        self.want(name);
        self.names.with(name, |entry| entry.registry.subscribe())
    }

    fn want(&self, name: &str) {
        // The thread is gone only when the process ends.
        let _ = self.commands.send(Command::Want(name.into()));
    }

    async fn ask<R>(&self, command: impl FnOnce(oneshot::Sender<R>) -> Command) -> Option<R> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).ok()?;
        answered.await.ok()
    }
}

/// A plugin as the admin API shows it.
#[derive(Debug, Clone)]
pub struct PluginInfo {
    pub name: Arc<str>,
    /// None while no version is loaded.
    pub kind: Option<Kind>,
    pub origin: Option<Origin>,
    pub digest: Option<Digest>,
    /// Greater than that of any version loaded before, 0 while there is none.
    pub version: u64,
    pub state: State,
    /// Why a selector that nothing uses made no balancer when it was tried without settings.
    pub trial_error: Option<String>,
    /// Since the start, over all versions.
    pub faults: u64,
    pub last_fault: Option<LastFault>,
    /// Or the time to find it compiled.
    pub compile_time: Option<Duration>,
    /// On average, lately. None of a registry plugin, and until some were timed.
    pub pick_time: Option<Duration>,
    /// Of the instances of the version in force; none while there is none.
    pub memory: Option<MemoryUse>,
    pub loaded_at: Option<SystemTime>,
    /// Since the start.
    pub refusals: u64,
    pub last_refusal: Option<Refused>,
}

/// Where the version in force comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Shipped,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In force, and used.
    Running,
    /// In force, and used by nothing.
    Loaded,
    /// A file is being compiled or tested. What `version` names, if any, is in force until then.
    Compiling,
    /// It failed too often; the native round robin stands in.
    Quarantined,
    /// Used or refused, and no version is in force.
    Missing,
    /// Shipped and not asked for yet.
    Unused,
}

/// A file that was not taken.
#[derive(Debug, Clone)]
pub struct Refused {
    pub at: SystemTime,
    pub file: Option<PathBuf>,
    pub reason: LoadError,
}
