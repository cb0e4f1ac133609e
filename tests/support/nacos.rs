//! What programs say to a server of Nacos, whichever it is, and how the gateway is told of one.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use http::{Method, Request};
use serde_json::{Value, json};

use super::session::{Answer, Session};

/// Who the gateway is.
pub const USER: &str = "gateway";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A client that has logged in, or has not.
pub struct Client {
    session: Session,
    token: Option<String>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { session: Session::new(address), token: None }
    }

    /// An error says why it is nobody there.
    pub async fn log_in(address: SocketAddr, password: &str) -> Result<Self, Error> {
        let form = [("username", USER), ("password", password)];
        let answer = Self::new(address).ask(Method::POST, "/v1/auth/login", &form).await?;
        let body: Value = serde_json::from_slice(&answer.body).map_err(|_| answer.text())?;
        let token = body["accessToken"].as_str().ok_or(answer.text())?;
        Ok(Self::with_token(address, token))
    }

    pub fn with_token(address: SocketAddr, token: &str) -> Self {
        Self { session: Session::new(address), token: Some(token.to_owned()) }
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Parameters of a `GET` are in the query, others in a form.
    pub async fn ask(&mut self, method: Method, path: &str, form: &[(&str, &str)]) -> Result<Answer, Error> {
        let form = escaped(form);
        let (query, body) = match method {
            Method::GET => (format!("?{form}"), String::new()),
            _ => (String::new(), form),
        };
        let mut request = Request::builder().method(method).uri(format!("/nacos{path}{query}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        if let Some(token) = &self.token {
            request = request.header("accessToken", token);
        }
        self.session.try_send(request, body.into()).await
    }

    /// What it must do, by version 1.
    pub async fn tell(&mut self, method: Method, path: &str, form: &[(&str, &str)]) {
        let answer = self.ask(method.clone(), path, form).await.unwrap();
        assert!(answer.status.is_success(), "{method} {path} {form:?}: {} {}", answer.status, answer.text());
    }

    /// Registers an instance of a service, with whatever else is to be said of it.
    pub async fn register(&mut self, service: &str, address: SocketAddr, more: &[(&str, &str)]) {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let form = [("serviceName", service), ("ip", &ip), ("port", &port), ("ephemeral", "true")];
        self.tell(Method::POST, "/v1/ns/instance", &[&form, more].concat()).await;
    }

    pub async fn deregister(&mut self, service: &str, address: SocketAddr) {
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let form = [("serviceName", service), ("ip", &ip), ("port", &port), ("ephemeral", "true")];
        self.tell(Method::DELETE, "/v1/ns/instance", &form).await;
    }

    /// All instances of a service in their order.
    pub async fn list(&mut self, service: &str) -> Vec<Value> {
        let form = [("serviceName", service), ("healthyOnly", "false")];
        let answer = self.ask(Method::GET, "/v1/ns/instance/list", &form).await.unwrap();
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
        sort(&mut body);
        body["hosts"].as_array().unwrap().clone()
    }
}

pub fn escaped(form: &[(&str, &str)]) -> String {
    let escape = |text: &str| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let parts: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    parts.join("&")
}

/// The other way round.
pub fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(plain).unwrap()
}

fn sort(body: &mut Value) {
    if let Some(hosts) = body.get_mut("hosts").and_then(Value::as_array_mut) {
        hosts.sort_by_key(|host| host["port"].as_u64());
    }
}

/// The table of a registry that asks these servers, and logs in with the password in a file if there is one.
pub fn registry(servers: &[SocketAddr], api: &str, password_file: Option<&Path>, settings: &str) -> String {
    let urls: Vec<_> = servers.iter().map(|address| format!("http://{address}/nacos")).collect();
    let login = match api {
        "v1" => "/v1/auth/login",
        _ => "/v3/auth/user/login",
    };
    let login = password_file.map_or(String::new(), |file| {
        format!("login = {{ url = {login:?}, user = {USER:?}, password_file = {file:?} }}\n")
    });
    format!(
        "[registry.main]\nplugin = \"nacos\"\nsettings = {{ api = {api:?}, poll_seconds = 1{settings} }}\n\n\
         [registry.main.http]\nurls = {urls:?}\n{login}\n"
    )
}

