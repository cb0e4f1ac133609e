//! What a client of HTTP/2 may cost: times, windows, and frames that cost it little.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use h2::Reason;
use http::Method;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};
use witgate::{config::Protocol, telemetry::Abuse};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, LONG, until},
        http2::{Frames, Http2, PREFACE, answer, frame, get, head, in_time, read, reset, to},
        http2_origin::{Call, Http2Origin},
        origin::{Origin, Reply, read_head},
    },
};

const SHORT: Duration = Duration::from_millis(300);

/// How often the gateway closed a connection for this.
fn abused(gateway: &Gateway, kind: Abuse) -> u64 {
    gateway.metrics.listeners()[0].abused[kind as usize]
}

#[tokio::test]
async fn who_floods_is_closed_and_counted() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let floods: [(Abuse, Vec<u8>); 6] = [
        (Abuse::Settings, frame(4, 0, 0, &[])),
        (Abuse::Ping, frame(6, 0, 0, &[0; 8])),
        (Abuse::Window, frame(8, 0, 0, &[0, 0, 1, 0])),
        (Abuse::SmallWindow, frame(8, 0, 0, &[0, 0, 0, 1])),
        (Abuse::Ignored, frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        (Abuse::Ignored, frame(0xee, 0, 0, &[0; 20])),
    ];
    for (kind, flood) in floods {
        let before = abused(&gateway, kind);
        let mut client = Frames::connect(gateway.address).await;
        client.send(&flood.repeat(150)).await;
        client.send(&frame(6, 0, 0, &[9; 8])).await;
        let pong = async { while client.find(6..=6).await.expect("an answer to a ping").3 != [9; 8] {} };
        pong.await;
        assert_eq!(abused(&gateway, kind), before, "{kind:?}: a few are borne");
        client.send(&flood.repeat(200)).await;
        client.closed().await;
        // Of what is two kinds, the first that has nothing left.
        until("it is counted", || {
            Abuse::ALL.iter().map(|kind| abused(&gateway, *kind)).sum::<u64>() > before
        })
        .await;
    }
    for kind in [Abuse::Settings, Abuse::Ping, Abuse::Ignored] {
        assert!(abused(&gateway, kind) > 0, "{kind:?}");
    }
    assert!(abused(&gateway, Abuse::Window) + abused(&gateway, Abuse::SmallWindow) == 2);
    // Everybody else is served.
    assert_eq!(Http2::connect(gateway.address).await.get("/").await.text(), "hello");
}

#[tokio::test]
async fn who_opens_streams_to_reset_them_is_closed() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let flood = async {
        for _ in 0..1000 {
            let Ok(mut ready) = client.sender.clone().ready().await else { return };
            let Ok((_, mut stream)) = ready.send_request(get("/"), true) else { return };
            // The head goes out, and then the reset.
            tokio::task::yield_now().await;
            stream.send_reset(Reason::CANCEL);
        }
    };
    in_time(flood).await;
    assert!(client.ended().await.is_err());
}

#[tokio::test]
async fn who_takes_answers_may_reset_and_ping_as_often() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    for round in 0..400 {
        assert_eq!(client.get("/").await.text(), "hello", "{round}");
        let (response, mut stream) = client.send(get("/"), true).await;
        stream.send_reset(Reason::CANCEL);
        drop(response);
    }
    assert_eq!(gateway.metrics.listeners()[0].abused, [0; Abuse::ALL.len()]);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.header_timeout = SHORT;
        setup.listener.idle_timeout = SHORT * 2;
    }));
    // In the middle of the preface, and of a head.
    let mut client = Client::connect(gateway.address).await;
    client.send(&PREFACE[..10]).await;
    assert_eq!(client.answer().await.reason(), Some("head-timeout"));
    let mut client = Frames::connect(gateway.address).await;
    client.send(&frame(1, 1, 1, &[0x82])).await;
    let began = Instant::now();
    client.closed().await;
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    let mut client = Frames::connect(gateway.address).await;
    client.send(&[0, 0]).await;
    client.closed().await;
    // Between requests.
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.get("/").await.text(), "hello");
    let began = Instant::now();
    client.ended().await.unwrap();
    assert!((SHORT..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_client_that_keeps_its_connection_is_closed() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.idle_timeout = SHORT));
    let mut client = Frames::connect(gateway.address).await;
    let (kind, ..) = client.find(7..=7).await.expect("it is said first");
    assert_eq!(kind, 7);
    client.closed().await;
}

#[tokio::test]
async fn an_old_connection_takes_no_more_requests() {
    let origin = Origin::start("hello").await;
    let gateway =
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.max_age = Some(SHORT * 4)));
    let mut client = Http2::connect(gateway.address).await;
    let mut old = Client::connect(gateway.address).await;
    assert_eq!(client.get("/").await.text(), "hello");
    assert_eq!(old.get("/").await.header("connection"), None);
    client.ended().await.unwrap();
    // By HTTP/1 it is said in an answer, so that no request is lost.
    let said = async { while old.get("/").await.header("connection") != Some("close") {} };
    in_time(said).await;
    old.closed().await;
}

