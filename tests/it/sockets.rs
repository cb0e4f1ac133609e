//! What the process does with the sockets of its clients, seen from the kernel.

use std::{net::SocketAddr, time::Duration};

use tokio::io::AsyncWriteExt;

use crate::support::{
    client::{Client, LONG},
    gateway::{Gateway, all_to},
    http2::Http2,
    origin::{Origin, read_head},
};

fn to(origin: SocketAddr, listener: &str) -> String {
    format!("{listener}\n{}", all_to(origin))
}

/// The timer of an established connection from one port to another: 2 is keep-alive. None: there is no such connection.
fn timer(local: u16, remote: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is = |address: &str, port: u16| address.ends_with(&format!(":{port:04X}"));
    let found = lines.find(|fields| is(fields[1], local) && is(fields[2], remote) && fields[3] == "01");
    found.map(|fields| fields[5][..2].to_owned())
}

#[tokio::test]
async fn peers_that_vanish_are_found_out_on_every_side() {
    let (port, seen) = tokio::sync::oneshot::channel();
    let port = std::sync::Mutex::new(Some(port));
    let origin = Origin::connected(move |mut stream, _, _| {
        let port = port.lock().unwrap().take();
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            port.unwrap().send(stream.peer_addr().unwrap().port()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    let gateway = Gateway::start(&to(origin.address, ""));
    let mut client = Client::connect(gateway.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    let mut admin = Client::connect(gateway.admin).await;
    admin.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(admin.answer().await.status, 200);
    let port = |client: &Client| client.stream.local_addr().unwrap().port();
    for (side, local, remote) in [
        ("listener", gateway.address().port(), port(&client)),
        ("admin", gateway.admin.port(), port(&admin)),
        ("endpoint", seen.await.unwrap(), origin.address.port()),
    ] {
        assert_eq!(timer(local, remote).as_deref(), Some("02"), "{side}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_little_memory() {
    const CLIENTS: u64 = 100;
    let (sent, mut sending) = tokio::sync::watch::channel(0u64);
    let sent = std::sync::Arc::new(sent);
    let origin = Origin::connected(move |mut stream, _, _| {
        let sent = sent.clone();
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {
                sent.send_modify(|sum| *sum += 1);
            }
        }
    })
    .await;
    let gateway = Gateway::start(&to(origin.address, ""));
    let before = gateway.memory();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(gateway.address()).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        clients.push(client);
    }
    let standstill =
        async { while tokio::time::timeout(Duration::from_secs(1), sending.changed()).await.is_ok() {} };
    tokio::time::timeout(6 * LONG, standstill).await.expect("no more is taken");
    let each = gateway.memory().saturating_sub(before) / CLIENTS;
    assert!(each <= 128 * 1024, "{each} bytes for each client");
}

#[tokio::test]
async fn an_idle_connection_of_http_2_costs_little_memory() {
    const CLIENTS: u64 = 400;
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(&to(origin.address, ""));
    let mut clients = Vec::new();
    // What all of them share is there after the first.
    for warm in [true, false] {
        let before = gateway.memory();
        for _ in 0..CLIENTS {
            let mut client = Http2::connect(gateway.address()).await;
            assert_eq!(client.get("/").await.status, 200);
            clients.push(client);
        }
        let each = gateway.memory().saturating_sub(before) / CLIENTS;
        assert!(warm || each <= 40 * 1024, "{each} bytes for each client");
    }
}
