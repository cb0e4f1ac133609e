//! The registry `kubernetes` with a double of an API server: what it reads, and how it goes on from what it has read.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    fault_table::Registry as _,
    gateway::{Gateway, until},
    kubernetes::{slice, slice_of},
    kubernetes_double::{Expiry, Kind, KubernetesDouble},
    service::{CLIENTS, becomes, endpoints, source},
    tampered::Tampering,
    traffic::Traffic,
};

const IMPATIENT: &str = "{ namespace = \"shop\", watch_seconds = 1 }";

/// A gateway that finds this service by this registry.
fn gateway_of(registry: &str, service: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = {service:?}\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ))
}

fn gateway(kubernetes: &KubernetesDouble) -> Gateway {
    gateway_of(&kubernetes.registry(IMPATIENT), "orders")
}

/// Waits until the list is frozen for this reason.
async fn fails(gateway: &Gateway, kind: &str, text: &str) {
    until(text, || async {
        let failure = &source(gateway).await["failure"];
        failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
}

/// What was asked for that has this in its path.
fn asked(kubernetes: &KubernetesDouble, part: &str) -> Vec<String> {
    let seen = kubernetes.between().seen();
    seen.iter().map(|seen| seen.path().to_owned()).filter(|path| path.contains(part)).collect()
}

/// How often a list was asked for.
fn lists(kubernetes: &KubernetesDouble) -> usize {
    asked(kubernetes, "").iter().filter(|path| !path.contains("watch=")).count()
}

/// Whoever says that there is more, again and again, is not followed for ever, and keeps the list as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_end_is_not_believed() {
    let kubernetes = KubernetesDouble::start().await;
    let backend = Backend::start("one").await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backend.address], json!({})));
    let gateway = gateway(&kubernetes);
    endpoints(&gateway, 1).await;
    let page = "{\"kind\":\"EndpointSliceList\",\"metadata\":{\"resourceVersion\":\"9\",\"continue\":\"0@9\"},\"items\":[]}";
    kubernetes.tamper(Tampering::Instead("content-type: application/json\r\n", page));
    fails(&gateway, "suspect", "goes on after 200 pages").await;
    assert_eq!(gateway.get("/").await.text(), "one");
    kubernetes.tamper(Tampering::None);
    becomes(&gateway, "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_say_where_instances_are_and_how_they_stand() {
    let kubernetes = KubernetesDouble::start().await;
    let backends = Backend::several(4).await;
    for (number, conditions) in [
        json!({ "ready": true, "serving": true, "terminating": false }),
        json!({ "ready": false, "serving": false, "terminating": false }),
        json!({ "ready": false, "serving": true, "terminating": true }),
        json!({ "ready": false, "serving": false, "terminating": true }),
    ]
    .into_iter()
    .enumerate()
    {
        let more = json!({ "conditions": conditions, "zone": "a", "hostname": format!("o{number}"),
            "nodeName": "n1", "targetRef": { "kind": "Pod", "name": format!("orders-{number}") } });
        let slice = slice_of("orders", backends[number].address, more);
        kubernetes.put(Kind::Slices, &format!("s{number}"), slice);
    }
    // The same once more, as while it moves from one slice to another.
    let more =
        json!({ "targetRef": { "kind": "Pod", "name": "orders-0" }, "conditions": { "ready": false } });
    kubernetes.put(Kind::Slices, "moving", slice_of("orders", backends[0].address, more));
    // Of another service, and in another namespace.
    kubernetes.put(Kind::Slices, "other", slice("users", &["127.0.0.1:9".parse().unwrap()], json!({})));
    let gateway = gateway(&kubernetes);
    until("all but the one that has ended are there", || async { source(&gateway).await["instances"] == 3 })
        .await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let all: Vec<Value> = [&orders["endpoints"], &orders["ejected"]]
        .iter()
        .flat_map(|list| list.as_array().unwrap().clone())
        .collect();
    let of = |number: usize| {
        all.iter()
            .find(|one| one["address"] == json!(backends[number].address))
            .unwrap_or_else(|| panic!("{orders}"))
    };
    assert_eq!(of(0)["labels"], json!({ "pod": "orders-0", "node": "n1" }), "{orders}");
    assert_eq!((&of(0)["hostname"], &of(0)["zone"]), (&json!("o0.orders.shop.svc"), &json!("a")), "{orders}");
    assert_eq!(orders["ejected"][0]["address"], json!(backends[1].address), "{orders}");
    assert_eq!(orders["ejected"][0]["reason"], "unwell", "{orders}");
    for _ in 0..30 {
        assert_eq!(gateway.get("/").await.text(), "b0");
    }

    // It has become ready, and the one before begins to end.
    for (name, number, ready) in [("s1", 1, true), ("s0", 0, false)] {
        let conditions = json!({ "conditions": { "ready": ready, "serving": true, "terminating": !ready } });
        kubernetes.put(Kind::Slices, name, slice_of("orders", backends[number].address, conditions));
    }
    kubernetes.remove(Kind::Slices, "moving");
    until("the other one has all requests", || async {
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(gateway.get("/").await.text());
        }
        answers.iter().all(|answer| answer == "b1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_list_it_is_changes_that_are_heard_of() {
    let kubernetes = KubernetesDouble::start().await;
    let backends = Backend::several(3).await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backends[0].address], json!({})));
    let gateway = gateway(&kubernetes);
    endpoints(&gateway, 1).await;
    kubernetes.put(Kind::Slices, "b", slice("orders", &[backends[1].address], json!({})));
    endpoints(&gateway, 2).await;
    // Over the end of a watch, and of several.
    until("it was watched several times", || async { asked(&kubernetes, "watch=true").len() > 3 }).await;
    kubernetes.put(Kind::Slices, "b", slice("orders", &[backends[2].address], json!({})));
    until("it is another one", || async { gateway.get("/").await.text() == "b2" }).await;
    kubernetes.remove(Kind::Slices, "a");
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
    assert_eq!(lists(&kubernetes), 1, "{:?}", asked(&kubernetes, ""));
    let watches = asked(&kubernetes, "watch=true");
    assert!(watches.iter().all(|path| path.contains("&allowWatchBookmarks=true&")), "{watches:?}");
    // A bookmark moves on what is asked for, although none of the changes is one of this service.
    let versions = |paths: Vec<String>| -> Vec<String> {
        paths.iter().map(|path| path.split_once("resourceVersion=").unwrap().1.to_owned()).collect()
    };
    let before = versions(asked(&kubernetes, "watch=true"));
    kubernetes.put(Kind::Slices, "other", slice("users", &[backends[0].address], json!({})));
    until("a later version is asked for", || async {
        versions(asked(&kubernetes, "watch=true")).last() > before.last()
    })
    .await;
}

