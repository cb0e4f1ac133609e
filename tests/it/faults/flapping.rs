//! A service that comes and goes ten times a second.

use std::time::{Duration, Instant};

use crate::support::{
    etcd::Etcd,
    service::{self, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_flaps_costs_no_request() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        for (number, backend) in service.backends.iter().enumerate() {
            let id = format!("b{number}");
            service::withdraw(&mut client, &id).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            service::register(&mut client, &id, backend.address).await;
        }
        for number in 0..2 {
            service::withdraw(&mut client, &format!("b{number}")).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        for (number, backend) in service.backends.iter().enumerate() {
            service::register(&mut client, &format!("b{number}"), backend.address).await;
        }
    }
    service.traffic.stop().await.none_failed();
    let history = service.gateway.api("/api/v1/upstreams/orders").await["history"].clone();
    assert!(history.as_array().unwrap().len() <= 50);
}
