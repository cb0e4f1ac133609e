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
use crate::registry::OwnAddresses;

/// From a change to its being written, so that many become one write.
const SAVE_AFTER: Duration = Duration::from_millis(200);

/// From a write that failed to the next.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the embedded registry holds. One per process.
pub struct Memory {
    state: Mutex<State>,
    path: PathBuf,
    /// What nobody may register.
    own: OwnAddresses,
    /// Something is due earlier than it was.
    sooner: Notify,
}

impl Memory {
    /// Restores what was saved at `path` and tells what was wrong with it.
    ///
    /// Every restored instance has its whole TTL again: its heartbeats went nowhere while the gateway was down,
    /// so that their absence says nothing about it. Expiry and saving are done by [`run`](Self::run).
    pub fn open(path: impl Into<PathBuf>) -> (Arc<Self>, Vec<String>) {
        Self::open_beside(path, OwnAddresses::default())
    }

    /// The same, where nobody may register one of the gateway's `own` addresses.
    pub fn open_beside(path: impl Into<PathBuf>, own: OwnAddresses) -> (Arc<Self>, Vec<String>) {
        let path = path.into();
        let (saved, mut warnings) = disk::load(&path);
        let memory = Arc::new(Self { state: Mutex::new(State::new()), path, own, sooner: Notify::new() });
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
        check(service, id, &registration, &self.own)?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::{sync::oneshot, task::JoinHandle};

    use super::*;
    use crate::registry::{RawChange, RawEndpoint};

    fn registration(address: &str, ttl_seconds: u32) -> Registration {
        Registration { address: address.into(), weight: 1, labels: vec![], ttl_seconds }
    }

    fn endpoint(id: &str, address: &str) -> RawEndpoint {
        RawEndpoint { id: id.into(), address: address.into(), weight: 1, labels: vec![] }
    }

    fn ids(memory: &Memory) -> Vec<String> {
        memory.instances("orders").into_iter().map(|instance| instance.id).collect()
    }

    /// A memory that runs, until it is told to stop.
    struct Running {
        memory: Arc<Memory>,
        stop: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    impl Running {
        fn start(path: &Path) -> Self {
            let (memory, warnings) = Memory::open(path);
            assert_eq!(warnings, Vec::<String>::new());
            let (stop, stopped) = oneshot::channel();
            let running = memory.clone();
            let task = tokio::spawn(async move {
                running.run(async { drop(stopped.await) }).await;
            });
            Self { memory, stop, task }
        }

        async fn stop(self) {
            self.stop.send(()).unwrap();
            self.task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_tells_all_and_then_what_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path().join("registry.json"));
        memory.put("orders", "a", registration("a:1", 0)).unwrap();
        let mut feed = memory.follow("orders").unwrap();
        assert_eq!(feed.next().await, Content::All(vec![endpoint("a", "a:1")]));

        assert_eq!(memory.put("orders", "a", registration("a:1", 0)), Ok(Outcome::Renewed));
        assert_eq!(memory.put("orders", "a", registration("a:2", 0)), Ok(Outcome::Changed));
        assert_eq!(memory.put("orders", "b", registration("b:1", 0)), Ok(Outcome::New));
        memory.put("payments", "p", registration("p:1", 0)).unwrap();
        assert!(memory.remove("orders", "a"));
        assert!(!memory.remove("orders", "a"));
        let expected = vec![
            RawChange::Put(endpoint("a", "a:2")),
            RawChange::Put(endpoint("b", "b:1")),
            RawChange::Remove("a".into()),
        ];
        assert_eq!(feed.next().await, Content::Changes(expected));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_all_again() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path().join("registry.json"));
        let mut feed = memory.follow("orders").unwrap();
        assert_eq!(feed.next().await, Content::All(vec![]));
        for port in 1..=1000 {
            memory.put("orders", "a", registration(&format!("a:{port}"), 0)).unwrap();
        }
        assert_eq!(feed.next().await, Content::All(vec![endpoint("a", "a:1000")]));
        memory.remove("orders", "a");
        assert_eq!(feed.next().await, Content::Changes(vec![RawChange::Remove("a".into())]));
    }

    #[tokio::test(start_paused = true)]
    async fn following_unknown_names_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, _) = Memory::open(folder.path().join("registry.json"));
        for i in 0..1000 {
            let mut feed = memory.follow(&format!("scan-{i}")).unwrap();
            assert_eq!(feed.next().await, Content::All(vec![]));
        }
        assert_eq!(memory.state().followed(), 0);
        assert!(matches!(memory.follow("no such/name"), Err(Rejected::Service(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_without_heartbeats_expires() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(&folder.path().join("registry.json"));
        let memory = running.memory.clone();
        let mut feed = memory.follow("orders").unwrap();
        feed.next().await;
        let started = Instant::now();
        memory.put("orders", "short", registration("a:1", 10)).unwrap();
        memory.put("orders", "renewed", registration("a:2", 10)).unwrap();
        memory.put("orders", "for-ever", registration("a:3", 0)).unwrap();
        feed.next().await;

        tokio::time::sleep_until(started + Duration::from_secs(9)).await;
        assert_eq!(memory.put("orders", "renewed", registration("a:2", 10)), Ok(Outcome::Renewed));
        assert_eq!(memory.instances("orders")[2].expires_in_seconds, Some(1));
        assert_eq!(feed.next().await, Content::Changes(vec![RawChange::Remove("short".into())]));
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(feed.next().await, Content::Changes(vec![RawChange::Remove("renewed".into())]));
        assert_eq!(started.elapsed().as_secs(), 19);
        assert_eq!(ids(&memory), ["for-ever"]);
        assert_eq!(memory.services(), [ServiceSummary { service: "orders".into(), instances: 1 }]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_registered_survives_a_restart_with_its_whole_ttl() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/registry.json");
        let running = Running::start(&path);
        let mut labelled = registration("a:1", 30);
        labelled.labels =
            vec![("zone".into(), "x".into()), ("tag".into(), "2".into()), ("tag".into(), "1".into())];
        running.memory.put("orders", "a", labelled).unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let before = running.memory.instances("orders");
        running.stop().await;

        let running = Running::start(&path);
        let mut after = running.memory.instances("orders");
        assert_eq!(after[0].expires_in_seconds, Some(30));
        after[0].expires_in_seconds = before[0].expires_in_seconds;
        assert_eq!(after, before);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_saved_soon_and_a_heartbeat_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        running.memory.put("orders", "a", registration("a:1", 30)).unwrap();
        // Killed, not stopped, a second later.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["a"]);

        std::fs::remove_file(&path).unwrap();
        for _ in 0..100 {
            running.memory.put("orders", "a", registration("a:1", 30)).unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(!path.exists());
        running.stop().await;
        assert!(!path.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_refuses_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let (memory, warnings) = Memory::open(state.join("registry.json"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let running = memory.clone();
        let task = tokio::spawn(async move { running.run(pending()).await });
        memory.put("orders", "a", registration("a:1", 0)).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::fs::remove_file(&state).unwrap();
        tokio::time::sleep(SAVE_AGAIN_AFTER).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ids(&Memory::open(state.join("registry.json")).0), ["a"]);
        task.abort();
    }

    #[test]
    fn a_damaged_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let (memory, _) = Memory::open(&path);
        memory.put("orders", "a", registration("a:1", 0)).unwrap();
        disk::save(&path, Saved::from(&*memory.state())).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let truncated = &good[..good.len() / 2];
        let changed = good.replace("a:1", "b:1");
        let newer = good.replace("\"version\":1", "\"version\":2");
        for (text, why) in [(truncated, "EOF"), (&changed, "checksum"), (&newer, "version 2"), ("", "EOF")] {
            std::fs::write(&path, text).unwrap();
            let (memory, warnings) = Memory::open(&path);
            assert_eq!(memory.services(), []);
            assert!(warnings.len() == 1 && warnings[0].contains(why), "{warnings:?}");
            assert_eq!(std::fs::read_to_string(path.with_extension("json.unusable")).unwrap(), text);
            assert!(!path.exists());
        }
    }
}
