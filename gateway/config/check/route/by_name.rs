//! Routes that take the name of a service from the request.

use std::{collections::BTreeMap, sync::Arc};

use regex_lite::Regex;
use rustc_hash::FxHashMap;

use crate::{
    config::{
        check::{Checker, offer, reliability::Written, upstream::Manner},
        file,
        running::{ByName, NameFrom, NamePattern, Target, Upstream},
    },
    document::{Part, Way},
    upstream::UpstreamName,
};

/// Where in a path the name of the service stands.
pub(super) const SERVICE: &str = "{service}";

const DEFAULT_PATTERN: &str = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}";
const DEFAULT_MAX_SERVICES: u64 = 1_000;
const DEFAULT_UNUSED_AFTER_SECS: u64 = 600;
const DEFAULT_FIRST_LIST_TIMEOUT_MS: u64 = 2_000;
const DEFAULT_UNKNOWN_FOR_MS: u64 = 5_000;

/// Whether both find services by name in the same registry.
pub(super) fn same_registry(one: &Target, other: &Target) -> bool {
    matches!((one, other), (Target::ByName(one), Target::ByName(other)) if one.registry == other.registry)
}

/// Whether services found by one are to be treated otherwise than those found by the other.
pub(super) fn disagree(one: &Target, other: &Target) -> bool {
    let (Target::ByName(one), Target::ByName(other)) = (one, other) else { return false };
    *one.template != Upstream { name: one.template.name.clone(), ..Upstream::clone(&other.template) }
}

/// Keys that say nothing about a route to an upstream.
pub(super) const KEYS: [&str; 23] = [
    "registry",
    "pattern",
    "services",
    "max_services",
    "unused_after_secs",
    "first_list_timeout_ms",
    "unknown_for_ms",
    "labels",
    "selector",
    "protocol",
    "tls",
    "proxy_protocol",
    "pool",
    "leave_ms",
    "breaker",
    "limits",
    "trust",
    "health",
    "check",
    "slow_start_secs",
    "zone_aware",
    "priority_threshold",
    "subset",
];

/// The same, of those in `timeouts`: connections are shared by all routes to an upstream.
const TIMEOUTS: [&str; 2] = ["connect_ms", "write_ms"];

pub(super) fn in_path(route: &file::Route) -> bool {
    route.path.as_ref().is_some_and(|path| path.contains(SERVICE))
}

