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

/// One instance that a source offers: a claim whose address is resolved and whose weight is a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub weight: Weight,
    pub labels: Labels,
}
