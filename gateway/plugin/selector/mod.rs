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

mod pick_time;
mod slow;

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
use wasmtime::{
    Store,
    component::{HasSelf, Linker, ResourceAny},
};

use self::{
    pick_time::{PickTime, Turn},
    slow::{Slow, Work},
};
use super::{
    engine::{self, Bound, Clock, Deadline, Engine, HasDeadline},
    faults::{self, Faults, LastFault},
    limits::Limits,
    load::{LoadError, Loaded},
    memory::{Memory, MemoryUse},
    runtime::{self, HasRuntime, Runtime, Who},
};
use crate::{
    bindings::selector::{
        SelectorPlugin, SelectorPluginPre,
        exports::witgate::selector::selector::{Candidate, CandidateChange, Created, Request},
        witgate::selector::{
            load::{self, Statistics},
            types,
        },
    },
    config::SelectorLimits,
    selector::{
        Balancer, Beside, CreateError, Fault, Key, KeyError, Made, MadeAlone, Needs, PickRequest, Place,
        Selector, UpdateError, WorkerSelector,
    },
    upstream::{Change, Member, Slot, Snapshot, UpstreamName},
};

/// How long a call that is no pick may compute between requests. It is noticed up to two ticks of the clock later.
const BRIEF: Duration = Duration::from_millis(5);

thread_local! {
    /// The list of the call that runs now on this thread, and only while it runs. Not with the instance, which may go
    /// to another thread, while this may not.
    static LIST: RefCell<Option<Rc<Arc<Snapshot>>>> = const { RefCell::new(None) };
}

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

/// What the host keeps beside an instance.
struct Data {
    runtime: Runtime,
    limits: Limits,
    deadline: Deadline,
    clock: Arc<Clock>,
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

fn create<H: Home>(
    mut home: H,
    place: Place,
    upstream: Option<Arc<str>>,
    settings: &str,
) -> Result<(WasmBalancer<H>, Needs), CreateError> {
    let create = |plugin: &SelectorPlugin, store: &mut Store<Data>| {
        plugin.witgate_selector_selector().call_create(store, settings)
    };
    let created = home.with(|guest| guest.call(Work::Create(settings), place, &upstream, None, create))?;
    let Created { balancer, hash_on, attributes } = created.map_err(CreateError::Refused)?;
    // Made before the needs are read, so that it is dropped properly when they are wrong.
    let balancer = WasmBalancer { home, balancer, upstream };
    let needs = needs(hash_on, &attributes).map_err(|error| CreateError::Refused(error.to_string()))?;
    Ok((balancer, needs))
}

fn needs(hash_on: Option<String>, attributes: &[String]) -> Result<Needs, KeyError> {
    Ok(Needs {
        hash_on: hash_on.map(|key| key.parse::<Key>()).transpose()?,
        attributes: attributes.iter().map(|key| key.parse()).collect::<Result<_, _>>()?,
    })
}

/// One instance.
struct Guest {
    selector: Arc<WasmSelector>,
    plugin: SelectorPlugin,
    store: Store<Data>,
    poisoned: Option<Fault>,
    picks: Turn,
}

impl Guest {
    fn new(selector: Arc<WasmSelector>, who: Who, place: Place) -> Result<Self, UpdateError> {
        let limits = &selector.limits;
        let data = Data {
            runtime: Runtime::new(who),
            limits: Limits::new(limits.memory_bytes, limits.table_elements, &selector.memory),
            deadline: Deadline::default(),
            clock: selector.clock.clone(),
        };
        let mut store = Store::new(selector.plugin.engine(), data);
        store.limiter(|data| &mut data.limits);
        engine::end_loops(&mut store);
        let work = Work::Instantiate;
        selector.bound(work, place).start(&mut store);
        let made = selector.plugin.instantiate(&mut store);
        match ended(&selector, &mut store, work, place, &None, made) {
            Ok(plugin) => Ok(Self { selector, plugin, store, poisoned: None, picks: Turn::default() }),
            Err((error, _)) => Err(error),
        }
    }

