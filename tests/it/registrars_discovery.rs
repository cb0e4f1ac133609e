//! Announcing instances: `witgate register` with the plugin `discovery`, at nodes of that registry and inside a gateway
//! that speaks for one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    register::{WAITS, flags},
    support::{
        backend::Backend,
        discovery_double::{DiscoveryDouble, registry},
        fault_table::Registry as _,
        gateway::{Gateway, until},
        registering::Registering,
        tampered::Tampering,
    },
};

/// The instances of `orders` that a node knows.
fn known(node: &DiscoveryDouble) -> Vec<Value> {
    node.instances("orders-dev")
}

async fn until_known(node: &DiscoveryDouble, count: usize) {
    until(&format!("{count} are known"), async || known(node).len() == count).await;
}

#[tokio::test]
async fn an_instance_is_known_to_every_node_and_withdrawn_before_its_command_is_stopped() {
    let nodes = [DiscoveryDouble::start().await, DiscoveryDouble::start().await];
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = registry(&[&nodes[0], &nodes[1]], "");
    let gateway = Gateway::start(&format!(
        "{config}\n[upstream.orders]\nservice = 'orders'\nregistry = 'main'\n[[route]]\nupstream = 'orders'\n"
    ));
    // An hour: the command is stopped by whoever asks again.
    let more = ["--label", "protocol=http", "--label", "version=2", "--stop-delay-ms", "3600000"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));
    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    for node in &nodes {
        until_known(node, 1).await;
        let found = &known(node)[0];
        assert_eq!(
            (&found["hostname"], &found["addrs"]),
            (&json!(address), &json!([format!("http://{address}")]))
        );
        assert_eq!((&found["status"], &found["version"]), (&json!(1), &json!("2")));
    }
    registering.command().await;
    registering.signal("TERM");
    for node in &nodes {
        until_known(node, 0).await;
    }
    assert_eq!(registering.signals(), "", "its command was stopped before");
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(said.contains("Announced") && said.contains("Withdrawn"), "{said}");
}

/// Both is done with a heartbeat, which comes every 30 seconds.
#[tokio::test]
async fn it_is_renewed_and_a_node_that_forgot_it_is_told_again_while_another_is_gone() {
    let mut nodes = [DiscoveryDouble::start().await, DiscoveryDouble::start().await];
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = registry(&[&nodes[0], &nodes[1]], "");
    let registering = Registering::start(&config, &flags(&address, &["--weight", "0"]), None);
    registering.told("Announced").await;
    assert_eq!(known(&nodes[1])[0]["status"], 2);
    let before = known(&nodes[1])[0]["renew_timestamp"].clone();
    nodes[0].kill9();
    let limit = Instant::now() + Duration::from_secs(60);
    let again = async || known(&nodes[1])[0]["renew_timestamp"] != before;
    while !again().await {
        assert!(Instant::now() < limit, "it is not renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nodes[1].restart_empty().await;
    assert!(known(&nodes[1]).is_empty());
    let limit = Instant::now() + Duration::from_secs(60);
    while known(&nodes[1]).is_empty() {
        assert!(Instant::now() < limit, "it is not told again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(registering.said().matches("Announcement failed").count(), 0, "one node is enough");
}

#[tokio::test]
async fn a_node_that_is_frozen_or_gone_holds_nothing_up_and_is_not_told_to_have_heard() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    for frozen in [true, false] {
        let mut node = DiscoveryDouble::start().await;
        let flags = flags(&address, &["--stop-delay-ms", "0"]);
        let mut registering = Registering::start(&registry(&[&node], ""), &flags, Some(WAITS));
        registering.told("Announced").await;
        registering.command().await;
        match frozen {
            true => node.freeze(),
            false => node.kill9(),
        }
        let asked = Instant::now();
        registering.signal("TERM");
        let (code, said) = registering.exit().await;
        assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}: {said}", asked.elapsed());
        assert!(said.contains("Withdrawal failed") && !said.contains("Withdrawn"), "{said}");
    }
}

/// All of them have five seconds, and two that say nothing do not use these up.
#[tokio::test]
async fn a_node_hears_of_the_withdrawal_though_others_are_frozen() {
    let nodes =
        [DiscoveryDouble::start().await, DiscoveryDouble::start().await, DiscoveryDouble::start().await];
    let backend = Backend::start("beside").await;
    let config = registry(&nodes.each_ref(), "");
    let address = backend.address.to_string();
    let mut registering =
        Registering::start(&config, &flags(&address, &["--stop-delay-ms", "0"]), Some(WAITS));
    registering.told("Announced").await;
    registering.command().await;
    nodes[0].freeze();
    nodes[1].freeze();
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(7), "{said}");
    assert_eq!(nodes.each_ref().map(|node| known(node).len()), [1, 1, 0], "{said}");
    assert!(said.contains("Withdrawal failed") && !said.contains("Withdrawn"), "{said}");
}

/// The head of an answer is no answer, and one that comes byte by byte has no more time than another.
#[tokio::test]
async fn a_node_whose_answers_are_slow_holds_nothing_up() {
    let nodes = [DiscoveryDouble::start().await, DiscoveryDouble::start().await];
    let backend = Backend::start("beside").await;
    nodes[0].between().does(Tampering::Slow);
    let config = registry(&nodes.each_ref(), "");
    let address = backend.address.to_string();
    let mut registering =
        Registering::start(&config, &flags(&address, &["--stop-delay-ms", "0"]), Some(WAITS));
    registering.told("Announced").await;
    registering.command().await;
    let asked = Instant::now();
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("Withdrawal failed") && said.contains("it takes too long"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}: {said}", asked.elapsed());
    until_known(&nodes[1], 0).await;
}

#[tokio::test]
async fn a_node_that_asks_for_a_token_and_one_that_refuses_what_it_is_told_are_told_of() {
    let node = <DiscoveryDouble as crate::support::fault_table::Registry>::start().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let registering = Registering::start(&registry(&[&node], ""), &flags(&address, &[]), None);
    let told = registering.told("Announcement failed, trying again").await;
    assert!(told.contains("answered 401"), "{told}");
    let registering = Registering::start(&node.toml(), &flags(&address, &[]), None);
    registering.told("Announced").await;
    until_known(&node, 1).await;
}

#[tokio::test]
async fn a_gateway_that_speaks_for_that_registry_takes_it() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let gateway = Gateway::start(
        "[admin.registrations]\naddress = '127.0.0.1:0'\ndiscovery = { env = 'dev' }\n\n\
         [upstream.orders]\nservice = 'orders'\nregistry = 'memory'\n[[route]]\nupstream = 'orders'\n",
    );
    let place = gateway.registrations.unwrap();
    let config = format!(
        "[registry.main]\nplugin = 'discovery'\nhttp = {{ urls = ['http://{place}'] }}\nsettings = {{ env = 'dev' }}\n"
    );
    let mut registering = Registering::start(&config, &flags(&address, &[]), Some(WAITS));
    until("its routes find it", async || gateway.get("/").await.text() == "beside").await;
    registering.command().await;
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    let left = gateway.api("/api/v1/services/orders").await;
    assert_eq!(left["instances"], json!([]), "{said}");
}
