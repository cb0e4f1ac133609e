//! Selectors by WebAssembly, as the process and each worker know them.
//!
//! A worker has one instance of a plugin, with a balancer resource for each upstream inside it. A call that traps
//! or passes its deadline poisons the whole instance: nothing is known of its memory any more. Every balancer in
//! it then fails at its next call, the fault is counted once, and whoever creates a balancer next gets a fresh
//! instance.

use std::{
    cell::{OnceCell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use wasmtime::{
    Store,
    component::{HasSelf, Linker, ResourceAny},
};

use super::{
    engine::{self, Bound, Clock, Deadline, Engine, HasDeadline},
    faults::{self, Faults},
    limits::Limits,
    load::{LoadError, Loaded},
    runtime::{self, HasRuntime, Runtime, Who},
};
use crate::{
    bindings::selector::{
        SelectorPlugin, SelectorPluginPre,
        exports::witgate::plugin::selector::{Candidate, CandidateChange, Created, Request},
        witgate::plugin::{
            load::{self, Statistics},
            types,
        },
    },
    config::SelectorLimits,
    selector::{Balancer, CreateError, Fault, Key, KeyError, Needs, PickRequest, Selector, WorkerSelector},
    upstream::{Change, Member, Slot, Snapshot, UpstreamName},
};

/// A selector plugin in one version, for the whole process.
pub(super) struct WasmSelector {
    name: Arc<str>,
    version: u64,
    plugin: SelectorPluginPre<Data>,
    limits: SelectorLimits,
    pick: Bound,
    /// For everything that is no pick.
    update: Bound,
    clock: Arc<Clock>,
    faults: Faults,
}

/// What the host keeps beside an instance.
struct Data {
    runtime: Runtime,
    limits: Limits,
    deadline: Deadline,
    clock: Arc<Clock>,
    /// The list of the call that runs now, and only while it runs.
    snapshot: Option<Rc<Arc<Snapshot>>>,
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
            runtime::define(&mut linker, &loaded.component, runtime::at_once)?;
            SelectorPluginPre::new(linker.instantiate_pre(&loaded.component)?)
        };
        let plugin = link().map_err(|error| LoadError::Mismatch(format!("{error:#}")))?;
        let faults = Faults::new(name.clone(), limits.faults);
        let (pick, update) = (Bound::quick(limits.pick), Bound::exact(limits.update));
        Ok(Self { name, version, plugin, limits, pick, update, clock: engine.clock().clone(), faults })
    }

    pub fn faults(&self) -> u64 {
        self.faults.total()
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
        Rc::new(Worker { selector: self, instance: RefCell::new(None) })
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
    instance: RefCell<Option<Rc<Instance>>>,
}

impl WorkerSelector for Worker {
    fn create(&self, settings: &str) -> Result<(Box<dyn Balancer>, Needs), CreateError> {
        self.make(None, settings)
    }

    fn create_for(
        &self,
        upstream: &UpstreamName,
        settings: &str,
    ) -> Result<(Box<dyn Balancer>, Needs), CreateError> {
        self.make(Some(upstream.as_str().into()), settings)
    }
}

impl Worker {
    fn make(
        &self,
        upstream: Option<Arc<str>>,
        settings: &str,
    ) -> Result<(Box<dyn Balancer>, Needs), CreateError> {
        if self.selector.quarantined() {
            let text = format!("selector plugin {:?} is quarantined", self.selector.name);
            return Err(CreateError::Unavailable(text));
        }
        let instance = self.instance()?;
        let bound = instance.selector.update;
        let created = instance.call("create", bound, &upstream, None, |plugin, store| {
            plugin.witgate_plugin_selector().call_create(store, settings)
        })?;
        let Created { balancer, hash_on, attributes } = created.map_err(CreateError::Refused)?;
        // Made before the needs are read, so that it is dropped properly when they are wrong.
        let balancer = Box::new(WasmBalancer { instance, balancer, upstream });
        let needs = needs(hash_on, &attributes).map_err(|error| CreateError::Refused(error.to_string()))?;
        Ok((balancer, needs))
    }

    /// The instance in use, or a fresh one if there is none or it is poisoned.
    fn instance(&self) -> Result<Rc<Instance>, Fault> {
        let mut slot = self.instance.borrow_mut();
        if let Some(instance) = slot.as_ref().filter(|instance| instance.poisoned.get().is_none()) {
            return Ok(instance.clone());
        }
        // The old one is given back first: two at once would need twice the memory.
        *slot = None;
        let instance = Rc::new(Instance::new(self.selector.clone())?);
        *slot = Some(instance.clone());
        Ok(instance)
    }
}

fn needs(hash_on: Option<String>, attributes: &[String]) -> Result<Needs, KeyError> {
    Ok(Needs {
        hash_on: hash_on.map(|key| key.parse::<Key>()).transpose()?,
        attributes: attributes.iter().map(|key| key.parse()).collect::<Result<_, _>>()?,
    })
}

/// One instance on one worker.
struct Instance {
    selector: Arc<WasmSelector>,
    plugin: SelectorPlugin,
    store: RefCell<Store<Data>>,
    poisoned: OnceCell<Fault>,
}

impl Instance {
    fn new(selector: Arc<WasmSelector>) -> Result<Self, Fault> {
        let limits = &selector.limits;
        let data = Data {
            runtime: Runtime::new(Who::new(selector.name.clone())),
            limits: Limits::new(limits.memory_bytes, limits.table_elements),
            deadline: Deadline::default(),
            clock: selector.clock.clone(),
            snapshot: None,
        };
        let mut store = Store::new(selector.plugin.engine(), data);
        store.limiter(|data| &mut data.limits);
        engine::end_loops(&mut store);
        selector.update.start(&mut store);
        let made = selector.plugin.instantiate(&mut store);
        store.data_mut().deadline.end();
        match made {
            Ok(plugin) => {
                Ok(Self { selector, plugin, store: RefCell::new(store), poisoned: OnceCell::new() })
            }
            Err(error) => {
                let fault = store.data().fault("instantiation", &error);
                selector.count_fault(&fault);
                Err(fault)
            }
        }
    }

    /// One call into the plugin.
    fn call<R>(
        &self,
        name: &'static str,
        bound: Bound,
        upstream: &Option<Arc<str>>,
        snapshot: Option<Rc<Arc<Snapshot>>>,
        call: impl FnOnce(&SelectorPlugin, &mut Store<Data>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        if let Some(fault) = self.poisoned.get() {
            return Err(fault.clone());
        }
        let mut store = self.store.borrow_mut();
        store.data_mut().runtime.who().serves(upstream);
        store.data_mut().snapshot = snapshot;
        bound.start(&mut store);
        let result = call(&self.plugin, &mut store);
        // A list that is held keeps its slots from being used again.
        store.data_mut().snapshot = None;
        store.data_mut().deadline.end();
        result.map_err(|error| {
            let fault = store.data().fault(name, &error);
            self.selector.count_fault(&fault);
            self.poisoned.get_or_init(|| fault).clone()
        })
    }
}

/// The state of one upstream inside an instance.
struct WasmBalancer {
    instance: Rc<Instance>,
    balancer: ResourceAny,
    /// For log lines.
    upstream: Option<Arc<str>>,
}

impl Balancer for WasmBalancer {
    fn update(&mut self, reset: bool, changes: &[Change], snapshot: &Rc<Arc<Snapshot>>) -> Result<(), Fault> {
        let changes = candidate_changes(reset, changes);
        let bound = self.instance.selector.update;
        self.instance.call("update", bound, &self.upstream, Some(snapshot.clone()), |plugin, store| {
            plugin.witgate_plugin_selector().balancer().call_update(store, self.balancer, &changes)
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
        let bound = self.instance.selector.pick;
        let slot =
            self.instance.call("pick", bound, &self.upstream, Some(snapshot.clone()), |plugin, store| {
                plugin.witgate_plugin_selector().balancer().call_pick(store, self.balancer, &request)
            })?;
        Ok(slot.map(Slot))
    }
}

impl Drop for WasmBalancer {
    fn drop(&mut self) {
        let bound = self.instance.selector.update;
        // A fault is counted, and there is nobody left to tell.
        let _ = self
            .instance
            .call("drop", bound, &self.upstream, None, |_, store| self.balancer.resource_drop(store));
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
        labels: member.labels().as_slice().to_vec(),
    }
}

impl Data {
    fn fault(&self, call: &str, error: &wasmtime::Error) -> Fault {
        Fault(faults::describe(call, error, Some(&self.deadline), &self.limits, &self.runtime))
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
        let member = self.snapshot.as_ref().and_then(|snapshot| snapshot.get(Slot(slot)));
        let Some(stats) = member.map(|member| member.stats()) else {
            return Statistics { in_flight: 0, latency: 0, success: 1.0, idle: u64::MAX };
        };
        let idle = stats.idle(self.clock.now()).as_nanos();
        Statistics {
            in_flight: stats.in_flight(),
            latency: stats.latency_ns(),
            success: stats.success() as f32,
            idle: idle.try_into().unwrap_or(u64::MAX),
        }
    }

    fn both(&mut self, first: types::Slot, second: types::Slot) -> (Statistics, Statistics) {
        (self.get(first), self.get(second))
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

    use super::*;
    use crate::{
        plugin::{load::load, shipped::shipped, testing::guest},
        upstream::{Endpoint, Labels, Offer, Publisher, Reader, Weight},
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
            labels: Labels::new(vec![("zone".into(), "a".into())]),
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
        balancer.update(true, &all, &snapshot).unwrap();
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
        let tried = [Slot(0), Slot(1), Slot(3)];
        assert_eq!(pick(&mut balancer, &snapshot, &tried).unwrap(), Some(Slot(2)));
        assert_eq!(selector.faults(), 0);
    }

    #[test]
    fn every_shipped_selector_picks_what_was_offered() {
        for name in ["round-robin", "random", "least-request", "p2c-ewma", "consistent-hash"] {
            let selector = selector(shipped(name).unwrap());
            let settings = if name == "consistent-hash" { r#"{"key":"header:x-user"}"# } else { "{}" };
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
        let fault = balancer.update(true, &[], &snapshot).unwrap_err();
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
        balancer.update(true, &[], &snapshot).unwrap_err();
        let used = engine::cpu_time() - prepared;
        // A tick late, and a good deal for a machine on which the clock's thread waits for its turn.
        assert!(used < LIMITS.update * 17 / 10, "{used:?}");

        let remade = engine::cpu_time();
        let error = worker.create(r#"{"in":"create"}"#).err().unwrap();
        assert!(ended("create", &error.to_string()), "{error}");
        let used = engine::cpu_time() - remade;
        assert!(used < LIMITS.update * 17 / 10 + (prepared - began), "{used:?}");
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
