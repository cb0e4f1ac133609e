//! An upstream is spared: breaker, limits, the queue before them, rates, lengths of bodies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use witgate::{
    config::{Limits, RateBy, RouteRate},
    resilience::{BackupAfter, Bounds, BreakerPolicy, Gate, Mode, Rate},
    upstream::Member,
};

use crate::{
    http_harness::{self, Setup, put},
    support::{
        client::{Client, LONG, until},
        gateway::{self, Gateway},
        http2::in_time,
        origin::{Origin, Reply, full, read_head, read_request},
        rpcx::Frames,
    },
};

/// Longer than any test waits for its turn.
const PATIENT: Duration = Duration::from_secs(20);

fn limits(most: u32, queue: u32) -> Limits {
    Limits { bounds: Bounds { min: most, max: most }, per_endpoint: None, queue, queue_time: PATIENT }
}

/// Answers a request when it is let go, with its path.
async fn holding() -> (Origin, Arc<Semaphore>) {
    let go = Arc::new(Semaphore::new(0));
    let let_go = go.clone();
    let origin = Origin::connected(move |mut stream, connection, seen| {
        let go = go.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                let path = request.path().to_owned();
                seen.lock().unwrap().push(request);
                go.acquire().await.unwrap().forget();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                stream.write_all(answer.as_bytes()).await.unwrap_or(());
            }
        }
    });
    (origin.await, let_go)
}

/// Fails while it is told to.
async fn failing(status: u16) -> (Origin, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let told = fails.clone();
    let reply = move |_: &_| if told.load(SeqCst) { Reply::status(status) } else { Reply::text("ok") };
    (Origin::replying(reply).await, fails)
}

fn gate(gateway: &http_harness::Gateway) -> Arc<Gate> {
    gateway.upstream("main").gate.clone().unwrap()
}

fn members(gateway: &http_harness::Gateway) -> Vec<Arc<Member>> {
    gateway.upstream("main").reader.snapshot().iter().cloned().collect()
}

async fn sending(gateway: &http_harness::Gateway, path: &str) -> Client {
    let mut client = gateway.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
    client
}

fn with_breaker(origin: &Origin) -> http_harness::Gateway {
    http_harness::Gateway::start(Setup::to(&[origin]).with(|setup| {
        setup.upstream().breaker = Some(BreakerPolicy::default());
        setup.upstream().retries.most = 0;
    }))
}

#[tokio::test]
async fn a_breaker_opens_while_requests_fail_and_closes_when_they_succeed() {
    let (origin, fails) = failing(500).await;
    let gateway = with_breaker(&origin);
    let mut client = gateway.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    fails.store(true, SeqCst);
    let (mut sent, mut refused) = (20, 0);
    while refused < 3 {
        let answer = client.get("/").await;
        sent += 1;
        match answer.reason() {
            Some(reason) => {
                assert_eq!((answer.status, reason), (503, "breaker-open"));
                refused += 1;
            }
            None => assert_eq!(answer.status, 500),
        }
        assert!(sent < 1000);
    }
    assert_eq!(origin.seen().len(), sent - refused);
    let figures = members(&gateway)[0].stats().figures();
    assert_eq!(figures.failures as usize, sent - refused - 20, "a refusal is no failure of the endpoint");

    fails.store(false, SeqCst);
    let closing = async {
        let mut in_a_row = 0;
        while in_a_row < 50 {
            in_a_row = if client.get("/").await.status == 200 { in_a_row + 1 } else { 0 };
        }
    };
    tokio::time::timeout(2 * LONG, closing).await.expect("it closes");
}

#[tokio::test]
async fn a_breaker_hears_of_what_the_endpoint_failed_and_of_nothing_else() {
    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    const BROKEN: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\nwhat";
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal";
    let resets = Origin::replying(|_| Reply::Close(Vec::new())).await;
    let breaks_off = Origin::replying(|_| Reply::Close(half.into())).await;
    let answers = Origin::start("ok").await;
    for (origin, request, opens) in
        [(&resets, GET, true), (&breaks_off, GET, true), (&answers, GET, false), (&answers, BROKEN, false)]
    {
        let gateway = with_breaker(origin);
        for _ in 0..20 {
            let mut client = gateway.client().await;
            client.send(request).await;
            client.try_answer(false).await;
        }
        until("all are over", || members(&gateway)[0].stats().in_flight() == 0).await;
        let upstream = gateway.upstream("main");
        let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
        assert_eq!(breaker.is_open(&policy, Instant::now()), opens, "{request}");
    }
}

