//! What a client may take: time, bytes, connections.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    http_harness::{Gateway, Setup, listener},
    support::{
        client::until,
        http2::{Http2, get, head, in_time},
        origin::{Origin, Reply, read_head},
    },
};

/// Longer than a client of a busy machine takes to send a head.
const SHORT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_answered_with_408() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.header_timeout = SHORT));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 200);
    client.send("GET / HTTP/1.1\r\nhost: a\r\nx-").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (408, Some("head-timeout")));
    client.closed().await;
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_head_that_trickles_in_is_too_slow_as_well() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.header_timeout = SHORT));
    let mut client = gateway.client().await;
    let started = Instant::now();
    client.send("GET / HTTP/1.1\r\nx-slow: ").await;
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"a").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), trickle).await.expect("the gateway closes");
    assert!(started.elapsed() >= SHORT);
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.header_timeout = SHORT));
    gateway.client().await.closed().await;
}

#[tokio::test]
async fn line_ends_before_a_head_are_nothing() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.header_timeout = SHORT;
        setup.listener.idle_timeout = SHORT;
    }));
    for used in [false, true] {
        for line_ends in ["\r\n", "\r\n\r\n\r\n", "\r"] {
            let mut client = gateway.client().await;
            if used {
                assert_eq!(client.get("/").await.status, 200);
            }
            client.send(line_ends).await;
            client.closed().await;
        }
        // Again and again.
        let mut client = gateway.client().await;
        if used {
            client.send("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200);
        }
        let trickle = async {
            while tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), trickle).await.expect("the gateway closes");
    }
    until("all are gone", || gateway.open() == 0).await;
}

#[tokio::test]
async fn an_answer_that_pauses_is_not_idle_and_idling_begins_at_its_end() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        crate::support::origin::read_head(&mut stream, &mut Vec::new()).await;
        for piece in ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", "l", "a", "t", "e"] {
            tokio::io::AsyncWriteExt::write_all(&mut stream, piece.as_bytes()).await.unwrap();
            tokio::time::sleep(2 * SHORT).await;
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.idle_timeout = SHORT;
        setup.listener.header_timeout = SHORT;
    }));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.text(), "late");
    let ended = Instant::now();
    client.closed().await;
    assert!(ended.elapsed() >= SHORT / 2, "{:?}", ended.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_ended_and_one_that_reads_slowly_is_not() {
    let (gone, mut going) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::connected(move |mut stream, _, _| {
        let gone = gone.clone();
        async move {
            crate::support::origin::read_head(&mut stream, &mut Vec::new()).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
            while tokio::io::AsyncWriteExt::write_all(&mut stream, &[0; 64 * 1024]).await.is_ok() {}
            gone.send(()).unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.write_timeout = SHORT;
        setup.listener.idle_timeout = SHORT;
    }));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let begun = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    while begun.elapsed() < 4 * SHORT {
        let len = tokio::io::AsyncReadExt::read(&mut client.stream, &mut buffer).await.unwrap();
        assert_ne!(len, 0);
        // Slow enough to be far from the end of the answer by then.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(going.try_recv().is_err());
    // Now it stops.
    tokio::time::timeout(crate::support::client::LONG, going.recv()).await.expect("it is ended");
    until("it is gone", || gateway.open() == 0).await;
    let ended = client.stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    assert_eq!((member.stats().in_flight(), member.stats().figures().failures), (0, 0));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.idle_timeout = SHORT));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 200);
    client.closed().await;
}

#[tokio::test]
async fn waiting_for_an_answer_is_not_idling() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        crate::support::origin::read_head(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(4 * SHORT).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.listener.idle_timeout = SHORT;
        setup.listener.header_timeout = SHORT;
    }));
    assert_eq!(gateway.client().await.get("/").await.text(), "late");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_answered_with_431() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.max_header_bytes = 1000));
    for head in [
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(1000)),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(1000)),
        // Without an end.
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}", "x".repeat(1000)),
    ] {
        let mut client = gateway.client().await;
        client.send(&head).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (431, Some("head-too-large")), "{head}");
        client.closed().await;
    }
    let fits = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(900));
    let mut client = gateway.client().await;
    client.send(&fits).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn more_header_lines_than_a_hundred_are_too_many() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let head = |lines| format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(lines));
    let mut client = gateway.client().await;
    client.send(head(99)).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(head(100)).await;
    assert_eq!(client.answer().await.reason(), Some("head-too-large"));
}

