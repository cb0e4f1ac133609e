//! What the network between gateway and etcd may do.

use std::time::{Duration, Instant};

use crate::{
    report::Outcome,
    support::{
        cluster::Cluster,
        network::{Disturbance, Network},
        service::{self, Service},
    },
};

/// The port that gateways use; the test's own is another.
const PORT: u16 = 2379;

async fn start() -> (Network, Cluster, Service) {
    let network = Network::new();
    let etcd = Cluster::inside(&network).await;
    let service = Service::start(etcd.client().await, &etcd.toml()).await;
    (network, etcd, service)
}

/// The list is kept as long as the disturbance lasts, and right when it is over.
async fn survives(disturbance: Disturbance, lasts: Duration) -> Outcome {
    let (network, etcd, mut service) = start().await;
    network.disturb(PORT, disturbance);
    let since = Instant::now();
    service.becomes("frozen").await;
    // What changes meanwhile is not heard of.
    service::withdraw(&mut etcd.client().await, "b0").await;
    tokio::time::sleep(lasts.saturating_sub(since.elapsed())).await;
    network.heal();
    let right = service.reaches_a_new_one(etcd.client()).await;
    service::endpoints(&service.gateway, 2).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn loss() -> Outcome {
    let (network, etcd, mut service) = start().await;
    network.disturb(PORT, Disturbance::Loss(20));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // It has to be found however bad the network is.
    let right = service.reaches_a_new_one(etcd.client()).await;
    service::withdraw(&mut etcd.client().await, "b0").await;
    service::endpoints(&service.gateway, 2).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn reset() -> Outcome {
    survives(Disturbance::Reset, Duration::from_secs(10)).await
}

pub async fn deaf() -> Outcome {
    survives(Disturbance::DeafPort, Duration::from_secs(10)).await
}

pub async fn mute() -> Outcome {
    survives(Disturbance::MutePort, Duration::from_secs(10)).await
}

pub async fn cut() -> Outcome {
    survives(Disturbance::Cut, Duration::from_secs(30)).await
}