#[tokio::test]
async fn a_breaker_sees_what_hangs_before_it_times_out() {
    let (origin, let_go) = holding().await;
    let gateway = with_breaker(&origin);
    let_go.add_permits(20);
    let mut client = gateway.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let mut hanging = Vec::new();
    for _ in 0..40 {
        hanging.push(sending(&gateway, "/").await);
    }
    until("all hang", || origin.seen().len() == 60).await;
    let upstream = gateway.upstream("main");
    let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
    until("it opens", || breaker.is_open(&policy, Instant::now())).await;
    drop(hanging);
    until("clients that went are no failures", || !breaker.is_open(&policy, Instant::now())).await;
}

#[tokio::test]
async fn what_waits_goes_in_the_order_in_which_it_came() {
    let (origin, let_go) = holding().await;
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(limits(1, 10))),
    );
    let gate = gate(&gateway);
    let mut clients = vec![sending(&gateway, "/0").await];
    until("one is in flight", || origin.seen().len() == 1).await;
    for number in 1..=8 {
        clients.push(sending(&gateway, &format!("/{number}")).await);
        until("it waits", || gate.waiting() == number).await;
    }
    assert_eq!((gate.in_flight(), origin.seen().len()), (1, 1));
    for (number, client) in clients.iter_mut().enumerate() {
        let_go.add_permits(1);
        assert_eq!(client.answer().await.text(), format!("/{number}"));
    }
    let order: Vec<String> = origin.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(order, (0..=8).map(|number| format!("/{number}")).collect::<Vec<_>>());
    until("nothing is in flight", || gate.in_flight() == 0 && gate.waiting() == 0).await;
}

#[tokio::test]
async fn what_is_too_much_is_answered_with_503_and_why() {
    let (origin, _let_go) = holding().await;
    for (queue, queue_time, reason) in [
        (0, PATIENT, "in-flight-limit"),
        (1, PATIENT, "queue-full"),
        (10, Duration::from_millis(50), "queue-timeout"),
    ] {
        let limits = Limits { queue_time, ..limits(1, queue) };
        let gateway = http_harness::Gateway::start(
            Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(limits)),
        );
        let gate = gate(&gateway);
        let _running = sending(&gateway, "/").await;
        until("one is in flight", || gate.in_flight() == 1).await;
        let _waiting = sending(&gateway, "/").await;
        if queue == 1 {
            until("one waits", || gate.waiting() == 1).await;
        }
        let (mut client, begun) = (gateway.client().await, Instant::now());
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.reason()), (503, Some(reason)));
        if reason == "queue-timeout" {
            assert!(begun.elapsed() >= queue_time);
        }
        // The connection goes on.
        assert_eq!(client.get("/").await.reason(), Some(reason));
        let figures = members(&gateway)[0].stats().figures();
        assert_eq!((figures.in_flight, figures.failures), (1, 0));
        let counts = gateway.upstream("main").metrics.counts().not_sent;
        assert!(counts.iter().sum::<u64>() >= 2, "{counts:?}");
    }
}

#[tokio::test]
async fn waiting_in_line_makes_no_endpoint_slow() {
    const WAITED: Duration = Duration::from_millis(500);
    let (origin, let_go) = holding().await;
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(limits(1, 2))),
    );
    let gate = gate(&gateway);
    let running = sending(&gateway, "/").await;
    until("one is in flight", || gate.in_flight() == 1).await;
    let mut waiting = sending(&gateway, "/").await;
    until("one waits", || gate.waiting() == 1).await;
    tokio::time::sleep(WAITED).await;
    // Only the other one tells of the endpoint.
    drop(running);
    let_go.add_permits(2);
    assert_eq!(waiting.answer().await.status, 200);
    let latency = members(&gateway)[0].stats().figures().latency;
    assert!(latency < WAITED, "{latency:?}");
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_queue_at_once() {
    let (origin, let_go) = holding().await;
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(limits(1, 2))),
    );
    let gate = gate(&gateway);
    let mut running = sending(&gateway, "/running").await;
    until("one is in flight", || gate.in_flight() == 1).await;
    let going = sending(&gateway, "/going").await;
    until("it waits", || gate.waiting() == 1).await;
    let mut staying = sending(&gateway, "/staying").await;
    until("both wait", || gate.waiting() == 2).await;
    drop(going);
    until("it has left", || gate.waiting() == 1).await;
    let_go.add_permits(2);
    assert_eq!(running.answer().await.text(), "/running");
    assert_eq!(staying.answer().await.text(), "/staying");
    assert!(origin.seen().iter().all(|seen| seen.path() != "/going"));
}

