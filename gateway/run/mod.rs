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
mod serve;
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

use tokio::signal::unix::{Signal, SignalKind, signal};

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
    remembering::Remembering,
    serve::Beginning,
    signals::Signals,
    sockets::Started,
    upgrade::{Program, Succession},
    uses::uses,
};
use crate::{
    config::{self, Config},
    connector::Memory,
    plugin::{Cause, EngineError, Plugins, Problem},
    server::BindError,
    telemetry::{ProcessMetrics, text::shown},
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
    /// With the table that names the address.
    #[error("[{table}]: {error}")]
    Admin { table: &'static str, error: BindError },
    #[error("[{table}]: no TLS at {address}: {reason}")]
    Tls { table: &'static str, address: SocketAddr, reason: String },
    #[error("cannot start the threads of the gateway (TasksMax= in its unit and ulimit -u limit them)")]
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
    let beginning = Beginning { config, sockets, metrics, succession };
    let outcome = serve::serve(beginning, &mut remembering, follow, join, signals).await;
    remembering.stop().await;
    tracing::info!("Stopped");
    outcome
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

/// Says something on standard output, which scripts read: where the gateway listens, and when it is ready.
fn say(line: &str) {
    // Whoever closed standard output does not want to hear of it.
    let _ = writeln!(io::stdout(), "{line}");
}
