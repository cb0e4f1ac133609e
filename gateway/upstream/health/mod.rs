//! Which endpoints of a list get requests.
//!
//! A list, be it live, frozen, restored or a reserve, loses the endpoints that fail, and gets them back when they
//! answer. Requests are evidence, and so are checks. Whatever the evidence says, a list that is not empty never
//! becomes empty here: with too few well, all are offered.
//!
//! A pure function of (state, input, policy, now): no IO, no clock.

mod condition;
mod policy;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use self::condition::Condition;
pub use self::{
    condition::{ConditionState, Reason},
    policy::Policy,
};
use super::{Endpoint, HealthState, Offer};

/// What a request tells of the endpoint it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    Answered,
    ConnectFailed,
    /// No answer within the time of the upstream.
    TimedOut,
    /// The connection broke before the answer was there.
    Broke,
    /// It answered 502, 503 or 504.
    GatewayError,
}

/// What can happen to the health of an upstream.
#[derive(Debug, Clone)]
pub enum HealthInput {
    /// The list changes.
    List(Vec<Offer>),
    Evidence(SocketAddr, Evidence),
    Checked(SocketAddr, bool),
    /// Not one of the [companions](Health::companions) of this endpoint has answered.
    Doubt(SocketAddr),
    /// Nobody needs to know about this address any more.
    Forget(SocketAddr),
    /// Time has passed.
    Tick,
}

/// What came of an input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judged {
    /// What changes for requests; it may repeat what is offered already.
    pub offers: Vec<Offer>,
    /// Endpoints of which something else is to be thought than before.
    pub states: Vec<(SocketAddr, HealthState)>,
    /// Endpoints whose trial begins or ends: half-open, one request at a time decides for all others.
    pub half_open: Vec<(SocketAddr, bool)>,
}

/// All that decides how the endpoints of an upstream are judged later, to be kept over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthRecord {
    pub conditions: Vec<(SocketAddr, ConditionState)>,
    /// Endpoints that are new, and how long ago they joined. All others have been there for long.
    pub new: Vec<(SocketAddr, Duration)>,
}

impl HealthRecord {
    /// Takes in that so much time has passed in which nobody looked.
    pub fn age(&mut self, by: Duration) {
        self.conditions.iter_mut().for_each(|(_, condition)| condition.age(by));
        self.new.iter_mut().for_each(|(_, ago)| *ago = ago.saturating_add(by));
    }
}

/// So many that refuse, of those that joined together, while none answers, are doubt enough in the others.
const REFUSING: usize = 3;

/// When those joined that are not new any more, as far as anybody cares.
const LONG_AGO: Duration = Duration::from_secs(86_400);

/// More than these are not doubted: to ask them one by one would take too long.
const COMPANIONS_MOST: usize = 1_000;

/// The health of one upstream, between its list and what is offered of it.
#[derive(Debug, Clone, Default)]
pub struct Health {
    list: HashMap<SocketAddr, (Endpoint, Instant)>,
    /// Only of those that failed at least once.
    conditions: BTreeMap<SocketAddr, Condition>,
    panic: bool,
    /// Whether nobody is well, and those that are only doubted are offered.
    relying: bool,
}

impl Health {
    /// The endpoints that are out, and why. In a panic they get requests all the same.
    pub fn out(&self) -> impl Iterator<Item = (SocketAddr, Reason)> {
        self.conditions.iter().filter_map(|(address, known)| Some((*address, known.reason()?)))
    }

    /// Endpoints that somebody should ask whether they answer.
    pub fn suspects(&self) -> impl Iterator<Item = SocketAddr> {
        self.conditions.iter().filter(|(_, known)| known.is_unhealthy()).map(|(address, _)| *address)
    }

    /// Endpoints that one request at a time tries.
    pub fn half_open(&self) -> impl Iterator<Item = SocketAddr> {
        self.conditions.iter().filter(|(_, known)| known.is_half_open()).map(|(address, _)| *address)
    }

