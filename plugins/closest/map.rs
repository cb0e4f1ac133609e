//! Candidates by how far away they are.

use std::collections::BTreeMap;

use fastrand::Rng;
use guest::weighted::Weighted;

/// In metres.
const EARTH_RADIUS: f64 = 6_371_000.0;

/// A place on earth, in radians.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    latitude: f64,
    longitude: f64,
}

impl Point {
    /// In degrees. None if there is no such place.
    pub fn new(latitude: f64, longitude: f64) -> Option<Point> {
        let real = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        real.then(|| Point { latitude: latitude.to_radians(), longitude: longitude.to_radians() })
    }

    /// Metres along the surface, by the haversine formula, which is exact for what is near.
    pub fn distance(self, other: Point) -> u64 {
        let half = |angle: f64| (angle / 2.0).sin().powi(2);
        let across = half(other.longitude - self.longitude);
        let chord =
            half(other.latitude - self.latitude) + self.latitude.cos() * other.latitude.cos() * across;
        // Rounding may lead a little beyond the other side of the earth.
        (2.0 * EARTH_RADIUS * chord.clamp(0.0, 1.0).sqrt().asin()).round() as u64
    }
}

/// Farther than any place on earth.
const NOWHERE: u64 = u64::MAX;

#[derive(Default)]
pub struct Map {
    /// By distance, in metres, and slot: the weight.
    candidates: BTreeMap<(u64, u32), u32>,
    /// By slot.
    distances: Vec<Option<u64>>,
    /// How far the nearest are, and who they are: what nearly every pick draws from.
    nearest: Option<(u64, Weighted)>,
    random: Rng,
}

impl Map {
    /// Makes the slot a candidate, whether it was one or not. None is nobody knows where.
    pub fn put(&mut self, slot: u32, weight: u32, distance: Option<u64>) {
        self.remove(slot);
        let distance = distance.unwrap_or(NOWHERE);
        let index = slot as usize;
        if self.distances.len() <= index {
            self.distances.resize(index + 1, None);
        }
        self.distances[index] = Some(distance);
        self.candidates.insert((distance, slot), weight);
        match &mut self.nearest {
            Some((nearest, candidates)) if *nearest == distance => candidates.put(slot, weight),
            Some((nearest, _)) if *nearest < distance => {}
            _ => {
                let mut candidates = Weighted::default();
                candidates.put(slot, weight);
                self.nearest = Some((distance, candidates));
            }
        }
    }

    pub fn remove(&mut self, slot: u32) {
        let Some(distance) = self.distances.get_mut(slot as usize).and_then(Option::take) else { return };
        self.candidates.remove(&(distance, slot));
        let Some((nearest, candidates)) = &mut self.nearest else { return };
        if *nearest == distance {
            candidates.remove(slot);
            if candidates.is_empty() {
                self.nearest = self.next_nearest();
            }
        }
    }

    fn next_nearest(&self) -> Option<(u64, Weighted)> {
        let ((nearest, _), _) = self.candidates.first_key_value()?;
        let mut candidates = Weighted::default();
        for ((_, slot), weight) in at(&self.candidates, *nearest) {
            candidates.put(*slot, *weight);
        }
        Some((*nearest, candidates))
    }

    /// One of the nearest that have not been tried; one of the nearest if all have.
    pub fn pick(&mut self, tried: &[u32]) -> Option<u32> {
        let Map { candidates, nearest, random, .. } = self;
        let (_, nearest) = nearest.as_ref()?;
        if let Some(slot) = nearest.draw(random, tried) {
            return Some(slot);
        }
        // Only what is sent once more gets here, and so few that it may look through the list.
        let mut untried = candidates.iter().filter(|((_, slot), _)| !tried.contains(slot));
        let Some(((distance, _), _)) = untried.next() else { return nearest.draw(random, &[]) };
        let equal = at(candidates, *distance).filter(|((_, slot), _)| !tried.contains(slot));
        let mut next = Weighted::default();
        equal.for_each(|((_, slot), weight)| next.put(*slot, *weight));
        next.draw(random, &[])
    }
}

