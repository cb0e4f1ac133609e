//! One instance of a registry plugin: asynchronous calls whose waits are free and whose computing is not.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use wasmtime::{
    Store, UpdateDeadline,
    component::{InstancePre, Linker, ResourceAny},
};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::{
    engine::{Clock, Engine, Held, cpu_time},
    faults::{self, Faults, LastFault},
    limits::Limits,
    load::{LoadError, Loaded},
    memory::Memory,
    runtime::{self, HasWasi, Wasi, Who},
};
use crate::{
    bindings::{
        registry::exports::witgate::registry::{
            registrar::{self, Announcement},
            registry,
        },
        wit,
    },
    config::RegistryLimits,
    connector::{self, Connectors, HasConnectors},
    registry::Failure,
};

/// A registry plugin in one version, for the whole process.
pub(super) struct RegistryPlugin {
    pub name: Arc<str>,
    pub version: u64,
    component: InstancePre<Data>,
    registry: registry::GuestIndices,
    /// None: this plugin cannot announce.
    registrar: Option<registrar::GuestIndices>,
    limits: RegistryLimits,
    clock: Arc<Clock>,
    pub memory: Memory,
    faults: Faults,
}

/// What the host keeps beside an instance.
struct Data {
    wasi: Wasi,
    limits: Limits,
    connectors: Connectors,
}

impl Data {
    /// From now on the log says that the instance is about this service.
    fn serves(&mut self, service: &str) {
        self.wasi.lines().who.service = Some(service.into());
        self.connectors.ask_for(service);
    }
}

impl RegistryPlugin {
    pub fn new(
        engine: &Engine,
        name: Arc<str>,
        version: u64,
        loaded: &Loaded,
        limits: RegistryLimits,
    ) -> Result<Self, LoadError> {
        let link = || -> wasmtime::Result<_> {
            let mut linker = Linker::<Data>::new(engine.inner());
            connector::add_to_linker(&mut linker)?;
            runtime::add_to_linker(&mut linker)?;
            let component = linker.instantiate_pre(&loaded.component)?;
            let registry = registry::GuestIndices::new(&component)?;
            let registrar = loaded.announces.then(|| registrar::GuestIndices::new(&component)).transpose()?;
            Ok((component, registry, registrar))
        };
        let (component, registry, registrar) =
            link().map_err(|error| LoadError::Mismatch(format!("{error:#}")))?;
        // A registry plugin is not quarantined: its list is frozen and its instance rebuilt with growing pauses.
        let faults = Faults::new(name.clone(), 0);
        let (clock, memory) = (engine.clock().clone(), Memory::new(engine.memory().clone()));
        Ok(Self { name, version, component, registry, registrar, limits, clock, memory, faults })
    }

    pub fn faults(&self) -> u64 {
        self.faults.total()
    }

    pub fn last_fault(&self) -> Option<LastFault> {
        self.faults.last()
    }

    fn failed(&self, call: &str, error: &wasmtime::Error, data: &Data, budget: &Budget) -> Failure {
        let text = match budget.over.load(Relaxed) {
            true => format!("{call} computed for longer than {:?} without waiting", self.limits.cpu).into(),
            false => faults::describe(call, error, None, &data.limits, &data.wasi.lines()),
        };
        self.faults.count(&text, Instant::now());
        Failure::Plugin(text.to_string())
    }
}

/// One instance. After a failure of the plugin itself it must not be used again.
pub(super) struct Instance {
    plugin: Arc<RegistryPlugin>,
    store: Store<Data>,
    budget: Arc<Budget>,
    registry: registry::Guest,
    registrar: Option<registrar::Guest>,
}

impl Instance {
    pub async fn new(plugin: Arc<RegistryPlugin>, connectors: Connectors) -> Result<Self, Failure> {
        let who = Who { registry: Some(connectors.registry().clone()), ..Who::new(plugin.name.clone()) };
        let limits = &plugin.limits;
        let data = Data {
            wasi: Wasi::new(who, connectors.sockets().clone()),
            limits: Limits::new(limits.memory_bytes, limits.table_elements, &plugin.memory),
            connectors,
        };
        let mut store = Store::new(plugin.component.engine(), data);
        store.limiter(|data| &mut data.limits);
        let budget = Arc::new(Budget::new(limits.cpu, plugin.clock.clone()));
        let account = budget.clone();
        store.epoch_deadline_callback(move |_| Ok(account.tick()));
        store.set_epoch_deadline(1);
        let made = budget.bound(async {
            let instance = plugin.component.instantiate_async(&mut store).await?;
            let registry = plugin.registry.load(&mut store, &instance)?;
            let registrar = match &plugin.registrar {
                Some(indices) => Some(indices.load(&mut store, &instance)?),
                None => None,
            };
            wasmtime::Result::Ok((registry, registrar))
        });
        match made.await {
            Ok((registry, registrar)) => Ok(Self { plugin, store, budget, registry, registrar }),
            Err(error) => Err(plugin.failed("instantiation", &error, store.data(), &budget)),
        }
    }

    /// Whether the plugin takes these settings; the inner error is its own.
    pub async fn check(&mut self, settings: &str) -> Result<Result<(), String>, Failure> {
        self.store.set_epoch_deadline(1);
        let result = self.budget.bound(self.registry.call_check(&mut self.store, settings)).await;
        self.ended("check", result)
    }

