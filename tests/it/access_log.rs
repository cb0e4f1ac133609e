//! The access log: what its lines say, where they go, and that no request waits for them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::{
    client::Client,
    gateway::{Gateway, all_to, until},
    http2::in_time,
    origin::{Origin, Reply, read_head},
    tonic_echo::{EchoClient, TonicEcho},
};

/// Behind the first listener: its log, and a route to this endpoint.
fn config(log: &str, endpoint: SocketAddr) -> String {
    format!("access_log = {{ {log} }}\n{}\nhost = 'example.com'", all_to(endpoint))
}

/// A folder with a place for a log in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    (folder, path)
}

/// Waits for so many lines.
async fn lines(path: &Path, count: usize) -> Vec<Value> {
    until(&format!("{count} lines"), || async {
        fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= count)
    })
    .await;
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

async fn send(gateway: &Gateway, request: &str) -> Client {
    let mut client = Client::connect(gateway.address()).await;
    client.send(request).await;
    client
}

#[tokio::test]
async fn the_line_of_a_request_has_all_that_is_known_of_it() {
    let (folder, path) = place();
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let text = config(&format!("format = 'json', file = '{}'", path.display()), origin.address);
    let gateway = Gateway::start_in(folder, &text);
    let mut client = send(
        &gateway,
        "POST /a?b=c HTTP/1.1\r\nhost: example.com\r\nuser-agent: curl/8\r\nx-forwarded-for: 192.0.2.1\r\n\
         content-length: 3\r\n\r\nabc",
    )
    .await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    let line = &lines(&path, 1).await[0];
    let endpoint = origin.address.to_string();
    for (field, expected) in [
        ("method", "POST"),
        ("path", "/a?b=c"),
        ("protocol", "HTTP/1.1"),
        ("upstream_host", endpoint.as_str()),
        ("upstream_cluster", "main"),
        ("x_forwarded_for", "192.0.2.1"),
        ("user_agent", "curl/8"),
        ("authority", "example.com"),
        ("route_name", "route[0]"),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    for (field, expected) in
        [("response_code", 200), ("bytes_received", 3), ("bytes_sent", 5), ("attempts", 1)]
    {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert!(
        line["start_time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{line}"
    );
    assert!(line["duration"].is_u64() && line["upstream_service_time"].is_u64(), "{line}");
    let from = line["downstream_remote_address"].as_str().unwrap();
    assert!(from.starts_with("127.0.0.1:"), "{line}");
    for missing in ["response_flags", "response_code_details", "grpc_status", "requested_server_name"] {
        assert!(line[missing].is_null(), "{missing}: {line}");
    }

    let seen = origin.seen().pop().unwrap();
    assert_eq!(line["request_id"].as_str(), seen.header("x-request-id"), "{line}");
    assert_eq!(line["request_id"].as_str(), answer.header("x-request-id"), "{line}");
}

#[tokio::test]
async fn what_fails_has_its_letters_and_its_reason() {
    let (folder, path) = place();
    let origin = Origin::replying(|seen| match seen.path() {
        "/half" => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
        "/broken" => Reply::raw("nonsense\r\n\r\n"),
        "/never" => Reply::Hang,
        _ => Reply::text("hello"),
    })
    .await;
    let text = config(&format!("format = 'json', file = '{}'", path.display()), origin.address);
    let gateway = Gateway::start_in(folder, &text);

    for (number, (request, code, flag, reason)) in [
        ("GET /a HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n", 404, Some("NR"), "no-route"),
        (
            "GET /a HTTP/1.1\r\nhost example.com\r\nconnection: close\r\n\r\n",
            400,
            Some("DPE"),
            "bad-request-header",
        ),
        (
            "GET /broken HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n",
            502,
            Some("UPE"),
            "bad-upstream-answer",
        ),
        (
            "GET /half HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n",
            200,
            Some("UC"),
            "upstream-broke-off",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = send(&gateway, request).await;
        client.rest().await;
        let line = lines(&path, number + 1).await.pop().unwrap();
        assert_eq!(line["response_code"], code, "{line}");
        assert_eq!(line["response_flags"].as_str(), flag, "{line}");
        assert_eq!(line["response_code_details"], reason, "{line}");
        if reason == "bad-upstream-answer" {
            assert!(
                line["upstream_transport_failure_reason"].as_str().is_some_and(|text| !text.is_empty()),
                "{line}"
            );
        }
        if reason == "bad-request-header" {
            assert!(line["method"].is_null() && line["path"].is_null(), "{line}");
        }
    }

    // A client that does not wait for its answer.
    let client = send(&gateway, "GET /never HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
    until("the request is there", || async { origin.seen().iter().any(|seen| seen.path() == "/never") })
        .await;
    drop(client);
    let line = lines(&path, 5).await.pop().unwrap();
    assert_eq!(
        (line["response_code"].as_u64(), line["response_flags"].as_str()),
        (Some(0), Some("DC")),
        "{line}"
    );
}

#[tokio::test]
async fn who_cannot_be_reached_is_in_the_line_with_every_attempt() {
    let (folder, path) = place();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway =
        Gateway::start_in(folder, &config(&format!("format = 'json', file = '{}'", path.display()), closed));
    let mut client = send(&gateway, "GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 502);
    let line = &lines(&path, 1).await[0];
    assert_eq!(
        (line["response_flags"].as_str(), line["response_code_details"].as_str()),
        (Some("UF"), Some("connect-failed"))
    );
    assert_eq!(line["upstream_host"], closed.to_string());
    assert!(line["attempts"].as_u64() >= Some(1), "{line}");
    assert!(line["upstream_transport_failure_reason"].as_str().unwrap().contains("refused"), "{line}");
}

#[tokio::test]
async fn what_is_secret_is_left_out_and_of_what_goes_well_there_may_be_a_share() {
    let (folder, path) = place();
    let origin = Origin::replying(|seen| match seen.path().starts_with("/bad") {
        true => Reply::status(503),
        false => Reply::text("hello"),
    })
    .await;
    let log = format!(
        "format = 'json', file = '{}', sample = 0.0, hide_query = ['token'], hide_headers = ['User-Agent']",
        path.display()
    );
    let gateway = Gateway::start_in(folder, &config(&log, origin.address));
    for path in ["/good", "/bad?to%6ben=secret&a=b", "/good", "/bad"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: example.com\r\nuser-agent: secret\r\nconnection: close\r\n\r\n"
        );
        send(&gateway, &request).await.rest().await;
    }
    let mut lines = lines(&path, 2).await;
    // Those of two workers may change places.
    lines.sort_by_key(|line| line["path"].as_str().unwrap().len());
    assert_eq!(lines[0]["path"], "/bad");
    assert_eq!(lines[1]["path"], "/bad?to%6ben=***&a=b");
    assert_eq!(lines[1]["user_agent"], "***");
    assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
}

#[tokio::test]
async fn a_password_in_a_target_is_in_no_line() {
    let (folder, path) = place();
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let log = format!("format = 'json', file = '{}'", path.display());
    let gateway = Gateway::start_in(folder, &config(&log, origin.address));
    let request =
        "GET http://user:secret@example.com/ HTTP/1.1\r\nhost: example.com\r\nconnection: close\r\n\r\n";
    send(&gateway, request).await.rest().await;
    assert_eq!(lines(&path, 1).await[0]["response_flags"], "DPE");
    assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_followed_by_another_and_the_last_lines_are_written_at_the_end() {
    let (folder, path) = place();
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let mut gateway =
        Gateway::start_in(folder, &config(&format!("file = '{}'", path.display()), origin.address));
    let get = "GET /one HTTP/1.1\r\nhost: example.com\r\nuser-agent: a b=\"c\"\r\n\r\n";
    let mut client = send(&gateway, get).await;
    client.answer().await;
    let moved = path.with_extension("1");
    until("there is a line", || async { fs::read_to_string(&path).is_ok_and(|text| !text.is_empty()) }).await;
    fs::rename(&path, &moved).unwrap();
    gateway.signal("USR1");
    until("there is another file", || async { path.exists() }).await;
    for _ in 0..100 {
        client.send("GET /two HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
        client.answer().await;
    }
    // Whoever ends the gateway does not have to wait for anything.
    gateway.signal("TERM");
    drop(client);
    assert!(gateway.exit().await.success());
    let old = fs::read_to_string(&moved).unwrap();
    assert_eq!(old.lines().count(), 1, "{old}");
    assert!(old.contains(" GET /one HTTP/1.1 200 ") && old.contains(r#" user_agent="a b=\"c\"" "#), "{old}");
    let new = fs::read_to_string(&path).unwrap();
    assert_eq!(new.matches(" GET /two HTTP/1.1 200 ").count(), 100, "{new}");
}

#[tokio::test]
async fn lines_go_to_a_socket_once_somebody_listens_and_are_counted_before() {
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let gateway = Gateway::start_in(
        folder,
        &config(&format!("format = 'json', socket = '{}'", path.display()), origin.address),
    );
    let mut client = Client::connect(gateway.address()).await;
    let get = "GET / HTTP/1.1\r\nhost: example.com\r\n\r\n";
    client.send(get).await;
    client.answer().await;
    gateway.logged("Access log cannot be written").await;
    let lost = |gateway: &Gateway| {
        let mut session = gateway.session_to_admin();
        async move {
            let text = session.get("/metrics").await.text();
            let line =
                text.lines().find_map(|line| line.strip_prefix("witgate_access_log_lines_lost_total "));
            line.unwrap().parse::<u64>().unwrap()
        }
    };
    until("a line is lost", || async { lost(&gateway).await == 1 }).await;

    // A stream, and after that datagrams.
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let accepted = async {
        loop {
            client.send(get).await;
            client.answer().await;
            if let Ok(Ok((stream, _))) =
                tokio::time::timeout(Duration::from_millis(200), listener.accept()).await
            {
                return stream;
            }
        }
    };
    let mut reader = BufReader::new(accepted.await);
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["response_code"], 200);
    drop((reader, listener));
    fs::remove_file(&path).unwrap();
    let datagrams = tokio::net::UnixDatagram::bind(&path).unwrap();
    let mut datagram = vec![0; 65536];
    loop {
        client.send(get).await;
        client.answer().await;
        let received = datagrams.recv(&mut datagram);
        if let Ok(Ok(length)) = tokio::time::timeout(Duration::from_millis(200), received).await {
            assert_eq!(serde_json::from_slice::<Value>(&datagram[..length]).unwrap()["response_code"], 200);
            break;
        }
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_costs_lines_and_no_request() {
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _listener = tokio::net::UnixListener::bind(&path).unwrap();
    let gateway = Gateway::start_in(
        folder,
        &config(&format!("format = 'json', socket = '{}'", path.display()), origin.address),
    );
    let before = gateway.memory();
    let mut client = Client::connect(gateway.address()).await;
    let get = format!("GET /{} HTTP/1.1\r\nhost: example.com\r\n\r\n", "x".repeat(8000));
    for _ in 0..2000 {
        client.send(&get).await;
        assert_eq!(client.answer().await.status, 200);
    }
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(!metrics.contains("witgate_access_log_lines_lost_total 0\n"), "{metrics}");
    assert!(gateway.memory() < before + (24 << 20), "{} and before {before}", gateway.memory());
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_refused_and_the_one_that_runs_stays() {
    let (folder, path) = place();
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let gateway = Gateway::start_in(
        folder,
        &config(&format!("format = 'json', file = '{}'", path.display()), origin.address),
    );
    gateway.reconfigure(&config("format = 'json', file = '/proc/nothing/access.log'", origin.address));
    gateway.logged("cannot write its access log, /proc/nothing/access.log").await;
    let mut client = send(&gateway, "GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
    client.answer().await;
    lines(&path, 1).await;
    // Another one takes effect for the clients that come then.
    let other = path.with_extension("2");
    gateway.reconfigure(&config(&format!("format = 'json', file = '{}'", other.display()), origin.address));
    gateway.applied(1).await;
    let mut client = send(&gateway, "GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").await;
    client.answer().await;
    lines(&other, 1).await;
}

#[tokio::test]
async fn a_call_has_its_status_and_a_connection_its_bytes() {
    let (folder, path) = place();
    let echo = TonicEcho::start().await;
    let origin = Origin::connected(|mut stream, _, _| async move {
        stream.write_all(b"hello").await.unwrap();
    })
    .await;
    let log = format!("access_log = {{ format = 'json', file = '{}' }}", path.display());
    let text = format!(
        "{log}
         [[listener]]
         name = 'bytes'
         protocol = 'tcp'
         address = '127.0.0.1:0'
         {log}
         [registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = ['{}'] }}
         [registry.bytes]
         plugin = 'static'
         settings = {{ endpoints = ['{}'] }}
         [upstream.calls]
         service = 'calls'
         registry = 'fixed'
         [upstream.bytes]
         service = 'bytes'
         registry = 'bytes'
         [[route]]
         upstream = 'calls'
         [[route]]
         listener = 'bytes'
         upstream = 'bytes'",
        echo.address, origin.address
    );
    let gateway = Gateway::start_in(folder, &text);
    let mut caller = EchoClient::new(gateway.address());
    assert!(caller.unary("Nothing", tonic::Request::new("abc".into())).await.is_err());
    let line = &lines(&path, 1).await[0];
    assert_eq!(
        (line["protocol"].as_str(), line["grpc_status"].as_u64()),
        (Some("HTTP/2"), Some(12)),
        "{line}"
    );
    assert_eq!(line["response_code"], 200);

    let mut client = Client::connect(gateway.listeners[1]).await;
    client.send("abc").await;
    assert_eq!(client.rest().await, "hello");
    drop(client);
    let line = &lines(&path, 2).await[1];
    assert_eq!(line["protocol"], "TCP");
    assert_eq!(
        (line["listener"].as_str(), line["upstream_cluster"].as_str()),
        (Some("bytes"), Some("bytes")),
        "{line}"
    );
    assert_eq!((line["bytes_received"].as_u64(), line["bytes_sent"].as_u64()), (Some(3), Some(5)), "{line}");
    assert_eq!(line["upstream_host"], origin.address.to_string());
}

#[tokio::test]
async fn ids_of_requests_are_those_of_trusted_proxies_and_others_are_made() {
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let text = |trusted: &str| {
        let settings = format!("request_ids = true\ntrusted_proxies = [{trusted}]");
        format!("{settings}\n{}\npath = '/here'", all_to(origin.address))
    };
    for (trusted, kept) in [("'127.0.0.0/8'", true), ("", false)] {
        let gateway = Gateway::start(&text(trusted));
        for path in ["/here", "/nowhere"] {
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-request-id: given\r\n\r\n");
            let answer = send(&gateway, &request).await.answer().await;
            assert_eq!(answer.header("x-request-id") == Some("given"), kept, "{path} {trusted}");
            assert!(answer.header("x-request-id").is_some());
        }
        assert_eq!(origin.seen().pop().unwrap().header("x-request-id") == Some("given"), kept);
    }
}

#[tokio::test]
async fn the_trace_of_a_request_is_in_its_line_and_passes_as_it_is() {
    let (folder, path) = place();
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let text = config(&format!("format = 'json', file = '{}'", path.display()), origin.address);
    let gateway = Gateway::start_in(folder, &text);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (number, (parent, known)) in [
        (format!("00-{trace}-b7ad6b7169203331-01"), Some(trace)),
        (format!("00-{trace}-b7ad6b7169203331-01-"), None),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: example.com\r\ntraceparent: {parent}\r\ntracestate: a=1,b=2\r\n\r\n"
        );
        assert_eq!(send(&gateway, &request).await.answer().await.status, 200);
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.header("traceparent"), Some(&*parent));
        assert_eq!(seen.header("tracestate"), Some("a=1,b=2"));
        let line = lines(&path, number + 1).await.pop().unwrap();
        assert_eq!(line["trace_id"].as_str(), known, "{line}");
    }
}

#[tokio::test]
async fn a_tunnel_has_its_line_when_it_ends() {
    const ASK: &str =
        "GET /chat HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";
    const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\nhi";
    let (folder, path) = place();
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await.unwrap();
        stream.write_all(AGREE.as_bytes()).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let log = format!("format = 'json', file = '{}'", path.display());
    let gateway = Gateway::start_in(folder, &config(&log, origin.address));
    let mut client = send(&gateway, ASK).await;
    assert_eq!(client.answer().await.status, 101);
    client.send("hello").await;
    while client.buffer != b"hihello" {
        assert_ne!(in_time(client.stream.read_buf(&mut client.buffer)).await.unwrap(), 0);
    }
    // That of another request comes first.
    send(&gateway, "GET / HTTP/1.1\r\nhost: other.example\r\n\r\n").await.answer().await;
    assert_eq!(lines(&path, 1).await[0]["path"], "/");
    drop(client);
    let line = &lines(&path, 2).await[1];
    assert_eq!((line["path"].as_str(), line["response_code"].as_u64()), (Some("/chat"), Some(101)), "{line}");
    assert_eq!((line["bytes_received"].as_u64(), line["bytes_sent"].as_u64()), (Some(5), Some(7)), "{line}");
    assert!(line["request_id"].is_string(), "{line}");
}
