//! The view with selectors that the test controls.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU32},
    },
    time::Instant,
};

use proptest::prelude::*;
use tokio::{sync::watch, task::LocalSet};

use super::{
    super::{Beside, Made, MadeAlone},
    *,
};
use crate::{
    syntax::target::HostAndPath,
    upstream::{Endpoint, Facts, Offer, Publisher, Weight},
};

static BESIDE: LazyLock<Arc<Beside>> = LazyLock::new(|| Beside::new(4));

/// A selector that picks the lowest slot it was told of, or does what the test asks for.
#[derive(Default)]
struct Lowest {
    version: u64,
    faults: AtomicU32,
    quarantined: AtomicBool,
    /// How many of the next calls of `create`, and of `update`, fail.
    failing_creates: AtomicU32,
    failing_updates: AtomicU32,
    /// What every update takes of its thread's time.
    update_takes: Mutex<Duration>,
    /// To make a balancer, and to tell it of changes, takes longer than a worker may take.
    creates_take_long: AtomicBool,
    changes_take_long: AtomicBool,
    /// How often that was found out.
    given_up: AtomicU32,
    /// What is made beside the worker waits while the test holds this.
    gate: tokio::sync::Mutex<()>,
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
    fn alone(
        self: Arc<Self>,
        _: &UpstreamName,
        _: &str,
    ) -> Box<dyn FnOnce() -> Result<MadeAlone, CreateError> + Send> {
        Box::new(|| {
            drop(self.gate.blocking_lock());
            Ok((Box::new(self.make(Place::Beside)?), Needs::default()))
        })
    }
    fn beside(&self) -> &Arc<Beside> {
        &BESIDE
    }
    fn is_made_soon(&self, _: &UpstreamName, _: &str, _: usize) -> bool {
        self.given_up.load(Relaxed) == 0 || !self.creates_take_long.load(Relaxed)
    }
    fn is_told_soon(&self, _: &UpstreamName, _: usize) -> bool {
        self.given_up.load(Relaxed) == 0 || !self.changes_take_long.load(Relaxed)
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
    fn create_for(&self, place: Place, _: Option<&UpstreamName>, _: &str) -> Result<Made, CreateError> {
        Ok((Box::new(self.0.clone().make(place)?), Needs::default()))
    }
}

impl Lowest {
    fn make(self: Arc<Self>, place: Place) -> Result<Told, CreateError> {
        self.may_take_long(place, &self.creates_take_long)?;
        fails(&self.failing_creates)?;
        Ok(Told { selector: self, slots: RefCell::default() })
    }

