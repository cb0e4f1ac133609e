//! The configuration file is followed: a valid change takes effect, an invalid one is reported and changes nothing.

use std::{future::Future, path::Path, sync::Arc};

use tokio::{signal::unix::Signal, sync::watch};

use super::{ListenError, Listeners, PluginsError, Program, descriptors, systemd, uses};
use crate::{
    backoff::Lasting,
    catalog::{Catalog, Control},
    config::{self, Config},
    connector::file,
    plugin::{Cause, Plugins},
    registry::Failure,
    server::{Lineup, Listener},
    telemetry::{ProcessMetrics, Readiness, Reload as Outcome},
    worker::Serving,
};

pub(super) struct Reload<'a> {
    /// None: there is no file to follow.
    pub path: Option<&'a Path>,
    pub running: Arc<Config>,
    pub control: &'a Control,
    pub plugins: &'a Plugins,
    pub catalog: Catalog,
    pub listeners: &'a mut Listeners,
    /// What the workers follow.
    pub serving: &'a watch::Sender<Serving>,
    pub metrics: Arc<ProcessMetrics>,
    pub readiness: Readiness,
    /// What is wrong with the plugins of a configuration that was refused for it.
    pub lacking: Option<PluginsError>,
    /// That the file cannot be read.
    pub unreadable: Lasting,
}

/// Why a changed file was not taken.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Invalid(#[from] config::Problems),
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("only a restart can change this:\n  {}", .0.join("\n  "))]
    NeedsRestart(Vec<String>),
}

impl ReloadError {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Invalid(problems) => problems.lines().collect(),
            Self::Plugins(error) => error.lines().collect(),
            Self::Listen(error) => vec![error.to_string()],
            Self::NeedsRestart(keys) => {
                keys.iter().map(|key| format!("only a restart can change this: {key}")).collect()
            }
        }
    }
}

/// What asks for something while the file is followed.
pub(super) struct Asks {
    pub program: Program,
    /// To read the file again; to begin anew if the program is another one.
    pub hangup: Signal,
    /// To begin anew.
    pub upgrade: Signal,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stop,
    Upgrade,
}

