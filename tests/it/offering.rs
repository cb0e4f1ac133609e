//! What the host does to a list before a selector sees it, with requests to real endpoints.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
};

const CONFIG: &str = r#"
GATEWAY

[registry.file]
plugin = "file"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "file"
selector = "round-robin"
OFFER

[[route]]
path = "/orders"
upstream = "orders"

[[route]]
path = "/svc/{service}"
registry = "file"
selector = "round-robin"
OFFER
"#;

fn config(gateway: &str, offer: &str) -> String {
    CONFIG.replace("GATEWAY", gateway).replace("OFFER", offer)
}

/// Exchanged in one step, as an editor does.
fn tell(gateway: &Gateway, instances: &[Value]) {
    write(gateway.folder(), instances);
}

fn write(folder: &std::path::Path, instances: &[Value]) {
    let content = json!({ "services": { "orders": instances } }).to_string();
    std::fs::write(folder.join("services.part"), content).unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

fn start(config: &str, instances: &[Value]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), instances);
    Gateway::start_in(folder, config)
}

fn plain(backend: &Backend) -> Value {
    json!({ "address": backend.address })
}

fn in_zone(backend: &Backend, zone: &str) -> Value {
    json!({ "address": backend.address, "zone": zone })
}

fn with_priority(backend: &Backend, priority: u32) -> Value {
    json!({ "address": backend.address, "priority": priority })
}

async fn shown(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders").await
}

/// What the API says of one endpoint.
async fn endpoint(gateway: &Gateway, backend: &Backend) -> Value {
    let shown = shown(gateway).await;
    let mut all = shown["endpoints"].as_array().unwrap().iter();
    all.find(|of| of["address"] == json!(backend.address)).cloned().unwrap_or_default()
}

/// Starts it again from the list on disk, once that is so.
async fn restart_without_registry(gateway: Gateway, is_saved: impl Fn(&str) -> bool) -> Gateway {
    let list = gateway.folder().join("state/lists/orders.json");
    until("the list is saved", || async { std::fs::read_to_string(&list).is_ok_and(|text| is_saved(&text)) })
        .await;
    std::fs::remove_file(gateway.folder().join("services.json")).unwrap();
    gateway.restart().await
}

async fn metric(gateway: &Gateway, name: &str) -> Option<f64> {
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let mut lines = metrics.lines();
    lines.find_map(|line| line.strip_prefix(&format!("{name}{{upstream=\"orders\"}} "))?.parse().ok())
}

/// Who answers how many of so many requests; all of them succeed.
async fn tally(gateway: &Gateway, path: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..requests {
        let answer = gateway.get(path).await;
        assert!(answer.status.is_success(), "{:?}", answer.reason());
        *tally.entry(answer.text()).or_default() += 1;
    }
    tally
}

