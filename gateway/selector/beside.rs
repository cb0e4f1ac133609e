//! Balancers that take long to make, or long lists, are made here: beside the workers, so that no request waits.

use std::{
    collections::VecDeque,
    panic::{self, AssertUnwindSafe},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

use super::{Balancer, CreateError, Fault, MadeAlone, Needs, Place, UpdateError};
use crate::upstream::{CatchUp, Change, Generation, Reader, Snapshot};

/// Changes that are told in one call; longer lists come in slices.
pub(super) const SLICE: usize = 512;

/// How often a balancer is told what has changed while it was being made, before it goes to its worker.
const ROUNDS: usize = 8;

/// A few threads that do, one after another, what no request may wait for. A thread is there only while there is
/// something to do.
pub struct Beside {
    most: usize,
    /// Locked for a few lines.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    threads: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl Beside {
    /// At most so many threads.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// Does this when those before have been done. It is dropped where there can be no thread.
    pub fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.waiting.push_back(Box::new(job));
        if state.threads >= self.most {
            return;
        }
        state.threads += 1;
        drop(state);
        let beside = self.clone();
        let spawned = thread::Builder::new().name("selectors".into()).spawn(move || beside.work());
        if spawned.is_err() {
            let mut state = self.state();
            state.threads -= 1;
            // If there is another thread, it comes to them.
            let stuck = if state.threads == 0 { std::mem::take(&mut state.waiting) } else { VecDeque::new() };
            drop(state);
            drop(stuck);
        }
    }

    /// What a thread does.
    fn work(&self) {
        while let Some(job) = self.next() {
            // A panic is reported where it happens, and whoever waits for this job is told that it is gone.
            let _ = panic::catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// The next job. None ends the thread that asks.
    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let job = state.waiting.pop_front();
        if job.is_none() {
            state.threads -= 1;
        }
        job
    }

    /// Asks for something when what was asked for before is done. The job is told whether that is still wanted: not when
    /// the future has been dropped.
    pub async fn ask<R: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&dyn Fn() -> bool) -> Result<R, CreateError> + Send + 'static,
    ) -> Result<R, CreateError> {
        let (told, made) = oneshot::channel();
        self.run(move || {
            if !told.is_closed() {
                let made = job(&|| !told.is_closed());
                // Whoever wanted it may be gone by now.
                let _ = told.send(made);
            }
        });
        made.await.unwrap_or_else(|_| Err(Fault("there is no thread to make it on".into()).into()))
    }

    /// Makes a balancer with the list as it is when this ends. Dropping the future ends it early.
    pub(super) async fn make(
        self: &Arc<Self>,
        alone: Box<dyn FnOnce() -> Result<MadeAlone, CreateError> + Send>,
        reader: Reader,
    ) -> Result<MadeBeside, CreateError> {
        self.ask(move |wanted| make(alone, &reader, wanted)).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A balancer and the list it has, on the way to its worker.
pub(super) struct MadeBeside {
    pub balancer: Box<dyn Balancer + Send>,
    pub needs: Needs,
    pub snapshot: Arc<Snapshot>,
}

fn make(
    alone: Box<dyn FnOnce() -> Result<MadeAlone, CreateError> + Send>,
    reader: &Reader,
    wanted: &dyn Fn() -> bool,
) -> Result<MadeBeside, CreateError> {
    let (mut balancer, needs) = alone()?;
    let mut snapshot = Rc::new(reader.snapshot());
    feed(&mut *balancer, &snapshot, wanted)?;
    for _ in 0..ROUNDS {
        if !wanted() {
            break;
        }
        let latest = Rc::new(reader.snapshot());
        match latest.since(snapshot.generation()) {
            CatchUp::Changes(generations) if generations.is_empty() => break,
            CatchUp::Changes(generations) if count(&generations) <= SLICE => {
                // In one call: many plugins take as long for one change as for all of them.
                let changes: Vec<Change> =
                    generations.iter().flat_map(|generation| &generation.changes).cloned().collect();
                balancer.update(Place::Beside, false, &changes, &latest)?;
            }
            _ => feed(&mut *balancer, &latest, wanted)?,
        }
        snapshot = latest;
    }
    Ok(MadeBeside { balancer, needs, snapshot: Arc::clone(&snapshot) })
}

/// Tells all of a list, while it is wanted.
fn feed(
    balancer: &mut dyn Balancer,
    snapshot: &Rc<Arc<Snapshot>>,
    wanted: &dyn Fn() -> bool,
) -> Result<(), UpdateError> {
    let mut members = snapshot.iter();
    let mut reset = true;
    loop {
        let slice: Vec<Change> = members.by_ref().take(SLICE).cloned().map(Change::Put).collect();
        // An empty list is a list, too.
        if (slice.is_empty() && !reset) || !wanted() {
            return Ok(());
        }
        balancer.update(Place::Beside, reset, &slice, snapshot)?;
        reset = false;
    }
}

/// How many changes these are.
pub(super) fn count(generations: &[&Generation]) -> usize {
    generations.iter().map(|generation| generation.changes.len()).sum()
}
