//! What cannot change while the gateway runs.

use std::{fmt::Debug, net::SocketAddr};

use super::running::{Access, Config};
use crate::{document::Secret, tls::ServerSettings};

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
    let (before, after) = (access(old), access(new));
    if before.each_ref().map(tokens) != after.each_ref().map(tokens) {
        changes.push("admin: its tokens".to_owned());
    } else if before != after {
        changes.push("admin: its hosts, trusted proxies, or the APIs of other registries".to_owned());
    }
    if [&old.admin.tls, &registrations_tls(old)] != [&new.admin.tls, &registrations_tls(new)] {
        changes.push("admin: its TLS".to_owned());
    }
    note(&mut changes, "plugins.memory_mib", &old.plugins.memory_bytes, &new.plugins.memory_bytes);
    note(&mut changes, "plugins.selector", &old.plugins.selector, &new.plugins.selector);
    note(&mut changes, "plugins.registry", &old.plugins.registry, &new.plugins.registry);
    changes
}

/// Of the admin listener, and of that for registrations.
fn access(config: &Config) -> [Access; 2] {
    let registrations = config.admin.registrations.as_ref().map(|own| own.access.clone());
    [config.admin.access.clone(), registrations.unwrap_or_default()]
}

fn registrations_tls(config: &Config) -> Option<ServerSettings> {
    config.admin.registrations.as_ref()?.tls.clone()
}

fn tokens(access: &Access) -> [&Option<Secret>; 2] {
    [&access.token, &access.read_token]
}

fn note<T: PartialEq + Debug>(changes: &mut Vec<String>, key: &str, old: &T, new: &T) {
    if old != new {
        changes.push(format!("{key}: {old:?} -> {new:?}"));
    }
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
