//! Which listeners run. What another configuration needs is bound before anything of it takes effect.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    config::{self, Config, ListenerProtocol},
    otlp::Exporters,
    registry::OwnAddresses,
    server::{self, Inherited, Listener},
    telemetry::{
        ProcessMetrics,
        access::{AccessLog, AccessLogs},
    },
    tls,
};

/// Why a listener cannot be what the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listener {listener:?}: {error}")]
    Bind { listener: Arc<str>, error: server::BindError },
    #[error("listener {listener:?}: no TLS at {address}: {error}")]
    Tls { listener: Arc<str>, address: SocketAddr, error: String },
    #[error("listener {listener:?}: cannot write its access log, {output}: {error}")]
    AccessLog { listener: Arc<str>, output: String, error: io::Error },
}

/// Those that run.
pub(super) struct Listeners {
    /// Dropped first: it waits for the last lines, and the listeners write them.
    pub access_logs: Arc<AccessLogs>,
    /// Where traces go.
    pub exporters: Exporters,
    running: Vec<Listener>,
    /// Those of the process before, until this one has its own.
    inherited: Vec<Inherited>,
    pub files: Arc<tls::Files>,
    metrics: Arc<ProcessMetrics>,
    /// Where the gateway listens, these and the admin API.
    pub own: OwnAddresses,
    admins: Vec<SocketAddr>,
}

impl Listeners {
    /// None yet. `admins` is where the admin API answers.
    pub(super) fn new(files: Arc<tls::Files>, metrics: Arc<ProcessMetrics>, admins: Vec<SocketAddr>) -> Self {
        let (access_logs, exporters) = (Arc::default(), Exporters::new(files.clone()));
        Self {
            running: Vec::new(),
            inherited: Vec::new(),
            files,
            metrics,
            access_logs,
            exporters,
            own: OwnAddresses::new(admins.clone()),
            admins,
        }
    }

    /// What a configuration makes of those that run. An address that it still has keeps its sockets, whatever else
    /// changes; one that is new is bound. Nothing is served differently before [`Self::replace`], and dropping what
    /// this returns gives it up.
    pub(super) fn prepare(&self, config: &Config) -> Result<Vec<Listener>, ListenError> {
        let running = self.running.iter().map(Known::Running);
        let mut left: Vec<Known<'_>> = running.chain(self.inherited.iter().map(Known::Inherited)).collect();
        let ours: Vec<SocketAddr> = left.iter().map(Known::address).collect();
        // Port 0 may be there several times, and then the name says which is which.
        let mut take =
            |is: &dyn Fn(&Known<'_>) -> bool| left.iter().position(is).map(|place| left.remove(place));
        let wanted = &config.listeners;
        let mut known: Vec<Option<Known<'_>>> =
            wanted.iter().map(|new| take(&|old| old.wanted() == (new.address, &new.name))).collect();
        for (known, new) in known.iter_mut().zip(wanted).filter(|(known, _)| known.is_none()) {
            *known = take(&|old| old.wanted().0 == new.address);
        }
        let tracer = config.tracing.as_ref().map(|tracing| self.exporters.open(tracing));
        let prepared = wanted.iter().zip(known).map(|(settings, known)| match known {
            Some(Known::Running(known)) if *known.settings == *settings => Ok(known.clone()),
            Some(Known::Running(known)) => {
                let before = &known.settings;
                let tls = match (&before.tls, before.protocol) == (&settings.tls, settings.protocol) {
                    true => known.tls.clone(),
                    false => self.open_tls(settings)?,
                };
                let log = match before.access_log == settings.access_log {
                    true => known.access_log.clone(),
                    false => self.open_log(settings, config.workers)?,
                };
                Ok(known.with(Arc::new(settings.clone()), tls, &self.metrics).logged(log))
            }
            Some(Known::Inherited(inherited)) => {
                self.made(settings, config.workers, |settings, tls, workers, metrics| {
                    Listener::inherit(settings, tls, workers, metrics, inherited)
                })
            }
            None => self.made(settings, config.workers, |settings, tls, workers, metrics| {
                match self.inherited.is_empty() {
                    true => Listener::bind(settings, tls, workers, metrics, &ours),
                    false => Listener::bind_quietly(settings, tls, workers, metrics, &ours),
                }
            }),
        });
        prepared.map(|listener| listener.map(|listener| listener.traced(tracer.clone()))).collect()
    }

    /// The first that run: on sockets of the process before, as far as the configuration has their addresses.
    pub(super) fn begin(&mut self, config: &Config, inherited: Vec<Inherited>) -> Result<(), ListenError> {
        self.inherited = inherited;
        let listeners = self.prepare(config)?;
        self.inherited.clear();
        self.replace(listeners);
        Ok(())
    }

    /// Those that run from now on. Returns those that are new and those that are gone.
    pub(super) fn replace(&mut self, listeners: Vec<Listener>) -> (Vec<Listener>, Vec<Listener>) {
        let before = std::mem::replace(&mut self.running, listeners);
        self.own.set(self.admins.iter().copied().chain(self.running.iter().map(Listener::address)));
        let lacking = |all: &[Listener], other: &[Listener]| {
            all.iter().filter(|one| !other.iter().any(|other| other.is(one))).cloned().collect()
        };
        (lacking(&self.running, &before), lacking(&before, &self.running))
    }

    pub(super) fn running(&self) -> &[Listener] {
        &self.running
    }

    /// A listener that is new in this process.
    fn made(
        &self,
        settings: &config::Listener,
        workers: usize,
        make: impl FnOnce(
            Arc<config::Listener>,
            Option<Arc<tls::Server>>,
            usize,
            &ProcessMetrics,
        ) -> Result<Listener, server::BindError>,
    ) -> Result<Listener, ListenError> {
        let (tls, log) = (self.open_tls(settings)?, self.open_log(settings, workers)?);
        make(Arc::new(settings.clone()), tls, workers, &self.metrics)
            .map(|listener| listener.logged(log))
            .map_err(|error| ListenError::Bind { listener: settings.name.clone(), error })
    }

    fn open_log(
        &self,
        settings: &config::Listener,
        workers: usize,
    ) -> Result<Option<Arc<AccessLog>>, ListenError> {
        let Some(log) = &settings.access_log else { return Ok(None) };
        self.access_logs.open(log, workers).map(Some).map_err(|error| ListenError::AccessLog {
            listener: settings.name.clone(),
            output: log.destination.to_string(),
            error,
        })
    }

    fn open_tls(&self, settings: &config::Listener) -> Result<Option<Arc<tls::Server>>, ListenError> {
        let protocol = match settings.protocol {
            ListenerProtocol::Http => tls::Protocol::Either,
            ListenerProtocol::Tcp | ListenerProtocol::Rpcx => tls::Protocol::Any,
        };
        let open = |tls| tls::Server::open(tls, protocol, &self.files).map(Arc::new);
        settings.tls.as_ref().map(open).transpose().map_err(|error| ListenError::Tls {
            listener: settings.name.clone(),
            address: settings.address,
            error: error.to_string(),
        })
    }
}

/// Sockets that there are, whose listener may change.
enum Known<'a> {
    Running(&'a Listener),
    Inherited(&'a Inherited),
}

impl Known<'_> {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Running(listener) => listener.address(),
            Self::Inherited(inherited) => inherited.address,
        }
    }

    /// Their address as the settings say it, and their name.
    fn wanted(&self) -> (SocketAddr, &Arc<str>) {
        match self {
            Self::Running(listener) => (listener.settings.address, &listener.settings.name),
            Self::Inherited(inherited) => (inherited.wanted, &inherited.name),
        }
    }
}
