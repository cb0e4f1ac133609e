//! How requests are tried again: where, after what, how often, and what the client gets in the end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};
use witgate::{
    config,
    resilience::{BackupAfter, Cause, Causes, Mode, RetryPolicy},
    telemetry::UpstreamCounts,
    upstream::Offer,
};

use crate::{
    http_harness::{Gateway, Setup, put, route},
    support::{
        client::{Client, until},
        origin::{Origin, Reply, full, read_head, read_request},
    },
};

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub async fn answering(status: u16, body: &'static str) -> Origin {
    Origin::replying(move |_| answer(status, body)).await
}

fn answer(status: u16, body: &str) -> Reply {
    let length = body.len();
    Reply::raw(&format!("HTTP/1.1 {status} Some\r\nretry-after: 7\r\ncontent-length: {length}\r\n\r\n{body}"))
}

async fn resetting() -> Origin {
    Origin::replying(|_| Reply::Close(Vec::new())).await
}

pub async fn hanging() -> Origin {
    Origin::replying(|_| Reply::Hang).await
}

pub fn policy(mode: Mode, most: u32) -> RetryPolicy {
    RetryPolicy { mode, most, budget_min: 1_000, ..RetryPolicy::default() }
}

/// The endpoints take turns, in the order of the list.
pub fn to(endpoints: &[SocketAddr], policy: RetryPolicy) -> Gateway {
    Gateway::start(setup(endpoints, policy))
}

pub fn setup(endpoints: &[SocketAddr], policy: RetryPolicy) -> Setup {
    Setup::to_addresses(endpoints).in_turns().with(|setup| {
        // One worker, so that there is one order.
        setup.workers = 1;
        setup.upstream().retries = policy;
        // What fails on purpose stays in the list.
        setup.upstream().reliability.health.max_ejected = 0.0;
    })
}

pub fn counts(gateway: &Gateway) -> UpstreamCounts {
    gateway.upstream("main").metrics.counts()
}

pub fn retried(gateway: &Gateway, cause: Cause) -> u64 {
    counts(gateway).retries[cause as usize]
}

/// Requests in flight to all endpoints.
pub fn in_flight(gateway: &Gateway) -> u32 {
    gateway.upstream("main").reader.snapshot().iter().map(|member| member.stats().in_flight()).sum()
}

pub async fn post(client: &mut Client, path: &str, body: &str) -> crate::support::client::Answer {
    client
        .send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    client.answer().await
}

#[tokio::test]
async fn failover_finds_another_endpoint_after_whatever_may_be_tried_again() {
    let good = Origin::start("good").await;
    for (bad, cause) in [
        (resetting().await, Cause::Reset),
        (answering(502, "bad").await, Cause::Status502),
        (answering(503, "bad").await, Cause::Status503),
    ] {
        let gateway = to(&[bad.address, good.address], policy(Mode::Failover, 1));
        let mut client = gateway.client().await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.text(), "good", "{cause:?}");
        }
        let tried = bad.seen().len() as u64;
        assert!(tried >= 2, "{cause:?}");
        assert_eq!(retried(&gateway, cause), tried, "{cause:?}");
        assert_eq!(counts(&gateway).tries(), 4 + tried, "{cause:?}");
        until("nothing is in flight", || in_flight(&gateway) == 0).await;
    }
}

#[tokio::test]
async fn failover_tries_no_endpoint_twice_while_there_is_another() {
    let bad = [answering(503, "1").await, answering(503, "2").await, answering(503, "3").await];
    let addresses = bad.each_ref().map(|origin| origin.address);
    let gateway = to(&addresses, policy(Mode::Failover, 2));
    assert_eq!(gateway.client().await.get("/").await.status, 503);
    assert_eq!(bad.each_ref().map(|origin| origin.seen().len()), [1, 1, 1]);
    // With all of them tried there is no other one.
    let gateway = to(&addresses, policy(Mode::Failover, 5));
    gateway.client().await.get("/").await;
    assert_eq!(bad.iter().map(|origin| origin.seen().len()).sum::<usize>(), 3 + 6);
}

