//! Registries: the plugin, and the connectors that are lent to it.

use super::{Checker, EMBEDDED};
use crate::{
    config::{file, running::Registry},
    connector::{self, Grants, each_connector},
    document::Way,
};

/// The registry that exists when a file names none.
pub(super) fn embedded() -> Registry {
    Registry {
        name: EMBEDDED.into(),
        plugin: "memory".into(),
        grants: Grants { memory: Some(connector::memory::Grant), ..Grants::default() },
        settings: "{}".into(),
    }
}

impl Checker<'_> {
    pub(super) fn registry(&mut self, way: &Way, name: &str, registry: &file::Registry) -> Option<Registry> {
        let plugin = self
            .required(way, "plugin", &registry.plugin)
            .and_then(|plugin| self.text(&way.key("plugin"), plugin));
        let grants = self.grants(way, registry);
        let settings = self.settings(&way.key("settings"), &registry.settings);
        self.trust(&way.key("trust"), &registry.trust);
        if let Some(plugin) = plugin {
            self.has_its_connector(way, plugin);
        }
        Some(Registry { name: name.into(), plugin: plugin?.into(), grants: grants?, settings: settings? })
    }

    /// Most shipped plugins are of no use without a certain connector.
    fn has_its_connector(&mut self, way: &Way, plugin: &str) {
        for (connector, setting, users) in connector::SETTINGS {
            if users.contains(&plugin) && !self.mentions(&way.key(connector)) {
                self.wrong(way, format!("the plugin `{plugin}` needs `{connector}`, and may not use it"))
                    .hint(format!("write {setting}"));
            }
        }
    }
}

macro_rules! grants {
    ($($(#[$doc:meta])* $name:ident)*) => {
        impl Checker<'_> {
            fn grants(&mut self, way: &Way, registry: &file::Registry) -> Option<Grants> {
                $(let $name = registry.$name.as_ref().map(|keys| {
                    connector::$name::grant(keys, self, &way.key(stringify!($name)))
                });)*
                Some(Grants { $($name: $name.unwrap_or(Some(None))?,)* })
            }
        }
    };
}

each_connector!(grants);
