//! TLS from clients: which certificate they are shown, what they prove, what they come back with, and what becomes of
//! those that do not come so far. OpenSSL and curl are the other side wherever they can be.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    certs::{Certs, Pair},
    gateway::{Gateway, all_to, until},
    origin::{Origin, Reply, Seen},
    secret::{Secret, Way, rename},
    tls::{TlsOrigin, ask, client, connect, curl, get, mentions, read_head, s_client, server, text},
};

/// A gateway with one more listener, and certificates in its folder.
struct Setup {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    certs: Certs,
    origin: Origin,
}

impl Setup {
    async fn new() -> Self {
        let head = |seen: &Seen| Reply::text(&seen.head);
        Self::with(Origin::replying(head).await)
    }

    fn with(origin: Origin) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (path, certs) = (folder.path().to_owned(), Certs::new(&folder.path().join("certs")));
        Self { folder: Some(folder), path, certs, origin }
    }

    fn at(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// With this in the table `tls` of a listener, and settings of it beside.
    fn start(&mut self, tls: &str, settings: &str) -> Gateway {
        self.start_several(&format!(
            "[[listener]]\nname = 'tls'\naddress = '127.0.0.1:0'\ntls = {{ {tls} }}\n{settings}"
        ))
    }

    fn start_several(&mut self, listeners: &str) -> Gateway {
        let text = format!("{listeners}\n{}", all_to(self.origin.address));
        Gateway::start_in(self.folder.take().expect("it is started once"), &text)
    }
}

fn pair(pair: &Pair) -> String {
    format!("{{ cert_file = '{}', key_file = '{}' }}", pair.certificate.display(), pair.key.display())
}

fn certificates(pairs: &[&Pair]) -> String {
    format!("certificates = [{}]", pairs.iter().map(|one| pair(one)).collect::<Vec<_>>().join(", "))
}

fn ca(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("certs/ca.crt")
}

fn at(gateway: &Gateway) -> SocketAddr {
    gateway.listeners[1]
}