    fn may_take_long(&self, place: Place, takes_long: &AtomicBool) -> Result<(), UpdateError> {
        if place == Place::Worker && takes_long.load(Relaxed) {
            self.given_up.fetch_add(1, Relaxed);
            return Err(UpdateError::TakesLong);
        }
        Ok(())
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
    fn update(
        &mut self,
        place: Place,
        reset: bool,
        changes: &[Change],
        _: &Rc<Arc<Snapshot>>,
    ) -> Result<(), UpdateError> {
        if place == Place::Beside {
            drop(self.selector.gate.blocking_lock());
        }
        if !reset {
            self.selector.may_take_long(place, &self.selector.changes_take_long)?;
        }
        let takes = *self.selector.update_takes.lock().unwrap();
        std::thread::sleep(takes);
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
    Endpoint { address, weight: Weight::ONE, facts: Facts::default() }
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
        let asked = HostAndPath::read(&head).unwrap();
        let request = Some(crate::selector::HttpFacts { head: &head, asked: &asked, altered: None });
        let facts = RequestFacts { request, client: [10, 0, 0, 9].into(), sni: None };
        self.view.pick(&facts, 0, &[])
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
async fn a_long_list_is_fed_in_slices_beside_the_worker_while_the_old_one_serves() {
    let test = async {
        let mut fixture = start(1);
        let lowest = fixture.lowest.clone();
        let gate = lowest.gate.lock().await;
        fixture.publish((1..20_000).map(|n| Offer::Put(endpoint(n))).collect());
        yields().await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(0).address);
        assert_eq!((fixture.view.len(), fixture.selector()), (1, 1), "not exchanged before the last slice");
        drop(gate);
        fixture.reached().await;
        assert_eq!(fixture.selector(), 1);
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
            fixture.reached().await;
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

#[tokio::test]
async fn a_balancer_that_takes_long_to_make_is_made_beside_its_worker() {
    let test = async {
        let mut fixture = start_with(2, |lowest| lowest.creates_take_long.store(true, Relaxed));
        let lowest = fixture.lowest.clone();
        let gate = lowest.gate.lock().await;
        assert_eq!((fixture.selector(), lowest.given_up.load(Relaxed)), (0, 1));
        for number in 2..50 {
            fixture.publish(vec![Offer::Put(endpoint(number)), Offer::Remove(endpoint(number - 1).address)]);
            yields().await;
            let picked: std::collections::BTreeSet<_> =
                (0..2).map(|_| fixture.pick().unwrap().address()).collect();
            assert_eq!(picked, [endpoint(0).address, endpoint(number).address].into(), "the latest list");
        }
        assert!(!fixture.view.progress.has_tried(&fixture.versions.subscribe()));
        drop(gate);
        fixture.until_selector_is(1).await;
        assert!(fixture.view.progress.has_tried(&fixture.versions.subscribe()));
        assert_eq!(fixture.pick().unwrap().address(), endpoint(0).address);
        // Changes take no time, and are told where it is.
        fixture.publish(vec![Offer::Remove(endpoint(0).address)]);
        fixture.reached().await;
        assert_eq!((fixture.selector(), fixture.pick().unwrap().address()), (1, endpoint(49).address));
        assert_eq!(lowest.updates.lock().unwrap().last(), Some(&(false, 1)));
        assert_eq!(lowest.given_up.load(Relaxed), 1, "found out once");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn changes_that_take_long_go_to_a_fresh_balancer_and_what_has_left_is_not_picked() {
    let test = async {
        let mut fixture = start_with(4, |lowest| lowest.changes_take_long.store(true, Relaxed));
        let lowest = fixture.lowest.clone();
        assert_eq!(fixture.selector(), 1, "a list is no change");
        fixture.publish(vec![Offer::Remove(endpoint(0).address)]);
        fixture.reached().await;
        assert_eq!(lowest.given_up.load(Relaxed), 1);
        fixture.until_selector_is(1).await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(1).address);

        // Known by now: the balancer goes on until the next is there.
        let gate = lowest.gate.lock().await;
        fixture.publish(vec![Offer::Remove(endpoint(1).address), Offer::Put(endpoint(9))]);
        yields().await;
        assert_eq!((fixture.selector(), lowest.given_up.load(Relaxed)), (1, 1));
        for _ in 0..20 {
            assert_ne!(fixture.pick().unwrap().address(), endpoint(1).address);
        }
        assert_eq!(lowest.faults.load(Relaxed), 0, "the balancer could not know");
        drop(gate);
        fixture.reached().await;
        fixture.until_selector_is(1).await;
        assert_eq!(fixture.pick().unwrap().address(), endpoint(2).address);
        assert_eq!((lowest.given_up.load(Relaxed), lowest.faults.load(Relaxed)), (1, 0));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_version_that_is_replaced_while_it_is_made_never_picks() {
    let test = async {
        let fixture = start(2);
        let version = |version| {
            let lowest = Lowest { version, ..Lowest::default() };
            lowest.creates_take_long.store(true, Relaxed);
            Arc::new(lowest)
        };
        let (second, third) = (version(2), version(3));
        let gates = (second.gate.lock().await, third.gate.lock().await);
        for next in [&second, &third] {
            fixture.versions.send_replace(Some(next.clone()));
            yields().await;
            assert_eq!(fixture.selector(), 1, "what is in force goes on");
        }
        drop(gates);
        fixture.until_selector_is(3).await;
        assert!(second.updates.lock().unwrap().is_empty(), "given up when it was not wanted any more");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_fault_beside_the_worker_is_tried_again() {
    let test = async {
        let fixture = start_with(2, |lowest| {
            lowest.creates_take_long.store(true, Relaxed);
            lowest.failing_creates.store(3, Relaxed);
        });
        while fixture.lowest.failing_creates.load(Relaxed) > 0 {
            assert!(fixture.pick().is_ok() && fixture.selector() == 0);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture.until_selector_is(1).await;
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_view_that_is_gone_wants_no_balancer() {
    let test = async {
        let fixture = start_with(2, |lowest| lowest.creates_take_long.store(true, Relaxed));
        let lowest = fixture.lowest.clone();
        let gate = lowest.gate.lock().await;
        yields().await;
        drop(fixture);
        drop(gate);
        while Arc::strong_count(&lowest) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(lowest.updates.lock().unwrap().is_empty());
    };
    LocalSet::new().run_until(test).await;
}

/// The lines that are logged while this is there.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_is_not_ready_is_reported_once_and_then_seldom() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // With only one there, a place in the code asks whoever is there for the thread that comes by first, and that may be
    // another test's, with nobody.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    let _logging = tracing::subscriber::set_default(subscriber);
    let test = async {
        let fixture = start_with(1, |lowest| lowest.failing_creates.store(1_000, Relaxed));
        let since = tokio::time::Instant::now();
        while fixture.lowest.failing_creates.load(Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(since.elapsed() > Duration::from_secs(600), "a thousand attempts");
        let told = logged.count("Selector not ready");
        assert!((5..=12).contains(&told), "{told} lines");
        fixture.until_selector_is(1).await;
        assert_eq!(logged.count("Selector picks again"), 1);
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
        steps in prop::collection::vec((prop::collection::vec((0u32..1_500, any::<bool>()), 1..700), 0usize..4), 1..12),
        (creates_take_long, changes_take_long) in any::<(bool, bool)>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let mut fixture = start_with(1, |lowest| {
                lowest.creates_take_long.store(creates_take_long, Relaxed);
                lowest.changes_take_long.store(changes_take_long, Relaxed);
            });
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
            // And sooner or later with the selector.
            fixture.until_selector_is(1).await;
            fixture.reached().await;
            let _ = fixture.pick();
        }));
    }
}
