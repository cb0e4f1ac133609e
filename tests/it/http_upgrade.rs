//! Connections that change their protocol.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, LONG, until},
        origin::{Origin, Reply, read_request},
    },
};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
const AGREE: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s\r\n\r\nhi";

/// Agrees, greets, then sends back what it gets.
async fn echo() -> Origin {
    Origin::connected(|mut stream, connection, seen| async move {
        let mut buffer = Vec::new();
        let request = read_request(&mut stream, &mut buffer, connection).await.unwrap();
        seen.lock().unwrap().push(request);
        stream.write_all(AGREE).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

async fn read(client: &mut Client, length: usize) -> String {
    let mut bytes = std::mem::take(&mut client.buffer);
    while bytes.len() < length {
        let more = tokio::time::timeout(LONG, client.stream.read_buf(&mut bytes)).await;
        assert_ne!(more.unwrap_or_else(|_| panic!("no more than {bytes:?}")).unwrap(), 0);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn bytes_pass_both_ways_after_an_upgrade() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    let mut client = gateway.client().await;
    client.send(ASK).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(
        (answer.header("connection"), answer.header("sec-websocket-accept")),
        (Some("upgrade"), Some("s"))
    );
    assert_eq!(read(&mut client, 2).await, "hi");
    // Looks like a request, and is none any more.
    client.send("GET / HTTP/1.1\r\nx : y\r\n\r\n").await;
    assert_eq!(read(&mut client, 25).await, "GET / HTTP/1.1\r\nx : y\r\n\r\n");
    assert_eq!(member.stats().in_flight(), 1);
    let seen = origin.seen().remove(0);
    assert_eq!((seen.header("connection"), seen.header("upgrade")), (Some("upgrade"), Some("websocket")));
    drop(client);
    until("the tunnel is closed", || member.stats().in_flight() == 0).await;
}

#[tokio::test]
async fn bytes_sent_ahead_of_the_agreement_belong_to_the_new_protocol() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(format!("{ASK}early")).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(read(&mut client, 7).await, "hiearly");
}

#[tokio::test]
async fn an_endpoint_may_decline_and_the_connection_goes_on() {
    let origin = Origin::start("no").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(format!("{ASK}GET /next HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.get("/third").await.text(), "no");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn what_follows_a_declined_upgrade_is_checked_like_everything() {
    let origin = Origin::start("no").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(format!("{ASK}GET /next HTTP/1.1\r\n\r\n")).await;
    assert_eq!(client.answer().await.text(), "no");
    assert_eq!(client.answer().await.reason(), Some("bad-request-host"));
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_passed_on() {
    let origin = Origin::start("plain").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: x\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "plain");
    let seen = origin.seen().remove(0);
    for name in ["upgrade", "connection", "http2-settings"] {
        assert_eq!(seen.header(name), None);
    }
}

/// As Java's HttpClient, `curl --http2 -d` and Apache's HttpClient send it: they would wait for ever for an answer that
/// waits for the body.
#[tokio::test]
async fn an_offer_with_a_body_is_ignored_and_the_request_goes_on() {
    for offer in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: x, ,UPGRADE,\r\n",
    ] {
        for (lengths, body) in [
            ("Content-Length: 5\r\n", "hello"),
            ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ] {
            let origin = Origin::start("ok").await;
            let gateway = Gateway::start(Setup::to(&[&origin]));
            let mut client = gateway.client().await;
            for (first, second) in [(format!("{offer}{lengths}"), ""), (format!("{lengths}{offer}"), body)] {
                let now = if second.is_empty() { body } else { "" };
                client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{first}\r\n{now}")).await;
                client.send(second).await;
                assert_eq!(client.answer().await.text(), "ok", "{offer}{lengths}");
            }
            assert_eq!(client.get("/next").await.text(), "ok");
            for seen in &origin.seen()[..2] {
                assert_eq!(seen.body, b"hello");
                for name in ["upgrade", "connection", "http2-settings"] {
                    assert_eq!(seen.header(name), None, "{offer}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_offer_that_leads_nowhere_holds_nothing_back() {
    for offer in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2, TLS/1.0\r\n",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
    ] {
        let origin = Origin::start("ok").await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = gateway.client().await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{offer}\r\n");
        client.send(format!("{request}{request}")).await;
        for _ in 0..2 {
            assert_eq!(client.answer().await.text(), "ok", "{offer}");
        }
        assert!(origin.seen().iter().all(|seen| seen.header("upgrade").is_none()), "{offer}");
    }
}

#[tokio::test]
async fn offers_are_passed_on_without_those_that_lead_past_the_routes() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: x\r\nconnection: ,Upgrade\r\nupgrade: h2c, websocket,\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(origin.seen().remove(0).header("upgrade"), Some("websocket"));
}

#[tokio::test]
async fn an_endpoint_that_switches_to_http_2_gives_no_answer() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let origin = Origin::replying(|_| Reply::raw(answer)).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(ASK).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("bad-upstream-answer")));
}

#[tokio::test]
async fn an_endpoint_that_switches_unasked_gives_no_answer() {
    let origin = Origin::replying(|_| Reply::Bytes(AGREE.to_vec())).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("bad-upstream-answer")));
}

#[tokio::test]
async fn a_tunnel_that_is_silent_both_ways_is_closed() {
    const SHORT: Duration = Duration::from_millis(300);
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.tunnel_idle = SHORT;
        setup.listener.idle_timeout = SHORT / 4;
        setup.listener.header_timeout = SHORT / 4;
    }));
    let mut client = gateway.client().await;
    client.send(ASK).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(read(&mut client, 2).await, "hi");
    let begun = std::time::Instant::now();
    while begun.elapsed() < SHORT * 3 {
        client.send("a").await;
        assert_eq!(read(&mut client, 1).await, "a");
        tokio::time::sleep(SHORT / 10).await;
    }
    client.closed().await;
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    until("the tunnel is closed", || member.stats().in_flight() == 0).await;
}

#[tokio::test]
async fn draining_ends_tunnels_at_its_bound() {
    let origin = echo().await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(ASK).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(read(&mut client, 2).await, "hi");
    gateway.close(Duration::from_millis(200));
    client.send("still").await;
    assert_eq!(read(&mut client, 5).await, "still");
    gateway.ended().await;
    tokio::time::timeout(LONG, client.closed()).await.unwrap();
}

#[tokio::test]
async fn a_switch_of_protocols_is_a_success_whatever_comes_of_it() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    member.stats().record(Instant::now(), Duration::ZERO, false);
    let mut client = gateway.client().await;
    client.send(ASK).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(read(&mut client, 2).await, "hi");
    assert_eq!(member.stats().figures().consecutive_failures, 0);
    drop(client);
    until("it is over", || member.stats().in_flight() == 0).await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.cut, counts.failures, counts.statuses), ([0; 3], [0; 4], [1, 0, 0, 0, 0]));
}

#[tokio::test]
async fn a_tunnel_that_its_client_resets_is_reset_at_the_endpoint() {
    let (ended, mut how) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::connected(move |mut stream, connection, _| {
        let ended = ended.clone();
        async move {
            read_request(&mut stream, &mut Vec::new(), connection).await.unwrap();
            stream.write_all(AGREE).await.unwrap();
            ended.send(stream.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(ASK).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(read(&mut client, 2).await, "hi");
    client.stream.set_zero_linger().unwrap();
    drop(client);
    let ended = tokio::time::timeout(LONG, how.recv()).await.unwrap().unwrap();
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
}
