//! Requests by HTTP/2 are the same requests to endpoints that speak HTTP/1.

use std::{sync::Arc, time::Duration};

use h2::Reason;
use http::{HeaderMap, Method};
use hyper::body::Bytes;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, Semaphore},
};
use witgate::config::Protocol;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, until},
        http2::{Frames, Http2, PREFACE, answer, frame, get, head, in_time, read, reset, to},
        http2_origin::{Call, Http2Origin},
        origin::{Origin, Reply, Seen, read_head},
    },
};

/// A request of which only the head counts.
fn noted(head: String) -> Seen {
    Seen { connection: 0, head, body: vec![], trailers: vec![] }
}

fn echo() -> impl Future<Output = Origin> {
    Origin::replying(|request| Reply::text(&String::from_utf8_lossy(&request.body)))
}

#[tokio::test]
async fn a_request_is_that_of_http_1_to_an_endpoint() {
    let origin = Origin::replying(|_| {
        Reply::raw("HTTP/1.1 201 Created\r\ncontent-length: 5\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\r\nhello")
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let mut request = get("/some/path?a=b%20c");
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-one", "1"),
        ("x-one", "2"),
        ("x_forwarded_for", "1.2.3.4"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = client.request(request).await;
    assert_eq!((answer.status, answer.text()), (201, "hello"));
    assert_eq!(answer.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(answer.header("content-length"), Some("5"));
    for name in ["connection", "x-hop", "keep-alive", "transfer-encoding"] {
        assert_eq!(answer.header(name), None, "{name}");
    }

    let seen = &origin.seen()[0];
    assert_eq!(seen.line(), "GET /some/path?a=b%20c HTTP/1.1");
    assert_eq!(seen.header("host"), Some("test"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!((seen.header("te"), seen.header("connection")), (Some("trailers"), Some("te")));
    assert_eq!(seen.all("x-one"), ["1", "2"]);
    assert_eq!(seen.header("x-forwarded-host"), Some("test"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((seen.header("x_forwarded_for"), seen.header("content-length")), (None, None));
}

#[tokio::test]
async fn http_1_is_spoken_on_the_same_listener() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    assert_eq!(Client::connect(gateway.address).await.get("/").await.text(), "hello");
    assert_eq!(Http2::connect(gateway.address).await.get("/").await.text(), "hello");
    // However its first bytes are cut.
    let mut client = Client::connect(gateway.address).await;
    for piece in [PREFACE, &frame(4, 0, 0, &[]), &frame(6, 0, 0, &[7; 8])].concat().chunks(5) {
        client.send(piece).await;
    }
    let mut frames = Frames(client.stream);
    assert_eq!(frames.find(6..=6).await, Some((6, 1, 0, vec![7; 8])));
    // What only begins like HTTP/2 is none.
    let mut client = Client::connect(gateway.address).await;
    client.send("PRI * HTTP/2.0\r\n\r\nXX").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (505, Some("version-not-supported")));
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    let origin = echo().await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let large = "x".repeat(1 << 20);
    // With a length, and without.
    let mut request = to(Method::POST, "/known");
    request.headers_mut().insert("content-length", large.len().into());
    let (response, mut stream) = client.send(request, false).await;
    stream.send_data(large.clone().into(), true).unwrap();
    assert!(answer(response).await.unwrap().text() == large);
    let got = client.post("/unknown", large.clone()).await;
    assert_eq!(got.header("content-length"), Some("1048576"));
    assert!(got.text() == large);
    let seen = origin.seen();
    assert_eq!(
        (seen[0].header("content-length"), seen[0].header("transfer-encoding")),
        (Some("1048576"), None)
    );
    assert_eq!(
        (seen[1].header("content-length"), seen[1].header("transfer-encoding")),
        (None, Some("chunked"))
    );
    assert_eq!(client.post("/empty", "").await.text(), "");
}

#[tokio::test]
async fn many_requests_share_a_connection_and_none_waits_for_another() {
    let origin = Origin::replying(|request| match request.path() {
        "/hangs" => Reply::Hang,
        path => Reply::text(path),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (_hangs, _stream) = client.send(get("/hangs"), true).await;
    let mut answers = Vec::new();
    for number in 0..100 {
        answers.push(client.send(get(&format!("/{number}")), true).await.0);
    }
    for (number, response) in answers.into_iter().enumerate().rev() {
        assert_eq!(answer(response).await.unwrap().text(), format!("/{number}"));
    }
    assert_eq!(gateway.open(), 1);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let origin = Origin::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\n\r\n")
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let mut request = to(Method::POST, "/");
    request.headers_mut().insert("trailer", "x-up".parse().unwrap());
    let (response, mut stream) = client.send(request, false).await;
    stream.send_data(Bytes::from("abc"), false).unwrap();
    stream.send_trailers(HeaderMap::from_iter([("x-up".parse().unwrap(), "8".parse().unwrap())])).unwrap();
    let got = answer(response).await.unwrap();
    assert_eq!((got.text(), got.trailers.as_ref().unwrap()["x-sum"].to_str().unwrap()), ("hi", "7"));
    let seen = &origin.seen()[0];
    assert_eq!((&*seen.body, &*seen.trailers), (&b"abc"[..], &["x-up: 8".to_owned()][..]));
}

#[tokio::test]
async fn trailers_that_nobody_announced_are_counted() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    // What may be sent again is kept, and what may not is not.
    for method in [Method::POST, Method::PUT] {
        let mut request = to(method, "/");
        request.headers_mut().insert("trailer", "x-up, x-other".parse().unwrap());
        let (response, mut stream) = client.send(request, false).await;
        stream.send_data(Bytes::from("abc"), false).unwrap();
        let trailers = ["x-up", "x-two", "x-three"].map(|name| (name.parse().unwrap(), "8".parse().unwrap()));
        stream.send_trailers(HeaderMap::from_iter(trailers)).unwrap();
        assert_eq!(answer(response).await.unwrap().text(), "ok");
    }
    assert_eq!(origin.seen()[0].trailers, ["x-up: 8"]);
    assert_eq!(gateway.upstream("main").metrics.counts().trailers_dropped, 4);
}

#[tokio::test]
async fn what_the_gateway_refuses_has_a_reason_and_the_connection_goes_on() {
    let origin = Origin::start("hello").await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.routes[0].matches.path = "/here".into());
    let gateway = Gateway::start(setup);
    let mut client = Http2::connect(gateway.address).await;
    let mut check = async |request, status: u16, reason: &str| {
        let answer = client.request(request).await;
        assert_eq!((answer.status, answer.reason()), (status, Some(reason)));
        assert_eq!(answer.header("connection"), None);
    };
    check(get("/elsewhere"), 404, "no-route").await;
    let with = |name: &'static str, values: &[&str]| {
        let mut request = get("/here");
        for value in values {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request
    };
    check(with("host", &["other"]), 400, "bad-request-host").await;
    check(with("x", &["a"; 130]), 431, "head-too-large").await;
    check(with("x", &[&"a".repeat(17_000)]), 431, "head-too-large").await;
    check(with("expect", &["else"]), 417, "expectation-failed").await;
    let connect = http::Request::builder().method(Method::CONNECT).uri("test:80").body(()).unwrap();
    check(connect, 501, "connect-not-supported").await;
    // What was refused has held nothing up, bodies included.
    let (response, mut stream) = client.send(to(Method::POST, "/elsewhere"), false).await;
    stream.send_data(Bytes::from(vec![0; 100]), false).unwrap();
    assert_eq!(answer(response).await.unwrap().reason(), Some("no-route"));
    assert_eq!(client.get("/here").await.text(), "hello");
    assert_eq!(gateway.open(), 1);
}

#[tokio::test]
async fn a_client_that_resets_a_stream_ends_it_at_the_endpoint_at_once() {
    let origin = Origin::connected(|mut stream, _, seen| async move {
        let mut buffer = Vec::new();
        for _ in 0..2 {
            let head = read_head(&mut stream, &mut buffer).await;
            seen.lock().unwrap().push(noted(head.unwrap_or("closed".into())));
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(get("/"), true).await;
    until("it is at the endpoint", || origin.seen().len() == 1).await;
    stream.send_reset(Reason::CANCEL);
    until("the endpoint is told", || origin.seen().len() == 2).await;
    assert_eq!(origin.seen()[1].head, "closed");
    drop(response);
    assert_eq!(
        gateway.upstream("main").metrics.counts().failures.iter().sum::<u64>(),
        0,
        "no fault of the endpoint"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_resets_its_stream_and_no_other() {
    let origin = Origin::replying(|request| match request.path() {
        "/breaks" => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
        path => Reply::text(path),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, _) = client.send(get("/breaks"), true).await;
    assert_eq!(reset(answer(response).await), Reason::INTERNAL_ERROR);
    assert_eq!(client.get("/whole").await.text(), "/whole");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_is_whole() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        let mut buffer = Vec::new();
        if read_head(&mut stream, &mut buffer).await.is_some() {
            let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
    stream.send_data(Bytes::from(vec![0; 1000]), false).unwrap();
    let got = answer(response).await.unwrap();
    assert_eq!((got.status, got.text()), (403, "no"));
    // The rest is not wanted, and that is no error.
    let reason = in_time(std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::NO_ERROR);
}

#[tokio::test]
async fn an_answer_that_is_not_read_holds_up_no_other() {
    let large = "x".repeat(1 << 20);
    let body = large.clone();
    let origin = Origin::replying(move |request| match request.path() {
        "/large" => Reply::text(&body),
        path => Reply::text(path),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut builder = h2::client::Builder::new();
    // The window of the connection has room for all that is not read.
    let mut client = Http2::with(
        gateway.address,
        builder.initial_window_size(1000).initial_connection_window_size(1 << 20),
    )
    .await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let (response, _) = client.send(get("/large"), true).await;
        unread.push(head(response).await.into_body());
    }
    for _ in 0..50 {
        assert_eq!(client.get("/small").await.text(), "/small");
    }
    for body in unread {
        assert!(in_time(read(body)).await.unwrap().0 == large.as_bytes());
    }
}

#[tokio::test]
async fn one_unread_answer_among_100_harms_no_other() {
    const LONG: usize = 256 << 10;
    let one = Origin::replying(|_| Reply::text(&"x".repeat(LONG))).await;
    let two = Http2Origin::start(|call: Call| call.answer("x".repeat(LONG))).await;
    for (address, protocol) in [(one.address, Protocol::Http1), (two.address, Protocol::Http2)] {
        let gateway = Gateway::start(Setup::to_addresses(&[address]).with(|setup| {
            setup.workers = 1;
            setup.upstream().protocol = protocol;
        }));
        let mut builder = h2::client::Builder::new();
        let mut client = Http2::with(gateway.address, builder.initial_connection_window_size(8 << 20)).await;
        let mut bodies = Vec::new();
        for _ in 0..100 {
            let (response, _) = client.send(get("/"), true).await;
            bodies.push(response);
        }
        let unread = head(bodies.remove(50)).await.into_body();
        for body in bodies {
            assert_eq!(answer(body).await.unwrap().body.len(), LONG, "{protocol:?}");
        }
        assert_eq!(in_time(read(unread)).await.unwrap().0.len(), LONG);
    }
}

/// Answers each request when it is let go.
async fn held(go: Arc<Semaphore>) -> Origin {
    Origin::connected(move |mut stream, _, seen| {
        let go = go.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(head) = read_head(&mut stream, &mut buffer).await {
                seen.lock().unwrap().push(noted(head));
                go.acquire().await.unwrap().forget();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn that_a_connection_takes_no_more_requests_is_said_in_two_steps() {
    // GET http://a/
    const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
    let go = Arc::new(Semaphore::new(0));
    let origin = held(go.clone()).await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Frames::connect(gateway.address).await;
    client.send(&frame(1, 5, 1, GET)).await;
    until("it is at the endpoint", || origin.seen().len() == 1).await;
    gateway.close(Duration::from_secs(60));
    let (.., first) = client.find(7..=7).await.unwrap();
    assert_eq!(first[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    // What was on its way when the client heard of it is answered.
    client.send(&frame(1, 5, 3, GET)).await;
    until("that is at the endpoint, too", || origin.seen().len() == 2).await;
    let (.., ping) = client.find(6..=6).await.unwrap();
    client.send(&frame(6, 1, 0, &ping)).await;
    let (.., last) = client.find(7..=7).await.unwrap();
    assert_eq!(last[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    go.add_permits(2);
    let mut answered = [client.find(1..=1).await.unwrap().2, client.find(1..=1).await.unwrap().2];
    answered.sort();
    assert_eq!(answered, [1, 3]);
    client.closed().await;
    in_time(gateway.ended()).await;
}

#[tokio::test]
async fn closing_says_so_and_lets_what_runs_end() {
    let go = Arc::new(Notify::new());
    let told = go.clone();
    let origin = Origin::connected(move |mut stream, _, seen| {
        let told = told.clone();
        async move {
            let mut buffer = Vec::new();
            let head = read_head(&mut stream, &mut buffer).await.unwrap_or_default();
            seen.lock().unwrap().push(noted(head));
            told.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        }
    })
    .await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, _) = client.send(get("/"), true).await;
    until("it is at the endpoint", || origin.seen().len() == 1).await;
    gateway.close(Duration::from_secs(10));
    // No new stream is taken once the client has heard of it.
    in_time(async {
        while client.sender.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    go.notify_one();
    assert_eq!(answer(response).await.unwrap().text(), "done");
    client.ended().await.unwrap();
    in_time(gateway.ended()).await;
}

#[tokio::test]
async fn a_few_connections_are_spread_over_the_workers() {
    let origin = Origin::start("hello").await;
    for _ in 0..5 {
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let tasks = || gateway.metrics.tasks().into_iter().map(|(_, tasks)| tasks).collect::<Vec<_>>();
        until("both workers run", || tasks().len() == 2 && tasks().iter().all(|tasks| *tasks > 0)).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = Http2::connect(gateway.address).await;
            // By then it is where it stays.
            let (response, _) = client.send(get("/"), true).await;
            assert_eq!(answer(response).await.unwrap().text(), "hello");
            clients.push(client);
        }
        assert_eq!(gateway.open(), 4);
        // Each has a task, and so has each connection to the endpoint; besides, the workers have as many.
        until("they are spread", || tasks()[0].abs_diff(tasks()[1]) <= 1).await;
    }
}
