//! Selectors by WebAssembly, as the process and each worker know them.
//!
//! A worker has one instance of a plugin, with a balancer resource for each upstream inside it. A call that traps
//! or passes its deadline poisons the whole instance: nothing is known of its memory any more. Every balancer in
//! it then fails at its next call, the fault is counted once, and whoever creates a balancer next gets a fresh
//! instance.
//!
//! Between requests `create` and `update` have a few milliseconds. What takes longer is given up there, which is no
//! fault, and remembered (`slow`): the balancer is then made on a thread beside the workers, with all the time of
//! `update_timeout_ms`, in an instance of its own, for an instance cannot be on two threads. It goes to its worker as
//! a whole, and when it is done with it is dropped as a whole. Where only the making of an instance takes long, that of
//! the worker is made there.

mod balancer;
mod guest;
mod pick_time;
mod slow;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::Mutex;
use wasmtime::component::{HasSelf, Linker};

use self::{
    balancer::{Alone, Shared, create},
    guest::{Data, Guest},
    pick_time::PickTime,
    slow::{Slow, Work},
};
use super::{
    engine::{Bound, Clock, Engine},
    faults::{Faults, LastFault},
    load::{LoadError, Loaded},
    memory::{Memory, MemoryUse},
    runtime::{self, Who},
};
use crate::{
    bindings::selector::{SelectorPlugin, SelectorPluginPre},
    config::SelectorLimits,
    selector::{Beside, CreateError, Fault, Made, MadeAlone, Place, Selector, UpdateError, WorkerSelector},
    upstream::UpstreamName,
};

/// How long a call that is no pick may compute between requests. It is noticed up to two ticks of the clock later.
const BRIEF: Duration = Duration::from_millis(5);

/// A selector plugin in one version, for the whole process.
pub(super) struct WasmSelector {
    name: Arc<str>,
    version: u64,
    plugin: SelectorPluginPre<Data>,
    limits: SelectorLimits,
    pick: Bound,
    /// For everything that is no pick, beside requests and between them.
    update: Bound,
    brief: Bound,
    slow: Slow,
    clock: Arc<Clock>,
    beside: Arc<Beside>,
    memory: Memory,
    picks: PickTime,
    faults: Faults,
}

impl WasmSelector {
    pub fn new(
        engine: &Engine,
        name: Arc<str>,
        version: u64,
        loaded: &Loaded,
        limits: SelectorLimits,
    ) -> Result<Self, LoadError> {
        let link = || {
            let mut linker = Linker::<Data>::new(engine.inner());
            SelectorPlugin::add_to_linker::<Data, HasSelf<Data>>(&mut linker, |data| data)?;
            runtime::define(&mut linker, &loaded.component)?;
            SelectorPluginPre::new(linker.instantiate_pre(&loaded.component)?)
        };
        let plugin = link().map_err(|error| LoadError::Mismatch(format!("{error:#}")))?;
        Ok(Self {
            version,
            plugin,
            limits,
            pick: Bound::quick(limits.pick),
            update: Bound::exact(limits.update),
            brief: Bound::brief(BRIEF),
            slow: Slow::new(name.clone()),
            clock: engine.clock().clone(),
            beside: engine.beside().clone(),
            memory: Memory::new(engine.memory().clone()),
            picks: PickTime::default(),
            faults: Faults::new(name.clone(), limits.faults),
            name,
        })
    }

    pub fn faults(&self) -> u64 {
        self.faults.total()
    }

    pub fn last_fault(&self) -> Option<LastFault> {
        self.faults.last()
    }

    pub fn pick_time(&self) -> Option<Duration> {
        self.picks.average()
    }

    pub fn memory(&self) -> MemoryUse {
        self.memory.used()
    }

    /// Whether a call is given up before its limit, to be made elsewhere.
    fn is_brief(&self, work: Work<'_>, place: Place) -> bool {
        place == Place::Worker && work != Work::Pick && self.limits.update > BRIEF
    }

    fn bound(&self, work: Work<'_>, place: Place) -> Bound {
        match work {
            Work::Pick => self.pick,
            _ if self.is_brief(work, place) => self.brief,
            _ => self.update,
        }
    }

