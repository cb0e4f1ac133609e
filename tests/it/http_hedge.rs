//! Tries beside the first: when they begin, which of them wins, and what becomes of the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};
use witgate::{
    config,
    resilience::{BackupAfter, Cause, Mode, RetryPolicy},
};

use crate::{
    http_harness::{Gateway, route},
    http_tries::{answering, counts, hanging, in_flight, policy, post, retried, setup, to},
    support::{
        client::until,
        origin::{Origin, Reply, read_head, read_request},
    },
};

fn backup(after: Duration) -> RetryPolicy {
    RetryPolicy { backup_after: BackupAfter::Time(after), ..policy(Mode::Failbackup, 1) }
}

const SOON: Duration = Duration::from_millis(20);

/// Takes requests and never answers; counts the connections that ended.
async fn patient() -> (Origin, Arc<AtomicUsize>) {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let origin = Origin::connected(move |mut stream, connection, seen| {
        let count = count.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                seen.lock().unwrap().push(request);
            }
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    (origin, ended)
}

#[tokio::test]
async fn failbackup_asks_another_beside_the_first_and_ends_the_one_that_loses() {
    let (slow, ended) = patient().await;
    let good = Origin::start("good").await;
    let gateway = to(&[slow.address, good.address], backup(SOON));
    let mut client = gateway.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "good");
    }
    let (counts, hedged) = (counts(&gateway), slow.seen().len() as u64);
    assert!(hedged >= 3);
    assert_eq!((counts.hedges, counts.hedges_won, counts.hedges_cancelled), (hedged, hedged, hedged));
    assert_eq!((counts.requests, counts.retried(), counts.tries()), (4, 0, 4 + hedged));
    until("the connections were closed", || ended.load(SeqCst) as u64 == hedged).await;
    until("nothing is in flight", || in_flight(&gateway) == 0).await;
    assert_eq!(counts.failures, [0; 4], "who is slow has not failed");
}

