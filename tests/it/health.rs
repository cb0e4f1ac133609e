//! Requests tell which backends fail: these get no more of them, and come back when they are well.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

use http::StatusCode;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};

use crate::support::{
    client::Client,
    gateway::{Gateway, PATIENCE, until},
    origin::{Origin, Reply},
    traffic::Traffic,
};

/// An upstream of these addresses, known for long enough that nothing is forgiven.
fn upstream(addresses: &[SocketAddr], settings: &str) -> String {
    let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        r#"
[registry.fixed]
plugin = "static"
settings = {{ endpoints = [{}] }}

[upstream.orders]
service = "orders"
registry = "fixed"
selector = "round-robin"
{settings}

[[route]]
path = "/"
upstream = "orders"
"#,
        addresses.join(", ")
    )
}

const NO_GRACE: &str = "health = { grace_ms = 0 }";

async fn orders(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders").await
}

async fn generation(gateway: &Gateway) -> u64 {
    orders(gateway).await["generation"].as_u64().unwrap()
}

/// Sends requests until the upstream is as it should be; each must be answered with 200.
async fn serve_until(gateway: &Gateway, what: &str, is: impl Fn(&Value) -> bool) {
    let (mut session, start) = (gateway.session(), Instant::now());
    loop {
        for _ in 0..10 {
            assert_eq!(session.get("/").await.status, StatusCode::OK);
        }
        if is(&orders(gateway).await) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
    }
}

fn ejected(upstream: &Value) -> Vec<(String, String)> {
    let list = upstream["ejected"].as_array().unwrap().iter();
    list.map(|of| (of["address"].as_str().unwrap().into(), of["reason"].as_str().unwrap().into())).collect()
}

