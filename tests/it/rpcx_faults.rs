//! Whose fault it is that a call of rpcx fails, with endpoints by hand that do what no server does on purpose.

use std::{
    future::{Future, pending},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, watch},
};
use witgate::{
    config::Limits,
    resilience::{BackupAfter, Bounds, BreakerPolicy, Cause, Mode, RetryPolicy},
    telemetry::Refused,
    upstream::{Figures, Member, Offer},
};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        http2::in_time,
        origin::{Origin, full},
        rpcx::{Frames, frame, reason},
    },
};

const SHORT: Duration = Duration::from_millis(200);

/// An endpoint that does this with each connection, which has a number, from 0.
async fn endpoint<F, R>(serve: F) -> Origin
where
    F: Fn(Frames, usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    Origin::connected(move |stream, number, _| serve(Frames::new(stream), number)).await
}

async fn echo(mut frames: Frames) {
    while let Some(call) = frames.next().await {
        frames.answer(call).await;
    }
}

async fn echoing() -> Origin {
    endpoint(|frames, _| echo(frames)).await
}

/// Takes calls, and answers none.
async fn hanging() -> Origin {
    endpoint(|mut frames, _| async move { while frames.next().await.is_some() {} }).await
}

fn reset(frames: Frames) {
    socket2::SockRef::from(&frames.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn to(origins: &[&Origin], change: impl FnOnce(&mut Setup)) -> Gateway {
    Gateway::start(Setup::to(origins).for_rpcx().in_turns().with(|setup| setup.workers = 1).with(change))
}

/// What becomes of one call: nothing, or the reason for which it failed.
async fn call(gateway: &Gateway, payload: &[u8]) -> Option<String> {
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, payload).await;
    let answer = in_time(client.next()).await.unwrap();
    assert!(answer.is_response());
    reason(&answer)
}

fn members(gateway: &Gateway) -> Vec<Arc<Member>> {
    gateway.upstream("main").reader.snapshot().iter().cloned().collect()
}

fn figures(gateway: &Gateway) -> Figures {
    members(gateway)[0].stats().figures()
}

/// What the statistics of the only endpoint and its health have been told of failures, the latter by kind.
fn told(gateway: &Gateway) -> (u64, [u64; 4]) {
    (figures(gateway).failures, gateway.upstream("main").metrics.counts().failures)
}

fn retried(gateway: &Gateway, cause: Cause) -> u64 {
    gateway.upstream("main").metrics.counts().retries[cause as usize]
}

#[tokio::test]
async fn a_connection_that_ends_under_a_call_is_the_endpoints_fault() {
    let closing = endpoint(|mut frames, _| async move { drop(frames.next().await) }).await;
    let gateway = to(&[&closing], |_| {});
    assert_eq!(call(&gateway, b"x").await.as_deref(), Some("upstream-reset"));
    assert_eq!(told(&gateway), (1, [0, 0, 1, 0]));

    let gateway = to(&[&closing], |setup| setup.rpcx_routes[0].repeatable = true);
    assert_eq!(call(&gateway, b"x").await.as_deref(), Some("upstream-reset"));
    assert_eq!((told(&gateway), retried(&gateway, Cause::Reset)), ((2, [0, 0, 2, 0]), 1));

    // It has said something after the call: it did not die while it was idle.
    for (said, kind, error) in [
        (frame(0x40, 7, [b""; 4]), 2, "upstream-reset"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), 2, "bad-upstream-answer"),
        (frame(0x80, 2, [b"Test", b"Echo", b"", b"x"])[..20].to_vec(), 2, "upstream-reset"),
    ] {
        let talking = endpoint(move |mut frames, _| {
            let said = said.clone();
            async move {
                let Some(first) = frames.next().await else { return };
                frames.answer(first).await;
                frames.next().await;
                frames.stream.write_all(&said).await.unwrap();
            }
        })
        .await;
        let gateway = to(&[&talking], |_| {});
        assert_eq!(call(&gateway, b"x").await, None);
        assert_eq!(call(&gateway, b"x").await.as_deref(), Some(error));
        let mut failures = [0; 4];
        failures[kind] = 1;
        assert_eq!(told(&gateway), (1, failures), "{error}");
    }
}