#[tokio::test]
async fn failbackup_lets_the_first_win_when_it_is_sooner() {
    let answered = Arc::new(Notify::new());
    let may_answer = answered.clone();
    let first = Origin::connected(move |mut stream, _, _| {
        let may_answer = may_answer.clone();
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            may_answer.notified().await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let (second, ended) = patient().await;
    let gateway = to(&[first.address, second.address], backup(SOON));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("there are two tries", || counts(&gateway).hedges == 1).await;
    answered.notify_one();
    assert_eq!(client.answer().await.text(), "first");
    let counts = counts(&gateway);
    assert_eq!((counts.hedges_won, counts.hedges_cancelled), (0, 1));
    until("the other is closed", || ended.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn only_what_reads_or_may_be_repeated_is_sent_twice_at_once() {
    let (slow, _) = patient().await;
    let good = Origin::start("good").await;
    let gateway = Gateway::start(setup(&[slow.address, good.address], backup(SOON)).with(|setup| {
        setup.upstream().timeouts.response = Some(Duration::from_millis(200));
        setup.routes =
            vec![config::Route { repeatable: true, ..route("/again", "main") }, route("/", "main")];
    }));
    let mut client = gateway.client().await;
    for method in ["POST", "PUT", "DELETE"] {
        let mut waited = false;
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody")).await;
            waited |= client.answer().await.reason() == Some("response-timeout");
        }
        assert!(waited, "{method}");
    }
    assert_eq!(counts(&gateway).hedges, 0);
    for _ in 0..2 {
        assert_eq!(post(&mut client, "/again", "body").await.text(), "good");
    }
    assert!(counts(&gateway).hedges >= 1);
    assert!(good.seen().iter().chain(&slow.seen()).all(|seen| seen.body == b"body"));
}

#[tokio::test]
async fn a_request_that_was_sent_twice_at_once_may_still_be_tried_again() {
    let release = Arc::new(Notify::new());
    let may_fail = release.clone();
    let failing = || {
        let may_fail = may_fail.clone();
        Origin::connected(move |mut stream, _, _| {
            let may_fail = may_fail.clone();
            async move {
                read_head(&mut stream, &mut Vec::new()).await;
                may_fail.notified().await;
                let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await;
            }
        })
    };
    let (one, other) = (failing().await, failing().await);
    let good = Origin::start("good").await;
    let gateway = to(&[one.address, other.address, good.address], backup(SOON));
    let mut client = gateway.client().await;
    // Whichever of the three is first, two requests meet both that fail.
    for _ in 0..3 {
        let hedges = counts(&gateway).hedges;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = client.answer();
        tokio::pin!(answer);
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer,
                () = tokio::time::sleep(Duration::from_millis(2)) => {
                    if counts(&gateway).hedges > hedges {
                        release.notify_waiters();
                    }
                }
            }
        };
        assert_eq!(answer.text(), "good");
    }
    assert!(retried(&gateway, Cause::Status503) >= 1);
    until("nothing is in flight", || in_flight(&gateway) == 0).await;
}

#[tokio::test]
async fn tries_beside_the_first_are_in_the_budget() {
    let (slow, _) = patient().await;
    let good = Origin::start("good").await;
    let gateway = Gateway::start(
        setup(&[slow.address, good.address], RetryPolicy { budget: 0.0, budget_min: 0, ..backup(SOON) })
            .with(|setup| setup.upstream().timeouts.response = Some(Duration::from_millis(200))),
    );
    let mut client = gateway.client().await;
    let statuses = [client.get("/").await.status, client.get("/").await.status];
    assert!(statuses.contains(&504), "{statuses:?}");
    let counts = counts(&gateway);
    assert_eq!((counts.hedges, counts.refused), (0, slow.seen().len() as u64));
}

#[tokio::test]
async fn the_time_for_a_second_try_may_be_that_of_19_of_20_requests() {
    let count = AtomicUsize::new(0);
    let origin = Origin::replying(move |_| match count.fetch_add(1, SeqCst) {
        60.. => Reply::Hang,
        _ => Reply::text("soon"),
    })
    .await;
    let good = Origin::start("soon").await;
    let p95 = RetryPolicy { backup_after: BackupAfter::P95, ..policy(Mode::Failbackup, 1) };
    let gateway = to(&[origin.address, good.address], p95);
    let mut client = gateway.client().await;
    // Nothing is known before there were enough, and then it is a moment.
    for _ in 0..160 {
        assert_eq!(client.get("/").await.text(), "soon");
    }
    assert!(counts(&gateway).hedges_won >= 10, "{:?}", counts(&gateway));
}

#[tokio::test]
async fn a_client_that_goes_ends_both_tries() {
    let ((one, one_ended), (other, other_ended)) = (patient().await, patient().await);
    let gateway = to(&[one.address, other.address], backup(SOON));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("there are two tries", || counts(&gateway).hedges == 1).await;
    drop(client);
    until("both are closed", || (one_ended.load(SeqCst), other_ended.load(SeqCst)) == (1, 1)).await;
    until("nothing is in flight", || in_flight(&gateway) == 0).await;
}

#[tokio::test]
async fn when_the_first_of_two_tries_fails_the_other_has_the_time_for_an_answer() {
    let (begun, hanging) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let one = |begun: Arc<Notify>, hanging: Arc<Notify>| async move {
        Origin::connected(move |mut stream, connection, _| {
            let (begun, hanging) = (begun.clone(), hanging.clone());
            async move {
                let mut buffer = Vec::new();
                read_request(&mut stream, &mut buffer, connection).await;
                // Whoever is first ends when the second has the request, and the second hangs.
                begun.notify_one();
                hanging.notified().await;
            }
        })
        .await
    };
    let first = one(begun.clone(), hanging.clone()).await;
    let second = one(begun.clone(), hanging.clone()).await;
    let gateway = Gateway::start(
        setup(&[first.address, second.address], RetryPolicy { most: 0, ..backup(SOON) })
            .with(|setup| setup.upstream().timeouts.response = Some(Duration::from_millis(500))),
    );
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    begun.notified().await;
    begun.notified().await;
    // The one that has waited the longest is let go.
    hanging.notify_one();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (504, Some("response-timeout")));
    assert_eq!(counts(&gateway).failures, [0, 1, 1, 0]);
}

