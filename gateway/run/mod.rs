//! The only wiring: how everything is put together, once, from top to bottom.

mod checked;
mod demo;
mod describe;
mod descriptors;
mod listeners;
mod operate;
mod reload;
mod uses;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
};

pub use self::{
    checked::check,
    demo::demo,
    listeners::ListenError,
    operate::{Gateway, OperateError, Operation, operate},
};
use self::{listeners::Listeners, reload::Reload, uses::uses};
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
    upstream::Disk,
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
        let mut signals = Signals::new().map_err(StartError::Threads)?;
        let followed =
            |path| Ok::<_, StartError>((path, signal(SignalKind::hangup()).map_err(StartError::Threads)?));
        let follow = follow.map(followed).transpose()?;
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

async fn gateway(
    config: Arc<Config>,
    follow: Option<(&Path, Signal)>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
    signals: &mut Signals,
) -> Result<(), StartError> {
    descriptors::provide(&config);
    // Then sockets: a port in use is told before anything else happens.
    let metrics = Arc::new(ProcessMetrics::new(config.workers));
    let sockets = bind(&config, &metrics).await?;
    let own = sockets.clients.own.clone();
    let registry = config.state.join(REGISTRY);
    let (memory, warnings) =
        match signals.unless_stopped(blocking(move || Memory::open_beside(registry, own))).await {
            Some(opened) => opened,
            None => return Ok(()),
        };
    for warning in warnings {
        tracing::warn!(%warning, "Embedded registry not as it was left");
    }
    let (remember, enough) = oneshot::channel::<()>();
    let remembering = tokio::spawn({
        let memory = memory.clone();
        async move { memory.run(async { enough.await.unwrap_or_default() }).await }
    });
    let outcome = serve(config, follow, join, signals, sockets, memory, metrics).await;
    drop(remember);
    // A panic there has been reported where it happened.
    let _ = remembering.await;
    tracing::info!("Stopped");
    outcome
}

async fn serve(
    config: Arc<Config>,
    follow: Option<(&Path, Signal)>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
    signals: &mut Signals,
    sockets: Sockets,
    memory: Arc<Memory>,
    metrics: Arc<ProcessMetrics>,
) -> Result<(), StartError> {
    // The control plane. The admin API first: whoever asks how the start goes is answered while it does.
    let started = announce(&sockets);
    let Sockets { admin, registrations, clients: mut listeners } = sockets;
    let (own, files) = (listeners.own.clone(), listeners.files.clone());
    let plugins = Plugins::start(&config, Arc::new(Lent::new(memory.clone())))?;
    let (catalog, control) = Catalog::start(parts(&config, &plugins, own, files.clone()), config.clone());
    let readiness = Readiness::default();
    let admin_parts = Arc::new(admin::Parts {
        catalog: catalog.clone(),
        plugins: plugins.clone(),
        memory,
        files,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
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
    let mut lineup = Lineup::of(listeners.running().to_vec());
    lineup.ending = config.shutdown;
    let (serving, followed) = watch::channel(Serving { table: catalog.table(), lineup });
    let workers = start_workers(config.workers, &catalog, &metrics, &followed)?;
    join(started)?;
    let ready =
        tokio::spawn(become_ready(config.clone(), plugins.clone(), catalog.clone(), readiness.clone()));

    let reopening = tokio::spawn(reopen_logs(Arc::downgrade(&listeners.access_logs)));

    // Until it is time to stop.
    let (path, hangup) = follow.unzip();
    let reload = Reload {
        path,
        running: config.clone(),
        control: &control,
        plugins: &plugins,
        catalog,
        listeners: &mut listeners,
        serving: &serving,
        metrics,
        lacking: None,
        unreadable: Lasting::default(),
    };
    let config = reload.until(signals.stop(), hangup).await;
    ready.abort();
    reopening.abort();

    // Readiness goes first, so that balancers in front have the delay to notice.
    readiness.draining();
    drain(config.shutdown, signals, serving, workers).await;
    control.close().await;
    Ok(())
}

/// Says that the gateway is ready once it picks as it was configured to: until a file that it needs for that is
/// compiled, and all workers have their balancers of it, the native round robin picks, which breaks the affinity of
/// clients. Some time later it is better than nothing.
async fn become_ready(config: Arc<Config>, plugins: Plugins, catalog: Catalog, readiness: Readiness) {
    let settled = async {
        plugins.settled(uses(&config, None)).await;
        while !catalog.table().upstreams.values().all(|upstream| upstream.has_tried_selector()) {
            tokio::time::sleep(LOOK_FOR_BALANCERS).await;
        }
    };
    if tokio::time::timeout(FIRST_PLUGINS, settled).await.is_err() {
        tracing::warn!(waited = ?FIRST_PLUGINS,
            "Plugins are still being compiled, or balancers made of them, going on without them");
    }
    // Those of a registry whose plugin has just come.
    catalog.first_lists().await;
    readiness.ready();
    say("ready");
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

async fn bind(config: &Config, metrics: &Arc<ProcessMetrics>) -> Result<Sockets, StartError> {
    let files = Arc::<tls::Files>::default();
    let config::Admin { address, registrations, tls, .. } = &config.admin;
    let admin = match *address {
        Some(address) => Some(bind_admin(address, tls.as_ref(), &files).await?),
        None => None,
    };
    let registrations = match registrations {
        Some(own) => Some(bind_admin(own.address, own.tls.as_ref(), &files).await?),
        None => None,
    };
    let admins = [&admin, &registrations].into_iter().flatten();
    let admins = admins.filter_map(|(listener, _)| listener.local_addr().ok()).collect();
    let mut clients = Listeners::new(files, metrics.clone(), admins);
    let listeners = clients.prepare(config)?;
    clients.replace(listeners);
    Ok(Sockets { admin, registrations, clients })
}

async fn bind_admin(
    address: SocketAddr,
    tls: Option<&ServerSettings>,
    files: &tls::Files,
) -> Result<AdminSocket, StartError> {
    let tls = open_tls(address, tls, tls::Protocol::Http1, files)?;
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => Ok((listener, tls)),
        Err(error) => Err(StartError::Admin { address, error }),
    }
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

fn parts(config: &Config, plugins: &Plugins, own: OwnAddresses, tls: Arc<tls::Files>) -> catalog::Parts {
    let (selectors, registries) = (plugins.clone(), plugins.clone());
    catalog::Parts {
        selector: Box::new(move |name| selectors.selector(name)),
        registry: Box::new(move |registry| registries.registry(registry)),
        checks: Box::new(check::start),
        tls,
        disk: Disk::refusing(&config.state, {
            let own = own.clone();
            move |address| own.contains(address)
        }),
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

/// SIGUSR2 does nothing, and SIGUSR1 nothing before there are logs. Scripts of other servers send them, and their default is
/// to end the process.
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
