//! The rules of trust, one by one, and what holds for any sequence of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::upstream::{Facts, Saved, SavedSource, Weight};

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn claim(id: &str, port: u16, weight: u32) -> Claim {
    Claim {
        id: id.into(),
        addresses: vec![address(port)],
        weight: Weight::new(weight),
        facts: Facts::default(),
    }
}

fn claims(ports: impl IntoIterator<Item = u16>) -> Vec<Claim> {
    ports.into_iter().map(|port| claim(&port.to_string(), port, 1)).collect()
}

/// A source whose offers are folded as the merge would, at a time that the test moves.
struct Bench {
    source: Source,
    policy: Policy,
    now: Instant,
    offered: BTreeSet<u16>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        Self { source: Source::new(), policy, now: Instant::now(), offered: BTreeSet::new() }
    }

    /// A source that has long claimed these.
    fn settled(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut bench = Self::new();
        bench.complete(ports);
        bench.pass(3_600);
        bench
    }

    fn step(&mut self, input: Input) -> Step {
        let step = self.source.step(input, &self.policy, self.now);
        for (address, word) in &step.words {
            match word {
                Some(Word::Claimed(_) | Word::Held(_)) => self.offered.insert(address.port()),
                Some(Word::Drained) | None => self.offered.remove(&address.port()),
            };
        }
        step
    }

    /// Another bench that knows what this one has kept over a restart.
    fn restarted(&self) -> Self {
        let mut next = Self { now: self.now, ..Self::with(self.policy) };
        next.step(Input::Restored(Box::new(through_a_file(self.source.state(self.now)))));
        let unhealthy = self.source.unhealthy.iter().map(|address| (*address, HealthState::Unhealthy));
        next.step(Input::Health(unhealthy.collect()));
        next
    }

    fn complete(&mut self, ports: impl IntoIterator<Item = u16>) {
        self.step(Input::News(News::Complete(claims(ports))));
    }

    fn put(&mut self, port: u16) {
        let change = ClaimChange::Put(claim(&port.to_string(), port, 1));
        self.step(Input::News(News::Changes(vec![change])));
    }

    fn remove(&mut self, port: u16) {
        self.step(Input::News(News::Changes(vec![ClaimChange::Remove(port.to_string())])));
    }

    fn drain(&mut self, port: u16) {
        let change = ClaimChange::Put(claim(&port.to_string(), port, 0));
        self.step(Input::News(News::Changes(vec![change])));
    }

    fn health(&mut self, port: u16, state: HealthState) {
        self.step(Input::Health(vec![(address(port), state)]));
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.step(Input::Tick);
    }

    fn reserve(&self) -> Vec<u16> {
        self.source.reserve().map(|(endpoint, _)| endpoint.address.port()).collect()
    }

    #[track_caller]
    fn offers(&self, ports: impl IntoIterator<Item = u16>) {
        assert_eq!(self.offered, ports.into_iter().collect::<BTreeSet<u16>>());
    }
}

/// As it is after it was written and read.
fn through_a_file(state: SourceState) -> SourceState {
    let source = SavedSource { registry: "main".into(), service: "orders".into(), heard: None, state };
    let saved = Saved {
        at: std::time::SystemTime::now(),
        sources: vec![source],
        pin: None,
        drains: Default::default(),
        health: None,
    };
    Saved::read(saved.write().unwrap().get()).unwrap().sources.remove(0).state
}

#[test]
fn an_address_stays_until_its_last_id_is_removed() {
    let mut bench = Bench::new();
    bench.step(Input::News(News::Complete(vec![claim("a", 1, 1), claim("b", 1, 1), claim("c", 2, 1)])));
    bench.step(Input::News(News::Changes(vec![ClaimChange::Remove("a".into())])));
    bench.offers([1, 2]);
    bench.step(Input::News(News::Changes(vec![ClaimChange::Remove("b".into())])));
    bench.offers([2]);
}

#[test]
fn a_drained_claim_is_known_but_not_offered() {
    let mut bench = Bench::new();
    bench.step(Input::News(News::Complete(vec![claim("a", 1, 0)])));
    bench.offers([]);
    assert_eq!(bench.source.len(), 1);
}

#[test]
fn partial_news_remove_nothing_and_a_failure_changes_only_the_origin() {
    let mut bench = Bench::new();
    bench.complete([1]);
    bench.step(Input::News(News::Partial(claims([2]))));
    let step = bench.step(Input::Failed);
    assert_eq!(step, Step::default());
    assert_eq!(bench.source.origin(), Origin::Frozen);
    bench.offers([1, 2]);
}

