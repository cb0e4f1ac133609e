//! etcd goes away and comes back with nothing in it.

use crate::support::{
    etcd::Etcd,
    gateway::until,
    service::{self, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_and_restarted_empty_costs_no_request() {
    let mut etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    etcd.kill9();
    service.becomes("frozen").await;
    etcd.restart_empty().await;
    until("the empty answer is heard", || async {
        service::source(&service.gateway).await["instances"] == 0
    })
    .await;
    service.traffic.more(200).await;
    service.reaches_a_new_one(etcd.client()).await;
    service.traffic.stop().await.none_failed();
}
