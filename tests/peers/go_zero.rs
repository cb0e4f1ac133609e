//! go-zero with etcd. What it does behind the gateway is tested by `./dev test`; here are the two ways of finding each other.

use std::collections::BTreeMap;

use crate::support::{
    etcd::Etcd,
    gateway::Gateway,
    go_zero::{Client, SERVICE, Service},
    registering::Registering,
    service::endpoints,
};

const KEY: &str = "orders.rpc";

fn registry(etcd: &Etcd) -> String {
    format!(
        "[registry.main]\nplugin = \"etcd\"\netcd = {}\nsettings = {{ layout = \"go-zero\" }}\n",
        etcd.toml(None)
    )
}

pub async fn found() -> u64 {
    let etcd = Etcd::start().await;
    let _services = [
        Service::start("a", Some((&etcd, KEY)), "").await,
        Service::start("b", Some((&etcd, KEY)), "").await,
    ];
    let gateway = Gateway::start(&format!(
        "{}[upstream.orders]\nservice = \"{KEY}\"\nregistry = \"main\"\n[[route]]\npath = \"/{SERVICE}\"\n\
         upstream = \"orders\"\n",
        registry(&etcd)
    ));
    endpoints(&gateway, 2).await;
    let client = Client::start(gateway.address(), "");
    client.until("both have answered", |report| report.servers.len() == 2).await;
    well(client.stop().await.statuses)
}

pub async fn finds() -> u64 {
    let etcd = Etcd::start().await;
    let service = Service::start("announced", None, "").await;
    let address = service.address.to_string();
    let flags = ["--registry", "main", "--service", KEY, "--address", &address];
    let mut registering = Registering::start(&registry(&etcd), &flags, None);
    registering.told("Announced").await;
    let client = Client::with_config(&format!(
        "Etcd: {{ Hosts: [\"{}\"], Key: {KEY} }}\nTimeout: 60000\nCalls: 0\n",
        etcd.endpoint()
    ));
    client.more(100).await;
    let calls = well(client.stop().await.statuses);
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    calls
}

/// How many calls were made, all of which went well.
pub fn well(statuses: BTreeMap<String, u64>) -> u64 {
    assert_eq!(statuses.keys().collect::<Vec<_>>(), ["OK"], "{statuses:?}");
    statuses["OK"]
}
