//! `/metrics`: reads the counters where they are, when somebody asks.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    Parts,
    plugins::{origin, state},
    time::age_seconds,
};
use crate::{
    catalog::Upstream,
    plugin::{PluginInfo, State},
    resilience::{Cause, Gate, MOST_IN_FLIGHT, RateTable},
    telemetry::{
        Abuse, Carried, Exposition, FAILURES, FAULTS, Format, HandshakeFailure, ProxyRefusal, Refused,
        UpstreamCounts, Value, access, log,
        names::{self, Metric},
        trace::{self, Loss},
    },
    upstream::{Reason, SourceStatus, Status},
};

/// The classes of statuses, as they are counted.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Everything that is exposed.
pub(super) fn all(parts: &Parts, format: Format) -> Vec<u8> {
    let mut exposition = Exposition::new(format);
    let upstreams = upstreams(parts);
    requests(&mut exposition, &upstreams);
    times(&mut exposition, parts, &upstreams);
    overload(&mut exposition, &upstreams);
    rates(&mut exposition, parts);
    lists(&mut exposition, &upstreams);
    sources(&mut exposition, &upstreams);
    plugins(&mut exposition, &parts.plugins.list());
    process(&mut exposition, parts);
    exposition.finish()
}

/// The configured upstreams, and of those found by name the ones that have, or had, endpoints.
fn upstreams(parts: &Parts) -> Vec<Arc<Upstream>> {
    let (table, found) = (parts.catalog.table(), parts.catalog.found());
    let found = found.values().filter(|upstream| upstream.reader.snapshot().generation() > 0);
    let mut upstreams: Vec<_> = table.upstreams.values().chain(found).cloned().collect();
    upstreams.sort_by(|one, other| one.name().cmp(other.name()));
    upstreams
}

fn requests(exposition: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let counts: Vec<(&str, UpstreamCounts)> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.metrics.counts())).collect();
    let statuses = counts.iter().flat_map(|(name, counts)| {
        CLASSES.into_iter().zip(counts.statuses).map(|(class, count)| ([*name, class], count))
    });
    series(exposition, &names::REQUESTS, statuses);
    let of = |figure: fn(&UpstreamCounts) -> u64| {
        counts.iter().map(move |(name, counts)| ([*name], figure(counts)))
    };
    series(exposition, &names::TRIES, of(UpstreamCounts::tries));
    let retries = counts.iter().flat_map(|(name, counts)| {
        Cause::ALL.into_iter().zip(counts.retries).map(|(cause, count)| ([*name, cause.as_str()], count))
    });
    series(exposition, &names::RETRIES, retries);
    series(exposition, &names::RETRIES_REFUSED, of(|counts| counts.refused));
    series(exposition, &names::HEDGES, of(|counts| counts.hedges));
    series(exposition, &names::HEDGES_WON, of(|counts| counts.hedges_won));
    series(exposition, &names::HEDGES_CANCELLED, of(|counts| counts.hedges_cancelled));
    let failures = counts.iter().flat_map(|(name, counts)| {
        FAILURES.into_iter().zip(counts.failures).map(|(kind, count)| ([*name, kind], count))
    });
    series(exposition, &names::FAILURES, failures);
    let cut = counts.iter().flat_map(|(name, counts)| {
        FAULTS.into_iter().zip(counts.cut).map(|(fault, count)| ([*name, fault], count))
    });
    series(exposition, &names::CUT, cut);
    let ended = counts.iter().map(|(name, counts)| ([*name, "endpoint-left"], counts.left));
    series(exposition, &names::ENDED, ended);
    series(exposition, &names::INTERIM, of(|counts| counts.interim));
    series(exposition, &names::TRAILERS_DROPPED, of(|counts| counts.trailers_dropped));
    // Most upstreams have none.
    let carried: Vec<_> = counts.iter().filter(|(_, counts)| counts.carried.connections > 0).collect();
    let of =
        |figure: fn(&Carried) -> u64| carried.iter().map(move |(name, of)| ([*name], figure(&of.carried)));
    series(exposition, &names::TCP_CONNECTIONS, of(|carried| carried.connections));
    let seconds = carried.iter().map(|(name, counts)| ([*name], counts.carried.took.as_secs_f64()));
    series(exposition, &names::TCP_SECONDS, seconds);
    let bytes = carried.iter().flat_map(|(name, counts)| {
        let Carried { received, sent, .. } = counts.carried;
        [([*name, "received"], received), ([*name, "sent"], sent)]
    });
    series(exposition, &names::TCP_BYTES, bytes);
    let mut durations = exposition.family(&names::REQUEST_DURATION);
    for (upstream, (name, counts)) in upstreams.iter().zip(&counts) {
        durations.histogram([name], &counts.latencies, &upstream.metrics.native());
    }
}

