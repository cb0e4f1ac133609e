//! Endpoints that leave: no new requests, and what is under way ends when its time is over.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, watch},
};
use witgate::{
    resilience::{BackupAfter, Mode},
    upstream::Offer,
};

use crate::{
    http_harness::{Gateway, Setup, put},
    support::{
        client::{Client, until},
        origin::{Origin, Reply, read_head},
    },
};

const SHORT: Duration = Duration::from_millis(200);

fn gateway(origins: &[&Origin], leave: Option<Duration>) -> Gateway {
    Gateway::start(Setup::to(origins).in_turns().with(|setup| setup.upstream().leave = leave))
}

fn leave(gateway: &mut Gateway, address: SocketAddr) -> Instant {
    let left = Instant::now();
    gateway.offer("main", vec![Offer::Remove(address)]);
    left
}

/// The limit was kept, give or take what a busy machine takes.
fn in_time(left: Instant) {
    let took = left.elapsed();
    assert!((SHORT..SHORT * 2 + Duration::from_secs(2)).contains(&took), "{took:?}");
}

/// How many were ended, and for whose fault requests did not come to their end.
fn ended(gateway: &Gateway) -> (u64, [u64; 3]) {
    let counts = gateway.upstream("main").metrics.counts();
    (counts.left, counts.cut)
}

async fn without_fault(gateway: &Gateway, of: &std::sync::Arc<witgate::upstream::Member>) {
    until("it is over", || of.stats().in_flight() == 0).await;
    assert_eq!(of.stats().figures().failures, 0);
    assert_eq!(gateway.upstream("main").metrics.counts().failures, [0; 4]);
}

fn member(gateway: &Gateway) -> std::sync::Arc<witgate::upstream::Member> {
    gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone()
}

#[tokio::test]
async fn what_has_no_answer_yet_is_answered_for_an_endpoint_that_has_left() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let mut gateway = gateway(&[&origin], Some(SHORT));
    let member = member(&gateway);
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("it is under way", || !origin.seen().is_empty()).await;
    let left = leave(&mut gateway, origin.address);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (504, Some("endpoint-left")));
    in_time(left);
    without_fault(&gateway, &member).await;
    assert_eq!(ended(&gateway), (1, [0; 3]), "it has a whole answer");
}

#[tokio::test]
async fn what_may_be_sent_twice_goes_to_another_endpoint_instead() {
    let (leaving, staying) = (Origin::replying(|_| Reply::Hang).await, Origin::start("other").await);
    let mut gateway = gateway(&[&leaving, &staying], Some(SHORT));
    let mut clients = Vec::new();
    for method in ["GET", "GET", "POST", "POST"] {
        let mut client = gateway.client().await;
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")).await;
        clients.push((method, client));
    }
    until("they are under way", || leaving.seen().len() + staying.seen().len() == 4).await;
    let there: Vec<String> = leaving.seen().iter().map(|seen| seen.line().to_owned()).collect();
    leave(&mut gateway, leaving.address);
    let mut answers = Vec::new();
    for (method, mut client) in clients {
        let answer = client.answer().await;
        match answer.reason() {
            None => assert_eq!(answer.text(), "other"),
            Some(reason) => assert_eq!((method, reason), ("POST", "endpoint-left")),
        }
        answers.push(answer);
    }
    let refused = answers.iter().filter(|answer| answer.status == 504).count();
    assert_eq!(refused, there.iter().filter(|line| line.starts_with("POST")).count());
    assert_eq!(ended(&gateway).0, there.len() as u64);
    assert!(!there.is_empty(), "one of two has half of the requests of each worker, or nearly");
}

/// Begins an answer, and sends a chunk whenever told to; a word that is no number ends it.
async fn streaming() -> (Origin, watch::Sender<&'static str>) {
    let (sender, receiver) = watch::channel("first");
    let origin = Origin::connected(move |mut stream, _, _| {
        let mut receiver = receiver.clone();
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(begun).await.unwrap();
            while receiver.changed().await.is_ok() {
                let word = *receiver.borrow_and_update();
                let chunk = format!("{:x}\r\n{word}\r\n", word.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
                if word == "last" {
                    stream.write_all(b"0\r\n\r\n").await.unwrap();
                }
            }
        }
    })
    .await;
    (origin, sender)
}

async fn begun(gateway: &Gateway) -> Client {
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    read_head(&mut client.stream, &mut client.buffer).await.unwrap();
    client
}

