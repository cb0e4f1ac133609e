//! WebSockets of clients that speak HTTP/2 (RFC 8441), to endpoints that know them by HTTP/1 alone.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use h2::{Reason, RecvStream, SendStream, client::Builder};
use http::{HeaderMap, Method, Request};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc},
};
use witgate::{config, resilience::Bounds, telemetry::Abuse, upstream::Offer};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        http2::{Answer, Frames, Http2, answer, in_time, read, reset},
        origin::{Origin, Reply, Seen, read_request},
        websocket::{agree, ask},
    },
};

const SHORT: Duration = Duration::from_millis(300);

async fn connect(gateway: &Gateway) -> Http2 {
    connect_with(gateway, &Builder::new()).await
}

async fn connect_with(gateway: &Gateway, builder: &Builder) -> Http2 {
    let mut client = Http2::with(gateway.address, builder).await;
    // Who has an answer has the settings.
    client.get("/").await;
    assert!(client.sender.is_extended_connect_protocol_enabled());
    client
}

/// A tunnel from its client's side.
struct Tunnel {
    head: HeaderMap,
    to: SendStream<Bytes>,
    from: RecvStream,
}

impl Tunnel {
    async fn open(client: &mut Http2) -> Self {
        let (response, to) = client.send(ask("websocket"), false).await;
        let (head, from) = in_time(response).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        Self { head: head.headers, to, from }
    }

    fn send(&mut self, bytes: impl Into<Bytes>) {
        self.to.send_data(bytes.into(), false).unwrap();
    }

    /// Waits until the gateway has no more to send, and says so.
    async fn ended(&mut self) {
        while let Some(piece) = in_time(self.from.data()).await {
            assert_eq!(piece.unwrap(), "");
        }
    }

    /// Exactly so many bytes.
    async fn read(&mut self, length: usize) -> String {
        let mut all = Vec::new();
        while all.len() < length {
            let piece = in_time(self.from.data()).await.expect("more").unwrap();
            self.from.flow_control().release_capacity(piece.len()).unwrap();
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all).unwrap()
    }
}

async fn refused(client: &mut Http2, request: Request<()>) -> Answer {
    let (response, _) = client.send(request, false).await;
    answer(response).await.unwrap()
}

/// Answers what is no WebSocket, and has every WebSocket go on as the function says.
async fn origin<F, R>(serve: F) -> Origin
where
    F: Fn(TcpStream) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Origin::connected(move |mut stream, connection, seen| {
        let serve = serve.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                let head = request.head.clone();
                if request.header("upgrade").is_some() {
                    seen.lock().unwrap().push(request);
                    stream.write_all(agree(&head).as_bytes()).await.unwrap();
                    return serve(stream).await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await
}

/// Greets, and sends back what comes until its end.
async fn echo() -> Origin {
    origin(|mut stream| async move {
        stream.write_all(b"hi").await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

fn in_flight(gateway: &Gateway) -> u32 {
    gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().in_flight()
}

fn failures(gateway: &Gateway) -> u64 {
    gateway.upstream("main").metrics.counts().failures.iter().sum()
}

#[tokio::test]
async fn a_websocket_is_that_of_http_1_to_an_endpoint() {
    let origin = echo().await;
    // Whatever the upstream speaks else.
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.upstream().protocol = config::Protocol::Http1;
        setup.routes.insert(0, crate::http_harness::route("/chat", "two"));
        let mut two = crate::http_harness::upstream("two");
        two.protocol = config::Protocol::Http2;
        setup.upstreams.push((two, vec![origin.address]));
    }));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.head["sec-websocket-protocol"], "chat");
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!tunnel.head.contains_key(name), "{name}");
    }
    assert_eq!(tunnel.read(2).await, "hi");
    let large = "x".repeat(1 << 20);
    tunnel.send("GET / HTTP/1.1\r\nx : y\r\n\r\n");
    assert_eq!(tunnel.read(25).await, "GET / HTTP/1.1\r\nx : y\r\n\r\n");
    tunnel.send(large.clone());
    assert!(tunnel.read(large.len()).await == large);

    let seen: Seen = origin.seen().remove(0);
    assert_eq!(seen.line(), "GET /chat?room=1 HTTP/1.1");
    for (name, value) in [
        ("host", "test"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("origin", "http://test"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    let stats = gateway.upstream("two").reader.snapshot().iter().next().unwrap().stats().clone();
    assert_eq!((stats.in_flight(), gateway.upstream("two").metrics.counts().statuses[0]), (1, 1));
    // The others on the connection go on.
    assert_eq!(client.get("/").await.text(), "ok");
    // Both sides have no more to say.
    tunnel.to.send_data(Bytes::new(), true).unwrap();
    tunnel.ended().await;
    until("the tunnel is closed", || stats.in_flight() == 0).await;
    assert_eq!(gateway.open(), 1);
}

#[tokio::test]
async fn what_is_no_websocket_is_refused() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.routes[0].matches.path = "/chat".into();
    }));
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.get("/").await.status, 404);
    let got = refused(&mut client, ask("connect-udp")).await;
    assert_eq!((got.status, got.reason()), (501, Some("protocol-not-supported")));
    let plain = Request::builder().method(Method::CONNECT).uri("test:80").body(()).unwrap();
    let got = refused(&mut client, plain).await;
    assert_eq!((got.status, got.reason()), (501, Some("connect-not-supported")));
    // Routes and limits of heads are those of every request.
    let mut elsewhere = ask("websocket");
    *elsewhere.uri_mut() = "http://test/elsewhere".parse().unwrap();
    let got = refused(&mut client, elsewhere).await;
    assert_eq!((got.status, got.reason()), (404, Some("no-route")));
    let mut large = ask("websocket");
    large.headers_mut().insert("x", "a".repeat(17_000).parse().unwrap());
    let got = refused(&mut client, large).await;
    assert_eq!((got.status, got.reason()), (431, Some("head-too-large")));
    let mut two_hosts = ask("websocket");
    two_hosts.headers_mut().insert("host", "other".parse().unwrap());
    let got = refused(&mut client, two_hosts).await;
    assert_eq!((got.status, got.reason()), (400, Some("bad-request-host")));
    assert!(origin.seen().is_empty());
    // Nothing of it stays open, and the connection goes on.
    assert_eq!(Tunnel::open(&mut client).await.read(2).await, "hi");
}

