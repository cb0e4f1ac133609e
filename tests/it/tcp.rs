//! Connections that are passed on as they are.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use witgate::{
    config,
    net::ProxyVersion,
    resilience::{Bounds, BreakerPolicy},
    telemetry::Refused,
    upstream::{Figures, Offer},
};

use crate::{
    http_harness::{Gateway, Setup, tcp_route, upstream},
    support::{
        certs::Certs,
        client::{LONG, until},
        gateway,
        http2::in_time,
        origin::Origin,
        tls::{self, TlsOrigin},
    },
};

const SHORT: Duration = Duration::from_millis(300);

/// Says its name, and then what the client has sent once that has closed.
async fn echo(name: &'static str) -> Origin {
    Origin::connected(move |mut stream, _, _| async move {
        let mut all = Vec::new();
        stream.write_all(name.as_bytes()).await.unwrap();
        if stream.read_to_end(&mut all).await.is_ok() {
            let _ = stream.write_all(&all).await;
        }
    })
    .await
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// All that comes, or how it broke off.
async fn rest(stream: &mut TcpStream) -> Result<String, ErrorKind> {
    let mut all = Vec::new();
    let read = in_time(stream.read_to_end(&mut all)).await;
    read.map(|_| String::from_utf8(all).unwrap()).map_err(|error| error.kind())
}

/// What comes of a message and a close.
async fn say(address: SocketAddr, message: &str) -> Result<String, ErrorKind> {
    // Who is reset at once may hear of it when it connects.
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.kind())?;
    let _ = stream.write_all(message.as_bytes()).await;
    let _ = stream.shutdown().await;
    rest(&mut stream).await
}

fn figures(gateway: &Gateway) -> Vec<Figures> {
    gateway.upstream("main").reader.snapshot().iter().map(|member| member.stats().figures()).collect()
}

fn in_flight(gateway: &Gateway) -> u64 {
    figures(gateway).iter().map(|figures| u64::from(figures.in_flight)).sum()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_one_side_may_close_first() {
    let origin = echo("hello ").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp());
    assert_eq!(say(gateway.address, "world").await.unwrap(), "hello world");
    until("it is over", || in_flight(&gateway) == 0).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let mut first = [0; 6];
    in_time(stream.read_exact(&mut first)).await.unwrap();
    assert_eq!((&first, in_flight(&gateway)), (b"hello ", 1), "whoever serves may speak first");
    drop(stream);
    until("it is over", || gateway.upstream("main").metrics.counts().carried.connections == 2).await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.carried.received, counts.carried.sent), (5, 17));
    assert_eq!((counts.cut, counts.requests, in_flight(&gateway)), ([0; 3], 2, 0));
}

