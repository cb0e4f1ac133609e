//! TLS to endpoints: whom the gateway believes, what it says who it is, and what it shares.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    certs::Certs,
    gateway::{Gateway, until},
    http2::{self, Http2},
    origin::{Origin, Reply},
    secret::{Secret, Way, rename},
    tls::{TlsOrigin, mentions, read_head, server},
};

/// An upstream of the embedded `static` registry.
fn upstream(name: &str, endpoints: &str, settings: &str) -> String {
    format!(
        "[registry.{name}]
         plugin = 'static'
         settings = {{ endpoints = [{endpoints}] }}
         [upstream.{name}]
         service = '{name}'
         registry = '{name}'
         {settings}
         [[route]]
         path = '/{name}'
         upstream = '{name}'
         "
    )
}

fn named(address: SocketAddr, hostname: &str) -> String {
    format!("{{ address = '{address}', hostname = '{hostname}' }}")
}

fn quoted(address: SocketAddr) -> String {
    format!("'{address}'")
}

fn ca(certs: &Certs) -> String {
    format!("ca_file = '{}'", certs.ca().display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_asked_for_and_checked_by_the_name_that_is_written_then_its_own_then_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let own = certs.of("origin", &["orders.internal", "written.example", "127.0.0.1"]);
    let origin = TlsOrigin::start(server(&own, None, &["http/1.1"])).await;
    let address = origin.address;
    let tls = |more: &str| format!("tls = {{ {}{more} }}", ca(&certs));
    let text = [
        upstream("written", &named(address, "orders.internal"), &tls(", server_name = 'written.example'")),
        upstream("own", &named(address, "orders.internal"), &tls("")),
        // No fully qualified name, and nothing at all.
        upstream("short", &named(address, "orders"), &tls("")),
        upstream("none", &quoted(address), &tls("")),
        upstream("wrong", &named(address, "users.internal"), &tls("")),
        upstream("stranger", &quoted(address), "tls = true"),
        upstream("plain", &quoted(address), ""),
    ];
    let gateway = Gateway::start(&text.concat());
    for (path, name) in
        [("/written", "written.example"), ("/own", "orders.internal"), ("/short", "-"), ("/none", "-")]
    {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.text().lines().next()), (200, Some(name)), "{path}");
    }
    for path in ["/wrong", "/stranger"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (502, Some("tls-failed")), "{path}");
    }
    assert_eq!(gateway.get("/plain").await.status.as_u16(), 502);
    assert!(origin.greeted().iter().all(|greeted| greeted.protocol.as_deref() == Some("http/1.1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_a_certificate_that_is_believed_fails_over_and_is_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let (certs, others) = (Certs::new(&folder.path().join("a")), Certs::new(&folder.path().join("b")));
    let good = TlsOrigin::start(server(&certs.server(), None, &[])).await;
    let bad = TlsOrigin::start(server(&others.server(), None, &[])).await;
    let plain = Origin::replying(|_| Reply::text("plain")).await;
    let endpoints = [good.address, bad.address, plain.address].map(quoted).join(", ");
    let settings = format!("selector = 'round-robin'\nretries = 2\ntls = {{ {} }}", ca(&certs));
    let gateway = Gateway::start(&upstream("main", &endpoints, &settings));
    for _ in 0..30 {
        assert_eq!(gateway.get("/main").await.status.as_u16(), 200);
    }
    let ejected = || async {
        let shown = gateway.api("/api/v1/upstreams/main").await;
        shown["ejected"].as_array().map_or(0, Vec::len)
    };
    until("those without are taken out", || async {
        gateway.get("/main").await;
        ejected().await == 2
    })
    .await;
    assert!(bad.greeted().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_shows_its_certificate_and_says_so_when_it_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("a"));
    let gw = certs.client("gateway");
    let own = certs.server();
    let origin = TlsOrigin::start(server(&own, Some(&certs.ca()), &[])).await;
    let shows = format!(
        "tls = {{ {}, cert_file = '{}', key_file = '{}' }}",
        ca(&certs),
        gw.certificate.display(),
        gw.key.display()
    );
    let text = [
        upstream("with", &quoted(origin.address), &shows),
        upstream("without", &quoted(origin.address), &format!("tls = {{ {} }}", ca(&certs))),
    ];
    let gateway = Gateway::start(&text.concat());
    assert_eq!(gateway.get("/with").await.status.as_u16(), 200);
    assert!(gateway.get("/without").await.status.is_server_error());
    assert_eq!(gateway.get("/with").await.status.as_u16(), 200);
    assert!(origin.greeted().iter().all(|greeted| greeted.client));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_sessions_are_shared_by_a_policy_and_a_name_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let gw = certs.client("gateway");
    let own = certs.of("origin", &["a.internal", "b.internal", "127.0.0.1"]);
    let origin = TlsOrigin::start(server(&own, None, &[])).await;
    let address = origin.address;
    let tls = |more: &str| format!("tls = {{ {}{more} }}", ca(&certs));
    let shown = format!(", cert_file = '{}', key_file = '{}'", gw.certificate.display(), gw.key.display());
    let paths = ["one", "same", "a", "b", "shows"];
    let text = [
        upstream("one", &quoted(address), &tls("")),
        upstream("same", &quoted(address), &tls("")),
        upstream("a", &named(address, "a.internal"), &tls("")),
        upstream("b", &named(address, "b.internal"), &tls("")),
        upstream("shows", &quoted(address), &tls(&shown)),
    ];
    let text = text.concat();
    // Of one worker, so that it is known which connections there are.
    let gateway = Gateway::start(&text);
    let mut session = gateway.session();
    for _ in 0..3 {
        for path in paths {
            assert_eq!(session.get(&format!("/{path}")).await.status.as_u16(), 200, "{path}");
        }
    }
    let greeted = origin.greeted();
    assert_eq!(greeted.len(), 4, "`one` and `same` are the same way: {greeted:?}");
    assert!(greeted.iter().all(|greeted| !greeted.resumed), "{greeted:?}");
    // Another worker's, or a second one: a session is taken up.
    let mut sessions = Vec::new();
    while origin.greeted().len() == 4 {
        let mut session = gateway.session();
        session.get("/one").await;
        sessions.push(session);
        assert!(sessions.len() < 100);
    }
    assert!(origin.greeted()[4].resumed, "{:?}", origin.greeted());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_agreed_on_for_what_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let both = server(&certs.server(), None, &["h2", "http/1.1"]);
    let origin = TlsOrigin::serving(both, |stream, greeted| async move {
        if greeted.protocol.as_deref() == Some("h2") {
            return serve_http2(stream).await;
        }
        let mut stream = stream;
        while read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh1").await;
        }
    })
    .await;
    let old = TlsOrigin::start(server(&certs.server(), None, &["http/1.1"])).await;
    let tls = format!("tls = {{ {} }}", ca(&certs));
    let text = [
        upstream("auto", &quoted(origin.address), &tls),
        upstream("http2", &quoted(origin.address), &format!("protocol = 'http2'\n{tls}")),
        upstream("old", &quoted(old.address), &format!("protocol = 'http2'\n{tls}")),
        upstream(
            "health",
            &quoted(origin.address),
            &format!("{tls}\ncheck = {{ grpc = '', interval_ms = 100 }}"),
        ),
    ];
    let gateway = Gateway::start(&text.concat());
    assert_eq!(gateway.get("/auto").await.text(), "h1");
    let answer = gateway.get("/http2").await;
    assert_eq!(answer.text(), "https /http2", "by the scheme of the connection");
    let mut client = Http2::connect(gateway.address()).await;
    let mut call = http2::to(http::Method::POST, "/auto/Call");
    call.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    assert_eq!(client.request(call).await.text(), "https /auto/Call");
    let answer = gateway.get("/old").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (502, Some("tls-failed")));
    until("checks go over it", || async {
        let checked = origin.greeted().iter().filter(|of| of.protocol.as_deref() == Some("h2")).count();
        checked > 5
    })
    .await;
}

