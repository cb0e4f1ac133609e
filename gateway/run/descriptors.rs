//! Open files. Every connection is one, and the system gives a process only so many.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors that are needed whoever connects: listeners and queues of the workers, the admin API, connections to
/// registries, files.
const OWN: u64 = 512;

/// Of one client: its connection, and the one to the instance that answers it.
const EACH: u64 = 2;

/// Raises the limit of open files to the highest that the system allows this process, and warns if it is too low for the
/// connections that the listeners may take.
pub(super) fn provide(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(error = %std::io::Error::from(error), "The limit of open files could not be raised");
    }
    let max_connections = max_connections(config);
    // No limit at all is enough.
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return };
    if let Some(enough_for) = falls_short(max_connections, descriptors) {
        tracing::warn!(
            max_connections,
            descriptors,
            enough_for,
            "Too few open files are allowed for max_connections: raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
}

/// How many clients all listeners together may have.
pub(super) fn max_connections(config: &Config) -> u64 {
    config.listeners.iter().map(|listener| listener.max_connections as u64).sum()
}

/// For how many clients so many descriptors are enough, if that is less than wanted.
pub(super) fn falls_short(max_connections: u64, descriptors: u64) -> Option<u64> {
    let enough_for = descriptors.saturating_sub(OWN) / EACH;
    (enough_for < max_connections).then_some(enough_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_needs_two_descriptors_and_the_gateway_some_of_its_own() {
        assert_eq!(falls_short(10_000, 1_024), Some(256));
        assert_eq!(falls_short(10_000, 20_511), Some(9_999));
        assert_eq!(falls_short(10_000, 20_512), None);
        assert_eq!(falls_short(1, 64), Some(0));
    }
}
