//! The rule that chooses an endpoint for a request: the seam where Wasm plugins and the native fallback meet.

mod beside;
mod keys;
mod native;
mod view;

pub use beside::Beside;
pub use keys::{Altered, HttpFacts, Key, KeyError, RequestFacts};
pub use native::RoundRobin;
pub use view::{PickError, Progress, View};

use std::{
    cell::RefCell,
    future::{Future, ready},
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
};

use tokio::sync::watch;

use crate::upstream::{Change, Slot, Snapshot, UpstreamName};

/// What a pick may depend on.
#[derive(Debug, Clone, Copy)]
pub struct PickRequest<'a> {
    /// XXH64, seed 0, over the value of the hash key.
    pub hash: Option<u64>,
    /// 0 for the first try, 1 for the first retry.
    pub attempt: u32,
    pub tried: &'a [Slot],
    /// In the order of [`Needs::attributes`].
    pub attributes: &'a [Option<&'a str>],
}

/// What a balancer needs to know of each request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    pub hash_on: Option<Key>,
    pub attributes: Vec<Key>,
}

/// A call into a balancer went wrong: a trap, a deadline, a limit. The balancer is of no use any more, and whoever
/// returns this has counted it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub Arc<str>);

/// Why an update came to nothing. The balancer is of no use any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpdateError {
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It takes longer than requests may wait. That is no fault; it is to be done beside them.
    #[error("takes longer than requests may wait")]
    TakesLong,
}

/// Why a selector made no balancer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CreateError {
    /// The plugin refused the settings.
    #[error("{0}")]
    Refused(String),
    /// The plugin failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The plugin is quarantined, or none of its name is loaded.
    #[error("{0}")]
    Unavailable(String),
    /// It takes longer than requests may wait. That is no fault; it is to be done beside them.
    #[error("takes longer than requests may wait")]
    TakesLong,
    /// The list changes faster than the plugin takes it in.
    #[error("the list changes faster than the plugin takes it in")]
    Overtaken,
}

impl From<UpdateError> for CreateError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Fault(fault) => Self::Fault(fault),
            UpdateError::TakesLong => Self::TakesLong,
        }
    }
}

/// Where a balancer is made or told of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a worker, where requests wait meanwhile: a few milliseconds, and what takes longer is given up there.
    Worker,
    /// Where no request waits: as long as the limit of the plugin says.
    Beside,
}

/// The state of one upstream in one worker, or on its way there. Synchronous.
pub trait Balancer {
    /// Applies changes in order. `reset` says that they are the beginning of a full list. `snapshot` is what they
    /// lead to: statistics are read from it while the call lasts.
    fn update(
        &mut self,
        place: Place,
        reset: bool,
        changes: &[Change],
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<(), UpdateError>;

    /// Picks a slot; none says that nothing suits this request. `snapshot` is what the balancer has caught up with:
    /// statistics are read from it while the call lasts.
    fn pick(
        &mut self,
        request: &PickRequest<'_>,
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<Option<Slot>, Fault>;
}

/// A balancer and what it needs. Dropping it never calls into a plugin for longer than requests may wait.
pub type Made = (Box<dyn Balancer>, Needs);

/// A balancer that shares nothing with any other, so that it may go to another thread.
pub type MadeAlone = (Box<dyn Balancer + Send>, Needs);

/// A selector on one worker: makes balancers. Not `Send`.
pub trait WorkerSelector {
    /// Makes a balancer for an upstream; log lines carry its name. Calls into the plugin.
    fn create_for(
        &self,
        place: Place,
        upstream: Option<&UpstreamName>,
        settings: &str,
    ) -> Result<Made, CreateError>;

    /// Has an instance ready for balancers, if to make one takes longer than requests may wait. It is then made beside
    /// them, and to make a balancer takes long until that is done.
    fn warm_up<'a>(&'a self) -> Pin<Box<dyn Future<Output = Result<(), CreateError>> + 'a>> {
        Box::pin(ready(Ok(())))
    }

    /// Makes a balancer for nobody, where nobody waits.
    fn create(&self, settings: &str) -> Result<Made, CreateError> {
        self.create_for(Place::Beside, None, settings)
    }
}

/// A selector as the whole process knows it, in one version.
pub trait Selector: Send + Sync {
    /// The name used in the configuration.
    fn name(&self) -> &str;

    /// A number that no other version of any selector has in this process.
    fn version(&self) -> u64;

    /// This selector on the calling worker. Cheap; an instance is made with the first balancer.
    fn on_worker(self: Arc<Self>) -> Rc<dyn WorkerSelector>;

    /// What makes a balancer alone for the calling worker, on any other thread.
    fn alone(
        self: Arc<Self>,
        upstream: &UpstreamName,
        settings: &str,
    ) -> Box<dyn FnOnce() -> Result<MadeAlone, CreateError> + Send>;

    /// Where to call that.
    fn beside(&self) -> &Arc<Beside>;

    /// Whether a balancer with a list of so many endpoints may be made on a worker: not if that is known to take
    /// long.
    fn is_made_soon(&self, upstream: &UpstreamName, settings: &str, endpoints: usize) -> bool;

    /// Whether so many changes may be told on a worker.
    fn is_told_soon(&self, upstream: &UpstreamName, changes: usize) -> bool;

    /// Whether the plugin has failed so often that the native round robin stands in for it.
    fn quarantined(&self) -> bool;

    /// Counts a fault that only the host could see: a slot that was not offered.
    fn count_fault(&self, fault: &Fault);
}

/// The version of a selector that is in force; none while nothing of its name is loaded.
pub type Current = watch::Receiver<Option<Arc<dyn Selector>>>;

/// The selectors that one worker uses, so that all upstreams with the same plugin share one instance, but for those
/// that are made alone.
#[derive(Default)]
pub struct WorkerSelectors(RefCell<Vec<(u64, Weak<dyn WorkerSelector>)>>);

impl WorkerSelectors {
    /// This worker's instance of a selector. It lives as long as somebody holds it.
    pub fn get(&self, selector: &Arc<dyn Selector>) -> Rc<dyn WorkerSelector> {
        let mut known = self.0.borrow_mut();
        known.retain(|(_, worker)| worker.strong_count() > 0);
        let version = selector.version();
        if let Some(worker) =
            known.iter().find(|(v, _)| *v == version).and_then(|(_, worker)| worker.upgrade())
        {
            return worker;
        }
        let worker = selector.clone().on_worker();
        known.push((version, Rc::downgrade(&worker)));
        worker
    }
}
