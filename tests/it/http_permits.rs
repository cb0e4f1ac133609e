//! How many clients are served at once, and who makes room for others.

use std::time::Duration;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, until},
        origin::{Origin, Reply, read_head},
    },
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn at_most(clients: usize) -> impl FnOnce(&mut Setup) {
    move |setup| {
        setup.listener.max_connections = clients;
        setup.workers = 2;
    }
}

/// Nothing of an answer has come.
async fn waits(client: &mut Client) {
    let waited = tokio::time::timeout(Duration::from_millis(300), client.try_answer(false));
    assert!(waited.await.is_err(), "served beside the others");
}

#[tokio::test]
async fn more_clients_than_allowed_wait_their_turn() {
    let origin = Origin::replying(|seen| match seen.path() {
        "/hang" => Reply::Hang,
        _ => Reply::text("ok"),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(1)));
    let mut first = gateway.client().await;
    first.send("GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the first is served", || origin.seen().len() == 1).await;
    let mut others = Vec::new();
    // On both workers.
    for _ in 0..6 {
        let mut other = gateway.client().await;
        other.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        others.push(other);
    }
    waits(&mut others[0]).await;
    assert_eq!(origin.seen().len(), 1);
    drop(first);
    for other in &mut others {
        assert_eq!(other.answer().await.status, 200);
        other.closed().await;
    }
}

#[tokio::test]
async fn with_one_permit_every_one_of_many_clients_is_served_at_once() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(1)));
    for _ in 0..24 {
        assert_eq!(gateway.client().await.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn the_client_that_has_been_idle_for_the_longest_leaves_for_a_newcomer() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(3)));
    let mut idle = std::collections::VecDeque::new();
    for _ in 0..3 {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/").await.status, 200);
        idle.push_back(client);
    }
    // The first of them was heard of last.
    assert_eq!(idle[0].get("/").await.status, 200);
    idle.rotate_left(1);
    for _ in 0..12 {
        let mut newcomer = gateway.client().await;
        assert_eq!(newcomer.get("/").await.status, 200);
        idle.pop_front().unwrap().closed().await;
        idle.push_back(newcomer);
    }
    for mut client in idle {
        assert_eq!(client.get("/").await.status, 200, "it had not been idle for the longest");
    }
}

#[tokio::test]
async fn requests_streams_and_tunnels_make_room_for_nobody() {
    const SWITCH: &str = "GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let origin = Origin::connected(|mut stream, _, seen| async move {
        let Some(head) = read_head(&mut stream, &mut Vec::new()).await else { return };
        seen.lock().unwrap().push(crate::support::origin::Seen {
            connection: 0,
            head: head.clone(),
            body: Vec::new(),
            trailers: Vec::new(),
        });
        let answer = match head.split(' ').nth(1).unwrap() {
            "/stream" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            "/switch" => "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            _ => "",
        };
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(4)));
    let mut busy = Vec::new();
    for request in ["GET /stream HTTP/1.1\r\nhost: a\r\n\r\n", SWITCH, GET] {
        let mut client = gateway.client().await;
        client.send(request).await;
        busy.push(client);
    }
    let mut beginning = gateway.client().await;
    beginning.send("GET / HTTP/1.1\r\n").await;
    until("all of them are served", || origin.seen().len() == 3 && gateway.open() == 4).await;
    let mut newcomer = gateway.client().await;
    newcomer.send(GET).await;
    waits(&mut newcomer).await;
    assert_eq!((origin.seen().len(), gateway.open()), (3, 4));
    drop(busy.pop());
    until("there is room", || origin.seen().len() == 4).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_leaves_for_a_newcomer_after_a_moment() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(1)));
    let mut silent = gateway.client().await;
    until("it is taken", || gateway.open() == 1).await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    silent.closed().await;
}

#[tokio::test]
async fn answers_say_that_their_connection_closes_while_others_wait() {
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    let going = go_on.clone();
    let origin = Origin::connected(move |mut stream, _, seen| {
        let going = going.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = crate::support::origin::read_request(&mut stream, &mut buffer, 0).await
            {
                seen.lock().unwrap().push(request);
                going.notified().await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(at_most(1)));
    let mut first = gateway.client().await;
    go_on.notify_one();
    assert_eq!(first.get("/").await.header("connection"), None);
    first.send(GET).await;
    until("it is served", || origin.seen().len() == 2).await;
    let mut newcomer = gateway.client().await;
    newcomer.send(GET).await;
    waits(&mut newcomer).await;
    go_on.notify_one();
    assert_eq!(first.answer().await.header("connection"), Some("close"));
    first.closed().await;
    go_on.notify_one();
    assert_eq!(newcomer.answer().await.header("connection"), None, "nobody waits any more");
}
