//! What takes an endpoint out, what brings it back, and what no evidence can do.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::upstream::{Facts, Weight};

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn put(port: u16) -> Offer {
    Offer::Put(Endpoint { address: address(port), weight: Weight::ONE, facts: Facts::default() })
}

fn put_as(port: u16, state: State, priority: u32) -> Offer {
    let facts = Facts { state, priority, ..Facts::default() };
    Offer::Put(Endpoint { address: address(port), weight: Weight::ONE, facts })
}

struct Bench {
    health: Health,
    policy: Policy,
    now: Instant,
    offered: BTreeSet<u16>,
    told: Vec<(u16, HealthState)>,
    half_open: BTreeSet<u16>,
}

impl Bench {
    fn new() -> Self {
        let (health, policy) = (Health::default(), Policy::default());
        let (now, offered, told, half_open) = (Instant::now(), BTreeSet::new(), Vec::new(), BTreeSet::new());
        Self { health, policy, now, offered, told, half_open }
    }

    /// A list whose endpoints are not new any more.
    fn settled(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut bench = Self::new();
        bench.step(HealthInput::List(ports.into_iter().map(put).collect()));
        bench.pass(3_600);
        bench
    }

    fn step(&mut self, input: HealthInput) {
        let judged = self.health.step(input, &self.policy, self.now);
        for offer in judged.offers {
            match offer {
                Offer::Put(endpoint) => self.offered.insert(endpoint.address.port()),
                Offer::Remove(address) => self.offered.remove(&address.port()),
            };
        }
        for (address, half_open) in judged.half_open {
            match half_open {
                true => self.half_open.insert(address.port()),
                false => self.half_open.remove(&address.port()),
            };
        }
        self.told.extend(judged.states.into_iter().map(|(address, states)| (address.port(), states)));
    }

    fn tell(&mut self, port: u16, evidence: Evidence, times: usize) {
        (0..times).for_each(|_| self.step(HealthInput::Evidence(address(port), evidence)));
    }

    fn check(&mut self, port: u16, passed: bool, times: usize) {
        (0..times).for_each(|_| self.step(HealthInput::Checked(address(port), passed)));
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.step(HealthInput::Tick);
    }

    fn companions(&self, port: u16) -> Option<BTreeSet<u16>> {
        let companions = self.health.companions(address(port), &self.policy, self.now)?;
        Some(companions.iter().map(SocketAddr::port).collect())
    }

    #[track_caller]
    fn offers(&self, ports: impl IntoIterator<Item = u16>) {
        assert_eq!(self.offered, ports.into_iter().collect::<BTreeSet<u16>>());
    }
}

#[test]
fn failures_in_a_row_take_an_endpoint_out_for_longer_each_time() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 4);
    bench.tell(1, Evidence::Answered, 1);
    bench.tell(1, Evidence::GatewayError, 4);
    bench.offers(1..=3);
    bench.tell(1, Evidence::Broke, 1);
    bench.offers(2..=3);
    bench.pass(9);
    bench.offers(2..=3);
    bench.pass(1);
    bench.offers(1..=3);

    bench.tell(1, Evidence::TimedOut, 1);
    bench.offers(2..=3);
    bench.pass(19);
    bench.offers(2..=3);
    bench.pass(1);
    bench.offers(1..=3);
}

#[test]
fn a_pause_has_a_longest_and_a_long_good_time_makes_it_short_again() {
    let mut bench = Bench::settled(1..=3);
    for _ in 0..50 {
        bench.tell(1, Evidence::TimedOut, 5);
        bench.offers(2..=3);
        bench.pass(300);
        bench.offers(1..=3);
    }
    bench.tell(1, Evidence::Answered, 1);
    bench.pass(300);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    bench.offers(1..=3);
}

#[test]
fn what_comes_back_by_time_alone_is_half_open_until_an_answer_or_a_failure() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    assert!(bench.half_open.is_empty(), "out");
    bench.pass(10);
    assert_eq!(bench.half_open, [1].into());
    bench.tell(1, Evidence::TimedOut, 1);
    assert!(bench.half_open.is_empty(), "out again");
    bench.pass(20);
    assert_eq!(bench.half_open, [1].into());
    bench.tell(1, Evidence::Answered, 1);
    assert!(bench.half_open.is_empty());
    bench.tell(1, Evidence::TimedOut, 4);
    bench.offers(1..=3);
}

