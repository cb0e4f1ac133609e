//! What a worker picks from: a balancer and the snapshot it has caught up with.
//!
//! The view follows its upstream and its selector by itself, between requests. Short changes are applied in place, and
//! a balancer for a short list is made in place, as long as that takes no longer than requests may wait. What takes
//! longer is given up there, and from then on a fresh balancer is made on a thread beside (`beside`) and exchanged when
//! it is ready, as for long lists. Meanwhile the old balancer goes on for a moment, without what has left, and then the
//! native round robin, which takes every list at once: what a selector fails at, or takes long for, holds up neither
//! requests nor lists.

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
    Balancer, CreateError, Current, Fault, Needs, PickRequest, Place, RequestFacts, RoundRobin, Selector,
    UpdateError, WorkerSelector, WorkerSelectors,
    beside::{MadeBeside, SLICE, count},
};
use crate::{
    backoff::Lasting,
    config,
    upstream::{CatchUp, Change, Member, Reader, Slot, Snapshot, UpstreamName},
};

/// After a fault the instance is rebuilt, first at once, then with growing pauses up to this.
const REBUILD_MOST: Duration = Duration::from_secs(5);

/// The pause after an attempt that failed is so many times as long as the attempt took, up to the same: whoever fails
/// slowly has a tenth of a processor's time at most.
const REBUILD_SHARE: u32 = 10;

/// Faults are forgotten after so long without one.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// How long an older list goes on, without what has left it, while a fresh balancer is made for the latest; then the
/// native round robin takes that.
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
    /// The version of the selector of which a balancer was made, or could not be made, last.
    tried: AtomicU64,
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

    /// Whether the worker has come to an end with the selector that its view is to follow: it picks, or it failed.
    pub fn has_tried(&self, current: &Current) -> bool {
        current.borrow().as_ref().is_none_or(|selector| self.tried.load(Relaxed) == selector.version())
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
    /// What broke the balancer.
    why: Cell<Broken>,
    closed: Cell<bool>,
    task: RefCell<Option<AbortHandle>>,
}

struct State {
    /// The list that the balancer has.
    snapshot: Rc<Arc<Snapshot>>,
    /// The latest list, while that is too much to tell the balancer here. What it does not have is not picked.
    newer: Option<Rc<Arc<Snapshot>>>,
    /// None: the native round robin picks.
    active: Option<Active>,
    native: RoundRobin,
}

struct Active {
    selector: Arc<dyn Selector>,
    balancer: Box<dyn Balancer>,
    needs: Needs,
    /// Keeps the worker's instance alive, if the balancer is in that.
    _worker: Option<Rc<dyn WorkerSelector>>,
}

/// Why a balancer is of no use any more.
#[derive(Debug, Clone, Copy)]
enum Broken {
    /// It failed after so long.
    Failed(Duration),
    /// It would have taken longer than requests may wait.
    TakesLong,
}

impl Default for Broken {
    fn default() -> Self {
        Self::Failed(Duration::ZERO)
    }
}

/// How far a balancer has been brought, on its worker.
enum Brought {
    /// It has this list, the latest.
    Up(Rc<Arc<Snapshot>>),
    /// What is missing up to this list is too much.
    Short(Rc<Arc<Snapshot>>),
}