#[test]
fn an_instance_that_leaves_a_list_of_several_gets_no_traffic_at_once() {
    for several in 2..8 {
        let mut bench = Bench::settled(1..=several);
        bench.remove(1);
        bench.offers(2..=several);
        assert!(bench.reserve().is_empty());
    }
}

#[test]
fn the_last_instance_stays_as_reserve_until_it_is_replaced() {
    let mut bench = Bench::settled([1]);
    bench.remove(1);
    bench.offers([1]);
    bench.put(2);
    bench.offers([2]);
}

#[test]
fn everything_is_held_even_where_any_share_may_leave() {
    let mut bench = Bench::settled([1, 2, 3]);
    bench.policy.max_drop = 1.0;
    bench.remove(1);
    bench.remove(2);
    bench.offers([3]);
    bench.remove(3);
    bench.offers([1, 2, 3]);
}

#[test]
fn key_by_key_counts_like_one_answer() {
    let mut one = Bench::settled(1..=10);
    one.complete(1..=4);
    one.offers(1..=10);

    let mut many = Bench::settled(1..=10);
    for port in (6..=10).rev() {
        many.remove(port);
        many.offers(1..port);
        many.pass(5);
    }
    many.remove(5);
    many.offers(1..=10);
    assert_eq!(many.reserve(), one.reserve());
}

#[test]
fn removals_far_apart_are_not_one_removal() {
    let mut bench = Bench::settled(1..=10);
    for port in (2..=10).rev() {
        bench.remove(port);
        bench.offers(1..port);
        bench.pass(60);
    }
    assert!(bench.reserve().is_empty());
}

#[test]
fn a_list_that_has_long_been_short_is_measured_by_what_it_is_now() {
    let mut bench = Bench::settled(1..=10);
    for port in 5..=10 {
        bench.remove(port);
        bench.pass(60);
    }
    bench.complete([1]);
    bench.offers(1..=4);
}

#[test]
fn a_length_counts_until_the_list_has_another_and_no_longer() {
    let mut bench = Bench::settled(0..=3);
    bench.complete(0..=2);
    bench.pass(53);
    bench.put(0);
    bench.pass(7);
    bench.remove(0);
    bench.offers([1, 2]);
    bench.remove(1);
    bench.offers([0, 1, 2]);
}

#[test]
fn rolling_deployments_pass_unhindered() {
    for size in 1..=6u16 {
        for add_first in [true, false] {
            let mut bench = Bench::settled(1..=size);
            for port in 1..=size {
                let left: Vec<u16> = (port + 1..=size).chain(101..100 + port).collect();
                if add_first {
                    bench.put(100 + port);
                    bench.remove(port);
                    bench.offers(left.into_iter().chain([100 + port]));
                } else {
                    bench.remove(port);
                    if !left.is_empty() {
                        bench.offers(left.iter().copied());
                    }
                    bench.put(100 + port);
                    bench.offers(left.into_iter().chain([100 + port]));
                }
                bench.pass(7);
            }
        }
    }
}

#[test]
fn two_rolling_deployments_within_a_minute_pass_too() {
    let mut bench = Bench::settled(1..=3);
    for round in [1, 2, 3] {
        for port in 1..=3 {
            bench.remove((round - 1) * 100 + port);
            bench.put(round * 100 + port);
            assert_eq!(bench.offered.len(), 3);
        }
    }
    bench.offers([301, 302, 303]);
}

#[test]
fn a_blue_green_switch_leaves_the_old_colour_without_traffic() {
    let mut bench = Bench::settled(1..=4);
    bench.complete(11..=14);
    bench.offers(11..=14);
    assert_eq!(bench.reserve(), [1, 2, 3, 4]);
}

#[test]
fn the_old_colour_comes_back_while_the_new_one_does_not_answer() {
    let mut bench = Bench::settled(1..=4);
    bench.complete(11..=14);
    (11..=13).for_each(|port| bench.health(port, HealthState::Unhealthy));
    bench.offers((1..=4).chain(11..=14));
    bench.health(11, HealthState::Healthy);
    bench.offers(11..=14);
}