#[test]
fn a_trial_is_forgotten_with_the_past() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    bench.pass(299);
    assert_eq!(bench.half_open, [1].into());
    bench.pass(1);
    assert!(bench.half_open.is_empty() && !bench.health.is_waiting());
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    assert_eq!(bench.half_open, [1].into());
    bench.step(HealthInput::Forget(address(1)));
    assert!(bench.half_open.is_empty());
}

#[test]
fn a_trial_outlives_what_is_remembered_for_less_than_a_request_may_take() {
    let mut bench = Bench::settled(1..=3);
    bench.policy = Policy {
        eject_for: Duration::from_millis(100),
        eject_most: Duration::from_millis(100),
        ..bench.policy
    };
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(1);
    bench.offers(1..=3);
    (0..60).for_each(|_| bench.pass(1));
    assert_eq!(bench.half_open, [1].into());
    bench.tell(1, Evidence::TimedOut, 1);
    bench.offers(2..=3);
    bench.pass(1);
    bench.tell(1, Evidence::Answered, 1);
    bench.pass(1);
    assert!(bench.half_open.is_empty() && !bench.health.is_waiting());
}

#[test]
fn what_a_check_brings_back_is_not_half_open() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 2);
    bench.check(1, true, 2);
    bench.check(2, false, 3);
    bench.check(2, true, 2);
    bench.offers(1..=3);
    assert!(bench.half_open.is_empty());
}

#[test]
fn what_cannot_be_spared_is_not_half_open() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    bench.tell(2, Evidence::TimedOut, 5);
    bench.tell(1, Evidence::TimedOut, 1);
    bench.offers([1, 3]);
    assert!(bench.half_open.is_empty());
}

#[test]
fn two_refused_connections_are_enough_and_checks_bring_it_back_early() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.offers(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.offers(2..=3);
    bench.check(1, true, 1);
    bench.offers(2..=3);
    bench.check(1, true, 1);
    bench.offers(1..=3);
}

#[test]
fn where_traffic_decides_no_check_brings_back_what_requests_took_out() {
    let mut bench = Bench::settled(1..=4);
    bench.policy.traffic_decides = true;
    bench.tell(1, Evidence::ConnectFailed, 2);
    bench.tell(2, Evidence::Broke, 5);
    for port in [1, 2] {
        bench.check(port, true, 100);
    }
    assert_eq!(bench.offered, BTreeSet::from([3, 4]));
    // Checks do not even count in favour of what fails now and then.
    bench.tell(3, Evidence::ConnectFailed, 1);
    bench.check(3, true, 100);
    bench.pass(10);
    assert_eq!(bench.half_open, BTreeSet::from([1, 2]), "time brings it back for a trial");
    bench.tell(1, Evidence::Answered, 1);
    bench.tell(2, Evidence::ConnectFailed, 1);
    assert_eq!((&bench.offered, &bench.half_open), (&BTreeSet::from([1, 3, 4]), &BTreeSet::new()));
}

#[test]
fn where_traffic_decides_checks_decide_what_requests_did_not() {
    let mut bench = Bench::settled(1..=4);
    bench.policy.traffic_decides = true;
    bench.check(1, false, 3);
    assert!(!bench.offered.contains(&1));
    bench.check(1, true, 2);
    assert!(bench.offered.contains(&1), "checks alone took it out");
    bench.tell(1, Evidence::ConnectFailed, 2);
    bench.check(1, false, 3);
    bench.check(1, true, 100);
    assert!(!bench.offered.contains(&1), "requests took it out, too");
    bench.step(HealthInput::List(vec![put(5)]));
    bench.tell(5, Evidence::ConnectFailed, 1);
    bench.check(5, true, 1);
    assert!(bench.offered.contains(&5), "it was only starting");
}

#[test]
fn a_check_that_connects_does_not_excuse_failing_requests() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.check(1, true, 10);
    bench.offers(2..=3);
}

