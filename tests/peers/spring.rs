//! Spring Cloud: services that register themselves, and its `DiscoveryClient`. The program is in `tests/peers/spring`.

use std::{net::SocketAddr, process::Command, time::Instant};

use serde_json::json;

use crate::support::{
    backend::Backend,
    consul::{self, Consul},
    etcd::free_port,
    eureka::Eureka,
    gateway::Gateway,
    peer::{self, Peer},
    registering::Registering,
    service::{CLIENTS, endpoints},
    traffic::Traffic,
    zookeeper::ZooKeeper,
};

const NAME: &str = "orders";

struct Spring;

impl Peer for Spring {
    const PROGRAM: &str = "spring";
    type Report = Found;
}

/// What its client has found.
#[derive(Debug, Clone, Default, serde::Deserialize)]
struct Found {
    instances: Vec<String>,
    answers: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub enum Registry {
    ZooKeeper,
    Consul,
    Eureka,
    /// That of a gateway, as Eureka.
    Embedded,
    /// The same, as Consul.
    EmbeddedConsul,
}

/// A server that runs.
enum Server {
    ZooKeeper(ZooKeeper),
    Consul(Consul),
    Eureka(Eureka),
    Embedded(Gateway),
    EmbeddedConsul(Gateway),
}

impl Server {
    async fn start(registry: Registry) -> Self {
        match registry {
            Registry::ZooKeeper => Self::ZooKeeper(ZooKeeper::start().await),
            Registry::Consul => Self::Consul(Consul::start().await),
            Registry::Eureka => Self::Eureka(Eureka::start().await),
            Registry::Embedded => Self::Embedded(Self::embedded("eureka")),
            Registry::EmbeddedConsul => Self::EmbeddedConsul(Self::embedded("consul")),
        }
    }

    /// A gateway that speaks the API of this registry.
    fn embedded(registry: &str) -> Gateway {
        Gateway::start(&format!(
            "[admin.registrations]\naddress = \"127.0.0.1:0\"\n{registry} = {{}}\n\n\
             [[route]]\npath = \"/svc/{{service}}\"\nregistry = \"memory\"\n",
        ))
    }

    /// As the gateway is told of it.
    fn toml(&self) -> String {
        match self {
            Self::ZooKeeper(zookeeper) => zookeeper.registry("{ layout = \"curator\" }"),
            Self::Consul(consul) => consul.registry("{}"),
            Self::Eureka(eureka) => eureka.registry("{ poll_seconds = 1 }"),
            Self::Embedded(_) => format!(
                "[registry.main]\nplugin = \"eureka\"\nhttp = {{ urls = [\"http://{}/eureka\"] }}\n\
                 settings = {{ poll_seconds = 1 }}\n",
                self.address().1
            ),
            Self::EmbeddedConsul(_) => {
                let urls = format!("{{ urls = [\"http://{}\"] }}", self.address().1);
                consul::registry(&urls, "{}")
            }
        }
    }

    /// The program in this role, told of the server and the service.
    fn command(&self, role: &str) -> Command {
        let (registry, address) = self.address();
        let mut command = Spring::command(role);
        command.args([registry, &address.to_string(), NAME]);
        command
    }

    /// What it speaks, and where.
    fn address(&self) -> (&'static str, SocketAddr) {
        match self {
            Self::ZooKeeper(zookeeper) => ("zookeeper", zookeeper.address()),
            Self::Consul(consul) => ("consul", consul.address()),
            Self::Eureka(eureka) => ("eureka", eureka.address()),
            Self::Embedded(gateway) => ("eureka", gateway.registrations.unwrap()),
            Self::EmbeddedConsul(gateway) => ("consul", gateway.registrations.unwrap()),
        }
    }

    /// An instance that has registered itself, or is about to.
    async fn instance(&self) -> peer::Service<Spring> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = self.command("server");
        command.arg(address.port().to_string());
        for registry in ["zookeeper", "consul"] {
            command.arg(format!("spring.cloud.{registry}.discovery.metadata.version=2"));
        }
        command.arg("eureka.instance.metadata-map.version=2");
        peer::Service::run(NAME, address, command, tempfile::tempdir().unwrap()).await
    }
}

/// The gateway sends to instances that come and go, and no request fails.
pub async fn found(registry: Registry) -> u64 {
    let server = Server::start(registry).await;
    let mut first = server.instance().await;
    let gateway = Gateway::start(&format!(
        "{}\n[upstream.orders]\nservice = \"{NAME}\"\nregistry = \"main\"\n[[route]]\nupstream = \"orders\"\n",
        server.toml()
    ));
    endpoints(&gateway, 1).await;
    let labels = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0]["labels"].clone();
    assert_eq!(labels["version"], json!("2"), "{labels}");

    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    let second = server.instance().await;
    endpoints(&gateway, 2).await;
    traffic.reaches(&second.address.port().to_string(), Instant::now()).await;
    first.stop().await;
    endpoints(&gateway, 1).await;
    traffic.more(100).await;
    traffic.stop().await.none_failed().sent
}

/// A service of Spring Cloud calls what `witgate register` announces, until that is withdrawn.
pub async fn finds(registry: Registry) -> u64 {
    let server = Server::start(registry).await;
    let backend = Backend::start("announced").await;
    let address = backend.address.to_string();
    let looks = peer::Client::<Spring>::spawn(server.command("client"), tempfile::tempdir().unwrap());
    let flags = ["--registry", "main", "--service", NAME, "--address", &address];
    let mut registering = Registering::start(&server.toml(), &flags, None);
    looks.until("it is found and answers", |found| found.answers == ["announced"]).await;
    assert_eq!(looks.report().instances, [address]);
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    let gone = |found: &Found| found.instances.is_empty() && found.answers.is_empty();
    looks.until("it is gone", gone).await;
    backend.requests() as u64
}
