//! A service in etcd and the gateway that sends requests to it: where most faults happen.

use std::{future::Future, net::SocketAddr, time::Instant};

use etcd_client::{Client, PutOptions};
use serde_json::Value;

use super::{
    backend::Backend,
    gateway::{Gateway, until},
    traffic::Traffic,
};

/// How many clients send.
pub const CLIENTS: usize = 4;

/// A gateway that sends everything to the service `orders` in etcd. `etcd` is the value of a registry's `etcd =`;
/// `more` goes into the upstream's table. Silence is noticed sooner than by default, as tests are impatient.
pub fn config(etcd: &str, more: &str) -> String {
    let etcd = etcd.replacen('{', "{ connect_timeout_ms = 1000, silence_ms = 1000,", 1);
    format!(
        r#"
[registry.main]
plugin = "etcd"
etcd = {etcd}
settings = {{ layout = "plain", prefix = "/services/" }}

[upstream.orders]
service = "orders"
registry = "main"
selector = "round-robin"
{more}

[[route]]
path = "/"
upstream = "orders"
"#
    )
}

/// Puts an instance into etcd.
pub async fn register(client: &mut Client, id: &str, address: SocketAddr) {
    client.put(format!("/services/orders/{id}"), address.to_string(), None).await.unwrap();
}

/// Puts an instance into etcd that is gone after so many seconds, as one that sends no heartbeat.
pub async fn register_for(client: &mut Client, id: &str, address: SocketAddr, seconds: i64) {
    let lease = client.lease_grant(seconds, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put(format!("/services/orders/{id}"), address.to_string(), Some(options)).await.unwrap();
}

/// Takes an instance out of etcd.
pub async fn withdraw(client: &mut Client, id: &str) {
    client.delete(format!("/services/orders/{id}"), None).await.unwrap();
}

/// Two instances in etcd, a gateway that has found them, and clients that send.
pub struct Service {
    pub gateway: Gateway,
    pub backends: Vec<Backend>,
    pub traffic: Traffic,
}

impl Service {
    /// `client` writes to the etcd that `etcd` names.
    pub async fn start(mut client: Client, etcd: &str) -> Self {
        let backends = Backend::several(2).await;
        for (number, backend) in backends.iter().enumerate() {
            register(&mut client, &format!("b{number}"), backend.address).await;
        }
        Self::with(backends, &config(etcd, "")).await
    }

    /// Waits until all of these get traffic.
    pub async fn with(backends: Vec<Backend>, config: &str) -> Self {
        Self::on(Gateway::start(config), backends).await
    }

    /// The same with a gateway that runs already.
    pub async fn on(gateway: Gateway, backends: Vec<Backend>) -> Self {
        let count = backends.len();
        endpoints(&gateway, count).await;
        answers(&gateway).await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        traffic.more(50).await;
        Self { gateway, backends, traffic }
    }

    /// Waits until the list has this origin, with requests going on all the time.
    pub async fn becomes(&self, origin: &str) {
        becomes(&self.gateway, origin).await;
        self.traffic.more(50).await;
    }

    /// Registers one more instance as soon as `client` is there, and says how long after that a request reaches it:
    /// the gateway has the right list.
    pub async fn reaches_a_new_one(&mut self, client: impl Future<Output = Client>) -> std::time::Duration {
        let backend = Backend::start("new").await;
        let mut client = client.await;
        register(&mut client, "new", backend.address).await;
        let since = Instant::now();
        self.backends.push(backend);
        self.traffic.reaches("new", since).await
    }
}

/// The first source of the upstream.
pub async fn source(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders?endpoints=false").await["sources"][0].clone()
}

/// Waits until the list has this origin.
pub async fn becomes(gateway: &Gateway, origin: &str) {
    until(origin, || async { source(gateway).await["origin"] == origin }).await;
}

/// Waits until requests are answered, whichever worker takes their connection: each has its own view of the list.
pub async fn answers(gateway: &Gateway) {
    until("requests are answered", || async {
        for _ in 0..16 {
            if !gateway.get("/").await.status.is_success() {
                return false;
            }
        }
        true
    })
    .await;
}

/// Waits until every worker picks from so many endpoints.
pub async fn endpoints(gateway: &Gateway, count: usize) {
    until(&format!("{count} endpoints"), || async {
        gateway.api("/api/v1/upstreams/orders?endpoints=false").await["endpoint_count"] == count
    })
    .await;
}
