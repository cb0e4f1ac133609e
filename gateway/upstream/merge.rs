//! The merge of what several sources offer: one endpoint per address, the first source winning where they differ.
//!
//! A claim comes before a reserve, whichever source is first: it is newer. Only a claim with weight 0 does not take away
//! what an earlier source holds in reserve, because before that source lost it, its word counted.

use std::{collections::HashMap, net::SocketAddr};

use super::{Endpoint, Offer, Word};

/// What each source of one upstream offers, by address.
#[derive(Debug, Default)]
pub struct Merge {
    /// For an address the words of the sources that have one, in the order of the sources.
    words: HashMap<SocketAddr, Vec<(usize, Word)>>,
    /// Addresses that get no requests because they are drained.
    drained: usize,
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
    /// Takes in what one source says now, and returns what that changes in the whole.
    pub fn take(&mut self, source: usize, words: Vec<(SocketAddr, Option<Word>)>) -> Vec<Changed> {
        words.into_iter().filter_map(|(address, word)| self.one(source, address, word)).collect()
    }

    pub fn get(&self, address: SocketAddr) -> Option<&Endpoint> {
        endpoint(self.words.get(&address)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.words.values().filter_map(|words| endpoint(words))
    }

    /// The source whose word counts, for each endpoint.
    pub fn sources(&self) -> HashMap<SocketAddr, usize> {
        let source = |(address, words): (&SocketAddr, &Vec<_>)| Some((*address, chosen(words)?.0));
        self.words.iter().filter_map(source).collect()
    }

    /// Whether there is nobody to send requests to, and that is because of a drain.
    pub fn is_drained(&self) -> bool {
        self.drained > 0 && self.iter().next().is_none()
    }

    fn one(&mut self, source: usize, address: SocketAddr, word: Option<Word>) -> Option<Changed> {
        let known = self.words.entry(address).or_default();
        let (before, was_drained) = (endpoint(known).cloned(), is_drained(known));
        let place = known.binary_search_by_key(&source, |(source, _)| *source);
        match (word, place) {
            (Some(word), Ok(at)) => known[at].1 = word,
            (Some(word), Err(at)) => known.insert(at, (source, word)),
            (None, Ok(at)) => drop(known.remove(at)),
            (None, Err(_)) => {}
        }
        let (after, drained) = (endpoint(known).cloned(), is_drained(known));
        self.drained = self.drained - usize::from(was_drained) + usize::from(drained);
        if known.is_empty() {
            self.words.remove(&address);
        }
        (before != after).then_some(Changed { address, before, after })
    }
}

/// What the words about one address come to.
fn endpoint(words: &[(usize, Word)]) -> Option<&Endpoint> {
    chosen(words).map(|(_, endpoint)| endpoint)
}

/// The same, with the source that says it.
fn chosen(words: &[(usize, Word)]) -> Option<(usize, &Endpoint)> {
    let held = words.iter().find_map(|(source, word)| match word {
        Word::Held(endpoint) => Some((*source, endpoint)),
        _ => None,
    });
    let claim = words.iter().find(|(_, word)| !matches!(word, Word::Held(_)));
    match (claim, held) {
        (Some((source, Word::Claimed(endpoint))), _) => Some((*source, endpoint)),
        (Some((drained, _)), Some((holder, endpoint))) if holder < *drained => Some((holder, endpoint)),
        (None, held) => held,
        _ => None,
    }
}

/// Whether a drain is why an address gets nothing.
fn is_drained(words: &[(usize, Word)]) -> bool {
    endpoint(words).is_none() && !words.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Facts, Weight};

    fn endpoint(weight: u32) -> Endpoint {
        let weight = Weight::new(weight).unwrap();
        Endpoint { address: ([10, 0, 0, 1], 80).into(), weight, facts: Facts::default() }
    }

    fn claimed(weight: u32) -> Option<Word> {
        Some(match weight {
            0 => Word::Drained,
            _ => Word::Claimed(endpoint(weight)),
        })
    }

    /// Each word in turn, by which source, and the weight that comes of it all.
    #[track_caller]
    fn check(words: &[(usize, Option<Word>, Option<u32>)]) -> Merge {
        let mut merge = Merge::default();
        let mut before = None;
        for (source, word, after) in words {
            let changed = merge.take(*source, vec![(endpoint(1).address, word.clone())]);
            let after = after.map(endpoint);
            let expected =
                Changed { address: endpoint(1).address, before: before.clone(), after: after.clone() };
            assert_eq!(changed.first(), (before != after).then_some(&expected), "{source} {word:?}");
            before = after;
        }
        merge
    }

    #[test]
    fn an_endpoint_is_from_the_source_whose_word_counts() {
        let from = |words: &[(usize, Option<Word>, Option<u32>)]| check(words).sources().into_values().next();
        assert_eq!(from(&[(1, claimed(2), Some(2))]), Some(1));
        assert_eq!(from(&[(1, claimed(2), Some(2)), (0, claimed(1), Some(1))]), Some(0));
        let held = Some(Word::Held(endpoint(5)));
        assert_eq!(from(&[(0, held, Some(5)), (1, claimed(2), Some(2))]), Some(1), "a claim is newer");
        assert_eq!(from(&[(0, claimed(0), None)]), None);
    }

    #[test]
    fn an_endpoint_known_to_both_is_there_once_and_leaves_when_neither_offers_it() {
        let merge = check(&[
            (1, claimed(2), Some(2)),
            (0, claimed(1), Some(1)),
            (1, claimed(3), Some(1)),
            (0, None, Some(3)),
            (1, None, None),
        ]);
        assert!(merge.words.is_empty() && !merge.is_drained());
    }

    #[test]
    fn the_first_that_claims_an_endpoint_drains_it_for_all() {
        let merge = check(&[(0, claimed(0), None), (1, claimed(3), None)]);
        assert!(merge.is_drained());
        let merge = check(&[(0, claimed(1), Some(1)), (1, claimed(0), Some(1)), (0, None, None)]);
        assert!(merge.is_drained());
        let merge = check(&[(0, claimed(0), None), (0, None, None)]);
        assert!(!merge.is_drained());
    }

    #[test]
    fn a_claim_is_newer_than_a_reserve() {
        let held = |weight| Some(Word::Held(endpoint(weight)));
        check(&[
            (0, held(1), Some(1)),
            (1, claimed(7), Some(7)),
            (1, claimed(8), Some(8)),
            (1, None, Some(1)),
        ]);
        // What the first lost was in use, whatever the second said of it.
        check(&[(0, claimed(1), Some(1)), (1, claimed(0), Some(1)), (0, held(1), Some(1))]);
        check(&[(1, held(1), Some(1)), (0, claimed(0), None)]);
        check(&[(1, held(2), Some(2)), (0, held(1), Some(1))]);
    }
}
