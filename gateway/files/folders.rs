//! Tells those who follow a file that something happened in its folder.
//!
//! Folders are watched, not files: a file that is renamed over another, and Kubernetes' exchange of a link, happen
//! to the folder. One watcher serves the process, since the system has few to give.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::backoff::Lasting;

/// Who wants to know about which folder.
type Listeners = Arc<Mutex<HashMap<PathBuf, Vec<Listener>>>>;

/// Somebody who follows a file, or all files of a folder.
#[derive(Clone)]
struct Listener {
    /// The file, and the one that it is a link to. None: all.
    files: Option<Arc<[PathBuf]>>,
    changed: Arc<Notify>,
}

/// All folders that are watched.
#[derive(Default)]
pub struct Folders {
    listeners: Listeners,
    /// Held while a folder is added or removed. Never taken by the watcher's own thread, which would wait for
    /// itself.
    system: Mutex<System>,
}

/// What the system does for it.
#[derive(Default)]
struct System {
    watcher: Option<RecommendedWatcher>,
    failing: Lasting,
}

/// Dropping it ends the watching of folders that nobody else watches.
pub struct Subscription {
    folders: Arc<Folders>,
    paths: Vec<PathBuf>,
    changed: Arc<Notify>,
}

impl Subscription {
    /// Waits for something to happen. What happened before the call counts, too.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Folders {
    /// Tells of changes at `path`, be it a file or a folder of them, from now on.
    pub fn changes(self: &Arc<Self>, path: &Path) -> Subscription {
        // Folders are watched: that of a file, or the one that is meant.
        match path.is_dir() {
            true => self.subscribe_all(path),
            false => self.subscribe(path),
        }
    }

    /// Watches the folder of `file`, and that of the file it is a link to.
    ///
    /// A folder that cannot be watched is not: whoever follows a file looks at it now and then anyway.
    pub fn subscribe(self: &Arc<Self>, file: &Path) -> Subscription {
        let parent = |path: &Path| path.parent().map(Path::to_path_buf);
        let here = parent(file).filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".into());
        let (here, target) = (here.canonicalize().ok(), file.canonicalize().ok());
        let own = here.as_deref().zip(file.file_name()).map(|(folder, name)| folder.join(name));
        let files = own.into_iter().chain(target.clone()).collect();
        let mut paths: Vec<_> = here.into_iter().chain(target.as_deref().and_then(parent)).collect();
        paths.dedup();
        self.listen(paths, Some(files))
    }

    /// Watches a folder for changes of whatever is in it.
    pub(super) fn subscribe_all(self: &Arc<Self>, folder: &Path) -> Subscription {
        self.listen(folder.canonicalize().into_iter().collect(), None)
    }

    fn listen(self: &Arc<Self>, paths: Vec<PathBuf>, files: Option<Arc<[PathBuf]>>) -> Subscription {
        let changed = Arc::new(Notify::new());
        let listener = Listener { files, changed: changed.clone() };
        for path in &paths {
            self.add(path, listener.clone());
        }
        Subscription { folders: self.clone(), paths, changed }
    }

    /// How many folders are watched.
    #[cfg(test)]
    pub fn watched(&self) -> usize {
        lock(&self.listeners).len()
    }

    fn add(&self, path: &Path, listener: Listener) {
        let mut system = lock(&self.system);
        lock(&self.listeners).entry(path.into()).or_default().push(listener);
        // For each listener: another folder may have taken the place of the one that is watched for the others.
        match self.watch(&mut system.watcher, path) {
            Ok(()) => {
                if let Some(lasted) = system.failing.over() {
                    tracing::info!(for_seconds = lasted.for_seconds, "Folders can be watched again");
                }
            }
            Err(error) => {
                if let Some(lasts) = system.failing.met(&error.to_string()) {
                    tracing::warn!(folder = %path.display(), %error, for_seconds = lasts.for_seconds,
                        times = lasts.times, "Cannot watch a folder: its files are read now and then");
                }
            }
        }
    }

    fn watch(&self, watcher: &mut Option<RecommendedWatcher>, path: &Path) -> notify::Result<()> {
        let watcher = match watcher {
            Some(watcher) => watcher,
            None => {
                let listeners = self.listeners.clone();
                watcher.insert(notify::recommended_watcher(move |event| tell(&listeners, event))?)
            }
        };
        watcher.watch(path, RecursiveMode::NonRecursive)
    }

    fn remove(&self, path: &Path, listener: &Arc<Notify>) {
        let mut system = lock(&self.system);
        let mut listeners = lock(&self.listeners);
        let Some(here) = listeners.get_mut(path) else { return };
        here.retain(|other| !Arc::ptr_eq(&other.changed, listener));
        if !here.is_empty() {
            return;
        }
        listeners.remove(path);
        // The watcher's thread may wait for the listeners before it answers.
        drop(listeners);
        if let Some(watcher) = &mut system.watcher {
            // An error says that the folder is gone.
            let _ = watcher.unwatch(path);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for path in &self.paths {
            self.folders.remove(path, &self.changed);
        }
    }
}

/// A panic elsewhere does not make what is guarded here wrong: every change is complete before it can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell(listeners: &Listeners, event: notify::Result<Event>) {
    let listeners = lock(listeners);
    let notify = |listeners: &Vec<Listener>| {
        listeners.iter().for_each(|listener| listener.changed.notify_one());
    };
    match event {
        // Whoever reads a file causes this, and must not be woken by it.
        Ok(event) if event.kind.is_access() && !is_close_of_writer(&event) => {}
        // A log may grow beside it, line by line.
        Ok(event) if is_content(&event) => {
            for path in &event.paths {
                let here = path.parent().and_then(|folder| listeners.get(folder)).into_iter().flatten();
                let follows =
                    |listener: &&Listener| listener.files.as_ref().is_none_or(|files| files.contains(path));
                here.filter(follows).for_each(|listener| listener.changed.notify_one());
            }
        }
        Ok(event) if !event.need_rescan() => {
            for path in &event.paths {
                let folder = path.parent().and_then(|folder| listeners.get(folder));
                folder.into_iter().chain(listeners.get(path)).for_each(notify);
            }
        }
        // Events were lost.
        _ => listeners.values().for_each(notify),
    }
}

/// Whether what a file has in it has changed, and nothing else.
fn is_content(event: &Event) -> bool {
    use notify::event::{EventKind, ModifyKind};
    matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) || is_close_of_writer(event)
}

fn is_close_of_writer(event: &Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::Duration};

    use super::*;

    async fn told(subscription: &Subscription) {
        tokio::time::timeout(Duration::from_secs(30), subscription.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_to_a_file_wakes_who_follows_it_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["followed", "log"] {
            fs::write(at(name), "").unwrap();
        }
        let folders = Arc::<Folders>::default();
        let (one, all) = (folders.subscribe(&at("followed")), folders.subscribe_all(folder.path()));
        let mut log = fs::OpenOptions::new().append(true).open(at("log")).unwrap();
        log.write_all(b"line").unwrap();
        told(&all).await;
        // Who follows the other file heard of it at the same time, or not at all.
        assert!(tokio::time::timeout(Duration::ZERO, one.changed()).await.is_err());
        fs::write(at("followed"), "new").unwrap();
        told(&one).await;
    }
}
