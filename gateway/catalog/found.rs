//! Upstreams that exist because a request named them: bounded in number, forgotten when unused.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{FindError, Parts, Upstream, Wanted, feed::Feed};
use crate::{
    config::{self, ByName, Config},
    upstream::{Origin, Status, UpstreamName},
};

/// Unknown names remembered. More than these are asked for again.
const UNKNOWN_MOST: usize = 10_000;

/// Services of a registry that are followed without ever having had a list. Anybody can make up names, so one more takes
/// the place of the oldest.
const UNHEARD_MOST: usize = 100;

/// How long a service that is asked for again waits until what followed it before has ended.
const ENDING: Duration = Duration::from_secs(5);

type Answer = oneshot::Sender<Result<Arc<Upstream>, FindError>>;

/// The set of upstreams found by name. Owned by the catalog's task.
pub(super) struct FoundUpstreams {
    running: HashMap<UpstreamName, Running>,
    unknown: HashMap<UpstreamName, Instant>,
    /// What is not followed any more and writes its last list.
    ending: HashMap<UpstreamName, JoinHandle<()>>,
    published: watch::Sender<Arc<HashMap<UpstreamName, Arc<Upstream>>>>,
    /// Names whose registries turned out not to know them.
    unknowns: mpsc::UnboundedSender<(UpstreamName, Duration)>,
}

struct Running {
    upstream: Arc<Upstream>,
    feed: Feed,
    started: Instant,
    /// Whether it has ever had a list, be it from disk. Looked for when it matters.
    listed: bool,
    unused_after: Duration,
    unknown_for: Duration,
}

impl Running {
    /// Whether it has ever had a list.
    fn is_listed(&mut self) -> bool {
        self.listed |=
            self.upstream.reader.snapshot().generation() > 0 || self.upstream.status().has_instances();
        self.listed
    }

    /// Takes over what a configuration says of it. False: it cannot, and is to be found anew when it is asked for.
    fn takes_over(&mut self, config: &Config, parts: &Parts) -> bool {
        let before = &self.upstream.config;
        let of_route =
            |route: &&ByName| before.sources.iter().all(|source| source.registry == route.registry);
        // All routes to one registry say the same of the services there.
        let Some(route) = routes_by_name(config).find(of_route) else { return false };
        let settings = settings(route, before.name.clone(), before.sources.clone());
        if !self.feed.suits(&settings, config) {
            return false;
        }
        if settings != **before {
            let selector = (parts.selector)(&settings.selector.plugin);
            let tls = parts.tls(&settings);
            self.upstream = Arc::new(self.upstream.with_config(Arc::new(settings), selector, tls));
            self.feed.configure(&self.upstream, config);
        }
        (self.unused_after, self.unknown_for) = (route.unused_after, route.unknown_for);
        true
    }

    fn is_unused(&mut self, now: Instant) -> bool {
        let status = self.upstream.status();
        let live = status.sources.iter().all(|source| source.origin == Origin::Live);
        let patience = match status.is_unknown_service() {
            true => self.unknown_for.min(self.unused_after),
            false => self.unused_after,
        };
        // A frozen list could not be had again; what has none can.
        let replaceable = live || !self.is_listed();
        replaceable && self.upstream.unused(now) >= patience
    }
}

impl FoundUpstreams {
    pub(super) fn new(
        published: watch::Sender<Arc<HashMap<UpstreamName, Arc<Upstream>>>>,
    ) -> (Self, mpsc::UnboundedReceiver<(UpstreamName, Duration)>) {
        let (unknowns, told) = mpsc::unbounded_channel();
        let (running, unknown, ending) = (HashMap::new(), HashMap::new(), HashMap::new());
        (Self { running, unknown, ending, published, unknowns }, told)
    }

    /// Answers at once when it can; otherwise when the first list is there or the request's time is over.
    pub(super) async fn find(&mut self, wanted: Wanted, config: &Config, parts: &Parts) {
        let Wanted { route, service, answer } = wanted;
        let name = UpstreamName::by_name(&service, &route.registry);
        let now = Instant::now();
        if self.unknown.get(&name).is_some_and(|until| *until > now) {
            return reply(answer, Err(FindError::Unknown(service)));
        }
        if !self.running.contains_key(&name) {
            if !self.make_room(&route, parts.disk.has(&name)) {
                return reply(answer, Err(FindError::TooMany(route.max_services)));
            }
            if let Some(ending) = self.ending.remove(&name) {
                // What it has not written by then is not waited for.
                let _ = tokio::time::timeout(ENDING, ending).await;
            }
            match self.start(&name, &route, &service, config, parts).await {
                Some(running) => self.running.insert(name.clone(), running),
                None => return reply(answer, Err(FindError::Closing)),
            };
            self.publish();
        }
        let Some(running) = self.running.get(&name) else { return reply(answer, Err(FindError::Closing)) };
        running.upstream.touch(now);
        tokio::spawn(answer_when_known(
            running.upstream.clone(),
            running.feed.status(),
            route,
            service,
            answer,
            self.unknowns.clone(),
        ));
    }

    async fn start(
        &self,
        name: &UpstreamName,
        route: &ByName,
        service: &Arc<str>,
        config: &Config,
        parts: &Parts,
    ) -> Option<Running> {
        let source = config::Source { registry: route.registry.clone(), service: service.clone() };
        let settings = settings(route, name.clone(), vec![source]);
        let feed = Feed::start(name.clone(), &settings, config, parts, None).await?;
        let selector = (parts.selector)(&settings.selector.plugin);
        let (reader, owner) = (feed.reader.clone(), feed.owner_side.clone());
        let (tls, workers) = (parts.tls(&settings), parts.workers);
        let upstream = Arc::new(Upstream::new(Arc::new(settings), reader, owner, selector, tls, workers));
        let (unused_after, unknown_for) = (route.unused_after, route.unknown_for);
        let mut running =
            Running { upstream, feed, started: Instant::now(), listed: false, unused_after, unknown_for };
        running.is_listed();
        Some(running)
    }

