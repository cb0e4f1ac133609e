//! Services and clients of rpcx, as they are, with etcd and the gateway between them, call by call.

use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use witgate::rpcx::frame::{Frame, HEADER};

use crate::support::{
    etcd::Etcd,
    gateway::{Gateway, until},
    http2::in_time,
    rpcx::{Client, Service, frame},
};

/// A gateway for calls of rpcx. `route` are lines of its only route.
fn gateway(etcd: &Etcd, route: &str) -> (Gateway, SocketAddr) {
    gateway_with(etcd, "", route)
}

/// The same with lines of its listener.
fn gateway_with(etcd: &Etcd, listener: &str, route: &str) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(&format!(
        "[[listener]]
name = 'calls'
address = '127.0.0.1:0'
protocol = 'rpcx'
{listener}

[registry.main]
plugin = 'etcd'
etcd = {}
settings = {{ layout = 'rpcx', base = '/rpcx' }}

[[route]]
listener = 'calls'
{route}",
        etcd.toml(None)
    ));
    let address = gateway.listeners[1];
    (gateway, address)
}

const BY_NAME: &str = "registry = 'main'";

/// Three instances whose answers take a moment, so that calls are under way when something happens.
async fn three(etcd: &Etcd) -> [Service; 3] {
    let flags = ["-delay", "2ms"];
    [
        Service::start("a", etcd, &flags).await,
        Service::start("b", etcd, &flags).await,
        Service::start("c", etcd, &flags).await,
    ]
}

#[tokio::test]
async fn a_client_that_knows_one_address_reaches_every_service() {
    let etcd = Etcd::start().await;
    let _services = [
        Service::start("a", &etcd, &["-service", "Orders,Carts"]).await,
        Service::start("b", &etcd, &["-service", "shop.Users"]).await,
    ];
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    for (service, server) in [("Orders", "a"), ("Carts", "a"), ("shop.Users", "b")] {
        let calls = ["-service", service, "-calls", "50", "-callers", "4"];
        // Longer than 1024 bytes: they are compressed, both ways.
        for how in [&["-serialize", "msgpack"][..], &["-serialize", "json", "-gzip", "-size", "100000"]] {
            let report = Client::run(address, &[&calls[..], how].concat()).await;
            report.assert_all_ok(50);
            assert_eq!(report.servers.keys().collect::<Vec<_>>(), [server]);
        }
    }
}

#[tokio::test]
async fn each_call_has_a_line_in_the_access_log() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    let service = Service::start("a", &etcd, &[]).await;
    let path = folder.path().join("access.log");
    let log = format!("access_log = {{ format = 'json', file = '{}' }}", path.display());
    let (_gateway, address) = gateway_with(&etcd, &log, BY_NAME);
    Client::run(address, &["-calls", "2"]).await.assert_all_ok(2);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("two lines", || async { read().lines().count() == 2 }).await;
    let report = Client::run(address, &["-service", "Nobody", "-calls", "1"]).await;
    assert_eq!(report.failed(), 1);
    until("three lines", || async { read().lines().count() == 3 }).await;
    let lines: Vec<serde_json::Value> =
        read().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines[..2] {
        assert_eq!(
            (line["protocol"].as_str(), line["path"].as_str()),
            (Some("rpcx"), Some("Test")),
            "{line}"
        );
        assert_eq!(
            (line["method"].as_str(), line["response_code"].as_u64()),
            (Some("Echo"), Some(200)),
            "{line}"
        );
        assert_eq!(line["upstream_host"], service.address.to_string(), "{line}");
        assert!(line["attempts"] == 1 && line["bytes_sent"].as_u64() > Some(0), "{line}");
    }
    assert_eq!(lines[2]["path"], "Nobody");
    assert_eq!(lines[2]["response_code_details"], "unknown-service");
}

#[tokio::test]
async fn calls_of_one_client_go_to_all_instances_by_their_weights() {
    let etcd = Etcd::start().await;
    let _services = [
        Service::start("a", &etcd, &["-meta", "weight=3"]).await,
        Service::start("b", &etcd, &[]).await,
        Service::start("c", &etcd, &[]).await,
    ];
    let (_gateway, address) = gateway(&etcd, "registry = 'main'\nselector = 'round-robin'");
    let report = Client::run(address, &["-calls", "500"]).await;
    report.assert_all_ok(500);
    let shares = ["a", "b", "c"].map(|name| report.servers[name]);
    assert_eq!(shares, [300, 100, 100]);
}

