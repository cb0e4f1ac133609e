//! Only instances with the labels that an upstream asks for.

use crate::upstream::{Claim, ClaimChange, Facts, News};

/// Labels that an instance must have, all of them.
#[derive(Debug, Clone)]
pub(super) struct Wanted(pub Vec<(String, String)>);

impl Wanted {
    pub(super) fn suit(&self, facts: &Facts) -> bool {
        self.0.iter().all(|(name, value)| facts.has(name, value))
    }

    fn suits(&self, claim: &Claim) -> bool {
        self.suit(&claim.facts)
    }

    /// Takes away what lacks the labels; an instance that lost one is removed.
    pub(super) fn filter(&self, news: News) -> News {
        if self.0.is_empty() {
            return news;
        }
        let put = |claim: Claim| match self.suits(&claim) {
            true => ClaimChange::Put(claim),
            false => ClaimChange::Remove(claim.id),
        };
        match news {
            News::Complete(claims) => {
                News::Complete(claims.into_iter().filter(|claim| self.suits(claim)).collect())
            }
            News::Partial(claims) => News::Changes(claims.into_iter().map(put).collect()),
            News::Changes(changes) => News::Changes(
                changes
                    .into_iter()
                    .map(|change| match change {
                        ClaimChange::Put(claim) => put(claim),
                        remove => remove,
                    })
                    .collect(),
            ),
            News::Unchanged => News::Unchanged,
        }
    }
}
