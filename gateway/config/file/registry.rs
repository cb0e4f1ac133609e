//! Registries: their plugins, and what the host holds for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Flag, TextOr, Trust};

/// A registry: its plugin, what the host holds for it, and what the plugin gets.
///
/// A plugin may use the connectors that are named here, to the addresses written here, and nothing else.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["plugin"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Registry {
    /// A shipped plugin (`etcd`, `file`, `memory`, `static`) or the name of a file in the plugins folder. Required.
    pub plugin: Option<String>,
    /// Lends the plugin a client for etcd. Default: none.
    pub etcd: Option<Etcd>,
    /// Lends the plugin a file to follow, or a folder of them: a path, relative to the folder of the configuration.
    /// Default: none.
    pub file: Option<TextOr<FilePath>>,
    /// Lends the plugin the registry inside the gateway. Default: false.
    pub memory: Option<Flag>,
    /// How much this registry is believed when it says that instances are gone.
    pub trust: Trust,
    /// What the plugin understands; passed to it as JSON. Default: empty.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub settings: toml::Table,
}

/// A file, or a folder of files.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["path"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct FilePath {
    /// Relative to the folder of the configuration. Required.
    pub path: Option<String>,
}

/// A client for etcd. The plugin sees neither addresses nor credentials.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["endpoints"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Etcd {
    /// `HOST:PORT` of each member; `http://` or `https://` may stand before it. Required, at least one.
    pub endpoints: Vec<String>,
    /// The user to log in as. Default: none.
    pub user: Option<String>,
    /// A file with the user's password. Required with `user`.
    pub password_file: Option<String>,
    /// Talk TLS to every endpoint. Default: none.
    pub tls: Option<Tls>,
    /// Milliseconds that connecting to one endpoint may take. Default: 2000.
    pub connect_timeout_ms: u64,
    /// Milliseconds after which a silent watch is asked for a sign of life; as long again without one is a failure.
    /// Default: 10000.
    pub silence_ms: u64,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            user: None,
            password_file: None,
            tls: None,
            connect_timeout_ms: 2_000,
            silence_ms: 10_000,
        }
    }
}

/// TLS towards a registry. The files are read each time a connection is made.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["ca_file"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Tls {
    /// The certificates (PEM) of the authorities that are believed. Required.
    pub ca_file: Option<String>,
    /// The gateway's own certificate (PEM), if the registry asks for one. Default: none.
    pub cert_file: Option<String>,
    /// The key (PEM) of `cert_file`. Required with it.
    pub key_file: Option<String>,
    /// The name that the registry's certificate must have. Default: the host of the endpoint.
    pub server_name: Option<String>,
}