#[tokio::test]
async fn an_endpoint_at_its_limit_is_passed_over() {
    let ((holding, let_go), quick) = (holding().await, Origin::start("quick").await);
    let per_endpoint = Limits { per_endpoint: Some(1), ..limits(1000, 0) };
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&holding, &quick]).with(|setup| setup.upstream().limits = Some(per_endpoint)),
    );
    let mut held = Vec::new();
    while holding.seen().is_empty() {
        held.push(sending(&gateway, "/").await);
        let before = quick.seen().len();
        until("it has come", || !holding.seen().is_empty() || quick.seen().len() > before).await;
        until("only one goes on", || gate(&gateway).in_flight() <= 1).await;
    }
    let mut client = gateway.client().await;
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "quick");
    }
    assert_eq!(holding.seen().len(), 1);
    let_go.add_permits(1);
}

#[tokio::test]
async fn with_every_endpoint_at_its_limit_a_request_waits() {
    let (one, other) = (holding().await, holding().await);
    let per_endpoint = Limits { per_endpoint: Some(2), ..limits(1000, 10) };
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&one.0, &other.0]).with(|setup| setup.upstream().limits = Some(per_endpoint)),
    );
    let (gate, mut clients) = (gate(&gateway), Vec::new());
    for number in 0..8 {
        clients.push(sending(&gateway, &format!("/{number}")).await);
    }
    until("four wait", || gate.waiting() == 4 && gate.in_flight() == 4).await;
    until("two are at each", || one.0.seen().len() == 2 && other.0.seen().len() == 2).await;
    one.1.add_permits(10);
    until("all others go there", || one.0.seen().len() == 6).await;
    other.1.add_permits(10);
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().await.text(), format!("/{number}"));
    }
    until("nothing is in flight", || gate.in_flight() == 0).await;
    assert_eq!(other.0.seen().len(), 2);
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_has_ended_or_its_tunnel_is_closed() {
    const HEADS: [(&str, &str, &str); 2] = [
        ("/body", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "something"),
        ("/tunnel", "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n", ""),
    ];
    let go_on = Arc::new(Semaphore::new(0));
    let going = go_on.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let go_on = going.clone();
        async move {
            let Some(head) = read_head(&mut stream, &mut Vec::new()).await else { return };
            let Some((_, answer, rest)) = HEADS.iter().find(|(path, ..)| head.contains(path)) else { return };
            stream.write_all(answer.as_bytes()).await.unwrap();
            go_on.acquire().await.unwrap().forget();
            stream.write_all(rest.as_bytes()).await.unwrap();
        }
    })
    .await;
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(limits(1, 0))),
    );
    let gate = gate(&gateway);
    for (path, ..) in HEADS {
        let mut client = gateway.client().await;
        let ask = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: own\r\n\r\n");
        client.send(ask).await;
        let head = read_head(&mut client.stream, &mut client.buffer).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 101"), "{head}");
        assert_eq!(gateway.client().await.get("/").await.reason(), Some("in-flight-limit"), "{path}");
        go_on.add_permits(1);
        if path == "/tunnel" {
            // The endpoint has closed its side, and a tunnel has two.
            drop(client);
        }
        until("it has ended", || gate.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn an_adaptive_limit_goes_down_with_losses_and_up_with_use() {
    let (origin, fails) = failing(503).await;
    let adaptive = Limits { bounds: Bounds { min: 2, max: 20 }, ..limits(0, 0) };
    let gateway = http_harness::Gateway::start(
        Setup::to(&[&origin]).with(|setup| setup.upstream().limits = Some(adaptive)),
    );
    let (gate, mut client) = (gate(&gateway), gateway.client().await);
    assert_eq!(gate.limit(), 20);
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(gate.limit(), 20);
    fails.store(true, SeqCst);
    for _ in 0..30 {
        assert_eq!(client.get("/").await.reason(), None);
    }
    assert_eq!(gate.limit(), 2);
    fails.store(false, SeqCst);
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // One at a time is not half of more.
    assert_eq!(gate.limit(), 3);
}

#[tokio::test]
async fn what_an_endpoint_has_no_time_for_is_lost_to_an_adaptive_limit() {
    for (status, lost) in [(503, true), (504, true), (500, false), (502, false), (0, true)] {
        let origin = Origin::replying(move |_| match status {
            0 => Reply::Close(Vec::new()),
            status => Reply::status(status),
        })
        .await;
        let gateway = http_harness::Gateway::start(Setup::to(&[&origin]).with(|setup| {
            setup.upstream().limits = Some(Limits { bounds: Bounds { min: 2, max: 20 }, ..limits(0, 0) });
            setup.upstream().retries.most = 0;
        }));
        let mut client = gateway.client().await;
        for _ in 0..10 {
            client.get("/").await;
        }
        assert_eq!(gate(&gateway).limit() < 20, lost, "{status}");
    }
}

fn with_body_limit(origin: &Origin, most: u64) -> http_harness::Gateway {
    http_harness::Gateway::start(Setup::to(&[origin]).with(|setup| setup.routes[0].max_body = Some(most)))
}

#[tokio::test]
async fn a_body_whose_length_is_too_much_goes_to_nobody() {
    let origin = Origin::start("ok").await;
    let gateway = with_body_limit(&origin, 1000);
    let mut client = gateway.client().await;
    client
        .send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(1000)))
        .await;
    assert_eq!(client.answer().await.text(), "ok");
    // It sends everything before it reads.
    let body = "x".repeat(2 << 20);
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (413, Some("request-body-too-large")));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(gateway.upstream("main").metrics.counts().not_sent, [0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn a_body_that_turns_out_too_long_is_cut_and_no_endpoint_is_at_fault() {
    let origin = Origin::start("ok").await;
    let gateway = with_body_limit(&origin, 1000);
    let chunked = |chunks: usize| {
        let chunk = format!("64\r\n{}\r\n", "x".repeat(100));
        format!(
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            chunk.repeat(chunks)
        )
    };
    let mut client = gateway.client().await;
    client.send(chunked(10)).await;
    assert_eq!(client.answer().await.text(), "ok");
    client.send(chunked(5000)).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.reason()), (413, Some("request-body-too-large")));
    assert_eq!(origin.seen().len(), 1, "the connection to the endpoint was cut");
    let figures = members(&gateway)[0].stats().figures();
    assert_eq!((figures.in_flight, figures.failures), (0, 0));
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.failures, counts.not_sent), ([0; 4], [0, 0, 0, 0, 1]));
}

