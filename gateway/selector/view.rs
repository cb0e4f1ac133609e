//! What a worker picks from: a balancer and the snapshot it has caught up with.
//!
//! The view follows its upstream and its selector by itself, between requests. Short changes are applied in place.
//! A long list, and a new version of the selector, are fed to a fresh balancer in slices and then exchanged, so
//! that no request waits for them. While there is no balancer the native round robin picks, and it takes every list
//! at once: what a selector fails at, or takes long for, is done beside the list and never holds it up.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    future::{Future, pending},
    pin::Pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

use super::{
    Balancer, CreateError, Current, Fault, Needs, PickRequest, RequestFacts, RoundRobin, Selector,
    WorkerSelector, WorkerSelectors,
};
use crate::{
    config,
    upstream::{CatchUp, Change, Generation, Member, Reader, Slot, Snapshot, UpstreamName},
};

/// Changes that are applied at once; more go to a fresh balancer, so many at a time.
const SLICE: usize = 512;

/// After a fault the instance is rebuilt, first at once, then with growing pauses up to this.
const REBUILD_MOST: Duration = Duration::from_secs(5);

/// The pause after an attempt that failed is so many times as long as the attempt took, up to the same: whoever fails
/// slowly has a tenth of its worker's time at most.
const REBUILD_SHARE: u32 = 10;

/// Faults are forgotten after so long without one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// How long an older list goes on while a long one is fed to a fresh balancer; then the native round robin takes the
/// long one.
const OLD_LIST_MOST: Duration = Duration::from_millis(500);

/// Why no endpoint was picked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("upstream {0} has no endpoints")]
    NoEndpoints(UpstreamName),
    #[error("selector of upstream {0} found no endpoint for this request")]
    NothingSuits(UpstreamName),
}

/// How far one worker has come with one upstream. Read by the admin API.
#[derive(Debug, Default)]
pub struct Progress {
    /// How many views there are: none while no request led the worker there.
    views: AtomicU32,
    generation: AtomicU64,
    selector: AtomicU64,
}

impl Progress {
    /// The generation of the list that is picked from.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The version of the selector that picks, 0 for the native round robin. `current` is the selector that the view
    /// follows.
    pub fn selector_version(&self, current: &Current) -> u64 {
        let version = self.selector.load(Relaxed);
        // A view is not told that the plugin was quarantined: it learns that with its next pick or list.
        let stands_in =
            |selector: &Arc<dyn Selector>| selector.version() == version && selector.quarantined();
        match current.borrow().as_ref().is_some_and(stands_in) {
            true => 0,
            false => version,
        }
    }

    /// Whether the worker picks from a list that is older than this generation.
    pub fn is_behind(&self, generation: u64) -> bool {
        self.views.load(Relaxed) > 0 && self.generation() < generation
    }
}

/// One upstream on one worker. Dropping it ends its task.
pub struct View {
    reader: Reader,
    progress: Arc<Progress>,
    state: RefCell<State>,
    broken: Rc<Notify>,
    /// How long the update took that broke the balancer.
    wasted: Cell<Duration>,
    closed: Cell<bool>,
    task: RefCell<Option<AbortHandle>>,
}

struct State {
    snapshot: Rc<Arc<Snapshot>>,
    /// None: the native round robin picks.
    active: Option<Active>,
    native: RoundRobin,
}

struct Active {
    selector: Arc<dyn Selector>,
    balancer: Box<dyn Balancer>,
    needs: Needs,
    /// Keeps the worker's instance alive.
    _worker: Rc<dyn WorkerSelector>,
}

