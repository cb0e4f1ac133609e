//! Which upstreams run: the configured ones, and those found by name in requests.
//!
//! One task owns the set. It starts and ends the sources of each upstream and publishes the table that workers and
//! the admin API read.

mod feed;
mod fixed;
mod found;
mod task;
#[cfg(test)]
mod tests;
mod upstream;

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use self::{
    fixed::Fixed,
    task::Control,
    upstream::{EvidenceSender, Upstream},
};
use crate::{
    config::{self, ByName, Config},
    net::ProxyVersion,
    registry::{Intake, Registry},
    resilience::RateTable,
    selector, tls,
    upstream::{Disk, Event, Reader, Suspects, UpstreamName},
};

/// Makes the registry of one source.
pub type MakeRegistry = dyn Fn(&Arc<config::Registry>) -> Arc<dyn Registry> + Send + Sync;

/// Begins to ask the endpoints of a reader's upstream, and the suspects, whether they answer. Aborting the task ends it.
pub type StartChecks = dyn Fn(
        Reader,
        watch::Receiver<Arc<Suspects>>,
        watch::Receiver<Arc<Asking>>,
        mpsc::Sender<Event>,
    ) -> JoinHandle<()>
    + Send
    + Sync;

/// How the endpoints of an upstream are asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asking {
    pub check: config::Check,
    pub tls: Option<Arc<tls::Client>>,
    /// Whether they are told with a PROXY header that it is the gateway who asks.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// What upstreams are made of. Closures, because what they make stands below, and so that tests can put in registries
/// and selectors of their own.
pub struct Parts {
    /// The selector plugin of this name, in whatever version is in force.
    pub selector: Box<dyn Fn(&str) -> selector::Current + Send + Sync>,
    pub registry: Box<MakeRegistry>,
    pub checks: Box<StartChecks>,
    /// How addresses of registries are read.
    pub intake: Intake,
    /// Where policies of TLS come from.
    pub tls: Arc<tls::Files>,
    /// Where the last good lists are.
    pub disk: Disk,
    pub workers: usize,
}

impl Parts {
    /// The policy by which the endpoints of an upstream are spoken to. None: without TLS.
    fn tls(&self, upstream: &config::Upstream) -> Option<Arc<tls::Client>> {
        upstream.tls.as_ref().map(|settings| self.tls.client(settings))
    }
}

/// What runs, as one immutable value.
#[derive(Clone)]
pub struct Table {
    pub config: Arc<Config>,
    /// The configured upstreams.
    pub upstreams: HashMap<UpstreamName, Arc<Upstream>>,
    /// Who has sent how much, in the order of the routes; none for those without a rate.
    pub rates: Vec<Option<Arc<RateTable>>>,
}

impl Table {
    /// A table after another one: what its routes remember of clients goes on.
    pub fn new(
        config: Arc<Config>,
        upstreams: HashMap<UpstreamName, Arc<Upstream>>,
        before: Option<&Self>,
    ) -> Self {
        let known = |route: &config::Route, rate: &config::RouteRate| {
            let before = before?;
            let same = |other: &config::Route| {
                other.matches == route.matches
                    && other
                        .rate
                        .as_ref()
                        .is_some_and(|of| (&of.by, of.max_keys) == (&rate.by, rate.max_keys))
            };
            before.rates.get(before.config.routes.iter().position(same)?)?.clone()
        };
        let table = |route: &config::Route| {
            let rate = route.rate.as_ref()?;
            Some(known(route, rate).unwrap_or_else(|| Arc::new(RateTable::new(rate.max_keys))))
        };
        let rates = config.routes.iter().map(table).collect();
        Self { config, upstreams, rates }
    }
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

struct Wanted {
    route: ByName,
    service: Arc<str>,
    answer: oneshot::Sender<Result<Arc<Upstream>, FindError>>,
}

/// The handle that workers and the admin API hold.
#[derive(Clone)]
pub struct Catalog {
    table: watch::Receiver<Arc<Table>>,
    found: watch::Receiver<Arc<HashMap<UpstreamName, Arc<Upstream>>>>,
    wanted: mpsc::Sender<Wanted>,
    /// For names of which nobody knows whether there is such a service.
    strange: mpsc::Sender<Wanted>,
    disk: Option<Disk>,
}

impl Catalog {
    /// Starts with nothing in it; [`Control::apply`] fills it. Must be called on the control runtime. `config` is
    /// what the first table says until then.
    pub fn start(parts: Parts, config: Arc<Config>) -> (Self, Control) {
        task::start(parts, config)
    }

    /// What runs now.
    pub fn table(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Waits until every configured upstream has its first list, or had its chance.
    pub async fn first_lists(&self) {
        let waits = self.table().upstreams.values().map(|upstream| upstream.first_list()).collect::<Vec<_>>();
        let mut waits: tokio::task::JoinSet<()> = waits.into_iter().collect();
        while waits.join_next().await.is_some() {}
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
        let name = UpstreamName::by_name(&service, &route.registry);
        if let Some(upstream) =
            self.found.borrow().get(&name).filter(|upstream| !upstream.reader.snapshot().is_empty())
        {
            upstream.touch(Instant::now());
            return Ok(upstream.clone());
        }
        // Only the first request to a service gets here.
        let queue = match self.disk.as_ref().is_some_and(|disk| disk.has(&name)) {
            true => &self.wanted,
            false => &self.strange,
        };
        let (answer, found) = oneshot::channel();
        let wanted = Wanted { route: route.clone(), service, answer };
        queue.try_send(wanted).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => FindError::TooMany(route.max_services),
            mpsc::error::TrySendError::Closed(_) => FindError::Closing,
        })?;
        found.await.unwrap_or(Err(FindError::Closing))
    }
}
