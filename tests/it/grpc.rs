//! Calls of gRPC: how the gateway fails them, their deadlines, and what their end says of an endpoint.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use h2::Reason;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Bytes;
use tokio::sync::Notify;
use witgate::{
    config::{Limits, RouteRetries},
    resilience::{Bounds, Cause},
    upstream::Figures,
};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        gateway,
        http2::{Answer, Http2, answer, head, in_time, read, to},
        http2_origin::{Call, Http2Origin},
        origin::{Origin, Reply},
    },
};

fn call(path: &str, timeout: Option<&str>) -> Request<()> {
    let mut request = to(Method::POST, path);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    request
}

async fn send(client: &mut Http2, path: &str, timeout: Option<&str>) -> Result<Answer, h2::Error> {
    let (response, mut stream) = client.send(call(path, timeout), false).await;
    stream.send_data(Bytes::from("message"), true).unwrap();
    answer(response).await
}

fn figures(gateway: &Gateway) -> Figures {
    gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().figures()
}

/// Answers with a message, and how the call went: in the trailers, or with nothing else under `/alone`.
async fn ends(mut call: Call, status: &'static str) {
    let alone = call.path() == "/alone";
    let _ = read(call.request.into_body()).await;
    let mut response = Response::builder().header("content-type", "application/grpc");
    if alone {
        response = response.header("grpc-status", status);
    }
    let mut stream = call.reply.send_response(response.body(()).unwrap(), alone).unwrap();
    if !alone {
        stream.send_data(Bytes::from("answer"), false).unwrap();
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
        stream.send_trailers(trailers).unwrap();
    }
}

#[tokio::test]
async fn a_failure_of_the_gateway_is_one_that_clients_of_grpc_understand() {
    let closed = { Origin::start("gone").await.address };
    let setup = Setup::to_addresses(&[closed]).with(|setup| {
        setup.routes[0].matches.path = "/shop.Orders".into();
        let mut limited = crate::http_harness::route("/shop.Large", "main");
        limited.max_body = Some(3);
        setup.routes.push(limited);
    });
    let gateway = Gateway::start(setup);
    let mut client = Http2::connect(gateway.address).await;
    for (path, code, reason) in [
        ("/shop.Users/Get", "12", "no-route"),
        ("/shop.Orders/Get", "14", "connect-failed"),
        ("/shop.Large/Put", "8", "request-body-too-large"),
    ] {
        let mut request = call(path, None);
        request.headers_mut().insert("content-length", "7".parse().unwrap());
        let (response, mut stream) = client.send(request, false).await;
        stream.send_data(Bytes::from("message"), true).unwrap();
        let head = head(response).await;
        assert_eq!(
            (head.status().as_u16(), &head.headers()["grpc-status"]),
            (200, &code.parse::<http::HeaderValue>().unwrap()),
            "{path}"
        );
        let headers = head.headers();
        assert_eq!(
            (headers["content-type"].to_str().unwrap(), headers["x-witgate-reason"].to_str().unwrap()),
            ("application/grpc", reason)
        );
        assert!(headers["grpc-message"].to_str().unwrap().starts_with(&format!("{reason}: ")));
        assert!(head.body().is_end_stream(), "there is nothing but trailers");
    }
    // It is counted as what it is.
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.statuses[1], counts.statuses[3], counts.statuses[4]), (0, 1, 1));
    // What is no call gets what everybody gets.
    assert_eq!(client.post("/shop.Users/Get", "message").await.status, 404);
}

