//! The registry inside the gateway: services register over the admin API or through a plugin, and leave or expire.
//!
//! What is registered survives the end of the gateway. Readers hold a [`Feed`]; nobody polls.

mod check;
mod disk;
mod feed;
mod host;
mod keys;
mod records;
mod registration;
mod state;
mod ttl;
mod watched;

use std::{
    future::{Future, pending},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use self::{
    check::check,
    disk::{DiskError, Step, Writer},
    records::{Change, Registrations},
    state::{Batch, State},
};
pub use self::{
    check::{LONGEST_OUTPUT, Rejected},
    feed::Feed,
    keys::Grant,
    registration::{Instance, Registration, ServiceSummary, State as InstanceState},
    state::Outcome,
    ttl::{CheckStatus, TtlCheck},
};
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{INTERFACES, Keys, SETTING, USERS, grant},
    registration::label_object,
};
use super::lock;
use crate::{
    backoff::{Backoff, Lasting},
    registry::OwnAddresses,
};

/// From a write that failed to the next.
const SAVE_AGAIN_FIRST: Duration = Duration::from_secs(1);
const SAVE_AGAIN_MOST: Duration = Duration::from_secs(10);

/// A power cut takes at most what was written so long before it.
const FORCE_AFTER: Duration = Duration::from_millis(200);

/// How long whoever changed something waits for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(5);

/// Why a change of a registry without a file would be lost.
const NOT_KEPT: &str = "this registry is not kept";

/// Instances that are looked at while the lock is held once, where there may be many.
const PAGE: usize = 1_000;

/// What the embedded registry holds. One per process.
pub struct Memory {
    state: Mutex<State>,
    /// None: nothing is kept.
    writer: Option<Arc<Mutex<Writer>>>,
    saved: watch::Sender<Saved>,
    /// What nobody may register.
    own: OwnAddresses,
    /// Something is due earlier than it was.
    sooner: Notify,
}

/// How far changes are saved.
#[derive(Debug)]
struct Saved {
    /// The number of the latest change that is.
    upto: u64,
    /// Why later ones are not, while nobody knows better.
    failing: Option<Arc<str>>,
}

/// What a registration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub outcome: Outcome,
    /// To be waited for.
    pub change: ChangeNumber,
}

/// Names a change, to wait until it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeNumber(u64);

