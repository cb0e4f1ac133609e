//! Every example starts, and those that matter most do their work.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::support::{
    avahi::Avahi,
    backend::Backend,
    bind::Dnsmasq,
    certs::{Certs, Pair},
    component,
    consul::Consul,
    discovery_double::DiscoveryDouble,
    etcd::{Etcd, Version, free_port},
    eureka::Eureka,
    fault_table::Registry as _,
    gateway::{Gateway, until},
    go_zero,
    http2::{self, Http2},
    http2_origin::{Call, Http2Origin},
    kubernetes::{NAMESPACE, slice},
    kubernetes_double::{Kind, KubernetesDouble},
    kubernetes_server::manifests,
    nacos_double::NacosDouble,
    origin::{Origin, Reply},
    redis::Redis,
    rpcx,
    service::{self, CLIENTS},
    tls::{self, TlsOrigin, curl},
    traffic::Traffic,
    zookeeper::ZooKeeper,
};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut examples: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("witgate.toml").exists())
        .collect();
    examples.sort();
    examples
}

/// A copy of an example's folder whose listeners take free ports.
fn copy(example: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(example).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let certificates = folder.path().join("certificates.sh");
    if certificates.exists() {
        let made = Command::new(certificates).current_dir(folder.path()).status().unwrap();
        assert!(made.success());
    }
    edit(folder.path(), |text| {
        let line = |line: &str| match line.trim_start().starts_with("address = \"") {
            true => "address = \"127.0.0.1:0\"".to_owned(),
            false => line.to_owned(),
        };
        let mut text: String = text.lines().map(|l| line(l) + "\n").collect();
        if !text.contains("[admin]") {
            text = format!("{text}\n[admin]\naddress = \"127.0.0.1:0\"\n");
        }
        text
    });
    folder
}

fn edit(folder: &Path, change: impl Fn(String) -> String) {
    let path = folder.join("witgate.toml");
    std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
}