#[tokio::test]
async fn a_deadline_is_obeyed_and_passed_on() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = told.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let note = note.clone();
        async move {
            let timeout =
                call.request.headers().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
            note.lock().unwrap().push(timeout);
            if call.path() == "/streams" {
                let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
                stream.send_data(Bytes::from("first"), false).unwrap();
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            } else {
                assert_eq!(
                    std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await.unwrap(),
                    Reason::CANCEL
                );
                note.lock().unwrap().push(Some("cancelled".into()));
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let began = Instant::now();
    let got = send(&mut client, "/hangs", Some("300m")).await.unwrap();
    assert_eq!(
        (got.status, got.header("grpc-status"), got.reason()),
        (200, Some("4"), Some("request-timeout"))
    );
    assert!(began.elapsed() >= Duration::from_millis(300));
    let wait = async {
        while told.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await
        }
    };
    in_time(wait).await;
    assert_eq!(told.lock().unwrap()[1].as_deref(), Some("cancelled"));
    let told = told.lock().unwrap()[0].clone().unwrap();
    let (number, unit) = told.split_at(told.len() - 1);
    let (number, unit): (f64, f64) = (
        number.parse().unwrap(),
        match unit {
            "n" => 1e-6,
            "u" => 1e-3,
            _ => 1.0,
        },
    );
    assert!((100.0..=300.0).contains(&(number * unit)), "{told}");
    // So little time was given that its end says nothing.
    assert_eq!(figures(&gateway).failures, 0);

    // After the head of an answer it is told in the trailers.
    let got = send(&mut client, "/streams", Some("900m")).await.unwrap();
    assert_eq!((got.text(), got.trailers.as_ref().unwrap()["grpc-status"].to_str().unwrap()), ("first", "4"));
    assert_eq!(send(&mut client, "/hangs", Some("1100m")).await.unwrap().header("grpc-status"), Some("4"));
    assert_eq!(figures(&gateway).failures, 1, "that was time enough");
}

/// Every client of gRPC looks at the clock itself.
#[tokio::test]
async fn a_client_that_goes_at_its_deadline_has_waited_in_vain() {
    const DEADLINE: Duration = Duration::from_millis(1100);
    let origin = Http2Origin::start(|mut call: Call| async move {
        let streams = call.path() == "/streams";
        if streams {
            let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("first"), false).unwrap();
            let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
        } else {
            let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let mut expected = 0;
    for path in ["/hangs", "/streams"] {
        for (waits, counts) in [(DEADLINE, true), (DEADLINE / 4, false)] {
            let began = Instant::now();
            let (response, mut stream) = client.send(call(path, Some("1100m")), true).await;
            let body = if path == "/streams" { Some(head(response).await.into_body()) } else { None };
            if let Some(mut body) = body {
                assert_eq!(in_time(body.data()).await.unwrap().unwrap(), "first");
            }
            tokio::time::sleep_until((began + waits).into()).await;
            stream.send_reset(Reason::CANCEL);
            expected += u64::from(counts);
            let over = || figures(&gateway).in_flight == 0;
            crate::support::client::until("it is over", over).await;
            assert_eq!(figures(&gateway).failures, expected, "{path} after {waits:?}");
        }
    }
    let cut = || gateway.upstream("main").metrics.counts().cut;
    crate::support::client::until("they are counted", || cut() == [2, 2, 0]).await;
}

#[tokio::test]
async fn a_client_that_goes_at_its_deadline_with_its_own_message_unsent_has_not() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = None;
        if call.path() == "/streams" {
            stream = Some(call.reply.send_response(Response::new(()), false).unwrap());
        }
        let _ = read(call.request.into_body()).await;
        drop(stream);
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let began = Instant::now();
    let (response, mut stream) = client.send(call("/hangs", Some("1100m")), false).await;
    stream.send_data(Bytes::from("half"), false).unwrap();
    // What is tested is that time passes.
    tokio::time::sleep_until((began + Duration::from_millis(1050)).into()).await;
    stream.send_reset(Reason::CANCEL);
    drop(response);
    let counts = || gateway.upstream("main").metrics.counts();
    crate::support::client::until("it is counted", || counts().cut == [1, 0, 0]).await;
    assert_eq!((figures(&gateway).failures, counts().failures), (0, [0; 4]));
}

/// So does every server, and what is left of the time is told to it.
#[tokio::test]
async fn an_endpoint_that_gives_up_at_the_deadline_has_let_it_pass() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let began = Instant::now();
        let mut streaming = (call.path() == "/streams").then(|| {
            let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("first"), false).unwrap();
            stream
        });
        tokio::time::sleep_until((began + Duration::from_millis(1090)).into()).await;
        match &mut streaming {
            Some(stream) => stream.send_reset(Reason::CANCEL),
            None => call.reply.send_reset(Reason::CANCEL),
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    for (path, failures) in [("/hangs", 1), ("/streams", 2)] {
        let got = send(&mut client, path, Some("1100m")).await.unwrap();
        let told = got.trailers.as_ref().unwrap_or(&got.headers);
        assert_eq!(told["grpc-status"], "4", "{path}");
        assert_eq!(figures(&gateway).failures, failures);
    }
}

