//! Real go-zero: services that register themselves in etcd, and clients that know nothing but the gateway's address. The
//! program is in `tests/peers/go-zero`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use tempfile::TempDir;

use super::{
    client::until,
    etcd::{Etcd, free_port},
    gateway::PATIENCE,
};

/// What the services serve.
pub const SERVICE: &str = "grpc.testing.TestService";

/// Longer than any call takes on a busy machine; go-zero's own limit is two seconds.
const TIMEOUT: &str = "Timeout: 60000";

/// Ends with its standard input, and so with the test, however that ends.
fn spawn(role: &str, config: &Path) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/go-zero");
    assert!(program.exists(), "no {}: `./dev servers` builds it", program.display());
    let mut command = Command::new(program);
    command.args([role, "-with-stdin", "-f"]).arg(config).stdin(Stdio::piped());
    command
}

/// One instance of a service. Killed when it is dropped.
pub struct Service {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Service {
    /// An instance of the service `key` in this etcd, or of one that is in no registry. `settings` are lines of YAML, as
    /// `tests/peers/go-zero/config.go` and go-zero have them. It answers when this returns.
    pub async fn start(name: &str, registry: Option<(&Etcd, &str)>, settings: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let etcd = registry.map_or_else(String::new, |(etcd, key)| {
            format!("Etcd: {{ Hosts: [\"{}\"], Key: {key} }}", etcd.endpoint())
        });
        let timeout = if settings.contains("Timeout:") { "" } else { TIMEOUT };
        let config = format!(
            "Name: '{name}'
ListenOn: {address}
{etcd}
{timeout}
{settings}
# Load of the machine is not what is tested, and other tests may have the port of this.
CpuThreshold: 0
DevServer: {{ Enabled: false }}
Log: {{ Stat: false, Level: error }}
"
        );
        Self::run(name, address, &config).await
    }

    /// With a configuration like any service's, which says what it is called and where it listens.
    pub async fn run(name: &str, address: SocketAddr, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("service.yaml"), config).unwrap();
        let child = Self::launch(folder.path());
        let mut service = Self { name: name.to_owned(), address, child, folder };
        service.answers().await;
        service
    }

    fn launch(folder: &Path) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        spawn("server", &folder.join("service.yaml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    async fn answers(&mut self) {
        let began = Instant::now();
        while tokio::net::TcpStream::connect(self.address).await.is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "{}: {}", self.name, self.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The same instance once more, after it has ended.
    pub async fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "{} runs", self.name);
        self.child = Self::launch(self.folder.path());
        self.answers().await;
    }

    /// Ends it as one ends a service: it leaves etcd, says that it takes no more calls, and ends those that run.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        until("the service has ended", || self.child.try_wait().unwrap().is_some()).await;
    }

    /// Ends it without a word. Its sockets are closed when this returns.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
        self.kill9();
    }
}

/// What became of calls.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Report {
    /// Nothing more comes.
    done: bool,
    /// By the names that gRPC's codes have in Go.
    pub statuses: BTreeMap<String, u64>,
    /// Calls that went well, by the instance that answered.
    pub servers: BTreeMap<String, u64>,
    /// The first thousand of those that did not.
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, serde::Deserialize)]
pub struct Failure {
    pub status: String,
    pub message: String,
    /// Milliseconds since 1970.
    pub began: u64,
}

impl Report {
    pub fn calls(&self) -> u64 {
        self.statuses.values().sum()
    }

    pub fn ok(&self) -> u64 {
        self.statuses.get("OK").copied().unwrap_or_default()
    }

    /// Every call went well.
    pub fn assert_all_ok(&self) {
        assert_eq!(self.ok(), self.calls(), "{self:?}");
    }
}

/// A client of go-zero that makes one call after the other. Killed when it is dropped.
pub struct Client {
    child: Child,
    latest: Arc<Mutex<Report>>,
    folder: PathBuf,
    _folder: TempDir,
}

impl Client {
    /// Calls what is at this address until it is stopped. `settings` are lines of YAML, as above.
    pub fn start(gateway: SocketAddr, settings: &str) -> Self {
        let timeout = if settings.contains("Timeout:") { "" } else { TIMEOUT };
        let calls = if settings.contains("Calls:") { "" } else { "Calls: 0" };
        Self::run(&format!("Endpoints: [\"{gateway}\"]\n{timeout}\n{calls}\n{settings}\n"))
    }

    /// With a configuration like any client's.
    pub fn run(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("client.yaml"), config).unwrap();
        let mut child = spawn("client", &folder.path().join("client.yaml"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let (said, latest) = (BufReader::new(child.stdout.take().unwrap()), Arc::<Mutex<Report>>::default());
        let write = latest.clone();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                *write.lock().unwrap() = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            }
        });
        Self { child, latest, folder: folder.path().to_owned(), _folder: folder }
    }

    pub fn report(&self) -> Report {
        self.latest.lock().unwrap().clone()
    }

    /// Waits until this is true of what became of the calls.
    pub async fn until(&mut self, what: &str, fact: impl Fn(&Report) -> bool) {
        let began = Instant::now();
        while !fact(&self.report()) {
            let report = self.report();
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {report:?} {}", log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many more calls have ended.
    pub async fn more(&mut self, calls: u64) {
        let wanted = self.report().calls() + calls;
        self.until("more calls", |report| report.calls() >= wanted).await;
    }

    /// Begins no more calls, and says what became of all.
    pub async fn stop(mut self) -> Report {
        drop(self.child.stdin.take());
        self.ended().await
    }

    /// What became of all its calls, of which it was told the number.
    pub async fn ended(mut self) -> Report {
        self.until("all calls have ended", |report| report.done).await;
        self.report()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
