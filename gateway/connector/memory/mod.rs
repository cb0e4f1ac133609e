//! The registry inside the gateway: services register over the admin API or through a plugin, and leave or expire.
//!
//! What is registered survives a restart of the gateway. Readers hold a [`Feed`]; nobody polls.

mod check;
mod disk;
mod feed;
mod registration;
mod state;

use std::{
    future::{Future, pending},
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

pub(crate) use self::registration::label_object;
pub use self::{
    check::Rejected,
    feed::{Content, Feed},
    registration::{Instance, Registration, ServiceSummary},
    state::Outcome,
};
use self::{check::check, disk::Saved, state::State};
use super::lock;
use crate::registry::RawEndpoint;

/// From a change to its being written, so that many become one write.
const SAVE_AFTER: Duration = Duration::from_millis(200);

/// From a write that failed to the next.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the embedded registry holds. One per process.
pub struct Memory {
    state: Mutex<State>,
    path: PathBuf,
    /// Something is due earlier than it was.
    sooner: Notify,
}

impl Memory {
    /// Restores what was saved at `path` and tells what was wrong with it.
    ///
    /// Every restored instance has its whole TTL again: its heartbeats went nowhere while the gateway was down,
    /// so that their absence says nothing about it. Expiry and saving are done by [`run`](Self::run).
    pub fn open(path: impl Into<PathBuf>) -> (Arc<Self>, Vec<String>) {
        let path = path.into();
        let (saved, mut warnings) = disk::load(&path);
        let memory = Arc::new(Self { state: Mutex::new(State::new()), path, sooner: Notify::new() });
        for (service, id, registration) in saved.into_registrations() {
            if let Err(rejected) = memory.put(&service, &id, registration) {
                warnings.push(format!("left out {id:?} of {service:?}: {rejected}"));
            }
        }
        memory.state().save_at = None;
        (memory, warnings)
    }

    /// Registers an instance, or renews it: the same again is the heartbeat. Followers see what changed.
    pub fn put(&self, service: &str, id: &str, registration: Registration) -> Result<Outcome, Rejected> {
        check(service, id, &registration)?;
        let outcome = self.state().put(service, id, registration.normalized(), Instant::now())?;
        self.sooner.notify_one();
        Ok(outcome)
    }

    /// Removes an instance; tells whether there was one.
    pub fn remove(&self, service: &str, id: &str) -> bool {
        let removed = self.state().remove(service, id, Instant::now());
        self.sooner.notify_one();
        removed
    }

    /// The services that have instances, by name.
    pub fn services(&self) -> Vec<ServiceSummary> {
        self.state().services()
    }

    /// The instances of a service, by id; none when it is not known.
    pub fn instances(&self, service: &str) -> Vec<Instance> {
        self.state().instances(service, Instant::now())
    }

    /// Follows a service, whether it is known or not.
    pub fn follow(self: &Arc<Self>, service: &str) -> Result<Feed, Rejected> {
        check::service(service)?;
        Ok(Feed::new(self.clone(), service.into()))
    }

    /// Expires and saves until `shutdown`, then saves a last time.
    ///
    /// Dropping the future stops both; nothing that was saved before is lost.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            let due = self.state().due();
            tokio::select! {
                () = &mut shutdown => break,
                () = self.sooner.notified() => {}
                () = at(due) => {}
            }
            let now = Instant::now();
            self.state().expire(now);
            if self.state().save_at.is_some_and(|due| due <= now) {
                self.save().await;
            }
        }
        if self.state().save_at.is_some() {
            self.save().await;
        }
    }

    async fn save(&self) {
        let saved = {
            let mut state = self.state();
            state.save_at = None;
            Saved::from(&*state)
        };
        let path = self.path.clone();
        // Not on this thread: an answer of the disk may take seconds.
        let written = tokio::task::spawn_blocking(move || disk::save(&path, saved)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(path = %self.path.display(), %error, "Cannot save the embedded registry");
        self.state().save_at.get_or_insert(Instant::now() + SAVE_AGAIN_AFTER);
    }

    fn list(&self, service: &str) -> Vec<RawEndpoint> {
        self.state().list(service)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}
