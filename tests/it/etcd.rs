//! The main job with the real etcd: services in every layout, found, followed, and kept when etcd goes away.

use std::time::Duration;

use etcd_client::PutOptions;

use crate::support::{
    backend::Backend,
    etcd::{Etcd, Version},
    gateway::{Gateway, PATIENCE, until},
};

/// From a put to the first request that goes there.
const SOON: Duration = Duration::from_secs(1);

async fn put(etcd: &Etcd, key: &str, value: &str) {
    etcd.client().await.put(key, value, None).await.unwrap();
}

/// Writes a key that is gone after `seconds`, as one whose service does not renew it.
async fn put_for(etcd: &Etcd, key: &str, value: &str, seconds: i64) {
    let mut client = etcd.client().await;
    let lease = client.lease_grant(seconds, None).await.unwrap().id();
    client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
}

async fn delete(etcd: &Etcd, key: &str) {
    etcd.client().await.delete(key, None).await.unwrap();
}

/// How many endpoints an upstream has, if every worker has caught up with that.
async fn endpoints(gateway: &Gateway, upstream: &str) -> Option<usize> {
    let upstream = gateway.api(&format!("/api/v1/upstreams/{upstream}")).await;
    let workers = upstream["workers"].as_array()?;
    let caught_up = workers.iter().all(|worker| worker["generation"] == upstream["generation"]);
    caught_up.then(|| upstream["endpoint_count"].as_u64())?.map(|count| count as usize)
}

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

