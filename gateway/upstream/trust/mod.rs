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
//! 7. What is claimed with weight 0 has not left: it gets nothing, at once, whatever share of the list it is. It was no
//!    part of the list when it leaves later, and no reserve begins to be offered because of it.
//! 8. A restart changes nothing: [`Source::state`] is all that decides later offers, but for [`HealthState`]s, which
//!    are told again.
//!
//! A pure function of (state, input, policy, now): no IO, no clock.

mod claims;
mod policy;
mod reserve;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::SocketAddr,
    time::Instant,
};

pub use self::{
    claims::{Claim, ClaimChange, News},
    policy::Policy,
    reserve::ReserveState,
    state::{Held, Left, SourceState},
};
use self::{
    claims::{Claimed, Claims},
    reserve::Reserve,
    state::{ago, before},
    window::Window,
};
use super::Endpoint;

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
    /// Names in what the registry said last have other addresses. That is no word of the registry.
    Resolved(News),
    /// The registry failed.
    Failed,
    /// What an earlier gateway, or an earlier owner, believed. Only before anything was heard.
    Restored(Box<SourceState>),
    Health(Vec<(SocketAddr, HealthState)>),
    /// The operator believes the registry: the reserve is let go.
    Accept,
    /// Time has passed.
    Tick,
}

/// What a source says of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    Claimed(Endpoint),
    /// It is claimed with weight 0.
    Drained,
    /// It is not claimed any more, and offered because too few of the claimed answer.
    Held(Endpoint),
}

/// What came of an input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// The addresses of which it may say something else now, with what it says; nothing any more, if none.
    pub words: Vec<(SocketAddr, Option<Word>)>,
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

    /// Whether the passing of time will let something of the reserve go.
    pub fn is_confirming(&self, policy: &Policy) -> bool {
        self.reserve.is_confirming(policy)
    }

    /// Whether this source has anything to do with an address.
    pub fn knows(&self, address: SocketAddr) -> bool {
        self.claimed.contains_key(&address) || self.reserve.get(address).is_some()
    }

    /// Whether an address has not left: it is claimed, with whatever weight, or held.
    pub fn lists(&self, address: SocketAddr) -> bool {
        self.claims.name(address) || self.reserve.get(address).is_some()
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
            Input::Resolved(news) => held = self.hear(news, policy, now, &mut touched),
            Input::Failed if self.origin == Origin::Live => self.origin = Origin::Frozen,
            Input::Failed => self.reserve.interrupt(),
            Input::Tick => {}
            Input::Restored(state) => {
                self.origin = Origin::Restored;
                self.restore(*state, now, &mut touched);
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
        let offering = !self.reserve.is_empty() && well < self.reserve.needs(policy);
        if offering != self.offering_reserve {
            self.offering_reserve = offering;
            touched.extend(self.reserve.addresses());
        }
        Step { words: touched.into_iter().map(|address| (address, self.word(address))).collect(), held }
    }

    /// Returns what became the reserve.
    fn hear(
        &mut self,
        news: News,
        policy: &Policy,
        now: Instant,
        touched: &mut BTreeSet<SocketAddr>,
    ) -> Vec<SocketAddr> {
        let mut list = self.window.longest();
        let (mut leaving, mut drained) = (false, false);
        for address in self.claims.take(news) {
            touched.insert(address);
            match self.claims.at(address) {
                Claimed::Endpoint(endpoint) => {
                    self.claimed.insert(address, endpoint);
                    self.window.come_back(address);
                    self.reserve.release(address);
                    self.reserve.count_again(address);
                }
                Claimed::Drained => {
                    self.reserve.release(address);
                    let (was_in, had_left) =
                        (self.claimed.remove(&address).is_some(), self.window.come_back(address));
                    if was_in || had_left {
                        self.window.shorten(was_in);
                        list = list.saturating_sub(1);
                    }
                    if was_in && !self.offering_reserve {
                        self.reserve.excuse(address);
                    }
                    drained |= was_in;
                }
                Claimed::Nothing => {
                    if let Some(endpoint) = self.claimed.remove(&address) {
                        self.window.leave(endpoint, now);
                        leaving = true;
                    }
                }
            }
        }
        self.window.measure(self.claimed.len(), now);
        if policy.as_written {
            touched.extend(self.reserve.clear());
            self.window.restart(self.claimed.len());
            return Vec::new();
        }
        let doubtful = self.window.left() > policy.may_leave(list) || self.claimed.is_empty();
        if !(leaving && doubtful) {
            // The last that was in use is drained: whoever did that does not want what was in use before.
            if drained && self.claimed.is_empty() && !self.offering_reserve {
                touched.extend(self.reserve.clear());
                self.window.restart(0);
            }
            return Vec::new();
        }
        let left = self.window.doubt();
        let held: Vec<SocketAddr> = left.iter().map(|endpoint| endpoint.address).collect();
        touched.extend(&held);
        touched.extend(self.reserve.hold(left, list, now));
        held
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

    fn word(&self, address: SocketAddr) -> Option<Word> {
        if let Some(endpoint) = self.claimed.get(&address) {
            return Some(Word::Claimed(endpoint.clone()));
        }
        if self.claims.name(address) {
            return Some(Word::Drained);
        }
        let held = self.reserve.get(address).filter(|_| self.offering_reserve);
        held.map(|endpoint| Word::Held(endpoint.clone()))
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}
