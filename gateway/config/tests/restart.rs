//! What cannot change while the gateway runs.

use super::parse;
use crate::config::{Config, restart_needed};

fn config(before: &str, listener: &str, after: &str) -> Config {
    let text = format!("{before}\n[[listener]]\naddress = '{listener}'\n{after}");
    parse(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn what_needs_a_restart_is_named_with_both_values() {
    let old = config("workers = 2", "127.0.0.1:80", "");
    let new = config(
        "workers = 3",
        "127.0.0.1:81",
        "[admin]
         address = 'off'
         registrations = { address = '127.0.0.1:9902' }
         [state]
         directory = 'elsewhere'
         [plugins]
         directory = 'mine'",
    );
    assert_eq!(
        restart_needed(&old, &new),
        [
            "workers: 2 -> 3",
            "admin.address: 127.0.0.1:9901 -> off",
            "admin.registrations.address: off -> 127.0.0.1:9902",
            "state.directory: \"state\" -> \"elsewhere\"",
            "plugins.directory: \"plugins\" -> \"mine\"",
        ]
    );
}

#[test]
fn other_limits_of_plugins_need_a_restart() {
    let old = config("workers = 1", "127.0.0.1:80", "");
    let new = config("workers = 1", "127.0.0.1:80", "[plugins.selector]\npick_timeout_ms = 9");
    let changes = restart_needed(&old, &new);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(changes[0].starts_with("plugins.selector: "), "{changes:?}");
}

#[test]
fn everything_else_changes_while_the_gateway_runs() {
    let old = config("workers = 1", "127.0.0.1:80", "");
    let new = config(
        "workers = 1",
        "127.0.0.1:81",
        "max_connections = 5
         [[listener]]
         address = '127.0.0.1:82'
         [shutdown]
         delay_ms = 0
         [registry.fixed]
         plugin = 'static'
         [upstream.a]
         service = 'a'
         registry = 'fixed'
         [[route]]
         upstream = 'a'",
    );
    assert_ne!(old, new);
    assert_eq!(restart_needed(&old, &new), [""; 0]);
}

#[test]
fn the_empty_configuration_has_the_defaults_of_the_file() {
    let mut written = config("", "127.0.0.1:0", "[admin]\naddress = 'off'");
    written.listeners.clear();
    written.registries.clear();
    let folder = written.state.parent().unwrap().to_path_buf();
    assert_eq!(written, Config::empty(folder));
}
