//! What a source claims, and what of it we offer.
//!
//! A pure function of (state, news): no IO, no clock. A failure of the registry never comes here as a list; it
//! changes the origin, and the offer stays what it was.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
};

use super::{Endpoint, Labels, Offer, Weight};

/// One instance as a registry claims it, its address resolved by the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key of the claim inside its source.
    pub id: String,
    /// More than one when a host name has several addresses.
    pub addresses: Vec<SocketAddr>,
    /// None: registered but drained, no new requests.
    pub weight: Option<Weight>,
    pub labels: Labels,
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

/// One registry's view of one upstream.
#[derive(Debug)]
pub struct Source {
    claims: HashMap<String, Claim>,
    /// Which claims name an address; it is offered until the last of them is removed.
    ids: HashMap<SocketAddr, BTreeSet<String>>,
    origin: Origin,
}

impl Source {
    pub fn new() -> Self {
        Self { claims: HashMap::new(), ids: HashMap::new(), origin: Origin::Unknown }
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values()
    }

    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Takes in what the registry said and returns what changes in the offer.
    pub fn take(&mut self, news: News) -> Vec<Offer> {
        self.origin = Origin::Live;
        let mut touched = BTreeSet::new();
        match news {
            News::Complete(claims) => {
                let kept: BTreeSet<&str> = claims.iter().map(|claim| claim.id.as_str()).collect();
                let gone: Vec<String> =
                    self.claims.keys().filter(|id| !kept.contains(id.as_str())).cloned().collect();
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
        touched.into_iter().map(|address| self.offer(address)).collect()
    }

    /// The registry failed: nothing changes but the origin.
    pub fn fail(&mut self) {
        if self.origin == Origin::Live {
            self.origin = Origin::Frozen;
        }
    }

    /// Takes the last good list from disk. Only before anything was heard.
    pub fn restore(&mut self, claims: Vec<Claim>) -> Vec<Offer> {
        let offers = self.take(News::Complete(claims));
        self.origin = Origin::Restored;
        offers
    }

    fn put(&mut self, claim: Claim, touched: &mut BTreeSet<SocketAddr>) {
        if self.claims.get(&claim.id) == Some(&claim) {
            return;
        }
        let id = claim.id.clone();
        self.remove(&id, touched);
        for address in &claim.addresses {
            self.ids.entry(*address).or_default().insert(id.clone());
            touched.insert(*address);
        }
        self.claims.insert(id, claim);
    }

    fn remove(&mut self, id: &str, touched: &mut BTreeSet<SocketAddr>) {
        let Some(claim) = self.claims.remove(id) else { return };
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

    /// What is offered at an address: the claim with the greatest id that is not drained.
    fn offer(&self, address: SocketAddr) -> Offer {
        let ids = self.ids.get(&address).into_iter().flatten().rev();
        let claim = ids.filter_map(|id| self.claims.get(id)).find_map(|claim| Some((claim, claim.weight?)));
        match claim {
            Some((claim, weight)) => Offer::Put(Endpoint { address, weight, labels: claim.labels.clone() }),
            None => Offer::Remove(address),
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(id: &str, port: u16, weight: u32) -> Claim {
        Claim {
            id: id.into(),
            addresses: vec![([127, 0, 0, 1], port).into()],
            weight: Weight::new(weight),
            labels: Labels::default(),
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn an_address_stays_until_its_last_id_is_removed() {
        let mut source = Source::new();
        source.take(News::Complete(vec![claim("a", 1, 1), claim("b", 1, 1)]));
        let offers = source.take(News::Changes(vec![ClaimChange::Remove("a".into())]));
        assert!(matches!(&offers[..], [Offer::Put(endpoint)] if endpoint.address == address(1)));
        let offers = source.take(News::Changes(vec![ClaimChange::Remove("b".into())]));
        assert_eq!(offers, [Offer::Remove(address(1))]);
    }

    #[test]
    fn a_drained_claim_is_known_but_not_offered() {
        let mut source = Source::new();
        assert_eq!(source.take(News::Complete(vec![claim("a", 1, 0)])), [Offer::Remove(address(1))]);
        assert_eq!(source.len(), 1);
    }

    #[test]
    fn partial_news_remove_nothing_and_a_failure_changes_only_the_origin() {
        let mut source = Source::new();
        source.take(News::Complete(vec![claim("a", 1, 1)]));
        source.take(News::Partial(vec![claim("b", 2, 1)]));
        source.fail();
        assert_eq!(source.origin(), Origin::Frozen);
        assert_eq!(source.len(), 2);
    }

    proptest! {
        /// After any sequence of changes, folding the offers gives exactly the addresses that are claimed.
        #[test]
        fn folded_offers_are_what_is_claimed(
            steps in prop::collection::vec((0u8..3, prop::collection::vec((0u8..8, 0u16..6, 0u32..3), 0..6)), 0..30)
        ) {
            let mut source = Source::new();
            let mut offered: HashMap<SocketAddr, Endpoint> = HashMap::new();
            for (kind, items) in steps {
                let claims = items.iter().map(|(id, port, weight)| claim(&id.to_string(), *port, *weight));
                let news = match kind {
                    0 => News::Complete(claims.collect()),
                    1 => News::Partial(claims.collect()),
                    _ => News::Changes(claims.map(|claim| match claim.weight {
                        None => ClaimChange::Remove(claim.id),
                        Some(_) => ClaimChange::Put(claim),
                    }).collect()),
                };
                for offer in source.take(news) {
                    match offer {
                        Offer::Put(endpoint) => { offered.insert(endpoint.address, endpoint); }
                        Offer::Remove(address) => { offered.remove(&address); }
                    }
                }
                let claimed: BTreeSet<SocketAddr> = source.claims()
                    .filter(|claim| claim.weight.is_some())
                    .flat_map(|claim| claim.addresses.clone())
                    .collect();
                prop_assert_eq!(offered.keys().copied().collect::<BTreeSet<_>>(), claimed);
            }
        }
    }
}
