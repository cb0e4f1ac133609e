//! What all slices of a service come to: one list, in which each address is once.

use std::collections::{BTreeMap, BTreeSet};

use guest::entries::{Entry, State};

use crate::{
    settings::{self, Family, Wanted},
    slice::{Endpoint, Kind, Object, Port, Slice},
};

/// Instances by their addresses.
pub type List = BTreeMap<String, Entry>;

/// What has changed between two lists.
#[derive(Debug, PartialEq)]
pub enum Step {
    Put(String, Entry),
    Remove(String),
}

/// What is known of a service.
#[derive(Default)]
pub struct Service(BTreeMap<String, Vec<Slice>>);

impl Service {
    pub fn put(&mut self, object: Object) {
        self.0.insert(object.name, object.slices);
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All of it. The error says why there is no port that could be meant.
    pub fn list(&self, wanted: &Wanted) -> Result<List, String> {
        let slices = || self.0.values().flatten().filter(|slice| !slice.endpoints.is_empty());
        let chosen = Chosen::of(slices(), wanted)?;
        let suits = |slice: &&Slice| match wanted.family {
            Family::Any => true,
            Family::Ipv4 => slice.kind == Kind::Ipv4,
            Family::Ipv6 => slice.kind == Kind::Ipv6,
        };
        let slices: Vec<&Slice> = slices().filter(suits).collect();
        let best = first_kinds(&slices);
        let mut list = List::new();
        for slice in slices {
            let Some((number, speaks)) = chosen.port(&slice.ports) else { continue };
            for endpoint in &slice.endpoints {
                // One that has an address of another kind as well is at that one.
                let better = endpoint.of.as_ref().and_then(|of| best.get(of.as_str()));
                if better.is_some_and(|kind| *kind < slice.kind) {
                    continue;
                }
                let host = match slice.kind {
                    Kind::Ipv6 => format!("[{}]", endpoint.host),
                    Kind::Ipv4 | Kind::Name => endpoint.host.clone(),
                };
                let address = format!("{host}:{number}");
                let entry = entry(&address, endpoint, speaks, wanted);
                // While it moves from one slice to another it is in both.
                match list.get(&address) {
                    Some(before) if rank(before.state) <= rank(entry.state) => {}
                    _ => drop(list.insert(address, entry)),
                }
            }
        }
        Ok(list)
    }
}

fn rank(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Draining => 1,
        State::Unwell => 2,
    }
}

/// Which kind of address each instance is at.
fn first_kinds<'a>(slices: &[&'a Slice]) -> BTreeMap<&'a str, Kind> {
    let mut best = BTreeMap::new();
    for slice in slices {
        for of in slice.endpoints.iter().filter_map(|endpoint| endpoint.of.as_deref()) {
            let kind = best.entry(of).or_insert(slice.kind);
            *kind = slice.kind.min(*kind);
        }
    }
    best
}

/// Which port of a slice it is.
enum Chosen<'a> {
    Name(&'a str),
    Number(u16),
    /// Whatever a slice says.
    Any(u16),
    /// There is no instance yet.
    None,
}

