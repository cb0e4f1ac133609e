//! From what health offers to what selectors see.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::upstream::{Evidence, Facts, HealthInput, HealthPolicy, State, Weight};

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn endpoint(port: u16, weight: u32, zone: &str, priority: u32) -> Offer {
    let zone = (!zone.is_empty()).then(|| zone.into());
    let facts = Facts { zone, priority, ..Facts::default() };
    Offer::Put(Endpoint { address: address(port), weight: Weight::new(weight).unwrap(), facts })
}

fn plain(port: u16) -> Offer {
    endpoint(port, 1, "", 0)
}

struct Bench {
    health: Health,
    offering: Offering,
    judging: HealthPolicy,
    policy: Policy,
    now: Instant,
    seen: BTreeMap<u16, Effective>,
    starting: Vec<u16>,
}

impl Bench {
    fn new(policy: Policy) -> Self {
        Self {
            health: Health::default(),
            offering: Offering::default(),
            judging: HealthPolicy::default(),
            policy,
            now: Instant::now(),
            seen: BTreeMap::new(),
            starting: Vec::new(),
        }
    }

    /// An upstream whose endpoints have been there for long.
    fn settled(policy: Policy, list: impl IntoIterator<Item = Offer>) -> Self {
        let mut bench = Self::new(policy);
        bench.list(list);
        bench.pass(3_600);
        bench
    }

    fn list(&mut self, offers: impl IntoIterator<Item = Offer>) {
        self.step(HealthInput::List(offers.into_iter().collect()));
    }

    fn check(&mut self, port: u16, passed: bool) {
        (0..3).for_each(|_| self.step(HealthInput::Checked(address(port), passed)));
    }

    fn step(&mut self, input: HealthInput) {
        let judged = self.health.step(input, &self.judging, self.now);
        let shaped = self.offering.step(judged.offers, &judged.joined, &self.health, &self.policy, self.now);
        self.take(shaped);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let shaped = self.offering.look(&self.health, &self.policy, self.now);
        self.take(shaped);
    }

    fn take(&mut self, shaped: Shaped) {
        for offered in shaped.offered {
            match offered {
                Offered::Put(endpoint, effective) => {
                    self.seen.insert(endpoint.address.port(), effective);
                }
                Offered::Remove(address) => drop(self.seen.remove(&address.port())),
            }
        }
        self.starting.extend(shaped.starting.iter().map(SocketAddr::port));
    }

    /// Ports and weights.
    fn weights(&self) -> Vec<(u16, u32)> {
        self.seen.iter().map(|(port, seen)| (*port, seen.weight.get())).collect()
    }
}

fn slow(seconds: u64) -> Policy {
    Policy { slow_start: Some(Duration::from_secs(seconds)), ..Policy::default() }
}

fn in_zone(own: &str, min_endpoints: usize) -> Policy {
    Policy { zones: Some(Zones { own: own.into(), min_endpoints }), ..Policy::default() }
}

#[test]
fn a_new_endpoint_begins_with_a_tenth_and_has_all_in_the_end() {
    let mut bench = Bench::settled(slow(90), [plain(1), plain(2)]);
    bench.list([plain(3)]);
    assert_eq!(bench.weights(), [(1, 100), (2, 100), (3, 10)]);
    assert_eq!(bench.starting, [3]);
    let seen: Vec<u32> = (0..10)
        .map(|_| {
            bench.pass(10);
            bench.seen[&3].weight.get()
        })
        .collect();
    assert_eq!(seen, [20, 30, 40, 50, 60, 70, 80, 90, 100, 100]);
    assert_eq!((bench.offering.starting(), bench.offering.pause(&bench.policy)), (0, None));
    assert!(!bench.offering.is_shaping());
}

#[test]
fn nobody_of_the_first_list_starts_slowly_nor_where_most_are_new() {
    let mut bench = Bench::new(slow(90));
    bench.list((1..=4).map(plain));
    assert_eq!(bench.weights(), [(1, 100), (2, 100), (3, 100), (4, 100)]);
    bench.list((5..=8).map(plain));
    assert_eq!(bench.seen[&8].weight.get(), 10, "as many as there were");
    bench.list((1..=4).map(|port| Offer::Remove(address(port))));
    assert_eq!(bench.weights(), [(5, 100), (6, 100), (7, 100), (8, 100)], "nobody else is left");
    assert!(bench.starting.iter().eq(&[5, 6, 7, 8]));
    bench.list([plain(9)]);
    assert_eq!(bench.seen[&9].weight.get(), 10, "those who are new later start anew");
}

