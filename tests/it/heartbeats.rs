//! What a heartbeat costs does not grow with the number of instances.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::support::{gateway::Gateway, session::Session};

/// Clients that register side by side.
const CLIENTS: usize = 8;

async fn register(admin: SocketAddr, from: usize, to: usize) {
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(async move {
            let mut session = Session::new(admin);
            for number in (from..to).skip(client).step_by(CLIENTS) {
                let answer = put(&mut session, number).await;
                assert_eq!(answer, 201, "instance {number}");
            }
        });
    }
    clients.join_all().await;
}

async fn put(session: &mut Session, number: usize) -> u16 {
    let body = format!(
        r#"{{"address":"10.{}.{}.{}:80","labels":{{"zone":"a"}},"ttl_seconds":3600}}"#,
        number >> 16,
        (number >> 8) & 255,
        number & 255
    );
    session.put(&format!("/api/v1/services/orders/i{number}"), body).await.status.as_u16()
}

/// The time that one of ten heartbeats stays below: the least disturbed by what else this machine does.
async fn heartbeat(admin: SocketAddr, instances: usize) -> Duration {
    let mut session = Session::new(admin);
    let mut times = Vec::new();
    for round in 0..500 {
        let number = round * 7919 % instances;
        let start = Instant::now();
        assert_eq!(put(&mut session, number).await, 200, "instance {number}");
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() / 10]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_costs_the_same_whatever_the_number_of_instances() {
    let gateway = Gateway::start("");
    register(gateway.admin, 0, 1_000).await;
    let few = heartbeat(gateway.admin, 1_000).await;
    register(gateway.admin, 1_000, 20_000).await;
    let many = heartbeat(gateway.admin, 20_000).await;
    println!("a heartbeat takes {few:?} among 1,000 instances and {many:?} among 20,000");
    assert!(many < few * 4, "{few:?} among 1,000 instances, {many:?} among 20,000");
}
