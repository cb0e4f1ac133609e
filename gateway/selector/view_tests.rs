//! The view with selectors that the test controls.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32},
    },
    time::Instant,
};

use proptest::prelude::*;
use tokio::{sync::watch, task::LocalSet};

use super::*;
use crate::upstream::{Endpoint, Labels, Offer, Publisher, Weight};

/// A selector that picks the lowest slot it was told of, or does what the test asks for.
#[derive(Default)]
struct Lowest {
    version: u64,
    faults: AtomicU32,
    quarantined: AtomicBool,
    /// How many of the next calls of `create`, and of `update`, fail.
    failing_creates: AtomicU32,
    failing_updates: AtomicU32,
    /// What every update takes of the worker's time.
    update_takes: Mutex<Duration>,
    /// What the next picks do instead.
    script: Mutex<Vec<Result<Option<Slot>, Fault>>>,
    /// How many changes each update brought, resets marked.
    updates: Mutex<Vec<(bool, usize)>>,
}

impl Selector for Lowest {
    fn name(&self) -> &str {
        "lowest"
    }
    fn version(&self) -> u64 {
        self.version
    }
    fn on_worker(self: Arc<Self>) -> Rc<dyn WorkerSelector> {
        Rc::new(OnWorker(self))
    }
    fn quarantined(&self) -> bool {
        self.quarantined.load(Relaxed)
    }
    fn count_fault(&self, _: &Fault) {
        self.faults.fetch_add(1, Relaxed);
    }
}

struct OnWorker(Arc<Lowest>);

impl WorkerSelector for OnWorker {
    fn create(&self, _: &str) -> Result<(Box<dyn Balancer>, Needs), CreateError> {
        fails(&self.0.failing_creates)?;
        let balancer = Told { selector: self.0.clone(), slots: RefCell::default() };
        Ok((Box::new(balancer), Needs::default()))
    }
}

/// Whether this call is one of those that are to fail.
fn fails(left: &AtomicU32) -> Result<(), Fault> {
    let failed = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
    if failed { Err(Fault("a fault on purpose".into())) } else { Ok(()) }
}

struct Told {
    selector: Arc<Lowest>,
    slots: RefCell<BTreeMap<Slot, SocketAddr>>,
}

impl Balancer for Told {
    fn update(&mut self, reset: bool, changes: &[Change], _: &Rc<Arc<Snapshot>>) -> Result<(), Fault> {
        std::thread::sleep(*self.selector.update_takes.lock().unwrap());
        self.selector.updates.lock().unwrap().push((reset, changes.len()));
        fails(&self.selector.failing_updates)?;
        let mut slots = self.slots.borrow_mut();
        if reset {
            slots.clear();
        }
        for change in changes {
            match change {
                Change::Put(member) => slots.insert(member.slot(), member.address()),
                Change::Remove(slot) => slots.remove(slot),
            };
        }
        Ok(())
    }

    fn pick(&mut self, _: &PickRequest<'_>, snapshot: &Rc<Arc<Snapshot>>) -> Result<Option<Slot>, Fault> {
        let known: Vec<_> = snapshot.iter().map(|member| (member.slot(), member.address())).collect();
        let told: Vec<_> = self.slots.borrow().iter().map(|(slot, address)| (*slot, *address)).collect();
        assert_eq!(told, known, "a balancer never picks from another list than the view");
        let scripted = self.selector.script.lock().unwrap().pop();
        scripted.unwrap_or_else(|| Ok(self.slots.borrow().keys().next().copied()))
    }
}

fn endpoint(number: u32) -> Endpoint {
    let address = SocketAddr::from(([10, (number >> 16) as u8, (number >> 8) as u8, number as u8], 80));
    Endpoint { address, weight: Weight::ONE, labels: Labels::default() }
}

struct Fixture {
    publisher: Publisher,
    view: Rc<View>,
    lowest: Arc<Lowest>,
    versions: watch::Sender<Option<Arc<dyn Selector>>>,
}

fn start(endpoints: u32) -> Fixture {
    start_with(endpoints, |_| {})
}

fn start_with(endpoints: u32, prepare: impl FnOnce(&Lowest)) -> Fixture {
    let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
    publisher.publish((0..endpoints).map(|n| Offer::Put(endpoint(n))).collect(), Instant::now());
    let lowest = Arc::new(Lowest { version: 1, ..Lowest::default() });
    prepare(&lowest);
    let (versions, current) = watch::channel(Some(lowest.clone() as Arc<dyn Selector>));
    let settings = config::Selector { plugin: "lowest".into(), settings: "{}".into() };
    let view = View::new(reader, settings, current, Rc::default(), Arc::default());
    Fixture { publisher, view, lowest, versions }
}

impl Fixture {
    fn pick(&self) -> Result<Arc<Member>, PickError> {
        let (head, ()) = http::Request::new(()).into_parts();
        self.view.pick(&RequestFacts { head: &head, client: [10, 0, 0, 9].into() }, 0, &[])
    }

    fn publish(&mut self, offers: Vec<Offer>) {
        self.publisher.publish(offers, Instant::now());
    }

