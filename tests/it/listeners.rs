//! Listeners are added, changed and removed while clients send, and nobody is hurt.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use h2::client::Builder;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use crate::support::{
    certs::{Certs, Pair},
    client::{Client, LONG},
    gateway::{Gateway, all_to, until},
    http2::{self, in_time},
    origin::{Origin, read_head, read_request},
    tls,
};

const CHANGES: usize = 50;

/// The configuration with more listeners. Everything goes to this endpoint.
fn to(origin: SocketAddr, listeners: &str) -> String {
    format!("{listeners}\n{}", all_to(origin))
}

fn listener(name: &str, address: impl std::fmt::Display, settings: &str) -> String {
    format!("[[listener]]\nname = '{name}'\naddress = '{address}'\n{settings}\n")
}

fn tls(pair: &Pair, more: &str) -> String {
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    format!("tls = {{ certificates = [{{ cert_file = '{certificate}', key_file = '{key}' }}] {more} }}")
}

/// Requests for one path, by many clients of every kind, until it is stopped or there is no listener any more.
struct Load {
    clients: JoinSet<()>,
    state: Arc<State>,
}

struct State {
    address: SocketAddr,
    path: String,
    stop: AtomicBool,
    /// Answers, by kind of client.
    answers: [AtomicUsize; 3],
}

impl Load {
    /// On connections that are kept, on one for each request, and over HTTP/2.
    fn plain(address: SocketAddr, path: &str) -> Self {
        let (mut clients, state) = (JoinSet::new(), State::new(address, path));
        for _ in 0..2 {
            clients.spawn(state.clone().kept());
            clients.spawn(state.clone().fresh());
            clients.spawn(state.clone().http2());
        }
        Self { clients, state }
    }

    /// With a handshake for each request, in each of its places.
    fn with_tls(address: SocketAddr, path: &str, ca: &Path) -> Self {
        let (mut clients, state) = (JoinSet::new(), State::new(address, path));
        for place in 0..3 {
            clients.spawn(state.clone().shaking(place, ca.to_owned()));
        }
        Self { clients, state }
    }

    /// Waits until each kind of client has had some more answers.
    async fn goes_on(&self) {
        let now = || self.state.answers.each_ref().map(|answers| answers.load(Relaxed));
        let before = now();
        until("every client is answered", || async {
            assert!(!self.clients.is_empty());
            now().iter().zip(before).all(|(now, before)| *now >= before + 5)
        })
        .await;
    }

    async fn stop(self) {
        self.state.stop.store(true, Relaxed);
        self.gone().await;
    }

    /// Waits until no client gets a connection.
    async fn gone(mut self) {
        let ended = async {
            while let Some(ended) = self.clients.join_next().await {
                ended.unwrap()
            }
        };
        tokio::time::timeout(3 * LONG, ended).await.expect("the listener goes");
        assert!(self.state.answers.iter().all(|answers| answers.load(Relaxed) > 0));
    }
}

impl State {
    fn new(address: SocketAddr, path: &str) -> Arc<Self> {
        Arc::new(Self {
            address,
            path: path.into(),
            stop: AtomicBool::new(false),
            answers: Default::default(),
        })
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// None: nobody listens.
    async fn connect(&self) -> Option<TcpStream> {
        let stream = match TcpStream::connect(self.address).await {
            Ok(stream) => stream,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                return None;
            }
        };
        stream.set_nodelay(true).unwrap();
        Some(stream)
    }

