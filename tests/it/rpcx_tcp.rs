//! Services and clients of rpcx with a listener between them that passes their connections on as they are.

use std::net::SocketAddr;

use crate::support::{
    etcd::Etcd,
    gateway::Gateway,
    rpcx::{Client, Report, Service},
};

fn gateway(etcd: &Etcd) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(&format!(
        "[[listener]]
         name = 'tcp'
         address = '127.0.0.1:0'
         protocol = 'tcp'
         [registry.main]
         plugin = 'etcd'
         etcd = {}
         settings = {{ layout = 'rpcx', base = '/rpcx' }}
         [upstream.test]
         service = 'Test'
         registry = 'main'
         selector = 'round-robin'
         [[route]]
         listener = 'tcp'
         upstream = 'test'",
        etcd.toml(None)
    ));
    let address = gateway.listeners[1];
    (gateway, address)
}

#[tokio::test]
async fn calls_of_a_connection_stay_at_one_instance_and_nothing_in_them_is_changed() {
    let etcd = Etcd::start().await;
    let _services = [Service::start("a", &etcd, &[]).await, Service::start("b", &etcd, &[]).await];
    let (_gateway, address) = gateway(&etcd);
    let mut servers: Vec<String> = Vec::new();
    for how in [&["-serialize", "msgpack"][..], &["-serialize", "json", "-gzip", "-size", "100000"]].repeat(4)
    {
        let calls = ["-calls", "50", "-callers", "4"];
        let report = Client::run(address, &[&calls[..], how].concat()).await;
        report.assert_all_ok(50);
        assert_eq!(report.servers.len(), 1, "{report:?}");
        servers.extend(report.servers.into_keys());
    }
    assert!(servers.contains(&"a".to_owned()) && servers.contains(&"b".to_owned()), "{servers:?}");
    // They go to the instance, too. With several callers rpcx 1.9.1 itself confuses answers while it beats.
    let beating = ["-heartbeat", "10ms", "-pause", "20ms", "-calls", "30"];
    Client::run(address, &beating).await.assert_all_ok(30);
    let report = Client::run(address, &["-method", "Fail", "-calls", "3"]).await;
    assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [("failed on purpose".to_owned(), 3)]);
}

#[tokio::test]
async fn a_client_goes_on_at_another_instance_when_its_own_is_killed() {
    const CALLERS: u64 = 4;
    let etcd = Etcd::start().await;
    let mut services = [
        Service::start("a", &etcd, &["-delay", "2ms"]).await,
        Service::start("b", &etcd, &["-delay", "2ms"]).await,
        Service::start("c", &etcd, &["-delay", "2ms"]).await,
    ];
    let (_gateway, address) = gateway(&etcd);
    let client = Client::start(address, &["-callers", "4", "-calls", "0"]);
    // Two of three, so that one who connects meets an instance that is dead and registered.
    for round in 1..3 {
        let before = client.report();
        client.until("calls go well", |report| report.ok() > before.ok() + 200).await;
        let now = last(&client.report());
        services.iter_mut().find(|service| service.name == now).unwrap().kill9();
        client.until("another answers", |report| last(report) != now).await;
        let moved = client.report();
        client.until("calls go well", |report| report.ok() > moved.ok() + 200).await;
        let report = client.report();
        assert_eq!(report.failed(), moved.failed(), "it has found a good one: {report:?}");
        // What was under way, and what began before the client had noticed.
        assert!(report.failed() <= round * 2 * CALLERS, "{report:?}");
    }
    client.stop().await;
}

/// Who answered last.
fn last(report: &Report) -> String {
    report.last.server.clone()
}
