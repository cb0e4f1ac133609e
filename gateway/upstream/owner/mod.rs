//! The task that owns one upstream: takes what its sources, requests and checks say, and what the operator orders;
//! merges, judges, publishes, remembers and saves.
//!
//! ```text
//! news, failures -> trust (per source) -> merge -> pin -> health -> publish
//! evidence, checks ------------------------------------^   |
//!                        ^---------------------------------+  who answers
//! ```

mod labels;
mod order;
mod saving;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, oneshot, watch};

use self::labels::Wanted;
pub use self::{
    order::{Command, Order, OrderError},
    status::{Pinned, Reserved, SourceName, SourceStatus, Status},
};
use super::{
    Cause, Changed, Disk, Endpoint, Evidence, Health, HealthInput, HealthPolicy, Input, Judged, Merge, News,
    Origin, Publisher, Reader, Recorded, Source, TrustPolicy, UpstreamName,
};

/// A list is written so long after it changed, so that a burst of changes is one write.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// A list that could not be written is tried again so long after.
const SAVE_AGAIN: Duration = Duration::from_secs(30);

/// How often time is told to what waits for it.
const TICK: Duration = Duration::from_millis(500);

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
    Checked {
        address: SocketAddr,
        passed: bool,
    },
    Command(Command),
    /// Another owner is about to take up the list from disk: it is written now if it is to be written at all, then
    /// the sender is dropped.
    HandOver(oneshot::Sender<()>),
}

/// What a request tells, by a way that never makes it wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub address: SocketAddr,
    pub evidence: Evidence,
}

/// How the sources of an upstream are believed, and its endpoints judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policies {
    /// In the order of the sources; the default where there is none.
    pub trust: Vec<TrustPolicy>,
    pub health: HealthPolicy,
}

/// What an owner is made of.
pub struct Plan {
    pub name: UpstreamName,
    /// In their order: the first wins where two differ.
    pub sources: Vec<SourceName>,
    /// Only instances that have all of these.
    pub labels: Vec<(String, String)>,
    pub disk: Option<Disk>,
    /// In force from the next event after they change.
    pub policies: watch::Receiver<Arc<Policies>>,
}

