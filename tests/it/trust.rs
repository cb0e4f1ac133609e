//! What the gateway believes of a list, in the running process and in the next one.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
};

const CONFIG: &str = r#"
[registry.file]
plugin = "file"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "file"

[[route]]
path = "/orders"
upstream = "orders"

[[route]]
path = "/svc/{service}"
registry = "file"
max_services = 3
first_list_timeout_ms = 300
"#;

/// Exchanged in one step, as an editor does.
fn tell(folder: &Path, services: &Value) {
    std::fs::write(folder.join("services.part"), json!({ "services": services }).to_string()).unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

fn with_weight(backends: &[&Backend], weight: u32) -> Value {
    backends.iter().map(|of| json!({ "address": of.address, "weight": weight })).collect()
}

fn start(services: &Value) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    tell(folder.path(), services);
    Gateway::start_in(folder, CONFIG)
}

/// The addresses in the list of the upstream, once every worker that looked has it.
async fn addresses(gateway: &Gateway) -> Option<Vec<SocketAddr>> {
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let workers = orders["workers"].as_array()?;
    let seen = |worker: &Value| worker["generation"] == 0 || worker["generation"] == orders["generation"];
    let endpoints = orders["endpoints"].as_array()?.iter();
    let mut list: Vec<_> = endpoints.filter_map(|of| of["address"].as_str()?.parse().ok()).collect();
    list.sort();
    workers.iter().all(seen).then_some(list)
}

async fn until_list(gateway: &Gateway, backends: &[&Backend]) {
    let mut expected: Vec<SocketAddr> = backends.iter().map(|of| of.address).collect();
    expected.sort();
    until("the list is that", || async { addresses(gateway).await.as_ref() == Some(&expected) }).await;
}

/// Waits until what is on disk says that nothing left but what did, and that what is there is claimed.
async fn until_saved(gateway: &Gateway, text: &str) {
    let path = gateway.folder().join("state/lists/orders.json");
    until("it is on disk", || async {
        std::fs::read_to_string(&path).is_ok_and(|saved| saved.contains(text))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_a_drain_in_a_running_gateway_a_restarted_one_and_a_new_one() {
    let all = Backend::several(2).await;
    let all: Vec<&Backend> = all.iter().collect();
    let gateway = start(&json!({ "orders": with_weight(&all, 1) }));
    assert!(gateway.get("/orders").await.status.is_success());
    assert!(gateway.get("/svc/orders").await.status.is_success());

    let nothing = json!({ "orders": with_weight(&all, 0) });
    tell(gateway.folder(), &nothing);
    for path in ["/orders", "/svc/orders"] {
        until("it is drained", || async { gateway.get(path).await.reason() == Some("drained") }).await;
        assert_eq!(gateway.get(path).await.status, 503);
    }
    until_saved(&gateway, r#""weight":0"#).await;
    let gateway = gateway.restart().await;
    let new = start(&nothing);
    for gateway in [&gateway, &new] {
        for path in ["/orders", "/svc/orders"] {
            let answer = gateway.get(path).await;
            assert_eq!((answer.status.as_u16(), answer.reason()), (503, Some("drained")), "{path}");
        }
    }
    tell(gateway.folder(), &json!({ "orders": with_weight(&all, 1) }));
    until("it is back", || async { gateway.get("/orders").await.status.is_success() }).await;
    // Losing the claims is another thing.
    tell(gateway.folder(), &json!({ "orders": [] }));
    until("it is held", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["reserve"]["count"] == 2
    })
    .await;
    assert!(gateway.get("/orders").await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_gets_nothing_after_a_restart() {
    let all = Backend::several(4).await;
    let [old_a, old_b, new_a, new_b] = &all[..] else { panic!() };
    let gateway = start(&json!({ "orders": with_weight(&[old_a, old_b], 1) }));
    until_list(&gateway, &[old_a, old_b]).await;
    for step in [[old_b, new_a], [new_a, new_b]] {
        tell(gateway.folder(), &json!({ "orders": with_weight(&step, 1) }));
        until_list(&gateway, &step).await;
    }
    until_saved(&gateway, &new_b.address.to_string()).await;
    // The registry is gone, too, so that all there is comes from disk.
    std::fs::remove_file(gateway.folder().join("services.json")).unwrap();
    let gateway = gateway.restart().await;
    let before = old_a.requests() + old_b.requests();
    for _ in 0..30 {
        assert!(gateway.get("/orders").await.status.is_success());
    }
    tell(gateway.folder(), &json!({ "orders": with_weight(&[new_a, new_b], 1) }));
    until("the registry is back", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["origin"] == "live"
    })
    .await;
    for _ in 0..30 {
        assert!(gateway.get("/orders").await.status.is_success());
    }
    assert_eq!(old_a.requests() + old_b.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_names_in_an_outage_keep_nobody_out() {
    let backend = Backend::start("here").await;
    let known = ["one", "two", "three"];
    let services: Value = known.iter().map(|name| (name.to_string(), with_weight(&[&backend], 1))).collect();
    let gateway = start(&services);
    for name in known {
        assert_eq!(gateway.get(&format!("/svc/{name}")).await.text(), "here");
        let list = gateway.folder().join(format!("state/lists/{name}%40file.json"));
        until("it is on disk", || async { list.exists() }).await;
    }
    std::fs::remove_file(gateway.folder().join("services.json")).unwrap();
    let gateway = gateway.restart().await;
    for number in 0..6 {
        let answer = gateway.get(&format!("/svc/made-up-{number}")).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (503, Some("list-not-yet")));
    }
    for name in known {
        let answer = gateway.get(&format!("/svc/{name}")).await;
        assert_eq!(answer.text(), "here", "{name}: {:?}", answer.reason());
    }
    assert_eq!(gateway.get("/svc/another").await.reason(), Some("too-many-services"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_the_operator_edits_applies_as_written() {
    let (old, other) = (Backend::several(2).await, Backend::start("other").await);
    let config = |addresses: &[SocketAddr]| {
        format!(
            "[registry.fixed]\nplugin = \"static\"\nsettings = {{ services = {{ orders = {} }} }}\n\n\
             [upstream.orders]\nservice = \"orders\"\nregistry = \"fixed\"\n\n\
             [[route]]\npath = \"/orders\"\nupstream = \"orders\"\n",
            json!(addresses)
        )
    };
    let gateway = Gateway::start(&config(&[old[0].address, old[1].address]));
    until_list(&gateway, &[&old[0], &old[1]]).await;
    gateway.reconfigure(&config(&[other.address]));
    until_list(&gateway, &[&other]).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    assert_eq!(orders["sources"][0]["reserve"]["count"], 0);
    let before = old[0].requests() + old[1].requests();
    drop(other);
    for _ in 0..10 {
        assert!(!gateway.get("/orders").await.status.is_success());
    }
    assert_eq!(old[0].requests() + old[1].requests(), before);
}
