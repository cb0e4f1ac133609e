//! The only wiring: how everything is put together, once, from top to bottom.

mod checked;
mod demo;
mod describe;
mod descriptors;
mod listeners;
mod operate;
mod register;
mod reload;
mod remembering;
mod systemd;
mod upgrade;
mod uses;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

pub use self::{
    checked::check,
    demo::demo,
    listeners::ListenError,
    operate::{Gateway, OperateError, Operation, operate},
    register::{Register, RegisterError, Where, register},
    upgrade::SuccessionError,
};
use self::{
    listeners::Listeners,
    reload::{Next, Reload},
    remembering::Remembering,
    upgrade::{Admins, Estate, InheritedAdmin, Predecessor, Program, Succession, Upgraded},
    uses::uses,
};
use crate::{
    admin,
    backoff::Lasting,
    catalog::{self, Catalog},
    check,
    config::{self, Config},
    connector::{Lent, Memory},
    plugin::{Cause, EngineError, Plugins, Problem},
    registry::{Intake, OwnAddresses, Resolver},
    server::{Lineup, Listener, Workers},
    telemetry::{ProcessMetrics, Readiness, access::AccessLogs, text::shown},
    tls::{self, ServerSettings},
    upstream::{Disk, UpstreamName},
    worker::{self, Serving},
};

/// Threads of the control plane. Nothing that runs there is on the way of a request.
const CONTROL_THREADS: usize = 2;

/// How long a gateway that has just started may wait for plugins, and for balancers of them, before it is ready.
const FIRST_PLUGINS: Duration = Duration::from_secs(60);

/// How often it is looked whether the workers have the balancers that they begin with.
const LOOK_FOR_BALANCERS: Duration = Duration::from_millis(20);

