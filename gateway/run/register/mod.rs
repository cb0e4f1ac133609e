//! `witgate register`: announces a service beside its command, or until it is stopped.

mod command;
mod port;

use std::{ffi::OsString, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::sleep;

use self::command::{Command, Event};
use super::{LAST_MOMENT, PluginsError, StartError, blocking, checked::is_own};
use crate::{
    config,
    connector::{Lent, Memory},
    plugin::{Announcement, Plugins, Registration, RegistryUse, Standing, Uses},
    registry::{Failure, HostPort},
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
    pub config: PathBuf,
    /// One of `config`.
    pub registry: String,
    /// How long the service may take until it takes connections.
    pub wait: Duration,
    /// Between the withdrawal and the signal that stops the command: what those who send requests have to hear of it.
    pub stop_delay: Duration,
    /// With its arguments. Empty: until this process is stopped.
    pub command: Vec<OsString>,
}

/// Why a service was not announced.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("there is no registry {registry:?} in {file}, only {known}")]
    NoRegistry { registry: String, file: String, known: String },
    #[error("cannot start the command {command:?}")]
    Command { command: OsString, source: io::Error },
    #[error("nothing takes connections at {address}, after {wait:?}")]
    NoAnswer { address: HostPort, wait: Duration, source: io::Error },
    #[error("{service:?} at {address} cannot be announced in the registry {registry:?}: {}", shown(failure.text()))]
    Refused { service: String, address: HostPort, registry: String, failure: Failure },
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
        let (plugins, registry) = tokio::select! {
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
        let registration = plugins.announce(&registry, self.announcement());
        match self.until_end(&mut command, &registration).await {
            Ok(event) => Ok(self.leave(command, registration, event).await),
            Err(failure) => {
                command.end().await;
                let Self { service, address, registry, .. } = self;
                Err(RegisterError::Refused { service, address, registry, failure })
            }
        }
    }

    /// The registry, with a plugin that takes its settings.
    async fn prepare(&self) -> Result<(Plugins, Arc<config::Registry>), RegisterError> {
        let path = self.config.clone();
        let loaded =
            blocking(move || config::load_registries(&path).map(|config| (is_own(&config.state), config)));
        let (keep_code, config) = loaded.await.map_err(StartError::from)?;
        let Some(registry) = config.registries.get(&self.registry).cloned() else {
            let known: Vec<_> = config.registries.keys().map(|name| format!("{name:?}")).collect();
            let (registry, file) = (self.registry.clone(), self.config.display().to_string());
            return Err(RegisterError::NoRegistry { registry, file, known: known.join(", ") });
        };
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
        Ok((plugins, registry))
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
    async fn until_end(&self, command: &mut Command, registration: &Registration) -> Result<Event, Failure> {
        let (mut standing, mut announced) = (registration.standing(), false);
        loop {
            match &*standing.borrow_and_update() {
                Standing::Announced if !announced => {
                    announced = true;
                    let (service, registry) = (&self.service, &self.registry);
                    tracing::info!(service, address = %self.address, registry, "Announced");
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
            registration.withdraw().await;
            tracing::info!(service, "Withdrawn");
        });
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
                    Some(Event::Stop(again)) => command.stop(again).await,
                    Some(Event::Ended(code)) => code,
                }
            }
        };
        if !withdrawal.is_finished() {
            let _ = withdrawal.await;
        }
        code
    }
}
