//! Selectors that prefer what is near: on the map, and in the network.

use tokio::task::LocalSet;
use witgate::upstream::Labels;

use super::*;

/// An endpoint with its coordinates, if it says any.
fn at(number: u32, weight: u32, place: Option<(&str, &str)>) -> Offer {
    let Offer::Put(mut endpoint) = put(number, weight) else { unreachable!() };
    if let Some((latitude, longitude)) = place {
        let labels = [("latitude", latitude), ("longitude", longitude)];
        endpoint.facts.labels = Labels::new(labels.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    }
    Offer::Put(endpoint)
}

const BERLIN: Option<(&str, &str)> = Some(("52.52", "13.405"));
const PARIS: Option<(&str, &str)> = Some(("48.8566", "2.3522"));
const TOKYO: Option<(&str, &str)> = Some(("35.6762", "139.6503"));

#[tokio::test]
async fn closest_sends_everything_to_the_nearest_by_weight() {
    let test = async {
        let mut process = Process::start("closest", r#"{"latitude":50.1,"longitude":8.7}"#, &[]).await;
        let list =
            [at(0, 1, None), at(1, 1, TOKYO), at(2, 3, BERLIN), at(3, 1, BERLIN), at(4, 9, Some(("x", "1")))];
        process.publish(list.into()).await;
        let picks = 20_000;
        let counts = process.count(picks);
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [address(2), address(3)]);
        let share = counts[&address(2)] as f64 / picks as f64;
        assert!((share - 0.75).abs() < slack(picks), "{share}");

        // Frankfurt is a little nearer to Berlin than Paris is, and to Paris than to Tokyo.
        process.publish(vec![at(5, 1, PARIS), Offer::Remove(address(2)), Offer::Remove(address(3))]).await;
        assert_eq!(process.pick().address(), address(5));
        process.publish(vec![Offer::Remove(address(5))]).await;
        assert_eq!(process.pick().address(), address(1));
        process.publish(vec![Offer::Remove(address(1))]).await;
        let counts = process.count(1_000);
        assert_eq!(
            counts.keys().copied().collect::<Vec<_>>(),
            [address(0), address(4)],
            "better than nobody"
        );
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn closest_tries_the_next_nearest_after_a_failure() {
    let test = async {
        let mut process = Process::start("closest", r#"{"latitude":50.1,"longitude":8.7}"#, &[]).await;
        process.publish(vec![at(0, 1, None), at(1, 1, TOKYO), at(2, 1, PARIS), at(3, 1, BERLIN)]).await;
        let (head, mut tried) = (head("/", &[]), Vec::new());
        for expected in [3, 2, 1, 0] {
            let picked = process.pick_for(&head, CLIENT, &tried);
            assert_eq!(picked.address(), address(expected));
            tried.push(picked.slot());
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn latency_weighted_prefers_what_takes_connections_soon() {
    let test = async {
        let process = Process::start("latency-weighted", "{}", &[1, 1, 2, 1]).await;
        let now = Instant::now();
        for (number, milliseconds) in [(0, 1), (1, 101), (2, 150), (3, 2_000)] {
            process.member(number).stats().connected(now, Duration::from_millis(milliseconds));
        }
        // Each is looked at once it has been drawn.
        process.count(5_000);
        let picks = 20_000;
        let counts = process.count(picks);
        let weights = [191.0, 100.0, 102.0, 1.0];
        for (number, weight) in (0..).zip(weights) {
            let share = *counts.get(&address(number)).unwrap_or(&0) as f64 / picks as f64;
            let expected = weight / weights.iter().sum::<f64>();
            assert!((share - expected).abs() < slack(picks), "{number}: {share} for {expected}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn latency_weighted_knows_at_once_what_was_measured_before() {
    let test = async {
        let mut process = Process::start("latency-weighted", "{}", &[1, 1]).await;
        let picks = 20_000;
        let share = process.count(picks)[&address(0)] as f64 / picks as f64;
        assert!((share - 0.5).abs() < slack(picks), "nothing is known: {share}");
        let member = process.member(1);
        member.stats().connected(Instant::now(), Duration::from_millis(300));
        process.publish(vec![Offer::Remove(address(1))]).await;
        process.publish(vec![put(1, 1)]).await;
        let counts = process.count(1_000);
        assert!(*counts.get(&address(1)).unwrap_or(&0) < 30, "{counts:?}");
    };
    LocalSet::new().run_until(test).await;
}
