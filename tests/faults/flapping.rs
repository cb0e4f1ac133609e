//! A service that comes and goes.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        etcd::Etcd,
        gateway::Gateway,
        service::{self, CLIENTS, Service},
        traffic::Traffic,
    },
};

const THIRD: Duration = Duration::from_secs(20);

/// Resident bytes that a change of the list may leave behind, beyond what the control takes more in the same time. A
/// change that leaks the list of a hundred endpoints leaves more.
const LEFT_BEHIND: f64 = 8_192.0;

/// What it flaps for longer while growth could be noise: a step of some megabytes that is not taken again.
const MORE_THIRDS: usize = 6;

/// How much dearer a request may be after it than before.
const GROWTH: f64 = 1.05;

/// The cost of a request is measured in slices, so many at least and at most.
const SLICE: Duration = Duration::from_secs(2);
const FEWEST: usize = 5;
const MOST: usize = 30;

/// A gateway whose service never changes, with clients of its own. What the machine does meanwhile happens to both.
struct Control {
    gateway: Gateway,
    traffic: Traffic,
}

impl Control {
    async fn start(etcd: &Etcd, service: &Service) -> Self {
        let mut client = etcd.client().await;
        for (number, backend) in service.backends.iter().enumerate() {
            let key = format!("/quiet/orders/b{number}");
            client.put(key, backend.address.to_string(), None).await.unwrap();
        }
        let config = service::config(&etcd.toml(None), "").replace("/services/", "/quiet/");
        let gateway = Gateway::start(&config);
        service::endpoints(&gateway, service.backends.len()).await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        Self { gateway, traffic }
    }
}

pub async fn for_a_minute() -> Outcome {
    let etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let control = Control::start(&etcd, &service).await;
    let mut before = Vec::new();
    for _ in 0..FEWEST {
        before.push(cost(&service, &control).await);
    }
    let mut thirds = Vec::new();
    while thirds.len() < 3 || left_behind(&thirds) > LEFT_BEHIND {
        assert!(
            thirds.len() < 3 + MORE_THIRDS,
            "a change leaves {:.0} bytes behind: {thirds:.0?}",
            left_behind(&thirds)
        );
        thirds.push(flap(&etcd, &service, &control).await);
    }
    // Noise goes away the longer one looks, and what a request costs more than before stays.
    let (before, mut after) = (median(&mut before), Vec::new());
    while after.len() < FEWEST || median(&mut after) > before * GROWTH {
        assert!(
            after.len() < MOST,
            "the cost of a request was {before:.3} of that of the control: {after:.3?}"
        );
        after.push(cost(&service, &control).await);
    }
    eprintln!(
        "flapping: a change left {:.0} bytes behind after {} s, a request took {:.3} of one before",
        left_behind(&thirds),
        thirds.len() * THIRD.as_secs() as usize,
        median(&mut after) / before
    );
    control.traffic.stop().await.none_failed();
    let upstream = service.gateway.api("/api/v1/upstreams/orders").await;
    assert!(upstream["generation"].as_u64() > Some(200), "{upstream}");
    assert!(upstream["history"].as_array().unwrap().len() <= 50, "what is remembered is bounded");
    let right = service.reaches_a_new_one(etcd.client()).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a request costs, while nothing flaps, as a multiple of what it costs the control at the same time.
async fn cost(service: &Service, control: &Control) -> f64 {
    let now = || {
        [(&service.gateway, &service.traffic), (&control.gateway, &control.traffic)]
            .map(|(gateway, traffic)| (cpu(gateway) as f64, traffic.sent() as f64))
    };
    let before = now();
    tokio::time::sleep(SLICE).await;
    let after = now();
    let [cost, of_control] = [0, 1].map(|of| (after[of].0 - before[of].0) / (after[of].1 - before[of].1));
    cost / of_control
}

/// Some time in which the service flaps.
#[derive(Debug)]
struct Third {
    /// The least that was resident at any time, of the gateway and of the control. Buffers of requests under way come and
    /// go, what is left behind stays.
    resident: [f64; 2],
    /// Changes of the list until its end.
    changes: f64,
}

/// What a change has left behind between the second of these and the last.
fn left_behind(thirds: &[Third]) -> f64 {
    // In the first of them what is kept for good is made.
    let [_, first, .., last] = thirds else { return 0.0 };
    let [more, of_control] = [0, 1].map(|of| last.resident[of] - first.resident[of]);
    (more - of_control) / (last.changes - first.changes)
}

/// All instances go and come, in turn and together, each state for 100 ms.
async fn flap(etcd: &Etcd, service: &Service, control: &Control) -> Third {
    let mut client = etcd.client().await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut resident = [f64::INFINITY; 2];
    let start = Instant::now();
    while start.elapsed() < THIRD {
        for together in [false, true] {
            for (number, backend) in service.backends.iter().enumerate() {
                ticks.tick().await;
                if together {
                    for number in 0..service.backends.len() {
                        service::withdraw(&mut client, &format!("b{number}")).await;
                    }
                } else {
                    service::withdraw(&mut client, &format!("b{number}")).await;
                }
                ticks.tick().await;
                service::register(&mut client, &format!("b{number}"), backend.address).await;
            }
        }
        // All are there again.
        service::register(&mut client, "b0", service.backends[0].address).await;
        let now = [&service.gateway, &control.gateway].map(|gateway| gateway.memory() as f64);
        resident = [0, 1].map(|of| resident[of].min(now[of]));
    }
    let upstream = service.gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
    Third { resident, changes: upstream["generation"].as_f64().unwrap() }
}

/// Nanoseconds of computing of all its threads.
fn cpu(gateway: &Gateway) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
    let of_thread = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|computed| computed.parse::<u64>().ok()).unwrap_or_default()
    };
    threads.flatten().map(of_thread).sum()
}