async fn instances_come_and_go(etcd: &Etcd, table: &str) {
    let mut gateway = Gateway::start(&config(table));
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    for layout in ["go-zero", "rpcx", "plain", "json"] {
        let path = format!("/{layout}");
        let (first_key, first) = instance(layout, &one.address.to_string());
        let (second_key, second) = instance(layout, &two.address.to_string());
        let mut tries = Vec::new();
        loop {
            put(etcd, &first_key, &first).await;
            let served = || async { gateway.get(&path).await.text() == "one" };
            tries.push(until("the first gets traffic", served).await);
            if tries.last() < Some(&SOON) {
                break;
            }
            // What else the machine does can only make it later. Another gateway has never heard of it.
            assert!(tries.len() < 10, "{layout}: traffic so long after the put: {tries:?}");
            delete(etcd, &first_key).await;
            gateway = Gateway::start(&config(table));
        }

        put(etcd, &second_key, &second).await;
        until("the second gets traffic", || async { gateway.get(&path).await.text() == "two" }).await;
        // The first leaves while it still serves; from then on not one request fails, and none reaches it.
        delete(etcd, &first_key).await;
        until("the list has one endpoint", || async { endpoints(&gateway, layout).await == Some(1) }).await;
        let before = one.requests();
        let mut session = gateway.session();
        for _ in 0..20 {
            assert_eq!(session.get(&path).await.text(), "two", "{layout}");
        }
        assert_eq!(one.requests(), before, "{layout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_in_every_layout() {
    let etcd = Etcd::start_version(Version::V34).await;
    instances_come_and_go(&etcd, &etcd.toml(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_and_go_with_tls_and_a_password() {
    let mut etcd = Etcd::start_version_with_tls(Version::V35).await;
    // One prefix for all layouts: everything.
    etcd.lock("gateway", "secret", "").await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("etcd.pass");
    std::fs::write(&password, "secret\n").unwrap();
    instances_come_and_go(&etcd, &etcd.toml(Some(("gateway", &password)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_lease_expires_while_it_serves_gets_no_traffic() {
    let etcd = Etcd::start_version(Version::V35).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let (key, value) = instance("plain", &two.address.to_string());
    put(&etcd, &key, &value).await;
    until("one is there", || async { endpoints(&gateway, "plain").await == Some(1) }).await;
    let (key, value) = instance("plain", &one.address.to_string());
    put_for(&etcd, &key, &value, 10).await;
    until("both are there", || async { endpoints(&gateway, "plain").await == Some(2) }).await;
    let mut session = gateway.session();
    let start = std::time::Instant::now();
    while endpoints(&gateway, "plain").await != Some(1) {
        let answer = session.get("/plain").await;
        assert!(answer.status.is_success(), "no request fails meanwhile: {}", answer.text());
        assert!(start.elapsed() < PATIENCE);
    }
    let before = one.requests();
    for _ in 0..20 {
        assert_eq!(session.get("/plain").await.text(), "two");
    }
    assert_eq!(one.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_killed_changes_nothing_for_clients() {
    let mut etcd = Etcd::start_version(Version::V34).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let one = Backend::start("one").await;
    let (key, value) = instance("plain", &one.address.to_string());
    put(&etcd, &key, &value).await;
    until("it gets traffic", || async { gateway.get("/plain").await.text() == "one" }).await;

    etcd.kill9();
    let mut session = gateway.session();
    let start = std::time::Instant::now();
    while origin(&gateway).await != "frozen" {
        assert_eq!(session.get("/plain").await.text(), "one");
        assert!(start.elapsed() < PATIENCE);
    }
    assert_eq!(session.get("/plain").await.text(), "one");

    // A gateway that starts while etcd is down serves the list from disk.
    until("the list is on disk", || async { gateway.folder().join("state/lists/plain.json").exists() }).await;
    let gateway = gateway.restart().await;
    assert_eq!(gateway.get("/plain").await.text(), "one");
    assert_eq!(origin(&gateway).await, "restored");

    etcd.restart().await;
    until("the list is live again", || async { origin(&gateway).await == "live" }).await;
    assert_eq!(gateway.get("/plain").await.text(), "one");
}

/// Its clock says that etcd was silent for long, and it was the gateway that did not listen.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_stopped_for_a_while_does_not_take_etcd_for_gone() {
    let etcd = Etcd::start_version(Version::V35).await;
    let table = etcd.toml(None).replacen('{', "{ silence_ms = 1000,", 1);
    let gateway = Gateway::start(&config(&table));
    let backends = Backend::several(4).await;
    for (number, backend) in backends.iter().enumerate() {
        let name = format!("b{number}");
        let (key, value) = instance("plain", &backend.address.to_string());
        put(&etcd, &key, &value).await;
        until("it gets traffic", || async { gateway.get("/plain").await.text() == name }).await;
        // Nothing happens meanwhile that could be waited for.
        gateway.signal("STOP");
        tokio::time::sleep(Duration::from_secs(3)).await;
        gateway.signal("CONT");
    }
    assert_eq!(origin(&gateway).await, "live");
    assert!(!gateway.log().contains("silent for"), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_registries_feed_one_upstream() {
    let (mut left, right) =
        (Etcd::start_version(Version::V34).await, Etcd::start_version(Version::V35).await);
    let registry = |name: &str, etcd: &Etcd| {
        let table = etcd.toml(None);
        format!(
            "[registry.{name}]\nplugin = \"etcd\"\netcd = {table}\nsettings = {{ layout = \"go-zero\" }}\n"
        )
    };
    let gateway = Gateway::start(&format!(
        r#"{}{}
[upstream.plain]
sources = [{{ registry = "left", service = "user.rpc" }}, {{ registry = "right", service = "user.rpc" }}]

[[route]]
path = "/"
upstream = "plain"
"#,
        registry("left", &left),
        registry("right", &right)
    ));
    let backends = Backend::several(3).await;
    let address = |number: usize| backends[number].address.to_string();
    put(&left, "user.rpc/1", &address(0)).await;
    put(&left, "user.rpc/2", &address(1)).await;
    put(&right, "user.rpc/7", &address(1)).await;
    until("one endpoint per address", || async { endpoints(&gateway, "plain").await == Some(2) }).await;
    left.kill9();
    until("the left is frozen", || async { origin(&gateway).await == "frozen" }).await;
    put(&right, "user.rpc/8", &address(2)).await;
    until("the right goes on", || async { endpoints(&gateway, "plain").await == Some(3) }).await;
}

/// The origin of the first source of the upstream `plain`.
async fn origin(gateway: &Gateway) -> String {
    let upstream = gateway.api("/api/v1/upstreams/plain").await;
    upstream["sources"][0]["origin"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_gateway_sleeps() {
    let etcd = Etcd::start_version(Version::V34).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let backend = Backend::start("one").await;
    for layout in ["go-zero", "rpcx", "plain", "json"] {
        let (key, value) = instance(layout, &backend.address.to_string());
        put(&etcd, &key, &value).await;
        let path = format!("/{layout}");
        until("it gets traffic", || async { gateway.get(&path).await.text() == "one" }).await;
    }
    let mut rates = Vec::new();
    while rates.last().is_none_or(|rate| *rate >= 20.0) {
        // What the requests left behind comes to rest first.
        assert!(rates.len() < 20, "wake-ups in each second: {rates:?}");
        let (before, start) = (gateway.wake_ups(), std::time::Instant::now());
        tokio::time::sleep(Duration::from_secs(1)).await;
        let woken = gateway.wake_ups().saturating_sub(before);
        rates.push(woken as f64 / start.elapsed().as_secs_f64());
    }
    println!("wake-ups in each second: {rates:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_no_text_are_instances_of_their_own() {
    let etcd = Etcd::start_version(Version::V35).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let backends = Backend::several(3).await;
    let keys = [&b"/services/orders/\xff"[..], b"/services/orders/\xfe", br"/services/orders/\xff"];
    let mut client = etcd.client().await;
    for (key, backend) in keys.iter().zip(&backends) {
        client.put(key.to_vec(), backend.address.to_string(), None).await.unwrap();
    }
    until("each is an endpoint", || async { endpoints(&gateway, "plain").await == Some(3) }).await;
    client.delete(keys[0], None).await.unwrap();
    until("one is gone", || async { endpoints(&gateway, "plain").await == Some(2) }).await;
    let upstream = gateway.api("/api/v1/upstreams/plain").await;
    let left = upstream["endpoints"].as_array().unwrap();
    assert!(left.iter().all(|endpoint| endpoint["address"] != backends[0].address.to_string()), "{upstream}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_no_instance_of_another_that_begins_like_it() {
    let etcd = Etcd::start_version(Version::V34).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    for layout in ["go-zero", "rpcx", "plain", "json"] {
        let (key, value) = instance(layout, &other.address.to_string());
        let (folder, rest) = key.rsplit_once('/').unwrap();
        for foreign in [
            format!("{folder}/sub/{rest}"),
            format!("{folder}/sub/deep/{rest}"),
            format!("{folder}2/{rest}"),
            format!("{folder}//{rest}"),
            format!("{folder}/"),
            folder.to_owned(),
            format!("{key}/"),
        ] {
            put(&etcd, &foreign, &value).await;
        }
        let (key, value) = instance(layout, &one.address.to_string());
        put(&etcd, &key, &value).await;
        until("its own is there", || async { endpoints(&gateway, layout).await >= Some(1) }).await;
        let upstream = gateway.api(&format!("/api/v1/upstreams/{layout}")).await;
        let list = upstream["endpoints"].as_array().unwrap();
        assert!(list.len() == 1 && list[0]["address"] == one.address.to_string(), "{layout}: {upstream}");
        assert_eq!(upstream["sources"][0]["left_out"]["count"], 0, "{layout}: {upstream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_at_a_listener_of_the_gateway_is_left_out_of_every_layout() {
    let etcd = Etcd::start_version(Version::V35).await;
    let gateway = Gateway::start(&config(&etcd.toml(None)));
    let one = Backend::start("one").await;
    for layout in ["go-zero", "rpcx", "plain", "json"] {
        for address in [gateway.admin, gateway.address(), one.address] {
            let (key, value) = instance(layout, &address.to_string());
            put(&etcd, &key, &value).await;
        }
        until("the two are left out", || async {
            let source = gateway.api(&format!("/api/v1/upstreams/{layout}")).await["sources"][0].clone();
            source["left_out"]["count"] == 2
                && source["left_out"]["instances"][0]["reason"] == "is a listener of this gateway"
        })
        .await;
        until("the rest counts", || async { endpoints(&gateway, layout).await == Some(1) }).await;
        assert_eq!(gateway.get(&format!("/{layout}")).await.text(), "one");
    }
}