#[tokio::test]
async fn an_answer_that_has_begun_breaks_off() {
    let (origin, _words) = streaming().await;
    let mut gateway = gateway(&[&origin], Some(SHORT));
    let member = member(&gateway);
    let mut client = begun(&gateway).await;
    let left = leave(&mut gateway, origin.address);
    assert_eq!(client.rest().await, "5\r\nfirst\r\n", "without its end");
    in_time(left);
    without_fault(&gateway, &member).await;
    until("it is counted", || ended(&gateway) == (1, [0, 0, 1])).await;
}

#[tokio::test]
async fn an_answer_that_never_pauses_does_too() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while sent.is_ok() {
            sent = stream.write_all(&[b'x'; 65_536]).await;
        }
    })
    .await;
    let mut gateway = gateway(&[&origin], Some(SHORT));
    let mut client = begun(&gateway).await;
    let left = leave(&mut gateway, origin.address);
    let mut buffer = vec![0; 1 << 20];
    while client.stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    in_time(left);
    until("it is counted", || ended(&gateway) == (1, [0, 0, 1])).await;
}

#[tokio::test]
async fn an_upgraded_connection_ends() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(agreed).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let mut gateway = gateway(&[&origin], Some(SHORT));
    let member = member(&gateway);
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 101);
    let left = leave(&mut gateway, origin.address);
    client.send("hello").await;
    assert_eq!(client.rest().await, "hello");
    in_time(left);
    without_fault(&gateway, &member).await;
    assert_eq!(ended(&gateway).0, 1);
}

#[tokio::test]
async fn without_a_limit_what_is_under_way_comes_to_its_end() {
    let (origin, words) = streaming().await;
    let mut gateway = gateway(&[&origin], None);
    let member = member(&gateway);
    let mut client = begun(&gateway).await;
    leave(&mut gateway, origin.address);
    until("it has left", || member.stats().gone_for(Instant::now()).is_some_and(|gone| gone > SHORT)).await;
    words.send("last").unwrap();
    let expected = "5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n";
    while client.buffer.len() < expected.len() {
        client.stream.read_buf(&mut client.buffer).await.unwrap();
    }
    assert_eq!(String::from_utf8_lossy(&client.buffer), expected);
    assert_eq!(ended(&gateway), (0, [0; 3]));
}

#[tokio::test]
async fn an_endpoint_that_is_back_in_time_has_not_left() {
    let limit = Duration::from_secs(1);
    let (origin, words) = streaming().await;
    let mut gateway = gateway(&[&origin], Some(limit));
    let mut client = begun(&gateway).await;
    let left = leave(&mut gateway, origin.address);
    gateway.offer("main", vec![put(origin.address)]);
    assert!(left.elapsed() < limit, "too slow a machine for this test");
    until("it would have ended", || left.elapsed() > limit * 3 / 2).await;
    words.send("last").unwrap();
    let mut end = String::new();
    while !end.ends_with("0\r\n\r\n") {
        assert_ne!(client.stream.read_buf(&mut client.buffer).await.unwrap(), 0);
        end = String::from_utf8_lossy(&client.buffer).into_owned();
    }
    assert_eq!(ended(&gateway), (0, [0; 3]));
}