async fn serve_http2(stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut reply))) = connection.accept().await {
        let text = format!("{} {}", request.uri().scheme_str().unwrap_or("-"), request.uri().path());
        let Ok(mut body) = reply.send_response(http::Response::new(()), false) else { continue };
        let _ = body.send_data(text.into(), false);
        let ok = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let _ = body.send_trailers(ok);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_ask_by_tls_and_by_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let own = certs.of("origin", &["orders.internal"]);
    let origin = TlsOrigin::start(server(&own, None, &[])).await;
    let check = "check = { http = { path = '/health' }, interval_ms = 50 }";
    let settings = format!("{check}\ntls = {{ {} }}", ca(&certs));
    let text = [
        upstream("right", &named(origin.address, "orders.internal"), &settings),
        upstream("wrong", &named(origin.address, "users.internal"), &settings),
    ];
    let gateway = Gateway::start(&text.concat());
    let ejected = async |name: &str| {
        let shown = gateway.api(&format!("/api/v1/upstreams/{name}")).await;
        shown["ejected"].as_array().map_or(0, Vec::len)
    };
    until("who has another name is taken out", || async { ejected("wrong").await == 1 }).await;
    until("who has the right one is asked", || async { origin.greeted().len() > 20 }).await;
    assert_eq!(ejected("right").await, 0);
    assert!(origin.greeted().iter().all(|of| of.name.as_deref() == Some("orders.internal")));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_and_wrong_ones_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (certs, others) = (Certs::new(&folder.path().join("a")), Certs::new(&folder.path().join("b")));
    let (one, two) = (
        TlsOrigin::start(server(&certs.server(), None, &[])).await,
        TlsOrigin::start(server(&others.server(), None, &[])).await,
    );
    let file = folder.path().join("believed.pem");
    fs::copy(certs.ca(), &file).unwrap();
    // Connections are not kept, so that each request shakes hands.
    let settings =
        format!("pool = {{ max_idle = 0 }}\nretries = 0\ntls = {{ ca_file = '{}' }}", file.display());
    let text =
        [upstream("one", &quoted(one.address), &settings), upstream("two", &quoted(two.address), &settings)];
    let gateway = Gateway::start(&text.concat());
    let status = async |path: &str| gateway.get(path).await.status.as_u16();
    assert_eq!((status("/one").await, status("/two").await), (200, 502));
    rename(b"nobody", &file);
    gateway.logged("no certificate of an authority is in").await;
    assert_eq!(status("/one").await, 200);
    rename(&fs::read(others.ca()).unwrap(), &file);
    until("the others are believed", || async { status("/two").await == 200 }).await;
    until("and nobody else", || async { status("/one").await == 502 }).await;
}