/// What a server says to what the gateway and its clients say, one answer in each line. What is different each time has a
/// star in its place.
pub async fn conversation(address: SocketAddr, password: &str) -> String {
    const SERVICE: (&str, &str) = ("serviceName", "DEFAULT_GROUP@@orders");
    const LIST: (&str, &[(&str, &str)]) = ("/v1/ns/instance/list", &[SERVICE, ("healthyOnly", "false")]);
    let of = |port: &'static str, cluster: &'static str| {
        vec![SERVICE, ("ip", "127.0.0.1"), ("port", port), ("clusterName", cluster), ("ephemeral", "true")]
    };
    let beat = |port: u16, cluster: &str| {
        json!({ "serviceName": "DEFAULT_GROUP@@orders", "ip": "127.0.0.1", "port": port, "cluster": cluster,
            "weight": 0.5, "metadata": { "version": "2" }, "scheduled": true })
        .to_string()
    };
    let (one, two) = (beat(8001, "DEFAULT"), beat(8002, "EU"));
    let more = [("weight", "0.5"), ("enabled", "true"), ("metadata", "{\"version\":\"2\"}")];
    let put = Method::PUT;
    let steps = [
        (Method::GET, LIST.0, LIST.1.to_vec()),
        (Method::POST, "/v1/ns/instance", [of("8001", "DEFAULT"), more.to_vec()].concat()),
        (Method::GET, LIST.0, LIST.1.to_vec()),
        (put.clone(), "/v1/ns/instance/beat", [of("8001", "DEFAULT"), vec![("beat", &*one)]].concat()),
        (put.clone(), "/v1/ns/instance/beat", [of("8002", "EU"), vec![("beat", &*two)]].concat()),
        (Method::GET, LIST.0, LIST.1.to_vec()),
        (Method::DELETE, "/v1/ns/instance", of("8002", "EU")),
        (Method::DELETE, "/v1/ns/instance", of("8009", "EU")),
        (Method::GET, LIST.0, LIST.1.to_vec()),
        (put, "/v1/ns/instance", [of("8001", "DEFAULT"), vec![("enabled", "false")]].concat()),
        (Method::GET, LIST.0, LIST.1.to_vec()),
        (Method::GET, LIST.0, vec![("healthyOnly", "false")]),
        (Method::GET, "/v3/client/ns/instance/list", vec![("serviceName", "orders")]),
    ];
    let mut client = Client::new(address);
    let mut said = String::new();
    let mut note = |method: &Method, path: &str, form: &[(&str, &str)], answer: Answer| {
        let form = escaped(form).replace(password, "*");
        let text = masked(&answer.text());
        said += &format!("{method} {path} {form}\n  {} {text}\n", answer.status.as_u16());
    };
    let wrong = [("username", USER), ("password", "wrong")];
    let right = [("username", USER), ("password", password)];
    for (method, path, form) in [
        (Method::GET, LIST.0, LIST.1),
        (Method::POST, "/v1/auth/login", &wrong[..]),
        (Method::POST, "/v1/auth/login", &right[..]),
    ] {
        let answer = client.ask(method.clone(), path, form).await.unwrap();
        note(&method, path, form, answer);
    }
    client.token = Client::log_in(address, password).await.unwrap().token;
    for (method, path, form) in steps {
        let answer = client.ask(method.clone(), path, &form).await.unwrap();
        note(&method, path, &form, answer);
    }
    said
}

/// Sorted, with nothing in it that is different each time.
fn masked(text: &str) -> String {
    let Ok(mut body) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    sort(&mut body);
    for name in ["accessToken", "lastRefTime", "checksum", "timestamp"] {
        if let Some(value) = body.get_mut(name) {
            *value = json!("*");
        }
    }
    in_order(&body).to_string()
}

/// Objects sorted by their names.
fn in_order(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<_, _> = object.iter().map(|(name, value)| (name, in_order(value))).collect();
            json!(sorted)
        }
        Value::Array(list) => list.iter().map(in_order).collect(),
        value => value.clone(),
    }
}

/// What rnacos said to it.
pub const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/nacos.conversation");
