//! What a source believed, to be kept over a restart or given to the next owner.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Claim, Claimed, News, Reserve, ReserveState, Source, Window};
use crate::upstream::Endpoint;

/// All that decides the later offers of a source, with durations in place of moments. Which endpoints answer is not in
/// it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceState {
    pub claims: Vec<Claim>,
    pub reserve: ReserveState,
    /// Who left within the window and has not come back, oldest first.
    pub left: Vec<Left>,
    /// Earlier lengths of the list within the window, and how long ago they ended, oldest first.
    pub lengths: Vec<(Duration, usize)>,
}

/// An endpoint of a reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub endpoint: Endpoint,
    pub ago: Duration,
}

/// An endpoint that left lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub endpoint: Endpoint,
    pub ago: Duration,
    /// Whether its removal was believed.
    pub believed: bool,
}

impl SourceState {
    /// Makes everything older, by the time in which nobody looked. For how long the registry has stood by a removal is
    /// not among it: nobody heard that.
    pub fn age(&mut self, by: Duration) {
        let ages = self.reserve.held.iter_mut().map(|held| &mut held.ago);
        let ages = ages.chain(self.left.iter_mut().map(|left| &mut left.ago));
        let ages = ages.chain(self.lengths.iter_mut().map(|(ago, _)| ago));
        ages.for_each(|ago| *ago = ago.saturating_add(by));
    }

    /// Leaves out the addresses that may not be endpoints any more.
    pub fn retain_addresses(&mut self, kept: impl Fn(std::net::SocketAddr) -> bool) {
        self.claims.iter_mut().for_each(|claim| claim.addresses.retain(|address| kept(*address)));
        self.reserve.held.retain(|held| kept(held.endpoint.address));
        self.left.retain(|left| kept(left.endpoint.address));
    }

    /// Leaves out the instances that are not wanted.
    pub fn retain(&mut self, wanted: impl Fn(&crate::upstream::Facts) -> bool) {
        self.claims.retain(|claim| wanted(&claim.facts));
        self.reserve.held.retain(|held| wanted(&held.endpoint.facts));
        self.left.retain(|left| wanted(&left.endpoint.facts));
    }
}

impl Source {
    pub fn state(&self, now: Instant) -> SourceState {
        let (left, lengths) = self.window.state(now);
        SourceState {
            claims: self.claims.iter().cloned().collect(),
            reserve: self.reserve.state(now),
            left,
            lengths,
        }
    }

    pub(super) fn restore(&mut self, state: SourceState, now: Instant, touched: &mut BTreeSet<SocketAddr>) {
        let SourceState { claims, mut reserve, mut left, lengths } = state;
        for address in self.claims.take(News::Complete(claims)) {
            touched.insert(address);
            if let Claimed::Endpoint(endpoint) = self.claims.at(address) {
                self.claimed.insert(address, endpoint);
            }
        }
        // Only a damaged file has somebody in two places.
        reserve.held.retain(|held| !self.claims.name(held.endpoint.address));
        left.retain(|left| !self.claims.name(left.endpoint.address));
        touched.extend(reserve.held.iter().map(|held| held.endpoint.address));
        self.reserve = Reserve::restored(reserve, now);
        self.window = Window::restored(left, lengths, self.claimed.len(), now);
    }
}

/// How long ago a moment is.
pub(super) fn ago(at: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(at)
}

/// The moment so long ago, or the present if the clock does not reach back so far.
pub(super) fn before(now: Instant, ago: Duration) -> Instant {
    now.checked_sub(ago).unwrap_or(now)
}