/// A call ends by a reset of its stream. What happens to a whole connection has nothing to do with one deadline.
#[tokio::test]
async fn a_connection_that_breaks_off_near_the_deadline_has_broken_off() {
    let origin = Origin::connected(|stream, _, _| async move {
        let mut serving = h2::server::handshake(stream).await.unwrap();
        let (request, mut reply) = serving.accept().await.unwrap().unwrap();
        let end = Instant::now() + Duration::from_millis(1050);
        let stream = (request.uri().path() == "/streams").then(|| {
            let mut stream = reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("first"), false).unwrap();
            stream
        });
        // What is tested is that time passes.
        let _ = tokio::time::timeout_at(end.into(), serving.accept()).await;
        drop((serving, stream, reply));
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    for (path, failures) in [("/hangs", 1), ("/streams", 2)] {
        let got = send(&mut client, path, Some("1100m")).await.unwrap();
        let told = got.trailers.as_ref().unwrap_or(&got.headers);
        assert_eq!(told["grpc-status"], "14", "{path}: {told:?}");
        assert_eq!(figures(&gateway).failures, failures);
    }
}

#[tokio::test]
async fn a_client_that_goes_at_its_deadline_and_has_not_taken_the_answer_has_not_waited_in_vain() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
        // More than what a client takes that does not say that it goes on.
        stream.send_data(vec![0; 1 << 20].into(), false).unwrap();
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let began = Instant::now();
    let (response, mut stream) = client.send(call("/streams", Some("1100m")), true).await;
    let mut body = head(response).await.into_body();
    assert!(!in_time(body.data()).await.unwrap().unwrap().is_empty());
    // What is tested is that time passes.
    tokio::time::sleep_until((began + Duration::from_millis(1050)).into()).await;
    stream.send_reset(Reason::CANCEL);
    drop(body);
    let counts = || gateway.upstream("main").metrics.counts();
    crate::support::client::until("it is counted", || counts().cut == [1, 0, 0]).await;
    assert_eq!((figures(&gateway).failures, counts().failures), (0, [0; 4]));
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_a_status() {
    let taken = Arc::new(Notify::new());
    let breaks = taken.clone();
    let origin = Origin::connected(move |stream, _, _| {
        let breaks = breaks.clone();
        async move {
            let mut serving = h2::server::handshake(stream).await.unwrap();
            let (_, mut reply) = serving.accept().await.unwrap().unwrap();
            let mut stream = reply.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("half"), false).unwrap();
            tokio::select! {
                _ = serving.accept() => {}
                () = breaks.notified() => {}
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, _) = client.send(call("/", None), true).await;
    let mut body = head(response).await.into_body();
    assert_eq!(in_time(body.data()).await.unwrap().unwrap(), "half");
    taken.notify_one();
    assert!(in_time(body.data()).await.is_none());
    let trailers = in_time(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert!(trailers["grpc-message"].to_str().unwrap().starts_with("the answer broke off"), "{trailers:?}");
    assert_eq!(figures(&gateway).failures, 1);
}

#[tokio::test]
async fn an_answer_that_pauses_for_too_long_ends_with_the_status_of_a_deadline() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from("first"), false).unwrap();
        let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
    })
    .await;
    let setup = Setup::to_addresses(&[origin.address]);
    let gateway =
        Gateway::start(setup.with(|setup| setup.upstream().timeouts.idle = Some(Duration::from_millis(200))));
    let got = send(&mut Http2::connect(gateway.address).await, "/", None).await.unwrap();
    assert_eq!(
        (got.text(), &got.trailers.as_ref().unwrap()["grpc-status"]),
        ("first", &"4".parse().unwrap())
    );
    assert_eq!(gateway.upstream("main").metrics.counts().failures, [0, 1, 0, 0]);
}