    async fn reached(&self) {
        let generation = self.view.reader.snapshot().generation();
        while self.view.progress.generation() != generation {
            tokio::task::yield_now().await;
        }
    }

    fn selector(&self) -> u64 {
        self.view.progress.selector_version(&self.versions.subscribe())
    }

    async fn until_selector_is(&self, version: u64) {
        while self.selector() != version {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn a_list_of_ordinary_length_is_ready_at_once_and_changes_come_alone() {
    let test = async {
        let mut fixture = start(3);
        assert_eq!(fixture.pick().unwrap().address(), endpoint(0).address);
        fixture.publish(vec![Offer::Remove(endpoint(0).address)]);
        fixture.reached().await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(1).address);
        assert_eq!(*fixture.lowest.updates.lock().unwrap(), [(true, 3), (false, 1)]);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_long_list_is_fed_in_slices_while_the_old_one_serves() {
    let test = async {
        let mut fixture = start(1);
        fixture.publish((1..20_000).map(|n| Offer::Put(endpoint(n))).collect());
        while fixture.lowest.updates.lock().unwrap().len() < 3 {
            assert!(fixture.pick().is_ok());
            tokio::task::yield_now().await;
        }
        assert_eq!(fixture.view.len(), 1, "not exchanged before the last slice");
        fixture.reached().await;
        assert_eq!(fixture.view.len(), 20_000);
        let longest = fixture.lowest.updates.lock().unwrap().iter().map(|(_, len)| *len).max();
        assert!(longest <= Some(SLICE));
        fixture.pick().unwrap();
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_fault_costs_no_request_and_the_balancer_comes_back() {
    let test = async {
        let fixture = start(2);
        fixture.lowest.script.lock().unwrap().push(Err(Fault("trap".into())));
        assert!(fixture.pick().is_ok(), "the native round robin picks");
        assert_eq!(fixture.selector(), 0);
        fixture.until_selector_is(1).await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(0).address);
    };
    LocalSet::new().run_until(test).await;
}

/// Time stands still unless everybody waits, so that what needs a pause to pass is not reached by `yields`.
#[tokio::test(start_paused = true)]
async fn a_selector_that_cannot_be_made_holds_up_no_list() {
    let test = async {
        let mut fixture = start_with(1, |lowest| lowest.failing_creates.store(12, Relaxed));
        // The pauses have grown to seconds.
        while fixture.lowest.failing_creates.load(Relaxed) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let began = tokio::time::Instant::now();
        for number in 1..2_000 {
            fixture.publish(vec![Offer::Put(endpoint(number)), Offer::Remove(endpoint(number - 1).address)]);
            yields().await;
            assert_eq!(fixture.pick().unwrap().address(), endpoint(number).address);
        }
        fixture.publish((5_000..25_000).map(|number| Offer::Put(endpoint(number))).collect());
        yields().await;
        assert_eq!((fixture.view.len(), began.elapsed()), (20_001, Duration::ZERO));
        fixture.until_selector_is(1).await;
        assert!(began.elapsed() > Duration::from_secs(1), "the selector was still being made");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_fails_at_a_list_does_not_keep_the_one_before() {
    let test = async {
        for (change, length) in [(1..2, 2), (1..20_000, 20_000)] {
            let mut fixture = start(1);
            fixture.lowest.failing_updates.store(10, Relaxed);
            let began = tokio::time::Instant::now();
            fixture.publish(change.map(|number| Offer::Put(endpoint(number))).collect());
            yields().await;
            assert_eq!(
                (fixture.view.len(), fixture.selector(), began.elapsed()),
                (length, 0, Duration::ZERO)
            );
            fixture.until_selector_is(1).await;
            assert_eq!(fixture.pick().unwrap().address(), endpoint(0).address);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_long_list_that_takes_its_selector_long_is_taken_without_it() {
    let test = async {
        let mut fixture = start(1);
        *fixture.lowest.update_takes.lock().unwrap() = OLD_LIST_MOST / 20;
        fixture.publish((1..20_000).map(|number| Offer::Put(endpoint(number))).collect());
        while fixture.view.len() == 1 {
            tokio::task::yield_now().await;
        }
        assert!(fixture.lowest.updates.lock().unwrap().len() < 40, "the selector has not all of it yet");
        assert_eq!((fixture.view.len(), fixture.selector()), (20_000, 0));
        fixture.publish(vec![Offer::Remove(endpoint(0).address)]);
        fixture.reached().await;
        assert_eq!((fixture.view.len(), fixture.selector()), (19_999, 0));
        *fixture.lowest.update_takes.lock().unwrap() = Duration::ZERO;
        fixture.until_selector_is(1).await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(1).address);
    };
    LocalSet::new().run_until(test).await;
}

/// Seldom asked, though the pauses between quick faults begin with none.
#[tokio::test]
async fn a_selector_that_fails_slowly_does_not_keep_its_worker() {
    let test = async {
        let took = Duration::from_millis(20);
        let mut fixture = start(1);
        *fixture.lowest.update_takes.lock().unwrap() = took;
        fixture.lowest.failing_updates.store(3, Relaxed);
        let began = Instant::now();
        fixture.publish(vec![Offer::Put(endpoint(1))]);
        fixture.until_selector_is(0).await;
        fixture.until_selector_is(1).await;
        assert!(began.elapsed() >= took * 3 * (1 + REBUILD_SHARE), "{:?}", began.elapsed());
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn pauses_grow_with_faults_and_a_time_without_faults_clears_them() {
    let (mut faults, mut now) = (Faults::default(), tokio::time::Instant::now());
    let mut pause = |after: Duration| {
        now += after;
        faults.pause(now, Duration::from_micros(100))
    };
    let at_once = Duration::from_millis(1);
    assert_eq!(pause(Duration::ZERO), at_once, "the first rebuild is tried at once");
    let pauses: Vec<Duration> = (0..30).map(|_| pause(Duration::from_secs(5))).collect();
    assert!(pauses[0] <= Duration::from_millis(20) && pauses[29] >= REBUILD_MOST / 2, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= REBUILD_MOST));
    assert_eq!(pause(FORGIVEN_AFTER), at_once);
    assert!(pause(Duration::from_secs(1)) <= Duration::from_millis(20));
}

#[tokio::test]
async fn a_view_says_how_far_it_is_only_while_it_is_there() {
    let test = async {
        let mut fixture = start(1);
        let progress = fixture.view.progress.clone();
        assert_eq!((progress.generation(), progress.is_behind(1), progress.is_behind(2)), (1, false, true));
        // The worker is busy, and this view has not caught up.
        fixture.publish(vec![Offer::Put(endpoint(1))]);
        let settled = |after| fixture.view.reader.settled_generation(std::time::Instant::now() + after);
        assert!(!progress.is_behind(settled(Duration::ZERO)));
        assert!(progress.is_behind(settled(Duration::from_secs(2))));
        let later = settled(Duration::from_secs(2));
        fixture.reached().await;
        assert!(!progress.is_behind(later));
        drop(fixture);
        assert!(!progress.is_behind(u64::MAX), "a worker without a view is not behind");
    };
    LocalSet::new().run_until(test).await;
}

/// Lets the view do all that it can do without waiting.
async fn yields() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slot_that_was_not_offered_is_a_fault_and_none_is_an_answer() {
    let test = async {
        let fixture = start(2);
        fixture.lowest.script.lock().unwrap().push(Ok(Some(Slot(4_000_000_000))));
        assert!(fixture.pick().is_ok());
        assert_eq!(fixture.lowest.faults.load(Relaxed), 1);
        fixture.lowest.script.lock().unwrap().push(Ok(None));
        assert_eq!(fixture.pick().err(), Some(PickError::NothingSuits(UpstreamName::new("orders"))));
        assert_eq!(fixture.lowest.faults.load(Relaxed), 1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_quarantined_selector_is_not_asked_and_not_said_to_pick() {
    let test = async {
        let fixture = start(2);
        assert_eq!(fixture.selector(), 1);
        fixture.lowest.quarantined.store(true, Relaxed);
        fixture.lowest.script.lock().unwrap().push(Ok(None));
        let picked: std::collections::BTreeSet<_> =
            (0..2).map(|_| fixture.pick().unwrap().address()).collect();
        assert_eq!(picked.len(), 2, "round robin");
        assert_eq!(fixture.selector(), 0, "before any list or pick told the view");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn another_version_takes_over_and_none_falls_back() {
    let test = async {
        let fixture = start(2);
        fixture.versions.send_replace(Some(Arc::new(Lowest { version: 2, ..Lowest::default() })));
        fixture.until_selector_is(2).await;
        fixture.versions.send_replace(None);
        fixture.until_selector_is(0).await;
        assert!(fixture.pick().is_ok());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_view_closes_with_its_upstream() {
    let test = async {
        let Fixture { publisher, view, lowest: _lowest, versions: _versions } = start(1);
        drop(publisher);
        while !view.is_closed() {
            tokio::task::yield_now().await;
        }
    };
    LocalSet::new().run_until(test).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever changes while a view catches up, the balancer's list and the view's list are the same at every
    /// pick (the balancer asserts it), and the last list is reached.
    #[test]
    fn a_view_always_reaches_the_last_list(
        steps in prop::collection::vec((prop::collection::vec((0u32..1_500, any::<bool>()), 1..700), 0usize..4), 1..12)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let mut fixture = start(1);
            for (offers, yields) in steps {
                let offers = offers.into_iter().map(|(number, put)| match put {
                    true => Offer::Put(endpoint(number)),
                    false => Offer::Remove(endpoint(number).address),
                });
                fixture.publish(offers.collect());
                for _ in 0..yields {
                    let _ = fixture.pick();
                    tokio::task::yield_now().await;
                }
            }
            fixture.reached().await;
            let _ = fixture.pick();
            assert_eq!(fixture.view.len(), fixture.view.reader.snapshot().len());
        }));
    }
}
