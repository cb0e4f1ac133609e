//! A real Eureka server for one test, as Spring Cloud has it, or several that know each other. Gone when the value is
//! dropped. `./dev test` builds it from `tests/peers/eureka`.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    etcd::free_port,
    fault_table::Registry,
    peer::Peer,
    session::{Answer, Session},
    tampered::{Tampered, Tampering},
};

/// How long a server may take to answer. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(90);

/// Who the gateway is, where that is asked for.
const USER: &str = "gateway";

/// What answers change at once, and not every half a minute.
const AT_ONCE: &str = "eureka.server.use-read-only-response-cache=false";

struct Program;

impl Peer for Program {
    const PROGRAM: &str = "eureka";
    type Report = Value;
}

pub struct Eureka {
    child: Option<(Child, ChildStdin)>,
    folder: TempDir,
    port: u16,
    properties: Vec<String>,
    /// What was registered and goes on living, as those who send heartbeats do: they register again when they are told
    /// that nobody knows them.
    instances: BTreeMap<String, Value>,
    /// There if a password is asked for.
    password: Option<String>,
    /// Stands between the gateway and the server.
    between: Tampered,
}

impl Eureka {
    /// Asks nobody who they are.
    pub async fn start() -> Self {
        Self::start_with(&[AT_ONCE]).await
    }

    /// With these properties.
    pub async fn start_with(properties: &[&str]) -> Self {
        let mut eureka = Self::new(properties).await;
        eureka.launch().await;
        eureka
    }

    /// Two that tell each other what they hear.
    pub async fn two() -> [Self; 2] {
        let (mut one, mut other) = (Self::new(&[AT_ONCE]).await, Self::new(&[AT_ONCE]).await);
        let urls = [&one, &other].map(|eureka| format!("http://127.0.0.1:{}/eureka/", eureka.port));
        for (eureka, peer) in [(&mut one, &urls[1]), (&mut other, &urls[0])] {
            eureka.properties.push(format!("eureka.client.service-url.defaultZone={peer}"));
            eureka.properties.push("eureka.server.registry-sync-retries=0".to_owned());
        }
        one.spawn();
        other.spawn();
        for eureka in [&mut one, &mut other] {
            assert!(eureka.is_ready().await, "Eureka does not start: {}", eureka.log());
        }
        [one, other]
    }

    async fn new(properties: &[&str]) -> Self {
        let (folder, between) = (tempfile::tempdir().unwrap(), Tampered::start().await);
        let properties = properties.iter().map(ToString::to_string).collect();
        let mut eureka = Self {
            child: None,
            folder,
            port: 0,
            properties,
            instances: BTreeMap::new(),
            password: None,
            between,
        };
        eureka.take_port();
        eureka
    }

    fn take_port(&mut self) {
        self.port = free_port();
        self.between.to(self.address());
    }

    async fn launch(&mut self) {
        // A port that was free may be taken by another test before the server has it.
        for _ in 0..5 {
            self.spawn();
            if self.is_ready().await {
                return;
            }
            self.kill9();
            self.take_port();
        }
        panic!("Eureka does not start: {}", self.log());
    }

