//! The PROXY protocol: clients behind a proxy of connections, and endpoints that are told of clients.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use h2::client::Builder;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    certs::Certs,
    client::Client,
    gateway::{Gateway, all_to, until},
    haproxy::HaProxy,
    http2::Http2,
    origin::{Origin, Reply, Seen},
    tls::{client, connect_over, get, read_head, server},
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 443\r\n";

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// The same as [`V1`], with what else a proxy may tell behind the addresses.
fn v2_of_client() -> Vec<u8> {
    v2(
        0x21,
        0x11,
        &[&[203, 0, 113, 9, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb][..], &[0xe0, 0, 2, 1, 2]].concat(),
    )
}

/// What a listener has that takes headers from these.
fn from(networks: &str) -> String {
    format!("proxy_protocol = {{ from = [{networks}] }}")
}

const ANYBODY: &str = "'127.0.0.0/8'";

/// A gateway whose second listener has these settings, in front of what answers with the heads of requests.
struct Setup {
    gateway: Gateway,
    origin: Origin,
}

impl Setup {
    async fn new(listener: &str) -> Self {
        Self::with(listener, "", tempfile::tempdir().unwrap()).await
    }

    async fn with(listener: &str, route: &str, folder: tempfile::TempDir) -> Self {
        let origin = Origin::replying(|seen: &Seen| Reply::text(&seen.head)).await;
        let text = format!(
            "[[listener]]
             name = 'proxied'
             address = '127.0.0.1:0'
             {listener}
             {}
             {route}",
            all_to(origin.address)
        );
        let talkative = ["env", "WITGATE_LOG=info,witgate::server=debug"];
        Self { gateway: Gateway::start_by(&talkative, folder, &text), origin }
    }

    fn address(&self) -> SocketAddr {
        self.gateway.listeners[1]
    }