    /// One call into the plugin.
    fn call<R>(
        &mut self,
        work: Work<'_>,
        place: Place,
        upstream: &Option<Arc<str>>,
        snapshot: Option<Rc<Arc<Snapshot>>>,
        call: impl FnOnce(&SelectorPlugin, &mut Store<Data>) -> wasmtime::Result<R>,
    ) -> Result<R, UpdateError> {
        if let Some(fault) = &self.poisoned {
            return Err(fault.clone().into());
        }
        let store = &mut self.store;
        store.data_mut().runtime.who().serves(upstream);
        LIST.set(snapshot);
        self.selector.bound(work, place).start(store);
        let result = call(&self.plugin, store);
        // A list that is held keeps its slots from being used again.
        LIST.take();
        ended(&self.selector, store, work, place, upstream, result).map_err(|(error, fault)| {
            self.poisoned = Some(fault);
            error
        })
    }
}

/// Counts and remembers what is to be known of a call that has ended. With the error comes what whoever uses the
/// instance from now on is told.
fn ended<R>(
    selector: &WasmSelector,
    store: &mut Store<Data>,
    work: Work<'_>,
    place: Place,
    upstream: &Option<Arc<str>>,
    result: wasmtime::Result<R>,
) -> Result<R, (UpdateError, Fault)> {
    store.data_mut().deadline.end();
    let data = store.data();
    match result {
        Ok(result) => {
            if place == Place::Beside && data.deadline.used() > BRIEF {
                selector.slow.note(work, upstream);
            }
            Ok(result)
        }
        Err(_) if selector.is_brief(work, place) && data.deadline.passed().is_some() => {
            selector.slow.note(work, upstream);
            let name = work.name();
            let text = format!("its instance was given up: {name} takes longer than requests may wait");
            Err((UpdateError::TakesLong, Fault(text.into())))
        }
        Err(error) => {
            let fault = data.fault(work.name(), &error);
            selector.count_fault(&fault);
            Err((fault.clone().into(), fault))
        }
    }
}

/// Where a balancer is.
trait Home {
    /// Uses the instance.
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError>;

    /// The balancer is done with.
    fn leave(&mut self, balancer: ResourceAny, upstream: &Option<Arc<str>>);
}

/// The instance that a worker has for all upstreams.
#[derive(Clone)]
struct Shared(Rc<RefCell<Guest>>);

impl Home for Shared {
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
        call(&mut self.0.borrow_mut())
    }

    fn leave(&mut self, balancer: ResourceAny, upstream: &Option<Arc<str>>) {
        let drop = |_: &SelectorPlugin, store: &mut Store<Data>| balancer.resource_drop(store);
        // A fault is counted, and there is nobody left to tell.
        let _ = self.0.borrow_mut().call(Work::Drop, Place::Worker, upstream, None, drop);
    }
}

/// An instance that is there for one balancer. None only while that is dropped.
struct Alone(Option<Box<Guest>>);

impl Home for Alone {
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
        match &mut self.0 {
            Some(guest) => call(guest),
            None => Err(Fault("its instance is gone".into()).into()),
        }
    }

    /// The plugin is not asked: nothing of it is left. Much memory is not given back in a moment.
    fn leave(&mut self, _: ResourceAny, _: &Option<Arc<str>>) {
        if let Some(guest) = self.0.take() {
            let beside = guest.selector.beside.clone();
            beside.run(move || drop(guest));
        }
    }
}

/// The state of one upstream inside an instance.
struct WasmBalancer<H: Home> {
    home: H,
    balancer: ResourceAny,
    /// For log lines.
    upstream: Option<Arc<str>>,
}

