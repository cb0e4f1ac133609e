//! What happened to the claims of a source lately: how long the list was, and who left it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Left, ago, before};
use crate::upstream::Endpoint;

/// The last `window` of a source.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Who left and has not come back.
    left: HashMap<SocketAddr, (Instant, Endpoint)>,
    /// When they left, oldest first; those that came back stand here until their time is over.
    order: VecDeque<(Instant, SocketAddr)>,
    /// Of `left`, those whose removal was believed.
    believed: BTreeSet<SocketAddr>,
    /// How long the list is.
    length: usize,
    /// Earlier lengths that no later one has reached, with the moment until which they held.
    lengths: VecDeque<(Instant, usize)>,
}

impl Window {
    pub(super) fn leave(&mut self, endpoint: Endpoint, now: Instant) {
        let address = endpoint.address;
        self.order.push_back((now, address));
        self.believed.insert(address);
        self.left.insert(address, (now, endpoint));
    }

    /// Says whether it had left.
    pub(super) fn come_back(&mut self, address: SocketAddr) -> bool {
        self.believed.remove(&address);
        self.left.remove(&address).is_some()
    }

    /// One that is or was in the list is drained on purpose: the list counts as if it had always been shorter by that
    /// one, so that what leaves later is measured by what was in use.
    pub(super) fn shorten(&mut self, is_in: bool) {
        self.length = self.length.saturating_sub(usize::from(is_in));
        self.lengths.iter_mut().for_each(|(_, length)| *length = length.saturating_sub(1));
    }

    /// How many left.
    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// Takes back the belief in all removals, and returns those that were believed until now.
    pub(super) fn doubt(&mut self) -> Vec<Endpoint> {
        let believed = std::mem::take(&mut self.believed);
        believed.iter().filter_map(|address| Some(self.left.get(address)?.1.clone())).collect()
    }

    /// The list has this length from now on.
    pub(super) fn measure(&mut self, length: usize, now: Instant) {
        let before = std::mem::replace(&mut self.length, length);
        while self.lengths.back().is_some_and(|(_, known)| *known <= before) {
            self.lengths.pop_back();
        }
        self.lengths.push_back((now, before));
    }

    /// How long the list was at its longest.
    pub(super) fn longest(&self) -> usize {
        self.lengths.front().map_or(0, |(_, length)| *length).max(self.length)
    }

    /// Whether time alone can still change something.
    pub(super) fn is_waiting(&self) -> bool {
        !self.order.is_empty()
    }

    /// Forgets what is longer ago than the window.
    pub(super) fn forget(&mut self, window: Duration, now: Instant) {
        let over = |at: Instant| now.saturating_duration_since(at) >= window;
        while let Some((at, address)) = self.order.front().copied().filter(|(at, _)| over(*at)) {
            self.order.pop_front();
            // It may have come back and left again since.
            if self.left.get(&address).is_some_and(|(left, _)| *left == at) {
                self.come_back(address);
            }
        }
        while self.lengths.front().is_some_and(|(until, _)| over(*until)) {
            self.lengths.pop_front();
        }
    }

    /// Who left and has not come back, and how long the list was until when, oldest first.
    pub(super) fn state(&self, now: Instant) -> (Vec<Left>, Vec<(Duration, usize)>) {
        let mut left: Vec<Left> = self
            .left
            .values()
            .map(|(at, endpoint)| Left {
                endpoint: endpoint.clone(),
                ago: ago(*at, now),
                believed: self.believed.contains(&endpoint.address),
            })
            .collect();
        left.sort_by_key(|left| (std::cmp::Reverse(left.ago), left.endpoint.address));
        (left, self.lengths.iter().map(|(until, length)| (ago(*until, now), *length)).collect())
    }

    /// The window as it was, with a list of this length. `left` and `lengths` are in order, oldest first.
    pub(super) fn restored(
        left: Vec<Left>,
        lengths: Vec<(Duration, usize)>,
        length: usize,
        now: Instant,
    ) -> Self {
        let mut window = Self { length, ..Self::default() };
        for Left { endpoint, ago, believed } in left {
            let (at, address) = (before(now, ago), endpoint.address);
            window.order.push_back((at, address));
            if believed {
                window.believed.insert(address);
            }
            window.left.insert(address, (at, endpoint));
        }
        window.lengths = lengths.into_iter().map(|(ago, length)| (before(now, ago), length)).collect();
        window
    }

    /// Begins anew with a list of this length.
    pub(super) fn restart(&mut self, length: usize) {
        *self = Self { length, ..Self::default() };
    }
}
