//! A real etcd for one test, with ports and a folder of its own. Gone when the value is dropped.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions};
use tempfile::TempDir;
use witgate::connector::{ClientTls, etcd::Grant};

use super::certs::{Certs, Pair};

/// How long etcd may take to answer. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The root user's password once authentication is enabled.
const ROOT: &str = "root-password";

/// What Debian ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Bookworm's.
    V34,
    /// Trixie's.
    V35,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::V34, Self::V35];

    /// The program, from where the tests' servers are unpacked, or for 3.4 from the machine's packages.
    pub fn program(self) -> PathBuf {
        let (variable, folder) = match self {
            Self::V34 => ("WITGATE_ETCD34", "etcd34"),
            Self::V35 => ("WITGATE_ETCD35", "etcd35"),
        };
        let unpacked =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers").join(folder).join("usr/bin");
        let named = env::var_os(variable).map(PathBuf::from);
        let installed = env::var_os("PATH").filter(|_| self == Self::V34);
        let installed = installed.iter().flat_map(env::split_paths);
        let mut programs =
            named.into_iter().chain([unpacked]).chain(installed).map(|folder| folder.join("etcd"));
        programs.find(|program| program.exists()).unwrap_or_else(|| match self {
            Self::V34 => panic!(
                "no etcd 3.4: install Debian bookworm's package etcd-server, or unpack it under target/servers/etcd34, \
                 or set {variable} to the folder that holds it"
            ),
            Self::V35 => panic!(
                "no etcd 3.5: unpack Debian trixie's package etcd-server under target/servers/etcd35, or set \
                 {variable} to the folder that holds it"
            ),
        })
    }
}

pub struct Etcd {
    program: PathBuf,
    child: Option<Child>,
    folder: TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<Tls>,
    arguments: Vec<String>,
    /// Whether root has a password.
    locked: bool,
}

struct Tls {
    certs: Certs,
    server: Pair,
    client: Pair,
}

impl Etcd {
    /// A single member without TLS or users.
    pub async fn start() -> Self {
        Self::start_version(Version::V34).await
    }

    pub async fn start_version(version: Version) -> Self {
        Self::launch(version, &[], |_| None).await
    }

    /// With command line arguments of the test's own.
    pub async fn start_with(version: Version, arguments: &[&str]) -> Self {
        Self::launch(version, arguments, |_| None).await
    }

    /// A member that asks each client for a certificate.
    pub async fn start_with_tls() -> Self {
        Self::start_version_with_tls(Version::V34).await
    }

    pub async fn start_version_with_tls(version: Version) -> Self {
        let tls = |folder: &Path| {
            let certs = Certs::new(&folder.join("tls"));
            let (server, client) = (certs.server(), certs.client("root"));
            Some(Tls { certs, server, client })
        };
        Self::launch(version, &[], tls).await
    }

    async fn launch(version: Version, arguments: &[&str], tls: impl FnOnce(&Path) -> Option<Tls>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = tls(folder.path());
        let program = version.program();
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let mut etcd = Self {
            program,
            child: None,
            folder,
            client_port: 0,
            peer_port: 0,
            tls,
            arguments,
            locked: false,
        };
        // A port that was free may be taken by another test before etcd has it.
        for _ in 0..10 {
            (etcd.client_port, etcd.peer_port) = (free_port(), free_port());
            etcd.spawn();
            if etcd.is_ready().await {
                return etcd;
            }
            etcd.kill9();
            etcd.wipe();
        }
        panic!("etcd does not start: {}", etcd.log());
    }

    fn spawn(&mut self) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // The cluster's identity is made of its token: each one that is started is another.
            .args(["--initial-cluster-token", &format!("{:x}", fastrand::u64(..))])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(tls.certs.ca());
            command.arg("--cert-file").arg(&tls.server.certificate).arg("--key-file").arg(&tls.server.key);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it answers and knows a leader; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if let Ok(mut client) = self.connect().await
                && client.status().await.is_ok_and(|status| status.leader() != 0)
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// `127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// The table of a registry that reads this etcd.
    pub fn config(&self) -> Grant {
        Grant {
            endpoints: vec![self.endpoint()],
            credentials: None,
            tls: self.tls.as_ref().map(|tls| ClientTls {
                ca_file: tls.certs.ca(),
                certificate: Some((tls.client.certificate.clone(), tls.client.key.clone())),
                server_name: None,
            }),
            connect_timeout: Duration::from_secs(2),
            silence: Duration::from_secs(10),
        }
    }

