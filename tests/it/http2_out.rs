//! Requests that go to endpoints over HTTP/2.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use h2::Reason;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, Semaphore},
};
use witgate::config::Protocol;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Client, until},
        http2::{Http2, answer, get, head, in_time, read, reset, to},
        http2_origin::{Call, Http2Origin},
        origin::Origin,
    },
};

/// Everything goes there over HTTP/2.
fn gateway(origin: &Http2Origin, change: impl FnOnce(&mut Setup)) -> Gateway {
    let setup =
        Setup::to_addresses(&[origin.address]).with(|setup| setup.upstream().protocol = Protocol::Http2);
    Gateway::start(setup.with(change))
}

fn failures(gateway: &Gateway) -> u64 {
    gateway.upstream("main").metrics.counts().failures.iter().sum()
}

fn grpc(path: &str) -> Request<()> {
    let mut request = to(Method::POST, path);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

#[tokio::test]
async fn a_request_by_http_1_goes_out_by_http_2() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let origin = Http2Origin::start(move |call| {
        let (head, _) = call.request.into_parts();
        note.lock().unwrap().push(head);
        let mut reply = call.reply;
        async move {
            let response =
                Response::builder().header("x-a", "1").header("set-cookie", "b").header("set-cookie", "c");
            let mut stream = reply.send_response(response.body(()).unwrap(), false).unwrap();
            stream.send_data("hello".into(), true).unwrap();
        }
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Client::connect(gateway.address).await;
    client.send("GET /a%20b/c?d=e HTTP/1.1\r\nhost: Shop.test:8080\r\nte: trailers\r\nconnection: te, x-hop\r\nx-hop: 1\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text(), answer.header("x-a")), (200, "hello", Some("1")));
    assert!(answer.head.contains("set-cookie: b\r\n") && answer.head.contains("set-cookie: c\r\n"));
    let seen = &seen.lock().unwrap()[0];
    assert_eq!(seen.uri, "http://Shop.test:8080/a%20b/c?d=e");
    assert_eq!(seen.method, Method::GET);
    assert_eq!(seen.headers["te"], "trailers");
    for name in ["host", "connection", "x-hop", "transfer-encoding"] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
    assert_eq!(seen.headers["x-forwarded-host"], "Shop.test:8080");
}

#[tokio::test]
async fn what_concerns_a_connection_ends_here_and_cookies_are_one_line() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let origin = Http2Origin::start(move |call| {
        note.lock().unwrap().push(call.request.headers().clone());
        call.answer("ok")
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    let mut request = get("/");
    for (name, value) in
        [("te", "trailers"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-one", "1"), ("x-one", "2")]
    {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    assert_eq!(client.request(request).await.text(), "ok");
    let mut client = Client::connect(gateway.address).await;
    client
        .send("GET / HTTP/1.1\r\nhost: a\r\nte: gzip, trailers\r\nconnection: te\r\ncookie: a=1; b=2\r\nx-one: 1\r\nx-one: 2\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    for seen in &*seen.lock().unwrap() {
        let all =
            |name: &str| seen.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(
            (all("te"), all("cookie"), all("x-one")),
            (vec!["trailers"], vec!["a=1; b=2"], vec!["1", "2"])
        );
        assert!(all("connection").is_empty() && all("host").is_empty());
    }
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let origin = Http2Origin::start(Call::echo).await;
    let gateway = gateway(&origin, |_| {});
    let large = "x".repeat(1 << 20);
    // From HTTP/1, chunked and with a length.
    let mut client = Client::connect(gateway.address).await;
    client
        .send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{large}", large.len()))
        .await;
    assert!(client.answer().await.text() == large);
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "abc");
    // From HTTP/2, with trailers.
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
    stream.send_data(large.clone().into(), false).unwrap();
    stream.send_trailers(HeaderMap::from_iter([("x-up".parse().unwrap(), "8".parse().unwrap())])).unwrap();
    let got = answer(response).await.unwrap();
    let trailers = got.trailers.as_ref().unwrap();
    assert_eq!(
        (&trailers["x-length"], &trailers["x-up"]),
        (&"1048576".parse::<http::HeaderValue>().unwrap(), &"8".parse().unwrap())
    );
    assert!(got.text() == large);
    assert_eq!(gateway.upstream("main").metrics.counts().trailers_dropped, 0, "by HTTP/2 all get through");
    assert_eq!(origin.connections(), 2, "one for each worker at most: {}", origin.connections());
}

#[tokio::test]
async fn an_answer_of_trailers_alone_stays_one() {
    let origin = Http2Origin::start(|mut call| async move {
        let response =
            Response::builder().header("grpc-status", "5").header("content-type", "application/grpc");
        call.reply.send_response(response.body(()).unwrap(), true).unwrap();
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(grpc("/a.B/C"), false).await;
    stream.send_data(Bytes::from("call"), true).unwrap();
    let head = head(response).await;
    assert!(head.body().is_end_stream(), "there is no other frame");
    assert_eq!(head.headers()["grpc-status"], "5");
}

#[tokio::test]
async fn what_is_spoken_is_told_by_the_request_unless_the_upstream_says() {
    let (two, one) = (Http2Origin::start(Call::echo).await, Origin::start("by http/1").await);
    let gateway = Gateway::start(Setup::to_addresses(&[two.address]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(grpc("/a.B/C"), false).await;
    stream.send_data(Bytes::from("call"), true).unwrap();
    assert_eq!(answer(response).await.unwrap().text(), "call");
    // All else, gRPC-Web too, is HTTP/1.1.
    let gateway = Gateway::start(Setup::to(&[&one]));
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.get("/").await.text(), "by http/1");
    let mut web = grpc("/a.B/C");
    web.headers_mut().insert("content-type", "application/grpc-web+proto".parse().unwrap());
    assert_eq!(client.request(web).await.text(), "by http/1");
    let gateway =
        Gateway::start(Setup::to(&[&one]).with(|setup| setup.upstream().protocol = Protocol::Http1));
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.request(grpc("/a.B/C")).await.text(), "by http/1");
}

#[tokio::test]
async fn connections_are_shared_as_far_as_the_endpoint_allows() {
    let go = Arc::new(Semaphore::new(0));
    let wait = go.clone();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(10);
    let origin = Http2Origin::with(builder, move |call: Call| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.unwrap().forget();
            call.answer("ok").await;
        }
    })
    .await;
    let gateway = gateway(&origin, |setup| {
        setup.workers = 1;
        setup.upstream().pool.max_http2_connections = 3;
    });
    let mut client = Http2::connect(gateway.address).await;
    let mut calls = Vec::new();
    for number in 0..50 {
        calls.push(client.send(get(&format!("/{number}")), true).await.0);
    }
    let in_flight = || gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().in_flight();
    until("all are on their way", || in_flight() == 50).await;
    until("the connections are full", || origin.connections() == 3).await;
    go.add_permits(50);
    for call in calls {
        assert_eq!(answer(call).await.unwrap().text(), "ok");
    }
    assert_eq!((origin.connections(), origin.most_at_once()), (3, 10));
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn an_endpoint_that_takes_one_request_at_a_time_gets_one_at_a_time() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let origin = Http2Origin::with(builder, |call: Call| call.answer("ok")).await;
    let gateway = gateway(&origin, |setup| setup.upstream().pool.max_http2_connections = 1);
    let mut client = Http2::connect(gateway.address).await;
    let mut calls = Vec::new();
    for _ in 0..100 {
        calls.push(client.send(to(Method::POST, "/"), true).await.0);
    }
    for call in calls {
        assert_eq!(answer(call).await.unwrap().text(), "ok");
    }
    assert_eq!((origin.most_at_once(), failures(&gateway)), (1, 0));
}

#[tokio::test]
async fn requests_that_are_cancelled_give_their_streams_back() {
    let (held, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, wait) = (held.clone(), go.clone());
    let origin = Http2Origin::start(move |call: Call| {
        let (count, wait) = (count.clone(), wait.clone());
        async move {
            if call.path() != "/held" {
                return call.echo().await;
            }
            count.fetch_add(1, SeqCst);
            wait.acquire().await.unwrap().forget();
            call.answer("ok").await;
        }
    })
    .await;
    let gateway = gateway(&origin, |setup| {
        setup.workers = 1;
        setup.upstream().pool.max_http2_connections = 1;
    });
    let in_flight = || gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().in_flight();
    for round in 0..50 {
        // A few over each connection: what a client may reset is bounded.
        let mut client = Http2::connect(gateway.address).await;
        for number in 0..20 {
            let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
            stream.send_data(Bytes::from("some"), number % 2 == 0).unwrap();
            match (round + number) % 4 {
                0 if number % 2 == 0 => assert_eq!(answer(response).await.unwrap().text(), "some"),
                1 => stream.send_reset(Reason::CANCEL),
                _ => drop(response),
            }
        }
    }
    until("all is over", || in_flight() == 0).await;
    let mut client = Http2::connect(gateway.address).await;
    let mut calls = Vec::new();
    for _ in 0..32 {
        calls.push(client.send(get("/held"), true).await.0);
    }
    until("there is room for all", || held.load(SeqCst) == 32).await;
    go.add_permits(32);
    for call in calls {
        assert_eq!(answer(call).await.unwrap().text(), "ok");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn who_waits_for_a_stream_in_vain_is_told_so_and_the_endpoint_is_not_blamed() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let origin = Http2Origin::with(builder, |call| async move {
        std::future::pending::<()>().await;
        drop(call);
    })
    .await;
    let gateway = gateway(&origin, |setup| {
        setup.workers = 1;
        setup.upstream().pool.max_http2_connections = 1;
        setup.upstream().timeouts.connect = Duration::from_millis(200);
    });
    let mut client = Http2::connect(gateway.address).await;
    let _first = client.send(get("/"), true).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, Some("endpoint-busy")));
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_has_failed() {
    let origin = Origin::connected(|stream, _, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.upstream().protocol = Protocol::Http2;
        setup.upstream().timeouts.connect = Duration::from_millis(100);
    }));
    let answer = Http2::connect(gateway.address).await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, Some("connect-timeout")));
    assert_eq!((failures(&gateway), origin.connections()), (1, 1));
}

#[tokio::test]
async fn an_endpoint_that_closes_further_connections_is_not_asked_without_end() {
    let (go, mut builder) = (Arc::new(Semaphore::new(0)), h2::server::Builder::new());
    builder.max_concurrent_streams(1);
    let wait = go.clone();
    let origin = Http2Origin::with(builder, move |call: Call| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.unwrap().forget();
            call.answer("ok").await;
        }
    })
    .await;
    let gateway = gateway(&origin, |setup| {
        setup.workers = 1;
        setup.upstream().pool.max_http2_connections = 4;
        setup.upstream().timeouts.connect = Duration::from_secs(1);
    });
    let mut client = Http2::connect(gateway.address).await;
    let (first, _) = client.send(get("/"), true).await;
    until("it is on its way", || origin.most_at_once() == 1).await;
    origin.fill();
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, Some("endpoint-busy")));
    // Pauses of 20 ms and more grow to a second.
    assert!((3..12).contains(&origin.connections()), "{}", origin.connections());
    go.add_permits(2);
    assert_eq!(self::answer(first).await.unwrap().text(), "ok");
    assert_eq!(client.get("/").await.text(), "ok");
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn an_endpoint_that_leaves_its_connections_costs_no_request() {
    let origin = Arc::new(
        Http2Origin::start(|call: Call| async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            call.echo().await;
        })
        .await,
    );
    let gateway = gateway(&origin, |_| {});
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let address = gateway.address;
        clients.spawn(async move {
            let mut client = Http2::connect(address).await;
            for number in 0..100 {
                // None of them may be sent twice.
                let got = client.post("/", format!("{number}")).await;
                assert_eq!((got.status, got.text()), (200, &*number.to_string()), "{:?}", got.reason());
            }
        });
    }
    while !clients.is_empty() {
        tokio::select! {
            Some(ended) = clients.join_next() => ended.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => origin.leave(),
        }
    }
    assert!(origin.connections() > 5, "{}", origin.connections());
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let number = count.fetch_add(1, SeqCst);
        async move {
            match (&*call.path(), number) {
                ("/once", 0) | ("/always", _) => call.reply.send_reset(Reason::REFUSED_STREAM),
                _ => call.echo().await,
            }
        }
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.post("/once", "body").await.text(), "body");
    assert_eq!((calls.load(SeqCst), failures(&gateway)), (2, 0));
    let answer = client.post("/always", "body").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream-reset")));
    assert!((4..=5).contains(&calls.load(SeqCst)), "{}", calls.load(SeqCst));
}

