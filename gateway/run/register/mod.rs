//! `witgate register`: announces a service beside its command, or until it is stopped.

mod command;
mod embedded;
mod port;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use self::{
    command::{Command, Event},
    embedded::Embedded,
};
use super::{
    Gateway, LAST_MOMENT, OperateError, PluginsError, StartError, blocking, checked::is_own, operate,
};
use crate::{
    admin::client::Client,
    config,
    connector::{Lent, Memory},
    plugin::{Announcement, Plugins, RegistryUse, Uses},
    registry::{Failure, HostPort, Registration, Standing},
    telemetry::text::shown,
};

/// What is announced, where, and beside what.
#[derive(Debug, Clone)]
pub struct Register {
    pub service: String,
    pub address: HostPort,
    /// 0: no new requests.
    pub weight: u32,
    pub labels: Vec<(String, String)>,
    pub registry: Where,
    /// How long the service may take until it takes connections.
    pub wait: Duration,
    /// Between the withdrawal and the signal that stops the command: what those who send requests have to hear of it.
    pub stop_delay: Duration,
    /// With its arguments. Empty: until this process is stopped.
    pub command: Vec<OsString>,
}

/// A registry in which something is announced.
#[derive(Debug, Clone)]
pub enum Where {
    /// The one inside a running gateway.
    Embedded(Gateway),
    /// One of a configuration file.
    Configured { config: PathBuf, name: String },
}

/// Why a service was not announced.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Gateway(#[from] OperateError),
    #[error("there is no registry {registry:?} in {file}, only {known}")]
    NoRegistry { registry: String, file: String, known: String },
    #[error(
        "the registry {registry:?} is inside a gateway: leave --registry out, and name that gateway by --admin"
    )]
    Inside { registry: String },
    #[error("cannot start the command {command:?}")]
    Command { command: OsString, source: io::Error },
    #[error("nothing takes connections at {address}, after {wait:?}")]
    NoAnswer { address: HostPort, wait: Duration, source: io::Error },
    #[error("{service:?} at {address} cannot be announced in {registry}: {}", shown(failure.text()))]
    Refused { service: String, address: HostPort, registry: Arc<str>, failure: Failure },
}

/// Announces until the command ends or a signal asks for the end, withdraws, and says the exit code.
///
/// A signal reaches the command when the announcement has been withdrawn. Whoever asks twice does not wait for that. A
/// registry that cannot be reached ends nothing: it hears of the service when it is back.
pub fn register(what: Register) -> Result<u8, RegisterError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("register")
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let outcome = runtime.block_on(what.run());
    runtime.shutdown_timeout(LAST_MOMENT);
    outcome
}

impl Register {
    async fn run(self) -> Result<u8, RegisterError> {
        let mut command = Command::none().map_err(StartError::Threads)?;
        // What is wrong there is told before the command runs.
        let announcer = tokio::select! {
            ready = self.prepare() => ready?,
            _ = command.next() => return Err(StartError::Stopped.into()),
        };
        if let [program, arguments @ ..] = &self.command[..] {
            let started = command.start(program, arguments);
            started.map_err(|source| RegisterError::Command { command: program.clone(), source })?;
        }
        let address = self.address.to_string();
        let answered = tokio::select! {
            answered = port::answers(&address, self.wait) => answered,
            event = command.next() => return Ok(match event {
                Event::Ended(code) => code,
                Event::Stop(signal) => command.stop(signal).await,
            }),
        };
        if let Err(source) = answered {
            command.end().await;
            return Err(RegisterError::NoAnswer { address: self.address, wait: self.wait, source });
        }
        let (registry, registration) = announcer.announce(self.announcement());
        match self.until_end(&mut command, &registry, &registration).await {
            Ok(event) => Ok(self.leave(command, registration, event).await),
            Err(failure) => {
                command.end().await;
                let Self { service, address, .. } = self;
                Err(RegisterError::Refused { service, address, registry, failure })
            }
        }
    }

    async fn prepare(&self) -> Result<Announcer, RegisterError> {
        match &self.registry {
            Where::Embedded(gateway) => {
                let registry = format!("the gateway at {}", gateway.admin).into();
                Ok(Announcer::Embedded(registry, operate::client(gateway.clone())?))
            }
            Where::Configured { config, name } => configured(config, name).await,
        }
    }

    fn announcement(&self) -> Announcement {
        Announcement {
            service: self.service.clone(),
            address: self.address.to_string(),
            weight: self.weight,
            labels: self.labels.clone(),
        }
    }

