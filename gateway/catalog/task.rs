//! The task that owns the set of running upstreams.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Catalog, Parts, Table, Upstream, Wanted, feed, feed::Feed, found::FoundUpstreams};
use crate::{config::Config, upstream::UpstreamName};

/// Names that requests may wait for at once, before the task has looked at them: those that have a list on disk, and,
/// in a queue of their own, those that anybody may have made up.
const WANTED: usize = 1_024;

/// How often unused services are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How long new upstreams may take to have their first list before routes point at them.
pub(super) const FIRST_LISTS: Duration = Duration::from_secs(5);

/// The right to change what runs. Dropping it, and all catalogs, ends the task and every watch.
pub struct Control {
    commands: mpsc::Sender<Command>,
}

enum Command {
    /// Start what is new, and say whose first list is to be waited for.
    Prepare(Arc<Config>, oneshot::Sender<Vec<watch::Receiver<Arc<crate::upstream::Status>>>>),
    /// Put the prepared configuration in force.
    Commit(oneshot::Sender<()>),
    /// End everything, and say when the last list is written.
    Close(oneshot::Sender<()>),
}

impl Control {
    /// Puts a configuration in force. Unchanged upstreams keep their list, identity and statistics; new ones have
    /// up to five seconds for their first list before the table with them is published.
    pub async fn apply(&self, config: Arc<Config>) {
        let (answer, waiting) = oneshot::channel();
        if self.commands.send(Command::Prepare(config, answer)).await.is_err() {
            return;
        }
        let waits = waiting.await.unwrap_or_default().into_iter();
        let mut waits: tokio::task::JoinSet<()> =
            waits.map(|status| feed::first_list(status, FIRST_LISTS)).collect();
        while waits.join_next().await.is_some() {}
        self.ask(Command::Commit).await;
    }

    /// Ends all watches and waits until the last lists are written.
    pub async fn close(self) {
        self.ask(Command::Close).await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (answer, done) = oneshot::channel();
        if self.commands.send(command(answer)).await.is_ok() {
            // An error says that the task has ended, and with it the gateway.
            let _ = done.await;
        }
    }
}

pub(super) struct Task {
    parts: Parts,
    config: Arc<Config>,
    running: HashMap<UpstreamName, Running>,
    /// What `Commit` puts in the place of `running`, and the configuration it belongs to.
    prepared: Option<(Arc<Config>, HashMap<UpstreamName, Running>)>,
    found: FoundUpstreams,
    table: watch::Sender<Arc<Table>>,
}

#[derive(Clone)]
struct Running {
    upstream: Arc<Upstream>,
    feed: Arc<Feed>,
}

/// Starts the catalog with nothing in it. Must be called on the control runtime.
pub(super) fn start(parts: Parts, config: Arc<Config>) -> (Catalog, Control) {
    let (table, tables) = watch::channel(Arc::new(Table::new(config.clone(), HashMap::new(), None)));
    let (published, found) = watch::channel(Arc::default());
    let ((wanted, asked), (strange, strangers)) = (mpsc::channel(WANTED), mpsc::channel(WANTED));
    let (commands, commanded) = mpsc::channel(1);
    let (names, unknowns) = FoundUpstreams::new(published);
    let disk = Some(parts.disk.clone());
    let task = Task { parts, config, running: HashMap::new(), prepared: None, found: names, table };
    tokio::spawn(task.run(asked, strangers, commanded, unknowns));
    (Catalog { table: tables, found, wanted, strange, disk }, Control { commands })
}

