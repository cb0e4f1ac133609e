//! What happens when an endpoint fails: once more on another one, where that is safe.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Notify};
use witgate::upstream::Admission;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        origin::{Origin, Reply, read_request},
    },
};

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Answers the first request of a connection and closes it when the second comes.
async fn fickle() -> Origin {
    Origin::connected(|mut stream, connection, seen| async move {
        let mut buffer = Vec::new();
        let Some(first) = read_request(&mut stream, &mut buffer, connection).await else { return };
        seen.lock().unwrap().push(first);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nfickle";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        if let Some(second) = read_request(&mut stream, &mut buffer, connection).await {
            seen.lock().unwrap().push(second);
        }
    })
    .await
}

#[tokio::test]
async fn refused_connections_are_retried_on_another_endpoint() {
    let origin = Origin::start("alive").await;
    let gateway = Gateway::start(Setup::to_addresses(&[nobody().await, origin.address]).in_turns());
    let mut client = gateway.client().await;
    for _ in 0..6 {
        client.send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(client.answer().await.text(), "alive");
    }
    let counts = gateway.upstream("main").metrics.counts();
    // Round robin comes to the dead one again and again, because a retry is a turn, too.
    assert!(counts.retried() >= 3, "{}", counts.retried());
    assert!(origin.seen().iter().all(|seen| seen.body == b"body"));
}

#[tokio::test]
async fn failures_count_against_the_endpoint_that_failed() {
    let origin = Origin::start("alive").await;
    let dead = nobody().await;
    let gateway = Gateway::start(Setup::to_addresses(&[dead, origin.address]).in_turns());
    let mut client = gateway.client().await;
    for _ in 0..4 {
        client.get("/").await;
    }
    for member in gateway.upstream("main").reader.snapshot().iter() {
        let figures = member.stats().figures();
        assert_eq!(figures.in_flight, 0);
        assert_eq!(figures.failures > 0, member.address() == dead);
    }
}

#[tokio::test]
async fn an_upstream_where_nobody_listens_answers_502() {
    let gateway = Gateway::start(Setup::to_addresses(&[nobody().await, nobody().await]));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("connect-failed")));
}

#[tokio::test]
async fn retries_can_be_switched_off() {
    let gateway = Gateway::start(
        Setup::to_addresses(&[nobody().await, nobody().await])
            .with(|setup| setup.upstream().retries.most = 0),
    );
    gateway.client().await.get("/").await;
    assert_eq!(gateway.upstream("main").metrics.counts().retried(), 0);
}

#[tokio::test]
async fn a_request_is_sent_again_when_its_idle_connection_had_died() {
    let origin = fickle().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    // Over the connection of the first it gets no answer; a new one to the only endpoint there is gives one.
    let answer = client.get("/2").await;
    assert_eq!((answer.status, answer.text()), (200, "fickle"));
    let paths: Vec<String> = origin.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(paths, ["/1", "/2", "/2"]);
}

#[tokio::test]
async fn a_request_with_a_body_is_not_sent_again() {
    let origin = fickle().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    client.send("POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream-reset")));
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn a_post_without_a_body_is_not_sent_again_either() {
    let origin = fickle().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/1").await.status, 200);
    client.send("POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.reason(), Some("upstream-reset"));
    assert_eq!(origin.seen().len(), 2);
}

#[tokio::test]
async fn a_new_connection_that_dies_is_tried_again_where_the_request_can_be_repeated() {
    for (method, times) in [("GET", 2), ("POST", 1)] {
        let origin = Origin::replying(|_| Reply::Close(Vec::new())).await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = gateway.client().await;
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (502, Some("upstream-reset")));
        assert_eq!(origin.seen().len(), times, "{method}");
    }
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closes_is_not_used_again() {
    let origin = Origin::replying(|_| {
        Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".to_vec())
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", None));
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn silence_is_answered_with_504_and_not_retried() {
    let hanging = Origin::replying(|_| Reply::Hang).await;
    let also_hanging = Origin::replying(|_| Reply::Hang).await;
    let gateway = Gateway::start(
        Setup::to(&[&hanging, &also_hanging])
            .with(|setup| setup.upstream().timeouts.response = Some(Duration::from_millis(100))),
    );
    let mut client = gateway.client().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, Some("response-timeout")));
    assert_eq!(hanging.seen().len() + also_hanging.seen().len(), 1);
    assert_eq!(gateway.upstream("main").metrics.counts().retried(), 0);
    // The connection is still good for the next one.
    assert_eq!(client.get("/").await.status, 504);
}

#[tokio::test]
async fn a_slow_upload_is_no_silence() {
    let origin = Origin::start("got it").await;
    let gateway = Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().timeouts.response = Some(Duration::from_secs(2))),
    );
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await;
    for byte in 0..10 {
        // What is tested is that time passes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send([b'0' + byte]).await;
    }
    assert_eq!(client.answer().await.text(), "got it");
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let origin = Origin::replying(|_| Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n")).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("bad-upstream-answer")));
}

#[tokio::test]
async fn an_answer_cut_short_is_cut_short_for_the_client() {
    let origin = Origin::replying(|_| {
        Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_vec())
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.try_answer(false).await.is_none());
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    until("the request is over", || member.stats().in_flight() == 0).await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.cut, counts.failures), ([0, 1, 0], [0, 0, 1, 0]));
}

#[tokio::test]
async fn only_a_success_that_has_come_to_its_end_ends_a_row_of_failures() {
    let origin = Origin::replying(|request| match request.path() {
        "/fails" => Reply::status(500),
        "/breaks-off" => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal".to_vec()),
        _ => Reply::text("ok"),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    for (path, row) in [("/fails", 1), ("/fails", 2), ("/breaks-off", 3), ("/", 0), ("/fails", 1)] {
        let mut client = gateway.client().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        client.try_answer(false).await;
        until("the request is over", || member.stats().in_flight() == 0).await;
        assert_eq!(member.stats().figures().consecutive_failures, row, "{path}");
    }
}

#[tokio::test]
async fn an_upstream_without_endpoints_answers_503() {
    let gateway = Gateway::start(Setup::to(&[]));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, Some("no-endpoints")));
}

#[tokio::test]
async fn a_trial_whose_connection_had_died_goes_on_over_a_new_one() {
    let (tried, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived, allowed) = (tried.clone(), answer.clone());
    // The first connection takes one request and closes with the second; the next one answers when it may.
    let origin = Origin::connected(move |mut stream, connection, _| {
        let (arrived, allowed) = (arrived.clone(), allowed.clone());
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer, connection).await;
            if connection > 0 {
                arrived.notify_one();
                allowed.notified().await;
            }
            let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntried";
            stream.write_all(text).await.unwrap();
            read_request(&mut stream, &mut buffer, connection).await;
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.get("/").await;
    let snapshot = gateway.upstream("main").reader.snapshot();
    let stats = snapshot.iter().next().unwrap().stats();
    stats.set_half_open(true);
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tried.notified().await;
    assert!(matches!(stats.admit(), Admission::Refused), "the request still is the one that tries it");
    answer.notify_one();
    assert_eq!(client.answer().await.text(), "tried");
}
