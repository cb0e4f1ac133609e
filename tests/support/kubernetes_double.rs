//! A double of an API server of Kubernetes, for one test: it lists and watches EndpointSlices and Endpoints, page by page
//! and with bookmarks, as the real one does that `./dev peers` runs the same tests with. What is written is written by
//! the test itself.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    fault_table::Registry,
    kubernetes::{NAMESPACE, in_slices, registry, slice},
    origin::{Origin, Seen, read_request},
    tampered::{Tampered, Tampering},
};

/// Gone when the value is dropped.
pub struct KubernetesDouble {
    server: Arc<Server>,
    /// None while it is not running.
    origin: Option<Origin>,
    folder: TempDir,
    token: Option<String>,
    /// Stands between the gateway and the server.
    between: Tampered,
}

struct Server {
    held: Mutex<Held>,
    /// The version of the last change.
    version: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
    /// How often all watches fell silent for ever.
    silenced: watch::Sender<u64>,
}

/// What it holds, by kind, namespace and name.
#[derive(Default)]
struct Held {
    objects: BTreeMap<(Kind, String, String), Value>,
    changes: Vec<Change>,
    /// Changes of this version and before are forgotten.
    forgotten: u64,
    expiry: Expiry,
    /// What is asked for of every client.
    token: Option<String>,
    forbidden: bool,
    pages_expire: bool,
    /// It is of an age when there were no slices.
    old: bool,
}

struct Change {
    version: u64,
    kind: Kind,
    what: &'static str,
    object: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Slices,
    Endpoints,
}

/// How a server says that it does not know a version any more.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Expiry {
    /// By an event, as most do.
    #[default]
    Event,
    /// By a status.
    Status,
    /// By the reason of an event alone.
    Reason,
    /// It ends at once, and says nothing.
    Empty,
    /// As one that lags behind another does, by a status.
    TooLarge,
}

/// A request, taken apart.
struct Asked {
    kind: Kind,
    namespace: String,
    /// Of the service.
    name: String,
    query: BTreeMap<String, String>,
}

impl KubernetesDouble {
    /// Asks nobody for a token.
    pub async fn start() -> Self {
        let server = Server {
            held: Mutex::default(),
            version: watch::channel(1).0,
            frozen: watch::channel(false).0,
            silenced: watch::channel(0).0,
        };
        let mut double = Self {
            server: Arc::new(server),
            origin: None,
            folder: tempfile::tempdir().unwrap(),
            token: None,
            between: Tampered::start().await,
        };
        double.run().await;
        double
    }

