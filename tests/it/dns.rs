//! The registry `dns` with real servers: what it reads, what is an answer and what is none.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    bind::{Bind, Dnsmasq, registry},
    dns_between::Spoiled,
    fault_table::Registry as _,
    gateway::{Gateway, until},
    service::{CLIENTS, becomes, endpoints, source},
    traffic::Traffic,
};

/// The kind of record of an IPv6 address.
const AAAA: u16 = 28;

const IMPATIENT: &str = "{ name = \"{service}.test\", ttl_floor_seconds = 1 }";

fn gateway(registry: &str) -> Gateway {
    let upstream =
        "[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n";
    let routes = "[[route]]\npath = \"/\"\nupstream = \"orders\"\n\n\
                  [[route]]\npath = \"/svc/{service}\"\nstrip_prefix = true\nregistry = \"main\"\n";
    Gateway::start(&format!("{registry}\n{upstream}\n{routes}"))
}

/// Address and priority of the instances in one place of the API, in order.
async fn shown(gateway: &Gateway, place: &str) -> Vec<(String, Value)> {
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let list = orders[place].as_array().cloned().unwrap_or_default();
    let shown = |one: Value| (one["address"].as_str().unwrap().to_owned(), one["priority"].clone());
    let mut list: Vec<_> = list.into_iter().map(shown).collect();
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_instances_with_priority_and_weight() {
    let bind = Bind::start().await;
    let mut backends = Backend::several(3).await;
    let mut lines = Vec::new();
    for (number, srv) in ["10 60", "10 0", "20 5"].into_iter().enumerate() {
        lines.extend(Bind::lines(&format!("b{number}"), backends[number].address, srv, 1));
    }
    // An alias is followed, and a record that says that there is no such service names nobody.
    lines.push("add alias.test. 1 CNAME orders.test.".to_owned());
    lines.push("add nobody.test. 1 SRV 0 0 0 .".to_owned());
    bind.update(&lines);
    let gateway = gateway(&bind.registry(IMPATIENT));
    endpoints(&gateway, 2).await;
    let mut expected = [0, 1].map(|number| (backends[number].address.to_string(), json!(10)));
    expected.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(shown(&gateway, "endpoints").await, expected);
    let weights = gateway.api("/api/v1/upstreams/orders").await;
    let weights = weights["endpoints"].as_array().unwrap().iter().map(|one| one["weight"].as_u64());
    assert_eq!(weights.collect::<std::collections::BTreeSet<_>>(), [Some(1), Some(60)].into());
    let standby = shown(&gateway, "standby").await;
    assert_eq!(standby, [(backends[2].address.to_string(), json!(20))]);

    until("weight 0 gets its share", || async {
        assert!(gateway.get("/").await.status.is_success());
        backends[1].requests() > 0
    })
    .await;
    assert!(gateway.get("/svc/alias/").await.status.is_success());
    assert_eq!(gateway.get("/svc/nobody/").await.status, 404);
    assert_eq!(gateway.get("/svc/unknown/").await.status, 404);
    assert_eq!(backends[2].requests(), 0);

    // Those before it do not answer any more.
    drop(backends.drain(..2));
    until("the standby gets requests", || async {
        gateway.get("/").await;
        backends[0].requests() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_instances_at_the_port_and_no_name_is_an_empty_list() {
    let bind = Bind::start().await;
    let backend = Backend::everywhere("one").await;
    let port = backend.address.port();
    let add = |ip: &str, kind: &str| format!("add orders.test. 1 {kind} {ip}");
    bind.update(&[add("127.0.0.1", "A"), add("127.0.0.2", "A"), add("fd00::1", "AAAA")]);
    let settings =
        format!("{{ name = \"{{service}}.test.\", record = \"a\", port = {port}, ttl_floor_seconds = 1 }}");
    let gateway = gateway(&bind.registry(&settings));
    until("all are there", || async { source(&gateway).await["instances"] == 3 }).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let all = ["endpoints", "ejected"].into_iter().flat_map(|place| orders[place].as_array().unwrap());
    for endpoint in all {
        assert_eq!(endpoint["hostname"], "orders.test", "{endpoint}");
    }
    bind.update(&["delete orders.test. AAAA fd00::1".to_owned()]);
    until("one is gone", || async { source(&gateway).await["instances"] == 2 }).await;
    assert_eq!(gateway.get("/").await.text(), "one");

    bind.update(&["delete orders.test.".to_owned()]);
    until("there is no such name", || async { source(&gateway).await["instances"] == 0 }).await;
    becomes(&gateway, "live").await;
    // It is an answer, and doubted as from any other registry.
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// What is known of one family outlives a time without any answer, and then one in which the other alone has answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_nobody_answers_for_keeps_its_addresses_also_when_everything_failed_before() {
    let bind = Bind::start().await;
    bind.update(&["add orders.test. 1 A 127.0.0.1".to_owned(), "add orders.test. 1 AAAA fd00::1".to_owned()]);
    let settings = "{ name = \"{service}.test.\", record = \"a\", port = 80, ttl_floor_seconds = 1 }";
    let gateway = gateway(&bind.registry(settings));
    until("both are there", || async { source(&gateway).await["instances"] == 2 }).await;
    for (code, text) in [(2, "Server Failure"), (5, "orders.test: the answer was")] {
        bind.between().does(Spoiled::Code(code));
        until("nobody answers", || async {
            let failure = &source(&gateway).await["failure"];
            failure["kind"] == "suspect" && failure["error"].as_str().unwrap().contains(text)
        })
        .await;
        becomes(&gateway, "frozen").await;
        bind.between().does(Spoiled::CodeFor(AAAA, code));
        becomes(&gateway, "live").await;
        assert_eq!(source(&gateway).await["instances"], 2);
    }
}

/// Each of them is answered soon enough for itself.
#[tokio::test(flavor = "multi_thread")]
async fn aliases_that_lead_to_an_answer_take_no_longer_than_one() {
    let (bind, backend) = (Bind::start().await, Backend::start("one").await);
    let mut lines = Bind::lines("b0", backend.address, "1 1", 1);
    let names = ["alias", "b", "c", "d", "e", "f", "g", "orders"];
    lines.extend(names.windows(2).map(|two| format!("add {}.test. 1 CNAME {}.test.", two[0], two[1])));
    bind.update(&lines);
    let registry = bind.registry(IMPATIENT);
    let gateway =
        Gateway::start(&format!("{registry}\n[upstream.orders]\nservice = \"alias\"\nregistry = \"main\"\n"));
    endpoints(&gateway, 1).await;
    bind.between().does(Spoiled::Late(Duration::from_millis(800)));
    until("it is too late", || async {
        let failure = &source(&gateway).await["failure"];
        failure["kind"] == "unavailable"
            && failure["error"]
                .as_str()
                .is_some_and(|error| error.contains("alias.test: no answer within 5s"))
    })
    .await;
    bind.between().does(Spoiled::No);
    becomes(&gateway, "live").await;
}

/// What is no answer freezes the list, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_changes_nothing() {
    let mut bind = Bind::start().await;
    let backend = Backend::start("one").await;
    bind.register("b0", backend.address).await;
    let gateway = gateway(&bind.registry(IMPATIENT));
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    for (spoiled, kind, text) in [
        (Spoiled::Code(2), "unavailable", "Server Failure"),
        (Spoiled::Code(5), "denied", "orders.test: the answer was"),
        (Spoiled::Referral, "unavailable", "a referral to other servers"),
        (Spoiled::Truncated, "unavailable", "orders.test: "),
    ] {
        bind.between().does(spoiled);
        until(&format!("{spoiled:?}"), || async {
            let failure = &source(&gateway).await["failure"];
            failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
        })
        .await;
        becomes(&gateway, "frozen").await;
        traffic.more(100).await;
        bind.between().does(Spoiled::No);
        becomes(&gateway, "live").await;
    }
    assert_eq!(source(&gateway).await["instances"], 1);
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_a_datagram_comes_by_tcp() {
    let mut bind = Bind::start().await;
    let backend = Backend::everywhere("many").await;
    let address = |number: u8| ([127, 1, 0, number], backend.address.port()).into();
    bind.register_many((1..=120).map(address).collect(), 0).await;
    let gateway = gateway(&bind.registry(IMPATIENT));
    endpoints(&gateway, 120).await;
    assert!(bind.between().over_tcp() > 0);
    assert_eq!(gateway.get("/").await.text(), "many");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_has_a_floor_and_a_cap() {
    let bind = Bind::start().await;
    let backends = Backend::several(2).await;
    bind.update(&Bind::lines("b0", backends[0].address, "1 1", 0));
    let gateway =
        gateway(&bind.registry("{ name = \"{service}.test\", ttl_floor_seconds = 1, ttl_cap_seconds = 2 }"));
    endpoints(&gateway, 1).await;
    let questions = || bind.between().asked().iter().filter(|name| *name == "orders.test").count();
    let (since, before) = (Instant::now(), questions());
    until("it is asked again", || async { questions() >= before + 3 }).await;
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    // Good for a day, and asked for again all the same.
    bind.update(&Bind::lines("b1", backends[1].address, "1 1", 86_400));
    endpoints(&gateway, 2).await;
    let since = Instant::now();
    let gone = format!("delete orders.test. SRV 1 1 {} b0.test.", backends[0].address.port());
    bind.update(&[gone]);
    until("one is gone", || async { source(&gateway).await["instances"] == 1 }).await;
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
}

/// One that is not there and one that is silent; and a name is asked for as it is, without a search list.
#[tokio::test(flavor = "multi_thread")]
async fn servers_are_asked_one_after_the_other_until_one_knows() {
    let mut bind = Bind::start().await;
    let backend = Backend::start("one").await;
    bind.register("b0", backend.address).await;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = ["127.0.0.1:1".parse().unwrap(), silent.local_addr().unwrap(), bind.between().address];
    let gateway = gateway(&registry(&servers, "{ ttl_floor_seconds = 1 }"));
    until("by its whole name", || async { gateway.get("/svc/orders.test/").await.text() == "one" }).await;
    until("a short name is asked for", || async {
        bind.between().asked().iter().any(|name| name == "orders")
    })
    .await;
    let asked = bind.between().asked();
    assert!(
        asked.iter().all(|name| ["orders", "orders.test", "b0.test"].contains(&name.as_str())),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dnsmasq_is_read_as_bind_is() {
    let backends = Backend::several(2).await;
    let mut records = vec!["--host-record=a.test,127.0.0.1".to_owned()];
    for (number, backend) in backends.iter().enumerate() {
        let port = backend.address.port();
        records.push(format!("--srv-host=_http._tcp.orders.test,a.test,{port},{},7", (number + 1) * 10));
    }
    let dnsmasq = Dnsmasq::start(&records).await;
    let gateway = gateway(&registry(
        &[dnsmasq.address],
        "{ name = \"_http._tcp.{service}.test\", ttl_floor_seconds = 1 }",
    ));
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "b0");
    let standby = shown(&gateway, "standby").await;
    assert_eq!(standby, [(backends[1].address.to_string(), json!(20))]);
    assert_eq!(gateway.get("/svc/unknown/").await.status, 404);
}
