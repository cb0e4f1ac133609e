//! A limit that finds itself: one more for each limit's worth of successes while it is made use of, a tenth less when
//! something is lost. Pure.
//!
//! It goes by loss and not by latency, as Netflix's `concurrency-limits` advises gateways: answers take as long as they are
//! long, and streams take for ever.

/// What is lost takes away so much of the limit.
const BACK_OFF: f64 = 0.9;

/// Between what the limit may move. Equal: it is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
}

/// A limit and what has been learned since it was lowered last. Fits into one atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adaptive {
    pub limit: u32,
    /// Successes at this limit, up to so many as the limit is.
    successes: u32,
    /// How often it was lowered. What began before that says nothing about the limit as it is.
    epoch: u16,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The epoch in which it began.
    pub epoch: u16,
    /// Requests in flight when it began, with it.
    pub in_flight: u32,
    pub lost: bool,
}

/// The largest limit there is.
pub const MOST: u32 = (1 << 24) - 1;

impl Adaptive {
    pub fn new(limit: u32) -> Self {
        Self { limit: limit.min(MOST), successes: 0, epoch: 0 }
    }

    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// The limit after a request has ended.
    pub fn after(self, sample: Sample, bounds: Bounds) -> Self {
        // Requests that were lost together lower it once.
        if sample.epoch != self.epoch {
            return self;
        }
        if sample.lost {
            let lowered = ((f64::from(self.limit) * BACK_OFF) as u32).min(self.limit.saturating_sub(1));
            return Self { limit: lowered, successes: 0, epoch: self.epoch.wrapping_add(1) }.within(bounds);
        }
        // What is not made use of is not known to be good.
        if sample.in_flight.saturating_mul(2) < self.limit {
            return self;
        }
        let successes = self.successes + 1;
        match successes >= self.limit {
            true => Self { limit: self.limit + 1, successes: 0, ..self }.within(bounds),
            false => Self { successes, ..self },
        }
    }

    /// The limit when its bounds are others. One that is fixed, or at the upper of its bounds, moves with that.
    pub fn moved(self, before: Bounds, bounds: Bounds) -> Self {
        let limit = if self.limit >= before.max { bounds.max } else { self.limit };
        Self { limit, ..self }.within(bounds)
    }

    /// The same within other bounds.
    pub fn within(self, bounds: Bounds) -> Self {
        let limit = self.limit.max(bounds.min).min(bounds.max).min(MOST);
        Self { limit, successes: self.successes.min(limit), ..self }
    }

    pub fn pack(self) -> u64 {
        u64::from(self.limit) | u64::from(self.successes) << 24 | u64::from(self.epoch) << 48
    }

    pub fn unpack(packed: u64) -> Self {
        let part = |shift: u32| (packed >> shift) as u32 & MOST;
        Self { limit: part(0), successes: part(24), epoch: (packed >> 48) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { min: 10, max: 200 };

    fn success(of: Adaptive, in_flight: u32) -> Sample {
        Sample { epoch: of.epoch(), in_flight, lost: false }
    }

    fn loss(of: Adaptive) -> Sample {
        Sample { epoch: of.epoch(), in_flight: of.limit, lost: true }
    }

    #[test]
    fn a_limits_worth_of_successes_makes_it_one_more() {
        let mut limit = Adaptive::new(20);
        for _ in 0..19 {
            limit = limit.after(success(limit, 20), BOUNDS);
        }
        assert_eq!(limit.limit, 20);
        assert_eq!(limit.after(success(limit, 10), BOUNDS).limit, 21, "half of it in use is enough");
        assert_eq!(limit.after(success(limit, 9), BOUNDS), limit, "less is not");
    }

    #[test]
    fn what_is_lost_together_lowers_it_once() {
        let limit = Adaptive::new(100);
        let lost = loss(limit);
        let lower = limit.after(lost, BOUNDS);
        assert_eq!((lower.limit, lower.after(lost, BOUNDS)), (90, lower));
        assert_eq!(lower.after(loss(lower), BOUNDS).limit, 81);
        let late = Sample { lost: false, ..lost };
        assert_eq!(lower.after(late, BOUNDS), lower, "a success that began before says nothing either");
    }

    #[test]
    fn other_bounds_move_what_is_fixed_and_keep_what_was_found() {
        let moved = |limit, before, bounds| Adaptive::new(limit).moved(before, bounds).limit;
        let fixed = |limit| Bounds { min: limit, max: limit };
        assert_eq!(moved(100, fixed(100), fixed(300)), 300);
        assert_eq!(moved(100, fixed(100), fixed(50)), 50);
        assert_eq!(moved(42, BOUNDS, Bounds { max: 400, ..BOUNDS }), 42);
        assert_eq!(moved(200, BOUNDS, Bounds { max: 400, ..BOUNDS }), 400);
        assert_eq!(moved(42, BOUNDS, Bounds { max: 20, ..BOUNDS }), 20);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            start in 1..1000u32,
            (min, max) in (1..100u32, 100..1000u32),
            samples in prop::collection::vec((any::<bool>(), 0..1000u32), 0..500),
        ) {
            let bounds = Bounds { min, max };
            let mut limit = Adaptive::new(start).within(bounds);
            for (lost, in_flight) in samples {
                let next = limit.after(Sample { epoch: limit.epoch(), in_flight, lost }, bounds);
                prop_assert!((min..=max).contains(&next.limit));
                let moved_right = if lost { next.limit <= limit.limit } else { next.limit >= limit.limit };
                prop_assert!(moved_right, "{limit:?} became {next:?}");
                limit = next;
            }
        }

        #[test]
        fn a_fixed_limit_stays(limit in 1..MOST, samples in prop::collection::vec(any::<bool>(), 0..50)) {
            let bounds = Bounds { min: limit, max: limit };
            let mut now = Adaptive::new(limit);
            for lost in samples {
                now = now.after(Sample { epoch: now.epoch(), in_flight: limit, lost }, bounds);
            }
            prop_assert_eq!(now.limit, limit);
        }

        #[test]
        fn it_is_the_same_out_of_an_atomic(
            limit in 0..=MOST, successes in 0..=MOST, epoch in any::<u16>(),
        ) {
            let one = Adaptive { limit, successes, epoch };
            prop_assert_eq!(Adaptive::unpack(one.pack()), one);
        }
    }
}
