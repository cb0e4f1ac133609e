//! The real binary with a configuration in a folder of its own.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use super::session::{Answer, Session};

/// How long any fact may take to come true, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway process. Killed when dropped.
pub struct Gateway {
    process: Child,
    /// Those that have taken over, each from the one before.
    successors: Vec<Orphan>,
    folder: tempfile::TempDir,
    /// Locked only so that tests can share the gateway.
    said: Mutex<Receiver<String>>,
    log: Arc<Mutex<String>>,
    pub listeners: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Where services register, if that is a listener of its own.
    pub registrations: Option<SocketAddr>,
}

impl Gateway {
    /// Starts a gateway and waits until it is ready. `text` is its configuration; a listener on a free port and the
    /// admin API are added to it.
    pub fn start(text: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), text)
    }

    /// The same in a folder that has something in it already.
    pub fn start_in(folder: tempfile::TempDir, text: &str) -> Self {
        Self::write_config(folder.path(), text);
        Self::run(folder)
    }

    /// The same, and waits only until it listens.
    pub fn start_early(folder: tempfile::TempDir, text: &str) -> Self {
        Self::write_config(folder.path(), text);
        let config = folder.path().join("witgate.toml").display().to_string();
        let mut gateway = Self::launch(folder, &["run", "--config", &config]);
        let _ = gateway.until_said(|line| line.starts_with("listening http"));
        gateway
    }

    /// Starts the demo with its plugins in `folder`.
    pub fn demo(folder: tempfile::TempDir) -> Self {
        let plugins = folder.path().join("plugins").display().to_string();
        let arguments = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--plugins", &plugins];
        let mut gateway = Self::launch(folder, &arguments);
        gateway.until_ready();
        gateway
    }

    /// Runs `witgate.toml` as it is in `folder`, and waits until the gateway is ready.
    pub fn run(folder: tempfile::TempDir) -> Self {
        let config = folder.path().join("witgate.toml").display().to_string();
        let mut gateway = Self::launch(folder, &["run", "--config", &config]);
        gateway.until_ready();
        gateway
    }

    /// Puts another configuration in place of the old one, as an editor does.
    pub fn reconfigure(&self, text: &str) {
        Self::write_config(self.folder.path(), text);
    }

    fn write_config(folder: &Path, text: &str) {
        let whole = format!(
            "workers = 2\n\n[admin]\naddress = \"127.0.0.1:0\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n{text}"
        );
        std::fs::write(folder.join("witgate.tmp"), whole).unwrap();
        std::fs::rename(folder.join("witgate.tmp"), folder.join("witgate.toml")).unwrap();
    }

    /// Starts a gateway in `folder` by another program, which becomes it.
    pub fn start_by(program: &[&str], folder: tempfile::TempDir, text: &str) -> Self {
        let mut command = bound_to_test();
        command.args(program).arg(env!("CARGO_BIN_EXE_witgate"));
        let mut gateway = Self::start_early_by(command, folder, text);
        gateway.until_ready();
        gateway
    }

    /// Starts a gateway in `folder` by a command that lacks nothing but its arguments, and waits only until it listens.
    pub fn start_early_by(command: Command, folder: tempfile::TempDir, text: &str) -> Self {
        Self::write_config(folder.path(), text);
        let config = folder.path().join("witgate.toml").display().to_string();
        let mut gateway = Self::spawn(command, folder, &["run", "--config", &config]);
        let _ = gateway.until_said(|line| line.starts_with("listening http"));
        gateway
    }

    /// Starts a gateway in `folder` by a path that leads to it.
    pub fn start_as(program: &Path, folder: tempfile::TempDir, text: &str) -> Self {
        Self::write_config(folder.path(), text);
        let config = folder.path().join("witgate.toml").display().to_string();
        let mut command = bound_to_test();
        command.arg(program);
        let mut gateway = Self::spawn(command, folder, &["run", "--config", &config]);
        gateway.until_ready();
        gateway
    }

    /// Runs these words by another program, which becomes what they name.
    pub fn start_words(program: &[&str], words: &[String]) -> Self {
        let mut command = bound_to_test();
        command.args(program).args(words);
        let mut gateway = Self::spawn(command, tempfile::tempdir().unwrap(), &[]);
        gateway.until_ready();
        gateway
    }

    /// Runs a program that was installed with its configuration.
    pub fn installed(program: &Path, config: &Path) -> Self {
        let mut command = bound_to_test();
        command.arg(program).arg("run").arg("--config").arg(config);
        let mut gateway = Self::spawn(command, tempfile::tempdir().unwrap(), &[]);
        gateway.until_ready();
        gateway
    }

    /// Waits until a new process has taken over, which is the one that signals go to from then on. Says the id of the
    /// one before.
    pub fn until_upgraded(&mut self) -> u32 {
        let before = self.pid();
        let line = self.until_said(|line| line.starts_with("upgraded "));
        self.successors.push(Orphan::new(line["upgraded ".len()..].parse().unwrap()));
        before
    }

    fn launch(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut command = bound_to_test();
        command.arg(env!("CARGO_BIN_EXE_witgate"));
        Self::spawn(command, folder, arguments)
    }

    fn spawn(mut command: Command, folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut process = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let (lines, said) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok()));
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, written) = (BufReader::new(process.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            process,
            successors: vec![],
            folder,
            said: Mutex::new(said),
            log,
            listeners: vec![],
            admin: nowhere,
            registrations: None,
        }
    }

    pub fn until_ready(&mut self) {
        let _ = self.until_said(|line| line == "ready");
    }

    fn until_said(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let Ok(line) = self.said.lock().unwrap().recv_timeout(PATIENCE) else {
                panic!("the gateway did not become ready; its log:\n{}", self.log());
            };
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["listening", "http" | "tcp" | "rpcx", address] => {
                    self.listeners.push(address.parse().unwrap())
                }
                ["listening", "admin", address] => self.admin = address.parse().unwrap(),
                ["listening", "registrations", address] => self.registrations = address.parse().ok(),
                _ => {}
            }
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Waits until it says that it listens on another address, and says which.
    pub async fn next_listener(&self) -> SocketAddr {
        let (said, found) = (&self.said, Mutex::new(None));
        until("it listens elsewhere", || async {
            let said = said.lock().unwrap();
            let mut lines = said.try_iter();
            let address = lines.find_map(|line| line.strip_prefix("listening http ")?.parse().ok());
            *found.lock().unwrap() = address;
            address.is_some()
        })
        .await;
        found.into_inner().unwrap().unwrap()
    }

    /// Waits until so many configurations have been applied since the start.
    pub async fn applied(&self, times: usize) {
        let line = format!("witgate_config_reloads_total{{result=\"applied\"}} {times}\n");
        until(&line, || async { self.session_to_admin().get("/metrics").await.text().contains(&line) }).await;
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a plugin in place, whole at once, and says where.
    pub fn drop_plugin(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let folder = self.folder.path().join("plugins");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}.wasm"));
        std::fs::write(folder.join(format!("{name}.part")), bytes).unwrap();
        std::fs::rename(folder.join(format!("{name}.part")), &path).unwrap();
        path
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has this text. Lines are written beside what they tell of, so they may come after it.
    pub async fn logged(&self, text: &str) {
        until(&format!("the log says {text:?}"), || async { self.log().contains(text) }).await;
    }

    pub fn pid(&self) -> u32 {
        self.successors.last().map_or(self.process.id(), |successor| successor.pid)
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// How often its threads have gone to sleep, and so were woken.
    pub fn wake_ups(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let wake_ups = |task: std::io::Result<std::fs::DirEntry>| {
            // A thread may have ended meanwhile.
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        };
        tasks.filter_map(wake_ups).sum()
    }

    /// The computing time that it has taken, in ticks of a hundredth of a second.
    pub fn cpu(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the name, which is in brackets and may hold anything: the state, and from the 12th on the times.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    pub fn session(&self) -> Session {
        Session::new(self.address())
    }

    pub fn session_to_admin(&self) -> Session {
        Session::new(self.admin)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.session().get(path).await
    }

    /// What the admin API says.
    pub async fn api(&self, path: &str) -> Value {
        let answer = Session::new(self.admin).get(path).await;
        serde_json::from_slice(&answer.body)
            .unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.text()))
    }

    /// Registers an instance in the embedded registry.
    pub async fn register(&self, service: &str, id: &str, address: SocketAddr) {
        let body = format!(r#"{{"address":"{address}","ttl_seconds":0}}"#);
        let answer = Session::new(self.admin).put(&format!("/api/v1/services/{service}/{id}"), body).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    /// Withdraws an instance from the embedded registry.
    pub async fn withdraw(&self, service: &str, id: &str) {
        let answer = Session::new(self.admin).delete(&format!("/api/v1/services/{service}/{id}")).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    /// One plugin as the admin API shows it.
    pub async fn plugin(&self, name: &str) -> Value {
        let plugins = self.api("/api/v1/plugins").await;
        let list = plugins["plugins"].as_array().unwrap_or_else(|| panic!("{plugins}"));
        list.iter().find(|plugin| plugin["name"] == name).cloned().unwrap_or(Value::Null)
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process.
    pub async fn exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the gateway did not end; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills it without a warning and starts it again in the same folder.
    pub async fn restart(mut self) -> Self {
        let pid = self.pid();
        self.signal("KILL");
        until("it has ended", || async { has_ended(pid) }).await;
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::run(folder)
    }
}

/// A process that is no child of the test. Killed when this is dropped, and when the test is killed.
struct Orphan {
    pid: u32,
    /// Kills it when its standard input ends.
    watcher: Child,
}

impl Orphan {
    fn new(pid: u32) -> Self {
        let mut watcher = Command::new("sh");
        watcher.args(["-c", "read _; kill -KILL $0 2>/dev/null", &pid.to_string()]);
        Self { pid, watcher: watcher.stdin(Stdio::piped()).spawn().unwrap() }
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        // One that has ended meanwhile is no mistake.
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// Whether there is no such process any more. One that nobody has waited for has ended, too.
pub fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with(['Z', 'X']))
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the gateway:\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Becomes the program that is to follow, which ends with the test, also when the test is killed.
pub fn bound_to_test() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command
}

/// The end of a configuration: everything goes to this endpoint. Settings of the route may follow.
pub fn all_to(endpoint: SocketAddr) -> String {
    format!(
        "[registry.fixed]
plugin = 'static'
settings = {{ endpoints = ['{endpoint}'] }}
[upstream.main]
service = 'main'
registry = 'fixed'
[[route]]
upstream = 'main'"
    )
}

/// Waits until `fact` is true, and says how long that took.
pub async fn until<F: Future<Output = bool>>(what: &str, mut fact: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    while !fact().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed()
}
