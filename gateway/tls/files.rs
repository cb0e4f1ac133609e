//! The files of all policies, followed: written, renamed, or exchanged by a link as Kubernetes does it.
//!
//! A certificate and its key are two files, and for a moment one is new and the other is not. So what cannot be used is
//! read once more before that is reported.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Client, ClientSettings,
    certificate::{self, FileError},
    identity::{Validity, since_1970},
};
use crate::{
    backoff::Lasting,
    files::{Folders, Subscription},
};

/// Files are looked at so often although nobody said that they changed: not every file system says so.
const BACKSTOP: Duration = Duration::from_secs(5);

/// Quiet time after a change before files are read, and how long a change may go on.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MOST: Duration = Duration::from_millis(500);

/// How long the second of two files may come after the first.
const OTHER_HALF: Duration = Duration::from_secs(1);

/// A certificate is reported so long before its end, or a sixth of its time before if that is less, and then every day.
const REMIND: Duration = Duration::from_secs(14 * 24 * 3600);
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// All files that are followed, and the policies towards endpoints that are made of them.
#[derive(Default)]
pub struct Files {
    folders: Arc<Folders>,
    followed: Mutex<Vec<Weak<Followed>>>,
    clients: Mutex<Vec<(ClientSettings, Weak<Client>)>>,
}

/// What is known of files that are followed together.
struct Followed {
    paths: Vec<PathBuf>,
    /// When the certificate among them ends, in seconds since 1970; 0 where there is none.
    ends: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// What is counted of a file, and of those that are taken together with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// When the certificate in it ends, in seconds since 1970. The first to end, where several use the file.
    pub ends: Option<u64>,
    /// Changes that took effect, and those that did not.
    pub taken: u64,
    pub refused: u64,
}

/// Something that goes on until this is dropped.
pub(super) struct Running(AbortHandle);

impl Running {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The contents of several files at one time.
pub(super) struct Contents(pub Vec<Vec<u8>>);

impl Contents {
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, FileError> {
        paths.iter().map(|path| certificate::read(path)).collect::<Result<_, _>>().map(Self)
    }

    fn digest(&self) -> [u8; 32] {
        let parts =
            self.0.iter().fold(Sha256::new(), |digest, content| digest.chain_update(Sha256::digest(content)));
        parts.finalize().into()
    }
}

impl Files {
    /// The policy with these settings; the one that there is, if somebody uses it. Must be called on the control
    /// runtime.
    pub fn client(&self, settings: &ClientSettings) -> Arc<Client> {
        let mut clients = lock(&self.clients);
        clients.retain(|(_, client)| client.strong_count() > 0);
        let known = clients.iter().find(|(known, _)| known == settings);
        if let Some(client) = known.and_then(|(_, client)| client.upgrade()) {
            return client;
        }
        let client = Arc::new(Client::open(settings.clone(), self));
        clients.push((settings.clone(), Arc::downgrade(&client)));
        client
    }

    /// What is counted, by the first of the files that are taken together.
    pub fn counted(&self) -> BTreeMap<PathBuf, Counted> {
        let mut counted: BTreeMap<PathBuf, Counted> = BTreeMap::new();
        for followed in lock(&self.followed).iter().filter_map(Weak::upgrade) {
            let Some(path) = followed.paths.first() else { continue };
            let of = counted.entry(path.clone()).or_default();
            let ends = Some(followed.ends.load(Relaxed)).filter(|ends| *ends > 0);
            of.ends = of.ends.into_iter().chain(ends).min();
            of.taken += followed.taken.load(Relaxed);
            of.refused += followed.refused.load(Relaxed);
        }
        counted
    }

