//! Endpoints that a source no longer claims, whose removal is not believed yet.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Policy;
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

    /// How long the list was that the reserve comes from, at its longest.
    pub(super) fn list(&self) -> usize {
        self.list
    }

    /// Holds these, which left a list of this length. Returns who had to leave for them.
    pub(super) fn hold(&mut self, left: Vec<Endpoint>, list: usize, now: Instant) -> Vec<SocketAddr> {
        self.list = self.list.max(list);
        self.held.extend(left.into_iter().map(|endpoint| (endpoint.address, (now, endpoint))));
        let most = (self.list * TIMES_THE_LIST).max(AT_LEAST);
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
        let same = self.standing.filter(|(known, _)| live && *known == alone);
        self.standing = (live && !self.is_empty()).then(|| same.unwrap_or((alone, now)));
        let Some((_, standing)) = self.standing else { return Vec::new() };
        let Some(period) = (if alone { policy.confirm_all } else { Some(policy.confirm) }) else {
            return Vec::new();
        };
        let confirmed = |since: Instant| passed(since.max(standing), now) >= period;
        let gone: Vec<SocketAddr> =
            self.held.extract_if(.., |_, (since, _)| confirmed(*since)).map(|(address, _)| address).collect();
        self.settle();
        gone
    }

    fn settle(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

fn passed(since: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(since)
}
