//! Endpoints and clients that misbehave, ten thousand times each, and what is left of them: nothing. So it is with
//! requests that are tried again because of that, in every mode.

mod shaking;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use h2::Reason;
use http::Method;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Barrier,
};

use self::shaking::Shaking;
use crate::support::{
    client::LONG,
    gateway::{Gateway, all_to, until},
    http2::{self, Http2},
    http2_origin::{Call, Http2Origin},
    origin::{Origin, Reply, read_head, read_request},
    tls::{self, TlsOrigin},
    websocket::{agree, ask},
};

const REQUESTS: u64 = 10_000;
const CLIENTS: u64 = 50;

/// By so much resident memory may have grown after ten thousand requests, beyond that after the first thousand: a
/// hundred bytes for each would show.
const GROWTH: u64 = 4 << 20;

/// Descriptors of questions to the admin API that may still be open.
const QUESTIONS: usize = 5;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nonly this";

/// A gateway in front of these endpoints, with settings of its upstream beside.
fn gateway(endpoints: &[SocketAddr], settings: &str) -> Gateway {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    let endpoints = endpoints.join(", ");
    Gateway::start(&format!(
        "[registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = [{endpoints}] }}
         [upstream.main]
         service = 'main'
         registry = 'fixed'
         timeouts = {{ response_ms = 50 }}
         {settings}
         [[route]]
         upstream = 'main'"
    ))
}

/// What a gateway holds, as it says itself: the sum of each metric.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Holds {
    connections: f64,
    tasks: f64,
    in_flight: u64,
    /// Of an upstream with limits.
    counted: f64,
    queued: f64,
}

/// The values of a metric, one for each of its lines.
fn values(metrics: &str, name: &str) -> Vec<f64> {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

/// What it holds before the first request. Its workers have the same tasks, once all of these run.
async fn begun(gateway: &Gateway) -> Holds {
    until("all workers run", async || {
        let metrics = gateway.session_to_admin().get("/metrics").await.text();
        let tasks = values(&metrics, "witgate_worker_tasks{");
        tasks.len() == 2 && tasks[0] > 0.0 && tasks[0] == tasks[1]
    })
    .await;
    holds(gateway).await
}

async fn holds(gateway: &Gateway) -> Holds {
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let sum = |name: &str| values(&metrics, name).iter().sum();
    let upstream = gateway.api("/api/v1/upstreams/main").await;
    let in_flight = upstream["endpoints"].as_array().unwrap().iter();
    Holds {
        connections: sum("witgate_connections{"),
        tasks: sum("witgate_worker_tasks{"),
        counted: sum("witgate_requests_in_flight{"),
        queued: sum("witgate_requests_queued{"),
        in_flight: in_flight.map(|endpoint| endpoint["in_flight"].as_u64().unwrap()).sum(),
    }
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// What clients send.
#[derive(Clone)]
enum Traffic {
    /// This, on a connection for each request.
    Text(&'static str),
    /// Requests by HTTP/2, many over a connection, of which they cancel the most.
    Streams,
    /// The same with WebSockets.
    Tunnels,
    /// Connections to a listener for TCP, the second, which clients leave.
    Connections,
    /// The same, until the endpoint leaves.
    Endings,
    /// Connections to the second listener, which has TLS.
    Handshakes(Arc<Shaking>),
}

impl Traffic {
    fn address(&self, gateway: &Gateway) -> SocketAddr {
        match self {
            Self::Connections | Self::Endings | Self::Handshakes(_) => gateway.listeners[1],
            _ => gateway.address(),
        }
    }

    /// A client that has something under way until all others have, too.
    async fn stay(self, address: SocketAddr, all_are_there: &Barrier) {
        match self {
            Self::Handshakes(shaking) => shaking.stay(address, all_are_there).await,
            _ => {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"stay").await.unwrap();
                stream.read_exact(&mut [0; 4]).await.unwrap();
                all_are_there.wait().await;
            }
        }
    }
}

/// Sends requests, and reads what comes until the end.
async fn send(address: SocketAddr, traffic: Traffic, count: u64) {
    let left = Arc::new(AtomicU64::new(count));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (left, traffic) = (left.clone(), traffic.clone());
        clients.spawn(async move {
            let more = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            match &traffic {
                Traffic::Text(request) => {
                    while more().is_ok() {
                        send_one(address, request).await;
                    }
                }
                Traffic::Connections => {
                    while let Ok(number) = more() {
                        connect_and_leave(address, number).await;
                    }
                }
                Traffic::Endings => {
                    while more().is_ok() {
                        connect_and_wait(address).await;
                    }
                }
                Traffic::Handshakes(shaking) => {
                    while let Ok(number) = more() {
                        shaking.shake_hands(address, number).await;
                    }
                }
                Traffic::Streams | Traffic::Tunnels => {
                    let mut numbers = std::iter::from_fn(|| more().ok()).peekable();
                    while numbers.peek().is_some() {
                        let mut client = Http2::connect(address).await;
                        if matches!(traffic, Traffic::Tunnels) {
                            // Then it has the settings.
                            client.get("/").await;
                        }
                        for number in numbers.by_ref().take(100) {
                            match traffic {
                                Traffic::Tunnels => tunnel_and_leave(&mut client, number).await,
                                _ => open_and_cancel(&mut client, number).await,
                            }
                        }
                    }
                }
            }
        });
    }
    clients.join_all().await;
}

async fn send_one(address: SocketAddr, request: &'static str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    // Some answers are whole and the connection stays, some break off: one read is enough to know that it is over, and the
    // client leaves.
    let read = tokio::time::timeout(LONG, stream.read(&mut answer)).await;
    let _ = read.expect("an answer, or the end");
}

/// One in four closes when it has all; the others close first on their side, reset, or go without a word.
async fn connect_and_leave(address: SocketAddr, number: u64) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"some").await.unwrap();
    let mut answer = [0; 4];
    match number % 4 {
        0 => drop(http2::in_time(stream.read_exact(&mut answer)).await.unwrap()),
        1 => {
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            http2::in_time(stream.read_to_end(&mut all)).await.unwrap();
            assert_eq!(all, b"some");
        }
        2 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        _ => {}
    }
}