    pub fn record(&self, policy: &Policy, now: Instant) -> HealthRecord {
        let joined = self.list.iter().filter(|(_, (_, since))| policy.is_new(*since, now));
        HealthRecord {
            conditions: self.conditions.iter().map(|(address, known)| (*address, known.state(now))).collect(),
            new: joined
                .map(|(address, (_, since))| (*address, now.saturating_duration_since(*since)))
                .collect(),
        }
    }

    /// Knows again what was known of endpoints, before there is a list.
    pub fn restore(&mut self, conditions: Vec<(SocketAddr, ConditionState)>, now: Instant) {
        let restored = |(address, state)| (address, Condition::restored(state, now));
        self.conditions = conditions.into_iter().map(restored).collect();
    }

    /// Of all that are in the list now, only these are new, and joined so long ago.
    pub fn restore_joined(&mut self, new: &[(SocketAddr, Duration)], policy: &Policy, now: Instant) {
        let new: HashMap<SocketAddr, Duration> = new.iter().copied().collect();
        for (address, (_, since)) in &mut self.list {
            let ago = new.get(address).copied().unwrap_or(LONG_AGO.max(policy.grace));
            *since = now.checked_sub(ago).unwrap_or(now);
        }
    }

    /// Every address of which something is remembered.
    pub fn remembered(&self) -> impl Iterator<Item = SocketAddr> {
        self.conditions.keys().copied()
    }

    /// Whether so few are well that all are offered.
    pub fn is_panic(&self) -> bool {
        self.panic
    }

    /// The list, the endpoints that are out included.
    pub fn list(&self) -> impl Iterator<Item = &Endpoint> {
        self.list.values().map(|(endpoint, _)| endpoint)
    }

