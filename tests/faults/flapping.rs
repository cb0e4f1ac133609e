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
        service::{self, Service},
    },
};

const THIRD: Duration = Duration::from_secs(20);

/// How much more the last third may take than the first.
const GROWTH: f64 = 1.05;

/// What a third of the time has cost.
#[derive(Debug)]
struct Cost {
    /// Resident bytes, on average.
    memory: f64,
    /// Ticks of CPU time per request.
    cpu: f64,
}

pub async fn for_a_minute() -> Outcome {
    let etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let mut costs = Vec::new();
    for _ in 0..3 {
        costs.push(flap(&etcd, &service).await);
    }
    let (first, last) = (&costs[0], &costs[2]);
    let cheap = last.memory <= first.memory * GROWTH && last.cpu <= first.cpu * GROWTH;
    assert!(cheap, "{costs:#?}");
    eprintln!(
        "flapping: the last third took {:.3} of the memory and {:.3} of the CPU time of the first",
        last.memory / first.memory,
        last.cpu / first.cpu
    );
    let upstream = service.gateway.api("/api/v1/upstreams/orders").await;
    assert!(upstream["generation"].as_u64() > Some(200), "{upstream}");
    assert!(upstream["history"].as_array().unwrap().len() <= 50, "what is remembered is bounded");
    let right = service.reaches_a_new_one(etcd.client()).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

/// All instances go and come, in turn and together, each state for 100 ms.
async fn flap(etcd: &Etcd, service: &Service) -> Cost {
    let mut client = etcd.client().await;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut memory = Vec::new();
    let (start, sent, cpu) = (Instant::now(), service.traffic.sent(), cpu(&service.gateway));
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
        memory.push(service.gateway.memory() as f64);
    }
    let requests = (service.traffic.sent() - sent) as f64;
    Cost {
        memory: memory.iter().sum::<f64>() / memory.len() as f64,
        cpu: (self::cpu(&service.gateway) - cpu) as f64 / requests,
    }
}

/// Ticks of CPU time that it has taken.
fn cpu(gateway: &Gateway) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    // After the name, which is in brackets and may hold anything: the state, and from the 12th on the times.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
