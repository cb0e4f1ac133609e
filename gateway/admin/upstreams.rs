//! What the API says of upstreams.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{answer::Rejection, overview::Service, time::age_seconds};
use crate::{
    catalog::{Catalog, Upstream},
    connector::memory::label_object,
    resilience::{Gate, MOST_IN_FLIGHT},
    selector::Progress,
    telemetry::{rfc3339, text::shown},
    upstream::{self, Addresses, UpstreamName},
};

/// Addresses named per reserve; the rest is only counted.
const NAMED: usize = 20;

/// The places of the sources that endpoints are from.
pub(super) type Sources = HashMap<SocketAddr, usize>;

#[derive(Serialize)]
pub(super) struct Upstreams {
    upstreams: Vec<Summary>,
}

#[derive(Serialize)]
struct Summary {
    name: String,
    /// A request named its service; it is not configured.
    found: bool,
    generation: u64,
    endpoint_count: usize,
    /// Null: the list follows its sources.
    pinned: Option<Pinned>,
    /// Endpoints that drain by an order.
    draining_count: usize,
    /// Endpoints that failed and get no requests, unless there is a panic.
    ejected_count: usize,
    /// Endpoints that get no requests while those before them answer.
    standby_count: usize,
    /// Endpoints that do not have all of their weight yet.
    slow_start_count: usize,
    /// Endpoints that are left to other gateways.
    unused_count: usize,
    /// The share of requests that is to stay in the zone of the gateway; null where zones are not looked at.
    zone_share: Option<f64>,
    /// Null where nothing limits them.
    requests: Option<Requests>,
    /// Whether the breaker refuses requests; null without one.
    breaker_open: Option<bool>,
    panic: bool,
    /// Nobody gets requests, because the instances there are have weight 0.
    drained: bool,
    /// Null, or why the list is not safe on disk.
    unsaved: Option<String>,
    selector: Selector,
    sources: Vec<Source>,
    workers: Vec<Worker>,
}

#[derive(Serialize)]
pub(super) struct Detail {
    #[serde(flatten)]
    summary: Summary,
    /// How it stands and went lately; not told to who gave an order.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Service>,
    endpoints: Vec<Endpoint>,
    draining: Vec<Draining>,
    ejected: Vec<Ejected>,
    standby: Vec<Standby>,
    history: Vec<Generation>,
}

impl Detail {
    pub(super) fn with(mut self, standing: Service, sources: &Sources) -> Self {
        self.standing = Some(standing);
        self.endpoints.iter_mut().for_each(|of| of.source = sources.get(&of.address).copied());
        self.ejected.iter_mut().for_each(|of| of.source = sources.get(&of.address).copied());
        self.standby.iter_mut().for_each(|of| of.source = sources.get(&of.address).copied());
        self
    }
}

#[derive(Serialize)]
struct Requests {
    in_flight: u32,
    /// How many may be in flight; null where only endpoints have a limit.
    limit: Option<u32>,
    /// They wait for others to end.
    queued: u32,
}

#[derive(Serialize)]
struct Pinned {
    since: String,
    endpoints: usize,
}

/// An endpoint that drains by an order.
#[derive(Serialize)]
struct Draining {
    address: SocketAddr,
    since: String,
    /// What is under way to it still.
    in_flight: u32,
    connections: u32,
}

#[derive(Serialize)]
struct Ejected {
    address: SocketAddr,
    /// Where it is from, as in [`Endpoint`].
    source: Option<usize>,
    weight: Option<u32>,
    zone: Option<String>,
    reason: &'static str,
    /// Since when it is out.
    since: String,
}

#[derive(Serialize)]
struct Standby {
    address: SocketAddr,
    /// Where it is from, as in [`Endpoint`].
    source: Option<usize>,
    state: &'static str,
    priority: u32,
    zone: Option<String>,
    /// What it waits behind.
    reason: &'static str,
}

#[derive(Serialize)]
struct Selector {
    plugin: String,
    settings: serde_json::Value,
}

#[derive(Serialize)]
struct Source {
    registry: String,
    service: String,
    origin: &'static str,
    since: String,
    /// 0 while it is live, null while the registry never answered.
    age_seconds: Option<f64>,
    /// Older than the operator is content with.
    stale: bool,
    instances: usize,
    left_out: LeftOuts,
    reserve: Reserve,
    failure: Option<SourceFailure>,
}

#[derive(Serialize)]
struct LeftOuts {
    count: usize,
    /// The first few of them.
    instances: Vec<LeftOut>,
    unresolved_names: usize,
}

#[derive(Serialize)]
struct LeftOut {
    id: String,
    address: String,
    reason: String,
}

#[derive(Serialize)]
struct Reserve {
    count: usize,
    /// Whether it gets requests.
    offered: bool,
    /// Since when the oldest of it is held back.
    since: Option<String>,
    /// The first few of them.
    addresses: Vec<SocketAddr>,
}

#[derive(Serialize)]
struct SourceFailure {
    kind: &'static str,
    error: String,
}