#[tokio::test]
async fn what_is_much_passes_whole_and_no_faster_than_it_is_taken() {
    const MUCH: usize = 64 << 20;
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp());
    let (mut from, mut to) = TcpStream::connect(gateway.address).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        let piece: Vec<u8> = (0..MUCH).map(|number| number as u8).collect();
        to.write_all(&piece).await.unwrap();
        to.shutdown().await.unwrap();
    });
    // Nobody takes it: so it is not taken from the client either, but for what buffers hold.
    assert!(
        tokio::time::timeout(SHORT, async {
            while !sending.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err()
    );
    go_on.notify_one();
    let mut all = Vec::new();
    tokio::time::timeout(2 * LONG, from.read_to_end(&mut all)).await.unwrap().unwrap();
    sending.await.unwrap();
    assert_eq!(all.len(), MUCH);
    assert!(all.iter().enumerate().all(|(number, byte)| *byte == number as u8));
}

#[tokio::test]
async fn who_cannot_be_connected_to_is_left_for_another() {
    let gone = { Origin::start("gone").await.address };
    let origin = echo("there ").await;
    let gateway = Gateway::start(Setup::to_addresses(&[gone, origin.address]).for_tcp().in_turns());
    for _ in 0..6 {
        assert_eq!(say(gateway.address, "x").await.unwrap(), "there x");
    }
    let counts = gateway.upstream("main").metrics.counts();
    assert!(counts.retried() > 0 && counts.failures[0] > 0, "{counts:?}");
    let failures: u64 = figures(&gateway).iter().map(|figures| figures.failures).sum();
    assert_eq!(failures, counts.failures[0]);
    assert!(figures(&gateway).iter().all(|figures| figures.latency > Duration::ZERO));

    let gateway = Gateway::start(Setup::to_addresses(&[gone]).for_tcp());
    assert_eq!(say(gateway.address, "x").await, Err(ErrorKind::ConnectionReset));
    assert_eq!(in_flight(&gateway), 0);
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.retried(), counts.failures), (0, [1, 0, 0, 0]), "it is not asked once more");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one() {
    // Of the endpoint.
    let origin = Origin::connected(|mut stream, _, _| async move {
        let _ = stream.read_u8().await;
        reset(&stream);
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp());
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    let metrics = gateway.upstream("main").metrics.clone();
    until("it is counted", || metrics.counts().cut == [0, 1, 0]).await;

    // Of the client.
    let (seen, told) = (Arc::new(std::sync::Mutex::new(None)), Arc::new(Notify::new()));
    let (note, tell) = (seen.clone(), told.clone());
    let origin = Origin::connected(move |mut stream, _, _| {
        let (note, tell) = (note.clone(), tell.clone());
        async move {
            stream.read_u8().await.unwrap();
            tell.notify_one();
            *note.lock().unwrap() = Some(rest(&mut stream).await);
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp());
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    in_time(told.notified()).await;
    reset(&stream);
    drop(stream);
    until("it is seen", || *seen.lock().unwrap() == Some(Err(ErrorKind::ConnectionReset))).await;
    let metrics = gateway.upstream("main").metrics.clone();
    until("it is counted", || metrics.counts().cut == [1, 0, 0]).await;
}

#[tokio::test]
async fn a_connection_that_is_silent_ends_and_one_that_has_closed_on_one_side_sooner() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        // Takes all, and never closes.
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        let _ = stream.readable().await;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway =
        Gateway::start(Setup::to(&[&origin]).for_tcp().with(|setup| setup.listener.tunnel_idle = SHORT));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(SHORT / 5).await;
        stream.write_all(b"x").await.unwrap();
    }
    assert!(began.elapsed() >= SHORT * 2);
    assert_eq!(rest(&mut stream).await.unwrap(), "");

    let gateway =
        Gateway::start(Setup::to(&[&origin]).for_tcp().with(|setup| setup.listener.idle_timeout = SHORT));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert!(tokio::time::timeout(2 * SHORT, stream.read_u8()).await.is_err(), "it may be silent");
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await.unwrap(), "");
    until("it is over", || in_flight(&gateway) == 0).await;
}

#[tokio::test]
async fn limits_and_the_end_of_the_gateway_hold_for_connections() {
    let origin = echo("there ").await;
    let setup = Setup::to(&[&origin]).for_tcp().with(|setup| {
        setup.upstream().limits = Some(config::Limits {
            bounds: Bounds { min: 1, max: 1 },
            per_endpoint: None,
            queue: 0,
            queue_time: Duration::ZERO,
        });
    });
    let mut gateway = Gateway::start(setup);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    in_time(stream.read_u8()).await.unwrap();
    assert_eq!(say(gateway.address, "x").await, Err(ErrorKind::ConnectionReset));
    let metrics = gateway.upstream("main").metrics.clone();
    assert_eq!(metrics.counts().not_sent[Refused::InFlightLimit as usize], 1);
    // It goes on until the time for that is over.
    gateway.leave();
    gateway.close(SHORT);
    assert!(
        tokio::time::timeout(SHORT / 2, async { while stream.read_u8().await.is_ok() {} }).await.is_err()
    );
    let _ = rest(&mut stream).await;
    gateway.ended().await;
    assert_eq!(metrics.counts().cut, [0, 0, 1]);
}

