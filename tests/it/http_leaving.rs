//! Clients that go away, and clients that are sent away: what is under way ends, and an answer that was given arrives.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use witgate::config::Protocol;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, LONG, until},
        http2::{in_time, read},
        http2_origin::{Call, Http2Origin},
        origin::{Origin, Reply, read_head},
    },
};

/// What a client commonly uploads without listening.
const UPLOAD: usize = 8 << 20;

#[derive(Debug, Clone, Copy)]
enum Leave {
    Close,
    Reset,
    CloseSending,
}

/// Leaves; what is left of the client has to be kept.
async fn leave(mut client: Client, how: Leave) -> Option<Client> {
    match how {
        Leave::Close => None,
        Leave::Reset => {
            client.stream.set_zero_linger().unwrap();
            None
        }
        Leave::CloseSending => {
            client.stream.shutdown().await.unwrap();
            Some(client)
        }
    }
}

/// Takes a connection, reads nothing of it beyond a head, and counts it as long as it is open.
async fn deaf() -> Origin {
    Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        std::future::pending().await
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_also_behind_bytes_that_nobody_reads() {
    let much = vec![b'x'; 64 << 20];
    let upload = [b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n", &much[..]].concat();
    let pipelined = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    let garbage = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n<< no request >>\r\n\r\n".to_vec();
    for (name, bytes) in [("upload", upload), ("pipelined", pipelined), ("garbage", garbage)] {
        for how in [Leave::Close, Leave::Reset, Leave::CloseSending] {
            if name == "upload" && !matches!(how, Leave::Reset) {
                // The end is behind bytes for which the gateway's kernel has no room: it cannot be known there.
                continue;
            }
            let origin = deaf().await;
            let gateway = Gateway::start(Setup::to(&[&origin]));
            let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
            let mut client = gateway.client().await;
            // As much of it as there is room for.
            let sending = client.stream.write_all(&bytes);
            let _ = tokio::time::timeout(Duration::from_millis(200), sending).await;
            until("the request is under way", || member.stats().in_flight() == 1).await;
            let left = leave(client, how).await;
            until(&format!("{name} is over after {how:?}"), || {
                member.stats().in_flight() == 0 && gateway.open() == 0
            })
            .await;
            assert_eq!(member.stats().figures().failures, 0, "it is not the endpoint's fault");
            drop(left);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_answer_ends_the_stream() {
    for how in [Leave::Close, Leave::Reset, Leave::CloseSending] {
        let origin = Origin::connected(|mut stream, _, _| async move {
            read_head(&mut stream, &mut Vec::new()).await;
            let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(begun).await.unwrap();
            std::future::pending().await
        })
        .await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        read_head(&mut client.stream, &mut client.buffer).await.unwrap();
        let left = leave(client, how).await;
        until("the stream is over", || member.stats().in_flight() == 0 && gateway.open() == 0).await;
        drop(left);
    }
}

/// Sends everything before it reads anything, as many clients do.
fn upload_deafly(gateway: &Gateway, head: String, bytes: usize) -> std::thread::JoinHandle<String> {
    let address = gateway.address;
    std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; bytes]).expect("the gateway listens to the end");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[tokio::test]
async fn the_answer_to_a_refused_upload_arrives_at_a_client_that_is_still_sending() {
    let origin = Origin::start("never").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.routes[0].matches.path = "/open".into();
    }));
    let cases = [
        (format!("POST /closed HTTP/1.1\r\nhost: a\r\ncontent-length: {UPLOAD}\r\n\r\n"), "404"),
        (format!("POST /closed HTTP/1.0\r\nhost: a\r\ncontent-length: {UPLOAD}\r\n\r\n"), "404"),
        (format!("POST /open HTTP/1.1\r\nhost: a\r\ncontent-length : {UPLOAD}\r\n\r\n"), "400"),
        ("POST /open HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".into(), "400"),
    ];
    for (head, status) in cases {
        let answer = upload_deafly(&gateway, head.clone(), UPLOAD);
        let answer = tokio::task::spawn_blocking(|| answer.join().unwrap()).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head}{answer}");
        assert!(answer.to_ascii_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("x-witgate-reason"), "{answer}");
    }
    until("nobody lingers", || gateway.open() == 0).await;
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn nobody_waits_for_the_rest_of_an_upload_for_long_after_its_answer() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await.unwrap();
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop).unwrap_or(());
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("early", Some("close")));
    let answered = Instant::now();
    // Sends on as if nothing had happened.
    let error = loop {
        match client.stream.write_all(b"more of it").await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
        assert!(answered.elapsed() < 2 * LONG, "it is still listened to");
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[tokio::test]
async fn a_client_that_sends_its_whole_request_before_the_answer_keeps_its_connection() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for head in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        client.send(head).await;
        let answer = client.answer().await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", None));
    }
}