/// How long what still runs at the end may take.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What the embedded registry remembers, below the state directory.
const REGISTRY: &str = "registry.json";

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] config::Problems),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot listen on {address} for the admin API: {error}")]
    Admin { address: SocketAddr, error: io::Error },
    #[error("no TLS at {address}: {reason}")]
    Tls { address: SocketAddr, reason: String },
    #[error("cannot start the threads of the gateway")]
    Threads(#[source] io::Error),
    #[error("cannot start the plugin engine")]
    Engine(#[from] EngineError),
    #[error("cannot use the folder {folder}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    #[error("cannot find its own program")]
    Program(#[source] io::Error),
    #[error("cannot take over from the running process")]
    Succession(#[from] SuccessionError),
    #[error("stopped before it was done")]
    Stopped,
}

/// What is wrong between a configuration and its plugins, a line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plugins are not what the configuration asks for:\n{0}")]
pub struct PluginsError(String);

impl PluginsError {
    fn new(problems: &[Problem]) -> Self {
        let line = |problem: &Problem| format!("  {}: {}", shown(&problem.used_by), shown(&problem.text));
        Self(problems.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Each with its head, for the log.
    fn lines(&self) -> impl Iterator<Item = String> {
        let head = "the plugins are not what the configuration asks for";
        self.0.lines().map(move |line| format!("{head}: {}", line.trim_start()))
    }
}

/// Runs the gateway with a configuration file, which is followed, until SIGTERM or SIGINT.
pub fn run(path: &Path) -> Result<(), StartError> {
    let own = path.to_owned();
    start(move || config::load(&own), Some(path), |_| Ok(()))
}

/// The gateway with everything bound and nothing running yet.
struct Sockets {
    admin: Option<AdminSocket>,
    registrations: Option<AdminSocket>,
    clients: Listeners,
    /// Copies of the first two, for a new process.
    copies: Admins,
    /// The numbers of those that the process before had.
    taken: Vec<usize>,
}

/// With what ends TLS there.
type AdminSocket = (tokio::net::TcpListener, Option<Arc<tls::Server>>);

/// What somebody who joins the gateway at its start may know.
pub(crate) struct Started {
    pub admin: Option<SocketAddr>,
    pub listeners: Vec<SocketAddr>,
}

fn start(
    load: impl FnOnce() -> Result<Config, config::Problems> + Send + 'static,
    follow: Option<&Path>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let outcome = runtime.block_on(async {
        // Before anything that takes time: each of these would end the process. Where no file is followed SIGHUP keeps
        // its meaning: the terminal is gone.
        ignore_signals().map_err(StartError::Threads)?;
        let program = Program::running().map_err(StartError::Program)?;
        let mut signals = Signals::new().map_err(StartError::Threads)?;
        let follow =
            follow.map(|path| Followed::new(path, program)).transpose().map_err(StartError::Threads)?;
        match signals.unless_stopped(blocking(load)).await {
            Some(config) => gateway(Arc::new(config?), follow, join, &mut signals).await,
            None => Ok(()),
        }
    });
    // Whoever asked twice to stop does not wait for connections that are still open.
    runtime.shutdown_timeout(LAST_MOMENT);
    outcome
}

/// Does something that may wait for a disk where it holds up nothing, signals included.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and with it whoever asked.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The configuration file, and what has it read again or the gateway begin anew.
struct Followed<'a> {
    path: &'a Path,
    program: Program,
    hangup: Signal,
    upgrade: Signal,
}

impl<'a> Followed<'a> {
    fn new(path: &'a Path, program: Program) -> io::Result<Self> {
        let (hangup, upgrade) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
        Ok(Self { path, program, hangup, upgrade })
    }
}

async fn gateway(
    config: Arc<Config>,
    follow: Option<Followed<'_>>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
    signals: &mut Signals,
) -> Result<(), StartError> {
    descriptors::provide(&config);
    let succession = Succession::of_this_process()?;
    let estate = match &succession {
        Some(succession) => match signals.unless_stopped(succession.estate()).await {
            Some(estate) => Some(estate?),
            None => return Ok(()),
        },
        None => None,
    };
    // Then sockets: a port in use is told before anything else happens.
    let metrics = Arc::new(ProcessMetrics::new(config.workers));
    let mut estate = estate.unwrap_or_default();
    let sockets = bind(&config, &metrics, &mut estate).await?;
    let own = sockets.clients.own.clone();
    let registry = config.state.join(REGISTRY);
    let succeeds = succession.is_some();
    if !succeeds {
        systemd::starting();
    }
    let text = std::mem::take(&mut estate.registry);
    let opened = blocking(move || match succeeds {
        true => Memory::succeed(registry, own, &text).map_err(SuccessionError::Registry),
        false => Ok(Memory::open_beside(registry, own)),
    });
    let (memory, warnings) = match signals.unless_stopped(opened).await {
        Some(opened) => opened?,
        None => return Ok(()),
    };
    for warning in warnings {
        tracing::warn!(%warning, "Embedded registry not as it was left");
    }
    let mut remembering = Remembering::of(memory);
    if !succeeds {
        remembering.start();
    }
    let succession = succession.map(|succession| (succession, estate.upstreams));
    let outcome = serve(config, follow, join, signals, sockets, &mut remembering, metrics, succession).await;
    remembering.stop().await;
    tracing::info!("Stopped");
    outcome
}

#[expect(clippy::too_many_arguments, reason = "it is where everything comes together")]
async fn serve(
    config: Arc<Config>,
    follow: Option<Followed<'_>>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
    signals: &mut Signals,
    sockets: Sockets,
    remembering: &mut Remembering,
    metrics: Arc<ProcessMetrics>,
    succession: Option<(Succession, Vec<String>)>,
) -> Result<(), StartError> {
    // The control plane. The admin API first: whoever asks how the start goes is answered while it does, by the process
    // before if there is one.
    let started = announce(&sockets);
    let Sockets { admin, registrations, clients: mut listeners, copies, taken } = sockets;
    let (own, files) = (listeners.own.clone(), listeners.files.clone());
    let disk = disk(&config, &own);
    if succession.is_some() {
        disk.give();
    }
    let plugins = Plugins::start(&config, Arc::new(Lent::new(remembering.memory.clone())))?;
    let parts = parts(&config, &plugins, own, files.clone(), disk.clone());
    let (catalog, control) = Catalog::start(parts, config.clone());
    let readiness = Readiness::default();
    let door = if succession.is_some() { admin::Door::shut() } else { admin::Door::default() };
    let admin_parts = Arc::new(admin::Parts {
        catalog: catalog.clone(),
        plugins: plugins.clone(),
        memory: remembering.memory.clone(),
        files,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        door: door.clone(),
    });
    serve_admin(&config, admin, registrations, admin_parts)?;

    // The data plane, once every upstream has its first list or had its chance.
    let prepared = signals.unless_stopped(async {
        check_settings(&plugins, &config, None, &[Cause::Settings]).await?;
        plugins.set_uses(uses(&config, None)).await;
        control.apply(config.clone()).await;
        plugins.set_uses(uses(&config, Some(&catalog))).await;
        Ok::<(), PluginsError>(())
    });
    match prepared.await {
        Some(prepared) => prepared?,
        None => {
            control.close().await;
            return Ok(());
        }
    }
    // Where another process serves, nobody is served here yet.
    let first = if succession.is_some() { Vec::new() } else { listeners.running().to_vec() };
    let lineup = Lineup { ending: config.shutdown, ..Lineup::of(first) };
    let (serving, followed) = watch::channel(Serving { table: catalog.table(), lineup });
    let workers = start_workers(config.workers, &catalog, &metrics, &followed)?;
    join(started)?;
    let ready = match succession {
        None => Some(tokio::spawn(become_ready(
            config.clone(),
            plugins.clone(),
            catalog.clone(),
            readiness.clone(),
        ))),
        Some((succession, upstreams)) => {
            let settled = async {
                let prepared = async {
                    settle(&config, &plugins, &catalog).await;
                    have_endpoints(&catalog, &upstreams).await;
                };
                succession.unless_gone(prepared).await?;
                succession.ready(taken).await
            };
            let Some(registry) = signals.unless_stopped(settled).await else { return Ok(()) };
            for warning in remembering.memory.take_over(&registry?).map_err(SuccessionError::Registry)? {
                tracing::warn!(%warning, "Embedded registry not as it was left");
            }
            remembering.start();
            disk.take_back();
            serving.send_modify(|serving| serving.lineup.listeners = listeners.running().to_vec());
            readiness.ready();
            door.open();
            say("ready");
            match succession.serving().await {
                Ok(()) => tracing::info!("Took over from the process before"),
                // All that it had is here.
                Err(error) => tracing::warn!(%error, "Took over from a process that has not heard of it"),
            }
            None
        }
    };

    let reopening = tokio::spawn(reopen_logs(Arc::downgrade(&listeners.access_logs)));
    let watchdog = tokio::spawn(systemd::watchdog(metrics.clone(), readiness.clone()));

    // Until it is time to stop, or a new process serves.
    let (path, mut asks) = match follow {
        Some(Followed { path, program, hangup, upgrade }) => {
            (Some(path), Some(reload::Asks { program, hangup, upgrade }))
        }
        None => (None, None),
    };
    let mut reload = Reload {
        path,
        running: config.clone(),
        control: &control,
        plugins: &plugins,
        catalog: catalog.clone(),
        listeners: &mut listeners,
        serving: &serving,
        metrics,
        readiness: readiness.clone(),
        lacking: None,
        unreadable: Lasting::default(),
    };
    let handed_over = loop {
        let Some(asks) = &mut asks else {
            signals.stop().await;
            break false;
        };
        match reload.follow(signals.stop(), asks).await {
            Next::Stop => break false,
            Next::Upgrade => {}
        }
        tracing::info!(program = %asks.program.path().display(), "Starting a new process");
        systemd::reloading();
        let predecessor = Predecessor {
            program: &asks.program,
            limit: reload.running.upgrade_timeout,
            listeners: reload.listeners,
            admins: &copies,
            remembering,
            disk: &disk,
            door: &door,
            catalog: &catalog,
        };
        match predecessor.hand_over(signals).await {
            Upgraded::Yes(pid) => {
                tracing::info!(pid, "A new process serves, clients of this one may finish");
                systemd::handed_over(pid);
                say(&format!("upgraded {pid}"));
                break true;
            }
            Upgraded::No(error) => {
                tracing::error!(%error, "No new process took over, serving on");
                systemd::reloaded(&format!("No new process took over, serving on: {error}"));
            }
            Upgraded::Stopped => break false,
        }
    };
    let config = reload.running;
    if let Some(ready) = ready {
        ready.abort();
    }
    reopening.abort();
    drop(copies);

    // Readiness goes first, so that balancers in front have the delay to notice.
    readiness.draining();
    match handed_over {
        true => {
            watchdog.abort();
            leave(config.shutdown, signals, serving, workers).await;
        }
        false => {
            systemd::stopping(config.shutdown);
            drain(config.shutdown, signals, serving, workers).await;
        }
    }
    control.close().await;
    Ok(())
}

/// Says that the gateway is ready once it picks as it was configured to: until a file that it needs for that is
/// compiled, and all workers have their balancers of it, the native round robin picks, which breaks the affinity of
/// clients. Some time later it is better than nothing.
async fn become_ready(config: Arc<Config>, plugins: Plugins, catalog: Catalog, readiness: Readiness) {
    let settled = tokio::time::timeout(FIRST_PLUGINS, balanced(&config, &plugins, &catalog));
    if settled.await.is_err() {
        tracing::warn!(waited = ?FIRST_PLUGINS,
            "Plugins are still being compiled, or balancers made of them, going on without them");
    }
    // Those of a registry whose plugin has just come.
    catalog.first_lists().await;
    readiness.ready();
    systemd::ready();
    say("ready");
}

/// Waits until it picks as it was configured to.
async fn balanced(config: &Config, plugins: &Plugins, catalog: &Catalog) {
    plugins.settled(uses(config, None)).await;
    while !catalog.table().upstreams.values().all(|upstream| upstream.has_tried_selector()) {
        tokio::time::sleep(LOOK_FOR_BALANCERS).await;
    }
}

/// Waits until it is as ready as it can be: with another process that serves there is no reason to hurry.
async fn settle(config: &Config, plugins: &Plugins, catalog: &Catalog) {
    balanced(config, plugins, catalog).await;
    catalog.first_lists().await;
}

/// Waits until those of these upstreams that are configured have endpoints.
async fn have_endpoints(catalog: &Catalog, upstreams: &[String]) {
    let table = catalog.table();
    for upstream in upstreams.iter().filter_map(|name| table.upstreams.get(&UpstreamName::new(name.as_str())))
    {
        let mut told = false;
        while upstream.reader.snapshot().is_empty() {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(upstream = %upstream.config.name,
                    "The running process has endpoints of it, and this one none yet");
            }
            tokio::time::sleep(LOOK_FOR_BALANCERS).await;
        }
    }
}

fn start_workers(
    workers: usize,
    catalog: &Catalog,
    metrics: &Arc<ProcessMetrics>,
    serving: &watch::Receiver<Serving>,
) -> Result<Workers, StartError> {
    let (catalog, metrics, serving) = (catalog.clone(), metrics.clone(), serving.clone());
    let run = move |index, ()| worker::run(index, serving.clone(), catalog.clone(), metrics.clone());
    Workers::start(vec![(); workers], run).map_err(StartError::Threads)
}

/// Waits the delay, closes the listeners, and waits until the workers have ended or somebody asks again.
async fn drain(
    shutdown: config::Shutdown,
    signals: &mut Signals,
    serving: watch::Sender<Serving>,
    workers: Workers,
) {
    let config::Shutdown { delay, drain } = shutdown;
    tracing::info!(?delay, ?drain, "Shutting down");
    serving.send_modify(|serving| serving.lineup.leaving = true);
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = signals.stop() => {}
    }
    serving.send_modify(|serving| serving.lineup.close(drain));
    // Nothing else will come.
    drop(serving);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    tokio::select! {
        _ = ended => {}
        () = signals.stop() => tracing::warn!("Asked again, not waiting for open connections"),
    }
}

/// Lets clients finish where a new process has taken over.
async fn leave(
    shutdown: config::Shutdown,
    signals: &mut Signals,
    serving: watch::Sender<Serving>,
    workers: Workers,
) {
    serving.send_modify(|serving| serving.lineup.hand_over(shutdown.drain));
    drop(serving);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    let asked_twice = async {
        // The first may be for both processes.
        signals.stop().await;
        signals.stop().await;
    };
    tokio::select! {
        _ = ended => {}
        () = asked_twice => tracing::warn!("Asked again, not waiting for open connections"),
    }
}

/// Binds what the process before does not have.
async fn bind(
    config: &Config,
    metrics: &Arc<ProcessMetrics>,
    estate: &mut Estate,
) -> Result<Sockets, StartError> {
    let files = Arc::<tls::Files>::default();
    let config::Admin { address, registrations, tls, .. } = &config.admin;
    let (mut copies, mut taken) = (Admins::default(), Vec::new());
    let admin = match *address {
        Some(address) => {
            let inherited = take_admin(&mut estate.admin, address, &mut taken);
            let (socket, copy) = bind_admin(address, tls.as_ref(), &files, inherited).await?;
            copies.admin = Some((address, copy));
            Some(socket)
        }
        None => None,
    };
    let registrations = match registrations {
        Some(own) => {
            let inherited = take_admin(&mut estate.registrations, own.address, &mut taken);
            let (socket, copy) = bind_admin(own.address, own.tls.as_ref(), &files, inherited).await?;
            copies.registrations = Some((own.address, copy));
            Some(socket)
        }
        None => None,
    };
    let admins = [&admin, &registrations].into_iter().flatten();
    let admins = admins.filter_map(|(listener, _)| listener.local_addr().ok()).collect();
    let mut clients = Listeners::new(files, metrics.clone(), admins);
    clients.begin(config, std::mem::take(&mut estate.listeners))?;
    taken.extend(upgrade::taken(clients.running()));
    Ok(Sockets { admin, registrations, clients, copies, taken })
}

/// The socket of the process before at this address.
fn take_admin(
    of: &mut Option<InheritedAdmin>,
    address: SocketAddr,
    taken: &mut Vec<usize>,
) -> Option<std::net::TcpListener> {
    let inherited = of.take_if(|inherited| inherited.address == address)?;
    taken.push(inherited.number);
    Some(inherited.socket)
}

async fn bind_admin(
    address: SocketAddr,
    tls: Option<&ServerSettings>,
    files: &tls::Files,
    inherited: Option<std::net::TcpListener>,
) -> Result<(AdminSocket, OwnedFd), StartError> {
    let tls = open_tls(address, tls, tls::Protocol::Http1, files)?;
    let failed = |error| StartError::Admin { address, error };
    let listener = match inherited {
        Some(listener) => tokio::net::TcpListener::from_std(listener),
        None => tokio::net::TcpListener::bind(address).await,
    };
    let listener = listener.map_err(failed)?;
    let copy = listener.as_fd().try_clone_to_owned().map_err(failed)?;
    Ok(((listener, tls), copy))
}

/// What ends TLS at an address. The files were right a moment ago, when the configuration was read.
fn open_tls(
    address: SocketAddr,
    settings: Option<&ServerSettings>,
    protocol: tls::Protocol,
    files: &tls::Files,
) -> Result<Option<Arc<tls::Server>>, StartError> {
    let open = |settings| tls::Server::open(settings, protocol, files).map(Arc::new);
    let failed = |error: tls::FileError| StartError::Tls { address, reason: error.to_string() };
    settings.map(open).transpose().map_err(failed)
}

/// Asks every plugin about the settings it is to be used with, as far as they are others than those in force. What is
/// wrong and one of `fatal` is the error, the rest is logged: a gateway that can serve does.
async fn check_settings(
    plugins: &Plugins,
    config: &Config,
    running: Option<&Config>,
    fatal: &[Cause],
) -> Result<(), PluginsError> {
    let mut asked = uses(config, None);
    if let Some(running) = running {
        // What the running configuration does without is no reason against another.
        asked = asked.without(&uses(running, None));
    }
    let problems = plugins.check(asked).await;
    let (fatal, bearable): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|problem| fatal.contains(&problem.cause));
    for Problem { cause, used_by, text, .. } in bearable {
        match cause {
            Cause::Compiling => {
                tracing::info!(%used_by, reason = %text, "Plugin not ready yet, going on without it")
            }
            _ => tracing::error!(%used_by, error = %text, "Plugin not ready, going on without it"),
        }
    }
    if fatal.is_empty() { Ok(()) } else { Err(PluginsError::new(&fatal)) }
}

/// Where the last good lists are.
fn disk(config: &Config, own: &OwnAddresses) -> Disk {
    let own = own.clone();
    Disk::refusing(&config.state, move |address| own.contains(address))
}

fn parts(
    config: &Config,
    plugins: &Plugins,
    own: OwnAddresses,
    tls: Arc<tls::Files>,
    disk: Disk,
) -> catalog::Parts {
    let (selectors, registries) = (plugins.clone(), plugins.clone());
    catalog::Parts {
        selector: Box::new(move |name| selectors.selector(name)),
        registry: Box::new(move |registry| registries.registry(registry)),
        checks: Box::new(check::start),
        tls,
        disk,
        intake: Intake { resolver: Resolver::new(), own },
        workers: config.workers,
    }
}

/// The admin API answers as long as the process lives, so that draining can be watched.
fn serve_admin(
    config: &Config,
    admin: Option<AdminSocket>,
    registrations: Option<AdminSocket>,
    parts: Arc<admin::Parts>,
) -> Result<(), StartError> {
    let registrations = registrations.zip(config.admin.registrations.as_ref());
    let listeners = [
        admin.map(|listener| (listener, admin::Scope::Everything, &config.admin.access)),
        registrations.map(|(listener, own)| (listener, admin::Scope::Registrations, &own.access)),
    ];
    let listening = |((listener, tls), scope, access): (AdminSocket, _, &config::Access)| {
        Ok(admin::Listening { listener: listener.into_std()?, tls, scope, access: access.clone() })
    };
    let listenings: io::Result<Vec<_>> = listeners.into_iter().flatten().map(listening).collect();
    listenings.and_then(|listenings| admin::start(listenings, parts)).map_err(StartError::Threads)
}

/// Says on standard output where the gateway listens; port 0 has become a real one by now.
fn announce(sockets: &Sockets) -> Started {
    let address = |(listener, _): &AdminSocket| listener.local_addr().ok();
    let admin = sockets.admin.as_ref().and_then(address);
    if let Some(address) = admin {
        say(&format!("listening admin {address}"));
    }
    if let Some(address) = sockets.registrations.as_ref().and_then(address) {
        say(&format!("listening registrations {address}"));
    }
    let running = sockets.clients.running().iter();
    let listeners = running.inspect(|listener| say_listening(listener)).map(Listener::address);
    Started { admin, listeners: listeners.collect() }
}

fn say_listening(listener: &Listener) {
    say(&format!("listening {} {}", listener.settings.protocol.as_str(), listener.address()));
}

/// Opens access logs anew with each SIGUSR1, as whoever has moved them away asks for.
async fn reopen_logs(logs: Weak<AccessLogs>) {
    let Ok(mut asked) = signal(SignalKind::user_defined1()) else { return };
    while asked.recv().await.is_some() {
        if let Some(logs) = logs.upgrade() {
            logs.reopen();
        }
    }
}

/// SIGUSR1 does nothing before there are logs, and SIGUSR2 nothing where no file is followed. Their default is to end
/// the process.
fn ignore_signals() -> io::Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // Who takes a signal once takes it for the life of the process.
        drop(signal(kind)?);
    }
    Ok(())
}

/// What asks the process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// What comes of `phase`; none if it is time to stop before.
    async fn unless_stopped<T>(&mut self, phase: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = phase => Some(done),
            () = self.stop() => None,
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says something on standard output, which scripts read: where the gateway listens, and when it is ready.
fn say(line: &str) {
    // Whoever closed standard output does not want to hear of it.
    let _ = writeln!(io::stdout(), "{line}");
}
