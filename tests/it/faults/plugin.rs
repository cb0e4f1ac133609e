//! The registry's plugin breaks, and is exchanged.

use crate::support::{
    component::with_custom_section,
    etcd::Etcd,
    gateway::until,
    guest::guest,
    service::{self, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_exchanged_in_the_middle_of_an_outage_costs_no_request() {
    let mut etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    etcd.kill9();
    service.becomes("frozen").await;
    let before = service.gateway.plugin("etcd").await["version"].clone();
    service.gateway.drop_plugin("etcd", &with_custom_section(&guest("etcd"), 1));
    until("it is in force", || async { service.gateway.plugin("etcd").await["version"] != before }).await;
    assert_eq!(service::source(&service.gateway).await["origin"], "frozen");
    service.traffic.more(100).await;
    etcd.restart().await;
    service.reaches_a_new_one(etcd.client()).await;
    service.traffic.stop().await.none_failed();
}