#[tokio::test]
async fn a_reset_passes_both_ways_with_its_code() {
    let [cancelled, told, half] = [(); 3].map(|()| Arc::new(Notify::new()));
    let (note, begun, taken) = (cancelled.clone(), told.clone(), half.clone());
    let origin = Http2Origin::start(move |mut call: Call| {
        let (note, begun, taken) = (note.clone(), begun.clone(), taken.clone());
        async move {
            if call.path() == "/hangs" {
                begun.notify_one();
                let reason = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await.unwrap();
                assert_eq!(reason, Reason::CANCEL);
                return note.notify_one();
            }
            let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("half"), false).unwrap();
            taken.notified().await;
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    let (response, _) = client.send(get("/breaks"), true).await;
    let body = head(response).await.into_body();
    half.notify_one();
    assert_eq!(reset(in_time(read(body)).await), Reason::ENHANCE_YOUR_CALM);
    let (response, mut stream) = client.send(get("/hangs"), true).await;
    in_time(told.notified()).await;
    stream.send_reset(Reason::CANCEL);
    in_time(cancelled.notified()).await;
    drop(response);
    assert_eq!(origin.connections(), 1, "the others on it go on");
}

#[tokio::test]
async fn one_answer_that_is_not_read_holds_up_no_other() {
    let origin = Http2Origin::start(|call: Call| async move {
        match &*call.path() {
            "/large" => call.answer("x".repeat(4 << 20)).await,
            _ => call.answer("small").await,
        }
    })
    .await;
    let gateway = gateway(&origin, |setup| setup.workers = 1);
    // One client reads nothing of a few answers.
    let mut builder = h2::client::Builder::new();
    let mut lazy = Http2::with(gateway.address, builder.initial_connection_window_size(1 << 20)).await;
    let mut unread = Vec::new();
    for _ in 0..8 {
        let (response, _) = lazy.send(get("/large"), true).await;
        unread.push(head(response).await.into_body());
    }
    let mut client = Http2::connect(gateway.address).await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.text(), "small");
    }
    for body in unread {
        assert_eq!(in_time(read(body)).await.unwrap().0.len(), 4 << 20);
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_told_that_nobody_waits() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
    })
    .await;
    let gateway = gateway(&origin, |setup| {
        setup.upstream().timeouts.response = Some(Duration::from_millis(100));
        setup.upstream().retries.most = 0;
    });
    let mut client = Http2::connect(gateway.address).await;
    let got = client.post("/", "body").await;
    assert_eq!((got.status, got.reason()), (504, Some("response-timeout")));
    assert_eq!(failures(&gateway), 1);
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_request_ends_that() {
    let ended = Arc::new(Notify::new());
    let note = ended.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let note = note.clone();
        async move {
            let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("enough"), true).unwrap();
            let mut body = call.request.into_body();
            while let Some(Ok(_)) = body.data().await {}
            note.notify_one();
        }
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
    stream.send_data(Bytes::from("some"), false).unwrap();
    assert_eq!(answer(response).await.unwrap().text(), "enough");
    in_time(ended.notified()).await;
    let reason = in_time(std::future::poll_fn(|cx| stream.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::NO_ERROR);
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn a_whole_answer_with_a_reset_without_an_error_behind_it_is_whole() {
    const LONG: usize = 100_000;
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
        stream.send_data(vec![b'x'; LONG].into(), true).unwrap();
        // Behind the answer the library says that the rest of the request is not wanted.
        drop(call.request);
    })
    .await;
    let gateway = gateway(&origin, |_| {});
    let mut client = Http2::connect(gateway.address).await;
    for _ in 0..50 {
        let (response, mut stream) = client.send(to(Method::POST, "/"), false).await;
        stream.send_data(Bytes::from(vec![0; 1 << 20]), false).unwrap();
        assert_eq!(answer(response).await.unwrap().body.len(), LONG);
    }
    assert_eq!(failures(&gateway), 0);
}

