//! The rule that chooses an endpoint for a request: the seam where Wasm plugins and the native fallback meet.

mod keys;
mod native;
mod view;

pub use keys::{Key, KeyError, RequestFacts};
pub use native::RoundRobin;
pub use view::{PickError, Progress, View};

use std::{
    cell::RefCell,
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
}

/// The state of one upstream in one worker. Synchronous and not `Send`: it never leaves its worker.
pub trait Balancer {
    /// Applies changes in order. `reset` says that they are the beginning of a full list. `snapshot` is what they
    /// lead to: statistics are read from it while the call lasts.
    fn update(&mut self, reset: bool, changes: &[Change], snapshot: &Rc<Arc<Snapshot>>) -> Result<(), Fault>;

    /// Picks a slot; none says that nothing suits this request. `snapshot` is what the balancer has caught up with:
    /// statistics are read from it while the call lasts.
    fn pick(
        &mut self,
        request: &PickRequest<'_>,
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<Option<Slot>, Fault>;
}

/// A selector on one worker: makes balancers. Not `Send`.
pub trait WorkerSelector {
    /// Makes a balancer for one upstream. Calls into the plugin, bounded by its deadline.
    fn create(&self, settings: &str) -> Result<(Box<dyn Balancer>, Needs), CreateError>;

    /// The same for an upstream with a name, which log lines carry.
    fn create_for(
        &self,
        upstream: &UpstreamName,
        settings: &str,
    ) -> Result<(Box<dyn Balancer>, Needs), CreateError> {
        let _ = upstream;
        self.create(settings)
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

    /// Whether the plugin has failed so often that the native round robin stands in for it.
    fn quarantined(&self) -> bool;

    /// Counts a fault that only the host could see: a slot that was not offered.
    fn count_fault(&self, fault: &Fault);
}

/// The version of a selector that is in force; none while nothing of its name is loaded.
pub type Current = watch::Receiver<Option<Arc<dyn Selector>>>;

/// The selectors that one worker uses, so that all upstreams with the same plugin share one instance.
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