/// However it ends, it does.
async fn connect_and_wait(address: SocketAddr) {
    // Who is reset at once may hear of it when it connects.
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(b"some").await;
    let _ = http2::in_time(stream.read_to_end(&mut Vec::new())).await;
}

/// One in five is read to its end; of the others the client takes the head, or nothing, or it stops sending.
async fn open_and_cancel(client: &mut Http2, number: u64) {
    let upload = number % 5 == 4;
    let (response, mut stream) = client.send(http2::to(Method::POST, "/"), false).await;
    stream.send_data(Bytes::from("some"), !upload).unwrap();
    match number % 5 {
        0 => drop(http2::answer(response).await.unwrap()),
        1 => drop(http2::head(response).await),
        2 => stream.send_reset(Reason::CANCEL),
        _ => {}
    }
}

/// One in four goes to its end; the others are reset, before their head is there and after it, or forgotten.
async fn tunnel_and_leave(client: &mut Http2, number: u64) {
    let (response, mut stream) = client.send(ask("websocket"), false).await;
    match number % 4 {
        0 => {
            let head = http2::head(response).await;
            // A busy machine may have taken too long.
            if head.status() == 200 {
                stream.send_data(Bytes::from("bye"), true).unwrap();
                assert_eq!(http2::in_time(http2::read(head.into_body())).await.unwrap().0, b"bye");
            }
        }
        1 => {
            drop(http2::head(response).await);
            stream.send_reset(Reason::CANCEL);
        }
        2 => stream.send_reset(Reason::CANCEL),
        _ => {}
    }
}

/// Waits until it holds no more than before.
async fn back(gateway: &Gateway, before: Holds) {
    let mut now = holds(gateway).await;
    let back = async {
        while now != before {
            tokio::time::sleep(Duration::from_millis(20)).await;
            now = holds(gateway).await;
        }
    };
    let in_time = tokio::time::timeout(LONG, back).await;
    assert!(in_time.is_ok(), "{now:?} is left, and there was {before:?}");
}

async fn leaves_nothing(origin: Origin, request: &'static str) {
    nothing_is_left(gateway(&[origin.address], ""), Traffic::Text(request), REQUESTS / 10).await;
}

