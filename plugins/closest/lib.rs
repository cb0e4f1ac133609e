//! Closest: each request goes to one of the endpoints that are nearest on the map, drawn by chance and by weight.
//!
//! Where an endpoint is, its labels `latitude` and `longitude` say, in degrees; where the gateway is, the settings do. Whoever
//! is at the same place, to the metre, is equally near. An endpoint that does not say where it is counts as farther than
//! all that do: it gets requests only while there is nobody else. A retry goes to the next nearest.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `latitude`, `longitude` | required | where this gateway is, in degrees, north and east positive |
//!
//! For plugin authors: labels are read when a candidate is told, never per request (`map.rs`).

mod map;

use std::cell::RefCell;

use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use map::{Map, Point};

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(Closest);

struct Closest;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    latitude: f64,
    longitude: f64,
}

impl Settings {
    fn read(settings: &str) -> Result<Point, String> {
        let Settings { latitude, longitude } = guest::settings::read(settings)?;
        Point::new(latitude, longitude)
            .ok_or_else(|| format!("settings: {latitude}, {longitude} is no place: latitudes are -90 to 90, longitudes -180 to 180"))
    }
}

impl Guest for Closest {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let here = Settings::read(&settings)?;
        let balancer = Balancer::new(State { here, map: RefCell::default() });
        Ok(Created { balancer, hash_on: None, attributes: Vec::new() })
    }
}

struct State {
    here: Point,
    map: RefCell<Map>,
}

impl State {
    fn put(&self, map: &mut Map, Candidate { slot, weight, labels, .. }: &Candidate) {
        let distance = place(labels).map(|place| self.here.distance(place));
        map.put(*slot, *weight, distance);
    }
}

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let map = &mut *self.map.borrow_mut();
        for change in changes {
            match change {
                CandidateChange::Reset(all) => {
                    *map = Map::default();
                    all.iter().for_each(|candidate| self.put(map, candidate));
                }
                CandidateChange::Put(candidate) => self.put(map, &candidate),
                CandidateChange::Remove(slot) => map.remove(slot),
            }
        }
    }

    fn pick(&self, request: Request) -> Option<u32> {
        self.map.borrow_mut().pick(request.tried.as_deref().unwrap_or_default())
    }
}

/// Where an endpoint is, if it says so.
fn place(labels: &[(String, String)]) -> Option<Point> {
    let degrees = |wanted: &str| {
        let (_, degrees) = labels.iter().find(|(name, _)| name == wanted)?;
        degrees.trim().parse().ok()
    };
    Point::new(degrees("latitude")?, degrees("longitude")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_where_the_gateway_is() {
        assert!(Settings::read(r#"{"latitude":52.5,"longitude":-13}"#).is_ok());
        for (settings, error) in [
            ("{}", "missing field `latitude`"),
            (r#"{"latitude":1}"#, "missing field `longitude`"),
            (r#"{"latitude":"x","longitude":1}"#, "settings: latitude: invalid type"),
            (r#"{"latitude":91,"longitude":1}"#, "settings: 91, 1 is no place"),
            (r#"{"latitude":1,"longitude":181}"#, "settings: 1, 181 is no place"),
            (r#"{"latitude":1,"longitude":1,"zone":"a"}"#, "unknown field `zone`"),
        ] {
            let told = Settings::read(settings).unwrap_err();
            assert!(told.contains(error), "{told}");
        }
    }

    #[test]
    fn a_place_is_two_labels_with_degrees() {
        let of = |labels: &[(&str, &str)]| {
            let labels: Vec<_> =
                labels.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
            place(&labels).is_some()
        };
        assert!(of(&[("version", "1"), ("longitude", "13.4"), ("latitude", " -52 ")]));
        for labels in [
            &[][..],
            &[("latitude", "1")],
            &[("latitude", ""), ("longitude", "")],
            &[("latitude", "north"), ("longitude", "1")],
            &[("latitude", "nan"), ("longitude", "1")],
            &[("latitude", "1"), ("longitude", "inf")],
            &[("latitude", "1"), ("longitude", "180.1")],
        ] {
            assert!(!of(labels), "{labels:?}");
        }
    }
}