impl View {
    /// Must be called where `spawn_local` works. A list of ordinary length is ready when this returns.
    pub fn new(
        reader: Reader,
        settings: config::Selector,
        mut current: Current,
        selectors: Rc<WorkerSelectors>,
        progress: Arc<Progress>,
    ) -> Rc<Self> {
        let (snapshot, generations) = reader.follow();
        let snapshot = Rc::new(snapshot);
        progress.views.fetch_add(1, Relaxed);
        progress.generation.store(snapshot.generation(), Relaxed);
        progress.selector.store(0, Relaxed);
        let state = State { snapshot: snapshot.clone(), active: None, native: RoundRobin::new() };
        let view = Rc::new(Self {
            reader: reader.clone(),
            progress,
            state: RefCell::new(state),
            broken: Rc::default(),
            wasted: Cell::default(),
            closed: Cell::new(false),
            task: RefCell::new(None),
        });
        let selector = current.borrow_and_update().clone();
        let maker = Rc::new(Maker { reader, settings, selectors });
        let mut follower = Follower {
            view: Rc::downgrade(&view),
            maker: maker.clone(),
            generations,
            current,
            broken: view.broken.clone(),
            making: None,
            old_list_until: None,
            faults: Faults::default(),
        };
        if snapshot.len() <= SLICE {
            let began = Instant::now();
            let made = maker.make_at_once(selector, snapshot);
            follower.made(&view, made, began);
        } else {
            follower.make(Duration::ZERO);
        }
        let task = tokio::task::spawn_local(follower.run());
        *view.task.borrow_mut() = Some(task.abort_handle());
        view
    }

    pub fn name(&self) -> &UpstreamName {
        self.reader.name()
    }

    /// Whether the upstream is gone and this view will never change again.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Picks an endpoint that is not in `tried`, where there is a choice.
    ///
    /// Never waits. A selector that fails costs this request nothing but its rule: the native round robin picks.
    pub fn pick(
        &self,
        facts: &RequestFacts<'_>,
        attempt: u32,
        tried: &[Slot],
    ) -> Result<Arc<Member>, PickError> {
        let mut state = self.state.borrow_mut();
        let State { snapshot, active, native } = &mut *state;
        if snapshot.is_empty() {
            return Err(PickError::NoEndpoints(self.name().clone()));
        }
        if let Some(ready) = active.as_mut().filter(|active| !active.selector.quarantined()) {
            match ready.pick(facts, attempt, tried, snapshot) {
                Ok(Some(slot)) => match snapshot.get(slot) {
                    Some(member) => return Ok(member.clone()),
                    None => {
                        let text = format!("picked slot {}, which was not offered", slot.0);
                        ready.selector.count_fault(&Fault(text.into()));
                    }
                },
                Ok(None) => return Err(PickError::NothingSuits(self.name().clone())),
                Err(_) => {
                    *active = None;
                    self.progress.selector.store(0, Relaxed);
                    self.broken.notify_one();
                }
            }
        }
        let member = native.pick(snapshot, tried);
        member.cloned().ok_or_else(|| PickError::NoEndpoints(self.name().clone()))
    }

