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
            "listener.address: [127.0.0.1:80] -> [127.0.0.1:81]",
        ]
    );
}

#[test]
fn a_listener_added_or_removed_needs_a_restart() {
    let one = config("workers = 1", "127.0.0.1:80", "");
    let two = config("workers = 1", "127.0.0.1:80", "[[listener]]\naddress = '127.0.0.1:81'");
    assert_eq!(
        restart_needed(&one, &two),
        ["listener.address: [127.0.0.1:80] -> [127.0.0.1:80, 127.0.0.1:81]"]
    );
    assert_eq!(restart_needed(&two, &one).len(), 1);
}

#[test]
fn other_settings_of_a_listener_and_other_limits_need_a_restart() {
    let old = config("workers = 1", "127.0.0.1:80", "");
    let new = config(
        "workers = 1",
        "127.0.0.1:80",
        "max_connections = 5
         [plugins.selector]
         pick_timeout_ms = 9",
    );
    let changes = restart_needed(&old, &new);
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert_eq!(changes[0], "listener 127.0.0.1:80: its settings");
    assert!(changes[1].starts_with("plugins.selector: "), "{changes:?}");
}

#[test]
fn everything_else_changes_while_the_gateway_runs() {
    let old = config("workers = 1", "127.0.0.1:80", "");
    let new = config(
        "workers = 1",
        "127.0.0.1:80",
        "[shutdown]
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
