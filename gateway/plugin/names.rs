//! What is in force under each name, and what has become of it so far.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{
    MemoryUse, Origin, PluginInfo, Refused, State,
    faults::LastFault,
    instance::RegistryPlugin,
    load::{Kind, LoadError, Loaded},
    selector::WasmSelector,
    shipped::SHIPPED,
};
use crate::selector::Selector;

/// All names, each with its entry. Locked for a few lines and never on the request path: workers hold receivers.
#[derive(Default)]
pub(super) struct Names {
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
    /// Counts the versions that came into force, went, or were refused.
    news: watch::Sender<u64>,
}

/// One name. A kind that is not in force has none in its channel.
pub(super) struct Entry {
    pub selector: watch::Sender<Option<Arc<dyn Selector>>>,
    pub registry: watch::Sender<Option<Arc<RegistryPlugin>>>,
    /// A version is being loaded or tested.
    pub compiling: bool,
    running: Option<Running>,
    /// Of versions that are no longer in force.
    past_faults: u64,
    past_fault: Option<LastFault>,
    refusals: u64,
    last_refusal: Option<Refused>,
}

/// A version in force.
#[derive(Clone)]
pub(super) struct Running {
    pub plugin: Plugin,
    pub loaded: Loaded,
    pub origin: Origin,
    pub at: SystemTime,
    /// Why it made no balancer when it was tried without settings, because nothing used it.
    pub trial_error: Option<String>,
}

#[derive(Clone)]
pub(super) enum Plugin {
    Selector(Arc<WasmSelector>),
    Registry(Arc<RegistryPlugin>),
}

impl Plugin {
    pub fn name(&self) -> &str {
        match self {
            Self::Selector(selector) => selector.name(),
            Self::Registry(registry) => &registry.name,
        }
    }

    fn version(&self) -> u64 {
        match self {
            Self::Selector(selector) => selector.version(),
            Self::Registry(registry) => registry.version,
        }
    }

    fn faults(&self) -> u64 {
        match self {
            Self::Selector(selector) => selector.faults(),
            Self::Registry(registry) => registry.faults(),
        }
    }

    fn last_fault(&self) -> Option<LastFault> {
        match self {
            Self::Selector(selector) => selector.last_fault(),
            Self::Registry(registry) => registry.last_fault(),
        }
    }

    fn pick_time(&self) -> Option<Duration> {
        match self {
            Self::Selector(selector) => selector.pick_time(),
            Self::Registry(_) => None,
        }
    }

    fn memory(&self) -> MemoryUse {
        match self {
            Self::Selector(selector) => selector.memory(),
            Self::Registry(registry) => registry.memory.used(),
        }
    }

    fn quarantined(&self) -> bool {
        matches!(self, Self::Selector(selector) if selector.quarantined())
    }
}

impl Names {
    /// Lends the entry of a name, making one if there is none.
    pub fn with<R>(&self, name: &str, act: impl FnOnce(&mut Entry) -> R) -> R {
        let mut names = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get_mut(name) {
            Some(entry) => act(entry),
            None => act(names.entry(name.into()).or_insert_with(Entry::new)),
        }
    }

    pub fn running(&self, name: &str) -> Option<Running> {
        self.with(name, |entry| entry.running.clone())
    }

    /// Puts another version in force, or none. One store per channel: on all workers or on none.
    pub fn exchange(&self, name: &str, running: Option<Running>) {
        self.with(name, |entry| entry.exchange(running));
        self.news.send_modify(|count| *count += 1);
    }

    pub fn refuse(&self, name: &str, file: Option<&Path>, reason: LoadError) {
        self.with(name, |entry| entry.refuse(file, reason));
        self.news.send_modify(|count| *count += 1);
    }

    /// Tells when a version has come into force, gone, or been refused.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub fn list(&self) -> Vec<PluginInfo> {
        let names = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = SHIPPED.iter().filter(|(name, _)| !names.contains_key(*name));
        let mut list: Vec<PluginInfo> = unused.map(|(name, _)| Entry::new().info((*name).into())).collect();
        list.extend(names.iter().map(|(name, entry)| entry.info(name.clone())));
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            selector: watch::Sender::new(None),
            registry: watch::Sender::new(None),
            compiling: false,
            running: None,
            past_faults: 0,
            past_fault: None,
            refusals: 0,
            last_refusal: None,
        }
    }

    fn exchange(&mut self, running: Option<Running>) {
        self.past_faults += self.running.as_ref().map_or(0, |running| running.plugin.faults());
        self.past_fault = self.last_fault();
        let (selector, registry) = match running.as_ref().map(|running| &running.plugin) {
            Some(Plugin::Selector(selector)) => (Some(selector.clone() as Arc<dyn Selector>), None),
            Some(Plugin::Registry(registry)) => (None, Some(registry.clone())),
            None => (None, None),
        };
        self.running = running;
        self.compiling = false;
        self.selector.send_if_modified(|current| replace(current, selector));
        self.registry.send_if_modified(|current| replace(current, registry));
    }

    /// Of the version in force, or of the one before.
    fn last_fault(&self) -> Option<LastFault> {
        let running = self.running.as_ref().and_then(|running| running.plugin.last_fault());
        running.or_else(|| self.past_fault.clone())
    }

    /// Why the last file was not taken.
    pub fn last_reason(&self) -> Option<&LoadError> {
        self.last_refusal.as_ref().map(|refused| &refused.reason)
    }

    fn refuse(&mut self, file: Option<&Path>, reason: LoadError) {
        self.refusals += 1;
        self.compiling = false;
        self.last_refusal = Some(Refused { at: SystemTime::now(), file: file.map(PathBuf::from), reason });
    }

    fn info(&self, name: Arc<str>) -> PluginInfo {
        let running = self.running.as_ref();
        let state = match running {
            _ if self.compiling => State::Compiling,
            Some(running) if running.plugin.quarantined() => State::Quarantined,
            Some(_) if self.wanted() => State::Running,
            Some(_) => State::Loaded,
            None if self.wanted() || self.refusals > 0 => State::Missing,
            None => State::Unused,
        };
        PluginInfo {
            name,
            kind: running.map(|running| running.loaded.kind),
            origin: running.map(|running| running.origin.clone()),
            digest: running.map(|running| running.loaded.digest),
            version: running.map_or(0, |running| running.plugin.version()),
            trial_error: running
                .filter(|_| state == State::Loaded)
                .and_then(|running| running.trial_error.clone()),
            state,
            faults: self.past_faults + running.map_or(0, |running| running.plugin.faults()),
            last_fault: self.last_fault(),
            compile_time: running.map(|running| running.loaded.took),
            pick_time: running.and_then(|running| running.plugin.pick_time()),
            memory: running.map(|running| running.plugin.memory()),
            loaded_at: running.map(|running| running.at),
            refusals: self.refusals,
            last_refusal: self.last_refusal.clone(),
        }
    }

    fn wanted(&self) -> bool {
        self.selector.receiver_count() + self.registry.receiver_count() > 0
    }

    pub fn kind(&self) -> Option<Kind> {
        self.running.as_ref().map(|running| running.loaded.kind)
    }
}

/// Nothing is sent where nothing was and nothing comes.
fn replace<T>(current: &mut Option<T>, next: Option<T>) -> bool {
    let changes = current.is_some() || next.is_some();
    *current = next;
    changes
}