/// Only what there was: most routes have few methods and classes.
fn times(exposition: &mut Exposition, parts: &Parts, upstreams: &[Arc<Upstream>]) {
    let table = parts.catalog.table();
    let routes: BTreeSet<_> = table.config.routes.iter().map(|route| &route.name).collect();
    let mut durations = exposition.family(&names::SERVER_DURATION);
    for upstream in upstreams {
        let all = upstream.metrics.times();
        for (route, times) in all.iter().filter(|(route, _)| routes.contains(route)) {
            for (method, class, latencies, native) in times.counts() {
                let name = upstream.name().as_str();
                durations.histogram([&**route, name, method.as_str(), CLASSES[class]], &latencies, &native);
            }
        }
    }
}

/// What upstreams are spared.
fn overload(exposition: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let now = Instant::now();
    let refused = upstreams.iter().flat_map(|upstream| {
        let counts = Refused::ALL.into_iter().zip(upstream.metrics.counts().not_sent);
        counts.map(|(refused, count)| ([upstream.name().as_str(), refused.as_str()], count))
    });
    series(exposition, &names::REFUSED, refused);
    let open = upstreams
        .iter()
        .filter_map(|upstream| Some(([upstream.name().as_str()], u64::from(upstream.is_breaker_open(now)?))));
    series(exposition, &names::BREAKER_OPEN, open);
    let of = |figure: fn(&Gate) -> u32| {
        upstreams.iter().filter_map(move |upstream| {
            Some(([upstream.name().as_str()], u64::from(figure(upstream.gate.as_ref()?))))
        })
    };
    series(exposition, &names::IN_FLIGHT, of(Gate::in_flight));
    series(exposition, &names::QUEUED, of(Gate::waiting));
    // Where only endpoints have a limit, there is none of the upstream.
    let limited = of(Gate::limit).filter(|(_, limit)| *limit < u64::from(MOST_IN_FLIGHT));
    series(exposition, &names::IN_FLIGHT_LIMIT, limited);
}

fn rates(exposition: &mut Exposition, parts: &Parts) {
    let table = parts.catalog.table();
    let of = |figure: fn(&RateTable) -> u64| {
        let routes = table.config.routes.iter().zip(&table.rates);
        routes.filter_map(move |(route, rate)| Some(([&*route.name], figure(rate.as_ref()?))))
    };
    series(exposition, &names::RATE_LIMITED, of(RateTable::refused));
    series(exposition, &names::RATE_KEYS, of(|rate| rate.keys() as u64));
}

