//! `/metrics`: reads the counters where they are, when somebody asks.

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use hyper::Response;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{
    Parts,
    answer::{Body, Rejection, with_type},
    plugins::{origin, state},
    time::age_seconds,
};
use crate::{
    catalog::Upstream,
    plugin::{PluginInfo, State},
    telemetry::{
        FAILURES, UpstreamCounts, log,
        names::{self, Kind, Metric},
        text::label,
    },
    upstream::{Reason, SourceStatus, Status},
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The classes of statuses, as they are counted.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What is exposed, as text.
pub(super) struct Exposition(Registry);

impl Exposition {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(parts)));
        Self(registry)
    }

    pub(super) fn answer(&self) -> Result<Response<Body>, Rejection> {
        let mut exposed = String::new();
        text::encode(&mut exposed, &self.0).map_err(|_| Rejection::Exposition)?;
        Ok(with_type(exposed, CONTENT_TYPE))
    }
}

struct Scrape(Arc<Parts>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let upstreams = self.upstreams();
        requests(&mut encoder, &upstreams)?;
        lists(&mut encoder, &upstreams)?;
        sources(&mut encoder, &upstreams)?;
        plugins(&mut encoder, &self.0.plugins.list())?;
        self.process(&mut encoder)
    }
}

impl Scrape {
    /// The configured upstreams, and of those found by name the ones that have, or had, endpoints.
    fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let (table, found) = (self.0.catalog.table(), self.0.catalog.found());
        let found = found.values().filter(|upstream| upstream.reader.snapshot().generation() > 0);
        let mut upstreams: Vec<_> = table.upstreams.values().chain(found).cloned().collect();
        upstreams.sort_by(|one, other| one.name().cmp(other.name()));
        upstreams
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Parts { catalog, memory, metrics, readiness, .. } = &*self.0;
        let registered: usize = memory.services().iter().map(|service| service.instances).sum();
        let unrouted = metrics.unrouted.counts().statuses;
        counters(encoder, &names::UNROUTED, CLASSES.into_iter().zip(unrouted).map(|(c, n)| ([c], n)))?;
        gauge(encoder, &names::FOUND, catalog.found().len() as u64)?;
        gauge(encoder, &names::REGISTERED, registered as u64)?;
        let listeners = metrics.listeners();
        gauges(encoder, &names::CONNECTIONS, listeners.iter().map(|of| ([&*of.name], of.open)))?;
        counters(
            encoder,
            &names::CONNECTIONS_ACCEPTED,
            listeners.iter().map(|of| ([&*of.name], of.accepted)),
        )?;
        counters(encoder, &names::RELOADS, metrics.reloads().map(|(result, n)| ([result.as_str()], n)))?;
        counters(encoder, &names::LOG_LINES_LOST, [([], log::lost())])?;
        gauge(encoder, &names::READY, u64::from(readiness.is_ready()))?;
        gauges(encoder, &names::BUILD_INFO, [([env!("CARGO_PKG_VERSION")], 1u64)])
    }
}

fn requests(encoder: &mut DescriptorEncoder<'_>, upstreams: &[Arc<Upstream>]) -> fmt::Result {
    let counts: Vec<(&str, UpstreamCounts)> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.metrics.counts())).collect();
    let statuses = counts.iter().flat_map(|(name, counts)| {
        CLASSES.into_iter().zip(counts.statuses).map(|(class, count)| ([*name, class], count))
    });
    counters(encoder, &names::REQUESTS, statuses)?;
    counters(encoder, &names::RETRIES, counts.iter().map(|(name, counts)| ([*name], counts.retries)))?;
    let failures = counts.iter().flat_map(|(name, counts)| {
        FAILURES.into_iter().zip(counts.failures).map(|(kind, count)| ([*name, kind], count))
    });
    counters(encoder, &names::FAILURES, failures)?;
    let mut family = family(encoder, &names::REQUEST_DURATION)?;
    for (name, counts) in &counts {
        let latencies = &counts.latencies;
        let labels = labels(&names::REQUEST_DURATION, [name]);
        let mut metric = family.encode_family(&labels)?;
        let (sum, count) = (latencies.sum.as_secs_f64(), latencies.count());
        metric.encode_histogram::<NoLabelSet>(sum, count, &latencies.buckets(), None)?;
    }
    Ok(())
}

fn lists(encoder: &mut DescriptorEncoder<'_>, upstreams: &[Arc<Upstream>]) -> fmt::Result {
    let of = |figure: fn(&Upstream) -> u64| {
        upstreams.iter().map(move |upstream| ([upstream.name().as_str()], figure(upstream)))
    };
    gauges(encoder, &names::ENDPOINTS, of(|upstream| upstream.reader.snapshot().len() as u64))?;
    let statuses: Vec<_> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.status())).collect();
    let ejected = statuses.iter().flat_map(|(name, status)| {
        let out = |reason| status.ejected.iter().filter(|(_, of)| *of == reason).count() as u64;
        Reason::ALL.into_iter().map(move |reason| ([*name, reason.as_str()], out(reason)))
    });
    gauges(encoder, &names::EJECTED, ejected)?;
    let of_status =
        |is: fn(&Status) -> bool| statuses.iter().map(move |(name, status)| ([*name], u64::from(is(status))));
    gauges(encoder, &names::PANIC, of_status(|status| status.panic))?;
    gauges(encoder, &names::DRAINED, of_status(|status| status.drained))?;
    gauges(encoder, &names::PINNED, of_status(|status| status.pin.is_some()))?;
    gauges(encoder, &names::UNSAVED, of_status(|status| status.unsaved.is_some()))?;
    gauges(encoder, &names::GENERATION, of(|upstream| upstream.reader.snapshot().generation()))?;
    gauges(encoder, &names::WORKERS_BEHIND, of(workers_behind))
}