#[tokio::test]
async fn a_client_is_told_that_it_may_ask() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Frames::connect(gateway.address).await;
    let (.., settings) = client.find(4..=4).await.unwrap();
    assert!(settings.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
}

#[tokio::test]
async fn an_endpoint_that_declines_has_answered() {
    for (reply, status, text) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403, "no"),
        ("HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 0\r\n\r\n", 302, ""),
        ("HTTP/1.1 426 Upgrade Required\r\ntransfer-encoding: chunked\r\n\r\n1\r\nv\r\n0\r\n\r\n", 426, "v"),
    ] {
        let origin = Origin::replying(move |_| Reply::raw(reply)).await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = connect(&gateway).await;
        let got = refused(&mut client, ask("websocket")).await;
        assert_eq!((got.status, got.text()), (status, text));
        assert_eq!(refused(&mut client, ask("websocket")).await.status, status);
        until("it is over", || in_flight(&gateway) == 0).await;
        assert_eq!(failures(&gateway), 0);
    }
}

#[tokio::test]
async fn an_answer_that_would_be_taken_for_a_tunnel_is_none() {
    // A whole answer, which a client would take for the beginning of a tunnel.
    let origin = Origin::start("a page").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let got = refused(&mut client, ask("websocket")).await;
    assert_eq!((got.status, got.reason(), failures(&gateway)), (502, Some("not-switched"), 0));
    // Without the answer to the key, and to another protocol.
    for agrees in ["sec-websocket-accept: s\r\nupgrade: websocket", "upgrade: irc", "upgrade: websocket"] {
        let origin = Origin::replying(move |seen| match seen.path() {
            "/" => Reply::text("ok"),
            _ => Reply::raw(&format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n{agrees}\r\n\r\n"
            )),
        })
        .await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = connect(&gateway).await;
        let got = refused(&mut client, ask("websocket")).await;
        assert_eq!((got.status, got.reason()), (502, Some("bad-upstream-answer")), "{agrees}");
        assert_eq!(failures(&gateway), 1);
    }
}