/// Answers each request with the name in the certificate that the gateway shows.
async fn says_who_asks(config: Arc<rustls::ServerConfig>) -> TlsOrigin {
    TlsOrigin::serving(config, |mut stream, _| async move {
        let shown = stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone()).unwrap();
        let name = ["one", "two"].into_iter().find(|name| mentions(&shown, name)).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{name}");
        while read_head(&mut stream).await.is_some() {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_both_sides_are_exchanged_a_hundred_times_under_load_and_no_handshake_fails() {
    for way in Way::ALL {
        let folder = tempfile::tempdir().unwrap();
        // The endpoint is by one of the first two; the third is believed by every second file.
        let authorities = ["a", "b", "c"].map(|name| Certs::new(&folder.path().join(name)));
        let read = |path: &Path| fs::read(path).unwrap();
        let [a, b, c] = authorities.each_ref().map(|certs| read(&certs.ca()));
        let believed = [[&*a, &*b].concat(), [&*b, &*c, &*a].concat()];
        let clients = folder.path().join("clients.pem");
        fs::write(&clients, &believed[0]).unwrap();
        let shown = [authorities[0].client("one"), authorities[1].client("two")];
        let contents = [0, 1].map(|number| {
            let [certificate, key] = [read(&shown[number].certificate), read(&shown[number].key)];
            [("ca.pem", believed[number].clone()), ("tls.crt", certificate), ("tls.key", key)]
        });
        let files = |number: usize| contents[number % 2].each_ref().map(|(name, text)| (*name, &text[..]));
        let own = authorities.each_ref().map(|certs| server(&certs.server(), Some(&clients), &[]));
        let (main, third) = (says_who_asks(own[0].clone()).await, says_who_asks(own[2].clone()).await);

        let mut secret = Secret::new(folder.path().join("secret"), way, &files(0));
        let [ca, certificate, key] = ["ca.pem", "tls.crt", "tls.key"].map(|name| secret.at(name));
        // Connections are not kept, so that each request shakes hands, and a failure is not made good.
        let settings = format!(
            "pool = {{ max_idle = 0 }}\nretries = 0
             tls = {{ ca_file = '{}', cert_file = '{}', key_file = '{}' }}",
            ca.display(),
            certificate.display(),
            key.display()
        );
        let text = [
            upstream("main", &quoted(main.address), &settings),
            upstream("third", &quoted(third.address), &settings),
        ];
        let gateway = Arc::new(Gateway::start(&text.concat()));
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (mut session, over, sent) = (gateway.session(), over.clone(), sent.clone());
            clients.spawn(async move {
                while !over.load(Relaxed) {
                    let answer = session.get("/main").await;
                    assert_eq!((answer.status.as_u16(), answer.reason()), (200, None), "{way:?}");
                    sent.fetch_add(1, Relaxed);
                }
            });
        }
        for number in 1..=100 {
            let before = sent.load(Relaxed);
            main.exchange(own[number % 2].clone());
            secret.put(&files(number));
            until("somebody asks", || async { sent.load(Relaxed) > before }).await;
            // Some faster than anybody looks.
            if number % 9 == 0 {
                let name = ["one", "two"][number % 2];
                until(&format!("{way:?} {number} is shown"), || async {
                    gateway.get("/main").await.text() == name
                })
                .await;
                let status = [502, 200][number % 2];
                until(&format!("{way:?} {number} is believed"), || async {
                    gateway.get("/third").await.status.as_u16() == status
                })
                .await;
            }
        }
        over.store(true, Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        assert!(main.greeted().len() as u64 >= sent.load(Relaxed));
        let metrics = gateway.session_to_admin().get("/metrics").await.text();
        let failed = "witgate_endpoint_failures_total{upstream=\"main\"";
        let failed: Vec<_> = metrics.lines().filter(|line| line.starts_with(failed)).collect();
        assert!(!failed.is_empty() && failed.iter().all(|line| line.ends_with(" 0")), "{way:?}: {failed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_cut_off_is_not_taken_for_whole() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let origin = TlsOrigin::serving(server(&certs.server(), None, &[]), |mut stream, _| async move {
        let Some(head) = read_head(&mut stream).await else { return };
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\npart").await;
        let _ = stream.flush().await;
        match head.contains("/whole") {
            true => drop(stream.shutdown().await),
            // As somebody between would.
            false => drop(stream.into_inner().0.shutdown().await),
        }
    })
    .await;
    let tls = format!("tls = {{ {} }}", ca(&certs));
    let text =
        [upstream("whole", &quoted(origin.address), &tls), upstream("cut", &quoted(origin.address), &tls)];
    let gateway = Gateway::start(&text.concat());
    let read = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer).await;
        end.is_ok() && answer.ends_with(b"0\r\n\r\n")
    };
    assert!(read("/whole").await);
    assert!(!read("/cut").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_put_in_force_and_taken_away_while_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let over_tls = TlsOrigin::start(server(&certs.server(), None, &[])).await;
    let plain = Origin::replying(|_| Reply::text("plain")).await;
    let tls = format!("tls = {{ {} }}", ca(&certs));
    let (with, without) =
        (upstream("main", &quoted(over_tls.address), &tls), upstream("main", &quoted(plain.address), ""));
    let gateway = Gateway::start(&without);
    let text = async || gateway.get("/main").await.text();
    assert_eq!(text().await, "plain");
    gateway.reconfigure(&with);
    until("TLS is spoken", || async { text().await.starts_with("-\nGET /main") }).await;
    gateway.reconfigure(&without);
    until("TLS is spoken no more", || async { text().await == "plain" }).await;
    // The same address with another policy: nothing that is idle is of use.
    let other = Certs::new(&folder.path().join("other"));
    gateway.reconfigure(&with);
    until("TLS is spoken", || async { text().await.starts_with("-\n") }).await;
    gateway.reconfigure(&upstream("main", &quoted(over_tls.address), &format!("tls = {{ {} }}", ca(&other))));
    until("it is not believed", || async { gateway.get("/main").await.reason() == Some("tls-failed") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_shake_hands_has_the_time_of_a_connection() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let settings = format!("retries = 0\ntimeouts = {{ connect_ms = 200 }}\ntls = {{ {} }}", ca(&certs));
    let endpoint = quoted(silent.local_addr().unwrap());
    let text = [
        upstream("http1", &endpoint, &settings),
        upstream("http2", &endpoint, &format!("protocol = 'http2'\n{settings}")),
    ];
    let gateway = Gateway::start(&text.concat());
    for path in ["/http1", "/http2"] {
        let began = std::time::Instant::now();
        let answer = gateway.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (504, Some("connect-timeout")), "{path}");
        assert!(began.elapsed() >= std::time::Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_handshakes_leave_nothing_behind() {
    const REQUESTS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let (certs, others) = (Certs::new(&folder.path().join("a")), Certs::new(&folder.path().join("b")));
    let good = TlsOrigin::start(server(&certs.server(), None, &[])).await;
    let bad = TlsOrigin::start(server(&others.server(), None, &[])).await;
    let settings = format!("retries = 0\npool = {{ max_idle = 0 }}\ntls = {{ {} }}", ca(&certs));
    let text = [
        upstream("good", &quoted(good.address), &settings),
        upstream("bad", &quoted(bad.address), &settings),
        upstream("cut", &quoted(good.address), &settings),
    ];
    let gateway = Gateway::start(&text.concat());
    let rounds = async |count: usize| {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let address = gateway.address();
            clients.spawn(async move {
                let mut session = crate::support::session::Session::new(address);
                for number in 0..count / 10 {
                    match number % 3 {
                        0 => assert_eq!(session.get("/good").await.status.as_u16(), 200),
                        1 => assert_eq!(session.get("/bad").await.status.as_u16(), 502),
                        // Whose client does not wait.
                        _ => {
                            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                            stream.write_all(b"GET /cut HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                        }
                    }
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
    let tasks = async || {
        let text = gateway.session_to_admin().get("/metrics").await.text();
        let lines = text.lines().filter(|line| line.starts_with("witgate_worker_tasks{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>()
    };
    let idle = (tasks().await, descriptors());
    rounds(400).await;
    let memory = gateway.memory();
    rounds(REQUESTS).await;
    until("all tasks have ended", || async { tasks().await <= idle.0 }).await;
    until("all descriptors are closed", || async { descriptors() <= idle.1 + 5 }).await;
    let grown = gateway.memory().saturating_sub(memory);
    assert!(grown < 6 << 20, "{grown} bytes more for {REQUESTS} handshakes");
}
