//! Who uses which plugin, with what settings.

use std::{collections::BTreeMap, sync::Arc};

use super::load::Kind;
use crate::upstream::{Reader, UpstreamName};

/// Everything that plugins are used for.
#[derive(Clone, Default)]
pub struct Uses {
    /// By name of the plugin.
    pub selectors: BTreeMap<String, Vec<SelectorUse>>,
    pub registries: BTreeMap<String, Vec<RegistryUse>>,
}

/// An upstream that picks with a selector plugin.
#[derive(Clone)]
pub struct SelectorUse {
    pub upstream: UpstreamName,
    /// A JSON object, as text.
    pub settings: Arc<str>,
    /// The list it has now, if it runs.
    pub reader: Option<Reader>,
}

/// A registry that is read with a registry plugin.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryUse {
    pub registry: Arc<str>,
    /// A JSON object, as text.
    pub settings: Arc<str>,
}

/// A plugin and its user do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub cause: Cause,
    pub plugin: String,
    /// `upstream NAME` or `registry NAME`.
    pub used_by: String,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is no selector of that name. It may be on its way; until then the native round robin picks.
    NoSelector,
    /// There is no registry plugin of that name. It may be on its way; until then lists come from disk.
    NoRegistry,
    /// There is a file, and it is being compiled or tested. Until then it is as if there was none.
    Compiling,
    /// There is a file, and it cannot be used.
    Refused,
    /// The plugin runs, and refuses the settings.
    Settings,
}

impl Uses {
    /// What is not among `known` in the same way.
    pub fn without(mut self, known: &Self) -> Self {
        self.selectors.retain(|plugin, uses| {
            let same = |one: &SelectorUse, other: &SelectorUse| {
                one.upstream == other.upstream && one.settings == other.settings
            };
            uses.retain(|one| !known.selectors(plugin).iter().any(|other| same(one, other)));
            !uses.is_empty()
        });
        self.registries.retain(|plugin, uses| {
            uses.retain(|one| !known.registries(plugin).contains(one));
            !uses.is_empty()
        });
        self
    }

    /// Whether a plugin is used as it was before.
    pub(super) fn are_same_for(&self, before: &Self, plugin: &str) -> bool {
        let settings = |uses: &Self| -> Vec<_> {
            let selectors = uses.selectors(plugin).iter();
            selectors.map(|one| (one.upstream.clone(), one.settings.clone())).collect()
        };
        settings(self) == settings(before) && self.registries(plugin) == before.registries(plugin)
    }

    /// Each plugin that is used, and as what.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, Kind)> {
        let selectors = self.selectors.keys().map(|name| (name.as_str(), Kind::Selector));
        let registries = self.registries.keys().map(|name| (name.as_str(), Kind::Registry));
        selectors.chain(registries)
    }

    pub(super) fn selectors(&self, plugin: &str) -> &[SelectorUse] {
        self.selectors.get(plugin).map_or(&[], Vec::as_slice)
    }

    pub(super) fn registries(&self, plugin: &str) -> &[RegistryUse] {
        self.registries.get(plugin).map_or(&[], Vec::as_slice)
    }

    /// The users of a plugin that need it to be of this kind.
    pub(super) fn users(&self, plugin: &str, kind: Kind) -> Vec<String> {
        match kind {
            Kind::Selector => {
                self.selectors(plugin).iter().map(|one| format!("upstream {}", one.upstream)).collect()
            }
            Kind::Registry => {
                self.registries(plugin).iter().map(|one| format!("registry {}", one.registry)).collect()
            }
        }
    }
}