fn with_rate(origin: &Origin, by: RateBy, max_keys: usize) -> http_harness::Gateway {
    let rate = Rate { requests: 2, per: Duration::from_secs(60), burst: 2 };
    http_harness::Gateway::start(
        Setup::to(&[origin]).with(|setup| setup.routes[0].rate = Some(RouteRate { rate, by, max_keys })),
    )
}

async fn as_user(client: &mut Client, user: &str) -> u16 {
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n")).await;
    client.answer().await.status
}

#[tokio::test]
async fn who_sends_too_much_is_told_when_to_come_again() {
    let origin = Origin::start("ok").await;
    for by in [RateBy::Client, RateBy::Route, RateBy::Header("x-user".parse().unwrap())] {
        let gateway = with_rate(&origin, by.clone(), 100);
        // On both workers.
        let mut clients = [gateway.client().await, gateway.client().await, gateway.client().await];
        for client in &mut clients[..2] {
            assert_eq!(client.get("/").await.status, 200);
        }
        for client in &mut clients {
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.reason()), (429, Some("rate-limited")), "{by:?}");
            let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=30).contains(&seconds), "{seconds}");
            assert_eq!(answer.header("connection"), None);
        }
        assert_eq!(gateway.table.rates[0].as_ref().unwrap().refused(), 3);
        let other = as_user(&mut clients[0], "other").await;
        assert_eq!(other, if matches!(by, RateBy::Header(_)) { 200 } else { 429 }, "{by:?}");
    }
}

