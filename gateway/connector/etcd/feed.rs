//! A prefix being followed: a list at one revision, then a watch from the next, for ever or until a failure.
//!
//! A task reads what etcd sends whether or not somebody asks for it. If it did not, a plugin that never asks
//! would fill the connection that it shares with all others.

use std::{sync::Arc, time::Duration};

use etcd_client::{EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Answer, Client, Content, Entry, Event, Position, Session, list};
use crate::{backoff::Backoff, registry::Failure};

/// What waits for a reader before it is thrown away and read anew, in events and in bytes.
const MOST_EVENTS: usize = 100_000;
const MOST_BYTES: usize = 32 << 20;

/// Pauses before everything is read again because changes were missed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Lists in a row that were out of date before their watch said anything.
const MOST_RESTARTS: usize = 5;

/// Within a silence that is too long, etcd is asked so many times: it does not answer while it catches up.
const QUESTIONS: u32 = 4;

/// Dropping it ends the watch.
pub struct Feed {
    answers: mpsc::Receiver<Result<Answer, Failure>>,
    _pump: JoinSet<()>,
}

impl Feed {
    pub(super) fn start(client: Arc<Client>, prefix: Vec<u8>) -> Self {
        let (sender, answers) = mpsc::channel(1);
        let mut pump = JoinSet::new();
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        pump.spawn(Pump { client, prefix, answers: sender, restarts: 0, backoff }.run());
        Self { answers, _pump: pump }
    }

    /// Waits for the next answer; the first is everything. After a failure the feed is dead.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Answer, Failure> {
        let dead = || Err(Failure::Other("this feed has failed before; open another".into()));
        self.answers.recv().await.unwrap_or_else(dead)
    }
}

struct Pump {
    client: Arc<Client>,
    prefix: Vec<u8>,
    answers: mpsc::Sender<Result<Answer, Failure>>,
    restarts: usize,
    backoff: Backoff,
}

/// Why a watch ended without a failure.
enum End {
    /// Changes were missed: everything has to be read again.
    Missed,
    /// Nobody reads any more.
    Unread,
}

impl Pump {
    async fn run(mut self) {
        loop {
            match self.list_and_watch().await {
                Ok(End::Missed) => tokio::select! {
                    () = tokio::time::sleep(self.backoff.pause()) => {}
                    () = self.answers.closed() => return,
                },
                Ok(End::Unread) => return,
                Err(failure) => {
                    let _ = self.answers.send(Err(failure)).await;
                    return;
                }
            }
        }
    }

    async fn list_and_watch(&mut self) -> Result<End, Failure> {
        // Room first: a list that is made while the reader is busy is old when it is read.
        if self.answers.reserve().await.is_err() {
            return Ok(End::Unread);
        }
        if self.restarts > MOST_RESTARTS {
            return Err(Failure::Unavailable("etcd forgets changes faster than they can be read".into()));
        }
        self.restarts += 1;
        let session = Box::pin(self.client.session()).await?;
        // Apart, as what begins the watch below: a task is as large as the largest of what it ever waits for, and there
        // is one for each service.
        let listing = Box::pin(list::list(&self.client, &session, &self.prefix)).await?;
        let list::Listing { at, entries } = listing;
        if self.answers.send(Ok(at.answer(Content::All(entries)))).await.is_err() {
            return Ok(End::Unread);
        }
        self.watch(&session, at).await
    }

    async fn watch(&mut self, session: &Session, mut at: Position) -> Result<End, Failure> {
        let (mut requests, mut responses) = Box::pin(self.begin(session, at)).await?;
        let answers = self.answers.clone();
        let mut batch = Batch::default();
        let mut quiet = Quiet::new(self.client.granted().silence);
        loop {
            tokio::select! {
                // What etcd has said counts before how long it said nothing.
                biased;
                () = answers.closed() => return Ok(End::Unread),
                room = answers.reserve(), if !batch.is_empty() => match room {
                    Ok(room) => room.send(Ok(batch.take(at))),
                    Err(_) => return Ok(End::Unread),
                },
                response = responses.message() => {
                    quiet = Quiet::new(quiet.silence);
                    let response = response.map_err(|error| self.client.failed(session, &error))?;
                    let Some(response) = response else {
                        session.end();
                        return Err(Failure::Unavailable("etcd ended the watch".into()));
                    };
                    match self.read(&response, &mut at, &mut batch)? {
                        Some(end) => return Ok(end),
                        None if batch.is_too_long() => return Ok(End::Missed),
                        None => {}
                    }
                }
                () = tokio::time::sleep_until(quiet.until) => {
                    if quiet.is_too_long(Instant::now()) {
                        session.end();
                        let endpoint = session.endpoint();
                        return Err(Failure::Unavailable(format!(
                            "etcd at {endpoint}: silent for {:?}", quiet.silence * 2
                        )));
                    }
                    let asked = requests.request_progress().await;
                    asked.map_err(|error| self.client.failed(session, &error))?;
                    quiet.ask(Instant::now());
                }
            }
        }
    }