#[test]
fn a_mass_expiry_of_leases_leaves_everything_with_traffic() {
    let mut bench = Bench::settled(1..=10);
    bench.complete([]);
    bench.offers(1..=10);
    bench.pass(100_000);
    bench.offers(1..=10);
    bench.put(3);
    bench.offers(1..=10);
    (4..=10).for_each(|port| bench.put(port));
    bench.offers(3..=10);
}

#[test]
fn a_reserve_loses_what_stopped_answering_for_good() {
    let mut bench = Bench::settled(1..=3);
    bench.complete([]);
    bench.health(1, HealthState::Unhealthy);
    bench.offers(1..=3);
    bench.health(1, HealthState::Gone);
    bench.offers(2..=3);
}

#[test]
fn what_was_gone_before_it_left_is_asked_again() {
    let mut bench = Bench::settled(1..=2);
    bench.health(1, HealthState::Gone);
    bench.offers(1..=2);
    bench.complete([]);
    bench.offers(1..=2);
    bench.health(1, HealthState::Gone);
    bench.offers([2]);
}

#[test]
fn a_partial_reserve_is_let_go_after_a_while() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=2);
    bench.pass(299);
    bench.offers(1..=10);
    bench.pass(1);
    bench.offers(1..=2);
    assert!(bench.reserve().is_empty());
}

#[test]
fn a_registry_that_does_not_answer_confirms_nothing() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=2);
    bench.pass(200);
    bench.step(Input::Failed);
    bench.pass(1_000);
    bench.offers(1..=10);
    bench.step(Input::News(News::Unchanged));
    bench.pass(299);
    bench.offers(1..=10);
    bench.pass(1);
    bench.offers(1..=2);
}

#[test]
fn a_reserve_that_was_alone_for_long_is_confirmed_from_when_it_is_not() {
    let mut bench = Bench::settled(1..=10);
    bench.complete([]);
    bench.pass(10_000);
    bench.put(1);
    bench.offers(1..=10);
    bench.pass(299);
    bench.offers(1..=10);
    bench.pass(1);
    bench.offers([1]);
}

#[test]
fn a_reserve_that_is_all_that_answers_is_not_confirmed_unless_the_operator_says_so() {
    let mut bench = Bench::settled(1..=2);
    bench.complete([11]);
    bench.health(11, HealthState::Unhealthy);
    bench.pass(100_000);
    bench.offers([1, 2, 11]);
    bench.policy.confirm_all = Some(Duration::from_secs(600));
    bench.pass(0);
    bench.offers([11]);
}

#[test]
fn what_joins_a_reserve_later_is_held_for_its_own_time() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=4);
    bench.pass(200);
    bench.complete(1..=1);
    bench.pass(100);
    bench.offers(1..=4);
    bench.pass(200);
    bench.offers([1]);
}

#[test]
fn the_operator_accepts_a_removal() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=3);
    bench.offers(1..=10);
    bench.step(Input::Accept);
    bench.offers(1..=3);
    bench.remove(3);
    bench.offers(1..=2);
}

#[test]
fn what_is_claimed_again_leaves_the_reserve() {
    let mut bench = Bench::settled(1..=4);
    bench.complete([1]);
    assert_eq!(bench.reserve(), [2, 3, 4]);
    bench.put(2);
    assert_eq!(bench.reserve(), [3, 4]);
    bench.offers([1, 2]);
}

#[test]
fn what_came_back_is_not_counted_as_having_left() {
    let mut bench = Bench::settled(1..=4);
    for _ in 0..5 {
        bench.remove(1);
        bench.offers(2..=4);
        bench.put(1);
    }
    bench.offers(1..=4);
    assert!(bench.reserve().is_empty());
}

#[test]
fn what_left_twice_counts_from_the_second_time() {
    let mut bench = Bench::settled(1..=4);
    bench.remove(1);
    bench.put(1);
    bench.pass(50);
    bench.remove(1);
    bench.pass(15);
    bench.remove(2);
    bench.offers(3..=4);
    bench.remove(3);
    bench.offers(1..=4);
}

#[test]
fn a_reserve_is_measured_by_the_list_it_comes_from_and_no_older_one() {
    let mut bench = Bench::settled(1..=10);
    bench.complete([]);
    bench.complete(1..=10);
    for port in 4..=10 {
        bench.pass(60);
        bench.remove(port);
    }
    bench.pass(60);
    bench.complete(11..=13);
    bench.offers(11..=13);
}

