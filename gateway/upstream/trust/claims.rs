//! What a registry says there is, by its own keys.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use crate::upstream::{Endpoint, Facts, Weight};

/// One instance as a registry claims it, its address resolved by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key of the claim inside its source.
    pub id: String,
    /// More than one when a host name has several addresses. None while its name was never resolved: what the same id
    /// claimed before stays then.
    pub addresses: Vec<SocketAddr>,
    /// None: registered but drained, no new requests.
    pub weight: Option<Weight>,
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimChange {
    Put(Claim),
    Remove(String),
}

/// What a registry said, and how much of the truth it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Complete(Vec<Claim>),
    Partial(Vec<Claim>),
    Changes(Vec<ClaimChange>),
    Unchanged,
}

/// What is claimed at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claimed {
    Endpoint(Endpoint),
    /// Only with weight 0: it is there, and gets no new requests.
    Drained,
    Nothing,
}

/// The claims of one source.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    by_id: HashMap<String, Claim>,
    /// Which claims name an address; it is claimed until the last of them is removed.
    ids: HashMap<SocketAddr, BTreeSet<String>>,
}

impl Claims {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.by_id.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes in what the registry said and returns the addresses that it may have changed.
    pub(super) fn take(&mut self, news: News) -> BTreeSet<SocketAddr> {
        let mut touched = BTreeSet::new();
        match news {
            News::Complete(claims) => {
                let kept: BTreeSet<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
                let gone: Vec<String> =
                    self.by_id.keys().filter(|id| !kept.contains(id.as_str())).cloned().collect();
                claims.into_iter().for_each(|claim| self.put(claim, &mut touched));
                gone.iter().for_each(|id| self.remove(id, &mut touched));
            }
            News::Partial(claims) => claims.into_iter().for_each(|claim| self.put(claim, &mut touched)),
            News::Changes(changes) => changes.into_iter().for_each(|change| match change {
                ClaimChange::Put(claim) => self.put(claim, &mut touched),
                ClaimChange::Remove(id) => self.remove(&id, &mut touched),
            }),
            News::Unchanged => {}
        }
        touched
    }

    /// What is claimed at an address: the claim with the greatest id that is not drained.
    pub(super) fn at(&self, address: SocketAddr) -> Claimed {
        let Some(ids) = self.ids.get(&address) else { return Claimed::Nothing };
        let mut claims = ids.iter().rev().filter_map(|id| self.by_id.get(id));
        let offered = claims.find_map(|claim| claim.weight.map(|weight| (claim, weight)));
        offered.map_or(Claimed::Drained, |(claim, weight)| {
            Claimed::Endpoint(Endpoint { address, weight, facts: claim.facts.clone() })
        })
    }

    /// Whether an address is claimed, with whatever weight.
    pub(super) fn name(&self, address: SocketAddr) -> bool {
        self.ids.contains_key(&address)
    }

    fn put(&mut self, mut claim: Claim, touched: &mut BTreeSet<SocketAddr>) {
        if claim.addresses.is_empty()
            && let Some(known) = self.by_id.get(&claim.id)
        {
            claim.addresses.clone_from(&known.addresses);
        }
        if self.by_id.get(&claim.id) == Some(&claim) {
            return;
        }
        let id = claim.id.clone();
        self.remove(&id, touched);
        for address in &claim.addresses {
            self.ids.entry(*address).or_default().insert(id.clone());
            touched.insert(*address);
        }
        self.by_id.insert(id, claim);
    }

    fn remove(&mut self, id: &str, touched: &mut BTreeSet<SocketAddr>) {
        let Some(claim) = self.by_id.remove(id) else { return };
        for address in claim.addresses {
            if let Some(ids) = self.ids.get_mut(&address) {
                ids.remove(id);
                if ids.is_empty() {
                    self.ids.remove(&address);
                }
            }
            touched.insert(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: &str, addresses: &[&str]) -> Claim {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Claim { id: id.into(), addresses, weight: Some(Weight::ONE), facts: Facts::default() }
    }

    #[test]
    fn a_claim_whose_name_is_not_resolved_yet_stays_where_it_was() {
        let mut claims = Claims::default();
        // As it was on disk.
        claims.take(News::Complete(vec![claim("a", &["10.0.0.1:80"]), claim("b", &["10.0.0.2:80"])]));
        let touched = claims.take(News::Complete(vec![claim("a", &[]), claim("c", &[])]));
        assert_eq!(touched, BTreeSet::from(["10.0.0.2:80".parse().unwrap()]));
        assert!(claims.name("10.0.0.1:80".parse().unwrap()));
        assert_eq!(claims.len(), 2);
        claims.take(News::Changes(vec![ClaimChange::Put(claim("a", &["10.0.0.3:80"]))]));
        assert!(!claims.name("10.0.0.1:80".parse().unwrap()));
        assert!(claims.name("10.0.0.3:80".parse().unwrap()));
    }
}