    async fn begin(
        &self,
        session: &Session,
        at: Position,
    ) -> Result<(WatchRequestSender, WatchResponseStream), Failure> {
        let (from, end) = list::range(&self.prefix);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(at.revision + 1)
            // A revision with many changes comes in several answers instead of one too long to take.
            .with_fragment();
        let opened = session.within(session.watch().watch(from, Some(options))).await;
        Ok(opened.map_err(|error| self.client.failed(session, &error))?.split())
    }

    fn read(
        &mut self,
        response: &WatchResponse,
        at: &mut Position,
        batch: &mut Batch,
    ) -> Result<Option<End>, Failure> {
        if let Some(header) = response.header().map(Position::from) {
            if header.cluster != at.cluster || header.revision < at.revision {
                if self.client.odd("not what it was").is_some() {
                    tracing::warn!(registry = %self.client.registry, ?at, ?header, "etcd is not what it was");
                }
                return Ok(Some(End::Missed));
            }
            if response.events().is_empty() && !response.created() {
                at.revision = header.revision;
            }
        }
        if response.compact_revision() > 0 {
            return Ok(Some(End::Missed));
        }
        if response.canceled() {
            return Err(canceled(response.cancel_reason()));
        }
        if !response.created() {
            self.restarts = 0;
            self.backoff.works();
            batch.add(response, at);
        }
        Ok(None)
    }
}

/// etcd tells why in words only.
fn canceled(reason: &str) -> Failure {
    let text = format!("etcd canceled the watch: {reason}");
    match reason {
        reason if reason.contains("permission denied") => Failure::Denied(text),
        _ => Failure::Unavailable(text),
    }
}

impl Position {
    fn answer(self, content: Content) -> Answer {
        Answer { cluster: self.cluster, revision: self.revision, content }
    }
}

/// What has arrived and was not read yet.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    bytes: usize,
    /// A sign of life, worth an answer when there is nothing else.
    alive: bool,
}

impl Batch {
    fn add(&mut self, response: &WatchResponse, at: &mut Position) {
        self.alive = true;
        for event in response.events() {
            let Some(pair) = event.kv() else { continue };
            self.bytes += pair.key().len() + pair.value().len();
            at.revision = at.revision.max(pair.mod_revision());
            self.events.push(match event.event_type() {
                EventType::Put => Event::Put(Entry::from(pair.clone())),
                EventType::Delete => Event::Delete(pair.key().to_vec()),
            });
        }
    }

    fn is_empty(&self) -> bool {
        !self.alive
    }

    fn is_too_long(&self) -> bool {
        self.events.len() > MOST_EVENTS || self.bytes > MOST_BYTES
    }

    fn take(&mut self, at: Position) -> Answer {
        let events = std::mem::take(self).events;
        at.answer(if events.is_empty() { Content::Nothing } else { Content::Changes(events) })
    }
}

/// How long nothing has come: after `silence` etcd is asked, after twice as long it counts as gone.
struct Quiet {
    silence: Duration,
    until: Instant,
    asked: u32,
}

impl Quiet {
    fn new(silence: Duration) -> Self {
        Self { silence, until: Instant::now() + silence, asked: 0 }
    }

    /// Etcd was asked, and has until then to answer.
    fn ask(&mut self, now: Instant) {
        if self.was_deaf(now) {
            self.asked = 0;
        }
        self.asked += 1;
        self.until = now + self.silence / QUESTIONS;
    }

    fn is_too_long(&self, now: Instant) -> bool {
        self.asked >= QUESTIONS && !self.was_deaf(now)
    }

    /// Whoever comes to this so late was stopped, or had no processor, and has not listened: that tells nothing of etcd,
    /// whose answers may not have been read yet.
    fn was_deaf(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.until) > self.silence / QUESTIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn etcd_is_asked_after_a_silence_and_gone_after_twice_as_long() {
        let mut quiet = Quiet::new(SILENCE);
        let start = Instant::now();
        for question in 0..QUESTIONS {
            assert_eq!(quiet.until - start, SILENCE + SILENCE / QUESTIONS * question);
            assert!(!quiet.is_too_long(quiet.until));
            quiet.ask(quiet.until);
        }
        assert_eq!(quiet.until - start, SILENCE * 2);
        assert!(quiet.is_too_long(quiet.until));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_stopped_has_heard_nothing_and_asks_again() {
        for asked_before in 0..=QUESTIONS {
            let mut quiet = Quiet::new(SILENCE);
            (0..asked_before).for_each(|_| quiet.ask(quiet.until));
            let woken = quiet.until + SILENCE * 10;
            assert!(!quiet.is_too_long(woken), "{asked_before}");
            quiet.ask(woken);
            for _ in 1..QUESTIONS {
                assert!(!quiet.is_too_long(quiet.until), "{asked_before}");
                quiet.ask(quiet.until);
            }
            assert_eq!(quiet.until - woken, SILENCE);
            assert!(quiet.is_too_long(quiet.until), "{asked_before}");
        }
    }
}