#[test]
fn the_longest_list_says_how_many_are_enough() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=4);
    bench.pass(61);
    bench.complete([1]);
    bench.put(2);
    bench.offers(1..=10);
}

#[test]
fn a_later_ordinary_removal_is_not_held_because_of_an_older_reserve() {
    let mut bench = Bench::settled(1..=3);
    bench.complete(11..=13);
    bench.pass(61);
    bench.remove(11);
    bench.offers(12..=13);
    assert_eq!(bench.reserve(), [1, 2, 3]);
}

#[test]
fn a_service_under_ever_new_addresses_keeps_a_bounded_reserve() {
    let mut bench = Bench::settled([1]);
    for port in 1..5_000 {
        bench.complete([]);
        bench.complete([port + 1]);
    }
    assert!(bench.reserve().len() <= 16);
    bench.complete([]);
    assert!(bench.offered.contains(&5_000));
}

#[test]
fn a_drain_of_everything_is_believed() {
    for at_once in [true, false] {
        let mut bench = Bench::settled(1..=4);
        match at_once {
            true => {
                let drained = (1..=4).map(|port| claim(&port.to_string(), port, 0)).collect();
                drop(bench.step(Input::News(News::Complete(drained))));
            }
            false => (1..=4).for_each(|port| {
                bench.drain(port);
                bench.offers(port + 1..=4);
            }),
        }
        bench.offers([]);
        assert!(bench.reserve().is_empty());
        // What was drained on purpose is not held when it leaves.
        bench.complete([]);
        bench.offers([]);
        assert!(bench.reserve().is_empty());
    }
}

#[test]
fn some_are_drained_and_the_claims_of_the_rest_are_lost() {
    let mut bench = Bench::settled(1..=4);
    bench.drain(1);
    bench.drain(2);
    bench.offers(3..=4);
    bench.step(Input::News(News::Complete(vec![claim("1", 1, 0), claim("2", 2, 0)])));
    bench.offers(3..=4);
    assert_eq!(bench.reserve(), [3, 4]);
    bench.complete([]);
    bench.offers(3..=4);
}

#[test]
fn one_of_a_reserve_that_is_claimed_again_with_weight_0_is_drained() {
    let mut bench = Bench::settled(1..=3);
    bench.complete([]);
    bench.offers(1..=3);
    bench.drain(1);
    bench.offers(2..=3);
    bench.drain(2);
    bench.offers([3]);
    bench.drain(3);
    bench.offers([]);
    assert!(bench.reserve().is_empty());
}

#[test]
fn a_drain_does_not_bring_back_what_was_replaced() {
    let mut bench = Bench::settled(1..=4);
    bench.complete(11..=14);
    for port in 11..=13 {
        bench.drain(port);
        bench.offers(port + 1..=14);
    }
    bench.health(14, HealthState::Unhealthy);
    bench.offers((1..=4).chain([14]));
    bench.health(14, HealthState::Healthy);
    bench.put(13);
    bench.drain(13);
    bench.offers([14]);
    bench.drain(14);
    bench.offers([]);
    bench.complete([]);
    bench.offers([]);
}

#[test]
fn a_drain_while_the_reserve_is_needed_does_not_end_the_need() {
    let mut bench = Bench::settled(1..=3);
    bench.complete([]);
    for port in 1..=2 {
        bench.put(port);
        bench.drain(port);
    }
    bench.offers([3]);
}

#[test]
fn what_is_drained_counts_for_nothing_when_others_leave() {
    let mut bench = Bench::settled(1..=10);
    (5..=10).for_each(|port| bench.drain(port));
    bench.complete([1]);
    bench.offers(1..=4);
    let mut bench = Bench::settled(1..=10);
    (5..=10).for_each(|port| bench.drain(port));
    bench.complete(1..=4);
    bench.complete(11..=14);
    bench.offers(11..=14);
}

#[test]
fn what_the_operator_wrote_applies_as_written() {
    let mut bench = Bench::settled(1..=4);
    bench.complete([]);
    assert_eq!(bench.reserve(), [1, 2, 3, 4]);
    bench.policy.as_written = true;
    bench.complete([7]);
    bench.offers([7]);
    assert!(bench.reserve().is_empty());
    bench.complete([8]);
    bench.health(8, HealthState::Unhealthy);
    bench.offers([8]);
    bench.complete([]);
    bench.offers([]);
}

