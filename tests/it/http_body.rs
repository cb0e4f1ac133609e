//! Bodies: streamed both ways, as fast as the slower side takes them.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{LONG, until},
        http2::in_time,
        origin::{self, Origin, Reply, read_head},
    },
};

const CHUNK: &[u8; 64 * 1024] = &[b'x'; 64 * 1024];

/// More than all the buffers on the way hold together.
const FAR_TOO_MUCH: usize = 256 * 1024 * 1024;

#[tokio::test]
async fn an_answer_is_passed_on_while_it_is_being_made() {
    let go_on = Arc::new(Notify::new());
    let going = go_on.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let going = going.clone();
        async move {
            origin::read_head(&mut stream, &mut Vec::new()).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                .await
                .unwrap();
            going.notified().await;
            stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
            going.notified().await;
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut text = String::new();
    while !text.ends_with("first\r\n") {
        let mut buffer = [0; 1024];
        let len = client.stream.read(&mut buffer).await.unwrap();
        assert!(len > 0);
        text.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
    }
    go_on.notify_one();
    client.buffer = text.into_bytes();
    assert_eq!(client.answer().await.text(), "firstsecond");
}

#[tokio::test]
async fn a_request_is_passed_on_while_it_is_being_made() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        let mut buffer = Vec::new();
        origin::read_head(&mut stream, &mut buffer).await;
        // Answers what it got so far, before the request is complete.
        let first = origin::take(&mut stream, &mut buffer, 5).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await.unwrap();
        stream.write_all(&first).await.unwrap();
        let second = origin::take(&mut stream, &mut buffer, 5).await.unwrap();
        stream.write_all(&second).await.unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello").await;
    let mut buffer = Vec::new();
    assert!(origin::read_head(&mut client.stream, &mut buffer).await.unwrap().contains("200 OK"));
    assert_eq!(origin::take(&mut client.stream, &mut buffer, 5).await.unwrap(), b"hello");
    client.send("world").await;
    assert_eq!(origin::take(&mut client.stream, &mut buffer, 5).await.unwrap(), b"world");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_endpoint() {
    let (sent, sending) = tokio::sync::watch::channel(0usize);
    let sent = Arc::new(sent);
    let origin = Origin::connected(move |mut stream, _, _| {
        let sent = sent.clone();
        async move {
            origin::read_head(&mut stream, &mut Vec::new()).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(CHUNK).await.is_ok() {
                sent.send_modify(|sum| *sum += CHUNK.len());
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let stood = standstill(sending).await;
    assert!(stood < FAR_TOO_MUCH / 2, "{stood} bytes are on the way");
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_stops_the_client() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        origin::read_head(&mut stream, &mut Vec::new()).await;
        std::future::pending().await
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n")).await;
    let (sent, sending) = tokio::sync::watch::channel(0usize);
    let writing = tokio::spawn(async move {
        while client.stream.write_all(CHUNK).await.is_ok() {
            sent.send_modify(|sum| *sum += CHUNK.len());
        }
    });
    let stood = standstill(sending).await;
    writing.abort();
    assert!(stood < FAR_TOO_MUCH / 2, "{stood} bytes are on the way");
}

#[tokio::test]
async fn an_upload_goes_on_while_the_client_does_not_read_the_answer() {
    const LEN: usize = 16 * 1024 * 1024;
    let arrived = Arc::new(Notify::new());
    let arriving = arrived.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let arriving = arriving.clone();
        async move {
            let mut buffer = Vec::new();
            origin::read_head(&mut stream, &mut buffer).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (reading, mut writing) = stream.split();
            let receive = async {
                let mut rest = reading.take((LEN - buffer.len()) as u64);
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.unwrap();
                arriving.notify_one();
            };
            let answer = async { while writing.write_all(CHUNK).await.is_ok() {} };
            tokio::join!(receive, answer);
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LEN}\r\n\r\n")).await;
    let send = async {
        for _ in 0..LEN / CHUNK.len() {
            client.stream.write_all(CHUNK).await.unwrap();
        }
        arrived.notified().await;
    };
    tokio::time::timeout(LONG, send).await.expect("the whole body arrives");
}

/// Waits until a counter has not moved for a while.
async fn standstill(mut counter: tokio::sync::watch::Receiver<usize>) -> usize {
    let waiting = async {
        while let Ok(changed) = tokio::time::timeout(Duration::from_millis(500), counter.changed()).await {
            changed.unwrap();
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("it stands still");
    *counter.borrow()
}

#[tokio::test]
async fn bodies_arrive_whole_in_both_framings() {
    let origin = Origin::replying(|seen| {
        let (length, mut answer) = (seen.body.len(), Vec::new());
        if seen.path() == "/chunked" {
            answer.extend(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            for piece in seen.body.chunks(1000) {
                answer.extend(format!("{:x}\r\n", piece.len()).as_bytes());
                answer.extend(piece);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\n\r\n");
        } else {
            answer.extend(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            answer.extend(&seen.body);
        }
        Reply::Bytes(answer)
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    for path in ["/chunked", "/sized"] {
        client
            .send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()))
            .await;
        client.send(&body).await;
        assert_eq!(client.answer().await.body, body);

        client.send(format!("PUT {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")).await;
        for piece in body.chunks(7777) {
            client.send(format!("{:X}\r\n", piece.len())).await;
            client.send(piece).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.answer().await.body, body);
    }
    assert_eq!(origin.connections(), 1);
    let framings: Vec<bool> =
        origin.seen().iter().map(|seen| seen.header("transfer-encoding").is_some()).collect();
    assert_eq!(framings, [false, true, false, true]);
}

#[tokio::test]
async fn a_get_may_have_a_body() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET /s HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nquery").await;
    assert_eq!(client.answer().await.text(), "ok");
    client
        .send("GET /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    assert!(origin.seen().iter().all(|seen| seen.body == b"query"));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let origin = Origin::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n")
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.workers = 1));
    let mut client = gateway.client().await;
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-check\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-check: 7\r\n\r\n")
        .await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.trailers.join(";")), ("ok", "x-sum: 42".to_owned()));
    let seen = origin.seen().remove(0);
    assert_eq!((seen.header("te"), seen.trailers.clone()), (Some("trailers"), vec!["x-check: 7".to_owned()]));
    // An answer ends with its trailers: it is whole, and its connection is free.
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    until("it is over", || member.stats().in_flight() == 0).await;
    assert_eq!(gateway.upstream("main").metrics.counts().cut, [0; 3]);
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_the_endpoint_gets_the_body() {
    let origin = Origin::start("thanks").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "thanks");
    let seen = origin.seen().remove(0);
    assert_eq!((seen.header("expect"), seen.body.as_slice()), (None, &b"hello"[..]));
}

#[tokio::test]
async fn a_refused_upload_is_not_asked_for() {
    let gateway = Gateway::start(Setup::to(&[]));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 503);
}

#[tokio::test]
async fn head_has_the_headers_of_a_get_and_no_body() {
    let origin = Origin::replying(|seen| match seen.line().starts_with("HEAD") {
        true => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"),
        false => Reply::text("after"),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = client.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    assert_eq!(client.get("/").await.text(), "after");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the request is on its way", || member.stats().in_flight() == 1).await;
    drop(client);
    until("the request is over", || member.stats().in_flight() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_does_not_complete_the_request() {
    let origin = Origin::start("never").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await;
    until("the endpoint has it", || origin.connections() == 1).await;
    drop(client);
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    until("the request is over", || member.stats().in_flight() == 0).await;
    assert!(origin.seen().is_empty());
    assert_eq!(member.stats().figures().failures, 0, "it is not the endpoint's fault");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_whole_to_no_client_and_what_there_is_of_it_arrives() {
    // A client of HTTP/1.0 that is told no length takes the end of the connection for that of the answer, whether it has sent
    // all of its request or not.
    for (framing, version, request, only_reset_tells) in [
        ("transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "1.1", "0\r\n\r\n", false),
        ("content-length: 8\r\n\r\nhalf", "1.1", "0\r\n\r\n", false),
        ("\r\nhalf", "1.0", "0\r\n\r\n", true),
        ("\r\nhalf", "1.0", "8\r\n\r\nhalf", true),
    ] {
        let go = Arc::new(Notify::new());
        let may_break = go.clone();
        let origin = Origin::connected(move |mut stream, _, _| {
            let may_break = may_break.clone();
            async move {
                read_head(&mut stream, &mut Vec::new()).await;
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.unwrap();
                may_break.notified().await;
                stream.set_zero_linger().unwrap();
            }
        })
        .await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = gateway.client().await;
        client.send(format!("POST / HTTP/{version}\r\nhost: a\r\ncontent-length: {request}")).await;
        let mut all = Vec::new();
        while !all.windows(4).any(|bytes| bytes == b"half") {
            assert_ne!(in_time(client.stream.read_buf(&mut all)).await.unwrap(), 0);
        }
        go.notify_one();
        let ended = in_time(client.stream.read_to_end(&mut all)).await;
        assert_eq!(ended.is_err(), only_reset_tells, "{framing} {request}");
        assert!(!all.ends_with(b"0\r\n\r\n"));
    }
}
