//! The format of what is kept of an upstream in a file. What version 1 does not have has a default.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{Saved, SavedPin, SavedSource};
use crate::upstream::{
    Claim, ConditionState, Endpoint, Facts, HealthRecord, Held, Labels, Left, Reason, ReserveState,
    SourceState, State, Weight,
};

/// The longest period that is taken from a file: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Serialize, Deserialize)]
pub(super) struct List {
    /// Milliseconds since 1970.
    #[serde(default)]
    at_ms: Option<u64>,
    sources: Vec<Source>,
    pin: Option<Pin>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    drains: Vec<Drain>,
    #[serde(default)]
    health: Option<Health>,
}

#[derive(Serialize, Deserialize)]
struct Pin {
    /// Seconds since 1970.
    since: u64,
    list: Vec<Instance>,
}

/// An endpoint that the operator lets drain.
#[derive(Serialize, Deserialize)]
struct Drain {
    address: SocketAddr,
    /// Seconds since 1970.
    since: u64,
}

#[derive(Serialize, Deserialize)]
struct Source {
    registry: String,
    service: String,
    /// Seconds since 1970.
    heard: Option<u64>,
    claims: Vec<Registered>,
    reserve: Vec<Reserved>,
    /// How long the list was that the reserve comes from.
    #[serde(default)]
    list: Option<usize>,
    #[serde(default)]
    standing: Option<Standing>,
    #[serde(default)]
    excused: Vec<SocketAddr>,
    #[serde(default)]
    left: Vec<Leaver>,
    #[serde(default)]
    lengths: Vec<Length>,
}

#[derive(Serialize, Deserialize)]
struct Registered {
    id: String,
    addresses: Vec<SocketAddr>,
    /// 0 for drained.
    weight: u32,
    #[serde(flatten)]
    facts: Known,
}

#[derive(Serialize, Deserialize)]
struct Instance {
    address: SocketAddr,
    weight: u32,
    #[serde(flatten)]
    facts: Known,
}

/// What the registry said of an instance.
#[derive(Serialize, Deserialize)]
struct Known {
    labels: Vec<(String, String)>,
    /// None for ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    priority: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct Reserved {
    #[serde(flatten)]
    instance: Instance,
    #[serde(default)]
    held_ms: u64,
}

