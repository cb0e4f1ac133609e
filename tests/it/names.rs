//! Services found by their name in a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
};

const BY_NAME: &str = r#"
[[route]]
path = "/svc/{service}"
registry = "memory"

[[route]]
service_header = "x-service"
registry = "memory"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_service_needs_no_configuration() {
    let gateway = Gateway::start(BY_NAME);
    let backend = Backend::start("mine").await;
    gateway.register("mine", "1", backend.address).await;

    assert_eq!(gateway.get("/svc/mine").await.text(), "mine");
    assert_eq!(gateway.get("/svc/mine/deep/path?x=1").await.text(), "mine");
    let named = http::Request::get("/anything").header("x-service", "mine");
    assert_eq!(gateway.session().send(named, Default::default()).await.text(), "mine");

    let unknown = gateway.get("/svc/nobody").await;
    assert_eq!((unknown.status, unknown.reason()), (StatusCode::NOT_FOUND, Some("unknown-service")));
    let nonsense = gateway.get("/svc/no%20body").await;
    assert_eq!(nonsense.status, StatusCode::NOT_FOUND, "{}", nonsense.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_leaves_gets_no_traffic_and_one_that_comes_gets_some() {
    let gateway = Gateway::start(BY_NAME);
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    gateway.register("pair", "1", one.address).await;
    assert_eq!(gateway.get("/svc/pair").await.text(), "one");
    gateway.register("pair", "2", two.address).await;
    until("the second gets traffic", || async { gateway.get("/svc/pair").await.text() == "two" }).await;
    gateway.withdraw("pair", "1").await;
    let mut session = gateway.session();
    until("the list has one endpoint", || async {
        gateway.api("/api/v1/upstreams/pair@memory").await["endpoints"].as_array().unwrap().len() == 1
    })
    .await;
    until("every worker has it", || async {
        let upstream = gateway.api("/api/v1/upstreams/pair@memory").await;
        let generation = &upstream["generation"];
        upstream["workers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|worker| worker["generation"] == *generation || worker["generation"] == 0)
    })
    .await;
    let before = one.requests();
    for _ in 0..50 {
        assert_eq!(session.get("/svc/pair").await.text(), "two");
    }
    assert_eq!(one.requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_one_route_refuses_is_refused_also_when_another_has_found_it() {
    let gateway = Gateway::start(
        "[[route]]
         path = '/public/{service}'
         registry = 'memory'
         pattern = 'shop-.*'
         services = { orders = 'shop-orders', internal = 'books' }
         [[route]]
         path = '/all/{service}'
         registry = 'memory'",
    );
    let (orders, books) = (Backend::start("orders").await, Backend::start("books").await);
    gateway.register("shop-orders", "1", orders.address).await;
    gateway.register("books", "1", books.address).await;
    let mut session = gateway.session();
    // More often than there are workers.
    for _ in 0..4 {
        assert_eq!(session.get("/all/books").await.text(), "books");
        let refused = session.get("/public/books").await;
        assert_eq!((refused.status, refused.reason()), (StatusCode::NOT_FOUND, Some("unknown-service")));
        assert_eq!(session.get("/public/shop-orders").await.text(), "orders");
        // What the operator wrote needs no pattern.
        assert_eq!(session.get("/public/orders").await.text(), "orders");
        assert_eq!(session.get("/public/internal").await.text(), "books");
        assert_eq!(session.get("/all/orders").await.status, StatusCode::NOT_FOUND);
    }
}

/// Ten thousand made-up names leave no watch and no memory behind, and nobody else's request is slow for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_of_made_up_names_leaves_nothing_behind() {
    let gateway = Arc::new(Gateway::start(BY_NAME));
    let backend = Backend::start("real").await;
    gateway.register("real", "1", backend.address).await;
    assert_eq!(gateway.get("/svc/real").await.text(), "real");

    let scan = |from: usize, to: usize| {
        let gateway = gateway.clone();
        async move {
            let mut scanners = tokio::task::JoinSet::new();
            for scanner in 0..4 {
                let mut session = gateway.session();
                scanners.spawn(async move {
                    for number in (from..to).filter(|number| number % 4 == scanner) {
                        let answer = session.get(&format!("/svc/made-up-{number}")).await;
                        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.text());
                    }
                });
            }
            while let Some(done) = scanners.join_next().await {
                done.unwrap();
            }
        }
    };
    // The first thousand warm up what is kept for good: instances, buffers, threads.
    scan(0, 1_000).await;
    let before = gateway.memory();

    // What else the machine does can only make it later: the soonest of some scans counts.
    let mut slow = Vec::new();
    for round in 1..10 {
        let scanning = Arc::new(AtomicBool::new(true));
        let others = tokio::spawn({
            let (gateway, scanning) = (gateway.clone(), scanning.clone());
            async move {
                let mut session = gateway.session();
                let mut times = Vec::new();
                while scanning.load(Relaxed) || times.len() < 100 {
                    let start = Instant::now();
                    assert_eq!(session.get("/svc/real").await.text(), "real");
                    times.push(start.elapsed());
                }
                times.sort();
                times[times.len() * 99 / 100]
            }
        });
        scan(round * 1_000, (round + 1) * 1_000).await;
        scanning.store(false, Relaxed);
        slow.push(others.await.unwrap());
    }
    slow.sort();

    until("no service is followed but the real one", || async {
        let upstreams = gateway.api("/api/v1/upstreams").await;
        let names: Vec<_> =
            upstreams["upstreams"].as_array().unwrap().iter().map(|u| u["name"].clone()).collect();
        names == ["real@memory"]
    })
    .await;
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(!metrics.contains("made-up"), "names without endpoints get no labels");
    let grown = gateway.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more after 9,000 names");
    assert!(slow[2] < Duration::from_millis(200), "p99 of the requests of others, by scan: {slow:?}");
}
