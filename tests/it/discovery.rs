//! The registry `discovery` with a double of its server: what it reads, and what several nodes come to.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    discovery_double::{DiscoveryDouble, registry},
    fault_table::Registry as _,
    gateway::{Gateway, until},
    service::{CLIENTS, becomes, endpoints, source},
    session::Session,
    tampered::Tampering,
    traffic::Traffic,
};

fn gateway(nodes: &[&DiscoveryDouble]) -> Gateway {
    let upstream =
        "[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n";
    let registry = registry(nodes, "");
    Gateway::start(&format!("{registry}\n{upstream}\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n"))
}

/// Waits until the list is frozen for this reason.
async fn fails(gateway: &Gateway, kind: &str, text: &str) {
    until(text, || async {
        let failure = &source(gateway).await["failure"];
        failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
    becomes(gateway, "frozen").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_how_instances_stand() {
    let node = DiscoveryDouble::start().await;
    let backends = Backend::several(5).await;
    for (number, backend) in backends.iter().enumerate() {
        node.register_with(&format!("h{number}"), backend.address, json!({ "version": "2" }));
    }
    node.register_with("h3", backends[3].address, json!({ "status": 2 }));
    // It is listed although it renews no more: the registry protects itself.
    node.renewed("h4", Duration::from_secs(100));
    let gateway = gateway(&[&node]);
    until("all are there", || async { source(&gateway).await["instances"] == 5 }).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let at = |list: &Value, number: usize| {
        let is = |one: &&Value| one["address"] == json!(backends[number].address);
        list.as_array().and_then(|list| list.iter().find(is)).cloned()
    };
    let shown = at(&orders["endpoints"], 0).unwrap();
    assert_eq!(shown["labels"], json!({ "protocol": "http", "version": "2", "hostname": "h0" }), "{shown}");
    let ejected = at(&orders["ejected"], 4).unwrap_or_else(|| panic!("{orders}"));
    assert_eq!(ejected["reason"], "unwell", "{ejected}");

    let before = [3, 4].map(|number| backends[number].requests());
    for _ in 0..50 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!([3, 4].map(|number| backends[number].requests()), before);
    let asked = node.between().seen().remove(0);
    assert_eq!(asked.line(), "POST /api/fetch HTTP/1.1");
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body, json!({ "env": "dev", "appid": "orders", "status": 3 }));

    // One is back in traffic, and one renews again.
    node.register_with("h3", backends[3].address, json!({}));
    node.tell("/api/renew", &json!({ "env": "dev", "appid": "orders", "hostname": "h4" }));
    endpoints(&gateway, 5).await;
    until("both get requests", || async {
        assert!(gateway.get("/").await.status.is_success());
        [3, 4].iter().all(|number| backends[*number].requests() > 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_nothing_does_not_speak_for_the_others() {
    let (new, mut old) = (DiscoveryDouble::start().await, DiscoveryDouble::start().await);
    let backend = Backend::start("one").await;
    old.register_with("h", backend.address, json!({}));
    let gateway = gateway(&[&new, &old]);
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    old.kill9();
    fails(&gateway, "suspect", "knows no instance, and not all nodes could be asked").await;
    assert_eq!(source(&gateway).await["instances"], 1);
    traffic.more(200).await;
    old.restart().await;
    becomes(&gateway, "live").await;
    // All of them know nothing, which is an answer, and doubted as from any other registry.
    old.restart_empty().await;
    until("the empty answer is heard", || async { source(&gateway).await["instances"] == 0 }).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_lost_one_after_the_other_cost_no_request() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(DiscoveryDouble::start().await);
    }
    let backends = Backend::several(3).await;
    let register = |nodes: &[DiscoveryDouble], number: usize| {
        for node in nodes {
            node.register_with(&format!("h{number}"), backends[number].address, json!({}));
        }
    };
    register(&nodes, 0);
    let gateway = gateway(&nodes.iter().collect::<Vec<_>>());
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;

    // One hangs: whatever is asked, the next one answers.
    nodes[0].freeze();
    register(&nodes, 1);
    endpoints(&gateway, 2).await;
    becomes(&gateway, "live").await;
    nodes[1].kill9();
    register(&nodes, 2);
    endpoints(&gateway, 3).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;

    nodes[0].kill9();
    nodes[2].kill9();
    fails(&gateway, "unavailable", "; ").await;
    traffic.more(200).await;
    nodes[1].restart().await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

/// The embedded registry of one gateway is a node for programs and for another gateway.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_registry_is_a_node_of_that_registry() {
    let backend = Backend::start("one").await;
    let node = Gateway::start(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\ndiscovery = { env = \"dev\" }\n\n\
         [[route]]\npath = \"/svc/{service}\"\nregistry = \"memory\"\n",
    );
    let place = node.registrations.unwrap();
    let tell = |call: &str, status: u32| {
        let body = json!({ "env": "dev", "appid": "orders", "hostname": "h", "status": status,
            "addrs": [format!("http://{}", backend.address)] });
        let request = http::Request::post(format!("/api/{call}"));
        async move {
            let answer = Session::new(place).send(request, body.to_string().into()).await;
            serde_json::from_slice::<Value>(&answer.body).unwrap()["code"].clone()
        }
    };
    assert_eq!(tell("register", 1).await, 200);
    until("its own routes find it", || async { node.get("/svc/orders").await.text() == "one" }).await;
    let gateway = Gateway::start(&format!(
        "[registry.main]\nplugin = \"discovery\"\nhttp = {{ urls = [\"http://{place}\"] }}\n\
         settings = {{ env = \"dev\", poll_seconds = 1 }}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ));
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
    assert_eq!(tell("renew", 0).await, 200);
    // Out of traffic.
    assert_eq!(tell("register", 2).await, 200);
    until("nobody takes requests", || async { gateway.get("/").await.reason() == Some("drained") }).await;
    assert_eq!(tell("register", 1).await, 200);
    until("it does again", || async { gateway.get("/").await.text() == "one" }).await;
    assert_eq!(tell("cancel", 0).await, 200);
    assert_eq!(tell("renew", 0).await, 404);
    until("it is gone", || async { source(&gateway).await["instances"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_by_its_code_counts_and_not_the_status() {
    let node = DiscoveryDouble::start().await;
    let backend = Backend::start("one").await;
    node.register_with("h", backend.address, json!({}));
    let gateway = gateway(&[&node]);
    endpoints(&gateway, 1).await;
    let json = "content-type: application/json\r\n";
    for (body, kind, text) in [
        (r#"{"code":500,"message":"oh"}"#, "unavailable", "code 500: oh"),
        (r#"{"code":400,"message":"what"}"#, "invalid", "code 400: what"),
        (r#"{"code":200,"data":""}"#, "suspect", "no answer of the registry"),
    ] {
        node.between().does(Tampering::Instead(json, body));
        fails(&gateway, kind, text).await;
        assert_eq!(gateway.get("/").await.text(), "one");
    }
    node.between().does(Tampering::None);
    becomes(&gateway, "live").await;
}