#[test]
fn a_restart_keeps_the_reserve() {
    let mut bench = Bench::settled(1..=3);
    bench.complete([3]);
    bench.offers(1..=3);
    let mut bench = bench.restarted();
    bench.offers(1..=3);
    assert_eq!(bench.source.origin(), Origin::Restored);
    bench.complete([3]);
    bench.offers(1..=3);
    bench.complete([2, 3]);
    bench.offers(2..=3);
}

#[test]
fn a_restart_leaves_what_was_replaced_without_traffic() {
    let mut bench = Bench::settled(1..=2);
    bench.put(11);
    bench.remove(1);
    bench.put(12);
    bench.remove(2);
    bench.offers(11..=12);
    assert_eq!(bench.reserve(), [1, 2]);
    let mut bench = bench.restarted();
    bench.offers(11..=12);
    bench.complete(11..=12);
    bench.offers(11..=12);
    bench.health(11, HealthState::Unhealthy);
    bench.health(12, HealthState::Unhealthy);
    bench.offers([1, 2, 11, 12]);
    bench.restarted().offers([1, 2, 11, 12]);
}

#[test]
fn removals_before_and_after_a_restart_count_together() {
    let mut bench = Bench::settled(1..=4);
    bench.complete(1..=2);
    bench.offers(1..=2);
    let mut bench = bench.restarted();
    bench.complete([1]);
    bench.offers(1..=4);
}

#[test]
fn a_registry_that_stands_by_a_removal_need_not_begin_again_after_a_restart() {
    let mut bench = Bench::settled(1..=10);
    bench.complete(1..=2);
    bench.pass(200);
    let mut other = bench.restarted();
    bench = bench.restarted();
    // It is not asked for a while, and then says the same.
    bench.pass(1_000);
    bench.offers(1..=10);
    bench.complete(1..=2);
    bench.pass(99);
    bench.offers(1..=10);
    bench.pass(1);
    bench.offers(1..=2);
    // It fails, and has to stand by it anew.
    other.step(Input::Failed);
    other.complete(1..=2);
    other.pass(299);
    other.offers(1..=10);
    other.pass(1);
    other.offers(1..=2);
}

#[test]
fn a_list_that_grew_again_does_not_count_as_long_as_before() {
    let mut bench = Bench::settled(1..=4);
    bench.remove(4);
    bench.remove(3);
    bench.pass(50);
    bench.put(3);
    bench.pass(10);
    bench.remove(3);
    bench.remove(2);
    bench.offers(1..=3);
}

/// What may happen, in small numbers so that sequences meet.
#[derive(Debug, Clone)]
enum Happening {
    Complete(BTreeSet<u16>),
    Partial(BTreeSet<u16>),
    Put(u16),
    Drain(u16),
    Remove(u16),
    Failed,
    Health(u16, HealthState),
    Accept,
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let port = || 0u16..8;
    let ports = || prop::collection::btree_set(port(), 0..8);
    let state = prop_oneof![2 => Just(HealthState::Healthy), 2 => Just(HealthState::Unhealthy), 1 => Just(HealthState::Gone)];
    prop_oneof![
        3 => ports().prop_map(Complete),
        1 => ports().prop_map(Partial),
        4 => port().prop_map(Put),
        1 => port().prop_map(Drain),
        6 => port().prop_map(Remove),
        1 => Just(Failed),
        4 => (port(), state).prop_map(|(port, state)| Health(port, state)),
        1 => Just(Accept),
        3 => prop_oneof![0u64..20, 0u64..400].prop_map(Pass),
    ]
}

impl Bench {
    fn happen(&mut self, happening: &Happening) {
        if let Happening::Pass(seconds) = happening {
            self.now += Duration::from_secs(*seconds);
        }
        self.step(input(happening));
    }
}

/// What the rules say, told by another voice: a log of who left when, and nothing else.
#[derive(Default)]
struct Model {
    claimed: BTreeSet<u16>,
    drained: BTreeSet<u16>,
    unhealthy: BTreeSet<u16>,
    /// Who left and has not come back, died or been accepted since; and when.
    left: BTreeMap<u16, u64>,
    /// Lengths of the list and when they began.
    lengths: Vec<(u64, usize)>,
    /// The last that were claimed, once nothing is claimed any more; who died or was accepted is not in it.
    last: BTreeSet<u16>,
    now: u64,
}