#[tokio::test]
async fn requests_that_come_in_one_piece_are_answered_in_their_order() {
    let origin = Origin::replying(|seen| Reply::text(&format!("{}{}", seen.path(), seen.body.len()))).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    let (mut all, count) = (String::new(), 40);
    for number in 0..count {
        all += &match number % 4 {
            0 => format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"),
            1 => format!("POST /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc\r\n"),
            2 => format!(
                "PUT /{number} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
            ),
            _ => format!("\r\n\r\nGET /{number} HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(9000)),
        };
    }
    for piece in [usize::MAX, 7, 1000] {
        for bytes in all.as_bytes().chunks(piece.min(all.len())) {
            client.send(bytes).await;
        }
        for number in 0..count {
            let length = [0, 3, 2, 0][number % 4];
            assert_eq!(client.answer().await.text(), format!("/{number}{length}"));
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_only_where_the_length_is_known() {
    let origin = Origin::replying(|seen| match seen.path() {
        "/known" => Reply::text("known"),
        _ => Reply::raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnot\r\n6\r\n known\r\n0\r\n\r\n",
        ),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    let get = |path: &str| format!("GET {path} HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n");
    client.send(get("/known")).await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("known", Some("keep-alive")));
    client.send(get("/unknown")).await;
    let answer = client.answer().await;
    assert_eq!(answer.text(), "not known");
    assert_eq!(answer.header("connection"), Some("close"));
}

#[tokio::test]
async fn a_client_of_http_1_0_sees_that_an_answer_broke_off() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        let begun = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
        stream.write_all(begun).await.unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let mut all = Vec::new();
    let ended = tokio::time::timeout(LONG, client.stream.read_to_end(&mut all)).await.unwrap();
    let error = ended.expect_err(&String::from_utf8_lossy(&all));
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn whatever_the_parser_refuses_is_answered_with_a_reason_and_counted() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.max_header_bytes = 256 * 1024;
    }));
    let long = format!("/{}", "x".repeat(100_000));
    for target in ["/<", "/a\"b", "http://", "http:///", "//", "a/b", "http://a:b:c/", &long, "/{}", "/^`|"] {
        let counted = || gateway.metrics.unrouted.counts().statuses.iter().sum::<u64>();
        let (before, routed) = (counted(), origin.seen().len());
        let mut client = gateway.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let answer = client.answer().await;
        let shown = &target[..target.len().min(20)];
        if answer.status == 200 {
            assert_eq!(origin.seen().len(), routed + 1, "{shown}");
            continue;
        }
        assert!(answer.reason().is_some(), "{shown}: {}", answer.head);
        assert!(matches!(answer.status, 400 | 404 | 414 | 431), "{shown}: {}", answer.head);
        assert_eq!(counted(), before + 1, "{shown}");
        if answer.status != 404 {
            assert_eq!(answer.header("connection"), Some("close"), "{shown}");
            client.closed().await;
        }
    }
}

/// What an endpoint says of half an upload: that it has it, and whether it was the whole in the end.
type Said = mpsc::UnboundedSender<Option<bool>>;

/// An endpoint of HTTP/1 that may begin its answer before the end of the request.
async fn half_by_http1(begun: bool, said: Said) -> Origin {
    Origin::connected(move |mut stream, _, _| {
        let said = said.clone();
        async move {
            let mut buffer = Vec::new();
            read_head(&mut stream, &mut buffer).await.unwrap();
            while !buffer.ends_with(b"half\r\n") {
                assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0);
            }
            if begun {
                let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                stream.write_all(answer).await.unwrap();
            }
            said.send(None).unwrap();
            let _ = stream.read_to_end(&mut buffer).await;
            said.send(Some(buffer.ends_with(b"\r\n0\r\n\r\n"))).unwrap();
        }
    })
    .await
}

/// The same of HTTP/2.
async fn half_by_http2(begun: bool, said: Said) -> Http2Origin {
    Http2Origin::start(move |mut call: Call| {
        let said = said.clone();
        async move {
            let mut body = call.request.into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "half");
            let answer = begun.then(|| call.reply.send_response(http::Response::new(()), false).unwrap());
            said.send(None).unwrap();
            said.send(Some(read(body).await.is_ok())).unwrap();
            drop(answer);
        }
    })
    .await
}

#[tokio::test]
async fn an_upload_whose_client_leaves_in_the_middle_is_whole_to_no_endpoint() {
    for begun in [false, true] {
        let (sender, mut said) = mpsc::unbounded_channel();
        let http1 = half_by_http1(begun, sender.clone()).await;
        let http2 = half_by_http2(begun, sender).await;
        for (address, protocol) in [(http1.address, Protocol::Http1), (http2.address, Protocol::Http2)] {
            for method in ["POST", "PUT"] {
                let setup = Setup::to_addresses(&[address]);
                let gateway = Gateway::start(setup.with(|setup| setup.upstream().protocol = protocol));
                let mut client = gateway.client().await;
                let head = format!("{method} / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
                client.send(format!("{head}4\r\nhalf\r\n")).await;
                assert_eq!(in_time(said.recv()).await.unwrap(), None);
                if begun {
                    read_head(&mut client.stream, &mut client.buffer).await.unwrap();
                }
                drop(client);
                let whole = in_time(said.recv()).await.unwrap();
                assert_eq!(whole, Some(false), "{method} {protocol:?} begun: {begun}");
            }
        }
    }
}
