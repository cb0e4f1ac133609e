//! What one worker knows: its routes, its views of upstreams, its idle connections.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use super::{
    RequestError,
    door::Door,
    reply::ReplyBody,
    route::{self, Goal, Routes},
    service::{self, Peer},
    spare::Spares,
    tunnel::Leaving,
    upload::RequestBody,
    waits::{Unused, Waits},
};
use crate::{
    catalog::{Catalog, EvidenceSender, Table, Upstream},
    client::Pool,
    config::{ByName, NamePattern, Redirect},
    net::{Meter, Watch},
    resilience::Line,
    selector::{View, WorkerSelectors},
    server::{self, Lineup, Listener, Server},
    syntax::target::HostAndPath,
    telemetry::{Account, ProcessMetrics},
    upstream::{Stats, UpstreamName},
};

/// How often upstreams that were found by name are let go if they are gone.
const SWEEP: Duration = Duration::from_secs(1);

/// What workers serve: one value, so that a listener and its routes change together.
#[derive(Clone)]
pub struct Serving {
    pub table: Arc<Table>,
    pub lineup: Lineup,
}

/// An upstream on this worker.
pub(super) struct Target {
    pub upstream: Arc<Upstream>,
    pub view: Rc<View>,
    /// Where its requests are counted.
    pub account: Rc<Account>,
    /// The way for what they learn of endpoints.
    pub evidence: Rc<EvidenceSender>,
    /// Where requests wait that are too many, if they are limited.
    pub line: Option<Rc<Line>>,
}

/// Where a request goes.
pub(super) enum Lookup {
    Known(Rc<Target>),
    New(Search),
    /// The client is sent elsewhere.
    Elsewhere(Rc<Redirect>),
    /// Nowhere: a browser asks what it may send.
    Preflight(Box<Response<ReplyBody>>),
}

/// A service that is to be found by its name.
pub(super) struct Search {
    by_name: Rc<ByName>,
    service: Arc<str>,
}

/// What one worker knows. Never leaves its thread.
pub(super) struct Worker {
    pub index: usize,
    pub pool: Rc<Pool<RequestBody>>,
    pub spares: Spares,
    /// Where requests are counted that reach no upstream.
    pub unrouted: Rc<Account>,
    watch: Rc<Watch>,
    unused_waits: Rc<Unused>,
    catalog: Catalog,
    selectors: Rc<WorkerSelectors>,
    routes: RefCell<Rc<Routes<Rc<Target>>>>,
    configured: RefCell<HashMap<UpstreamName, Rc<Target>>>,
    /// By address, of listeners that there are, and of those that the last change took away: clients may still come
    /// out of their queues.
    doors: RefCell<HashMap<SocketAddr, Rc<Door>>>,
    /// By registry.
    found: RefCell<FxHashMap<Arc<str>, Services>>,
    /// There is something to let go again some day.
    found_one: Notify,
}

type Services = FxHashMap<Arc<str>, Found>;

/// A service that was found by its name.
struct Found {
    target: Rc<Target>,
    /// Those that accept its name, of the routes that asked for it.
    accepted_by: Vec<NamePattern>,
}

/// Serves what it is told to, until nobody tells it anything any more and all connections have ended. What of a catalog
/// is found by name is served beside it.
///
/// One call per worker, on the worker's own thread.
pub async fn run_worker(
    index: usize,
    serving: watch::Receiver<Serving>,
    catalog: Catalog,
    metrics: Arc<ProcessMetrics>,
) {
    metrics.worker(index, tokio::runtime::Handle::current());
    let worker = Rc::new(Worker::new(index, catalog, &metrics));
    let behind = worker.clone();
    let answers = move |listener: &Listener, connection: &Rc<server::ConnInfo>| {
        let (door, settings) = (behind.door(listener), listener.settings.clone());
        let peer = Rc::new(Peer::new(behind.clone(), settings, door, connection));
        move |arrival| service::answer(&peer, arrival)
    };
    let server = Rc::new(Server::new(index, worker.watch.clone(), answers));
    let follower = server.clone();
    let follow = move || follow(worker.clone(), follower.clone(), serving.clone());
    let following = tokio::task::spawn_local(server::supervised("tables", follow));
    server.ended().await;
    following.abort();
}