/// An address that refuses connections until somebody listens there.
fn reserved() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn answer_for_ever(listener: TcpListener) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_is_taken_out_and_returns_when_it_listens() {
    let well = [Origin::start("a").await, Origin::start("b").await];
    let (socket, gone) = reserved();
    let gateway = Gateway::start(&upstream(&[well[0].address, well[1].address, gone], NO_GRACE));
    serve_until(&gateway, "it is taken out", |orders| {
        ejected(orders) == [(gone.to_string(), "connections".into())] && orders["endpoint_count"] == 2
    })
    .await;

    let serving = tokio::spawn(answer_for_ever(socket.listen(64).unwrap()));
    serve_until(&gateway, "it is back", |orders| orders["endpoint_count"] == 3).await;
    let mut session = gateway.session();
    until("it answers", || async { gateway.get("/").await.text() == "up" }).await;
    assert_eq!(session.get("/").await.status, StatusCode::OK);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_is_taken_out_after_some_timeouts_and_no_more() {
    let hanging = Origin::replying(|_| Reply::Hang).await;
    let well = [Origin::start("a").await, Origin::start("b").await];
    // The others answer by then, however busy the machine is.
    let settings =
        "health = { failures = 3, eject_ms = 60000, grace_ms = 0 }\ntimeouts = { response_ms = 2000 }";
    let addresses = [well[0].address, well[1].address, hanging.address];
    let gateway = Gateway::start(&upstream(&addresses, settings));
    let (mut session, mut timeouts) = (gateway.session(), 0);
    while orders(&gateway).await["ejected_count"] != 1 {
        let answer = session.get("/").await;
        timeouts += usize::from(answer.status == StatusCode::GATEWAY_TIMEOUT);
    }
    assert!((3..=6).contains(&timeouts), "{timeouts}");
    assert_eq!(ejected(&orders(&gateway).await), [(hanging.address.to_string(), "failures".into())]);
    until("the workers know", || async {
        let orders = orders(&gateway).await;
        let workers = orders["workers"].as_array().unwrap();
        workers.iter().all(|of| of["generation"] == 0 || of["generation"] == orders["generation"])
    })
    .await;
    for _ in 0..30 {
        assert_eq!(gateway.get("/").await.status, StatusCode::OK);
    }
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let line = format!("witgate_endpoint_failures_total{{upstream=\"orders\",kind=\"timeout\"}} {timeouts}");
    assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_answers_503_is_taken_out_and_tried_again() {
    for retries in ["", "retries = 0"] {
        taken_out_and_tried_again(retries).await;
    }
}

async fn taken_out_and_tried_again(retries: &str) {
    let down = Arc::new(AtomicBool::new(true));
    let says = down.clone();
    let moody = Origin::replying(move |_| match says.load(Relaxed) {
        true => Reply::status(503),
        false => Reply::text("up"),
    })
    .await;
    let well = [Origin::start("a").await, Origin::start("b").await];
    let settings = format!("health = {{ failures = 3, eject_ms = 300, grace_ms = 0 }}\n{retries}");
    let addresses = [well[0].address, well[1].address, moody.address];
    let gateway = Gateway::start(&upstream(&addresses, &settings));
    let mut session = gateway.session();
    let taken_out = loop {
        session.get("/").await;
        let orders = orders(&gateway).await;
        if orders["ejected_count"] == 1 {
            break orders;
        }
    };
    assert_eq!(ejected(&taken_out), [(moody.address.to_string(), "failures".into())]);
    down.store(false, Relaxed);
    until("it answers again", || async { gateway.get("/").await.text() == "up" }).await;
    until("it stays", || async { orders(&gateway).await["ejected_count"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_whose_answers_break_off_is_taken_out() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal";
    let broken = Origin::replying(|_| Reply::Close(half.into())).await;
    let well = [Origin::start("a").await, Origin::start("b").await];
    let addresses = [well[0].address, well[1].address, broken.address];
    let gateway = Gateway::start(&upstream(&addresses, "health = { failures = 3, grace_ms = 0 }"));
    until("it is taken out", || async {
        for _ in 0..3 {
            let mut client = Client::connect(gateway.address()).await;
            client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            client.try_answer(false).await;
        }
        orders(&gateway).await["ejected_count"] == 1
    })
    .await;
    let out = ejected(&orders(&gateway).await);
    assert_eq!(out, [(broken.address.to_string(), "failures".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_requests_take_out_no_more_than_their_share() {
    let failing = || async { Origin::replying(|_| Reply::status(503)).await };
    let (a, b, c) = (failing().await, failing().await, failing().await);
    let well = Origin::start("well").await;
    let addresses = [a.address, b.address, c.address, well.address];
    let settings = "health = { failures = 1, eject_ms = 60000, grace_ms = 0 }";
    let gateway = Gateway::start(&upstream(&addresses, settings));
    let mut session = gateway.session();
    until("half of them are out", || async {
        gateway.get("/").await;
        orders(&gateway).await["ejected_count"] == 2
    })
    .await;
    for _ in 0..40 {
        session.get("/").await;
    }
    let orders = orders(&gateway).await;
    assert_eq!((&orders["ejected_count"], &orders["endpoint_count"]), (&2.into(), &2.into()), "{orders}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_backend_that_is_not_up_yet_is_not_punished() {
    let well = [Origin::start("a").await, Origin::start("b").await];
    let (socket, new) = reserved();
    // Were it punished, it would be out for a minute.
    let settings = "health = { connect_failures = 1, eject_ms = 60000, grace_ms = 30000 }";
    let gateway = Gateway::start(&upstream(&[well[0].address, well[1].address, new], settings));
    serve_until(&gateway, "it is starting", |orders| {
        ejected(orders) == [(new.to_string(), "starting".into())]
    })
    .await;
    let serving = tokio::spawn(answer_for_ever(socket.listen(64).unwrap()));
    serve_until(&gateway, "it gets requests", |orders| orders["endpoint_count"] == 3).await;
    until("it answers", || async { gateway.get("/").await.text() == "up" }).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_asks_who_is_there_finds_another_service_at_the_address() {
    let named = |name: &'static str| move |_: &crate::support::origin::Seen| Reply::text(name);
    let well = Origin::replying(named("service=orders")).await;
    let stranger = Origin::replying(named("service=users")).await;
    let settings =
        "check = { http = { path = \"/\", body = \"service=orders\" }, interval_ms = 50, fall = 2 }";
    let gateway = Gateway::start(&upstream(&[well.address, stranger.address], settings));
    until("the stranger is out", || async {
        ejected(&orders(&gateway).await) == [(stranger.address.to_string(), "checks".into())]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_returns_is_tried_by_one_request_at_a_time() {
    const CLIENTS: usize = 8;
    let well = Arc::new(AtomicBool::new(false));
    let flag = well.clone();
    let odd =
        Origin::replying(move |_| if flag.load(Relaxed) { Reply::text("odd") } else { Reply::Hang }).await;
    let even = Origin::start("even").await;
    // The other answers by then, however busy the machine is.
    let settings = "health = { failures = 3, eject_ms = 100, max_eject_ms = 100, grace_ms = 0 }\n\
                    timeouts = { response_ms = 1000 }";
    let gateway = Gateway::start(&upstream(&[even.address, odd.address], settings));
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    // It is out for the second time: what was under way when it first went out has arrived long ago.
    until("it was tried once", || async { generation(&gateway).await >= 4 }).await;
    let (returns, tried) = (generation(&gateway).await / 2, odd.seen().len() as u64);
    until("it was tried some more times", || async { odd.seen().len() as u64 >= tried + 10 }).await;
    let tried = odd.seen().len() as u64 - tried;
    // Each time it is out, and each time it is in, is a generation. The last return before may not have been used yet.
    let returns = generation(&gateway).await / 2 - returns;
    assert!(tried <= returns + 1, "{tried} requests, {returns} returns");

    well.store(true, Relaxed);
    let hung = odd.seen().len() as u64;
    traffic.reaches("odd", Instant::now()).await;
    let before = odd.seen().len();
    traffic.more(200).await;
    assert!(odd.seen().len() - before > 50, "it has its share again");
    traffic.stop().await.at_most_failed(hung);
}