impl Reload<'_> {
    /// Follows the file until `stop`, or until a new process is asked for.
    pub(super) async fn follow(&mut self, stop: impl Future<Output = ()>, asks: &mut Asks) -> Next {
        // A file that takes long, or a plugin that does, holds up no stop.
        tokio::select! {
            () = stop => Next::Stop,
            () = self.until_upgrade(asks) => Next::Upgrade,
        }
    }

    async fn until_upgrade(&mut self, asks: &mut Asks) {
        let Some(path) = self.path else { return std::future::pending().await };
        self.metrics.configured.follow(path.to_owned());
        let mut news = self.plugins.news();
        let mut feed = file::follow(path, Arc::default());
        loop {
            let content = tokio::select! {
                content = feed.next() => Some(content),
                _ = asks.hangup.recv() => {
                    if asks.program.was_exchanged() {
                        return;
                    }
                    self.reload(path).await;
                    continue;
                }
                _ = asks.upgrade.recv() => return,
                // What was missing may have come.
                Ok(()) = news.changed(), if self.lacking.is_some() => None,
            };
            news.mark_unchanged();
            match content {
                Some(Err(failure)) => self.unreadable(&failure),
                Some(Ok(_)) => {
                    self.readable();
                    self.take(path).await;
                }
                None => drop(self.take(path).await),
            }
        }
    }

    /// Reads the file because somebody asks for it, who is told when that is done.
    async fn reload(&mut self, path: &Path) {
        if !self.readiness.is_ready() {
            return drop(self.take(path).await);
        }
        systemd::reloading();
        let outcome = self.take(path).await;
        systemd::reloaded(&outcome);
    }

    /// Says in a line what came of it.
    async fn take(&mut self, path: &Path) -> String {
        let result = self.read(path).await;
        let outcome = match &result {
            Ok(_) => "Serving".to_owned(),
            Err(error) => {
                let first = error.lines().into_iter().next().unwrap_or_default();
                format!("Configuration refused, the running one stays: {first}")
            }
        };
        self.report(result);
        outcome
    }

    /// Tried again by the feed, with pauses.
    fn unreadable(&mut self, failure: &Failure) {
        if let Some(lasts) = self.unreadable.met(failure.text()) {
            tracing::error!(
                error = failure.text(),
                for_seconds = lasts.for_seconds,
                times = lasts.times,
                "Configuration file cannot be read, the running one stays"
            );
            self.metrics.reloaded(Outcome::Invalid);
        }
        self.metrics.configured.refuse(vec![failure.text().to_owned()]);
    }

    fn readable(&mut self) {
        if let Some(lasted) = self.unreadable.over() {
            tracing::info!(for_seconds = lasted.for_seconds, "Configuration file can be read again");
        }
    }

    /// Says whether anything changed.
    async fn read(&mut self, path: &Path) -> Result<bool, ReloadError> {
        let own = path.to_owned();
        let config = Arc::new(super::blocking(move || config::load(&own)).await?);
        if *config == *self.running {
            return Ok(false);
        }
        let restart = config::restart_needed(&self.running, &config);
        if !restart.is_empty() {
            return Err(ReloadError::NeedsRestart(restart));
        }
        let fatal = [Cause::NoSelector, Cause::NoRegistry, Cause::Compiling, Cause::Refused, Cause::Settings];
        super::check_settings(self.plugins, &config, Some(&self.running), &fatal).await?;
        // The last that may fail.
        let listeners = self.listeners.prepare(&config)?;
        self.control.apply(config.clone()).await;
        let gone = self.serve(&config, listeners);
        self.running = config;
        self.plugins.set_uses(uses(&self.running, Some(&self.catalog))).await;
        // The next configuration may want an address of these.
        for listener in gone {
            listener.closed().await;
        }
        Ok(true)
    }

    /// Has the workers serve these listeners with the table in force. Returns those that are gone.
    fn serve(&mut self, config: &Config, listeners: Vec<Listener>) -> Vec<Listener> {
        let lineup = Lineup { ending: config.shutdown, ..Lineup::of(listeners.clone()) };
        let (new, gone) = self.listeners.replace(listeners);
        self.serving.send_replace(Serving { table: self.catalog.table(), lineup });
        if self.running.listeners != config.listeners {
            descriptors::provide(config);
        }
        for listener in &new {
            tracing::info!(listener = %listener.settings.name, address = %listener.address(), "Listener added");
            super::sockets::say_listening(listener);
        }
        for listener in &gone {
            tracing::info!(listener = %listener.settings.name, address = %listener.address(), "Listener removed");
        }
        gone
    }

    fn report(&mut self, result: Result<bool, ReloadError>) {
        let lacked = match &result {
            Err(ReloadError::Plugins(lacking)) => self.lacking.replace(lacking.clone()),
            _ => self.lacking.take(),
        };
        let outcome = match result {
            Ok(false) => {
                self.metrics.configured.unchanged();
                return;
            }
            // It was read again because of another plugin.
            Err(ReloadError::Plugins(lacking)) if lacked.as_ref() == Some(&lacking) => return,
            Ok(true) => {
                tracing::info!("Configuration applied");
                self.metrics.configured.applied();
                Outcome::Applied
            }
            Err(error) => {
                // One line for each mistake: in one of all together some would be cut out.
                let problems = error.lines();
                for error in &problems {
                    tracing::error!(error, "Configuration refused, the running one stays");
                }
                self.metrics.configured.refuse(problems);
                match error {
                    ReloadError::NeedsRestart(_) => Outcome::NeedsRestart,
                    _ => Outcome::Invalid,
                }
            }
        };
        self.metrics.reloaded(outcome);
    }
}
