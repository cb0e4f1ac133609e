//! The task that owns one upstream: takes what its sources say, merges, publishes, remembers and saves.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};

use super::{
    Claim, ClaimChange, Disk, History, Input, Merge, News, Offer, Origin, Publisher, Reader, SavedClaim,
    SavedSource, Source, TrustPolicy, UpstreamName,
};

/// A list is written so long after it changed, so that a burst of changes is one write.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// What a watch tells the keeper of its upstream.
#[derive(Debug)]
pub enum Event {
    News { source: usize, news: News },
    Failed { source: usize, kind: &'static str, text: String },
}

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName {
    pub registry: Arc<str>,
    pub service: Arc<str>,
}

/// How a source stands.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub name: SourceName,
    pub origin: Origin,
    /// Since when the origin is what it is.
    pub since: SystemTime,
    /// When the registry answered last.
    pub heard: Option<SystemTime>,
    /// The kind and the text of the failure it stands in now.
    pub failure: Option<(&'static str, String)>,
    /// Instances it claims.
    pub claims: usize,
}

/// How an upstream stands. A new one is published at every event.
#[derive(Debug, Clone)]
pub struct Status {
    pub sources: Vec<SourceStatus>,
    pub history: Arc<History>,
}

impl Status {
    /// Whether any source has a list, be it from disk.
    pub fn has_list(&self) -> bool {
        self.sources.iter().any(|source| source.origin != Origin::Unknown)
    }

    /// Whether every registry has answered, completely, that it knows no instance.
    pub fn is_unknown_service(&self) -> bool {
        self.sources.iter().all(|source| source.origin == Origin::Live && source.claims == 0)
    }
}

/// Owns the writing half of one upstream.
pub struct Keeper {
    sources: Vec<Source>,
    merge: Merge,
    publisher: Publisher,
    labels: Vec<(String, String)>,
    disk: Option<Disk>,
    name: UpstreamName,
    status: watch::Sender<Arc<Status>>,
}

impl Keeper {
    /// An upstream with these sources, in their order, as far as instances have all of `labels`.
    ///
    /// The last good lists are taken from disk before this returns, so it may block on the disk for a moment.
    pub fn new(
        name: UpstreamName,
        sources: Vec<SourceName>,
        labels: Vec<(String, String)>,
        disk: Option<Disk>,
    ) -> (Self, Reader, watch::Receiver<Arc<Status>>) {
        let (publisher, reader) = Publisher::new(name.clone());
        let now = SystemTime::now();
        let status = |name| SourceStatus {
            name,
            origin: Origin::Unknown,
            since: now,
            heard: None,
            failure: None,
            claims: 0,
        };
        let sources: Vec<SourceStatus> = sources.into_iter().map(status).collect();
        let mut keeper = Self {
            sources: sources.iter().map(|_| Source::new()).collect(),
            merge: Merge::default(),
            publisher,
            labels,
            disk,
            name,
            status: watch::Sender::new(Arc::new(Status { sources, history: Arc::default() })),
        };
        keeper.restore();
        let status = keeper.status.subscribe();
        (keeper, reader, status)
    }

    /// Takes in events until the last sender is gone, then writes what is not written yet. The upstream closes
    /// when this returns.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        // When the list is to be written, if it changed since it last was.
        let mut due: Option<tokio::time::Instant> = None;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sleep_until(due) => {
                    self.save().await;
                    due = None;
                    continue;
                }
            };
            let Some(event) = event else { break };
            if self.take(event) {
                due = due.or_else(|| Some(tokio::time::Instant::now() + SAVE_AFTER));
            }
        }
        if due.is_some() {
            self.save().await;
        }
    }

    /// Says whether the list changed.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::News { source, news } => {
                let news = self.filter(news);
                let offers = self.step(source, Input::News(news));
                let changed = self.publish(source, offers, false);
                self.tell(source, Some(SystemTime::now()), None);
                changed
            }
            Event::Failed { source, kind, text } => {
                self.step(source, Input::Failed);
                self.tell(source, None, Some((kind, text)));
                false
            }
        }
    }

    fn step(&mut self, source: usize, input: Input) -> Vec<Offer> {
        self.sources[source].step(input, &TrustPolicy::default(), Instant::now()).offers
    }

    fn publish(&mut self, source: usize, offers: Vec<Offer>, restored: bool) -> bool {
        let offers = self.merge.take(source, offers);
        let Some(published) = self.publisher.publish(offers, Instant::now()) else { return false };
        tracing::info!(upstream = %self.name, generation = published.generation, added = published.added.len(),
            updated = published.updated.len(), removed = published.removed.len(), "List changed");
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            Arc::make_mut(&mut status.history).record(published, source, restored, SystemTime::now());
        });
        true
    }

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

    fn restore(&mut self) {
        let Some(disk) = &self.disk else { return };
        let saved = match disk.load(&self.name) {
            Ok(saved) => saved.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(upstream = %self.name, %error, "Saved list not used");
                return;
            }
        };
        for list in saved {
            let named = |status: &SourceStatus| {
                *status.name.registry == list.registry && *status.name.service == list.service
            };
            let place = self.status.borrow().sources.iter().position(named);
            let Some(source) = place else { continue };
            let claims = list.claims.into_iter().map(Claim::from).filter(|claim| self.suits(claim)).collect();
            let offers = self.step(source, Input::Restored { claims, reserve: Vec::new() });
            self.publish(source, offers, true);
            self.tell(source, None, None);
        }
    }

    async fn save(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        let sources: Vec<SavedSource> = {
            let status = self.status.borrow();
            let pairs = self.sources.iter().zip(&status.sources);
            let known = pairs.filter(|(source, _)| source.origin() != Origin::Unknown);
            known
                .map(|(source, status)| SavedSource {
                    registry: status.name.registry.to_string(),
                    service: status.name.service.to_string(),
                    claims: source.claims().map(SavedClaim::from).collect(),
                })
                .collect()
        };
        let name = self.name.clone();
        let saved = tokio::task::spawn_blocking(move || disk.save(&name, &sources)).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(upstream = %self.name, %error, "List not saved");
        }
    }

    fn suits(&self, claim: &Claim) -> bool {
        self.labels.iter().all(|(name, value)| claim.labels.has(name, value))
    }

    /// Takes away what lacks the labels; an instance that lost one is removed.
    fn filter(&self, news: News) -> News {
        if self.labels.is_empty() {
            return news;
        }
        let put = |claim: Claim| match self.suits(&claim) {
            true => ClaimChange::Put(claim),
            false => ClaimChange::Remove(claim.id),
        };
        match news {
            News::Complete(claims) => {
                News::Complete(claims.into_iter().filter(|claim| self.suits(claim)).collect())
            }
            News::Partial(claims) => News::Changes(claims.into_iter().map(put).collect()),
            News::Changes(changes) => News::Changes(
                changes
                    .into_iter()
                    .map(|change| match change {
                        ClaimChange::Put(claim) => put(claim),
                        remove => remove,
                    })
                    .collect(),
            ),
            News::Unchanged => News::Unchanged,
        }
    }
}

