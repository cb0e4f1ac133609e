//! What keeps one upstream fed: a watch per source, the checks, and the owner they tell.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{Asking, Parts, Upstream, upstream::ToOwner};
use crate::{
    config::{self, Config},
    connector::Grants,
    registry::{OwnAddresses, Watch, watch},
    tls,
    upstream::{
        Event, Owner, Plan, Policies, Reader, Saved, SavedList, SourceName, Status, TrustPolicy, UpstreamName,
    },
};

/// Events on their way to an owner. A watch that is faster waits.
const EVENTS: usize = 64;

/// Reports of requests on their way to an owner. More are lost.
const REPORTS: usize = 256;

/// How long a list from disk waits for a registry that neither answers nor fails.
const FRESHER: Duration = Duration::from_millis(100);

/// The plugin whose lists stand in the configuration. What the operator writes there is no claim of a registry that may be
/// wrong.
const AS_WRITTEN: &str = "static";

/// The control-plane half of an upstream. Dropping it ends the watches; the owner writes what is not written yet,
/// and the upstream closes.
pub(super) struct Feed {
    pub reader: Reader,
    pub owner_side: ToOwner,
    claimed: Claimed,
    policies: watch::Sender<Arc<Policies>>,
    asking: watch::Sender<Arc<Asking>>,
    watches: Vec<Watch>,
    checks: Checks,
    list: Arc<SavedList>,
    owner: JoinHandle<()>,
}

/// The checks of one upstream. Dropping it ends them.
struct Checks(JoinHandle<()>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a feed depends on: while it is the same, the feed goes on.
#[derive(PartialEq)]
struct Claimed {
    sources: Vec<config::Source>,
    labels: Vec<(String, String)>,
    registries: Vec<Arc<config::Registry>>,
}

impl Claimed {
    fn new(upstream: &config::Upstream, config: &Config) -> Self {
        let registry = |source: &config::Source| config.registries.get(&*source.registry).cloned();
        Self {
            sources: upstream.sources.clone(),
            labels: upstream.labels.clone(),
            registries: upstream.sources.iter().filter_map(registry).collect(),
        }
    }
}

impl Feed {
    /// Begins to follow the sources, with what an earlier feed knew or else with what is on disk. The earlier feed writes
    /// nothing from now on.
    pub(super) async fn start(
        name: UpstreamName,
        upstream: &config::Upstream,
        config: &Config,
        parts: &Parts,
        known: Option<Saved>,
    ) -> Option<Self> {
        let claimed = Claimed::new(upstream, config);
        let named = |source: &config::Source| SourceName {
            registry: source.registry.clone(),
            service: source.service.clone(),
        };
        let names = upstream.sources.iter().map(named).collect();
        let (policies, policed) = watch::channel(Arc::new(policies(upstream, config)));
        let asking = asking(upstream, parts.tls(upstream));
        let (asking, asked) = watch::channel(Arc::new(asking));
        let list = parts.disk.take(&name);
        let (labels, written) = (upstream.labels.clone(), Some(list.clone()));
        let plan = Plan { name, sources: names, labels, list: written, known, policies: policed };
        let made = tokio::task::spawn_blocking(move || Owner::new(plan)).await;
        // Only a runtime that is shutting down fails here.
        let owner = made.ok()?;
        let (events, received) = mpsc::channel(EVENTS);
        let (reports, reported) = mpsc::channel(REPORTS);
        let reader = owner.reader();
        let owner_side = ToOwner { status: owner.status(), reports, events: events.downgrade() };
        let checks = Checks((parts.checks)(reader.clone(), owner.suspects(), asked, events.clone()));
        let owner = tokio::spawn(owner.run(received, reported));
        let sources = claimed.sources.iter().zip(&claimed.registries).enumerate();
        let watches = sources
            .map(|(number, (source, registry))| {
                let mut intake = parts.intake.clone();
                // What no connector is lent for says only what the operator wrote, who may name listeners of ours.
                if registry.grants == Grants::default() {
                    intake.own = OwnAddresses::default();
                }
                let service = source.service.clone();
                watch(number, (parts.registry)(registry), service, intake, events.clone())
            })
            .collect();
        Some(Self { reader, owner_side, claimed, policies, asking, watches, checks, list, owner })
    }

    pub(super) fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.owner_side.status.clone()
    }

    /// Puts other policies and checks in force, if they are others.
    pub(super) fn configure(&self, upstream: &Upstream, config: &Config) {
        let new = policies(&upstream.config, config);
        let asking = asking(&upstream.config, upstream.tls.clone());
        self.policies.send_if_modified(|known| replace(known, new));
        self.asking.send_if_modified(|known| replace(known, asking));
    }

    /// All that is known of the upstream, for another feed that will go on from there.
    pub(super) async fn hand_over(&self) -> Option<Saved> {
        let (next, known) = oneshot::channel();
        self.owner_side.events.upgrade()?.send(Event::HandOver(next)).await.ok()?;
        known.await.ok()
    }

    /// Goes on writing the list, because the feed that was to go on from there came to nothing.
    pub(super) fn take_back(&self) {
        self.list.take_back();
    }

    /// Whether there is a list on disk.
    pub(super) fn is_saved(&self) -> bool {
        self.list.is_there()
    }

    /// Ends the watches and waits until the last list is written.
    pub(super) async fn end(self) {
        drop((self.watches, self.checks));
        // An error would be a panic of the owner, which has been reported where it happened.
        let _ = self.owner.await;
    }

    /// Ends the feed of an upstream that is no more, and forgets its list. Dropping the handle lets it go on.
    pub(super) fn discard(self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let list = self.list.clone();
            self.end().await;
            if list.is_there() {
                // Only a runtime that is shutting down fails here.
                let _ = tokio::task::spawn_blocking(move || list.remove()).await;
            }
        })
    }

    /// Whether an upstream of this configuration can go on with this feed.
    pub(super) fn suits(&self, upstream: &config::Upstream, config: &Config) -> bool {
        self.claimed == Claimed::new(upstream, config)
    }
}

fn asking(upstream: &config::Upstream, tls: Option<Arc<tls::Client>>) -> Asking {
    Asking { check: upstream.reliability.check.clone(), tls, proxy_protocol: upstream.proxy_protocol }
}

fn policies(upstream: &config::Upstream, config: &Config) -> Policies {
    let reliability = &upstream.reliability;
    let trust = |source: &config::Source| {
        let registry = config.registries.get(&*source.registry);
        TrustPolicy {
            as_written: registry.is_some_and(|registry| &*registry.plugin == AS_WRITTEN),
            ..*reliability.registries.get(&source.registry).unwrap_or(&reliability.trust)
        }
    };
    Policies {
        trust: upstream.sources.iter().map(trust).collect(),
        health: reliability.health,
        offer: upstream.offer.clone(),
    }
}

/// Says whether it is another value.
fn replace<T: PartialEq>(known: &mut Arc<T>, new: T) -> bool {
    let other = **known != new;
    if other {
        *known = Arc::new(new);
    }
    other
}

/// Waits until an upstream has a list, or the time is over; with a list from disk, a moment longer for its registry:
/// everything in it may have moved.
pub(super) async fn first_list(mut status: watch::Receiver<Arc<Status>>, limit: Duration) {
    // Either outcome is an answer: it has its list, or it had its chance.
    let _ = tokio::time::timeout(limit, status.wait_for(|status| status.has_list())).await;
    let _ = tokio::time::timeout(limit.min(FRESHER), status.wait_for(|status| status.is_settled())).await;
}
