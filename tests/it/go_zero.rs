//! Services and clients of go-zero, as they are, with etcd and the gateway between them. No word about protocols is in a
//! configuration.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::support::{
    certs::{Certs, Pair},
    etcd::Etcd,
    gateway::{Gateway, until},
    go_zero::{Client, Report, SERVICE, Service},
};

/// Calls of every kind, those of streams long enough for something to happen meanwhile.
const EVERY_KIND: &str = "Kinds: [unary, upload, download, chat]\nPause: 10ms";

/// By the name that calls have, and by the key in etcd.
const BY_NAME: &str = "[[route]]
path = '/{service}'
registry = 'main'";
const BY_KEY: &str = "[upstream.main]
service = 'test.rpc'
registry = 'main'

[[route]]
path = '/grpc.testing.TestService'
upstream = 'main'";

fn gateway(etcd: &Etcd, rest: &str) -> Gateway {
    Gateway::start(&format!(
        "[registry.main]
plugin = 'etcd'
etcd = {}
settings = {{ layout = 'go-zero' }}

{rest}",
        etcd.toml(None)
    ))
}

/// A gateway whose list is in its configuration.
fn fixed(services: &[Service], settings: &str) -> Gateway {
    let endpoints: Vec<String> = services.iter().map(|service| format!("'{}'", service.address)).collect();
    Gateway::start(&format!(
        "[registry.main]
plugin = 'static'
settings = {{ endpoints = [{}] }}

[upstream.main]
service = 'main'
registry = 'main'
{settings}

[[route]]
upstream = 'main'",
        endpoints.join(", ")
    ))
}

fn of(addresses: &serde_json::Value) -> Vec<SocketAddr> {
    let addresses = addresses.as_array().unwrap().iter();
    addresses.map(|of| of["address"].as_str().unwrap().parse().unwrap()).collect()
}