#[tokio::test]
async fn a_deadline_that_passes_wins_over_the_answer_of_an_instance_that_declined() {
    let declining = Http2Origin::start(|call| declines(call, "14", &[])).await;
    let hanging = Http2Origin::start(|mut call: Call| async move {
        let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
    })
    .await;
    let setup = Setup::to_addresses(&[declining.address, hanging.address]).in_turns();
    let gateway = Gateway::start(setup.with(|setup| setup.workers = 1));
    let mut client = Http2::connect(gateway.address).await;
    for _ in 0..2 {
        let got = send(&mut client, "/", Some("300m")).await.unwrap();
        assert_eq!(got.trailers.as_ref().unwrap_or(&got.headers)["grpc-status"], "4");
    }
    let retries = gateway.upstream("main").metrics.counts().retries[Cause::Unavailable as usize];
    assert!((1..=2).contains(&retries), "{retries}");
}

#[tokio::test]
async fn a_call_without_a_deadline_may_take_its_time() {
    let origin = Http2Origin::start(|call: Call| async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        ends(call, "0").await;
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]).with(|setup| {
        setup.upstream().timeouts.response = Some(Duration::from_millis(100));
    }));
    let mut client = Http2::connect(gateway.address).await;
    let got = send(&mut client, "/", None).await.unwrap();
    assert_eq!(
        (got.text(), got.trailers.as_ref().unwrap()["grpc-status"].to_str().unwrap()),
        ("answer", "0")
    );
}

#[tokio::test]
async fn how_a_call_went_is_known_at_its_end() {
    for (status, fails) in
        [("0", false), ("5", false), ("1", false), ("16", false), ("14", true), ("13", true), ("2", true)]
    {
        for path in ["/trailers", "/alone"] {
            let origin = Http2Origin::start(move |call| ends(call, status)).await;
            let setup = Setup::to_addresses(&[origin.address]);
            let gateway = Gateway::start(setup.with(|setup| setup.upstream().retries.most = 0));
            let mut client = Http2::connect(gateway.address).await;
            let got = send(&mut client, path, None).await.unwrap();
            let seen = got.trailers.as_ref().unwrap_or(&got.headers)["grpc-status"].to_str().unwrap();
            assert_eq!((got.status, seen), (200, status), "it is passed on as it is");
            crate::support::client::until("it is over", || figures(&gateway).in_flight == 0).await;
            let (figures, counts) = (figures(&gateway), gateway.upstream("main").metrics.counts());
            let failures = u64::from(fails);
            assert_eq!(
                (figures.failures, counts.failures),
                (failures, [0, 0, 0, failures]),
                "{status} by {path}"
            );
            // One sample of a call, and no success that ends a row.
            assert_eq!(figures.success, if fails { 0.0 } else { 1.0 }, "{status} by {path}");
            assert_eq!(u64::from(figures.consecutive_failures), failures, "{status} by {path}");
            assert!(figures.latency > Duration::ZERO);
        }
    }
}

#[tokio::test]
async fn a_call_that_ends_without_a_status_has_failed() {
    for (path, answered) in [("/bare", None), ("/message", Some("message")), ("/other", None)] {
        let origin = Http2Origin::start(move |mut call: Call| async move {
            let status = if call.path() == "/other" { 404 } else { 200 };
            let _ = read(call.request.into_body()).await;
            let response = Response::builder().status(status).body(()).unwrap();
            let mut stream = call.reply.send_response(response, answered.is_none()).unwrap();
            if let Some(message) = answered {
                stream.send_data(message.into(), true).unwrap();
            }
        })
        .await;
        let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
        let mut client = Http2::connect(gateway.address).await;
        let got = send(&mut client, path, None).await.unwrap();
        assert_eq!(
            (got.text(), &got.trailers),
            (answered.unwrap_or_default(), &None),
            "it is passed on as it is"
        );
        crate::support::client::until("it is over", || figures(&gateway).in_flight == 0).await;
        assert_eq!(figures(&gateway).failures, u64::from(path != "/other"), "{path}");
    }
}

#[tokio::test]
async fn an_endpoint_whose_calls_fail_is_taken_out_of_the_choice() {
    let (bad, good) =
        (Http2Origin::start(|call| ends(call, "14")).await, Http2Origin::start(|call| ends(call, "0")).await);
    let gateway =
        Gateway::start(Setup::to_addresses(&[bad.address, good.address]).with(|setup| setup.workers = 1));
    let mut client = Http2::connect(gateway.address).await;
    let mut failed = 0;
    for _ in 0..200 {
        let got = send(&mut client, "/", None).await.unwrap();
        failed += usize::from(got.trailers.unwrap()["grpc-status"] == "14");
    }
    assert!(failed < 20, "{failed} of 200 went there");
}