/// Whatever way a server has to say that it does not know a version any more: the list is asked for again, nothing
/// is frozen, and no request fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_has_expired_leads_to_a_new_list() {
    for expiry in [Expiry::Event, Expiry::Status, Expiry::Reason, Expiry::Empty, Expiry::TooLarge] {
        let mut kubernetes = KubernetesDouble::start().await;
        let backends = Backend::several(2).await;
        kubernetes.put(Kind::Slices, "a", slice("orders", &[backends[0].address], json!({})));
        let gateway = gateway(&kubernetes);
        endpoints(&gateway, 1).await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        until("it is watched", || async { !asked(&kubernetes, "watch=true").is_empty() }).await;
        kubernetes.says(expiry);
        kubernetes.put(Kind::Slices, "b", slice("orders", &[backends[1].address], json!({})));
        kubernetes.remove(Kind::Slices, "a");
        kubernetes.compact().await;
        until("the new list is there", || async { gateway.get("/").await.text() == "b1" }).await;
        until("it was asked for again", || async { lists(&kubernetes) == 2 }).await;
        becomes(&gateway, "live").await;
        traffic.more(100).await;
        traffic.stop().await.none_failed();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_pages_and_at_once_where_these_expire() {
    let kubernetes = KubernetesDouble::start().await;
    let backend = Backend::everywhere("many").await;
    for number in 0..1_200_u16 {
        let address = ([127, 1, (number >> 8) as u8, number as u8], backend.address.port()).into();
        kubernetes.put(Kind::Slices, &format!("s{number}"), slice("orders", &[address], json!({})));
    }
    let paged = gateway(&kubernetes);
    endpoints(&paged, 1_200).await;
    assert_eq!(asked(&kubernetes, "limit=500").len(), 3);
    drop(paged);
    kubernetes.forgets_pages();
    let at_once = gateway(&kubernetes);
    endpoints(&at_once, 1_200).await;
    let whole: Vec<_> =
        asked(&kubernetes, "endpointslices").into_iter().filter(|path| !path.contains("&")).collect();
    assert_eq!(whole.len(), 1, "{whole:?}");
}

/// A connection of which the other end is gone without a word: after the time that a watch has, and ten seconds, it is
/// given up, and what happened meanwhile is heard of.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_falls_silent_is_given_up() {
    let kubernetes = KubernetesDouble::start().await;
    let backends = Backend::several(2).await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backends[0].address], json!({})));
    let gateway = gateway(&kubernetes);
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    until("it is watched", || async { !asked(&kubernetes, "watch=true").is_empty() }).await;
    kubernetes.silence();
    kubernetes.put(Kind::Slices, "b", slice("orders", &[backends[1].address], json!({})));
    let taken = tokio::time::timeout(Duration::from_secs(30), endpoints(&gateway, 2)).await;
    taken.expect("it is given up after eleven seconds");
    becomes(&gateway, "live").await;
    assert_eq!(lists(&kubernetes), 1, "it goes on from what is known");
    traffic.more(100).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_slices_is_asked_for_endpoints() {
    let kubernetes = KubernetesDouble::start().await;
    kubernetes.is_old();
    let backends = Backend::several(3).await;
    let object = |ready: &[usize], not_ready: &[usize]| {
        let subset = |number: &usize, ready: bool| {
            let address = backends[*number].address;
            let list = if ready { "addresses" } else { "notReadyAddresses" };
            json!({ list: [{ "ip": address.ip().to_string() }], "ports": [{ "name": "http", "port": address.port() }] })
        };
        let subsets = ready.iter().map(|number| subset(number, true));
        let subsets: Vec<_> = subsets.chain(not_ready.iter().map(|number| subset(number, false))).collect();
        json!({ "kind": "Endpoints", "metadata": {}, "subsets": subsets })
    };
    kubernetes.put(Kind::Endpoints, "orders", object(&[0], &[1]));
    kubernetes.put(Kind::Endpoints, "users", object(&[2], &[]));
    let gateway = gateway(&kubernetes);
    until("both are there", || async { source(&gateway).await["instances"] == 2 }).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.text(), "b0");
    }
    kubernetes.put(Kind::Endpoints, "orders", object(&[1], &[]));
    until("the other one answers", || async { gateway.get("/").await.text() == "b1" }).await;
    kubernetes.remove(Kind::Endpoints, "orders");
    until("there is none", || async { source(&gateway).await["instances"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_say_the_namespace_and_the_port() {
    let kubernetes = KubernetesDouble::start().await;
    let backend = Backend::start("one").await;
    let port = backend.address.port();
    let ports = json!({ "ports": [{ "name": "metrics", "port": 9 }, { "name": "http", "port": port }] });
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backend.address], ports));
    let registry = kubernetes.registry("{ watch_seconds = 1 }");
    for name in
        ["shop/orders:http".to_owned(), format!("shop/orders:{port}"), format!("k8s://shop/orders:{port}")]
    {
        let gateway = gateway_of(&registry, &name);
        endpoints(&gateway, 1).await;
        assert_eq!(gateway.get("/").await.text(), "one", "{name}");
    }
    let gateway = gateway_of(&registry, "shop/orders");
    fails(&gateway, "invalid", &format!("has http ({port}), metrics (9): write shop/orders:PORT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_told_in_the_words_of_the_server() {
    let kubernetes = KubernetesDouble::start().await;
    let backends = Backend::several(2).await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backends[0].address], json!({})));
    let gateway = gateway(&kubernetes);
    endpoints(&gateway, 1).await;
    kubernetes.forbids(true);
    fails(&gateway, "denied", "answered 403: endpointslices.discovery.k8s.io is forbidden: User").await;
    becomes(&gateway, "frozen").await;
    kubernetes.put(Kind::Slices, "b", slice("orders", &[backends[1].address], json!({})));
    kubernetes.forbids(false);
    endpoints(&gateway, 2).await;
    becomes(&gateway, "live").await;
}