fn lists(exposition: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let of = |figure: fn(&Upstream) -> u64| {
        upstreams.iter().map(move |upstream| ([upstream.name().as_str()], figure(upstream)))
    };
    series(exposition, &names::ENDPOINTS, of(|upstream| upstream.reader.snapshot().len() as u64));
    let statuses: Vec<_> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.status())).collect();
    let ejected = statuses.iter().flat_map(|(name, status)| {
        let out = |reason| status.ejected.iter().filter(|of| of.reason == reason).count() as u64;
        Reason::ALL.into_iter().map(move |reason| ([*name, reason.as_str()], out(reason)))
    });
    series(exposition, &names::EJECTED, ejected);
    let standby = statuses.iter().map(|(name, status)| ([*name], status.standby.len() as u64));
    series(exposition, &names::STANDBY, standby);
    let figure =
        |of: fn(&Status) -> usize| statuses.iter().map(move |(name, status)| ([*name], of(status) as u64));
    series(exposition, &names::DRAINING, figure(|status| status.draining.len()));
    series(exposition, &names::SLOW_START, figure(|status| status.starting));
    series(exposition, &names::UNUSED, figure(|status| status.unused));
    let local = statuses.iter().filter_map(|(name, status)| Some(([*name], status.local?)));
    series(exposition, &names::LOCAL, local);
    series(exposition, &names::GROUPS, figure(|status| status.groups));
    let of_status =
        |is: fn(&Status) -> bool| statuses.iter().map(move |(name, status)| ([*name], u64::from(is(status))));
    series(exposition, &names::PANIC, of_status(|status| status.panic));
    series(exposition, &names::DRAINED, of_status(|status| status.drained));
    series(exposition, &names::PINNED, of_status(|status| status.pin.is_some()));
    series(exposition, &names::UNSAVED, of_status(|status| status.unsaved.is_some()));
    series(exposition, &names::GENERATION, of(|upstream| upstream.reader.snapshot().generation()));
    series(exposition, &names::WORKERS_BEHIND, of(workers_behind));
}

fn workers_behind(upstream: &Upstream) -> u64 {
    let generation = upstream.reader.settled_generation(Instant::now());
    upstream.progress.iter().filter(|progress| progress.is_behind(generation)).count() as u64
}

fn sources(exposition: &mut Exposition, upstreams: &[Arc<Upstream>]) {
    let now = SystemTime::now();
    let statuses: Vec<_> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.status())).collect();
    let sources: Vec<(&str, &SourceStatus)> =
        statuses.iter().flat_map(|(name, status)| status.sources.iter().map(|of| (*name, of))).collect();
    let all = || sources.iter().map(|(upstream, of)| ([*upstream, &of.name.registry, &of.name.service], *of));
    let info = all()
        .map(|([upstream, registry, service], of)| ([upstream, registry, service, of.origin.as_str()], 1u64));
    series(exposition, &names::SOURCE_INFO, info);
    let ages = all().filter_map(|(names, of)| Some((names, age_seconds(of, now)?)));
    series(exposition, &names::SOURCE_AGE, ages);
    let failing = all().map(|(names, of)| (names, u64::from(of.failure.is_some())));
    series(exposition, &names::SOURCE_FAILING, failing);
    let stale = all().map(|(names, of)| (names, u64::from(of.is_stale(now))));
    series(exposition, &names::SOURCE_STALE, stale);
    series(exposition, &names::SOURCE_INSTANCES, all().map(|(names, of)| (names, of.claims as u64)));
    series(exposition, &names::SOURCE_LEFT_OUT, all().map(|(names, of)| (names, of.left_out.count as u64)));
    let unresolved = all().map(|(names, of)| (names, of.left_out.unresolved_names as u64));
    series(exposition, &names::SOURCE_UNRESOLVED, unresolved);
    series(exposition, &names::RESERVE, all().map(|(names, of)| (names, of.reserve.len() as u64)));
    let offered = all().map(|(names, of)| (names, u64::from(of.reserve_offered)));
    series(exposition, &names::RESERVE_OFFERED, offered);
}

fn plugins(exposition: &mut Exposition, plugins: &[PluginInfo]) {
    let mut loaded = exposition.family(&names::PLUGIN_INFO);
    for plugin in plugins {
        let (Some(kind), Some(from), Some(digest)) = (plugin.kind, &plugin.origin, plugin.digest) else {
            continue;
        };
        let (kind, digest) = (kind.to_string(), digest.to_string());
        let values = [&plugin.name, kind.as_str(), origin(from), &digest, state(plugin.state)];
        loaded.series(values, 1u64);
    }
    let of = |figure: fn(&PluginInfo) -> u64| plugins.iter().map(move |of| ([&*of.name], figure(of)));
    series(exposition, &names::PLUGIN_FAULTS, of(|plugin| plugin.faults));
    series(exposition, &names::PLUGIN_REFUSALS, of(|plugin| plugin.refusals));
    series(
        exposition,
        &names::PLUGIN_QUARANTINED,
        of(|plugin| u64::from(plugin.state == State::Quarantined)),
    );
}