#[tokio::test]
async fn a_rate_remembers_so_many_and_refuses_nobody_because_there_are_more() {
    let origin = Origin::start("ok").await;
    let gateway = with_rate(&origin, RateBy::Header("x-user".parse().unwrap()), 8);
    let mut client = gateway.client().await;
    for user in 0..200 {
        assert_eq!(as_user(&mut client, &user.to_string()).await, 200, "{user}");
    }
    assert_eq!(gateway.table.rates[0].as_ref().unwrap().keys(), 8);
}

#[tokio::test]
async fn a_rate_goes_on_when_something_else_changes() {
    let origin = Origin::start("ok").await;
    let mut gateway = with_rate(&origin, RateBy::Client, 100);
    let mut client = gateway.client().await;
    for expected in [200, 200, 429] {
        assert_eq!(client.get("/").await.status, expected);
    }
    let other = http_harness::route("/other", "main");
    gateway.publish(|config| config.routes.insert(0, other));
    tokio::time::timeout(LONG, async { while client.get("/other").await.status != 200 {} })
        .await
        .expect("the other route is there");
    assert_eq!(client.get("/").await.status, 429);
    // More at once is allowed now, and what was taken is taken.
    gateway.publish(|config| config.routes[1].rate.as_mut().unwrap().rate.burst = 3);
    tokio::time::timeout(LONG, async { while client.get("/").await.status != 200 {} })
        .await
        .expect("the other rate is in force");
    assert_eq!(client.get("/").await.status, 429);
}

fn named(origin: &Origin, most: u32, more: &str) -> String {
    format!(
        "[registry.fixed]
         plugin = 'static'
         settings = {{ services = {{ main = ['{}'] }} }}
         [[route]]
         path = '/svc/{{service}}'
         registry = 'fixed'
         breaker = true
         limits = {{ max_in_flight = {most}, queue = 1, queue_ms = 20000 }}
         [upstream.configured]
         service = 'main'
         registry = 'fixed'
         limits = {{ max_in_flight = {most}, queue = 1, queue_ms = 20000 }}
         [[route]]
         path = '/configured'
         upstream = 'configured'
         {more}",
        origin.address
    )
}

async fn metric(gateway: &Gateway, line: &str) -> Option<String> {
    let metrics = gateway.session_to_admin().get("/metrics").await.text().to_owned();
    metrics.lines().find_map(|found| found.strip_prefix(line)).map(|value| value.trim().to_owned())
}

#[tokio::test]
async fn services_found_by_name_have_limits_of_their_own_and_all_of_it_is_counted() {
    let (origin, let_go) = holding().await;
    let gateway = Gateway::start(&named(&origin, 1, ""));
    let mut clients = [Client::connect(gateway.address()).await, Client::connect(gateway.address()).await];
    for client in &mut clients {
        client.send("GET /svc/main HTTP/1.1\r\nhost: a\r\n\r\n").await;
    }
    let of = |name: &str| format!("witgate_{name}{{upstream=\"main@fixed\"}}");
    for (name, value) in [
        ("requests_in_flight", "1"),
        ("requests_queued", "1"),
        ("in_flight_limit", "1"),
        ("breaker_open", "0"),
    ] {
        let line = of(name);
        gateway::until(name, async || metric(&gateway, &line).await.as_deref() == Some(value)).await;
    }
    let answer = Client::connect(gateway.address()).await.get("/svc/main").await;
    assert_eq!((answer.status, answer.reason()), (503, Some("queue-full")));
    let refused = "witgate_requests_refused_total{upstream=\"main@fixed\",reason=\"queue-full\"}";
    assert_eq!(metric(&gateway, refused).await.as_deref(), Some("1"));
    let shown = async |name: &str| gateway.api(&format!("/api/v1/upstreams/{name}")).await;
    let found = shown("main@fixed").await;
    assert_eq!(found["requests"], json!({ "in_flight": 1, "limit": 1, "queued": 1 }));
    assert_eq!(found["breaker_open"], false);
    let configured = shown("configured").await;
    assert_eq!(configured["requests"], json!({ "in_flight": 0, "limit": 1, "queued": 0 }));
    assert!(configured["breaker_open"].is_null(), "it has none");
    let_go.add_permits(2);
    for client in &mut clients {
        assert_eq!(client.answer().await.text(), "/svc/main");
    }
}

