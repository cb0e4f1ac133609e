//! A real Consul for one test: a server with ports and a folder of its own, or three. Gone when the value is dropped.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    certs::{Certs, Pair},
    etcd::free_port,
    fault_table::Registry,
    session::{Answer, Session},
    tampered::{Tampered, Tampering},
};

/// How long Consul may take to answer. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The token that may do everything, where there are rules.
const ROOT: &str = "11111111-1111-1111-1111-111111111111";

/// Operations that one transaction may have.
const TRANSACTION: usize = 64;

pub struct Consul {
    child: Option<Child>,
    folder: TempDir,
    name: String,
    http_port: u16,
    server_port: u16,
    serf_port: u16,
    /// How many servers it is one of, and where it meets them.
    servers: usize,
    join: Vec<String>,
    tls: Option<Tls>,
    /// There if tokens are asked for: that of the gateway, as Consul knows it.
    token: Option<String>,
    /// Stands between the gateway and Consul.
    between: Tampered,
}

struct Tls {
    certs: Certs,
    server: Pair,
    client: Pair,
    port: u16,
}

impl Consul {
    /// Asks nobody for a token.
    pub async fn start() -> Self {
        Self::launch(false, |_| None).await
    }

    /// Takes TLS, and asks each client for a certificate.
    pub async fn start_with_tls() -> Self {
        let tls = |folder: &Path| {
            let certs = Certs::new(&folder.join("tls"));
            let (server, client) = (certs.server(), certs.client("gateway"));
            Some(Tls { certs, server, client, port: free_port() })
        };
        Self::launch(false, tls).await
    }