#[tokio::test]
async fn who_has_no_more_to_say_may_listen_on() {
    let (ends, ended) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (end, note) = (ends.clone(), ended.clone());
    let origin = origin(move |mut stream| {
        let (end, note) = (end.clone(), note.clone());
        async move {
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, "bye");
            note.notify_one();
            end.notified().await;
            stream.write_all(b"too").await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    // The client first.
    let mut tunnel = Tunnel::open(&mut client).await;
    tunnel.to.send_data(Bytes::from("bye"), true).unwrap();
    in_time(ended.notified()).await;
    ends.notify_one();
    assert_eq!(tunnel.read(3).await, "too");
    tunnel.ended().await;
    until("it is over", || in_flight(&gateway) == 0).await;

    // The endpoint first.
    let (heard, mut hears) = mpsc::unbounded_channel();
    let origin = self::origin(move |mut stream| {
        let heard = heard.clone();
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            heard.send(all).unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(3).await, "bye");
    tunnel.ended().await;
    tunnel.send("still ");
    tunnel.to.send_data(Bytes::from("here"), true).unwrap();
    assert_eq!(in_time(hears.recv()).await.unwrap(), "still here");
    until("it is over", || in_flight(&gateway) == 0).await;
    assert_eq!(client.get("/").await.text(), "ok");
}

#[tokio::test]
async fn a_client_that_resets_its_stream_ends_the_endpoints_connection_at_once() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let origin = origin(move |mut stream| {
            let ended = ended.clone();
            async move {
                stream.write_all(b"hi").await.unwrap();
                ended.send(stream.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind())).unwrap();
                // An end would not be all.
                std::future::pending::<()>().await;
            }
        })
        .await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = connect(&gateway).await;
        let mut tunnel = Tunnel::open(&mut client).await;
        assert_eq!(tunnel.read(2).await, "hi");
        tunnel.to.send_reset(reason);
        // Whether it is heard of as an end first is chance; what follows is a reset in any case.
        let ended = in_time(ends.recv()).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)), "{ended:?}");
        until("it is over", || in_flight(&gateway) == 0).await;
        assert_eq!((client.get("/").await.text(), failures(&gateway)), ("ok", 0));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_endpoints_connection() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let origin = origin(move |mut stream| {
        let ended = ended.clone();
        async move {
            let _ = stream.read_to_end(&mut Vec::new()).await;
            ended.send(()).unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let tunnels = [Tunnel::open(&mut client).await, Tunnel::open(&mut client).await];
    drop(client);
    for _ in 0..2 {
        in_time(ends.recv()).await.unwrap();
    }
    until("all is over", || in_flight(&gateway) == 0 && gateway.open() == 0).await;
    drop(tunnels);
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_resets_the_stream_and_no_other() {
    let origin = origin(|mut stream| async move {
        stream.write_all(b"hi").await.unwrap();
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let (mut breaks, mut stays) = (Tunnel::open(&mut client).await, Tunnel::open(&mut client).await);
    assert_eq!((breaks.read(2).await, stays.read(2).await), ("hi".into(), "hi".into()));
    breaks.send("x");
    assert_eq!(reset(in_time(read(breaks.from)).await), Reason::CANCEL);
    until("one is over", || in_flight(&gateway) == 1).await;
    assert_eq!(client.get("/").await.text(), "ok");
    stays.send("x");
    assert_eq!(reset(in_time(read(stays.from)).await), Reason::CANCEL);
}

#[tokio::test]
async fn a_tunnel_that_is_silent_both_ways_is_closed_and_no_other() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.tunnel_idle = SHORT;
        setup.listener.idle_timeout = SHORT / 4;
        setup.listener.header_timeout = SHORT / 4;
        setup.listener.write_timeout = SHORT / 4;
    }));
    let mut client = connect(&gateway).await;
    let (mut silent, mut busy) = (Tunnel::open(&mut client).await, Tunnel::open(&mut client).await);
    assert_eq!((silent.read(2).await, busy.read(2).await), ("hi".into(), "hi".into()));
    let begun = Instant::now();
    while begun.elapsed() < SHORT * 3 {
        busy.send("a");
        assert_eq!(busy.read(1).await, "a");
        tokio::time::sleep(SHORT / 10).await;
    }
    // As a connection would be: to its end.
    silent.ended().await;
    assert_eq!(in_flight(&gateway), 1);
    busy.ended().await;
    until("both are closed", || in_flight(&gateway) == 0).await;
    // And then the connection, which carries nothing.
    client.ended().await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_slows_the_other_side() {
    const MUCH: usize = 64 << 20;
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let origin = origin(move |mut stream| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            let mut left = MUCH;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                left -= stream.read(&mut buffer).await.unwrap();
            }
            stream.write_all(b"all").await.unwrap();
            // More than anybody holds, until the client takes it.
            let _ = stream.write_all(&vec![b'x'; MUCH]).await;
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.workers = 1));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    tunnel.to.send_data(vec![0; MUCH].into(), false).unwrap();
    // Neither direction is read, and the others on the connection go on.
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    go.notify_one();
    assert_eq!(tunnel.read(3).await, "all");
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    let mut taken = 0;
    while taken < MUCH {
        let piece = in_time(tunnel.from.data()).await.unwrap().unwrap();
        tunnel.from.flow_control().release_capacity(piece.len()).unwrap();
        taken += piece.len();
    }
    assert_eq!(gateway.metrics.listeners()[0].abused, [0; Abuse::ALL.len()]);
}

