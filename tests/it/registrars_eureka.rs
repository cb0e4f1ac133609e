//! Announcing instances: `witgate register` with the plugin `eureka` and real servers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    register::{WAITS, flags},
    support::{
        backend::Backend,
        eureka::Eureka,
        fault_table::Registry as _,
        gateway::{Gateway, until},
        registering::Registering,
    },
};

const SETTINGS: &str = "{ ttl_seconds = 3, poll_seconds = 1 }";

async fn until_known(eureka: &Eureka, count: usize) -> Vec<Value> {
    until(&format!("{count} are known"), async || eureka.instances("ORDERS").await.len() == count).await;
    eureka.instances("ORDERS").await
}

/// When it was renewed last, by the clock of the server: lists come out of a cache, this does not.
async fn renewed(eureka: &Eureka, address: &str) -> i64 {
    let id = address.replace(':', ":orders:");
    let found = eureka.get(&format!("/apps/ORDERS/{id}")).await;
    found["instance"]["leaseInfo"]["lastRenewalTimestamp"].as_i64().unwrap()
}

#[tokio::test]
async fn an_instance_is_up_while_its_command_runs_and_is_withdrawn_before_that_is_stopped() {
    // Asks for a password.
    let eureka = <Eureka as crate::support::fault_table::Registry>::start().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = eureka.registry(SETTINGS);
    let gateway = Gateway::start(&format!(
        "{config}\n[upstream.orders]\nservice = 'orders'\nregistry = 'main'\n[[route]]\nupstream = 'orders'\n"
    ));
    // An hour: the command is stopped by whoever asks again.
    let more = ["--weight", "3", "--label", "zone=a", "--label", "version=2", "--stop-delay-ms", "3600000"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));
    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    let endpoint = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0].clone();
    assert_eq!((&endpoint["weight"], &endpoint["zone"]), (&json!(3), &json!("a")), "{endpoint}");
    let known = until_known(&eureka, 1).await.remove(0);
    assert_eq!((&known["app"], &known["status"]), (&json!("ORDERS"), &json!("UP")), "{known}");
    assert_eq!(known["instanceId"], format!("127.0.0.1:orders:{}", backend.address.port()));
    assert_eq!((&known["vipAddress"], &known["leaseInfo"]["durationInSecs"]), (&json!("orders"), &json!(3)));
    assert_eq!(known["metadata"], json!({ "zone": "a", "version": "2", "weight": "3" }));
    let (first, since) = (renewed(&eureka, &address).await, Instant::now());
    until("it is renewed again and again", async || renewed(&eureka, &address).await > first + 3_000).await;
    assert!(since.elapsed() < Duration::from_secs(15));

    registering.command().await;
    registering.signal("TERM");
    until_known(&eureka, 0).await;
    assert_eq!(registering.signals(), "", "its command was stopped before");
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(said.contains("Announced") && said.contains("Withdrawn"), "{said}");
}

#[tokio::test]
async fn one_that_takes_no_requests_is_out_of_service() {
    let (eureka, backend) = (Eureka::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = eureka.registry("{ secure = true }");
    let _registering = Registering::start(&config, &flags(&address, &["--weight", "0"]), None);
    let known = until_known(&eureka, 1).await.remove(0);
    assert_eq!((&known["status"], &known["port"]["@enabled"]), (&json!("OUT_OF_SERVICE"), &json!("false")));
    assert_eq!(known["securePort"], json!({ "$": backend.address.port(), "@enabled": "true" }), "{known}");
}

#[tokio::test]
async fn a_server_that_has_forgotten_an_instance_is_told_again_and_another_where_one_is_gone() {
    let [mut one, mut other] = Eureka::two().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let urls = [one.url(), other.url()];
    let config = format!(
        "[registry.main]\nplugin = \"eureka\"\nhttp = {{ urls = {urls:?} }}\nsettings = {SETTINGS}\n"
    );
    let mut registering = Registering::start(&config, &flags(&address, &[]), None);
    until_known(&one, 1).await;
    until_known(&other, 1).await;
    other.kill9();
    one.restart_empty().await;
    until_known(&one, 1).await;
    one.kill9();
    other.restart_empty().await;
    until_known(&other, 1).await;
    registering.signal("TERM");
    until_known(&other, 0).await;
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
}
