//! Announcing instances: `witgate register` with the plugin `nacos` and doubles of its servers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    register::{WAITS, flags},
    support::{
        backend::Backend,
        fault_table::Registry as _,
        gateway::{Gateway, until},
        nacos_double::{NacosDouble, table},
        registering::Registering,
    },
};

async fn until_known<const API: u8>(double: &NacosDouble<API>, count: usize) -> Vec<Value> {
    until(&format!("{count} are known"), async || double.instances("orders").len() == count).await;
    double.instances("orders")
}

/// The requests of this kind that came.
fn asked<const API: u8>(double: &NacosDouble<API>, kind: &str) -> usize {
    double.between().seen().iter().filter(|seen| seen.line().contains(kind)).count()
}

async fn an_instance_is_there_while_its_command_runs<const API: u8>(beat: &str) {
    let (double, backend) = (NacosDouble::<API>::start_locked().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = double.registry(", ttl_seconds = 6");
    let gateway = Gateway::start(&format!(
        "{config}\n[upstream.orders]\nservice = 'orders'\nregistry = 'main'\n[[route]]\nupstream = 'orders'\n"
    ));
    // An hour: the command is stopped by whoever asks again.
    let more = ["--weight", "3", "--label", "zone=a", "--label", "version=2", "--stop-delay-ms", "3600000"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));
    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    let endpoint = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0].clone();
    assert_eq!((&endpoint["weight"], &endpoint["zone"]), (&json!(3), &json!("a")), "{endpoint}");
    let known = until_known(&double, 1).await.remove(0);
    assert_eq!((&known["ip"], &known["port"]), (&json!("127.0.0.1"), &json!(backend.address.port())));
    assert_eq!(
        (&known["weight"], &known["enabled"], &known["ephemeral"]),
        (&json!(3.0), &json!(true), &json!(true))
    );
    let metadata = json!({ "zone": "a", "version": "2", "preserved.heart.beat.interval": "1000",
        "preserved.heart.beat.timeout": "3000", "preserved.ip.delete.timeout": "6000" });
    assert_eq!(known["metadata"], metadata, "{known}");
    let since = Instant::now();
    until("it says again and again that it lives", async || asked(&double, beat) > 3).await;
    assert!(since.elapsed() < Duration::from_secs(15));

    registering.command().await;
    registering.signal("TERM");
    until_known(&double, 0).await;
    assert_eq!(registering.signals(), "", "its command was stopped before");
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(said.contains("Announced") && said.contains("Withdrawn"), "{said}");
    let password = double.password().unwrap();
    assert!(!said.contains(&password) && !gateway.log().contains(&password), "{said}");
}

#[tokio::test]
async fn an_instance_is_there_while_its_command_runs_by_version_1() {
    an_instance_is_there_while_its_command_runs::<1>("PUT /nacos/v1/ns/instance/beat?").await;
}

#[tokio::test]
async fn an_instance_is_there_while_its_command_runs_by_version_3() {
    an_instance_is_there_while_its_command_runs::<3>("&heartBeat=true").await;
}

#[tokio::test]
async fn a_server_that_has_forgotten_an_instance_is_told_again_and_another_where_one_is_gone() {
    let (mut one, mut other) = (NacosDouble::<3>::start().await, NacosDouble::<3>::start().await);
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = table(&[&one, &other], ", ttl_seconds = 6");
    let mut registering = Registering::start(&config, &flags(&address, &["--weight", "7"]), None);
    until_known(&one, 1).await;
    one.restart_empty().await;
    assert_eq!(until_known(&one, 1).await[0]["weight"], 7.0);
    one.kill9();
    assert_eq!(until_known(&other, 1).await[0]["weight"], 7.0);
    registering.signal("TERM");
    until_known(&other, 0).await;
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    other.kill9();
}

#[tokio::test]
async fn what_is_announced_for_rpcx_is_what_its_clients_read() {
    let (double, backend) = (NacosDouble::<1>::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = double.registry(", layout = \"rpcx\"");
    let more = ["--weight", "0", "--label", "group=a"];
    let _registering = Registering::start(&config, &flags(&address, &more), None);
    let known = until_known(&double, 1).await.remove(0);
    assert_eq!(known["metadata"], json!({ "network": "tcp", "group": "a", "state": "inactive" }), "{known}");
}
