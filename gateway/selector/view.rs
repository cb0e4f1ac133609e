//! What a worker picks from: a balancer and the snapshot it has caught up with.
//!
//! The view follows its upstream and its selector by itself, between requests. Short changes are applied in place.
//! A long list, and a new version of the selector, are fed to a fresh balancer in slices and then exchanged, so
//! that no request waits for them. While there is no balancer the native round robin picks.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::AbortHandle};

use super::{
    Balancer, CreateError, Current, Fault, Needs, PickRequest, RequestFacts, RoundRobin, Selector,
    WorkerSelector, WorkerSelectors,
};
use crate::{
    config,
    upstream::{CatchUp, Change, Member, Reader, Slot, Snapshot, UpstreamName},
};

/// Changes that are applied at once; more go to a fresh balancer, so many at a time.
const SLICE: usize = 512;

/// After a fault the instance is rebuilt, first at once, then with growing pauses up to this.
const REBUILD_MOST: Duration = Duration::from_secs(5);

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
    pub generation: AtomicU64,
    /// The version of the selector in use, 0 for the native round robin.
    pub selector: AtomicU64,
}

/// One upstream on one worker. Dropping it ends its task.
pub struct View {
    reader: Reader,
    settings: config::Selector,
    current: Current,
    selectors: Rc<WorkerSelectors>,
    progress: Arc<Progress>,
    state: RefCell<State>,
    native: RoundRobin,
    broken: Rc<Notify>,
    faults: Cell<u32>,
    closed: Cell<bool>,
    task: RefCell<Option<AbortHandle>>,
}

struct State {
    snapshot: Rc<Arc<Snapshot>>,
    /// None: the native round robin picks.
    active: Option<Active>,
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
        current: Current,
        selectors: Rc<WorkerSelectors>,
        progress: Arc<Progress>,
    ) -> Rc<Self> {
        let snapshot = Rc::new(reader.snapshot());
        let short = snapshot.len() <= SLICE;
        let view = Rc::new(Self {
            reader,
            settings,
            current,
            selectors,
            progress,
            state: RefCell::new(State { snapshot: snapshot.clone(), active: None }),
            native: RoundRobin::new(),
            broken: Rc::default(),
            faults: Cell::new(0),
            closed: Cell::new(false),
            task: RefCell::new(None),
        });
        let generations = view.reader.generations();
        let (current, broken) = (view.current.clone(), view.broken.clone());
        let mut follower = Follower { view: Rc::downgrade(&view), generations, current, broken };
        follower.current.mark_unchanged();
        if short {
            view.build_at_once(snapshot);
        } else {
            follower.current.mark_changed();
        }
        let task = tokio::task::spawn_local(async move { follower.run().await });
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
        let State { snapshot, active } = &mut *state;
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
        let member = self.native.pick(snapshot, tried);
        member.cloned().ok_or_else(|| PickError::NoEndpoints(self.name().clone()))
    }

    /// How many endpoints there are to pick from.
    pub fn len(&self) -> usize {
        self.state.borrow().snapshot.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn build_at_once(&self, snapshot: Rc<Arc<Snapshot>>) {
        let active = self.create().and_then(|mut active| {
            let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
            active.balancer.update(true, &all, &snapshot)?;
            Ok(active)
        });
        self.exchange(snapshot, active);
    }

    /// Feeds the list as it is now to a fresh balancer, a slice between requests, and exchanges both together.
    async fn build_in_slices(&self) {
        let mut snapshot = Rc::new(self.reader.snapshot());
        let mut active = self.create();
        loop {
            feed(&snapshot, &mut active).await;
            // The list may have moved on meanwhile.
            let latest = Rc::new(self.reader.snapshot());
            match latest.since(snapshot.generation()) {
                CatchUp::Changes(generations) if few(&generations) => {
                    if let Ok(fresh) = &mut active
                        && let Err(fault) = apply(&mut *fresh.balancer, &generations, &latest)
                    {
                        active = Err(fault.into());
                    }
                    drop(generations);
                    return self.exchange(latest, active);
                }
                _ => snapshot = latest,
            }
        }
    }

    fn create(&self) -> Result<Active, CreateError> {
        let selector = self.current.borrow().clone();
        let selector = selector.ok_or_else(|| {
            CreateError::Unavailable(format!("no selector plugin {:?}", self.settings.plugin))
        })?;
        let worker = self.selectors.get(&selector);
        let (balancer, needs) = worker.create(&self.settings.settings)?;
        Ok(Active { selector, balancer, needs, _worker: worker })
    }

    fn exchange(&self, snapshot: Rc<Arc<Snapshot>>, active: Result<Active, CreateError>) {
        let active = match active {
            Ok(active) => Some(active),
            Err(error) => {
                tracing::warn!(upstream = %self.name(), plugin = %self.settings.plugin, %error,
                    "Selector not ready, native round robin picks");
                if matches!(error, CreateError::Fault(_)) {
                    self.broken.notify_one();
                }
                None
            }
        };
        self.progress.selector.store(active.as_ref().map_or(0, |active| active.selector.version()), Relaxed);
        self.progress.generation.store(snapshot.generation(), Relaxed);
        *self.state.borrow_mut() = State { snapshot, active };
    }

    /// Applies what changed since the view's generation, if that is little. Says whether it was.
    fn catch_up(&self) -> bool {
        let latest = Rc::new(self.reader.snapshot());
        let mut state = self.state.borrow_mut();
        let CatchUp::Changes(generations) = latest.since(state.snapshot.generation()) else { return false };
        if !few(&generations) {
            return false;
        }
        if let Some(active) = &mut state.active
            && apply(&mut *active.balancer, &generations, &latest).is_err()
        {
            state.active = None;
            self.progress.selector.store(0, Relaxed);
            self.broken.notify_one();
        }
        drop(generations);
        self.progress.generation.store(latest.generation(), Relaxed);
        state.snapshot = latest;
        true
    }
}