impl<H: Home> Balancer for WasmBalancer<H> {
    fn update(
        &mut self,
        place: Place,
        reset: bool,
        changes: &[Change],
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<(), UpdateError> {
        let work = match place {
            Place::Worker if !reset => Work::Changes(changes.len()),
            // Beside requests what is no reset is mostly the rest of a long list.
            _ => Work::List(changes.len()),
        };
        let changes = candidate_changes(reset, changes);
        let Self { home, balancer, upstream } = self;
        home.with(|guest| {
            guest.call(work, place, upstream, Some(snapshot.clone()), |plugin, store| {
                plugin.witgate_selector_selector().balancer().call_update(store, *balancer, &changes)
            })
        })
    }

    fn pick(
        &mut self,
        request: &PickRequest<'_>,
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<Option<Slot>, Fault> {
        let (tried, attributes) = (request.tried, request.attributes);
        let request = Request {
            hash: request.hash,
            attempt: request.attempt,
            tried: (!tried.is_empty()).then(|| tried.iter().map(|slot| slot.0).collect()),
            attributes: (!attributes.is_empty())
                .then(|| attributes.iter().map(|value| value.map(str::to_owned)).collect()),
        };
        let Self { home, balancer, upstream } = self;
        let picked = home.with(|guest| {
            let began = guest.picks.is_next().then(Instant::now);
            let pick = |plugin: &SelectorPlugin, store: &mut Store<Data>| {
                plugin.witgate_selector_selector().balancer().call_pick(store, *balancer, &request)
            };
            let picked = guest.call(Work::Pick, Place::Worker, upstream, Some(snapshot.clone()), pick);
            if let Some(began) = began {
                guest.selector.picks.note(began.elapsed());
            }
            picked
        });
        match picked {
            Ok(slot) => Ok(slot.map(Slot)),
            Err(UpdateError::Fault(fault)) => Err(fault),
            Err(error @ UpdateError::TakesLong) => Err(Fault(error.to_string().into())),
        }
    }
}

impl<H: Home> Drop for WasmBalancer<H> {
    fn drop(&mut self) {
        self.home.leave(self.balancer, &self.upstream);
    }
}

fn candidate_changes(reset: bool, changes: &[Change]) -> Vec<CandidateChange> {
    if !reset {
        return changes.iter().map(candidate_change).collect();
    }
    let all = changes.iter().filter_map(|change| match change {
        Change::Put(member) => Some(candidate(member)),
        Change::Remove(_) => None,
    });
    vec![CandidateChange::Reset(all.collect())]
}

fn candidate_change(change: &Change) -> CandidateChange {
    match change {
        Change::Put(member) => CandidateChange::Put(candidate(member)),
        Change::Remove(slot) => CandidateChange::Remove(slot.0),
    }
}

fn candidate(member: &Arc<Member>) -> Candidate {
    Candidate {
        slot: member.slot().0,
        weight: member.weight().get(),
        key: member.address().to_string(),
        zone: member.facts().zone.as_deref().map(str::to_owned),
        labels: member.facts().labels.as_slice().to_vec(),
    }
}

impl Data {
    fn fault(&self, call: &str, error: &wasmtime::Error) -> Fault {
        Fault(faults::describe(call, error, Some(&self.deadline), &self.limits, self.runtime.lines()))
    }
}

impl HasRuntime for Data {
    fn runtime(&mut self) -> &mut Runtime {
        &mut self.runtime
    }
}

impl HasDeadline for Data {
    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl types::Host for Data {}

impl load::Host for Data {
    fn get(&mut self, slot: types::Slot) -> Statistics {
        LIST.with_borrow(|list| self.statistics(list.as_ref(), slot))
    }

    fn both(&mut self, first: types::Slot, second: types::Slot) -> (Statistics, Statistics) {
        LIST.with_borrow(|list| {
            (self.statistics(list.as_ref(), first), self.statistics(list.as_ref(), second))
        })
    }

    fn connect_time(&mut self, slot: types::Slot) -> u64 {
        LIST.with_borrow(|list| {
            let member = list.as_ref().and_then(|list| list.get(Slot(slot)));
            member.map_or(0, |member| member.stats().connect_time_us())
        })
    }
}

impl Data {
    fn statistics(&self, list: Option<&Rc<Arc<Snapshot>>>, slot: types::Slot) -> Statistics {
        let member = list.and_then(|list| list.get(Slot(slot)));
        let Some(stats) = member.map(|member| member.stats()) else {
            return Statistics { in_flight: 0, latency: 0, success: 1.0, idle: u64::MAX };
        };
        Statistics {
            in_flight: stats.in_flight(),
            latency: stats.latency_ns(),
            success: stats.success() as f32,
            idle: stats.idle(self.clock.now()),
        }
    }
}

/// A number that no other version of any plugin has in this process.
pub(super) fn next_version() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Relaxed) + 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        plugin::{load::load, shipped::shipped, testing::guest},
        upstream::{Endpoint, Facts, Labels, Offer, Publisher, Reader, Weight},
    };

    const LIMITS: SelectorLimits = SelectorLimits {
        pick: Duration::from_millis(5),
        update: Duration::from_millis(100),
        memory_bytes: 4 << 20,
        table_elements: 10_000,
        faults: 3,
    };

