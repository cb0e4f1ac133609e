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
type Listeners = Arc<Mutex<HashMap<PathBuf, Vec<Arc<Notify>>>>>;

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
            true => self.subscribe(&path.join("any")),
            false => self.subscribe(path),
        }
    }

    /// Watches the folder of `file`, and that of the file it is a link to.
    ///
    /// A folder that cannot be watched is not: whoever follows a file looks at it now and then anyway.
    pub fn subscribe(self: &Arc<Self>, file: &Path) -> Subscription {
        let parent = |path: &Path| path.parent().map(Path::to_path_buf);
        let here = parent(file).filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(".".into());
        let target = file.canonicalize().ok().as_deref().and_then(parent);
        let mut paths: Vec<_> = here.canonicalize().into_iter().chain(target).collect();
        paths.dedup();
        let changed = Arc::new(Notify::new());
        for path in &paths {
            self.add(path, changed.clone());
        }
        Subscription { folders: self.clone(), paths, changed }
    }

    /// How many folders are watched.
    #[cfg(test)]
    pub fn watched(&self) -> usize {
        lock(&self.listeners).len()
    }

    fn add(&self, path: &Path, listener: Arc<Notify>) {
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
        here.retain(|other| !Arc::ptr_eq(other, listener));
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
    let notify = |listeners: &Vec<Arc<Notify>>| listeners.iter().for_each(|listener| listener.notify_one());
    match event {
        // Whoever reads a file causes this, and must not be woken by it.
        Ok(event) if event.kind.is_access() && !is_close_of_writer(&event) => {}
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

fn is_close_of_writer(event: &Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