#[tokio::test]
async fn a_reload_puts_other_limits_in_force_and_loses_no_count() {
    for (path, name) in [("/configured", "configured"), ("/svc/main", "main@fixed")] {
        let (origin, let_go) = holding().await;
        let gateway = Gateway::start(&named(&origin, 1, ""));
        let mut clients =
            [Client::connect(gateway.address()).await, Client::connect(gateway.address()).await];
        let queued = format!("witgate_requests_queued{{upstream=\"{name}\"}}");
        for (client, waiting) in clients.iter_mut().zip(["0", "1"]) {
            client.send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            gateway::until("it waits or not", async || {
                metric(&gateway, &queued).await.as_deref() == Some(waiting)
            })
            .await;
        }
        gateway::until("one is there", async || origin.seen().len() == 1).await;
        // Something else changes.
        let new = "[[route]]\npath = '/new'\nredirect = { host = 'b' }";
        let other = |most| named(&origin, most, new).replace("queue_ms = 20000", "queue_ms = 19000");
        gateway.reconfigure(&other(1));
        gateway::until("the new route is there", async || {
            Client::connect(gateway.address()).await.get("/new").await.reason() != Some("no-route")
        })
        .await;
        assert_eq!(Client::connect(gateway.address()).await.get(path).await.reason(), Some("queue-full"));
        // A higher limit lets go who waits.
        gateway.reconfigure(&other(2));
        gateway::until("both are there", async || origin.seen().len() == 2).await;
        let_go.add_permits(2);
        for client in &mut clients {
            assert_eq!(client.answer().await.text(), path);
        }
    }
}

/// One request to each endpoint at a time, and others wait.
fn one_each(setup: &mut Setup) {
    setup.workers = 1;
    setup.upstream().limits = Some(Limits { per_endpoint: Some(1), ..limits(1000, 10) });
}

async fn offered(gateway: &http_harness::Gateway) {
    let upstream = gateway.upstream("main");
    let generation = upstream.reader.snapshot().generation();
    until("the worker has the list", || upstream.progress.iter().all(|of| !of.is_behind(generation))).await;
}