/// For how long the registry has stood by a removal.
#[derive(Serialize, Deserialize)]
struct Standing {
    /// Whether the reserve is all there is that answers.
    alone: bool,
    for_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Leaver {
    #[serde(flatten)]
    instance: Instance,
    ago_ms: u64,
    believed: bool,
}

#[derive(Serialize, Deserialize)]
struct Length {
    length: usize,
    until_ago_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Health {
    conditions: Vec<Condition>,
    new: Vec<New>,
}

#[derive(Serialize, Deserialize)]
struct New {
    address: SocketAddr,
    ago_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Condition {
    address: SocketAddr,
    no_connection: u32,
    failures: u32,
    checks_failed: u32,
    checks_passed: u32,
    failed_by_check: bool,
    silent_ms: Option<u64>,
    out: Option<Out>,
    doubted: bool,
    spared: bool,
    times: u32,
    came_back_ago_ms: Option<u64>,
    half_open: bool,
}

#[derive(Serialize, Deserialize)]
struct Out {
    reason: String,
    left_ms: u64,
}

impl From<&Saved> for List {
    fn from(saved: &Saved) -> Self {
        let pin = |pin: &SavedPin| Pin {
            since: since_1970(pin.since).as_secs(),
            list: pin.list.iter().map(Instance::from).collect(),
        };
        let drain = |(address, since)| Drain { address, since: since_1970(since).as_secs() };
        Self {
            at_ms: Some(ms(since_1970(saved.at))),
            sources: saved.sources.iter().map(Source::from).collect(),
            pin: saved.pin.as_ref().map(pin),
            drains: saved.drains.iter().map(drain).collect(),
            health: saved.health.as_ref().map(Health::from),
        }
    }
}

impl From<List> for Saved {
    fn from(list: List) -> Self {
        let pin = |pin: Pin| SavedPin {
            since: moment(Duration::from_secs(pin.since)),
            list: pin.list.into_iter().map(Endpoint::from).collect(),
        };
        let drain = |drain: Drain| (drain.address, moment(Duration::from_secs(drain.since)));
        Self {
            at: list.at_ms.map_or_else(SystemTime::now, |at| moment(Duration::from_millis(at))),
            sources: list.sources.into_iter().map(SavedSource::from).collect(),
            pin: list.pin.map(pin),
            drains: list.drains.into_iter().map(drain).collect(),
            health: list.health.map(HealthRecord::from),
        }
    }
}

impl From<&SavedSource> for Source {
    fn from(saved: &SavedSource) -> Self {
        let SourceState { claims, reserve, left, lengths } = &saved.state;
        let leaver = |left: &Left| Leaver {
            instance: Instance::from(&left.endpoint),
            ago_ms: ms(left.ago),
            believed: left.believed,
        };
        let held = |held: &Held| Reserved { instance: Instance::from(&held.endpoint), held_ms: ms(held.ago) };
        Self {
            registry: saved.registry.to_string(),
            service: saved.service.to_string(),
            heard: saved.heard.map(|at| since_1970(at).as_secs()),
            claims: claims.iter().map(Registered::from).collect(),
            reserve: reserve.held.iter().map(held).collect(),
            list: Some(reserve.list),
            standing: reserve.standing.map(|(alone, period)| Standing { alone, for_ms: ms(period) }),
            excused: reserve.excused.clone(),
            left: left.iter().map(leaver).collect(),
            lengths: lengths
                .iter()
                .map(|(ago, length)| Length { length: *length, until_ago_ms: ms(*ago) })
                .collect(),
        }
    }
}

impl From<Source> for SavedSource {
    fn from(source: Source) -> Self {
        // Version 1 does not say how long the list was that a reserve comes from. It was at least as long as the
        // reserve, and where the claims stand in for all of it, about as long as they are.
        let list = source.list.unwrap_or_else(|| source.claims.len().max(source.reserve.len()));
        let left = |leaver: Leaver| Left {
            endpoint: leaver.instance.into(),
            ago: period(leaver.ago_ms),
            believed: leaver.believed,
        };
        let held = |held: Reserved| Held { endpoint: held.instance.into(), ago: period(held.held_ms) };
        let length = |of: Length| (period(of.until_ago_ms), of.length);
        let reserve = ReserveState {
            held: source.reserve.into_iter().map(held).collect(),
            list,
            standing: source.standing.map(|of| (of.alone, period(of.for_ms))),
            excused: source.excused,
        };
        Self {
            registry: source.registry.into(),
            service: source.service.into(),
            heard: source.heard.map(|seconds| moment(Duration::from_secs(seconds))),
            state: SourceState {
                claims: source.claims.into_iter().map(Claim::from).collect(),
                reserve,
                left: source.left.into_iter().map(left).collect(),
                lengths: source.lengths.into_iter().map(length).collect(),
            },
        }
    }
}

impl From<&Claim> for Registered {
    fn from(claim: &Claim) -> Self {
        Self {
            id: claim.id.clone(),
            addresses: claim.addresses.clone(),
            weight: claim.weight.map_or(0, Weight::get),
            facts: (&claim.facts).into(),
        }
    }
}

impl From<Registered> for Claim {
    fn from(claim: Registered) -> Self {
        Self {
            id: claim.id,
            addresses: claim.addresses,
            weight: Weight::new(claim.weight),
            facts: claim.facts.into(),
        }
    }
}

impl From<&Endpoint> for Instance {
    fn from(endpoint: &Endpoint) -> Self {
        let (address, weight) = (endpoint.address, endpoint.weight.get());
        Self { address, weight, facts: (&endpoint.facts).into() }
    }
}

impl From<Instance> for Endpoint {
    fn from(instance: Instance) -> Self {
        let weight = Weight::new(instance.weight).unwrap_or(Weight::ONE);
        Self { address: instance.address, weight, facts: instance.facts.into() }
    }
}

impl From<&Facts> for Known {
    fn from(facts: &Facts) -> Self {
        Self {
            labels: facts.labels.as_slice().to_vec(),
            state: Some(facts.state)
                .filter(|state| *state != State::Ready)
                .map(|state| state.as_str().into()),
            priority: facts.priority,
            hostname: facts.hostname.as_deref().map(str::to_owned),
            zone: facts.zone.as_deref().map(str::to_owned),
        }
    }
}

impl From<Known> for Facts {
    fn from(known: Known) -> Self {
        let state = |word: String| State::ALL.into_iter().find(|state| state.as_str() == word);
        Self {
            // A word that nobody knows says nothing.
            state: known.state.and_then(state).unwrap_or_default(),
            priority: known.priority,
            drains: false,
            hostname: known.hostname.map(Arc::from),
            zone: known.zone.map(Arc::from),
            labels: Labels::new(known.labels),
        }
    }
}

impl From<&HealthRecord> for Health {
    fn from(record: &HealthRecord) -> Self {
        let new = |(address, ago): &(SocketAddr, Duration)| New { address: *address, ago_ms: ms(*ago) };
        Self {
            conditions: record.conditions.iter().map(Condition::from).collect(),
            new: record.new.iter().map(new).collect(),
        }
    }
}

impl From<Health> for HealthRecord {
    fn from(health: Health) -> Self {
        Self {
            conditions: health.conditions.into_iter().map(Condition::into).collect(),
            new: health.new.into_iter().map(|new| (new.address, period(new.ago_ms))).collect(),
        }
    }
}

impl From<&(SocketAddr, ConditionState)> for Condition {
    fn from((address, state): &(SocketAddr, ConditionState)) -> Self {
        Self {
            address: *address,
            no_connection: state.no_connection,
            failures: state.failures,
            checks_failed: state.checks_failed,
            checks_passed: state.checks_passed,
            failed_by_check: state.failed_by_check,
            silent_ms: state.silent.map(ms),
            out: state.out.map(|(reason, left)| Out { reason: reason.as_str().into(), left_ms: ms(left) }),
            doubted: state.doubted,
            spared: state.spared,
            times: state.times,
            came_back_ago_ms: state.came_back.map(ms),
            half_open: state.probation,
        }
    }
}

impl From<Condition> for (SocketAddr, ConditionState) {
    fn from(known: Condition) -> Self {
        let out = |out: Out| {
            let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == out.reason)?;
            Some((reason, period(out.left_ms)))
        };
        let state = ConditionState {
            no_connection: known.no_connection,
            failures: known.failures,
            checks_failed: known.checks_failed,
            checks_passed: known.checks_passed,
            failed_by_check: known.failed_by_check,
            silent: known.silent_ms.map(period),
            out: known.out.and_then(out),
            doubted: known.doubted,
            spared: known.spared,
            times: known.times,
            came_back: known.came_back_ago_ms.map(period),
            probation: known.half_open,
        };
        (known.address, state)
    }
}

/// No period in here is longer than years; in a damaged file it may be longer than the calendar.
fn period(ms: u64) -> Duration {
    Duration::from_millis(ms).min(LONGEST)
}

fn ms(period: Duration) -> u64 {
    period.as_millis().try_into().unwrap_or(u64::MAX)
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn moment(since_1970: Duration) -> SystemTime {
    // A year ten thousand in a damaged file is no reason to end the process.
    SystemTime::UNIX_EPOCH.checked_add(since_1970).unwrap_or(SystemTime::UNIX_EPOCH)
}