#[tokio::test]
async fn what_has_not_come_whole_is_not_sent_twice_at_once() {
    let (one, other) = (hanging().await, hanging().await);
    let gateway = Gateway::start(
        setup(&[one.address, other.address], backup(SOON)).with(|setup| setup.routes[0].repeatable = true),
    );
    let mut client = gateway.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo").await;
    // What is tested is that time passes.
    tokio::time::sleep(SOON * 10).await;
    client.send("dy").await;
    until("it is there", || one.seen().len() + other.seen().len() == 1).await;
    assert_eq!(counts(&gateway).hedges, 0);
}

#[tokio::test]
async fn only_good_answers_say_how_long_a_first_try_takes() {
    let p95 = || RetryPolicy { backup_after: BackupAfter::P95, ..policy(Mode::Failbackup, 0) };
    for (status, known) in [(500, false), (200, true)] {
        let origin = answering(status, "soon").await;
        let gateway = to(&[origin.address], p95());
        let mut client = gateway.client().await;
        for _ in 0..40 {
            assert_eq!(client.get("/").await.status, status);
        }
        assert_eq!(gateway.upstream("main").latencies.get().is_some(), known, "{status}");
    }
}

#[tokio::test]
async fn a_try_beside_the_first_says_nothing_of_how_long_first_tries_take() {
    let (one, other) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (may_break, may_answer) = (one.clone(), other.clone());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Of two that are asked the first breaks off, and then the second answers.
    let serve = move |mut stream: tokio::net::TcpStream, _, _| {
        let (may_break, may_answer, count) = (may_break.clone(), may_answer.clone(), count.clone());
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            if count.fetch_add(1, SeqCst).is_multiple_of(2) {
                return may_break.notified().await;
            }
            may_answer.notified().await;
            let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    };
    let origins = [Origin::connected(serve.clone()).await, Origin::connected(serve).await];
    let p95 = RetryPolicy { backup_after: BackupAfter::P95, ..policy(Mode::Failbackup, 1) };
    let gateway = to(&origins.each_ref().map(|origin| origin.address), p95);
    let latencies = &gateway.upstream("main").latencies;
    let usual = Duration::from_millis(50);
    for _ in 0..20 {
        latencies.record(Instant::now(), usual);
    }
    let known = latencies.get();
    assert!(known.is_some());
    for number in 1..=4 {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until("there are two", || asked.load(SeqCst) == 2 * number).await;
        one.notify_one();
        until("one has failed", || counts(&gateway).failures[2] == number as u64).await;
        // What is tested is that time passes.
        tokio::time::sleep(usual * 4).await;
        other.notify_one();
        assert_eq!(client.answer().await.status, 200);
    }
    // By then the value is found anew.
    latencies.record(Instant::now() + Duration::from_secs(4), usual);
    assert_eq!(latencies.get(), known);
}

#[tokio::test]
async fn what_the_endpoint_does_not_take_is_not_sent_twice_at_once() {
    const LENGTH: usize = 8 << 20;
    let go = Arc::new(Notify::new());
    let served = || {
        let go = go.clone();
        Origin::connected(move |mut stream, connection, seen| {
            let go = go.clone();
            async move {
                go.notified().await;
                let Some(request) = read_request(&mut stream, &mut Vec::new(), connection).await else {
                    return;
                };
                let Reply::Bytes(answer) = Reply::text(&request.body.len().to_string()) else { return };
                seen.lock().unwrap().push(request);
                stream.write_all(&answer).await.unwrap();
            }
        })
    };
    let (one, other) = (served().await, served().await);
    let gateway = Gateway::start(
        setup(&[one.address, other.address], backup(SOON)).with(|setup| setup.routes[0].repeatable = true),
    );
    let client = gateway.client().await;
    let (mut read, mut write) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        // Nobody knows beforehand that it is more than is kept.
        let head = format!("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{LENGTH:x}\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
        write.write_all(b"\r\n0\r\n\r\n").await.unwrap();
        write
    });
    until("it is under way", || in_flight(&gateway) > 0).await;
    // What is tested is that time passes.
    tokio::time::sleep(SOON * 10).await;
    go.notify_waiters();
    let mut answer = vec![0; "HTTP/1.1 200 OK".len()];
    crate::support::http2::in_time(read.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    assert_eq!(counts(&gateway).hedges, 0);
    let bodies: Vec<usize> = one.seen().iter().chain(&other.seen()).map(|seen| seen.body.len()).collect();
    assert_eq!(bodies, [LENGTH]);
    drop(sending.await);
}
