//! What one worker needs to answer requests: its routes, its upstreams, its idle connections.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};

use super::{
    RequestError,
    door::Door,
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
    server::{Carries, ConnInfo, Lineup, Listener, Server},
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
    /// By address, of listeners that there are, and of those that the last change took away: clients may still come
    /// out of their queues.
    doors: RefCell<HashMap<SocketAddr, Rc<Door>>>,
}

impl Worker {
    pub fn new(index: usize, targets: Rc<Targets>, watch: Rc<Watch>, metrics: &ProcessMetrics) -> Self {
        Self {
            index,
            pool: Pool::new(),
            spares: Spares::default(),
            unrouted: Rc::new(Account { metrics: metrics.unrouted.clone(), worker: index, times: None }),
            watch,
            unused_waits: Rc::default(),
            targets,
            routes: RefCell::new(Rc::new(Routes::empty())),
            doors: RefCell::default(),
        }
    }

    /// What answers requests, and has the connections of listeners that are for TCP carried.
    pub fn server(self: &Rc<Self>, carries: Rc<dyn Carries>) -> Server {
        let worker = self.clone();
        let answers = move |listener: &Listener, connection: &Rc<ConnInfo>| {
            let peer = Rc::new(Peer::new(worker.clone(), listener, worker.door(listener), connection));
            move |arrival| service::answer(&peer, arrival)
        };
        Server::new(self.index, self.watch.clone(), answers, Some(carries))
    }

    /// A listener, as those see it who come by it.
    fn door(&self, listener: &Listener) -> Rc<Door> {
        let new = || Rc::new(Door::new(listener.settings.name.clone()));
        self.doors.borrow_mut().entry(listener.address()).or_insert_with(new).clone()
    }

    /// Exchanges the routes for those of a table whose upstreams have been taken over, together with the names of
    /// listeners.
    pub fn install(&self, table: &Table, lineup: &Lineup) {
        let routes = Routes::new(&table.config, &table.rates, |name| self.targets.get(name));
        let before = self.routes.replace(Rc::new(routes));
        let mut doors = self.doors.borrow_mut();
        doors.retain(|_, door| !door.is_closed());
        for (address, door) in &*doors {
            match lineup.listeners.iter().find(|listener| listener.address() == *address) {
                Some(listener) => door.rename(&listener.settings.name),
                None => door.close(&before),
            }
        }
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