#[tokio::test]
async fn a_breaker_sees_which_connections_could_be_made() {
    let gone = { Origin::start("gone").await.address };
    let origins = [echo("a").await, echo("b").await, echo("c").await, echo("d").await];
    let mut addresses = origins.each_ref().map(|origin| origin.address).to_vec();
    addresses.push(gone);
    let gateway = Gateway::start(Setup::to_addresses(&addresses).for_tcp().in_turns().with(|setup| {
        let upstream = setup.upstream();
        upstream.breaker = Some(BreakerPolicy::default());
        upstream.retries.most = 0;
        upstream.reliability.health.connect_failures = 1_000;
    }));
    let mut failed = 0;
    for _ in 0..50 {
        failed += usize::from(say(gateway.address, "").await.is_err());
    }
    assert!((8..=12).contains(&failed), "{failed}");
    let upstream = gateway.upstream("main");
    let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
    assert!(!breaker.is_open(&policy, Instant::now()), "one in five is not so many");

    // With another try or without.
    for most in [0, 1] {
        let gateway = Gateway::start(Setup::to_addresses(&[gone]).for_tcp().with(|setup| {
            setup.upstream().breaker = Some(BreakerPolicy::default());
            setup.upstream().retries.most = most;
        }));
        for _ in 0..20 {
            let _ = say(gateway.address, "").await;
        }
        let upstream = gateway.upstream("main");
        let (breaker, policy) = (upstream.breaker.clone().unwrap(), upstream.config.breaker.clone().unwrap());
        assert!(breaker.is_open(&policy, Instant::now()), "{most}");
    }
}

#[tokio::test]
async fn a_connection_that_is_made_is_a_success_and_a_limit_loses_nothing_by_it() {
    let origin = echo("there ").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp().with(|setup| {
        setup.upstream().limits = Some(config::Limits {
            bounds: Bounds { min: 2, max: 20 },
            per_endpoint: None,
            queue: 0,
            queue_time: Duration::ZERO,
        });
    }));
    let snapshot = gateway.upstream("main").reader.snapshot();
    let stats = snapshot.iter().next().unwrap().stats();
    stats.record(Instant::now(), Duration::ZERO, false);
    for _ in 0..10 {
        assert_eq!(say(gateway.address, "x").await.unwrap(), "there x");
    }
    let figures = stats.figures();
    assert_eq!((figures.consecutive_failures, figures.failures), (0, 1));
    assert!(figures.success > 0.0);
    assert_eq!(gateway.upstream("main").gate.as_ref().unwrap().limit(), 20);
}