fn example(name: &str) -> tempfile::TempDir {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_starts() {
    let examples = examples();
    assert!(examples.len() >= 2, "{examples:?}");
    for path in examples {
        let mut gateway = Gateway::run(copy(&path));
        assert_eq!(gateway.session_to_admin().get("/readyz").await.status, 200, "{}", path.display());
        gateway.signal("TERM");
        assert_eq!(gateway.exit().await.code(), Some(0), "{}: {}", path.display(), gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_etcd_example_routes_to_a_go_zero_service() {
    let etcd = Etcd::start_version(Version::V34).await;
    let folder = example("etcd");
    edit(folder.path(), |text| text.replace("127.0.0.1:2379", &etcd.endpoint()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("users").await;
    etcd.client().await.put("orders.rpc/7587862094", backend.address.to_string(), None).await.unwrap();
    until("traffic flows", || async { gateway.get("/orders/1").await.text() == "users" }).await;
    until("by name, too", || async { gateway.get("/go-zero/orders.rpc/1").await.text() == "users" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consul_example_routes_to_services_of_the_catalog_and_of_rpcx() {
    let consul = Consul::start().await;
    let folder = example("consul");
    edit(folder.path(), |text| text.replace("127.0.0.1:8500", &consul.between().address.to_string()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    let (ip, port) = (backend.address.ip().to_string(), backend.address.port());
    let service = json!({ "ID": "one", "Name": "orders", "Address": ip, "Port": port });
    consul.put("/v1/agent/service/register", service).await;
    consul.put(&format!("/v1/kv/rpcx_test/Arith/tcp@{}", backend.address), Value::Null).await;
    for path in ["/orders/1", "/svc/orders/1", "/rpcx/Arith/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_discovery_example_routes_to_services_that_registered() {
    let node = DiscoveryDouble::start().await;
    let folder = example("discovery");
    edit(folder.path(), |text| text.replace("http://127.0.0.1:6666", &node.url()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    node.register_with("one", backend.address, json!({}));
    for path in ["/orders/1", "/svc/orders/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_eureka_example_routes_to_applications() {
    let mut eureka = Eureka::start().await;
    let folder = example("eureka");
    edit(folder.path(), |text| text.replace("127.0.0.1:8761", &eureka.address().to_string()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    eureka.register("one", backend.address).await;
    for path in ["/orders/1", "/svc/orders/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nacos_example_routes_to_services() {
    let nacos = NacosDouble::<1>::start().await;
    let folder = example("nacos");
    edit(folder.path(), |text| text.replace("127.0.0.1:8848", &nacos.address().to_string()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    nacos.register_with("orders", backend.address, &[]);
    for path in ["/orders/1", "/svc/orders/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_example_routes_to_services_of_a_namespace() {
    let kubernetes = KubernetesDouble::start().await;
    let folder = example("kubernetes");
    edit(folder.path(), |text| {
        text.replace("http://127.0.0.1:8001", &kubernetes.url()).replace("default", NAMESPACE)
    });
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backend.address], json!({})));
    for path in ["/orders/1", "/svc/orders/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

/// The configuration in the manifest, with what only a pod has in another place: an API server, a token, and a folder.
#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_deployment_routes_to_services_of_a_namespace() {
    let kubernetes = KubernetesDouble::start().await;
    let manifest =
        manifests("deployment.yaml").into_iter().find(|object| object.contains("\nkind: ConfigMap"));
    let manifest = manifest.unwrap();
    let (_, config) = manifest.split_once("witgate.toml: |\n").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "secret").unwrap();
    let config: String =
        config.lines().map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect();
    let config = config
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("0.0.0.0:9901", "127.0.0.1:0")
        .replace("/etc/witgate/admin/token", "token")
        .replace("/var/lib/witgate", "state")
        .replace("\"in-cluster\"", &format!("{{ urls = [\"{}\"] }}", kubernetes.url()))
        .replace("\"default\"", &format!("\"{NAMESPACE}\""));
    std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    kubernetes.put(Kind::Slices, "a", slice("orders", &[backend.address], json!({})));
    until("it is found", || async { gateway.get("/orders/1").await.text() == "one" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dns_example_routes_to_the_first_priority_and_to_addresses() {
    let backends = Backend::several(2).await;
    let port = |number: usize| backends[number].address.port();
    let record = |number: usize| {
        format!("--srv-host=_http._tcp.orders.test,one.test,{},{},1", port(number), (number + 1) * 10)
    };
    let host = "--host-record=one.test,127.0.0.1".to_owned();
    let dnsmasq = Dnsmasq::start(&[record(0), record(1), host]).await;
    let folder = example("dns");
    edit(folder.path(), |text| {
        let text = text.replace("127.0.0.1:5300", &dnsmasq.address.to_string());
        text.replace("port = 8081", &format!("port = {}", port(1)))
    });
    let gateway = Gateway::run(folder);
    for (path, name) in [("/orders/1", "b0"), ("/svc/orders/1", "b0"), ("/host/one/1", "b1")] {
        until(path, || async { gateway.get(path).await.text() == name }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mdns_example_routes_by_names_of_instances_and_by_types() {
    let avahi = Avahi::start("").await;
    let backends = [Backend::everywhere("b0").await, Backend::everywhere("b1").await];
    avahi.serve("_http._tcp", "orders on one", backends[0].address.port(), &["zone=a"]);
    avahi.serve("_billing._tcp", "one", backends[1].address.port(), &[]);
    let folder = example("mdns");
    edit(folder.path(), |text| text.replace("eth0", &avahi.network.cable()));
    let gateway = Gateway::run(folder);
    for (path, name) in [("/orders/1", "b0"), ("/type/billing/1", "b1")] {
        until(path, || async { gateway.get(path).await.text() == name }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_registry_example_follows_a_list_and_believes_no_other_page() {
    let backends = Backend::several(2).await;
    let list = |backends: &[Backend]| {
        let one = |backend: &Backend| json!({ "host": "127.0.0.1", "port": backend.address.port() });
        Value::from_iter(backends.iter().map(one)).to_string()
    };
    let page = Arc::new(Mutex::new(list(&backends[..1])));
    let current = page.clone();
    let server = Origin::replying(move |seen| match seen.path() {
        "/services/orders" => Reply::text(&current.lock().unwrap()),
        _ => Reply::status(404),
    })
    .await;
    let folder = example("http-registry");
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    let plugin = component::of_example("http-registry", "inventory");
    std::fs::write(folder.path().join("plugins/inventory.wasm"), plugin).unwrap();
    edit(folder.path(), |text| text.replace("127.0.0.1:8000", &server.address.to_string()));
    let gateway = Gateway::run(folder);
    service::endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "b0");
    *page.lock().unwrap() = list(&backends);
    service::endpoints(&gateway, 2).await;
    *page.lock().unwrap() = "<html>Sign in</html>".to_owned();
    service::becomes(&gateway, "frozen").await;
    assert_eq!(service::source(&gateway).await["failure"]["kind"], "suspect");
    service::endpoints(&gateway, 2).await;
}

/// A plugin that is built as its README says, with a real Redis that comes, hangs and goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_redis_example_goes_on_whatever_redis_does() {
    let mut redis = Redis::start();
    let folder = example("redis");
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/redis.wasm"), component::of_example("redis", "redis"))
        .unwrap();
    edit(folder.path(), |text| text.replace("127.0.0.1:6379", &redis.address.to_string()));
    let backends = Backend::several(2).await;
    redis.ask(&["HSET", "services:orders", "b0", &backends[0].address.to_string()]);
    let gateway = Gateway::run(folder);
    service::endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    redis.ask(&["HSET", "services:orders", "b1", &backends[1].address.to_string()]);
    service::endpoints(&gateway, 2).await;
    redis.freeze();
    service::becomes(&gateway, "frozen").await;
    traffic.more(200).await;
    redis.restart();
    until("the empty answer is heard", || async { service::source(&gateway).await["instances"] == 0 }).await;
    traffic.more(200).await;
    redis.kill9();
    service::becomes(&gateway, "frozen").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zookeeper_example_routes_to_services_of_spring_cloud_and_of_rpcx() {
    let mut zookeeper = ZooKeeper::start().await;
    let folder = example("zookeeper");
    edit(folder.path(), |text| text.replace("127.0.0.1:2181", &zookeeper.between().address.to_string()));
    let gateway = Gateway::run(folder);
    let backend = Backend::start("one").await;
    let (ip, port) = (backend.address.ip().to_string(), backend.address.port());
    let instance = json!({ "name": "orders", "id": "1", "address": ip, "port": port });
    zookeeper.put("/services/orders/1", &instance.to_string()).await;
    zookeeper.put(&format!("/rpcx_test/Arith/tcp@{}", backend.address), "").await;
    for path in ["/orders/1", "/svc/orders/1", "/rpcx/Arith/1"] {
        until(path, || async { gateway.get(path).await.text() == "one" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_go_zero_example_takes_calls_of_every_kind_to_a_service_in_etcd() {
    let etcd = Etcd::start_version(Version::V35).await;
    let folder = example("go-zero");
    edit(folder.path(), |text| text.replace("127.0.0.1:2379", &etcd.endpoint()));
    // As they are, but for the ports.
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let service = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (service_yaml, client_yaml) = (read("service.yaml"), read("client.yaml"));
    let service_yaml = service_yaml
        .replace("127.0.0.1:2379", &etcd.endpoint())
        .replace("127.0.0.1:8081", &service.to_string());
    let _service = go_zero::Service::with_config("test.rpc", service, &service_yaml).await;
    let gateway = Gateway::run(folder);
    let client_yaml = client_yaml.replace("127.0.0.1:8080", &gateway.address().to_string());
    let report = go_zero::Client::with_config(&client_yaml).ended().await;
    assert_eq!((report.ok(), report.servers["test.rpc"]), (100, 100), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rpcx_example_sends_each_call_to_a_service_in_etcd() {
    let etcd = Etcd::start_version(Version::V35).await;
    let folder = example("rpcx");
    edit(folder.path(), |text| text.replace("127.0.0.1:2379", &etcd.endpoint()));
    let _services = [
        rpcx::Service::start("one", &etcd, &["-meta", "weight=3"]).await,
        rpcx::Service::start("two", &etcd, &[]).await,
    ];
    let gateway = Gateway::run(folder);
    let report = rpcx::Client::run(gateway.address(), &["-calls", "100"]).await;
    report.assert_all_ok(100);
    assert_eq!((report.servers["one"], report.servers["two"]), (75, 25), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grpc_example_finds_a_service_by_the_path_of_a_call() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let health = call.path() == "/grpc.health.v1.Health/Check";
        let path = call.path();
        let Ok(mut stream) = call.reply.send_response(http::Response::new(()), false) else { return };
        let serving = vec![0, 0, 0, 0, 2, 8, 1];
        let _ = stream.send_data(if health { serving } else { path.into_bytes() }.into(), false);
        let ok = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let _ = stream.send_trailers(ok);
    })
    .await;
    let gateway = Gateway::run(example("grpc"));
    gateway.register("shop.Orders", "one", origin.address).await;
    let mut client = Http2::connect(gateway.address()).await;
    let call = |path: &str| {
        let mut request = http2::to(http::Method::POST, path);
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        request
    };
    let answer = client.request(call("/shop.Orders/Get")).await;
    assert_eq!(answer.text(), "/shop.Orders/Get");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let answer = client.request(call("/shop.Users/Get")).await;
    assert_eq!((answer.header("grpc-status"), answer.reason()), (Some("12"), Some("unknown-service")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_custom_selector_example_prefers_its_zone_once_the_plugin_is_dropped() {
    let folder = example("custom-selector");
    let backends = Backend::several(2).await;
    edit(folder.path(), |text| {
        // The addresses of the example are those of two backends, one in each zone.
        text.replace("127.0.0.1:8081", &backends[0].address.to_string())
            .replace("127.0.0.1:8082", &backends[1].address.to_string())
    });
    let gateway = Gateway::run(folder);
    let path = "/";
    let mut session = gateway.session();
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..20 {
        met.insert(session.get(path).await.text());
    }
    assert_eq!(met.len(), 2, "the native round robin meets both: {met:?}");
    gateway.drop_plugin("prefer-zone", &component::of_example("custom-selector", "prefer_zone"));
    until("only the preferred zone answers", || async {
        let mut session = gateway.session();
        let mut met = std::collections::BTreeSet::new();
        for _ in 0..20 {
            met.insert(session.get(path).await.text());
        }
        met.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tls_example_serves_clients_with_a_certificate() {
    let folder = example("tls");
    let at = |file: &str| folder.path().join(file);
    let orders = Pair { certificate: at("orders.crt"), key: at("orders.key") };
    let origin = TlsOrigin::start(tls::server(&orders, Some(&at("ca.crt")), &[])).await;
    edit(folder.path(), |text| text.replace("127.0.0.1:9443", &origin.address.to_string()));
    let [ca, alice, key] = ["ca.crt", "alice.crt", "alice.key"].map(|file| at(file).display().to_string());
    let gateway = Gateway::run(folder);
    let url = format!("https://localhost:{}/", gateway.address().port());
    let said = tls::text(&curl(&["--cacert", &ca, "--cert", &alice, "--key", &key, &url]).await);
    assert!(said.starts_with("orders.internal\n"), "{said}");
    assert!(said.contains("x-forwarded-client-cert: By=spiffe://example/gateway;Hash="), "{said}");
    assert!(said.contains(";Subject=\"CN=alice\";URI=spiffe://example/alice\r\n"), "{said}");
    assert!(!curl(&["--cacert", &ca, &url]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tcp_example_passes_tls_on_by_its_name() {
    let certs = tempfile::tempdir().unwrap();
    let certs = Certs::new(certs.path());
    let shop = certs.of("shop", &["shop.example.com"]);
    let origin = TlsOrigin::start(tls::server(&shop, None, &[])).await;
    let redis = Backend::start("redis").await;
    let folder = example("tcp");
    edit(folder.path(), |text| {
        text.replace("127.0.0.1:9443", &origin.address.to_string())
            .replace("127.0.0.1:6379", &redis.address.to_string())
    });
    let gateway = Gateway::run(folder);
    let ca = certs.ca().display().to_string();
    let ask = async |name: &str| {
        let port = gateway.listeners[0].port();
        let (to, url) = (format!("{name}:{port}:127.0.0.1"), format!("https://{name}:{port}/"));
        curl(&["--cacert", &ca, "--resolve", &to, &url]).await
    };
    assert!(ask("shop.example.com").await.status.success());
    assert_eq!(origin.greeted().len(), 1, "the instance has ended TLS");
    assert!(!ask("other.example.com").await.status.success());
    let mut plain = crate::support::client::Client::connect(gateway.listeners[1]).await;
    assert_eq!(plain.get("/").await.text(), "redis");
}
