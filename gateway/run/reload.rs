//! The configuration file is followed: a valid change takes effect, an invalid one is reported and changes nothing.

use std::{future::Future, path::Path, sync::Arc};

use tokio::signal::unix::Signal;

use super::{PluginsError, uses};
use crate::{
    catalog::{Catalog, Control},
    config::{self, Config},
    connector::file,
    plugin::{Cause, Plugins},
    registry::Failure,
    telemetry::{ProcessMetrics, Reload as Outcome},
};

pub(super) struct Reload<'a> {
    /// None: there is no file to follow.
    pub path: Option<&'a Path>,
    pub running: Arc<Config>,
    pub control: &'a Control,
    pub plugins: &'a Plugins,
    pub catalog: Catalog,
    pub metrics: Arc<ProcessMetrics>,
    /// What is wrong with the plugins of a configuration that was refused for it.
    pub lacking: Option<PluginsError>,
}

/// Why a changed file was not taken.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("{0}")]
    Unreadable(#[from] Failure),
    #[error("{0}")]
    Invalid(#[from] config::Problems),
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    #[error("only a restart can change this:\n  {}", .0.join("\n  "))]
    NeedsRestart(Vec<String>),
}

impl ReloadError {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable(failure) => vec![failure.to_string()],
            Self::Invalid(problems) => problems.lines().collect(),
            Self::Plugins(error) => error.lines().collect(),
            Self::NeedsRestart(keys) => {
                keys.iter().map(|key| format!("only a restart can change this: {key}")).collect()
            }
        }
    }
}

impl Reload<'_> {
    /// Follows the file until `stop`, and says what runs then. SIGHUP reads the file, too.
    pub(super) async fn until(
        mut self,
        stop: impl Future<Output = ()>,
        hangup: Option<Signal>,
    ) -> Arc<Config> {
        self.follow(stop, hangup).await;
        self.running
    }

    async fn follow(&mut self, stop: impl Future<Output = ()>, hangup: Option<Signal>) {
        // A file that takes long, or a plugin that does, holds up no stop.
        tokio::select! {
            () = stop => {}
            () = self.follow_for_ever(hangup) => {}
        }
    }

    async fn follow_for_ever(&mut self, hangup: Option<Signal>) {
        let Some((path, mut hangup)) = self.path.zip(hangup) else { return std::future::pending().await };
        let mut news = self.plugins.news();
        let mut feed = match file::follow(path, None, Arc::default()) {
            Ok(feed) => Some(feed),
            Err(error) => {
                tracing::error!(%error, "Configuration file not followed, send SIGHUP after a change");
                None
            }
        };
        loop {
            let changed = async {
                match &mut feed {
                    Some(feed) => feed.next().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = changed => changed,
                _ = hangup.recv() => Ok(()),
                // What was missing may have come.
                Ok(()) = news.changed(), if self.lacking.is_some() => Ok(()),
            };
            news.mark_unchanged();
            let result = match changed {
                Ok(()) => self.read(path).await,
                Err(error) => Err(error.into()),
            };
            self.report(result);
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
        self.control.apply(config.clone()).await;
        self.plugins.set_uses(uses(&config, Some(&self.catalog))).await;
        self.running = config;
        Ok(true)
    }

    fn report(&mut self, result: Result<bool, ReloadError>) {
        let lacked = match &result {
            Err(ReloadError::Plugins(lacking)) => self.lacking.replace(lacking.clone()),
            _ => self.lacking.take(),
        };
        let outcome = match result {
            Ok(false) => return,
            // It was read again because of another plugin.
            Err(ReloadError::Plugins(lacking)) if lacked.as_ref() == Some(&lacking) => return,
            Ok(true) => {
                tracing::info!("Configuration applied");
                Outcome::Applied
            }
            Err(error) => {
                // One line for each mistake: in one of all together some would be cut out.
                for error in error.lines() {
                    tracing::error!(error, "Configuration refused, the running one stays");
                }
                match error {
                    ReloadError::NeedsRestart(_) => Outcome::NeedsRestart,
                    _ => Outcome::Invalid,
                }
            }
        };
        self.metrics.reloaded(outcome);
    }
}