    fn selector(bytes: &[u8]) -> Arc<WasmSelector> {
        let engine = Engine::new(None).unwrap();
        let loaded = load(&engine, bytes).unwrap();
        Arc::new(WasmSelector::new(&engine, "test".into(), next_version(), &loaded, LIMITS).unwrap())
    }

    fn upstream(endpoints: u16) -> (Publisher, Reader) {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let endpoint = |port| Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            weight: Weight::ONE,
            facts: Facts { labels: Labels::new(vec![("zone".into(), "a".into())]), ..Facts::default() },
        };
        let offers = (1..=endpoints).map(|port| Offer::Put(endpoint(port))).collect();
        publisher.publish(offers, Instant::now());
        (publisher, reader)
    }

    /// A balancer that has the list, and the list.
    fn ready(worker: &dyn WorkerSelector, settings: &str) -> (Box<dyn Balancer>, Rc<Arc<Snapshot>>) {
        let snapshot = Rc::new(upstream(4).1.snapshot());
        let (mut balancer, _) = worker.create(settings).unwrap();
        let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
        balancer.update(Place::Beside, true, &all, &snapshot).unwrap();
        (balancer, snapshot)
    }

    fn pick(
        balancer: &mut Box<dyn Balancer>,
        snapshot: &Rc<Arc<Snapshot>>,
        tried: &[Slot],
    ) -> Result<Option<Slot>, Fault> {
        balancer.pick(&PickRequest { hash: Some(7), attempt: 0, tried, attributes: &[] }, snapshot)
    }

    fn fault(name: &str, settings: &str) -> (Arc<WasmSelector>, String) {
        let selector = selector(&guest(name));
        let worker = selector.clone().on_worker();
        let (mut balancer, snapshot) = ready(&*worker, settings);
        let fault = pick(&mut balancer, &snapshot, &[]).unwrap_err();
        (selector, fault.to_string())
    }

    #[test]
    fn shipped_round_robin_takes_turns_and_avoids_what_was_tried() {
        let selector = selector(shipped("round-robin").unwrap());
        let worker = selector.clone().on_worker();
        let (mut balancer, snapshot) = ready(&*worker, "{}");
        let mut counts = [0; 4];
        for _ in 0..400 {
            counts[pick(&mut balancer, &snapshot, &[]).unwrap().unwrap().index()] += 1;
        }
        assert_eq!(counts, [100; 4]);
        let (time, memory) = (selector.pick_time().unwrap(), selector.memory());
        assert!((Duration::from_nanos(1)..Duration::from_millis(5)).contains(&time), "{time:?}");
        assert!(memory.instances == 1 && memory.bytes > 0 && memory.largest == memory.bytes, "{memory:?}");
        let tried = [Slot(0), Slot(1), Slot(3)];
        assert_eq!(pick(&mut balancer, &snapshot, &tried).unwrap(), Some(Slot(2)));
        assert_eq!(selector.faults(), 0);
    }

    #[test]
    fn every_shipped_selector_picks_what_was_offered() {
        for (name, settings) in [
            ("round-robin", "{}"),
            ("random", "{}"),
            ("least-request", "{}"),
            ("p2c-ewma", "{}"),
            ("consistent-hash", r#"{"key":"header:x-user"}"#),
            ("closest", r#"{"latitude":52.5,"longitude":13.4}"#),
            ("latency-weighted", "{}"),
        ] {
            let selector = selector(shipped(name).unwrap());
            let (mut balancer, snapshot) = ready(&*selector.on_worker(), settings);
            for _ in 0..100 {
                assert!(pick(&mut balancer, &snapshot, &[]).unwrap().unwrap().index() < 4, "{name}");
            }
        }
    }

    #[test]
    fn hash_key_of_a_selector_is_told() {
        let selector = selector(shipped("consistent-hash").unwrap());
        let (_, needs) = selector.on_worker().create(r#"{"key":"header:x-user"}"#).unwrap();
        assert_eq!(needs.hash_on, Some("header:x-user".parse().unwrap()));
    }

    #[test]
    fn refused_settings_are_no_fault() {
        let selector = selector(&guest("bad-create"));
        let error = selector.clone().on_worker().create("{}").err().unwrap();
        assert!(matches!(&error, CreateError::Refused(text) if text.contains("on purpose")), "{error}");
        assert_eq!(selector.faults(), 0);
    }

    #[test]
    fn a_trap_poisons_all_balancers_of_the_instance_and_counts_once() {
        let selector = selector(&guest("trap"));
        let worker = selector.clone().on_worker();
        let (mut bad, snapshot) = ready(&*worker, "{}");
        let (mut neighbour, _) = ready(&*worker, r#"{"after":1000}"#);
        assert!(pick(&mut neighbour, &snapshot, &[]).is_ok());

        let fault = pick(&mut bad, &snapshot, &[]).unwrap_err();
        assert!(fault.to_string().contains("a trap on purpose"), "{fault}");
        assert!(pick(&mut bad, &snapshot, &[]).is_err());
        assert!(pick(&mut neighbour, &snapshot, &[]).is_err());
        drop((bad, neighbour));
        assert_eq!(selector.faults(), 1);
        assert_eq!(selector.last_fault().unwrap().text.to_string(), fault.to_string());

        let (mut fresh, snapshot) = ready(&*worker, r#"{"after":1000}"#);
        assert_eq!(pick(&mut fresh, &snapshot, &[]).unwrap(), Some(Slot(0)));
    }

    #[test]
    fn a_loop_ends_at_its_deadline() {
        let started = Instant::now();
        let (selector, fault) = fault("loop", "{}");
        assert!(fault.contains("pick took longer than 5ms"), "{fault}");
        assert!(started.elapsed() > LIMITS.pick);
        assert_eq!(selector.faults(), 1);
    }

    #[test]
    fn a_memory_hog_fails_and_the_limit_is_told() {
        let (_, fault) = fault("hog", "{}");
        assert!(fault.contains("memory limit of 4194304 bytes"), "{fault}");
    }

    #[test]
    fn an_endless_update_ends_at_its_deadline() {
        let selector = selector(&guest("slow-update"));
        let (mut balancer, _) = selector.on_worker().create("{}").unwrap();
        let snapshot = Rc::new(upstream(1).1.snapshot());
        let fault = balancer.update(Place::Beside, true, &[], &snapshot).unwrap_err();
        assert!(ended("update", &fault.to_string()), "{fault}");
    }

    /// On a machine that is very busy the thread may not have computed for its limit before ten times that passed.
    fn ended(call: &str, text: &str) -> bool {
        text.contains(&format!("{call} took longer than 100ms"))
            || text.contains(&format!("{call} was not done after 1s"))
    }

    #[test]
    fn what_is_done_beside_requests_computes_no_longer_than_its_limit() {
        let selector = selector(&guest("slow-update"));
        let worker = selector.on_worker();
        let began = engine::cpu_time();
        let (mut balancer, _) = worker.create("{}").unwrap();
        let snapshot = Rc::new(upstream(1).1.snapshot());
        let prepared = engine::cpu_time();
        balancer.update(Place::Beside, true, &[], &snapshot).unwrap_err();
        let used = engine::cpu_time() - prepared;
        // A tick late, and a good deal for a machine on which the clock's thread waits for its turn.
        assert!(used < LIMITS.update * 17 / 10, "{used:?}");

        let remade = engine::cpu_time();
        let error = worker.create(r#"{"in":"create"}"#).err().unwrap();
        assert!(ended("create", &error.to_string()), "{error}");
        let used = engine::cpu_time() - remade;
        assert!(used < LIMITS.update * 17 / 10 + (prepared - began), "{used:?}");
    }

    /// What the thread computes meanwhile.
    fn computes<R>(what: impl FnOnce() -> R) -> (Duration, R) {
        let began = engine::cpu_time();
        let result = what();
        (engine::cpu_time() - began, result)
    }

    /// Much less than what the guest computes here, and than the limit.
    const SOON: Duration = Duration::from_millis(400);

    /// A selector that may compute for long.
    fn patient(name: &str) -> Arc<WasmSelector> {
        let engine = Engine::new(None).unwrap();
        let loaded = load(&engine, &guest(name)).unwrap();
        let limits = SelectorLimits { update: Duration::from_secs(60), ..LIMITS };
        Arc::new(WasmSelector::new(&engine, "test".into(), next_version(), &loaded, limits).unwrap())
    }

    /// Made on another thread.
    fn alone(selector: &Arc<WasmSelector>, settings: &str) -> Box<dyn Balancer + Send> {
        let make = selector.clone().alone(&UpstreamName::new("orders"), settings);
        let (told, mut made) = oneshot::channel();
        let thread = std::thread::spawn(move || told.send(make().map(|(balancer, _)| balancer)).is_ok());
        assert!(thread.join().unwrap());
        made.try_recv().unwrap().unwrap()
    }

    #[test]
    fn what_takes_longer_than_requests_may_wait_is_given_up_and_made_beside() {
        let orders = UpstreamName::new("orders");
        let snapshot = Rc::new(upstream(4).1.snapshot());
        let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
        for settings in [r#"{"create_ms":2000}"#, r#"{"list_ms":2000}"#] {
            let selector = patient("ponder");
            let worker = selector.clone().on_worker();
            let (mut neighbour, _) = worker.create_for(Place::Worker, Some(&orders), "{}").unwrap();
            neighbour.update(Place::Worker, true, &all, &snapshot).unwrap();
            assert!(selector.is_made_soon(&orders, settings, all.len()));

            let (computed, given_up) = computes(|| {
                let (mut balancer, _) = worker.create_for(Place::Worker, Some(&orders), settings)?;
                balancer.update(Place::Worker, true, &all, &snapshot).map_err(CreateError::from)
            });
            assert!(matches!(given_up, Err(CreateError::TakesLong)), "{given_up:?}");
            assert!(computed < SOON, "{computed:?}");
            assert!(!selector.is_made_soon(&orders, settings, all.len()), "it is not tried again");
            // Others in the instance are made anew.
            assert!(pick(&mut neighbour, &snapshot, &[]).is_err());
            assert_eq!(selector.faults(), 0);

            let mut balancer: Box<dyn Balancer> = alone(&selector, settings);
            balancer.update(Place::Beside, true, &all, &snapshot).unwrap();
            assert_eq!(pick(&mut balancer, &snapshot, &[]).unwrap(), Some(Slot(0)));
            // What is quick is done on the worker.
            balancer.update(Place::Worker, false, &[Change::Remove(Slot(0))], &snapshot).unwrap();
            assert_eq!(pick(&mut balancer, &snapshot, &[]).unwrap(), Some(Slot(1)));
            assert_eq!(selector.faults(), 0);
        }
    }

    #[test]
    fn changes_that_take_long_are_given_up_with_what_they_are_told_to_alone() {
        let selector = patient("ponder");
        let orders = UpstreamName::new("orders");
        let snapshot = Rc::new(upstream(4).1.snapshot());
        let (mut neighbour, list) = ready(&*selector.clone().on_worker(), "{}");
        let mut balancer: Box<dyn Balancer> = alone(&selector, r#"{"change_ms":2000}"#);
        let changes = [Change::Remove(Slot(0))];
        let (computed, told) = computes(|| balancer.update(Place::Worker, false, &changes, &snapshot));
        assert!(matches!(told, Err(UpdateError::TakesLong)), "{told:?}");
        assert!(computed < SOON, "{computed:?}");
        assert!(!selector.is_told_soon(&orders, 1) && selector.is_made_soon(&orders, "{}", 4));
        assert!(pick(&mut balancer, &snapshot, &[]).is_err());
        assert_eq!(pick(&mut neighbour, &list, &[]).unwrap(), Some(Slot(0)));
        assert_eq!(selector.faults(), 0);
    }

    #[tokio::test]
    async fn an_instance_that_is_long_in_the_making_is_made_beside_and_shared() {
        let selector = patient("slow-start");
        let orders = UpstreamName::new("orders");
        let worker = selector.clone().on_worker();
        let create = || worker.create_for(Place::Worker, Some(&orders), "{}");
        for limit in [SOON, Duration::from_millis(50)] {
            let (computed, given_up) = computes(create);
            assert!(matches!(given_up, Err(CreateError::TakesLong)), "{:?}", given_up.err());
            assert!(computed < limit, "{computed:?}");
        }
        let began = engine::cpu_time();
        // As several views on one worker do.
        let (one, other) = tokio::join!(worker.warm_up(), worker.warm_up());
        assert!(one.is_ok() && other.is_ok());
        let (mut first, mut second) = (create().unwrap().0, create().unwrap().0);
        assert!(engine::cpu_time() - began < SOON);
        let snapshot = Rc::new(upstream(4).1.snapshot());
        for balancer in [&mut first, &mut second] {
            assert_eq!(pick(balancer, &snapshot, &[]).unwrap(), Some(Slot(0)));
        }
        assert!(selector.is_made_soon(&orders, "{}", 4), "balancers need no instance of their own");
        assert_eq!(selector.faults(), 0);
    }

    #[test]
    fn a_balancer_that_is_long_in_going_keeps_nobody() {
        let selector = patient("ponder");
        let settings = r#"{"drop_ms":2000}"#;
        let (balancer, _) = selector.clone().on_worker().create(settings).unwrap();
        let (computed, ()) = computes(|| drop(balancer));
        assert!(computed < SOON, "{computed:?}");
        assert!(!selector.is_made_soon(&UpstreamName::new("orders"), "{}", 0));
        let balancer = alone(&selector, settings);
        let (computed, ()) = computes(|| drop(balancer));
        assert!(computed < SOON, "{computed:?}");
        assert_eq!(selector.faults(), 0);
    }

    #[test]
    fn what_the_trial_finds_slow_is_not_tried_between_requests() {
        let selector = patient("ponder");
        let one = |settings: &str| crate::plugin::SelectorUse {
            upstream: UpstreamName::new("orders"),
            settings: settings.into(),
            reader: None,
        };
        let tried = crate::plugin::trial::selector(&selector, &[one("{}")]);
        assert!(tried.failed.is_empty());
        let orders = UpstreamName::new("orders");
        assert!(selector.is_made_soon(&orders, "{}", 3));
        let heavy = r#"{"create_ms":100}"#;
        let tried = crate::plugin::trial::selector(&selector, &[one(heavy)]);
        assert!(tried.failed.is_empty());
        assert!(!selector.is_made_soon(&orders, heavy, 3) && selector.is_made_soon(&orders, "{}", 3));
    }

    #[test]
    fn a_fault_beside_is_counted_once() {
        let selector = selector(&guest("slow-update"));
        let make = selector.clone().alone(&UpstreamName::new("orders"), r#"{"in":"create"}"#);
        let error = make().err().unwrap();
        assert!(ended("create", &error.to_string()), "{error}");
        assert_eq!(selector.faults(), 1);
        let mut balancer: Box<dyn Balancer> = alone(&selector, "{}");
        let snapshot = Rc::new(upstream(1).1.snapshot());
        let fault = balancer.update(Place::Beside, true, &[], &snapshot).unwrap_err();
        assert!(ended("update", &fault.to_string()), "{fault}");
        assert!(pick(&mut balancer, &snapshot, &[]).is_err());
        drop(balancer);
        assert_eq!(selector.faults(), 2);
    }

    #[test]
    fn a_plugin_that_goes_on_failing_is_quarantined() {
        let selector = selector(&guest("trap"));
        let worker = selector.clone().on_worker();
        for _ in 0..LIMITS.faults {
            assert!(!selector.quarantined());
            let (mut balancer, snapshot) = ready(&*worker, "{}");
            assert!(pick(&mut balancer, &snapshot, &[]).is_err());
        }
        assert!(selector.quarantined());
        assert!(matches!(worker.create("{}"), Err(CreateError::Unavailable(_))));
    }

    #[test]
    fn a_balancer_holds_no_list_between_calls() {
        let selector = selector(&guest("first"));
        let (mut balancer, snapshot) = ready(&*selector.on_worker(), "{}");
        pick(&mut balancer, &snapshot, &[]).unwrap();
        assert_eq!(Rc::strong_count(&snapshot), 1);
    }

    #[test]
    fn statistics_reach_the_plugin() {
        let selector = selector(shipped("least-request").unwrap());
        let (mut balancer, snapshot) = ready(&*selector.on_worker(), "{}");
        let now = Instant::now();
        let busy: Vec<_> = snapshot.iter().filter(|m| m.slot() != Slot(2)).map(|m| m.begin(now)).collect();
        let picks = (0..200).filter(|_| pick(&mut balancer, &snapshot, &[]).unwrap() == Some(Slot(2)));
        assert!(picks.count() > 60, "the idle endpoint is preferred");
        drop(busy);
    }
}
