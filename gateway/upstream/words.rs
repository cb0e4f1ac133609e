//! The words of the gateway as types: checked once where they enter, true from there on.

use std::{fmt, net::SocketAddr, num::NonZeroU32, sync::Arc};

/// The name of an upstream: its key in the configuration, or `service@registry` when found by name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

impl UpstreamName {
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name of an upstream that exists because a request asked for `service`.
    pub fn by_name(service: &str, registry: &str) -> Self {
        Self(format!("{service}@{registry}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A share of traffic, never zero. An endpoint registered with weight 0 is drained and does not become a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(NonZeroU32);

impl Weight {
    pub const ONE: Self = Self(NonZeroU32::MIN);

    pub fn new(weight: u32) -> Option<Self> {
        NonZeroU32::new(weight).map(Self)
    }

    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// Free-form facts about an endpoint. Shared, because lists are copied and labels are not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Arc<[(String, String)]>);

impl Labels {
    pub fn new(labels: Vec<(String, String)>) -> Self {
        Self(labels.into())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether any label of this name has this value.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.iter().any(|label| label == (name, value))
    }

    pub fn as_slice(&self) -> &[(String, String)] {
        &self.0
    }
}

/// The small stable integer that names an endpoint to a selector, within one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How an instance stands, as its registry sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    #[default]
    Ready,
    /// It finishes what runs.
    Draining,
    /// The registry's own check of it failed.
    Unwell,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Ready, Self::Draining, Self::Unwell];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Unwell => "unwell",
        }
    }
}

/// Who comes before whom: those that are not about to go, then by the priority that the registry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    pub draining: bool,
    pub priority: u32,
}

/// What a registry says of an instance beside where it is and how much of the traffic it gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub state: State,
    /// The operator lets it drain. No registry says so.
    pub drains: bool,
    /// 0 comes first.
    pub priority: u32,
    /// The name it goes by: that of its registry, or the host of its address if that is a name.
    pub hostname: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    pub labels: Labels,
}

impl Facts {
    pub fn rank(&self) -> Rank {
        Rank { draining: self.drains || self.state == State::Draining, priority: self.priority }
    }

    /// Neither unwell nor about to go.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready && !self.drains
    }

    /// Whether a label has this value. The zone counts as a label, wherever the registry keeps it.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.labels.has(name, value) || name == ZONE && self.zone.as_deref() == Some(value)
    }
}

/// The label that is a zone, where a registry has no other place for it.
pub const ZONE: &str = "zone";

/// One instance that a source offers: a claim whose address is resolved and whose weight is a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub weight: Weight,
    pub facts: Facts,
}
