//! Subsets: where there are many gateways and many endpoints, each gateway uses some, and all together use all of them
//! alike. Otherwise every endpoint would have connections and checks of every gateway.
//!
//! The endpoints of a rank stand on a ring in the order of a hash of their addresses, the gateways around it: each begins
//! at its own place and uses as many as it is to from there on. The places of gateways that are numbered are those of the
//! van der Corput sequence, which spreads any number of them evenly; so every endpoint is used by as many gateways, give
//! or take a few. This is the "ringsteady" subsetting of "Reinventing Backend Subsetting at Google" (Ward, Wankadia and
//! Guliani, ACM Queue 20/5, 2022) with places counted in endpoints, so that their hashes need not be even. One endpoint
//! more or less changes at most one other endpoint of each gateway.
//!
//! An endpoint that fails is replaced by the next on the ring until it is well again. Health judges what is used, and
//! nothing else.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

use xxhash_rust::xxh64::xxh64;

use crate::upstream::{Endpoint, Health, Offer, Rank, State};

/// Which endpoints a gateway uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    /// The place of the gateway on the ring, as a fraction of it: over 2^64.
    pub place: u64,
    /// How many of each rank.
    pub size: usize,
}

/// The place on the ring of the gateway that is called so. A number at the end of the name says which of the gateways
/// it is, counted from 0 or 1: `7`, `gateway-7`.
pub fn place(id: &str) -> u64 {
    let name = id.trim_end_matches(|c: char| c.is_ascii_digit());
    match id[name.len()..].parse::<u64>() {
        // The digits of the number in reverse, behind the point: 1 is a half, 2 a quarter, 3 three quarters.
        Ok(number) => number.reverse_bits(),
        Err(_) => xxh64(id.as_bytes(), 0),
    }
}

/// The endpoints that are used, of all in the list.
#[derive(Debug, Default)]
pub struct Subsetting(Option<Rings>);

#[derive(Debug, Default)]
struct Rings {
    /// In the order of their hashes.
    rings: BTreeMap<Rank, BTreeMap<(u64, SocketAddr), Endpoint>>,
    ranks: HashMap<SocketAddr, Rank>,
    used: HashSet<SocketAddr>,
}

impl Subsetting {
    /// The list changes, and this is what of it those hear of who judge and offer. No offers: `health` knows something
    /// else, or the policy is another.
    pub fn take(&mut self, offers: Vec<Offer>, policy: Option<&Subset>, health: &Health) -> Vec<Offer> {
        let Some(policy) = policy else {
            return match self.0.take() {
                None => offers,
                Some(mut rings) => rings.take(offers, |rings| rings.ranks.keys().copied().collect()),
            };
        };
        let rings = self.0.get_or_insert_with(|| Rings::of(health.list()));
        rings.take(offers, |rings| rings.used(policy, health))
    }

    /// The whole list, unless everybody in it is used.
    pub fn list(&self) -> Option<impl Iterator<Item = &Endpoint>> {
        self.0.as_ref().map(|rings| rings.rings.values().flat_map(|ring| ring.values()))
    }

    /// How many of the list are not used.
    pub fn unused(&self) -> usize {
        self.0.as_ref().map_or(0, |rings| rings.ranks.len() - rings.used.len())
    }
}

impl Rings {
    /// A list in which everybody is used.
    fn of<'e>(list: impl Iterator<Item = &'e Endpoint>) -> Self {
        let mut rings = Self::default();
        list.for_each(|endpoint| rings.put(endpoint.clone()));
        rings.used = rings.ranks.keys().copied().collect();
        rings
    }

    fn put(&mut self, endpoint: Endpoint) {
        let (address, rank) = (endpoint.address, endpoint.facts.rank());
        self.remove(address);
        self.ranks.insert(address, rank);
        self.rings.entry(rank).or_default().insert(at(address), endpoint);
    }

    fn remove(&mut self, address: SocketAddr) {
        let Some(rank) = self.ranks.remove(&address) else { return };
        if let Some(ring) = self.rings.get_mut(&rank) {
            ring.remove(&at(address));
        }
    }

    fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        self.rings.get(self.ranks.get(&address)?)?.get(&at(address))
    }

    /// Takes in what changes, and returns what that changes for those who are told only of the used.
    fn take(&mut self, offers: Vec<Offer>, choose: impl FnOnce(&Self) -> HashSet<SocketAddr>) -> Vec<Offer> {
        let mut touched = HashSet::new();
        for offer in offers {
            match offer {
                Offer::Put(endpoint) => {
                    touched.insert(endpoint.address);
                    self.put(endpoint);
                }
                Offer::Remove(address) => {
                    touched.insert(address);
                    self.remove(address);
                }
            }
        }
        let before = std::mem::take(&mut self.used);
        self.used = choose(self);
        touched.extend(before.symmetric_difference(&self.used));
        let told = touched.into_iter().filter_map(|address| match self.used.contains(&address) {
            true => self.get(address).cloned().map(Offer::Put),
            false => before.contains(&address).then_some(Offer::Remove(address)),
        });
        told.collect()
    }

    fn used(&self, policy: &Subset, health: &Health) -> HashSet<SocketAddr> {
        let mut used = HashSet::new();
        for ring in self.rings.values() {
            let start = (u128::from(policy.place) * ring.len() as u128) >> 64;
            let (mut well, mut spare) = (0, policy.size);
            for endpoint in ring.values().cycle().skip(start as usize).take(ring.len()) {
                if well == policy.size {
                    break;
                }
                used.insert(endpoint.address);
                if health.is_failing(endpoint.address) {
                    continue;
                }
                // What its registry says may be wrong for all of them: it is not followed all around the ring.
                if endpoint.facts.state == State::Unwell && spare > 0 {
                    spare -= 1;
                    continue;
                }
                well += 1;
            }
        }
        used
    }
}