    async fn client(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// Whom the gateway takes for the client after these bytes, which a request follows in the same piece.
    async fn named(&self, header: &[u8]) -> String {
        let mut client = self.client().await;
        client.send([header, GET].concat()).await;
        forwarded_for(client.answer().await.text())
    }

    async fn refused(&self, reason: &str) -> f64 {
        let text = self.gateway.session_to_admin().get("/metrics").await.text();
        let series =
            format!("witgate_proxy_headers_refused_total{{listener=\"proxied\",reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn forwarded_for(head: &str) -> String {
    let line = |line: &str| line.strip_prefix("x-forwarded-for: ").map(str::to_owned);
    head.lines().find_map(line).unwrap_or_else(|| panic!("{head}"))
}

/// A connection whose first piece has the header before it.
async fn behind(header: &[u8], address: SocketAddr) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let (mut first, mut stream) = (header.to_vec(), TcpStream::connect(address).await.unwrap());
    tokio::spawn(async move {
        far.read_buf(&mut first).await?;
        stream.write_all(&first).await?;
        tokio::io::copy_bidirectional(&mut far, &mut stream).await
    });
    near
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_whom_the_header_names_however_it_comes() {
    let setup = Setup::new(&from(ANYBODY)).await;
    let v6 =
        v2(0x21, 0x21, &[&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[0, 1, 0, 2]].concat());
    let cases = [
        (V1.to_vec(), "203.0.113.9"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n".to_vec(), "2001:db8::7"),
        (v2_of_client(), "203.0.113.9"),
        (v6, "2001:db8::7"),
        // Longer than what is looked at in one go.
        (
            v2(0x21, 0x11, &[&[203, 0, 113, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], &[7; 5000]].concat()),
            "203.0.113.9",
        ),
    ];
    for (header, named) in cases {
        assert_eq!(setup.named(&header).await, named, "in one piece with the request");
        let mut client = setup.client().await;
        client.send(&header).await;
        client.send(GET).await;
        assert_eq!(forwarded_for(client.answer().await.text()), named, "before it");
        client.send(GET).await;
        assert_eq!(forwarded_for(client.answer().await.text()), named, "for the whole connection");
    }
    for header in [V1.to_vec(), v2_of_client()] {
        let mut client = setup.client().await;
        for byte in [&header, GET].concat() {
            client.send([byte]).await;
            // So that it goes out by itself.
            tokio::task::yield_now().await;
        }
        assert_eq!(forwarded_for(client.answer().await.text()), "203.0.113.9", "byte by byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let setup = Setup::new(&from(ANYBODY)).await;
    let addresses = [203, 0, 113, 9, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.9 198.51.100.1 40000 443\r\n".to_vec(),
        // LOCAL means what it says, whatever addresses come with it.
        v2(0x20, 0x11, &addresses),
        v2(0x20, 0, &[]),
        // Neither a datagram nor a socket of Unix is a client.
        v2(0x21, 0x12, &addresses),
        v2(0x21, 0x31, &[b'/'; 216]),
        v2(0x21, 0xff, &addresses),
    ] {
        assert_eq!(setup.named(&header).await, "127.0.0.1", "{header:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_tls_come_behind_a_header() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("certs"));
    let pair = certs.server();
    let config = client(&certs.ca(), None, &[]);
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    let tls = format!(
        "{}\ntls = {{ certificates = [{{ cert_file = '{certificate}', key_file = '{key}' }}] }}",
        from(ANYBODY)
    );
    let (plain, secure) = (Setup::new(&from(ANYBODY)).await, Setup::with(&tls, "", folder).await);
    let http2 = client(&secure.gateway.folder().join("certs/ca.crt"), None, &["h2"]);
    for header in [V1.to_vec(), v2_of_client()] {
        let mut over = Http2::over(behind(&header, plain.address()).await, &Builder::new()).await;
        assert_eq!(forwarded_for(over.get("/").await.text()), "203.0.113.9");

        let stream = behind(&header, secure.address()).await;
        let mut stream = connect_over(&config, stream, "127.0.0.1").await.unwrap();
        stream.write_all(get("/").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(forwarded_for(&answer), "203.0.113.9");

        let mut stream = TcpStream::connect(secure.address()).await.unwrap();
        for byte in &header {
            stream.write_all(&[*byte]).await.unwrap();
        }
        let stream = connect_over(&http2, stream, "127.0.0.1").await.unwrap();
        let mut over = Http2::over(stream, &Builder::new()).await;
        assert_eq!(forwarded_for(over.get("/").await.text()), "203.0.113.9");
    }
    // TLS alone is no header.
    let stream = TcpStream::connect(secure.address()).await.unwrap();
    assert!(connect_over(&config, stream, "127.0.0.1").await.is_err());
    until("it is counted", || async { secure.refused("missing").await == 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_header_is_closed_counted_and_logged() {
    let setup = Setup::new(&format!("{}\nheader_timeout_ms = 400", from(ANYBODY))).await;
    let over = v2(0x21, 0x11, &[1; 9000]);
    for (bytes, reason) in [
        (GET.to_vec(), "missing"),
        (b"\x16\x03\x01".to_vec(), "missing"),
        (b"PROXY TCP4 203.0.113.9\r\n".to_vec(), "invalid"),
        (b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 443\n".to_vec(), "invalid"),
        (vec![b'P'; 1], "closed"),
        (v2(0x31, 0x11, &[1; 12]), "invalid"),
        (v2(0x21, 0x11, &[1; 11]), "invalid"),
        (over, "too-long"),
        (V1[..20].to_vec(), "late"),
        (vec![], "late"),
    ] {
        let before = setup.refused(reason).await;
        let mut client = setup.client().await;
        client.send(&bytes).await;
        if reason == "closed" {
            client.stream.shutdown().await.unwrap();
        }
        client.closed().await;
        until(reason, || async { setup.refused(reason).await == before + 1.0 }).await;
        setup.gateway.logged(&format!("reason=\"{reason}\"")).await;
    }
    // Somebody who never stops sending has no more time.
    let before = setup.refused("late").await;
    let mut client = setup.client().await;
    client.send(&v2(0x21, 0x11, &[1; 8000])[..20]).await;
    let mut buf = [0];
    let ended = async {
        loop {
            tokio::select! {
                read = client.stream.read(&mut buf) => return read,
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
            client.stream.write_all(&[1]).await?;
        }
    };
    assert!(!matches!(tokio::time::timeout(crate::support::client::LONG, ended).await.unwrap(), Ok(1..)));
    until("it is late", || async { setup.refused("late").await == before + 1.0 }).await;
}

async fn connect_from(address: Ipv4Addr, to: SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    Client { stream: socket.connect(to).await.unwrap(), buffer: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_listed_speaks_for_itself() {
    let setup = Setup::new(&from("'127.0.0.2/32', '10.0.0.0/8'")).await;
    let mut client = connect_from(Ipv4Addr::new(127, 0, 0, 3), setup.address()).await;
    client.send(GET).await;
    assert_eq!(forwarded_for(client.answer().await.text()), "127.0.0.3");
    let mut liar = connect_from(Ipv4Addr::new(127, 0, 0, 3), setup.address()).await;
    liar.send([V1, GET].concat()).await;
    assert_eq!(liar.answer().await.status, 400);
    let mut proxy = connect_from(Ipv4Addr::new(127, 0, 0, 2), setup.address()).await;
    proxy.send([V1, GET].concat()).await;
    assert_eq!(forwarded_for(proxy.answer().await.text()), "203.0.113.9");
    // The other listener takes none from anybody.
    let mut other = Client::connect(setup.gateway.address()).await;
    other.send([V1, GET].concat()).await;
    assert_eq!(other.answer().await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_and_rates_go_by_the_client_and_not_by_the_proxy() {
    let listener = format!("{}\ntrusted_proxies = ['203.0.113.0/24']", from(ANYBODY));
    let rate = "rate = { requests = 2, per_secs = 3600 }";
    let setup = Setup::with(&listener, rate, tempfile::tempdir().unwrap()).await;
    let claims = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
    let ask = async |client: &str| {
        let mut asking = setup.client().await;
        asking.send(format!("PROXY TCP4 {client} 198.51.100.1 40000 443\r\n{claims}")).await;
        asking.answer().await
    };
    // One of them is a proxy of HTTP that is trusted, behind the proxy of connections; the other is a stranger.
    assert_eq!(forwarded_for(ask("203.0.113.9").await.text()), "192.0.2.1, 203.0.113.9");
    assert_eq!(forwarded_for(ask("198.51.100.7").await.text()), "198.51.100.7");
    assert_eq!(ask("198.51.100.7").await.status, 200);
    assert_eq!(ask("198.51.100.7").await.status, 429, "it had two");
    assert_eq!(ask("198.51.100.8").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_passes_its_clients_on() {
    let setup = Setup::new(&from("'127.0.0.1/32'")).await;
    for version in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id,crc32c"] {
        let haproxy = HaProxy::start(setup.address(), version);
        let mut client = connect_from(Ipv4Addr::new(127, 0, 0, 9), haproxy.address).await;
        for _ in 0..2 {
            client.send(GET).await;
            assert_eq!(forwarded_for(client.answer().await.text()), "127.0.0.9", "{version}");
        }
        let stream = TcpStream::connect(haproxy.address).await.unwrap();
        let mut over = Http2::over(stream, &Builder::new()).await;
        assert_eq!(forwarded_for(over.get("/").await.text()), "127.0.0.1", "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_is_answered_when_it_asks_for_itself() {
    let setup = Setup::new(&from("'127.0.0.1/32'")).await;
    for version in ["send-proxy", "send-proxy-v2"] {
        let before = setup.origin.seen().len();
        let _haproxy = HaProxy::start(setup.address(), &format!("{version} check inter 50ms"));
        until("it asks", || async { setup.origin.seen().len() > before }).await;
        let asked = setup.origin.seen().pop().unwrap();
        assert_eq!((asked.path(), asked.header("x-forwarded-for")), ("/checked", Some("127.0.0.1")));
    }
}

/// What a [`Told`] speaks behind the header.
#[derive(Clone)]
enum Speaks {
    Http1,
    Http2,
    Tls(Arc<rustls::ServerConfig>),
}

/// An endpoint that expects a header on each connection, and answers with the connection's number and what it was told.
struct Told {
    address: SocketAddr,
    told: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Told {
    async fn start(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, open) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (record, count) = (told.clone(), open.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (record, count, speaks) = (record.clone(), count.clone(), speaks.clone());
                connections.spawn(async move {
                    let Ok(header) = read_header(&mut stream).await else { return };
                    let said = {
                        let mut told = record.lock().unwrap();
                        told.push(header.clone());
                        format!("{} {header}", told.len() - 1)
                    };
                    count.fetch_add(1, SeqCst);
                    match speaks {
                        Speaks::Http1 => answer(stream, &said).await,
                        Speaks::Http2 => answer_by_http2(stream, &said).await,
                        Speaks::Tls(config) => match TlsAcceptor::from(config).accept(stream).await {
                            Ok(stream) => answer(stream, &said).await,
                            Err(error) => panic!("{error}"),
                        },
                    }
                    count.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, told, open, task }
    }

    /// What it was told, by connection.
    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    fn open(&self) -> usize {
        self.open.load(SeqCst)
    }
}

/// Reads a header to the letter, and says it in words.
async fn read_header(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).await?;
    if &head == b"PROXY " {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(char::from(stream.read_u8().await?));
        }
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        return Ok(match words[..] {
            ["UNKNOWN"] => "v1 own".into(),
            ["TCP4", client, server, from, to] => format!("v1 {client}:{from} {server}:{to}"),
            ["TCP6", client, server, from, to] => format!("v1 [{client}]:{from} [{server}]:{to}"),
            _ => panic!("{line:?}"),
        });
    }
    let mut rest = [0; 10];
    stream.read_exact(&mut rest).await?;
    assert_eq!([&head[..], &rest[..6]].concat(), SIGNATURE);
    let [command, family, high, low] = [rest[6], rest[7], rest[8], rest[9]];
    let mut told = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut told).await?;
    let port = |at: usize| u16::from_be_bytes([told[at], told[at + 1]]);
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&told[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&told[at..at + 16]).unwrap());
    Ok(match (command, family, told.len()) {
        (0x20, 0, 0) => "v2 own".into(),
        (0x21, 0x11, 12) => {
            format!("v2 {} {}", SocketAddr::new(v4(0), port(8)), SocketAddr::new(v4(4), port(10)))
        }
        (0x21, 0x21, 36) => {
            format!("v2 {} {}", SocketAddr::new(v6(0), port(32)), SocketAddr::new(v6(16), port(34)))
        }
        other => panic!("{other:?}"),
    })
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &str) {
    while read_head(&mut stream).await.is_some() {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn answer_by_http2(stream: TcpStream, said: &str) {
    let Ok(mut serving) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut reply))) = serving.accept().await {
        let Ok(mut body) = reply.send_response(http::Response::new(()), false) else { return };
        let _ = body.send_data(Bytes::copy_from_slice(said.as_bytes()), true);
    }
}

/// An upstream of these endpoints for the path of its name, and settings of it.
fn upstream(name: &str, endpoints: &[&Told], settings: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|told| format!("'{}'", told.address)).collect();
    format!(
        "[registry.{name}]
         plugin = 'static'
         settings = {{ endpoints = [{}] }}
         [upstream.{name}]
         service = '{name}'
         registry = '{name}'
         {settings}
         [[route]]
         path = '/{name}'
         upstream = '{name}'
         ",
        endpoints.join(", ")
    )
}

/// A gateway whose second listener takes headers from anybody here.
fn gateway(upstreams: &[String]) -> Gateway {
    let listener = format!("[[listener]]\nname = 'proxied'\naddress = '127.0.0.1:0'\n{}\n", from(ANYBODY));
    Gateway::start(&format!("{listener}{}", upstreams.concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_told_of_the_client_and_where_it_connected_to() {
    let (v1, v2) = (Told::start(Speaks::Http1).await, Told::start(Speaks::Http1).await);
    let gateway = gateway(&[
        upstream("v1", &[&v1], "proxy_protocol = 'v1'"),
        upstream("v2", &[&v2], "proxy_protocol = 'v2'"),
    ]);
    let mut client = Client::connect(gateway.address()).await;
    let here = client.stream.local_addr().unwrap();
    for version in ["v1", "v2"] {
        for _ in 0..2 {
            let answer = client.get(&format!("/{version}")).await;
            assert_eq!(answer.text(), format!("0 {version} {here} {}", gateway.address()));
        }
    }
    // Where two upstreams have the same endpoint, each tells in its own version.
    let shared = upstream("other", &[&v1], "proxy_protocol = 'v2'");
    let both = self::gateway(&[upstream("v1", &[&v1], "proxy_protocol = 'v1'"), shared]);
    let mut client = Client::connect(both.address()).await;
    for _ in 0..2 {
        for (path, version) in [("/v1", " v1 "), ("/other", " v2 ")] {
            assert!(client.get(path).await.text().contains(version));
        }
    }
    // What a proxy in front told is passed on.
    for (header, ends) in [
        ("PROXY TCP4 203.0.113.9 198.51.100.1 40000 443", "203.0.113.9:40000 198.51.100.1:443"),
        ("PROXY TCP6 2001:db8::7 2001:db8::1 40000 443", "[2001:db8::7]:40000 [2001:db8::1]:443"),
    ] {
        for version in ["v1", "v2"] {
            let mut client = Client::connect(gateway.listeners[1]).await;
            client.send(format!("{header}\r\n")).await;
            let answer = client.get(&format!("/{version}")).await;
            assert!(answer.text().ends_with(&format!(" {version} {ends}")), "{}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_names_a_client_is_for_nobody_else_and_closes_with_it() {
    let told = Told::start(Speaks::Http1).await;
    let gateway = gateway(&[upstream("main", &[&told], "proxy_protocol = 'v2'")]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::connect(gateway.address()).await);
    }
    for _ in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            let here = client.stream.local_addr().unwrap();
            let answer = client.get("/main").await;
            assert_eq!(answer.text(), format!("{number} v2 {here} {}", gateway.address()));
        }
    }
    assert_eq!((told.told().len(), told.open()), (4, 4), "each has kept its own");
    clients.truncate(1);
    until("those of the others close", || async { told.open() == 1 }).await;
    assert_eq!(clients[0].get("/main").await.status, 200);
    drop(clients);
    until("the last one closes", || async { told.open() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_keeps_no_more_connections_than_an_endpoint_may_have_of_all() {
    let (one, two) = (Told::start(Speaks::Http1).await, Told::start(Speaks::Http1).await);
    let (three, four) = (Told::start(Speaks::Http1).await, Told::start(Speaks::Http1).await);
    let all = [&one, &two, &three, &four];
    let settings = "proxy_protocol = 'v2'\nselector = 'round-robin'\npool = { max_idle = 2 }";
    let gateway = gateway(&[upstream("main", &all, settings)]);
    let mut client = Client::connect(gateway.address()).await;
    for _ in 0..12 {
        assert_eq!(client.get("/main").await.status, 200);
    }
    let mut made = all.map(|told| told.told().len());
    made.sort();
    assert_eq!(made, [1, 1, 3, 3]);
    until("two are kept", || async { all.iter().map(|told| told.open()).sum::<usize>() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_keeps_no_more_connections_of_http2_either() {
    let (one, two) = (Told::start(Speaks::Http2).await, Told::start(Speaks::Http2).await);
    let (three, four) = (Told::start(Speaks::Http2).await, Told::start(Speaks::Http2).await);
    let all = [&one, &two, &three, &four];
    let settings =
        "proxy_protocol = 'v2'\nprotocol = 'http2'\nselector = 'round-robin'\npool = { max_idle = 2 }";
    let gateway = gateway(&[upstream("main", &all, settings)]);
    let mut client = Client::connect(gateway.address()).await;
    for _ in 0..12 {
        assert_eq!(client.get("/main").await.status, 200);
    }
    assert!(all.iter().all(|told| !told.told().is_empty()));
    until("two are kept", || async { all.iter().map(|told| told.open()).sum::<usize>() <= 2 }).await;
    assert_eq!(client.get("/main").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_client_share_a_connection_of_http2_and_those_of_another_do_not() {
    let told = Told::start(Speaks::Http2).await;
    let gateway = gateway(&[upstream("main", &[&told], "proxy_protocol = 'v2'\nprotocol = 'http2'")]);
    let (mut one, mut other) =
        (Http2::connect(gateway.address()).await, Http2::connect(gateway.address()).await);
    let first = one.get("/main").await.text().to_owned();
    let second = other.get("/main").await.text().to_owned();
    assert!(
        first.starts_with("0 v2 127.0.0.1:") && second.starts_with("1 v2 127.0.0.1:"),
        "{first}, {second}"
    );
    assert_ne!(first[1..], second[1..]);
    for _ in 0..5 {
        assert_eq!((one.get("/main").await.text(), other.get("/main").await.text()), (&*first, &*second));
    }
    drop(one);
    until("its connection closes", || async { told.open() == 1 }).await;
    assert_eq!(other.get("/main").await.text(), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_comes_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let told = Told::start(Speaks::Tls(server(&certs.server(), None, &["http/1.1"]))).await;
    let tls = format!("proxy_protocol = 'v1'\ntls = {{ ca_file = '{}' }}", certs.ca().display());
    let gateway = gateway(&[upstream("main", &[&told], &tls)]);
    let (mut one, mut other) =
        (Client::connect(gateway.address()).await, Client::connect(gateway.address()).await);
    for _ in 0..2 {
        for (number, client) in [&mut one, &mut other].into_iter().enumerate() {
            let here = client.stream.local_addr().unwrap();
            let answer = client.get("/main").await;
            assert_eq!(answer.text(), format!("{number} v1 {here} {}", gateway.address()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_tell_that_the_gateway_asks_for_itself() {
    let (v1, v2) = (Told::start(Speaks::Http1).await, Told::start(Speaks::Http1).await);
    let check = "check = { http = '/', interval_ms = 50 }";
    let gateway = gateway(&[
        upstream("v1", &[&v1], &format!("proxy_protocol = 'v1'\n{check}")),
        upstream("v2", &[&v2], &format!("proxy_protocol = 'v2'\n{check}")),
    ]);
    for (told, version) in [(&v1, "v1"), (&v2, "v2")] {
        until("they are asked", || async { told.told().len() > 2 }).await;
        assert!(told.told().iter().all(|said| *said == format!("{version} own")), "{:?}", told.told());
        let shown = gateway.api(&format!("/api/v1/upstreams/{version}")).await;
        assert_eq!(shown["ejected"].as_array().map(Vec::len), Some(0), "they pass: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_found_by_name_are_told_as_well() {
    let told = Told::start(Speaks::Http1).await;
    let route = "[[route]]\npath = '/svc/{service}'\nregistry = 'memory'\nproxy_protocol = 'v1'";
    let gateway = Gateway::start(route);
    gateway.register("orders", "1", told.address).await;
    let mut client = Client::connect(gateway.address()).await;
    let here = client.stream.local_addr().unwrap();
    assert_eq!(client.get("/svc/orders").await.text(), format!("0 v1 {here} {}", gateway.address()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_names_two_ends_of_one_family() {
    let told = Told::start(Speaks::Http1).await;
    let gateway = gateway(&[upstream("main", &[&told], "proxy_protocol = 'v2'")]);
    let mixed = format!("::ffff:{}", Ipv4Addr::new(203, 0, 113, 9));
    let mut client = Client::connect(gateway.listeners[1]).await;
    client.send(format!("PROXY TCP6 {mixed} {} 1 2\r\n", Ipv6Addr::LOCALHOST)).await;
    assert_eq!(client.get("/main").await.text(), "0 v2 [::ffff:203.0.113.9]:1 [::1]:2");
}