#[tokio::test]
async fn a_request_that_pauses_is_not_idle() {
    let origin = Origin::replying(|request| Reply::text(&String::from_utf8_lossy(&request.body))).await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.idle_timeout = SHORT;
        setup.listener.header_timeout = SHORT;
        setup.listener.write_timeout = SHORT;
    }));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
    tokio::time::sleep(SHORT * 3).await;
    stream.send_data(Bytes::from("late"), true).unwrap();
    assert_eq!(answer(response).await.unwrap().text(), "late");
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_loses_that_and_nothing_else() {
    let large = "x".repeat(1 << 20);
    let origin = Origin::replying(move |request| match request.path() {
        "/large" => Reply::text(&large),
        path => Reply::text(path),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    let mut client = Http2::with(gateway.address, h2::client::Builder::new().initial_window_size(1000)).await;
    let (response, _) = client.send(get("/large"), true).await;
    let body = head(response).await.into_body();
    let began = Instant::now();
    // Others go on, and that they move helps it nothing.
    let ended = async {
        while gateway.upstream("main").metrics.counts().statuses[1] == 0 || began.elapsed() < SHORT * 3 {
            assert_eq!(client.get("/small").await.text(), "/small");
        }
    };
    in_time(ended).await;
    assert_eq!(reset(in_time(read(body)).await), Reason::CANCEL);
    assert_eq!(client.get("/small").await.text(), "/small");
    assert_eq!(
        gateway.upstream("main").metrics.counts().failures.iter().sum::<u64>(),
        0,
        "no fault of the endpoint"
    );
}

#[tokio::test]
async fn who_reads_nothing_at_all_is_closed() {
    let large = "x".repeat(1 << 20);
    let origin = Origin::replying(move |_| Reply::text(&large)).await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    let mut client = Frames::connect(gateway.address).await;
    // GET http://a/, with windows as large as they may be.
    client.send(&frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff])).await;
    client.send(&frame(8, 0, 0, &[0x7f, 0, 0, 0])).await;
    for stream in 0..20 {
        client.send(&frame(1, 5, 2 * stream + 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])).await;
    }
    until("it is closed", || gateway.open() == 0).await;
    client.0.shutdown().await.unwrap_or(());
}

#[tokio::test]
async fn an_upload_that_nobody_takes_holds_up_no_other_and_little_of_it_is_held() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        let mut buffer = Vec::new();
        while let Some(head) = read_head(&mut stream, &mut buffer).await {
            if head.starts_with("POST /stuck") {
                // Reads nothing of it.
                std::future::pending::<()>().await;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let (response, mut stream) = client.send(to(Method::POST, "/stuck"), false).await;
        // More than the sockets on the way hold.
        stream.send_data(Bytes::from(vec![0; 16 << 20]), false).unwrap();
        stuck.push((response, stream));
    }
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_connection_is_ended() {
    const LONG_ANSWER: usize = 30 << 20;
    let origin = Origin::connected(|mut stream, _, _| async move {
        let mut buffer = Vec::new();
        read_head(&mut stream, &mut buffer).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG_ANSWER}\r\n\r\n");
        let _ = stream.write_all(&[head.as_bytes(), &vec![b'x'; LONG_ANSWER]].concat()).await;
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    // Its windows are as large as they can be: it is the connection that has no room.
    let windows = [frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0, 0, 0])];
    let mut client = Frames::connect(gateway.address).await;
    client.send(&windows.concat()).await;
    // `GET http://a/`, as HPACK has it.
    client.send(&frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])).await;
    client.find(1..=1).await.expect("the head of the answer");
    let began = Instant::now();
    until("it is closed", || gateway.open() == 0).await;
    assert!(began.elapsed() >= SHORT);
    let ended = client.0.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.cut, counts.failures), ([1, 0, 0], [0; 4]));
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_loses_the_rest_of_its_upload_too() {
    let ended = Arc::new(Notify::new());
    let tell = ended.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let tell = tell.clone();
        async move {
            let mut stream = call.reply.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(vec![b'x'; 16 << 20].into(), false).unwrap();
            assert!(read(call.request.into_body()).await.is_err());
            tell.notify_one();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]).with(|setup| {
        setup.upstream().protocol = Protocol::Http2;
        setup.listener.write_timeout = SHORT;
    }));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
    stream.send_data(Bytes::from("half"), false).unwrap();
    let body = head(response).await.into_body();
    in_time(ended.notified()).await;
    assert_eq!(reset(in_time(read(body)).await), Reason::CANCEL);
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_has_a_limit() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.header_timeout = SHORT));
    // Without END_HEADERS, and the header of a frame alone.
    for begun in [frame(1, 1, 1, &[0x82, 0x86, 0x84]), frame(1, 5, 1, &[])[..5].to_vec()] {
        let mut client = Frames::connect(gateway.address).await;
        client.send(&begun).await;
        in_time(client.closed()).await;
    }
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_pauses_is_not_ended_for_its_client() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
        // What is tested is that time passes.
        tokio::time::sleep(SHORT * 3).await;
        stream.write_all(b"lf").await.unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    assert_eq!(Http2::connect(gateway.address).await.get("/").await.text(), "half");
}

#[tokio::test]
async fn a_client_that_takes_little_of_its_connection_is_not_ended() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.write_timeout = SHORT));
    let windows = [frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0, 0, 0])];
    let mut client = Frames::connect(gateway.address).await;
    client.send(&windows.concat()).await;
    client.send(&frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a'])).await;
    let (began, mut buffer) = (Instant::now(), vec![0; 1 << 18]);
    while began.elapsed() < SHORT * 4 {
        assert_ne!(client.0.read(&mut buffer).await.unwrap(), 0);
        // Far from all that there is.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gateway.open(), 1);
}
