//! Which listeners run. What another configuration needs is bound before anything of it takes effect.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    config::{self, Config, ListenerProtocol},
    registry::OwnAddresses,
    server::{self, Listener},
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
    running: Vec<Listener>,
    pub files: Arc<tls::Files>,
    metrics: Arc<ProcessMetrics>,
    /// Where the gateway listens, these and the admin API.
    pub own: OwnAddresses,
    admins: Vec<SocketAddr>,
}

impl Listeners {
    /// None yet. `admins` is where the admin API answers.
    pub(super) fn new(files: Arc<tls::Files>, metrics: Arc<ProcessMetrics>, admins: Vec<SocketAddr>) -> Self {
        let access_logs = Arc::default();
        Self {
            running: Vec::new(),
            files,
            metrics,
            access_logs,
            own: OwnAddresses::new(admins.clone()),
            admins,
        }
    }

    /// What a configuration makes of those that run. An address that it still has keeps its sockets, whatever else
    /// changes; one that is new is bound. Nothing is served differently before [`Self::replace`], and dropping what
    /// this returns gives it up.
    pub(super) fn prepare(&self, config: &Config) -> Result<Vec<Listener>, ListenError> {
        let ours: Vec<SocketAddr> = self.running.iter().map(Listener::address).collect();
        let mut left: Vec<&Listener> = self.running.iter().collect();
        // Port 0 may be there several times, and then the name says which is which.
        let mut take = |is: &dyn Fn(&config::Listener) -> bool| {
            left.iter().position(|known| is(&known.settings)).map(|place| left.remove(place))
        };
        let wanted = &config.listeners;
        let mut known: Vec<Option<&Listener>> = wanted
            .iter()
            .map(|new| take(&|old| (old.address, &old.name) == (new.address, &new.name)))
            .collect();
        for (known, new) in known.iter_mut().zip(wanted).filter(|(known, _)| known.is_none()) {
            *known = take(&|old| old.address == new.address);
        }
        let prepared = wanted.iter().zip(known).map(|(settings, known)| match known {
            Some(known) if *known.settings == *settings => Ok(known.clone()),
            Some(known) => {
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
            None => self.bind(settings, config.workers, &ours),
        });
        prepared.collect()
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

    fn bind(
        &self,
        settings: &config::Listener,
        workers: usize,
        ours: &[SocketAddr],
    ) -> Result<Listener, ListenError> {
        let (tls, log) = (self.open_tls(settings)?, self.open_log(settings, workers)?);
        Listener::bind(Arc::new(settings.clone()), tls, workers, &self.metrics, ours)
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
