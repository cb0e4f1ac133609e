//! Selectors by WebAssembly, with plugins made for the purpose.

use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::{
    plugin::{engine, load::load, shipped::shipped, testing::guest},
    selector::{Balancer, PickRequest},
    upstream::{Change, Endpoint, Facts, Labels, Offer, Publisher, Reader, Slot, Snapshot, Weight},
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