    pub fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        self.list.get(&address).map(|(endpoint, _)| endpoint)
    }

    /// Those that joined together with a new endpoint and of which nothing bad is known, if so many others of them
    /// refuse connections that it is a question whether any of them has answered.
    ///
    /// A registry may name a hundred addresses where nobody listens. Met one by one, each would cost a request.
    pub fn companions(&self, address: SocketAddr, policy: &Policy, now: Instant) -> Option<Vec<SocketAddr>> {
        let (_, joined) = self.list.get(&address).filter(|(_, since)| policy.is_new(*since, now))?;
        let (mut refusing, mut others) = (0, Vec::new());
        for address in self.list.iter().filter(|(_, (_, since))| since == joined).map(|(address, _)| *address)
        {
            match self.conditions.get(&address) {
                Some(known) if known.is_starting() && !known.is_doubted() => refusing += 1,
                Some(known) if known.is_unhealthy() => {}
                _ if others.len() == COMPANIONS_MOST => return None,
                _ => others.push(address),
            }
        }
        (refusing >= REFUSING && !others.is_empty()).then_some(others)
    }

    /// Whether a [`HealthInput::Tick`] can change something.
    pub fn is_waiting(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Takes in what happened, and returns what that changes.
    pub fn step(&mut self, input: HealthInput, policy: &Policy, now: Instant) -> Judged {
        let mut judged = Judged::default();
        let mut touched = BTreeSet::new();
        match input {
            HealthInput::List(offers) => self.relist(offers, now, &mut touched),
            HealthInput::Evidence(address, Evidence::Answered) if !self.conditions.contains_key(&address) => {
            }
            HealthInput::Evidence(address, evidence) => {
                let (new, room) = (self.is_new(address, policy, now), self.has_room(policy));
                self.judge(address, policy, now, &mut judged, &mut touched, |known| {
                    known.told(evidence, new, room, policy, now);
                });
            }
            HealthInput::Checked(address, true) if !self.conditions.contains_key(&address) => {}
            HealthInput::Checked(address, passed) => {
                let new = self.is_new(address, policy, now);
                self.judge(address, policy, now, &mut judged, &mut touched, |known| {
                    known.checked(passed, new, policy, now);
                });
            }
            HealthInput::Doubt(address) => {
                for address in self.companions(address, policy, now).unwrap_or_default() {
                    self.judge(address, policy, now, &mut judged, &mut touched, |known| {
                        known.doubt(policy, now);
                    });
                }
            }
            HealthInput::Forget(address) => {
                self.conditions.remove(&address);
                judged.states.push((address, HealthState::Healthy));
                judged.half_open.push((address, false));
                touched.insert(address);
            }
            HealthInput::Tick => {
                for address in self.conditions.keys().copied().collect::<Vec<_>>() {
                    self.judge(address, policy, now, &mut judged, &mut touched, |known| known.tick(now));
                }
            }
        }
        self.weigh(policy, &mut touched);
        judged.offers = touched.into_iter().map(|address| self.offer(address)).collect();
        judged
    }

    fn relist(&mut self, offers: Vec<Offer>, now: Instant, touched: &mut BTreeSet<SocketAddr>) {
        for offer in offers {
            match offer {
                Offer::Put(endpoint) => {
                    let address = endpoint.address;
                    touched.insert(address);
                    let since = self.list.get(&address).map_or(now, |(_, since)| *since);
                    self.list.insert(address, (endpoint, since));
                }
                Offer::Remove(address) => {
                    touched.insert(address);
                    self.list.remove(&address);
                }
            }
        }
    }

    /// Lets `change` change what is known of an endpoint, and tells what that means.
    fn judge(
        &mut self,
        address: SocketAddr,
        policy: &Policy,
        now: Instant,
        judged: &mut Judged,
        touched: &mut BTreeSet<SocketAddr>,
        change: impl FnOnce(&mut Condition),
    ) {
        let known = self.conditions.entry(address).or_default();
        let out = |known: &Condition| (known.reason().is_some(), known.is_doubted());
        let before = (known.is_unhealthy(), out(known), known.is_half_open());
        change(known);
        let clean = known.is_clean(policy, now);
        let after = (known.is_unhealthy(), out(known), known.is_half_open() && !clean);
        let gone = after.0 && known.is_gone(policy, now);
        if clean {
            self.conditions.remove(&address);
        }
        if gone {
            judged.states.push((address, HealthState::Gone));
        } else if before.0 != after.0 {
            judged
                .states
                .push((address, if after.0 { HealthState::Unhealthy } else { HealthState::Healthy }));
        }
        if before.1 != after.1 {
            touched.insert(address);
        }
        if before.2 != after.2 {
            judged.half_open.push((address, after.2));
        }
    }

    fn weigh(&mut self, policy: &Policy, touched: &mut BTreeSet<SocketAddr>) {
        let out: Vec<SocketAddr> = self
            .out()
            .map(|(address, _)| address)
            .filter(|address| self.list.contains_key(address))
            .collect();
        let known = || out.iter().filter_map(|address| self.conditions.get(address));
        let starting = known().filter(|known| known.is_starting()).count();
        let well = self.list.len() - out.len();
        let relying = well == 0 && known().any(Condition::is_doubted);
        let panic = !relying && policy.is_panic(well, starting, self.list.len());
        if (panic, relying) != (self.panic, self.relying) {
            (self.panic, self.relying) = (panic, relying);
            touched.extend(out);
        }
    }

    fn is_new(&self, address: SocketAddr, policy: &Policy, now: Instant) -> bool {
        let since = self.list.get(&address).map(|(_, since)| *since);
        since.is_some_and(|since| policy.is_new(since, now))
    }

    /// Whether failing requests may take out one more.
    fn has_room(&self, policy: &Policy) -> bool {
        let guesses = self
            .conditions
            .iter()
            .filter(|(address, known)| known.is_guess() && self.list.contains_key(address));
        guesses.count() < policy.may_be_out(self.list.len())
    }

    fn offer(&self, address: SocketAddr) -> Offer {
        let out = self
            .conditions
            .get(&address)
            .is_some_and(|known| known.reason().is_some() && !(self.relying && known.is_doubted()));
        match self.list.get(&address).filter(|_| !out || self.panic) {
            Some((endpoint, _)) => Offer::Put(endpoint.clone()),
            None => Offer::Remove(address),
        }
    }
}
