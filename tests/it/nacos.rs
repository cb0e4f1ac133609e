//! The registry `nacos` with doubles of its servers: what it reads, and what it makes of servers that call all instances
//! healthy.

use serde_json::json;

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    nacos::{self, RECORDED},
    nacos_double::{NacosDouble, table},
    service::{CLIENTS, becomes, endpoints, source},
    tampered::Tampering,
    traffic::Traffic,
};

/// A gateway that finds a service by this registry.
fn gateway_of(registry: &str, service: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = \"{service}\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ))
}

fn gateway(registry: &str) -> Gateway {
    gateway_of(registry, "orders")
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
async fn the_double_says_what_a_real_server_said() {
    let double = NacosDouble::<1>::start_locked().await;
    let said = nacos::conversation(double.address(), &double.password().unwrap()).await;
    assert_eq!(said, std::fs::read_to_string(RECORDED).unwrap(), "`./dev peers rnacos` records it");
}

async fn a_server_says_how_instances_stand<const API: u8>() {
    let double = NacosDouble::<API>::start_locked().await;
    let backends = Backend::several(5).await;
    let metadata = ("metadata", r#"{"zone":"a","version":"2","preserved.register.source":"SPRING_CLOUD"}"#);
    let add = |number: usize, more: &[(&str, &str)]| {
        double.register_with("orders", backends[number].address, more);
    };
    add(0, &[metadata, ("weight", "0.5"), ("clusterName", "EU")]);
    add(1, &[("weight", "2")]);
    add(2, &[("weight", "0")]);
    add(3, &[("enabled", "false")]);
    add(4, &[]);
    double.is_healthy(backends[4].address, false);
    let gateway = gateway(&double.registry(""));
    until("all that are enabled are there", || async { source(&gateway).await["instances"] == 4 }).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let shown = |number: usize| {
        let all = orders["endpoints"].as_array().unwrap();
        all.iter().find(|one| one["address"] == json!(backends[number].address)).unwrap().clone()
    };
    assert_eq!(shown(0)["labels"], json!({ "cluster": "EU", "version": "2", "zone": "a" }), "{orders}");
    assert_eq!((&shown(0)["weight"], &shown(0)["zone"]), (&json!(50), &json!("a")), "{orders}");
    assert_eq!(shown(1)["weight"], 200, "{orders}");
    let ejected = orders["ejected"].as_array().unwrap();
    assert!(ejected.len() == 1 && ejected[0]["reason"] == "unwell", "{orders}");
    for _ in 0..30 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!([2, 3, 4].map(|number| backends[number].requests()), [0, 0, 0]);

    double.register_with("orders", backends[3].address, &[("enabled", "true")]);
    double.is_healthy(backends[4].address, true);
    for number in [3, 4] {
        until("it gets requests", || async {
            assert!(gateway.get("/").await.status.is_success());
            backends[number].requests() > 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_how_instances_stand_by_version_1() {
    a_server_says_how_instances_stand::<1>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_how_instances_stand_by_version_3() {
    a_server_says_how_instances_stand::<3>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_group_and_cluster_say_whose_instances_are_wanted() {
    let double = NacosDouble::<1>::start().await;
    let backends = Backend::several(4).await;
    for (number, service, namespace, cluster) in [
        (0, "SHOP@@orders", "dev", "EU"),
        (1, "SHOP@@orders", "dev", "US"),
        (2, "SHOP@@orders", "", "EU"),
        (3, "orders", "dev", "EU"),
    ] {
        let more = [("namespaceId", namespace), ("clusterName", cluster)];
        double.register_with(service, backends[number].address, &more);
    }
    for (settings, service, expected) in [
        (", namespace = \"dev\", group = \"SHOP\", clusters = [\"EU\"]", "orders", "b0"),
        (", namespace = \"dev\", clusters = [\"US\"]", "SHOP@@orders", "b1"),
        (", group = \"SHOP\"", "orders", "b2"),
        (", namespace = \"dev\", group = \"SHOP\"", "DEFAULT_GROUP@@orders", "b3"),
    ] {
        let gateway = gateway_of(&double.registry(settings), service);
        endpoints(&gateway, 1).await;
        assert_eq!(gateway.get("/").await.text(), expected, "{settings}");
    }
}

/// None is healthy, and Nacos calls all of them so.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_protects_its_list_is_not_believed_about_health() {
    let double = NacosDouble::<1>::start().await;
    let backends = Backend::several(3).await;
    for backend in &backends[..2] {
        double.register_with("orders", backend.address, &[]);
    }
    double.is_healthy(backends[0].address, false);
    let gateway = gateway(&double.registry(""));
    until("both are there", || async { source(&gateway).await["instances"] == 2 }).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    assert_eq!(backends[0].requests(), 0);
    double.is_healthy(backends[1].address, false);
    fails(&gateway, "suspect", "its protection threshold is reached").await;
    traffic.more(200).await;
    assert_eq!(backends[0].requests(), 0, "the last that was believed is kept");
    // Who comes is there at once.
    double.register_with("orders", backends[2].address, &[]);
    double.is_healthy(backends[2].address, false);
    endpoints(&gateway, 2).await;
    double.is_healthy(backends[0].address, true);
    becomes(&gateway, "live").await;
    until("the one that is healthy gets requests", || async {
        traffic.more(50).await;
        backends[0].requests() > 0
    })
    .await;
    traffic.stop().await.none_failed();

    // A gateway that knows no other list takes this one.
    double.is_healthy(backends[0].address, false);
    let new = self::gateway(&double.registry(""));
    endpoints(&new, 3).await;
    fails(&new, "suspect", "calls all 3 instances healthy").await;
    assert!(new.get("/").await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_lost_one_after_the_other_cost_no_request() {
    let (mut one, mut other) = (NacosDouble::<3>::start().await, NacosDouble::<3>::start().await);
    let backends = Backend::several(3).await;
    let register = |double: &NacosDouble<3>, count: usize| {
        backends[..count].iter().for_each(|backend| double.register_with("orders", backend.address, &[]));
    };
    register(&one, 1);
    register(&other, 1);
    let gateway = gateway(&table(&[&one, &other], ""));
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    crate::support::fault_table::Registry::kill9(&mut one);
    register(&other, 2);
    endpoints(&gateway, 2).await;
    becomes(&gateway, "live").await;
    crate::support::fault_table::Registry::restart(&mut one).await;
    crate::support::fault_table::Registry::kill9(&mut other);
    register(&one, 3);
    endpoints(&gateway, 3).await;
    becomes(&gateway, "live").await;
    traffic.more(100).await;
    crate::support::fault_table::Registry::kill9(&mut one);
    fails(&gateway, "unavailable", "; ").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_and_a_wrong_version_are_told_of() {
    let (one, three) = (NacosDouble::<1>::start().await, NacosDouble::<3>::start().await);
    for (registry, text) in [
        (one.registry("").replace("/nacos", ""), "answered 404"),
        (one.registry("").replace("\"v1\"", "\"v3\""), "whether it is Nacos 3"),
        (three.registry("").replace("\"v3\"", "\"v1\""), "whether Nacos 3 has `api = \"v3\"`"),
    ] {
        let gateway = gateway(&registry);
        until(text, || async {
            let failure = &source(&gateway).await["failure"];
            failure["kind"] == "invalid" && failure.to_string().replace('\\', "").contains(text)
        })
        .await;
    }
    let gateway = gateway(&three.registry(""));
    three.between().does(Tampering::Instead(
        "content-type: application/json\r\n",
        r#"{"code":30000,"message":"server error","data":null}"#,
    ));
    fails(&gateway, "unavailable", "answered code 30000: server error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_rpcx_are_found_by_their_metadata() {
    let double = NacosDouble::<1>::start().await;
    let backends = Backend::several(3).await;
    for (number, metadata) in [
        (0, r#"{"network":"tcp","weight":"7","group":"a","protocol":"http1"}"#),
        (1, r#"{"network":"tcp","state":"inactive","protocol":"http1"}"#),
        (2, r#"{"version":"2"}"#),
    ] {
        double.register_with("Arith", backends[number].address, &[("metadata", metadata)]);
    }
    let gateway = gateway_of(&double.registry(", layout = \"rpcx\""), "Arith");
    until("both of rpcx are there", || async { source(&gateway).await["instances"] == 2 }).await;
    endpoints(&gateway, 1).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.text(), "b0");
    }
    let shown = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0].clone();
    assert_eq!(shown["labels"], json!({ "network": "tcp", "group": "a", "protocol": "http1" }), "{shown}");
    assert_eq!(shown["weight"], 7, "{shown}");
}
