//! The embedded registry as Nacos: who beats gets requests. A client that others wrote is among the peers.

use std::time::Instant;

use http::{Method, Request};
use serde_json::Value;

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    nacos,
    registering::Registering,
    service::{CLIENTS, endpoints},
    session::Session,
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn who_beats_gets_requests_and_who_stops_gets_none() {
    let backends = Backend::several(2).await;
    let gateway = Gateway::start(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\nnacos = {}\n\n\
         [upstream.orders]\nservice = \"shop@@orders\"\nregistry = \"memory\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n",
    );
    let place = gateway.registrations.unwrap();
    let call = |method: Method, path: &str, number: usize, more: &str| {
        let address = backends[number].address;
        let (ip, port) = (address.ip(), address.port());
        let uri = format!(
            "/nacos/v1/ns/{path}?serviceName=shop%40%40orders&ip={ip}&port={port}&clusterName=c{number}{more}"
        );
        let request = Request::builder().method(method).uri(uri);
        async move { Session::new(place).send(request, Default::default()).await.text().to_owned() }
    };
    let long = "&metadata=preserved.heart.beat.timeout=3600000,preserved.ip.delete.timeout=7200000";
    assert_eq!(call(Method::POST, "instance", 0, long).await, "ok");
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    let short = "&metadata=preserved.heart.beat.timeout=1000,preserved.ip.delete.timeout=3600000";
    assert_eq!(call(Method::POST, "instance", 1, short).await, "ok");
    traffic.reaches("b1", Instant::now()).await;
    until("it is unwell without a beat", || async {
        let ejected = gateway.api("/api/v1/upstreams/orders").await["ejected"].clone();
        ejected[0]["reason"] == "unwell"
    })
    .await;
    let said: Value = serde_json::from_str(&call(Method::PUT, "instance/beat", 1, "").await).unwrap();
    assert_eq!(said["code"], 10200, "{said}");
    traffic.reaches("b1", Instant::now()).await;
    assert_eq!(call(Method::DELETE, "instance", 1, "").await, "ok");
    endpoints(&gateway, 1).await;
    traffic.more(100).await;
    traffic.stop().await.none_failed();
}

/// Who is asked for a token logs in with it as the password.
#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_of_nacos_reads_it_and_announces_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "opensesame").unwrap();
    let server = Gateway::start(&format!(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\ntoken_file = {token:?}\nnacos = {{}}\n\n\
         [[route]]\npath = \"/svc/{{service}}\"\nregistry = \"memory\"\n"
    ));
    let registry = nacos::registry(&[server.registrations.unwrap()], "v1", Some(&token), ", ttl_seconds = 6");
    let gateway = Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ));
    let backend = Backend::start("one").await;
    let address = backend.address.to_string();
    let flags = ["--registry", "main", "--service", "orders", "--address", &address, "--weight", "3"];
    let mut registering = Registering::start(&registry, &flags, None);
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
    until("its own routes find it", || async { server.get("/svc/orders").await.text() == "one" }).await;
    assert_eq!(gateway.api("/api/v1/upstreams/orders").await["endpoints"][0]["weight"], 3);
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    let left = server.api("/api/v1/services/orders").await;
    assert_eq!(left["instances"].as_array().map(Vec::len), Some(0), "{left}");
}
