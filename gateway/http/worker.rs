//! What one worker needs to answer requests: its routes, its upstreams, its idle connections.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};

use super::{
    RequestError,
    reply::ReplyBody,
    route::{self, Leads, Routes},
    service::{self, Peer},
    spare::Spares,
    upload::RequestBody,
    waits::{Unused, Waits},
};
use crate::{
    catalog::Table,
    client::Pool,
    config::Redirect,
    dispatch::{self, Goal, Leaving, Target, Targets},
    net::{Meter, Watch},
    server::{self, Carries, ConnInfo, Listening, Shutdown},
    syntax::target::HostAndPath,
    telemetry::{Account, ProcessMetrics},
    upstream::Stats,
};

/// Where a request goes.
pub(super) enum Lookup {
    To(dispatch::Lookup),
    /// The client is sent elsewhere.
    Elsewhere(Rc<Redirect>),
    /// Nowhere: a browser asks what it may send.
    Preflight(Box<Response<ReplyBody>>),
}

/// Never leaves its thread.
pub struct Worker {
    pub(super) index: usize,
    pub(super) pool: Rc<Pool<RequestBody>>,
    pub(super) spares: Spares,
    /// Where requests are counted that reach no upstream.
    pub(super) unrouted: Rc<Account>,
    watch: Rc<Watch>,
    unused_waits: Rc<Unused>,
    pub(super) targets: Rc<Targets>,
    routes: RefCell<Rc<Routes<Rc<Target>>>>,
}

impl Worker {
    pub fn new(index: usize, targets: Rc<Targets>, watch: Rc<Watch>, metrics: &ProcessMetrics) -> Self {
        Self {
            index,
            pool: Pool::new(),
            spares: Spares::default(),
            unrouted: Rc::new(Account { metrics: metrics.unrouted.clone(), worker: index }),
            watch,
            unused_waits: Rc::default(),
            targets,
            routes: RefCell::new(Rc::new(Routes::empty())),
        }
    }

    /// Serves listeners until the order to close and then until all connections have ended or the bound given with it is
    /// over. `carries` has the connections of those that are for TCP.
    pub async fn serve(
        self: Rc<Self>,
        listenings: Vec<Listening>,
        carries: Rc<dyn Carries>,
        shutdown: Shutdown,
    ) -> io::Result<()> {
        let watch = self.watch.clone();
        let answers = |listening: &Listening| {
            let (worker, listener) = (self.clone(), listening.settings.clone());
            move |connection: &Rc<ConnInfo>| {
                let peer = Rc::new(Peer::new(worker.clone(), listener.clone(), connection));
                move |arrival| service::answer(&peer, arrival)
            }
        };
        server::serve(listenings, answers, Some(carries), shutdown, watch).await
    }

    /// Exchanges the routes for those of a table whose upstreams have been taken over.
    pub fn install(&self, table: &Table) {
        let routes = Routes::new(&table.config, &table.rates, |name| self.targets.get(name));
        self.routes.replace(Rc::new(routes));
    }

    /// The waits of a request that began then, over a connection with this meter.
    pub(super) fn waits(&self, began: Instant, client: &Rc<Meter>) -> Waits {
        self.unused_waits.take(&self.watch, began, client)
    }

    /// What tells when something at an endpoint has to end, so long after that left.
    pub(super) fn leaving(&self, endpoint: &Arc<Stats>, limit: Duration) -> Leaving {
        Leaving::watch(&self.watch, endpoint.clone(), limit)
    }

    /// The routes as they are now; a request keeps them while it needs them.
    pub(super) fn routes(&self) -> Rc<Routes<Rc<Target>>> {
        self.routes.borrow().clone()
    }

    /// The upstream a request goes to, or the search for a service that no request has named here before.
    pub(super) fn target(
        &self,
        leads: &Leads<Rc<Target>>,
        head: &Parts,
        asked: &HostAndPath,
    ) -> Result<Lookup, RequestError> {
        let goal = match leads {
            Leads::To(goal) => goal,
            Leads::Elsewhere(to) => return Ok(Lookup::Elsewhere(to.clone())),
        };
        let asked = match goal {
            Goal::Shares(_) => None,
            Goal::ByName(by_name) => route::service(by_name, head, asked),
        };
        Ok(Lookup::To(self.targets.lookup(goal, asked)?))
    }
}
