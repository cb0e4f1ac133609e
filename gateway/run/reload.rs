//! The configuration file is followed: a valid change takes effect, an invalid one is reported and changes nothing.

use std::{future::Future, path::Path, sync::Arc};

use tokio::signal::unix::Signal;

use super::uses;
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
}

/// Why a changed file was not taken.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("{0}")]
    Unreadable(#[from] Failure),
    #[error("{0}")]
    Invalid(#[from] config::Problems),
    #[error("plugins refuse their settings:\n{0}")]
    Settings(String),
    #[error("only a restart can change this:\n  {}", .0.join("\n  "))]
    NeedsRestart(Vec<String>),
}

impl ReloadError {
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable(failure) => vec![failure.to_string()],
            Self::Invalid(problems) => problems.lines().collect(),
            Self::Settings(texts) => texts
                .lines()
                .map(|text| format!("plugins refuse their settings: {}", text.trim_start()))
                .collect(),
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
        tokio::pin!(stop);
        let Some((path, mut hangup)) = self.path.zip(hangup) else { return stop.await };
        let mut feed = match file::follow(path, None, Arc::default()) {
            Ok(feed) => feed,
            Err(error) => {
                tracing::error!(%error, "Configuration file not followed, send SIGHUP after a change");
                return self.by_signal(path, stop, hangup).await;
            }
        };
        loop {
            let changed = tokio::select! {
                () = &mut stop => return,
                content = feed.next() => content.map(drop),
                _ = hangup.recv() => Ok(()),
            };
            let result = match changed {
                Ok(()) => self.read(path).await,
                Err(error) => Err(error.into()),
            };
            self.report(result);
        }
    }

    async fn by_signal(
        &mut self,
        path: &Path,
        mut stop: std::pin::Pin<&mut impl Future<Output = ()>>,
        mut hangup: Signal,
    ) {
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = hangup.recv() => {
                    let result = self.read(path).await;
                    self.report(result);
                }
            }
        }
    }

    /// Says whether anything changed.
    async fn read(&mut self, path: &Path) -> Result<bool, ReloadError> {
        let config = Arc::new(config::load(path)?);
        if *config == *self.running {
            return Ok(false);
        }
        let restart = config::restart_needed(&self.running, &config);
        if !restart.is_empty() {
            return Err(ReloadError::NeedsRestart(restart));
        }
        let fatal = [Cause::NoRegistry, Cause::Refused, Cause::Settings];
        super::check_settings(self.plugins, &config, &fatal).await.map_err(ReloadError::Settings)?;
        self.control.apply(config.clone()).await;
        self.plugins.set_uses(uses(&config, Some(&self.catalog))).await;
        self.running = config;
        Ok(true)
    }

    fn report(&self, result: Result<bool, ReloadError>) {
        let outcome = match result {
            Ok(false) => return,
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
