//! A real ZooKeeper for one test: a server with ports and a folder of its own, or three. Gone when the value is
//! dropped.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use sha1::{Digest as _, Sha1};
use tempfile::TempDir;
use witgate::{
    connector::zookeeper::{Body, Credential, Error, Farewell, Grant, Session},
    document::Secret,
    tls::{Authorities, ClientSettings, Files, PairFiles},
};

use super::{
    certs::{Certs, Pair},
    etcd::free_port,
    fault_table::Registry,
    relay::{Relay, Relaying},
    tampered::Tampering,
};

/// How long ZooKeeper may take to answer. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of it, as it numbers that.
const CREATE: i32 = 1;
const DELETE: i32 = 2;
const SET_DATA: i32 = 5;
const SET_ACL: i32 = 7;
const MULTI: i32 = 14;

const NO_NODE: Error = Error::Code(-101);
const NODE_EXISTS: Error = Error::Code(-110);

/// Rights: all, and reading alone.
const ALL: i32 = 31;
const READ: i32 = 1;

/// Who may do everything, where there are rules.
const ROOT: &str = "root:root";

/// Whom the gateway is.
const USER: &str = "gateway";

/// What Debian ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Bookworm's.
    V38,
    /// Trixie's.
    V39,
}

impl Version {
    pub const ALL: [Self; 2] = [Self::V38, Self::V39];

    /// The classes, from where the tests' servers are unpacked.
    fn classes(self) -> String {
        let (variable, folder) = match self {
            Self::V38 => ("WITGATE_ZOOKEEPER38", "zookeeper38"),
            Self::V39 => ("WITGATE_ZOOKEEPER39", "zookeeper39"),
        };
        let unpacked =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers").join(folder).join("usr/share/java");
        let classes = env::var_os(variable).map_or(unpacked, PathBuf::from);
        assert!(
            classes.join("zookeeper.jar").exists(),
            "no ZooKeeper: scripts/servers.sh unpacks Debian's under target/servers/{folder}, or set {variable} to the \
             folder that holds zookeeper.jar and what it needs"
        );
        // Not all there are: the others are other loggers for the same.
        let needed =
            ["zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple", "metrics-core", "snappy-java"];
        let netty = ["all", "buffer", "codec", "common", "handler", "resolver", "transport"];
        let netty = netty.map(|part| format!("netty-{part}"));
        let also = ["netty-transport-native-unix-common", "netty-transport-native-epoll"].map(str::to_owned);
        let all = needed.map(str::to_owned).into_iter().chain(netty).chain(also);
        all.map(|name| format!("{}/{name}.jar", classes.display())).collect::<Vec<_>>().join(":")
    }
}

pub struct ZooKeeper {
    version: Version,
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    /// What it says of itself and of the others, where there are several.
    ensemble: String,
    id: usize,
    tls: Option<Tls>,
    /// The password of the gateway, if nodes are only for those who have one.
    password: Option<String>,
    writer: Option<Arc<Session>>,
    /// Stands between the gateway and ZooKeeper.
    between: Relay,
}

struct Tls {
    certs: Certs,
    client: Pair,
    port: u16,
}

/// Part of one transaction.
pub enum Write<'w> {
    Create(&'w str, &'w str),
    Set(&'w str, &'w str),
    Delete(&'w str),
}

impl ZooKeeper {
    /// Everybody may do everything.
    pub async fn start() -> Self {
        Self::start_version(Version::V38).await
    }

    pub async fn start_version(version: Version) -> Self {
        Self::launch(version, None, false).await
    }

    /// What is made may be read by the gateway and nobody else.
    pub async fn start_locked(version: Version) -> Self {
        let zookeeper = Self::launch(version, Some("secret".to_owned()), false).await;
        zookeeper.write_password();
        zookeeper
    }

    /// Takes TLS beside, from those who have a certificate.
    pub async fn start_with_tls() -> Self {
        Self::launch(Version::V38, None, true).await
    }

    /// Three servers, one of which leads.
    pub async fn three() -> Vec<Self> {
        let mut servers = Vec::new();
        for id in 1..=3 {
            let mut server = Self::new(Version::V38, None, false).await;
            server.id = id;
            server.take_port();
            servers.push(server);
        }
        let line = |id: usize| format!("server.{id}=127.0.0.1:{}:{}\n", free_port(), free_port());
        let ensemble: String = (1..=3).map(line).collect();
        for server in &mut servers {
            server.ensemble.clone_from(&ensemble);
            server.spawn();
        }
        for server in &mut servers {
            assert!(server.is_ready().await, "ZooKeeper does not start: {}", server.log());
        }
        servers
    }

    async fn new(version: Version, password: Option<String>, with_tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = with_tls.then(|| {
            let certs = Certs::new(&folder.path().join("tls"));
            let client = certs.client("gateway");
            Tls { certs, client, port: 0 }
        });
        Self {
            version,
            child: None,
            folder,
            port: 0,
            ensemble: String::new(),
            id: 1,
            tls,
            password,
            writer: None,
            between: Relay::start().await,
        }
    }

