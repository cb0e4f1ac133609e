//! The only wiring: how everything is put together, once, from top to bottom.

mod checked;
mod demo;
mod describe;
mod descriptors;
mod doctor;
mod init;
mod leave;
mod listeners;
mod operate;
mod ready;
mod register;
mod reload;
mod remembering;
mod signals;
mod sockets;
mod systemd;
mod top;
mod upgrade;
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
    sync::watch,
};

pub use self::{
    checked::check,
    demo::demo,
    doctor::{Examination, doctor},
    init::{Init, InitError, KINDS as REGISTRIES, Kind as RegistryKind, init, write as write_configuration},
    listeners::ListenError,
    operate::{Gateway, OperateError, Operation, operate},
    register::{Register, RegisterError, Where, register},
    top::{TopError, top},
    upgrade::SuccessionError,
};
use self::{
    listeners::Listeners,
    reload::{Next, Reload},
    remembering::Remembering,
    signals::Signals,
    sockets::{Sockets, Started},
    upgrade::{Predecessor, Program, Succession, Upgraded},
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
    server::{Lineup, Workers},
    telemetry::{ProcessMetrics, Readiness, text::shown},
    tls,
    upstream::Disk,
    worker::{self, Serving},
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
    #[error(transparent)]
    Config(#[from] config::Problems),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot listen on {address}, the `address` of [admin]: {error}")]
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
        signals::ignore().map_err(StartError::Threads)?;
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
    let sockets = sockets::bind(&config, &metrics, &mut estate).await?;
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
    let started = sockets::announce(&sockets);
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
    sockets::serve_admin(&config, admin, registrations, admin_parts)?;

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
    let becoming_ready = match succession {
        None => Some(tokio::spawn(ready::become_ready(
            config.clone(),
            plugins.clone(),
            catalog.clone(),
            readiness.clone(),
        ))),
        Some((succession, upstreams)) => {
            let settled = async {
                let prepared = async {
                    ready::settle(&config, &plugins, &catalog).await;
                    ready::have_endpoints(&catalog, &upstreams).await;
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
            // Said first: until then the other one may take back everything, and what were registered here be lost.
            match succession.serving().await {
                Ok(()) => tracing::info!("Took over from the process before"),
                // All that it had is here.
                Err(error) => tracing::warn!(%error, "Took over from a process that has not heard of it"),
            }
            readiness.ready();
            door.open();
            say("ready");
            None
        }
    };

    let reopening = tokio::spawn(signals::reopen_logs(Arc::downgrade(&listeners.access_logs)));
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
    let given = upgrade::Given { remembering, admins: &copies, disk: &disk, door: &door };
    let handed_over = until_left(&mut reload, asks.as_mut(), given, signals).await;
    let config = reload.running;
    if let Some(becoming_ready) = becoming_ready {
        becoming_ready.abort();
    }
    reopening.abort();
    drop(copies);

    // Readiness goes first, so that balancers in front have the delay to notice.
    readiness.draining();
    match handed_over {
        true => {
            watchdog.abort();
            leave::to_successor(signals, serving, workers).await;
        }
        false => {
            systemd::stopping(config.shutdown);
            leave::drain(config.shutdown, signals, serving, workers).await;
        }
    }
    listeners.exporters.close().await;
    control.close().await;
    Ok(())
}

/// Follows the configuration file until it is time to stop, or, which it says, until a new process serves.
async fn until_left(
    reload: &mut Reload<'_>,
    asks: Option<&mut reload::Asks>,
    mut given: upgrade::Given<'_>,
    signals: &mut Signals,
) -> bool {
    let Some(asks) = asks else {
        signals.stop().await;
        return false;
    };
    loop {
        match reload.follow(signals.stop(), asks).await {
            Next::Stop => return false,
            Next::Upgrade => {}
        }
        let was_ready = reload.readiness.is_ready();
        if was_ready {
            systemd::reloading();
        }
        let predecessor = Predecessor {
            program: &asks.program,
            limit: reload.running.upgrade_timeout,
            listeners: reload.listeners,
            catalog: &reload.catalog,
            given: &mut given,
        };
        match predecessor.hand_over(signals).await {
            Upgraded::Yes(pid) => {
                tracing::info!(pid, "A new process serves, clients of this one may finish");
                systemd::handed_over(pid);
                let config::Config { shutdown, workers, .. } = *reload.running;
                leave::hand_over(shutdown, reload.serving, workers).await;
                say(&format!("upgraded {pid}"));
                return true;
            }
            Upgraded::No(error) => {
                tracing::error!(%error, "No new process took over, serving on");
                if was_ready {
                    systemd::reloaded(&format!("No new process took over, serving on: {error}"));
                }
            }
            Upgraded::Stopped => return false,
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

/// Says something on standard output, which scripts read: where the gateway listens, and when it is ready.
fn say(line: &str) {
    // Whoever closed standard output does not want to hear of it.
    let _ = writeln!(io::stdout(), "{line}");
}