#[test]
fn what_fails_its_checks_stays_out_after_its_time() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 2);
    bench.check(1, false, 1);
    bench.pass(100);
    bench.offers(2..=3);
    bench.check(1, true, 2);
    bench.offers(1..=3);
}

#[test]
fn checks_take_out_and_bring_back_by_their_own_thresholds() {
    let mut bench = Bench::settled(1..=3);
    bench.check(1, false, 2);
    bench.check(1, true, 1);
    bench.check(1, false, 2);
    bench.offers(1..=3);
    bench.check(1, false, 1);
    bench.offers(2..=3);
    bench.pass(1_000);
    bench.offers(2..=3);
    bench.check(1, true, 1);
    bench.check(1, false, 1);
    bench.check(1, true, 1);
    bench.offers(2..=3);
    bench.check(1, true, 1);
    bench.offers(1..=3);
}

#[test]
fn a_new_endpoint_that_refuses_connections_is_back_the_moment_it_listens() {
    let mut bench = Bench::settled(1..=3);
    bench.step(HealthInput::List(vec![put(4)]));
    bench.offers(1..=4);
    for _ in 0..4 {
        bench.tell(4, Evidence::ConnectFailed, 3);
        bench.offers(1..=3);
        bench.pass(1);
        bench.offers(1..=3);
        bench.pass(1);
        bench.offers(1..=4);
        assert!(bench.half_open.is_empty());
    }
    bench.tell(4, Evidence::ConnectFailed, 1);
    bench.offers(1..=3);
    bench.check(4, true, 1);
    bench.offers(1..=4);
    // It was not punished: its first ejection is still as short as any first one.
    bench.pass(3_600);
    bench.tell(4, Evidence::ConnectFailed, 2);
    bench.pass(10);
    bench.offers(1..=4);
}

#[test]
fn failing_requests_take_out_no_more_than_their_share() {
    let mut bench = Bench::settled(1..=4);
    (1..=3).for_each(|port| bench.tell(port, Evidence::GatewayError, 20));
    bench.offers(3..=4);
    assert!(bench.told.contains(&(3, HealthState::Unhealthy)), "spared, but known to be unhealthy");
}

#[test]
fn what_was_asked_and_is_silent_is_no_guess() {
    let mut bench = Bench::settled(1..=4);
    for port in 1..=2 {
        bench.tell(port, Evidence::ConnectFailed, 2);
        bench.check(port, false, 3);
    }
    bench.tell(3, Evidence::TimedOut, 5);
    bench.offers([4]);
}

#[test]
fn what_is_only_starting_or_has_left_is_no_guess() {
    let mut bench = Bench::settled(1..=4);
    bench.step(HealthInput::List((5..=8).map(put).collect()));
    (5..=8).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    (1..=2).for_each(|port| bench.tell(port, Evidence::TimedOut, 5));
    bench.offers(3..=4);
    let gone = [1, 2, 5, 6, 7, 8].map(|port| Offer::Remove(address(port)));
    bench.step(HealthInput::List(gone.into()));
    bench.tell(3, Evidence::TimedOut, 5);
    bench.offers([4]);
}

#[test]
fn what_was_spared_and_answers_is_well() {
    let mut bench = Bench::settled(1..=4);
    (1..=3).for_each(|port| bench.tell(port, Evidence::TimedOut, 5));
    bench.tell(3, Evidence::Answered, 1);
    assert_eq!(bench.told.last(), Some(&(3, HealthState::Healthy)));
}

#[test]
fn only_refused_connections_in_a_row_count_as_such() {
    let mut bench = Bench::settled(1..=3);
    for evidence in [Evidence::TimedOut, Evidence::ConnectFailed, Evidence::Broke, Evidence::ConnectFailed] {
        bench.tell(1, evidence, 1);
    }
    bench.offers(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.offers(2..=3);
}

#[test]
fn a_check_that_connects_excuses_refused_connections() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.check(1, true, 2);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.offers(1..=3);
}

#[test]
fn what_joins_again_and_is_only_starting_is_not_half_open() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.tell(1, Evidence::Answered, 1);
    bench.step(HealthInput::List(vec![Offer::Remove(address(1))]));
    bench.step(HealthInput::List(vec![put(1)]));
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.pass(2);
    bench.offers(1..=3);
    assert!(bench.half_open.is_empty());
}

