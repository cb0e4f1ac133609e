//! A double of a server of Nacos, for one test. What it says by version 1 is what rnacos, a real server, said to the same
//! questions (`nacos.conversation`); what that does not say, and version 3, is written from what the source of Nacos does.
//! It drops nobody by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};

use super::{
    fault_table::Registry,
    nacos::{USER, registry, unescaped},
    origin::{Origin, Seen, read_request},
    tampered::{Tampered, Tampering},
};

/// By version 1 or 3 of its API. Gone when the value is dropped.
pub struct NacosDouble<const API: u8> {
    server: Arc<Mutex<Server>>,
    /// None while it is not running.
    origin: Option<Origin>,
    frozen: watch::Sender<bool>,
    folder: TempDir,
    /// Stands between the gateway and the server.
    between: Tampered,
    /// What the table of faults calls its instances.
    ids: BTreeMap<String, SocketAddr>,
}

/// What a server holds.
#[derive(Default)]
struct Server {
    api: u8,
    /// By namespace, group and name of the service, then by address.
    services: BTreeMap<[String; 3], BTreeMap<String, Value>>,
    /// There if it asks who one is.
    password: Option<String>,
    tokens: BTreeSet<String>,
}

type Form = BTreeMap<String, String>;

impl<const API: u8> NacosDouble<API> {
    /// Asks nobody who they are.
    pub async fn start() -> Self {
        let server = Server { api: API, ..Server::default() };
        let mut double = Self {
            server: Arc::new(Mutex::new(server)),
            origin: None,
            frozen: watch::channel(false).0,
            folder: tempfile::tempdir().unwrap(),
            between: Tampered::start().await,
            ids: BTreeMap::new(),
        };
        double.run().await;
        double
    }

    /// Lets in who has logged in.
    pub async fn start_locked() -> Self {
        let double = Self::start().await;
        double.renew_password();
        double
    }

    async fn run(&mut self) {
        let (server, frozen) = (self.server.clone(), self.frozen.subscribe());
        let origin = Origin::connected(move |stream, connection, _| {
            let (server, frozen) = (server.clone(), frozen.clone());
            async move {
                // An error is the end of the connection.
                let _ = serve(stream, connection, &server, frozen).await;
            }
        })
        .await;
        self.between.to(origin.address);
        self.origin = Some(origin);
    }

    /// Without anything between.
    pub fn address(&self) -> SocketAddr {
        self.origin.as_ref().unwrap().address
    }

    /// What stands between it and the gateway.
    pub fn between(&self) -> &Tampered {
        &self.between
    }

    pub fn password(&self) -> Option<String> {
        self.server.lock().unwrap().password.clone()
    }

    /// The table of a registry that asks it, with these settings more.
    pub fn registry(&self, settings: &str) -> String {
        table(&[self], settings)
    }

    /// Registers an instance of a service, with whatever else is to be said of it. With the name of one that is there it
    /// is changed.
    pub fn register_with(&self, service: &str, address: SocketAddr, more: &[(&str, &str)]) {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let (group, name) = service.split_once("@@").unwrap_or(("DEFAULT_GROUP", service));
        let form = [("groupName", group), ("serviceName", name), ("ip", &ip), ("port", &port)];
        let form = [&form, more].concat();
        let form = form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.server.lock().unwrap().put(&form);
    }

    pub fn forget(&self, service: &str, address: SocketAddr) {
        let mut server = self.server.lock().unwrap();
        server.services.get_mut(&usual(service)).and_then(|all| all.remove(&address.to_string())).unwrap();
    }

    /// Says how an instance of `orders` stands.
    pub fn is_healthy(&self, address: SocketAddr, healthy: bool) {
        let mut server = self.server.lock().unwrap();
        let all = server.services.get_mut(&usual("orders")).unwrap();
        all.get_mut(&address.to_string()).unwrap()["healthy"] = json!(healthy);
    }

