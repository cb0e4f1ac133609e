//! The registry `zookeeper` with a real ZooKeeper: what it reads in each layout.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    fault_table::Registry as _,
    gateway::{Gateway, until},
    service::{CLIENTS, becomes, endpoints, source},
    traffic::Traffic,
    zookeeper::{self, ZooKeeper},
};

fn gateway(zookeeper: &ZooKeeper, settings: &str) -> Gateway {
    with(&zookeeper.registry(settings), "orders")
}

fn with(registry: &str, service: &str) -> Gateway {
    let upstream = format!("[upstream.orders]\nservice = {service:?}\nregistry = \"main\"\n");
    Gateway::start(&format!("{registry}\n{upstream}\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n"))
}

/// What is shown of an instance, wherever it stands.
async fn shown(gateway: &Gateway, backend: &Backend) -> Value {
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let mut all =
        ["endpoints", "ejected", "standby"].into_iter().filter_map(|place| orders[place].as_array());
    let address = json!(backend.address);
    all.find_map(|list| list.iter().find(|one| one["address"] == address).cloned()).unwrap()
}

/// Where requests go, of so many.
async fn reached(gateway: &Gateway, backends: &[Backend]) -> Vec<usize> {
    let before: Vec<_> = backends.iter().map(Backend::requests).collect();
    for _ in 0..40 {
        assert!(gateway.get("/").await.status.is_success());
    }
    backends.iter().zip(before).map(|(backend, before)| backend.requests() - before).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_addresses_are_data_or_names_and_a_change_is_told_at_once() {
    let mut zookeeper = ZooKeeper::start().await;
    let backends = Backend::several(3).await;
    zookeeper.put("/team/orders/i-0000000001", &backends[0].address.to_string()).await;
    zookeeper.put(&format!("/team/orders/{}", backends[1].address), "").await;
    let gateway = with(&zookeeper.registry("{ layout = \"plain\" }"), "team/orders");
    endpoints(&gateway, 2).await;

    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let since = Instant::now();
        zookeeper.put("/team/orders/i-0000000002", &backends[2].address.to_string()).await;
        endpoints(&gateway, 3).await;
        slowest = slowest.max(since.elapsed());
        zookeeper.delete("/team/orders/i-0000000002").await;
        until("it is gone", async || source(&gateway).await["instances"] == 2).await;
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

/// rpcx itself does not see the change of a state until somebody comes or goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_rpcx_are_instances_and_their_data_is_watched() {
    let mut zookeeper = ZooKeeper::start().await;
    let backends = Backend::several(3).await;
    zookeeper.put("/rpcx_test", "rpcx_path").await;
    zookeeper.put("/rpcx_test/orders", "orders").await;
    let node = |backend: &Backend| format!("/rpcx_test/orders/tcp@{}", backend.address);
    for (number, backend) in backends.iter().enumerate() {
        zookeeper.put(&node(backend), &format!("group=a&weight={}", number + 1)).await;
    }
    zookeeper.put("/rpcx_test/orders/quic@127.0.0.1:1", "").await;
    zookeeper.put("/rpcx_test/orders2/tcp@127.0.0.1:1", "").await;
    let gateway = gateway(&zookeeper, "{ layout = \"rpcx\", base = \"rpcx_test\", group = \"a\" }");
    endpoints(&gateway, 3).await;
    let last = shown(&gateway, &backends[2]).await;
    assert_eq!(last["weight"], 3, "{last}");
    assert_eq!(last["labels"], json!({ "group": "a", "network": "tcp", "protocol": "rpcx" }), "{last}");

    zookeeper.put(&node(&backends[2]), "group=a&state=inactive").await;
    until("it gets no requests", async || reached(&gateway, &backends).await[2] == 0).await;
    zookeeper.put(&node(&backends[2]), "group=a").await;
    until("it gets requests", async || reached(&gateway, &backends).await[2] > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_spring_cloud_are_read_as_curator_writes_them() {
    let mut zookeeper = ZooKeeper::start().await;
    let backends = Backend::several(4).await;
    let instance = |backend: &Backend, more: Value| {
        let mut instance = json!({ "name": "orders", "id": "1", "address": backend.address.ip().to_string(),
            "port": backend.address.port(), "sslPort": null, "registrationTimeUTC": 1_700_000_000_000u64,
            "payload": { "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                "id": "application-1", "name": "orders", "metadata": { "version": "2" } },
            "serviceType": "DYNAMIC", "uriSpec": { "parts": [] } });
        for (name, value) in more.as_object().unwrap() {
            instance[name] = value.clone();
        }
        instance.to_string()
    };
    for (number, more) in [
        json!({}),
        json!({ "enabled": false }),
        json!({ "serviceType": "DYNAMIC_SEQUENTIAL", "enabled": true }),
        json!({ "payload": { "metadata": { "instance_status": "OUT_OF_SERVICE" } } }),
    ]
    .into_iter()
    .enumerate()
    {
        let data = instance(&backends[number], more);
        zookeeper.put(&format!("/services/orders/6d7f-{number}"), &data).await;
    }
    let gateway = gateway(&zookeeper, "{ layout = \"curator\" }");
    until("all are there", async || source(&gateway).await["instances"] == 4).await;
    let first = shown(&gateway, &backends[0]).await;
    assert_eq!(first["labels"], json!({ "version": "2" }), "{first}");
    let reached = reached(&gateway, &backends).await;
    assert!(reached[0] > 0 && reached[1] == 0 && reached[2] > 0 && reached[3] == 0, "{reached:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn providers_of_dubbo_are_found_by_interface_and_by_application() {
    let mut zookeeper = ZooKeeper::start().await;
    let backends = Backend::several(3).await;
    let url = |backend: &Backend, query: &str| {
        let url = format!("tri://{}/com.acme.Orders?application=orders&{query}", backend.address);
        url.replace('%', "%25")
            .replace(':', "%3A")
            .replace('/', "%2F")
            .replace('?', "%3F")
            .replace('=', "%3D")
            .replace('&', "%26")
    };
    let providers = "/dubbo/com.acme.Orders/providers";
    for (backend, query) in
        backends.iter().zip(["group=a&weight=50", "group=a&disabled=true", "group=b&weight=100"])
    {
        zookeeper.put(&format!("{providers}/{}", url(backend, query)), "127.0.0.1").await;
    }
    zookeeper.put("/dubbo/com.acme.Orders/configurators", "").await;
    let settings = "{ layout = \"dubbo\", group = \"a\" }";
    let by_interface = with(&zookeeper.registry(settings), "com.acme.Orders");
    until("both are there", async || source(&by_interface).await["instances"] == 2).await;
    let first = shown(&by_interface, &backends[0]).await;
    assert_eq!(first["weight"], 50, "{first}");
    assert_eq!(
        first["labels"],
        json!({ "application": "orders", "group": "a", "protocol": "grpc" }),
        "{first}"
    );

    for backend in &backends {
        let port = backend.address.port();
        let spoken = json!([{ "port": port, "protocol": "rest" }, { "port": 1, "protocol": "dubbo" }]);
        let data = json!({ "name": "orders", "address": "127.0.0.1", "port": 1, "payload": {
            "metadata": { "dubbo.endpoints": spoken.to_string(), "zone": "eu-1" } } });
        zookeeper.put(&format!("/services/orders/127.0.0.1:{port}"), &data.to_string()).await;
    }
    let settings = "{ layout = \"dubbo\", by = \"application\", protocols = [\"rest\"] }";
    let by_application = gateway(&zookeeper, settings);
    endpoints(&by_application, 3).await;
    assert!(reached(&by_application, &backends).await.into_iter().all(|requests| requests > 0));
    let first = shown(&by_application, &backends[0]).await;
    assert_eq!(first["zone"], "eu-1", "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_is_spoken_to_by_tls_with_a_certificate_of_the_gateway() {
    let mut zookeeper = ZooKeeper::start_with_tls().await;
    let backend = Backend::start("one").await;
    zookeeper.put("/orders/one", &backend.address.to_string()).await;
    let gateway = gateway(&zookeeper, "{ layout = \"plain\" }");
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// One of three is lost, then the quorum, with clients that send throughout.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_lost_one_after_the_other_cost_no_request() {
    let mut servers = ZooKeeper::three().await;
    let backends = Backend::several(3).await;
    for (number, backend) in backends[..2].iter().enumerate() {
        servers[0].put(&format!("/orders/{number}"), &backend.address.to_string()).await;
    }
    let addresses: Vec<_> = servers.iter().map(|server| server.between().address.to_string()).collect();
    let registry = zookeeper::registry(&addresses, "", "{ layout = \"plain\" }");
    let gateway = with(&registry, "orders");
    endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);

    servers[0].kill9();
    servers[1].put("/orders/2", &backends[2].address.to_string()).await;
    endpoints(&gateway, 3).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;

    servers[1].kill9();
    becomes(&gateway, "frozen").await;
    traffic.more(200).await;

    servers[1].restart().await;
    becomes(&gateway, "live").await;
    servers[1].delete("/orders/2").await;
    until("the change is heard", async || source(&gateway).await["instances"] == 2).await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_makes_no_sense_is_left_out_and_the_rest_counts() {
    let mut zookeeper = ZooKeeper::start().await;
    let backend = Backend::start("one").await;
    zookeeper.put("/services/orders/good", &json!({ "address": backend.address }).to_string()).await;
    zookeeper.put("/services/orders/bad", "<html>").await;
    let gateway = gateway(&zookeeper, "{ layout = \"json\", base = \"services\" }");
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
    let backend = Backend::start("two").await;
    zookeeper.register("bad", backend.address).await;
    endpoints(&gateway, 2).await;
}
