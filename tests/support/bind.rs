//! A real bind for one test, with a zone `test` of its own. Gone when the value is dropped.

use std::{
    collections::HashMap,
    env,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    dns_between::{DnsBetween, Spoiled},
    etcd::free_port,
    fault_table::Registry,
    tampered::Tampering,
};

/// How long it may take to answer. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Records in one update; all of them have to fit into a message.
const UPDATE: usize = 400;

pub struct Bind {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    /// Whom it answers.
    answers: &'static str,
    /// The ports of instances of `orders`, by id.
    ports: HashMap<String, u16>,
    /// Stands between the gateway and bind.
    between: DnsBetween,
}

/// A program of Debian's, from where the tests' servers are unpacked, with its libraries.
fn program(path: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/dns");
    let folder = env::var_os("WITGATE_DNS").map_or(folder, PathBuf::from);
    let program = folder.join(path);
    assert!(
        program.exists(),
        "no {}: scripts/servers.sh unpacks bind and dnsmasq of Debian bookworm under target/servers/dns, or set \
         WITGATE_DNS to the folder that holds both",
        program.display()
    );
    let libraries = |below: &str| {
        let kind = format!("{}-linux-gnu", env::consts::ARCH);
        folder.join(below).join(kind).display().to_string()
    };
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries("usr/lib"), libraries("lib")));
    command.stdin(Stdio::null());
    command
}

/// Whether a server answers.
fn answers(port: u16) -> bool {
    let port = port.to_string();
    let mut dig = program("usr/bin/dig");
    let asked =
        dig.args(["+short", "+time=1", "+tries=1", "@127.0.0.1", "-p", &port, "test", "SOA"]).output();
    asked.unwrap().status.success()
}