impl<'a> Chosen<'a> {
    fn of(slices: impl Iterator<Item = &'a Slice>, wanted: &'a Wanted) -> Result<Chosen<'a>, String> {
        let mut there = BTreeSet::new();
        let mut any = false;
        let mut empty = true;
        for slice in slices {
            empty = false;
            // One that says nothing of ports has any.
            any |= slice.ports.is_empty();
            for port in &slice.ports {
                any |= port.number.is_none();
                there.insert((port.name.as_str(), port.number));
            }
        }
        let names: BTreeSet<&str> = there.iter().map(|(name, _)| *name).collect();
        let chosen = match &wanted.port {
            _ if empty => Chosen::None,
            Some(settings::Port::Any(number)) => Chosen::Any(*number),
            Some(settings::Port::Name(name)) if names.contains(name.as_str()) => Chosen::Name(name),
            Some(settings::Port::Number(number))
                if any || there.iter().any(|(_, there)| *there == Some(*number)) =>
            {
                Chosen::Number(*number)
            }
            None if names.len() == 1 && there.iter().any(|(_, number)| number.is_some()) => {
                Chosen::Name(names.first().copied().unwrap_or_default())
            }
            asked => return Err(no_port(asked.as_ref(), &there, wanted)),
        };
        Ok(chosen)
    }

    /// The number of the port, and what is spoken there.
    fn port(&self, ports: &[Port]) -> Option<(u16, Option<&'static str>)> {
        let called = |port: &&Port| match self {
            Chosen::Name(name) => port.name == *name && port.number.is_some(),
            Chosen::Number(number) | Chosen::Any(number) => port.number == Some(*number),
            Chosen::None => false,
        };
        let found = ports.iter().find(called);
        match (self, found) {
            (Chosen::None, _) => None,
            (Chosen::Any(number), found) => Some((*number, found.and_then(|port| port.speaks))),
            (_, Some(port)) => port.number.map(|number| (number, port.speaks)),
            (Chosen::Number(number), None) => {
                let any = ports.is_empty() || ports.iter().any(|port| port.number.is_none());
                any.then_some((*number, None))
            }
            (Chosen::Name(_), None) => None,
        }
    }
}

fn no_port(asked: Option<&settings::Port>, there: &BTreeSet<(&str, Option<u16>)>, wanted: &Wanted) -> String {
    let Wanted { namespace, name, .. } = wanted;
    let there: Vec<String> = there
        .iter()
        .map(|(name, number)| match (*name, number) {
            ("", Some(number)) => number.to_string(),
            (name, Some(number)) => format!("{name} ({number})"),
            ("", None) => "any".to_owned(),
            (name, None) => name.to_owned(),
        })
        .collect();
    let has = match there.is_empty() {
        true => "says nothing of ports of TCP".to_owned(),
        false => format!("has {}", there.join(", ")),
    };
    match asked {
        None => format!("the service {namespace}/{name} {has}: write {namespace}/{name}:PORT, or `port`"),
        Some(settings::Port::Name(port)) => {
            format!("the service {namespace}/{name} has no port {port:?}: it {has}")
        }
        Some(settings::Port::Number(port) | settings::Port::Any(port)) => format!(
            "the service {namespace}/{name} has no instance with the port {port}: it {has}, which are ports of \
             containers and not those of the service"
        ),
    }
}

fn entry(address: &str, endpoint: &Endpoint, speaks: Option<&'static str>, wanted: &Wanted) -> Entry {
    let Endpoint { state, hostname, zone, labels, .. } = endpoint;
    let mut entry =
        Entry { state: *state, zone: zone.clone(), labels: labels.clone(), ..Entry::plain(address) };
    let Wanted { namespace, name, .. } = wanted;
    entry.hostname = hostname.as_ref().map(|hostname| format!("{hostname}.{name}.{namespace}.svc"));
    entry.labels.extend(speaks.map(|protocol| ("protocol".to_owned(), protocol.to_owned())));
    entry
}

