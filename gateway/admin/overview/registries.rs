//! How the registries stand, each over all services that are read from it.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;

use super::state::{State, count, period};
use crate::{
    config::Config,
    telemetry::{rfc3339, text::shown},
    upstream::{Origin, SourceStatus, Status},
};

#[derive(Serialize)]
pub(super) struct Registry {
    name: String,
    plugin: String,
    pub(super) state: State,
    /// `fresh`, `silent`, `suspect`, `denied`, `unheard` or `unused`.
    word: &'static str,
    /// Since when the first of its lists is not live; null while all are.
    since: Option<String>,
    /// When it answered last for the oldest of its lists; null while all are live, and where it never did.
    oldest_heard: Option<String>,
    /// A list is older than the operator is content with.
    stale: bool,
    /// What it last said, or why it says nothing.
    reason: Option<String>,
    lists: usize,
    live: usize,
}

impl Registry {
    /// What is wrong with it, for the verdict; none if nothing is.
    pub(super) fn complaint(&self, sources: &Sources<'_>, now: SystemTime) -> Option<String> {
        let since = sources.since().map(|since| period(now.duration_since(since).unwrap_or_default()));
        let since = since.unwrap_or_default();
        let (plugin, name) = (shown(&self.plugin), shown(&self.name));
        let frozen = if self.live == 0 { "lists" } else { "some lists" };
        Some(match self.word {
            "silent" => format!("{plugin} {name} silent for {since}, {frozen} frozen"),
            "suspect" => format!("{plugin} {name} not believed for {since}, {frozen} frozen"),
            "denied" => format!("{plugin} {name} denies access, {frozen} frozen"),
            "unheard" => format!("{plugin} {name} never answered"),
            _ => return None,
        })
    }
}

/// What is read from one registry.
#[derive(Default)]
pub(super) struct Sources<'a>(Vec<&'a SourceStatus>);

impl Sources<'_> {
    fn since(&self) -> Option<SystemTime> {
        self.0.iter().filter(|of| of.origin != Origin::Live).map(|of| of.since).min()
    }
}

/// By the name of the registry.
pub(super) fn sources<'a>(statuses: impl Iterator<Item = &'a Status>) -> BTreeMap<&'a str, Sources<'a>> {
    let mut all: BTreeMap<&str, Sources<'_>> = BTreeMap::new();
    for source in statuses.flat_map(|status| &status.sources) {
        all.entry(&source.name.registry).or_default().0.push(source);
    }
    all
}

/// Every registry of the configuration, the worst first.
pub(super) fn all<'a>(
    config: &Config,
    sources: &'a BTreeMap<&'a str, Sources<'a>>,
    now: SystemTime,
) -> Vec<(Registry, &'a Sources<'a>)> {
    static NONE: Sources<'static> = Sources(Vec::new());
    let row = |registry: &std::sync::Arc<crate::config::Registry>| {
        let of = sources.get(&*registry.name).unwrap_or(&NONE);
        (one(&registry.name, &registry.plugin, of, now), of)
    };
    let mut rows: Vec<_> = config.registries.values().map(row).collect();
    rows.sort_by_key(|(registry, _)| registry.state);
    rows
}

fn one(name: &str, plugin: &str, Sources(sources): &Sources<'_>, now: SystemTime) -> Registry {
    let live = sources.iter().filter(|of| of.origin == Origin::Live && of.failure.is_none()).count();
    let kind = |kind: &str| sources.iter().find(|of| of.failure.as_ref().is_some_and(|(of, _)| *of == kind));
    let failing = || sources.iter().find(|of| of.failure.is_some());
    let blamed = kind("denied").or_else(|| kind("suspect")).or_else(failing);
    let heard = |of: &&&SourceStatus| of.heard.is_some();
    let (state, word) = if sources.is_empty() {
        (State::Unknown, "unused")
    } else if live == sources.len() {
        (State::Ok, "fresh")
    } else if !sources.iter().any(|of| heard(&of)) {
        (State::Unknown, "unheard")
    } else {
        let word = match blamed.and_then(|of| of.failure.as_ref()).map(|(kind, _)| *kind) {
            Some("denied") => "denied",
            Some("suspect") => "suspect",
            _ => "silent",
        };
        (State::Degraded, word)
    };
    let others = || sources.iter().filter(|of| of.origin != Origin::Live);
    Registry {
        name: name.to_owned(),
        plugin: plugin.to_owned(),
        state,
        word,
        since: others().map(|of| of.since).min().map(rfc3339),
        oldest_heard: others().filter(heard).filter_map(|of| of.heard).min().map(rfc3339),
        stale: sources.iter().any(|of| of.is_stale(now)),
        reason: blamed.and_then(|of| of.failure.as_ref()).map(|(_, text)| shown(text).to_string()),
        lists: sources.len(),
        live,
    }
}

