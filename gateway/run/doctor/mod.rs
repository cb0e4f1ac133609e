//! `witgate doctor`: looks at a configuration and at this machine, and says what will hurt.
//!
//! Changes nothing, and asks registries as the gateway does, for what it would read. Nobody can connect to it; where a
//! registry is read by mDNS it hears what comes to port 5353. Whoever does not answer is waited for a few seconds.

mod certificates;
mod clock;
mod finding;
mod machine;
mod names;
mod plugins;
mod ports;
mod reach;
mod registries;
mod state;

use std::{path::Path, sync::Arc};

use self::finding::Finding;
use super::{Signals, StartError, blocking, checked::is_own};
use crate::{
    config::{self, Config},
    connector::{Lent, Memory},
    plugin::Plugins,
};

/// What was found, in lines for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    pub text: String,
    /// Whether something will not work.
    pub has_errors: bool,
}

/// Examines a configuration on this machine, as whoever runs this. SIGTERM and SIGINT end it before it is done.
pub fn doctor(path: &Path) -> Result<Examination, StartError> {
    let runtime = tokio::runtime::Runtime::new().map_err(StartError::Threads)?;
    let own = path.to_owned();
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new().map_err(StartError::Threads)?;
        signals.unless_stopped(examine(&own)).await.unwrap_or(Err(StartError::Stopped))
    });
    // What still waits then is of no use to anybody.
    runtime.shutdown_background();
    Ok(finding::told(&outcome?))
}

async fn examine(path: &Path) -> Result<Vec<Finding>, StartError> {
    let own = path.to_owned();
    let config = match blocking(move || config::load(&own)).await {
        Ok(config) => config,
        Err(problems) => {
            let found = Finding::error("configuration", problems.to_string().trim_end())
                .advice("put that right, and ask again: the rest depends on it");
            return Ok(vec![found]);
        }
    };
    let counts = format!(
        "listeners: {}, registries: {}, upstreams: {}, routes: {}",
        config.listeners.len(),
        config.registries.len(),
        config.upstreams.len(),
        config.targets().count()
    );
    let mut found = vec![Finding::ok("configuration", format!("{}: {counts}", path.display()))];
    let config = Arc::new(config);
    let looked = config.clone();
    let (of_machine, keep_code) = blocking(move || (look(&looked), is_own(&looked.state))).await;
    found.extend(of_machine);
    let lent = Arc::new(Lent::new(Memory::unkept()));
    let started = Plugins::start_with(&config, lent, keep_code)?;
    found.extend(plugins::examine(&config, &started).await);
    found.extend(registries::examine(&config, &started).await);
    Ok(found)
}

/// Everything that needs nobody but this machine.
fn look(config: &Config) -> Vec<Finding> {
    let parts = [machine::look(config), ports::look(config), state::look(config), certificates::look(config)];
    parts.into_iter().flatten().collect()
}
