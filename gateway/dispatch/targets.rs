//! The upstreams as one worker sees them: those of the configuration, and those that were found by their names.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{Goal, NotDispatched};
use crate::{
    catalog::{Catalog, EvidenceSender, Table, Upstream},
    config::{ByName, NamePattern},
    resilience::Line,
    selector::{View, WorkerSelectors},
    telemetry::Account,
    upstream::UpstreamName,
};

/// How often upstreams that were found by name are let go if they are gone.
const SWEEP: Duration = Duration::from_secs(1);

/// An upstream on this worker.
pub struct Target {
    pub upstream: Arc<Upstream>,
    pub view: Rc<View>,
    /// Where what reaches it is counted that takes no route of HTTP.
    pub account: Rc<Account>,
    /// Where requests are counted, by the route that they took.
    accounts: RefCell<FxHashMap<Arc<str>, Rc<Account>>>,
    /// The way for what they learn of endpoints.
    pub evidence: Rc<EvidenceSender>,
    /// Where requests wait that are too many, if they are limited.
    pub line: Option<Rc<Line>>,
}

impl Target {
    /// Where the requests are counted that took this route.
    pub fn account_of(&self, route: &Arc<str>) -> Rc<Account> {
        let mut accounts = self.accounts.borrow_mut();
        if let Some(account) = accounts.get(route) {
            return account.clone();
        }
        let times = Some(self.upstream.metrics.times_of(route));
        let account = Rc::new(Account { times, ..(*self.account).clone() });
        accounts.insert(route.clone(), account.clone());
        account
    }
}

/// Where something goes.
pub enum Lookup {
    Known(Rc<Target>),
    New(Search),
}

/// A service that is to be found by its name.
pub struct Search {
    by_name: Rc<ByName>,
    service: Arc<str>,
}

/// What one worker knows of upstreams. Never leaves its thread.
pub struct Targets {
    index: usize,
    catalog: Catalog,
    selectors: Rc<WorkerSelectors>,
    configured: RefCell<HashMap<UpstreamName, Rc<Target>>>,
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

impl Targets {
    pub fn new(index: usize, catalog: Catalog) -> Self {
        Self {
            index,
            catalog,
            selectors: Rc::default(),
            configured: RefCell::default(),
            found: RefCell::default(),
            found_one: Notify::new(),
        }
    }

    /// The upstream that a goal leads to, or the search for a service that nobody has named here before. `asked` is the
    /// name of the service, where it is to be taken from what came.
    pub fn lookup(&self, goal: &Goal<Rc<Target>>, asked: Option<&str>) -> Result<Lookup, NotDispatched> {
        let by_name = match goal {
            Goal::Shares(shares) => {
                return Goal::draw(shares).cloned().map(Lookup::Known).ok_or(NotDispatched::NoUpstream);
            }
            Goal::ByName(by_name) => by_name,
        };
        let asked = asked.ok_or(NotDispatched::UnknownService)?;
        // What the registry calls it, and whether the operator said so.
        let (service, is_sure) = by_name.services.get(asked).map_or((asked, false), |of| (&**of, true));
        if let Some(target) = self.known(by_name, service, is_sure) {
            return Ok(Lookup::Known(target));
        }
        if !is_sure && !by_name.pattern.accepts(service) {
            return Err(NotDispatched::UnknownService);
        }
        Ok(Lookup::New(Search { by_name: by_name.clone(), service: service.into() }))
    }

    /// A configured upstream.
    pub fn get(&self, name: &UpstreamName) -> Option<Rc<Target>> {
        self.configured.borrow().get(name).cloned()
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
    pub async fn find(&self, search: Search) -> Result<Rc<Target>, NotDispatched> {
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

    /// Takes over the upstreams of a table. Those that did not change keep their views.
    pub async fn install(&self, table: &Table) {
        let mut configured = HashMap::with_capacity(table.upstreams.len());
        for (name, upstream) in &table.upstreams {
            let known = self.get(name);
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
        self.configured.replace(configured);
        // There may be others now.
        let mut found = self.found.borrow_mut();
        found.values_mut().flat_map(HashMap::values_mut).for_each(|found| found.accepted_by.clear());
    }

    /// Waits until services that were found may have changed: a while if there are any, else until there is one.
    pub async fn may_have_changed(&self) {
        let next = Instant::now() + SWEEP;
        if self.found.borrow().is_empty() {
            self.found_one.notified().await;
        }
        sleep_until(next).await;
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
        let account = Rc::new(Account { metrics: upstream.metrics.clone(), worker: self.index, times: None });
        let evidence = Rc::new(upstream.evidence());
        let line = self.line(&upstream, before);
        Rc::new(Target { upstream, view, account, accounts: RefCell::default(), evidence, line })
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
    pub async fn renew(&self) {
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
