//! The gateway at work: the control plane starts, then the data plane, and both end.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    Followed, PluginsError, StartError, check_settings, leave,
    listeners::Listeners,
    ready,
    reload::{self, Next, Reload},
    remembering::Remembering,
    say,
    signals::{self, Signals},
    sockets::{self, Sockets, Started},
    systemd,
    upgrade::{self, Predecessor, Succession, SuccessionError, Upgraded},
    uses::uses,
};
use crate::{
    admin,
    backoff::Lasting,
    catalog::{self, Catalog, Control},
    check,
    config::{self, Config},
    connector::Lent,
    plugin::{Cause, Plugins},
    registry::{Intake, OwnAddresses, Resolver},
    server::{Lineup, Workers},
    telemetry::{ProcessMetrics, Readiness},
    tls,
    upstream::Disk,
    worker::{self, Serving},
};

/// What is there before anything runs.
pub(super) struct Beginning {
    pub config: Arc<Config>,
    pub sockets: Sockets,
    pub metrics: Arc<ProcessMetrics>,
    /// The process that serves now, and the upstreams that it has endpoints of.
    pub succession: Option<(Succession, Vec<String>)>,
}

/// Everything that is on the way of no request.
struct ControlPlane<'a> {
    config: Arc<Config>,
    plugins: Plugins,
    catalog: Catalog,
    control: Control,
    disk: Disk,
    remembering: &'a mut Remembering,
    metrics: Arc<ProcessMetrics>,
    readiness: Readiness,
    /// Of the admin API.
    door: admin::Door,
}

impl<'a> ControlPlane<'a> {
    /// One that `succeeds` writes no file and answers nobody until it has taken over.
    fn start(
        config: Arc<Config>,
        listeners: &Listeners,
        metrics: Arc<ProcessMetrics>,
        remembering: &'a mut Remembering,
        succeeds: bool,
    ) -> Result<Self, StartError> {
        let disk = disk(&config, &listeners.own);
        if succeeds {
            disk.give();
        }
        let plugins = Plugins::start(&config, Arc::new(Lent::new(remembering.memory.clone())))?;
        let parts = parts(&config, &plugins, listeners, disk.clone());
        let (catalog, control) = Catalog::start(parts, config.clone());
        let door = if succeeds { admin::Door::shut() } else { admin::Door::default() };
        let readiness = Readiness::default();
        Ok(Self { config, plugins, catalog, control, disk, remembering, metrics, readiness, door })
    }

    /// What the admin API shows and changes.
    fn shown(&self, files: Arc<tls::Files>) -> Arc<admin::Parts> {
        Arc::new(admin::Parts {
            catalog: self.catalog.clone(),
            plugins: self.plugins.clone(),
            memory: self.remembering.memory.clone(),
            files,
            metrics: self.metrics.clone(),
            readiness: self.readiness.clone(),
            door: self.door.clone(),
        })
    }

    /// Waits until every upstream has its first list, or had its chance.
    async fn prepare(&self) -> Result<(), PluginsError> {
        let Self { config, plugins, catalog, control, .. } = self;
        check_settings(plugins, config, None, &[Cause::Settings]).await?;
        plugins.set_uses(uses(config, None)).await;
        control.apply(config.clone()).await;
        plugins.set_uses(uses(config, Some(catalog))).await;
        Ok(())
    }

    /// Waits until it is as ready as the process before, which then hands over, and takes over. `taken` are the numbers
    /// of its sockets that are served here.
    async fn succeed(
        &mut self,
        (succession, upstreams): (Succession, Vec<String>),
        taken: Vec<usize>,
        accept: impl FnOnce(),
        signals: &mut Signals,
    ) -> Result<Succeeded, StartError> {
        let settled = async {
            let prepared = async {
                ready::settle(&self.config, &self.plugins, &self.catalog).await;
                ready::have_endpoints(&self.catalog, &upstreams).await;
            };
            succession.unless_gone(prepared).await?;
            succession.ready(taken).await
        };
        let Some(registry) = signals.unless_stopped(settled).await else { return Ok(Succeeded::Stopped) };
        let registered = self.remembering.memory.take_over(&registry?);
        for warning in registered.map_err(SuccessionError::Registry)? {
            tracing::warn!(%warning, "Embedded registry not as it was left");
        }
        self.remembering.start();
        self.disk.take_back();
        accept();
        // Said first: until then the other one may take back everything, and what were registered here be lost.
        match succession.serving().await {
            Ok(()) => tracing::info!("Took over from the process before"),
            // All that it had is here.
            Err(error) => tracing::warn!(%error, "Took over from a process that has not heard of it"),
        }
        self.readiness.ready();
        self.door.open();
        say("ready");
        Ok(Succeeded::Yes)
    }
}

/// What came of taking over.
enum Succeeded {
    Yes,
    /// Told to stop before.
    Stopped,
}

