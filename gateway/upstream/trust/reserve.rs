//! Endpoints that a source no longer claims, whose removal is not believed yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Held, Policy, ago, before};
use crate::upstream::Endpoint;

/// A reserve is at most so many times as long as the list it comes from; the oldest leave first. Only a service
/// that appears under ever new addresses gets there.
const TIMES_THE_LIST: usize = 2;

/// The same for lists so short that it means nothing.
const AT_LEAST: usize = 16;

/// The reserve of one source.
#[derive(Debug, Clone, Default)]
pub(super) struct Reserve {
    held: BTreeMap<SocketAddr, (Instant, Endpoint)>,
    /// How long the list was before those left.
    list: usize,
    /// Whether it is all there is, and since when the registry has stood by that.
    standing: Option<(bool, Instant)>,
    /// The same from before a restart, for how long, until the registry answers again.
    paused: Option<(bool, Duration)>,
    /// Who was drained on purpose while the reserve was not needed: that is no reason to need it.
    excused: BTreeSet<SocketAddr>,
}

/// A reserve as it is kept over a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReserveState {
    pub held: Vec<Held>,
    /// How long the list was that they come from.
    pub list: usize,
    /// Whether they are all there is, and for how long the registry has stood by that.
    pub standing: Option<(bool, Duration)>,
    /// Who was drained on purpose while they were not needed.
    pub excused: Vec<SocketAddr>,
}

impl Reserve {
    pub(super) fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        self.held.get(&address).map(|(_, endpoint)| endpoint)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.held.keys().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Endpoint, Instant)> {
        self.held.values().map(|(since, endpoint)| (endpoint, *since))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many of the claimed have to answer so that it is not offered.
    pub(super) fn needs(&self, policy: &Policy) -> usize {
        policy.enough(self.list).saturating_sub(self.excused.len()).max(1)
    }

    /// One of those that stand in for it is drained on purpose.
    pub(super) fn excuse(&mut self, address: SocketAddr) {
        // More than the list would change nothing.
        if !self.is_empty() && self.excused.len() < self.list {
            self.excused.insert(address);
        }
    }

    /// It is not drained any more.
    pub(super) fn count_again(&mut self, address: SocketAddr) {
        self.excused.remove(&address);
    }

    /// Holds these, which left a list of this length. Returns who had to leave for them.
    pub(super) fn hold(&mut self, left: Vec<Endpoint>, list: usize, now: Instant) -> Vec<SocketAddr> {
        self.list = self.list.max(list);
        self.excused.clear();
        self.held.extend(left.into_iter().map(|endpoint| (endpoint.address, (now, endpoint))));
        let most = self.list.saturating_mul(TIMES_THE_LIST).max(AT_LEAST);
        let mut gone = Vec::new();
        while self.held.len() > most {
            let oldest = self.held.iter().min_by_key(|(_, (since, _))| *since).map(|(address, _)| *address);
            gone.extend(oldest.filter(|address| self.release(*address)));
        }
        gone
    }

    /// Says whether it was there.
    pub(super) fn release(&mut self, address: SocketAddr) -> bool {
        let held = self.held.remove(&address).is_some();
        self.settle();
        held
    }

    /// Lets all of it go.
    pub(super) fn clear(&mut self) -> Vec<SocketAddr> {
        let addresses = self.addresses().collect();
        *self = Self::default();
        addresses
    }

    /// Lets go what the registry has stood by for long enough. `alone` says that nothing it claims answers; a
    /// registry that does not answer itself stands by nothing.
    pub(super) fn confirm(
        &mut self,
        alone: bool,
        live: bool,
        policy: &Policy,
        now: Instant,
    ) -> Vec<SocketAddr> {
        if let Some((alone, period)) = self.paused.take_if(|_| live) {
            self.standing = Some((alone, before(now, period)));
        }
        let same = self.standing.filter(|(known, _)| live && *known == alone);
        self.standing = (live && !self.is_empty()).then(|| same.unwrap_or((alone, now)));
        let Some((_, standing)) = self.standing else { return Vec::new() };
        let Some(period) = (if alone { policy.confirm_all } else { Some(policy.confirm) }) else {
            return Vec::new();
        };
        let confirmed = |since: Instant| ago(since.max(standing), now) >= period;
        let gone: Vec<SocketAddr> =
            self.held.extract_if(.., |_, (since, _)| confirmed(*since)).map(|(address, _)| address).collect();
        self.settle();
        gone
    }

    /// Whether time alone will let something go: the registry stands by a removal, and there is an end to that.
    pub(super) fn is_confirming(&self, policy: &Policy) -> bool {
        self.standing.is_some_and(|(alone, _)| !alone || policy.confirm_all.is_some())
    }

    /// The registry failed before it answered for the first time since a restart.
    pub(super) fn interrupt(&mut self) {
        self.paused = None;
    }

    pub(super) fn state(&self, now: Instant) -> ReserveState {
        let held = |(since, endpoint): &(Instant, Endpoint)| Held {
            endpoint: endpoint.clone(),
            ago: ago(*since, now),
        };
        let standing = self.standing.map(|(alone, since)| (alone, ago(since, now)));
        ReserveState {
            held: self.held.values().map(held).collect(),
            list: self.list,
            standing: self.paused.or(standing),
            excused: self.excused.iter().copied().collect(),
        }
    }

    /// The reserve as it was.
    pub(super) fn restored(state: ReserveState, now: Instant) -> Self {
        let ReserveState { held, list, standing, excused } = state;
        let held =
            held.into_iter().map(|Held { endpoint, ago }| (endpoint.address, (before(now, ago), endpoint)));
        let mut reserve = Self {
            held: held.collect(),
            list,
            standing: None,
            paused: standing,
            excused: excused.into_iter().collect(),
        };
        reserve.settle();
        reserve
    }

    fn settle(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