#[test]
fn what_comes_back_starts_anew() {
    let mut bench = Bench::settled(slow(90), (1..=4).map(plain));
    bench.check(1, false);
    assert!(!bench.seen.contains_key(&1));
    bench.check(1, true);
    assert_eq!(bench.seen[&1].weight.get(), 10, "after its checks failed");
    bench.pass(45);
    assert_eq!(bench.seen[&1].weight.get(), 50);
    bench.check(1, false);
    bench.check(1, true);
    assert_eq!(bench.seen[&1].weight.get(), 10, "and again");
    bench.pass(90);

    let as_is = |state| {
        let facts = Facts { state, ..Facts::default() };
        Offer::Put(Endpoint { address: address(2), weight: Weight::ONE, facts })
    };
    for state in [State::Unwell, State::Draining] {
        bench.list([as_is(state)]);
        bench.list([as_is(State::Ready)]);
        assert_eq!(bench.seen[&2].weight.get(), 10, "after its registry called it {state:?}");
        bench.pass(90);
    }
    bench.list([Offer::Remove(address(3))]);
    bench.list([plain(3)]);
    assert_eq!(bench.seen[&3].weight.get(), 10, "after it was drained");
    bench.pass(90);
    bench.list([endpoint(4, 7, "", 0)]);
    assert_eq!(bench.seen[&4].weight.get(), 700, "another weight is no start");
}

#[test]
fn the_policy_can_change_in_the_middle_of_it() {
    let mut bench = Bench::settled(slow(90), (1..=4).map(plain));
    bench.list([plain(5)]);
    bench.policy = Policy::default();
    bench.pass(0);
    assert_eq!(bench.seen[&5].weight.get(), 100);
    assert!(!bench.offering.is_shaping());
}