/// Waits for the moment, for ever when there is none.
async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Labels, Weight};

    fn source(registry: &str) -> SourceName {
        SourceName { registry: registry.into(), service: "orders".into() }
    }

    fn claim(id: &str, port: u16, labels: &[(&str, &str)]) -> Claim {
        Claim {
            id: id.into(),
            addresses: vec![([127, 0, 0, 1], port).into()],
            weight: Some(Weight::ONE),
            labels: Labels::new(labels.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()),
        }
    }

    fn news(source: usize, claims: Vec<Claim>) -> Event {
        Event::News { source, news: News::Complete(claims) }
    }

    fn failed(source: usize) -> Event {
        Event::Failed { source, kind: "unavailable", text: "connection refused".into() }
    }

    #[tokio::test]
    async fn one_registry_fails_and_the_other_goes_on() {
        let name = UpstreamName::new("orders");
        let (mut keeper, reader, status) = Keeper::new(name, vec![source("a"), source("b")], vec![], None);
        keeper.take(news(0, vec![claim("1", 1, &[])]));
        keeper.take(news(1, vec![claim("2", 2, &[])]));
        keeper.take(failed(0));
        keeper.take(news(1, vec![claim("3", 3, &[])]));

        let ports: Vec<u16> = reader.snapshot().iter().map(|m| m.address().port()).collect();
        assert_eq!(ports, [1, 3], "the first list is frozen, the second goes on");
        let status = status.borrow();
        assert_eq!(status.sources[0].origin, Origin::Frozen);
        assert_eq!(status.sources[1].origin, Origin::Live);
        assert_eq!(status.history.iter().count(), 3);
    }

    #[tokio::test]
    async fn only_instances_with_all_labels_count() {
        let name = UpstreamName::new("orders");
        let labels = vec![("version".into(), "2".into())];
        let (mut keeper, reader, _) = Keeper::new(name, vec![source("a")], labels, None);
        keeper.take(news(
            0,
            vec![
                claim("1", 1, &[("version", "2")]),
                claim("2", 2, &[("version", "1")]),
                claim("3", 3, &[("version", "2")]),
            ],
        ));
        assert_eq!(reader.snapshot().len(), 2);

        let relabelled = News::Partial(vec![claim("1", 1, &[("version", "3")])]);
        keeper.take(Event::News { source: 0, news: relabelled });
        assert_eq!(reader.snapshot().len(), 1, "an instance that lost the label leaves");
    }

    #[tokio::test]
    async fn the_last_list_is_restored_until_the_registry_answers() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("orders");
        let (keeper, _reader, _) = Keeper::new(name.clone(), vec![source("a")], vec![], Some(disk.clone()));
        let (events, receiver) = mpsc::channel(8);
        events.send(news(0, vec![claim("1", 1, &[])])).await.unwrap();
        drop(events);
        keeper.run(receiver).await;

        let (mut keeper, reader, status) = Keeper::new(name, vec![source("a")], vec![], Some(disk));
        assert_eq!(reader.snapshot().len(), 1);
        assert_eq!(status.borrow().sources[0].origin, Origin::Restored);
        keeper.take(failed(0));
        assert_eq!(status.borrow().sources[0].origin, Origin::Restored);
        assert!(!keeper.take(news(0, vec![claim("1", 1, &[])])), "reconciled without a flap");
        assert_eq!(status.borrow().sources[0].origin, Origin::Live);
    }
}