/// The sum of the lines of a metric that have all of these texts.
async fn metric(gateway: &Gateway, name: &str, labels: &[&str]) -> f64 {
    let text = gateway.session_to_admin().get("/metrics").await.text();
    let lines = text.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

async fn failed(gateway: &Gateway, reason: &str, count: u64) {
    let reason = format!("reason=\"{reason}\"");
    until(&reason, || async {
        metric(gateway, "witgate_tls_handshakes_failed_total", &[&reason]).await == count as f64
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let mut setup = Setup::new().await;
    let [first, exact, wild] = [
        setup.certs.of("first", &["first.example", "127.0.0.1"]),
        setup.certs.of("exact", &["shop.example", "api.shop.example"]),
        setup.certs.of("wild", &["*.shop.example"]),
    ];
    let gateway = setup.start(&certificates(&[&first, &exact, &wild]), "");
    for (asked, shown) in [
        ("shop.example", "exact"),
        ("SHOP.example", "exact"),
        ("api.shop.example", "exact"),
        ("other.shop.example", "wild"),
        ("a.b.shop.example", "first"),
        ("xshop.example", "first"),
        ("example", "first"),
        ("first.example", "first"),
    ] {
        let said = s_client(at(&gateway), &["-servername", asked], &get("/")).await;
        assert!(text(&said).contains(&format!("subject=CN = {shown}\n")), "{asked}: {}", text(&said));
        assert!(text(&said).contains("HTTP/1.1 200 OK"), "{asked}: {}", text(&said));
    }
    let said = s_client(at(&gateway), &["-noservername"], &get("/")).await;
    assert!(text(&said).contains("subject=CN = first\n"), "{}", text(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_protocols_are_agreed_on_and_the_endpoint_learns_how_the_client_came() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "");
    for (version, good) in [("-tls1_3", true), ("-tls1_2", true)] {
        let said = text(&s_client(at(&gateway), &[version], &get("/")).await);
        assert_eq!(said.contains("HTTP/1.1 200 OK"), good, "{version}: {said}");
    }
    // OpenSSL itself would not offer it otherwise.
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let said = text(&s_client(at(&gateway), &old, &get("/")).await);
    assert!(!said.contains("HTTP/1.1 200 OK") && said.contains(" alert "), "{said}");
    failed(&gateway, "incompatible", 1).await;
    let said = text(&s_client(at(&gateway), &["-alpn", "spdy/1"], &get("/")).await);
    assert!(said.contains("no application protocol"), "{said}");
    failed(&gateway, "incompatible", 2).await;
    let ca = ca(&gateway).display().to_string();
    let url = format!("https://localhost:{}/", at(&gateway).port());
    for (version, line) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let asked = ["--cacert", &ca, version, "--write-out", "\nversion %{http_version}", &url];
        let said = text(&curl(&asked).await);
        assert!(said.contains(&format!("\nversion {line}")), "{said}");
        assert!(said.contains("x-forwarded-proto: https\r\n"), "{said}");
    }
    // What a quantum computer does not break comes first.
    let stream = connect(&client(&self::ca(&gateway), None, &[]), at(&gateway), "localhost").await.unwrap();
    let group = stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    // Without the extension it is HTTP/1.1, or what the first bytes say.
    let said = text(&curl(&["--cacert", &ca, "--no-alpn", &url]).await);
    assert!(said.contains("x-forwarded-proto: https\r\n"), "{said}");
    assert!(metric(&gateway, "witgate_tls_handshakes_total", &["kind=\"full\""]).await >= 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_https_leads_from_the_plain_listener_to_the_other() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let tls =
        format!("[[listener]]\nname = 'tls'\naddress = '127.0.0.1:0'\ntls = {{ {} }}", certificates(&[&own]));
    let listeners = format!("[[route]]\nredirect = {{ scheme = 'https' }}\n{tls}");
    let gateway = setup.start_several(&listeners.replace("[[route]]", "[[route]]\npath = '/'"));
    let answer = gateway.get("/a").await;
    assert_eq!(
        (answer.status.as_u16(), answer.headers["location"].to_str().unwrap().starts_with("https://")),
        (308, true)
    );
    let over = client(&ca(&gateway), None, &[]);
    let answer = ask(&over, at(&gateway), "localhost", &get("/a")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_whole_whatever_their_length() {
    let long = 3_000_000;
    let origin = Origin::replying(move |seen| match seen.path() {
        "/down" => Reply::text(&"x".repeat(long)),
        "/until-close" => Reply::Close(format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(long)).into()),
        _ => Reply::text(&seen.body.len().to_string()),
    })
    .await;
    let mut setup = Setup::with(origin);
    let own = setup.certs.server();
    fs::write(setup.at("upload"), vec![b'u'; long]).unwrap();
    let gateway = setup.start(&certificates(&[&own]), "");
    let (ca, upload) =
        (ca(&gateway).display().to_string(), gateway.folder().join("upload").display().to_string());
    let url = |path: &str| format!("https://localhost:{}{path}", at(&gateway).port());
    for version in ["--http1.1", "--http2"] {
        for path in ["/down", "/until-close"] {
            let got = curl(&["--cacert", &ca, version, &url(path)]).await;
            assert!(got.status.success(), "{version} {path}: {}", String::from_utf8_lossy(&got.stderr));
            assert_eq!(got.stdout.len(), long, "{version} {path}");
        }
        let sent =
            curl(&["--cacert", &ca, version, "--data-binary", &format!("@{upload}"), &url("/up")]).await;
        assert_eq!(text(&sent), long.to_string(), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_proves_goes_to_the_endpoint_and_nothing_else_does() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let known = setup.certs.client_with("alice", &["spiffe://shop/alice"], &["alice.example"]);
    let others = Certs::new(&setup.at("others"));
    let stranger = others.client("mallory");
    let expired = setup.certs.expired_client("bob");
    let (shown, ca_file) = (certificates(&[&own]), setup.certs.ca());
    let listener = |name: &str, rule: &str| {
        format!(
            "[[listener]]\nname = '{name}'\naddress = '127.0.0.1:0'\ntls = {{ {shown}, client_ca_file = '{}'{rule} }}\n",
            ca_file.display()
        )
    };
    let gateway = setup.start_several(
        &[listener("required", ""), listener("optional", ", client_certificate = 'optional'")].concat(),
    );
    let (required, optional) = (gateway.listeners[1], gateway.listeners[2]);
    let forged = "GET / HTTP/1.1\r\nhost: a\r\nX-Forwarded-Client-Cert: Hash=1;Subject=\"CN=root\"\r\n\
                  x_forwarded_client_cert: Hash=2\r\nconnection: close\r\n\r\n";
    let lines = |answer: &str| {
        let lines = answer.lines().filter(|line| line.to_ascii_lowercase().contains("client"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let with = client(&ca(&gateway), Some(&known), &[]);
    for address in [required, optional] {
        // The second time over a session.
        for _ in 0..2 {
            let answer = ask(&with, address, "localhost", forged).await.unwrap();
            let [line] = &lines(&answer)[..] else { panic!("{answer}") };
            let line = line.strip_prefix("x-forwarded-client-cert: Hash=").unwrap();
            let (hash, rest) = line.split_once(';').unwrap();
            assert_eq!(hash.len(), 64);
            assert_eq!(rest, "Subject=\"CN=alice\";URI=spiffe://shop/alice;DNS=alice.example");
        }
    }
    let without = client(&ca(&gateway), None, &[]);
    let answer = ask(&without, optional, "localhost", forged).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && lines(&answer).is_empty(), "{answer}");
    assert!(ask(&without, required, "localhost", forged).await.is_err());
    failed(&gateway, "no-certificate", 1).await;
    for wrong in [&stranger, &expired] {
        let with = client(&ca(&gateway), Some(wrong), &[]);
        for address in [required, optional] {
            assert!(ask(&with, address, "localhost", forged).await.is_err(), "also where none is needed");
        }
    }
    failed(&gateway, "certificate", 4).await;
    // Nor on a listener without TLS.
    let mut plain = TcpStream::connect(gateway.address()).await.unwrap();
    plain.write_all(forged.as_bytes()).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && lines(&answer).is_empty(), "{answer}");
}

/// Whether OpenSSL takes up a session that it kept before.
struct Sessions {
    file: PathBuf,
    arguments: Vec<String>,
}

impl Sessions {
    async fn take_up(&self, address: SocketAddr, version: &str) -> bool {
        self.ask(address, version, "-sess_in").await
    }

    async fn keep(&self, address: SocketAddr, version: &str) {
        assert!(!self.ask(address, version, "-sess_out").await);
    }

    async fn ask(&self, address: SocketAddr, version: &str, how: &str) -> bool {
        let said = self.run(address, version, how).await;
        let reused = said.contains("Reused, TLSv1");
        assert!(reused || said.contains("New, TLSv1"), "{said}");
        reused
    }

    /// All that is said when a session is taken up.
    async fn said(&self, address: SocketAddr, version: &str) -> String {
        self.run(address, version, "-sess_in").await
    }

    async fn run(&self, address: SocketAddr, version: &str, how: &str) -> String {
        let file = self.file.display().to_string();
        let mut arguments = vec![version, "-servername", "localhost", how, &file];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let said = text(&s_client(address, &arguments, &get("/")).await);
        assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_renewals_restarts_and_gateways_and_not_a_change_of_authorities() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let known = setup.certs.client("alice");
    let keys = setup.at("keys");
    fs::write(&keys, format!("{}\n{}\n", "1a".repeat(32), "2b".repeat(32))).unwrap();
    let ca_file = setup.at("clients.pem");
    fs::copy(setup.certs.ca(), &ca_file).unwrap();
    let others = Certs::new(&setup.at("others"));
    let shown = format!("{}, ticket_keys_file = '{}'", certificates(&[&own]), keys.display());
    let listener = |name: &str, rule: &str| {
        format!("[[listener]]\nname = '{name}'\naddress = '127.0.0.1:0'\ntls = {{ {shown}{rule} }}\n")
    };
    let clients = format!(", client_ca_file = '{}'", ca_file.display());
    let optional = format!("{clients}, client_certificate = 'optional'");
    let listeners =
        [listener("open", ""), listener("optional", &optional), listener("required", &clients)].concat();
    let (file, renewed) = (setup.at("session"), setup.certs.of("renewed", &["localhost"]));
    let pair_files = own.clone();
    let mut gateway = setup.start_several(&listeners);
    let arguments = ["-cert", known.certificate.to_str().unwrap(), "-key", known.key.to_str().unwrap()];
    let sessions = Sessions { file, arguments: arguments.map(str::to_owned).to_vec() };
    for version in ["-tls1_2", "-tls1_3"] {
        let [open, optional, required] = [1, 2, 3].map(|place| gateway.listeners[place]);
        sessions.keep(open, version).await;
        assert!(sessions.take_up(open, version).await, "{version}");
        assert!(!sessions.take_up(optional, version).await, "another rule, {version}");
        assert!(!sessions.take_up(required, version).await, "another rule, {version}");
        sessions.keep(optional, version).await;
        assert!(!sessions.take_up(required, version).await, "another rule, {version}");
        sessions.keep(required, version).await;
        assert!(sessions.take_up(required, version).await, "{version}");
        assert!(sessions.said(required, version).await.contains("\"CN=alice\""), "who it was is still told");
    }
    // A renewed certificate.
    let required = gateway.listeners[3];
    sessions.keep(required, "-tls1_3").await;
    rename(&fs::read(&renewed.key).unwrap(), &pair_files.key);
    rename(&fs::read(&renewed.certificate).unwrap(), &pair_files.certificate);
    until("the renewed one is shown", || async {
        let said = s_client(gateway.listeners[1], &[], &get("/")).await;
        text(&said).contains("subject=CN = renewed\n")
    })
    .await;
    assert!(sessions.take_up(required, "-tls1_3").await, "the session goes on");
    // A restart, as another gateway with the same keys.
    gateway = gateway.restart().await;
    let required = gateway.listeners[3];
    assert!(sessions.take_up(required, "-tls1_3").await, "at another gateway, too");
    // The keys move on: the one that sealed opens for a while, and then does not.
    let line = |text: &str| format!("{}\n", text.repeat(32));
    let taken = || metric(&gateway, "witgate_tls_file_changes_total", &["/keys\"", "\"taken\""]);
    rename([line("1a"), line("2b"), line("3c")].concat().as_bytes(), &keys);
    until("the keys are taken", || async { taken().await == 3.0 }).await;
    assert!(sessions.take_up(required, "-tls1_3").await);
    rename([line("3c"), line("4d"), line("5e")].concat().as_bytes(), &keys);
    until("the keys are taken", || async { taken().await == 6.0 }).await;
    assert!(!sessions.take_up(required, "-tls1_3").await, "its key is gone");
    // One more authority: nobody who was believed is believed less, and yet.
    sessions.keep(required, "-tls1_3").await;
    let both = [fs::read(&ca_file).unwrap(), fs::read(others.ca()).unwrap()].concat();
    rename(&both, &ca_file);
    until("the authorities are taken", || async {
        metric(&gateway, "witgate_tls_file_changes_total", &["clients.pem", "\"taken\""]).await == 2.0
    })
    .await;
    assert!(!sessions.take_up(required, "-tls1_3").await, "the session has ended");
    sessions.keep(required, "-tls1_3").await;
    assert!(sessions.take_up(required, "-tls1_3").await);
    let handshakes =
        async |kind: &'static str| metric(&gateway, "witgate_tls_handshakes_total", &[kind]).await;
    assert!(handshakes("resumed").await >= 3.0 && handshakes("full").await >= 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_exchanged_a_hundred_times_under_load_and_no_handshake_fails() {
    for way in Way::ALL {
        let mut setup = Setup::new().await;
        let pairs = ["one", "two"].map(|name| setup.certs.of(name, &["localhost"]));
        let contents = pairs.each_ref().map(|pair| {
            let [certificate, key] = [&pair.certificate, &pair.key].map(|path| fs::read(path).unwrap());
            [("tls.crt", certificate), ("tls.key", key)]
        });
        let files = |number: usize| contents[number % 2].each_ref().map(|(name, text)| (*name, &text[..]));
        let mut secret = Secret::new(setup.at("secret"), way, &files(0));
        let shown = Pair { certificate: secret.at("tls.crt"), key: secret.at("tls.key") };
        let gateway = setup.start(&certificates(&[&shown]), "");
        let (address, over) = (at(&gateway), Arc::new(AtomicBool::new(false)));
        let (shaken, config) = (Arc::new(AtomicU64::new(0)), ca(&gateway));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (over, shaken, config) = (over.clone(), shaken.clone(), config.clone());
            clients.spawn(async move {
                while !over.load(Relaxed) {
                    // Each time anew: nothing is taken up.
                    let config = client(&config, None, &[]);
                    let answer = ask(&config, address, "localhost", &get("/")).await;
                    assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK"));
                    shaken.fetch_add(1, Relaxed);
                }
            });
        }
        let shows = |name: &'static str| {
            let config = client(&config, None, &[]);
            async move {
                let stream = connect(&config, address, "localhost").await.unwrap();
                mentions(&stream.get_ref().1.peer_certificates().unwrap()[0], name)
            }
        };
        for number in 1..=100 {
            let before = shaken.load(Relaxed);
            secret.put(&files(number));
            until("somebody shakes hands", || async { shaken.load(Relaxed) > before }).await;
            // Some faster than anybody looks.
            if number % 9 == 0 {
                until(&format!("{way:?} {number} is shown"), || shows(["one", "two"][number % 2])).await;
            }
        }
        over.store(true, Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        assert_eq!(metric(&gateway, "witgate_tls_handshakes_failed_total", &[]).await, 0.0, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_does_not_fit_changes_nothing_and_is_told() {
    let mut setup = Setup::new().await;
    let own = setup.certs.ending("own", &["localhost"], 400);
    let next = setup.certs.ending("next", &["localhost"], 3);
    let gateway = setup.start(&certificates(&[&own]), "");
    let file = own.certificate.display().to_string();
    let ends = async || metric(&gateway, "witgate_certificate_end_seconds", &[&file]).await;
    let changes = |result: &'static str| {
        let file = file.clone();
        let gateway = &gateway;
        async move { metric(gateway, "witgate_tls_file_changes_total", &[&file, result]).await }
    };
    let before = ends().await;
    let in_days = |days: u64| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        (now + Duration::from_secs(days * 24 * 3600)).as_secs_f64()
    };
    assert!((before - in_days(400)).abs() < 100.0, "{before}");
    let shows = |name: &'static str| {
        let address = at(&gateway);
        async move {
            let said = text(&s_client(address, &[], &get("/")).await);
            said.contains(&format!("subject=CN = {name}\n"))
        }
    };
    rename(&fs::read(&next.certificate).unwrap(), &own.certificate);
    gateway.logged("is not that of the certificate").await;
    until("it is counted", || async { changes("refused").await == 1.0 }).await;
    assert!(shows("own").await && ends().await == before && changes("taken").await == 0.0);
    rename(b"no certificate", &own.certificate);
    gateway.logged("there is no certificate in").await;
    assert!(shows("own").await);
    fs::remove_file(&own.certificate).unwrap();
    gateway.logged("cannot be read").await;
    assert!(shows("own").await);
    // The other half comes.
    rename(&fs::read(&next.certificate).unwrap(), &own.certificate);
    rename(&fs::read(&next.key).unwrap(), &own.key);
    until("the next one is shown", || shows("next")).await;
    gateway.logged("Certificate ends soon").await;
    assert!((ends().await - in_days(3)).abs() < 100.0);
    assert_eq!(changes("taken").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_do_not_come_to_an_end_hold_up_nobody_and_end() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "header_timeout_ms = 700");
    let hello = {
        // The first bytes of a real one.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = client(&ca(&gateway), None, &[]);
        let address = listener.local_addr().unwrap();
        let asking = tokio::spawn(async move { connect(&config, address, "localhost").await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 200];
        stream.read_exact(&mut bytes).await.unwrap();
        asking.abort();
        bytes
    };
    let began = Instant::now();
    let mut silent = Vec::new();
    for sent in [0, 1, 100, 200].repeat(10) {
        let mut stream = TcpStream::connect(at(&gateway)).await.unwrap();
        stream.write_all(&hello[..sent]).await.unwrap();
        silent.push(stream);
    }
    let config = client(&ca(&gateway), None, &[]);
    let answer = ask(&config, at(&gateway), "localhost", &get("/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"));
    assert!(began.elapsed() < Duration::from_millis(600), "nobody is held up");
    for mut stream in silent {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        // It ends, with or without a word.
        let _ = read.expect("the gateway ends it");
    }
    assert!(began.elapsed() >= Duration::from_millis(700));
    failed(&gateway, "late", 40).await;
    // A slow one that goes on is as late.
    let mut slow = TcpStream::connect(at(&gateway)).await.unwrap();
    let began = Instant::now();
    for byte in &hello {
        if slow.write_all(&[*byte]).await.is_err() || began.elapsed() > Duration::from_secs(10) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    failed(&gateway, "late", 41).await;
    // What is no TLS is told apart, and answered with an alert.
    let mut plain = TcpStream::connect(at(&gateway)).await.unwrap();
    plain.write_all(get("/").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    failed(&gateway, "no-tls", 1).await;
    drop(TcpStream::connect(at(&gateway)).await.unwrap());
    failed(&gateway, "closed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_length_ends_with_a_word_and_a_broken_one_without() {
    let origin = Origin::replying(|seen| match seen.path() {
        "/whole" => Reply::Close(b"HTTP/1.0 200 OK\r\n\r\nwhole".to_vec()),
        _ => Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_vec()),
    })
    .await;
    let mut setup = Setup::with(origin);
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "");
    let config = client(&ca(&gateway), None, &[]);
    let request = |path: &str| format!("GET {path} HTTP/1.0\r\nhost: a\r\n\r\n");
    let whole = ask(&config, at(&gateway), "localhost", &request("/whole")).await.unwrap();
    assert!(whole.ends_with("\r\n\r\nwhole"), "{whole}");
    let broken = ask(&config, at(&gateway), "localhost", &request("/broken")).await;
    assert!(broken.is_err(), "who reads to the end cannot take it for whole: {broken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_without_a_word_ends_what_it_had_under_way() {
    let (told, mut left) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::connected(move |mut stream, _, _| {
        let told = told.clone();
        async move {
            let mut bytes = vec![0; 4096];
            // To the end of the connection: the request is never answered.
            while stream.read(&mut bytes).await.is_ok_and(|len| len > 0) {}
            let _ = told.send(());
        }
    })
    .await;
    let mut setup = Setup::with(origin);
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "");
    let config = client(&ca(&gateway), None, &[]);
    for upload in [false, true] {
        let mut stream = connect(&config, at(&gateway), "localhost").await.unwrap();
        let head = if upload {
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\npart"
        } else {
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // TLS is not told.
        drop(stream.into_inner().0);
        tokio::time::timeout(Duration::from_secs(20), left.recv())
            .await
            .expect("the endpoint is told")
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_found_out_behind_tls() {
    let origin = Origin::replying(|_| Reply::text(&"x".repeat(30 << 20))).await;
    let mut setup = Setup::with(origin);
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "write_timeout_ms = 500");
    let config = client(&ca(&gateway), None, &[]);
    let mut stream = connect(&config, at(&gateway), "localhost").await.unwrap();
    stream.write_all(get("/").as_bytes()).await.unwrap();
    until("the gateway gives up", || async {
        metric(&gateway, "witgate_connections", &["listener=\"tls\""]).await == 0.0
    })
    .await;
    let mut got = Vec::new();
    assert!(stream.read_to_end(&mut got).await.is_err() && got.len() < 30 << 20);
    // One that takes it slowly has all of it.
    let mut stream = connect(&config, at(&gateway), "localhost").await.unwrap();
    stream.write_all(get("/").as_bytes()).await.unwrap();
    let (mut total, mut piece) = (0, vec![0; 4 << 20]);
    loop {
        let len = stream.read(&mut piece).await.unwrap();
        total += len;
        if len == 0 {
            break;
        }
        if total % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    assert!(total > 30 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_and_registrations_have_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("certs"));
    let own = certs.server();
    let config = format!(
        "[admin]\naddress = '127.0.0.1:0'\ntls = {{ {shown} }}
         [admin.registrations]\naddress = '127.0.0.1:0'\ntls = {{ {shown}, client_ca_file = '{ca}' }}
         [[listener]]\naddress = '127.0.0.1:0'\n",
        shown = certificates(&[&own]),
        ca = certs.ca().display()
    );
    fs::write(folder.path().join("witgate.toml"), config).unwrap();
    let known = certs.client("orders");
    let gateway = Gateway::run(folder);
    let ca = certs.ca().display().to_string();
    let url = |address: SocketAddr, path: &str| format!("https://localhost:{}{path}", address.port());
    let said = text(&curl(&["--cacert", &ca, &url(gateway.admin, "/healthz")]).await);
    assert!(said.contains("ok"), "{said}");
    let metrics = text(&curl(&["--cacert", &ca, &url(gateway.admin, "/metrics")]).await);
    assert!(metrics.contains("witgate_certificate_end_seconds{file="), "{metrics}");
    let plain = format!("http://127.0.0.1:{}/healthz", gateway.admin.port());
    assert!(!curl(&[&plain]).await.status.success());
    let operator = |admin: &str, more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_witgate"));
        command.args(["upstream", "--admin", admin]).args(more).arg("list");
        let output = command.output().unwrap();
        (output.status.success(), text(&output))
    };
    let admin = format!("https://localhost:{}", gateway.admin.port());
    assert!(operator(&admin, &["--ca-file", &ca]).0);
    let (done, said) = operator(&admin, &[]);
    assert!(!done && said.contains("no TLS with localhost"), "{said}");
    let (done, said) = operator(&gateway.admin.to_string(), &["--ca-file", &ca]);
    assert!(!done && said.contains("write the address as https://127.0.0.1"), "{said}");
    let registrations = gateway.registrations.unwrap();
    let put = url(registrations, "/api/v1/services/orders/1");
    let body =
        ["--request", "PUT", "--data", r#"{"address":"127.0.0.1:1","ttl_seconds":0}"#, "--cacert", &ca];
    assert!(!curl(&[&body[..], &[&put]].concat()).await.status.success(), "it needs a certificate");
    let shown = ["--cert", known.certificate.to_str().unwrap(), "--key", known.key.to_str().unwrap()];
    let said = text(
        &curl(&[&body[..], &shown, &["--header", "content-type: application/json", &put]].concat()).await,
    );
    assert!(said.contains("127.0.0.1:1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_shake_hands_gives_way_when_permits_are_short() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "max_connections = 2");
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(at(&gateway)).await.unwrap());
    }
    until("both have a permit", || async {
        metric(&gateway, "witgate_connections", &["listener=\"tls\""]).await == 2.0
    })
    .await;
    let config = client(&ca(&gateway), None, &[]);
    let answer = ask(&config, at(&gateway), "localhost", &get("/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"));
    failed(&gateway, "late", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_passes_through_tls_on_both_sides_until_each_has_closed() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(folder.path());
    let own = certs.server();
    let origin = TlsOrigin::serving(server(&own, None, &[]), |mut stream, _| async move {
        if read_head(&mut stream).await.is_none() {
            return;
        }
        let switch =
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nfirst ";
        stream.write_all(switch).await.unwrap();
        // All that comes, then what is said after the other side has closed.
        let mut came = Vec::new();
        stream.read_to_end(&mut came).await.unwrap();
        stream.write_all(&came).await.unwrap();
        stream.write_all(b" last").await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let text = format!(
        "[[listener]]\nname = 'tls'\naddress = '127.0.0.1:0'\ntls = {{ {} }}
         [registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = ['{}'] }}
         [upstream.main]
         service = 'main'
         registry = 'fixed'
         tls = {{ ca_file = '{}' }}
         [[route]]
         upstream = 'main'",
        certificates(&[&own]),
        origin.address,
        certs.ca().display()
    );
    let gateway = Gateway::start(&text);
    let config = client(&certs.ca(), None, &[]);
    let mut stream = connect(&config, at(&gateway), "localhost").await.unwrap();
    let asks = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\n";
    stream.write_all(asks).await.unwrap();
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let long = "x".repeat(500_000);
    stream.write_all(long.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, format!("first {long} last"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_came_ahead_are_answered_in_their_turn() {
    const REQUESTS: usize = 1_000;
    let mut setup = Setup::with(Origin::replying(|seen| Reply::text(&format!("<{}>", seen.path()))).await);
    let own = setup.certs.server();
    let gateway = setup.start(&certificates(&[&own]), "");
    let config = client(&ca(&gateway), None, &[]);
    let ask = async |text: String, count: usize, last: usize| {
        let mut stream = connect(&config, at(&gateway), "localhost").await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let (last, mut came) = (format!("</{last}>"), Vec::new());
        let read = async {
            while !came.ends_with(last.as_bytes()) {
                assert!(stream.read_buf(&mut came).await.unwrap() > 0);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("all are answered");
        assert_eq!(String::from_utf8(came).unwrap().matches("HTTP/1.1 200 OK").count(), count);
    };
    let many = (0..REQUESTS).map(|number| format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n"));
    // More than anybody reads at once, and nothing after it that would wake who waits for its turn.
    ask(many.collect(), REQUESTS, REQUESTS - 1).await;
    // The first fills what is read at once, so that TLS alone has the second.
    for longest in [4_096, 8_192, 12_288] {
        let [first, second] =
            [1, 2].map(|number| format!("GET /{number} HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n"));
        let padding = "x".repeat(longest - first.len());
        ask(first.replace("x: ", &format!("x: {padding}")) + &second, 2, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_the_certificate_that_it_began_with() {
    let mut setup = Setup::new().await;
    let own = setup.certs.server();
    let brief = setup.certs.client_ending_in("brief", Duration::from_secs(8));
    let rule = format!("client_ca_file = '{}'", setup.certs.ca().display());
    let gateway = setup.start(&format!("{}, {rule}", certificates(&[&own])), "");
    let config = client(&ca(&gateway), Some(&brief), &[]);
    let resumed = async || metric(&gateway, "witgate_tls_handshakes_total", &["resumed"]).await;
    for _ in 0..2 {
        let answer = ask(&config, at(&gateway), "localhost", &get("/")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"));
    }
    assert_eq!(resumed().await, 1.0);
    until("its session is refused", || async {
        ask(&config, at(&gateway), "localhost", &get("/")).await.is_err()
    })
    .await;
    failed(&gateway, "certificate", 1).await;
}