#[tokio::test]
async fn who_refuses_a_connection_is_not_asked_again_in_the_same_breath() {
    let gateway = to(&[nobody().await], policy(Mode::Failover, 5));
    assert_eq!(gateway.client().await.get("/").await.reason(), Some("connect-failed"));
    assert_eq!(counts(&gateway).retried(), 0);
}

#[tokio::test]
async fn failfast_gives_the_client_what_there_is() {
    let good = Origin::start("good").await;
    let bad = answering(503, "busy").await;
    for (endpoint, status, reason) in [
        (bad.address, 503, None),
        (resetting().await.address, 502, Some("upstream-reset")),
        (nobody().await, 502, Some("connect-failed")),
    ] {
        let gateway = to(&[endpoint, good.address], policy(Mode::Failfast, 3));
        let mut client = gateway.client().await;
        let mut failed = 0;
        for _ in 0..4 {
            let answer = client.get("/").await;
            if answer.status != 200 {
                assert_eq!((answer.status, answer.reason()), (status, reason));
                failed += 1;
            }
        }
        assert_eq!((failed, counts(&gateway).retried()), (2, 0), "{status}");
    }
}

#[tokio::test]
async fn failtry_goes_to_the_same_endpoint() {
    let origins = [(); 2].map(|()| {
        let count = AtomicUsize::new(0);
        Origin::replying(move |_| match count.fetch_add(1, SeqCst) % 2 {
            0 => answer(503, "not yet"),
            _ => Reply::text("good"),
        })
    });
    let [one, other] = origins;
    let (one, other) = (one.await, other.await);
    let gateway = to(&[one.address, other.address], policy(Mode::Failtry, 1));
    let mut client = gateway.client().await;
    for number in 0..4 {
        assert_eq!(client.get(&format!("/{number}")).await.text(), "good");
    }
    for origin in [&one, &other] {
        let paths: Vec<String> = origin.seen().iter().map(|seen| seen.path().to_owned()).collect();
        assert_eq!(paths.len(), 4);
        assert!(paths.chunks(2).all(|pair| pair[0] == pair[1]), "{paths:?}");
    }
}

#[tokio::test]
async fn failtry_goes_elsewhere_when_the_endpoint_has_left() {
    let (came, left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived, may_break) = (came.clone(), left.clone());
    let leaving = Origin::connected(move |mut stream, _, _| {
        let (arrived, may_break) = (arrived.clone(), may_break.clone());
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            arrived.notify_one();
            may_break.notified().await;
        }
    })
    .await;
    let other = Origin::start("other").await;
    let mut gateway = to(&[leaving.address], policy(Mode::Failtry, 1));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    came.notified().await;
    gateway.offer("main", vec![Offer::Remove(leaving.address), put(other.address)]);
    let upstream = gateway.upstream("main");
    until("the worker has the list", || {
        upstream.progress.iter().all(|of| !of.is_behind(upstream.reader.snapshot().generation()))
    })
    .await;
    left.notify_one();
    assert_eq!(client.answer().await.text(), "other");
}

#[tokio::test]
async fn the_last_answer_goes_to_the_client_as_it_is() {
    let bad = [answering(503, "busy").await, answering(503, "busy").await];
    let gateway = to(&bad.each_ref().map(|origin| origin.address), policy(Mode::Failover, 1));
    let mut client = gateway.client().await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text(), answer.reason()), (503, "busy", None));
    assert_eq!(answer.header("retry-after"), Some("7"), "for the client, and not slept on");
    assert_eq!(bad.each_ref().map(|origin| origin.seen().len()), [1, 1]);
}