/// Answers every request, and counts how many of its connections are open.
async fn counting() -> (Origin, watch::Receiver<usize>) {
    let (sender, receiver) = watch::channel(0);
    let origin = Origin::connected(move |mut stream, _, seen| {
        let sender = sender.clone();
        async move {
            sender.send_modify(|open| *open += 1);
            let mut buffer = Vec::new();
            while let Some(request) = crate::support::origin::read_request(&mut stream, &mut buffer, 0).await
            {
                seen.lock().unwrap().push(request);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
            sender.send_modify(|open| *open -= 1);
        }
    })
    .await;
    (origin, receiver)
}

#[tokio::test]
async fn an_endpoint_that_left_gets_no_requests_over_its_idle_connections_and_those_close() {
    let ((leaving, open), (staying, others)) = (counting().await, counting().await);
    let mut gateway = gateway(&[&leaving, &staying], None);
    let mut clients = Vec::new();
    // A few connections to both, on all workers.
    for _ in 0..16 {
        let mut client = gateway.client().await;
        client.get("/").await;
        client.get("/").await;
        clients.push(client);
    }
    assert!(*open.borrow() > 0 && *others.borrow() > 0);
    leave(&mut gateway, leaving.address);
    // It is known at once, whether a worker has taken up the new list or not.
    let before = leaving.seen().len();
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(leaving.seen().len(), before);
    until("its idle connections are closed", || *open.borrow() == 0).await;
    assert!(*others.borrow() > 0);
}

#[tokio::test]
async fn a_request_that_was_refused_by_an_endpoint_is_not_sent_to_one_that_has_left() {
    let (leaving, open) = counting().await;
    let failing = Origin::replying(|seen| match seen.path() {
        "/" => Reply::text("ok"),
        _ => Reply::Close(vec![]),
    })
    .await;
    let mut gateway = gateway(&[&leaving, &failing], None);
    let mut client = gateway.client().await;
    client.get("/").await;
    client.get("/").await;
    assert_eq!(*open.borrow(), 1);
    leave(&mut gateway, leaving.address);
    let seen = leaving.seen().len();
    assert_eq!(client.get("/fails").await.reason(), Some("upstream-reset"));
    assert_eq!(leaving.seen().len(), seen);
    assert!(failing.seen().len() > 2, "it was sent more than once");
}

/// Two endpoints that note who of them is asked, and do the same with every request, whose number they know.
async fn two<F, R>(serve: F) -> ([Origin; 2], Arc<Mutex<Vec<SocketAddr>>>)
where
    F: Fn(tokio::net::TcpStream, usize) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let asked = Arc::<Mutex<Vec<SocketAddr>>>::default();
    let one = || {
        let (asked, serve) = (asked.clone(), serve.clone());
        Origin::connected(move |mut stream, _, _| {
            let (asked, serve) = (asked.clone(), serve.clone());
            async move {
                if read_head(&mut stream, &mut Vec::new()).await.is_some() {
                    let number = {
                        let mut asked = asked.lock().unwrap();
                        asked.push(stream.local_addr().unwrap());
                        asked.len() - 1
                    };
                    serve(stream, number).await;
                }
            }
        })
    };
    ([one().await, one().await], asked)
}

/// Asks another endpoint after a moment.
fn hedging(origins: &[Origin; 2]) -> Gateway {
    Gateway::start(Setup::to(&[&origins[0], &origins[1]]).in_turns().with(|setup| {
        setup.workers = 1;
        setup.upstream().leave = Some(SHORT);
        setup.upstream().retries.mode = Mode::Failbackup;
        setup.upstream().retries.backup_after = BackupAfter::Time(Duration::from_millis(20));
    }))
}

#[tokio::test]
async fn of_two_tries_the_first_is_let_go_when_its_endpoint_leaves() {
    let go = Arc::new(Notify::new());
    let may_answer = go.clone();
    let (origins, asked) = two(move |mut stream, number| {
        let may_answer = may_answer.clone();
        async move {
            if number == 0 {
                return drop(stream.read_u8().await);
            }
            may_answer.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond").await.unwrap();
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let mut gateway = hedging(&origins);
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("there are two", || asked.lock().unwrap().len() == 2).await;
    let first = asked.lock().unwrap()[0];
    leave(&mut gateway, first);
    until("the first is let go", || ended(&gateway).0 == 1).await;
    go.notify_one();
    assert_eq!(client.answer().await.text(), "second");
}

#[tokio::test]
async fn the_answer_of_a_second_try_breaks_off_when_its_endpoint_leaves() {
    let (origins, asked) = two(|mut stream, number| async move {
        if number == 1 {
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(begun).await.unwrap();
        }
        let _ = stream.read_u8().await;
    })
    .await;
    let mut gateway = hedging(&origins);
    let mut client = begun(&gateway).await;
    let second = asked.lock().unwrap()[1];
    leave(&mut gateway, second);
    assert_eq!(client.rest().await, "5\r\nfirst\r\n", "without its end");
    until("it is counted", || ended(&gateway).0 == 1).await;
}

#[tokio::test]
async fn an_answer_that_its_client_does_not_take_breaks_off_too() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {}
    })
    .await;
    let mut gateway = gateway(&[&origin], Some(SHORT));
    let member = member(&gateway);
    let _client = begun(&gateway).await;
    let left = leave(&mut gateway, origin.address);
    until("it is counted", || ended(&gateway) == (1, [0, 0, 1])).await;
    in_time(left);
    without_fault(&gateway, &member).await;
}
