//! The task that owns one upstream: takes what its sources, requests and checks say, and what the operator orders;
//! merges, judges, publishes, remembers and saves.
//!
//! ```text
//! news, failures -> trust (per source) -> merge -> pin -> drains -> subset -> health -> offer -> publish
//! evidence, checks ----------------------------------------------^   |
//!                        ^-------------------------------------------+  who answers
//! ```

mod labels;
mod order;
mod saving;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot, watch};

use self::labels::Wanted;
pub use self::{
    order::{Command, Order, OrderError},
    status::{
        Draining, Ejected, LeftOut, LeftOuts, Pinned, Reserved, SourceName, SourceStatus, Standby,
        StandbyReason, Status,
    },
};
use super::{
    Cause, Changed, ClaimChange, Drains, Endpoint, Evidence, Health, HealthInput, HealthPolicy, Input,
    Judged, Merge, News, Offer, OfferPolicy, Offering, Origin, Publisher, Reader, Recorded, Saved, SavedList,
    Shaped, Source, Subsetting, TrustPolicy, UpstreamName,
};
use crate::backoff::{Backoff, Lasting};

/// A list is written so long after it changed, so that a burst of changes is one write.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// What is known of who answers is written so long after it changed, unless the list changes, too.
const SAVE_HEALTH_AFTER: Duration = Duration::from_secs(2);

/// Pauses between attempts to write a list that could not be written.
const SAVE_AGAIN_FIRST: Duration = Duration::from_secs(1);
const SAVE_AGAIN_MOST: Duration = Duration::from_secs(30);

/// While a removal is on its way to be believed, for how long the registry has stood by it is written so often.
const SAVE_STANDING: Duration = Duration::from_secs(15);

/// How often time is told to what waits for it.
const TICK: Duration = Duration::from_millis(500);

/// Who is asked whether it answers, without a request having to try, and the name that it goes by.
pub type Suspects = BTreeMap<SocketAddr, Option<Arc<str>>>;

/// What an owner is told by those that wait for it.
#[derive(Debug)]
pub enum Event {
    News {
        source: usize,
        news: News,
    },
    Failed {
        source: usize,
        kind: &'static str,
        text: String,
    },
    /// Names came to other addresses, whether the registry answers or not.
    Resolved {
        source: usize,
        changes: Vec<ClaimChange>,
    },
    /// What of the source cannot be used is not what it was.
    LeftOut {
        source: usize,
        left_out: LeftOuts,
    },
    Checked {
        address: SocketAddr,
        passed: bool,
    },
    Command(Command),
    /// Somebody asks which source each endpoint is from, by its place.
    Sources(oneshot::Sender<HashMap<SocketAddr, usize>>),
    /// Another owner is about to go on with all that this one knows.
    HandOver(oneshot::Sender<Saved>),
}

/// What a request tells, by a way that never makes it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub address: SocketAddr,
    pub evidence: Evidence,
}

/// How the sources of an upstream are believed, its endpoints judged, and those that are well offered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policies {
    /// In the order of the sources; the default where there is none.
    pub trust: Vec<TrustPolicy>,
    pub health: HealthPolicy,
    pub offer: OfferPolicy,
}

/// What an owner is made of.
pub struct Plan {
    pub name: UpstreamName,
    /// In their order: the first wins where two differ.
    pub sources: Vec<SourceName>,
    /// Only instances that have all of these.
    pub labels: Vec<(String, String)>,
    /// Where the list is kept over a restart.
    pub list: Option<Arc<SavedList>>,
    /// What an earlier owner of this upstream knew; what is on disk otherwise.
    pub known: Option<Saved>,
    /// In force from the next event after they change.
    pub policies: watch::Receiver<Arc<Policies>>,
}

/// Owns the writing half of one upstream.
pub struct Owner {
    name: UpstreamName,
    sources: Vec<Source>,
    merge: Merge,
    pin: Option<Pin>,
    drains: Drains,
    subsetting: Subsetting,
    health: Health,
    offering: Offering,
    publisher: Publisher,
    reader: Reader,
    wanted: Wanted,
    list: Option<Arc<SavedList>>,
    policies: watch::Receiver<Arc<Policies>>,
    status: watch::Sender<Arc<Status>>,
    suspects: watch::Sender<Arc<Suspects>>,
    /// What is to be done after an event.
    unwritten: bool,
    unwritten_health: bool,
    untold: bool,
    /// When all this is to be written; none when it is on disk.
    due: Option<tokio::time::Instant>,
    written: tokio::time::Instant,
    unsaved: Option<String>,
    saving: Backoff,
    failing: Lasting,
    /// Sources whose age has been an alarm already.
    stale: BTreeSet<usize>,
}

