//! The services, the worst first: whom they reach, and how that went lately.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{
    rates::Lately,
    registries,
    state::{Facts, State, judge},
};
use crate::{
    catalog::Upstream,
    resilience::Mode,
    telemetry::rfc3339,
    upstream::{Origin, Snapshot, SourceStatus, Status},
};

#[derive(Serialize)]
pub(in crate::admin) struct Service {
    pub(super) name: String,
    pub(super) state: State,
    /// Why, the worst first; none where it is well.
    pub(super) reasons: Vec<String>,
    /// Endpoints that are well and get requests, of all.
    routable: usize,
    total: usize,
    ejected: usize,
    standby: usize,
    pinned: bool,
    /// Removals that are not believed.
    held: usize,
    /// A second, lately; null until it has been looked at for a moment. So are the others below.
    requests_per_second: Option<f64>,
    success: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    retries_per_second: Option<f64>,
    /// Null where nothing is tried again.
    retry_budget: Option<Budget>,
    selector: String,
    sources: Vec<Source>,
}

/// Retries within ten seconds.
#[derive(Serialize)]
struct Budget {
    left: u64,
    all: u64,
}

#[derive(Serialize)]
struct Source {
    registry: String,
    service: String,
    origin: &'static str,
    since: String,
    /// When the registry answered last; null while it is live, and where it never did.
    heard: Option<String>,
}

pub(super) fn service(
    upstream: &Upstream,
    status: &Status,
    lately: Option<&Lately>,
    (now, wall): (Instant, SystemTime),
) -> Service {
    let snapshot = upstream.reader.snapshot();
    let members = Members::count(&snapshot, status);
    let held = status.sources.iter().map(|source| source.reserve.len()).sum();
    let facts = Facts {
        routable: members.routable,
        total: members.total,
        ejected: status.ejected.len(),
        has_list: status.has_list() || !snapshot.is_empty(),
        panic: status.panic,
        drained: status.drained,
        breaker_open: upstream.is_breaker_open(now).unwrap_or(false),
        unsaved: status.unsaved.is_some(),
        held,
        success: lately.and_then(|lately| lately.success),
        sources: status.sources.iter().filter_map(|of| registries::complaint(of, wall)).collect(),
    };
    let (state, reasons) = judge(&facts);
    let millis = |time: Duration| round(time.as_secs_f64() * 1e3);
    let retries = &upstream.config.retries;
    let tries_again = retries.most > 0 && retries.mode != Mode::Failfast;
    Service {
        name: upstream.name().to_string(),
        state,
        reasons,
        routable: members.routable,
        total: members.total,
        ejected: status.ejected.len(),
        standby: status.standby.len(),
        pinned: status.pin.is_some(),
        held,
        requests_per_second: lately.map(|lately| round(lately.requests)),
        success: lately.and_then(|lately| lately.success),
        p50_ms: lately.and_then(|lately| lately.p50).map(millis),
        p99_ms: lately.and_then(|lately| lately.p99).map(millis),
        retries_per_second: lately.map(|lately| round(lately.retries)),
        retry_budget: tries_again.then(|| {
            let (left, all) = upstream.retries_left(now);
            Budget { left, all }
        }),
        selector: upstream.config.selector.plugin.to_string(),
        sources: status.sources.iter().map(source).collect(),
    }
}

/// The endpoints of a list by whether they get requests.
struct Members {
    routable: usize,
    total: usize,
}

impl Members {
    fn count(snapshot: &Snapshot, status: &Status) -> Self {
        let out: HashSet<_> = status.ejected.iter().map(|of| of.address).collect();
        // In a panic those that are out are offered, too.
        let offered_and_out = match out.is_empty() {
            true => 0,
            false => snapshot.iter().filter(|member| out.contains(&member.address())).count(),
        };
        let waiting = status.standby.iter().filter(|of| !out.contains(&of.address)).count();
        let routable = snapshot.len() - offered_and_out;
        Self { routable, total: routable + out.len() + waiting }
    }
}

fn source(status: &SourceStatus) -> Source {
    Source {
        registry: status.name.registry.to_string(),
        service: status.name.service.to_string(),
        origin: status.origin.as_str(),
        since: rfc3339(status.since),
        heard: status.heard.filter(|_| status.origin != Origin::Live).map(rfc3339),
    }
}

/// To three digits after the point: what nobody reads need not be sent.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// The worst first, and the same order as long as they stand as they do.
pub(super) fn sort(services: &mut [Service]) {
    services.sort_by(|one, other| (one.state, &one.name).cmp(&(other.state, &other.name)));
}

/// The upstreams beside how they stand.
pub(super) fn with_status(upstreams: Vec<Arc<Upstream>>) -> Vec<(Arc<Upstream>, Arc<Status>)> {
    let pair = |upstream: Arc<Upstream>| {
        let status = upstream.status();
        (upstream, status)
    };
    upstreams.into_iter().map(pair).collect()
}