fn process(exposition: &mut Exposition, parts: &Parts) {
    let Parts { catalog, memory, files, metrics, readiness, .. } = parts;
    let unrouted = metrics.unrouted.counts().statuses;
    series(exposition, &names::UNROUTED, CLASSES.into_iter().zip(unrouted).map(|(c, n)| ([c], n)));
    one(exposition, &names::FOUND, catalog.found().len() as u64);
    one(exposition, &names::REGISTERED, memory.count() as u64);
    one(exposition, &names::REGISTRY_UNSAVED, u64::from(memory.is_failing()));
    let listeners = metrics.listeners();
    series(exposition, &names::CONNECTIONS, listeners.iter().map(|of| ([&*of.name], of.open)));
    series(exposition, &names::CONNECTIONS_ACCEPTED, listeners.iter().map(|of| ([&*of.name], of.accepted)));
    let abused = listeners.iter().flat_map(|of| {
        Abuse::ALL.into_iter().zip(of.abused).map(|(kind, count)| ([&*of.name, kind.as_str()], count))
    });
    series(exposition, &names::HTTP2_ABUSE, abused);
    let handshakes = listeners.iter().flat_map(|of| {
        ["full", "resumed"].into_iter().zip(of.handshakes).map(|(kind, count)| ([&*of.name, kind], count))
    });
    series(exposition, &names::HANDSHAKES, handshakes);
    let failed = listeners.iter().flat_map(|of| {
        let counts = HandshakeFailure::ALL.into_iter().zip(of.handshakes_failed);
        counts.map(|(reason, count)| ([&*of.name, reason.as_str()], count))
    });
    series(exposition, &names::HANDSHAKES_FAILED, failed);
    let refused = listeners.iter().flat_map(|of| {
        let counts = ProxyRefusal::ALL.into_iter().zip(of.proxy_refused);
        counts.map(|(reason, count)| ([&*of.name, reason.as_str()], count))
    });
    series(exposition, &names::PROXY_REFUSED, refused);
    let files: Vec<_> =
        files.counted().into_iter().map(|(path, counted)| (path.display().to_string(), counted)).collect();
    let ends = files.iter().filter_map(|(file, counted)| Some(([file.as_str()], counted.ends?)));
    series(exposition, &names::CERTIFICATE_END, ends);
    let changes = files.iter().flat_map(|(file, counted)| {
        [("taken", counted.taken), ("refused", counted.refused)]
            .map(|(result, count)| ([file.as_str(), result], count))
    });
    series(exposition, &names::TLS_FILES, changes);
    let tasks: Vec<_> =
        metrics.tasks().into_iter().map(|(worker, tasks)| (worker.to_string(), tasks)).collect();
    series(exposition, &names::TASKS, tasks.iter().map(|(worker, tasks)| ([worker.as_str()], *tasks)));
    series(exposition, &names::RELOADS, metrics.reloads().map(|(result, n)| ([result.as_str()], n)));
    series(exposition, &names::LOG_LINES_LOST, [([], log::lost())]);
    series(exposition, &names::ACCESS_LOG_LINES_LOST, [([], access::lost())]);
    let (exported, lost) = trace::counts();
    one(exposition, &names::SPANS_EXPORTED, exported);
    series(exposition, &names::SPANS_LOST, Loss::ALL.map(|why| [why.as_str()]).into_iter().zip(lost));
    one(exposition, &names::READY, u64::from(readiness.is_ready()));
    series(exposition, &names::BUILD_INFO, [([env!("CARGO_PKG_VERSION")], 1u64)]);
}

fn one(exposition: &mut Exposition, metric: &Metric, value: u64) {
    series(exposition, metric, [([], value)]);
}

/// Writes one line for each of `values`, which name the labels' values in the order of the metric's labels.
fn series<'a, const N: usize, V: Into<Value>>(
    exposition: &mut Exposition,
    metric: &Metric,
    values: impl IntoIterator<Item = ([&'a str; N], V)>,
) {
    let mut family = exposition.family(metric);
    for (labels, value) in values {
        family.series(labels, value);
    }
}