impl Drop for View {
    fn drop(&mut self) {
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

/// The task of a view. Holds it weakly, so that dropping the view ends the task.
struct Follower {
    view: Weak<View>,
    generations: tokio::sync::watch::Receiver<u64>,
    current: Current,
    broken: Rc<Notify>,
}

enum Event {
    /// Another generation; false says that the upstream is gone.
    Generation(bool),
    Version,
    Broken,
}

impl Follower {
    async fn run(&mut self) {
        loop {
            let event = tokio::select! {
                changed = self.generations.changed() => Event::Generation(changed.is_ok()),
                Ok(()) = self.current.changed() => Event::Version,
                () = self.broken.notified() => Event::Broken,
            };
            let Some(view) = self.view.upgrade() else { return };
            match event {
                Event::Generation(false) => return view.closed.set(true),
                Event::Generation(true) => {
                    if !view.catch_up() {
                        view.build_in_slices().await;
                    }
                }
                Event::Version => {
                    view.faults.set(0);
                    view.build_in_slices().await;
                }
                Event::Broken => {
                    let faults = view.faults.replace(view.faults.get().saturating_add(1));
                    tokio::time::sleep(pause(faults)).await;
                    view.build_in_slices().await;
                }
            }
        }
    }
}

/// The pause before the rebuild after so many faults: none after the first, then doubling, with jitter.
fn pause(faults: u32) -> Duration {
    match faults {
        0 => Duration::ZERO,
        n => (Duration::from_millis(10) * 2u32.saturating_pow(n.min(16)))
            .min(REBUILD_MOST)
            .mul_f64(0.5 + fastrand::f64() / 2.0),
    }
}

/// Feeds all of a list, a slice between requests.
async fn feed(snapshot: &Rc<Arc<Snapshot>>, active: &mut Result<Active, CreateError>) {
    let mut members = snapshot.iter();
    let mut reset = true;
    loop {
        let slice: Vec<Change> = members.by_ref().take(SLICE).cloned().map(Change::Put).collect();
        // An empty list is a list, too.
        if slice.is_empty() && !reset {
            return;
        }
        if let Ok(fresh) = active
            && let Err(fault) = fresh.balancer.update(reset, &slice, snapshot)
        {
            *active = Err(fault.into());
        }
        reset = false;
        tokio::task::yield_now().await;
    }
}

fn few(generations: &[&crate::upstream::Generation]) -> bool {
    generations.iter().map(|generation| generation.changes.len()).sum::<usize>() <= SLICE
}

fn apply(
    balancer: &mut dyn Balancer,
    generations: &[&crate::upstream::Generation],
    snapshot: &Rc<Arc<Snapshot>>,
) -> Result<(), Fault> {
    generations.iter().try_for_each(|generation| balancer.update(false, &generation.changes, snapshot))
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