/// Owns the writing half of one upstream.
pub struct Owner {
    name: UpstreamName,
    sources: Vec<Source>,
    merge: Merge,
    pin: Option<Pin>,
    health: Health,
    publisher: Publisher,
    reader: Reader,
    wanted: Wanted,
    disk: Option<Disk>,
    policies: watch::Receiver<Arc<Policies>>,
    status: watch::Sender<Arc<Status>>,
    suspects: watch::Sender<Arc<BTreeSet<SocketAddr>>>,
    /// What is to be done after an event.
    unwritten: bool,
    untold: bool,
    unsaved: Option<String>,
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
        let Plan { name, sources, labels, disk, policies } = plan;
        let (publisher, reader) = Publisher::new(name.clone());
        let now = SystemTime::now();
        let status = Status {
            sources: sources.into_iter().map(|name| SourceStatus::new(name, now)).collect(),
            history: Arc::default(),
            pin: None,
            ejected: Arc::default(),
            panic: false,
            unsaved: None,
        };
        let mut owner = Self {
            name,
            sources: status.sources.iter().map(|_| Source::new()).collect(),
            merge: Merge::default(),
            pin: None,
            health: Health::default(),
            publisher,
            reader,
            wanted: Wanted(labels),
            disk,
            policies,
            status: watch::Sender::new(Arc::new(status)),
            suspects: watch::Sender::default(),
            unwritten: false,
            untold: false,
            unsaved: None,
            stale: BTreeSet::new(),
        };
        owner.restore();
        owner.unwritten = false;
        owner
    }

    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Endpoints that are to be asked whether they answer, whatever else is checked: the ejected and the reserves.
    pub fn suspects(&self) -> watch::Receiver<Arc<BTreeSet<SocketAddr>>> {
        self.suspects.subscribe()
    }

    /// Takes in events until the last sender of them is gone, then writes what is not written yet. The upstream
    /// closes when this returns.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, mut reports: mpsc::Receiver<Report>) {
        // When the list is to be written, if it changed since it last was, and when time is to be told.
        let mut due: Option<tokio::time::Instant> = None;
        let mut tick: Option<tokio::time::Instant> = None;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Command(command)) => {
                        self.command(command).await;
                        due = None;
                    }
                    Some(Event::HandOver(_written)) => {
                        if due.is_some() {
                            due = self.save_again().await;
                        }
                    }
                    Some(event) => self.take(event),
                    None => break,
                },
                Some(report) = reports.recv() => self.report(report),
                () = sleep_until(due) => due = self.save_again().await,
                () = sleep_until(tick) => {
                    self.tick();
                    tick = None;
                }
            }
            let now = tokio::time::Instant::now();
            if std::mem::take(&mut self.unwritten) {
                due = due.or(Some(now + SAVE_AFTER));
            }
            tick = if self.is_waiting() { tick.or(Some(now + TICK)) } else { None };
        }
        if due.is_some() {
            // It has been told why if it fails again.
            let _ = self.save().await;
        }
    }

    /// Saves, and says when to try again if that failed.
    async fn save_again(&mut self) -> Option<tokio::time::Instant> {
        let failed = self.save().await.is_err();
        failed.then(|| tokio::time::Instant::now() + SAVE_AGAIN)
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
            Event::Checked { address, passed } => {
                if self.knows(address) {
                    self.judge(HealthInput::Checked(address, passed));
                }
            }
            // Answered in `run`, which can wait for the disk.
            Event::Command(_) | Event::HandOver(_) => {}
        }
        self.refresh();
    }

    async fn command(&mut self, Command { order, answer }: Command) {
        let mut done = self.obey(order);
        match &done {
            Ok(()) => tracing::info!(upstream = %self.name, ?order, "Order carried out"),
            Err(error) => tracing::info!(upstream = %self.name, ?order, %error, "Order refused"),
        }
        self.refresh();
        if done.is_ok() {
            self.unwritten = false;
            if let Err(error) = self.save().await {
                self.unwritten = true;
                done = Err(OrderError::NotSaved(error));
            }
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
        self.judge(HealthInput::Tick);
        let strangers: Vec<SocketAddr> =
            self.health.remembered().filter(|address| !self.knows(*address)).collect();
        strangers.into_iter().for_each(|address| self.judge(HealthInput::Forget(address)));
        self.alarm();
        self.refresh();
    }

    /// One source hears something, and all that follows from it.
    fn step(&mut self, source: usize, input: Input, cause: Cause) {
        let policy = self.policies.borrow().trust.get(source).copied().unwrap_or_default();
        let step = self.sources[source].step(input, &policy, now());
        if step.offers.is_empty() && step.held.is_empty() {
            return;
        }
        self.unwritten = true;
        self.untold = true;
        let changed = self.merge.take(source, step.offers);
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

    /// The list in force changes.
    fn relist(&mut self, changed: &[Changed]) {
        self.judge(HealthInput::List(changed.iter().map(Changed::offer).collect()));
    }

    fn judge(&mut self, input: HealthInput) {
        let policy = self.policies.borrow().health;
        let Judged { offers, states, half_open } = self.health.step(input, &policy, now());
        // A trial begins before its endpoint is offered, and ends after it is taken away: in between there are workers that
        // do not know yet.
        let (begun, ended): (Vec<_>, Vec<_>) = half_open.into_iter().partition(|(_, half_open)| *half_open);
        begun.into_iter().for_each(|(address, _)| self.publisher.set_half_open(address, true));
        self.publisher.publish(offers, now());
        ended.into_iter().for_each(|(address, _)| self.publisher.set_half_open(address, false));
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
        if !std::mem::take(&mut self.untold) && self.status.borrow().unsaved == unsaved {
            return;
        }
        let pin = self.pin.as_ref().map(|pin| Pinned { since: pin.since, endpoints: pin.list.len() });
        let policies = self.policies.borrow().clone();
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.pin = pin;
            status.ejected = self.health.out().collect();
            status.panic = self.health.is_panic();
            status.unsaved = unsaved;
            for (number, (source, status)) in self.sources.iter().zip(&mut status.sources).enumerate() {
                status.reserve = source.reserve().map(reserved).collect();
                status.reserve_offered = source.offers_reserve();
                status.max_stale = policies.trust.get(number).copied().unwrap_or_default().max_stale;
            }
        });
        let reserves = self.sources.iter().flat_map(Source::reserve).map(|(endpoint, _)| endpoint.address);
        let suspects: BTreeSet<SocketAddr> = self.health.suspects().chain(reserves).collect();
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