#[test]
fn a_trial_that_is_refused_is_out_for_its_connections_and_a_check_ends_it() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    bench.tell(1, Evidence::ConnectFailed, 1);
    assert_eq!(bench.health.out().next(), Some((address(1), Reason::Connections)));
    bench.check(1, true, 2);
    bench.offers(1..=3);
    assert!(bench.half_open.is_empty());
}

#[test]
fn one_good_check_is_enough_for_what_is_new_or_only_starting() {
    let mut bench = Bench::settled(1..=3);
    bench.step(HealthInput::List((4..=5).map(put).collect()));
    bench.check(4, false, 3);
    bench.offers([1, 2, 3, 5]);
    bench.check(4, true, 1);
    bench.offers(1..=5);
    bench.tell(5, Evidence::ConnectFailed, 1);
    bench.check(5, false, 1);
    bench.pass(60);
    bench.offers(1..=4);
    bench.check(5, true, 1);
    bench.offers(1..=5);
    assert!(!bench.health.is_waiting(), "starting is nothing to remember");
}

#[test]
fn what_is_told_again_is_not_new_again() {
    let mut bench = Bench::settled(1..=3);
    bench.step(HealthInput::List(vec![put(1)]));
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.offers(1..=3);
}

#[test]
fn what_is_forgotten_is_offered_as_if_nothing_had_been() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.step(HealthInput::Forget(address(1)));
    bench.offers(1..=3);
    assert!(!bench.health.is_waiting());
    assert_eq!(bench.told.last(), Some(&(1, HealthState::Healthy)));
}

#[test]
fn checks_that_are_broken_cannot_empty_a_list() {
    let mut bench = Bench::settled(1..=20);
    (1..=18).for_each(|port| bench.check(port, false, 3));
    bench.offers(19..=20);
    bench.check(19, false, 3);
    bench.offers(1..=20);
    assert!(bench.health.is_panic());
    bench.check(19, true, 2);
    bench.offers(19..=20);
}

#[test]
fn many_that_are_only_starting_beside_a_few_that_are_well_are_no_panic() {
    let mut bench = Bench::settled(1..=2);
    bench.step(HealthInput::List((3..=100).map(put).collect()));
    (3..=100).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    bench.offers(1..=2);
    (3..=100).for_each(|port| bench.check(port, false, 5));
    bench.pass(60);
    bench.offers(1..=2);
    bench.check(7, true, 2);
    bench.offers([1, 2, 7]);
}

#[test]
fn those_that_joined_together_are_asked_first_when_some_refuse_and_none_has_answered() {
    let mut bench = Bench::settled(1..=2);
    bench.step(HealthInput::List((3..=100).map(put).collect()));
    (3..=4).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 5));
    bench.step(HealthInput::Doubt(address(4)));
    bench.offers((1..=2).chain(5..=100));
    bench.tell(5, Evidence::ConnectFailed, 1);
    assert_eq!(bench.companions(5), Some((6..=100).collect()));
    bench.step(HealthInput::Doubt(address(5)));
    bench.offers(1..=2);
    assert!(bench.told.contains(&(100, HealthState::Unhealthy)));
    assert_eq!(bench.companions(5), None, "nobody is left to doubt");
    bench.check(7, true, 1);
    for port in [3, 4, 5, 8] {
        bench.check(port, false, 1);
    }
    bench.pass(9);
    bench.offers([1, 2, 7]);
    bench.pass(1);
    bench.offers([1, 2].into_iter().chain(6..=7).chain(9..=100));
}

#[test]
fn those_that_are_all_there_is_get_requests_before_they_are_asked() {
    let mut bench = Bench::new();
    bench.step(HealthInput::List((1..=9).map(put).collect()));
    (1..=3).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    bench.step(HealthInput::Doubt(address(3)));
    bench.offers(4..=9);
    bench.tell(4, Evidence::ConnectFailed, 1);
    bench.check(5, false, 1);
    bench.offers(6..=9);
    assert!(!bench.health.is_panic());
    bench.check(6, true, 1);
    bench.offers([6]);
    bench.tell(6, Evidence::TimedOut, 5);
    bench.check(6, false, 3);
    bench.offers(7..=9);
    (7..=9).for_each(|port| bench.check(port, false, 1));
    bench.offers(1..=9);
}