    pub async fn follow(&mut self, service: &str, settings: &str) -> Result<ResourceAny, Failure> {
        self.store.data_mut().serves(service);
        self.store.set_epoch_deadline(1);
        let call = self.registry.call_follow(&mut self.store, service, settings);
        let result = self.budget.bound(call).await;
        self.ended("follow", result)?.map_err(Failure::from)
    }

    /// Waits for news. Dropping the future ends the instance.
    pub async fn next(&mut self, subscription: ResourceAny) -> Result<wit::News, Failure> {
        self.store.set_epoch_deadline(1);
        let subscriptions = self.registry.subscription();
        let result = self.budget.bound(subscriptions.call_next(&mut self.store, subscription)).await;
        self.ended("next", result)?.map_err(Failure::from)
    }

    pub async fn register(
        &mut self,
        announcement: &Announcement,
        settings: &str,
    ) -> Result<ResourceAny, Failure> {
        let registrar = self.registrar.as_ref().ok_or_else(|| {
            Failure::Invalid(format!("registry plugin {:?} cannot announce", self.plugin.name))
        })?;
        self.store.data_mut().serves(&announcement.service);
        self.store.set_epoch_deadline(1);
        let call = registrar.call_register(&mut self.store, announcement, settings);
        let result = self.budget.bound(call).await;
        self.ended("register", result)?.map_err(Failure::from)
    }

    /// Keeps an announcement alive and says when to do so again.
    pub async fn renew(&mut self, registration: ResourceAny) -> Result<Duration, Failure> {
        let registrar = self.registrar.as_ref().ok_or_else(gone)?;
        self.store.set_epoch_deadline(1);
        let registrations = registrar.registration();
        let result = self.budget.bound(registrations.call_renew(&mut self.store, registration)).await;
        let milliseconds = self.ended("renew", result)?.map_err(Failure::from)?;
        Ok(Duration::from_millis(milliseconds.into()))
    }

    pub async fn withdraw(&mut self, registration: ResourceAny) -> Result<(), Failure> {
        let registrar = self.registrar.as_ref().ok_or_else(gone)?;
        self.store.set_epoch_deadline(1);
        let registrations = registrar.registration();
        let result = self.budget.bound(registrations.call_withdraw(&mut self.store, registration)).await;
        self.ended("withdraw", result)?.map_err(Failure::from)
    }

    fn ended<R>(&self, call: &str, result: wasmtime::Result<R>) -> Result<R, Failure> {
        result.map_err(|error| self.plugin.failed(call, &error, self.store.data(), &self.budget))
    }
}

fn gone() -> Failure {
    Failure::Other("nothing was announced".to_owned())
}

/// The computing time of one instance between two waits, by the CPU time of the threads that it runs on.
struct Budget {
    most: Duration,
    clock: Arc<Clock>,
    /// Nanoseconds computed since the last wait, up to the poll that runs now.
    spent: AtomicU64,
    /// The CPU time of the thread when that poll began.
    began: AtomicU64,
    /// The guest was suspended because its tick is over, not because it waits.
    yielded: AtomicBool,
    over: AtomicBool,
    /// There from the guest's first tick to its next wait. Nobody ever waits for the lock: the guest and who polls it
    /// are one thread.
    held: Mutex<Option<Held>>,
}

impl Budget {
    fn new(most: Duration, clock: Arc<Clock>) -> Self {
        let (spent, began) = (AtomicU64::new(0), AtomicU64::new(0));
        let (yielded, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { most, clock, spent, began, yielded, over, held: Mutex::default() }
    }

    /// Called when the guest has computed for a tick: lets others run, or ends it.
    fn tick(&self) -> UpdateDeadline {
        self.hold(true);
        if self.spent() >= self.most {
            self.over.store(true, Relaxed);
            return UpdateDeadline::Interrupt;
        }
        self.yielded.store(true, Relaxed);
        UpdateDeadline::Yield(1)
    }

    fn hold(&self, hold: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match hold {
            true => *held = held.take().or_else(|| Some(Held::new(&self.clock))),
            false => *held = None,
        }
    }

    fn spent(&self) -> Duration {
        let now = nanoseconds(cpu_time()).saturating_sub(self.began.load(Relaxed));
        Duration::from_nanos(self.spent.load(Relaxed).saturating_add(now))
    }

    /// Runs a call to its end. Whenever it waits for something, the budget is whole again.
    async fn bound<F: Future>(&self, call: F) -> F::Output {
        self.spent.store(0, Relaxed);
        let mut call = pin!(call);
        poll_fn(|context| {
            self.clock.guest_runs();
            self.began.store(nanoseconds(cpu_time()), Relaxed);
            let poll = call.as_mut().poll(context);
            match poll.is_pending() && self.yielded.swap(false, Relaxed) {
                true => self.spent.store(nanoseconds(self.spent()), Relaxed),
                false => {
                    self.spent.store(0, Relaxed);
                    self.hold(false);
                }
            }
            poll
        })
        .await
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl HasConnectors for Data {
    fn connectors(&mut self) -> &mut Connectors {
        &mut self.connectors
    }
}

impl HasWasi for Data {
    fn wasi(&mut self) -> &mut Wasi {
        &mut self.wasi
    }
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi.context, table: self.connectors.table() }
    }
}

impl From<wit::Failure> for Failure {
    fn from(failure: wit::Failure) -> Self {
        match failure {
            wit::Failure::Unavailable(text) => Self::Unavailable(text),
            wit::Failure::Denied(text) => Self::Denied(text),
            wit::Failure::Invalid(text) => Self::Invalid(text),
            wit::Failure::Other(text) => Self::Other(text),
        }
    }
}
