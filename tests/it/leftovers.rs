//! Endpoints and clients that misbehave, ten thousand times each, and what is left of them: nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::LONG,
    gateway::Gateway,
    origin::{Origin, Reply, read_head},
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

fn gateway(endpoint: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "[registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = ['{endpoint}'] }}
         [upstream.main]
         service = 'main'
         registry = 'fixed'
         timeouts = {{ response_ms = 50 }}
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
}

async fn holds(gateway: &Gateway) -> Holds {
    let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
    let sum = |name: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let upstream = gateway.api("/api/v1/upstreams/main").await;
    let in_flight = upstream["endpoints"].as_array().unwrap().iter();
    Holds {
        connections: sum("witgate_connections{"),
        tasks: sum("witgate_worker_tasks{"),
        in_flight: in_flight.map(|endpoint| endpoint["in_flight"].as_u64().unwrap()).sum(),
    }
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// Sends requests on connections of their own, and reads what comes until the end.
async fn send(address: SocketAddr, request: &'static str, count: u64) {
    let left = Arc::new(AtomicU64::new(count));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let left = left.clone();
        clients.spawn(async move {
            while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = [0; 1024];
                // Some answers are whole and the connection stays, some break off: one read is enough to know that it
                // is over, and the client leaves.
                let read = tokio::time::timeout(LONG, stream.read(&mut answer)).await;
                let _ = read.expect("an answer, or the end");
            }
        });
    }
    clients.join_all().await;
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
    let gateway = gateway(origin.address);
    let before = holds(&gateway).await;
    send(gateway.address(), request, REQUESTS / 10).await;
    back(&gateway, before).await;
    let (memory, open) = (gateway.memory(), descriptors(&gateway));
    send(gateway.address(), request, REQUESTS - REQUESTS / 10).await;
    back(&gateway, before).await;
    let left = descriptors(&gateway).saturating_sub(open);
    assert!(left <= QUESTIONS, "{left} descriptors");
    let grown = gateway.memory().saturating_sub(memory);
    assert!(grown < GROWTH, "{grown} bytes");
}

async fn after_head(then: fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> Origin {
    Origin::connected(move |mut stream, _, _| async move {
        if read_head(&mut stream, &mut Vec::new()).await.is_some() {
            then(stream).await;
        }
    })
    .await
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