#[test]
fn only_what_is_new_and_joined_together_is_doubted_and_not_too_much() {
    let mut bench = Bench::settled(1..=9);
    (1..=3).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    assert_eq!(bench.companions(1), None, "not new");
    bench.step(HealthInput::List((10..=13).map(put).collect()));
    bench.now += Duration::from_millis(1);
    bench.step(HealthInput::List((20..=1_023).map(put).collect()));
    (10..=12).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    (20..=22).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    assert_eq!(bench.companions(10), Some([13].into()), "others joined later");
    assert_eq!(bench.companions(20), None, "1001 are too many");
    bench.step(HealthInput::List(vec![Offer::Remove(address(1_000))]));
    assert_eq!(bench.companions(20).map(|others| others.len()), Some(1_000));
    (10..=12).for_each(|port| bench.check(port, false, 1));
    bench.pass(10);
    bench.offers((1..=9).chain([13]).chain(20..=999).chain(1_001..=1_023));
    assert_eq!(bench.companions(10), None, "not new any more");
}

#[test]
fn doubt_is_no_reason_for_doubt() {
    let mut bench = Bench::settled(1..=2);
    bench.step(HealthInput::List((3..=10).map(put).collect()));
    (3..=5).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    bench.step(HealthInput::Doubt(address(3)));
    (3..=6).for_each(|port| bench.check(port, true, 1));
    bench.offers(1..=6);
    assert_eq!(bench.companions(3), None);
}

#[test]
fn the_only_endpoint_is_never_taken_out() {
    let mut bench = Bench::settled([1]);
    bench.tell(1, Evidence::ConnectFailed, 100);
    bench.check(1, false, 100);
    bench.offers([1]);
}

#[test]
fn silence_for_long_is_told_each_time_it_is_seen() {
    let mut bench = Bench::settled(1..=3);
    bench.check(1, false, 3);
    bench.pass(59);
    bench.check(1, false, 1);
    assert_eq!(bench.told, [(1, HealthState::Unhealthy)]);
    bench.pass(1);
    bench.told.clear();
    bench.check(1, false, 2);
    assert_eq!(bench.told, [(1, HealthState::Gone); 2]);
    bench.check(1, true, 2);
    assert_eq!(bench.told.last(), Some(&(1, HealthState::Healthy)));
}

#[test]
fn an_endpoint_that_answers_with_errors_is_not_gone() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::GatewayError, 5);
    bench.pass(100);
    bench.tell(1, Evidence::GatewayError, 5);
    assert!(!bench.told.contains(&(1, HealthState::Gone)));
}

#[test]
fn one_failure_long_ago_is_not_a_long_silence() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    bench.tell(1, Evidence::Answered, 1);
    bench.pass(100);
    bench.tell(1, Evidence::ConnectFailed, 2);
    assert_eq!(bench.told, [(1, HealthState::Unhealthy)]);
}

#[test]
fn requests_tell_of_a_silence_and_an_answer_ends_it() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.now += Duration::from_secs(60);
    bench.tell(1, Evidence::TimedOut, 1);
    assert_eq!(bench.told, [(1, HealthState::Unhealthy), (1, HealthState::Gone)]);
    bench.tell(1, Evidence::Answered, 1);
    bench.now += Duration::from_secs(100);
    bench.told.clear();
    bench.tell(1, Evidence::TimedOut, 5);
    assert_eq!(bench.told, [(1, HealthState::Unhealthy)]);
}

#[test]
fn the_first_failure_after_a_long_quiet_is_no_long_silence() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.pass(10);
    bench.now += Duration::from_secs(50);
    bench.tell(1, Evidence::TimedOut, 1);
    assert_eq!(bench.told.last(), Some(&(1, HealthState::Unhealthy)));
    bench.tell(1, Evidence::TimedOut, 1);
    assert_eq!(bench.told.last(), Some(&(1, HealthState::Gone)));
}