impl Bind {
    pub async fn start() -> Self {
        let mut bind = Self {
            child: None,
            folder: tempfile::tempdir().unwrap(),
            port: 0,
            answers: "any",
            ports: HashMap::new(),
            between: DnsBetween::start().await,
        };
        // A port that was free may be taken by another test before bind has it.
        for _ in 0..10 {
            bind.port = free_port();
            bind.between.to(bind.address());
            bind.wipe();
            bind.spawn();
            if bind.is_ready().await {
                return bind;
            }
            bind.kill9();
        }
        panic!("bind does not start: {}", bind.log());
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &DnsBetween {
        &self.between
    }

    fn configure(&self) {
        let Self { port, answers, .. } = self;
        let folder = self.folder.path().display();
        let text = format!(
            "options {{ directory \"{folder}\"; pid-file none; session-keyfile \"{folder}/session.key\"; \
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; \
             dnssec-validation no; notify no; max-records-per-type 0; allow-query {{ {answers}; }}; }};\n\
             controls {{ }};\n\
             zone \"test\" {{ type primary; file \"{folder}/test.zone\"; allow-update {{ 127.0.0.1; }}; }};\n"
        );
        fs::write(self.folder.path().join("named.conf"), text).unwrap();
    }

    /// The zone as it is when nobody has registered.
    fn wipe(&self) {
        let zone = self.folder.path().join("test.zone");
        let _ = fs::remove_file(zone.with_extension("zone.jnl"));
        let text = "$TTL 1\n@ IN SOA ns.test. root.test. ( 1 60 60 600 1 )\n@ IN NS ns\nns IN A 127.0.0.1\n";
        fs::write(zone, text).unwrap();
    }

    fn spawn(&mut self) {
        self.configure();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut named = program("usr/sbin/named");
        named.arg("-g").arg("-c").arg(self.folder.path().join("named.conf"));
        named.args(["-n", "1"]).stdout(Stdio::null()).stderr(log);
        self.child = Some(named.spawn().unwrap());
    }

    /// Waits until it answers; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if answers(self.port) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Changes the zone, as lines of nsupdate say.
    pub fn update(&self, lines: &[String]) {
        let port = self.port;
        let mut script = format!("server 127.0.0.1 {port}\nzone test\n");
        for lines in lines.chunks(UPDATE) {
            lines.iter().for_each(|line| writeln!(script, "update {line}").unwrap());
            script.push_str("send\n");
        }
        let file = self.folder.path().join("update");
        fs::write(&file, script).unwrap();
        let told = program("usr/bin/nsupdate").arg("-v").arg(file).output().unwrap();
        assert!(told.status.success(), "{} {}", String::from_utf8_lossy(&told.stderr), self.log());
    }

    /// The lines that put an instance of `orders` into the zone, good for so many seconds.
    pub fn lines(id: &str, address: SocketAddr, srv: &str, ttl: u32) -> Vec<String> {
        let (ip, port) = (address.ip(), address.port());
        let kind = if ip.is_ipv4() { "A" } else { "AAAA" };
        vec![
            format!("add {id}.test. 60 {kind} {ip}"),
            format!("add orders.test. {ttl} SRV {srv} {port} {id}.test."),
        ]
    }

    /// The table of a registry that asks it.
    pub fn registry(&self, settings: &str) -> String {
        registry(&[self.between.address], settings)
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("bind is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    /// Answers these clients from now on.
    fn answer(&mut self, clients: &'static str) {
        self.answers = clients;
        self.configure();
        self.signal("-HUP");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// The table of a registry that asks these servers.
pub fn registry(servers: &[SocketAddr], settings: &str) -> String {
    let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
    format!("[registry.main]\nplugin = \"dns\"\ndns = {{ servers = {servers:?} }}\nsettings = {settings}\n")
}

impl Registry for Bind {
    // A message of DNS has 64 KiB.
    const MANY: u16 = 2_000;

    async fn start() -> Self {
        Self::start().await
    }

    fn toml(&self) -> String {
        self.registry("{ name = \"{service}.test\", ttl_floor_seconds = 1 }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.update(&Self::lines(id, address, "10 1", 1));
        self.ports.insert(id.to_owned(), address.port());
    }

    async fn withdraw(&mut self, id: &str) {
        let port = self.ports[id];
        self.update(&[format!("delete orders.test. SRV 10 1 {port} {id}.test.")]);
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        let mut lines = Vec::new();
        for (number, address) in addresses.into_iter().enumerate() {
            let id = format!("h{number}");
            lines.extend(Self::lines(&id, address, "10 1", 1));
            // A text has 255 bytes at most.
            let texts = vec![format!("\"{}\"", "x".repeat(250)); padding / 250].join(" ");
            if !texts.is_empty() {
                self.update(&[format!("add {id}.test. 60 TXT {texts}")]);
            }
        }
        self.update(&lines);
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(match tampering {
            Tampering::None => Spoiled::No,
            Tampering::Cut => Spoiled::Cut,
            Tampering::Instead(_, body) => Spoiled::Instead(body),
            other => panic!("an answer of DNS has no {other:?}"),
        });
    }

    fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn restart(&mut self) {
        self.kill9();
        self.spawn();
        assert!(self.is_ready().await, "bind does not start again: {}", self.log());
    }

    async fn restart_empty(&mut self) {
        self.kill9();
        self.wipe();
        self.restart().await;
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    /// DNS has no credential but the address of who asks.
    async fn revoke(&mut self) {
        self.answer("none");
    }

    async fn grant_again(&mut self) {
        self.answer("any");
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        Registry::kill9(self);
    }
}

/// A real dnsmasq. Gone when the value is dropped.
pub struct Dnsmasq {
    child: Child,
    pub address: SocketAddr,
}

impl Dnsmasq {
    /// With these records, as its options say them.
    pub async fn start(records: &[String]) -> Self {
        for _ in 0..10 {
            let port = free_port();
            let mut dnsmasq = program("usr/sbin/dnsmasq");
            dnsmasq.args([
                "-k",
                "-C",
                "/dev/null",
                "--no-hosts",
                "--no-resolv",
                "--local=/test/",
                "--pid-file=",
            ]);
            dnsmasq.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--user=root", "--local-ttl=1"]);
            dnsmasq.arg(format!("--port={port}")).args(records);
            let child = dnsmasq.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut started = Self { child, address: ([127, 0, 0, 1], port).into() };
            let since = Instant::now();
            while since.elapsed() < PATIENCE && started.child.try_wait().unwrap().is_none() {
                if answers(port) {
                    return started;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        panic!("dnsmasq does not start");
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