#[tokio::test]
async fn an_answer_of_an_endpoint_is_better_than_one_of_the_gateways_own() {
    let bad = answering(503, "busy").await;
    for other in [nobody().await, resetting().await.address] {
        let gateway = to(&[bad.address, other], policy(Mode::Failover, 1));
        let mut client = gateway.client().await;
        // It is there only when the answer came first.
        let answers = [client.get("/").await, client.get("/").await];
        assert!(answers.iter().any(|answer| answer.status == 503 && answer.text() == "busy"), "{answers:?}");
        until("nothing is in flight", || in_flight(&gateway) == 0).await;
    }
}

#[tokio::test]
async fn statuses_are_tried_again_only_when_they_are_named_and_some_never() {
    let good = Origin::start("good").await;
    let named =
        |status| Cause::ALL.into_iter().filter(move |cause| cause.as_str() == status).collect::<Causes>();
    for (status, on, expected) in [
        (500, RetryPolicy::default().on, 500),
        (504, RetryPolicy::default().on, 504),
        (500, named("500"), 200),
        (504, named("504"), 200),
        (503, named("502"), 503),
        (408, RetryPolicy::default().on, 408),
        (429, RetryPolicy::default().on, 429),
        (404, RetryPolicy::default().on, 404),
    ] {
        let bad = answering(status, "bad").await;
        let gateway = to(&[bad.address, good.address], RetryPolicy { on, ..policy(Mode::Failover, 1) });
        let mut client = gateway.client().await;
        let statuses = [client.get("/").await.status, client.get("/").await.status];
        assert!(statuses.contains(&expected), "{status}: {statuses:?}");
        assert_eq!(expected == 200, statuses == [200, 200], "{status}: {statuses:?}");
    }
}

#[tokio::test]
async fn what_says_how_a_call_went_says_nothing_of_what_is_no_call() {
    let head = "HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "2\r\nok\r\n0\r\ngrpc-status: 14\r\n\r\n";
    let origin = Origin::replying(move |_| Reply::raw(&format!("{head}{body}"))).await;
    let gateway = to(&[origin.address], policy(Mode::Failover, 1));
    assert_eq!(gateway.client().await.get("/").await.text(), "ok");
    assert_eq!((origin.seen().len(), counts(&gateway).failures), (1, [0; 4]));
    let snapshot = gateway.upstream("main").reader.snapshot();
    assert_eq!(snapshot.iter().next().unwrap().stats().figures().failures, 0);
}

#[tokio::test]
async fn a_new_connection_that_ends_before_an_answer_is_the_endpoints_fault() {
    let origin = resetting().await;
    let gateway = to(&[origin.address], policy(Mode::Failfast, 0));
    assert_eq!(gateway.client().await.get("/").await.reason(), Some("upstream-reset"));
    assert_eq!(counts(&gateway).failures, [0, 0, 1, 0]);
    let snapshot = gateway.upstream("main").reader.snapshot();
    assert_eq!(snapshot.iter().next().unwrap().stats().figures().failures, 1);
}

#[tokio::test]
async fn what_must_not_be_repeated_is_sent_once_whatever_happens() {
    let limit = Some(Duration::from_millis(100));
    let on: Causes = Cause::ALL.into_iter().collect();
    for mode in [Mode::Failover, Mode::Failtry, Mode::Failbackup] {
        for (bad, status) in [
            (resetting().await, 502),
            (answering(500, "bad").await, 500),
            (answering(502, "bad").await, 502),
            (answering(503, "bad").await, 503),
            (answering(504, "bad").await, 504),
            (hanging().await, 504),
        ] {
            let backup_after = BackupAfter::Time(Duration::ZERO);
            let eager = RetryPolicy { on, per_try: limit, backup_after, ..policy(mode, 3) };
            let gateway = to(&[bad.address, bad.address], eager);
            let answer = post(&mut gateway.client().await, "/", "body").await;
            assert_eq!(answer.status, status, "{mode:?}");
            assert_eq!(bad.seen().len(), 1, "{mode:?} {status}");
        }
    }
}

