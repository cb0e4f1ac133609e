//! The programs in `tests/peers`: services as others write them, and clients that report what becomes of their calls.

use std::{
    fmt, fs,
    io::{BufRead, BufReader},
    marker::PhantomData,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use tempfile::TempDir;

use super::{client::until, gateway::PATIENCE};

/// One of these programs. `./dev servers` builds those in Go, and `./dev peers` those in Java, too.
pub trait Peer {
    const PROGRAM: &str;

    /// What a client says of its calls.
    type Report: Clone + Default + fmt::Debug + Send + serde::de::DeserializeOwned + 'static;

    /// Where the program is.
    fn program() -> PathBuf {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(Self::PROGRAM);
        assert!(program.exists(), "no {}: scripts/servers.sh {} builds it", program.display(), Self::PROGRAM);
        program
    }

    /// The program as a server or client. It ends with its standard input, and so with the test, however that ends.
    fn command(role: &str) -> Command {
        let program = Self::program();
        // Those in Java are a folder of all that they need.
        let mut command = if program.is_dir() {
            let mut java = Command::new("java");
            java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
            java.arg(program.join("lib/*")).arg("peer.Main");
            java
        } else {
            Command::new(program)
        };
        command.args([role, "-with-stdin"]).stdin(Stdio::piped());
        command
    }
}

/// One instance of a service. Killed when it is dropped.
pub struct Service<P> {
    pub name: String,
    pub address: SocketAddr,
    command: Command,
    child: Child,
    folder: TempDir,
    peer: PhantomData<P>,
}

impl<P: Peer> Service<P> {
    /// Runs this, with its log in this folder. It answers when this returns.
    pub async fn run(name: &str, address: SocketAddr, mut command: Command, folder: TempDir) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut service = Self { name: name.to_owned(), address, command, child, folder, peer: PhantomData };
        service.answers().await;
        service
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
        self.child = self.command.spawn().unwrap();
        self.answers().await;
    }

    /// Ends it as one ends a service: it leaves its registry, and ends the calls that run.
    pub async fn stop(&mut self) {
        self.signal("TERM");
        until("the service has ended", || self.child.try_wait().unwrap().is_some()).await;
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl<P> Service<P> {
    /// Ends it without a word. Its sockets are closed when this returns.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl<P> Drop for Service<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
        self.kill9();
    }
}

/// What a client said last.
#[derive(Debug, Clone, Default, serde::Deserialize)]
struct Said<R> {
    /// Nothing more comes.
    done: bool,
    #[serde(flatten)]
    report: R,
}

/// A client that makes one call after the other. Killed when it is dropped.
pub struct Client<P: Peer> {
    child: Child,
    said: Arc<Mutex<Said<P::Report>>>,
    folder: TempDir,
}

impl<P: Peer> Client<P> {
    /// Runs this, with its log in this folder.
    pub fn spawn(mut command: Command, folder: TempDir) -> Self {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (lines, said) = (BufReader::new(child.stdout.take().unwrap()), Arc::<Mutex<Said<_>>>::default());
        let write = said.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                *write.lock().unwrap() = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            }
        });
        Self { child, said, folder }
    }

    pub fn report(&self) -> P::Report {
        self.said.lock().unwrap().report.clone()
    }

    /// Waits until this is true of what became of the calls.
    pub async fn until(&self, what: &str, fact: impl Fn(&P::Report) -> bool) {
        self.until_said(what, |said| fact(&said.report)).await;
    }

    async fn until_said(&self, what: &str, fact: impl Fn(&Said<P::Report>) -> bool) {
        let began = Instant::now();
        while !fact(&self.said.lock().unwrap()) {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let report = self.report();
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}: {report:?} {}", log());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Begins no more calls, and says what became of all.
    pub async fn stop(mut self) -> P::Report {
        drop(self.child.stdin.take());
        self.ended().await
    }

    /// What became of all its calls, of which it was told the number.
    pub async fn ended(self) -> P::Report {
        self.until_said("all calls have ended", |said| said.done).await;
        self.report()
    }
}

impl<P: Peer> Drop for Client<P> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
