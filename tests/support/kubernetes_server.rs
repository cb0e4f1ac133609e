//! A real API server of Kubernetes, for one test: with an etcd of its own, rules of who may do what, and the gateway as a
//! service account. Gone when the value is dropped. `./dev peers` builds it.
//!
//! It has no node and no controller: what these would write of a service the test writes. It takes no address of loopback
//! for an endpoint, so that the test has a network of its own, for which it has to be root.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, net::TcpStream, task::JoinSet};

use super::{
    certs::{Certs, Pair},
    etcd::{Etcd, Version, free_port},
    fault_table::Registry,
    gateway::until,
    kubernetes::{NAMESPACE, in_slices, registry, slice},
    network::Network,
    session::{Answer, Session},
    tampered::{Tampered, Tampering},
    tls,
};

/// How long the server may take to start. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the gateway is, in the manifests of the example, and who it is there.
const HOME: &str = "witgate";

/// What is in a slice at most, as controllers write them.
const IN_A_SLICE: usize = 100;

pub struct Kubernetes {
    child: Option<Child>,
    etcd: Etcd,
    folder: TempDir,
    port: u16,
    certs: Certs,
    server: Pair,
    /// Who may do everything.
    admin: Arc<ClientConfig>,
    admin_pair: Pair,
    /// Where endpoints are.
    network: Network,
    block: u8,
    /// Takes what comes to an endpoint to the backend on loopback, by its port there.
    relays: BTreeMap<u16, JoinSet<()>>,
    /// Stand between the gateway and the server, and between the test and the server.
    between: Tampered,
    asking: Tampered,
}

