//! What selectors see of those that health offers: who of them gets how much, so that a selector written in ten minutes
//! has slow start, zones and priority groups.
//!
//! ```text
//! list -> subset -> health -> priority groups -> zones -> slow start -> selectors
//! ```
//!
//! All of it is weights: nobody picks twice. Each part is a pure function in a file of its own, and so is the whole: of
//! what health offers, policy and time. While none of it makes a difference it costs one look.

mod effective;
mod priority;
mod slow_start;
mod subset;
#[cfg(test)]
mod tests;
mod zone;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use self::{effective::scaled, slow_start::Starting};
pub use self::{
    effective::{Effective, RESOLUTION},
    priority::{Group, shares},
    subset::{Subset, Subsetting, place},
    zone::Zones,
};
use super::{Endpoint, Health, Offer, Rank};

/// The least that an endpoint of another zone or group is seen with, as long as there is room above: below, a weight
/// could not tell parts apart.
const LEAST: f64 = 10.0;

/// How offers become what selectors see.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// How long an endpoint takes to have all of its weight after it joined or came back. None by default.
    pub slow_start: Option<Duration>,
    /// None by default: zones make no difference.
    pub zones: Option<Zones>,
    /// None by default: this gateway uses everybody.
    pub subset: Option<Subset>,
}

/// One change to what selectors see, by identity.
#[derive(Debug, Clone, PartialEq)]
pub enum Offered {
    Put(Endpoint, Effective),
    Remove(SocketAddr),
}

impl From<Offer> for Offered {
    fn from(offer: Offer) -> Self {
        match offer {
            Offer::Put(endpoint) => {
                let effective = Effective::plain(endpoint.weight);
                Self::Put(endpoint, effective)
            }
            Offer::Remove(address) => Self::Remove(address),
        }
    }
}

/// What came of a step.
#[derive(Debug, Default)]
pub struct Shaped {
    /// What changes for selectors; it may repeat what they see already.
    pub offered: Vec<Offered>,
    /// Endpoints that begin to start slowly.
    pub starting: Vec<SocketAddr>,
}

/// Between who may get requests and what selectors see.
#[derive(Debug, Clone, Default)]
pub struct Offering {
    starting: Starting,
    /// Endpoints that get nothing because their zone does not.
    away: BTreeSet<SocketAddr>,
    /// The share of all weights that is in the zone of the gateway, where zones are looked at.
    local: Option<f64>,
    /// The shares of priorities that selectors see.
    groups: Vec<(Rank, f64)>,
    /// Whether selectors see anything else than what health offers.
    shaping: bool,
}

impl Offering {
    /// Takes in what health offers now and who `joined` or came back, and returns what that changes.
    pub fn step(
        &mut self,
        offers: Vec<Offer>,
        joined: &[SocketAddr],
        health: &Health,
        policy: &Policy,
        now: Instant,
    ) -> Shaped {
        let gone = offers.iter().filter_map(|offer| match offer {
            Offer::Remove(address) => Some(*address),
            Offer::Put(_) => None,
        });
        gone.for_each(|address| self.starting.end(address));
        let mut starting = Vec::new();
        if policy.slow_start.is_some() {
            starting.extend(joined.iter().copied().filter(|address| health.is_offered(*address)));
            starting.iter().for_each(|address| self.starting.begin(*address, now));
        }
        match offers.is_empty() && health.groups() == self.groups {
            true => Shaped::default(),
            false => self.shape(offers, starting, health, policy, now),
        }
    }

    /// Time has passed, or the policy is another.
    pub fn look(&mut self, health: &Health, policy: &Policy, now: Instant) -> Shaped {
        self.shape(Vec::new(), Vec::new(), health, policy, now)
    }

    /// How long until time makes a difference. None: never, as things stand.
    pub fn pause(&self, policy: &Policy) -> Option<Duration> {
        let time = policy.slow_start.unwrap_or_default();
        (!self.starting.is_empty()).then(|| slow_start::step(time))
    }

    /// The endpoints that are well and wait, because another zone comes before theirs.
    pub fn away(&self) -> impl Iterator<Item = SocketAddr> {
        self.away.iter().copied()
    }

    /// The share of the requests that is to stay in the zone of the gateway, where zones are looked at.
    pub fn local(&self) -> Option<f64> {
        self.local
    }

    /// Whether selectors see anything else than what health offers.
    pub fn is_shaping(&self) -> bool {
        self.shaping
    }

    /// How many endpoints start slowly.
    pub fn starting(&self) -> usize {
        self.starting.len()
    }

