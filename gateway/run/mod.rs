//! The only wiring: how everything is put together, once, from top to bottom.

mod checked;
mod demo;
mod describe;
mod descriptors;
mod operate;
mod reload;
mod uses;

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

pub use self::{
    checked::check,
    demo::demo,
    operate::{Gateway, OperateError, Operation, operate},
};
use self::{reload::Reload, uses::uses};
use crate::{
    admin,
    backoff::Lasting,
    catalog::{self, Catalog},
    check,
    config::{self, Config},
    connector::{Lent, Memory},
    http,
    plugin::{Cause, EngineError, Plugins, Problem},
    registry::{Intake, OwnAddresses, Resolver},
    server::{self, Listening, Workers},
    telemetry::{ProcessMetrics, Readiness, text::shown},
    upstream::Disk,
};

/// Threads of the control plane. Nothing that runs there is on the way of a request.
const CONTROL_THREADS: usize = 2;

/// How long what still runs at the end may take.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What the embedded registry remembers, below the state directory.
const REGISTRY: &str = "registry.json";

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(#[from] config::Problems),
    #[error(transparent)]
    Bind(#[from] server::BindError),
    #[error("cannot listen on {address} for the admin API: {error}")]
    Admin { address: SocketAddr, error: io::Error },
    #[error("cannot start the threads of the gateway")]
    Threads(#[source] io::Error),
    #[error("cannot start the plugin engine")]
    Engine(#[from] EngineError),
    #[error("cannot use the folder {folder}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("plugins refuse their settings:\n{0}")]
    Settings(String),
}

/// Runs the gateway with a configuration file, which is followed, until SIGTERM or SIGINT.
pub fn run(path: &Path) -> Result<(), StartError> {
    let config = config::load(path)?;
    start(config, Some(path), |_| Ok(()))
}

/// The gateway with everything bound and nothing running yet.
struct Sockets {
    admin: Option<tokio::net::TcpListener>,
    registrations: Option<tokio::net::TcpListener>,
    /// By worker.
    workers: Vec<Vec<Listening>>,
}

/// What somebody who joins the gateway at its start may know.
pub(crate) struct Started {
    pub admin: Option<SocketAddr>,
    pub listeners: Vec<SocketAddr>,
}

fn start(
    config: Config,
    follow: Option<&Path>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let outcome = runtime.block_on(gateway(Arc::new(config), follow, join));
    // Whoever asked twice to stop does not wait for connections that are still open.
    runtime.shutdown_timeout(LAST_MOMENT);
    outcome
}

async fn gateway(
    config: Arc<Config>,
    follow: Option<&Path>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
) -> Result<(), StartError> {
    // Before anything that takes time: each of these would end the process. Where no file is followed SIGHUP keeps its
    // meaning: the terminal is gone.
    ignore_signals().map_err(StartError::Threads)?;
    let hangup = follow.map(|_| signal(SignalKind::hangup())).transpose().map_err(StartError::Threads)?;
    descriptors::provide(&config);
    // Then sockets: a port in use is told before anything else happens.
    let metrics = Arc::new(ProcessMetrics::new(config.workers));
    let sockets = bind(&config, &metrics).await?;
    let own = own_addresses(&sockets);
    let mut signals = Signals::new().map_err(StartError::Threads)?;

    // The control plane.
    let (memory, warnings) = Memory::open_beside(config.state.join(REGISTRY), own.clone());
    for warning in warnings {
        tracing::warn!(%warning, "Embedded registry not as it was left");
    }
    let (remember, enough) = oneshot::channel::<()>();
    let remembering = tokio::spawn({
        let memory = memory.clone();
        async move { memory.run(async { enough.await.unwrap_or_default() }).await }
    });
    let plugins = Plugins::start(&config, Arc::new(Lent::new(memory.clone())))?;
    check_settings(&plugins, &config, &[Cause::Settings]).await.map_err(StartError::Settings)?;
    plugins.set_uses(uses(&config, None)).await;
    let (catalog, control) = Catalog::start(parts(&config, &plugins, own), config.clone());
    let readiness = Readiness::default();
    let admin = Arc::new(admin::Parts {
        catalog: catalog.clone(),
        plugins: plugins.clone(),
        memory: memory.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    });
    let started = announce(&sockets);
    serve_admin(&config, sockets.admin, sockets.registrations, admin)?;

    // The data plane, once every upstream has its first list or had its chance.
    control.apply(config.clone()).await;
    plugins.set_uses(uses(&config, Some(&catalog))).await;
    let (closer, shutdown) = server::shutdown();
    let workers = start_workers(sockets.workers, &catalog, &metrics, shutdown)?;
    readiness.ready();
    say("ready");
    join(started)?;

    // Until it is time to stop.
    let reload = Reload {
        path: follow,
        running: config.clone(),
        control: &control,
        plugins: &plugins,
        catalog,
        metrics,
        unreadable: Lasting::default(),
    };
    let config = reload.until(signals.stop(), hangup).await;

    // Readiness goes first, so that balancers in front have the delay to notice.
    readiness.draining();
    drain(config.shutdown, &mut signals, &closer, workers).await;
    control.close().await;
    drop(remember);
    // A panic there has been reported where it happened.
    let _ = remembering.await;
    tracing::info!("Stopped");
    Ok(())
}

fn start_workers(
    sockets: Vec<Vec<Listening>>,
    catalog: &Catalog,
    metrics: &Arc<ProcessMetrics>,
    shutdown: server::Shutdown,
) -> Result<Workers, StartError> {
    let (catalog, metrics) = (catalog.clone(), metrics.clone());
    let run = move |index, listenings| {
        let served = http::run_worker(index, listenings, catalog.clone(), metrics.clone(), shutdown.clone());
        async move {
            if let Err(error) = served.await {
                tracing::error!(worker = index, %error, "Worker ended");
            }
        }
    };
    Workers::start(sockets, run).map_err(StartError::Threads)
}

/// Waits the delay, closes the listeners, and waits until the workers have ended or somebody asks again.
async fn drain(shutdown: config::Shutdown, signals: &mut Signals, closer: &server::Closer, workers: Workers) {
    let config::Shutdown { delay, drain } = shutdown;
    tracing::info!(?delay, ?drain, "Shutting down");
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = signals.stop() => {}
    }
    closer.close(drain);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    tokio::select! {
        _ = ended => {}
        () = signals.stop() => tracing::warn!("Asked again, not waiting for open connections"),
    }
}

async fn bind(config: &Config, metrics: &ProcessMetrics) -> Result<Sockets, StartError> {
    let mut workers: Vec<Vec<Listening>> = (0..config.workers).map(|_| Vec::new()).collect();
    for listener in &config.listeners {
        let listenings = server::bind(Arc::new(listener.clone()), config.workers, metrics)?;
        for (worker, listening) in workers.iter_mut().zip(listenings) {
            worker.push(listening);
        }
    }
    Ok(Sockets {
        admin: bind_admin(config.admin.address).await?,
        registrations: bind_admin(config.admin.registrations.as_ref().map(|own| own.address)).await?,
        workers,
    })
}

async fn bind_admin(address: Option<SocketAddr>) -> Result<Option<tokio::net::TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(StartError::Admin { address, error }),
    }
}