impl Task {
    async fn run(
        mut self,
        mut wanted: mpsc::Receiver<Wanted>,
        mut strange: mpsc::Receiver<Wanted>,
        mut commands: mpsc::Receiver<Command>,
        mut unknowns: mpsc::UnboundedReceiver<(UpstreamName, Duration)>,
    ) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // In this order: names that turned out unknown make room for those that are wanted next, and those that
                // have a list come before those that may be made up.
                biased;
                command = commands.recv() => match command {
                    Some(Command::Prepare(config, answer)) => {
                        // Who asked may have gone; then nothing is committed either.
                        let _ = answer.send(self.prepare(config).await);
                    }
                    Some(Command::Commit(answer)) => {
                        self.commit();
                        let _ = answer.send(());
                    }
                    Some(Command::Close(answer)) => {
                        self.end().await;
                        let _ = answer.send(());
                        return;
                    }
                    None => return,
                },
                Some((name, unknown_for)) = unknowns.recv() => self.found.forget_unknown(name, unknown_for),
                _ = sweep.tick(), if !self.found.is_empty() => self.found.sweep(),
                Some(wanted) = wanted.recv() => self.found.find(wanted, &self.config, &self.parts).await,
                Some(wanted) = strange.recv() => self.found.find(wanted, &self.config, &self.parts).await,
            }
        }
    }

    async fn prepare(&mut self, config: Arc<Config>) -> Vec<watch::Receiver<Arc<crate::upstream::Status>>> {
        self.abandon();
        self.parts.intake.resolver.set_servers(&config.dns_servers);
        let mut waits = Vec::new();
        let mut prepared = HashMap::new();
        for (name, settings) in &config.upstreams {
            let known = self.running.get(name).filter(|known| known.feed.suits(settings, &config));
            let selector = || (self.parts.selector)(&settings.selector.plugin);
            let running = match known {
                Some(known) if known.upstream.config == *settings => known.clone(),
                Some(known) => {
                    let upstream = Arc::new(known.upstream.with_config(
                        settings.clone(),
                        selector(),
                        self.parts.tls(settings),
                    ));
                    Running { upstream, feed: known.feed.clone() }
                }
                None => {
                    // Its list goes on with other sources.
                    let known = match self.running.get(name) {
                        Some(known) => known.feed.hand_over().await,
                        None => None,
                    };
                    let started = Feed::start(name.clone(), settings, &config, &self.parts, known).await;
                    let Some(feed) = started else { break };
                    let (reader, owner) = (feed.reader.clone(), feed.owner_side.clone());
                    waits.push(feed.status());
                    let workers = self.parts.workers;
                    let upstream = Upstream::new(
                        settings.clone(),
                        reader,
                        owner,
                        selector(),
                        self.parts.tls(settings),
                        workers,
                    );
                    Running { upstream: Arc::new(upstream), feed: Arc::new(feed) }
                }
            };
            prepared.insert(name.clone(), running);
        }
        self.prepared = Some((config, prepared));
        waits
    }

    /// Gives up what was prepared and never put in force.
    fn abandon(&mut self) {
        let Some((_, prepared)) = self.prepared.take() else { return };
        for (name, given_up) in prepared {
            if let Some(known) = self.running.get(&name)
                && !Arc::ptr_eq(&known.feed, &given_up.feed)
            {
                known.feed.take_back();
            }
        }
    }

    fn commit(&mut self) {
        let Some((config, prepared)) = self.prepared.take() else { return };
        let upstreams =
            prepared.iter().map(|(name, running)| (name.clone(), running.upstream.clone())).collect();
        prepared.values().for_each(|running| running.feed.configure(&running.upstream, &config));
        self.found.reconcile(&config, &self.parts);
        let table = Table::new(config.clone(), upstreams, Some(&self.table.borrow()));
        self.table.send_replace(Arc::new(table));
        let old = std::mem::replace(&mut self.running, prepared);
        for (name, old) in old.into_iter().filter(|(name, _)| !config.upstreams.contains_key(name)) {
            tracing::info!(upstream = %name, "Upstream removed");
            if let Some(feed) = Arc::into_inner(old.feed) {
                drop(feed.discard());
            }
        }
        self.config = config;
    }

    async fn end(mut self) {
        self.abandon();
        for feed in self.running.into_values().filter_map(|running| Arc::into_inner(running.feed)) {
            feed.end().await;
        }
        self.found.end().await;
    }
}