    async fn run(&mut self) {
        let server = self.server.clone();
        let origin = Origin::connected(move |stream, connection, _| {
            let server = server.clone();
            async move {
                // An error is the end of the connection.
                let _ = server.serve(stream, connection).await;
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

    /// The table of a registry that asks it.
    pub fn registry(&self, settings: &str) -> String {
        let token = self.token.as_ref().map(|_| format!(", token_file = {:?}", self.token_file()));
        registry(&self.url(), &token.unwrap_or_default(), settings)
    }

    /// Writes an object, in place of one with the same name.
    pub fn put(&self, kind: Kind, name: &str, object: Value) {
        self.put_in(NAMESPACE, kind, name, object);
    }

    /// The same in another namespace than that of tests.
    pub fn put_in(&self, namespace: &str, kind: Kind, name: &str, object: Value) {
        self.server.put(kind, namespace, name, object);
    }

    pub fn remove(&self, kind: Kind, name: &str) {
        self.server.remove(kind, NAMESPACE, name);
    }

    /// It says so from now on that it does not know a version.
    pub fn says(&self, expiry: Expiry) {
        self.server.held.lock().unwrap().expiry = expiry;
    }

    /// Forgets all changes until now, and ends all watches.
    pub async fn compact(&mut self) {
        {
            let mut held = self.server.held.lock().unwrap();
            held.changes.clear();
            // A version that nobody has seen, as after changes of others.
            let version = *self.server.version.borrow() + 1;
            self.server.version.send_replace(version);
            held.forgotten = version;
        }
        self.origin = None;
        self.run().await;
    }

    /// The watches that there are now say nothing more, as over connections of which one end is gone.
    pub fn silence(&self) {
        self.server.silenced.send_modify(|times| *times += 1);
    }

    /// It says of every page but the first, from now on, that it comes too late.
    pub fn forgets_pages(&self) {
        self.server.held.lock().unwrap().pages_expire = true;
    }

    /// It has no slices from now on, only Endpoints.
    pub fn is_old(&self) {
        self.server.held.lock().unwrap().old = true;
    }

    /// The gateway may do nothing from now on.
    pub fn forbids(&self, forbidden: bool) {
        self.server.held.lock().unwrap().forbidden = forbidden;
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Asks for a token that the gateway finds in its file.
    fn renew_token(&mut self) {
        let token = format!("{:x}", fastrand::u64(..));
        fs::write(self.token_file(), &token).unwrap();
        self.server.held.lock().unwrap().token = Some(token.clone());
        self.token = Some(token);
    }
}

impl Server {
    fn put(&self, kind: Kind, namespace: &str, name: &str, mut object: Value) {
        let mut held = self.held.lock().unwrap();
        let version = *self.version.borrow() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["name"] = json!(name);
        let key = (kind, namespace.to_owned(), name.to_owned());
        let what = if held.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        held.changes.push(Change { version, kind, what, object });
        self.version.send_replace(version);
    }

    fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        let mut held = self.held.lock().unwrap();
        let version = *self.version.borrow() + 1;
        let Some(mut object) = held.objects.remove(&(kind, namespace.to_owned(), name.to_owned())) else {
            return;
        };
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        held.changes.push(Change { version, kind, what: "DELETED", object });
        self.version.send_replace(version);
    }

    async fn serve(&self, mut stream: TcpStream, connection: usize) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
            self.thawed().await;
            let told = match Asked::read(&request) {
                Ok(asked) => match self.answer(&request, &asked) {
                    None => self.tell(&mut stream, &asked).await,
                    Some((status, body)) => send(&mut stream, status, &body).await,
                },
                Err((status, body)) => send(&mut stream, status, &body).await,
            };
            told?;
            if request.header("connection") == Some("close") {
                return stream.shutdown().await;
            }
        }
        Ok(())
    }

    async fn thawed(&self) {
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// None: it is a watch.
    fn answer(&self, request: &Seen, asked: &Asked) -> Option<(u16, Value)> {
        let held = self.held.lock().unwrap();
        let expected = held.token.as_ref().map(|token| format!("Bearer {token}"));
        if expected.is_some() && request.header("authorization") != expected.as_deref() {
            return Some(status(401, "Unauthorized", "Unauthorized"));
        }
        if held.forbidden {
            let text = "endpointslices.discovery.k8s.io is forbidden: User \"gateway\" cannot list it";
            return Some(status(403, "Forbidden", text));
        }
        if held.old && asked.kind == Kind::Slices {
            return Some((404, json!("404 page not found")));
        }
        let version = *self.version.borrow();
        if !asked.query.contains_key("watch") {
            return Some(held.page(asked, version).map_or_else(|refused| refused, |page| (200, page)));
        }
        let from: u64 = asked.query["resourceVersion"].parse().unwrap();
        match (from < held.forgotten || from > version, held.expiry) {
            (true, Expiry::Status) => Some(status(410, "Expired", "too old resource version")),
            (true, Expiry::TooLarge) => Some(status(504, "Timeout", "Too large resource version")),
            _ => None,
        }
    }

    /// Answers a watch until its time is over.
    async fn tell(&self, stream: &mut TcpStream, asked: &Asked) -> std::io::Result<()> {
        let mut silenced = self.silenced.subscribe();
        tokio::select! {
            told = self.tell_all(stream, asked) => told,
            _ = silenced.changed() => std::future::pending().await,
        }
    }

    async fn tell_all(&self, stream: &mut TcpStream, asked: &Asked) -> std::io::Result<()> {
        let seconds = asked.query["timeoutSeconds"].parse().unwrap();
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut from: u64 = asked.query["resourceVersion"].parse().unwrap();
        let mut version = self.version.subscribe();
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await?;
        let told = |what: &str, object: &Value| json!({ "type": what, "object": object }).to_string() + "\n";
        loop {
            let (mut lines, expired) = (Vec::new(), self.expired(from));
            if let Some(object) = expired.clone() {
                lines.extend(object.map(|object| told("ERROR", &object)));
            }
            {
                let held = self.held.lock().unwrap();
                let new = held.changes.iter().filter(|change| change.version > from && expired.is_none());
                let ours = new.filter(|change| change.kind == asked.kind && asked.is(&change.object));
                lines.extend(ours.map(|change| told(change.what, &change.object)));
                from = *version.borrow_and_update();
            }
            for line in lines {
                self.thawed().await;
                // In two parts, since nobody says that a line is one.
                for part in [&line[..line.len() / 2], &line[line.len() / 2..]] {
                    stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await?;
                }
            }
            if expired.is_some() {
                return stream.write_all(b"0\r\n\r\n").await;
            }
            if timeout_at(until, version.changed()).await.is_err() {
                break;
            }
        }
        self.thawed().await;
        let object =
            json!({ "kind": asked.kind.name(), "metadata": { "resourceVersion": from.to_string() } });
        let line = told("BOOKMARK", &object);
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
        stream.write_all(b"0\r\n\r\n").await
    }

    /// Whether a version is not known any more, and the object that says so, if anything does.
    fn expired(&self, from: u64) -> Option<Option<Value>> {
        let held = self.held.lock().unwrap();
        if from >= held.forgotten && from <= *self.version.borrow() {
            return None;
        }
        let code = if held.expiry == Expiry::Reason { 500 } else { 410 };
        let said = status(code, "Expired", "too old resource version").1;
        Some((held.expiry != Expiry::Empty).then_some(said))
    }
}

impl Held {
    fn page(&self, asked: &Asked, version: u64) -> Result<Value, (u16, Value)> {
        // The place in the list, and the version that it was begun with.
        let (mut at, mut of) = (0, version);
        if let Some(token) = asked.query.get("continue") {
            let (place, began) = token.split_once('@').unwrap();
            (at, of) = (place.parse().unwrap(), began.parse().unwrap());
            if of < self.forgotten || self.pages_expire {
                return Err(status(410, "Expired", "The provided continue parameter is too old"));
            }
        }
        let all = self.objects.iter().filter(|((kind, namespace, _), object)| {
            *kind == asked.kind && *namespace == asked.namespace && asked.is(object)
        });
        let all: Vec<&Value> = all.map(|(_, object)| object).collect();
        let limit = asked.query.get("limit").map_or(all.len(), |limit| limit.parse().unwrap());
        let items: Vec<&Value> = all.iter().skip(at).take(limit).copied().collect();
        let mut metadata = json!({ "resourceVersion": of.to_string() });
        if at + items.len() < all.len() {
            metadata["continue"] = json!(format!("{}@{of}", at + items.len()));
        }
        Ok(json!({ "kind": format!("{}List", asked.kind.name()), "metadata": metadata, "items": items }))
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Slices => "EndpointSlice",
            Self::Endpoints => "Endpoints",
        }
    }
}

impl Asked {
    /// The error is the answer to what is nothing of it.
    fn read(request: &Seen) -> Result<Self, (u16, Value)> {
        let missing = || (404, json!("404 page not found"));
        let (path, query) = request.path().split_once('?').ok_or_else(missing)?;
        let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes())
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let (kind, namespace, selector, before) = match parts[..] {
            ["apis", "discovery.k8s.io", "v1", "namespaces", namespace, "endpointslices"] => {
                (Kind::Slices, namespace, "labelSelector", "kubernetes.io/service-name=")
            }
            ["api", "v1", "namespaces", namespace, "endpoints"] => {
                (Kind::Endpoints, namespace, "fieldSelector", "metadata.name=")
            }
            _ => return Err(missing()),
        };
        let name = query[selector].strip_prefix(before).unwrap().to_owned();
        Ok(Self { kind, namespace: namespace.to_owned(), name, query })
    }

    /// Whether an object is one of the service.
    fn is(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        match self.kind {
            Kind::Slices => metadata["labels"]["kubernetes.io/service-name"] == self.name.as_str(),
            Kind::Endpoints => metadata["name"] == self.name.as_str(),
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code });
    (code, body)
}

async fn send(stream: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    // What it does not know is answered in plain words.
    let (kind, text) = match body {
        Value::String(text) => ("text/plain; charset=utf-8", text.clone()),
        body => ("application/json", body.to_string()),
    };
    let head =
        format!("HTTP/1.1 {status} Some\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await
}

impl Registry for KubernetesDouble {
    async fn start() -> Self {
        let mut double = Self::start().await;
        double.renew_token();
        double
    }

    fn toml(&self) -> String {
        self.registry("{ namespace = \"shop\", watch_seconds = 1 }")
    }

    async fn register(&mut self, id: &str, address: SocketAddr) {
        self.put(Kind::Slices, id, slice("orders", &[address], json!({})));
    }

    async fn withdraw(&mut self, id: &str) {
        self.remove(Kind::Slices, id);
    }

    async fn register_many(&mut self, addresses: Vec<SocketAddr>, padding: usize) {
        // In more slices than a page has.
        for (number, some) in in_slices(addresses, 10).iter().enumerate() {
            let more =
                json!({ "metadata": { "annotations": { "padding": "x".repeat(padding * some.len()) } } });
            self.put(Kind::Slices, &format!("many-{number}"), slice("orders", some, more));
        }
    }

    fn tamper(&self, tampering: Tampering) {
        self.between.does(tampering);
    }

    fn kill9(&mut self) {
        self.origin = None;
    }

    async fn restart(&mut self) {
        self.run().await;
    }

    /// Another etcd, which counts from the beginning again.
    async fn restart_empty(&mut self) {
        self.origin = None;
        {
            let mut held = self.server.held.lock().unwrap();
            *held = Held { token: held.token.take(), ..Held::default() };
            self.server.version.send_replace(1);
        }
        self.run().await;
    }

    fn freeze(&self) {
        self.server.frozen.send_replace(true);
    }

    fn thaw(&self) {
        self.server.frozen.send_replace(false);
    }

    async fn revoke(&mut self) {
        self.server.held.lock().unwrap().token = Some("another".to_owned());
    }

    async fn grant_again(&mut self) {
        self.renew_token();
    }
}