impl View {
    /// Must be called where `spawn_local` works. A list of ordinary length, and a selector that does not take long, are
    /// ready when this returns.
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
        let state =
            State { snapshot: snapshot.clone(), newer: None, active: None, native: RoundRobin::new() };
        let view = Rc::new(Self {
            reader: reader.clone(),
            progress,
            state: RefCell::new(state),
            broken: Rc::default(),
            why: Cell::default(),
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
            not_ready: Lasting::default(),
        };
        let (version, began) = (version(&selector), Instant::now());
        match maker.make_here(selector, snapshot) {
            Some(made) => follower.made(&view, made, version, began),
            None => follower.make(Duration::ZERO),
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
        let State { snapshot, newer, active, native } = &mut *state;
        let latest = newer.as_ref().unwrap_or(snapshot);
        if latest.is_empty() {
            return Err(PickError::NoEndpoints(self.name().clone()));
        }
        if let Some(ready) = active.as_mut().filter(|active| !active.selector.quarantined()) {
            match ready.pick(facts, attempt, tried, snapshot) {
                Ok(Some(slot)) => match (snapshot.get(slot), &newer) {
                    (Some(member), None) => return Ok(member.clone()),
                    // As long as the older list is held, nobody else gets a slot of it.
                    (Some(_), Some(newer)) => {
                        if let Some(member) = newer.get(slot) {
                            return Ok(member.clone());
                        }
                    }
                    (None, _) => {
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
        let member = native.pick(latest, tried);
        member.cloned().ok_or_else(|| PickError::NoEndpoints(self.name().clone()))
    }

    /// An endpoint that was picked before, as it is now, if it is still there to pick.
    pub fn offered(&self, member: &Member) -> Option<Arc<Member>> {
        let state = self.state.borrow();
        let latest = state.newer.as_ref().unwrap_or(&state.snapshot);
        latest.get(member.slot()).filter(|now| now.address() == member.address()).cloned()
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
        state.newer = None;
        state.active = active;
    }

    /// The native round robin takes the list as it is now.
    fn stand_in(&self) {
        self.exchange(Rc::new(self.reader.snapshot()), None);
    }

    /// Takes the list as it is now, if that costs little. Says whether it did; otherwise what has left it is not picked
    /// any more, and nothing else changes.
    fn catch_up(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let State { snapshot, newer, active, .. } = &mut *state;
        *newer = None;
        let began = Instant::now();
        let latest = match active.as_mut().filter(|active| !active.selector.quarantined()) {
            Some(ready) => match ready.bring_up(snapshot, &self.reader) {
                Ok(Brought::Up(latest)) => latest,
                Ok(Brought::Short(latest)) => {
                    *newer = Some(latest);
                    return false;
                }
                Err(error) => {
                    *active = None;
                    self.why.set(match error {
                        UpdateError::Fault(_) => Broken::Failed(began.elapsed()),
                        UpdateError::TakesLong => Broken::TakesLong,
                    });
                    self.broken.notify_one();
                    Rc::new(self.reader.snapshot())
                }
            },
            None => {
                *active = None;
                Rc::new(self.reader.snapshot())
            }
        };
        if active.is_none() {
            self.progress.selector.store(0, Relaxed);
        }
        self.progress.generation.store(latest.generation(), Relaxed);
        *snapshot = latest;
        true
    }

    /// Takes a balancer with the list it was made with, but for a list that is older than what is picked from.
    fn take(&self, mut snapshot: Rc<Arc<Snapshot>>, mut active: Active) -> Result<(), CreateError> {
        if snapshot.generation() < self.state.borrow().snapshot.generation() {
            snapshot = match active.bring_up(&snapshot, &self.reader)? {
                Brought::Up(latest) => latest,
                Brought::Short(_) => return Err(CreateError::Overtaken),
            };
        }
        self.exchange(snapshot, Some(active));
        Ok(())
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
    /// Tells the balancer what is missing since it was told of `snapshot`, if that is little.
    fn bring_up(&mut self, snapshot: &Snapshot, reader: &Reader) -> Result<Brought, UpdateError> {
        let latest = Rc::new(reader.snapshot());
        let CatchUp::Changes(generations) = latest.since(snapshot.generation()) else {
            return Ok(Brought::Short(latest));
        };
        let changes = count(&generations);
        if changes > SLICE || (changes > 0 && !self.selector.is_told_soon(reader.name(), changes)) {
            return Ok(Brought::Short(latest));
        }
        for generation in &generations {
            self.balancer.update(Place::Worker, false, &generation.changes, &latest)?;
        }
        drop(generations);
        Ok(Brought::Up(latest))
    }

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

/// An attempt to make a balancer of a version, and when it begins.
struct Making {
    version: u64,
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
    /// Makes a balancer with this list between requests. None when it is to be made beside them.
    fn make_here(&self, selector: Option<Arc<dyn Selector>>, snapshot: Rc<Arc<Snapshot>>) -> Option<Made> {
        let Some(selector) = selector else { return Some(Err(self.unavailable())) };
        let name = self.reader.name();
        if snapshot.len() > SLICE || !selector.is_made_soon(name, &self.settings.settings, snapshot.len()) {
            return None;
        }
        let make = || {
            let worker = self.selectors.get(&selector);
            let (mut balancer, needs) =
                worker.create_for(Place::Worker, Some(name), &self.settings.settings)?;
            let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
            balancer.update(Place::Worker, true, &all, &snapshot)?;
            Ok(Active { selector, balancer, needs, _worker: Some(worker) })
        };
        match make() {
            Err(CreateError::TakesLong) => None,
            made => Some(made.map(|active| (snapshot, active))),
        }
    }

    /// Makes a balancer with the list as it is when this ends. Dropping the future drops the balancer.
    async fn make(self: Rc<Self>, selector: Option<Arc<dyn Selector>>, from: Instant) -> Made {
        tokio::time::sleep_until(from).await;
        if let Some(selector) = &selector {
            self.selectors.get(selector).warm_up().await?;
        }
        if let Some(made) = self.make_here(selector.clone(), Rc::new(self.reader.snapshot())) {
            return made;
        }
        let selector = selector.ok_or_else(|| self.unavailable())?;
        let alone = selector.clone().alone(self.reader.name(), &self.settings.settings);
        let made = selector.beside().make(alone, self.reader.clone()).await?;
        let MadeBeside { balancer, needs, snapshot } = made;
        Ok((Rc::new(snapshot), Active { selector, balancer, needs, _worker: None }))
    }

    fn unavailable(&self) -> CreateError {
        CreateError::Unavailable(format!("no selector plugin {:?}", self.settings.plugin))
    }
}

/// 0 for none.
fn version(selector: &Option<Arc<dyn Selector>>) -> u64 {
    selector.as_ref().map_or(0, |selector| selector.version())
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
    not_ready: Lasting,
}

enum Event {
    /// Another generation; false says that the upstream is gone.
    Generation(bool),
    Version,
    Broken,
    /// Of this version, begun then.
    Made(Made, u64, Instant),
    OldListOver,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let event = tokio::select! {
                changed = self.generations.changed() => Event::Generation(changed.is_ok()),
                Ok(()) = self.current.changed() => Event::Version,
                () = self.broken.notified() => Event::Broken,
                (made, version, from) = finished(&mut self.making) => Event::Made(made, version, from),
                () = at(self.old_list_until) => Event::OldListOver,
            };
            let Some(view) = self.view.upgrade() else { return };
            match event {
                Event::Generation(false) => return view.closed.set(true),
                Event::Generation(true) => {
                    if !view.catch_up() {
                        self.fall_behind();
                    }
                }
                Event::Version => {
                    self.faults = Faults::default();
                    // What is made of the version before is of no use any more.
                    self.make(Duration::ZERO);
                }
                Event::Broken => {
                    view.stand_in();
                    let pause = match view.why.take() {
                        Broken::Failed(took) => self.faults.pause(Instant::now(), took),
                        Broken::TakesLong => Duration::ZERO,
                    };
                    if self.making.is_none() {
                        self.make(pause);
                    }
                }
                Event::Made(made, version, from) => {
                    self.making = None;
                    self.made(&view, made, version, from);
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
        let (version, from) = (version(&selector), Instant::now() + pause);
        let attempt = Box::pin(self.maker.clone().make(selector, from));
        self.making = Some(Making { version, from, attempt });
    }

    /// The balancer goes on without the latest list, until there is one that has it, or for too long.
    fn fall_behind(&mut self) {
        self.old_list_until.get_or_insert(Instant::now() + OLD_LIST_MOST);
        if self.making.is_none() {
            self.make(Duration::ZERO);
        }
    }

    fn made(&mut self, view: &View, made: Made, version: u64, from: Instant) {
        self.old_list_until = None;
        let taken = made.and_then(|(snapshot, active)| view.take(snapshot, active));
        match taken {
            Ok(()) => {
                view.progress.tried.store(version, Relaxed);
                self.works(view);
                if !view.catch_up() {
                    self.fall_behind();
                }
            }
            Err(CreateError::TakesLong) => {
                view.stand_in();
                self.make(Duration::ZERO);
            }
            Err(error) => {
                view.progress.tried.store(version, Relaxed);
                self.failed(view, &error, from);
            }
        }
    }

    fn works(&mut self, view: &View) {
        if let Some(lasted) = self.not_ready.over() {
            tracing::info!(upstream = %view.name(), plugin = %self.maker.settings.plugin,
                for_seconds = lasted.for_seconds, "Selector picks again");
        }
    }

    fn failed(&mut self, view: &View, error: &CreateError, from: Instant) {
        if let Some(report) = self.not_ready.met(&error.to_string()) {
            tracing::warn!(upstream = %view.name(), plugin = %self.maker.settings.plugin, %error,
                for_seconds = report.for_seconds, times = report.times,
                "Selector not ready, native round robin picks");
        }
        view.stand_in();
        if matches!(error, CreateError::Fault(_) | CreateError::Overtaken) {
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
async fn finished(making: &mut Option<Making>) -> (Made, u64, Instant) {
    match making {
        Some(Making { version, from, attempt }) => (attempt.await, *version, *from),
        None => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
