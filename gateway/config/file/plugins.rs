//! The plugins folder and the limits that plugins live under.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The plugins folder, and the limits that all plugins live under.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Plugins {
    /// A folder, relative to that of the configuration, that is scanned for `*.wasm`; need not exist. Default:
    /// `plugins`.
    pub directory: String,
    /// Memory of all instances of all plugins together, in MiB, as far as they have asked for it. Beyond it no instance
    /// gets more, and no other is made. Default: 8192.
    pub memory_mib: u64,
    /// Limits of selector plugins.
    pub selector: SelectorLimits,
    /// Limits of registry plugins.
    pub registry: RegistryLimits,
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            directory: "plugins".into(),
            memory_mib: 8_192,
            selector: SelectorLimits::default(),
            registry: RegistryLimits::default(),
        }
    }
}

/// Limits of selector plugins.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct SelectorLimits {
    /// Milliseconds that one pick may take. Default: 5.
    pub pick_timeout_ms: u64,
    /// Milliseconds that making a balancer, or telling it of changes, may compute; it may take ten times as long on a
    /// machine that is short of CPU. Default: 500.
    pub update_timeout_ms: u64,
    /// Memory of one instance (one per worker), in MiB. Default: 64.
    pub memory_mib: u64,
    /// Elements of one instance's tables. Default: 10000.
    pub table_elements: u64,
    /// Faults within a minute after which the plugin is quarantined until its file changes. Default: 10.
    pub faults_per_minute: u64,
}

impl Default for SelectorLimits {
    fn default() -> Self {
        Self {
            pick_timeout_ms: 5,
            update_timeout_ms: 500,
            memory_mib: 64,
            table_elements: 10_000,
            faults_per_minute: 10,
        }
    }
}

/// Limits of registry plugins.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RegistryLimits {
    /// Milliseconds of CPU time that a plugin may compute between two waits. Waiting is free. Default: 2000.
    pub cpu_timeout_ms: u64,
    /// Memory of one instance (one per source), in MiB. Default: 128.
    pub memory_mib: u64,
    /// Elements of one instance's tables. Default: 10000.
    pub table_elements: u64,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self { cpu_timeout_ms: 2_000, memory_mib: 128, table_elements: 10_000 }
    }
}
