//! The merge of what several sources offer: one endpoint per address, the first source winning where they differ.

use std::{collections::HashMap, net::SocketAddr};

use super::{Endpoint, Offer};

/// What each source of one upstream offers, by address.
#[derive(Debug, Default)]
pub struct Merge {
    /// For an address the offers of the sources that have it, in the order of the sources.
    offers: HashMap<SocketAddr, Vec<(usize, Endpoint)>>,
}

impl Merge {
    /// Takes in what changed in one source and returns what changes in the whole.
    pub fn take(&mut self, source: usize, offers: Vec<Offer>) -> Vec<Offer> {
        offers.into_iter().map(|offer| self.one(source, offer)).collect()
    }

    fn one(&mut self, source: usize, offer: Offer) -> Offer {
        let address = match &offer {
            Offer::Put(endpoint) => endpoint.address,
            Offer::Remove(address) => *address,
        };
        let known = self.offers.entry(address).or_default();
        let place = known.binary_search_by_key(&source, |(source, _)| *source);
        match (offer, place) {
            (Offer::Put(endpoint), Ok(at)) => known[at].1 = endpoint,
            (Offer::Put(endpoint), Err(at)) => known.insert(at, (source, endpoint)),
            (Offer::Remove(_), Ok(at)) => drop(known.remove(at)),
            (Offer::Remove(_), Err(_)) => {}
        }
        match known.first() {
            Some((_, first)) => Offer::Put(first.clone()),
            None => {
                self.offers.remove(&address);
                Offer::Remove(address)
            }
        }
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
        assert_eq!(merge.take(1, vec![Offer::Put(endpoint(2))]), [Offer::Put(endpoint(2))]);
        assert_eq!(merge.take(0, vec![Offer::Put(endpoint(1))]), [Offer::Put(endpoint(1))]);
        assert_eq!(merge.take(0, vec![Offer::Remove(endpoint(1).address)]), [Offer::Put(endpoint(2))]);
        let last = merge.take(1, vec![Offer::Remove(endpoint(1).address)]);
        assert_eq!(last, [Offer::Remove(endpoint(1).address)]);
        assert!(merge.offers.is_empty());
    }
}
