//! Consistent hash: where keys belong, what a change of the list moves, and the bound on load.

use std::collections::HashMap;

use tokio::task::LocalSet;
use witgate::upstream::{InFlight, Offer};

use super::*;

const BY_USER: &str = r#"{"key":"header:x-user","bound":0}"#;
const KEYS: u32 = 5_000;

fn user(number: u32) -> Parts {
    head("/", &[("x-user", &format!("user-{number}"))])
}

/// Where each key belongs.
fn homes(process: &Process) -> Vec<SocketAddr> {
    (0..KEYS).map(|number| process.pick_for(&user(number), CLIENT, &[]).address()).collect()
}

fn share(homes: &[SocketAddr], of: u32) -> f64 {
    homes.iter().filter(|home| **home == address(of)).count() as f64 / homes.len() as f64
}

#[tokio::test]
async fn two_processes_agree_whatever_the_order_of_their_lists() {
    let test = async {
        let weights: Vec<u32> = (0..20).map(|number| 1 + number % 3).collect();
        let one = Process::start("consistent-hash", BY_USER, &weights).await;
        // The other has seen endpoints come and go and weigh something else, and so has other slots.
        let mut other = Process::start("consistent-hash", BY_USER, &[7; 3]).await;
        other.publish((30..40).map(|number| put(number, 5)).collect()).await;
        for number in (0..20).rev() {
            other.publish(vec![put(number, weights[number as usize])]).await;
            other.publish(vec![Offer::Remove(address(30 + number % 10))]).await;
        }
        assert_ne!(one.member(5).slot(), other.member(5).slot());
        assert_eq!(homes(&one), homes(&other));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn workers_of_one_process_agree() {
    let test = async {
        let process = Process::start("consistent-hash", BY_USER, &[1; 20]).await;
        let (view, _) = worker(&process.plugins, &process.selector, &process.reader);
        for (number, home) in (0..).zip(homes(&process)) {
            assert_eq!(pick(&view, &user(number), CLIENT, &[]).unwrap().address(), home);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_key_stays_where_it_is() {
    let test = async {
        // With the default bound, too, as long as nobody is busy.
        for settings in [BY_USER, r#"{"key":"header:x-user"}"#] {
            let process = Process::start("consistent-hash", settings, &[1; 10]).await;
            let before = homes(&process);
            assert_eq!(homes(&process), before);
            for number in 0..10 {
                assert!((0.05..0.2).contains(&share(&before, number)), "{number}");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn only_the_keys_of_an_endpoint_that_leaves_move() {
    let test = async {
        let mut process = Process::start("consistent-hash", BY_USER, &[1; 10]).await;
        let before = homes(&process);
        process.publish(vec![Offer::Remove(address(3))]).await;
        let after = homes(&process);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == address(3), "{before} -> {after}");
        }
        // What was its own is spread over the others, and comes back with it.
        let heirs: Vec<_> = after.iter().zip(&before).filter(|(_, before)| **before == address(3)).collect();
        assert!(tally(heirs.iter().map(|(after, _)| **after)).len() > 5);
        process.publish(vec![put(3, 1)]).await;
        assert_eq!(homes(&process), before);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_endpoint_that_comes_takes_its_share_and_nothing_else_moves() {
    let test = async {
        let mut process = Process::start("consistent-hash", BY_USER, &[1; 10]).await;
        let before = homes(&process);
        process.publish(vec![put(10, 1)]).await;
        let after = homes(&process);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == address(10), "{before} -> {after}");
        }
        let moved = share(&after, 10);
        assert!((0.7 / 11.0..1.3 / 11.0).contains(&moved), "{moved}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn keys_are_spread_by_weight() {
    let test = async {
        let weights = [1, 1, 2, 4];
        let process = Process::start("consistent-hash", BY_USER, &weights).await;
        let homes = homes(&process);
        for (number, weight) in (0..).zip(weights) {
            let relative = share(&homes, number) / (f64::from(weight) / 8.0);
            assert!((0.7..1.3).contains(&relative), "{number}: {relative}");
        }
    };
    LocalSet::new().run_until(test).await;
}

/// Requests in flight, on how many endpoints.
struct Load {
    endpoints: u32,
    bound: f64,
    held: Vec<(SocketAddr, InFlight)>,
}

impl Load {
    /// Sends a request, which stays in flight, and checks the bound.
    fn send(&mut self, process: &Process, number: u32) {
        self.hold(&process.pick_for(&user(number), CLIENT, &[]));
    }

    fn hold(&mut self, member: &Member) {
        self.held.push((member.address(), member.begin(Instant::now())));
        let most = (self.bound * self.held.len() as f64 / f64::from(self.endpoints)).ceil();
        let load = member.stats().in_flight();
        assert!(f64::from(load) <= most, "{load} of {} on one of {}", self.held.len(), self.endpoints);
    }
}

#[tokio::test]
async fn no_endpoint_has_more_than_its_bound_in_flight() {
    let test = async {
        for (endpoints, bound) in [(2, 1.25), (10, 1.25), (10, 2.0), (10, 1.0), (100, 1.25)] {
            let settings = format!(r#"{{"key":"header:x-user","bound":{bound}}}"#);
            let process = Process::start("consistent-hash", &settings, &vec![1; endpoints as usize]).await;
            let mut load = Load { endpoints, bound, held: Vec::new() };
            // Everybody, then one key that all the world wants.
            (0..500).for_each(|number| load.send(&process, number));
            (0..500).for_each(|_| load.send(&process, 7));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_hot_key_alone_is_spread_within_the_bound() {
    let test = async {
        for endpoints in [3, 10, 50, 200] {
            let settings = r#"{"key":"header:x-user"}"#;
            let process = Process::start("consistent-hash", settings, &vec![1; endpoints as usize]).await;
            let mut load = Load { endpoints, bound: 1.25, held: Vec::new() };
            (0..1_000).for_each(|_| load.send(&process, 7));
            let home = load.held[0].0;
            // Once they are answered it is at home again.
            load.held.clear();
            assert!((0..100).all(|_| process.pick_for(&user(7), CLIENT, &[]).address() == home));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_bound_counts_what_other_workers_sent() {
    let test = async {
        let settings = r#"{"key":"header:x-user"}"#;
        let process = Process::start("consistent-hash", settings, &[1; 20]).await;
        let (other, _) = worker(&process.plugins, &process.selector, &process.reader);
        let mut load = Load { endpoints: 20, bound: 1.25, held: Vec::new() };
        for number in 0..500 {
            // Half of them want the same.
            let number = if number % 2 == 0 { 7 } else { number };
            load.send(&process, number);
            let member = pick(&other, &user(number), CLIENT, &[]).unwrap();
            load.hold(&member);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn keys_come_from_where_the_settings_say() {
    let test = async {
        let client = |last: u32| IpAddr::from([10, 1, 0, last as u8]);
        // A request whose value is `value` wherever a key may be, and one where all but one place says something else.
        let request = |key: &str, value: u32, rest: u32| {
            let at = |place: &str| if key == place { value } else { rest };
            let (path, query) = (at("path"), at("query:user"));
            let headers = [
                ("x-user", format!("u{}", at("header:x-user"))),
                ("cookie", format!("other={rest}; sid=s{}; last={rest}", at("cookie:sid"))),
                ("host", format!("h{}.test", at("host"))),
            ];
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            (head(&format!("/p{path}?first={rest}&user={query}"), &headers), client(at("client-ip")))
        };
        for key in ["header:x-user", "cookie:sid", "query:user", "path", "host", "client-ip"] {
            let settings = format!(r#"{{"key":"{key}","bound":0}}"#);
            let process = Process::start("consistent-hash", &settings, &[1; 10]).await;
            let pick = |(head, client): (Parts, IpAddr)| process.pick_for(&head, client, &[]).address();
            let homes: Vec<_> = (0..100).map(|value| pick(request(key, value, 0))).collect();
            assert_eq!(tally(homes.iter()).len(), 10, "{key}: different values, different endpoints");
            for (value, home) in (0..).zip(&homes) {
                assert_eq!(pick(request(key, value, 77)), *home, "{key}: nothing else counts");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_request_without_the_key_goes_anywhere() {
    let test = async {
        let process = Process::start("consistent-hash", BY_USER, &[1; 10]).await;
        let counts: HashMap<_, _> = process.count(5_000).into_iter().collect();
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|count| (200..1_000).contains(count)), "{counts:?}");
    };
    LocalSet::new().run_until(test).await;
}