/// The first connection answers one call and ends with the next one; others answer all.
async fn dying(by_reset: bool) -> Origin {
    endpoint(move |mut frames, connection| async move {
        if connection > 0 {
            return echo(frames).await;
        }
        let Some(first) = frames.next().await else { return };
        frames.answer(first).await;
        frames.next().await;
        if by_reset {
            reset(frames);
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_may_have_died_while_it_was_idle_says_nothing_of_the_endpoint() {
    for by_reset in [false, true] {
        let origin = dying(by_reset).await;
        let gateway = to(&[&origin], |_| {});
        assert_eq!(call(&gateway, b"x").await, None);
        assert_eq!(call(&gateway, b"x").await.as_deref(), Some("upstream-reset"), "it may have been done");
        assert_eq!(told(&gateway), (0, [0; 4]), "{by_reset}");

        let origin = dying(by_reset).await;
        let gateway = to(&[&origin], |setup| setup.rpcx_routes[0].repeatable = true);
        assert_eq!(call(&gateway, b"x").await, None);
        assert_eq!(call(&gateway, b"x").await, None, "over a new connection");
        assert_eq!((told(&gateway), retried(&gateway, Cause::Stale)), ((0, [0; 4]), 1), "{by_reset}");
    }
}

#[tokio::test]
async fn of_calls_that_a_connection_takes_with_it_the_one_beside_another_counts() {
    let go = Arc::new(Notify::new());
    let end = go.clone();
    let origin = endpoint(move |mut frames, _| {
        let end = end.clone();
        async move {
            let Some(first) = frames.next().await else { return };
            frames.answer(first).await;
            frames.next().await;
            frames.next().await;
            end.notified().await;
        }
    })
    .await;
    let gateway = to(&[&origin], |_| {});
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, b"x").await;
    assert_eq!(reason(&in_time(client.next()).await.unwrap()), None);
    client.call(2, b"x").await;
    until("it is under way", || figures(&gateway).in_flight == 1).await;
    client.call(3, b"x").await;
    until("both are under way", || figures(&gateway).in_flight == 2).await;
    go.notify_one();
    for _ in 0..2 {
        let answer = in_time(client.next()).await.unwrap();
        assert_eq!(reason(&answer).as_deref(), Some("upstream-reset"));
    }
    assert_eq!(told(&gateway), (1, [0, 0, 1, 0]));
}

#[tokio::test]
async fn a_call_of_which_nothing_was_sent_goes_out_again_and_counts_nowhere() {
    const CALLS: u64 = 80;
    let (go, reads) = watch::channel(false);
    let origin = endpoint(move |frames, connection| {
        let mut reads = reads.clone();
        async move {
            if connection > 0 {
                return echo(frames).await;
            }
            // Takes nothing, until it goes.
            reads.wait_for(|goes| *goes).await.unwrap();
            reset(frames);
        }
    })
    .await;
    let gateway = to(&[&origin], |setup| setup.upstream().pool.max_http2_connections = 1);
    let mut client = Frames::connect(gateway.address).await;
    // More than a connection on this machine holds.
    let payload = vec![b'x'; 150_000];
    for number in 0..CALLS {
        client.call(number, &payload).await;
    }
    let under_way = || u64::from(figures(&gateway).in_flight);
    until("they are under way", || under_way() == CALLS).await;
    go.send(true).unwrap();
    let (mut answered, mut failed) = (0, 0);
    for _ in 0..CALLS {
        match reason(&in_time(client.next()).await.unwrap()).as_deref() {
            None => answered += 1,
            Some("upstream-reset") => failed += 1,
            Some(other) => panic!("{other}"),
        }
    }
    assert!(answered > 2 && failed > 0, "{answered} {failed}");
    assert_eq!(retried(&gateway, Cause::Stale), answered, "each was sent anew");
    assert_eq!(told(&gateway), (failed, [0, 0, failed, 0]));
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_of_a_call_fails() {
    let deaf = endpoint(|frames, _| async move {
        let _open = frames;
        pending().await
    })
    .await;
    let gateway = to(&[&deaf], |setup| {
        setup.upstream().timeouts.write = SHORT;
        setup.upstream().timeouts.response = None;
    });
    let error = call(&gateway, &vec![b'x'; 12 << 20]).await;
    assert_eq!(error.as_deref(), Some("upstream-write-timeout"));
    assert_eq!(told(&gateway), (1, [0, 1, 0, 0]));
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_the_endpoints_fault_and_a_try_may_be_followed_by_another() {
    let (hanging, echoing) = (hanging().await, echoing().await);
    let gateway = to(&[&hanging], |setup| setup.upstream().timeouts.request = Some(SHORT));
    assert_eq!(call(&gateway, b"x").await.as_deref(), Some("request-timeout"));
    assert_eq!(told(&gateway), (1, [0, 1, 0, 0]));

    let gateway = to(&[&hanging, &echoing], |setup| {
        setup.upstream().timeouts.response = Some(SHORT);
        setup.rpcx_routes[0].repeatable = true;
    });
    let errors = [call(&gateway, b"x").await, call(&gateway, b"x").await];
    assert!(errors.contains(&Some("response-timeout".into())), "nobody waits for more: {errors:?}");

    for repeatable in [true, false] {
        let gateway = to(&[&hanging, &echoing], |setup| {
            setup.upstream().retries.per_try = Some(SHORT);
            setup.rpcx_routes[0].repeatable = repeatable;
        });
        let errors = [call(&gateway, b"x").await, call(&gateway, b"x").await];
        assert_eq!(errors.contains(&Some("try-timeout".into())), !repeatable, "{errors:?}");
        let failures = gateway.upstream("main").metrics.counts().failures;
        assert!(
            (1..=2).contains(&failures[1]) && failures.iter().sum::<u64>() == failures[1],
            "{failures:?}"
        );
        assert_eq!(retried(&gateway, Cause::Timeout), if repeatable { failures[1] } else { 0 });
    }
}

#[tokio::test]
async fn a_try_that_was_not_connected_in_time_has_sent_nothing() {
    let ((address, _full), echoing) = (full(), echoing().await);
    let setup = Setup::to_addresses(&[address, echoing.address]).for_rpcx().in_turns();
    let gateway = Gateway::start(setup.with(|setup| {
        setup.workers = 1;
        setup.upstream().timeouts.connect = Duration::from_secs(60);
        setup.upstream().retries.per_try = Some(SHORT);
    }));
    // Neither may be sent twice.
    assert_eq!([call(&gateway, b"x").await, call(&gateway, b"x").await], [None, None]);
    let failures = gateway.upstream("main").metrics.counts().failures;
    assert!((1..=2).contains(&failures[1]) && failures.iter().sum::<u64>() == failures[1], "{failures:?}");
    assert_eq!(retried(&gateway, Cause::Connect), failures[1]);
}

#[tokio::test]
async fn calls_of_an_endpoint_that_has_left_end_without_its_fault() {
    let (leaving, staying) = (hanging().await, echoing().await);
    let mut gateway = to(&[&leaving], |setup| {
        setup.upstream().leave = Some(SHORT);
        setup.upstream().breaker = Some(BreakerPolicy::default());
    });
    let member = members(&gateway).remove(0);
    let mut client = Frames::connect(gateway.address).await;
    for number in 0..20 {
        client.call(number, b"x").await;
    }
    until("they are under way", || member.stats().in_flight() == 20).await;
    let left = Instant::now();
    gateway.offer("main", vec![Offer::Remove(leaving.address)]);
    for _ in 0..20 {
        let answer = in_time(client.next()).await.unwrap();
        assert_eq!(reason(&answer).as_deref(), Some("endpoint-left"));
    }
    assert!(left.elapsed() >= SHORT);
    let upstream = gateway.upstream("main");
    assert_eq!(upstream.metrics.counts().left, 20);
    assert_eq!((member.stats().figures().failures, upstream.metrics.counts().failures), (0, [0; 4]));
    let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
    assert!(!breaker.is_open(&policy, Instant::now()), "nor do they count at the breaker");

    let mut gateway = to(&[&leaving, &staying], |setup| {
        setup.upstream().leave = Some(SHORT);
        setup.rpcx_routes[0].repeatable = true;
    });
    let [first, second] = <[_; 2]>::try_from(members(&gateway)).unwrap();
    let member = if first.address() == leaving.address { first } else { second };
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, b"x").await;
    client.call(2, b"x").await;
    until("one is under way", || member.stats().in_flight() == 1).await;
    gateway.offer("main", vec![Offer::Remove(leaving.address)]);
    for _ in 0..2 {
        assert_eq!(reason(&in_time(client.next()).await.unwrap()), None, "the other instance has it");
    }
    assert_eq!(retried(&gateway, Cause::Timeout), 1);
}

/// Answers that what it was asked for has failed.
async fn failing() -> Origin {
    endpoint(|mut frames, _| async move {
        while let Some(call) = frames.next().await {
            let parts: [&[u8]; 4] = [b"Test", b"Echo", b"\0\0\0\x0e__rpcx_error__\0\0\0\x02no", b""];
            frames.stream.write_all(&frame(0x81, call.number(), parts)).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn an_error_of_a_service_is_an_answer_and_no_success() {
    let (failing, echoing) = (failing().await, echoing().await);
    let gateway = to(&[&failing], |_| {});
    for row in 1..=3 {
        assert_eq!(call(&gateway, b"x").await.as_deref(), Some("no"));
        assert_eq!(figures(&gateway).consecutive_failures, row);
    }
    assert_eq!(told(&gateway), (3, [0; 4]), "its health is as it was");
    assert_eq!(gateway.upstream("main").metrics.counts().statuses, [0, 0, 0, 0, 3]);

    let gateway = to(&[&echoing], |_| {});
    let stats = members(&gateway).remove(0);
    stats.stats().record(Instant::now(), SHORT, false);
    assert_eq!(call(&gateway, b"x").await, None);
    let figures = figures(&gateway);
    assert_eq!((figures.consecutive_failures, figures.failures), (0, 1), "a success ends the row");
    assert!(figures.success > 0.0, "it is one in the statistics: {figures:?}");
    assert_eq!(gateway.upstream("main").metrics.counts().statuses, [0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn who_cannot_be_connected_to_is_left_for_another_and_not_asked_twice() {
    let gone = { echoing().await.address };
    let echoing = echoing().await;
    let setup = |addresses: &[std::net::SocketAddr]| {
        let setup = Setup::to_addresses(addresses).for_rpcx().in_turns();
        Gateway::start(setup.with(|setup| setup.workers = 1))
    };
    let gateway = setup(&[gone, echoing.address]);
    assert_eq!([call(&gateway, b"x").await, call(&gateway, b"x").await], [None, None]);
    let failures = gateway.upstream("main").metrics.counts().failures;
    assert!((1..=2).contains(&failures[0]) && failures.iter().sum::<u64>() == failures[0], "{failures:?}");
    assert_eq!(retried(&gateway, Cause::Connect), failures[0]);

    let gateway = setup(&[gone]);
    assert_eq!(call(&gateway, b"x").await.as_deref(), Some("connect-failed"));
    assert_eq!((told(&gateway), retried(&gateway, Cause::Connect)), ((1, [1, 0, 0, 0]), 0));
}

#[tokio::test]
async fn a_call_without_an_answer_says_nothing_of_the_endpoint_and_goes_out_once() {
    let came = Arc::new(Notify::new());
    let tell = came.clone();
    let origin = endpoint(move |mut frames, _| {
        let tell = tell.clone();
        async move {
            if frames.next().await.is_some() {
                tell.notify_one();
            }
        }
    })
    .await;
    let gateway = to(&[&origin], |setup| setup.rpcx_routes[0].repeatable = true);
    let mut client = Frames::connect(gateway.address).await;
    client.stream.write_all(&frame(0x20, 1, [b"Test", b"Note", b"", b"x"])).await.unwrap();
    in_time(came.notified()).await;
    until("it is over", || figures(&gateway).in_flight == 0).await;
    let figures = figures(&gateway);
    assert_eq!((figures.latency, figures.failures, origin.connections()), (Duration::ZERO, 0, 1));
}

#[tokio::test]
async fn a_breaker_hears_of_calls_what_is_the_endpoints() {
    let (hanging, echoing, failing) = (hanging().await, echoing().await, failing().await);
    let is_open = |gateway: &Gateway| {
        let upstream = gateway.upstream("main");
        let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
        breaker.is_open(&policy, Instant::now())
    };
    let with_breaker = |setup: &mut Setup| {
        setup.upstream().breaker = Some(BreakerPolicy::default());
        setup.upstream().timeouts.response = Some(SHORT);
    };
    let [well, ill, wrong] = [&echoing, &hanging, &failing].map(|origin| to(&[origin], with_breaker));
    for gateway in [&well, &ill, &wrong] {
        let mut client = Frames::connect(gateway.address).await;
        for number in 0..20 {
            client.call(number, b"x").await;
        }
        for _ in 0..20 {
            in_time(client.next()).await.unwrap();
        }
    }
    assert_eq!([is_open(&well), is_open(&ill), is_open(&wrong)], [false, true, true]);
}

/// Two endpoints of which the one that is asked first closes, and then the other answers; and how often they were asked.
async fn taking_turns() -> ([Origin; 2], [Arc<Notify>; 2], Arc<AtomicUsize>) {
    let (one, other, asked) = <(Arc<Notify>, Arc<Notify>, Arc<AtomicUsize>)>::default();
    let origin = || {
        let (may_break, may_answer, count) = (one.clone(), other.clone(), asked.clone());
        endpoint(move |mut frames, _| {
            let (may_break, may_answer, count) = (may_break.clone(), may_answer.clone(), count.clone());
            async move {
                while let Some(call) = frames.next().await {
                    if count.fetch_add(1, SeqCst).is_multiple_of(2) {
                        return may_break.notified().await;
                    }
                    may_answer.notified().await;
                    frames.answer(call).await;
                }
            }
        })
    };
    ([origin().await, origin().await], [one, other], asked)
}

#[tokio::test]
async fn a_try_beside_the_first_says_nothing_of_how_long_first_tries_take() {
    let (origins, [one, other], asked) = taking_turns().await;
    let gateway = to(&[&origins[0], &origins[1]], |setup| {
        setup.rpcx_routes[0].repeatable = true;
        setup.upstream().retries = RetryPolicy {
            mode: Mode::Failbackup,
            backup_after: BackupAfter::P95,
            budget_min: 1_000,
            ..RetryPolicy::default()
        };
    });
    let latencies = &gateway.upstream("main").latencies;
    let usual = Duration::from_millis(50);
    for _ in 0..20 {
        latencies.record(Instant::now(), usual);
    }
    let known = latencies.get();
    assert!(known.is_some());
    let mut client = Frames::connect(gateway.address).await;
    for number in 1..=4 {
        client.call(number, b"x").await;
        until("there are two", || asked.load(SeqCst) as u64 == 2 * number).await;
        one.notify_one();
        until("one has failed", || told(&gateway).1[2] == number).await;
        // What is tested is that time passes.
        tokio::time::sleep(usual * 4).await;
        other.notify_one();
        assert_eq!(reason(&in_time(client.next()).await.unwrap()), None);
    }
    // By then the value is found anew.
    latencies.record(Instant::now() + Duration::from_secs(4), usual);
    assert_eq!(latencies.get(), known);
}

#[tokio::test]
async fn a_call_without_an_answer_is_not_sent_twice_at_once() {
    let ((address, full), echoing) = (full(), echoing().await);
    let setup = Setup::to_addresses(&[address, echoing.address]).for_rpcx().in_turns();
    let gateway = Gateway::start(setup.with(|setup| {
        setup.workers = 1;
        setup.rpcx_routes[0].repeatable = true;
        setup.upstream().timeouts.connect = Duration::from_secs(60);
        setup.upstream().retries.mode = Mode::Failbackup;
        setup.upstream().retries.backup_after = BackupAfter::Time(Duration::ZERO);
    }));
    let mut client = Frames::connect(gateway.address).await;
    let note = || frame(0x20, 1, [b"Test", b"Note", b"", b"x"]);
    // The endpoints take turns: one of these waits for the one that takes no connection.
    client.stream.write_all(&note()).await.unwrap();
    client.stream.write_all(&note()).await.unwrap();
    let requests = || gateway.upstream("main").metrics.counts().requests;
    let in_flight = || members(&gateway).iter().map(|of| of.stats().in_flight()).sum::<u32>();
    until("one has arrived", || requests() == 2 && in_flight() == 1).await;
    drop(full);
    until("both have", || in_flight() == 0).await;
    assert_eq!(gateway.upstream("main").metrics.counts().hedges, 0);
    assert_eq!(retried(&gateway, Cause::Connect), 1, "nobody was there in the end");
}

#[tokio::test]
async fn a_call_that_is_too_much_is_counted() {
    let hanging = hanging().await;
    let gateway = to(&[&hanging], |setup| {
        let bounds = Bounds { min: 1, max: 1 };
        setup.upstream().limits =
            Some(Limits { bounds, per_endpoint: None, queue: 0, queue_time: Duration::ZERO });
    });
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, b"x").await;
    until("it is under way", || figures(&gateway).in_flight == 1).await;
    assert_eq!(call(&gateway, b"x").await.as_deref(), Some("in-flight-limit"));
    let not_sent = gateway.upstream("main").metrics.counts().not_sent;
    assert_eq!((not_sent[Refused::InFlightLimit as usize], not_sent.iter().sum::<u64>()), (1, 1));
}

#[tokio::test]
async fn a_frame_may_come_slowly() {
    let echoing = echoing().await;
    let gateway = to(&[&echoing], |setup| setup.listener.body_timeout = Duration::from_secs(1));
    let mut client = Frames::connect(gateway.address).await;
    let began = Instant::now();
    for byte in frame(0, 1, [b"Test", b"Echo", b"", b"xxxxxxxx"]).chunks(8) {
        // What is tested is that time passes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.stream.write_all(byte).await.unwrap();
    }
    assert!(began.elapsed() > Duration::from_secs(1));
    assert_eq!(reason(&in_time(client.next()).await.unwrap()), None);
}
