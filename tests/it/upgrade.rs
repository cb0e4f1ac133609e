//! A new process takes over from the running one, and nobody notices; or it comes to nothing, and nobody notices that.

use std::{
    fs::{self, File},
    io::{IoSlice, Seek as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::Reason;
use http::{Method, StatusCode};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
        SocketType, recv, send, sendmsg, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::support::{
    backend::Backend,
    client::Client,
    gateway::{Gateway, PATIENCE, bound_to_test, has_ended, until},
    http2::{self, Http2},
    session::Session,
    traffic::Traffic,
};

const ROUTE: &str = r#"
[shutdown]
delay_ms = 0
drain_ms = 5000

[upstream.orders]
service = "orders"
registry = "memory"

[[route]]
path = "/"
upstream = "orders"
"#;

/// More than the socket buffers of the way hold.
const UPLOAD: usize = 4 << 20;

async fn gateway() -> (Gateway, Backend) {
    let gateway = Gateway::start(ROUTE);
    let backend = serving(&gateway).await;
    (gateway, backend)
}

async fn serving(gateway: &Gateway) -> Backend {
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;
    backend
}

/// Clients other than those that keep a connection of HTTP/1: some come anew for each request, some speak HTTP/2.
struct Clients {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    /// Requests of HTTP/2 that the gateway has not processed, and said so.
    resent: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Clients {
    fn start(gateway: &Gateway) -> Self {
        let (shared, mut clients, address) = (Arc::<Shared>::default(), JoinSet::new(), gateway.address());
        for _ in 0..3 {
            let own = shared.clone();
            clients.spawn(async move {
                while !own.stop.load(Relaxed) {
                    own.note(once(address).await.map_err(|error| format!("a new connection: {error}")));
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            });
            let own = shared.clone();
            clients.spawn(async move { own.speak_http2(address).await });
        }
        Self { shared, clients }
    }

    /// How many requests were answered and how many sent again, none having failed.
    async fn stop(mut self) -> (u64, u64) {
        self.shared.stop.store(true, Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        let failures = self.shared.failures.lock().unwrap();
        assert!(failures.is_empty(), "{} of them: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
        (self.shared.answered.load(Relaxed), self.shared.resent.load(Relaxed))
    }
}

impl Shared {
    fn note(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.answered.fetch_add(1, Relaxed);
            }
            Err(error) => self.failures.lock().unwrap().push(error),
        }
    }

    /// Over one connection, until that takes no more requests, and then over another.
    async fn speak_http2(&self, address: std::net::SocketAddr) {
        let mut client = Http2::connect(address).await;
        for number in 0.. {
            if self.stop.load(Relaxed) {
                return;
            }
            let uploads = number % 5 == 0;
            let request = http2::to(if uploads { Method::POST } else { Method::GET }, "/");
            // What the library refuses has not been sent.
            let sent = match client.sender.clone().ready().await {
                Ok(mut sender) => sender.send_request(request, !uploads),
                Err(error) => Err(error),
            };
            let Ok((response, mut stream)) = sent else {
                client = Http2::connect(address).await;
                continue;
            };
            if uploads {
                // Whether the stream is still there the answer tells.
                let _ = stream.send_data(vec![b'x'; 100_000].into(), false);
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = stream.send_data(Bytes::from_static(b"end"), true);
            }
            match http2::answer(response).await {
                Ok(answer) if answer.status == 200 => self.note(Ok(())),
                Ok(answer) => self.note(Err(format!("HTTP/2: {} {}", answer.status, answer.text()))),
                // The request was still in the client when the gateway said which is the last that it takes. So it was
                // not processed, and whoever speaks HTTP/2 sends it again (RFC 9113, 6.8).
                Err(error) if error.is_go_away() && error.reason() == Some(Reason::NO_ERROR) => {
                    self.resent.fetch_add(1, Relaxed);
                    client = Http2::connect(address).await;
                }
                Err(error) => self.note(Err(format!("HTTP/2: {error}"))),
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// A request over a connection of its own.
async fn once(address: std::net::SocketAddr) -> Result<(), std::io::Error> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
    }
}

/// A large upload that is half done when this returns. The rest of it is sent by what is returned, which says how many
/// bytes arrived.
async fn half_an_upload(gateway: &Gateway) -> impl Future<Output = usize> + use<> {
    let mut client = Client::connect(gateway.address()).await;
    client.send(format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {UPLOAD}\r\n\r\n")).await;
    client.send(vec![b'x'; UPLOAD / 2]).await;
    async move {
        client.send(vec![b'x'; UPLOAD - UPLOAD / 2]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        answer.header("x-received").unwrap().parse().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_upgrades_under_load_refuse_reset_and_fail_nothing() {
    let (mut gateway, _backend) = gateway().await;
    let keeping = Traffic::mixed(gateway.address(), "/", 4);
    let others = Clients::start(&gateway);
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    for _ in 0..50 {
        let upload = half_an_upload(&gateway).await;
        let asked = Instant::now();
        gateway.signal("USR2");
        let before = gateway.until_upgraded();
        longest = longest.max(asked.elapsed());
        assert_ne!(before, gateway.pid());
        assert_eq!(upload.await, UPLOAD);
        keeping.more(20).await;
        until("the old process has ended", || async { has_ended(before) }).await;
    }
    let (keeping, (others, resent)) = (keeping.stop().await.none_failed(), others.stop().await);
    println!(
        "50 upgrades in {:?}, the longest {longest:?}; {keeping}; {others} over new connections and HTTP/2, of which \
         {resent} sent again",
        start.elapsed()
    );
    // Each connection has at most one under way.
    assert!(resent * 20 < others, "{resent} of {others}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_registration_and_no_heartbeat_is_lost_on_the_way() {
    let (mut gateway, backend) = gateway().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, admin) = (stop.clone(), gateway.admin);
    // Each over a connection of its own, which waits for whoever accepts next.
    let registering = tokio::spawn(async move {
        let mut known = 0;
        while !stopped.load(Relaxed) {
            let body = format!(r#"{{"address":"{}","ttl_seconds":0}}"#, backend.address);
            let path = format!("/api/v1/services/others/{known}");
            let answer = Session::new(admin).put(&path, body).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{known}: {}", answer.text());
            assert!(!answer.text().contains("unsaved"), "{}", answer.text());
            known += 1;
        }
        known
    });
    // What stops these is that they are not renewed for two seconds.
    let (stopped, admin) = (stop.clone(), gateway.admin);
    let renewing = tokio::spawn(async move {
        let body = r#"{"address":"127.0.0.1:9","ttl_seconds":2}"#;
        let mut renewals = 0;
        while !stopped.load(Relaxed) {
            let answer = Session::new(admin).put("/api/v1/services/short/a", body).await;
            let expected = if renewals == 0 { StatusCode::CREATED } else { StatusCode::OK };
            assert_eq!(answer.status, expected, "renewal {renewals}");
            renewals += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        renewals
    });
    for _ in 0..5 {
        gateway.signal("USR2");
        gateway.until_upgraded();
        // Some are registered with this one, too.
        let count =
            async || gateway.api("/api/v1/services/others").await["instances"].as_array().unwrap().len();
        let before = count().await;
        until("more are registered", || async { count().await > before + 3 }).await;
    }
    stop.store(true, Relaxed);
    let (known, renewals) = (registering.await.unwrap(), renewing.await.unwrap());
    assert!(known > 20 && renewals > 20, "{known} registrations, {renewals} renewals");
    let listed = gateway.api("/api/v1/services/others").await;
    assert_eq!(listed["instances"].as_array().unwrap().len(), known);
    // Also on disk, which the last process writes.
    let gateway = gateway.restart().await;
    let listed = gateway.api("/api/v1/services/others").await;
    assert_eq!(listed["instances"].as_array().unwrap().len(), known);
}

/// The process that this one has started.
fn child_of(pid: u32) -> u32 {
    let parent_of = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let id: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        // It may have ended meanwhile.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        (parent_of(&stat) == Some(pid)).then_some(id)
    });
    processes.next().expect("it has started a process")
}

/// The program is exchanged: the path leads to something else.
fn exchange(program: &Path, script: &str) {
    let aside = program.with_extension("new");
    fs::write(&aside, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&aside, program).unwrap();
}

/// A gateway that was started by a path of its own.
fn exchangeable(text: &str) -> (Gateway, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("witgate");
    symlink(env!("CARGO_BIN_EXE_witgate"), &program).unwrap();
    (Gateway::start_as(&program, folder, text), program)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_comes_to_nothing_changes_nothing() {
    let (mut gateway, program) = exchangeable(&format!("{ROUTE}\n[upgrade]\ntimeout_ms = 1500\n"));
    let backend = serving(&gateway).await;
    let (keeping, others) = (Traffic::mixed(gateway.address(), "/", 2), Clients::start(&gateway));
    let pid = gateway.pid();
    let real = env!("CARGO_BIN_EXE_witgate");
    // The first does not know the variable, as a program of another make, and goes on with other ports.
    let unaware = format!("exec env -u WITGATE_SUCCEEDS {real} \"$@\"");
    let misled = format!("exec {real} run --config /no/such/file.toml");
    let cases = [
        ("exit 3", "exit status: 3"),
        ("kill -SEGV $$", "signal: 11"),
        ("exec sleep 600", "was not ready within 1.5s"),
        (&*unaware, "was not ready within 1.5s"),
        (&*misled, "exit status: 1"),
    ];
    for (times, (script, why)) in cases.into_iter().enumerate() {
        exchange(&program, script);
        gateway.signal("USR2");
        let failed = || gateway.log().matches("No new process took over, serving on").count() == times + 1;
        until("it is told", || async { failed() }).await;
        let log = gateway.log();
        let told = log.lines().rfind(|line| line.contains("No new process took over")).unwrap();
        assert!(told.contains(why), "{script}: {told}");
        // It is still who registers, and writes.
        let body = format!(r#"{{"address":"{}","ttl_seconds":0}}"#, backend.address);
        let answer = gateway.session_to_admin().put(&format!("/api/v1/services/late/{times}"), body).await;
        assert_eq!(answer.status, StatusCode::CREATED);
        assert!(!answer.text().contains("unsaved"), "{}", answer.text());
        assert_eq!(gateway.pid(), pid);
        keeping.more(50).await;
    }
    // Not even executable, and then nothing at all.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    gateway.signal("USR2");
    gateway.logged("Permission denied").await;
    fs::remove_file(&program).unwrap();
    gateway.signal("USR2");
    gateway.logged("No such file or directory").await;
    keeping.more(50).await;
    // At last one that works.
    exchange(&program, &format!("exec {real} \"$@\""));
    gateway.signal("USR2");
    assert_eq!(gateway.until_upgraded(), pid);
    keeping.more(50).await;
    assert_eq!(gateway.api("/api/v1/services/late").await["instances"].as_array().unwrap().len(), 5);
    keeping.stop().await.none_failed();
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_refuses_its_configuration_or_knows_no_endpoints_does_not_take_over() {
    let mut gateway = Gateway::start(ROUTE);
    let _backend = serving(&gateway).await;
    let keeping = Traffic::mixed(gateway.address(), "/", 2);
    gateway.reconfigure("[[route]]\npath = \"orders\"\n");
    gateway.logged("the running one stays").await;
    gateway.signal("USR2");
    gateway.logged("exit status: 1").await;
    // An etcd that does not answer, in which the service may be or not. With another state directory there is no list.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!(
        "[state]\ndirectory = \"elsewhere\"\n\n[registry.main]\nplugin = \"etcd\"\netcd = {{ endpoints = [\"{}\"] }}\nsettings = {{ layout = \"go-zero\" }}\n{}",
        silent.local_addr().unwrap(),
        ROUTE.replace("registry = \"memory\"", "registry = \"main\"")
    );
    gateway.reconfigure(&other);
    gateway.logged("only a restart can change this").await;
    gateway.signal("USR2");
    // After the five seconds that a start gives upstreams for their first list.
    gateway.logged("this one none yet").await;
    keeping.more(20).await;
    keeping.stop().await.none_failed();
    // It does not wait for something to take over from.
    let new = child_of(gateway.pid());
    gateway.signal("KILL");
    gateway.exit().await;
    until("the new process has ended", || async { has_ended(new) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_refused_while_a_new_process_has_read_what_they_would_change() {
    let (gateway, program) = exchangeable(&format!("{ROUTE}\n[upgrade]\ntimeout_ms = 2000\n"));
    let _backend = serving(&gateway).await;
    exchange(&program, "exec sleep 600");
    let pin =
        async || gateway.session_to_admin().send(post("/api/v1/upstreams/orders/pin"), Bytes::new()).await;
    gateway.signal("USR2");
    gateway.logged("Starting a new process").await;
    let refused = pin().await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    assert_eq!(refused.headers["connection"], "close");
    assert!(refused.text().contains("about to take over"), "{}", refused.text());
    gateway.logged("No new process took over").await;
    assert_eq!(pin().await.status, StatusCode::OK);
}

/// A new process that says it is ready, and when it is to take over does nothing for six seconds, and ends.
const LEAVES_AT_THE_LAST: &str = r#"printf '{"ready":{"taken":[]}}' >&0
while message=$(dd bs=262144 count=1 2>/dev/null) && [ -n "$message" ]; do
  case "$message" in *take-over*) sleep 6; exit 3 ;; esac
done"#;

/// Nobody could renew anything meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_has_its_whole_time_again_when_a_new_process_leaves_at_the_last() {
    let (gateway, program) = exchangeable(ROUTE);
    let backend = serving(&gateway).await;
    exchange(&program, LEAVES_AT_THE_LAST);
    let register = async |id: &str, ttl: u32| {
        let body = format!(r#"{{"address":"{}","ttl_seconds":{ttl}}}"#, backend.address);
        gateway.session_to_admin().put(&format!("/api/v1/services/short/{id}"), body).await.status
    };
    assert_eq!(register("kept", 5).await, StatusCode::CREATED);
    gateway.signal("USR2");
    gateway.logged("No new process took over, serving on").await;
    assert!(gateway.log().contains("exit status: 3"), "{}", gateway.log());
    // By the time that another one is gone, so is whatever had no time left.
    assert_eq!(register("other", 1).await, StatusCode::CREATED);
    let ids = async || {
        let listed = gateway.api("/api/v1/services/short").await;
        let all = listed["instances"].as_array().unwrap().clone();
        all.iter().map(|of| of["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("the other one is gone", || async { !ids().await.contains(&"other".to_owned()) }).await;
    assert_eq!(ids().await, ["kept"]);
}

/// What is registered in a gateway that was never used.
const NOTHING: &str = "{\"version\":2}\n";

/// Says something to a new process as the old one does, with a file of this text if any.
fn say(end: &OwnedFd, message: &str, text: Option<&str>) {
    let file = text.map(|text| {
        let mut file = File::from(memfd_create("registry", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    });
    let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut room);
    if !files.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&files));
    }
    sendmsg(end, &[IoSlice::new(message.as_bytes())], &mut beside, SendFlags::empty()).unwrap();
}

/// What the new process says.
fn hear(end: &OwnedFd) -> String {
    let mut bytes = [0; 4096];
    let (length, _) = recv(end, &mut bytes, RecvFlags::empty()).expect("it says something");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Until it has said that it serves, the old process may take everything back, and whatever was registered with it by then
/// would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_to_the_admin_api_before_the_old_process_is_told() {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE)).unwrap();
    let its_end = theirs.try_clone().unwrap();
    say(&ours, r#"{"registry":{"version":1}}"#, Some(NOTHING));
    say(&ours, r#""complete""#, None);
    let mut command = bound_to_test();
    command.arg(env!("CARGO_BIN_EXE_witgate")).env("WITGATE_SUCCEEDS", std::process::id().to_string());
    command.stdin(Stdio::from(theirs));
    let mut gateway = Gateway::start_early_by(command, tempfile::tempdir().unwrap(), ROUTE);
    assert_eq!(hear(&ours), r#"{"ready":{"taken":[]}}"#);
    // There is no room for what it is going to say.
    while send(&its_end, b"full", SendFlags::DONTWAIT).is_ok() {}
    say(&ours, r#""take-over""#, Some(NOTHING));
    until("it takes clients", || async { TcpStream::connect(gateway.address()).await.is_ok() }).await;
    assert_eq!(gateway.get("/").await.reason(), Some("no-endpoints"), "it serves");
    let mut admin = gateway.session_to_admin();
    let mut asked = tokio::spawn(async move { admin.get("/healthz").await.status });
    assert!(timeout(Duration::from_millis(300), &mut asked).await.is_err(), "it is let in");
    while hear(&ours) != r#""serving""# {}
    assert_eq!(asked.await.unwrap(), StatusCode::OK);
    gateway.until_ready();
}

fn post(path: &str) -> http::request::Builder {
    http::Request::post(path).header("content-type", "application/json")
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_file_again_and_begins_anew_if_the_program_is_another() {
    let (mut gateway, program) = exchangeable(ROUTE);
    let _backend = serving(&gateway).await;
    let pid = gateway.pid();
    gateway.reconfigure(&format!("{ROUTE}\n[upstream.users]\nservice = \"users\"\nregistry = \"memory\"\n"));
    gateway.signal("HUP");
    gateway.applied(1).await;
    assert!(!gateway.log().contains("Starting a new process"));
    exchange(&program, &format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_witgate")));
    gateway.signal("HUP");
    assert_eq!(gateway.until_upgraded(), pid);
    assert_eq!(gateway.api("/api/v1/upstreams").await["upstreams"].as_array().unwrap().len(), 2);
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// What only a restart can change is changed by a new process, also how many sockets there are.
#[tokio::test(flavor = "multi_thread")]
async fn other_workers_and_listeners_refuse_and_reset_nobody() {
    let (mut gateway, _backend) = gateway().await;
    let path = gateway.folder().join("witgate.toml");
    let first = fs::read_to_string(&path).unwrap();
    let (keeping, others) = (Traffic::mixed(gateway.address(), "/", 2), Clients::start(&gateway));
    for workers in [1, 4, 3, 1, 2] {
        let other = "[[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"\n\n[shutdown]";
        let text = first.replace("workers = 2", &format!("workers = {workers}"));
        let text = if workers % 2 == 1 { text.replace("[shutdown]", other) } else { text };
        fs::write(path.with_extension("tmp"), text).unwrap();
        fs::rename(path.with_extension("tmp"), &path).unwrap();
        gateway.signal("USR2");
        let before = gateway.until_upgraded();
        keeping.more(50).await;
        let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap();
        let names = threads.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        assert_eq!(names.filter(|name| name.starts_with("worker-")).count(), workers);
        until("the old process has ended", || async { has_ended(before) }).await;
        // The queue of a socket that nobody accepts on would keep its clients waiting for ever.
        for _ in 0..50 {
            once(gateway.address()).await.unwrap();
        }
    }
    keeping.stop().await.none_failed();
    others.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_admin_api_that_the_new_process_does_without_is_closed() {
    let (mut gateway, _backend) = gateway().await;
    let keeping = Traffic::mixed(gateway.address(), "/", 2);
    let (path, left) = (gateway.folder().join("witgate.toml"), gateway.admin);
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replacen("address = \"127.0.0.1:0\"", "address = \"127.0.0.2:0\"", 1);
    fs::write(path.with_extension("tmp"), text).unwrap();
    fs::rename(path.with_extension("tmp"), &path).unwrap();
    gateway.signal("USR2");
    let before = gateway.until_upgraded();
    until("the old process has ended", || async { has_ended(before) }).await;
    let refused = TcpStream::connect(left).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    keeping.more(50).await;
    keeping.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_the_gateway_stops_the_new_process_that_is_not_ready_yet() {
    let (mut gateway, program) = exchangeable(ROUTE);
    let _backend = serving(&gateway).await;
    let pid = gateway.folder().join("pid");
    exchange(&program, &format!("echo $$ > {}; exec sleep 600", pid.display()));
    gateway.signal("USR2");
    let mut new = String::new();
    until("it runs", || async { pid.exists() && fs::read_to_string(&pid).unwrap().ends_with('\n') }).await;
    new.push_str(fs::read_to_string(&pid).unwrap().trim());
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    assert!(has_ended(new.parse().unwrap()));
}
