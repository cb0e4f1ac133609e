//! Slow start: an endpoint that is new, or comes back, gets a tenth of its weight at first and all of it a while later.
//!
//! A new instance has cold caches and empty pools, and one that was out may have been out for a reason. Where more than
//! half of those that get requests would start slowly, nobody does: the weights of all would be as they are, and the
//! few others would carry what the many could.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// In so many steps the weight grows: each is a generation of the list.
pub const STEPS: u32 = 10;

/// The part of its weight that an endpoint has so long after its start, in a slow start that takes `time`.
///
/// A tenth at first, all of it at the end, and in between as much as is due, in tenths.
pub fn part(since: Duration, time: Duration) -> f64 {
    if since >= time {
        return 1.0;
    }
    let steps = since.as_nanos() * u128::from(STEPS - 1) / time.as_nanos();
    (steps + 1) as f64 / f64::from(STEPS)
}

/// The endpoints that start slowly, and since when.
#[derive(Debug, Clone, Default)]
pub(super) struct Starting(BTreeMap<SocketAddr, Instant>);

impl Starting {
    pub(super) fn begin(&mut self, address: SocketAddr, now: Instant) {
        self.0.insert(address, now);
    }

    pub(super) fn end(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    /// Forgets those whose time is over.
    pub(super) fn pass(&mut self, time: Duration, now: Instant) {
        self.0.retain(|_, since| now.saturating_duration_since(*since) < time);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// The part of its weight that an endpoint has.
    pub(super) fn part(&self, address: SocketAddr, time: Duration, now: Instant) -> f64 {
        self.0.get(&address).map_or(1.0, |since| part(now.saturating_duration_since(*since), time))
    }
}

/// How long until the next step of a slow start.
pub(super) fn step(time: Duration) -> Duration {
    time / (STEPS - 1)
}

/// Whether so many that start slowly are so many that nobody does.
pub(super) fn is_useless(starting: usize, all: usize) -> bool {
    starting * 2 > all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_weight_grows_from_a_tenth_to_all_of_it() {
        let at = |seconds| part(Duration::from_secs(seconds), Duration::from_secs(90));
        assert_eq!([0, 9, 10, 45, 89, 90, 900].map(at), [0.1, 0.1, 0.2, 0.5, 0.9, 1.0, 1.0]);
    }

    proptest! {
        /// However long it takes and whenever one looks: the part never shrinks, there are ten of them, and none is
        /// more than a step from the straight line.
        #[test]
        fn it_grows_in_ten_steps_along_a_line(
            time in 1u64..10_000_000, looks in prop::collection::vec(0u64..12_000_000, 1..200),
        ) {
            let (time, mut looks) = (Duration::from_millis(time), looks);
            looks.sort_unstable();
            let parts: Vec<f64> = looks.iter().map(|at| part(Duration::from_millis(*at), time)).collect();
            prop_assert!(parts.is_sorted());
            let mut distinct = parts.clone();
            distinct.dedup();
            prop_assert!(distinct.len() <= STEPS as usize);
            for (at, part) in looks.iter().zip(parts) {
                let done = (*at as f64 / 1e3 / time.as_secs_f64()).min(1.0);
                let line = 0.1 + 0.9 * done;
                prop_assert!(part <= line + 1e-9 && part > line - 0.1 - 1e-9, "{part} where {line} is due");
            }
        }
    }
}
