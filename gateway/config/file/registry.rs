//! Registries: their plugins, and what the host holds for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Trust;
use crate::connector::{self, each_connector};

/// A key for each connector, between those that every registry has.
macro_rules! registry {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// A registry: its plugin, what the host holds for it, and what the plugin gets.
        ///
        /// A plugin may use the connectors that are named here, to the addresses written here, and nothing else.
        #[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
        #[schemars(extend("required" = ["plugin"]))]
        #[serde(default, deny_unknown_fields)]
        pub(in crate::config) struct Registry {
            /// A shipped plugin (`consul`, `discovery`, `dns`, `etcd`, `eureka`, `file`, `kubernetes`, `mdns`, `memory`, `nacos`, `static`, `zookeeper`) or the name of a file in the plugins folder. Required.
            pub plugin: Option<String>,
            $($(#[$doc])* pub $name: Option<connector::$name::Keys>,)*
            /// How much this registry is believed when it says that instances are gone.
            pub trust: Trust,
            /// What the plugin understands; passed to it as JSON. Default: empty.
            #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
            pub settings: toml::Table,
        }
    };
}

each_connector!(registry);