#[test]
fn nothing_is_remembered_of_endpoints_that_behave() {
    let mut bench = Bench::settled(1..=3);
    bench.tell(1, Evidence::ConnectFailed, 1);
    assert!(bench.health.is_waiting());
    bench.tell(1, Evidence::Answered, 1);
    assert!(!bench.health.is_waiting());
    bench.tell(1, Evidence::ConnectFailed, 2);
    bench.tell(1, Evidence::Answered, 1);
    bench.pass(300);
    assert!(!bench.health.is_waiting());
}

#[test]
fn what_is_unwell_gets_nothing_until_its_registry_says_otherwise() {
    let mut bench = Bench::settled(1..=4);
    bench.told.clear();
    bench.step(HealthInput::List(vec![put_as(3, State::Unwell, 0)]));
    bench.offers([1, 2, 4]);
    assert_eq!(bench.health.out().collect::<Vec<_>>(), [(address(3), Reason::Unwell)]);
    assert_eq!(bench.told, [(3, HealthState::Unhealthy)]);
    // That a check passes or time does is no word of the registry.
    bench.check(3, true, 5);
    bench.pass(3_600);
    bench.offers([1, 2, 4]);
    bench.step(HealthInput::List(vec![put(3)]));
    bench.offers(1..=4);
    assert_eq!(bench.told.last(), Some(&(3, HealthState::Healthy)));
}

#[test]
fn a_registry_takes_out_no_more_than_failing_requests_may() {
    let unwell = |ports: std::ops::RangeInclusive<u16>| {
        let mut bench = Bench::settled(1..=10);
        bench.step(HealthInput::List(ports.map(|port| put_as(port, State::Unwell, 0)).collect()));
        bench
    };
    unwell(1..=5).offers(6..=10);
    unwell(1..=7).offers(6..=10);
    // It finds hardly anybody well, and is likelier to be wrong.
    unwell(1..=10).offers(1..=10);
    let mut alone = Bench::settled([1]);
    alone.step(HealthInput::List(vec![put_as(1, State::Unwell, 0)]));
    alone.offers([1]);
    // Those that it may not take out may be taken out by requests, like any others.
    let mut bench = unwell(1..=7);
    bench.tell(7, Evidence::TimedOut, 5);
    bench.offers([6, 8, 9, 10]);
}

#[test]
fn what_failed_and_is_unwell_is_unhealthy_until_both_are_over() {
    let mut bench = Bench::settled(1..=4);
    bench.tell(1, Evidence::TimedOut, 5);
    bench.step(HealthInput::List(vec![put_as(1, State::Unwell, 0)]));
    assert_eq!(bench.health.out().collect::<Vec<_>>(), [(address(1), Reason::Failures)]);
    bench.told.clear();
    bench.tell(1, Evidence::Answered, 1);
    assert_eq!(bench.told, []);
    assert_eq!(bench.health.out().collect::<Vec<_>>(), [(address(1), Reason::Unwell)]);
    bench.step(HealthInput::List(vec![Offer::Remove(address(1))]));
    assert_eq!(bench.told, [(1, HealthState::Healthy)]);
}

#[test]
fn what_drains_gets_requests_only_where_nothing_ready_answers() {
    let mut bench = Bench::settled(1..=4);
    bench.step(HealthInput::List(vec![put_as(1, State::Draining, 0), put_as(2, State::Draining, 0)]));
    bench.offers([3, 4]);
    assert_eq!(bench.health.standby().count(), 2);
    bench.check(3, false, 3);
    bench.offers([4]);
    bench.check(4, false, 3);
    bench.offers([1, 2]);
    assert_eq!(bench.health.standby().count(), 0);
    bench.check(4, true, 2);
    bench.offers([4]);
    // All are about to go, and nobody has come yet.
    bench.step(HealthInput::List((3..=4).map(|port| put_as(port, State::Draining, 0)).collect()));
    bench.offers([1, 2, 4]);
    bench.step(HealthInput::List(vec![put(5)]));
    bench.offers([5]);
}