/// Where on the ring an endpoint stands.
fn at(address: SocketAddr) -> (u64, SocketAddr) {
    (xxh64(address.to_string().as_bytes(), 0), address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Facts, Weight};

    fn endpoint(number: u32) -> Endpoint {
        let address = ([10, 0, (number >> 8) as u8, number as u8], 80).into();
        Endpoint { address, weight: Weight::ONE, facts: Facts::default() }
    }

    fn used(endpoints: impl IntoIterator<Item = u32>, gateway: u64, size: usize) -> HashSet<SocketAddr> {
        let policy = Subset { place: place(&format!("gateway-{gateway}")), size };
        let offers = endpoints.into_iter().map(|number| Offer::Put(endpoint(number)));
        let told = Subsetting::default().take(offers.collect(), Some(&policy), &Health::default());
        let put = told.into_iter().map(|offer| match offer {
            Offer::Put(endpoint) => endpoint.address,
            Offer::Remove(address) => panic!("{address} was never there"),
        });
        put.collect()
    }

    #[test]
    fn a_number_at_the_end_of_its_name_is_the_place_of_a_gateway() {
        let quarters = |id| place(id) as f64 / 2f64.powi(64) * 4.0;
        assert_eq!(["0", "1", "gateway-2", "eu-1a-3"].map(quarters), [0.0, 2.0, 1.0, 3.0]);
        assert_eq!(place("gateway"), place("gateway"));
        assert_ne!(place("gateway-a"), place("gateway-b"));
        assert_ne!(place(""), 0);
    }

    #[test]
    fn gateways_without_numbers_have_any_places() {
        let counts = (0..400).fold([0; 4], |mut counts, number| {
            counts[(place(&format!("{number}-gateway")) >> 62) as usize] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Every gateway uses as many as it is to, and every endpoint is used by as many gateways as any other, give or
        /// take as many as their number has bits.
        #[test]
        fn every_endpoint_gets_its_share(endpoints in 1u32..300, gateways in 1u64..80, size in 1usize..60) {
            let mut users: HashMap<SocketAddr, u64> = (0..endpoints).map(|number| (endpoint(number).address, 0)).collect();
            for gateway in 0..gateways {
                let used = used(0..endpoints, gateway, size);
                prop_assert_eq!(used.len(), size.min(endpoints as usize));
                used.iter().for_each(|address| *users.get_mut(address).unwrap() += 1);
            }
            let (fewest, most) = (users.values().min().unwrap(), users.values().max().unwrap());
            let slack = u64::from(gateways.ilog2()) + 2;
            prop_assert!(most - fewest <= slack, "from {fewest} to {most} of {gateways}");
        }

        /// One endpoint less is replaced where it was used, and beside that concerns at most one other of each gateway.
        #[test]
        fn one_that_joins_or_leaves_moves_hardly_anything(
            endpoints in 2u32..300, gateway in 0u64..1_000, size in 1usize..60, leaves in 0u32..300,
        ) {
            let leaves = leaves % endpoints;
            let before = used(0..endpoints, gateway, size);
            let after = used((0..endpoints).filter(|number| *number != leaves), gateway, size);
            let moved = after.difference(&before).count();
            let replaced = usize::from(before.contains(&endpoint(leaves).address));
            prop_assert!(moved <= replaced + 1, "{moved}");
        }
    }
}
