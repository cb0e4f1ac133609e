//! Which endpoints of a list get requests.
//!
//! A list, be it live, frozen, restored or a reserve, loses the endpoints that fail, and gets them back when they
//! answer. Requests are evidence, and so are checks, those of the registry among them. Whatever the evidence says, a list
//! that is not empty never becomes empty here: with too few well, all are offered.
//!
//! Of those that are well only the first [`Rank`] is offered: what drains waits until nobody else is well, and what has a
//! lower priority until too few before it are.
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
use super::{Endpoint, Group, HealthState, Offer, Rank, State, shares};

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
    /// Endpoints that are new, or that come back after they were out or about to go.
    pub joined: Vec<SocketAddr>,
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
    /// Those of the list that are unwell, as their registry says.
    unwell: BTreeSet<SocketAddr>,
    /// How many of the list there are of each rank.
    ranks: BTreeMap<Rank, usize>,
    choice: Choice,
}

/// Who of the list is offered.
#[derive(Debug, Clone, Default, PartialEq)]
struct Choice {
    /// Those that are out because they are unwell.
    unwell: BTreeSet<SocketAddr>,
    /// Only those of these ranks, while somebody is well, and the share of requests of each; all, while there are none.
    groups: Vec<(Rank, f64)>,
    /// The others of these ranks, too; all others, while nobody is well.
    panic: bool,
    /// Whether nobody is well, and those that are only doubted are offered.
    relying: bool,
}

impl Health {
    /// The endpoints that are out, and why. In a panic they get requests all the same.
    pub fn out(&self) -> impl Iterator<Item = (SocketAddr, Reason)> {
        let known = self.conditions.iter().filter_map(|(address, known)| Some((*address, known.reason()?)));
        let is_known = |address: &SocketAddr| self.reason(*address).is_some();
        let unwell = self.choice.unwell.iter().filter(move |address| !is_known(address));
        known.chain(unwell.map(|address| (*address, Reason::Unwell)))
    }

    /// The endpoints that are well and wait, because others come before them.
    pub fn standby(&self) -> impl Iterator<Item = &Endpoint> {
        // Of one rank nobody waits.
        let several = self.ranks.len() > self.choice.groups.len();
        let list = self.list.values().filter(move |_| several).map(|(endpoint, _)| endpoint);
        list.filter(|endpoint| !self.choice.has(endpoint.facts.rank()) && !self.is_out(endpoint.address))
    }

    /// The ranks that are offered, the first first, and the share of requests that each is to get. None while nobody is
    /// well.
    pub fn groups(&self) -> &[(Rank, f64)] {
        &self.choice.groups
    }

    /// Everybody that is offered.
    pub fn offered(&self) -> impl Iterator<Item = &Endpoint> {
        self.list().filter(|endpoint| self.offers(endpoint))
    }

    /// Whether requests or checks say that it is not well.
    pub fn is_failing(&self, address: SocketAddr) -> bool {
        self.reason(address).is_some()
    }

    pub fn is_offered(&self, address: SocketAddr) -> bool {
        self.get(address).is_some_and(|endpoint| self.offers(endpoint))
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
        self.choice.panic
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
            HealthInput::List(offers) => self.relist(offers, now, &mut judged, &mut touched),
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
        self.weigh(policy, now, &mut touched);
        judged.offers = touched.into_iter().map(|address| self.offer(address)).collect();
        judged
    }

    fn relist(
        &mut self,
        offers: Vec<Offer>,
        now: Instant,
        judged: &mut Judged,
        touched: &mut BTreeSet<SocketAddr>,
    ) {
        for offer in offers {
            let (address, endpoint) = match offer {
                Offer::Put(endpoint) => (endpoint.address, Some(endpoint)),
                Offer::Remove(address) => (address, None),
            };
            touched.insert(address);
            let before = self.list.remove(&address);
            let since = before.as_ref().map_or(now, |(_, since)| *since);
            let was_ready = before.as_ref().map(|(endpoint, _)| endpoint.facts.is_ready());
            if let Some((before, _)) = before {
                self.leave(before.facts.rank());
            }
            self.say(address, endpoint.as_ref().map(|endpoint| endpoint.facts.state), judged);
            if let Some(endpoint) = endpoint {
                if was_ready.is_none_or(|ready| !ready && endpoint.facts.is_ready()) {
                    judged.joined.push(address);
                }
                *self.ranks.entry(endpoint.facts.rank()).or_default() += 1;
                self.list.insert(address, (endpoint, since));
            }
        }
    }

    fn leave(&mut self, rank: Rank) {
        if let Some(others) = self.ranks.get_mut(&rank) {
            *others -= 1;
            if *others == 0 {
                self.ranks.remove(&rank);
            }
        }
    }

