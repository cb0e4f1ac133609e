//! What a heartbeat costs does not grow with the number of instances.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{gateway::Gateway, session::Session};

/// Clients that register side by side.
const CLIENTS: usize = 8;

async fn register(admin: SocketAddr, service: &'static str, instances: usize) {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(async move {
            let mut session = Session::new(admin);
            for number in (0..instances).skip(client).step_by(CLIENTS) {
                let answer = put(&mut session, service, number).await;
                assert_eq!(answer, 201, "instance {number}");
            }
        });
    }
    clients.join_all().await;
}

async fn put(session: &mut Session, service: &str, number: usize) -> u16 {
    let (high, middle, low) = (number >> 16, (number >> 8) & 255, number & 255);
    let body =
        format!(r#"{{"address":"10.{high}.{middle}.{low}:80","labels":{{"zone":"a"}},"ttl_seconds":3600}}"#);
    session.put(&format!("/api/v1/services/{service}/i{number}"), body).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_costs_the_same_whatever_the_number_of_instances() {
    let gateway = Gateway::start("");
    let services = [("few", 1_000), ("many", 20_000)];
    for (service, instances) in services {
        register(gateway.admin, service, instances).await;
    }
    // In turns, so that whatever else this machine does disturbs both.
    let mut session = gateway.session_to_admin();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..500 {
        for ((service, instances), times) in services.into_iter().zip(&mut times) {
            let start = Instant::now();
            assert_eq!(put(&mut session, service, round * 7919 % instances).await, 200);
            times.push(start.elapsed());
        }
    }
    // The time that one of ten stays below: the least disturbed.
    let [few, many]: [Duration; 2] = times.map(|mut times| {
        times.sort();
        times[times.len() / 10]
    });
    println!("a heartbeat takes {few:?} among 1,000 instances and {many:?} among 20,000");
    assert!(many < few * 4, "{few:?} among 1,000 instances, {many:?} among 20,000");
}