fn workers_behind(upstream: &Upstream) -> u64 {
    let generation = upstream.reader.snapshot().generation();
    // A worker that no request led to this upstream has no view of it, and stands at 0.
    let behind = |seen: &u64| (1..generation).contains(seen);
    upstream.progress.iter().map(|progress| progress.generation.load(Relaxed)).filter(behind).count() as u64
}

fn sources(encoder: &mut DescriptorEncoder<'_>, upstreams: &[Arc<Upstream>]) -> fmt::Result {
    let now = SystemTime::now();
    let statuses: Vec<_> =
        upstreams.iter().map(|upstream| (upstream.name().as_str(), upstream.status())).collect();
    let sources: Vec<(&str, &SourceStatus)> =
        statuses.iter().flat_map(|(name, status)| status.sources.iter().map(|of| (*name, of))).collect();
    let all = || sources.iter().map(|(upstream, of)| ([*upstream, &of.name.registry, &of.name.service], *of));
    let info = all()
        .map(|([upstream, registry, service], of)| ([upstream, registry, service, of.origin.as_str()], 1u64));
    gauges(encoder, &names::SOURCE_INFO, info)?;
    let ages = all().filter_map(|(names, of)| Some((names, age_seconds(of, now)?)));
    gauges(encoder, &names::SOURCE_AGE, ages)?;
    let failing = all().map(|(names, of)| (names, u64::from(of.failure.is_some())));
    gauges(encoder, &names::SOURCE_FAILING, failing)?;
    let stale = all().map(|(names, of)| (names, u64::from(of.is_stale(now))));
    gauges(encoder, &names::SOURCE_STALE, stale)?;
    gauges(encoder, &names::SOURCE_INSTANCES, all().map(|(names, of)| (names, of.claims as u64)))?;
    gauges(encoder, &names::SOURCE_LEFT_OUT, all().map(|(names, of)| (names, of.left_out.count as u64)))?;
    let unresolved = all().map(|(names, of)| (names, of.left_out.unresolved_names as u64));
    gauges(encoder, &names::SOURCE_UNRESOLVED, unresolved)?;
    gauges(encoder, &names::RESERVE, all().map(|(names, of)| (names, of.reserve.len() as u64)))?;
    let offered = all().map(|(names, of)| (names, u64::from(of.reserve_offered)));
    gauges(encoder, &names::RESERVE_OFFERED, offered)
}

fn plugins(encoder: &mut DescriptorEncoder<'_>, plugins: &[PluginInfo]) -> fmt::Result {
    let mut family = family(encoder, &names::PLUGIN_INFO)?;
    for plugin in plugins {
        let (Some(kind), Some(from), Some(digest)) = (plugin.kind, &plugin.origin, plugin.digest) else {
            continue;
        };
        let (kind, digest) = (kind.to_string(), digest.to_string());
        let values = [&plugin.name, kind.as_str(), origin(from), &digest, state(plugin.state)];
        family.encode_family(&labels(&names::PLUGIN_INFO, values))?.encode_gauge(&1u64)?;
    }
    let of = |figure: fn(&PluginInfo) -> u64| plugins.iter().map(move |of| ([&*of.name], figure(of)));
    counters(encoder, &names::PLUGIN_FAULTS, of(|plugin| plugin.faults))?;
    counters(encoder, &names::PLUGIN_REFUSALS, of(|plugin| plugin.refusals))?;
    gauges(encoder, &names::PLUGIN_QUARANTINED, of(|plugin| u64::from(plugin.state == State::Quarantined)))
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, metric: &Metric, value: u64) -> fmt::Result {
    gauges(encoder, metric, [([], value)])
}

fn gauges<'a, const N: usize, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl IntoIterator<Item = ([&'a str; N], V)>,
) -> fmt::Result {
    each(encoder, metric, values, |metric, value| metric.encode_gauge(&value))
}

fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl IntoIterator<Item = ([&'a str; N], u64)>,
) -> fmt::Result {
    each(encoder, metric, values, |metric, value| metric.encode_counter::<NoLabelSet, _, u64>(&value, None))
}

/// Writes one line for each of `values`, which name the labels' values in the order of the metric's labels.
fn each<'a, const N: usize, V>(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &Metric,
    values: impl IntoIterator<Item = ([&'a str; N], V)>,
    write: impl Fn(&mut MetricEncoder<'_>, V) -> fmt::Result,
) -> fmt::Result {
    let mut family = family(encoder, metric)?;
    for (label_values, value) in values {
        if N == 0 {
            write(&mut family, value)?;
        } else {
            let labels = labels(metric, label_values);
            write(&mut family.encode_family(&labels)?, value)?;
        }
    }
    Ok(())
}

fn labels<'a, const N: usize>(metric: &Metric, values: [&'a str; N]) -> Vec<(&'static str, Cow<'a, str>)> {
    metric.labels.iter().copied().zip(values.map(label)).collect()
}

fn family<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    metric: &'e Metric,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    let kind = match metric.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    // The encoder puts the ending of a counter behind its name.
    let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    encoder.encode_descriptor(name, metric.help, None, kind)
}
