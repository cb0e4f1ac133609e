//! Announcing instances: `witgate register` with the plugin `consul` and a real Consul, as a service of its agent and
//! as servers of rpcx do it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    register::{WAITS, flags},
    support::{
        backend::Backend,
        consul::{self, Consul},
        fault_table::Registry as _,
        gateway::{Gateway, until},
        registering::Registering,
        tampered::Tampering,
    },
};

const SERVICE: &str = "{ ttl_seconds = 3, wait_seconds = 1 }";

const RPCX: &str = "{ layout = 'rpcx', base = '/rpcx_test', ttl_seconds = 10, wait_seconds = 1 }";

fn gateway(registry: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = 'orders'\nregistry = 'main'\n[[route]]\nupstream = 'orders'\n"
    ))
}

/// The service `orders` as clients of the health endpoint see it: each instance with the worst status of its checks.
async fn health(consul: &Consul) -> Vec<(Value, String)> {
    let found = consul.get("/v1/health/service/orders").await;
    let worst = |one: &Value| {
        let all = one["Checks"].as_array().unwrap().iter().map(|check| check["Status"].as_str().unwrap());
        ["critical", "warning"]
            .into_iter()
            .find(|status| all.clone().any(|one| one == *status))
            .unwrap_or("passing")
    };
    found.as_array().unwrap().iter().map(|one| (one["Service"].clone(), worst(one).to_owned())).collect()
}

async fn until_it_is(consul: &Consul, status: &str) {
    until(
        &format!("it is {status}"),
        async || matches!(&health(consul).await[..], [(_, found)] if found == status),
    )
    .await;
}

/// The key of an instance as rpcx writes it, null if there is none.
async fn key(consul: &Consul, address: &str) -> Value {
    consul.get(&format!("/v1/kv/rpcx_test/orders/tcp@{address}")).await[0].clone()
}

async fn until_held(consul: &Consul, address: &str, by: impl Fn(&str) -> bool) -> String {
    let session = async || key(consul, address).await["Session"].as_str().map(str::to_owned);
    until("the key is held", async || session().await.is_some_and(|session| by(&session))).await;
    session().await.unwrap()
}