/// Waits until all requests of a while go to these and to nobody else, and all of them succeed.
async fn until_requests_go_to(gateway: &Gateway, names: &[&str]) {
    until("requests go where they should", || async {
        tally(gateway, "/orders", 20).await.keys().map(String::as_str).eq(names.iter().copied())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_gets_a_tenth_of_its_share_at_first() {
    let (a, b, new) = (Backend::start("a").await, Backend::start("b").await, Backend::start("new").await);
    let gateway = start(&config("", "slow_start_secs = 3600"), &[plain(&a), plain(&b)]);
    assert_eq!(shown(&gateway).await["slow_start_count"], 0, "nobody of the first list");
    tally(&gateway, "/svc/orders", 1).await;
    tell(&gateway, &[plain(&a), plain(&b), plain(&new)]);
    until("it is there", || async { endpoint(&gateway, &new).await["slow_start"] == json!(0.1) }).await;
    let seen = endpoint(&gateway, &new).await;
    assert_eq!((&seen["weight"], &seen["effective_weight"]), (&json!(1), &json!(10)));
    assert_eq!(endpoint(&gateway, &a).await["effective_weight"], 100);
    assert_eq!(shown(&gateway).await["slow_start_count"], 1);
    assert_eq!(metric(&gateway, "witgate_slow_start_endpoints").await, Some(1.0));
    assert_eq!(metric(&gateway, "witgate_zone_share").await, None);
    for path in ["/orders", "/svc/orders"] {
        // Ten of 210, and workers begin anywhere.
        until("a worker has caught up", || async { tally(&gateway, path, 30).await.contains_key("new") })
            .await;
        let tally = tally(&gateway, path, 210).await;
        assert!((5..=15).contains(&tally["new"]), "{tally:?}");
    }

    // Another setting is in force at once, and so is it without one.
    gateway.reconfigure(&config("", "slow_start_secs = 1"));
    until("its time is over", || async { endpoint(&gateway, &new).await["slow_start"].is_null() }).await;
    assert_eq!(endpoint(&gateway, &new).await["effective_weight"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_starts_slowly_again() {
    let all = Backend::several(3).await;
    let gateway = start(&config("", "slow_start_secs = 3600"), &all.iter().map(plain).collect::<Vec<_>>());
    let unwell = json!({ "address": all[0].address, "state": "unwell" });
    tell(&gateway, &[unwell, plain(&all[1]), plain(&all[2])]);
    until("it is out", || async { shown(&gateway).await["endpoint_count"] == 2 }).await;
    tell(&gateway, &all.iter().map(plain).collect::<Vec<_>>());
    until("it is back", || async { endpoint(&gateway, &all[0]).await["slow_start"] == json!(0.1) }).await;
    // A restart knows nothing of it: the list from disk is as it was, whether its registry answers or not.
    let gateway = restart_without_registry(gateway, |text| {
        text.contains(&all[0].address.to_string()) && !text.contains("unwell")
    })
    .await;
    let shown = shown(&gateway).await;
    assert_eq!((&shown["endpoint_count"], &shown["slow_start_count"]), (&json!(3), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_stay_in_the_zone_of_the_gateway_while_it_can_take_them() {
    let near = [Backend::start("near-0").await, Backend::start("near-1").await];
    let far = [Backend::start("far-0").await, Backend::start("far-1").await];
    let list = [in_zone(&near[0], "a"), in_zone(&near[1], "a"), in_zone(&far[0], "b"), in_zone(&far[1], "b")];
    let zone_aware =
        "zone_aware = { min_endpoints = 3 }\ncheck = { tcp = true, interval_ms = 100, fall = 1 }";
    let gateway = start(&config("[gateway]\nzone = \"a\"", zone_aware), &list);
    until_requests_go_to(&gateway, &["near-0", "near-1"]).await;
    let shown_standby = shown(&gateway).await["standby"].clone();
    let waits = |backend: &Backend| json!({ "address": backend.address, "source": 0, "state": "ready", "priority": 0, "zone": "b", "reason": "zone" });
    let waiting: BTreeSet<String> = shown_standby.as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(waiting, far.iter().map(|backend| waits(backend).to_string()).collect());
    assert_eq!(far.iter().map(Backend::requests).sum::<usize>(), 0);
    assert_eq!(shown(&gateway).await["zone_share"], json!(1.0));
    assert_eq!(metric(&gateway, "witgate_zone_share").await, Some(1.0));

    // It is the same with a list that its registry does not answer for.
    let gateway = restart_without_registry(gateway, |text| text.contains(r#""zone":"b""#)).await;
    until_requests_go_to(&gateway, &["near-0", "near-1"]).await;

    // One of two nearby is a third of three, where a half is due: it keeps two thirds.
    let [gone, near] = near;
    drop(gone);
    until_requests_go_to(&gateway, &["far-0", "far-1", "near-1"]).await;
    until("the API says why", || async { endpoint(&gateway, &far[0]).await["zone_part"] == json!(0.25) })
        .await;
    let tally = tally(&gateway, "/orders", 120).await;
    assert!((70..=90).contains(&tally["near-1"]), "{tally:?}");
    assert_eq!(endpoint(&gateway, &near).await["effective_weight"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_what_too_few_cannot_carry() {
    let mut first = Backend::several(4).await;
    let (one, other) = (Backend::start("standby").await, Backend::start("standby").await);
    let list: Vec<Value> = first
        .iter()
        .map(|backend| with_priority(backend, 0))
        .chain([with_priority(&one, 1), with_priority(&other, 1)])
        .collect();
    let offer = "priority_threshold = 0.6\nhealth = { grace_ms = 0 }\n\
                 check = { tcp = true, interval_ms = 100, fall = 1 }";
    let gateway = start(&config("", offer), &list);
    drop(first.pop());
    until("one is out", || async { shown(&gateway).await["ejected_count"] == 1 }).await;
    assert!(!tally(&gateway, "/orders", 40).await.contains_key("standby"), "three of four are enough");
    drop(first.pop());
    until("the standby steps in", || async { tally(&gateway, "/orders", 20).await.contains_key("standby") })
        .await;
    until("the API says how much", || async {
        endpoint(&gateway, &one).await["priority_part"] == json!(0.2)
    })
    .await;
    assert_eq!(metric(&gateway, "witgate_priority_groups").await, Some(2.0));
    // 0.5 of 0.6 are five sixths.
    let tally = tally(&gateway, "/orders", 120).await;
    assert!((10..=30).contains(&tally["standby"]), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_the_endpoints_between_them() {
    let all = Backend::several(6).await;
    let list: Vec<Value> = all.iter().map(plain).collect();
    let mut used = BTreeSet::new();
    for id in ["edge-0", "edge-1"] {
        let gateway = start(&config(&format!("[gateway]\nid = \"{id}\""), "subset = { size = 3 }"), &list);
        let shown = shown(&gateway).await;
        assert_eq!((&shown["endpoint_count"], &shown["unused_count"]), (&json!(3), &json!(3)));
        assert_eq!(tally(&gateway, "/orders", 60).await.len(), 3);
        assert_eq!(metric(&gateway, "witgate_unused_endpoints").await, Some(3.0));
        let addresses = shown["endpoints"].as_array().unwrap().iter().map(|of| of["address"].to_string());
        used.extend(addresses);
    }
    assert_eq!(used.len(), 6, "none is used by both, and all are used");
}