    /// The same as a value of `etcd =` in a configuration file; `user` reads its password from `password_file`.
    pub fn toml(&self, user: Option<(&str, &Path)>) -> String {
        let mut text = format!("{{ endpoints = [{:?}]", self.endpoint());
        if let Some((user, password_file)) = user {
            text.push_str(&format!(", user = {user:?}, password_file = {password_file:?}"));
        }
        if let Some(tls) = self.config().tls {
            text.push_str(&format!(", tls = {{ ca_file = {:?}", tls.ca_file));
            if let Some((certificate, key)) = tls.certificate {
                text.push_str(&format!(", cert_file = {certificate:?}, key_file = {key:?}"));
            }
            text.push_str(" }");
        }
        text + " }"
    }

    /// The authority that this etcd trusts.
    pub fn certs(&self) -> &Certs {
        &self.tls.as_ref().expect("started without TLS").certs
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Client {
        self.connect().await.unwrap()
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        let mut options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        if let Some(tls) = &self.tls {
            let read = |path: &Path| fs::read(path).unwrap();
            let identity = Identity::from_pem(read(&tls.client.certificate), read(&tls.client.key));
            let ca = Certificate::from_pem(read(&tls.certs.ca()));
            options = options.with_tls(TlsOptions::new().ca_certificate(ca).identity(identity));
        }
        if self.locked {
            options = options.with_user("root", ROOT);
        }
        Client::connect([self.endpoint()], Some(options)).await
    }

    /// Enables authentication, with a user who may read and write under `prefix`.
    pub async fn lock(&mut self, user: &str, password: &str, prefix: &str) {
        let mut client = self.client().await;
        client.user_add("root", ROOT, None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.user_add(user, password, None).await.unwrap();
        client.role_add(user).await.unwrap();
        let permission = Permission::read_write(prefix).with_prefix();
        client.role_grant_permission(user, permission).await.unwrap();
        client.user_grant_role(user, user).await.unwrap();
        client.auth_enable().await.unwrap();
        self.locked = true;
    }

    /// Ends it without a word, and waits until its sockets are closed.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with the same data on the same ports.
    pub async fn restart(&mut self) {
        self.kill9();
        self.spawn();
        assert!(self.is_ready().await, "etcd does not start again: {}", self.log());
    }

    /// Starts it again with nothing in it, as one does who lost the disk.
    pub async fn restart_empty(&mut self) {
        self.kill9();
        self.wipe();
        self.restart().await;
    }

    /// Copies what it holds now into a file, as a backup does.
    pub fn back_up(&self) -> PathBuf {
        let backup = self.folder.path().join("backup");
        self.etcdctl(&["--endpoints", &self.endpoint(), "snapshot", "save"], &backup);
        backup
    }

    /// Starts it again with what it held when the backup was made, as another cluster with earlier revisions.
    pub async fn restart_from(&mut self, backup: &Path) {
        self.kill9();
        self.wipe();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let data = self.folder.path().join("data").display().to_string();
        let (cluster, token) = (format!("default={peer}"), format!("{:x}", fastrand::u64(..)));
        self.etcdctl(
            &[
                "--data-dir",
                &data,
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster-token",
                &token,
                "snapshot",
                "restore",
            ],
            backup,
        );
        self.restart().await;
    }

    fn etcdctl(&self, arguments: &[&str], file: &Path) {
        let mut command = Command::new(self.program.with_file_name("etcdctl"));
        let output = command.args(arguments).arg(file).env("ETCDCTL_API", "3").output().unwrap();
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn wipe(&self) {
        let _ = fs::remove_dir_all(self.folder.path().join("data"));
    }

    /// It keeps its connections and does not answer: what a half-open connection looks like.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// Ends what [`stop`](Self::stop) began.
    pub fn cont(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("etcd is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A port that nobody has now. Below those that Linux gives to whoever asks for any (32768 and up), so that it is still free
/// when an etcd that was killed comes back to it.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
