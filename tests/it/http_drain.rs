//! Closing without hurting anybody, and what a panic hurts.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::{
    Request,
    body::{Body as _, Incoming},
};
use tokio::sync::{Notify, watch};
use witgate::{
    server::{self, Arrival, Lineup, Listener, Server, Workers},
    telemetry::ProcessMetrics,
};

use crate::{
    http_harness::{Gateway, Setup, listener},
    support::{
        client::{Client, LONG, until},
        gateway::PATIENCE,
        origin::{Origin, Reply},
    },
};

/// Answers when it is told to.
async fn waiting(go_on: Arc<Notify>) -> Origin {
    Origin::connected(move |mut stream, _, seen| {
        let go_on = go_on.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = crate::support::origin::read_request(&mut stream, &mut buffer, 0).await
            {
                seen.lock().unwrap().push(request);
                go_on.notified().await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_under_way_is_finished_before_the_connection_closes() {
    let go_on = Arc::new(Notify::new());
    let origin = waiting(go_on.clone()).await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the request is at the endpoint", || origin.seen().len() == 1).await;
    gateway.close(LONG);
    let address = gateway.address;
    until("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    go_on.notify_one();
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    client.closed().await;
    gateway.ended().await;
}

#[tokio::test]
async fn idle_connections_close_at_once_and_new_ones_are_not_taken() {
    let origin = Origin::start("ok").await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut used = gateway.client().await;
    assert_eq!(used.get("/").await.status, 200);
    let mut silent = gateway.client().await;
    until("both are taken", || gateway.metrics.listeners()[0].accepted == 2).await;
    let started = Instant::now();
    gateway.close(LONG * 6);
    used.closed().await;
    silent.closed().await;
    gateway.ended().await;
    assert!(started.elapsed() < LONG * 3);
    assert!(tokio::net::TcpStream::connect(gateway.address).await.is_err());
    assert_eq!(gateway.metrics.listeners()[0].open, 0);
}

#[tokio::test]
async fn before_it_closes_every_answer_says_that_its_connection_does() {
    let go_on = Arc::new(Notify::new());
    let (slow, quick) = (waiting(go_on.clone()).await, Origin::start("quick").await);
    let mut gateway = Gateway::start(Setup::to(&[&quick]).with(|setup| {
        setup.upstreams.push((crate::http_harness::upstream("slow"), vec![slow.address]));
        setup.routes.insert(0, crate::http_harness::route("/slow", "slow"));
    }));
    let (mut idle, mut client) = (gateway.client().await, gateway.client().await);
    assert_eq!(idle.get("/").await.header("connection"), None);
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the request is at the endpoint", || slow.seen().len() == 1).await;
    gateway.leave();
    // Each worker hears of it in its own time.
    let started = Instant::now();
    let mut closing = 0;
    while closing < 20 {
        let mut new = gateway.client().await;
        match new.get("/").await.header("connection") {
            Some("close") => {
                new.closed().await;
                closing += 1;
            }
            _ => closing = 0,
        }
        assert!(started.elapsed() < LONG);
    }
    go_on.notify_one();
    assert_eq!(client.answer().await.header("connection"), Some("close"));
    client.closed().await;
    // Whoever is idle may still ask.
    assert_eq!(idle.get("/").await.header("connection"), Some("close"));
    idle.closed().await;
    gateway.close(LONG);
    gateway.ended().await;
}

#[tokio::test]
async fn a_head_that_has_begun_is_answered_and_line_ends_are_nothing() {
    let origin = Origin::start("ok").await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut begun = Vec::new();
    for used in [false, true] {
        for head in ["\r\n", "GET / HTTP/1.1\r\nho"] {
            let mut client = gateway.client().await;
            if used {
                assert_eq!(client.get("/").await.status, 200);
            }
            client.send(head).await;
            begun.push((client, head.len() > 2));
        }
    }
    until("they are taken", || gateway.open() == 4).await;
    // What was sent has arrived: other clients that came later are answered.
    for _ in 0..8 {
        assert_eq!(gateway.client().await.get("/").await.status, 200);
    }
    let started = Instant::now();
    gateway.close(LONG);
    for (mut client, is_head) in begun {
        if is_head {
            client.send("st: a\r\n\r\n").await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        }
        client.closed().await;
    }
    gateway.ended().await;
    assert!(started.elapsed() < LONG / 2);
}

#[tokio::test]
async fn draining_ends_with_its_bound() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("the request is at the endpoint", || origin.seen().len() == 1).await;
    gateway.close(Duration::from_millis(100));
    gateway.ended().await;
    client.closed().await;
}

/// A server without anything behind it: answers are made of requests at once.
fn serve(answer: fn(Request<Incoming>) -> String) -> (SocketAddr, watch::Sender<Lineup>, Workers) {
    let listener = Listener::bind(Arc::new(listener()), None, 1, &ProcessMetrics::new(1), &[]).unwrap();
    let address = listener.address();
    let (lineup, followed) = watch::channel(Lineup::of(vec![listener]));
    let run = move |index, ()| {
        let followed = followed.clone();
        async move {
            let arrived = move |arrival: Arrival| {
                let body = Text(Some(answer(arrival.request.unwrap())));
                std::future::ready(hyper::Response::new(body))
            };
            let answers = move |_: &Listener, _: &Rc<server::ConnInfo>| arrived;
            server::serve(Server::new(index, Rc::default(), answers, None), followed).await;
        }
    };
    (address, lineup, Workers::start(vec![()], run).unwrap())
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_no_other() {
    let (address, closer, workers) = serve(|request| {
        let path = request.uri().path();
        assert_ne!(path, "/panic", "as asked");
        path.to_owned()
    });
    let (mut one, mut other) = (Client::connect(address).await, Client::connect(address).await);
    assert_eq!(one.get("/fine").await.text(), "/fine");
    one.send("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
    one.closed().await;
    assert_eq!(other.get("/also-fine").await.text(), "/also-fine");
    assert_eq!(Client::connect(address).await.get("/new").await.text(), "/new");
    drop(other);
    closer.send_modify(|lineup| lineup.close(LONG));
    drop(closer);
    assert!(workers.join());
}

#[tokio::test]
async fn the_rest_of_an_answered_request_is_not_waited_for_whoever_would_take_it() {
    let (address, closer, workers) = serve(|request| {
        let mut body = request.into_body();
        // Takes it for ever.
        tokio::task::spawn_local(async move {
            while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
        });
        "early".to_owned()
    });
    let mut client = Client::connect(address).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "early");
    let answered = Instant::now();
    while tokio::io::AsyncWriteExt::write_all(&mut client.stream, b"more of it").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(answered.elapsed() < 2 * LONG, "it is still listened to");
    }
    closer.send_modify(|lineup| lineup.close(LONG));
    drop(closer);
    assert!(workers.join());
}

/// A body of one frame.
struct Text(Option<String>);

impl hyper::body::Body for Text {
    type Data = hyper::body::Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|text| Ok(hyper::body::Frame::data(text.into()))))
    }
}

#[tokio::test]
async fn lists_and_tables_change_under_load_without_a_failed_request() {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let mut gateway = Gateway::start(Setup::to(&[&origins[0]]).with(|setup| setup.workers = 2));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let counts: Arc<[AtomicUsize; 4]> = Arc::default();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..counts.len() {
        let (mut client, stop, counts) = (gateway.client().await, stop.clone(), counts.clone());
        clients.spawn(async move {
            while !stop.load(Relaxed) {
                let answer = client.get("/").await;
                assert_eq!(answer.status, 200, "{}", answer.head);
                counts[number].fetch_add(1, Relaxed);
            }
        });
    }
    let settings = witgate::config::Upstream::clone(&gateway.upstream("main").config);
    let started = Instant::now();
    for round in 0.. {
        if round >= 200 && counts.iter().all(|count| count.load(Relaxed) > 20) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{counts:?}");
        let (old, new) = (origins[round % 3].address, origins[(round + 1) % 3].address);
        gateway.offer("main", vec![crate::http_harness::put(new)]);
        gateway.offer("main", vec![witgate::upstream::Offer::Remove(old)]);
        match round % 3 {
            0 => gateway.replace(settings.clone()),
            1 => gateway.publish(|config| config.routes.reverse()),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stop.store(true, Relaxed);
    clients.join_all().await;
    assert!(origins.iter().all(|origin| !origin.seen().is_empty()));
}