#[tokio::test]
async fn a_try_that_failed_leaves_its_place_to_who_waits() {
    let go = Arc::new(Semaphore::new(0));
    let may_fail = go.clone();
    // Closes once it may, and then answers.
    let failing = Origin::connected(move |mut stream, connection, _| {
        let may_fail = may_fail.clone();
        async move {
            let mut buffer = Vec::new();
            while read_head(&mut stream, &mut buffer).await.is_some() {
                if connection == 0 {
                    return may_fail.acquire().await.unwrap().forget();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let (other, let_go) = holding().await;
    let mut gateway = http_harness::Gateway::start(Setup::to(&[&failing]).in_turns().with(one_each));
    let gate = gate(&gateway);
    let mut first = sending(&gateway, "/first").await;
    until("it is under way", || gate.in_flight() == 1).await;
    let mut second = sending(&gateway, "/second").await;
    until("it waits", || gate.waiting() == 1).await;
    gateway.offer("main", vec![put(other.address)]);
    offered(&gateway).await;
    go.add_permits(1);
    assert_eq!(second.answer().await.status, 200);
    assert_eq!(other.seen().len(), 1, "where the first is now");
    let_go.add_permits(1);
    assert_eq!(first.answer().await.text(), "/first");
}

#[tokio::test]
async fn a_try_that_lost_leaves_its_place_to_who_waits() {
    let asked = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let go = Arc::new(Semaphore::new(0));
    // The first of all hangs. The second answers when it may, and of that only the head and a piece before it may go on.
    let serve = {
        let (asked, go) = (asked.clone(), go.clone());
        move |mut stream: tokio::net::TcpStream, _, _| {
            let (asked, go) = (asked.clone(), go.clone());
            async move {
                let mut buffer = Vec::new();
                while let Some(head) = read_head(&mut stream, &mut buffer).await {
                    let number = {
                        let mut asked = asked.lock().unwrap();
                        asked.push(head);
                        asked.len()
                    };
                    if number == 1 {
                        return std::future::pending().await;
                    }
                    for piece in ["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha", "lf"] {
                        if number == 2 {
                            go.acquire().await.unwrap().forget();
                        }
                        stream.write_all(piece.as_bytes()).await.unwrap();
                    }
                }
            }
        }
    };
    let origins = [Origin::connected(serve.clone()).await, Origin::connected(serve).await];
    let gateway =
        http_harness::Gateway::start(Setup::to(&[&origins[0], &origins[1]]).in_turns().with(|setup| {
            one_each(setup);
            setup.upstream().retries.mode = Mode::Failbackup;
            setup.upstream().retries.backup_after = BackupAfter::Time(Duration::from_millis(20));
        }));
    let gate = gate(&gateway);
    let mut first = sending(&gateway, "/first").await;
    until("there are two tries", || asked.lock().unwrap().len() == 2).await;
    let mut second = sending(&gateway, "/second").await;
    until("it waits", || gate.waiting() == 1).await;
    // The first try loses as soon as the second has the head of an answer, whose rest takes its time.
    go.add_permits(1);
    assert_eq!(second.answer().await.text(), "half");
    go.add_permits(1);
    assert_eq!(first.answer().await.text(), "half");
}

#[tokio::test]
async fn who_cannot_be_connected_to_has_room_for_who_waits() {
    let (address, full) = full();
    let (other, _let_go) = holding().await;
    let mut gateway =
        http_harness::Gateway::start(Setup::to_addresses(&[address]).for_tcp().in_turns().with(|setup| {
            one_each(setup);
            setup.upstream().timeouts.connect = PATIENT;
        }));
    let gate = gate(&gateway);
    let mut first = gateway.client().await;
    until("it is under way", || gate.in_flight() == 1).await;
    let mut second = gateway.client().await;
    until("it waits", || gate.waiting() == 1).await;
    gateway.offer("main", vec![put(other.address)]);
    offered(&gateway).await;
    // Nobody listens there any more: the first goes to the other endpoint, and the second finds out for itself.
    drop(full);
    assert_eq!(second.rest().await, "");
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 0));
    first.send("GET / HTTP/1.1\r\n\r\n").await;
    until("the first is where there is room", || other.seen().len() == 1).await;
}

#[tokio::test]
async fn a_try_of_a_call_that_failed_leaves_its_place_to_who_waits() {
    let go = Arc::new(Semaphore::new(0));
    let may_fail = go.clone();
    let failing = Origin::connected(move |stream, connection, _| {
        let (may_fail, mut frames) = (may_fail.clone(), Frames::new(stream));
        async move {
            while let Some(call) = frames.next().await {
                if connection == 0 {
                    return may_fail.acquire().await.unwrap().forget();
                }
                frames.answer(call).await;
            }
        }
    })
    .await;
    let other = Origin::connected(|stream, _, _| async move {
        let mut frames = Frames::new(stream);
        while frames.next().await.is_some() {}
    })
    .await;
    let mut gateway =
        http_harness::Gateway::start(Setup::to(&[&failing]).for_rpcx().in_turns().with(|setup| {
            one_each(setup);
            setup.rpcx_routes[0].repeatable = true;
        }));
    let gate = gate(&gateway);
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, b"x").await;
    until("it is under way", || gate.in_flight() == 1).await;
    client.call(2, b"x").await;
    until("it waits", || gate.waiting() == 1).await;
    gateway.offer("main", vec![put(other.address)]);
    offered(&gateway).await;
    go.add_permits(1);
    assert_eq!(in_time(client.next()).await.unwrap().number(), 2);
    until("the first is where there is room", || other.connections() == 1).await;
}
