//! The gateway itself is killed, and there is nobody to ask what it knew.

use crate::support::{
    backend::Backend,
    etcd::Etcd,
    gateway::until,
    service::{self, CLIENTS, Service},
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_while_etcd_is_down_serves_from_its_first_request() {
    let mut etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let Service { gateway, mut backends, traffic } = service;
    until("the list is on disk", || async { gateway.folder().join("state/lists/orders.json").exists() })
        .await;
    let before = traffic.stop().await;
    etcd.kill9();
    // One of the two goes away as well, and the file does not know that.
    backends.remove(1);

    let gateway = gateway.restart().await;
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    traffic.more(200).await;
    assert_eq!(service::source(&gateway).await["origin"], "restored");

    etcd.restart().await;
    let mut client = etcd.client().await;
    let new = Backend::start("new").await;
    service::withdraw(&mut client, "b1").await;
    service::register(&mut client, "new", new.address).await;
    traffic.reaches("new", std::time::Instant::now()).await;
    (before + traffic.stop().await).none_failed();
}
