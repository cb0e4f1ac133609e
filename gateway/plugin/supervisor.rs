//! The thread that loads, tests and exchanges plugins.
//!
//! A thread of its own, because compiling takes seconds and belongs neither on a worker nor among the tasks that
//! keep lists fresh. It does one thing after the other, so no two versions of a name are ever in a race.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use super::{
    Cause, Origin, Problem, Uses,
    engine::{Engine, EngineError},
    folder::{Finding, Folder, SETTLED},
    instance::RegistryPlugin,
    load::{self, Kind, LoadError, Loaded},
    names::{Names, Plugin, Running},
    selector::{self, WasmSelector},
    shipped::shipped,
    trial::{self, Failed, Tried},
};
use crate::{
    config::{self, Config},
    connector::Lent,
};

/// Where compiled code is kept, below the folder for state.
const CACHE: &str = "compiled-plugins";

/// The folder is looked at this often even if nothing tells of a change: some file systems never do.
const LOOK_EVERY: Duration = Duration::from_secs(2);

pub(super) enum Command {
    /// A name is used.
    Want(Arc<str>),
    Uses(Uses, oneshot::Sender<()>),
    Check(Uses, oneshot::Sender<Vec<Problem>>),
    /// Something happened in the folder.
    Look,
}

/// Starts the thread. It ends when the last sender is gone.
pub(super) fn start(
    config: &Config,
    lent: Arc<Lent>,
    names: Arc<Names>,
    keep_code: bool,
) -> Result<mpsc::UnboundedSender<Command>, EngineError> {
    let cache = config.state.join(CACHE);
    let engine = Engine::new(keep_code.then_some(&*cache))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| EngineError(error.to_string()))?;
    let (sender, commands) = mpsc::unbounded_channel();
    let supervisor = Supervisor {
        engine,
        limits: config.plugins.clone(),
        lent,
        names,
        uses: None,
        folder: Folder::new(config.plugins.directory.clone()),
        watcher: None,
        wake: sender.downgrade(),
    };
    thread::Builder::new()
        .name("plugins".into())
        .spawn(move || runtime.block_on(supervisor.run(commands)))
        .map_err(|error| EngineError(error.to_string()))?;
    Ok(sender)
}

struct Supervisor {
    engine: Engine,
    limits: config::Plugins,
    lent: Arc<Lent>,
    names: Arc<Names>,
    /// None until somebody has told them.
    uses: Option<Uses>,
    folder: Folder,
    /// With the folder it watches: another folder may take its place under the same path.
    watcher: Option<(RecommendedWatcher, FolderId)>,
    wake: mpsc::WeakUnboundedSender<Command>,
}