#[derive(Serialize)]
struct Endpoint {
    slot: u32,
    address: SocketAddr,
    /// The place of the source whose word counts; null where that is not known.
    source: Option<usize>,
    weight: u32,
    /// As selectors see it: times 100, and all that follows.
    effective_weight: u32,
    /// The part of its weight that a slow start leaves it; null when there is none.
    slow_start: Option<f32>,
    /// The part that is left to its zone; null when that is all.
    zone_part: Option<f32>,
    /// The part that is left to its priority; null when that is all.
    priority_part: Option<f32>,
    state: &'static str,
    priority: u32,
    hostname: Option<String>,
    zone: Option<String>,
    #[serde(serialize_with = "label_object::serialize")]
    labels: Vec<(String, String)>,
    in_flight: u32,
    /// That are open, of all workers.
    connections: u32,
    /// Null while there is no sample.
    latency_ms: Option<f64>,
    success: f64,
    consecutive_failures: u32,
    requests: u64,
    failures: u64,
}

#[derive(Serialize)]
struct Worker {
    generation: u64,
    /// The version of the plugin that picks, 0 while the native round robin stands in.
    selector_version: u64,
}

#[derive(Serialize)]
pub(super) struct Generation {
    pub generation: u64,
    at: String,
    /// Null, like the service, where the operator ordered it.
    registry: Option<String>,
    service: Option<String>,
    cause: &'static str,
    /// Null, unless the cause is a roll-back.
    rolled_back_to: Option<u64>,
    /// False: the list was pinned, so this was recorded and changed nothing.
    applied: bool,
    added: Changed,
    updated: Changed,
    removed: Changed,
    held: Changed,
}

#[derive(Serialize)]
struct Changed {
    count: usize,
    /// The first few of them.
    addresses: Vec<SocketAddr>,
}

/// All upstreams, ordered by name.
pub(super) fn all(catalog: &Catalog) -> Upstreams {
    let (table, found, now) = (catalog.table(), catalog.found(), SystemTime::now());
    let configured = table.upstreams.values().map(|upstream| summary(upstream, false, now));
    let found = found.values().map(|upstream| summary(upstream, true, now));
    let mut upstreams: Vec<_> = configured.chain(found).collect();
    upstreams.sort_by(|one, other| one.name.cmp(&other.name));
    Upstreams { upstreams }
}

/// The configured ones and those that requests named, ordered by name.
pub(super) fn running(catalog: &Catalog) -> Vec<Arc<Upstream>> {
    let (table, found) = (catalog.table(), catalog.found());
    let mut upstreams: Vec<_> = table.upstreams.values().chain(found.values()).cloned().collect();
    upstreams.sort_by(|one, other| one.name().cmp(other.name()));
    upstreams
}

pub(super) fn one(catalog: &Catalog, name: &str) -> Result<Detail, Rejection> {
    let upstream = find(catalog, name)?;
    let found = !catalog.table().upstreams.contains_key(upstream.name());
    Ok(detail(&upstream, found, SystemTime::now()))
}

/// A configured upstream, or one that a request named.
pub(super) fn find(catalog: &Catalog, name: &str) -> Result<Arc<Upstream>, Rejection> {
    let key = UpstreamName::new(name);
    let configured = catalog.table().upstreams.get(&key).cloned();
    configured
        .or_else(|| catalog.found().get(&key).cloned())
        .ok_or(Rejection::NotFound { kind: "upstream", name: name.to_owned() })
}

fn summary(upstream: &Upstream, found: bool, now: SystemTime) -> Summary {
    let snapshot = upstream.reader.snapshot();
    let (selector, status) = (&upstream.config.selector, upstream.status());
    Summary {
        name: upstream.name().to_string(),
        found,
        generation: snapshot.generation(),
        endpoint_count: snapshot.len(),
        pinned: status.pin.map(|pin| Pinned { since: rfc3339(pin.since), endpoints: pin.endpoints }),
        draining_count: status.draining.len(),
        ejected_count: status.ejected.len(),
        standby_count: status.standby.len(),
        slow_start_count: status.starting,
        unused_count: status.unused,
        zone_share: status.local,
        requests: upstream.gate.as_deref().map(requests),
        breaker_open: upstream.is_breaker_open(Instant::now()),
        panic: status.panic,
        drained: status.drained,
        unsaved: status.unsaved.as_ref().map(|reason| shown(reason).to_string()),
        selector: Selector {
            plugin: selector.plugin.to_string(),
            settings: serde_json::from_str(&selector.settings).unwrap_or_default(),
        },
        sources: status.sources.iter().map(|status| source(status, now)).collect(),
        workers: upstream.progress.iter().map(|progress| worker(progress, upstream)).collect(),
    }
}

fn requests(gate: &Gate) -> Requests {
    let limit = Some(gate.limit()).filter(|limit| *limit < MOST_IN_FLIGHT);
    Requests { in_flight: gate.in_flight(), limit, queued: gate.waiting() }
}