/// Serves until it is told to stop, or a new process serves.
pub(super) async fn serve(
    beginning: Beginning,
    remembering: &mut Remembering,
    follow: Option<Followed<'_>>,
    join: impl FnOnce(Started) -> Result<(), StartError>,
    signals: &mut Signals,
) -> Result<(), StartError> {
    let Beginning { config, sockets, metrics, succession } = beginning;
    // The control plane. The admin API first: whoever asks how the start goes is answered while it does, by the process
    // before if there is one.
    let started = sockets::announce(&sockets);
    let Sockets { admin, registrations, clients: mut listeners, copies, taken } = sockets;
    let succeeds = succession.is_some();
    let mut plane = ControlPlane::start(config.clone(), &listeners, metrics, remembering, succeeds)?;
    sockets::serve_admin(&config, admin, registrations, plane.shown(listeners.files.clone()))?;
    match signals.unless_stopped(plane.prepare()).await {
        Some(prepared) => prepared?,
        None => {
            plane.control.close().await;
            return Ok(());
        }
    }

    // The data plane. Where another process serves, nobody is served here yet.
    let first = if succeeds { Vec::new() } else { listeners.running().to_vec() };
    let lineup = Lineup { ending: config.shutdown, ..Lineup::of(first) };
    let (serving, followed) = watch::channel(Serving { table: plane.catalog.table(), lineup });
    let workers = start_workers(config.workers, &plane.catalog, &plane.metrics, &followed)?;
    join(started)?;
    let becoming_ready = match succession {
        None => {
            let (plugins, catalog) = (plane.plugins.clone(), plane.catalog.clone());
            Some(tokio::spawn(ready::become_ready(config, plugins, catalog, plane.readiness.clone())))
        }
        Some(succession) => {
            let all = listeners.running().to_vec();
            let accept = || serving.send_modify(|serving| serving.lineup.listeners = all);
            match plane.succeed(succession, taken, accept, signals).await? {
                Succeeded::Yes => None,
                Succeeded::Stopped => return Ok(()),
            }
        }
    };

    let reopening = tokio::spawn(signals::reopen_logs(Arc::downgrade(&listeners.access_logs)));
    let watchdog = tokio::spawn(systemd::watchdog(plane.metrics.clone(), plane.readiness.clone()));
    let left = live(&mut plane, follow, &mut listeners, &copies, &serving, signals).await;
    if let Some(becoming_ready) = becoming_ready {
        becoming_ready.abort();
    }
    reopening.abort();
    drop(copies);

    // Readiness goes first, so that balancers in front have the delay to notice.
    plane.readiness.draining();
    match left {
        Left::ToSuccessor => {
            watchdog.abort();
            leave::to_successor(signals, serving, workers).await;
        }
        Left::Stopped(shutdown) => {
            systemd::stopping(shutdown);
            leave::drain(shutdown, signals, serving, workers).await;
        }
    }
    listeners.exporters.close().await;
    plane.control.close().await;
    Ok(())
}

/// Why a process serves no more.
enum Left {
    /// Told to, and what the configuration says about it.
    Stopped(config::Shutdown),
    /// A new process serves.
    ToSuccessor,
}

/// Follows the configuration file until it is time to leave.
async fn live(
    plane: &mut ControlPlane<'_>,
    follow: Option<Followed<'_>>,
    listeners: &mut Listeners,
    admins: &upgrade::Admins,
    serving: &watch::Sender<Serving>,
    signals: &mut Signals,
) -> Left {
    let (path, mut asks) = match follow {
        Some(Followed { path, program, hangup, upgrade }) => {
            (Some(path), Some(reload::Asks { program, hangup, upgrade }))
        }
        None => (None, None),
    };
    let ControlPlane { config, plugins, catalog, control, disk, remembering, metrics, readiness, door } =
        plane;
    let mut reload = Reload {
        path,
        running: config.clone(),
        control,
        plugins,
        catalog: catalog.clone(),
        listeners,
        serving,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        lacking: None,
        unreadable: Lasting::default(),
    };
    let given = upgrade::Given { remembering, admins, disk, door };
    match until_left(&mut reload, asks.as_mut(), given, signals).await {
        true => Left::ToSuccessor,
        false => Left::Stopped(reload.running.shutdown),
    }
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

/// Where the last good lists are.
fn disk(config: &Config, own: &OwnAddresses) -> Disk {
    let own = own.clone();
    Disk::refusing(&config.state, move |address| own.contains(address))
}

fn parts(config: &Config, plugins: &Plugins, listeners: &Listeners, disk: Disk) -> catalog::Parts {
    let (selectors, registries) = (plugins.clone(), plugins.clone());
    catalog::Parts {
        selector: Box::new(move |name| selectors.selector(name)),
        registry: Box::new(move |registry| registries.registry(registry)),
        checks: Box::new(check::start),
        tls: listeners.files.clone(),
        disk,
        intake: Intake { resolver: Resolver::new(), own: listeners.own.clone() },
        workers: config.workers,
    }
}