#[tokio::test]
async fn clients_share_few_connections_and_get_their_own_answers() {
    let etcd = Etcd::start().await;
    let service = Service::start("a", &etcd, &["-delay", "1ms"]).await;
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    // Each numbers its calls from the same number on, and looks whether an answer is to its own call.
    let clients: Vec<_> =
        (0..6).map(|_| Client::start(address, &["-callers", "8", "-calls", "1000"])).collect();
    for client in &clients {
        client.until("calls go well", |report| report.ok() > 100).await;
    }
    let connections = connections_to(service.address);
    assert!((1..=4).contains(&connections), "{connections} connections of 2 workers");
    for client in clients {
        client.ended().await.assert_all_ok(1000);
    }
}

#[tokio::test]
async fn a_wrong_token_ends_nobody_elses_calls() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &["-delay", "5ms", "-token", "right"]).await;
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    // So many that there are some on the worker of the others.
    let right = ["-token", "right", "-callers", "4", "-calls", "0"];
    let right: Vec<_> = (0..6).map(|_| Client::start(address, &right)).collect();
    for client in &right {
        client.until("calls go well", |report| report.ok() > 0).await;
    }
    // The server closes the connection after each.
    for wrong in [&["-token", "wrong"][..], &[]] {
        let report = Client::run(address, &[wrong, &["-calls", "30", "-pause", "5ms"]].concat()).await;
        assert_eq!(report.ok(), 0);
        assert!(report.errors["wrong token"] >= 25, "{report:?}");
    }
    for client in right {
        let report = client.stop().await;
        assert_eq!(report.failed(), 0, "{report:?}");
    }
}

/// Established connections to an address of this machine, as those who made them see them.
fn connections_to(address: SocketAddr) -> usize {
    let remote = format!(" 0100007F:{:04X} 01 ", address.port());
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    all.lines().filter(|line| line.contains(&remote)).count()
}

#[tokio::test]
async fn an_instance_that_is_killed_costs_no_more_than_what_it_was_doing() {
    let etcd = Etcd::start().await;
    let mut services = three(&etcd).await;
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    let client = Client::start(address, &["-callers", "8", "-calls", "10000"]);
    client.until("calls go well", |report| report.ok() > 2000).await;
    services[1].kill9();
    let report = client.ended().await;
    assert_eq!(report.ok() + report.failed(), 10_000, "{report:?}");
    assert!(report.failed() <= 8, "{report:?}");
    assert!(report.errors.keys().all(|error| error.starts_with("upstream-reset: ")), "{report:?}");
    assert!(report.servers["a"] > 3000 && report.servers["c"] > 3000, "{report:?}");
}

#[tokio::test]
async fn calls_that_may_be_repeated_do_not_notice_that_an_instance_is_killed() {
    let etcd = Etcd::start().await;
    let mut services = three(&etcd).await;
    let (gateway, address) = gateway(&etcd, "registry = 'main'\nrepeatable = true");
    let client = Client::start(address, &["-callers", "8", "-calls", "10000"]);
    client.until("calls go well", |report| report.ok() > 2000).await;
    services[1].kill9();
    client.ended().await.assert_all_ok(10_000);
    let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
    let retried = |line: &&str| line.starts_with("witgate_retries_total") && !line.ends_with(" 0");
    assert!(metrics.lines().any(|line| retried(&line)), "nothing was under way: {metrics}");
}

#[tokio::test]
async fn instances_come_and_go_while_calls_run_and_none_fails() {
    let etcd = Etcd::start().await;
    let mut services = vec![Service::start("0", &etcd, &["-delay", "2ms"]).await];
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    let client = Client::start(address, &["-callers", "8", "-calls", "0"]);
    for next in 1..3 {
        let name = next.to_string();
        services.push(Service::start(&name, &etcd, &["-delay", "2ms"]).await);
        client.until("it is called", |report| report.servers.contains_key(&name)).await;
    }
    let report = client.stop().await;
    assert_eq!((report.failed(), report.servers.len()), (0, 3), "{report:?}");
}

