//! A real rnacos for one test, which speaks version 1 of the API of Nacos and asks who one is. Gone when the value is dropped.
//! `./dev peers` builds it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    etcd::free_port,
    fault_table::Registry,
    nacos::{Client, USER, registry},
    tampered::{Tampered, Tampering},
};

/// How long a server may take to answer; it takes a second. One that takes longer never does: a part of it may fail while it
/// starts, or find its port taken by another test.
const PATIENCE: Duration = Duration::from_secs(15);
const TRIES: usize = 6;

pub const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/rnacos/bin/rnacos");

pub struct Rnacos {
    child: Option<Child>,
    folder: TempDir,
    /// For HTTP, gRPC and the console.
    ports: [u16; 3],
    password: String,
    /// Whether it asks who one is.
    locked: bool,
    /// By which it knows its clients since it was started.
    token: String,
    /// What was registered and goes on living, as those who send heartbeats do.
    instances: BTreeMap<String, SocketAddr>,
    /// Stands between the gateway and the server.
    between: Tampered,
}

/// What it begins with.
enum Data {
    Kept,
    New,
}

enum Ports {
    Kept,
    New,
}

impl Rnacos {
    /// Lets in who has logged in.
    pub async fn start() -> Self {
        Self::start_if(true).await
    }

    /// Lets in anybody.
    pub async fn start_open() -> Self {
        Self::start_if(false).await
    }

    async fn start_if(locked: bool) -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: `scripts/servers.sh rnacos` builds it");
        let (folder, between) = (tempfile::tempdir().unwrap(), Tampered::start().await);
        let (ports, instances) = ([0; 3], BTreeMap::new());
        let (child, password) = (None, String::new());
        let mut rnacos =
            Self { child, folder, ports, password, locked, token: String::new(), instances, between };
        rnacos.renew_password();
        rnacos.launch(Data::New, Ports::New).await;
        rnacos
    }

    async fn launch(&mut self, data: Data, ports: Ports) {
        for _ in 0..TRIES {
            self.end();
            if let Data::New = data {
                let _ = fs::remove_dir_all(self.data());
            }
            if let Ports::New = ports {
                self.ports = [free_port(), free_port(), free_port()];
                self.between.to(self.address());
            }
            self.spawn();
            if self.is_ready().await {
                return;
            }
        }
        panic!("rnacos does not start: {}", self.log());
    }

    fn spawn(&mut self) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let [http, grpc, console] = self.ports.map(|port| port.to_string());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PROGRAM]).current_dir(self.folder.path());
        for (name, value) in [
            ("HTTP_PORT", &*http),
            ("GRPC_PORT", &grpc),
            ("HTTP_CONSOLE_PORT", &console),
            ("SDK_HOST", "127.0.0.1"),
            ("HTTP_WORKERS", "2"),
            ("ENABLE_OPEN_API_AUTH", if self.locked { "true" } else { "false" }),
            ("INIT_ADMIN_USERNAME", USER),
            ("INIT_ADMIN_PASSWORD", &self.password),
            ("API_LOGIN_ONE_MINUTE_LIMIT", "100000"),
            // Nobody sends heartbeats for most instances of tests.
            ("NAMING_HEALTH_TIMEOUT_SECOND", "3600"),
            ("NAMING_INSTANCE_TIMEOUT_SECOND", "3600"),
        ] {
            command.env(format!("RNACOS_{name}"), value);
        }
        command.env("RNACOS_DATA_DIR", self.data());
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Waits until one can log in; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if let Ok(client) = Client::log_in(self.address(), &self.password).await {
                self.token = client.token().unwrap().to_owned();
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports[0]).into()
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// One that has logged in.
    pub fn logged_in(&self) -> Client {
        Client::with_token(self.address(), &self.token)
    }

    /// The table of a registry that asks it, with these settings more.
    pub fn registry(&self, settings: &str) -> String {
        let file = self.password_file();
        registry(&[self.between.address], "v1", self.locked.then_some(&*file), settings)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// For the next start without data, and for the gateway.
    fn renew_password(&mut self) {
        self.password = format!("{:016x}", fastrand::u64(..));
        self.hand_out();
    }

    fn hand_out(&self) {
        fs::write(self.password_file(), &self.password).unwrap();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    async fn tell_all(&mut self) {
        let mut client = self.logged_in();
        for address in self.instances.values() {
            client.register("orders", *address, &[]).await;
        }
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("rnacos is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Registry for Rnacos {
    async fn start() -> Self {
        Self::start().await
    }

    fn toml(&self) -> String {
        self.registry("")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.instances.insert(id.to_owned(), address);
        self.logged_in().register("orders", address, &[]).await;
    }

    async fn withdraw(&mut self, id: &str) {
        let address = self.instances.remove(id).unwrap();
        self.logged_in().deregister("orders", address).await;
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        let metadata = format!("{{\"padding\":\"{}\"}}", "x".repeat(padding));
        let mut client = self.logged_in();
        for address in addresses {
            client.register("orders", address, &[("metadata", &metadata)]).await;
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
    }

    fn kill9(&mut self) {
        self.end();
    }

    /// It keeps users, and no instance that sends heartbeats: whoever lives tells it again.
    async fn restart(&mut self) {
        self.launch(Data::Kept, Ports::Kept).await;
        self.tell_all().await;
    }

    async fn restart_empty(&mut self) {
        self.launch(Data::New, Ports::Kept).await;
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    /// It forgets whom it let in, and lets in another.
    async fn revoke(&mut self) {
        self.password = format!("{:016x}", fastrand::u64(..));
        self.restart_empty().await;
        self.tell_all().await;
    }

    async fn grant_again(&mut self) {
        self.hand_out();
    }
}

impl Drop for Rnacos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of rnacos:\n{}", self.log());
        }
        self.end();
    }
}