struct Pin {
    since: SystemTime,
    list: HashMap<SocketAddr, Endpoint>,
}

impl Owner {
    /// The last good lists are taken from disk before this returns, so it may block on the disk for a moment.
    pub fn new(plan: Plan) -> Self {
        let Plan { name, sources, labels, list, known, policies } = plan;
        let (publisher, reader) = Publisher::new(name.clone());
        let now = SystemTime::now();
        let status = Status {
            sources: sources.into_iter().map(|name| SourceStatus::new(name, now)).collect(),
            history: Arc::default(),
            pin: None,
            draining: Arc::default(),
            ejected: Arc::default(),
            standby: Arc::default(),
            starting: 0,
            local: None,
            groups: 0,
            unused: 0,
            panic: false,
            drained: false,
            unsaved: None,
        };
        let mut owner = Self {
            name,
            sources: status.sources.iter().map(|_| Source::new()).collect(),
            merge: Merge::default(),
            pin: None,
            drains: Drains::default(),
            subsetting: Subsetting::default(),
            health: Health::default(),
            offering: Offering::default(),
            publisher,
            reader,
            wanted: Wanted(labels),
            list,
            policies,
            status: watch::Sender::new(Arc::new(status)),
            suspects: watch::Sender::default(),
            unwritten: false,
            unwritten_health: false,
            untold: false,
            due: None,
            written: tokio::time::Instant::now(),
            unsaved: None,
            saving: Backoff::new(SAVE_AGAIN_FIRST, SAVE_AGAIN_MOST),
            failing: Lasting::default(),
            stale: BTreeSet::new(),
        };
        let handed = known.is_some();
        if let Some(known) = known.or_else(|| owner.load()) {
            owner.restore(known);
        }
        // What is on disk need not be written; what an earlier owner knew may not be there.
        (owner.unwritten, owner.unwritten_health) = (handed, false);
        owner.plan_to_write();
        owner
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Endpoints that are to be asked whether they answer, whatever else is checked: the ejected and the reserves.
    pub fn suspects(&self) -> watch::Receiver<Arc<Suspects>> {
        self.suspects.subscribe()
    }

    /// Takes in events until the last sender of them is gone, then writes what is not written yet. The upstream
    /// closes when this returns.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut reports: mpsc::Receiver<Report>) {
        let (mut tick, mut step): (Option<tokio::time::Instant>, Option<tokio::time::Instant>) = (None, None);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Command(command)) => self.command(command).await,
                    // Who asked may have gone.
                    Some(Event::Sources(answer)) => drop(answer.send(self.merge.sources())),
                    Some(Event::HandOver(next)) => drop(next.send(self.saved())),
                    Some(event) => self.take(event),
                    None => break,
                },
                Some(report) = reports.recv() => self.report(report),
                // If it fails, that is told, and it is due again.
                () = sleep_until(self.due) => drop(self.save().await),
                () = sleep_until(tick) => {
                    self.tick();
                    tick = None;
                }
                () = sleep_until(step) => {
                    self.look();
                    step = None;
                }
                Ok(()) = self.policies.changed() => {
                    self.choose(Vec::new());
                    self.tick();
                    self.look();
                    step = None;
                }
            }
            self.plan_to_write();
            let now = tokio::time::Instant::now();
            tick = if self.is_waiting() { tick.or(Some(now + TICK)) } else { None };
            let pause = self.offering.pause(&self.policies.borrow().offer);
            step = pause.map(|pause| step.unwrap_or(now + pause));
        }
        // What the passing of time changes is not written while it passes.
        let is_changing = self.health.is_waiting() || self.sources.iter().any(Source::is_waiting);
        let is_behind = self.list.as_ref().is_some_and(|list| list.is_behind());
        if self.due.is_some() || is_changing || is_behind {
            // It has been told why if it fails again.
            let _ = self.save().await;
        }
    }

    /// Sees to it that what changed is written in time.
    fn plan_to_write(&mut self) {
        let (list, health) =
            (std::mem::take(&mut self.unwritten), std::mem::take(&mut self.unwritten_health));
        let after = match (list, health) {
            (true, _) => SAVE_AFTER,
            (false, true) => SAVE_HEALTH_AFTER,
            (false, false) => return,
        };
        let then = tokio::time::Instant::now() + after;
        self.due = match self.due {
            // A disk that failed is not tried at every change.
            Some(due) if self.unsaved.is_some() => Some(due),
            due => Some(due.map_or(then, |due| due.min(then))),
        };
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::News { source, news } => {
                let news = self.wanted.filter(news);
                self.step(source, Input::News(news), Cause::News);
                self.tell(source, Some(SystemTime::now()), None);
            }
            Event::Failed { source, kind, text } => {
                self.step(source, Input::Failed, Cause::News);
                self.tell(source, None, Some((kind, text)));
            }
            Event::Resolved { source, changes } => {
                let changes = self.wanted.filter(News::Changes(changes));
                self.step(source, Input::Resolved(changes), Cause::News);
            }
            Event::LeftOut { source, left_out } => self.status.send_modify(|status| {
                Arc::make_mut(status).sources[source].left_out = Arc::new(left_out);
            }),
            Event::Checked { address, passed } => {
                if self.knows(address) {
                    self.judge(HealthInput::Checked(address, passed));
                }
            }
            // Answered in `run`, which can wait for the disk.
            Event::Command(_) | Event::Sources(_) | Event::HandOver(_) => {}
        }
        self.refresh();
    }

    async fn command(&mut self, Command { order, answer }: Command) {
        let mut done = self.obey(&order);
        match &done {
            Ok(()) => tracing::info!(upstream = %self.name, ?order, "Order carried out"),
            Err(error) => tracing::info!(upstream = %self.name, ?order, %error, "Order refused"),
        }
        self.refresh();
        if done.is_ok()
            && let Err(error) = self.save().await
        {
            done = Err(OrderError::NotSaved(error));
        }
        // Who asked may have gone; it is done all the same.
        let _ = answer.send(done);
    }

    fn report(&mut self, report: Report) {
        // Requests that began before an endpoint left still tell of it.
        if self.knows(report.address) {
            self.judge(HealthInput::Evidence(report.address, report.evidence));
            let policy = self.policies.borrow().health;
            let answered = |address: &SocketAddr| self.publisher.has_answered(*address);
            if report.evidence == Evidence::ConnectFailed
                && let Some(companions) = self.health.companions(report.address, &policy, now())
                && !companions.iter().any(answered)
            {
                self.judge(HealthInput::Doubt(report.address));
            }
            self.refresh();
        }
    }

    fn tick(&mut self) {
        for source in 0..self.sources.len() {
            self.step(source, Input::Tick, Cause::Confirmed);
        }
        let confirming = (0..self.sources.len()).any(|of| self.sources[of].is_confirming(&self.trust(of)));
        self.unwritten |= confirming && self.written.elapsed() >= SAVE_STANDING;
        self.judge(HealthInput::Tick);
        let strangers: Vec<SocketAddr> =
            self.health.remembered().filter(|address| !self.knows(*address)).collect();
        strangers.into_iter().for_each(|address| self.judge(HealthInput::Forget(address)));
        self.alarm();
        self.refresh();
    }

    /// One source hears something, and all that follows from it.
    fn step(&mut self, source: usize, input: Input, cause: Cause) {
        let policy = self.trust(source);
        let step = self.sources[source].step(input, &policy, now());
        if step.words.is_empty() && step.held.is_empty() {
            return;
        }
        self.unwritten = true;
        self.untold = true;
        let changed = self.merge.take(source, step.words);
        let applied = self.pin.is_none();
        if applied {
            self.relist(&changed);
        }
        if !step.held.is_empty() {
            let offered = self.sources[source].offers_reserve();
            let status = self.status.borrow();
            let name = &status.sources[source].name;
            tracing::warn!(upstream = %self.name, registry = %name.registry, service = %name.service,
                removed = step.held.len(), offered, "Removal not believed, endpoints kept as reserve");
        }
        self.record(&changed, Some(source), cause, &step.held, applied);
    }

    /// How a source is believed.
    fn trust(&self, source: usize) -> TrustPolicy {
        self.policies.borrow().trust.get(source).copied().unwrap_or_default()
    }

    /// The list in force changes.
    fn relist(&mut self, changed: &[Changed]) {
        self.choose(changed.iter().map(|changed| self.drains.over(changed.offer())).collect());
    }

    /// The list in force, without drains.
    fn listed(&self) -> HashMap<SocketAddr, Endpoint> {
        let whole = |endpoint: &Endpoint| (endpoint.address, Drains::below(endpoint));
        match self.subsetting.list() {
            Some(list) => list.map(whole).collect(),
            None => self.health.list().map(whole).collect(),
        }
    }

    /// Chooses whom of the list this gateway uses, after these changes to it.
    fn choose(&mut self, offers: Vec<Offer>) {
        let policies = self.policies.borrow().clone();
        let offers = self.subsetting.take(offers, policies.offer.subset.as_ref(), &self.health);
        if !offers.is_empty() {
            self.judge(HealthInput::List(offers));
        }
    }

    fn judge(&mut self, input: HealthInput) {
        let policies = self.policies.borrow().clone();
        let Judged { offers, states, joined, half_open } = self.health.step(input, &policies.health, now());
        self.unwritten_health |= !(offers.is_empty() && states.is_empty() && half_open.is_empty());
        // A trial begins before its endpoint is offered, and ends after it is taken away: in between there are workers that
        // do not know yet.
        let (begun, ended): (Vec<_>, Vec<_>) = half_open.into_iter().partition(|(_, half_open)| *half_open);
        begun.into_iter().for_each(|(address, _)| self.publisher.set_half_open(address, true));
        let other = !offers.is_empty();
        let shaped = self.offering.step(offers, &joined, &self.health, &policies.offer, now());
        self.publish(shaped);
        ended.into_iter().for_each(|(address, _)| self.publisher.set_half_open(address, false));
        if other && policies.offer.subset.is_some() {
            // Whoever failed is replaced.
            self.choose(Vec::new());
        }
        if states.is_empty() {
            return;
        }
        self.untold = true;
        for (address, state) in &states {
            tracing::info!(upstream = %self.name, endpoint = %address, ?state, "Health changed");
        }
        for source in 0..self.sources.len() {
            self.step(source, Input::Health(states.clone()), Cause::Health);
        }
    }

    /// Time has passed for what is offered, or the policy is another.
    fn look(&mut self) {
        let policies = self.policies.borrow().clone();
        let shaped = self.offering.look(&self.health, &policies.offer, now());
        self.publish(shaped);
        self.refresh();
    }

    fn publish(&mut self, Shaped { offered, starting }: Shaped) {
        if !starting.is_empty() {
            self.publisher.seed(&starting, now());
        }
        let published = self.publisher.publish(offered, now());
        self.untold |= published.is_some() && self.offering.is_shaping();
    }

    fn record(
        &mut self,
        changed: &[Changed],
        source: Option<usize>,
        cause: Cause,
        held: &[SocketAddr],
        applied: bool,
    ) {
        if changed.is_empty() && held.is_empty() && source.is_some() {
            return;
        }
        let (generation, at) = (self.publisher.generation(), SystemTime::now());
        tracing::info!(upstream = %self.name, generation, cause = cause.as_str(), applied, changed = changed.len(),
            held = held.len(), "List changed");
        self.status.send_modify(|status| {
            let history = &mut Arc::make_mut(status).history;
            let recorded = Recorded { generation, at, source, cause, applied, changed, held };
            Arc::make_mut(history).record(recorded);
        });
        self.untold = true;
    }

    /// Says how a source stands.
    fn tell(&mut self, source: usize, heard: Option<SystemTime>, failure: Option<(&'static str, String)>) {
        let (origin, claims) = (self.sources[source].origin(), self.sources[source].len());
        // Whether the registry answers decides for how long it has stood by a removal.
        let turned = self.status.borrow().sources[source].origin != origin;
        self.unwritten |= turned && self.sources[source].reserve().next().is_some();
        self.status.send_modify(|status| {
            let status = &mut Arc::make_mut(status).sources[source];
            if status.origin != origin {
                status.since = SystemTime::now();
            }
            status.origin = origin;
            status.claims = claims;
            status.heard = heard.or(status.heard);
            status.failure = failure;
        });
    }

    /// Says what else stands otherwise than before.
    fn refresh(&mut self) {
        let unsaved = self.unsaved.clone();
        if self.untold {
            let Self { publisher, health, sources, .. } = self;
            let listed =
                |address| health.get(address).is_some() || sources.iter().any(|source| source.lists(address));
            publisher.tell_left(listed, now());
        }
        if !std::mem::take(&mut self.untold) && self.status.borrow().unsaved == unsaved {
            return;
        }
        let pin = self.pin.as_ref().map(|pin| Pinned { since: pin.since, endpoints: pin.list.len() });
        let policies = self.policies.borrow().clone();
        let draining =
            |(address, since)| Draining { address, since, stats: self.publisher.stats_of(address).cloned() };
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.pin = pin;
            status.draining = self.drains.iter().map(draining).collect();
            status.ejected = ejected(&status.ejected, &self.health);
            let waits = |reason| {
                move |endpoint: &Endpoint| Standby {
                    address: endpoint.address,
                    facts: endpoint.facts.clone(),
                    reason,
                }
            };
            let away = self.offering.away().filter_map(|address| self.health.get(address));
            let standby = self.health.standby().map(waits(StandbyReason::Rank));
            status.standby = standby.chain(away.map(waits(StandbyReason::Zone))).collect();
            status.starting = self.offering.starting();
            status.local = self.offering.local();
            status.groups = self.health.groups().len();
            status.unused = self.subsetting.unused();
            status.panic = self.health.is_panic();
            status.drained = self.pin.is_none() && self.merge.is_drained();
            status.unsaved = unsaved;
            for (number, (source, status)) in self.sources.iter().zip(&mut status.sources).enumerate() {
                status.reserve = source.reserve().map(reserved).collect();
                status.reserve_offered = source.offers_reserve();
                status.max_stale = policies.trust.get(number).copied().unwrap_or_default().max_stale;
            }
        });
        let named = |endpoint: &Endpoint| (endpoint.address, endpoint.facts.hostname.clone());
        let reserves = self.sources.iter().flat_map(Source::reserve).map(|(endpoint, _)| named(endpoint));
        let ejected = self.health.suspects().map(|address| match self.health.get(address) {
            Some(endpoint) => named(endpoint),
            None => (address, None),
        });
        let suspects: Suspects = reserves.chain(ejected).collect();
        self.suspects.send_if_modified(|known| {
            let other = **known != suspects;
            if other {
                *known = Arc::new(suspects);
            }
            other
        });
    }

    /// Warns once of each list that has become too old.
    fn alarm(&mut self) {
        let status = self.status.borrow();
        for (number, source) in status.sources.iter().enumerate() {
            if !source.is_stale(SystemTime::now()) {
                self.stale.remove(&number);
            } else if self.stale.insert(number) {
                tracing::warn!(upstream = %self.name, registry = %source.name.registry,
                    service = %source.name.service, "List is old, and still served");
            }
        }
    }

    /// Whether anybody offers, holds or pins this address.
    fn knows(&self, address: SocketAddr) -> bool {
        self.health.get(address).is_some() || self.sources.iter().any(|source| source.knows(address))
    }

    fn is_waiting(&self) -> bool {
        let aging = |source: &Source| matches!(source.origin(), Origin::Frozen | Origin::Restored);
        self.health.is_waiting() || self.sources.iter().any(|source| source.is_waiting() || aging(source))
    }
}

/// Who is out now; those who were already have been since then.
fn ejected(before: &[Ejected], health: &Health) -> Arc<[Ejected]> {
    let now = SystemTime::now();
    let known: HashMap<SocketAddr, &Ejected> = before.iter().map(|of| (of.address, of)).collect();
    let since = |address| known.get(&address).map_or(now, |known| known.since);
    let one = |(address, reason)| {
        let endpoint = health.get(address);
        Ejected {
            address,
            reason,
            since: since(address),
            weight: endpoint.map(|endpoint| endpoint.weight),
            zone: endpoint.and_then(|endpoint| endpoint.facts.zone.clone()),
        }
    };
    let mut ejected: Vec<Ejected> = health.out().map(one).collect();
    ejected.sort_unstable_by_key(|of| of.address);
    ejected.into()
}

fn reserved((endpoint, since): (&Endpoint, Instant)) -> Reserved {
    let ago = now().saturating_duration_since(since);
    Reserved { address: endpoint.address, since: SystemTime::now() - ago }
}

/// The clock that tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for the moment, for ever when there is none.
async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
