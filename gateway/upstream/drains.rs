//! Endpoints that the operator lets drain: an overlay on the list, whatever it is of. News, a pin and a roll-back change
//! the list below it, and it stays until it is lifted, also for an address that leaves the list and comes back.
//!
//! What it lays over an endpoint is one fact, [`Facts::drains`](super::Facts::drains), which nobody below it ever sets: so
//! what is below is known without being remembered.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use super::{Endpoint, Offer};

/// Who drains, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drains(BTreeMap<SocketAddr, SystemTime>);

impl Drains {
    /// Whether that is new. Who drains already goes on since then.
    pub fn begin(&mut self, address: SocketAddr, now: SystemTime) -> bool {
        let is_new = !self.has(address);
        self.0.entry(address).or_insert(now);
        is_new
    }

    pub fn end(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    pub fn has(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// By address.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, SystemTime)> {
        self.0.iter().map(|(address, since)| (*address, *since))
    }

    /// The same, with who drains marked so.
    pub fn over(&self, mut offer: Offer) -> Offer {
        if let Offer::Put(endpoint) = &mut offer {
            endpoint.facts.drains = self.has(endpoint.address);
        }
        offer
    }

    /// The endpoint as it is without any drain.
    pub fn below(endpoint: &Endpoint) -> Endpoint {
        let mut endpoint = endpoint.clone();
        endpoint.facts.drains = false;
        endpoint
    }
}

impl FromIterator<(SocketAddr, SystemTime)> for Drains {
    fn from_iter<I: IntoIterator<Item = (SocketAddr, SystemTime)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Facts, State, Weight};

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn endpoint(port: u16, state: State, priority: u32) -> Endpoint {
        let facts = Facts { state, priority, ..Facts::default() };
        Endpoint { address: address(port), weight: Weight::ONE, facts }
    }

    #[test]
    fn a_drain_keeps_its_time_until_it_ends() {
        let (mut drains, now) = (Drains::default(), SystemTime::now());
        assert!(drains.begin(address(1), now));
        assert!(!drains.begin(address(1), now + Duration::from_secs(9)));
        assert_eq!(drains.iter().collect::<Vec<_>>(), [(address(1), now)]);
        drains.end(address(1));
        assert!(!drains.has(address(1)));
    }

    proptest! {
        /// Whatever the list and whoever drains: only who drains ranks behind all others, nothing else of an endpoint changes,
        /// and without the drain it is what it was.
        #[test]
        fn a_drain_changes_the_rank_and_nothing_else(
            list in prop::collection::vec((1u16..9, 0usize..3, 0u32..3), 0..12),
            draining in prop::collection::btree_set(1u16..9, 0..9),
        ) {
            let drains: Drains = draining.iter().map(|port| (address(*port), SystemTime::UNIX_EPOCH)).collect();
            for (port, state, priority) in list {
                let before = endpoint(port, State::ALL[state], priority);
                let Offer::Put(after) = drains.over(Offer::Put(before.clone())) else { unreachable!() };
                let is_told = draining.contains(&port);
                prop_assert_eq!(after.facts.rank().draining, is_told || before.facts.state == State::Draining);
                prop_assert_eq!(after.facts.rank().priority, before.facts.rank().priority);
                prop_assert_eq!(after.facts.state, before.facts.state);
                prop_assert_eq!(after == before, !is_told);
                prop_assert_eq!(Drains::below(&after), before);
                prop_assert_eq!(drains.over(Offer::Remove(address(port))), Offer::Remove(address(port)));
            }
        }
    }
}