#[test]
fn those_of_a_lower_priority_wait_for_the_last_of_those_before_them() {
    let mut bench = Bench::settled(1..=2);
    bench.policy.priority_threshold = 0.0;
    let standby = [put_as(3, State::Ready, 1), put_as(4, State::Ready, 7), put_as(5, State::Draining, 0)];
    bench.step(HealthInput::List(standby.to_vec()));
    bench.pass(3_600);
    bench.offers([1, 2]);
    for (failing, offered) in [(1, vec![2]), (2, vec![3]), (3, vec![4]), (4, vec![5])] {
        bench.check(failing, false, 3);
        bench.offers(offered);
    }
    // Nobody is well: likelier the checks are broken.
    bench.check(5, false, 3);
    bench.offers(1..=5);
    assert!(bench.health.is_panic());
    bench.check(2, true, 2);
    bench.offers([2]);
}

#[test]
fn a_panic_is_one_of_those_that_get_requests() {
    let mut bench = Bench::settled(1..=20);
    bench.step(HealthInput::List((21..=40).map(|port| put_as(port, State::Ready, 1)).collect()));
    bench.pass(3_600);
    bench.policy.priority_threshold = 0.0;
    (1..=18).for_each(|port| bench.check(port, false, 3));
    bench.offers([19, 20]);
    bench.check(19, false, 3);
    bench.offers(1..=20);
    // Where others step in there is no need for one.
    bench.policy.priority_threshold = 0.7;
    bench.step(HealthInput::Tick);
    bench.offers(20..=40);
    assert!(!bench.health.is_panic());
}

#[test]
fn the_next_priority_steps_in_when_too_few_of_the_first_are_well() {
    let mut bench = Bench::settled(1..=10);
    bench.step(HealthInput::List((11..=12).map(|port| put_as(port, State::Ready, 1)).collect()));
    bench.step(HealthInput::List(vec![put_as(13, State::Ready, 2), put_as(14, State::Draining, 0)]));
    bench.pass(3_600);
    (1..=3).for_each(|port| bench.check(port, false, 3));
    bench.offers(4..=10);
    bench.check(4, false, 3);
    bench.offers(5..=12);
    assert_eq!(bench.health.standby().count(), 2);
    bench.check(11, false, 3);
    bench.check(12, false, 3);
    bench.offers((5..=10).chain([13]));
    bench.check(4, true, 2);
    bench.offers(4..=10);
}

#[test]
fn those_that_are_only_starting_are_no_reason_for_others_to_step_in() {
    let mut bench = Bench::settled(1..=4);
    bench.step(HealthInput::List(vec![put_as(9, State::Ready, 1)]));
    bench.step(HealthInput::List((5..=8).map(put).collect()));
    (5..=8).for_each(|port| bench.tell(port, Evidence::ConnectFailed, 1));
    bench.offers(1..=4);
    // Then they should have come.
    (5..=8).for_each(|port| bench.check(port, false, 1));
    bench.pass(10);
    bench.offers((1..=4).chain([9]));
}