#[tokio::test]
async fn errors_of_a_service_pass_and_those_of_the_gateway_are_errors_of_rpcx() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    let (gateway, address) = gateway(&etcd, "registry = 'main'\nrepeatable = true");
    let report = Client::run(address, &["-method", "Fail", "-calls", "3"]).await;
    assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [("failed on purpose".to_owned(), 3)]);
    let report = Client::run(address, &["-service", "Nobody", "-calls", "2"]).await;
    assert_eq!(
        report.errors.into_iter().collect::<Vec<_>>(),
        [("unknown-service: no such service".to_owned(), 2)]
    );
    let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
    let retried = |line: &&str| line.starts_with("witgate_retries_total") && !line.ends_with(" 0");
    assert_eq!(metrics.lines().find(retried), None, "the answer of a service is one");
    let failed = |line: &&str| line.starts_with("witgate_requests_total") && line.contains("5xx");
    assert!(metrics.lines().any(|line| failed(&line) && line.ends_with(" 3")), "{metrics}");
}

#[tokio::test]
async fn calls_that_wait_for_no_answer_arrive_once_each() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    let (_gateway, address) = gateway(&etcd, "registry = 'main'\nrepeatable = true");
    let notes = Client::start(address, &["-method", "Note", "-callers", "2", "-calls", "200"]);
    notes.until("all are sent", |report| report.ok() == 200).await;
    let counting = Client::start(address, &["-calls", "0", "-pause", "5ms"]);
    counting.until("all have arrived", |report| report.last.notes >= 200).await;
    assert_eq!(counting.stop().await.last.notes, 200);
}

#[tokio::test]
async fn the_gateway_answers_heartbeats_itself() {
    let etcd = Etcd::start().await;
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let beat = frame(0x40, 77, [b"", b"", b"", b"\xd3\0\0\0\0\0\0\0\x07"]);
    stream.write_all(&beat).await.unwrap();
    let mut answer = vec![0; beat.len()];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!((answer[2], &answer[3..]), (0xc0, &beat[3..]));

    // A client of rpcx closes its connection when one is not answered, and its calls fail.
    let _service = Service::start("a", &etcd, &[]).await;
    until("the service is known", || async { Client::run(address, &["-calls", "1"]).await.ok() == 1 }).await;
    let beating = ["-heartbeat", "10ms", "-pause", "20ms", "-calls", "30"];
    Client::run(address, &beating).await.assert_all_ok(30);
}

#[tokio::test]
async fn what_is_no_frame_and_what_is_too_long_ends_the_connection() {
    let etcd = Etcd::start().await;
    let (_gateway, address) = gateway(&etcd, BY_NAME);
    let mut too_long = frame(0, 1, [b"Test", b"Echo", b"", b""]);
    too_long[12..HEADER].copy_from_slice(&(16 * 1024 * 1024_u32 + 1).to_be_bytes());
    let mut wrong_length = frame(0, 1, [b"Test", b"Echo", b"", b""]);
    wrong_length[19] = 200;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        too_long,
        wrong_length,
        frame(0x80, 1, [b"Test", b"Echo", b"", b""]),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = in_time(stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_fails_and_the_others_go_on() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    let (_gateway, address) = gateway(&etcd, "registry = 'main'\ntimeouts = { response_ms = 200 }");
    let going = Client::start(address, &["-calls", "0", "-pause", "5ms"]);
    let report = Client::run(address, &["-method", "Slow", "-calls", "2", "-callers", "2"]).await;
    let late = "response-timeout: the instance did not answer in time".to_owned();
    assert_eq!(report.errors.into_iter().collect::<Vec<_>>(), [(late, 2)]);
    assert_eq!(going.stop().await.failed(), 0);
}

#[tokio::test]
async fn a_slow_instance_is_overtaken_by_another() {
    let etcd = Etcd::start().await;
    let _services =
        [Service::start("slow", &etcd, &["-delay", "20s"]).await, Service::start("fast", &etcd, &[]).await];
    let route = "registry = 'main'\nrepeatable = true\nselector = 'round-robin'
retries = { mode = 'failbackup', backup_after_ms = 20, budget = 1.0 }";
    let (_gateway, address) = gateway(&etcd, route);
    let report = Client::run(address, &["-calls", "20", "-timeout", "10s"]).await;
    report.assert_all_ok(20);
    assert_eq!(report.servers["fast"], 20);
}

#[tokio::test]
async fn so_many_calls_are_in_flight_as_may_be() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &["-delay", "300ms"]).await;
    let (_gateway, address) = gateway(&etcd, "registry = 'main'\nlimits = { max_in_flight = 2, queue = 0 }");
    let report = Client::run(address, &["-callers", "6", "-calls", "6"]).await;
    assert_eq!(report.ok(), 2, "{report:?}");
    assert!(report.errors.keys().all(|error| error.starts_with("in-flight-limit: ")), "{report:?}");
}

