//! The main job with the real etcd: services in every layout, found, followed, and kept when etcd goes away.

use std::time::Duration;

use crate::support::{
    backend::Backend,
    etcd::{Etcd, Version},
    gateway::{Gateway, until},
};

/// A route and an upstream per layout.
fn config(etcd: &str) -> String {
    let mut text = String::new();
    for (layout, service, settings) in [
        ("go-zero", "user.rpc", ""),
        ("rpcx", "Arith", r#", base = "/rpcx_test""#),
        ("plain", "orders", r#", prefix = "/services/""#),
        ("json", "billing", r#", prefix = "/json/""#),
    ] {
        text.push_str(&format!(
            r#"
[registry.{layout}]
plugin = "etcd"
etcd = {etcd}
settings = {{ layout = "{layout}"{settings} }}

[upstream.{layout}]
service = "{service}"
registry = "{layout}"
selector = "round-robin"

[[route]]
path = "/{layout}"
upstream = "{layout}"
"#
        ));
    }
    text
}

/// The key and the value of an instance in each layout.
fn instance(layout: &str, address: &str) -> (String, String) {
    match layout {
        "go-zero" => (format!("user.rpc/{}", address.rsplit(':').next().unwrap()), address.into()),
        "rpcx" => (format!("/rpcx_test/Arith/tcp@{address}"), "weight=2&group=a".into()),
        "plain" => (format!("/services/orders/{address}"), address.into()),
        _ => (format!("/json/billing/{address}"), format!(r#"{{"address":"{address}","weight":3}}"#)),
    }
}

async fn instances_come_and_go(etcd: &Etcd) {
    let gateway = Gateway::start(&config(&etcd.toml()));
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    for layout in ["go-zero", "rpcx", "plain", "json"] {
        let path = format!("/{layout}");
        let (first_key, first) = instance(layout, &one.address.to_string());
        let (second_key, second) = instance(layout, &two.address.to_string());
        etcd.put(&first_key, &first).await;
        let took = until("the first gets traffic", || async { gateway.get(&path).await.text() == "one" }).await;
        assert!(took < Duration::from_secs(1), "{layout}: traffic {took:?} after the put");

        etcd.put(&second_key, &second).await;
        until("the second gets traffic", || async { gateway.get(&path).await.text() == "two" }).await;
        // The first leaves while it still serves; from then on not one request fails, and none reaches it.
        etcd.delete(&first_key).await;
        let name = format!("/api/v1/upstreams/{layout}");
        until("the list has one endpoint on every worker", || async {
            let upstream = gateway.api(&name).await;
            let workers = upstream["workers"].as_array().unwrap();
            upstream["endpoints"].as_array().unwrap().len() == 1
                && workers.iter().all(|worker| worker["generation"] == upstream["generation"])
        })
        .await;
        let before = one.requests();
        let mut session = gateway.session();
        for _ in 0..20 {
            assert_eq!(session.get(&path).await.text(), "two", "{layout}");
        }
        assert_eq!(one.requests(), before, "{layout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_in_every_layout_etcd_34() {
    instances_come_and_go(&Etcd::start(Version::V34).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_in_every_layout_etcd_35_with_tls_and_password() {
    instances_come_and_go(&Etcd::start_secured(Version::V35).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_lease_expires_gets_no_traffic() {
    let etcd = Etcd::start(Version::V34).await;
    let gateway = Gateway::start(&config(&etcd.toml()));
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let (key, value) = instance("plain", &one.address.to_string());
    etcd.put_for(&key, &value, 2).await;
    let (key, value) = instance("plain", &two.address.to_string());
    etcd.put(&key, &value).await;
    until("both are there", || async {
        gateway.api("/api/v1/upstreams/plain").await["endpoints"].as_array().unwrap().len() == 2
    })
    .await;
    let mut session = gateway.session();
    until("the first is gone", || {
        let request = session.get("/plain");
        async {
            assert!(request.await.status.is_success(), "no request fails meanwhile");
            gateway.api("/api/v1/upstreams/plain").await["endpoints"].as_array().unwrap().len() == 1
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_changes_nothing_for_clients() {
    let mut etcd = Etcd::start(Version::V34).await;
    let gateway = Gateway::start(&config(&etcd.toml()));
    let one = Backend::start("one").await;
    let (key, value) = instance("plain", &one.address.to_string());
    etcd.put(&key, &value).await;
    until("it gets traffic", || async { gateway.get("/plain").await.text() == "one" }).await;

    etcd.kill9();
    let mut session = gateway.session();
    until("the list is frozen", || {
        let request = session.get("/plain");
        async {
            assert_eq!(request.await.text(), "one");
            gateway.api("/api/v1/upstreams/plain").await["sources"][0]["origin"] == "frozen"
        }
    })
    .await;
    assert_eq!(session.get("/plain").await.text(), "one");

    // A gateway that starts while etcd is down serves the list from disk.
    until("the list is on disk", || async { gateway.folder().join("state/lists/plain.json").exists() }).await;
    let gateway = gateway.restart().await;
    assert_eq!(gateway.get("/plain").await.text(), "one");
    assert_eq!(gateway.api("/api/v1/upstreams/plain").await["sources"][0]["origin"], "restored");

    etcd.restart().await;
    until("the list is live again", || async {
        gateway.api("/api/v1/upstreams/plain").await["sources"][0]["origin"] == "live"
    })
    .await;
    assert_eq!(gateway.get("/plain").await.text(), "one");
}
