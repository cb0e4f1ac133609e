//! The network between gateway and etcd. Needs root.

use crate::support::{
    cluster::Cluster,
    network::{Disturbance, Network},
    service::{self, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_etcd_that_get_lost_cost_no_request() {
    let network = Network::new();
    let etcd = Cluster::inside(&network).await;
    let mut service = Service::start(etcd.client().await, &etcd.toml()).await;
    network.disturb(2379, Disturbance::MutePort);
    service.becomes("frozen").await;
    service::withdraw(&mut etcd.client().await, "b0").await;
    service.traffic.more(50).await;
    network.heal();
    service.reaches_a_new_one(etcd.client()).await;
    service::endpoints(&service.gateway, 2).await;
    service.traffic.stop().await.none_failed();
}