    /// What it has of a service of the usual group and namespace.
    pub fn instances(&self, service: &str) -> Vec<Value> {
        let server = self.server.lock().unwrap();
        server.services.get(&usual(service)).into_iter().flat_map(|all| all.values()).cloned().collect()
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Asks for a password that the gateway finds in its file, and forgets whom it let in.
    fn renew_password(&self) {
        let password = format!("{:016x}", fastrand::u64(..));
        fs::write(self.password_file(), &password).unwrap();
        self.ask_for(password);
    }

    fn ask_for(&self, password: String) {
        let mut server = self.server.lock().unwrap();
        server.password = Some(password);
        server.tokens.clear();
    }
}

/// The table of a registry that asks these servers.
pub fn table<const API: u8>(servers: &[&NacosDouble<API>], settings: &str) -> String {
    let places: Vec<_> = servers.iter().map(|server| server.between.address).collect();
    let file = servers[0].password().map(|_| servers[0].password_file());
    registry(&places, &format!("v{API}"), file.as_deref(), settings)
}

fn usual(service: &str) -> [String; 3] {
    [String::new(), "DEFAULT_GROUP".to_owned(), service.to_owned()]
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    server: &Mutex<Server>,
    mut frozen: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let (status, body) = server.lock().unwrap().reply(&request);
        let kind = if body.starts_with('{') { "content-type: application/json\r\n" } else { "" };
        let ends = request.header("connection") == Some("close");
        let end = if ends { "connection: close\r\n" } else { "" };
        let head = format!("HTTP/1.1 {status}\r\n{kind}{end}content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        if ends {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

impl Server {
    fn reply(&mut self, request: &Seen) -> (&'static str, String) {
        let (method, (path, query)) = (
            request.line().split(' ').next().unwrap(),
            request.path().split_once('?').unwrap_or((request.path(), "")),
        );
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let pairs = query.split('&').chain(body.split('&')).filter_map(|pair| pair.split_once('='));
        let form: Form = pairs.map(|(name, value)| (name.to_owned(), unescaped(value))).collect();
        let path = path.strip_prefix("/nacos").unwrap_or_default();
        match (self.api, method, path) {
            (1, "POST", "/v1/auth/login") | (3, "POST", "/v3/auth/user/login") => return self.log_in(&form),
            _ if !self.lets_in(request, &form) => return (FORBIDDEN, forbidden(request.path())),
            _ => {}
        }
        match (self.api, path) {
            (1, path) if path.starts_with("/v1/ns/instance") => self.version_1(method, path, &form),
            (3, path) if path.starts_with("/v3/client/ns/instance") => self.version_3(method, path, &form),
            // As without the switch for old clients.
            (3, path) if path.starts_with("/v1/") => ("410 Gone", "Current API is deprecated".to_owned()),
            _ => ("404 Not Found", String::new()),
        }
    }

    fn log_in(&mut self, form: &Form) -> (&'static str, String) {
        let is = |name: &str, value: &str| form.get(name).is_some_and(|text| text == value);
        match &self.password {
            Some(password) if is("username", USER) && is("password", password) => {
                let token = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
                self.tokens.insert(token.clone());
                let body = json!({ "accessToken": token, "tokenTtl": 3_600, "globalAdmin": false, "username": USER });
                (OK, body.to_string())
            }
            _ => (FORBIDDEN, "unknown user!".to_owned()),
        }
    }

    fn lets_in(&self, request: &Seen, form: &Form) -> bool {
        let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let token = bearer.or(request.header("accesstoken")).or(form.get("accessToken").map(String::as_str));
        self.password.is_none() || token.is_some_and(|token| self.tokens.contains(token))
    }

    fn version_1(&mut self, method: &str, path: &str, form: &Form) -> (&'static str, String) {
        if form.get("serviceName").is_none_or(String::is_empty) {
            return ("500 Internal Server Error", "serviceName is invalid!".to_owned());
        }
        match (method, path) {
            ("GET", "/v1/ns/instance/list") => {
                let [_, group, name] = key(form);
                let (hosts, protects) = self.list(form);
                let mut body = json!({ "name": format!("{group}@@{name}"), "clusters": "", "cacheMillis": 10_000,
                    "hosts": hosts, "lastRefTime": 1, "checksum": "1", "useSpecifiedURL": false, "env": "",
                    "protectThreshold": null, "reachLocalSiteCallThreshold": null, "dom": name, "metadata": null });
                // Nacos says so, and rnacos does not.
                if protects {
                    body["reachProtectionThreshold"] = json!(true);
                }
                (OK, body.to_string())
            }
            ("POST" | "PUT", "/v1/ns/instance") => {
                self.put(form);
                (OK, "ok".to_owned())
            }
            ("DELETE", "/v1/ns/instance") => {
                self.remove(form);
                (OK, "ok".to_owned())
            }
            ("PUT", "/v1/ns/instance/beat") => {
                // One that it does not know it takes from the heartbeat, with the usual weight.
                if !self.knows(form) {
                    let beat: Value = serde_json::from_str(&form["beat"]).unwrap();
                    let mut form = form.clone();
                    form.insert("metadata".to_owned(), beat["metadata"].to_string());
                    self.put(&form);
                }
                let body = json!({ "code": 10_200, "clientBeatInterval": 5_000, "lightBeatEnabled": true });
                (OK, body.to_string())
            }
            _ => ("404 Not Found", String::new()),
        }
    }

    fn version_3(&mut self, method: &str, path: &str, form: &Form) -> (&'static str, String) {
        let result = |code: i64, message: &str, data: Value| {
            json!({ "code": code, "message": message, "data": data }).to_string()
        };
        if form.get("serviceName").is_none_or(String::is_empty) {
            let why = "Required parameter 'serviceName' type String is not present";
            return ("400 Bad Request", result(10_000, "parameter missing", json!(why)));
        }
        match (method, path) {
            ("GET", "/v3/client/ns/instance/list") => (OK, result(0, "success", json!(self.list(form).0))),
            ("POST", "/v3/client/ns/instance")
                if form.get("heartBeat").is_some_and(|text| text == "true") =>
            {
                match self.knows(form) {
                    true => (OK, result(0, "success", json!("ok"))),
                    false => (OK, result(21_003, "instance not found", Value::Null)),
                }
            }
            ("POST", "/v3/client/ns/instance") => {
                self.put(form);
                (OK, result(0, "success", json!("ok")))
            }
            ("DELETE", "/v3/client/ns/instance") => {
                self.remove(form);
                (OK, result(0, "success", json!("ok")))
            }
            _ => ("404 Not Found", String::new()),
        }
    }

    fn put(&mut self, form: &Form) {
        let text = |name: &str| form.get(name).filter(|text| !text.is_empty());
        let [_, group, name] = key(form);
        let service = format!("{group}@@{name}");
        let all = self.services.entry(key(form)).or_default();
        let before = all.remove(&place(form)).unwrap_or_default();
        let metadata = text("metadata").map(|text| serde_json::from_str(text).unwrap());
        let weight = text("weight").map(|text| json!(text.parse::<f64>().unwrap()));
        let or = |value: Option<Value>, name: &str, usual: Value| match &before[name] {
            Value::Null => value.unwrap_or(usual),
            before => value.unwrap_or(before.clone()),
        };
        let instance = json!({ "service": service, "ip": form["ip"], "port": form["port"].parse::<u16>().unwrap(),
            "clusterName": text("clusterName").map_or("DEFAULT", String::as_str),
            "weight": or(weight, "weight", json!(1.0)), "healthy": true,
            "instanceId": format!("{}#{}", form["ip"], form["port"]),
            "metadata": or(metadata, "metadata", json!({})), "marked": true,
            "enabled": or(text("enabled").map(|text| json!(text == "true")), "enabled", json!(true)),
            "serviceName": service, "ephemeral": true });
        all.insert(place(form), instance);
    }

    fn remove(&mut self, form: &Form) {
        if let Some(all) = self.services.get_mut(&key(form)) {
            all.remove(&place(form));
        }
    }

    fn knows(&self, form: &Form) -> bool {
        self.services.get(&key(form)).is_some_and(|all| all.contains_key(&place(form)))
    }

    /// Those that are enabled, and whether all of them are called healthy because none is.
    fn list(&self, form: &Form) -> (Vec<Value>, bool) {
        let all = self.services.get(&key(form)).into_iter().flat_map(|all| all.values());
        let mut hosts: Vec<_> = all.filter(|host| host["enabled"] == true).cloned().collect();
        let protects = !hosts.is_empty() && hosts.iter().all(|host| host["healthy"] == false);
        if protects {
            hosts.iter_mut().for_each(|host| host["healthy"] = json!(true));
        }
        (hosts, protects)
    }
}

const OK: &str = "200 OK";
const FORBIDDEN: &str = "403 Forbidden";

fn forbidden(path: &str) -> String {
    let path = path.split('?').next();
    json!({ "timestamp": "now", "status": 403, "error": "Forbidden", "message": "unknown user!", "path": path }).to_string()
}

/// Which service is meant: by two names, or by one that has both in it.
fn key(form: &Form) -> [String; 3] {
    let text = |name: &str| form.get(name).cloned().unwrap_or_default();
    let name = text("serviceName");
    let (group, name) = match name.split_once("@@") {
        Some((group, name)) => (group.to_owned(), name.to_owned()),
        None => (text("groupName"), name),
    };
    let group = if group.is_empty() { "DEFAULT_GROUP".to_owned() } else { group };
    [text("namespaceId"), group, name]
}

fn place(form: &Form) -> String {
    format!("{}:{}", form["ip"], form["port"])
}

impl<const API: u8> Registry for NacosDouble<API> {
    async fn start() -> Self {
        Self::start_locked().await
    }

    fn toml(&self) -> String {
        self.registry("")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.ids.insert(id.to_owned(), address);
        self.register_with("orders", address, &[]);
    }

    async fn withdraw(&mut self, id: &str) {
        let address = self.ids.remove(id).unwrap();
        self.forget("orders", address);
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        let metadata = json!({ "padding": "x".repeat(padding) }).to_string();
        for address in addresses {
            self.register_with("orders", address, &[("metadata", &metadata)]);
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
    }

    fn kill9(&mut self) {
        self.origin = None;
    }

    /// It has others beside it that tell it again.
    async fn restart(&mut self) {
        self.kill9();
        self.server.lock().unwrap().tokens.clear();
        self.run().await;
    }

    async fn restart_empty(&mut self) {
        self.server.lock().unwrap().services.clear();
        self.restart().await;
    }

    fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    async fn revoke(&mut self) {
        self.ask_for("another".to_owned());
    }

    async fn grant_again(&mut self) {
        self.renew_password();
    }
}