async fn ejected(gateway: &Gateway) -> Vec<SocketAddr> {
    of(&gateway.api("/api/v1/upstreams/main").await["ejected"])
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn calls_of_every_kind_reach_the_instances_of_a_service_in_etcd() {
    let etcd = Etcd::start().await;
    for (key, route) in [(SERVICE, BY_NAME), ("test.rpc", BY_KEY)] {
        let registry = Some((&etcd, key));
        let _services = [Service::start("a", registry, "").await, Service::start("b", registry, "").await];
        let gateway = gateway(&etcd, route);
        // Messages of 64 KiB: a stream is longer than its window.
        let settings = "Kinds: [unary, upload, download, chat]\nSize: 65536\nCallers: 8\nCalls: 400";
        let report = Client::start(gateway.address(), settings).ended().await;
        report.assert_all_ok();
        assert_eq!(report.servers.values().sum::<u64>(), 400, "{report:?}");
        assert!(report.servers["a"] > 50 && report.servers["b"] > 50, "each call is balanced: {report:?}");
    }
}

#[tokio::test]
async fn instances_come_and_go_while_calls_run_and_none_fails() {
    let etcd = Etcd::start().await;
    let registry = Some((&etcd, SERVICE));
    let mut services = vec![Service::start("0", registry, "Delay: 5ms").await];
    let gateway = gateway(&etcd, BY_NAME);
    let client = Client::start(gateway.address(), &format!("{EVERY_KIND}\nCallers: 8"));
    for next in 1..4 {
        let name = next.to_string();
        services.push(Service::start(&name, registry, "Delay: 5ms").await);
        client.until("it is called", |report| report.servers.contains_key(&name)).await;
        let mut oldest = services.remove(0);
        oldest.stop().await;
        client.more(50).await;
    }
    let report = client.stop().await;
    report.assert_all_ok();
    assert_eq!(report.servers.len(), 4, "{report:?}");
}

/// Every one of three instances is ended and started again, while so many callers call.
async fn rolling_restart(services: &mut [Service], client: &Client, kill: bool) -> Vec<u64> {
    let mut killed = Vec::new();
    for service in services {
        client.more(100).await;
        if kill {
            service.kill9();
            killed.push(now());
        } else {
            service.stop().await;
        }
        client.more(100).await;
        service.restart().await;
        let before = client.report().servers[&service.name];
        client.until("it is called again", |report| report.servers[&service.name] > before + 10).await;
    }
    killed
}

async fn three(registry: Option<(&Etcd, &str)>) -> Vec<Service> {
    three_with(registry, "").await
}

async fn three_with(registry: Option<(&Etcd, &str)>, settings: &str) -> Vec<Service> {
    let mut services = Vec::new();
    for name in ["a", "b", "c"] {
        services.push(Service::start(name, registry, &format!("Delay: 10ms\n{settings}")).await);
    }
    services
}

/// What believes this authority and shows that pair, in a configuration of go-zero. A server wants a certificate.
fn over_tls(certs: &Certs, pair: &Pair) -> String {
    format!(
        "TLS: {{ CA: '{}', Cert: '{}', Key: '{}', Name: localhost }}",
        certs.ca().display(),
        pair.certificate.display(),
        pair.key.display()
    )
}

/// A gateway whose second listener wants certificates of clients. It shows its own to instances, if they have TLS.
fn gateway_with_tls(etcd: &Etcd, certs: &Certs, instances: bool) -> Gateway {
    let (own, known) = (certs.server(), certs.client("gateway"));
    let files = |pair: &Pair| {
        format!("cert_file = '{}', key_file = '{}'", pair.certificate.display(), pair.key.display())
    };
    let ca = certs.ca();
    let listener = format!(
        "[[listener]]
name = 'tls'
address = '127.0.0.1:0'

[listener.tls]
certificates = [{{ {} }}]
client_ca_file = '{}'
client_certificate = 'required'",
        files(&own),
        ca.display()
    );
    let tls = match instances {
        true => format!("tls = {{ ca_file = '{}', {} }}", ca.display(), files(&known)),
        false => String::new(),
    };
    gateway(etcd, &format!("{listener}\n\n{BY_NAME}\n{tls}"))
}

#[tokio::test]
async fn calls_of_every_kind_go_by_tls_on_either_side_and_on_both() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let (own, known) = (certs.server(), certs.client("caller"));
    for (clients, instances) in [(true, false), (false, true), (true, true)] {
        // What is registered in one goes with it.
        let etcd = Etcd::start().await;
        let settings = |of: bool, pair: &Pair| if of { over_tls(&certs, pair) } else { String::new() };
        let (server, client) = (settings(instances, &own), settings(clients, &known));
        let registry = Some((&etcd, SERVICE));
        let _services =
            [Service::start("a", registry, &server).await, Service::start("b", registry, &server).await];
        let gateway = gateway_with_tls(&etcd, &certs, instances);
        let address = gateway.listeners[usize::from(clients)];
        let calls = "Kinds: [unary, upload, download, chat]\nSize: 65536\nCallers: 8\nCalls: 400";
        let report = Client::start(address, &format!("{calls}\n{client}")).ended().await;
        report.assert_all_ok();
        assert_eq!(report.servers.values().sum::<u64>(), 400, "{report:?}");
        assert!(report.servers["a"] > 50 && report.servers["b"] > 50, "each call is balanced: {report:?}");
    }
}

#[tokio::test]
async fn instances_with_tls_that_are_restarted_in_turn_cost_no_call() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), Etcd::start().await);
    let certs = Certs::new(folder.path());
    let mut services = three_with(Some((&etcd, SERVICE)), &over_tls(&certs, &certs.server())).await;
    let gateway = gateway_with_tls(&etcd, &certs, true);
    let client = over_tls(&certs, &certs.client("caller"));
    let client = Client::start(gateway.listeners[1], &format!("{EVERY_KIND}\nCallers: 12\n{client}"));
    rolling_restart(&mut services, &client, false).await;
    client.stop().await.assert_all_ok();
}

#[tokio::test]
async fn instances_of_etcd_that_are_restarted_in_turn_cost_no_call() {
    let etcd = Etcd::start().await;
    let mut services = three(Some((&etcd, SERVICE))).await;
    let gateway = gateway(&etcd, BY_NAME);
    let client = Client::start(gateway.address(), &format!("{EVERY_KIND}\nCallers: 12"));
    rolling_restart(&mut services, &client, false).await;
    client.stop().await.assert_all_ok();
}