/// Calls of a service with one instance that ends them this way and one that does not, until each has had its turn. Gives how
/// the first ended, and how often the bad one was asked for all of them.
async fn spread(
    bad: impl Fn(Call) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
    change: impl FnOnce(&mut Setup),
) -> (Vec<String>, usize) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let bad = Http2Origin::start(move |call| {
        count.fetch_add(1, SeqCst);
        bad(call)
    })
    .await;
    let good = Http2Origin::start(|call| ends(call, "0")).await;
    let setup = Setup::to_addresses(&[bad.address, good.address]).with(|setup| {
        setup.workers = 1;
        setup.upstream().selector.plugin = "round-robin".into();
        setup.upstream().reliability.health.failures = 1_000;
        change(setup);
    });
    let gateway = Gateway::start(setup);
    let mut client = Http2::connect(gateway.address).await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let got = send(&mut client, "/shop.Orders/Put", None).await.unwrap();
        let said = got.trailers.as_ref().unwrap_or(&got.headers)["grpc-status"].to_str().unwrap();
        statuses.push(said.to_owned());
    }
    (statuses, asked.load(SeqCst))
}

/// Ends a call without anything of an answer, and with these headers beside the status.
async fn declines(mut call: Call, status: &str, more: &[(&'static str, &str)]) {
    let (body, _) = read(call.request.into_body()).await.unwrap();
    assert_eq!(body, b"message", "each try has the whole of it");
    let mut response =
        Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
    for (name, value) in more {
        response = response.header(*name, *value);
    }
    call.reply.send_response(response.body(()).unwrap(), true).unwrap();
}

#[tokio::test]
async fn a_call_that_is_declined_goes_to_another_instance() {
    let (statuses, asked) = spread(|call| Box::pin(async { declines(call, "14", &[]).await }), |_| {}).await;
    assert_eq!(statuses, ["0"; 10]);
    assert!(asked >= 5, "it had its turns");
}

#[tokio::test]
async fn which_statuses_are_declining_is_the_routes_choice() {
    let named = |on: &'static [Cause]| {
        move |setup: &mut Setup| {
            let retries = RouteRetries { on: Some(on.iter().copied().collect()), ..Default::default() };
            setup.routes[0].retries = Some(retries);
        }
    };
    for (status, on, failed) in [
        ("8", &[Cause::ResourceExhausted][..], 0),
        ("14", &[Cause::ResourceExhausted], 5),
        ("14", &[], 5),
        ("5", &[Cause::Unavailable], 5),
    ] {
        let bad = move |call| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async move { declines(call, status, &[]).await })
        };
        let (statuses, asked) = spread(bad, named(on)).await;
        let seen = statuses.iter().filter(|said| *said == status).count();
        assert_eq!(seen, failed, "{status} on {on:?}");
        assert!(asked >= 5, "it had its turns");
    }
}

#[tokio::test]
async fn a_call_that_may_have_an_answer_already_or_is_to_come_later_goes_out_once() {
    let trailers = |call| -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(ends(call, "14")) };
    let pushed_back = |call| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async { declines(call, "14", &[("grpc-retry-pushback-ms", "1000")]).await })
    };
    for (statuses, asked) in [spread(trailers, |_| {}).await, spread(pushed_back, |_| {}).await] {
        assert_eq!((statuses.iter().filter(|said| *said == "14").count(), asked), (5, 5));
    }
}

#[tokio::test]
async fn the_last_status_of_a_call_is_the_clients_when_all_decline() {
    let declining = || {
        Http2Origin::start(|call| async { declines(call, "14", &[("grpc-message", "not%20today")]).await })
    };
    let (one, two) = (declining().await, declining().await);
    let gateway = Gateway::start(Setup::to_addresses(&[one.address, two.address]));
    let mut client = Http2::connect(gateway.address).await;
    let got = send(&mut client, "/", None).await.unwrap();
    assert_eq!((got.header("grpc-status"), got.header("grpc-message")), (Some("14"), Some("not%20today")));
    assert_eq!(got.reason(), None);
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!(counts.retries[Cause::Unavailable as usize], 1);
}

