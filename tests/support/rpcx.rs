//! Real rpcx: services that register themselves in etcd, and clients that know nothing but the gateway's address. The program
//! is in `tests/peers/rpcx`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
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

/// Ends with its standard input, and so with the test, however that ends.
fn spawn(role: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/rpcx");
    assert!(program.exists(), "no {}: `./dev servers` builds it", program.display());
    let mut command = Command::new(program);
    command.args([role, "-with-stdin"]).stdin(Stdio::piped());
    command
}

/// One instance of services. Killed when it is dropped.
pub struct Service {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Service {
    /// An instance that has registered itself in this etcd, below `/rpcx`. `flags` are those of `tests/peers/rpcx/server.go`. It
    /// answers when this returns.
    pub async fn start(name: &str, etcd: &Etcd, flags: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = spawn("server")
            .args(["-name", name, "-listen", &address.to_string(), "-etcd", &etcd.endpoint()])
            .args(flags)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut service = Self { name: name.to_owned(), address, child, folder };
        let began = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            let ended = service.child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < PATIENCE, "{name}: {}", service.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        service
    }

    /// Ends it as one ends a service: it leaves etcd, and ends the calls that run.
    pub async fn stop(&mut self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        until("the service has ended", || self.child.try_wait().unwrap().is_some()).await;
    }

    /// Ends it without a word. Its sockets are closed when this returns.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    /// Calls that went well, by the instance that answered.
    pub servers: BTreeMap<String, u64>,
    /// Calls that did not, by what the client said.
    pub errors: BTreeMap<String, u64>,
    /// The last answer to one that went well.
    pub last: Reply,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Reply {
    /// Calls without an answer that the instance had got by then.
    pub notes: u64,
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.servers.values().sum()
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// So many calls went well, and no other was made.
    pub fn assert_all_ok(&self, calls: u64) {
        assert_eq!((self.ok(), self.failed()), (calls, 0), "{self:?}");
    }
}

/// A client of rpcx that makes one call after the other. Killed when it is dropped.
pub struct Client {
    child: Child,
    latest: Arc<Mutex<Report>>,
    folder: TempDir,
}

impl Client {
    /// Calls what is at this address. `flags` are those of `tests/peers/rpcx/client.go`.
    pub fn start(gateway: SocketAddr, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = spawn("client")
            .args(["-gateway", &gateway.to_string()])
            .args(flags)
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
        Self { child, latest, folder }
    }

    /// What became of these calls.
    pub async fn run(gateway: SocketAddr, flags: &[&str]) -> Report {
        Self::start(gateway, flags).ended().await
    }

    pub fn report(&self) -> Report {
        self.latest.lock().unwrap().clone()
    }

    /// Waits until this is true of what became of the calls.
    pub async fn until(&self, what: &str, fact: impl Fn(&Report) -> bool) {
        let began = Instant::now();
        while !fact(&self.report()) {
            let report = self.report();
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {report:?} {}", log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Begins no more calls, and says what became of all.
    pub async fn stop(mut self) -> Report {
        drop(self.child.stdin.take());
        self.ended().await
    }

    /// What became of all its calls, of which it was told the number.
    pub async fn ended(self) -> Report {
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
