//! Nacos' client for Node.js and the embedded registry, which speaks its API. The program is in `tests/peers/nacos-naming`.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Instant,
};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    etcd::free_port,
    gateway::Gateway,
    peer::{self, Peer},
    service::{CLIENTS, endpoints},
    session::Session,
    traffic::Traffic,
};

const NAME: &str = "orders";

struct Naming;

impl Peer for Naming {
    const PROGRAM: &str = "nacos-naming";
    type Report = Found;

    fn command(role: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(Self::program().join("main.mjs")).args([role, "-with-stdin"]).stdin(Stdio::piped());
        command
    }
}

/// What its client has found.
#[derive(Debug, Clone, Default, serde::Deserialize)]
struct Found {
    instances: Vec<String>,
    answers: Vec<String>,
}

/// Speaks Nacos' API, and sends requests to what registers.
fn gateway() -> Gateway {
    Gateway::start(&format!(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\nnacos = {{}}\n\n\
         [upstream.orders]\nservice = \"{NAME}\"\nregistry = \"memory\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ))
}

/// An instance that registers itself.
async fn instance(gateway: &Gateway) -> peer::Service<Naming> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Naming::command("server");
    command.args([&gateway.registrations.unwrap().to_string(), NAME, &address.port().to_string()]);
    peer::Service::run(NAME, address, command, tempfile::tempdir().unwrap()).await
}

/// The gateway sends to instances that come and go, and no request fails.
pub async fn found() -> u64 {
    let gateway = gateway();
    let mut first = instance(&gateway).await;
    endpoints(&gateway, 1).await;
    let labels = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0]["labels"].clone();
    assert_eq!(labels["version"], json!("2"), "{labels}");
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    let second = instance(&gateway).await;
    endpoints(&gateway, 2).await;
    traffic.reaches(&second.address.port().to_string(), Instant::now()).await;
    first.stop().await;
    endpoints(&gateway, 1).await;
    traffic.more(100).await;
    traffic.stop().await.none_failed().sent
}

/// It calls what registered otherwise, each until that is gone. Of a service that has nobody left it keeps the last list.
pub async fn finds() -> u64 {
    let (gateway, backends) = (gateway(), Backend::several(2).await);
    let mut command = Naming::command("client");
    command.args([&gateway.registrations.unwrap().to_string(), NAME]);
    let looks = peer::Client::<Naming>::spawn(command, tempfile::tempdir().unwrap());
    let tell = async |method: Method, number: usize, body: Value| {
        let request = http::Request::builder().method(method);
        let request = request.uri(format!("/api/v1/services/{NAME}/i{number}"));
        let place = gateway.registrations.unwrap();
        assert!(Session::new(place).send(request, body.to_string().into()).await.status.is_success());
    };
    for (number, backend) in backends.iter().enumerate() {
        tell(Method::PUT, number, json!({ "address": backend.address, "ttl_seconds": 0 })).await;
    }
    looks.until("both are found and answer", |found| found.answers.len() == 2).await;
    let mut addresses: Vec<_> = backends.iter().map(|backend| backend.address.to_string()).collect();
    addresses.sort();
    assert_eq!(looks.report().instances, addresses);
    tell(Method::DELETE, 0, json!(null)).await;
    looks.until("one is gone", |found| found.answers == ["b1"]).await;
    backends.iter().map(|backend| backend.requests() as u64).sum()
}