/// After so many requests its heap is as large as it will be.
async fn nothing_is_left(gateway: Gateway, traffic: Traffic, warm_up: u64) {
    let before = begun(&gateway).await;
    let address = traffic.address(&gateway);
    send(address, traffic.clone(), warm_up).await;
    back(&gateway, before).await;
    let (memory, open) = (gateway.memory(), descriptors(&gateway));
    send(address, traffic.clone(), REQUESTS - REQUESTS / 10).await;
    back(&gateway, before).await;
    let left = descriptors(&gateway).saturating_sub(open);
    assert!(left <= QUESTIONS, "{left} descriptors");
    let mut grown = gateway.memory().saturating_sub(memory);
    // What a heap keeps of a burst goes up and down, what leaks only up.
    for _ in 0..3 {
        if grown < GROWTH {
            break;
        }
        send(address, traffic.clone(), REQUESTS).await;
        back(&gateway, before).await;
        grown = gateway.memory().saturating_sub(memory);
    }
    assert!(grown < GROWTH, "{grown} bytes");
    if address != gateway.address() {
        permits_are_back(address, &traffic).await;
    }
}

/// The second listener lets in [`CLIENTS`] at once, and none of so many waits for another.
async fn permits_are_back(address: SocketAddr, traffic: &Traffic) {
    let all_are_there = Arc::new(Barrier::new(CLIENTS as usize));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (traffic, all_are_there) = (traffic.clone(), all_are_there.clone());
        clients.spawn(async move { traffic.stay(address, &all_are_there).await });
    }
    http2::in_time(clients.join_all()).await;
}