    /// Three servers, one of which leads.
    pub async fn three() -> Vec<Self> {
        let mut servers = Vec::new();
        for number in 1..=3 {
            let mut server = Self::new(false, |_| None).await;
            (server.name, server.servers) = (format!("n{number}"), 3);
            server.take_ports();
            servers.push(server);
        }
        let join: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.serf_port)).collect();
        for server in &mut servers {
            server.join = join.clone();
            server.spawn();
        }
        for server in &mut servers {
            assert!(server.is_ready().await, "Consul does not start: {}", server.log());
        }
        servers
    }

    /// Everything is forbidden to those without a token, and the gateway has one.
    pub async fn start_locked() -> Self {
        let mut consul = Self::launch(true, |_| None).await;
        consul.renew_token().await;
        consul
    }

    async fn new(locked: bool, tls: impl FnOnce(&Path) -> Option<Tls>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tls = tls(folder.path());
        Self {
            child: None,
            folder,
            name: "n1".to_owned(),
            http_port: 0,
            server_port: 0,
            serf_port: 0,
            servers: 1,
            join: Vec::new(),
            tls,
            token: locked.then(String::new),
            between: Tampered::start().await,
        }
    }

    fn take_ports(&mut self) {
        (self.http_port, self.server_port, self.serf_port) = (free_port(), free_port(), free_port());
        self.between.to(self.address());
    }

    async fn launch(locked: bool, tls: impl FnOnce(&Path) -> Option<Tls>) -> Self {
        let mut consul = Self::new(locked, tls).await;
        // A port that was free may be taken by another test before Consul has it.
        for _ in 0..10 {
            consul.take_ports();
            consul.spawn();
            if consul.is_ready().await {
                return consul;
            }
            consul.kill9();
            consul.wipe();
        }
        panic!("Consul does not start: {}", consul.log());
    }

    /// The program, from where the tests' servers are unpacked.
    pub fn program() -> PathBuf {
        let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/consul/usr/bin");
        let named = env::var_os("WITGATE_CONSUL").map(PathBuf::from);
        let program = named.unwrap_or(unpacked).join("consul");
        assert!(
            program.exists(),
            "no Consul: scripts/servers.sh unpacks Debian bullseye's under target/servers/consul, or set \
             WITGATE_CONSUL to the folder that holds it"
        );
        program
    }

    fn spawn(&mut self) {
        let ports = json!({ "http": self.http_port, "server": self.server_port, "serf_lan": self.serf_port,
            "serf_wan": -1, "dns": -1, "grpc": -1, "https": -1 });
        let mut config = json!({
            "server": true, "bootstrap_expect": self.servers, "node_name": self.name, "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1", "ports": ports, "data_dir": self.folder.path().join("data"),
            "disable_update_check": true, "performance": { "raft_multiplier": 1 }, "log_level": "warn",
            "limits": { "http_max_conns_per_client": 2_000 },
            "retry_join": self.join, "retry_interval": "1s",
        });
        if let Some(tls) = &self.tls {
            config["ports"]["https"] = json!(tls.port);
            config["verify_incoming_https"] = json!(true);
            config["ca_file"] = json!(tls.certs.ca());
            config["cert_file"] = json!(tls.server.certificate);
            config["key_file"] = json!(tls.server.key);
        }
        if self.token.is_some() {
            config["acl"] = json!({ "enabled": true, "default_policy": "deny",
                "tokens": { "master": ROOT, "agent": ROOT } });
        }
        let file = self.folder.path().join("consul.json");
        fs::write(&file, config.to_string()).unwrap();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(Self::program());
        command.args(["agent", "-config-file"]).arg(file);
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let command = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it knows a leader and has its own node in the catalog; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            let own = format!("/v1/catalog/node/{}", self.name);
            let nodes = self.ask(Method::GET, &own, Value::Null).await;
            if nodes.is_ok_and(|nodes| nodes.status == StatusCode::OK && nodes.text() != "null") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.http_port).into()
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &Tampered {
        &self.between
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        self.ask_with(method, path, body).await
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::builder().method(method).uri(path).header("x-consul-token", ROOT);
        Session::new(self.address()).try_send(request, body).await
    }

    /// Changes something, as soon as Consul lets it be changed.
    pub async fn put(&self, path: &str, body: Value) -> Answer {
        let started = Instant::now();
        loop {
            match self.ask(Method::PUT, path, body.clone()).await {
                Ok(answer) if answer.status == StatusCode::OK => return answer,
                other if started.elapsed() > PATIENCE => panic!("{path}: {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Writes a value as it is, which the store must take.
    pub async fn put_raw(&self, path: &str, value: &str) {
        let answer = self.ask_with(Method::PUT, path, value.to_owned().into()).await.unwrap();
        assert_eq!(answer.text().trim(), "true", "{path}");
    }

    /// What it answers, null where there is nothing.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, Value::Null).await.unwrap();
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// Makes a token that may read, and puts it where the gateway reads it.
    async fn renew_token(&mut self) {
        self.renew_token_with("").await;
    }

    /// The same, with more rights.
    pub async fn renew_token_with(&mut self, more: &str) {
        let rules =
            format!(r#"{more} service_prefix "" {{ policy = "read" }} node_prefix "" {{ policy = "read" }}"#);
        let name = format!("gateway-{:x}", fastrand::u64(..));
        self.put("/v1/acl/policy", json!({ "Name": name, "Rules": rules })).await;
        let token = self.put("/v1/acl/token", json!({ "Policies": [{ "Name": name }] })).await;
        let token: Value = serde_json::from_slice(&token.body).unwrap();
        self.token = token["AccessorID"].as_str().map(str::to_owned);
        fs::write(self.token_file(), token["SecretID"].as_str().unwrap()).unwrap();
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// The table of a registry that reads it.
    pub fn registry(&self, settings: &str) -> String {
        let token = match self.token {
            Some(_) => format!(", token_file = {:?}, header = \"X-Consul-Token\"", self.token_file()),
            None => String::new(),
        };
        let (url, more) = match &self.tls {
            None => (format!("http://{}", self.between.address), token),
            // What stands between does not speak it.
            Some(Tls { certs, client, port, .. }) => {
                let (ca, Pair { certificate, key }) = (certs.ca(), client);
                let files = format!(", ca_file = {ca:?}, cert_file = {certificate:?}, key_file = {key:?}");
                (format!("https://localhost:{port}"), token + &files)
            }
        };
        registry(&format!("{{ urls = [{url:?}]{more} }}"), settings)
    }

    /// Whether this server leads, as it knows itself.
    pub async fn leads(&self) -> bool {
        let leader = self.ask(Method::GET, "/v1/status/leader", Value::Null).await;
        leader.is_ok_and(|leader| leader.text().contains(&format!(":{}\"", self.server_port)))
    }

    /// Puts an instance on another node into the catalog, with whatever else is to be said of it.
    pub async fn register_with(&self, id: &str, address: SocketAddr, more: Value) {
        let mut service = json!({ "ID": id, "Service": "orders", "Address": address.ip().to_string(),
            "Port": address.port() });
        let checks = more.get("Checks").cloned().unwrap_or(json!([]));
        for (name, value) in more.as_object().into_iter().flatten().filter(|(name, _)| *name != "Checks") {
            service[name] = value.clone();
        }
        let body = json!({ "Node": "other", "Address": "127.0.0.1", "Service": service, "Checks": checks });
        self.put("/v1/catalog/register", body).await;
    }

    fn wipe(&self) {
        let _ = fs::remove_dir_all(self.folder.path().join("data"));
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("Consul is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// The table of a registry that asks as `http` says.
pub fn registry(http: &str, settings: &str) -> String {
    format!("[registry.main]\nplugin = \"consul\"\nhttp = {http}\nsettings = {settings}\n")
}

impl Registry for Consul {
    async fn start() -> Self {
        Self::start_locked().await
    }

    fn toml(&self) -> String {
        self.registry("{ wait_seconds = 1 }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.register_with(id, address, json!({})).await;
    }

    async fn withdraw(&mut self, id: &str) {
        self.put("/v1/catalog/deregister", json!({ "Node": "other", "ServiceID": id })).await;
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        self.put("/v1/catalog/register", json!({ "Node": "other", "Address": "127.0.0.1" })).await;
        // Values have 512 bytes at most.
        let meta: serde_json::Map<String, Value> =
            (0..padding / 500).map(|number| (format!("m{number}"), "x".repeat(490).into())).collect();
        // A transaction has half a megabyte at most.
        for addresses in addresses.chunks(TRANSACTION.min(400_000 / (padding + 1_000))) {
            let operation = |address: &SocketAddr| {
                json!({ "Service": { "Verb": "set", "Node": "other", "Service": { "ID": address.to_string(),
                    "Service": "orders", "Address": address.ip().to_string(), "Port": address.port(),
                    "Meta": meta } } })
            };
            self.put("/v1/txn", addresses.iter().map(operation).collect()).await;
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
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
        assert!(self.is_ready().await, "Consul does not start again: {}", self.log());
    }

    async fn restart_empty(&mut self) {
        self.kill9();
        self.wipe();
        self.restart().await;
        if self.token.is_some() {
            self.renew_token().await;
        }
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    async fn revoke(&mut self) {
        let accessor = self.token.clone().expect("it asks for tokens");
        let path = format!("/v1/acl/token/{accessor}");
        let gone = self.ask(Method::DELETE, &path, Value::Null).await.unwrap();
        assert_eq!(gone.status, StatusCode::OK, "{}", gone.text());
    }

    async fn grant_again(&mut self) {
        self.renew_token().await;
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        Registry::kill9(self);
    }
}