/// Asks every plugin about the settings it is to be used with. What is wrong and one of `fatal` is the error, the
/// rest is logged: a gateway that can serve does.
async fn check_settings(plugins: &Plugins, config: &Config, fatal: &[Cause]) -> Result<(), String> {
    let problems = plugins.check(uses(config, None)).await;
    let (fatal, bearable): (Vec<_>, Vec<_>) =
        problems.into_iter().partition(|problem| fatal.contains(&problem.cause));
    for Problem { used_by, text, .. } in bearable {
        tracing::error!(%used_by, error = %text, "Plugin not ready, going on without it");
    }
    let line = |problem: &Problem| format!("  {}: {}", shown(&problem.used_by), shown(&problem.text));
    match fatal.is_empty() {
        true => Ok(()),
        false => Err(fatal.iter().map(line).collect::<Vec<_>>().join("\n")),
    }
}

fn parts(config: &Config, plugins: &Plugins, own: OwnAddresses) -> catalog::Parts {
    let (selectors, registries) = (plugins.clone(), plugins.clone());
    catalog::Parts {
        selector: Box::new(move |name| selectors.selector(name)),
        registry: Box::new(move |registry| registries.registry(registry)),
        checks: Box::new(check::start),
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
    admin: Option<tokio::net::TcpListener>,
    registrations: Option<tokio::net::TcpListener>,
    parts: Arc<admin::Parts>,
) -> Result<(), StartError> {
    let registrations = registrations.zip(config.admin.registrations.as_ref());
    let listeners = [
        admin.map(|listener| (listener, admin::Scope::Everything, &config.admin.access)),
        registrations.map(|(listener, own)| (listener, admin::Scope::Registrations, &own.access)),
    ];
    let listening = |(listener, scope, access): (tokio::net::TcpListener, _, &config::Access)| {
        Ok(admin::Listening { listener: listener.into_std()?, scope, access: access.clone() })
    };
    let listenings: io::Result<Vec<_>> = listeners.into_iter().flatten().map(listening).collect();
    listenings.and_then(|listenings| admin::start(listenings, parts)).map_err(StartError::Threads)
}

/// What no registry may name: every address where this process takes connections.
fn own_addresses(sockets: &Sockets) -> OwnAddresses {
    let admins = [&sockets.admin, &sockets.registrations].into_iter().flatten();
    let admins = admins.filter_map(|listener| listener.local_addr().ok());
    let clients = sockets.workers.iter().flatten().map(|listening| listening.address);
    OwnAddresses::new(admins.chain(clients))
}

/// Says on standard output where the gateway listens; port 0 has become a real one by now.
fn announce(sockets: &Sockets) -> Started {
    let address = |listener: &tokio::net::TcpListener| listener.local_addr().ok();
    let admin = sockets.admin.as_ref().and_then(address);
    if let Some(address) = admin {
        say(&format!("listening admin {address}"));
    }
    if let Some(address) = sockets.registrations.as_ref().and_then(address) {
        say(&format!("listening registrations {address}"));
    }
    let listeners: Vec<SocketAddr> =
        sockets.workers.first().into_iter().flatten().map(|listening| listening.address).collect();
    for address in &listeners {
        say(&format!("listening http {address}"));
    }
    Started { admin, listeners }
}

/// SIGUSR1 and SIGUSR2 do nothing. Scripts of other servers send them, and their default is to end the process.
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