impl Model {
    fn claim(&mut self, claimed: BTreeSet<u16>, drained: BTreeSet<u16>) {
        let in_use: BTreeSet<u16> = self.claimed.union(&self.lately()).copied().collect();
        let given_up = in_use.intersection(&drained).filter(|port| !self.drained.contains(port)).count();
        // It is as if the list had always been shorter by those.
        self.lengths.iter_mut().for_each(|(_, length)| *length = length.saturating_sub(given_up));
        for port in self.claimed.difference(&claimed) {
            if !drained.contains(port) {
                self.left.insert(*port, self.now);
            }
        }
        self.left.retain(|port, _| !claimed.contains(port) && !drained.contains(port));
        let lost: BTreeSet<u16> = self.claimed.difference(&claimed).copied().collect();
        if claimed.is_empty() && !self.claimed.is_empty() {
            self.last = lost.difference(&drained).copied().collect();
        } else if !claimed.is_empty() {
            self.last.clear();
        }
        self.last.retain(|port| !drained.contains(port));
        (self.claimed, self.drained) = (claimed, drained);
        self.lengths.push((self.now, self.claimed.len()));
    }

    fn take(&mut self, happening: &Happening) {
        let (mut claimed, mut drained) = (self.claimed.clone(), self.drained.clone());
        match happening {
            Happening::Complete(ports) => self.claim(ports.clone(), BTreeSet::new()),
            Happening::Partial(ports) => {
                drained.retain(|port| !ports.contains(port));
                claimed.extend(ports);
                self.claim(claimed, drained);
            }
            Happening::Put(port) => {
                drained.remove(port);
                claimed.insert(*port);
                self.claim(claimed, drained);
            }
            Happening::Remove(port) => {
                drained.remove(port);
                claimed.remove(port);
                self.claim(claimed, drained);
            }
            Happening::Drain(port) => {
                claimed.remove(port);
                drained.insert(*port);
                self.claim(claimed, drained);
            }
            Happening::Health(port, HealthState::Healthy) => drop(self.unhealthy.remove(port)),
            Happening::Health(port, state) => {
                self.unhealthy.insert(*port);
                if *state == HealthState::Gone {
                    self.left.remove(port);
                    self.last.remove(port);
                }
            }
            Happening::Accept => {
                self.left.clear();
                self.last.clear();
                self.lengths = vec![(self.now, self.claimed.len())];
            }
            Happening::Failed => {}
            Happening::Pass(seconds) => self.now += seconds,
        }
    }

    fn well(&self) -> usize {
        self.claimed.difference(&self.unhealthy).count()
    }

    /// How long the list was at its longest within the window.
    fn longest(&self) -> usize {
        let begun = self.lengths.iter().rposition(|(at, _)| self.now - at >= 60).unwrap_or(0);
        self.lengths[begun.min(self.lengths.len())..].iter().map(|(_, length)| *length).max().unwrap_or(0)
    }

    /// Who left within the window.
    fn lately(&self) -> BTreeSet<u16> {
        self.left.iter().filter(|(_, at)| self.now - **at < 60).map(|(port, _)| *port).collect()
    }
}

