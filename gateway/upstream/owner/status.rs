//! How an upstream stands, for whoever asks.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::upstream::{Facts, History, Origin, Reason, Stats, Weight};

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName {
    pub registry: Arc<str>,
    pub service: Arc<str>,
}

/// An endpoint that a source no longer claims, and is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    pub address: SocketAddr,
    /// From when on it is held, be it by an earlier gateway.
    pub since: SystemTime,
}

/// An instance that a registry names and that is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub id: String,
    /// As the registry says it.
    pub address: String,
    pub reason: String,
}

/// What of a source cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeftOuts {
    pub count: usize,
    /// The first of them, by id.
    pub first: Vec<LeftOut>,
    /// Names that could not be resolved the last time they were asked about, with or without an older answer.
    pub unresolved_names: usize,
}

impl LeftOuts {
    /// So many are named, the rest is counted.
    pub const NAMED: usize = 20;
}

/// How a source stands.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    pub name: SourceName,
    pub origin: Origin,
    /// Since when the origin is what it is.
    pub since: SystemTime,
    /// When the registry answered last, be it to an earlier gateway.
    pub heard: Option<SystemTime>,
    /// The kind and the text of the failure it stands in now.
    pub failure: Option<(&'static str, String)>,
    /// Instances it claims.
    pub claims: usize,
    pub left_out: Arc<LeftOuts>,
    /// By address.
    pub reserve: Arc<[Reserved]>,
    /// Whether the reserve gets requests.
    pub reserve_offered: bool,
    /// The age past which a list that is not live is an alarm.
    pub max_stale: Duration,
}

impl SourceStatus {
    pub(super) fn new(name: SourceName, now: SystemTime) -> Self {
        Self {
            name,
            origin: Origin::Unknown,
            since: now,
            heard: None,
            failure: None,
            claims: 0,
            left_out: Arc::default(),
            reserve: Arc::default(),
            reserve_offered: false,
            max_stale: Duration::MAX,
        }
    }

    /// How old a list is that the registry does not answer for any more; zero while it answers.
    pub fn age(&self, now: SystemTime) -> Duration {
        match self.origin {
            Origin::Live => Duration::ZERO,
            _ => now.duration_since(self.heard.unwrap_or(self.since)).unwrap_or_default(),
        }
    }

    /// Whether the list is older than the operator is content with. It is served all the same.
    pub fn is_stale(&self, now: SystemTime) -> bool {
        self.origin != Origin::Unknown && self.age(now) > self.max_stale
    }
}

/// A list that stays as it is until the operator lifts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    pub since: SystemTime,
    pub endpoints: usize,
}

/// An endpoint that the operator lets drain, be it in the list or not.
#[derive(Debug, Clone)]
pub struct Draining {
    pub address: SocketAddr,
    pub since: SystemTime,
    /// None where it was never offered, or nobody remembers it.
    pub stats: Option<Arc<Stats>>,
}

/// An endpoint that is well and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    pub address: SocketAddr,
    pub facts: Facts,
    pub reason: StandbyReason,
}

/// An endpoint that failed and gets no requests for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    pub address: SocketAddr,
    pub reason: Reason,
    /// Since when it is out, whatever the reason was first, as far as this process knows.
    pub since: SystemTime,
    /// As its registry says; none where it is in no list any more.
    pub weight: Option<Weight>,
    pub zone: Option<Arc<str>>,
}

/// Why an endpoint waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandbyReason {
    /// It drains, be it that its registry says so or the operator, or those of a lower priority are well.
    Rank,
    /// Its zone is another one, and the own has enough.
    Zone,
}

impl StandbyReason {
    /// The word for the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rank => "rank",
            Self::Zone => "zone",
        }
    }
}

/// How an upstream stands. A new one is published at every event that changes it.
#[derive(Debug, Clone)]
pub struct Status {
    pub sources: Vec<SourceStatus>,
    pub history: Arc<History>,
    pub pin: Option<Pinned>,
    /// By address.
    pub draining: Arc<[Draining]>,
    /// By address.
    pub ejected: Arc<[Ejected]>,
    /// Endpoints that are well and wait, because others come before them.
    pub standby: Arc<[Standby]>,
    /// Endpoints that start slowly.
    pub starting: usize,
    /// The share of requests that is to stay in the zone of the gateway, where zones are looked at.
    pub local: Option<f64>,
    /// Ranks that get requests: 0 while nobody is well.
    pub groups: usize,
    /// Endpoints that are left to other gateways.
    pub unused: usize,
    /// So many are ejected that they get requests all the same.
    pub panic: bool,
    /// Nobody gets requests, and that is because instances are there with weight 0.
    pub drained: bool,
    /// Why the list is not safe on disk.
    pub unsaved: Option<String>,
}

impl Status {
    /// Whether there is a list, be it from disk.
    pub fn has_list(&self) -> bool {
        self.pin.is_some() || self.sources.iter().any(|source| source.origin != Origin::Unknown)
    }

    /// Whether any instance is known of, be it from disk, drained, or held in reserve.
    pub fn has_instances(&self) -> bool {
        let any = |source: &SourceStatus| source.claims > 0 || !source.reserve.is_empty();
        self.pin.is_some() || self.sources.iter().any(any)
    }

    /// Whether every registry has answered or failed, so that there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        self.sources.iter().all(|source| source.origin == Origin::Live || source.failure.is_some())
    }

    /// Whether every registry has answered, completely, that it knows no instance, and is believed.
    pub fn is_unknown_service(&self) -> bool {
        let unknown = |source: &SourceStatus| {
            source.origin == Origin::Live && source.claims == 0 && source.reserve.is_empty()
        };
        self.pin.is_none() && self.sources.iter().all(unknown)
    }
}