    /// Who has a connection has an answer.
    async fn ask(&self, client: &mut Client, more: &str) -> bool {
        client.send(format!("GET {} HTTP/1.1\r\nhost: a\r\n{more}\r\n", self.path)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        answer.header("connection") == Some("close")
    }

    async fn kept(self: Arc<Self>) {
        while let (true, Some(stream)) = (self.goes_on(), self.connect().await) {
            let mut client = Client { stream, buffer: Vec::new() };
            let mut closes = false;
            while self.goes_on() && !closes {
                closes = self.ask(&mut client, "").await;
                self.answers[0].fetch_add(1, Relaxed);
            }
        }
    }

    async fn fresh(self: Arc<Self>) {
        while let (true, Some(stream)) = (self.goes_on(), self.connect().await) {
            let mut client = Client { stream, buffer: Vec::new() };
            assert!(self.ask(&mut client, "connection: close\r\n").await);
            self.answers[1].fetch_add(1, Relaxed);
        }
    }

    async fn http2(self: Arc<Self>) {
        while let (true, Some(stream)) = (self.goes_on(), self.connect().await) {
            let (sender, connection) = Builder::new().handshake::<_, bytes::Bytes>(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            while self.goes_on() {
                // An error says that the connection takes no more requests.
                let Ok(mut ready) = in_time(sender.clone().ready()).await else { break };
                let Ok((response, _)) = ready.send_request(http2::get(&self.path), true) else { break };
                let answer = http2::answer(response).await.expect("a request that was sent is answered");
                assert_eq!(answer.status, 200, "{:?}", answer.headers);
                self.answers[2].fetch_add(1, Relaxed);
            }
            drop(sender);
            driver.abort();
        }
    }

    async fn shaking(self: Arc<Self>, place: usize, ca: PathBuf) {
        let config = tls::client(&ca, None, &["http/1.1"]);
        while self.goes_on() {
            let answer = match tls::ask(&config, self.address, "localhost", &tls::get(&self.path)).await {
                Ok(answer) => answer,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
                    return;
                }
            };
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            self.answers[place].fetch_add(1, Relaxed);
        }
    }
}

async fn ask(address: SocketAddr, path: &str) -> u16 {
    Client::connect(address).await.get(path).await.status
}

/// Asks until the answer is this one: each worker hears of a change in its own time.
async fn until_answer(client: &mut Client, path: &str, status: u16) {
    in_time(async { while client.get(path).await.status != status {} }).await;
}

/// Waits until nobody listens there any more.
async fn refused(address: SocketAddr) {
    until("nobody listens there", || async { TcpStream::connect(address).await.is_err() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_added_and_has_its_routes_from_its_first_client_on() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(&to(origin.address, ""));
    let load = Load::plain(gateway.address(), "/");
    load.goes_on().await;
    let route = "[[route]]\nlistener = 'new'\npath = '/own'\nupstream = 'main'\n";
    gateway.reconfigure(&to(origin.address, &(listener("new", "127.0.0.1:0", "") + route)));
    let added = gateway.next_listener().await;
    for _ in 0..50 {
        assert_eq!(ask(added, "/own").await, 200);
    }
    load.goes_on().await;
    load.stop().await;
    gateway.logged("Listener added").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_removed_and_nobody_who_has_a_connection_is_hurt() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("certs"));
    let origin = Origin::start("ok").await;
    let own = certs.server();
    // With routes of its own, which go with it.
    let route = "[[route]]\nlistener = ['extra', 'tls']\npath = '/own'\nupstream = 'main'\n";
    let rest = "[[route]]\npath = '/own'\nupstream = 'nowhere'\n[upstream.nowhere]\nservice = 'a'\nregistry = 'none'\n\
                [registry.none]\nplugin = 'static'\nsettings = { endpoints = [] }\n";
    let listeners = listener("extra", "127.0.0.1:0", "") + &listener("tls", "127.0.0.1:0", &tls(&own, ""));
    let text = to(origin.address, &(listeners + route + rest));
    let gateway = Gateway::start_in(folder, &text);
    let stays = Load::plain(gateway.address(), "/");
    let goes = [
        Load::plain(gateway.listeners[1], "/own"),
        Load::with_tls(gateway.listeners[2], "/own", &certs.ca()),
    ];
    for load in goes.iter().chain([&stays]) {
        load.goes_on().await;
    }
    gateway.reconfigure(&to(origin.address, rest));
    for load in goes {
        load.gone().await;
    }
    stays.goes_on().await;
    stays.stop().await;
    // What was counted goes with the last connection.
    until("nothing is said of them any more", || async {
        let metrics = gateway.session_to_admin().get("/metrics").await.text();
        !metrics.contains("listener=\"extra\"") && !metrics.contains("listener=\"tls\"")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_change_fifty_times_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("certs"));
    let origin = Origin::start("ok").await;
    let pairs = [certs.server(), certs.of("other", &["localhost"])];
    let text = |change: usize, address: SocketAddr, secure: SocketAddr, extra: &str| {
        let name = ["one", "two", "three"][change % 3];
        let settings = format!("max_connections = {}\nidle_timeout_ms = {}", 50 + change, 1000 + change);
        let listeners = listener(name, address, &settings)
            + &listener("tls", secure, &(tls(&pairs[change % 2], "") + "\n" + &settings))
            + extra
            + &format!("[[route]]\nlistener = '{name}'\npath = '/own'\nupstream = 'main'\n");
        to(origin.address, &listeners)
    };
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let gateway = Gateway::start_in(folder, &text(0, free, free, ""));
    let [_, address, secure] = gateway.listeners[..] else { panic!("three listeners") };
    let loads = [Load::plain(address, "/own"), Load::with_tls(secure, "/", &certs.ca())];
    let mut last: Option<SocketAddr> = None;
    for change in 1..=CHANGES {
        let extra = match change % 2 {
            1 => listener("extra", "127.0.0.2:0", ""),
            _ => String::new(),
        };
        // Port 0 stays what it is: it is the same listener.
        gateway.reconfigure(&text(change, free, free, &extra));
        gateway.applied(change).await;
        if let Some(gone) = last.take() {
            refused(gone).await;
        }
        if change % 2 == 1 {
            let added = gateway.next_listener().await;
            assert_eq!(ask(added, "/").await, 200);
            last = Some(added);
        }
    }
    for load in loads {
        load.goes_on().await;
        load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_else_has_refuses_the_whole_change() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(&to(origin.address, &listener("goes", "127.0.0.2:0", "")));
    let load = Load::plain(gateway.listeners[1], "/");
    let theirs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = theirs.local_addr().unwrap();
    let route = "[[route]]\npath = '/elsewhere'\nredirect = { host = 'a.example', status = 302 }\n";
    let listeners = listener("new", "127.0.0.1:0", "") + &listener("taken", taken, "") + route;
    gateway.reconfigure(&to(origin.address, &listeners));
    gateway.logged(&format!("listener \\\"taken\\\": {taken} is in use by another process")).await;
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(metrics.contains("witgate_config_reloads_total{result=\"invalid\"} 1\n"), "{metrics}");
    load.goes_on().await;
    assert_eq!(ask(gateway.address(), "/elsewhere").await, 200, "the route is not there");
    assert!(!metrics.contains("listener=\"new\""), "{metrics}");
    drop(theirs);
    gateway.signal("HUP");
    load.gone().await;
    assert_eq!(ask(gateway.next_listener().await, "/elsewhere").await, 302);
    assert_eq!(ask(taken, "/").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_keeps_its_connections_whatever_else_changes_and_may_grow() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(&to(origin.address, &listener("one", "127.0.0.1:0", "")));
    let address = gateway.listeners[1];
    let mut before = Client::connect(address).await;
    assert_eq!(before.get("/").await.status, 200);
    let route =
        "[[route]]\nlistener = 'two'\npath = '/two'\nredirect = { host = 'a.example', status = 302 }\n";
    let two = listener("two", "127.0.0.1:0", "header_timeout_ms = 100\nmax_header_bytes = 8192");
    gateway.reconfigure(&to(origin.address, &(two + route)));
    // Its new name counts for who was there, the other settings for who comes. Each worker hears of it in its own time.
    until_answer(&mut before, "/two", 302).await;
    let mut right = 0;
    while right < 20 {
        right = if ask(address, "/two").await == 302 { right + 1 } else { 0 };
    }
    before.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(20_000))).await;
    assert_eq!(before.answer().await.status, 200);
    let mut after = Client::connect(address).await;
    after.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(after.answer().await.status, 408);

    // The same port, on another address and then on all.
    let [one, every] = [address.to_string(), format!("0.0.0.0:{}", address.port())];
    for (change, place) in [(2, &every), (3, &one), (4, &every)] {
        gateway.reconfigure(&to(origin.address, &listener("two", place, "")));
        gateway.applied(change).await;
        assert_eq!(ask(address, "/").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_count_over_connections_from_before_a_change_and_after_it() {
    let origin = Origin::start("ok").await;
    let at_most = |most: usize| {
        let route = format!(
            "[[route]]\nlistener = 'few-{most}'\npath = '/{most}'\nredirect = {{ host = 'a.example', status = 302 }}\n"
        );
        let few = listener(&format!("few-{most}"), "127.0.0.1:0", &format!("max_connections = {most}"));
        to(origin.address, &(few + &route))
    };
    let gateway = Gateway::start(&at_most(3));
    let address = gateway.listeners[1];
    let connect = async || {
        let mut client = Client::connect(address).await;
        assert_eq!(client.get("/").await.status, 200);
        client
    };
    let mut old = [connect().await, connect().await, connect().await];
    gateway.reconfigure(&at_most(1));
    for client in &mut old {
        until_answer(client, "/1", 302).await;
    }
    let mut newcomer = connect().await;
    for client in &mut old {
        client.closed().await;
    }
    gateway.reconfigure(&at_most(2));
    until_answer(&mut newcomer, "/2", 302).await;
    let mut second = connect().await;
    assert_eq!(newcomer.get("/").await.status, 200, "there is room for both");
    assert_eq!(second.get("/").await.status, 200);
    let _third = connect().await;
    newcomer.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listener_that_is_gone_still_carries_ends_with_the_drain() {
    const SWITCH: &str = "GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    const DRAIN: Duration = Duration::from_millis(1500);
    let origin = Origin::connected(|mut stream, _, _| async move {
        let Some(head) = read_head(&mut stream, &mut Vec::new()).await else { return };
        let answer = match head.split(' ').nth(1).unwrap() {
            "/stream" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            _ => "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending().await
    })
    .await;
    let shutdown = "[shutdown]\ndelay_ms = 100\ndrain_ms = 1500\n";
    let gateway = Gateway::start(&to(origin.address, &(listener("goes", "127.0.0.1:0", "") + shutdown)));
    let address = gateway.listeners[1];
    let mut idle = Client::connect(address).await;
    let mut clients = Vec::new();
    for request in ["GET /stream HTTP/1.1\r\nhost: a\r\n\r\n", SWITCH] {
        let mut client = Client::connect(address).await;
        client.send(request).await;
        assert!(read_head(&mut client.stream, &mut client.buffer).await.is_some());
        clients.push(client);
    }
    let told = Instant::now();
    gateway.reconfigure(&to(origin.address, shutdown));
    idle.closed().await;
    assert!(told.elapsed() < DRAIN, "{:?}", told.elapsed());
    for client in &mut clients {
        client.rest().await;
        assert!(told.elapsed() >= DRAIN, "{:?}", told.elapsed());
    }
    assert!(told.elapsed() < DRAIN + LONG, "{:?}", told.elapsed());
    let metrics = gateway.session_to_admin().get("/readyz").await;
    assert!(metrics.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_the_queue_of_a_listener_that_goes_are_served() {
    let go_on = Arc::new(Notify::new());
    let going = go_on.clone();
    let origin = Origin::connected(move |mut stream, _, seen| {
        let going = going.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, 0).await {
                let slow = request.path() == "/slow";
                seen.lock().unwrap().push(request);
                if slow {
                    going.notified().await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let shutdown = "[shutdown]\ndelay_ms = 30000\n";
    let one = listener("goes", "127.0.0.1:0", "max_connections = 1");
    let gateway = Gateway::start(&to(origin.address, &(one + shutdown)));
    let address = gateway.listeners[1];
    let mut first = Client::connect(address).await;
    first.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("it is at the endpoint", || async { origin.seen().len() == 1 }).await;
    let mut waiting = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(address).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        waiting.push(client);
    }
    gateway.reconfigure(&to(origin.address, shutdown));
    gateway.logged("Listener removed").await;
    go_on.notify_one();
    assert_eq!(first.answer().await.status, 200);
    for client in &mut waiting {
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    refused(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rule_for_certificates_of_clients_is_for_those_who_come_then() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("certs"));
    let origin = Origin::start("ok").await;
    let (own, ca) = (certs.server(), certs.ca());
    let text = |rule: &str| to(origin.address, &listener("tls", "127.0.0.1:0", &tls(&own, rule)));
    let gateway = Gateway::start_in(folder, &text(""));
    let address = gateway.listeners[1];
    let anonymous = tls::client(&ca, None, &["http/1.1"]);
    let mut open = tls::connect(&anonymous, address, "localhost").await.unwrap();
    open.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(tls::read_head(&mut open).await.unwrap().starts_with("HTTP/1.1 200 "));
    gateway.reconfigure(&text(&format!(", client_ca_file = '{}'", ca.display())));
    until("nobody comes without a certificate", async || {
        tls::ask(&anonymous, address, "localhost", &tls::get("/")).await.is_err()
    })
    .await;
    let known = tls::client(&ca, Some(&certs.client("shop")), &["http/1.1"]);
    assert!(
        tls::ask(&known, address, "localhost", &tls::get("/")).await.unwrap().starts_with("HTTP/1.1 200 ")
    );
    open.write_all(tls::get("/").as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut open, &mut rest).await.unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("HTTP/1.1 200 "), "whoever was there stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_can_be_a_listener_that_was_added() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(&to(origin.address, ""));
    gateway.reconfigure(&to(origin.address, &listener("new", "127.0.0.1:0", "")));
    let added = gateway.next_listener().await;
    let put = async || {
        let body = format!(r#"{{"address":"{added}","ttl_seconds":0}}"#);
        gateway.session_to_admin().put("/api/v1/services/a/b", body).await
    };
    let answer = put().await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    gateway.reconfigure(&to(origin.address, ""));
    until("it is an address like any other", || async { put().await.status.is_success() }).await;
}