    /// Takes in how the registry says that an endpoint stands, or that it is in the list no more.
    fn say(&mut self, address: SocketAddr, state: Option<State>, judged: &mut Judged) {
        let changes = match state {
            Some(State::Unwell) => self.unwell.insert(address),
            _ => self.unwell.remove(&address),
        };
        if changes && !self.conditions.get(&address).is_some_and(Condition::is_unhealthy) {
            let state = match self.unwell.contains(&address) {
                true => HealthState::Unhealthy,
                false => HealthState::Healthy,
            };
            judged.states.push((address, state));
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
        let unwell = self.unwell.contains(&address);
        let known = self.conditions.entry(address).or_default();
        let out = |known: &Condition| (known.reason().is_some(), known.is_doubted());
        let before = (known.is_unhealthy() || unwell, out(known), known.is_half_open());
        change(known);
        let clean = known.is_clean(policy, now);
        let after = (known.is_unhealthy() || unwell, out(known), known.is_half_open() && !clean);
        let gone = known.is_unhealthy() && known.is_gone(policy, now);
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
        if before.1.0 && !after.1.0 {
            judged.joined.push(address);
        }
        if before.2 != after.2 {
            judged.half_open.push((address, after.2));
        }
    }

    /// Chooses anew who is offered, and touches those for whom that makes a difference.
    fn weigh(&mut self, policy: &Policy, now: Instant, touched: &mut BTreeSet<SocketAddr>) {
        let choice = self.choose(policy, now);
        if choice == self.choice {
            return;
        }
        let before = std::mem::replace(&mut self.choice, choice);
        touched.extend(before.unwell.symmetric_difference(&self.choice.unwell));
        if !before.same_ranks(&self.choice) {
            touched.extend(self.list.keys());
        } else if (before.panic, before.relying) != (self.choice.panic, self.choice.relying) {
            let out = self.conditions.keys().chain(&self.choice.unwell);
            touched.extend(out.filter(|address| self.list.contains_key(address)));
        }
    }

    fn choose(&self, policy: &Policy, now: Instant) -> Choice {
        let list = self.list.len();
        // A registry that finds hardly anybody well is likelier to be wrong than right.
        let believed = !policy.is_panic(list - self.unwell.len(), 0, list);
        let most = if believed { policy.may_be_out(list) } else { 0 };
        // The first by address, so that it is the same ones whoever came first.
        let unwell: BTreeSet<SocketAddr> = self.unwell.iter().take(most).copied().collect();
        let (mut well, mut starting, mut new) = (self.ranks.clone(), BTreeMap::new(), BTreeMap::new());
        let mut doubted = false;
        let known = self.conditions.iter().filter(|(_, known)| known.reason().is_some());
        let fresh = unwell.iter().filter(|address| self.reason(**address).is_none());
        let out =
            known.map(|(address, known)| (address, Some(known))).chain(fresh.map(|address| (address, None)));
        for (address, known) in out {
            let Some((endpoint, since)) = self.list.get(address) else { continue };
            let rank = endpoint.facts.rank();
            well.entry(rank).and_modify(|well| *well -= 1);
            if known.is_some_and(Condition::is_starting) {
                *starting.entry(rank).or_default() += 1;
                *new.entry(rank).or_default() += usize::from(policy.is_new(*since, now));
            }
            doubted |= known.is_some_and(Condition::is_doubted);
        }
        let of = |counts: &BTreeMap<Rank, usize>, rank: &Rank| counts.get(rank).copied().unwrap_or(0);
        let group = |(rank, well): (&Rank, &usize)| Group {
            rank: *rank,
            members: self.ranks[rank] - of(&new, rank),
            well: *well,
        };
        let groups = shares(well.iter().map(group), policy.priority_threshold);
        if groups.is_empty() {
            return Choice { unwell, groups, panic: !doubted && !self.list.is_empty(), relying: doubted };
        }
        let ranks = || groups.iter().map(|(rank, _)| rank);
        let panic = policy.is_panic(
            ranks().map(|rank| well[rank]).sum(),
            ranks().map(|rank| of(&starting, rank)).sum(),
            ranks().map(|rank| self.ranks[rank]).sum(),
        );
        Choice { unwell, groups, panic, relying: false }
    }

    fn reason(&self, address: SocketAddr) -> Option<Reason> {
        self.conditions.get(&address)?.reason()
    }

    fn is_out(&self, address: SocketAddr) -> bool {
        self.reason(address).is_some() || self.choice.unwell.contains(&address)
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
        match self.get(address).filter(|endpoint| self.offers(endpoint)) {
            Some(endpoint) => Offer::Put(endpoint.clone()),
            None => Offer::Remove(address),
        }
    }

    /// Whether this one, which is in the list, is offered.
    fn offers(&self, endpoint: &Endpoint) -> bool {
        let (choice, address) = (&self.choice, endpoint.address);
        let relied = || choice.relying && self.conditions.get(&address).is_some_and(Condition::is_doubted);
        let first = choice.groups.is_empty() || choice.has(endpoint.facts.rank());
        first && (choice.panic || !self.is_out(address) || relied())
    }
}

impl Choice {
    fn has(&self, rank: Rank) -> bool {
        self.groups.iter().any(|(of, _)| *of == rank)
    }

    fn same_ranks(&self, other: &Self) -> bool {
        self.groups.iter().map(|(rank, _)| rank).eq(other.groups.iter().map(|(rank, _)| rank))
    }
}