    /// Follows files that are taken together; `given` is what was taken of them already, if it was. `take` gets what
    /// is new, and says when the certificate in it counts, if there is one.
    pub(super) fn follow(
        &self,
        paths: Vec<PathBuf>,
        given: Option<&Contents>,
        validity: Option<Validity>,
        take: impl FnMut(&Contents) -> Result<Option<Validity>, FileError> + Send + 'static,
    ) -> Running {
        let ends = AtomicU64::new(validity.map_or(0, |validity| validity.ends.as_secs()));
        let followed =
            Arc::new(Followed { paths, ends, taken: AtomicU64::default(), refused: AtomicU64::default() });
        let mut all = lock(&self.followed);
        all.retain(|followed| followed.strong_count() > 0);
        all.push(Arc::downgrade(&followed));
        let follower = Follower {
            followed,
            folders: self.folders.clone(),
            given: given.map(Contents::digest),
            take,
            failing: Lasting::default(),
            validity,
            reminded: None,
        };
        Running::spawn(follower.run())
    }
}

struct Follower<T> {
    followed: Arc<Followed>,
    folders: Arc<Folders>,
    /// The digest of what was taken last.
    given: Option<[u8; 32]>,
    take: T,
    failing: Lasting,
    validity: Option<Validity>,
    reminded: Option<Instant>,
}

impl<T: FnMut(&Contents) -> Result<Option<Validity>, FileError>> Follower<T> {
    async fn run(mut self) {
        loop {
            // Anew after each change: another folder may be under a path now. Before reading, so that nothing is
            // missed.
            let watched: Vec<_> = self.followed.paths.iter().map(|path| self.folders.changes(path)).collect();
            loop {
                self.look().await;
                self.remind();
                if timeout(BACKSTOP, changed(&watched)).await.is_ok() {
                    break;
                }
            }
            let settled = async { while timeout(SETTLE, changed(&watched)).await.is_ok() {} };
            let _ = timeout(SETTLE_MOST, settled).await;
        }
    }

    async fn look(&mut self) {
        let Err(_) = self.take_new().await else { return };
        sleep(OTHER_HALF).await;
        let Err(error) = self.take_new().await else { return };
        if let Some(lasts) = self.failing.met(&error.to_string()) {
            self.followed.refused.fetch_add(1, Relaxed);
            tracing::error!(
                %error,
                for_seconds = lasts.for_seconds,
                times = lasts.times,
                "Certificate or key not taken, what was taken before stays"
            );
        }
    }

    async fn take_new(&mut self) -> Result<(), FileError> {
        let paths = self.followed.paths.clone();
        let read = tokio::task::spawn_blocking(move || Contents::read(&paths)).await;
        // The runtime is shutting down.
        let Ok(contents) = read else { return Ok(()) };
        let contents = contents?;
        let digest = Some(contents.digest());
        if digest != self.given {
            self.validity = (self.take)(&contents)?;
            self.given = digest;
            self.followed.taken.fetch_add(1, Relaxed);
            self.followed.ends.store(self.validity.map_or(0, |validity| validity.ends.as_secs()), Relaxed);
            self.reminded = None;
            let file = self.followed.paths.first().map(|path| path.display());
            tracing::info!(file = file.map(tracing::field::display), "Certificate or key taken");
        }
        if let Some(lasted) = self.failing.over() {
            tracing::info!(for_seconds = lasted.for_seconds, "Certificate and key can be used again");
        }
        Ok(())
    }

    /// Says that the certificate is about to end, or has.
    fn remind(&mut self) {
        let Some(validity) = self.validity else { return };
        let left = validity.ends.saturating_sub(since_1970(SystemTime::now()));
        let whole = validity.ends.saturating_sub(validity.begins);
        let due = self.reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY);
        if left >= REMIND.min(whole / 6) || !due {
            return;
        }
        self.reminded = Some(Instant::now());
        let file = self.followed.paths.first().map(|path| path.display());
        let file = file.map(tracing::field::display);
        match left.is_zero() {
            true => tracing::error!(file, "Certificate has ended"),
            false => tracing::warn!(file, hours = left.as_secs() / 3600, "Certificate ends soon"),
        }
    }
}

/// Waits for something to happen to any of them.
async fn changed(watched: &[Subscription]) {
    let mut changes: Vec<_> = watched.iter().map(|one| Box::pin(one.changed())).collect();
    poll_fn(|cx| match changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