/// Nothing but GOAWAY says that they leave.
#[tokio::test]
async fn instances_in_no_registry_that_are_restarted_in_turn_cost_no_call() {
    let mut services = three(None).await;
    let gateway = fixed(&services, "");
    let client = Client::start(gateway.address(), &format!("{EVERY_KIND}\nCallers: 12"));
    rolling_restart(&mut services, &client, false).await;
    client.stop().await.assert_all_ok();
}

#[tokio::test]
async fn instances_that_are_killed_in_turn_cost_what_was_under_way_there() {
    const CALLERS: usize = 12;
    let etcd = Etcd::start().await;
    let mut services = three(Some((&etcd, SERVICE))).await;
    let gateway = gateway(&etcd, BY_NAME);
    let client = Client::start(gateway.address(), &format!("{EVERY_KIND}\nCallers: {CALLERS}"));
    let killed = rolling_restart(&mut services, &client, true).await;
    let report: Report = client.stop().await;
    assert!(report.failures.len() <= killed.len() * CALLERS, "{report:?}");
    for failure in &report.failures {
        assert_eq!(failure.status, "Unavailable", "{failure:?}");
        // A call may have been written to a connection before the gateway had read that it is closed.
        let begun_before = |killed: &u64| failure.began < killed + 100;
        let ended_by = killed.iter().find(|killed| begun_before(killed));
        assert!(ended_by.is_some_and(|killed| failure.began + 1000 > *killed), "{killed:?}: {failure:?}");
    }
}

#[tokio::test]
async fn an_instance_whose_calls_hang_past_their_deadline_is_taken_out() {
    let etcd = Etcd::start().await;
    let registry = Some((&etcd, "test.rpc"));
    let good = Service::start("good", registry, "").await;
    let hangs = Service::start("hangs", registry, "Delay: 1h\nTimeout: 0").await;
    let gateway = gateway(&etcd, BY_KEY);
    // Two seconds is what a client of go-zero waits where nobody says otherwise. Its own breaker, which does not know of
    // instances, would keep it from calling either.
    const CALLERS: u64 = 4;
    let settings = format!("Callers: {CALLERS}\nTimeout: 2000\nMiddlewares: {{ Breaker: false }}");
    let client = Client::start(gateway.address(), &settings);
    until("it is taken out", async || ejected(&gateway).await == [hangs.address]).await;
    let before = client.report();
    client.more(5000).await;
    let report = client.stop().await;
    assert_eq!(report.statuses.len(), 2, "{report:?}");
    let late = |report: &Report| report.statuses["DeadlineExceeded"];
    let more = late(&report) - late(&before);
    assert!(
        more <= CALLERS + 1,
        "those that were under way, and one that tries it: {before:?}, then {report:?}"
    );
    assert_eq!(report.servers.keys().collect::<Vec<_>>(), [&good.name]);
}

/// Calls wait for each other, in the gateway.
#[tokio::test]
async fn an_instance_that_takes_one_call_at_a_time_is_sent_one_at_a_time() {
    let services = [Service::start("one", None, "Streams: 1").await];
    let gateway = fixed(&services, "timeouts = { connect_ms = 30000 }");
    let settings = "Kinds: [unary, upload, download, chat]\nCallers: 32\nCalls: 1000";
    let report = Client::start(gateway.address(), settings).ended().await;
    report.assert_all_ok();
    assert_eq!(report.servers["one"], 1000);
}

#[tokio::test]
async fn the_health_service_of_go_zero_is_asked() {
    let services = [
        Service::start("well", None, "").await,
        Service::start("without", None, "Health: false").await,
        Service::start("hangs", None, "").await,
    ];
    let gateway = fixed(&services, "check = { grpc = '', interval_ms = 100, timeout_ms = 500, fall = 2 }");
    let out = async |expected: &[&Service]| {
        let mut expected: Vec<SocketAddr> = expected.iter().map(|service| service.address).collect();
        expected.sort();
        until("those who do not serve are out", async || {
            let mut out = ejected(&gateway).await;
            out.sort();
            out == expected
        })
        .await;
    };
    let [_, without, hangs] = &services;
    out(&[without]).await;
    hangs.signal("STOP");
    out(&[without, hangs]).await;
    hangs.signal("CONT");
    out(&[without]).await;
    let report = Client::start(gateway.address(), "Calls: 100\nCallers: 4").ended().await;
    report.assert_all_ok();
    assert_eq!(report.servers.keys().collect::<Vec<_>>(), ["hangs", "well"]);
}