#[tokio::test]
async fn a_gateway_that_closes_answers_what_it_has_begun() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    // They are counted where there is a limit.
    let (mut gateway, address) = gateway(&etcd, "registry = 'main'\nlimits = { max_in_flight = 100 }");
    Client::run(address, &["-calls", "1"]).await.assert_all_ok(1);
    let slow = Client::start(address, &["-method", "Slow", "-callers", "4", "-calls", "4"]);
    until("calls run", || async { in_flight(&gateway).await == 4 }).await;
    gateway.signal("TERM");
    slow.ended().await.assert_all_ok(4);
    assert!(gateway.exit().await.success());
}

/// How many calls are at endpoints.
async fn in_flight(gateway: &Gateway) -> u64 {
    let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
    let lines = metrics.lines().filter(|line| line.starts_with("witgate_requests_in_flight{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_frame_has_to_go() {
    let etcd = Etcd::start().await;
    let (_gateway, address) = gateway_with(&etcd, "body_timeout_ms = 200", BY_NAME);
    let call = frame(0, 1, [b"Test", b"Echo", b"", b"payload"]);
    let mut stopped = TcpStream::connect(address).await.unwrap();
    let mut idle = TcpStream::connect(address).await.unwrap();
    stopped.write_all(&call[..call.len() - 1]).await.unwrap();
    let mut rest = Vec::new();
    let _ = in_time(stopped.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    // Who has begun nothing is not late.
    idle.write_all(&call).await.unwrap();
    let mut answer = BytesMut::new();
    let answer = loop {
        assert!(in_time(idle.read_buf(&mut answer)).await.unwrap() > 0);
        if let Some(frame) = Frame::take(&mut answer, 1 << 20).unwrap() {
            break frame;
        }
    };
    assert!(answer.is_error() && answer.is_response());
    assert_eq!(answer.metadata(b"__rpcx_error__"), Some(&b"unknown-service: no such service"[..]));
}

#[tokio::test]
async fn no_more_calls_are_read_while_those_under_way_are_long() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    // They are counted where there is a limit.
    let (gateway, address) = gateway(&etcd, "registry = 'main'\nlimits = { max_in_flight = 1000 }");
    Client::run(address, &["-calls", "1"]).await.assert_all_ok(1);
    let calls = ["-method", "Slow", "-size", "1000000", "-callers", "50", "-calls", "50"];
    let client = Client::start(address, &calls);
    let most = in_time(async {
        let mut most = 0;
        while client.report().ok() < 50 {
            most = most.max(in_flight(&gateway).await);
            assert_eq!(client.report().failed(), 0, "{:?}", client.report());
        }
        most
    });
    let most = most.await;
    // The one that goes over 16 MiB is among them.
    assert!((2..=17).contains(&most), "{most} calls of a megabyte at once");
}

#[tokio::test]
async fn a_client_that_takes_no_answers_does_not_fill_the_memory() {
    let etcd = Etcd::start().await;
    let _service = Service::start("a", &etcd, &[]).await;
    // It is not the time that ends it.
    let listener = "write_timeout_ms = 3600000";
    let (gateway, address) = gateway_with(&etcd, listener, BY_NAME);
    Client::run(address, &["-calls", "1"]).await.assert_all_ok(1);
    let mut client = TcpStream::connect(address).await.unwrap();
    // An empty map of msgpack.
    let calls: Vec<_> =
        (0..200).flat_map(|number| frame(0, number, [b"Test", b"Large", b"", b"\x80"])).collect();
    client.write_all(&calls).await.unwrap();
    until("its connection is closed", || async {
        let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
        metrics.contains("witgate_connections{listener=\"calls\"} 0\n")
    })
    .await;
    Client::run(address, &["-calls", "1"]).await.assert_all_ok(1);
}