fn at(candidates: &BTreeMap<(u64, u32), u32>, distance: u64) -> impl Iterator<Item = (&(u64, u32), &u32)> {
    candidates.range((distance, 0)..=(distance, u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(latitude: f64, longitude: f64) -> Point {
        Point::new(latitude, longitude).unwrap()
    }

    #[test]
    fn distances_are_those_on_a_globe() {
        let check = |a: (f64, f64), b: (f64, f64), kilometres: u64| {
            let distance = point(a.0, a.1).distance(point(b.0, b.1)) / 1000;
            assert!(distance.abs_diff(kilometres) <= kilometres / 100, "{a:?} {b:?}: {distance}");
            assert_eq!(point(b.0, b.1).distance(point(a.0, a.1)) / 1000, distance);
        };
        check((52.52, 13.405), (48.8566, 2.3522), 878);
        check((40.7128, -74.006), (51.5074, -0.1278), 5570);
        check((0.0, 179.5), (0.0, -179.5), 111);
        check((90.0, 0.0), (-90.0, 0.0), 20_015);
        check((10.0, 20.0), (10.0, 20.0), 0);
    }

    fn map(candidates: &[(u32, u32, Option<u64>)]) -> Map {
        let mut map = Map::default();
        candidates.iter().for_each(|(slot, weight, distance)| map.put(*slot, *weight, *distance));
        map.random = fastrand::Rng::with_seed(5);
        map
    }

    fn share(map: &mut Map, tried: &[u32], of: u32) -> f64 {
        (0..4000).filter(|_| map.pick(tried) == Some(of)).count() as f64 / 4000.0
    }

    #[test]
    fn the_nearest_get_everything_by_weight() {
        let mut map = map(&[(0, 1, Some(9)), (1, 3, Some(5)), (2, 1, Some(5)), (3, 100, None)]);
        assert!((share(&mut map, &[], 1) - 0.75).abs() < 0.03);
        assert!((share(&mut map, &[], 2) - 0.25).abs() < 0.03);
    }

    #[test]
    fn a_retry_goes_to_the_next_nearest() {
        let mut map = map(&[(0, 1, Some(1)), (1, 3, Some(5)), (2, 1, Some(5)), (3, 1, None)]);
        assert!((share(&mut map, &[0], 1) - 0.75).abs() < 0.03);
        assert_eq!(map.pick(&[0, 1]), Some(2));
        assert_eq!(map.pick(&[0, 1, 2]), Some(3), "nobody else is left");
        assert_eq!(map.pick(&[0, 1, 2, 3]), Some(0));
        assert_eq!(Map::default().pick(&[]), None);
    }

    #[test]
    fn who_says_nothing_is_better_than_nobody() {
        assert_eq!(share(&mut map(&[(0, 1, None), (1, 1, None)]), &[], 2), 0.0);
        assert!((share(&mut map(&[(0, 1, None), (1, 1, None)]), &[], 1) - 0.5).abs() < 0.03);
    }

    proptest! {
        /// Whatever changes, a pick is one of those that are nearest of all that were not tried.
        #[test]
        fn a_pick_is_among_the_nearest(
            changes in prop::collection::vec((0u32..12, prop::option::of((1u32..4, prop::option::of(0u64..4)))), 1..60),
            tried in prop::collection::vec(0u32..12, 0..4),
        ) {
            let mut map = map(&[]);
            let mut known = BTreeMap::new();
            for (slot, change) in changes {
                match change {
                    Some((weight, distance)) => {
                        map.put(slot, weight, distance);
                        known.insert(slot, distance.unwrap_or(NOWHERE));
                    }
                    None => {
                        map.remove(slot);
                        known.remove(&slot);
                    }
                }
                let picked = map.pick(&tried);
                let untried: Vec<_> = known.iter().filter(|(slot, _)| !tried.contains(slot)).collect();
                let among = if untried.is_empty() { known.iter().collect() } else { untried };
                let nearest = among.iter().map(|(_, distance)| **distance).min();
                prop_assert_eq!(picked.map(|slot| known[&slot]), nearest);
                if !known.keys().all(|slot| tried.contains(slot)) {
                    prop_assert!(!tried.contains(&picked.unwrap()));
                }
            }
        }
    }
}
