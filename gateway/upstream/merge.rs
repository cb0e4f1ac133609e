//! The merge of what several sources offer: one endpoint per address, the first source winning where they differ.

use std::{collections::HashMap, net::SocketAddr};

use super::{Endpoint, Offer};

/// What each source of one upstream offers, by address.
#[derive(Debug, Default)]
pub struct Merge {
    /// For an address the offers of the sources that have it, in the order of the sources.
    offers: HashMap<SocketAddr, Vec<(usize, Endpoint)>>,
}

/// What changed at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub address: SocketAddr,
    pub before: Option<Endpoint>,
    pub after: Option<Endpoint>,
}

impl Changed {
    /// The same, as something to be offered.
    pub fn offer(&self) -> Offer {
        match &self.after {
            Some(endpoint) => Offer::Put(endpoint.clone()),
            None => Offer::Remove(self.address),
        }
    }
}

impl Merge {
    /// Takes in what one source offers now, and returns what that changes in the whole.
    pub fn take(&mut self, source: usize, offers: Vec<Offer>) -> Vec<Changed> {
        offers.into_iter().filter_map(|offer| self.one(source, offer)).collect()
    }

    pub fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        self.offers.get(&address)?.first().map(|(_, endpoint)| endpoint)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.offers.values().filter_map(|offers| Some(&offers.first()?.1))
    }

    fn one(&mut self, source: usize, offer: Offer) -> Option<Changed> {
        let address = match &offer {
            Offer::Put(endpoint) => endpoint.address,
            Offer::Remove(address) => *address,
        };
        let before = self.get(address).cloned();
        let known = self.offers.entry(address).or_default();
        let place = known.binary_search_by_key(&source, |(source, _)| *source);
        match (offer, place) {
            (Offer::Put(endpoint), Ok(at)) => known[at].1 = endpoint,
            (Offer::Put(endpoint), Err(at)) => known.insert(at, (source, endpoint)),
            (Offer::Remove(_), Ok(at)) => drop(known.remove(at)),
            (Offer::Remove(_), Err(_)) => {}
        }
        if known.is_empty() {
            self.offers.remove(&address);
        }
        let after = self.get(address).cloned();
        (before != after).then_some(Changed { address, before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Labels, Weight};

    fn endpoint(weight: u32) -> Endpoint {
        let weight = Weight::new(weight).unwrap();
        Endpoint { address: ([10, 0, 0, 1], 80).into(), weight, labels: Labels::default() }
    }

    #[test]
    fn an_endpoint_known_to_both_is_there_once_and_leaves_when_neither_offers_it() {
        let mut merge = Merge::default();
        let mut check = |source, offer, before: Option<u32>, after: Option<u32>| {
            let changed = merge.take(source, vec![offer]);
            let (before, after) = (before.map(endpoint), after.map(endpoint));
            let expected = Changed { address: endpoint(1).address, before, after };
            assert_eq!(changed.first(), (expected.before != expected.after).then_some(&expected));
        };
        check(1, Offer::Put(endpoint(2)), None, Some(2));
        check(0, Offer::Put(endpoint(1)), Some(2), Some(1));
        check(1, Offer::Put(endpoint(3)), Some(1), Some(1));
        check(0, Offer::Remove(endpoint(1).address), Some(1), Some(3));
        check(1, Offer::Remove(endpoint(1).address), Some(3), None);
        assert!(merge.offers.is_empty());
    }
}
