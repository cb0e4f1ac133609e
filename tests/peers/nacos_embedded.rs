//! Nacos' client for Node.js and the embedded registry, which speaks its API.

use std::time::Instant;

use http::Method;
use serde_json::{Value, json};

use crate::{
    nacos_naming::{NAME, client, instance},
    support::{
        backend::Backend,
        gateway::Gateway,
        service::{CLIENTS, answers, endpoints},
        session::Session,
        traffic::Traffic,
    },
};

/// Speaks Nacos' API, and sends requests to what registers.
fn gateway() -> Gateway {
    Gateway::start(&format!(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\nnacos = {{}}\n\n\
         [upstream.orders]\nservice = \"{NAME}\"\nregistry = \"memory\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ))
}

/// The gateway sends to instances that come and go, and no request fails.
pub async fn found() -> u64 {
    let gateway = gateway();
    let place = gateway.registrations.unwrap();
    let mut first = instance(place).await;
    endpoints(&gateway, 1).await;
    let labels = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0]["labels"].clone();
    assert_eq!(labels["version"], json!("2"), "{labels}");
    answers(&gateway).await;
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    let second = instance(place).await;
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
    let place = gateway.registrations.unwrap();
    let looks = client(place);
    let tell = async |method: Method, number: usize, body: Value| {
        let request = http::Request::builder().method(method);
        let request = request.uri(format!("/api/v1/services/{NAME}/i{number}"));
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
