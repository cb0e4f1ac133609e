//! A double of a node of `service_discovery`, for one test: written from what its source does, since no package has the
//! program itself. It holds what it is told and answers as that does; it drops nobody by itself, as one does that
//! protects itself. What asks for a token is no part of it, but of what may stand before it.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};

use super::{
    fault_table::Registry,
    origin::{Origin, Seen, read_request},
    tampered::{Tampered, Tampering},
};

/// Gone when the value is dropped.
pub struct DiscoveryDouble {
    node: Arc<Mutex<Node>>,
    /// None while it is not running.
    origin: Option<Origin>,
    frozen: watch::Sender<bool>,
    folder: TempDir,
    /// There if a token is asked for.
    token: Option<String>,
    /// Stands between the gateway and the node.
    between: Tampered,
}

/// What a node holds.
#[derive(Default)]
struct Node {
    /// By `APPID-ENV`, then by host name.
    apps: BTreeMap<String, BTreeMap<String, Value>>,
    token: Option<String>,
}

impl DiscoveryDouble {
    /// Asks nobody for a token.
    pub async fn start() -> Self {
        let mut double = Self {
            node: Arc::default(),
            origin: None,
            frozen: watch::channel(false).0,
            folder: tempfile::tempdir().unwrap(),
            token: None,
            between: Tampered::start().await,
        };
        double.run().await;
        double
    }

    async fn run(&mut self) {
        let (node, frozen) = (self.node.clone(), self.frozen.subscribe());
        let origin = Origin::connected(move |stream, connection, _| {
            let (node, frozen) = (node.clone(), frozen.clone());
            async move {
                // An error is the end of the connection.
                let _ = serve(stream, connection, &node, frozen).await;
            }
        })
        .await;
        self.between.to(origin.address);
        self.origin = Some(origin);
    }