    /// Waits until the announcement is to end. Fails if it is one that the registry never takes.
    async fn until_end(
        &self,
        command: &mut Command,
        registry: &str,
        registration: &Registration,
    ) -> Result<Event, Failure> {
        let (mut standing, mut announced) = (registration.standing(), false);
        loop {
            match &*standing.borrow_and_update() {
                Standing::Announced if !announced => {
                    announced = true;
                    tracing::info!(service = self.service, address = %self.address, registry, "Announced");
                }
                Standing::Failing(failure @ Failure::Invalid(_)) if !announced => {
                    return Err(failure.clone());
                }
                _ => {}
            }
            tokio::select! {
                event = command.next() => return Ok(event),
                Ok(()) = standing.changed() => {}
            }
        }
    }

    /// Withdraws, and only then stops the command if that is what is asked for.
    async fn leave(&self, mut command: Command, registration: Registration, event: Event) -> u8 {
        let service = self.service.clone();
        let mut withdrawal = tokio::spawn(async move {
            if registration.withdraw().await {
                tracing::info!(service, "Withdrawn");
            }
        });
        let asked = matches!(event, Event::Stop(_));
        let mut hurried = false;
        let code = match event {
            Event::Ended(code) => code,
            Event::Stop(signal) => {
                let is_running = command.is_running();
                let unhurried = async {
                    let _ = (&mut withdrawal).await;
                    if is_running {
                        sleep(self.stop_delay).await;
                    }
                };
                let meanwhile = tokio::select! {
                    () = unhurried => None,
                    event = command.next() => Some(event),
                };
                match meanwhile {
                    None => command.stop(signal).await,
                    Some(Event::Stop(again)) => {
                        hurried = !is_running;
                        command.stop(again).await
                    }
                    Some(Event::Ended(code)) => code,
                }
            }
        };
        // What runs for somebody who does not wait any more ends with the runtime.
        if !hurried && !withdrawal.is_finished() {
            tokio::select! {
                _ = &mut withdrawal => {}
                () = async {
                    // Whoever stops both may have ended the command before the signal is looked at here.
                    if !asked {
                        command.stopped().await;
                    }
                    command.stopped().await;
                } => {}
            }
        }
        code
    }
}

/// What announces in a registry. Plugins are followed for as long as it lives.
enum Announcer {
    Embedded(Arc<str>, Client),
    Plugin(Arc<config::Registry>, Plugins),
}

impl Announcer {
    /// Begins, and says where that is.
    fn announce(&self, announcement: Announcement) -> (Arc<str>, Registration) {
        match self {
            Self::Embedded(registry, client) => {
                let embedded = Embedded::new(client.clone(), &announcement);
                let registration = Registration::start(registry.clone(), announcement.service, embedded);
                (registry.clone(), registration)
            }
            Self::Plugin(registry, plugins) => {
                (registry.name.clone(), plugins.announce(registry, announcement))
            }
        }
    }
}

/// A registry of a configuration file, with a plugin that takes its settings.
async fn configured(file: &Path, name: &str) -> Result<Announcer, RegisterError> {
    let path = file.to_owned();
    let loaded =
        blocking(move || config::load_registries(&path).map(|config| (is_own(&config.state), config)));
    let (keep_code, config) = loaded.await.map_err(StartError::from)?;
    let Some(registry) = config.registries.get(name).cloned() else {
        let known: Vec<_> = config.registries.keys().map(|name| format!("{name:?}")).collect();
        let (registry, file) = (name.to_owned(), file.display().to_string());
        return Err(RegisterError::NoRegistry { registry, file, known: known.join(", ") });
    };
    if registry.grants.memory.is_some() {
        return Err(RegisterError::Inside { registry: name.to_owned() });
    }
    let lent = Arc::new(Lent::new(Memory::unkept()));
    let plugins = Plugins::start_with(&config, lent, keep_code).map_err(StartError::from)?;
    let one = RegistryUse { registry: registry.name.clone(), settings: registry.settings.clone() };
    let registries = [(registry.plugin.clone(), vec![one])].into();
    let uses = Uses { registries, ..Uses::default() };
    plugins.settled(uses.clone()).await;
    let problems = plugins.check(uses.clone()).await;
    if !problems.is_empty() {
        return Err(StartError::from(PluginsError::new(&problems)).into());
    }
    plugins.set_uses(uses).await;
    Ok(Announcer::Plugin(registry, plugins))
}
