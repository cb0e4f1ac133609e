//! Host names in lists: resolved beside them, followed when they move, and in nobody's way when they do not answer.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::{
    backend::Backend,
    dns::{Dns, Says},
    gateway::{Gateway, PATIENCE, until},
};

const ORDERS: &str = r#"
[upstream.orders]
service = "orders"
registry = "memory"
selector = "round-robin"

[[route]]
path = "/"
upstream = "orders"
"#;

/// How soon a name that moved is noticed, and time for a busy machine.
const NOTICED: Duration = Duration::from_secs(35);

async fn register(gateway: &Gateway, id: &str, address: &str) {
    let body = format!(r#"{{"address":"{address}","ttl_seconds":0}}"#);
    let answer = gateway.session_to_admin().put(&format!("/api/v1/services/orders/{id}"), body).await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

async fn source(gateway: &Gateway) -> serde_json::Value {
    gateway.api("/api/v1/upstreams/orders").await["sources"][0].clone()
}

async fn answers(gateway: &Gateway, text: &str) -> bool {
    let answer = gateway.get("/").await;
    answer.status == StatusCode::OK && answer.text() == text
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_answers_for_hold_up_nothing() {
    let (dns, one, two) = (Dns::start().await, Backend::start("one").await, Backend::start("two").await);
    let names: Vec<String> = (0..200).map(|number| format!("slow-{number}.example")).collect();
    names.iter().for_each(|name| dns.set(name, Says::Silence));
    dns.point("good.example", "127.0.0.1");
    // All of it is there from the first answer on.
    let folder = tempfile::tempdir().unwrap();
    let mut list: Vec<String> = names.iter().map(|name| format!("\"{name}:80\"")).collect();
    list.push(format!("\"{}\"", one.address));
    list.push(format!("\"good.example:{}\"", two.address.port()));
    let services = format!(r#"{{"services":{{"orders":[{}]}}}}"#, list.join(","));
    std::fs::write(folder.path().join("services.json"), services).unwrap();
    let start = Instant::now();
    let gateway = Gateway::start_in(
        folder,
        &format!("{}[registry.memory]\nplugin = \"file\"\nfile = \"services.json\"\n{ORDERS}", dns.toml()),
    );
    assert_eq!(gateway.get("/").await.status, StatusCode::OK, "as soon as it is ready");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    until("the name that is answered for has traffic", || answers(&gateway, "two")).await;
    let source = source(&gateway).await;
    assert_eq!((&source["origin"], &source["instances"]), (&"live".into(), &202.into()), "{source}");
    until("what is not resolved is told", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["left_out"]["count"] == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_is_followed_while_the_registry_is_lively() {
    let (dns, one, two) = (Dns::start().await, Backend::start("one").await, Backend::start("two").await);
    dns.point("orders.example", "127.0.0.1");
    let gateway = Gateway::start(&format!("{}{ORDERS}", dns.toml()));
    register(&gateway, "name", &format!("orders.example:{}", one.address.port())).await;
    until("it has traffic", || answers(&gateway, "one")).await;
    // Nothing changes for those that answer, whatever is said of others.
    let mut session = gateway.session_to_admin();
    // An address that has the port of the second alone.
    register(&gateway, "name", &format!("orders.example:{}", two.address.port())).await;
    until("the other port has traffic", || answers(&gateway, "two")).await;

    dns.point("orders.example", "127.0.0.77");
    let (start, mut weight) = (Instant::now(), 1);
    loop {
        weight += 1;
        let body = format!(
            r#"{{"address":"10.255.255.1:1","weight":0,"labels":{{"n":"{weight}"}},"ttl_seconds":0}}"#
        );
        session.put("/api/v1/services/orders/lively", body).await;
        let upstream = gateway.api("/api/v1/upstreams/orders").await;
        let moved = format!("127.0.0.77:{}", two.address.port());
        if upstream["endpoints"].as_array().unwrap().iter().any(|endpoint| endpoint["address"] == *moved) {
            break;
        }
        assert!(start.elapsed() < NOTICED, "not within {NOTICED:?}: {upstream}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_comes_to_nothing_keeps_its_address() {
    let (dns, one) = (Dns::start().await, Backend::start("one").await);
    let gateway = Gateway::start(&format!("{}{ORDERS}", dns.toml()));
    let address = format!("orders.example:{}", one.address.port());
    // The first time nobody knows it.
    register(&gateway, "name", &address).await;
    until("it is told that it does not exist", || async {
        let left_out = source(&gateway).await["left_out"].clone();
        left_out["count"] == 1
            && left_out["instances"][0]["reason"] == "name not resolved: there is no such name"
    })
    .await;
    dns.set("orders.example", Says::OverTcp(vec!["127.0.0.1".parse().unwrap()], 1));
    until("it has traffic once it exists", || answers(&gateway, "one")).await;
    assert_eq!(source(&gateway).await["left_out"]["count"], 0);

    for says in [Says::NoSuchName, Says::NoAddress, Says::ServerFailure, Says::Silence] {
        let before = dns.asked("orders.example");
        dns.set("orders.example", says.clone());
        let start = Instant::now();
        while dns.asked("orders.example") < before + 4
            || source(&gateway).await["left_out"]["unresolved_names"] != 1
        {
            assert!(answers(&gateway, "one").await, "{says:?}");
            assert!(start.elapsed() < PATIENCE * 2, "{says:?}: never asked again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answers(&gateway, "one").await, "{says:?}");
        dns.point("orders.example", "127.0.0.1");
        let start = Instant::now();
        while source(&gateway).await["left_out"]["unresolved_names"] != 0 {
            assert!(start.elapsed() < NOTICED, "{says:?}: not noticed that it is over");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_registry_can_name_a_listener_of_the_gateway() {
    let (dns, one) = (Dns::start().await, Backend::start("one").await);
    dns.point("mine.example", "127.0.0.1");
    dns.set("cloud.example", Says::Addresses(vec!["::ffff:169.254.169.254".parse().unwrap()], 1));
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("services.json");
    let write = |addresses: &[String]| {
        std::fs::write(
            folder.path().join("new.json"),
            serde_json::json!({"services": {"orders": addresses}}).to_string(),
        )
        .unwrap();
        std::fs::rename(folder.path().join("new.json"), &list).unwrap();
    };
    write(&[one.address.to_string()]);
    let gateway = Gateway::start(&format!(
        "{}[registry.memory]\nplugin = \"memory\"\nmemory = true\n\n[registry.file]\nplugin = \"file\"\nfile = {:?}\n\n\
         [upstream.listed]\nservice = \"orders\"\nregistry = \"file\"\n\n[[route]]\npath = \"/listed\"\nupstream = \"listed\"\n{ORDERS}",
        dns.toml(),
        list.display().to_string(),
    ));
    let (admin, listener) = (gateway.admin.port(), gateway.address().port());
    let own = [
        format!("127.0.0.1:{admin}"),
        format!("[::ffff:127.0.0.1]:{admin}"),
        format!("127.0.0.1:{listener}"),
        "0.0.0.0:80".to_owned(),
        "[::ffff:169.254.169.254]:80".to_owned(),
        "255.255.255.255:80".to_owned(),
        "[ff02::1]:80".to_owned(),
        "[fe80::1]:80".to_owned(),
        "10.0.0.1:0".to_owned(),
    ];
    for address in &own {
        let body = format!(r#"{{"address":"{address}"}}"#);
        let answer = gateway.session_to_admin().put("/api/v1/services/orders/x", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{address}: {}", answer.text());
        assert!(answer.text().contains(&format!("address \\\"{address}\\\" ")), "{}", answer.text());
    }
    // A name that leads there is known only once it is resolved.
    register(&gateway, "name", &format!("mine.example:{admin}")).await;
    register(&gateway, "cloud", "cloud.example:80").await;
    register(&gateway, "good", &one.address.to_string()).await;
    let reasons = |upstream: &'static str| {
        let gateway = &gateway;
        async move {
            let left_out =
                gateway.api(&format!("/api/v1/upstreams/{upstream}")).await["sources"][0]["left_out"].clone();
            left_out["instances"]
                .as_array()
                .unwrap()
                .iter()
                .map(|of| of["reason"].to_string())
                .collect::<Vec<_>>()
        }
    };
    until("both are left out", || async { reasons("orders").await.len() == 2 }).await;
    let told = reasons("orders").await.join(" ");
    assert!(
        told.contains(&format!("resolves to 127.0.0.1:{admin}, which is a listener of this gateway")),
        "{told}"
    );
    assert!(told.contains("which is where a cloud keeps the credentials"), "{told}");
    until("the rest of the list counts", || answers(&gateway, "one")).await;

    let mut listed = own.to_vec();
    listed.push(format!("mine.example:{admin}"));
    listed.push(one.address.to_string());
    write(&listed);
    until("all of them are left out of the file", || async {
        reasons("listed").await.len() == own.len() + 1
    })
    .await;
    let upstream = gateway.api("/api/v1/upstreams/listed").await;
    let endpoints = upstream["endpoints"].as_array().unwrap();
    assert!(endpoints.len() == 1 && endpoints[0]["address"] == one.address.to_string(), "{upstream}");
    for _ in 0..20 {
        assert_eq!(gateway.get("/listed/readyz").await.text(), "one");
    }
}