    /// How many endpoints there are to pick from.
    pub fn len(&self) -> usize {
        self.state.borrow().snapshot.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn exchange(&self, snapshot: Rc<Arc<Snapshot>>, active: Option<Active>) {
        self.progress.selector.store(active.as_ref().map_or(0, |active| active.selector.version()), Relaxed);
        self.progress.generation.store(snapshot.generation(), Relaxed);
        let mut state = self.state.borrow_mut();
        state.snapshot = snapshot;
        state.active = active;
    }

    /// The native round robin takes the list as it is now.
    fn stand_in(&self) {
        self.exchange(Rc::new(self.reader.snapshot()), None);
    }

    /// Takes the list as it is now, if that costs little. Says whether it did.
    fn catch_up(&self) -> bool {
        let latest = Rc::new(self.reader.snapshot());
        let mut state = self.state.borrow_mut();
        let State { snapshot, active, .. } = &mut *state;
        if let Some(ready) = active.as_mut().filter(|active| !active.selector.quarantined()) {
            let CatchUp::Changes(generations) = latest.since(snapshot.generation()) else { return false };
            if !few(&generations) {
                return false;
            }
            let began = Instant::now();
            if apply(&mut *ready.balancer, &generations, &latest).is_err() {
                self.wasted.set(began.elapsed());
                *active = None;
                self.broken.notify_one();
            }
        } else {
            *active = None;
        }
        if active.is_none() {
            self.progress.selector.store(0, Relaxed);
        }
        self.progress.generation.store(latest.generation(), Relaxed);
        *snapshot = latest;
        true
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.progress.views.fetch_sub(1, Relaxed);
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Active {
    fn pick(
        &mut self,
        facts: &RequestFacts<'_>,
        attempt: u32,
        tried: &[Slot],
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<Option<Slot>, Fault> {
        let hash = self.needs.hash_on.as_ref().and_then(|key| facts.hash(key));
        if self.needs.attributes.is_empty() {
            return self.balancer.pick(&PickRequest { hash, attempt, tried, attributes: &[] }, snapshot);
        }
        let values: Vec<Option<Cow<'_, str>>> =
            self.needs.attributes.iter().map(|key| facts.value(key)).collect();
        let attributes: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
        self.balancer.pick(&PickRequest { hash, attempt, tried, attributes: &attributes }, snapshot)
    }
}

/// An attempt to make a balancer, and when it begins.
struct Making {
    from: Instant,
    attempt: Pin<Box<dyn Future<Output = Made>>>,
}

/// Makes balancers for one upstream on one worker.
struct Maker {
    reader: Reader,
    settings: config::Selector,
    selectors: Rc<WorkerSelectors>,
}

/// A balancer, and the list it has.
type Made = Result<(Rc<Arc<Snapshot>>, Active), CreateError>;

impl Maker {
    /// Gives all of a short list at once.
    fn make_at_once(&self, selector: Option<Arc<dyn Selector>>, snapshot: Rc<Arc<Snapshot>>) -> Made {
        let mut active = self.create(selector)?;
        let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
        active.balancer.update(true, &all, &snapshot)?;
        Ok((snapshot, active))
    }

    /// Feeds the list as it is when this ends, a slice between requests. Dropping the future drops the balancer.
    async fn make(self: Rc<Self>, selector: Option<Arc<dyn Selector>>, from: Instant) -> Made {
        tokio::time::sleep_until(from).await;
        let mut active = self.create(selector)?;
        let mut snapshot = Rc::new(self.reader.snapshot());
        loop {
            feed(&snapshot, &mut *active.balancer).await?;
            // The list may have moved on meanwhile.
            let latest = Rc::new(self.reader.snapshot());
            if let CatchUp::Changes(generations) = latest.since(snapshot.generation())
                && few(&generations)
            {
                apply(&mut *active.balancer, &generations, &latest)?;
                drop(generations);
                return Ok((latest, active));
            }
            snapshot = latest;
        }
    }

    fn create(&self, selector: Option<Arc<dyn Selector>>) -> Result<Active, CreateError> {
        let selector = selector.ok_or_else(|| {
            CreateError::Unavailable(format!("no selector plugin {:?}", self.settings.plugin))
        })?;
        let worker = self.selectors.get(&selector);
        let (balancer, needs) = worker.create_for(self.reader.name(), &self.settings.settings)?;
        Ok(Active { selector, balancer, needs, _worker: worker })
    }
}

/// The task of a view. Holds it weakly, so that dropping the view ends the task.
struct Follower {
    view: Weak<View>,
    maker: Rc<Maker>,
    generations: watch::Receiver<u64>,
    current: Current,
    broken: Rc<Notify>,
    /// The balancer that is made beside the one in use.
    making: Option<Making>,
    /// When the native round robin takes the list that is being fed to a fresh balancer.
    old_list_until: Option<Instant>,
    faults: Faults,
}

enum Event {
    /// Another generation; false says that the upstream is gone.
    Generation(bool),
    Version,
    Broken,
    Made(Made, Instant),
    OldListOver,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let event = tokio::select! {
                changed = self.generations.changed() => Event::Generation(changed.is_ok()),
                Ok(()) = self.current.changed() => Event::Version,
                () = self.broken.notified() => Event::Broken,
                (made, from) = finished(&mut self.making) => Event::Made(made, from),
                () = at(self.old_list_until) => Event::OldListOver,
            };
            let Some(view) = self.view.upgrade() else { return };
            match event {
                Event::Generation(false) => return view.closed.set(true),
                Event::Generation(true) => {
                    if !view.catch_up() {
                        self.old_list_until.get_or_insert(Instant::now() + OLD_LIST_MOST);
                        if self.making.is_none() {
                            self.make(Duration::ZERO);
                        }
                    }
                }
                Event::Version => {
                    self.faults = Faults::default();
                    // What is made of the version before is of no use any more.
                    self.make(Duration::ZERO);
                }
                Event::Broken => {
                    view.stand_in();
                    if self.making.is_none() {
                        let pause = self.faults.pause(Instant::now(), view.wasted.take());
                        self.make(pause);
                    }
                }
                Event::Made(made, from) => {
                    self.making = None;
                    self.made(&view, made, from);
                }
                Event::OldListOver => {
                    self.old_list_until = None;
                    view.stand_in();
                }
            }
        }
    }

    /// Begins to make a balancer, in the place of one that is being made.
    fn make(&mut self, pause: Duration) {
        let selector = self.current.borrow().clone();
        let from = Instant::now() + pause;
        let attempt = Box::pin(self.maker.clone().make(selector, from));
        self.making = Some(Making { from, attempt });
    }

    fn made(&mut self, view: &View, made: Made, from: Instant) {
        self.old_list_until = None;
        let error = match made {
            Ok((snapshot, active)) => return view.exchange(snapshot, Some(active)),
            Err(error) => error,
        };
        tracing::warn!(upstream = %view.name(), plugin = %self.maker.settings.plugin, %error,
            "Selector not ready, native round robin picks");
        view.stand_in();
        if matches!(error, CreateError::Fault(_)) {
            let pause = self.faults.pause(Instant::now(), from.elapsed());
            self.make(pause);
        }
    }
}

/// Faults of late.
#[derive(Default)]
struct Faults {
    count: u32,
    last: Option<Instant>,
}

impl Faults {
    /// Counts a fault that took so long to come, and says how long to wait before the rebuild: not at all after the
    /// first, then twice as long each time, with jitter.
    fn pause(&mut self, now: Instant, took: Duration) -> Duration {
        let forgiven = self.last.is_some_and(|last| now.saturating_duration_since(last) >= FORGIVEN_AFTER);
        let before = if forgiven { 0 } else { self.count };
        self.count = before.saturating_add(1);
        self.last = Some(now);
        let share = took.saturating_mul(REBUILD_SHARE).min(REBUILD_MOST);
        match before {
            0 => share,
            n => (Duration::from_millis(10) * 2u32.saturating_pow(n.min(16)))
                .min(REBUILD_MOST)
                .mul_f64(0.5 + fastrand::f64() / 2.0)
                .max(share),
        }
    }
}

/// The balancer when it is made; waits for ever while none is.
async fn finished(making: &mut Option<Making>) -> (Made, Instant) {
    match making {
        Some(Making { from, attempt }) => (attempt.await, *from),
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Feeds all of a list, a slice between requests.
async fn feed(snapshot: &Rc<Arc<Snapshot>>, balancer: &mut dyn Balancer) -> Result<(), Fault> {
    let mut members = snapshot.iter();
    let mut reset = true;
    loop {
        let slice: Vec<Change> = members.by_ref().take(SLICE).cloned().map(Change::Put).collect();
        // An empty list is a list, too.
        if slice.is_empty() && !reset {
            return Ok(());
        }
        balancer.update(reset, &slice, snapshot)?;
        reset = false;
        tokio::task::yield_now().await;
    }
}

fn few(generations: &[&Generation]) -> bool {
    generations.iter().map(|generation| generation.changes.len()).sum::<usize>() <= SLICE
}

fn apply(
    balancer: &mut dyn Balancer,
    generations: &[&Generation],
    snapshot: &Rc<Arc<Snapshot>>,
) -> Result<(), Fault> {
    generations.iter().try_for_each(|generation| balancer.update(false, &generation.changes, snapshot))
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