impl Kubernetes {
    /// With the rules of the example, and the gateway's token in its file.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = Certs::new(&folder.path().join("tls"));
        let (server, admin_pair) = (certs.server(), certs.client_of("admin", "system:masters"));
        let admin = tls::client(&certs.ca(), Some(&admin_pair), &[]);
        let block = 64 + (std::process::id() % 64) as u8;
        let network = Network::new();
        network.own(&format!("100.{block}.0.0/16"));
        let mut kubernetes = Self {
            child: None,
            etcd: Etcd::start_version(Version::V35).await,
            folder,
            port: 0,
            certs,
            server,
            admin,
            admin_pair,
            network,
            block,
            relays: BTreeMap::new(),
            between: Tampered::start().await,
            asking: Tampered::start().await,
        };
        kubernetes.make_key();
        kubernetes.launch().await;
        kubernetes
    }

    /// The program, from where the tests' servers are built.
    fn program() -> PathBuf {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/kubernetes/kube-apiserver");
        assert!(program.exists(), "no {}: scripts/servers.sh kubernetes builds it", program.display());
        program
    }

    /// What tokens are signed with.
    fn make_key(&self) {
        let key = self.folder.path().join("sa.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// On another port, with nothing in it but namespaces, the rules and the gateway.
    async fn launch(&mut self) {
        // A port that was free may be taken by another test before the server has it.
        for _ in 0..5 {
            self.port = free_port();
            self.spawn(&[]);
            if self.is_ready().await {
                self.introduce().await;
                return;
            }
            self.kill9();
        }
        panic!("kube-apiserver does not start: {}", self.log());
    }

    fn spawn(&mut self, more: &[&str]) {
        let folder = self.folder.path();
        let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(Self::program());
        let file = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command.arg(format!("--etcd-servers={}", format_args!("http://{}", self.etcd.endpoint())));
        command.args([
            "--bind-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--authorization-mode=RBAC",
        ]);
        command.args(["--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged=true"]);
        command.arg(format!("--advertise-address={}", self.network.near()));
        command.arg(format!("--secure-port={}", self.port));
        command.arg(file("cert-dir", folder));
        command.arg(file("tls-cert-file", &self.server.certificate));
        command.arg(file("tls-private-key-file", &self.server.key));
        command.arg(file("client-ca-file", &self.certs.ca()));
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        command.arg(file("service-account-key-file", &folder.join("sa.key")));
        command.arg(file("service-account-signing-key-file", &folder.join("sa.key")));
        // Nobody makes the accounts that pods would have by default.
        command.arg("--disable-admission-plugins=ServiceAccount").args(more);
        command.env_clear().env("HOME", folder).stdin(Stdio::null());
        self.child = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        self.asking.to_tls(self.address(), self.admin.clone());
        self.between.to_tls(self.address(), tls::client(&self.certs.ca(), None, &[]));
    }

    /// Waits until it says that it is ready; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        self.answers("/readyz").await
    }

    /// Waits until it answers this well; false when it ended instead.
    async fn answers(&mut self, path: &str) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            let answer = self.ask(Method::GET, path, "").await;
            if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Tells it of the namespaces, of the rules of the example and of the gateway, whose token is then in its file.
    async fn introduce(&mut self) {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        self.create("/api/v1/namespaces", &namespace.to_string()).await;
        for object in manifests("rbac.yaml") {
            self.create(collection(&object), &object).await;
        }
        self.renew_token().await;
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where the gateway asks.
    pub fn url(&self) -> String {
        format!("http://{}", self.between.address)
    }

    pub fn ca(&self) -> PathBuf {
        self.certs.ca()
    }

    /// The certificate of who may do everything.
    pub fn admin(&self) -> &Pair {
        &self.admin_pair
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Asks as who may do everything.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::builder().method(method).uri(path).header("accept", "application/json");
        // Which is JSON, too.
        let request = request.header("content-type", "application/yaml");
        Session::new(self.asking.address).try_send(request, body.to_owned().into()).await
    }

    /// Makes an object, or has it looked at whether it could be made.
    pub async fn create(&self, path: &str, object: &str) -> Value {
        let answer = self.ask(Method::POST, path, object).await.unwrap();
        assert!(answer.status.is_success(), "{path} {object}: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub async fn remove(&self, path: &str) {
        let answer = self.ask(Method::DELETE, path, "").await.unwrap();
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
    }

    /// Asks as the gateway, over a connection of its own.
    pub async fn ask_as_gateway(&self, path: &str, token: &str) -> Answer {
        let request = Request::get(path).header("accept", "application/json");
        let request = request.header("authorization", format!("Bearer {token}"));
        Session::new(self.between.address).send(request, bytes::Bytes::new()).await
    }

    async fn renew_token(&self) {
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 } });
        let path = format!("/api/v1/namespaces/{HOME}/serviceaccounts/{HOME}/token");
        let token = self.create(&path, &request.to_string()).await;
        fs::write(self.token_file(), token["status"]["token"].as_str().unwrap()).unwrap();
    }

    /// Where an address of loopback is reached from everywhere, and what comes there goes to it.
    pub async fn reached(&mut self, address: SocketAddr) -> SocketAddr {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        let [_, block, high, low] = ip.octets();
        let place =
            SocketAddr::from((Ipv4Addr::new(100, self.block, block * 128 + high, low), address.port()));
        // Those of the other blocks are the machine's own, whichever they are.
        if block == 0 && !self.relays.contains_key(&address.port()) {
            let listener = TcpListener::bind(place).await.unwrap();
            let mut relaying = JoinSet::new();
            relaying.spawn(async move {
                let mut open = JoinSet::new();
                while let Ok((mut client, _)) = listener.accept().await {
                    open.spawn(async move {
                        let mut backend = TcpStream::connect(address).await?;
                        tokio::io::copy_bidirectional(&mut client, &mut backend).await
                    });
                }
            });
            self.relays.insert(address.port(), relaying);
        }
        place
    }

    /// Writes a slice of the service `orders`, in place of what has this name.
    pub async fn put(&mut self, name: &str, addresses: &[SocketAddr], more: Value) {
        let mut reached = Vec::new();
        for address in addresses {
            reached.push(self.reached(*address).await);
        }
        let mut object = slice("orders", &reached, more);
        object["metadata"]["name"] = json!(name);
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        let answer = self.ask(Method::POST, &slices, &object.to_string()).await.unwrap();
        if answer.status == StatusCode::CONFLICT {
            let answer =
                self.ask(Method::PUT, &format!("{slices}/{name}"), &object.to_string()).await.unwrap();
            assert!(answer.status.is_success(), "{}", answer.text());
        } else {
            assert!(answer.status.is_success(), "{}", answer.text());
        }
    }

    /// The table of a registry that asks it.
    pub fn registry(&self, settings: &str) -> String {
        registry(&self.url(), &format!(", token_file = {:?}", self.token_file()), settings)
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &Tampered {
        &self.between
    }

    /// Starts it again, with what it held and no EndpointSlices, of which it never says that it is ready.
    pub async fn restart_without_slices(&mut self) {
        self.kill9();
        self.spawn(&["--runtime-config=discovery.k8s.io/v1=false"]);
        let answers = self.answers(&format!("/api/v1/namespaces/{NAMESPACE}/endpoints")).await;
        assert!(answers, "kube-apiserver does not start again");
        // Before it knows all that it has, it says of everything else that it is not there yet.
        until("it says that it has none", || async {
            let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
            self.ask(Method::GET, &slices, "")
                .await
                .is_ok_and(|answer| answer.status == StatusCode::NOT_FOUND)
        })
        .await;
    }

    /// Has its etcd forget all that was before now, which it notices when it starts again.
    pub async fn compact(&mut self) {
        let mut client = self.etcd.client().await;
        let revision = client.get("/", None).await.unwrap().header().unwrap().revision();
        client.compact(revision, None).await.unwrap();
        self.restart().await;
    }

    fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("kube-apiserver is not running").id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// The objects in a manifest of the example.
pub fn manifests(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes").join(file);
    let text = fs::read_to_string(path).unwrap();
    let objects = text.split("\n---\n").map(str::to_owned);
    objects.filter(|object| object.contains("kind:")).collect()
}

/// Where an object of a manifest is made.
pub fn collection(object: &str) -> &'static str {
    let kind = object.lines().find_map(|line| line.strip_prefix("kind: ")).expect("an object has a kind");
    match kind.trim() {
        "Namespace" => "/api/v1/namespaces",
        "ServiceAccount" => "/api/v1/namespaces/witgate/serviceaccounts",
        "ConfigMap" => "/api/v1/namespaces/witgate/configmaps",
        "Secret" => "/api/v1/namespaces/witgate/secrets",
        "Service" => "/api/v1/namespaces/witgate/services",
        "Deployment" => "/apis/apps/v1/namespaces/witgate/deployments",
        "PodDisruptionBudget" => "/apis/policy/v1/namespaces/witgate/poddisruptionbudgets",
        "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        other => panic!("nobody said where {other} is made"),
    }
}