    /// Where the gateway is to ask.
    pub fn url(&self) -> String {
        format!("http://{}", self.between.address)
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &Tampered {
        &self.between
    }

    /// What a client tells it, which it must take.
    pub fn tell(&self, path: &str, body: &Value) {
        let answer = self.node.lock().unwrap().answer(path, body);
        assert_eq!(answer["code"], 200, "{path} {body}: {answer}");
    }

    /// What it holds of a service in an environment, `APPID-ENV`.
    pub fn instances(&self, app: &str) -> Vec<Value> {
        let node = self.node.lock().unwrap();
        node.apps.get(app).into_iter().flat_map(|app| app.values()).cloned().collect()
    }

    /// Registers an instance of `orders`, with whatever else is to be said of it.
    pub fn register_with(&self, hostname: &str, address: SocketAddr, more: Value) {
        let mut body = json!({ "env": "dev", "appid": "orders", "hostname": hostname, "status": 1,
            "addrs": [format!("http://{address}")], "version": "1.0" });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.tell("/api/register", &body);
    }

    /// As if the last renewal of an instance of `orders` had come so long ago.
    pub fn renewed(&self, hostname: &str, ago: Duration) {
        let mut node = self.node.lock().unwrap();
        let instance = node.apps.get_mut("orders-dev").and_then(|app| app.get_mut(hostname)).unwrap();
        instance["renew_timestamp"] = json!(now() - ago.as_nanos() as i64);
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Asks for a token that the gateway finds in its file.
    fn renew_token(&mut self) {
        let token = format!("{:x}", fastrand::u64(..));
        fs::write(self.token_file(), &token).unwrap();
        self.node.lock().unwrap().token = Some(token.clone());
        self.token = Some(token);
    }

    fn forget(&self) {
        self.node.lock().unwrap().apps.clear();
    }
}

/// The table of a registry that asks these nodes.
pub fn registry(nodes: &[&DiscoveryDouble], more: &str) -> String {
    let urls: Vec<_> = nodes.iter().map(|node| node.url()).collect();
    format!(
        "[registry.main]\nplugin = \"discovery\"\nhttp = {{ urls = {urls:?}{more} }}\n\
         settings = {{ env = \"dev\", poll_seconds = 1 }}\n"
    )
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    node: &Mutex<Node>,
    mut frozen: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let (status, body) = node.lock().unwrap().reply(&request);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        if request.header("connection") == Some("close") {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

impl Node {
    fn reply(&mut self, request: &Seen) -> (&'static str, String) {
        let expected = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if expected.is_some() && request.header("authorization") != expected.as_deref() {
            return ("401 Unauthorized", "{}".to_owned());
        }
        if !request.line().starts_with("POST ") {
            return ("404 Not Found", "404 page not found".to_owned());
        }
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        ("200 OK", self.answer(request.path(), &body).to_string())
    }

    fn answer(&mut self, path: &str, body: &Value) -> Value {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (env, appid, hostname) = (text("env"), text("appid"), text("hostname"));
        let key = format!("{appid}-{env}");
        let missing = || json!({ "code": 404, "data": "", "message": "code: 404, error info: not found" });
        match path {
            "/api/register" if (1..=2).contains(&body["status"].as_u64().unwrap_or_default()) => {
                let mut instance = json!({ "env": env, "appid": appid, "hostname": hostname,
                    "addrs": body["addrs"], "version": body["version"], "status": body["status"] });
                for name in ["reg", "up", "renew", "dirty", "latest"] {
                    instance[format!("{name}_timestamp")] = json!(now());
                }
                self.apps.entry(key).or_default().insert(hostname, instance);
                json!({ "code": 200, "message": "", "data": "" })
            }
            "/api/fetch" => {
                let status = body["status"].as_u64().unwrap_or_default();
                let wanted = |one: &&Value| one["status"].as_u64().is_some_and(|of| of & status != 0);
                let app = self.apps.get(&key);
                let instances: Vec<_> =
                    app.iter().flat_map(|app| app.values()).filter(wanted).cloned().collect();
                match instances.is_empty() {
                    true => missing(),
                    false => json!({ "code": 200, "message": "",
                        "data": { "instances": instances, "latest_timestamp": 1 } }),
                }
            }
            "/api/renew" => match self.apps.get_mut(&key).and_then(|app| app.get_mut(&hostname)) {
                Some(instance) => {
                    instance["renew_timestamp"] = json!(now());
                    json!({ "code": 200 })
                }
                None => missing(),
            },
            "/api/cancel" => match self.apps.get_mut(&key).and_then(|app| app.remove(&hostname)) {
                Some(_) => json!({ "code": 200, "message": "" }),
                None => missing(),
            },
            _ => json!({ "code": 400, "data": "", "message": "code: 400, error info: bad parameters" }),
        }
    }
}

/// In nanoseconds, as the registry counts.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

impl Registry for DiscoveryDouble {
    async fn start() -> Self {
        let mut double = Self::start().await;
        double.renew_token();
        double
    }

    fn toml(&self) -> String {
        registry(&[self], &format!(", token_file = {:?}", self.token_file()))
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.register_with(id, address, json!({}));
    }

    async fn withdraw(&mut self, id: &str) {
        self.tell("/api/cancel", &json!({ "env": "dev", "appid": "orders", "hostname": id }));
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        for address in addresses {
            let version = "x".repeat(padding.max(1));
            self.register_with(&address.to_string(), address, json!({ "version": version }));
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
    }

    fn kill9(&mut self) {
        self.origin = None;
    }

    async fn restart(&mut self) {
        self.kill9();
        self.run().await;
    }

    async fn restart_empty(&mut self) {
        self.kill9();
        self.forget();
        self.run().await;
    }

    fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    async fn revoke(&mut self) {
        self.node.lock().unwrap().token = Some("another".to_owned());
    }

    async fn grant_again(&mut self) {
        self.renew_token();
    }
}
