//! Traces: which requests have one, what their spans say, and that no request waits for whoever takes them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use tonic::{Code, Request};

use crate::support::{
    certs::Certs,
    client::Client,
    collector::{Answer, Collector, Received, hex, nonsense},
    gateway::{Gateway, all_to, until},
    http2::{Http2, in_time},
    origin::{Origin, Reply},
    tonic_echo::{EchoClient, TonicEcho},
    traffic::Traffic,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Everything goes to an endpoint, and traces to a collector. `tracing` is more of its table.
fn config(collector: SocketAddr, tracing: &str, endpoint: SocketAddr) -> String {
    format!("{}\n[tracing]\nendpoint = 'http://{collector}'\n{tracing}", all_to(endpoint))
}

const TRUSTING: &str = "continue_from = ['127.0.0.0/8']";

async fn send(gateway: &Gateway, headers: &str) -> u16 {
    let mut client = Client::connect(gateway.address()).await;
    client.send(format!("GET /a?secret=b HTTP/1.1\r\nhost: shop.example:8080\r\n{headers}\r\n")).await;
    client.answer().await.status
}

fn one(spans: &[Received], which: impl Fn(&Received) -> bool) -> &Received {
    let mut found = spans.iter().filter(|span| which(span));
    let only = found.next().unwrap();
    assert!(found.next().is_none(), "{spans:#?}");
    only
}

fn is_within(inner: &Received, outer: &Received) -> bool {
    let times = |of: &Received| of.span.start_time_unix_nano..=of.span.end_time_unix_nano;
    times(outer).contains(times(inner).start()) && times(outer).contains(times(inner).end())
}

#[tokio::test]
async fn a_trace_goes_on_with_a_span_of_the_request_and_one_of_its_try() {
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    for (collector, protocol) in [(Collector::grpc().await, "grpc"), (Collector::http().await, "http")] {
        let tracing = format!("{TRUSTING}\nprotocol = '{protocol}'\nservice = 'edge'");
        let gateway = Gateway::start(&config(collector.address, &tracing, origin.address));
        let headers = format!("user-agent: curl/8\r\ntraceparent: {PARENT}\r\ntracestate: a=1,b=2\r\n");
        assert_eq!(send(&gateway, &headers).await, 200);

        let spans = collector.until(2).await;
        let (server, client) = (one(&spans, Received::is_server), one(&spans, Received::is_client));
        assert_eq!(hex(&server.span.trace_id), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(hex(&server.span.parent_span_id), "b7ad6b7169203331");
        assert_eq!(client.span.parent_span_id, server.span.span_id);
        assert_eq!(client.span.trace_id, server.span.trace_id);
        assert!(is_within(client, server), "{spans:#?}");
        let seen = origin.seen().pop().unwrap();
        assert_eq!(seen.header("traceparent"), Some(&*format!("00-{}-01", client.context())));
        assert_eq!(seen.header("tracestate"), Some("a=1,b=2"));
        assert_eq!((&*server.span.trace_state, &*client.span.trace_state), ("a=1,b=2", "a=1,b=2"));

        let address = origin.address.to_string();
        for (span, name, expected) in [
            (server, "http.request.method", "GET"),
            (server, "http.response.status_code", "200"),
            (server, "http.route", "/"),
            (server, "url.path", "/a"),
            (server, "url.scheme", "http"),
            (server, "server.address", "shop.example"),
            (server, "server.port", "8080"),
            (server, "client.address", "127.0.0.1"),
            (server, "network.protocol.version", "1.1"),
            (server, "user_agent.original", "curl/8"),
            (server, "witgate.upstream", "main"),
            (server, "witgate.route", "route[0]"),
            (client, "http.request.method", "GET"),
            (client, "http.response.status_code", "200"),
            (client, "url.full", &*format!("http://{address}/a")),
            (client, "server.address", "127.0.0.1"),
            (client, "server.port", &*origin.address.port().to_string()),
            (client, "network.peer.address", "127.0.0.1"),
        ] {
            assert_eq!(span.attribute(name).as_deref(), Some(expected), "{name}: {span:#?}");
        }
        for missing in ["error.type", "http.request.resend_count", "url.query"] {
            assert!(spans.iter().all(|span| span.attribute(missing).is_none()), "{missing}");
        }
        assert_eq!((&*server.span.name, &*client.span.name), ("GET /", "GET"));
        assert!(spans.iter().all(|span| !span.is_error()));
        assert!(!format!("{spans:?}").contains("secret"), "queries have secrets");
        assert_eq!(server.of_resource("service.name").as_deref(), Some("edge"));
        assert_eq!(server.of_resource("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(server.of_resource("service.instance.id").is_some_and(|id| !id.is_empty()));
    }
}

#[tokio::test]
async fn each_try_has_its_span_and_its_endpoint_hears_of_it() {
    let collector = Collector::grpc().await;
    let failing = Origin::replying(|_| Reply::status(503)).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "[registry.fixed]
plugin = 'static'
settings = {{ endpoints = ['{closed}', '{}'] }}
[upstream.main]
service = 'main'
registry = 'fixed'
retries = {{ most = 3, on = ['connect', '503'], budget = 1.0 }}
[[route]]
upstream = 'main'
[tracing]
endpoint = 'http://{}'",
        failing.address, collector.address
    );
    let gateway = Gateway::start(&text);
    assert_eq!(send(&gateway, "").await, 503);
    until("the spans", || async { collector.spans().iter().any(Received::is_server) }).await;
    let spans = collector.spans();
    let server = one(&spans, Received::is_server);
    let mut tries: Vec<_> = spans.iter().filter(|span| span.is_client()).collect();
    tries.sort_by_key(|span| span.span.start_time_unix_nano);
    assert!(tries.len() > 1, "{spans:#?}");
    for (number, span) in tries.iter().enumerate() {
        assert_eq!(span.span.parent_span_id, server.span.span_id);
        let resent = span.attribute("http.request.resend_count");
        assert_eq!(resent, (number > 0).then(|| number.to_string()));
        assert!(span.is_error() && is_within(span, server), "{span:#?}");
        let reached = span.attribute("server.port") == Some(failing.address.port().to_string());
        let error = if reached { "503" } else { "connect-failed" };
        assert_eq!(span.attribute("error.type").as_deref(), Some(error), "{span:#?}");
    }
    assert!(server.is_error());
    assert_eq!(server.attribute("error.type").as_deref(), Some("503"));
    // Each that was sent was told of by its own.
    let mut sent: Vec<String> =
        failing.seen().iter().map(|seen| seen.header("traceparent").unwrap().to_owned()).collect();
    sent.sort();
    let reached = tries.iter().filter(|span| span.attribute("error.type").as_deref() == Some("503"));
    let mut spans: Vec<String> = reached.map(|span| format!("00-{}-01", span.context())).collect();
    spans.sort();
    assert_eq!(sent, spans);
}

#[tokio::test]
async fn a_second_try_beside_the_first_is_a_span_and_so_is_the_one_that_lost() {
    let collector = Collector::http().await;
    let (slow, good) = (Origin::replying(|_| Reply::Hang).await, Origin::start("good").await);
    let text = format!(
        "[registry.fixed]
plugin = 'static'
settings = {{ endpoints = ['{}', '{}'] }}
[upstream.main]
service = 'main'
registry = 'fixed'
retries = {{ mode = 'failbackup', backup_after_ms = 20 }}
[[route]]
upstream = 'main'
[tracing]
protocol = 'http'
endpoint = 'http://{}'",
        slow.address, good.address, collector.address
    );
    let gateway = Gateway::start(&text);
    let mut hedged = 0;
    while hedged == 0 {
        assert_eq!(send(&gateway, "").await, 200);
        hedged = slow.seen().len();
    }
    let cancelled = |span: &Received| span.attribute("witgate.cancelled").as_deref() == Some("true");
    until("the span of the one that lost", || async { collector.spans().iter().any(cancelled) }).await;
    let spans = collector.spans();
    let lost = spans.iter().find(|span| cancelled(span)).unwrap();
    assert!(lost.is_client() && !lost.is_error(), "{lost:#?}");
    let server = one(&spans, |span| span.is_server() && span.span.span_id == lost.span.parent_span_id);
    assert!(!server.is_error());
    let beside =
        one(&spans, |span| span.is_client() && !cancelled(span) && span.span.trace_id == lost.span.trace_id);
    assert_eq!(beside.attribute("http.request.resend_count").as_deref(), Some("1"));
}

#[tokio::test]
async fn strangers_and_broken_headers_begin_a_trace_of_their_own() {
    let collector = Collector::grpc().await;
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let gateway = Gateway::start(&config(collector.address, "", origin.address));
    let mut expected = 0;
    for (headers, linked) in [
        (format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n"), true),
        (format!("traceparent: {PARENT}-\r\ntracestate: a=1\r\n"), false),
        ("tracestate: a=1\r\n".to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(send(&gateway, &headers).await, 200);
        expected += 2;
        let spans = collector.until(expected).await;
        let server = spans.iter().rfind(|span| span.is_server()).unwrap();
        assert!(server.span.parent_span_id.is_empty(), "{server:#?}");
        assert_ne!(hex(&server.span.trace_id), "0af7651916cd43dd8448eb211c80319c");
        let links: Vec<_> = server.span.links.iter().map(|link| hex(&link.trace_id)).collect();
        assert_eq!(links == ["0af7651916cd43dd8448eb211c80319c"], linked, "{headers}");
        let seen = origin.seen().pop().unwrap();
        assert!(seen.header("traceparent").unwrap().contains(&hex(&server.span.trace_id)));
        assert_eq!(seen.header("tracestate"), None, "{headers}");
    }
}

#[tokio::test]
async fn what_is_not_sampled_is_not_recorded_and_whoever_comes_next_is_told() {
    let collector = Collector::grpc().await;
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let gateway =
        Gateway::start(&config(collector.address, &format!("{TRUSTING}\nsample = 0.0"), origin.address));
    let sent = || origin.seen().pop().unwrap();
    // It takes no part in that one.
    assert_eq!(send(&gateway, &format!("traceparent: {UNSAMPLED}\r\ntracestate: a=1\r\n")).await, 200);
    assert_eq!((sent().header("traceparent"), sent().header("tracestate")), (Some(UNSAMPLED), Some("a=1")));
    assert_eq!(send(&gateway, "").await, 200);
    assert!(sent().header("traceparent").unwrap().ends_with("-00"));
    // What others have decided to record is recorded.
    assert_eq!(send(&gateway, &format!("traceparent: {PARENT}\r\n")).await, 200);
    let spans = collector.until(2).await;
    assert!(spans.iter().all(|span| hex(&span.span.trace_id) == "0af7651916cd43dd8448eb211c80319c"));
}

#[tokio::test]
async fn without_a_table_nothing_is_added_and_a_route_may_take_it_away() {
    let collector = Collector::grpc().await;
    let origin = Origin::replying(|_| Reply::text("hello")).await;
    let plain = all_to(origin.address);
    let gateway = Gateway::start(&plain);
    assert_eq!(send(&gateway, "").await, 200);
    assert_eq!(origin.seen().pop().unwrap().header("traceparent"), None);
    // It is taken over while the gateway runs.
    let removed = "request_headers = { remove = ['traceparent', 'tracestate'] }";
    gateway.reconfigure(&format!("{plain}\n{removed}\n[tracing]\nendpoint = 'http://{}'", collector.address));
    until("traces", || async {
        assert_eq!(send(&gateway, "").await, 200);
        !collector.spans().is_empty()
    })
    .await;
    assert_eq!(send(&gateway, &format!("traceparent: {PARENT}\r\n")).await, 200);
    assert_eq!(origin.seen().pop().unwrap().header("traceparent"), None);
}

#[tokio::test]
async fn a_request_that_reaches_nobody_has_a_span_and_the_line_of_the_log_its_trace() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let collector = Collector::grpc().await;
    let origin = Origin::start("hello").await;
    let text = config(collector.address, "", origin.address);
    let text = format!(
        "access_log = {{ format = 'json', file = '{}' }}\n{}",
        log.display(),
        text.replace("[[route]]\n", "[[route]]\npath = '/here'\n")
    );
    let gateway = Gateway::start_in(folder, &text);
    assert_eq!(send(&gateway, "").await, 404);
    let spans = collector.until(1).await;
    let server = &spans[0];
    assert_eq!(server.attribute("witgate.reason").as_deref(), Some("no-route"));
    // That is the client's mistake.
    assert!(!server.is_error() && server.attribute("error.type").is_none());
    until("the line", || async { std::fs::read_to_string(&log).is_ok_and(|text| text.ends_with('\n')) })
        .await;
    let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["trace_id"], hex(&server.span.trace_id));
}

#[tokio::test]
async fn what_a_client_sends_of_a_user_is_in_no_span_and_no_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let collector = Collector::grpc().await;
    let origin = Origin::start("hello").await;
    let text = config(collector.address, "", origin.address);
    let text = format!("access_log = {{ format = 'json', file = '{}' }}\n{text}", log.display());
    let gateway = Gateway::start_in(folder, &text);
    let told = |lines| {
        let log = &log;
        async move {
            let written = || std::fs::read_to_string(log).unwrap_or_default();
            until("the line", || async { written().ends_with('\n') && written().lines().count() == lines })
                .await;
            assert!(!written().contains("s3cret"), "{}", written());
        }
    };
    // They are refused before anything of them is told.
    let heads = [
        "GET http://user:s3cret@shop.example/ HTTP/1.1\r\nhost: shop.example",
        "GET / HTTP/1.1\r\nhost: user:s3cret@shop.example",
    ];
    for (number, head) in heads.iter().enumerate() {
        let mut client = Client::connect(gateway.address()).await;
        client.send(format!("{head}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 400, "{head}");
        told(number + 1).await;
    }
    let request = http::Request::get("http://user:s3cret@shop.example/").body(()).unwrap();
    assert_eq!(Http2::connect(gateway.address()).await.request(request).await.status, 400);
    told(heads.len() + 1).await;
    // The span of one that is not comes after theirs.
    assert_eq!(send(&gateway, "").await, 200);
    let spans = collector.until(2).await;
    assert!(!format!("{spans:?}").contains("s3cret"), "{spans:#?}");
}

#[tokio::test]
async fn a_call_of_grpc_has_its_method_and_its_status() {
    let collector = Collector::grpc().await;
    let echo = TonicEcho::start().await;
    let text = config(collector.address, "", echo.address);
    let gateway = Gateway::start(&text);
    let mut client = EchoClient::new(gateway.address());
    let _ = in_time(client.unary("Unary", Request::new("hello".into()))).await.unwrap();
    let mut failing = Request::new("hello".into());
    failing.metadata_mut().insert("x-fail", "13".parse().unwrap());
    assert!(in_time(client.unary("Unary", failing)).await.is_err());
    let spans = collector.until(4).await;
    let statuses: Vec<_> =
        spans.iter().map(|span| (span.is_server(), span.attribute("rpc.status_code").unwrap())).collect();
    assert_eq!(statuses.iter().filter(|(_, status)| status == "OK").count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|(_, status)| status == "INTERNAL").count(), 2, "{statuses:?}");
    assert_eq!(spans.iter().filter(|span| span.is_error()).count(), 2);
    for span in &spans {
        assert_eq!(span.attribute("rpc.system.name").as_deref(), Some("grpc"));
        assert!(span.attribute("rpc.method").unwrap().starts_with("test.Echo/"));
        assert!(span.span.name.starts_with("test.Echo/"), "{}", span.span.name);
    }
}

#[tokio::test]
async fn a_call_that_no_endpoint_has_names_no_span() {
    let collector = Collector::grpc().await;
    let echo = TonicEcho::start().await;
    let text = config(collector.address, "", echo.address)
        .replace("[[route]]\n", "[[route]]\npath = '/test.Echo'\n");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = config(collector.address, "", closed);
    let mut seen = 0;
    for (text, call, code, names) in [
        (&text, "MadeUp", Code::Unimplemented, &["POST /test.Echo", "POST"][..]),
        (&text.replace("/test.Echo", "/other"), "MadeUp", Code::Unimplemented, &["POST"][..]),
        // Nobody knows whether there is one.
        (&down, "MadeUp", Code::Unavailable, &["POST /", "POST"][..]),
    ] {
        let gateway = Gateway::start(text);
        let mut client = EchoClient::new(gateway.address());
        let failed = in_time(client.unary(call, Request::new("hello".into()))).await.unwrap_err();
        assert_eq!(failed.code(), code);
        // Those of one request come together.
        until("the spans of the call", || async { collector.spans().len() > seen }).await;
        let mut spans = collector.spans().split_off(seen);
        seen += spans.len();
        spans.sort_by_key(|span| span.is_client());
        let mut found: Vec<_> = spans.iter().map(|span| span.span.name.as_str()).collect();
        found.dedup();
        assert_eq!(found, names, "{spans:#?}");
        assert!(spans[0].attribute("rpc.method").unwrap().ends_with("/MadeUp"));
    }
}

#[tokio::test]
async fn a_collector_behind_tls_is_told_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let pair = certs.server();
    let read = |path| std::fs::read_to_string(path).unwrap();
    std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
    let collector = Collector::grpc_with_tls(&read(pair.certificate), &read(pair.key)).await;
    let origin = Origin::start("hello").await;
    let text = format!(
        "{}\n[tracing]\nendpoint = 'https://localhost:{}'\ntoken_file = 'token'\ntls = {{ ca_file = 'ca.crt' }}",
        all_to(origin.address),
        collector.address.port()
    );
    let gateway = Gateway::start_in(folder, &text);
    assert_eq!(send(&gateway, "").await, 200);
    collector.until(2).await;
    assert_eq!(collector.tokens(), ["Bearer s3cret"]);
}

/// The value of a series.
async fn counted(gateway: &Gateway, series: &str) -> u64 {
    let text = gateway.session_to_admin().get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_collector_that_refuses_costs_spans_which_are_counted() {
    let collector = Collector::http().await;
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(&config(collector.address, "protocol = 'http'", origin.address));
    let refused = "witgate_spans_lost_total{reason=\"refused\"}";
    for (answer, lost) in [(Answer::Fail(400), 2), (Answer::TakeBut(1), 3)] {
        collector.answers(answer);
        assert_eq!(send(&gateway, "").await, 200);
        until("they are lost", || async { counted(&gateway, refused).await == lost }).await;
    }
    assert_eq!(counted(&gateway, "witgate_spans_exported_total").await, 1);
    assert!(gateway.log().contains("Traces are not taken"), "{}", gateway.log());

    // What it cannot take now is sent again.
    for status in [429, 503] {
        let before = (collector.tokens().len(), collector.spans().len());
        collector.answers(Answer::Fail(status));
        assert_eq!(send(&gateway, "").await, 200);
        until("it was asked", || async { collector.tokens().len() > before.0 }).await;
        collector.answers(Answer::Take);
        until("it takes them", || async { collector.spans().len() == before.1 + 2 }).await;
    }
    assert_eq!(counted(&gateway, refused).await, 3);
}

#[tokio::test]
async fn what_a_collector_takes_is_taken_however_it_says_so() {
    let collector = Collector::http().await;
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(&config(collector.address, "protocol = 'http'", origin.address));
    let mut taken = 0;
    for (status, kind, body) in [
        (202, "application/x-protobuf", ""),
        (204, "", ""),
        (200, "application/json", "{}"),
        (200, "text/plain", "OK"),
    ] {
        collector.answers(Answer::TakeBy(status, kind, body));
        assert_eq!(send(&gateway, "").await, 200);
        taken += 2;
        let what = format!("{status} {kind:?}: {}", gateway.log());
        until(&what, || async { counted(&gateway, "witgate_spans_exported_total").await == taken }).await;
    }
    assert_eq!(counted(&gateway, "witgate_spans_lost_total{reason=\"refused\"}").await, 0);
    assert!(!gateway.log().contains("Traces are not taken"), "{}", gateway.log());
}

#[tokio::test]
async fn a_collector_that_never_takes_all_of_a_batch_is_not_said_to_have_recovered() {
    let collector = Collector::grpc().await;
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(&config(collector.address, "", origin.address));
    collector.answers(Answer::TakeBut(1));
    for lost in 1..=3 {
        assert_eq!(send(&gateway, "").await, 200);
        let refused = "witgate_spans_lost_total{reason=\"refused\"}";
        until("it is lost", || async { counted(&gateway, refused).await == lost }).await;
    }
    gateway.logged("Spans are rejected").await;
    // Whatever the last batch had to say would be there.
    collector.answers(Answer::Fail(400));
    assert_eq!(send(&gateway, "").await, 200);
    gateway.logged("Traces are not taken").await;
    let log = gateway.log();
    assert!(!log.contains("Traces are taken again"), "{log}");
    let line = log.lines().find(|line| line.contains("Spans are rejected")).unwrap();
    assert!(line.contains("some were not wanted") && line.contains("spans=1"), "{line}");
}

#[tokio::test]
async fn a_collector_that_wants_to_be_left_alone_is_and_gets_later_traces_all_the_same() {
    let origin = Origin::start("hello").await;
    for seconds in [60, u64::MAX] {
        let collector = Collector::http().await;
        let tracing = "protocol = 'http'\n[shutdown]\ndelay_ms = 0";
        let mut gateway = Gateway::start(&config(collector.address, tracing, origin.address));
        collector.answers(Answer::After(seconds));
        assert_eq!(send(&gateway, "").await, 200);
        let unavailable = "witgate_spans_lost_total{reason=\"unavailable\"}";
        until("they are lost", || async { counted(&gateway, unavailable).await == 2 }).await;
        // Longer than traces are gathered.
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_millis(700) {
            assert_eq!(send(&gateway, "").await, 200);
            sent += 1;
        }
        assert_eq!(collector.tokens().len(), 1, "it is asked again at once");
        // The end does not wait for it.
        collector.answers(Answer::Take);
        gateway.signal("TERM");
        assert!(gateway.exit().await.success());
        assert_eq!(collector.spans().len(), 2 * sent, "{}", gateway.log());
    }
}

#[tokio::test]
async fn no_request_fails_or_waits_because_of_a_collector() {
    let origin = Origin::start("hello").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (silent, _silent) = nonsense(b"").await;
    let (garbage, _garbage) = nonsense(b"220 mail.example ESMTP\r\n").await;
    for (address, protocol) in
        [(closed, "grpc"), (silent, "grpc"), (silent, "http"), (garbage, "grpc"), (garbage, "http")]
    {
        let tracing = format!("protocol = '{protocol}'\ntimeout_ms = 3000");
        let gateway = Gateway::start(&config(address, &tracing, origin.address));
        let traffic = Traffic::start(gateway.address(), "/", 8);
        until("it is told", || async { gateway.log().contains("Traces are not taken") }).await;
        let tally = traffic.stop().await;
        assert_eq!(tally.failed, 0, "{tally:?}");
        assert!(tally.slowest < Duration::from_millis(2_500), "{tally:?}");
        assert_eq!(counted(&gateway, "witgate_spans_exported_total").await, 0);
    }
}

#[tokio::test]
async fn a_collector_that_is_killed_frozen_and_back_costs_no_request() {
    let origin = Origin::start("hello").await;
    let collector = Collector::grpc().await;
    let address = collector.address;
    let gateway = Gateway::start(&config(address, "timeout_ms = 200", origin.address));
    let traffic = Traffic::start(gateway.address(), "/", 8);
    until("traces", || async { !collector.spans().is_empty() }).await;
    collector.answers(Answer::Hang);
    until("it is told", || async { gateway.log().contains("no answer within") }).await;
    drop(collector);
    let before = counted(&gateway, "witgate_spans_exported_total").await;
    let collector = Collector::grpc_at(address).await;
    until("traces again", || async { !collector.spans().is_empty() }).await;
    let tally = traffic.stop().await;
    assert_eq!(tally.failed, 0, "{tally:?}");
    until("they are counted", || async { counted(&gateway, "witgate_spans_exported_total").await > before })
        .await;
}

#[tokio::test]
async fn the_last_spans_are_sent_when_the_gateway_stops() {
    let collector = Collector::grpc().await;
    let origin = Origin::start("hello").await;
    let text = config(collector.address, "[shutdown]\ndelay_ms = 0", origin.address);
    let mut gateway = Gateway::start(&text);
    assert_eq!(send(&gateway, "").await, 200);
    gateway.signal("TERM");
    assert!(gateway.exit().await.success());
    assert_eq!(collector.spans().len(), 2);
}