fn source(status: &upstream::SourceStatus, now: SystemTime) -> Source {
    Source {
        registry: status.name.registry.to_string(),
        service: status.name.service.to_string(),
        origin: status.origin.as_str(),
        since: rfc3339(status.since),
        age_seconds: age_seconds(status, now),
        stale: status.is_stale(now),
        instances: status.claims,
        left_out: left_out(&status.left_out),
        reserve: reserve(status),
        failure: status
            .failure
            .as_ref()
            .map(|(kind, error)| SourceFailure { kind, error: shown(error).to_string() }),
    }
}

fn left_out(left_out: &upstream::LeftOuts) -> LeftOuts {
    let of = |of: &upstream::LeftOut| LeftOut {
        id: of.id.clone(),
        address: of.address.clone(),
        reason: of.reason.clone(),
    };
    let upstream::LeftOuts { count, first, unresolved_names } = left_out;
    LeftOuts { count: *count, instances: first.iter().map(of).collect(), unresolved_names: *unresolved_names }
}

fn reserve(status: &upstream::SourceStatus) -> Reserve {
    Reserve {
        count: status.reserve.len(),
        offered: status.reserve_offered,
        since: status.reserve.iter().map(|held| held.since).min().map(rfc3339),
        addresses: status.reserve.iter().take(NAMED).map(|held| held.address).collect(),
    }
}

fn worker(progress: &Progress, upstream: &Upstream) -> Worker {
    Worker {
        generation: progress.generation(),
        selector_version: progress.selector_version(&upstream.selector),
    }
}

fn detail(upstream: &Upstream, found: bool, now: SystemTime) -> Detail {
    let (snapshot, status) = (upstream.reader.snapshot(), upstream.status());
    Detail {
        summary: summary(upstream, found, now),
        standing: None,
        endpoints: snapshot.iter().map(|member| endpoint(member)).collect(),
        draining: status.draining.iter().map(draining).collect(),
        ejected: status.ejected.iter().map(ejected).collect(),
        standby: status.standby.iter().map(standby).collect(),
        history: history(&status).collect(),
    }
}

fn draining(of: &upstream::Draining) -> Draining {
    let figures = of.stats.as_ref().map(|stats| stats.figures());
    Draining {
        address: of.address,
        since: rfc3339(of.since),
        in_flight: figures.as_ref().map_or(0, |figures| figures.in_flight),
        connections: figures.as_ref().map_or(0, |figures| figures.connections),
    }
}

fn ejected(of: &upstream::Ejected) -> Ejected {
    Ejected {
        address: of.address,
        source: None,
        weight: of.weight.map(upstream::Weight::get),
        zone: of.zone.as_deref().map(str::to_owned),
        reason: of.reason.as_str(),
        since: rfc3339(of.since),
    }
}

fn standby(of: &upstream::Standby) -> Standby {
    Standby {
        address: of.address,
        source: None,
        state: of.facts.state.as_str(),
        priority: of.facts.priority,
        zone: of.facts.zone.as_deref().map(str::to_owned),
        reason: of.reason.as_str(),
    }
}

fn endpoint(member: &upstream::Member) -> Endpoint {
    let (figures, facts, effective) = (member.stats().figures(), member.facts(), member.effective());
    let part = |part: f32| Some(part).filter(|part| *part < 1.0);
    let latency = Some(figures.latency).filter(|latency| *latency != Duration::ZERO);
    Endpoint {
        slot: member.slot().0,
        address: member.address(),
        source: None,
        weight: member.endpoint().weight.get(),
        effective_weight: effective.weight.get(),
        slow_start: part(effective.slow_start),
        zone_part: part(effective.zone),
        priority_part: part(effective.priority),
        state: facts.state.as_str(),
        priority: facts.priority,
        hostname: facts.hostname.as_deref().map(str::to_owned),
        zone: facts.zone.as_deref().map(str::to_owned),
        labels: facts.labels.as_slice().to_vec(),
        in_flight: figures.in_flight,
        connections: figures.connections,
        latency_ms: latency.map(|latency| latency.as_micros() as f64 / 1e3),
        success: figures.success,
        consecutive_failures: figures.consecutive_failures,
        requests: figures.requests,
        failures: figures.failures,
    }
}

/// The changes of a list, the latest first.
pub(super) fn history(status: &upstream::Status) -> impl Iterator<Item = Generation> {
    status.history.iter().rev().map(|entry| generation(entry, status))
}

fn generation(entry: &upstream::Entry, status: &upstream::Status) -> Generation {
    // The sources of an upstream never change while it runs.
    let source = entry.source.and_then(|source| status.sources.get(source)).map(|source| &source.name);
    let rolled_back_to = match entry.cause {
        upstream::Cause::RolledBack { to } => Some(to),
        _ => None,
    };
    Generation {
        generation: entry.generation,
        at: rfc3339(entry.at),
        registry: source.map(|source| source.registry.to_string()),
        service: source.map(|source| source.service.to_string()),
        cause: entry.cause.as_str(),
        rolled_back_to,
        applied: entry.applied,
        added: changed(&entry.added),
        updated: changed(&entry.updated),
        removed: changed(&entry.removed),
        held: changed(&entry.held),
    }
}

fn changed(addresses: &Addresses) -> Changed {
    Changed { count: addresses.count, addresses: addresses.first.clone() }
}