impl Supervisor {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // The first look waits for the first command, which says what the files will be used for.
        let mut next_look = match commands.recv().await {
            Some(command) => self.first(command).await,
            None => return,
        };
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Look) => next_look = next_look.min(Instant::now() + SETTLED / 4),
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = time::sleep_until(next_look.into()) => next_look = self.look().await,
            }
        }
    }

    async fn first(&mut self, command: Command) -> Instant {
        if let Command::Uses(uses, _) | Command::Check(uses, _) = &command {
            self.uses = Some(uses.clone());
        }
        // What is there from the beginning counts from the beginning, as soon as it has settled; a file that is
        // written to without a pause is not waited for.
        let mut next_look = self.look().await;
        for _ in 0..10 {
            if next_look >= Instant::now() + SETTLED * 2 {
                break;
            }
            time::sleep(SETTLED).await;
            next_look = self.look().await;
        }
        self.obey(command).await;
        next_look
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may have stopped waiting.
        match command {
            Command::Want(name) => self.want(&name),
            Command::Uses(uses, done) => {
                uses.names().for_each(|(name, _)| self.want(name));
                self.uses = Some(uses);
                let _ = done.send(());
            }
            Command::Check(uses, done) => {
                let _ = done.send(self.check(&uses).await);
            }
            Command::Look => {}
        }
    }

    /// Takes in what has changed in the folder, and says when to look again.
    async fn look(&mut self) -> Instant {
        self.watch();
        let look = self.folder.look(SystemTime::now());
        for finding in look.findings {
            match finding {
                Finding::File { name, path, bytes } => self.take(&name, path, &bytes).await,
                Finding::Refused { name, path, refusal } => self.refuse(&name, &path, refusal),
                Finding::Removed { name } => self.removed(&name),
            }
        }
        Instant::now() + if look.unsettled { SETTLED } else { LOOK_EVERY }
    }

    /// Watches the folder once it is there, and anew when it is another one.
    fn watch(&mut self) {
        let there = FolderId::of(self.folder.directory());
        if there == self.watcher.as_ref().map(|(_, id)| *id) {
            return;
        }
        self.watcher = None;
        let Some(there) = there else { return };
        let wake = self.wake.clone();
        let tell = move |_: notify::Result<notify::Event>| {
            if let Some(commands) = wake.upgrade() {
                // The thread is about to end.
                let _ = commands.send(Command::Look);
            }
        };
        let directory = self.folder.directory();
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some((watcher, there)),
            Err(error) => {
                tracing::debug!(directory = %directory.display(), %error, "Plugins folder is only polled");
            }
        }
    }

    /// Puts a file in force, or refuses it; then what ran before goes on.
    async fn take(&mut self, name: &Arc<str>, path: PathBuf, bytes: &[u8]) {
        match self.prepare(name, bytes).await {
            Ok((plugin, loaded, trial)) => self.exchange(name, plugin, loaded, Origin::File(path), trial),
            Err(refusal) => {
                self.refuse(name, &path, refusal);
                self.want(name);
            }
        }
    }

    async fn prepare(
        &self,
        name: &Arc<str>,
        bytes: &[u8],
    ) -> Result<(Plugin, Loaded, Option<String>), LoadError> {
        let loaded = load::load(&self.engine, bytes)?;
        let other = match loaded.kind {
            Kind::Selector => Kind::Registry,
            Kind::Registry => Kind::Selector,
        };
        let uses = self.uses.clone().unwrap_or_default();
        let wanted = uses.users(name, other).into_iter().next();
        let runs = || self.names.with(name, |entry| entry.kind()) == Some(other);
        if let Some(wanted) = wanted.or_else(|| runs().then(|| "what runs under that name".to_owned())) {
            return Err(LoadError::OtherKind { found: loaded.kind, wanted, as_kind: other });
        }
        let plugin = self.make(name, &loaded)?;
        let Tried { failed, unsettled } = self.test(&plugin, &uses).await;
        match failed.is_empty() {
            true => Ok((plugin, loaded, unsettled)),
            false => {
                let texts: Vec<String> = failed.iter().map(Failed::to_string).collect();
                Err(LoadError::Test(texts.join("; ")))
            }
        }
    }

    fn make(&self, name: &Arc<str>, loaded: &Loaded) -> Result<Plugin, LoadError> {
        let (engine, name, version) = (&self.engine, name.clone(), selector::next_version());
        Ok(match loaded.kind {
            Kind::Selector => {
                let limits = self.limits.selector;
                Plugin::Selector(Arc::new(WasmSelector::new(engine, name, version, loaded, limits)?))
            }
            Kind::Registry => {
                let limits = self.limits.registry;
                Plugin::Registry(Arc::new(RegistryPlugin::new(engine, name, version, loaded, limits)?))
            }
        })
    }

    async fn test(&self, plugin: &Plugin, uses: &Uses) -> Tried {
        match plugin {
            Plugin::Selector(selector) => trial::selector(selector, uses.selectors(plugin.name())),
            Plugin::Registry(registry) => {
                let failed = trial::registry(registry, uses.registries(plugin.name()), &self.lent).await;
                Tried { failed, unsettled: None }
            }
        }
    }

    fn exchange(
        &self,
        name: &str,
        plugin: Plugin,
        loaded: Loaded,
        origin: Origin,
        trial_error: Option<String>,
    ) {
        let (kind, digest) = (loaded.kind, loaded.digest);
        let running = Running { plugin, loaded, origin: origin.clone(), at: SystemTime::now(), trial_error };
        self.names.with(name, |entry| entry.exchange(Some(running)));
        match origin {
            Origin::File(file) => {
                tracing::info!(plugin = name, %kind, file = %file.display(), %digest, "Plugin loaded");
            }
            Origin::Shipped => tracing::debug!(plugin = name, %kind, %digest, "Shipped plugin loaded"),
        }
    }

    fn refuse(&self, name: &str, path: &Path, refusal: LoadError) {
        tracing::warn!(plugin = name, file = %path.display(), error = %refusal,
            "Plugin refused, nothing changes");
        self.names.with(name, |entry| entry.refuse(Some(path), refusal));
    }

    /// Falls back to the shipped plugin of that name, or to none.
    fn removed(&self, name: &str) {
        let running = self.names.running(name);
        if !matches!(running, Some(Running { origin: Origin::File(_), .. })) {
            return;
        }
        if self.take_shipped(name) {
            tracing::info!(plugin = name, "Plugin removed, the shipped one takes its place");
        } else {
            self.names.with(name, |entry| entry.exchange(None));
            tracing::warn!(plugin = name, "Plugin removed, and none is shipped under that name");
        }
    }

    /// Loads the shipped plugin of a name under which nothing runs.
    fn want(&self, name: &str) {
        if self.names.running(name).is_none() {
            self.take_shipped(name);
        }
    }

    /// Says whether there is one. It is not tested: where it refuses somebody's settings, others still need it.
    fn take_shipped(&self, name: &str) -> bool {
        let Some(bytes) = shipped(name) else { return false };
        let made = load::load(&self.engine, bytes)
            .and_then(|loaded| Ok((self.make(&name.into(), &loaded)?, loaded)));
        match made {
            Ok((plugin, loaded)) => self.exchange(name, plugin, loaded, Origin::Shipped, None),
            Err(refusal) => {
                tracing::error!(plugin = name, error = %refusal, "Shipped plugin is of no use");
                self.names.with(name, |entry| entry.refuse(None, refusal));
            }
        }
        true
    }

    /// Why nothing runs under a name: there is no file, or the file was refused.
    fn missing(&self, name: &str, kind: Kind) -> (Cause, String) {
        let refused = self.names.with(name, |entry| entry.last_reason().map(ToString::to_string));
        match (refused, kind) {
            (Some(reason), _) => (Cause::Refused, format!("the file of plugin {name:?} {reason}")),
            (None, Kind::Selector) => (Cause::NoSelector, format!("there is no selector plugin {name:?}")),
            (None, Kind::Registry) => (Cause::NoRegistry, format!("there is no registry plugin {name:?}")),
        }
    }

    /// Tests what is in force with other uses. With a version of its own, so that no fault is counted.
    async fn check(&self, uses: &Uses) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, kind) in uses.names() {
            self.want(name);
            let (cause, failed) = match self.names.running(name) {
                Some(running) if running.loaded.kind == kind => {
                    match self.make(&name.into(), &running.loaded) {
                        Ok(plugin) => (Cause::Settings, self.test(&plugin, uses).await.failed),
                        Err(refusal) => (Cause::Refused, all(uses, name, kind, &refusal.to_string())),
                    }
                }
                Some(running) => {
                    let text = format!("{name:?} is a {} plugin", running.loaded.kind);
                    (Cause::Refused, all(uses, name, kind, &text))
                }
                None => {
                    let (cause, text) = self.missing(name, kind);
                    (cause, all(uses, name, kind, &text))
                }
            };
            problems.extend(failed.into_iter().map(|Failed { used_by, text }| Problem {
                cause,
                plugin: name.to_owned(),
                used_by: used_by.unwrap_or_default(),
                text,
            }));
        }
        problems
    }
}

/// The same for everybody who uses a plugin.
fn all(uses: &Uses, name: &str, kind: Kind, text: &str) -> Vec<Failed> {
    let users = uses.users(name, kind).into_iter();
    users.map(|used_by| Failed { used_by: Some(used_by), text: text.to_owned() }).collect()
}

/// Tells a folder from another under the same path.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FolderId(u64, u64);

impl FolderId {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
        Some(Self(metadata.dev(), metadata.ino()))
    }
}