#[tokio::test]
async fn a_route_may_say_that_its_requests_can_be_repeated() {
    let bad = answering(503, "bad").await;
    let good = Origin::start("good").await;
    let gateway =
        Gateway::start(setup(&[bad.address, good.address], policy(Mode::Failover, 1)).with(|setup| {
            setup.routes =
                vec![config::Route { repeatable: true, ..route("/again", "main") }, route("/", "main")];
        }));
    let mut client = gateway.client().await;
    for _ in 0..2 {
        assert_eq!(post(&mut client, "/again", "body").await.text(), "good");
    }
    assert!(good.seen().iter().all(|seen| seen.body == b"body"));
    let statuses = [post(&mut client, "/", "x").await.status, post(&mut client, "/", "x").await.status];
    assert!(statuses.contains(&503), "{statuses:?}");
}

#[tokio::test]
async fn a_route_replaces_what_it_names_of_the_policy_of_its_upstream() {
    let bad = answering(503, "bad").await;
    let good = Origin::start("good").await;
    let own = |retries| config::Route { retries: Some(retries), ..route("/own", "main") };
    let one = config::RouteRetries { most: Some(1), ..Default::default() };
    let mut gateway =
        Gateway::start(setup(&[bad.address, good.address], policy(Mode::Failover, 0)).with(|setup| {
            setup.routes = vec![own(one), route("/", "main")];
        }));
    let mut client = gateway.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/own").await.text(), "good");
    }
    let statuses = [client.get("/").await.status, client.get("/").await.status];
    assert!(statuses.contains(&503), "{statuses:?}");
    // A reload changes it.
    let mut settings = config::Upstream::clone(&gateway.upstream("main").config);
    settings.retries.most = 1;
    gateway.replace(settings);
    let limit = tokio::time::Instant::now() + crate::support::client::LONG;
    while [client.get("/").await.status, client.get("/").await.status] != [200, 200] {
        assert!(tokio::time::Instant::now() < limit, "the new settings are not in force");
    }
}

/// Answers nothing but what comes for the second time, and says what came.
async fn once_bitten(head: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::replying(move |_| match count.fetch_add(1, SeqCst) {
        0 => Reply::Close(head.as_bytes().to_vec()),
        _ => Reply::text("good"),
    })
    .await
}

#[tokio::test]
async fn a_body_is_sent_again_as_it_was() {
    for first in ["", "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy"] {
        let origin = once_bitten(first).await;
        let gateway = to(&[origin.address], policy(Mode::Failover, 1));
        let mut client = gateway.client().await;
        client.send("PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nwhole").await;
        client.send("one").await;
        assert_eq!(client.answer().await.text(), "good");
        assert_eq!(origin.seen().iter().map(|seen| &seen.body[..]).collect::<Vec<_>>(), [b"wholeone"; 2]);
    }
}

#[tokio::test]
async fn a_body_in_chunks_is_sent_again_with_its_trailers() {
    let origin = once_bitten("").await;
    let gateway = to(&[origin.address], policy(Mode::Failover, 1));
    let mut client = gateway.client().await;
    client
        .send("PUT /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.text(), "good");
    let seen = origin.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!((&seen.body[..], seen.header("transfer-encoding")), (&b"body"[..], Some("chunked")));
        assert_eq!(seen.trailers, ["x-sum: 1"], "{seen:?}");
    }
}

