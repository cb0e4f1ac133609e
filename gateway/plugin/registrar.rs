//! Announcements by WebAssembly: each has an instance of its own and a task that owns its timer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time,
};

use super::{
    instance::Instance,
    registry::{self, Current},
};
pub use crate::bindings::registry::exports::witgate::registry::registrar::Announcement;
use crate::{
    backoff::{Backoff, Lasting},
    config,
    connector::Lent,
    registry::Failure,
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A plugin that asks to be called again at once is not.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// How long a withdrawal may take. What is not withdrawn ends with its lease.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// How an announcement fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not announced yet.
    Starting,
    Announced,
    /// Tried again after a pause.
    Failing(Failure),
}

/// An instance that is announced for as long as this lives. Dropping it withdraws nothing.
pub struct Registration {
    standing: watch::Receiver<Standing>,
    withdraw: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Registration {
    pub(super) fn start(
        config: Arc<config::Registry>,
        lent: Arc<Lent>,
        current: Current,
        announcement: Announcement,
    ) -> Self {
        let (tell, standing) = watch::channel(Standing::Starting);
        let (withdraw, withdrawn) = oneshot::channel();
        let failing = Lasting::default();
        let announcer = Announcer { config, lent, current, announcement, tell, failing };
        let task = tokio::spawn(announcer.run(withdrawn));
        Self { standing, withdraw, task }
    }

    /// Tells how the announcement fares, now and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Takes the announcement back. Waits for the registry, a few seconds at most.
    pub async fn withdraw(mut self) {
        let (unused, _) = oneshot::channel();
        // The task is gone only if it panicked, and that has been reported.
        let _ = std::mem::replace(&mut self.withdraw, unused).send(());
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Announcer {
    config: Arc<config::Registry>,
    lent: Arc<Lent>,
    current: Current,
    announcement: Announcement,
    tell: watch::Sender<Standing>,
    failing: Lasting,
}

impl Announcer {
    async fn run(mut self, mut withdrawn: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let failure = match self.announce(&mut backoff, &mut withdrawn).await {
                Ok(()) => return,
                Err(failure) => failure,
            };
            self.failed(failure);
            tokio::select! {
                () = time::sleep(backoff.pause()) => {}
                // Another version may be the cure.
                Ok(()) = self.current.changed() => backoff.reset(),
                _ = &mut withdrawn => return,
            }
        }
    }

    /// Announces, and keeps the announcement alive until it is withdrawn or the instance fails.
    async fn announce(
        &mut self,
        backoff: &mut Backoff,
        withdrawn: &mut oneshot::Receiver<()>,
    ) -> Result<(), Failure> {
        let plugin = self.current.borrow_and_update().clone();
        let plugin = plugin.ok_or_else(|| registry::missing(&self.config.plugin))?;
        let mut instance = Instance::new(
            plugin,
            self.lent.connectors(&self.config.plugin, &self.config.name, &self.config.grants),
        )
        .await?;
        let registration = instance.register(&self.announcement, &self.config.settings).await?;
        loop {
            let pause = match instance.renew(registration).await {
                Ok(next) => {
                    backoff.works();
                    self.announced();
                    next.max(SHORTEST_INTERVAL)
                }
                Err(failure @ Failure::Plugin(_)) => return Err(failure),
                Err(failure) => {
                    self.failed(failure);
                    backoff.pause()
                }
            };
            tokio::select! {
                () = time::sleep(pause) => {}
                _ = &mut *withdrawn => {
                    self.withdraw(instance.withdraw(registration)).await;
                    return Ok(());
                }
            }
        }
    }

    async fn withdraw(&self, call: impl Future<Output = Result<(), Failure>>) {
        let (registry, service) = (&self.config.name, &self.announcement.service);
        match time::timeout(WITHDRAWAL, call).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%registry, service, %error, "Withdrawal failed"),
            Err(_) => tracing::warn!(%registry, service, "Withdrawal took too long"),
        }
    }

    fn announced(&mut self) {
        let (registry, service) = (&self.config.name, &self.announcement.service);
        if let Some(lasted) = self.failing.over() {
            tracing::info!(%registry, service, for_seconds = lasted.for_seconds, "Announced again");
        }
        self.tell.send_replace(Standing::Announced);
    }

    fn failed(&mut self, failure: Failure) {
        let (registry, service) = (&self.config.name, &self.announcement.service);
        if let Some(lasts) = self.failing.met(&failure.to_string()) {
            tracing::warn!(%registry, service, error = %failure, for_seconds = lasts.for_seconds,
                times = lasts.times, "Announcement failed, trying again");
        }
        self.tell.send_replace(Standing::Failing(failure));
    }
}
