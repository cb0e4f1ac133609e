//! Who uses which plugin with which settings: what a plugin is tested with before it is put to use.

use std::collections::BTreeMap;

use crate::{
    catalog::Catalog,
    config::{Config, Selector, Target},
    plugin::{RegistryUse, SelectorUse, Uses},
    upstream::{Reader, UpstreamName},
};

/// All uses in a configuration; with the lists in force if there is a catalog to read them from.
pub(super) fn uses(config: &Config, catalog: Option<&Catalog>) -> Uses {
    let table = catalog.map(Catalog::table);
    let reader = |name: &UpstreamName| Some(table.as_ref()?.upstreams.get(name)?.reader.clone());
    let mut uses = Uses::default();
    for upstream in config.upstreams.values() {
        add(&mut uses.selectors, &upstream.selector, upstream.name.clone(), reader(&upstream.name));
    }
    for target in config.targets() {
        if let Target::ByName(by_name) = target {
            add(&mut uses.selectors, &by_name.template.selector, by_name.template.name.clone(), None);
        }
    }
    for registry in config.registries.values() {
        let one = RegistryUse { registry: registry.name.clone(), settings: registry.settings.clone() };
        uses.registries.entry(registry.plugin.clone()).or_default().push(one);
    }
    uses
}

fn add(
    selectors: &mut BTreeMap<String, Vec<SelectorUse>>,
    selector: &Selector,
    upstream: UpstreamName,
    reader: Option<Reader>,
) {
    let one = SelectorUse { upstream, settings: selector.settings.clone(), reader };
    selectors.entry(selector.plugin.to_string()).or_default().push(one);
}