#[tokio::test]
async fn an_upload_goes_on_elsewhere_when_the_endpoint_breaks_in_the_middle_of_it() {
    let read = Arc::new(AtomicUsize::new(0));
    let got = read.clone();
    let breaking = Origin::connected(move |mut stream, _, _| {
        let got = got.clone();
        async move {
            let mut buffer = Vec::new();
            read_head(&mut stream, &mut buffer).await;
            while buffer.len() < 5 {
                stream.read_buf(&mut buffer).await.unwrap();
            }
            got.fetch_add(1, SeqCst);
        }
    })
    .await;
    let good = Origin::start("good").await;
    let gateway = to(&[breaking.address, good.address], policy(Mode::Failover, 1));
    let mut client = gateway.client().await;
    // The first may go to the good one at once.
    for _ in 0..2 {
        let (broken, seen) = (read.load(SeqCst), good.connections());
        client.send("PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfirst").await;
        until("it is on its way", || read.load(SeqCst) > broken || good.connections() > seen).await;
        if read.load(SeqCst) > broken {
            until("there is another try", || retried(&gateway, Cause::Reset) as usize > broken).await;
        }
        client.send("other").await;
        assert_eq!(client.answer().await.text(), "good");
    }
    assert!(good.seen().iter().all(|seen| seen.body == b"firstother"));
    assert!(retried(&gateway, Cause::Reset) >= 1);
}

#[tokio::test]
async fn a_body_longer_than_what_is_kept_is_neither_sent_again_nor_refused() {
    let body = "x".repeat(100);
    for framing in ["content-length: 100\r\n\r\n", "transfer-encoding: chunked\r\n\r\n64\r\n"] {
        let end = if framing.starts_with('t') { "\r\n0\r\n\r\n" } else { "" };
        for (most, tries) in [(99, 1), (100, 2)] {
            let origin = answering(503, "busy").await;
            let gateway =
                to(&[origin.address], RetryPolicy { replay_bytes: most, ..policy(Mode::Failover, 1) });
            let mut client = gateway.client().await;
            client.send(format!("PUT /x HTTP/1.1\r\nhost: a\r\n{framing}{body}{end}")).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.text()), (503, "busy"));
            let seen = origin.seen();
            assert!(seen.iter().all(|seen| seen.body == body.as_bytes()));
            assert_eq!(seen.len(), tries, "{framing} {most}");
        }
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload_is_tried_again_with_all_of_it() {
    let early = Origin::connected(|mut stream, _, _| async move {
        read_head(&mut stream, &mut Vec::new()).await;
        let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let good = Origin::start("good").await;
    let gateway = to(&[early.address, good.address], policy(Mode::Failover, 1));
    let mut client = gateway.client().await;
    // The first may go to the good one at once.
    for _ in 0..2 {
        let (retries, seen) = (counts(&gateway).retried(), good.connections());
        client.send("PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nfirst").await;
        let tried_again = || counts(&gateway).retried() > retries || seen == 0 && good.connections() > 0;
        until("it is on its way", tried_again).await;
        client.send("other").await;
        assert_eq!(client.answer().await.text(), "good");
    }
    assert!(good.seen().iter().all(|seen| seen.body == b"firstother"));
    assert!(retried(&gateway, Cause::Status503) >= 1);
}

#[tokio::test]
async fn the_budget_ends_retries_of_what_may_have_been_processed_and_of_nothing_else() {
    let bad = answering(503, "busy").await;
    let good = Origin::start("good").await;
    let tight = RetryPolicy { budget: 0.0, budget_min: 3, ..policy(Mode::Failover, 1) };
    let gateway = to(&[bad.address, good.address], tight);
    let mut client = gateway.client().await;
    let mut busy = 0;
    for _ in 0..20 {
        let answer = client.get("/").await;
        if answer.status == 503 {
            assert_eq!((answer.text(), answer.reason()), ("busy", None), "the failure as it is");
            busy += 1;
        }
    }
    let counts = counts(&gateway);
    assert_eq!((counts.retried(), counts.refused), (3, busy));
    assert!(busy > 0);

    let gateway = to(&[nobody().await, good.address], tight);
    let mut client = gateway.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    assert!(retried(&gateway, Cause::Connect) > 3);
}

#[tokio::test]
async fn the_budget_is_a_share_of_the_requests_over_all_workers() {
    let bad = answering(503, "busy").await;
    let policy = RetryPolicy { budget: 0.5, budget_min: 0, ..policy(Mode::Failover, 1) };
    let gateway = Gateway::start(setup(&[bad.address], policy).with(|setup| setup.workers = 2));
    for _ in 0..10 {
        let mut client = gateway.client().await;
        for _ in 0..10 {
            client.get("/").await;
        }
    }
    let counts = counts(&gateway);
    assert_eq!(counts.requests, 100);
    // What was in the seconds before may not count any more.
    assert!((1..=50).contains(&counts.retried()), "{}", counts.retried());
    assert_eq!(counts.retried() + counts.refused, 100);
}

#[tokio::test]
async fn the_time_of_a_try_is_over_before_that_of_the_whole() {
    let hanging = hanging().await;
    let good = Origin::start("good").await;
    let limit = Duration::from_millis(100);
    let gateway = to(
        &[hanging.address, good.address],
        RetryPolicy { per_try: Some(limit), ..policy(Mode::Failover, 1) },
    );
    let mut client = gateway.client().await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    let hung = hanging.seen().len() as u64;
    assert!(hung > 0);
    assert_eq!(retried(&gateway, Cause::Timeout), hung);
    assert_eq!(counts(&gateway).failures, [0, hung, 0, 0], "it counts against the endpoint");

    let alone = to(&[hanging.address], RetryPolicy { per_try: Some(limit), ..policy(Mode::Failover, 1) });
    let answer = alone.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, Some("try-timeout")));
    assert_eq!(retried(&alone, Cause::Timeout), 1);

    let per_try = Some(limit);
    let whole = Gateway::start(
        setup(&[hanging.address], RetryPolicy { per_try, ..policy(Mode::Failover, 10) })
            .with(|setup| setup.upstream().timeouts.request = Some(Duration::from_millis(350))),
    );
    let answer = whole.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (504, Some("request-timeout")));
    assert!((1..=3).contains(&retried(&whole, Cause::Timeout)));
}

