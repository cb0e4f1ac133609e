//! The admin listener of the real binary, and clients that do not behave.

use std::{net::SocketAddr, time::Duration};

use http::Request;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::support::{
    client::Client,
    gateway::{Gateway, PATIENCE, all_to, until},
    origin::{Origin, Reply},
};

/// More than the listener serves at once.
const MANY: usize = 300;

/// How long health may take while others misbehave.
const SOON: Duration = Duration::from_secs(1);

/// Sends these bytes as they are and reads what comes back, if anything does: status, head and body.
async fn raw(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A refused request may be followed by a reset, after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer that ends");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer to {request:?}: {answer:?}")), answer)
}

/// What else the machine does can only make it later: the soonest of some attempts counts.
async fn is_healthy_soon(admin: SocketAddr) {
    let mut tries = Vec::new();
    while tries.last().is_none_or(|took| *took >= SOON) {
        assert!(tries.len() < 5, "answers about health only after {tries:?}");
        let start = Instant::now();
        let (status, _) =
            raw(admin, "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        assert_eq!(status, 200);
        tries.push(start.elapsed());
    }
}

/// A client whose kernel takes little, so that what it does not read stays with the gateway.
async fn connect(admin: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(admin).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_while_hundreds_of_clients_misbehave() {
    let gateway = Gateway::start("");
    // So that the list of it does not fit into what lies between the gateway and a client.
    let many = "x".repeat(1_000);
    let mut session = gateway.session_to_admin();
    for number in 0..50 {
        let labels: Vec<String> = (0..50).map(|label| format!(r#""l{label}":"{many}""#)).collect();
        let body = format!(r#"{{"address":"10.0.0.1:80","labels":{{{}}}}}"#, labels.join(","));
        assert_eq!(session.put(&format!("/api/v1/services/big/{number}"), body).await.status, 201);
    }
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let put = "PUT /api/v1/services/a/b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{";
    for (what, sends) in [
        ("say nothing", String::new()),
        ("send half a head", "GET /metrics HTTP/1.1\r\nhost: loc".into()),
        ("ask for metrics and do not read", ask("/metrics")),
        ("ask for something long and do not read", ask("/api/v1/services/big")),
        ("ask again and again and do not read", ask("/metrics").repeat(200)),
        ("send half a body", put.into()),
    ] {
        let mut clients = Vec::new();
        for _ in 0..MANY {
            let mut client = connect(gateway.admin).await;
            // One that is told to leave at once may not take it.
            let _ = timeout(SOON, client.write_all(sends.as_bytes())).await;
            clients.push(client);
        }
        for _ in 0..3 {
            is_healthy_soon(gateway.admin).await;
        }
        println!("healthy while {MANY} clients {what}");
        assert_eq!(gateway.session_to_admin().get("/readyz").await.status, 200, "{what}");
        // Others are served as soon as not everybody waits for an answer.
        until("others are served", || async {
            let asked = Request::get("/api/v1/services");
            let answer = gateway.session_to_admin().try_send(asked, Default::default()).await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }
    assert!(gateway.memory() < 1 << 30, "{} bytes", gateway.memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_answer_is_left() {
    let gateway = Gateway::start("");
    let labels: Vec<String> = (0..50).map(|label| format!(r#""l{label}":"{}""#, "x".repeat(1_000))).collect();
    let body = format!(r#"{{"address":"10.0.0.1:80","labels":{{{}}}}}"#, labels.join(","));
    let mut session = gateway.session_to_admin();
    // More than kernels hold for a connection.
    for number in 0..300 {
        let path = format!("/api/v1/services/big/{number}");
        assert_eq!(session.put(&path, body.clone()).await.status, 201);
    }
    let mut client = connect(gateway.admin).await;
    client.write_all(b"GET /api/v1/services/big HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let open = || {
        let port = client.local_addr().unwrap().port();
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", gateway.pid())).unwrap();
        let here = format!(":{:04X}", gateway.admin.port());
        let there = format!(":{port:04X}");
        // Its local end is the gateway's, and 01 is an established connection.
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, remote, state) = (words.next(), words.next(), words.next());
            local.is_some_and(|local| local.ends_with(&here))
                && remote.is_some_and(|remote| remote.ends_with(&there))
                && state == Some("01")
        })
    };
    assert!(open());
    until("the connection is closed", || async { !open() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_listener_believes_only_its_own_names() {
    let gateway = Gateway::start("");
    let ask = async |line: &str, hosts: &str| {
        raw(
            gateway.admin,
            &format!("{line} HTTP/1.1\r\n{hosts}connection: close\r\ncontent-length: 0\r\n\r\n"),
        )
        .await
        .0
    };
    for path in ["/healthz", "/metrics", "/api/v1/upstreams", "/api/v1/services/a"] {
        let get = format!("GET {path}");
        assert_eq!(ask(&get, "host: localhost\r\n").await, 200, "{path}");
        assert_eq!(ask(&get, "host: evil.example\r\n").await, 421, "{path}");
        assert_eq!(ask(&get, "host: 10.0.0.1:9901\r\n").await, 421, "{path}");
        assert_eq!(ask(&get, "host: localhost\r\nhost: localhost\r\n").await, 400, "{path}");
        assert_eq!(ask(&get, "host: localhost\r\nhost: evil.example\r\n").await, 400, "{path}");
        assert_eq!(ask(&get, "").await, 400, "{path}");
        let absolute = format!("GET http://evil.example{path}");
        assert_eq!(ask(&absolute, "host: evil.example\r\n").await, 421, "{path}");
        assert_eq!(ask(&absolute, "host: localhost\r\n").await, 400, "{path}");
        assert_eq!(ask(&format!("GET http://localhost{path}"), "host: localhost\r\n").await, 200, "{path}");
    }
    for method in ["PUT", "DELETE"] {
        let change = format!("{method} /api/v1/services/a/b");
        assert_eq!(ask(&change, "host: evil.example\r\n").await, 421);
        for header in ["x-forwarded-for: 1.2.3.4", "Forwarded: for=1.2.3.4", "via: 1.1 proxy"] {
            assert_eq!(ask(&change, &format!("host: localhost\r\n{header}\r\n")).await, 403, "{header}");
        }
    }
    assert_eq!(ask("GET /healthz", "host: localhost\r\nx-forwarded-for: 1.2.3.4\r\n").await, 200);
    assert_eq!(ask("DELETE /api/v1/services/a/b", "host: localhost\r\n").await, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_can_be_restricted_and_proxies_and_hosts_be_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("read"), "milk\n").unwrap();
    std::fs::write(folder.path().join("change"), "tea\n").unwrap();
    let config = r#"
[admin]
address = "127.0.0.1:0"
token_file = "change"
read_token_file = "read"
hosts = ["gateway.internal"]
trusted_proxies = ["127.0.0.0/8"]

[[listener]]
address = "127.0.0.1:0"
"#;
    std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
    let gateway = Gateway::run(folder);
    let ask = async |line: &str, token: Option<&str>| {
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: gateway.internal:80\r\nx-forwarded-for: 1.2.3.4\r\n{token}\
             connection: close\r\ncontent-length: 24\r\n\r\n{{\"address\":\"10.0.0.1:1\"}}"
        );
        raw(gateway.admin, &request).await.0
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&format!("GET {path}"), None).await, 200, "{path}");
    }
    for path in ["/metrics", "/api/v1/upstreams", "/api/v1/plugins", "/api/v1/services", "/api/v1/services/a"]
    {
        let get = format!("GET {path}");
        assert_eq!(ask(&get, None).await, 401, "{path}");
        assert_eq!(ask(&get, Some("water")).await, 401, "{path}");
        assert_eq!(ask(&get, Some("milk")).await, 200, "{path}");
        assert_eq!(ask(&get, Some("tea")).await, 200, "{path}");
    }
    let put = "PUT /api/v1/services/a/b";
    assert_eq!(ask(put, Some("milk")).await, 401);
    assert_eq!(ask(put, Some("tea")).await, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let gateway = Gateway::start("");
    let scrape = async |accept: &str| {
        let request = Request::get("/metrics").header("accept", accept);
        let answer = gateway.session_to_admin().send(request, Default::default()).await;
        (answer.headers["content-type"].to_str().unwrap().to_owned(), answer.text())
    };
    let (kind, text) = scrape("text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE witgate_unrouted_requests_total counter\n") && !text.contains("# EOF"));
    let (kind, open) =
        scrape("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.contains("# TYPE witgate_unrouted_requests counter\n") && open.ends_with("\n# EOF\n"));
    let series = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(series(&text), series(&open));
}

async fn ids(gateway: &Gateway) -> Vec<String> {
    let service = gateway.api("/api/v1/services/orders").await;
    let instances = service["instances"].as_array().unwrap().iter();
    instances.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_as_done_outlives_a_kill() {
    let mut gateway = Gateway::start("");
    let here = SocketAddr::from(([10, 0, 0, 1], 80));
    for round in 0..5 {
        gateway.register("orders", &format!("i{round}"), here).await;
        if round == 3 {
            gateway.withdraw("orders", "i0").await;
        }
        gateway = gateway.restart().await;
    }
    assert_eq!(ids(&gateway).await, ["i1", "i2", "i3", "i4"]);

    // The end of the file is torn, as by a power cut while it was written.
    let path = gateway.folder().join("state/registry.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 7]).unwrap();
    let gateway = gateway.restart().await;
    assert_eq!(ids(&gateway).await, ["i1", "i2", "i3"]);
    gateway.logged("1 line damaged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_version_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("state")).unwrap();
    // As it was written once, with its checksum.
    let services = r#"{"orders":{"old":{"address":"10.0.0.1:80","weight":1,"ttl_seconds":0}}}"#;
    let sha256 = "056c1528212ebbd2eb60cea844e3988b4d21a1361a217b0d50599c867a9ef6e6";
    let text = format!(r#"{{"version":1,"sha256":"{sha256}","services":{services}}}"#);
    std::fs::write(folder.path().join("state/registry.json"), text).unwrap();
    let gateway = Gateway::start_in(folder, "");
    assert_eq!(ids(&gateway).await, ["old"]);
    gateway.register("orders", "new", SocketAddr::from(([10, 0, 0, 2], 80))).await;
    let gateway = gateway.restart().await;
    assert_eq!(ids(&gateway).await, ["new", "old"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_cannot_be_written_is_told_with_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "in the way").unwrap();
    let gateway = Gateway::start_in(folder, "");
    let mut session = gateway.session_to_admin();
    let answer = session.put("/api/v1/services/orders/a", r#"{"address":"10.0.0.1:80"}"#).await;
    assert_eq!(answer.status, 201);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(body["unsaved"].as_str().unwrap().contains("cannot make the folder"), "{body}");
    let metrics = session.get("/metrics").await.text();
    assert!(metrics.contains("\nwitgate_registry_unsaved 1\n"), "{metrics}");
    assert_eq!(session.delete("/api/v1/services/orders/a").await.status, 200);
}

#[tokio::test]
async fn times_are_by_route_upstream_method_and_class() {
    let origin = Origin::replying(|seen| match seen.path() {
        "/bad" => Reply::status(503),
        _ => Reply::text("hello"),
    })
    .await;
    let text = format!("{}\n[[route]]\npath = '/other'\nupstream = 'main'", all_to(origin.address));
    let gateway = Gateway::start(&text);
    let mut client = Client::connect(gateway.address()).await;
    for path in ["/", "/", "/other/a", "/bad"] {
        client.get(path).await;
    }
    client.send("MADE-UP / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    for (route, method, code, count) in [
        ("route[0]", "GET", "2xx", 2),
        ("route[0]", "GET", "5xx", 1),
        ("route[0]", "_OTHER", "2xx", 1),
        ("route[1]", "GET", "2xx", 1),
    ] {
        let labels = format!(
            "{{route=\"{route}\",upstream=\"main\",http_request_method=\"{method}\",code=\"{code}\"}}"
        );
        let series = format!("http_server_request_duration_seconds_count{labels}");
        until(&series, || async { exposed(&gateway, &series).await == Some(count) }).await;
    }
    let text = gateway.session_to_admin().get("/metrics").await.text();
    let series = text.lines().filter(|line| line.starts_with("http_server_request_duration_seconds_count"));
    assert_eq!(series.count(), 4, "only what there was:\n{text}");
}

#[tokio::test]
async fn times_go_on_when_the_configuration_changes() {
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let text = all_to(origin.address);
    let gateway = Gateway::start(&text);
    let mut client = Client::connect(gateway.address()).await;
    let labels = r#"{route="route[0]",upstream="main",http_request_method="GET",code="2xx"}"#;
    let series = format!("http_server_request_duration_seconds_count{labels}");
    for (reloads, more) in [(1, "[[route]]\npath = '/other'\nupstream = 'main'"), (2, "")] {
        client.get("/").await;
        gateway.reconfigure(&format!("{text}\n{more}"));
        gateway.applied(reloads).await;
        client.get("/").await;
        let count = Some(reloads as u64 * 2);
        until(&series, || async { exposed(&gateway, &series).await == count }).await;
    }
}

/// The value of a series, if it is there.
async fn exposed(gateway: &Gateway, series: &str) -> Option<u64> {
    let text = gateway.session_to_admin().get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}