    fn shape(
        &mut self,
        offers: Vec<Offer>,
        mut fresh: Vec<SocketAddr>,
        health: &Health,
        policy: &Policy,
        now: Instant,
    ) -> Shaped {
        let time = policy.slow_start.unwrap_or_default();
        self.starting.pass(time, now);
        self.groups = health.groups().to_vec();
        let by_share = policy.zones.is_some() || health.groups().len() > 1;
        let shapes = by_share || !self.starting.is_empty();
        if !shapes && !std::mem::replace(&mut self.shaping, shapes) {
            self.local = None;
            return Shaped { offered: offers.into_iter().map(Offered::from).collect(), starting: fresh };
        }
        let seen = seen(health, policy);
        self.local = policy.zones.as_ref().and_then(|zones| local(&seen, zones));
        self.away = seen.iter().filter(|seen| seen.part() == 0.0).map(|seen| seen.endpoint.address).collect();
        let here = || seen.iter().filter(|seen| seen.part() > 0.0);
        let slow = here().filter(|seen| self.starting.contains(seen.endpoint.address)).count();
        if slow_start::is_useless(slow, seen.len() - self.away.len()) {
            self.starting.clear();
            fresh.clear();
        }
        self.shaping = by_share || !self.starting.is_empty();
        let scale = scale(here().map(Seen::weight));
        let put = here().map(|seen| {
            let slow_start = self.starting.part(seen.endpoint.address, time, now);
            Offered::Put(seen.endpoint.clone(), seen.effective(slow_start, scale))
        });
        let gone = offers.into_iter().filter_map(|offer| match offer {
            Offer::Remove(address) => Some(Offered::Remove(address)),
            Offer::Put(_) => None,
        });
        let away = self.away.iter().copied().map(Offered::Remove);
        let offered = put.chain(gone).chain(away).collect();
        Shaped { offered, starting: fresh }
    }
}

/// An endpoint that health offers, and what its zone and its group leave it.
struct Seen<'e> {
    endpoint: &'e Endpoint,
    zone: f64,
    priority: f64,
}

impl Seen<'_> {
    fn part(&self) -> f64 {
        self.zone * self.priority
    }

    fn weight(&self) -> f64 {
        f64::from(self.endpoint.weight.get()) * f64::from(RESOLUTION) * self.part()
    }

    fn effective(&self, slow_start: f64, scale: f64) -> Effective {
        Effective {
            weight: scaled(self.endpoint.weight, self.part() * slow_start * scale),
            slow_start: slow_start as f32,
            zone: self.zone as f32,
            priority: self.priority as f32,
        }
    }
}

/// Everybody that health offers, and how much of them there is.
fn seen<'h>(health: &'h Health, policy: &Policy) -> Vec<Seen<'h>> {
    if health.is_panic() || health.groups().is_empty() {
        let whole = |endpoint| Seen { endpoint, zone: 1.0, priority: 1.0 };
        return health.offered().map(whole).collect();
    }
    let mut groups: BTreeMap<_, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in health.offered() {
        groups.entry(endpoint.facts.rank()).or_default().push(endpoint);
    }
    let (mut seen, mut first) = (Vec::new(), None);
    for (rank, share) in health.groups() {
        let members = groups.remove(rank).unwrap_or_default();
        let parts = zones(&members, policy.zones.as_ref());
        let zone = |endpoint: &Endpoint| parts.get(&endpoint.facts.zone.as_deref()).copied().unwrap_or(1.0);
        let carried: f64 =
            weights(&members).iter().map(|(of, weight)| *weight as f64 * parts.get(of).unwrap_or(&1.0)).sum();
        let each = share / carried;
        // Nobody of a later group gets more than one of the first: it would be too much for a group of a few.
        let priority = rounded((each / *first.get_or_insert(each)).min(1.0));
        seen.extend(members.into_iter().map(|endpoint| Seen { endpoint, zone: zone(endpoint), priority }));
    }
    seen
}

/// The share of all weights that is in the zone of the gateway; none while there is nobody.
fn local(seen: &[Seen<'_>], policy: &Zones) -> Option<f64> {
    let near = seen.iter().filter(|seen| seen.endpoint.facts.zone.as_deref() == Some(&*policy.own));
    let all: f64 = seen.iter().map(Seen::weight).sum();
    (all > 0.0).then(|| near.map(Seen::weight).sum::<f64>() / all)
}

/// What is left of the weights in each zone, if that is not all.
fn zones<'e>(members: &[&'e Endpoint], policy: Option<&Zones>) -> BTreeMap<Option<&'e str>, f64> {
    let Some(policy) = policy.filter(|policy| members.len() >= policy.min_endpoints) else {
        return BTreeMap::new();
    };
    let mut parts = zone::parts(&weights(members), &policy.own).unwrap_or_default();
    parts.values_mut().for_each(|part| *part = rounded(*part));
    parts
}

/// The sum of the weights in each zone.
fn weights<'e>(members: &[&'e Endpoint]) -> BTreeMap<Option<&'e str>, u64> {
    let mut weights = BTreeMap::new();
    for endpoint in members {
        *weights.entry(endpoint.facts.zone.as_deref()).or_default() += u64::from(endpoint.weight.get());
    }
    weights
}

/// In two digits, so that a list that changes a little does not change the weights of all.
fn rounded(part: f64) -> f64 {
    if part <= 0.0 {
        return 0.0;
    }
    let digits = 10f64.powf(part.log10().floor() - 1.0);
    (part / digits).round() * digits
}

/// By what, a power of ten, all weights are seen greater, so that the least of them can be told: their proportions are
/// what counts.
fn scale(weights: impl Iterator<Item = f64> + Clone) -> f64 {
    let least = weights.clone().fold(LEAST, f64::min);
    let greatest = weights.fold(1.0, f64::max);
    let mut scale = 1.0;
    while least * scale < LEAST && greatest * scale * 10.0 <= f64::from(u32::MAX) {
        scale *= 10.0;
    }
    scale
}