/// A change is in force, and would be lost with the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsaved(pub Arc<str>);

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
        let (writer, found) = Writer::open(path.into());
        let memory = Self::new(Some(Arc::new(Mutex::new(writer))), own);
        let mut warnings = found.warnings;
        warnings.extend(memory.restore(found.registrations));
        (memory, warnings)
    }

    /// A registry that another process still has, as it said in [`text`](Self::text). It is not to be run before
    /// [`take_over`](Self::take_over): instances tell the other one that they are there.
    pub fn succeed(
        path: PathBuf,
        own: OwnAddresses,
        text: &[u8],
    ) -> Result<(Arc<Self>, Vec<String>), String> {
        let memory = Self::new(Some(Arc::new(Mutex::new(Writer::new(path)))), own);
        let warnings = memory.restore(records::read(text)?.registrations);
        Ok((memory, warnings))
    }

    /// Everything that is registered, for the process that takes over.
    pub async fn text(&self) -> Result<Vec<u8>, String> {
        let all = self.all().await;
        records::text(&all).map_err(|error| error.to_string())
    }

    /// Lets another process write the file. Not while this one [runs](Self::run); it may run again later.
    pub async fn release(&self) {
        // Without a file there is nothing to leave.
        let _ = self
            .blocking(|writer| {
                writer.release();
                Ok(())
            })
            .await;
    }

    /// Becomes what another process says it was in the end, each instance with its whole TTL. The file is this
    /// process' from now on. Tells what cannot be taken over.
    pub fn take_over(&self, text: &[u8]) -> Result<Vec<String>, String> {
        let (fine, mut warnings) = self.fine(records::read(text)?.registrations);
        if let Err(rejected) = self.state().turn_into(fine, Instant::now()) {
            warnings.push(format!("left out the rest: {rejected}"));
        }
        Ok(warnings)
    }

    /// A registry that keeps nothing.
    pub fn unkept() -> Arc<Self> {
        Self::new(None, OwnAddresses::default())
    }

    /// What is wrong with the file at `path`, if there is one. Changes nothing.
    pub fn look(path: &Path) -> Option<String> {
        disk::look(path)
    }

    fn new(writer: Option<Arc<Mutex<Writer>>>, own: OwnAddresses) -> Arc<Self> {
        let failing = writer.is_none().then(|| NOT_KEPT.into());
        let saved = Saved { upto: 0, failing };
        let (state, sooner) = (Mutex::default(), Notify::new());
        Arc::new(Self { state, writer, saved: watch::Sender::new(saved), own, sooner })
    }

    /// Registers an instance, or renews it: the same again is the heartbeat. Followers see what changed.
    pub fn put(&self, service: &str, id: &str, registration: Registration) -> Result<Done, Rejected> {
        check(service, id, &registration, &self.own)?;
        let (outcome, change) = self.state().put(service, id, registration.normalized(), Instant::now())?;
        // A heartbeat makes nothing due earlier.
        if outcome != Outcome::Renewed {
            self.sooner.notify_one();
        }
        Ok(Done { outcome, change: ChangeNumber(change) })
    }

    /// Changes an instance as `edit` says, and renews no more of it than its check `heard`; none where there is no such
    /// instance. `edit` is short, since everybody else waits.
    pub fn edit<E: From<Rejected>>(
        &self,
        service: &str,
        id: &str,
        heard: Option<&str>,
        edit: impl FnOnce(&mut Registration) -> Result<(), E>,
    ) -> Option<Result<Done, E>> {
        let edit = |mut registration: Registration| {
            edit(&mut registration)?;
            check(service, id, &registration, &self.own)?;
            Ok(registration.normalized())
        };
        let edited = self.state().edit(service, id, heard, Instant::now(), edit)?;
        // What became critical may be due to go earlier than anything else.
        if edited.as_ref().is_ok_and(|(outcome, _)| *outcome != Outcome::Renewed) {
            self.sooner.notify_one();
        }
        Some(edited.map(|(outcome, change)| Done { outcome, change: ChangeNumber(change) }))
    }

    /// The service and the id of the first instance of which this is true. Looks at all of them, a few at once.
    pub fn find(&self, wanted: impl Fn(&str, &Registration) -> bool) -> Option<(Arc<str>, Arc<str>)> {
        let mut last: Option<(Arc<str>, Arc<str>)> = None;
        loop {
            let after = last.as_ref().map(|(service, id)| (&**service, &**id));
            let page = self.state().page(after, PAGE);
            if page.is_empty() {
                return None;
            }
            for change in page {
                let Change::Put { service, id, registration } = change else { continue };
                if wanted(&id, &registration) {
                    return Some((service, id));
                }
                last = Some((service, id));
            }
        }
    }

    /// Renews an instance as it is; tells whether there was one.
    pub fn renew(&self, service: &str, id: &str) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let Some(instance) = state.instance(service, id, now) else { return false };
        state.put(service, id, (*instance.registration).clone(), now).is_ok()
    }

    /// Removes an instance; tells whether there was one.
    pub fn remove(&self, service: &str, id: &str) -> (bool, ChangeNumber) {
        let (removed, change) = self.state().remove(service, id);
        self.sooner.notify_one();
        (removed, ChangeNumber(change))
    }

    /// Waits until a change outlives the process, for a bounded time. Dropping the future changes nothing.
    pub async fn saved(&self, ChangeNumber(change): ChangeNumber) -> Result<(), Unsaved> {
        let is_saved = |saved: &Saved| saved.upto >= change;
        if is_saved(&self.saved.borrow()) {
            return Ok(());
        }
        let mut saved = self.saved.subscribe();
        let known = timeout(DISK_PATIENCE, saved.wait_for(|of| is_saved(of) || of.failing.is_some())).await;
        match known {
            Ok(Ok(saved)) if is_saved(&saved) => Ok(()),
            Ok(Ok(saved)) => Err(Unsaved(saved.failing.clone().unwrap_or_default())),
            Ok(Err(_)) | Err(_) => {
                Err(Unsaved(format!("the disk has not answered within {DISK_PATIENCE:?}").into()))
            }
        }
    }

    /// Whether changes would be lost with the process.
    pub fn is_failing(&self) -> bool {
        self.saved.borrow().failing.is_some()
    }

    /// How many instances there are.
    pub fn count(&self) -> usize {
        self.state().count()
    }

    /// The services that have instances, by name.
    pub fn services(&self) -> Vec<ServiceSummary> {
        self.state().services()
    }

    /// The instances of a service, by id; none when it is not known.
    pub fn instances(&self, service: &str) -> Vec<Instance> {
        self.state().instances(service, Instant::now())
    }

    pub fn instance(&self, service: &str, id: &str) -> Option<Instance> {
        self.state().instance(service, id, Instant::now())
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
        let mut saving = Saving::default();
        let (mut again, mut force) = (None, None);
        loop {
            let now = Instant::now();
            if self.state().expire(now, PAGE) {
                continue;
            }
            if self.state().is_unsaved() && again.is_none_or(|at| at <= now) {
                again = self.save(&mut saving).await;
                force = self.is_unforced().then(|| force.unwrap_or(Instant::now() + FORCE_AFTER));
                continue;
            }
            if force.is_some_and(|at| at <= now) {
                force = None;
                self.force(&mut saving).await;
                continue;
            }
            let end = self.state().next_due();
            let save = if self.state().is_unsaved() { again } else { None };
            tokio::select! {
                () = &mut shutdown => break,
                () = self.sooner.notified() => {}
                () = at(end.into_iter().chain(save).chain(force).min()) => {}
            }
        }
        if self.state().is_unsaved() {
            self.save(&mut saving).await;
        }
        self.force(&mut saving).await;
    }

    /// Saves what is not saved. When that is not possible, says when to try again.
    async fn save(&self, saving: &mut Saving) -> Option<Instant> {
        let Batch { upto, changes } = self.state().batch();
        let Err(error) = self.write(changes).await else {
            self.saved.send_modify(|saved| {
                saved.upto = upto;
                saved.failing = None;
            });
            saving.works();
            return None;
        };
        self.state().not_saved();
        let error: Arc<str> = error.into();
        let pause = saving.failed(&error);
        self.saved.send_modify(|saved| saved.failing = Some(error));
        Some(Instant::now() + pause)
    }

    async fn write(&self, changes: Option<Vec<Change>>) -> Result<(), String> {
        match self.blocking(move |writer| writer.save(changes.as_deref())).await? {
            Step::Saved => return Ok(()),
            Step::WantsAll => {}
            Step::Inherited(registrations) => {
                for warning in self.restore(registrations) {
                    tracing::warn!(%warning, "Embedded registry not as another gateway left it");
                }
            }
        }
        let all = self.all().await;
        self.blocking(move |writer| writer.replace(&all)).await
    }

    /// Everything that is registered. What changes meanwhile may be in it or not, and is saved after it.
    async fn all(&self) -> Vec<Change> {
        let mut all: Vec<Change> = Vec::new();
        loop {
            let page = self.state().page(all.last().map(Change::name), PAGE);
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return all;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn force(&self, saving: &mut Saving) {
        if let Err(error) = self.blocking(Writer::force).await
            && let Some(lasts) = saving.unforced.happened(&error)
        {
            tracing::warn!(%error, times = lasts.times, "Embedded registry not forced to the disk");
        }
    }

    fn is_unforced(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| lock(writer).is_unforced())
    }

    /// Not on this thread: an answer of the disk may take seconds.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Writer) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, String> {
        let writer = self.writer.clone().ok_or(NOT_KEPT)?;
        let acted = tokio::task::spawn_blocking(move || act(&mut lock(&writer))).await;
        acted.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Tells what of it cannot be restored.
    fn restore(&self, saved: Registrations) -> Vec<String> {
        let (fine, mut warnings) = self.fine(saved);
        if let Err(rejected) = self.state().restore(fine, Instant::now()) {
            warnings.push(format!("left out the rest: {rejected}"));
        }
        warnings
    }

    /// Without what nobody may register, and what that is.
    fn fine(&self, mut saved: Registrations) -> (Registrations, Vec<String>) {
        let mut warnings = Vec::new();
        saved.retain(|(service, id), registration| match check(service, id, registration, &self.own) {
            Ok(()) => true,
            Err(rejected) => {
                warnings.push(format!("left out {id:?} of {service:?}: {rejected}"));
                false
            }
        });
        (saved, warnings)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// How saving fares.
struct Saving {
    backoff: Backoff,
    failing: Lasting,
    unforced: Lasting,
}

impl Default for Saving {
    fn default() -> Self {
        let backoff = Backoff::new(SAVE_AGAIN_FIRST, SAVE_AGAIN_MOST);
        Self { backoff, failing: Lasting::default(), unforced: Lasting::default() }
    }
}

impl Saving {
    fn works(&mut self) {
        self.backoff.works();
        if let Some(lasted) = self.failing.over() {
            tracing::info!(for_seconds = lasted.for_seconds, "Embedded registry saved again");
        }
    }

    /// Says how long to wait before the next attempt.
    fn failed(&mut self, error: &str) -> Duration {
        if let Some(lasts) = self.failing.met(error) {
            tracing::warn!(
                error,
                for_seconds = lasts.for_seconds,
                times = lasts.times,
                "Embedded registry not saved"
            );
        }
        self.backoff.pause()
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
    use tokio::{sync::oneshot, task::JoinHandle};

    use super::*;
    use crate::bindings::{registry::witgate::memory::memory::Content, wit};

    fn registration(address: &str, ttl_seconds: u32) -> Registration {
        Registration { ttl_seconds, ..Registration::at(address) }
    }

    /// Registers in `orders` and says what that did.
    fn put(memory: &Memory, id: &str, registration: Registration) -> Outcome {
        memory.put("orders", id, registration).unwrap().outcome
    }

    async fn saved(memory: &Memory, id: &str, registration: Registration) {
        let done = memory.put("orders", id, registration).unwrap();
        memory.saved(done.change).await.unwrap();
    }

    fn endpoint(id: &str, address: &str) -> wit::Endpoint {
        wit::plain(id, address)
    }

    fn ids(memory: &Memory) -> Vec<String> {
        memory.instances("orders").into_iter().map(|instance| instance.id.to_string()).collect()
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
            Self::of(memory)
        }

        fn of(memory: Arc<Memory>) -> Self {
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

        assert_eq!(put(&memory, "a", registration("a:1", 0)), Outcome::Renewed);
        assert_eq!(put(&memory, "a", registration("a:2", 0)), Outcome::Changed);
        assert_eq!(put(&memory, "b", registration("b:1", 0)), Outcome::New);
        memory.put("payments", "p", registration("p:1", 0)).unwrap();
        assert!(memory.remove("orders", "a").0);
        assert!(!memory.remove("orders", "a").0);
        let expected = vec![
            wit::Change::Put(endpoint("a", "a:2")),
            wit::Change::Put(endpoint("b", "b:1")),
            wit::Change::Remove("a".into()),
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
        assert_eq!(feed.next().await, Content::Changes(vec![wit::Change::Remove("a".into())]));
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
        assert_eq!(put(&memory, "renewed", registration("a:2", 10)), Outcome::Renewed);
        assert_eq!(memory.instances("orders")[2].expires_in_seconds, Some(1));
        assert_eq!(feed.next().await, Content::Changes(vec![wit::Change::Remove("short".into())]));
        assert_eq!(started.elapsed().as_secs(), 10);
        assert_eq!(feed.next().await, Content::Changes(vec![wit::Change::Remove("renewed".into())]));
        assert_eq!(started.elapsed().as_secs(), 19);
        assert_eq!(ids(&memory), ["for-ever"]);
        assert_eq!(memory.services(), [ServiceSummary { service: "orders".into(), instances: 1 }]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_renewed_as_it_is_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let running = Running::start(&folder.path().join("registry.json"));
        let (memory, started) = (running.memory.clone(), Instant::now());
        memory.put("orders", "a", registration("a:1", 10)).unwrap();
        let mut feed = memory.follow("orders").unwrap();
        feed.next().await;
        tokio::time::sleep_until(started + Duration::from_secs(9)).await;
        assert!(memory.renew("orders", "a"));
        assert!(!memory.renew("orders", "b"));
        assert_eq!(feed.next().await, Content::Changes(vec![wit::Change::Remove("a".into())]));
        assert_eq!(started.elapsed().as_secs(), 19);
        assert!(!memory.renew("orders", "a"));
        running.stop().await;
    }

    fn checked(id: &str, ttl_seconds: u32, remove_after_seconds: u32) -> TtlCheck {
        let (status, name, output) = (CheckStatus::Passing, String::new(), String::new());
        TtlCheck { id: id.into(), ttl_seconds, remove_after_seconds, status, name, output }
    }

    /// Somebody says how a check of `a` stands.
    fn say(memory: &Memory, check: &str, status: CheckStatus) -> Outcome {
        let edit = |registration: &mut Registration| {
            registration.checks.iter_mut().filter(|of| of.id == check).for_each(|of| of.status = status);
            Ok::<_, Rejected>(())
        };
        memory.edit("orders", "a", Some(check), edit).unwrap().unwrap().outcome
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_unwell_while_a_check_of_it_is_not_passed_and_goes_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        let (memory, started) = (running.memory.clone(), Instant::now());
        let checks = vec![checked("one", 10, 30), checked("other", 25, 0)];
        memory.put("orders", "a", Registration { checks, ..registration("a:1", 0) }).unwrap();
        let mut feed = memory.follow("orders").unwrap();
        feed.next().await;
        let told = |state| {
            let endpoint = wit::Endpoint { state, ..endpoint("a", "a:1") };
            Content::Changes(vec![wit::Change::Put(endpoint)])
        };
        tokio::time::sleep_until(started + Duration::from_secs(9)).await;
        assert_eq!(say(&memory, "one", CheckStatus::Passing), Outcome::Renewed);
        assert_eq!(feed.next().await, told(wit::State::Unwell));
        assert_eq!(started.elapsed().as_secs(), 19);
        assert_eq!(say(&memory, "one", CheckStatus::Passing), Outcome::Changed);
        assert_eq!(feed.next().await, told(wit::State::Ready));
        // The other one was not passed by that.
        assert_eq!(feed.next().await, told(wit::State::Unwell));
        assert_eq!(started.elapsed().as_secs(), 25);
        say(&memory, "other", CheckStatus::Passing);
        assert_eq!(feed.next().await, told(wit::State::Ready));
        // Which it is since it was said, not since it was said again.
        assert_eq!(say(&memory, "one", CheckStatus::Critical), Outcome::Changed);
        assert_eq!(feed.next().await, told(wit::State::Unwell));
        tokio::time::sleep_until(started + Duration::from_secs(30)).await;
        assert_eq!(say(&memory, "one", CheckStatus::Critical), Outcome::Renewed);
        running.stop().await;

        let running = Running::start(&path);
        let restored = running.memory.instances("orders").remove(0).registration;
        assert_eq!(restored.stands(), InstanceState::Unwell);
        let mut feed = running.memory.follow("orders").unwrap();
        feed.next().await;
        let restarted = Instant::now();
        assert_eq!(feed.next().await, Content::Changes(vec![wit::Change::Remove("a".into())]));
        assert_eq!(restarted.elapsed().as_secs(), 30, "it has its whole time again");
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_found_wherever_it_is() {
        let memory = Memory::unkept();
        for number in 0..2_500 {
            memory.put(&format!("s{}", number % 7), &format!("i{number}"), registration("a:1", 0)).unwrap();
        }
        for number in [0, 999, 1_000, 2_499] {
            let found = memory.find(|id, _| id == format!("i{number}"));
            assert_eq!(found, Some((format!("s{}", number % 7).into(), format!("i{number}").into())));
        }
        assert_eq!(memory.find(|id, _| id == "i2500"), None);
        let nobody = memory.edit("s0", "i2500", None, |_| Ok::<_, Rejected>(()));
        assert_eq!(nobody, None);
        let wrong = |registration: &mut Registration| {
            registration.address = "nowhere".to_owned();
            Ok::<_, Rejected>(())
        };
        assert_eq!(memory.edit("s0", "i0", None, wrong), Some(Err(Rejected::Address("nowhere".into()))));
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
    async fn a_change_that_was_said_to_be_saved_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        for (id, ttl) in [("a", 30), ("b", 0), ("c", 30)] {
            saved(&running.memory, id, registration("a:1", ttl)).await;
            // Whoever reads now sees what somebody would who starts after this one was killed.
            assert!(ids(&Memory::open(&path).0).contains(&id.to_owned()));
        }
        let (removed, change) = running.memory.remove("orders", "b");
        assert!(removed);
        running.memory.saved(change).await.unwrap();
        assert_eq!(ids(&Memory::open(&path).0), ["a", "c"]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_writes_nothing_and_a_change_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        for i in 0..1_000 {
            running.memory.put("orders", &format!("i{i}"), registration("a:1", 30)).unwrap();
        }
        saved(&running.memory, "a", registration("a:1", 30)).await;
        let length = || std::fs::metadata(&path).unwrap().len();
        let before = length();
        for _ in 0..10 {
            saved(&running.memory, "a", registration("a:1", 30)).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(length(), before);
        saved(&running.memory, "a", registration("a:2", 30)).await;
        assert!((1..500).contains(&(length() - before)), "{before}, {}", length());
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_outdated_in_the_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        let mut large = registration("a:1", 30);
        large.labels = (0..60).map(|i| (format!("l{i}"), "x".repeat(1_000))).collect();
        for port in 1..=100 {
            large.address = format!("a:{port}");
            saved(&running.memory, "a", large.clone()).await;
        }
        // A hundred of them are six megabytes.
        assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20);
        running.stop().await;
        assert_eq!(Memory::open(&path).0.instances("orders")[0].registration.address, "a:100");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_taken_away_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        saved(&running.memory, "a", registration("a:1", 30)).await;
        std::fs::remove_file(&path).unwrap();
        saved(&running.memory, "b", registration("a:2", 30)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["a", "b"]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_refuses_is_told_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let path = state.join("registry.json");
        let running = Running::start(&path);
        let memory = running.memory.clone();
        for id in ["a", "b"] {
            let done = memory.put("orders", id, registration("a:1", 0)).unwrap();
            let Unsaved(why) = memory.saved(done.change).await.unwrap_err();
            assert!(why.contains("make the folder"), "{why}");
        }
        assert!(memory.is_failing());
        std::fs::remove_file(&state).unwrap();
        let mut progress = memory.saved.subscribe();
        progress.wait_for(|saved| saved.failing.is_none()).await.unwrap();
        saved(&memory, "c", registration("a:1", 0)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["a", "b", "c"]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_refuses_is_tried_seldom_however_much_changes() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::write(&state, "in the way").unwrap();
        let running = Running::start(&state.join("registry.json"));
        let memory = running.memory.clone();
        let mut attempts = memory.saved.subscribe();
        attempts.mark_unchanged();
        let (mut failed, started) = (0, Instant::now());
        for port in 1..=6_000 {
            memory.put("orders", "a", registration(&format!("a:{port}"), 0)).unwrap();
            let next = timeout(Duration::from_millis(100), attempts.changed()).await;
            failed += usize::from(next.is_ok());
        }
        let passed = started.elapsed();
        assert!(passed > Duration::from_secs(500), "{passed:?}");
        let fewest = 600 / SAVE_AGAIN_MOST.as_secs() as usize;
        assert!((fewest / 2..=2 * fewest + 10).contains(&failed), "{failed} attempts in {passed:?}");
        std::fs::remove_file(&state).unwrap();
        memory.saved.subscribe().wait_for(|saved| saved.failing.is_none()).await.unwrap();
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_of_another_gateway_is_only_read_until_that_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let first = Running::start(&path);
        saved(&first.memory, "a", registration("a:1", 30)).await;

        let second = Running::start(&path);
        assert_eq!(ids(&second.memory), ["a"]);
        let done = second.memory.put("orders", "b", registration("b:1", 30)).unwrap();
        let Unsaved(why) = second.memory.saved(done.change).await.unwrap_err();
        assert!(why.contains("another gateway"), "{why}");
        saved(&first.memory, "late", registration("a:2", 30)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["a", "late"]);

        first.stop().await;
        let mut progress = second.memory.saved.subscribe();
        progress.wait_for(|saved| saved.failing.is_none()).await.unwrap();
        assert_eq!(ids(&second.memory), ["a", "b", "late"]);
        second.stop().await;
        assert_eq!(ids(&Memory::open(&path).0), ["a", "b", "late"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_process_takes_over_all_that_changed_while_it_started_and_may_fail_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let first = Running::start(&path);
        let succeed = |text: &[u8]| {
            let (memory, warnings) = Memory::succeed(path.clone(), OwnAddresses::default(), text).unwrap();
            assert_eq!(warnings, Vec::<String>::new());
            memory
        };
        for id in ["goes", "moves", "stays"] {
            saved(&first.memory, id, registration("a:1", 30)).await;
        }
        let second = succeed(&first.memory.text().await.unwrap());
        let mut feed = second.follow("orders").unwrap();
        assert!(matches!(feed.next().await, Content::All(all) if all.len() == 3));
        // It says nothing of who tells the other one that it is there.
        tokio::time::sleep(Duration::from_secs(20)).await;
        for (id, address) in [("moves", "a:2"), ("stays", "a:1"), ("comes", "a:3")] {
            saved(&first.memory, id, registration(address, 30)).await;
        }
        first.memory.remove("orders", "goes");
        let memory = first.memory.clone();
        first.stop().await;
        memory.release().await;
        let text = memory.text().await.unwrap();
        assert_eq!(second.take_over(&text), Ok(vec![]));
        let expected = vec![
            wit::Change::Remove("goes".into()),
            wit::Change::Put(endpoint("comes", "a:3")),
            wit::Change::Put(endpoint("moves", "a:2")),
        ];
        assert_eq!(feed.next().await, Content::Changes(expected));
        let left = second.instances("orders").into_iter().map(|of| of.expires_in_seconds).collect::<Vec<_>>();
        assert_eq!(left, [Some(30); 3], "each has its whole time");
        let second = Running::of(second);
        saved(&second.memory, "new", registration("a:4", 30)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["comes", "moves", "new", "stays"]);
        let second_memory = second.memory.clone();
        second.stop().await;
        second_memory.release().await;

        // The other one, had it been in vain.
        let first = Running::of(memory);
        saved(&first.memory, "again", registration("a:5", 30)).await;
        assert_eq!(ids(&Memory::open(&path).0), ["again", "comes", "moves", "stays"]);
        first.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_unusable_is_put_aside_and_one_that_is_damaged_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.json");
        let running = Running::start(&path);
        saved(&running.memory, "a", registration("a:1", 30)).await;
        saved(&running.memory, "b", registration("b:1", 30)).await;
        running.stop().await;
        let good = std::fs::read_to_string(&path).unwrap();

        for (text, why) in
            [(good.replace("\"version\":2", "\"version\":3"), "version 3"), (String::new(), "empty")]
        {
            std::fs::write(&path, &text).unwrap();
            assert!(Memory::look(&path).unwrap().contains(why));
            assert!(path.exists(), "looking changes nothing");
            let (memory, warnings) = Memory::open(&path);
            assert_eq!(memory.services(), []);
            assert!(warnings.len() == 1 && warnings[0].contains(why), "{warnings:?}");
            assert_eq!(std::fs::read_to_string(path.with_extension("json.unusable")).unwrap(), text);
            assert!(!path.exists());
        }

        let damaged = &good[..good.len() - 5];
        std::fs::write(&path, damaged).unwrap();
        let (memory, warnings) = Memory::open(&path);
        assert_eq!(ids(&memory), ["a"]);
        assert!(warnings[0].contains("1 line damaged"), "{warnings:?}");
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn({
            let memory = memory.clone();
            async move { memory.run(async { drop(stopped.await) }).await }
        });
        saved(&memory, "c", registration("c:1", 30)).await;
        assert_eq!(std::fs::read_to_string(path.with_extension("json.damaged")).unwrap(), damaged);
        drop(stop);
        running.await.unwrap();
        drop(memory);
        let (memory, warnings) = Memory::open(&path);
        assert_eq!((ids(&memory), warnings.len()), (vec!["a".to_owned(), "c".to_owned()], 0));
    }

    #[test]
    fn what_can_be_registered_is_bounded_in_bytes_and_heartbeats_go_on() {
        let memory = Memory::unkept();
        let mut large = registration("a:1", 30);
        large.labels = (0..50).map(|i| (format!("l{i}"), "x".repeat(1_000))).collect();
        let mut count = 0;
        while memory.put("orders", &format!("i{count}"), large.clone()).is_ok() {
            count += 1;
            assert!(count < 10_000, "there is no bound");
        }
        assert!(count > 1_000, "{count} instances of fifty kilobytes");
        let refused = memory.put("orders", "one-more", large.clone());
        assert_eq!(refused, Err(Rejected::FullOfBytes));
        assert_eq!(put(&memory, "i0", large.clone()), Outcome::Renewed);
        // What is there may become smaller or leave, and makes room.
        assert_eq!(put(&memory, "i0", registration("a:2", 30)), Outcome::Changed);
        assert_eq!(put(&memory, "one-more", large), Outcome::New);
    }

    #[test]
    fn a_flood_of_changes_does_not_fill_memory_while_nobody_saves() {
        let memory = Memory::unkept();
        for port in 1..=60_000 {
            put(&memory, "a", registration(&format!("a:{port}"), 30));
        }
        let Batch { upto, changes } = memory.state().batch();
        assert_eq!((upto, changes), (60_000, None));
    }

    #[test]
    fn pages_hold_everything_once() {
        let memory = Memory::unkept();
        for i in 0..40 {
            memory.put(&format!("s{}", i % 3), &format!("i{i}"), registration("a:1", 30)).unwrap();
        }
        let (mut names, mut after) = (Vec::new(), None::<(String, String)>);
        loop {
            let last = after.as_ref().map(|(service, id)| (service.as_str(), id.as_str()));
            let page = memory.state().page(last, 7);
            let Some(change) = page.last() else { break };
            let (service, id) = change.name();
            after = Some((service.to_owned(), id.to_owned()));
            names.extend(page.iter().map(|change| format!("{:?}", change.name())));
        }
        let mut once = names.clone();
        once.sort();
        once.dedup();
        assert_eq!((names.len(), once.len()), (40, 40));
    }
}