#[tokio::test]
async fn a_client_that_is_slow_uses_up_no_try() {
    let origin = Origin::start("got it").await;
    let limit = Some(Duration::from_millis(200));
    let gateway = to(&[origin.address], RetryPolicy { per_try: limit, ..policy(Mode::Failover, 1) });
    let mut client = gateway.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n").await;
    for byte in ["b", "o", "d", "y"] {
        // What is tested is that time passes.
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.send(byte).await;
    }
    assert_eq!(client.answer().await.text(), "got it");
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn the_connection_of_an_answer_that_nobody_gets_is_used_again_when_its_rest_is_short() {
    let good = Origin::start("good").await;
    let (short, long) = ("short".to_owned(), "x".repeat(1 << 20));
    // Of what comes in chunks nobody knows how long it is.
    let chunks =
        |body: &str| format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let whole = |body: &str| format!("content-length: {}\r\n\r\n{body}", body.len());
    for (body, reused) in [
        (whole(""), true),
        (whole(&short), true),
        (whole(&long), false),
        (chunks(&short), true),
        (chunks(&long), false),
    ] {
        let length = body.len();
        let bad = Origin::replying(move |_| Reply::raw(&format!("HTTP/1.1 503 Busy\r\n{body}"))).await;
        let gateway = to(&[bad.address, good.address], policy(Mode::Failover, 1));
        let mut client = gateway.client().await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.text(), "good");
            until("nothing is in flight", || in_flight(&gateway) == 0).await;
        }
        let (seen, connections) = (bad.seen().len(), bad.connections());
        assert!(seen >= 10);
        assert_eq!(connections == 1, reused, "{connections} connections for {seen} requests, {length}");
    }
}