/// Passes a connection on to an endpoint of HTTP/2, and notes the kinds and flags of frames that come.
async fn noting(endpoint: SocketAddr, frames: Arc<Mutex<Vec<(u8, u8)>>>) -> Origin {
    Origin::connected(move |stream, _, _| {
        let frames = frames.clone();
        async move {
            let (mut from, mut to) = stream.into_split();
            let (mut back, mut on) = TcpStream::connect(endpoint).await.unwrap().into_split();
            let passes = async {
                let mut preface = [0; 24];
                from.read_exact(&mut preface).await?;
                on.write_all(&preface).await?;
                loop {
                    let mut header = [0; 9];
                    from.read_exact(&mut header).await?;
                    let [a, b, c, kind, flags, ..] = header;
                    frames.lock().unwrap().push((kind, flags));
                    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                    from.read_exact(&mut payload).await?;
                    on.write_all(&[&header[..], &payload].concat()).await?;
                }
            };
            let _: (std::io::Result<()>, _) = tokio::join!(passes, tokio::io::copy(&mut back, &mut to));
        }
    })
    .await
}

/// Servers of gRPC close a connection that pings while it is idle, or too often.
#[tokio::test]
async fn an_endpoint_is_not_pinged() {
    let (origin, frames) = (Http2Origin::start(Call::echo).await, Arc::<Mutex<Vec<(u8, u8)>>>::default());
    let noting = noting(origin.address, frames.clone()).await;
    let setup = Setup::to(&[&noting]).with(|setup| setup.upstream().protocol = Protocol::Http2);
    let gateway = Gateway::start(setup);
    let mut client = Http2::connect(gateway.address).await;
    for _ in 0..2 {
        for _ in 0..5 {
            assert_eq!(client.post("/", vec![b'x'; 1 << 18]).await.body.len(), 1 << 18);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let frames = frames.lock().unwrap();
    assert!(frames.iter().filter(|(kind, _)| *kind == 1).count() >= 10, "requests went this way");
    assert!(!frames.contains(&(6, 0)), "a ping that is no answer to one");
}

#[tokio::test]
async fn the_upload_of_a_call_whose_answer_breaks_off_ends_at_the_endpoint() {
    let ended = Arc::new(Notify::new());
    let note = ended.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let note = note.clone();
        async move {
            let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("first"), false).unwrap();
            assert!(read(call.request.into_body()).await.is_err());
            note.notify_one();
        }
    })
    .await;
    let gateway = gateway(&origin, |setup| setup.upstream().timeouts.idle = Some(Duration::from_millis(200)));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(grpc("/"), false).await;
    stream.send_data(Bytes::from("half"), false).unwrap();
    let answer = answer(response).await.unwrap();
    assert_eq!(answer.text(), "first");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "4");
    in_time(ended.notified()).await;
}
