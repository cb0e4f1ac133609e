//! The weight of an endpoint as selectors see it.

use crate::upstream::Weight;

/// Selectors see weights times this, so that an endpoint of weight 1 can have a part of it.
pub const RESOLUTION: u32 = 100;

/// The weight of an endpoint as selectors see it, and what makes it another than the one its registry tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effective {
    pub weight: Weight,
    /// The part that a slow start leaves it, 1 when there is none.
    pub slow_start: f32,
    /// The part that is left to its zone: 1 in that of the gateway.
    pub zone: f32,
    /// The part that is left to its priority: 1 where it is the first that anybody well has.
    pub priority: f32,
}

impl Effective {
    /// That of an endpoint which nothing is the matter with.
    pub fn plain(weight: Weight) -> Self {
        Self { weight: scaled(weight, 1.0), slow_start: 1.0, zone: 1.0, priority: 1.0 }
    }
}

/// What selectors see of so much of a weight: at least 1, and what is too great to be told is the greatest there is.
pub(super) fn scaled(weight: Weight, part: f64) -> Weight {
    let scaled = f64::from(weight.get()) * f64::from(RESOLUTION) * part;
    // A number too great becomes the greatest.
    Weight::new(scaled.round() as u32).unwrap_or(Weight::ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_seen_a_hundredfold_and_never_as_nothing() {
        let seen = |weight, part| scaled(Weight::new(weight).unwrap(), part).get();
        assert_eq!([seen(1, 1.0), seen(7, 1.0), seen(1, 0.1), seen(3, 0.125)], [100, 700, 10, 38]);
        assert_eq!(
            [seen(1, 0.001), seen(u32::MAX, 1.0), seen(u32::MAX / 100, 1.0)],
            [1, u32::MAX, 4_294_967_200]
        );
    }
}
