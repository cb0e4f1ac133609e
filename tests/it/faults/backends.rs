//! Backends that fail while their registry says that they are well.

use crate::support::{
    backend::Backend,
    etcd::Etcd,
    service::{self, Service},
};

#[tokio::test(flavor = "multi_thread")]
async fn backends_that_are_gone_but_registered_cost_no_request() {
    let etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    // One that was there goes away, and another that is registered was never there.
    service.backends.remove(1);
    service.traffic.more(200).await;
    let never = Backend::start("never").await.address;
    let mut client = etcd.client().await;
    service::withdraw(&mut client, "b1").await;
    service::register(&mut client, "never", never).await;
    service.traffic.more(200).await;
    service.traffic.stop().await.none_failed();
}