    fn check_quarantine(&self) -> Result<(), CreateError> {
        match self.quarantined() {
            true => Err(CreateError::Unavailable(format!("selector plugin {:?} is quarantined", self.name))),
            false => Ok(()),
        }
    }
}

impl Selector for WasmSelector {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn on_worker(self: Arc<Self>) -> Rc<dyn WorkerSelector> {
        Rc::new(Worker { selector: self, instance: RefCell::default(), warming: Mutex::new(()) })
    }

    fn alone(
        self: Arc<Self>,
        upstream: &UpstreamName,
        settings: &str,
    ) -> Box<dyn FnOnce() -> Result<MadeAlone, CreateError> + Send> {
        let (upstream, settings) = (Some(upstream.as_str().into()), settings.to_owned());
        // Of the thread that this is for.
        let who = Who::new(self.name.clone());
        Box::new(move || {
            self.check_quarantine()?;
            let home = Alone(Some(Box::new(Guest::new(self, who, Place::Beside)?)));
            let (balancer, needs) = create(home, Place::Beside, upstream, &settings)?;
            Ok((Box::new(balancer), needs))
        })
    }

    fn beside(&self) -> &Arc<Beside> {
        &self.beside
    }

    fn is_made_soon(&self, upstream: &UpstreamName, settings: &str, endpoints: usize) -> bool {
        self.slow.may_make(upstream.as_str(), settings, endpoints)
    }

    fn is_told_soon(&self, upstream: &UpstreamName, changes: usize) -> bool {
        self.slow.may_tell(upstream.as_str(), changes)
    }

    fn quarantined(&self) -> bool {
        self.faults.quarantined()
    }

    fn count_fault(&self, fault: &Fault) {
        self.faults.count(&fault.0, Instant::now());
    }
}

/// The plugin on one worker, with its instance once there is a balancer.
struct Worker {
    selector: Arc<WasmSelector>,
    instance: RefCell<Option<Shared>>,
    /// Held by who has an instance made beside.
    warming: Mutex<()>,
}

impl WorkerSelector for Worker {
    fn create_for(
        &self,
        place: Place,
        upstream: Option<&UpstreamName>,
        settings: &str,
    ) -> Result<Made, CreateError> {
        self.selector.check_quarantine()?;
        let home = self.instance(place)?;
        let upstream = upstream.map(|name| name.as_str().into());
        let (balancer, needs) = create(home, place, upstream, settings)?;
        Ok((Box::new(balancer), needs))
    }

    fn warm_up<'a>(&'a self) -> Pin<Box<dyn Future<Output = Result<(), CreateError>> + 'a>> {
        Box::pin(self.warm())
    }
}

impl Worker {
    /// The instance in use, or a fresh one if there is none or it is poisoned.
    fn instance(&self, place: Place) -> Result<Shared, UpdateError> {
        if let Some(shared) = self.healthy() {
            return Ok(shared);
        }
        if place == Place::Worker && !self.selector.slow.may_instantiate() {
            return Err(UpdateError::TakesLong);
        }
        // The old one is given back first: two at once would need twice the memory.
        self.instance.take();
        let who = Who::new(self.selector.name.clone());
        Ok(self.take_over(Guest::new(self.selector.clone(), who, place)?))
    }

    fn healthy(&self) -> Option<Shared> {
        let instance = self.instance.borrow();
        instance.as_ref().filter(|shared| shared.0.borrow().poisoned.is_none()).cloned()
    }

    fn take_over(&self, guest: Guest) -> Shared {
        let shared = Shared(Rc::new(RefCell::new(guest)));
        self.instance.replace(Some(shared.clone()));
        shared
    }

    async fn warm(&self) -> Result<(), CreateError> {
        let is_warm = || self.selector.slow.may_instantiate() || self.healthy().is_some();
        if is_warm() {
            return Ok(());
        }
        // Many upstreams may want one.
        let _one = self.warming.lock().await;
        if is_warm() {
            return Ok(());
        }
        self.selector.check_quarantine()?;
        self.instance.take();
        let (selector, who) = (self.selector.clone(), Who::new(self.selector.name.clone()));
        let made = self.selector.beside.ask(|_| Ok(Guest::new(selector, who, Place::Beside)?)).await;
        self.take_over(made?);
        Ok(())
    }
}

/// A number that no other version of any plugin has in this process.
pub(super) fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed) + 1
}