    /// Says whether one more service of a registry may be followed, and makes room for it. `listed` says that there is a
    /// list of it on disk.
    ///
    /// Services that have had a list fill what the route allows. The others have what these leave, and no more than a
    /// few: one of them gives way to whoever comes next, so that made-up names keep nobody out.
    fn make_room(&mut self, route: &ByName, listed: bool) -> bool {
        let mut known = 0;
        let mut unheard: Vec<(Instant, &UpstreamName)> = Vec::new();
        for (name, running) in &mut self.running {
            if running.upstream.config.sources.iter().all(|source| source.registry != route.registry) {
                continue;
            }
            match running.is_listed() {
                true => known += 1,
                false => unheard.push((running.started, name)),
            }
        }
        let Some(free) = route.max_services.checked_sub(known).filter(|free| *free > 0) else { return false };
        let most = if listed { free - 1 } else { free.min(UNHEARD_MOST) - 1 };
        unheard.sort_unstable();
        let too_many = unheard.len().saturating_sub(most);
        let oldest: Vec<UpstreamName> = unheard.drain(..too_many).map(|(_, name)| name.clone()).collect();
        for name in oldest {
            tracing::debug!(upstream = %name, "Service without a list gives way to another, no longer followed");
            if let Some(running) = self.running.remove(&name) {
                self.ending.insert(name, tokio::spawn(running.feed.end()));
            }
        }
        true
    }

    /// A registry has answered that it knows no such service.
    pub(super) fn forget_unknown(&mut self, name: UpstreamName, unknown_for: Duration) {
        // It may have appeared meanwhile.
        if self.running.get(&name).is_none_or(|running| !running.upstream.status().is_unknown_service()) {
            return;
        }
        if let Some(running) = self.running.remove(&name)
            && running.feed.is_saved()
        {
            self.ending.insert(name.clone(), running.feed.discard());
        }
        let now = Instant::now();
        if self.unknown.len() >= UNKNOWN_MOST {
            self.unknown.retain(|_, until| *until > now);
        }
        if self.unknown.len() < UNKNOWN_MOST {
            self.unknown.insert(name, now + unknown_for);
        }
        self.publish();
    }

    /// Whether there is nothing that a sweep could drop.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.unknown.is_empty() && self.ending.is_empty()
    }

    /// Drops what nobody uses, while its list is live: a frozen list could not be had again.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        self.unknown.retain(|_, until| *until > now);
        self.ending.retain(|_, ending| !ending.is_finished());
        let unused: Vec<_> = self.running.extract_if(|_, running| running.is_unused(now)).collect();
        if unused.is_empty() {
            return;
        }
        for (name, running) in unused {
            tracing::info!(upstream = %name, "Service not used any more, no longer followed");
            self.ending.insert(name, running.feed.discard());
        }
        self.publish();
    }

    /// Ends all feeds and waits until their lists are written.
    pub(super) async fn end(self) {
        for running in self.running.into_values() {
            running.feed.end().await;
        }
        for ending in self.ending.into_values() {
            // An error would be a panic, which has been reported where it happened.
            let _ = ending.await;
        }
    }

    /// Another configuration is in force. What goes on keeps its list and its counts; the rest is dropped, and found anew
    /// when it is asked for.
    pub(super) fn reconcile(&mut self, config: &Config, parts: &Parts) {
        let over: Vec<_> = self.running.extract_if(|_, running| !running.takes_over(config, parts)).collect();
        self.unknown.clear();
        for (name, running) in over {
            self.ending.insert(name, tokio::spawn(running.feed.end()));
        }
        self.publish();
    }

    fn publish(&self) {
        let all = self.running.iter().map(|(name, running)| (name.clone(), running.upstream.clone()));
        self.published.send_replace(Arc::new(all.collect()));
    }
}

fn routes_by_name(config: &Config) -> impl Iterator<Item = &ByName> {
    config.targets().filter_map(|target| match target {
        config::Target::ByName(by_name) => Some(by_name),
        _ => None,
    })
}

/// Those of a service that a route finds.
fn settings(route: &ByName, name: UpstreamName, sources: Vec<config::Source>) -> config::Upstream {
    config::Upstream { name, sources, ..config::Upstream::clone(&route.template) }
}

async fn answer_when_known(
    upstream: Arc<Upstream>,
    mut status: watch::Receiver<Arc<Status>>,
    route: ByName,
    service: Arc<str>,
    answer: Answer,
    unknowns: mpsc::UnboundedSender<(UpstreamName, Duration)>,
) {
    let known = |status: &Arc<Status>| {
        !upstream.reader.snapshot().is_empty() || status.drained || status.is_unknown_service()
    };
    let waited = tokio::time::timeout(route.first_list_timeout, status.wait_for(known)).await;
    let unknown = waited.is_ok_and(|status| status.is_ok_and(|status| status.is_unknown_service()));
    if unknown {
        // Nobody listens only when the gateway is shutting down.
        let _ = unknowns.send((upstream.name().clone(), route.unknown_for));
        return reply(answer, Err(FindError::Unknown(service)));
    }
    match upstream.reader.snapshot().is_empty() && !upstream.status().drained {
        true => reply(answer, Err(FindError::NotYet(service))),
        false => reply(answer, Ok(upstream)),
    }
}

fn reply(answer: Answer, found: Result<Arc<Upstream>, FindError>) {
    // A client that has gone wants no answer.
    let _ = answer.send(found);
}
