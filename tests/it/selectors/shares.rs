//! Selectors that give each endpoint its share: round robin and random.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::LocalSet;
use witgate::upstream::Offer;

use super::*;

#[tokio::test]
async fn round_robin_gives_each_its_weight_in_every_round() {
    let test = async {
        for weights in [&[1, 1, 1][..], &[5, 1, 1, 3], &[1, 2, 3, 100]] {
            let process = Process::start("round-robin", "{}", weights).await;
            let round: u32 = weights.iter().sum();
            let picks: Vec<_> = (0..round * 3).map(|_| process.pick().address()).collect();
            let expected: BTreeMap<_, _> =
                (0..).map(address).zip(weights.iter().map(|w| *w as usize)).collect();
            for window in picks.windows(round as usize) {
                assert_eq!(tally(window.iter().copied()), expected, "wherever the round begins");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn round_robin_spreads_the_turns_of_a_heavy_endpoint() {
    let test = async {
        let process = Process::start("round-robin", "{}", &[5, 1, 1]).await;
        let picks: Vec<_> = (0..70).map(|_| process.pick().address()).collect();
        let light = picks.iter().enumerate().filter(|(_, picked)| **picked != address(0)).map(|(at, _)| at);
        let gaps: BTreeSet<_> = light.clone().skip(1).zip(light).map(|(later, at)| later - at).collect();
        // Five of seven turns: two or three between those of the others, never five in a row.
        assert_eq!(gaps, BTreeSet::from([3, 4]));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn round_robin_skips_nobody_when_the_list_changes() {
    let test = async {
        let mut process = Process::start("round-robin", "{}", &[1; 10]).await;
        let served: BTreeSet<_> = (0..6).map(|_| process.pick().address()).collect();
        let left = *served.first().unwrap();
        process.publish(vec![Offer::Remove(left)]).await;
        let rest: BTreeSet<_> = (0..4).map(|_| process.pick().address()).collect();
        assert!(rest.len() == 4 && rest.is_disjoint(&served), "{served:?}, then {rest:?}");
        process.publish(vec![put(20, 1)]).await;
        assert_eq!(
            process.count(100),
            (0..21).map(address).filter(|a| member(&process, a)).map(|a| (a, 10)).collect()
        );
    };
    LocalSet::new().run_until(test).await;
}

fn member(process: &Process, address: &std::net::SocketAddr) -> bool {
    process.reader.snapshot().iter().any(|member| member.address() == *address)
}

#[tokio::test]
async fn random_draws_by_weight() {
    let test = async {
        let weights = [1, 2, 3, 10];
        let process = Process::start("random", "{}", &weights).await;
        let draws = 100_000;
        let counts = process.count(draws);
        for (number, weight) in (0..).zip(weights) {
            let share = counts[&address(number)] as f64 / draws as f64;
            assert!((share - f64::from(weight) / 16.0).abs() < slack(draws), "{counts:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn random_draws_depend_on_nothing_before() {
    let test = async {
        let process = Process::start("random", "{}", &[1, 1, 2]).await;
        // Pairs that have no pick in common, so that they are independent if the picks are.
        let pairs = 50_000;
        let twice = (0..pairs).filter(|_| process.pick().address() == process.pick().address()).count();
        let expected = (1.0 + 1.0 + 4.0) / 16.0;
        assert!((twice as f64 / pairs as f64 - expected).abs() < slack(pairs), "{twice} of {pairs}");
    };
    LocalSet::new().run_until(test).await;
}