#[tokio::test]
async fn an_endpoint_that_resets_what_it_is_sent_has_broken_the_connection() {
    let (go, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (full, goes) = (go.clone(), let_go.clone());
    let origin = Origin::connected(move |stream, _, _| {
        let (full, goes) = (full.clone(), goes.clone());
        async move {
            full.notify_one();
            goes.notified().await;
            reset(&stream);
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp());
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    in_time(go.notified()).await;
    // It takes nothing, until nobody in between takes anything either.
    let piece = vec![b'x'; 1 << 20];
    while tokio::time::timeout(SHORT, stream.write_all(&piece)).await.is_ok() {}
    let_go.notify_one();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
    let metrics = gateway.upstream("main").metrics.clone();
    until("it is counted", || metrics.counts().cut == [0, 1, 0]).await;
}

#[tokio::test]
async fn a_connection_to_an_endpoint_that_has_left_ends_without_anybodys_fault() {
    let origin = echo("there ").await;
    let setup = Setup::to(&[&origin]).for_tcp();
    let mut gateway = Gateway::start(setup.with(|setup| setup.upstream().leave = Some(SHORT)));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    in_time(stream.read_u8()).await.unwrap();
    let (metrics, began) = (gateway.upstream("main").metrics.clone(), Instant::now());
    gateway.offer("main", vec![Offer::Remove(origin.address)]);
    let _ = rest(&mut stream).await;
    assert!(began.elapsed() >= SHORT);
    until("it is counted", || metrics.counts().cut != [0; 3]).await;
    assert_eq!(
        (metrics.counts().cut, metrics.counts().left, metrics.counts().failures),
        ([0, 0, 1], 1, [0; 4])
    );
}

#[tokio::test]
async fn a_client_goes_where_the_name_leads_that_it_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let origin = async |names: &[&str]| {
        let pair = certs.of(names[0], names);
        TlsOrigin::start(tls::server(&pair, None, &["http/1.1"])).await
    };
    let (one, any, plain) =
        (origin(&["one.test"]).await, origin(&["two.test", "three.test"]).await, echo("plain ").await);
    let setup = Setup::to_addresses(&[one.address]).for_tcp().with(|setup| {
        setup.upstreams.push((upstream("any"), vec![any.address]));
        setup.upstreams.push((upstream("plain"), vec![plain.address]));
        setup.tcp_routes = vec![
            tcp_route(Some("one.test"), "main"),
            tcp_route(Some("*.test"), "any"),
            tcp_route(None, "plain"),
        ];
    });
    let gateway = Gateway::start(setup);
    for (name, count) in [("one.test", [1, 0]), ("two.test", [1, 1]), ("three.test", [1, 2])] {
        // In one piece, and byte by byte.
        let config = tls::client(&certs.ca(), None, &[]);
        let mut stream = tls::connect(&config, gateway.address, name).await.unwrap();
        stream.write_all(tls::get("/").as_bytes()).await.unwrap();
        assert!(tls::read_head(&mut stream).await.unwrap().starts_with("HTTP/1.1 200"), "{name}");
        assert_eq!([one.greeted().len(), any.greeted().len()], count, "{name}");
    }
    // What is no TLS names nobody.
    assert_eq!(say(gateway.address, "SSH-2.0-x\r\n").await.unwrap(), "plain SSH-2.0-x\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_in_pieces_is_put_together_and_passed_on_whole() {
    let origin = echo("").await;
    let setup = Setup::to(&[&origin]).for_tcp().with(|setup| {
        setup.tcp_routes = vec![tcp_route(Some("one.test"), "main")];
        setup.listener.header_timeout = SHORT;
    });
    let gateway = Gateway::start(setup);
    let hello = tls::hello("one.test");
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in hello.chunks(hello.len() / 5 + 1) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    in_time(stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, hello);
    // Who says half of it, or nothing, is not waited for; and what leads nowhere is refused.
    for begun in [&hello[..40], &[]] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let _ = rest(&mut stream).await;
    }
    assert_eq!(origin.connections(), 1);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&tls::hello("two.test")).await.unwrap();
    assert_eq!(rest(&mut stream).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn an_endpoint_is_told_of_the_client_where_it_wants_to_know() {
    let origin = echo("").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).for_tcp().with(|setup| {
        setup.upstream().proxy_protocol = Some(ProxyVersion::V1);
    }));
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let ports = (stream.local_addr().unwrap().port(), gateway.address.port());
    stream.write_all(b"x").await.unwrap();
    stream.shutdown().await.unwrap();
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", ports.0, ports.1);
    assert_eq!(rest(&mut stream).await.unwrap(), format!("{header}x"));
}

#[tokio::test]
async fn the_same_client_goes_to_the_same_endpoint_where_that_is_asked_for() {
    let origins = [echo("a").await, echo("b").await, echo("c").await];
    let setup = Setup::to(&[&origins[0], &origins[1], &origins[2]]).for_tcp().with(|setup| {
        setup.upstream().selector.plugin = "consistent-hash".into();
    });
    let gateway = Gateway::start(setup);
    // Until every worker has its balancer, the native round robin picks.
    let one_for_all = async || {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..20 {
            names.insert(say(gateway.address, "").await.unwrap());
        }
        names.len() == 1
    };
    gateway::until("the key decides", one_for_all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_ended_and_services_are_found_by_the_name_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let pair = certs.of("orders.test", &["orders.test", "users.test"]);
    let gateway = gateway::Gateway::start(&format!(
        "[[listener]]
         name = 'tcp'
         address = '127.0.0.1:0'
         protocol = 'tcp'
         tls = {{ certificates = [{{ cert_file = '{}', key_file = '{}' }}] }}
         [[route]]
         listener = 'tcp'
         registry = 'memory'
         services = {{ 'orders.test' = 'orders' }}",
        pair.certificate.display(),
        pair.key.display()
    ));
    let origin = echo("orders ").await;
    gateway.register("orders", "1", origin.address).await;
    let config = tls::client(&certs.ca(), None, &["mysql"]);
    let mut stream = tls::connect(&config, gateway.listeners[1], "orders.test").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    in_time(stream.read_to_string(&mut all)).await.unwrap();
    assert_eq!(all, "orders hello");
    // Nobody has registered that.
    let mut stream = tls::connect(&config, gateway.listeners[1], "users.test").await.unwrap();
    assert!(in_time(stream.read_u8()).await.is_err());
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(metrics.contains("witgate_tcp_connections_total{upstream=\"orders@memory\"} 1"), "{metrics}");
    assert!(metrics.contains("witgate_tcp_bytes_total{upstream=\"orders@memory\",direction=\"received\"}"));
}