impl Registry for Kubernetes {
    async fn start() -> Self {
        Self::start().await
    }

    fn toml(&self) -> String {
        self.registry("{ namespace = \"shop\", watch_seconds = 1 }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.put(id, &[address], json!({})).await;
    }

    async fn withdraw(&mut self, id: &str) {
        self.remove(&format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{id}")).await;
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        for (number, some) in in_slices(addresses, IN_A_SLICE).iter().enumerate() {
            let more =
                json!({ "metadata": { "annotations": { "padding": "x".repeat(padding * some.len()) } } });
            self.put(&format!("many-{number}"), some, more).await;
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
        self.spawn(&[]);
        assert!(self.is_ready().await, "kube-apiserver does not start again");
    }

    /// With another etcd, which counts from the beginning again.
    async fn restart_empty(&mut self) {
        self.kill9();
        self.etcd = Etcd::start_version(Version::V35).await;
        self.restart().await;
        self.introduce().await;
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    /// The account is gone, and with it its tokens, as soon as the server looks again.
    async fn revoke(&mut self) {
        self.remove(&format!("/api/v1/namespaces/{HOME}/serviceaccounts/{HOME}")).await;
    }

    async fn grant_again(&mut self) {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": HOME } });
        self.create(&format!("/api/v1/namespaces/{HOME}/serviceaccounts"), &account.to_string()).await;
        self.renew_token().await;
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(100).collect();
            eprintln!("the end of the log of kube-apiserver:");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        Registry::kill9(self);
    }
}