#[tokio::test]
async fn a_dead_idle_connection_costs_no_retry_and_no_budget() {
    // Answers once on every connection.
    let origin = Origin::connected(|mut stream, connection, seen| async move {
        let mut buffer = Vec::new();
        let Some(first) = read_request(&mut stream, &mut buffer, connection).await else { return };
        seen.lock().unwrap().push(first);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await.unwrap();
        read_request(&mut stream, &mut buffer, connection).await;
    })
    .await;
    let gateway =
        to(&[origin.address], RetryPolicy { budget: 0.0, budget_min: 0, ..policy(Mode::Failover, 1) });
    let mut client = gateway.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "good");
        client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(client.answer().await.text(), "good");
    }
    assert_eq!(origin.seen().len(), 8);
    assert!(retried(&gateway, Cause::Stale) >= 4);
    assert_eq!(counts(&gateway).refused, 0);
}

#[tokio::test]
async fn the_end_of_the_time_for_everything_wins_over_an_answer_that_was_kept() {
    let (bad, hanging) = (answering(503, "kept").await, hanging().await);
    let endpoints = [bad.address, hanging.address];
    let setup = setup(&endpoints, policy(Mode::Failover, 1)).with(|setup| {
        setup.workers = 1;
        setup.upstream().timeouts.request = Some(Duration::from_millis(300));
    });
    let gateway = Gateway::start(setup);
    let mut reasons = Vec::new();
    for _ in 0..2 {
        reasons.push(gateway.client().await.get("/").await.reason().map(str::to_owned));
    }
    assert!(reasons.iter().all(|reason| reason.as_deref() == Some("request-timeout")), "{reasons:?}");
}

#[tokio::test]
async fn a_body_that_is_sent_again_is_followed_by_the_wait_for_the_answer() {
    let (resetting, hanging) = (resetting().await, hanging().await);
    let setup = setup(&[resetting.address, hanging.address], policy(Mode::Failover, 2));
    let gateway = Gateway::start(
        setup.with(|setup| setup.upstream().timeouts.response = Some(Duration::from_millis(300))),
    );
    let mut client = gateway.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (504, Some("response-timeout")));
}

#[tokio::test]
async fn a_request_whose_idle_connection_was_dead_takes_no_other_that_is_as_old() {
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let origin = Origin::connected(move |mut stream, connection, _| {
        let both = both.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                match (connection, request.path()) {
                    (0 | 1, "/first") => {
                        both.wait().await;
                    }
                    (0 | 1, _) => return,
                    _ => {}
                }
                let Reply::Bytes(answer) = Reply::text("ok") else { return };
                stream.write_all(&answer).await.unwrap();
            }
        }
    })
    .await;
    let gateway =
        Gateway::start(setup(&[origin.address], policy(Mode::Failover, 1)).with(|setup| setup.workers = 1));
    let (mut one, mut other) = (gateway.client().await, gateway.client().await);
    let (first, second) = tokio::join!(one.get("/first"), other.get("/first"));
    assert_eq!((first.text(), second.text()), ("ok", "ok"));
    until("both connections are idle", || in_flight(&gateway) == 0).await;
    assert_eq!(one.get("/").await.text(), "ok");
    let again = [Cause::Stale, Cause::Reset].map(|cause| retried(&gateway, cause));
    assert_eq!((again, counts(&gateway).failures), ([1, 0], [0; 4]));
}

#[tokio::test]
async fn a_try_that_was_not_connected_in_time_has_sent_nothing() {
    let ((address, _full), good) = (full(), Origin::start("good").await);
    let retries = RetryPolicy { per_try: Some(Duration::from_millis(200)), ..policy(Mode::Failover, 1) };
    let gateway = Gateway::start(
        setup(&[address, good.address], retries)
            .with(|setup| setup.upstream().timeouts.connect = Duration::from_secs(60)),
    );
    for _ in 0..2 {
        // It must not be sent twice.
        assert_eq!(post(&mut gateway.client().await, "/", "body").await.text(), "good");
    }
    assert!(retried(&gateway, Cause::Connect) > 0);
}
