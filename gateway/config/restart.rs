//! What cannot change while the gateway runs.

use std::{fmt::Debug, net::SocketAddr};

use super::running::{Config, Listener, Secret};

/// What differs between two configurations and takes effect only with a restart, each as `key: old -> new`. Empty
/// if the new one can replace the old one now.
pub fn restart_needed(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    note(&mut changes, "workers", &old.workers, &new.workers);
    note(&mut changes, "admin.address", &Shown(old.admin.address), &Shown(new.admin.address));
    let registrations = |config: &Config| Shown(config.admin.registrations.as_ref().map(|r| r.address));
    note(&mut changes, "admin.registrations.address", &registrations(old), &registrations(new));
    note(&mut changes, "state.directory", &old.state, &new.state);
    note(&mut changes, "plugins.directory", &old.plugins.directory, &new.plugins.directory);
    note(&mut changes, "listener.address", &addresses(old), &addresses(new));
    for listener in &new.listeners {
        let same_address = |other: &&Listener| other.address == listener.address;
        if old.listeners.iter().find(same_address).is_some_and(|other| other != listener) {
            changes.push(format!("listener {}: its settings", listener.address));
        }
    }
    if old.admin.token != new.admin.token || token_of_registrations(old) != token_of_registrations(new) {
        changes.push("admin: its tokens".to_owned());
    }
    note(&mut changes, "plugins.selector", &old.plugins.selector, &new.plugins.selector);
    note(&mut changes, "plugins.registry", &old.plugins.registry, &new.plugins.registry);
    changes
}

fn token_of_registrations(config: &Config) -> Option<&Secret> {
    config.admin.registrations.as_ref()?.token.as_ref()
}

fn note<T: PartialEq + Debug>(changes: &mut Vec<String>, key: &str, old: &T, new: &T) {
    if old != new {
        changes.push(format!("{key}: {old:?} -> {new:?}"));
    }
}

/// In no particular order as far as anybody connects to them.
fn addresses(config: &Config) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address).collect();
    addresses.sort();
    addresses
}

/// An address, or none, as the configuration says it.
#[derive(PartialEq)]
struct Shown(Option<SocketAddr>);

impl Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("off"),
        }
    }
}