#[tokio::test]
async fn who_takes_nothing_of_a_tunnel_loses_that_and_nothing_else() {
    let origin = origin(|mut stream| async move {
        let _ = stream.write_all(&vec![b'x'; 16 << 20]).await;
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    // The window of the connection has room for others.
    let mut client = connect_with(&gateway, Builder::new().initial_window_size(1000)).await;
    let tunnel = Tunnel::open(&mut client).await;
    let begun = Instant::now();
    let over = async {
        while in_flight(&gateway) > 0 {
            assert_eq!(client.get("/").await.text(), "ok");
        }
    };
    // While it asks, it is in flight itself now and then.
    in_time(over).await;
    until("the tunnel is over", || in_flight(&gateway) == 0).await;
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(reset(in_time(read(tunnel.from)).await), Reason::CANCEL);
    assert_eq!((client.get("/").await.text(), failures(&gateway)), ("ok", 0));
}

#[tokio::test]
async fn many_small_messages_are_no_flood() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    // A client that gives back each byte at once.
    let mut client = connect_with(&gateway, Builder::new().initial_window_size(64)).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(2).await, "hi");
    for number in 0..3000 {
        let message = format!("{number:05}");
        tunnel.send(message.clone());
        assert_eq!(tunnel.read(5).await, message);
    }
    assert_eq!(gateway.metrics.listeners()[0].abused, [0; Abuse::ALL.len()]);
}

#[tokio::test]
async fn a_tunnel_is_a_request_in_flight() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.upstream().limits = Some(config::Limits {
            bounds: Bounds { min: 1, max: 1 },
            per_endpoint: None,
            queue: 0,
            queue_time: SHORT,
        });
    }));
    let mut client = connect(&gateway).await;
    until("there is room", || in_flight(&gateway) == 0).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(2).await, "hi");
    assert_eq!(client.get("/").await.status, 503);
    let got = refused(&mut client, ask("websocket")).await;
    assert_eq!((got.status, got.reason()), (503, Some("in-flight-limit")));
    tunnel.to.send_reset(Reason::CANCEL);
    until("there is room again", || in_flight(&gateway) == 0).await;
    assert_eq!(Tunnel::open(&mut client).await.read(2).await, "hi");
}

#[tokio::test]
async fn an_endpoint_that_left_is_left_in_time() {
    let origin = echo().await;
    let mut gateway =
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.upstream().leave = Some(SHORT)));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(2).await, "hi");
    let begun = Instant::now();
    gateway.offer("main", vec![Offer::Remove(origin.address)]);
    tunnel.send("still");
    assert_eq!(tunnel.read(5).await, "still");
    tunnel.ended().await;
    assert!(begun.elapsed() >= SHORT);
    until("it is counted", || gateway.upstream("main").metrics.counts().left == 1).await;
}

#[tokio::test]
async fn draining_ends_tunnels_at_its_bound() {
    let origin = echo().await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(2).await, "hi");
    gateway.close(SHORT);
    in_time(async {
        while client.sender.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    tunnel.send("still");
    assert_eq!(tunnel.read(5).await, "still");
    in_time(gateway.ended()).await;
    // As a connection would be: to its end.
    tunnel.ended().await;
}

#[tokio::test]
async fn a_tunnel_that_ends_ends_the_drain() {
    let origin = echo().await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = connect(&gateway).await;
    let mut tunnel = Tunnel::open(&mut client).await;
    assert_eq!(tunnel.read(2).await, "hi");
    gateway.close(Duration::from_secs(600));
    tunnel.to.send_data(Bytes::from("bye"), true).unwrap();
    assert_eq!(tunnel.read(3).await, "bye");
    tunnel.ended().await;
    in_time(gateway.ended()).await;
}