    fn spawn(&mut self) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        // One that is frozen does not notice the end of its input.
        let (program, mut command) = (Program::command("server"), Command::new("setpriv"));
        command.args(["--pdeathsig", "KILL"]).arg(program.get_program()).args(program.get_args());
        command.stdin(Stdio::piped());
        command.arg(self.port.to_string()).args(&self.properties);
        if self.password.is_some() {
            command.arg(format!("credential={}", self.folder.path().join("credential").display()));
        }
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        self.child = Some((child, input));
    }

    /// Waits until it answers; false when it ended instead.
    async fn is_ready(&mut self) -> bool {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|(child, _)| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if self.ask(Method::GET, "/apps/delta", Value::Null).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where the gateway asks.
    pub fn url(&self) -> String {
        format!("http://{}/eureka", self.between.address)
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
        self.ask_over(&mut Session::new(self.address()), method, path, body).await
    }

    async fn ask_over(
        &self,
        session: &mut Session,
        method: Method,
        path: &str,
        body: Value,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/eureka{path}"))
            .header("accept", "application/json")
            .header("content-type", "application/json");
        if let Some(password) = &self.password {
            request = request.header("authorization", basic(password));
        }
        session.try_send(request, body.into()).await
    }

    /// What it answers, null where there is nothing.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path, Value::Null).await.unwrap();
        if answer.status == StatusCode::NOT_FOUND {
            Value::Null
        } else {
            serde_json::from_slice(&answer.body).unwrap()
        }
    }

    /// Changes something, which it must do.
    pub async fn tell(&self, method: Method, path: &str) {
        let answer = self.ask(method, path, Value::Null).await.unwrap();
        assert!(answer.status.is_success(), "{path}: {} {}", answer.status, answer.text());
    }

    /// Registers an instance of `orders`, with whatever else is to be said of it.
    pub async fn register_with(&mut self, id: &str, address: SocketAddr, more: Value) {
        let instance = instance(id, address, more);
        self.instances.insert(id.to_owned(), instance.clone());
        self.register_over(&mut Session::new(self.address()), instance).await;
    }

    async fn register_over(&self, session: &mut Session, instance: Value) {
        let path = format!("/apps/{}", instance["app"].as_str().unwrap());
        let answer =
            self.ask_over(session, Method::POST, &path, json!({ "instance": instance })).await.unwrap();
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.text());
    }

    /// The instances of an application as the server has them.
    pub async fn instances(&self, app: &str) -> Vec<Value> {
        let found = self.get(&format!("/apps/{app}")).await;
        found["application"]["instance"].as_array().cloned().unwrap_or_default()
    }

    /// The table of a registry that asks it.
    pub fn registry(&self, settings: &str) -> String {
        let credential = match self.password {
            Some(_) => format!(", user = {USER:?}, password_file = {:?}", self.password_file()),
            None => String::new(),
        };
        format!(
            "[registry.main]\nplugin = \"eureka\"\nhttp = {{ urls = [{:?}]{credential} }}\nsettings = {settings}\n",
            self.url()
        )
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Asks for a password that the gateway finds in its file.
    fn renew_password(&mut self) {
        let password = format!("{:x}", fastrand::u64(..));
        fs::write(self.password_file(), &password).unwrap();
        self.ask_for(password);
    }

    fn ask_for(&mut self, password: String) {
        fs::write(self.folder.path().join("credential"), format!("{USER}:{password}")).unwrap();
        self.password = Some(password);
    }

    pub fn signal(&self, signal: &str) {
        let process = self.child.as_ref().expect("Eureka is not running").0.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// An instance of `orders` as its program registers it.
pub fn instance(id: &str, address: SocketAddr, more: Value) -> Value {
    let mut instance = json!({
        "instanceId": id, "hostName": format!("{id}.example"), "app": "ORDERS", "ipAddr": address.ip().to_string(),
        "status": "UP", "port": { "$": address.port(), "@enabled": "true" },
        "securePort": { "$": 443, "@enabled": "false" }, "vipAddress": "orders", "secureVipAddress": "orders",
        "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 }, "metadata": {},
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        instance[name] = value.clone();
    }
    instance
}

fn basic(password: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{password}")))
}

impl Registry for Eureka {
    async fn start() -> Self {
        let mut eureka = Self::new(&[AT_ONCE]).await;
        eureka.renew_password();
        eureka.launch().await;
        eureka
    }

    fn toml(&self) -> String {
        self.registry("{ poll_seconds = 1 }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.register_with(id, address, json!({})).await;
    }

    async fn withdraw(&mut self, id: &str) {
        self.instances.remove(id);
        self.tell(Method::DELETE, &format!("/apps/ORDERS/{id}")).await;
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        // As servers tell each other, many at once: one by one takes half a minute.
        let mut session = Session::new(self.address());
        let metadata = json!({ "padding": "x".repeat(padding) });
        for some in addresses.chunks(500) {
            let list = some.iter().map(|address| {
                let id = address.to_string();
                let info = instance(&id, *address, json!({ "metadata": metadata }));
                json!({ "appName": "ORDERS", "id": id, "instanceInfo": info, "action": "Register", "status": "UP",
                    "lastDirtyTimestamp": 1, "overriddenStatus": "UNKNOWN" })
            });
            let list = json!({ "replicationList": list.collect::<Vec<_>>() });
            let answer =
                self.ask_over(&mut session, Method::POST, "/peerreplication/batch/", list).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
    }

    fn kill9(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// It holds nothing on a disk: whoever lives tells it again.
    async fn restart(&mut self) {
        self.restart_empty().await;
        let mut session = Session::new(self.address());
        for instance in self.instances.values() {
            self.register_over(&mut session, instance.clone()).await;
        }
    }

    async fn restart_empty(&mut self) {
        self.kill9();
        self.spawn();
        assert!(self.is_ready().await, "Eureka does not start again: {}", self.log());
    }

    fn freeze(&self) {
        self.signal("-STOP");
    }

    fn thaw(&self) {
        self.signal("-CONT");
    }

    async fn revoke(&mut self) {
        self.ask_for("another".to_owned());
    }

    async fn grant_again(&mut self) {
        self.renew_password();
    }
}

impl Drop for Eureka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of Eureka:\n{}", self.log());
        }
        Registry::kill9(self);
    }
}