#[tokio::test]
async fn messages_pass_one_by_one_both_ways() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = call.reply.send_response(Response::new(()), false).unwrap();
        let mut body = call.request.into_body();
        while let Some(Ok(message)) = body.data().await {
            body.flow_control().release_capacity(message.len()).unwrap();
            if !message.is_empty() {
                stream.send_data([&b"re: "[..], &message].concat().into(), false).unwrap();
            }
        }
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let (response, mut stream) = client.send(call("/chat.Room/Talk", None), false).await;
    let mut body = head(response).await.into_body();
    for number in 0..20 {
        // The next is sent when the answer to the one before is there.
        stream.send_data(format!("{number}").into(), false).unwrap();
        let message = in_time(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(message.len()).unwrap();
        assert_eq!(message, format!("re: {number}"));
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(in_time(body.data()).await.is_none());
    assert_eq!(in_time(body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_http_2_is_a_failure_that_is_understood() {
    let origin = Origin::replying(|_| Reply::text("by http/1")).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = Http2::connect(gateway.address).await;
    let got = send(&mut client, "/", None).await.unwrap();
    assert_eq!((got.status, got.header("grpc-status")), (200, Some("14")));
}

/// Serves the health service of gRPC, which says this of the server and that it does not know of anything else.
async fn healthy(mut call: Call, says: u8) {
    assert_eq!(call.path(), "/grpc.health.v1.Health/Check");
    let (question, _) = read(call.request.into_body()).await.unwrap();
    let known = question == [0, 0, 0, 0, 0];
    let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = call.reply.send_response(response, false).unwrap();
    if known {
        stream.send_data(vec![0, 0, 0, 0, 2, 8, says].into(), false).unwrap();
    }
    let status = if known { "0" } else { "5" };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
    stream.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn the_health_service_is_asked() {
    let (serving, not) = (
        Http2Origin::start(|call| healthy(call, 1)).await,
        Http2Origin::start(|call| healthy(call, 2)).await,
    );
    let no_grpc = Origin::start("by http/1").await;
    let started = |service: &str| {
        gateway::Gateway::start(&format!(
            "[registry.fixed]
             plugin = 'static'
             settings = {{ endpoints = ['{}', '{}', '{}'] }}
             [upstream.main]
             service = 'main'
             registry = 'fixed'
             check = {{ grpc = '{service}', interval_ms = 50, fall = 1 }}
             health = {{ max_ejected = 1 }}
             [[route]]
             upstream = 'main'",
            serving.address, not.address, no_grpc.address
        ))
    };
    let out = async |gateway: &gateway::Gateway| {
        let shown = gateway.api("/api/v1/upstreams/main").await;
        let out = shown["ejected"].as_array().unwrap().iter();
        let mut out: Vec<String> = out.map(|of| of["address"].as_str().unwrap().to_owned()).collect();
        out.sort();
        out
    };
    let gateway = started("");
    let mut expected = [not.address.to_string(), no_grpc.address.to_string()];
    expected.sort();
    gateway::until("those who do not serve are out", async || out(&gateway).await == expected).await;
    // A service that the server does not know is not in use.
    let gateway = started("shop.Orders");
    gateway::until("all are out", async || out(&gateway).await.len() == 3).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_at_its_deadline_counts_at_the_limit_of_its_upstream() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
    })
    .await;
    let bounds = Bounds { min: 1, max: 100 };
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]).with(|setup| {
        setup.upstream().limits =
            Some(Limits { bounds, per_endpoint: None, queue: 0, queue_time: Duration::ZERO });
    }));
    let gate = gateway.upstream("main").gate.clone().unwrap();
    let mut client = Http2::connect(gateway.address).await;
    let began = Instant::now();
    let (_response, mut stream) = client.send(call("/", Some("1100m")), true).await;
    // What is tested is that time passes.
    tokio::time::sleep_until((began + Duration::from_millis(1100)).into()).await;
    stream.send_reset(Reason::CANCEL);
    crate::support::client::until("it is over", || gate.in_flight() == 0).await;
    assert!(gate.limit() < bounds.max, "{}", gate.limit());
}