    fn take_port(&mut self) {
        self.port = free_port();
        if let Some(tls) = &mut self.tls {
            tls.port = free_port();
        }
        self.between.to(self.address());
    }

    async fn launch(version: Version, password: Option<String>, with_tls: bool) -> Self {
        let mut zookeeper = Self::new(version, password, with_tls).await;
        // A port that was free may be taken by another test before ZooKeeper has it.
        for _ in 0..10 {
            zookeeper.take_port();
            zookeeper.spawn();
            if zookeeper.is_ready().await {
                return zookeeper;
            }
            zookeeper.kill9();
            zookeeper.wipe();
        }
        panic!("ZooKeeper does not start: {}", zookeeper.log());
    }

    fn spawn(&mut self) {
        let data = self.folder.path().join("data");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("myid"), self.id.to_string()).unwrap();
        let mut config = format!(
            "tickTime=200\ninitLimit=100\nsyncLimit=25\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nminSessionTimeout=400\nmaxSessionTimeout=60000\nforceSync=no\n{}",
            data.display(),
            self.port,
            self.ensemble
        );
        if let Some(tls) = &self.tls {
            let Pair { certificate, key } = tls.certs.server();
            let both = [fs::read(key).unwrap(), fs::read(certificate).unwrap()].concat();
            let (store, trusted) = (self.folder.path().join("server.pem"), self.folder.path().join("ca.pem"));
            fs::write(&store, both).unwrap();
            fs::copy(tls.certs.ca(), &trusted).unwrap();
            config.push_str(&format!(
                "secureClientPort={}\nsecureClientPortAddress=127.0.0.1\n\
                 serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
                 ssl.keyStore.location={}\nssl.trustStore.location={}\nssl.clientAuth=need\n",
                tls.port,
                store.display(),
                trusted.display()
            ));
        }
        let file = self.folder.path().join("zoo.cfg");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dzookeeper.admin.enableServer=false", "-Dzookeeper.preAllocSize=1024"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dio.netty.noUnsafe=true", "-cp"])
            .arg(self.version.classes())
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it gives sessions; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if self.open().await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    async fn open(&self) -> Result<Session, Error> {
        let root = self.password.is_some().then_some(ROOT);
        Session::open(&self.address().to_string(), &self.direct(), None, root, Farewell::Said).await
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &Relay {
        &self.between
    }

    /// Past what stands between.
    pub fn direct(&self) -> Grant {
        Grant {
            servers: vec![self.address().to_string()],
            credential: None,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(20),
        }
    }

    /// As an impatient gateway is told to speak to it.
    pub fn grant(&self) -> Grant {
        let credential = self.password.as_ref().map(|password| Credential {
            user: USER.to_owned(),
            file: self.password_file(),
            password: Secret(password.clone()),
        });
        Grant {
            servers: vec![self.between.address.to_string()],
            credential,
            connect_timeout: Duration::from_secs(1),
            session_timeout: Duration::from_secs(3),
            tls: None,
        }
    }

    /// The TLS policy by which it can be spoken to at `localhost` and this port.
    pub fn tls(&self) -> (u16, Arc<witgate::tls::Client>) {
        let Tls { certs, client, port } = self.tls.as_ref().expect("started without TLS");
        let Pair { certificate, key } = client.clone();
        let settings = ClientSettings {
            authorities: Authorities::File(certs.ca()),
            certificate: Some(PairFiles { certificate, key }.into()),
            server_name: None,
        };
        (*port, Files::default().client(&settings))
    }

    /// The table of a registry that reads it.
    pub fn registry(&self, settings: &str) -> String {
        let more = match (&self.tls, &self.password) {
            (Some(Tls { certs, client, port }), _) => {
                let (ca, Pair { certificate, key }) = (certs.ca(), client);
                return registry(
                    &[format!("localhost:{port}")],
                    &format!(
                        ", tls = {{ ca_file = {ca:?}, cert_file = {certificate:?}, key_file = {key:?} }}"
                    ),
                    settings,
                );
            }
            (None, Some(_)) => format!(", user = {USER:?}, password_file = {:?}", self.password_file()),
            (None, None) => String::new(),
        };
        registry(&[self.between.address.to_string()], &more, settings)
    }

    /// Asks, as soon as it can be asked.
    async fn ask(&mut self, op: i32, body: &Body) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let asked = match &self.writer {
                Some(writer) if !writer.has_ended() => writer.ask(op, body).answer().await,
                _ => match self.open().await {
                    Ok(session) => {
                        self.writer = Some(Arc::new(session));
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            match asked {
                Err(Error::Broken(_)) if started.elapsed() < PATIENCE => {
                    self.writer = None;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                asked => return asked.map(drop),
            }
        }
    }

    /// Makes a node that stays, and those above it, or changes what is there.
    pub async fn put(&mut self, path: &str, data: &str) {
        for above in path.match_indices('/').skip(1).map(|(at, _)| &path[..at]) {
            let made = self.ask(CREATE, &self.create(above, "")).await;
            assert!(matches!(made, Ok(()) | Err(NODE_EXISTS)), "{above}: {made:?}");
        }
        let body = self.create(path, data);
        if self.ask(CREATE, &body).await == Err(NODE_EXISTS) {
            self.ask(SET_DATA, &set(path, data)).await.unwrap();
        }
    }

    pub async fn delete(&mut self, path: &str) {
        let gone = self.ask(DELETE, &delete(path)).await;
        assert!(matches!(gone, Ok(()) | Err(NO_NODE)), "{path}: {gone:?}");
    }

    /// All of it, or nothing.
    pub async fn at_once(&mut self, writes: &[Write<'_>]) {
        let mut body = Body::default();
        for write in writes {
            let (op, one) = match write {
                Write::Create(path, data) => (CREATE, self.create(path, data)),
                Write::Set(path, data) => (SET_DATA, set(path, data)),
                Write::Delete(path) => (DELETE, delete(path)),
            };
            body = body.int(op).flag(false).int(-1);
            body.0.extend(one.0);
        }
        self.ask(MULTI, &body.int(-1).flag(true).int(-1)).await.unwrap();
    }

    fn create(&self, path: &str, data: &str) -> Body {
        let mut body = Body::default().text(path).bytes(data.as_bytes());
        body.0.extend(self.rights().0);
        body.int(0)
    }

    /// Who may do what with a node.
    fn rights(&self) -> Body {
        match &self.password {
            None => Body::default().int(1).int(ALL).text("world").text("anyone"),
            Some(password) => {
                let gateway = format!("{USER}:{password}");
                let rights = Body::default().int(2).int(ALL).text("digest").text(&digest(ROOT));
                rights.int(READ).text("digest").text(&digest(&gateway))
            }
        }
    }

    async fn set_rights(&mut self, path: &str) {
        let mut body = Body::default().text(path);
        body.0.extend(self.rights().0);
        self.ask(SET_ACL, &body.int(-1)).await.unwrap();
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    fn write_password(&self) {
        fs::write(self.password_file(), self.password.as_deref().unwrap_or_default()).unwrap();
    }

    fn wipe(&self) {
        let _ = fs::remove_dir_all(self.folder.path().join("data"));
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("ZooKeeper is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// The table of a registry that reads these servers, impatiently.
pub fn registry(servers: &[String], more: &str, settings: &str) -> String {
    format!(
        "[registry.main]\nplugin = \"zookeeper\"\nsettings = {settings}\n\
         zookeeper = {{ servers = {servers:?}, connect_timeout_ms = 1000, session_timeout_ms = 3000{more} }}\n"
    )
}

/// As ZooKeeper keeps who somebody is.
fn digest(said: &str) -> String {
    let user = said.split(':').next().unwrap();
    format!("{user}:{}", BASE64_STANDARD.encode(Sha1::digest(said)))
}

/// Whatever it was before.
fn set(path: &str, data: &str) -> Body {
    Body::default().text(path).bytes(data.as_bytes()).int(-1)
}

fn delete(path: &str) -> Body {
    Body::default().text(path).int(-1)
}

fn instance(id: &str) -> String {
    format!("/services/orders/{id}")
}

impl Registry for ZooKeeper {
    async fn start() -> Self {
        Self::start_locked(Version::V38).await
    }

    fn toml(&self) -> String {
        self.registry("{ layout = \"json\", base = \"/services\" }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.put(&instance(id), &json!({ "address": address }).to_string()).await;
    }

    async fn withdraw(&mut self, id: &str) {
        self.delete(&instance(id)).await;
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        let session = self.open().await.unwrap();
        let padding = "x".repeat(padding);
        let asked: Vec<_> = addresses
            .iter()
            .map(|address| {
                let value = json!({ "address": address, "labels": { "padding": padding } }).to_string();
                session.ask(CREATE, &self.create(&instance(&address.to_string()), &value))
            })
            .collect();
        for asked in asked {
            asked.answer().await.unwrap();
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(match tampering {
            Tampering::None => Relaying::All,
            Tampering::Cut => Relaying::Half,
            Tampering::Instead(_, body) => Relaying::Instead(body.into()),
            other => panic!("ZooKeeper has no {other:?}"),
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
        assert!(self.is_ready().await, "ZooKeeper does not start again: {}", self.log());
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

    /// Whoever knows the password may read nothing any more.
    async fn revoke(&mut self) {
        self.password = Some(format!("{:x}", fastrand::u64(..)));
        self.set_rights("/services/orders").await;
    }

    async fn grant_again(&mut self) {
        for id in ["b0", "b1"] {
            self.set_rights(&instance(id)).await;
        }
        self.write_password();
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        Registry::kill9(self);
    }
}