#[tokio::test]
async fn a_service_passes_while_its_command_runs_and_is_withdrawn_before_that_is_stopped() {
    let mut consul = Consul::start_locked().await;
    consul.renew_token_with(r#"service "orders" { policy = "write" }"#).await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    // It is renewed every third of that, so that what stops a busy machine for some seconds is no fault.
    let config = consul.registry("{ tag = 'v1', ttl_seconds = 9, wait_seconds = 1 }");
    let gateway = gateway(&config);
    // An hour: the command is stopped by whoever asks again.
    let more = ["--weight", "3", "--label", "zone=a", "--label", "tag=v2", "--stop-delay-ms", "3600000"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));

    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let endpoint = &orders["endpoints"][0];
    assert_eq!((&endpoint["weight"], &endpoint["zone"]), (&json!(3), &json!("a")), "{endpoint}");
    // Longer than the check would pass by itself.
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(12) {
        let found = health(&consul).await;
        assert!(matches!(&found[..], [(_, status)] if status == "passing"), "{found:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (service, _) = health(&consul).await.remove(0);
    assert_eq!(service["Address"], backend.address.ip().to_string());
    assert_eq!(service["Port"], backend.address.port());
    assert_eq!((&service["Tags"], &service["Meta"]), (&json!(["v1", "v2"]), &json!({ "zone": "a" })));

    registering.command().await;
    registering.signal("TERM");
    until("it is withdrawn", async || health(&consul).await.is_empty()).await;
    assert_eq!(registering.signals(), "", "its command was stopped before");
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(said.contains("Announced") && said.contains("Withdrawn"), "{said}");
}

#[tokio::test]
async fn a_service_whose_announcer_is_killed_turns_critical_and_passes_again_with_the_next() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = consul.registry(SERVICE);
    for _ in 0..2 {
        let mut registering = Registering::start(&config, &flags(&address, &[]), None);
        until_it_is(&consul, "passing").await;
        registering.signal("KILL");
        registering.exit().await;
        until_it_is(&consul, "critical").await;
    }
}

#[tokio::test]
async fn an_agent_that_was_restarted_is_told_again_whether_it_has_forgotten_or_not() {
    let (mut consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let mut registering = Registering::start(&consul.registry(SERVICE), &flags(&address, &[]), Some(WAITS));
    until_it_is(&consul, "passing").await;
    consul.restart_empty().await;
    until_it_is(&consul, "passing").await;
    consul.restart().await;
    until_it_is(&consul, "passing").await;
    // Somebody else takes it away.
    consul.put(&format!("/v1/agent/service/deregister/orders-{address}"), Value::Null).await;
    until_it_is(&consul, "passing").await;
    registering.command().await;
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    assert!(health(&consul).await.is_empty(), "{said}");
}

#[tokio::test]
async fn an_agent_that_is_gone_is_replaced_by_another() {
    let mut servers = Consul::three().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let urls = [0, 1].map(|number: usize| format!("http://{}", servers[number].between().address));
    let config = consul::registry(&format!("{{ urls = {urls:?} }}"), SERVICE);
    let mut registering = Registering::start(&config, &flags(&address, &[]), Some(WAITS));
    let passes_at = async |looks: &Consul, node: &str| {
        let found = looks.get("/v1/health/service/orders?passing").await;
        found.as_array().is_some_and(|found| found.iter().any(|one| one["Node"]["Node"] == node))
    };
    until("the first has it", async || passes_at(&servers[2], "n1").await).await;
    servers[0].kill9();
    until("the next has it", async || passes_at(&servers[2], "n2").await).await;
    registering.command().await;
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    until("it is withdrawn there", async || !passes_at(&servers[2], "n2").await).await;
}

/// Consul says so from 1.11 on.
#[tokio::test]
async fn a_service_that_its_agent_does_not_know_is_withdrawn() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let mut registering = Registering::start(&consul.registry(SERVICE), &flags(&address, &[]), Some(WAITS));
    registering.told("Announced").await;
    registering.command().await;
    let body = "Unknown service ID \"orders\". Ensure that the service ID is passed, not the service name.";
    consul.between().does(Tampering::Refused("404 Not Found", body));
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    assert!(said.contains("Withdrawn") && !said.contains("Withdrawal failed"), "{said}");
}

/// One that has lost its leader, and one that does not know the token.
#[tokio::test]
async fn a_server_that_is_unwell_or_refuses_is_left_for_the_next() {
    let servers = [Consul::start().await, Consul::start().await];
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let urls = servers.each_ref().map(|server| format!("http://{}", server.between().address));
    let config = consul::registry(&format!("{{ urls = {urls:?} }}"), RPCX);
    let mut held = String::new();
    for status in ["500 Internal Server Error", "403 Forbidden"] {
        servers[0].between().does(Tampering::Refused(status, "no"));
        let gateway = gateway(&config);
        let registering = Registering::start(&config, &flags(&address, &[]), None);
        held = until_held(&servers[1], &address, |session| !session.is_empty() && session != held).await;
        registering.told("Announced").await;
        until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    }
}

#[tokio::test]
async fn a_weight_of_0_is_a_warning_and_gets_no_requests() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = consul.registry(SERVICE);
    let _registering = Registering::start(&config, &flags(&address, &["--weight", "0"]), None);
    until_it_is(&consul, "warning").await;
    let gateway = gateway(&config);
    until("it is drained", async || gateway.api("/api/v1/upstreams/orders").await["drained"] == true).await;
    assert_eq!(gateway.get("/").await.reason(), Some("drained"));
}

#[tokio::test]
async fn a_token_that_may_only_read_is_told_and_another_one_taken_up() {
    let mut consul = Consul::start_locked().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let registering = Registering::start(&consul.registry(SERVICE), &flags(&address, &[]), Some(WAITS));
    let told = registering.told("Announcement failed, trying again").await;
    assert!(told.contains("403") && told.contains("/v1/agent/service/register"), "{told}");
    registering.command().await;
    assert!(health(&consul).await.is_empty());
    consul.renew_token_with(r#"service "orders" { policy = "write" }"#).await;
    until_it_is(&consul, "passing").await;
}

#[tokio::test]
async fn an_agent_that_is_frozen_holds_nothing_up() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    for settings in [SERVICE, RPCX] {
        let consul = Consul::start().await;
        let flags = flags(&address, &["--stop-delay-ms", "0"]);
        let mut registering = Registering::start(&consul.registry(settings), &flags, Some(WAITS));
        registering.told("Announced").await;
        registering.command().await;
        consul.freeze();
        let asked = Instant::now();
        registering.signal("TERM");
        let (code, said) = registering.exit().await;
        assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}: {said}", asked.elapsed());
        assert!(!said.contains("Withdrawn"), "{said}");
        consul.thaw();
    }
}

#[tokio::test]
async fn what_has_no_place_in_consul_ends_the_command() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    for (settings, more, part) in [
        (SERVICE, ["--label", "zone=a", "--label", "zone=b"], "label zone: "),
        ("{ datacenter = 'dc1' }", ["--weight", "1", "--label", "zone=a"], "datacenter: \"dc1\""),
        // Consul says so itself.
        (SERVICE, ["--label", "a b=c", "--weight", "1"], "Invalid Service Meta"),
        (SERVICE, ["--weight", "65536", "--label", "zone=a"], "Invalid Weights"),
    ] {
        let flags = flags(&address, &more);
        let mut registering = Registering::start(&consul.registry(settings), &flags, Some(WAITS));
        let (code, said) = registering.exit().await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(health(&consul).await.is_empty());
}