fn input(happening: &Happening) -> Input {
    let changes = |change| Input::News(News::Changes(vec![change]));
    match happening {
        Happening::Complete(ports) => Input::News(News::Complete(claims(ports.iter().copied()))),
        Happening::Partial(ports) => Input::News(News::Partial(claims(ports.iter().copied()))),
        Happening::Put(port) => changes(ClaimChange::Put(claim(&port.to_string(), *port, 1))),
        Happening::Drain(port) => changes(ClaimChange::Put(claim(&port.to_string(), *port, 0))),
        Happening::Remove(port) => changes(ClaimChange::Remove(port.to_string())),
        Happening::Failed => Input::Failed,
        Happening::Health(port, state) => Input::Health(vec![(address(*port), *state)]),
        Happening::Accept => Input::Accept,
        Happening::Pass(_) => Input::Tick,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Whatever a registry says, whatever fails and whatever time passes.
    #[test]
    fn no_sequence_leaves_a_source_without_an_endpoint_that_answers(
        happenings in prop::collection::vec(happening(), 1..60)
    ) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        for happening in &happenings {
            let before = bench.offered.clone();
            model.take(happening);
            bench.happen(happening);

            let reserve: BTreeSet<u16> = bench.reserve().into_iter().collect();
            prop_assert!(bench.offered.is_superset(&model.claimed), "additions are never held");
            prop_assert!(reserve.is_disjoint(&model.claimed), "what is claimed is no reserve");
            prop_assert!(reserve.is_disjoint(&model.drained), "what is drained is no reserve");
            prop_assert!(bench.offered.is_disjoint(&model.drained), "what is drained gets nothing");
            let allowed: BTreeSet<u16> = model.claimed.union(&reserve).copied().collect();
            prop_assert!(bench.offered.is_subset(&allowed), "nothing else is offered");
            if matches!(happening, Happening::Failed) {
                prop_assert_eq!(&before, &bench.offered, "a failure changes nothing");
            }
            // The promise itself: what was there last is there until it died or somebody accepted.
            if model.claimed.is_empty() {
                prop_assert!(bench.offered.is_superset(&model.last), "{:?} of {:?}", bench.offered, model.last);
            }
            if model.well() >= 8 {
                prop_assert_eq!(&bench.offered, &model.claimed, "no reserve is offered beside a full list");
            }
        }
    }

    /// However a list shrinks within a window, at once or key by key, with whatever in between.
    #[test]
    fn a_list_that_loses_too_much_within_the_window_keeps_all_of_it(
        happenings in prop::collection::vec(happening(), 1..40)
    ) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        for happening in &happenings {
            let removes = matches!(happening, Happening::Complete(_) | Happening::Remove(_));
            let before = model.claimed.clone();
            model.take(happening);
            bench.happen(happening);
            if matches!(happening, Happening::Drain(_)) && model.claimed.is_empty() && bench.reserve().is_empty() {
                // The service was ended on purpose: nothing of before is waited for.
                model.left.clear();
                model.lengths = vec![(model.now, 0)];
            }
            let longest = model.longest();
            let left = removes && before.difference(&model.claimed).next().is_some();
            if left && model.well() < longest - longest / 2 && model.claimed.len() < longest - longest / 2 {
                let lately = model.lately();
                prop_assert!(bench.offered.is_superset(&lately), "{:?} lacks some of {:?}", bench.offered, lately);
            }
        }
    }

    /// Folding the offers of any sequence gives what a source would say that is asked for everything.
    #[test]
    fn folded_offers_are_the_whole_truth(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut bench = Bench::new();
        for happening in &happenings {
            bench.happen(happening);
            let reserve = bench.reserve();
            let claimed = bench.source.claimed.keys().map(SocketAddr::port);
            let offered = claimed.chain(reserve.into_iter().filter(|_| bench.source.offers_reserve()));
            prop_assert_eq!(&bench.offered, &offered.collect::<BTreeSet<u16>>());
        }
    }

    /// At any point of any sequence: a gateway that stops there and starts again, and hears the registry say the same, offers
    /// what it would have offered, then and later.
    #[test]
    fn a_restart_changes_no_later_offer(
        happenings in prop::collection::vec(happening(), 1..60), at in 0usize..60
    ) {
        let mut bench = Bench::new();
        let (before, after) = happenings.split_at(at.min(happenings.len()));
        before.iter().for_each(|happening| bench.happen(happening));
        let mut restarted = bench.restarted();
        prop_assert_eq!(&bench.offered, &restarted.offered, "before the registry answers");
        let same = News::Complete(bench.source.claims().cloned().collect());
        for bench in [&mut bench, &mut restarted] {
            bench.step(Input::News(same.clone()));
        }
        for happening in after {
            prop_assert_eq!(&bench.offered, &restarted.offered);
            bench.happen(happening);
            restarted.happen(happening);
        }
        prop_assert_eq!(&bench.offered, &restarted.offered);
        prop_assert_eq!(bench.reserve(), restarted.reserve());
    }

    /// The same where nobody hears the registry again: what is frozen and what is restored lose the same.
    #[test]
    fn a_restart_without_a_registry_changes_no_offer(
        happenings in prop::collection::vec(happening(), 1..60), after in prop::collection::vec(happening(), 1..20)
    ) {
        let mut bench = Bench::new();
        happenings.iter().for_each(|happening| bench.happen(happening));
        bench.step(Input::Failed);
        let mut restarted = bench.restarted();
        let silent = |of: &&Happening| matches!(of, Happening::Health(..) | Happening::Pass(_) | Happening::Accept);
        for happening in after.iter().filter(silent) {
            prop_assert_eq!(&bench.offered, &restarted.offered);
            bench.happen(happening);
            restarted.happen(happening);
        }
        prop_assert_eq!(&bench.offered, &restarted.offered);
    }
}
