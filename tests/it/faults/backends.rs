//! Backends that fail while their registry says that they are well.

use crate::support::{
    backend::Backend,
    etcd::Etcd,
    gateway::Gateway,
    origin::{Origin, Reply},
    service::{self, CLIENTS, Service},
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_are_gone_but_registered_cost_no_request() {
    let etcd = Etcd::start().await;
    let Service { gateway, mut backends, traffic } =
        Service::start(etcd.client().await, &etcd.toml(None)).await;
    traffic.stop().await.none_failed();
    // A backend that ends may have got a POST, which is not sent again then, and breaks off long answers.
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    // One that was there goes away, and another that is registered was never there.
    backends.remove(1);
    traffic.more(200).await;
    let never = Backend::start("never").await.address;
    let mut client = etcd.client().await;
    service::withdraw(&mut client, "b1").await;
    service::register(&mut client, "never", never).await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_costs_a_few_requests_and_no_more() {
    let etcd = Etcd::start().await;
    let (well, hangs) = (Backend::start("well").await, Origin::replying(|_| Reply::Hang).await);
    let mut client = etcd.client().await;
    service::register(&mut client, "well", well.address).await;
    service::register(&mut client, "hangs", hangs.address).await;
    let gateway = Gateway::start(&service::config(&etcd.toml(None), "timeouts = { response_ms = 200 }"));
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    traffic.more(1_000).await;
    // Five failures in a row take it out, and each other client may have a request under way to it then.
    traffic.stop().await.at_most_failed(5 + CLIENTS as u64 - 1);
    assert!(!hangs.seen().is_empty() || hangs.connections() > 0);
}
