//! The thread that exchanges plugins, and what it has others do.
//!
//! It never waits for a file, a compiler or a plugin: whatever takes time is a job on another thread, and its end is an
//! event like a command. So a file that takes minutes holds up nobody who asks about another. Files are loaded and
//! tested one at a time, with what ran before in force; shipped plugins, which are small and needed for the first
//! answer, beside them. A job that was overtaken, by another file or by none, ends for nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time,
};

use super::{
    Cause, Origin, Problem, Uses,
    engine::{Engine, EngineError},
    folder::{Finding, Folder, Look, SETTLED},
    instance::RegistryPlugin,
    load::{self, Content, Digest, Kind, LoadError, Loaded},
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

/// How often the first look is repeated while files are being written.
const FIRST_LOOKS: u32 = 10;

pub(super) enum Command {
    /// A name is used.
    Want(Arc<str>),
    Uses(Uses, oneshot::Sender<()>),
    Check(Uses, oneshot::Sender<Vec<Problem>>),
    /// Asks for an answer when no plugin of these uses is being loaded for the first time.
    Settle(Uses, oneshot::Sender<()>),
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
    let engine = Engine::new(keep_code.then_some(&*cache))?.with_memory(config.plugins.memory_bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| EngineError(error.to_string()))?;
    let (sender, commands) = mpsc::unbounded_channel();
    let directory = config.plugins.directory.clone();
    let maker = Maker { engine, limits: config.plugins.clone(), lent };
    let watching = Watching { directory: directory.clone(), watcher: None, wake: sender.downgrade() };
    thread::Builder::new()
        .name("plugins".into())
        .spawn(move || {
            runtime.block_on(Supervisor::new(maker, names, Folder::new(directory), watching).run(commands));
            // A job that still runs is of no use to anybody.
            runtime.shutdown_background();
        })
        .map_err(|error| EngineError(error.to_string()))?;
    Ok(sender)
}

struct Supervisor {
    maker: Maker,
    names: Arc<Names>,
    /// None until somebody has told them.
    uses: Option<Uses>,
    /// Grows with every change of the uses.
    uses_number: u64,
    /// With whoever looks at it, while somebody does.
    folder: Option<(Folder, Watching)>,
    next_look: Instant,
    /// None once what was there from the beginning has been seen.
    first_looks: Option<u32>,
    /// Commands that came before that.
    early: Vec<Command>,
    files: Lane<FileJob>,
    shipped: Lane<Arc<str>>,
    /// What is in the folder, by name.
    present: BTreeMap<Arc<str>, Present>,
    requests: Vec<Request>,
    jobs: JoinSet<Done>,
}

/// Jobs of a kind, one at a time.
struct Lane<J> {
    waiting: VecDeque<J>,
    running: Option<J>,
}

/// A file that is to be loaded.
#[derive(Clone)]
struct FileJob {
    name: Arc<str>,
    path: PathBuf,
    /// That of what is present while the job is not overtaken.
    ticket: u64,
}

/// What is in the folder under a name.
struct Present {
    ticket: u64,
    path: PathBuf,
    /// Of what was loaded or refused last.
    digest: Option<Digest>,
    /// It was refused for those who use it: others may take it.
    refused_for_its_users: bool,
}

/// Somebody who waits until plugins are loaded.
enum Request {
    Uses(Vec<Arc<str>>, oneshot::Sender<()>),
    Check(Uses, oneshot::Sender<Vec<Problem>>),
    Settle(Vec<Arc<str>>, oneshot::Sender<()>),
}

/// How a job ended.
enum Done {
    Looked(Folder, Watching, Look),
    Loaded(FileJob, Content),
    /// With the number of the uses it was tested with.
    Tested(FileJob, Plugin, Loaded, u64, Tried),
    Shipped(Arc<str>, Result<Loaded, LoadError>),
    /// With the versions that were asked.
    Checked(Uses, oneshot::Sender<Vec<Problem>>, Vec<(Arc<str>, Option<Digest>)>, Vec<Problem>),
}

impl Supervisor {
    fn new(maker: Maker, names: Arc<Names>, folder: Folder, watching: Watching) -> Self {
        Self {
            maker,
            names,
            uses: None,
            uses_number: 0,
            folder: Some((folder, watching)),
            next_look: Instant::now(),
            first_looks: Some(0),
            early: Vec::new(),
            files: Lane::new(),
            shipped: Lane::new(),
            present: BTreeMap::new(),
            requests: Vec::new(),
            jobs: JoinSet::new(),
        }
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // The first look waits for the first command, which says what the files will be used for.
        match commands.recv().await {
            Some(command) => self.obey(command),
            None => return,
        }
        loop {
            self.advance();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => {
                        tracing::error!(%error, "Plugins are not exchanged any more");
                        return;
                    }
                },
                () = time::sleep_until(self.next_look.into()), if self.folder.is_some() => self.look(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        if let Command::Uses(uses, _) | Command::Check(uses, _) | Command::Settle(uses, _) = &command
            && self.uses.is_none()
        {
            self.uses = Some(uses.clone());
        }
        if let Command::Look = command {
            self.next_look = self.next_look.min(Instant::now() + SETTLED / 4);
            return;
        }
        // What is there from the beginning counts from the beginning.
        if self.first_looks.is_some() {
            return self.early.push(command);
        }
        match command {
            Command::Want(name) => self.want(&name),
            Command::Uses(uses, done) => {
                let names = self.want_all(&uses);
                self.use_from_now_on(uses);
                self.requests.push(Request::Uses(names, done));
            }
            Command::Check(uses, done) => {
                self.want_all(&uses);
                self.requests.push(Request::Check(uses, done));
            }
            Command::Settle(uses, done) => {
                let names = self.want_all(&uses);
                self.requests.push(Request::Settle(names, done));
            }
            Command::Look => {}
        }
    }

    fn want_all(&mut self, uses: &Uses) -> Vec<Arc<str>> {
        let names: Vec<Arc<str>> = uses.names().map(|(name, _)| name.into()).collect();
        names.iter().for_each(|name| self.want(name));
        names
    }

    /// A file that was refused for its users gets another chance with others.
    fn use_from_now_on(&mut self, uses: Uses) {
        let before = self.uses.replace(uses).unwrap_or_default();
        self.uses_number += 1;
        let now = self.uses.as_ref();
        let again: Vec<_> = self
            .present
            .iter()
            .filter(|(name, present)| {
                present.refused_for_its_users && now.is_some_and(|now| !now.are_same_for(&before, name))
            })
            .map(|(name, present)| (name.clone(), present.path.clone()))
            .collect();
        for (name, path) in again {
            self.present.remove(&name);
            self.file(name, path);
        }
    }

    /// Begins what can be begun, and answers who can be answered.
    fn advance(&mut self) {
        if let Some(job) = self.files.next() {
            let (engine, known) = (self.maker.engine.clone(), self.present.get(&job.name));
            let known = known.and_then(|present| present.digest);
            self.jobs.spawn_blocking(move || {
                let content = load::load_file(&engine, &job.path, known);
                Done::Loaded(job, content)
            });
        }
        if let Some(name) = self.shipped.next() {
            let engine = self.maker.engine.clone();
            self.jobs.spawn_blocking(move || {
                let loaded = load::load(&engine, shipped(&name).unwrap_or_default());
                Done::Shipped(name, loaded)
            });
        }
        for request in std::mem::take(&mut self.requests) {
            match request {
                // Whoever asked may have stopped waiting.
                Request::Uses(names, done) if !self.loads_shipped(&names) => drop(done.send(())),
                Request::Settle(names, done) if !self.loads_first(&names) => drop(done.send(())),
                Request::Check(uses, done) if !self.loads_shipped(&all_names(&uses)) => {
                    self.check(uses, done)
                }
                waiting => self.requests.push(waiting),
            }
        }
    }

    fn loads_shipped(&self, names: &[Arc<str>]) -> bool {
        names.iter().any(|name| self.shipped.has(|job| job == name))
    }

    /// Whether a name has no version in force and will perhaps have one.
    fn loads_first(&self, names: &[Arc<str>]) -> bool {
        names.iter().any(|name| {
            let loads = self.loads_file(name) || self.shipped.has(|job| job == name);
            loads && self.names.running(name).is_none()
        })
    }

    fn loads_file(&self, name: &str) -> bool {
        let ticket = self.present.get(name).map(|present| present.ticket);
        self.files.has(|job| *job.name == *name && Some(job.ticket) == ticket)
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Looked(folder, watching, look) => self.looked(folder, watching, look),
            Done::Loaded(job, content) => self.loaded(job, content),
            Done::Tested(job, plugin, loaded, number, tried) => {
                self.tested(job, plugin, loaded, number, tried)
            }
            Done::Shipped(name, loaded) => self.shipped(&name, loaded),
            Done::Checked(uses, answer, asked, problems) => {
                // What was asked may be in force no more.
                match asked.iter().all(|(name, digest)| self.digest(name) == *digest) {
                    true => drop(answer.send(problems)),
                    false => self.requests.push(Request::Check(uses, answer)),
                }
            }
        }
    }

    /// Has somebody look at the folder.
    fn look(&mut self) {
        let Some((mut folder, mut watching)) = self.folder.take() else { return };
        self.jobs.spawn_blocking(move || {
            watching.renew();
            let look = folder.look(SystemTime::now());
            Done::Looked(folder, watching, look)
        });
    }

    fn looked(&mut self, folder: Folder, watching: Watching, look: Look) {
        self.folder = Some((folder, watching));
        self.next_look = Instant::now() + if look.unsettled { SETTLED } else { LOOK_EVERY };
        for finding in look.findings {
            match finding {
                Finding::File { name, path } => self.file(name, path),
                Finding::Unfit { name, path, refusal } => {
                    self.supersede(&name, path.clone());
                    self.refuse(&name, &path, refusal, None);
                }
                Finding::StillUnfit { name, path, refusal, report } => {
                    tracing::warn!(plugin = &*name, file = %path.display(), error = %refusal,
                        for_seconds = report.for_seconds, "Plugin still refused");
                }
                Finding::Removed { name } => self.removed(&name),
            }
        }
        // A file that is written to without a pause is not waited for.
        self.first_looks =
            self.first_looks.filter(|looks| look.unsettled && *looks < FIRST_LOOKS).map(|n| n + 1);
        if self.first_looks.is_none() {
            std::mem::take(&mut self.early).into_iter().for_each(|command| self.obey(command));
        }
    }

    /// Something else is present under a name, and whatever is being done with what was there before is for nothing.
    fn supersede(&mut self, name: &Arc<str>, path: PathBuf) -> u64 {
        let before = self.present.remove(name);
        let (ticket, digest) = (selector::next_version(), before.and_then(|before| before.digest));
        self.files.waiting.retain(|job| job.name != *name);
        let present = Present { ticket, path, digest, refused_for_its_users: false };
        self.present.insert(name.clone(), present);
        ticket
    }

    fn file(&mut self, name: Arc<str>, path: PathBuf) {
        let ticket = self.supersede(&name, path.clone());
        self.names.with(&name, |entry| entry.compiling = true);
        self.files.waiting.push_back(FileJob { name, path, ticket });
    }

    fn loaded(&mut self, job: FileJob, content: Content) {
        self.files.running = None;
        if self.overtaken(&job) {
            return;
        }
        match content {
            Content::Same => {
                self.names.with(&job.name, |entry| entry.compiling = false);
                self.want(&job.name);
            }
            Content::Refused(refusal, digest) => self.refuse(&job.name, &job.path, refusal, digest),
            Content::Loaded(loaded) => match self.prepare(&job.name, &loaded) {
                Ok(plugin) => self.test(job, plugin, loaded),
                Err(refusal) => self.refuse(&job.name, &job.path, refusal, Some(loaded.digest)),
            },
        }
    }

    /// Whether a file is not there any more as it was when its job began.
    fn overtaken(&self, job: &FileJob) -> bool {
        self.present.get(&job.name).is_none_or(|present| present.ticket != job.ticket)
    }

    fn prepare(&self, name: &Arc<str>, loaded: &Loaded) -> Result<Plugin, LoadError> {
        let other = match loaded.kind {
            Kind::Selector => Kind::Registry,
            Kind::Registry => Kind::Selector,
        };
        let wanted = self.uses.as_ref().and_then(|uses| uses.users(name, other).into_iter().next());
        let runs = || self.names.with(name, |entry| entry.kind()) == Some(other);
        if let Some(wanted) = wanted.or_else(|| runs().then(|| "what runs under that name".to_owned())) {
            return Err(LoadError::OtherKind { found: loaded.kind, wanted, as_kind: other });
        }
        self.maker.make(name, loaded)
    }

    fn test(&mut self, job: FileJob, plugin: Plugin, loaded: Loaded) {
        let (uses, number, lent) =
            (self.uses.clone().unwrap_or_default(), self.uses_number, self.maker.lent.clone());
        let runtime = Handle::current();
        self.files.running = Some(job.clone());
        self.jobs.spawn_blocking(move || {
            let tried = runtime.block_on(test(&plugin, &uses, &lent));
            Done::Tested(job, plugin, loaded, number, tried)
        });
    }

    /// Puts a file in force, or refuses it; then what ran before goes on.
    fn tested(&mut self, job: FileJob, plugin: Plugin, loaded: Loaded, number: u64, tried: Tried) {
        self.files.running = None;
        if self.overtaken(&job) {
            return;
        }
        if number != self.uses_number {
            return self.test(job, plugin, loaded);
        }
        if !tried.failed.is_empty() {
            let texts: Vec<String> = tried.failed.iter().map(Failed::to_string).collect();
            let refusal = LoadError::Test(texts.join("; "));
            return self.refuse(&job.name, &job.path, refusal, Some(loaded.digest));
        }
        if let Some(present) = self.present.get_mut(&job.name) {
            present.digest = Some(loaded.digest);
        }
        self.exchange(&job.name, plugin, loaded, Origin::File(job.path), tried.unsettled);
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
        self.names.exchange(name, Some(running));
        match origin {
            Origin::File(file) => {
                tracing::info!(plugin = name, %kind, file = %file.display(), %digest, "Plugin loaded");
            }
            Origin::Shipped => tracing::debug!(plugin = name, %kind, %digest, "Shipped plugin loaded"),
        }
    }

    fn refuse(&mut self, name: &Arc<str>, path: &Path, refusal: LoadError, digest: Option<Digest>) {
        let reason = refusal.to_string();
        tracing::warn!(plugin = &**name, file = %path.display(), error = %reason, "Plugin refused, nothing changes");
        if let Some(present) = self.present.get_mut(name) {
            // What cannot be read is read again when it changes, whatever was there before.
            present.digest = digest;
            present.refused_for_its_users =
                matches!(refusal, LoadError::Test(_) | LoadError::OtherKind { .. });
        }
        self.names.refuse(name, Some(path), refusal);
        self.want(name);
    }

    /// Falls back to the shipped plugin of that name, or to none.
    fn removed(&mut self, name: &Arc<str>) {
        self.present.remove(name);
        self.files.waiting.retain(|job| job.name != *name);
        self.names.with(name, |entry| entry.compiling = false);
        let running = self.names.running(name);
        if !matches!(running, Some(Running { origin: Origin::File(_), .. })) {
            return self.want(name);
        }
        if shipped(name).is_some() {
            self.load_shipped(name);
        } else {
            self.names.exchange(name, None);
            tracing::warn!(plugin = &**name, "Plugin removed, and none is shipped under that name");
        }
    }

    /// Loads the shipped plugin of a name under which nothing runs, and no file is about to.
    fn want(&mut self, name: &str) {
        if self.names.running(name).is_none() && !self.loads_file(name) && shipped(name).is_some() {
            self.load_shipped(name);
        }
    }

    fn load_shipped(&mut self, name: &str) {
        if !self.shipped.has(|job| **job == *name) {
            self.names.with(name, |entry| entry.compiling = true);
            self.shipped.waiting.push_back(name.into());
        }
    }

    /// It is not tested: where it refuses somebody's settings, others still need it.
    fn shipped(&mut self, name: &Arc<str>, loaded: Result<Loaded, LoadError>) {
        self.shipped.running = None;
        let loads_file = self.loads_file(name);
        self.names.with(name, |entry| entry.compiling = loads_file);
        let removed = match self.names.running(name).map(|running| running.origin) {
            None if loads_file => return,
            None => false,
            Some(Origin::File(_)) if !self.present.contains_key(name) => true,
            Some(_) => return,
        };
        match loaded.and_then(|loaded| Ok((self.maker.make(name, &loaded)?, loaded))) {
            Ok((plugin, loaded)) => {
                self.exchange(name, plugin, loaded, Origin::Shipped, None);
                if removed {
                    tracing::info!(plugin = &**name, "Plugin removed, the shipped one takes its place");
                }
            }
            Err(refusal) => {
                tracing::error!(plugin = &**name, error = %refusal, "Shipped plugin is of no use");
                self.names.refuse(name, None, refusal);
            }
        }
    }

    /// Why nothing runs under a name: there is no file, or the file was refused, or it is not ready.
    fn missing(&self, name: &str, kind: Kind) -> (Cause, String) {
        let refused = self.names.with(name, |entry| entry.last_reason().map(ToString::to_string));
        match (refused, kind) {
            _ if self.loads_file(name) => {
                (Cause::Compiling, format!("{kind} plugin {name:?} is being compiled"))
            }
            (Some(reason), _) => (Cause::Refused, format!("the file of plugin {name:?} {reason}")),
            (None, Kind::Selector) => (Cause::NoSelector, format!("there is no selector plugin {name:?}")),
            (None, Kind::Registry) => (Cause::NoRegistry, format!("there is no registry plugin {name:?}")),
        }
    }

    fn digest(&self, name: &str) -> Option<Digest> {
        self.names.running(name).map(|running| running.loaded.digest)
    }

    /// Tests what is in force with other uses. With a version of its own, so that no fault is counted.
    fn check(&mut self, uses: Uses, answer: oneshot::Sender<Vec<Problem>>) {
        let asked = all_names(&uses).into_iter().map(|name| (name.clone(), self.digest(&name))).collect();
        let find = |(name, kind): (&str, Kind)| {
            let found = self.names.running(name).map(|running| running.loaded);
            (Arc::from(name), kind, found.ok_or_else(|| self.missing(name, kind)))
        };
        let all: Vec<_> = uses.names().map(find).collect();
        let (maker, runtime) = (self.maker.clone(), Handle::current());
        self.jobs.spawn_blocking(move || {
            let mut problems = Vec::new();
            for (name, kind, found) in all {
                let (cause, failed) = runtime.block_on(maker.check(&uses, &name, kind, found));
                problems.extend(failed.into_iter().map(|Failed { used_by, text }| Problem {
                    cause,
                    plugin: name.to_string(),
                    used_by: used_by.unwrap_or_default(),
                    text,
                }));
            }
            Done::Checked(uses, answer, asked, problems)
        });
    }
}

impl<J: Clone> Lane<J> {
    fn new() -> Self {
        Self { waiting: VecDeque::new(), running: None }
    }

    /// The job to begin, if none runs.
    fn next(&mut self) -> Option<J> {
        if self.running.is_some() {
            return None;
        }
        self.running = self.waiting.pop_front();
        self.running.clone()
    }

    fn has(&self, wanted: impl Fn(&J) -> bool) -> bool {
        self.waiting.iter().chain(&self.running).any(wanted)
    }
}

/// What it takes to make a version of a plugin, on any thread.
#[derive(Clone)]
struct Maker {
    engine: Engine,
    limits: config::Plugins,
    lent: Arc<Lent>,
}

impl Maker {
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

    async fn check(
        &self,
        uses: &Uses,
        name: &Arc<str>,
        kind: Kind,
        found: Result<Loaded, (Cause, String)>,
    ) -> (Cause, Vec<Failed>) {
        let all = |text: &str| everybody(uses, name, kind, text);
        match found {
            Ok(loaded) if loaded.kind == kind => match self.make(name, &loaded) {
                Ok(plugin) => (Cause::Settings, test(&plugin, uses, &self.lent).await.failed),
                Err(refusal) => (Cause::Refused, all(&refusal.to_string())),
            },
            Ok(loaded) => (Cause::Refused, all(&format!("{name:?} is a {} plugin", loaded.kind))),
            Err((cause, text)) => (cause, all(&text)),
        }
    }
}

async fn test(plugin: &Plugin, uses: &Uses, lent: &Lent) -> Tried {
    match plugin {
        Plugin::Selector(selector) => trial::selector(selector, uses.selectors(plugin.name())),
        Plugin::Registry(registry) => {
            let failed = trial::registry(registry, uses.registries(plugin.name()), lent).await;
            Tried { failed, unsettled: None }
        }
    }
}

fn all_names(uses: &Uses) -> Vec<Arc<str>> {
    uses.names().map(|(name, _)| name.into()).collect()
}

/// The same for everybody who uses a plugin.
fn everybody(uses: &Uses, name: &str, kind: Kind, text: &str) -> Vec<Failed> {
    let users = uses.users(name, kind).into_iter();
    users.map(|used_by| Failed { used_by: Some(used_by), text: text.to_owned() }).collect()
}

/// Tells of changes in the folder.
struct Watching {
    directory: PathBuf,
    /// With the folder it watches: another folder may take its place under the same path.
    watcher: Option<(RecommendedWatcher, FolderId)>,
    wake: mpsc::WeakUnboundedSender<Command>,
}

impl Watching {
    /// Watches the folder once it is there, and anew when it is another one.
    fn renew(&mut self) {
        let there = FolderId::of(&self.directory);
        if there == self.watcher.as_ref().map(|(_, id)| *id) {
            return;
        }
        self.watcher = None;
        let Some(there) = there else { return };
        let wake = self.wake.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            // Whoever looks causes this, and must not be woken by it.
            let by_reading =
                event.is_ok_and(|event| event.kind.is_access() && !is_close_of_writer(&event.kind));
            if let Some(commands) = wake.upgrade().filter(|_| !by_reading) {
                // The thread is about to end.
                let _ = commands.send(Command::Look);
            }
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some((watcher, there)),
            Err(error) => {
                tracing::debug!(directory = %self.directory.display(), %error, "Plugins folder is only polled");
            }
        }
    }
}

fn is_close_of_writer(kind: &notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
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
