//! Which upstreams run: the configured ones, and those found by name in requests.
//!
//! One task owns the set. It starts and ends the sources of each upstream and publishes the table that workers and
//! the admin API read.

mod upstream;

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, oneshot, watch};

pub use self::upstream::Upstream;
use crate::{
    config::{ByName, Config},
    upstream::UpstreamName,
};

/// What runs, as one immutable value.
#[derive(Clone)]
pub struct Table {
    pub config: Arc<Config>,
    /// The configured upstreams.
    pub upstreams: HashMap<UpstreamName, Arc<Upstream>>,
}

/// Why a name led to no upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The registry answered, completely, that it knows no such service.
    #[error("no service {0:?} in the registry")]
    Unknown(Arc<str>),
    /// So many services are followed already.
    #[error("too many services are followed at once (max_services = {0})")]
    TooMany(usize),
    /// No list within the time a first request waits.
    #[error("no list of service {0:?} yet")]
    NotYet(Arc<str>),
    /// The gateway is shutting down.
    #[error("the gateway is shutting down")]
    Closing,
}

pub(crate) struct Wanted {
    pub route: ByName,
    pub service: Arc<str>,
    pub answer: oneshot::Sender<Result<Arc<Upstream>, FindError>>,
}

/// The handle that workers and the admin API hold.
#[derive(Clone)]
pub struct Catalog {
    table: watch::Receiver<Arc<Table>>,
    found: watch::Receiver<Arc<HashMap<UpstreamName, Arc<Upstream>>>>,
    wanted: mpsc::Sender<Wanted>,
}

impl Catalog {
    /// What runs now.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Tells of every table that comes after this call.
    pub fn tables(&self) -> watch::Receiver<Arc<Table>> {
        let mut table = self.table.clone();
        table.mark_unchanged();
        table
    }

    /// The upstreams that exist because a request asked for them.
    pub fn found(&self) -> Arc<HashMap<UpstreamName, Arc<Upstream>>> {
        self.found.borrow().clone()
    }

    /// The upstream of a service that a request names; followed from now on if it was not.
    ///
    /// Waits for its first list, at most `first_list_timeout`. Dropping the future gives up the wait, not the
    /// service. The name must have been checked against the pattern.
    pub async fn find(&self, route: &ByName, service: Arc<str>) -> Result<Arc<Upstream>, FindError> {
        let (answer, found) = oneshot::channel();
        let wanted = Wanted { route: route.clone(), service, answer };
        self.wanted.try_send(wanted).map_err(|_| FindError::TooMany(route.max_services))?;
        found.await.unwrap_or(Err(FindError::Closing))
    }
}