#[test]
fn the_own_zone_has_all_requests_while_it_can_take_them() {
    let list = |zones: &[(&'static str, u16)]| {
        let mut ports = 0..;
        let of = |(zone, count): &(&'static str, u16)| {
            ports
                .by_ref()
                .take(usize::from(*count))
                .map(|port| endpoint(port, 1, zone, 0))
                .collect::<Vec<_>>()
        };
        zones.iter().flat_map(of).collect::<Vec<_>>()
    };
    let mut bench = Bench::settled(in_zone("a", 6), list(&[("a", 4), ("b", 4)]));
    assert_eq!(bench.weights(), [(0, 100), (1, 100), (2, 100), (3, 100)]);
    assert_eq!(bench.offering.away().count(), 4);
    // A gateway in b has as much to give away as a has to spare.
    bench.check(0, false);
    bench.check(1, false);
    assert_eq!(bench.weights(), [(2, 100), (3, 100), (4, 25), (5, 25), (6, 25), (7, 25)]);
    assert_eq!((bench.seen[&2].zone, bench.seen[&7].zone), (1.0, 0.25));
    assert!((bench.offering.local().unwrap() - 2.0 / 3.0).abs() < 1e-9);
    bench.check(2, false);
    assert_eq!(bench.weights().len(), 5, "too few for zones to make a difference");
    assert!(bench.seen.values().all(|seen| seen.weight.get() == 100));
    bench.policy = Policy::default();
    bench.check(2, true);
    assert_eq!(bench.offering.local(), None);
    assert!(bench.seen.values().all(|seen| *seen == Effective::plain(Weight::ONE)));
}

#[test]
fn zones_make_no_difference_in_a_panic_and_without_the_own() {
    let list: Vec<_> = (1..=10).map(|port| endpoint(port, 1, if port <= 5 { "a" } else { "b" }, 0)).collect();
    let mut bench = Bench::settled(in_zone("a", 1), list.clone());
    (1..=10).for_each(|port| bench.check(port, false));
    assert!(bench.health.is_panic());
    assert_eq!(bench.weights(), (1..=10).map(|port| (port, 100)).collect::<Vec<_>>());
    let bench = Bench::settled(in_zone("c", 1), list);
    assert_eq!(bench.weights().len(), 10);
}

#[test]
fn the_next_priority_gets_what_too_few_of_the_first_cannot_carry() {
    let list = (1..=20).map(|port| endpoint(port, 1, "", u32::from(port > 10)));
    let mut bench = Bench::settled(Policy::default(), list);
    (1..=3).for_each(|port| bench.check(port, false));
    assert_eq!(bench.weights(), (4..=10).map(|port| (port, 100)).collect::<Vec<_>>());
    bench.check(4, false);
    let of_first: u32 = (5..=10).map(|port| bench.seen[&port].weight.get()).sum();
    let of_second: u32 = (11..=20).map(|port| bench.seen[&port].weight.get()).sum();
    let share = f64::from(of_first) / f64::from(of_first + of_second);
    assert!((share - 6.0 / 7.0).abs() < 0.01, "{share}");
    (5..=10).for_each(|port| bench.check(port, false));
    assert_eq!(bench.weights(), (11..=20).map(|port| (port, 100)).collect::<Vec<_>>());
}

#[test]
fn small_parts_can_still_be_told() {
    // One of ten is well and a thousand wait: each of these is to get a hundredth of what that one gets.
    let list = (1..=1_010).map(|port| endpoint(port, 1, "", u32::from(port > 10)));
    let mut bench = Bench::settled(Policy::default(), list);
    (2..=10).for_each(|port| bench.check(port, false));
    let of_second = bench.seen[&1_000].weight.get();
    assert!(of_second >= 10, "{of_second}");
    let share =
        f64::from(bench.seen[&1].weight.get()) / f64::from(of_second * 1_000 + bench.seen[&1].weight.get());
    assert!((share - 1.0 / 7.0).abs() < 0.01, "{share}");
}

#[test]
fn a_small_second_group_is_not_crushed() {
    let list = (1..=11).map(|port| endpoint(port, 1, "", u32::from(port > 10)));
    let mut bench = Bench::settled(Policy::default(), list);
    (1..=5).for_each(|port| bench.check(port, false));
    assert!(bench.seen.values().all(|seen| seen.weight.get() == 100), "{:?}", bench.weights());
}

/// Something that happens, for some of a few endpoints.
#[derive(Debug, Clone)]
enum Happens {
    Put { port: u16, weight: u32, zone: usize, priority: u32, state: usize },
    Remove(u16),
    Fails(u16),
    Checked(u16, bool),
    Pass(u64),
    Policy(Option<u64>, bool, f64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let port = || 0u16..12;
    prop_oneof![
        4 => (port(), 1..5u32, 0..3usize, 0..3u32, 0..3usize).prop_map(|(port, weight, zone, priority, state)| {
            Happens::Put { port, weight, zone, priority, state }
        }),
        1 => port().prop_map(Happens::Remove),
        3 => port().prop_map(Happens::Fails),
        3 => (port(), any::<bool>()).prop_map(|(port, passed)| Happens::Checked(port, passed)),
        2 => (0..40u64).prop_map(Happens::Pass),
        1 => (prop::option::of(1..60u64), any::<bool>(), 0.0..=1.0)
            .prop_map(|(slow, zones, threshold)| Happens::Policy(slow, zones, threshold)),
    ]
}

const ZONES: [&str; 3] = ["a", "b", ""];

proptest! {
    /// Whatever happens: whoever is seen is offered by health, somebody is seen while anybody is offered, nobody has
    /// more than its weight in comparison with another, and without settings weights are as they are.
    #[test]
    fn somebody_is_always_seen_and_nobody_too_much(steps in prop::collection::vec(happens(), 1..80)) {
        let mut bench = Bench::new(Policy::default());
        for step in steps {
            match step {
                Happens::Put { port, weight, zone, priority, state } => {
                    let facts = Facts {
                        state: State::ALL[state],
                        priority,
                        zone: Some(ZONES[zone]).filter(|zone| !zone.is_empty()).map(Into::into),
                        ..Facts::default()
                    };
                    let weight = Weight::new(weight).unwrap();
                    bench.list([Offer::Put(Endpoint { address: address(port), weight, facts })]);
                }
                Happens::Remove(port) => bench.list([Offer::Remove(address(port))]),
                Happens::Fails(port) => {
                    (0..5).for_each(|_| bench.step(HealthInput::Evidence(address(port), Evidence::TimedOut)));
                }
                Happens::Checked(port, passed) => bench.check(port, passed),
                Happens::Pass(seconds) => {
                    bench.pass(seconds);
                    bench.step(HealthInput::Tick);
                }
                Happens::Policy(slow, zones, threshold) => {
                    bench.policy = Policy {
                        slow_start: slow.map(Duration::from_secs),
                        zones: zones.then(|| Zones { own: "a".into(), min_endpoints: 2 }),
                        ..Policy::default()
                    };
                    bench.judging.priority_threshold = threshold;
                    bench.step(HealthInput::Tick);
                    bench.pass(0);
                }
            }
            let offered: HashMap<u16, &Endpoint> =
                bench.health.offered().map(|endpoint| (endpoint.address.port(), endpoint)).collect();
            prop_assert_eq!(bench.seen.is_empty(), offered.is_empty());
            let whole = |port: &u16| f64::from(offered[port].weight.get());
            prop_assert!(bench.seen.keys().all(|port| offered.contains_key(port)));
            // Leaving a slow start aside.
            let each = |port: &u16, seen: &Effective| {
                f64::from(seen.weight.get()) / whole(port) / f64::from(seen.slow_start)
            };
            let most = bench.seen.iter().map(|(port, seen)| each(port, seen)).fold(0.0, f64::max);
            for (port, seen) in &bench.seen {
                let part = f64::from(seen.zone) * f64::from(seen.priority);
                prop_assert!(part > 0.0 && part <= 1.0, "{seen:?}");
                prop_assert!((0.1..=1.0).contains(&seen.slow_start), "{seen:?}");
                // Weights are rounded to whole numbers, of which 1 is the least.
                let slack = 1.0 / whole(port) / f64::from(seen.slow_start);
                prop_assert!(each(port, seen) <= most * part + slack, "{seen:?} beside {most}");
            }
            let slow = bench.seen.values().filter(|seen| seen.slow_start < 1.0).count();
            prop_assert!(slow * 2 <= bench.seen.len(), "{slow} of {}", bench.seen.len());
            if bench.policy == Policy::default() && bench.health.groups().len() <= 1 {
                let weights = offered.iter().map(|(port, endpoint)| (*port, Effective::plain(endpoint.weight)));
                prop_assert_eq!(&bench.seen, &weights.collect::<BTreeMap<_, _>>());
            }
        }
    }
}
