//! What a source claims, and what of it we offer.
//!
//! A registry that says "these are gone" may be wrong: it was restored empty, all leases ran out because the
//! registering side was cut off, a plugin misread an answer. So claims and offer are two lists, and a removal is
//! believed by rule:
//!
//! 1. What is claimed is offered, at once.
//! 2. What leaves is not offered any more, at once, as long as no more than `max_drop` of the list leaves within
//!    `window`.
//! 3. Above that, and when nothing is left, all that left within the window becomes the *reserve*.
//! 4. The reserve is offered only while too few of the claimed endpoints answer: fewer than the part of the list that
//!    could not have left without doubt. So a blue-green switch leaves the old colour without traffic, and a
//!    mass expiry of leases leaves everything with traffic.
//! 5. An endpoint leaves the reserve when it is claimed again, when it stopped answering for good, when `confirm` has
//!    passed, or when the operator accepts. `confirm` runs only while the registry answers, and not while the reserve is
//!    all there is that answers, unless the operator gave it a time for that.
//! 6. A failure of the registry changes nothing but the origin.
//!
//! A pure function of (state, input, policy, now): no IO, no clock.

mod claims;
mod policy;
mod reserve;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::SocketAddr,
    time::Instant,
};

use self::{claims::Claims, reserve::Reserve, window::Window};
pub use self::{
    claims::{Claim, ClaimChange, News},
    policy::Policy,
};
use super::{Endpoint, Offer};

/// Where the list in force comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was ever heard.
    Unknown,
    /// The registry answers, and this is what it says.
    Live,
    /// The registry does not answer; this is what it said last.
    Frozen,
    /// From disk; the registry has not answered since the start.
    Restored,
}

impl Origin {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Live => "live",
            Self::Frozen => "frozen",
            Self::Restored => "restored",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an endpoint answers, as far as trust goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    Healthy,
    /// It does not answer, or only with errors, for now.
    Unhealthy,
    /// It has not answered for so long that a reserve need not keep it.
    Gone,
}

/// What can happen to a source.
#[derive(Debug, Clone)]
pub enum Input {
    News(News),
    /// The registry failed.
    Failed,
    /// The last good list, from disk. Only before anything was heard.
    Restored {
        claims: Vec<Claim>,
        reserve: Vec<Endpoint>,
    },
    Health(Vec<(SocketAddr, HealthState)>),
    /// The operator believes the registry: the reserve is let go.
    Accept,
    /// Time has passed.
    Tick,
}

/// What came of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What changes in the offer; it may repeat what is offered already.
    pub offers: Vec<Offer>,
    /// What became the reserve.
    pub held: Vec<SocketAddr>,
}

/// One registry's view of one upstream.
#[derive(Debug, Clone)]
pub struct Source {
    claims: Claims,
    /// What the claims come to: one endpoint per address, the drained left out.
    claimed: HashMap<SocketAddr, Endpoint>,
    reserve: Reserve,
    offering_reserve: bool,
    window: Window,
    unhealthy: HashSet<SocketAddr>,
    origin: Origin,
}

impl Source {
    pub fn new() -> Self {
        Self {
            claims: Claims::default(),
            claimed: HashMap::new(),
            reserve: Reserve::default(),
            offering_reserve: false,
            window: Window::default(),
            unhealthy: HashSet::new(),
            origin: Origin::Unknown,
        }
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter()
    }

    /// Instances claimed, the drained included.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What left and is not believed to be gone, with the moment from which it is held.
    pub fn reserve(&self) -> impl Iterator<Item = (&Endpoint, Instant)> {
        self.reserve.iter()
    }

    /// Whether the reserve gets traffic.
    pub fn offers_reserve(&self) -> bool {
        self.offering_reserve
    }