async fn after_head(then: fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> Origin {
    Origin::connected(move |mut stream, _, _| async move {
        if read_head(&mut stream, &mut Vec::new()).await.is_some() {
            then(stream).await;
        }
    })
    .await
}

/// Fifty clients, and room for five and for twenty in line: some answers come in time, some do not, and some clients get
/// none.
#[tokio::test]
async fn clients_that_wait_in_line() {
    let limits = "breaker = true
         pool = { max_idle = 0 }
         limits = { max_in_flight = 5, max_in_flight_per_endpoint = 4, queue = 20, queue_ms = 20 }";
    let origin = Origin::start("ok").await;
    nothing_is_left(gateway(&[origin.address], limits), Traffic::Text(GET), REQUESTS / 10).await;
}

#[tokio::test]
async fn clients_that_wait_in_line_for_endpoints_that_hang() {
    let limits = "breaker = true
         limits = { max_in_flight = 5, adaptive = true, queue = 100, queue_ms = 1000 }";
    let origin = Origin::replying(|_| Reply::Hang).await;
    nothing_is_left(gateway(&[origin.address], limits), Traffic::Text(GET), REQUESTS / 10).await;
}

/// A second listener that lets in as many as there are clients, and a route from there.
fn second(listener: &str, route: &str) -> String {
    format!(
        "pool = {{ max_idle = 0 }}
         [[listener]]
         name = 'second'
         address = '127.0.0.1:0'
         max_connections = {CLIENTS}
         {listener}
         [[route]]
         listener = 'second'
         upstream = 'main'
         {route}"
    )
}

/// An endpoint that sends back what comes.
async fn echo() -> Origin {
    Origin::connected(|mut stream, _, _| async move {
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

#[tokio::test]
async fn connections_that_are_left() {
    let origin = echo().await;
    let settings = second("protocol = 'tcp'", "");
    nothing_is_left(gateway(&[origin.address], &settings), Traffic::Connections, REQUESTS / 10).await;
}

/// One in five endpoints resets at once, and one when something has come; one closes at once, one only its side, and one says
/// nothing at all.
#[tokio::test]
async fn connections_that_endpoints_leave() {
    let origin = Origin::connected(|mut stream, number, _| async move {
        let mut some = [0; 4];
        let _ = stream.read_exact(&mut some).await;
        if &some == b"stay" {
            let _ = stream.write_all(&some).await;
            let _ = stream.read(&mut some).await;
            return;
        }
        match number % 5 {
            0 => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
            1 => {
                let _ = stream.write_all(b"half").await;
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            2 => {
                let _ = stream.write_all(b"half").await;
                let _ = stream.shutdown().await;
                let _ = stream.read(&mut some).await;
            }
            3 => drop(stream.read(&mut some).await),
            _ => {}
        }
    })
    .await;
    let settings = second("protocol = 'tcp'\n tunnel_idle_ms = 100", "");
    nothing_is_left(gateway(&[origin.address], &settings), Traffic::Endings, REQUESTS / 10).await;
}

#[tokio::test]
async fn handshakes_that_break_off() {
    let folder = tempfile::tempdir().unwrap();
    let (shaking, origin) = (Shaking::new(folder.path(), true), Origin::start("ok").await);
    let settings = second(&format!("tls = {{ {} }}", shaking.settings()), "");
    nothing_is_left(gateway(&[origin.address], &settings), Traffic::Handshakes(shaking), REQUESTS / 10).await;
}

#[tokio::test]
async fn handshakes_before_a_connection_that_break_off() {
    let folder = tempfile::tempdir().unwrap();
    let (shaking, origin) = (Shaking::new(folder.path(), false), echo().await);
    let settings = second(&format!("protocol = 'tcp'\n tls = {{ {} }}", shaking.settings()), "");
    nothing_is_left(gateway(&[origin.address], &settings), Traffic::Handshakes(shaking), REQUESTS / 10).await;
}

#[tokio::test]
async fn handshakes_with_an_endpoint_behind_that_break_off() {
    let folder = tempfile::tempdir().unwrap();
    let shaking = Shaking::new(folder.path(), true);
    let config = tls::server(&shaking.certs.server(), None, &[]);
    let origin = TlsOrigin::serving(config, |mut stream, _| async move {
        let Some(head) = tls::read_head(&mut stream).await else { return };
        if head.starts_with("POST") {
            let _ = stream.read_exact(&mut [0; 4]).await;
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok").await;
        let _ = stream.shutdown().await;
    })
    .await;
    let settings = second("protocol = 'tcp'", "sni = 'localhost'");
    nothing_is_left(gateway(&[origin.address], &settings), Traffic::Handshakes(shaking), REQUESTS / 10).await;
}

#[tokio::test]
async fn streams_that_are_cancelled() {
    let origin = Origin::start("ok").await;
    let settings = "pool = { max_idle = 0 }";
    nothing_is_left(gateway(&[origin.address], settings), Traffic::Streams, REQUESTS / 2).await;
}

/// Endpoints are told of each, over connections that go on.
#[tokio::test]
async fn streams_that_are_cancelled_to_endpoints_with_streams() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        if call.number.is_multiple_of(3) {
            // It answers nothing until nobody waits any more.
            let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
        } else {
            call.answer("ok").await;
        }
    })
    .await;
    let settings = "protocol = 'http2'\n pool = { idle_timeout_ms = 100 }";
    nothing_is_left(gateway(&[origin.address], settings), Traffic::Streams, REQUESTS / 2).await;
    let connections = origin.connections() as u64;
    assert!(connections < REQUESTS / 20, "{connections} for over {REQUESTS} requests");
}

#[tokio::test]
async fn streams_that_are_cancelled_to_an_endpoint_of_http_2() {
    let origin = Http2Origin::start(Call::echo).await;
    let settings = "protocol = 'http2'\n         pool = { idle_timeout_ms = 200 }";
    nothing_is_left(gateway(&[origin.address], settings), Traffic::Streams, REQUESTS / 2).await;
}

#[tokio::test]
async fn websockets_that_are_left() {
    let origin = Origin::connected(|mut stream, connection, _| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
            if request.header("upgrade").is_none() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                continue;
            }
            let _ = stream.write_all(agree(&request.head).as_bytes()).await;
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            return;
        }
    })
    .await;
    let settings = "pool = { max_idle = 0 }";
    nothing_is_left(gateway(&[origin.address], settings), Traffic::Tunnels, REQUESTS / 2).await;
}

#[tokio::test]
async fn endpoints_that_hang() {
    leaves_nothing(Origin::replying(|_| Reply::Hang).await, GET).await;
}

#[tokio::test]
async fn endpoints_that_reset() {
    let resets = after_head(|stream| {
        Box::pin(async move {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        })
    });
    leaves_nothing(resets.await, GET).await;
}

#[tokio::test]
async fn endpoints_that_answer_early() {
    let early = after_head(|mut stream| {
        Box::pin(async move {
            let _ = stream
                .write_all(b"HTTP/1.1 413 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno")
                .await;
        })
    });
    leaves_nothing(early.await, UPLOAD).await;
}

#[tokio::test]
async fn endpoints_that_stop_in_the_middle() {
    let middle = after_head(|mut stream| {
        Box::pin(async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
        })
    });
    leaves_nothing(middle.await, GET).await;
}