/// What makes the one list of the other.
pub fn steps(from: &List, to: &List) -> Vec<Step> {
    let gone = from.keys().filter(|id| !to.contains_key(*id)).map(|id| Step::Remove(id.clone()));
    let new = to.iter().filter(|(id, entry)| from.get(*id) != Some(entry));
    gone.chain(new.map(|(id, entry)| Step::Put(id.clone(), entry.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;

    fn endpoint(host: &str, state: State, of: &str) -> Endpoint {
        let of = (!of.is_empty()).then(|| of.to_owned());
        Endpoint { host: host.to_owned(), state, of, hostname: None, zone: None, labels: Vec::new() }
    }

    fn port(name: &str, number: u16) -> Port {
        Port { name: name.to_owned(), number: (number > 0).then_some(number), speaks: None }
    }

    fn slice(kind: Kind, ports: &[Port], endpoints: &[Endpoint]) -> Slice {
        Slice { kind, ports: ports.to_vec(), endpoints: endpoints.to_vec() }
    }

    fn listed(slices: &[Slice], settings: &str, name: &str) -> Result<Vec<(String, State)>, String> {
        let mut service = Service::default();
        for (number, slice) in slices.iter().enumerate() {
            service.put(Object { name: format!("s{number}"), slices: vec![slice.clone()] });
        }
        let wanted = Settings::read(settings).unwrap().wanted(name).unwrap();
        let list = service.list(&wanted)?;
        Ok(list.into_iter().map(|(address, entry)| (address, entry.state)).collect())
    }

    fn addresses(slices: &[Slice], settings: &str, name: &str) -> Result<Vec<String>, String> {
        Ok(listed(slices, settings, name)?.into_iter().map(|(address, _)| address).collect())
    }

    #[test]
    fn all_slices_are_one_list_in_which_an_address_is_once() {
        let (http, ready, unwell) = ([port("http", 80)], State::Ready, State::Unwell);
        let slices = [
            slice(Kind::Ipv4, &http, &[endpoint("10.0.0.1", unwell, ""), endpoint("10.0.0.2", ready, "")]),
            slice(Kind::Ipv4, &http, &[endpoint("10.0.0.1", ready, ""), endpoint("10.0.0.2", unwell, "")]),
            slice(Kind::Ipv4, &[port("http", 8080)], &[endpoint("10.0.0.3", ready, "")]),
            slice(Kind::Ipv4, &[], &[]),
        ];
        let expected = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:8080"].map(|one| (one.to_owned(), ready));
        assert_eq!(listed(&slices, "{}", "orders"), Ok(expected.to_vec()));
    }

    #[test]
    fn a_port_is_meant_by_its_name_or_its_number() {
        let one = [endpoint("10.0.0.1", State::Ready, "")];
        let slices = [slice(Kind::Ipv4, &[port("http", 80), port("grpc", 81)], &one)];
        let at = |name: &str| addresses(&slices, "{}", name);
        assert_eq!(at("orders:grpc"), Ok(vec!["10.0.0.1:81".to_owned()]));
        assert_eq!(at("orders:80"), Ok(vec!["10.0.0.1:80".to_owned()]));
        assert_eq!(at("k8s://shop/orders:82"), Ok(vec!["10.0.0.1:82".to_owned()]));
        for (name, why) in [
            ("orders", "the service default/orders has grpc (81), http (80): write default/orders:PORT"),
            ("orders:metrics", "default/orders has no port \"metrics\": it has grpc (81), http (80)"),
            (
                "orders:82",
                "default/orders has no instance with the port 82: it has grpc (81), http (80), which",
            ),
        ] {
            assert!(at(name).unwrap_err().contains(why), "{name}: {}", at(name).unwrap_err());
        }
        // As long as there is nobody, nothing is wrong.
        assert_eq!(addresses(&[slice(Kind::Ipv4, &[], &[])], "{}", "orders:grpc"), Ok(Vec::new()));
    }

    #[test]
    fn who_says_nothing_of_ports_has_any() {
        let one = [endpoint("10.0.0.1", State::Ready, "")];
        for ports in [vec![], vec![port("", 0)]] {
            let slices = [slice(Kind::Ipv4, &ports, &one)];
            assert_eq!(addresses(&slices, "{}", "orders:80"), Ok(vec!["10.0.0.1:80".to_owned()]));
            let error = addresses(&slices, "{}", "orders").unwrap_err();
            assert!(error.contains("write default/orders:PORT"), "{error}");
        }
    }

    #[test]
    fn an_instance_with_addresses_of_both_families_is_one() {
        let (http, ready) = ([port("http", 80)], State::Ready);
        let slices = [
            slice(Kind::Ipv6, &http, &[endpoint("fd00::1", ready, "a"), endpoint("fd00::2", ready, "b")]),
            slice(Kind::Ipv4, &http, &[endpoint("10.0.0.1", ready, "a")]),
            slice(Kind::Name, &http, &[endpoint("db.example", ready, "")]),
        ];
        let at = |family: &str| addresses(&slices, &format!(r#"{{"family":"{family}"}}"#), "orders").unwrap();
        assert_eq!(at("any"), ["10.0.0.1:80", "[fd00::2]:80", "db.example:80"]);
        assert_eq!(at("ipv4"), ["10.0.0.1:80"]);
        assert_eq!(at("ipv6"), ["[fd00::1]:80", "[fd00::2]:80"]);
    }

    #[test]
    fn what_is_said_of_an_endpoint_and_its_port_is_told() {
        let one = Endpoint { hostname: Some("web-0".into()), ..endpoint("10.0.0.1", State::Ready, "a") };
        let http = Port { speaks: Some("http2"), ..port("http", 80) };
        let mut service = Service::default();
        service.put(Object { name: "s".into(), slices: vec![slice(Kind::Ipv4, &[http], &[one])] });
        let wanted = Settings::read("{}").unwrap().wanted("shop/web").unwrap();
        let list = service.list(&wanted).unwrap();
        let entry = &list["10.0.0.1:80"];
        assert_eq!(entry.hostname.as_deref(), Some("web-0.web.shop.svc"));
        assert_eq!(entry.labels, [("protocol".to_owned(), "http2".to_owned())]);
        service.remove("s");
        assert_eq!(service.list(&wanted), Ok(List::new()));
    }

    proptest! {
        /// Whatever two lists are, the steps make the one of the other, and none is there for nothing.
        #[test]
        fn steps_lead_from_one_list_to_the_other(
            from in proptest::collection::btree_map("[a-e]", 0..3_u32, 0..5),
            to in proptest::collection::btree_map("[a-e]", 0..3_u32, 0..5),
        ) {
            let list = |weights: &BTreeMap<String, u32>| -> List {
                let entry = |weight: &u32| Entry { weight: *weight, ..Entry::plain("a:1") };
                weights.iter().map(|(id, weight)| (id.clone(), entry(weight))).collect()
            };
            let (mut from, to) = (list(&from), list(&to));
            for step in steps(&from, &to) {
                match step {
                    Step::Put(id, entry) => prop_assert_ne!(from.insert(id, entry.clone()), Some(entry)),
                    Step::Remove(id) => prop_assert!(from.remove(&id).is_some()),
                }
            }
            prop_assert_eq!(from, to);
        }

        /// Whatever slices there are and in whatever order they came, the list is the same, and an address is there if
        /// a slice has it.
        #[test]
        fn the_order_of_slices_means_nothing(
            hosts in proptest::collection::vec(proptest::collection::vec((0..6_u8, 0..3_u8), 0..4), 0..5),
        ) {
            let slices: Vec<Slice> = hosts
                .iter()
                .map(|hosts| {
                    let state = |number: u8| [State::Ready, State::Draining, State::Unwell][usize::from(number)];
                    let endpoints: Vec<_> = hosts
                        .iter()
                        .map(|(host, number)| endpoint(&format!("10.0.0.{host}"), state(*number), ""))
                        .collect();
                    slice(Kind::Ipv4, &[port("http", 80)], &endpoints)
                })
                .collect();
            let mut turned = slices.clone();
            turned.reverse();
            let list = listed(&slices, "{}", "orders").unwrap();
            prop_assert_eq!(&list, &listed(&turned, "{}", "orders").unwrap());
            let all: BTreeSet<u8> = hosts.iter().flatten().map(|(host, _)| *host).collect();
            prop_assert_eq!(list.len(), all.len());
        }
    }
}