    /// Whether this source has anything to do with an address.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.claimed.contains_key(&address) || self.reserve.get(address).is_some()
    }

    /// Whether a [`Input::Tick`] can change something.
    pub fn is_waiting(&self) -> bool {
        !self.reserve.is_empty() || self.window.is_waiting()
    }

    /// Takes in what happened, and returns what that changes.
    pub fn step(&mut self, input: Input, policy: &Policy, now: Instant) -> Step {
        self.window.forget(policy.window, now);
        let mut touched = BTreeSet::new();
        let mut held = Vec::new();
        match input {
            Input::News(news) => {
                self.origin = Origin::Live;
                held = self.hear(news, policy, now, &mut touched);
            }
            Input::Failed if self.origin == Origin::Live => self.origin = Origin::Frozen,
            Input::Failed | Input::Tick => {}
            Input::Restored { claims, reserve } => {
                self.hear(News::Complete(claims), policy, now, &mut touched);
                self.origin = Origin::Restored;
                self.restore(reserve, now);
            }
            Input::Health(told) => {
                told.into_iter().for_each(|(address, state)| self.feel(address, state, &mut touched));
            }
            Input::Accept => {
                touched.extend(self.reserve.clear());
                self.window.restart(self.claimed.len());
            }
        }
        // Only a reserve asks how many are well.
        let well = if self.reserve.is_empty() { 0 } else { self.well() };
        touched.extend(self.reserve.confirm(well == 0, self.origin == Origin::Live, policy, now));
        let offering = !self.reserve.is_empty() && well < policy.enough(self.reserve.list());
        if offering != self.offering_reserve {
            self.offering_reserve = offering;
            touched.extend(self.reserve.addresses());
        }
        Step { offers: touched.into_iter().map(|address| self.offer(address)).collect(), held }
    }

    /// Returns what became the reserve.
    fn hear(
        &mut self,
        news: News,
        policy: &Policy,
        now: Instant,
        touched: &mut BTreeSet<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let list = self.window.longest();
        let mut leaving = false;
        for address in self.claims.take(news) {
            touched.insert(address);
            if let Some(endpoint) = self.claims.endpoint(address) {
                self.claimed.insert(address, endpoint);
                self.window.come_back(address);
                self.reserve.release(address);
            } else if let Some(endpoint) = self.claimed.remove(&address) {
                self.window.leave(endpoint, now);
                leaving = true;
            }
        }
        self.window.measure(self.claimed.len(), now);
        let doubtful = self.window.left() > policy.may_leave(list) || self.claimed.is_empty();
        if !(leaving && doubtful) {
            return Vec::new();
        }
        let left = self.window.doubt();
        let held: Vec<SocketAddr> = left.iter().map(|endpoint| endpoint.address).collect();
        touched.extend(&held);
        touched.extend(self.reserve.hold(left, list, now));
        held
    }

    fn restore(&mut self, reserve: Vec<Endpoint>, now: Instant) {
        let unclaimed: Vec<Endpoint> =
            reserve.into_iter().filter(|endpoint| !self.claimed.contains_key(&endpoint.address)).collect();
        let list = self.claimed.len() + unclaimed.len();
        self.reserve.hold(unclaimed, list, now);
    }

    fn feel(&mut self, address: SocketAddr, state: HealthState, touched: &mut BTreeSet<SocketAddr>) {
        match state {
            HealthState::Healthy => drop(self.unhealthy.remove(&address)),
            HealthState::Unhealthy | HealthState::Gone => drop(self.unhealthy.insert(address)),
        }
        // What stopped answering before it left may answer again by now, so only news of it counts.
        if state == HealthState::Gone && self.reserve.release(address) {
            touched.insert(address);
        }
    }

    /// How many of the claimed endpoints answer, as far as anybody knows.
    fn well(&self) -> usize {
        let unhealthy = self.unhealthy.iter().filter(|address| self.claimed.contains_key(address)).count();
        self.claimed.len() - unhealthy
    }

    fn offer(&self, address: SocketAddr) -> Offer {
        let reserve = || self.reserve.get(address).filter(|_| self.offering_reserve);
        match self.claimed.get(&address).or_else(reserve) {
            Some(endpoint) => Offer::Put(endpoint.clone()),
            None => Offer::Remove(address),
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}
