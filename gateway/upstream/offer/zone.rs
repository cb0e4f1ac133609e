//! Zones: requests stay in the zone of the gateway as long as its endpoints can take them.
//!
//! The rule is Envoy's, without knowledge of other gateways: there are as many in each zone. With `n` zones a gateway's
//! zone is due the `n`th part of all requests. If its endpoints are that part of all weights or more, everything stays.
//! If they are less, they get as much as they are, measured by that part; the rest goes to the zones that have more than
//! their part, each in proportion to what it has more. So every endpoint gets the same in the end: what the zones with
//! little send away is what those with much have room for.

use std::collections::BTreeMap;

/// When the own zone is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    /// That of the gateway.
    pub own: std::sync::Arc<str>,
    /// With fewer endpoints nothing is preferred: a zone with one or two would be too little to lean on.
    pub min_endpoints: usize,
}

/// What is left of the weights in each zone, 1 in the own, given the sum of the weights there. Endpoints of no zone are
/// a zone, too. None: nothing is preferred, since everybody is in the own zone, or nobody is.
pub fn parts<'z>(
    weights: &BTreeMap<Option<&'z str>, u64>,
    own: &str,
) -> Option<BTreeMap<Option<&'z str>, f64>> {
    let local = weights.get(&Some(own)).copied().filter(|local| *local > 0 && weights.len() > 1)? as f64;
    let due = weights.values().sum::<u64>() as f64 / weights.len() as f64;
    let stays = (local / due).min(1.0);
    let more = |weight: u64| (weight as f64 - due).max(0.0);
    let all_more: f64 = weights.values().map(|weight| more(*weight)).sum();
    let part = |(zone, weight): (&Option<&'z str>, &u64)| {
        let part = match *zone == Some(own) {
            true => 1.0,
            false if stays >= 1.0 => 0.0,
            // In proportion to the weights in the own zone, which stay what they are.
            false => (1.0 - stays) / stays * local * more(*weight) / all_more / *weight as f64,
        };
        (*zone, part)
    };
    Some(weights.iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of<'z>(weights: &[(&'z str, u64)]) -> BTreeMap<Option<&'z str>, u64> {
        weights.iter().map(|(zone, weight)| (Some(*zone), *weight)).collect()
    }

    /// The share of the requests of a gateway in `own` that goes to each zone.
    fn shares<'z>(weights: &BTreeMap<Option<&'z str>, u64>, own: &str) -> BTreeMap<Option<&'z str>, f64> {
        let parts = parts(weights, own).unwrap();
        let carried = |zone: &Option<&str>| weights[zone] as f64 * parts[zone];
        let total: f64 = weights.keys().map(carried).sum();
        weights.keys().map(|zone| (*zone, carried(zone) / total)).collect()
    }

    #[test]
    fn all_stays_where_the_own_zone_has_its_part() {
        let weights = of(&[("a", 4), ("b", 4), ("c", 4)]);
        assert_eq!(parts(&weights, "a").unwrap().into_values().collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
        let weights = of(&[("a", 5), ("b", 3), ("c", 2)]);
        assert_eq!(parts(&weights, "a").unwrap().into_values().collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn the_rest_goes_where_there_is_more_than_a_part() {
        let weights = of(&[("a", 5), ("b", 3), ("c", 2)]);
        let shares = shares(&weights, "c");
        let share = |zone| (shares[&Some(zone)] * 1_000.0).round() / 1_000.0;
        assert_eq!([share("a"), share("b"), share("c")], [0.4, 0.0, 0.6]);
    }

    #[test]
    fn nothing_is_preferred_without_another_zone_or_the_own() {
        assert_eq!(parts(&of(&[("a", 9)]), "a"), None);
        assert_eq!(parts(&of(&[("a", 9), ("b", 9)]), "c"), None);
        assert_eq!(parts(&of(&[]), "a"), None);
    }

    proptest! {
        /// With as many gateways in every zone each zone gets what its weights are of all, be it from its own or from
        /// others; no endpoint far away gets more than one nearby; and what can stay does.
        #[test]
        fn every_weight_gets_the_same_in_the_end(weights in prop::collection::vec(1u64..1_000, 2..6)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let zones: Vec<_> = names.into_iter().zip(weights).collect();
            let weights = of(&zones);
            let total: u64 = weights.values().sum();
            let mut load: BTreeMap<Option<&str>, f64> = BTreeMap::new();
            for (own, weight) in &zones {
                let parts = parts(&weights, own).unwrap();
                prop_assert!(parts.values().all(|part| (0.0..=1.0).contains(part)), "{parts:?}");
                let shares = shares(&weights, own);
                let due = total as f64 / zones.len() as f64;
                prop_assert!((shares[&Some(*own)] - (*weight as f64 / due).min(1.0)).abs() < 1e-9);
                for (zone, share) in shares {
                    *load.entry(zone).or_default() += share / zones.len() as f64;
                }
            }
            for (zone, weight) in &weights {
                prop_assert!((load[zone] - *weight as f64 / total as f64).abs() < 1e-9, "{load:?} for {weights:?}");
            }
        }
    }
}
