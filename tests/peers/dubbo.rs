//! Dubbo: providers that register themselves in ZooKeeper, by interface and by application, and consumers that know nothing but the
//! gateway's address. The program is in `tests/peers/dubbo`.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::support::{
    etcd::free_port,
    gateway::Gateway,
    peer::{self, Peer},
    service::endpoints,
    zookeeper::ZooKeeper,
};

const APPLICATION: &str = "shop";
const INTERFACE: &str = "peer.Orders";
const CALLS: u64 = 200;

struct Dubbo;

impl Peer for Dubbo {
    const PROGRAM: &str = "dubbo";
    type Report = Report;
}

/// What became of calls.
#[derive(Debug, Clone, Default, serde::Deserialize)]
struct Report {
    /// Those that went well, by the instance that answered.
    servers: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

async fn provider(zookeeper: &ZooKeeper, protocol: &str, weight: &str) -> peer::Service<Dubbo> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Dubbo::command("server");
    command.args([
        &zookeeper.address().to_string(),
        APPLICATION,
        protocol,
        &address.port().to_string(),
        weight,
    ]);
    peer::Service::run(APPLICATION, address, command, tempfile::tempdir().unwrap()).await
}

/// Providers are found by what they are known as, and calls of a consumer reach all of them.
pub async fn found(by: &str, protocol: &str) -> u64 {
    let zookeeper = ZooKeeper::start().await;
    let providers =
        [provider(&zookeeper, protocol, "100").await, provider(&zookeeper, protocol, "100").await];
    let service = if by == "interface" { INTERFACE } else { APPLICATION };
    let carried = if protocol == "dubbo" { "tcp" } else { "http" };
    // Its consumers take the machine's own address for that of the loopback interface.
    let gateway = Gateway::start(&format!(
        "[[listener]]\nname = \"dubbo\"\naddress = \"0.0.0.0:0\"\nprotocol = \"{carried}\"\n{}\n\
         [upstream.orders]\nservice = \"{service}\"\nregistry = \"main\"\n\
         [[route]]\nlistener = \"dubbo\"\nupstream = \"orders\"\n",
        zookeeper.registry(&format!("{{ layout = \"dubbo\", by = \"{by}\", protocols = [\"{protocol}\"] }}"))
    ));
    endpoints(&gateway, providers.len()).await;
    // One connection of the protocol `dubbo` carries all calls of a consumer, and an endpoint is chosen for each.
    let consumers = if protocol == "dubbo" { 8 } else { 1 };
    let mut servers = BTreeMap::<String, u64>::new();
    for _ in 0..consumers {
        let mut command = Dubbo::command("client");
        let url = format!("{protocol}://127.0.0.1:{}", gateway.listeners[1].port());
        command.args([&url, &(CALLS / consumers).to_string()]);
        let consumer = peer::Client::<Dubbo>::spawn(command, tempfile::tempdir().unwrap());
        let report = consumer.ended().await;
        assert_eq!(report.errors, BTreeMap::new());
        for (server, calls) in report.servers {
            *servers.entry(server).or_default() += calls;
        }
    }
    assert_eq!(servers.values().sum::<u64>(), CALLS, "{servers:?}");
    assert_eq!(servers.len(), providers.len(), "{servers:?}");
    CALLS
}