#[tokio::test]
async fn a_key_of_rpcx_is_held_by_a_session_and_goes_with_the_command() {
    let mut consul = Consul::start_locked().await;
    let rights = r#"key_prefix "rpcx_test/" { policy = "write" } session_prefix "" { policy = "write" }"#;
    consul.renew_token_with(rights).await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = consul.registry(RPCX);
    let gateway = gateway(&config);
    let more = ["--weight", "3", "--label", "group=a"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));
    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    assert_eq!(orders["endpoints"][0]["weight"], 3, "{orders}");

    let found = key(&consul, &address).await;
    // `group=a&weight=3`, and the flags by which the library of rpcx knows its own keys.
    assert_eq!(found["Value"], "Z3JvdXA9YSZ3ZWlnaHQ9Mw==", "{found}");
    assert_eq!(found["Flags"], json!(3_304_740_253_564_472_344_u64), "{found}");
    let session = found["Session"].as_str().unwrap();
    let session = consul.get(&format!("/v1/session/info/{session}")).await[0].clone();
    assert_eq!((&session["Behavior"], &session["TTL"]), (&json!("delete"), &json!("10s")), "{session}");
    assert_eq!(session["NodeChecks"], json!([]), "an agent that is out of reach would end it");

    registering.command().await;
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    assert_eq!(key(&consul, &address).await, Value::Null, "{said}");
    assert_eq!(consul.get("/v1/session/list").await, json!([]), "{said}");
}

#[tokio::test]
async fn a_session_that_is_lost_is_replaced_and_an_edit_stays() {
    let (mut consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let _registering = Registering::start(&consul.registry(RPCX), &flags(&address, &[]), None);
    let first = until_held(&consul, &address, |session| !session.is_empty()).await;
    consul.put(&format!("/v1/session/destroy/{first}"), Value::Null).await;
    let second = until_held(&consul, &address, |session| session != first).await;
    // As somebody does it by hand: the key is no longer held, and would outlive the announcement.
    consul.put(&format!("/v1/kv/rpcx_test/orders/tcp@{address}?release={second}"), Value::Null).await;
    consul.put_raw(&format!("/v1/kv/rpcx_test/orders/tcp@{address}"), "state=inactive").await;
    until_held(&consul, &address, |session| session == second).await;
    assert_eq!(key(&consul, &address).await["Value"], "c3RhdGU9aW5hY3RpdmU=");
    consul.restart_empty().await;
    until_held(&consul, &address, |session| session != second).await;
    assert_eq!(key(&consul, &address).await["Value"], "c3RhdGU9aW5hY3RpdmU=");
}

#[tokio::test]
async fn a_key_that_a_killed_announcer_still_holds_is_taken_over_by_the_next() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let config = consul.registry(RPCX);
    let mut killed = Registering::start(&config, &flags(&address, &[]), None);
    let first = until_held(&consul, &address, |session| !session.is_empty()).await;
    killed.signal("KILL");
    killed.exit().await;
    let registering = Registering::start(&config, &flags(&address, &["--weight", "5"]), None);
    registering.told("Announced").await;
    let second = until_held(&consul, &address, |session| session != first).await;
    // The session of the killed one ends, and takes nothing with it.
    consul.put(&format!("/v1/session/destroy/{first}"), Value::Null).await;
    let found = key(&consul, &address).await;
    assert_eq!((found["Session"].as_str(), found["Value"].as_str()), (Some(&*second), Some("d2VpZ2h0PTU=")));
}

/// Sessions that Consul makes by itself keep their keys from others for 15 seconds after their end.
#[tokio::test]
async fn a_key_that_consul_holds_back_is_told_of_and_held_when_it_may_be() {
    let (consul, backend) = (Consul::start().await, Backend::start("beside").await);
    let address = backend.address.to_string();
    let session = consul.put("/v1/session/create", json!({ "LockDelay": "5s", "NodeChecks": [] })).await;
    let session: Value = serde_json::from_slice(&session.body).unwrap();
    let session = session["ID"].as_str().unwrap();
    consul.put_raw(&format!("/v1/kv/rpcx_test/orders/tcp@{address}?acquire={session}"), "").await;
    consul.put(&format!("/v1/session/destroy/{session}"), Value::Null).await;
    let registering = Registering::start(&consul.registry(RPCX), &flags(&address, &[]), None);
    let told = registering.told("Announcement failed, trying again").await;
    assert!(told.contains(&format!("rpcx_test/orders/tcp@{address} cannot be held yet")), "{told}");
    assert!(told.contains("LockDelay"), "{told}");
    until_held(&consul, &address, |found| !found.is_empty()).await;
}