/// Takes over every new table and its listeners, and lets go what is gone.
async fn follow(worker: Rc<Worker>, server: Rc<Server>, mut serving: watch::Receiver<Serving>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    serving.mark_changed();
    loop {
        let holds = !worker.found.borrow().is_empty();
        tokio::select! {
            changed = serving.changed(), if open => {
                if changed.is_err() {
                    open = false;
                    server.close();
                    continue;
                }
                let Serving { table, lineup } = serving.borrow_and_update().clone();
                worker.install(&table, &lineup).await;
                server.follow(&lineup);
                worker.renew().await;
            }
            _ = ticks.tick(), if holds => worker.renew().await,
            // The next time round it ticks.
            () = worker.found_one.notified(), if !holds => {}
        }
    }
}

impl Worker {
    fn new(index: usize, catalog: Catalog, metrics: &ProcessMetrics) -> Self {
        Self {
            index,
            pool: Pool::new(),
            spares: Spares::default(),
            unrouted: Rc::new(Account { metrics: metrics.unrouted.clone(), worker: index }),
            watch: Rc::default(),
            unused_waits: Rc::default(),
            catalog,
            selectors: Rc::default(),
            routes: RefCell::new(Rc::new(Routes::empty())),
            configured: RefCell::default(),
            doors: RefCell::default(),
            found: RefCell::default(),
            found_one: Notify::new(),
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
        goal: &Goal<Rc<Target>>,
        head: &Parts,
        asked: &HostAndPath,
    ) -> Result<Lookup, RequestError> {
        match goal {
            Goal::Shares(shares) => {
                Goal::draw(shares).cloned().map(Lookup::Known).ok_or(RequestError::NoUpstream)
            }
            Goal::Redirect(to) => Ok(Lookup::Elsewhere(to.clone())),
            Goal::ByName(by_name) => {
                let asked = route::service(by_name, head, asked).ok_or(RequestError::UnknownService)?;
                let (service, is_sure) = route::registered(by_name, asked);
                if let Some(target) = self.known(by_name, service, is_sure) {
                    return Ok(Lookup::Known(target));
                }
                if !is_sure && !by_name.pattern.accepts(service) {
                    return Err(RequestError::UnknownService);
                }
                Ok(Lookup::New(Search { by_name: by_name.clone(), service: service.into() }))
            }
        }
    }

    /// A service that was found, for a route that accepts its name: whoever found it may be another one.
    fn known(&self, by_name: &ByName, service: &str, is_sure: bool) -> Option<Rc<Target>> {
        let mut found = self.found.borrow_mut();
        let Found { target, accepted_by } = found.get_mut(&by_name.registry)?.get_mut(service)?;
        if target.view.is_closed() {
            return None;
        }
        if !is_sure && !accepted_by.contains(&by_name.pattern) {
            if !by_name.pattern.accepts(service) {
                return None;
            }
            accepted_by.push(by_name.pattern.clone());
        }
        Some(target.clone())
    }

    /// Waits until the registry has told the service's first list.
    pub(super) async fn find(&self, search: Search) -> Result<Rc<Target>, RequestError> {
        let Search { by_name, service } = search;
        let upstream = self.catalog.find(&by_name, service.clone()).await?;
        // Another request may have found it meanwhile.
        if let Some(target) = self.known(&by_name, &service, true)
            && Arc::ptr_eq(&target.upstream, &upstream)
        {
            return Ok(target);
        }
        Ok(self.put_found(by_name.registry.clone(), service, upstream))
    }

    /// A listener, as those see it who come by it.
    fn door(&self, listener: &Listener) -> Rc<Door> {
        let new = || Rc::new(Door::new(listener.settings.name.clone()));
        self.doors.borrow_mut().entry(listener.address()).or_insert_with(new).clone()
    }

    /// Exchanges the routes for those of a table, together with the names of listeners. Upstreams that did not change
    /// keep their views.
    async fn install(&self, table: &Table, lineup: &Lineup) {
        let mut configured = HashMap::with_capacity(table.upstreams.len());
        for (name, upstream) in &table.upstreams {
            let known = self.configured.borrow().get(name).cloned();
            let target = match known {
                Some(target) if Arc::ptr_eq(&target.upstream, upstream) => target,
                known => {
                    // A view costs a call into a selector; requests go on between two of them.
                    tokio::task::yield_now().await;
                    self.make(upstream.clone(), known.as_deref())
                }
            };
            configured.insert(name.clone(), target);
        }
        let routes = Routes::new(&table.config, &table.rates, |name| configured.get(name).cloned());
        let before = self.routes.replace(Rc::new(routes));
        let mut doors = self.doors.borrow_mut();
        doors.retain(|_, door| !door.is_closed());
        for (address, door) in &*doors {
            match lineup.listeners.iter().find(|listener| listener.address() == *address) {
                Some(listener) => door.rename(&listener.settings.name),
                None => door.close(&before),
            }
        }
        self.configured.replace(configured);
        // There may be others now.
        let mut found = self.found.borrow_mut();
        found.values_mut().flat_map(HashMap::values_mut).for_each(|found| found.accepted_by.clear());
    }

    /// An upstream as it is now, in the place of what it was before.
    fn make(&self, upstream: Arc<Upstream>, before: Option<&Target>) -> Rc<Target> {
        let progress = upstream.progress.get(self.index).cloned().unwrap_or_default();
        let view = View::new(
            upstream.reader.clone(),
            upstream.config.selector.clone(),
            upstream.selector.clone(),
            self.selectors.clone(),
            progress,
        );
        let account = Rc::new(Account { metrics: upstream.metrics.clone(), worker: self.index });
        let evidence = Rc::new(upstream.evidence());
        let line = self.line(&upstream, before);
        Rc::new(Target { upstream, view, account, evidence, line })
    }

    /// Whoever waits goes on waiting when other limits are put in force.
    fn line(&self, upstream: &Upstream, before: Option<&Target>) -> Option<Rc<Line>> {
        let (gate, limits) = (upstream.gate.as_ref()?, upstream.config.limits?);
        gate.set_bounds(limits.bounds);
        let line =
            before.and_then(|before| before.line.clone()).filter(|line| Arc::ptr_eq(line.gate(), gate));
        Some(line.unwrap_or_else(|| Rc::new(Line::new(gate.clone(), self.index))))
    }

    /// Takes over what the catalog says of services that were found by name, and drops what it has dropped.
    async fn renew(&self) {
        let current = self.catalog.found();
        let mut changed = Vec::new();
        self.found.borrow_mut().retain(|registry, services| {
            services.retain(|service, Found { target, .. }| match current.get(target.upstream.name()) {
                Some(upstream) if Arc::ptr_eq(upstream, &target.upstream) => true,
                // It goes on with other settings, or it was gone and is there again.
                Some(upstream) => {
                    changed.push((registry.clone(), service.clone(), upstream.clone()));
                    true
                }
                None => false,
            });
            !services.is_empty()
        });
        for (registry, service, upstream) in changed {
            tokio::task::yield_now().await;
            self.put_found(registry, service, upstream);
        }
    }

    /// A service that was found, in the place of what it was before.
    fn put_found(&self, registry: Arc<str>, service: Arc<str>, upstream: Arc<Upstream>) -> Rc<Target> {
        let before = {
            let found = self.found.borrow();
            let before = found.get(&registry).and_then(|services| services.get(&service));
            before.map(|before| before.target.clone())
        };
        let target = self.make(upstream, before.as_deref());
        let mut found = self.found.borrow_mut();
        if found.is_empty() {
            self.found_one.notify_one();
        }
        found
            .entry(registry)
            .or_default()
            .insert(service, Found { target: target.clone(), accepted_by: Vec::new() });
        target
    }
}