impl Checker<'_> {
    pub(super) fn by_name(&mut self, way: &Way, route: &file::Route) -> Option<ByName> {
        let from = self.name_from(way, route);
        self.found_by(way, route, from)
    }

    /// What is said of services whose name is there; none: it was to be, and that is a mistake.
    pub(super) fn found_by(
        &mut self,
        way: &Way,
        route: &file::Route,
        from: Option<NameFrom>,
    ) -> Option<ByName> {
        let registry = self
            .required(way, "registry", &route.registry)
            .and_then(|registry| self.registry_name(&way.key("registry"), registry));
        let pattern = self.pattern(&way.key("pattern"), route.pattern.as_deref().unwrap_or(DEFAULT_PATTERN));
        let services = self.services(&way.key("services"), &route.services);
        let template = self.template(way, route);
        let max_services = route.max_services.unwrap_or(DEFAULT_MAX_SERVICES);
        let unused_after = route.unused_after_secs.unwrap_or(DEFAULT_UNUSED_AFTER_SECS);
        let first_list = route.first_list_timeout_ms.unwrap_or(DEFAULT_FIRST_LIST_TIMEOUT_MS);
        let unknown_for = route.unknown_for_ms.unwrap_or(DEFAULT_UNKNOWN_FOR_MS);
        let max_services = self.count(&way.key("max_services"), max_services, 1..=1_000_000);
        let unused_after = self.duration_secs(&way.key("unused_after_secs"), unused_after);
        let first_list_timeout = self.duration_ms(&way.key("first_list_timeout_ms"), first_list);
        let unknown_for = self.duration_ms(&way.key("unknown_for_ms"), unknown_for);
        let (registry, mut template) = (registry?, template?);
        template.reliability.registries.retain(|read, _| *read == registry);
        Some(ByName {
            registry,
            from: from?,
            pattern: pattern?,
            services,
            template: Arc::new(template),
            max_services,
            unused_after,
            first_list_timeout,
            unknown_for,
        })
    }

    fn name_from(&mut self, way: &Way, route: &file::Route) -> Option<NameFrom> {
        let at = way.key("service_header");
        if !in_path(route) {
            let name = route.service_header.as_ref()?;
            return self.header_name(&at, name, Part::Value).map(NameFrom::Header);
        }
        if self.document.has(&at) {
            self.wrong_key(&at, "the path names the service already");
        }
        let prefix = route.path.as_ref()?.strip_suffix(SERVICE)?;
        Some(NameFrom::Path(prefix.into()))
    }

    fn pattern(&mut self, way: &Way, text: &str) -> Option<NamePattern> {
        // On its own first: what is no pattern alone could become one between the anchors.
        match Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))) {
            Ok(pattern) => Some(NamePattern(pattern)),
            Err(error) => {
                self.wrong(way, format!("{text:?} is no regular expression: {error}"));
                None
            }
        }
    }

    fn services(&mut self, way: &Way, services: &BTreeMap<String, String>) -> FxHashMap<Arc<str>, Arc<str>> {
        let mut named = |(asked, service): (&String, &String)| {
            let at = way.key(asked);
            if asked.is_empty() || asked.contains('/') {
                self.wrong_key(&at, format!("no request names a service {asked:?}"));
                return None;
            }
            Some((Arc::from(asked.as_str()), Arc::from(self.text(&at, service)?)))
        };
        services.iter().filter_map(&mut named).collect()
    }

    fn template(&mut self, way: &Way, route: &file::Route) -> Option<Upstream> {
        let (labels, timeouts, pool) = (BTreeMap::new(), timeouts(&route.timeouts), file::Pool::default());
        let (trust, health) = (file::Trust::default(), file::Health::default());
        let manner = Manner {
            labels: route.labels.as_ref().unwrap_or(&labels),
            selector: route.selector.as_ref(),
            timeouts: &timeouts,
            protocol: route.protocol.as_deref(),
            tls: route.tls.as_ref(),
            proxy_protocol: route.proxy_protocol.as_deref(),
            pool: route.pool.as_ref().unwrap_or(&pool),
            retries: route.retries.as_ref(),
            leave_ms: route.leave_ms.unwrap_or(0),
            breaker: route.breaker.as_ref(),
            limits: route.limits.as_ref(),
            reliability: Written {
                trust: route.trust.as_ref().unwrap_or(&trust),
                health: route.health.as_ref().unwrap_or(&health),
                check: route.check.as_ref(),
                priority_threshold: route.priority_threshold,
            },
            offer: offer::Written {
                slow_start_secs: route.slow_start_secs.unwrap_or_default(),
                zone_aware: route.zone_aware.as_ref(),
                subset: route.subset.as_ref(),
            },
        };
        self.manner(way, UpstreamName::new(way.to_string()), &manner)
    }

    /// Records the keys that only routes of this kind have.
    pub(super) fn nothing_of_by_name(&mut self, way: &Way) {
        let timeouts = TIMEOUTS.map(|key| (way.key("timeouts").key(key), key));
        for (way, key) in KEYS.map(|key| (way.key(key), key)).into_iter().chain(timeouts) {
            if self.document.has(&way) {
                self.wrong_key(
                    &way,
                    format!("`{key}` is for routes that take the name of a service from the request"),
                )
                .hint("write it in the table of the upstream");
            }
        }
    }
}

/// Those of the upstreams that a route finds. What a route to an upstream has, too, is the route's own, so that two of
/// them may differ in it.
fn timeouts(route: &file::RouteTimeouts) -> file::Timeouts {
    let default = file::Timeouts::default();
    file::Timeouts {
        connect_ms: route.connect_ms.unwrap_or(default.connect_ms),
        write_ms: route.write_ms.unwrap_or(default.write_ms),
        ..default
    }
}