#[tokio::test]
async fn a_target_that_is_too_long_for_the_parser_is_answered_with_414() {
    let origin = Origin::start("ok").await;
    let gateway =
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.max_header_bytes = 100_000));
    let mut client = gateway.client().await;
    let long = "x".repeat(65_533);
    assert_eq!(client.get(&format!("/{long}")).await.status, 200);
    let answer = client.get(&format!("/{long}x")).await;
    assert_eq!((answer.status, answer.reason()), (414, Some("target-too-long")));
    client.closed().await;
}

#[tokio::test]
async fn empty_lines_without_end_are_too_much() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.max_header_bytes = 1000));
    let mut client = gateway.client().await;
    client.send("\r\n".repeat(500)).await;
    assert_eq!(client.get("/").await.status, 200);
    client.send("\r\n".repeat(501)).await;
    assert_eq!(client.answer().await.reason(), Some("head-too-large"));
    client.closed().await;
}

#[tokio::test]
async fn an_answer_of_more_header_lines_than_a_hundred_is_none() {
    let origin = Origin::replying(|seen| {
        let lines: usize = seen.path()[1..].parse().unwrap();
        Reply::raw(&format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{}\r\n", "x: y\r\n".repeat(lines - 1)))
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/100").await.status, 200);
    let answer = client.get("/101").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream-head-too-large")));
}

#[tokio::test]
async fn idle_connections_to_an_endpoint_are_closed_after_a_while() {
    let open = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = open.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let counted = counted.clone();
        async move {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut buffer = Vec::new();
            while crate::support::origin::read_head(&mut stream, &mut buffer).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            }
            counted.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await;
    let gateway = Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().pool.idle_timeout = Duration::from_millis(50)),
    );
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    let open = || open.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(open(), 1);
    until("the idle connection is closed", || open() == 0).await;
}

#[tokio::test]
async fn no_more_connections_than_allowed_stay_idle() {
    let origin = Origin::replying(|_| Reply::text("ok")).await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.upstream().pool.max_idle = 0));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_port_that_is_in_use_is_an_error_even_if_its_user_shares_ports() {
    let metrics = witgate::telemetry::ProcessMetrics::new(2);
    let bind = |address| {
        let settings = witgate::config::Listener { address, ..listener() };
        witgate::server::Listener::bind(std::sync::Arc::new(settings), None, 2, &metrics, &[])
    };
    let ours = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind(ours.address()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{} is in use by another process (`witgate doctor` says by which)", ours.address())
    );

    let theirs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(bind(theirs.local_addr().unwrap()).is_err());
    assert!(bind("192.0.2.1:80".parse().unwrap()).unwrap_err().to_string().contains("192.0.2.1:80"));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_keeps_it_no_longer_than_the_time_for_everything() {
    let (gone, mut going) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::connected(move |mut stream, _, _| {
        let gone = gone.clone();
        async move {
            let Some(head) = read_head(&mut stream, &mut Vec::new()).await else { return };
            if !head.starts_with("GET /long ") {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nshort").await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[0; 64 * 1024]).await.is_ok() {}
            gone.send(()).unwrap();
        }
    })
    .await;
    let gateway = || {
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.upstream().timeouts.request = Some(SHORT)))
    };
    let over = |gateway: &Gateway| {
        let counts = gateway.upstream("main").metrics.counts();
        (counts.cut, counts.failures)
    };

    let by_http1 = gateway();
    let mut client = by_http1.client().await;
    client.send("GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await;
    in_time(going.recv()).await.unwrap();
    until("it is gone", || by_http1.open() == 0).await;
    let ended = client.stream.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "it is not taken for whole");
    assert_eq!(over(&by_http1), ([1, 0, 0], [0; 4]));

    // Of many at once only this one ends.
    let by_http2 = gateway();
    let mut windows = h2::client::Builder::new();
    windows.initial_connection_window_size(1 << 20);
    let mut client = Http2::with(by_http2.address, &windows).await;
    let (long, _) = client.send(get("/long"), true).await;
    let mut long = head(long).await.into_body();
    in_time(going.recv()).await.unwrap();
    let ended = loop {
        if let Err(error) = in_time(long.data()).await.expect("it is not taken for whole") {
            break error;
        }
    };
    assert_eq!(ended.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(client.get("/").await.text(), "short");
    assert_eq!(over(&by_http2), ([1, 0, 0], [0; 4]));
}