/// What is wrong with a source of an upstream, as the upstream tells it; none if nothing is.
pub(super) fn complaint(source: &SourceStatus, now: SystemTime) -> Option<String> {
    let name = shown(&source.name.registry);
    let age = || period(source.age(now));
    let kind = source.failure.as_ref().map(|(kind, _)| *kind);
    Some(match (source.origin, kind) {
        (Origin::Live, None) => {
            let left_out = source.left_out.count + source.left_out.unresolved_names;
            return (left_out > 0).then(|| format!("{} of {name} left out", count(left_out, "instance")));
        }
        (Origin::Unknown, _) => format!("{name} never answered"),
        (_, Some("suspect")) => format!("list of {name} frozen for {}: it is not believed", age()),
        (_, Some("denied")) => format!("list of {name} frozen for {}: access is denied", age()),
        (Origin::Restored, _) => format!("list of {name} is from disk, {} old", age()),
        _ => format!("list of {name} frozen for {}: it is silent", age()),
    })
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::upstream::SourceName;

    const NOW: Duration = Duration::from_secs(1_000);

    fn source(origin: Origin, heard: Option<u64>, failure: Option<&'static str>) -> SourceStatus {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        SourceStatus {
            name: SourceName { registry: "main".into(), service: "orders".into() },
            origin,
            since: at(800),
            heard: heard.map(at),
            failure: failure.map(|kind| (kind, "connection\nrefused".to_owned())),
            claims: 1,
            left_out: Arc::default(),
            reserve: Arc::default(),
            reserve_offered: false,
            max_stale: Duration::from_secs(300),
        }
    }

    #[track_caller]
    fn check(sources: &[SourceStatus], state: State, word: &str, complaint: Option<&str>) -> Registry {
        let (of, now) = (Sources(sources.iter().collect()), SystemTime::UNIX_EPOCH + NOW);
        let registry = one("main", "etcd", &of, now);
        assert_eq!((registry.state, registry.word), (state, word));
        assert_eq!(registry.complaint(&of, now).as_deref(), complaint);
        registry
    }

    #[test]
    fn a_registry_is_as_well_as_the_worst_of_its_lists() {
        let live = || source(Origin::Live, Some(990), None);
        check(&[live(), live()], State::Ok, "fresh", None);
        let silent = source(Origin::Frozen, Some(600), Some("unavailable"));
        let registry = check(
            &[live(), silent],
            State::Degraded,
            "silent",
            Some("etcd main silent for 3 min, some lists frozen"),
        );
        assert!(registry.stale && (registry.lists, registry.live) == (2, 1));
        assert_eq!(registry.reason.as_deref(), Some("connection\\nrefused"));
        assert_eq!(registry.oldest_heard.as_deref(), Some("1970-01-01T00:10:00.000Z"));
        let suspect = source(Origin::Frozen, Some(990), Some("suspect"));
        let text = "etcd main not believed for 3 min, lists frozen";
        check(&[suspect], State::Degraded, "suspect", Some(text));
    }

    #[test]
    fn what_never_answered_is_unknown() {
        let unheard = source(Origin::Unknown, None, Some("unavailable"));
        check(&[unheard], State::Unknown, "unheard", Some("etcd main never answered"));
        check(&[], State::Unknown, "unused", None);
    }
}