#[tokio::test]
async fn endpoints_that_send_garbage() {
    let garbage = after_head(|mut stream| {
        Box::pin(async move {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        })
    });
    leaves_nothing(garbage.await, GET).await;
}

const PUT: &str = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nonly this";

/// One endpoint for each way to fail, and two that do not, one of them slowly. What fails stays in the list.
async fn every_way() -> (Vec<Origin>, Vec<SocketAddr>) {
    const LONG_BODY: usize = 100_000;
    let answer = |body: String| {
        move |mut stream: TcpStream, _, _| {
            let text = format!("HTTP/1.1 503 Busy\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            async move {
                let mut buffer = Vec::new();
                while read_request(&mut stream, &mut buffer, 0).await.is_some() {
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let fickle = |mut stream: TcpStream, connection, _| async move {
        let mut buffer = Vec::new();
        read_request(&mut stream, &mut buffer, connection).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        read_request(&mut stream, &mut buffer, connection).await;
    };
    let slow = |mut stream: TcpStream, connection, _| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer, connection).await.is_some() {
            tokio::time::sleep(Duration::from_millis(15)).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await;
        }
    };
    let origins = vec![
        Origin::start("good").await,
        Origin::connected(slow).await,
        Origin::replying(|_| Reply::Hang).await,
        Origin::replying(|_| Reply::Close(Vec::new())).await,
        Origin::connected(answer("busy".into())).await,
        Origin::connected(answer("x".repeat(LONG_BODY))).await,
        Origin::connected(fickle).await,
        Origin::replying(|_| Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")).await,
        Origin::replying(|_| {
            Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_vec())
        })
        .await,
    ];
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let addresses = origins.iter().map(|origin| origin.address).chain([nobody]).collect();
    (origins, addresses)
}

async fn tried_again(mode: &str) {
    for request in [GET, PUT] {
        let (_origins, addresses) = every_way().await;
        let settings = format!(
            "retries = {{ mode = '{mode}', most = 2, budget = 1, per_try_ms = 20, backup_after_ms = 5 }}
             selector = 'random'
             pool = {{ idle_timeout_ms = 200 }}
             health = {{ max_ejected = 0 }}"
        );
        nothing_is_left(gateway(&addresses, &settings), Traffic::Text(request), REQUESTS).await;
    }
}

#[tokio::test]
async fn requests_that_are_tried_on_another_endpoint() {
    tried_again("failover").await;
}

#[tokio::test]
async fn requests_that_are_tried_on_the_same_endpoint() {
    tried_again("failtry").await;
}

#[tokio::test]
async fn requests_that_are_tried_on_two_endpoints_at_once() {
    tried_again("failbackup").await;
}

#[tokio::test]
async fn requests_that_are_not_tried_again() {
    tried_again("failfast").await;
}

/// Fifty listeners come and go, one after the other, each with clients that stay until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_come_and_go() {
    const LISTENERS: usize = 50;
    // Nothing stays in the pool.
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let origin = Origin::replying(|_| Reply::Close(answer.into())).await;
    let text = |listener: &str| format!("{listener}\n[shutdown]\ndelay_ms = 0\n{}", all_to(origin.address));
    let gateway = Gateway::start(&text(""));
    let before = begun(&gateway).await;
    let once = async |changes: usize| {
        gateway.reconfigure(&text("[[listener]]\nname = 'passing'\naddress = '127.0.0.2:0'"));
        let address = gateway.next_listener().await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = crate::support::client::Client::connect(address).await;
            assert_eq!(client.get("/").await.status, 200);
            clients.push(client);
        }
        gateway.reconfigure(&text(""));
        gateway.applied(changes).await;
        for client in &mut clients {
            client.closed().await;
        }
    };
    for number in 1..=5 {
        once(2 * number).await;
    }
    back(&gateway, before).await;
    let (memory, open) = (gateway.memory(), descriptors(&gateway));
    for number in 6..=LISTENERS {
        once(2 * number).await;
    }
    back(&gateway, before).await;
    let left = descriptors(&gateway).saturating_sub(open);
    assert!(left <= QUESTIONS, "{left} descriptors");
    let grown = gateway.memory().saturating_sub(memory);
    assert!(grown < GROWTH, "{grown} bytes");
}