fn input() -> impl Strategy<Value = HealthInput> {
    let port = || 0u16..6;
    let evidence = prop_oneof![
        Just(Evidence::Answered),
        Just(Evidence::ConnectFailed),
        Just(Evidence::TimedOut),
        Just(Evidence::GatewayError),
    ];
    let remove = |port| HealthInput::List(vec![Offer::Remove(address(port))]);
    prop_oneof![
        2 => port().prop_map(|port| HealthInput::List(vec![put(port)])),
        2 => (port(), 0..3usize, 0..2u32).prop_map(|(port, state, priority)| {
            HealthInput::List(vec![put_as(port, State::ALL[state], priority)])
        }),
        1 => port().prop_map(remove),
        8 => (port(), evidence).prop_map(|(port, evidence)| HealthInput::Evidence(address(port), evidence)),
        4 => (port(), any::<bool>()).prop_map(|(port, passed)| HealthInput::Checked(address(port), passed)),
        1 => port().prop_map(|port| HealthInput::Forget(address(port))),
        2 => port().prop_map(|port| HealthInput::Doubt(address(port))),
        2 => Just(HealthInput::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever is told of whichever endpoint: a list that is not empty is never offered empty, nothing outside of
    /// it is offered, and what behaves is always offered, unless others come before it.
    #[test]
    fn no_evidence_empties_a_list(
        steps in prop::collection::vec((input(), prop_oneof![2 => Just(0), 1 => 0u64..30]), 1..80),
        threshold in 0.0..=1.0,
    ) {
        let mut bench = Bench::new();
        bench.policy.priority_threshold = threshold;
        for (input, seconds) in steps {
            bench.now += Duration::from_secs(seconds);
            bench.step(input);
            let list: BTreeSet<u16> = bench.health.list().map(|endpoint| endpoint.address.port()).collect();
            let out: BTreeSet<u16> = bench.health.out().map(|(address, _)| address.port()).collect();
            prop_assert_eq!(bench.offered.is_empty(), list.is_empty());
            prop_assert!(bench.offered.is_subset(&list));
            let facts = |port: u16| &bench.health.get(address(port)).unwrap().facts;
            let unwell = list.iter().copied().filter(|port| facts(*port).state == State::Unwell);
            let unwell: Vec<u16> = unwell.collect();
            let ready = list.len() - unwell.len();
            let believed = if ready == 0 || (ready as f64) < 0.1 * list.len() as f64 { 0 } else { list.len() / 2 };
            for (number, port) in unwell.into_iter().enumerate() {
                let known = bench.health.reason(address(port)).is_some();
                prop_assert_eq!(out.contains(&port), known || number < believed);
            }
            let is_starting = |port: &u16| {
                bench.health.conditions.get(&address(*port)).is_some_and(Condition::is_starting)
            };
            let ranks: BTreeSet<Rank> = list.difference(&out).map(|port| facts(*port).rank()).collect();
            let (mut first, mut carried) = (Vec::<Rank>::new(), 0.0);
            for rank in ranks {
                if carried > 1.0 - 1e-9 || first.first().is_some_and(|first| first.draining != rank.draining) {
                    break;
                }
                first.push(rank);
                let members: Vec<_> = list.iter().filter(|port| facts(**port).rank() == rank).collect();
                let well = members.iter().filter(|port| !out.contains(port)).count();
                let new = |port: &u16| bench.health.is_new(address(*port), &bench.policy, bench.now);
                let started = members.iter().filter(|port| !(is_starting(port) && new(port))).count();
                carried += well as f64 / (started as f64 * threshold);
            }
            let group = |port: &u16| first.is_empty() || first.contains(&facts(*port).rank());
            let list: BTreeSet<u16> = list.into_iter().filter(group).collect();
            let well = list.difference(&out).count();
            let started = list.iter().filter(|port| !is_starting(port)).count();
            let doubted = list.iter().copied().filter(|port| {
                bench.health.conditions.get(&address(*port)).is_some_and(Condition::is_doubted)
            });
            let doubted: BTreeSet<u16> = doubted.collect();
            let expected = match well == 0 || (well as f64) < 0.1 * started as f64 {
                true if well == 0 && !doubted.is_empty() => doubted,
                true => list.clone(),
                false => list.difference(&out).copied().collect(),
            };
            prop_assert_eq!(&bench.offered, &expected);
            // One that is half-open is decided by the next thing that a request tells of it, so it cannot be stuck.
            for port in bench.half_open.iter().copied() {
                for evidence in [Evidence::Answered, Evidence::TimedOut] {
                    let told = HealthInput::Evidence(address(port), evidence);
                    let judged = bench.health.clone().step(told, &bench.policy, bench.now);
                    prop_assert!(judged.half_open.contains(&(address(port), false)));
                }
                prop_assert_eq!(bench.health.reason(address(port)), None);
            }
        }
    }

    /// Whatever happened before: an endpoint that answers from now on is soon offered for good.
    #[test]
    fn what_answers_comes_back(steps in prop::collection::vec((input(), 0u64..30), 1..80)) {
        let mut bench = Bench::settled(0..6);
        for (input, seconds) in steps {
            bench.now += Duration::from_secs(seconds);
            bench.step(input);
        }
        bench.step(HealthInput::List((0..6).map(put).collect()));
        for _ in 0..3 {
            bench.now += Duration::from_secs(301);
            (0..6).for_each(|port| bench.check(port, true, 2));
            bench.step(HealthInput::Tick);
        }
        bench.offers(0..6);
    }
}
