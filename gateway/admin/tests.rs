//! The API over real sockets, with a catalog whose one registry is fixed.

mod consul;
mod nacos;

use std::{collections::BTreeMap, time::Duration};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    bindings::wit,
    catalog::{self, Control},
    config::{self, Config, Secret},
    connector::Lent,
    registry::{BoxFuture, Failure, Registry, Subscription},
    resilience::{Cause, RetryPolicy},
    telemetry::{Took, names},
    upstream::{Disk, Evidence, OfferPolicy, UpstreamName},
};

/// Every service has two instances. That of `down` is told once, after which its registry does not answer.
struct Fixed;

impl Registry for Fixed {
    fn follow<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
        let told = Told { first: true, down: service == "down" };
        Box::pin(async move { Ok(Box::new(told) as Box<dyn Subscription>) })
    }
}

struct Told {
    first: bool,
    down: bool,
}

impl Subscription for Told {
    fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
        let first = std::mem::take(&mut self.first);
        Box::pin(async move {
            match (first, self.down) {
                (true, _) => Ok(wit::News::Complete(vec![
                    endpoint("a", "127.0.0.1:1001", &[("zone", "x"), ("group", "g"), ("group", "h")]),
                    endpoint("b", "127.0.0.1:1002", &[]),
                ])),
                (false, true) => Err(Failure::Unavailable("connection refused".into())),
                (false, false) => std::future::pending().await,
            }
        })
    }
}

fn endpoint(id: &str, address: &str, labels: &[(&str, &str)]) -> wit::Endpoint {
    let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    wit::Endpoint { weight: 3, labels, ..wit::plain(id, address) }
}

struct Api {
    address: SocketAddr,
    parts: Arc<Parts>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    _control: Control,
    _state: tempfile::TempDir,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Api {
    async fn start(scope: Scope, access: Access) -> Self {
        let state = tempfile::tempdir().unwrap();
        let (catalog, control) = catalog(state.path()).await;
        let (memory, warnings) = Memory::open(state.path().join("memory.json"));
        assert_eq!(warnings, Vec::<String>::new());
        let config = Config::empty(state.path().to_owned());
        let parts = Arc::new(Parts {
            catalog,
            plugins: Plugins::start(&config, Arc::new(Lent::new(memory.clone()))).unwrap(),
            memory,
            files: Arc::default(),
            metrics: Arc::new(ProcessMetrics::new(1)),
            readiness: Readiness::default(),
            door: Door::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let saving = parts.memory.clone();
        tokio::spawn(async move { saving.run(std::future::pending()).await });
        let served = tokio::spawn(serve(listener, None, parts.clone(), scope, access, shutdown));
        Self { address, parts, stop: Some(stop), served, _control: control, _state: state }
    }

    async fn open() -> Self {
        Self::start(Scope::Everything, Access::default()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, "", body).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, "", &body.to_string()).await
    }

    /// `headers` are whole lines; `Host` is this listener's address unless they name one.
    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let host =
            if headers.contains("host: ") { String::new() } else { format!("host: {}\r\n", self.address) };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn once_down_is_frozen(&self) -> Value {
        loop {
            let upstreams = self.get("/api/v1/upstreams").await.json();
            if upstreams["upstreams"][0]["sources"][0]["origin"] == "frozen" {
                return upstreams;
            }
        }
    }

    async fn fails(&self, method: &str, path: &str, headers: &str, body: &str, status: u16, error: &str) {
        let answer = self.send(method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(text.contains(error), "{method} {path}: {text}");
    }
}

async fn catalog(state: &std::path::Path) -> (Catalog, Control) {
    let mut config = Config::empty(state.to_owned());
    config.registries = BTreeMap::from([(
        "main".to_owned(),
        Arc::new(config::Registry {
            name: "main".into(),
            plugin: "fixed".into(),
            grants: crate::connector::Grants::default(),
            settings: "{}".into(),
        }),
    )]);
    config.upstreams =
        ["down", "orders"].into_iter().map(|name| (UpstreamName::new(name), upstream(name))).collect();
    let parts = catalog::Parts {
        selector: Box::new(|_| watch::channel(None).1),
        registry: Box::new(|_| Arc::new(Fixed)),
        checks: Box::new(|_, _, _, _| tokio::spawn(async {})),
        intake: Default::default(),
        tls: Arc::default(),
        disk: Disk::new(state),
        workers: 2,
    };
    let config = Arc::new(config);
    let (catalog, control) = Catalog::start(parts, config.clone());
    control.apply(config).await;
    (catalog, control)
}

fn upstream(name: &str) -> Arc<config::Upstream> {
    Arc::new(config::Upstream {
        name: UpstreamName::new(name),
        sources: vec![config::Source { registry: "main".into(), service: name.into() }],
        labels: vec![],
        selector: config::Selector { plugin: "p2c-ewma".into(), settings: r#"{"a":1}"#.into() },
        timeouts: config::Timeouts {
            connect: Duration::from_secs(1),
            response: Some(Duration::from_secs(1)),
            idle: None,
            request: None,
            write: Duration::from_secs(1),
        },
        tls: None,
        proxy_protocol: None,
        protocol: config::Protocol::Auto,
        pool: config::Pool { idle_timeout: Duration::from_secs(1), max_idle: 1, max_http2_connections: 1 },
        retries: RetryPolicy::default(),
        leave: None,
        breaker: None,
        limits: None,
        reliability: config::Reliability::default(),
        offer: OfferPolicy::default(),
    })
}

#[tokio::test]
async fn readiness_follows_the_gateway_and_health_does_not() {
    let api = Api::open().await;
    let check = async |status: u16, text: &str| {
        let answer = api.get("/readyz").await;
        assert_eq!((answer.status, answer.json()), (status, json!({ "status": text })));
        assert_eq!(api.get("/healthz").await.json(), json!({ "status": "ok" }));
    };
    check(503, "starting").await;
    api.parts.readiness.ready();
    check(200, "ready").await;
    api.parts.readiness.draining();
    check(503, "draining").await;
}

#[tokio::test]
async fn the_dashboard_is_served_without_a_token_and_with_a_strict_policy() {
    let secret = |text: &str| Some(Secret(text.to_owned()));
    let access = Access { token: secret("tea"), read_token: secret("milk"), ..Access::default() };
    let api = Api::start(Scope::Everything, access).await;
    for (path, kind, begins) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/dashboard/app.js", "text/javascript; charset=utf-8", "//"),
        ("/dashboard/layout.css", "text/css; charset=utf-8", "/*"),
        ("/dashboard/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.starts_with(begins), "{path}");
        for header in [
            &format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-cache",
        ] {
            assert!(
                answer.head.lines().any(|line| line == header),
                "{path}: no {header:?} in {}",
                answer.head
            );
        }
        let tag = answer.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let again = api.send("GET", path, &format!("if-none-match: {tag}\r\n"), "").await;
        assert_eq!((again.status, &*again.body), (304, ""), "{path}");
    }
    api.fails("POST", "/", "", "", 405, "POST is not for this path").await;
    api.fails("GET", "/dashboard/none.js", "", "", 404, "nothing at").await;
    api.fails("GET", "/api/v1/overview", "", "", 401, "reading needs").await;
    api.fails("GET", "/", "host: evil.example\r\n", "", 421, "add the host to `hosts`").await;

    let registrations = Api::start(Scope::Registrations, Access::default()).await;
    for path in ["/", "/dashboard/app.js", "/api/v1/overview", "/api/v1/listeners", "/api/v1/configuration"] {
        registrations.fails("GET", path, "", "", 404, "nothing at").await;
    }
}

#[tokio::test]
async fn the_overview_says_how_everything_stands_the_worst_first() {
    let api = Api::open().await;
    api.once_down_is_frozen().await;
    api.parts.readiness.ready();
    let all = api.get("/api/v1/overview").await.json();
    let names: Vec<_> = all["services"].as_array().unwrap().iter().map(|of| of["name"].clone()).collect();
    assert_eq!(names, ["down", "orders"]);
    let (down, orders) = (&all["services"][0], &all["services"][1]);
    assert_eq!((&down["state"], &orders["state"]), (&json!("degraded"), &json!("ok")));
    assert!(down["reasons"][0].as_str().unwrap().contains("it is silent"), "{down}");
    assert_eq!(
        (&orders["routable"], &orders["total"], &orders["reasons"]),
        (&json!(2), &json!(2), &json!([]))
    );
    assert_eq!(orders["retry_budget"], json!({ "left": 10, "all": 10 }));
    assert_eq!(orders["sources"][0]["origin"], "live");
    let registry = &all["registries"][0];
    assert_eq!(
        (&registry["name"], &registry["word"], &registry["lists"], &registry["live"]),
        (&json!("main"), &json!("silent"), &json!(2), &json!(1))
    );
    let text = all["verdict"]["text"].as_str().unwrap();
    assert!(text.starts_with("all 2 services served; fixed main silent for "), "{text}");
    assert_eq!(all["changes"].as_array().unwrap().len(), 2);
    assert_eq!(all["changes"][0]["added"]["count"], 2);
    // Rates are there as soon as it was looked at twice.
    assert_eq!(orders["requests_per_second"], json!(null));
    let upstream = api.parts.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    (0..10).for_each(|_| upstream.metrics.answered(0, 200, Took::of(Duration::from_millis(2))));
    upstream.metrics.answered(1, 503, Took::of(Duration::from_millis(2)));
    let lately = loop {
        let orders = api.get("/api/v1/upstreams/orders").await.json()["standing"].clone();
        if orders["requests_per_second"] != json!(null) {
            break orders;
        }
        tokio::task::yield_now().await;
    };
    assert!(
        lately["requests_per_second"].as_f64() > Some(1.0) && lately["success"].as_f64() < Some(0.95),
        "{lately}"
    );
}

#[tokio::test]
async fn a_document_can_be_followed_and_ends_with_the_listener() {
    let mut api = Api::open().await;
    let follow = "accept: text/event-stream\r\n";
    api.fails("GET", "/api/v1/upstreams/nobody", follow, "", 404, "no upstream").await;
    let foreign = format!("{follow}sec-fetch-site: cross-site\r\n");
    api.fails("GET", "/api/v1/overview", &foreign, "", 403, "may not").await;
    let request = format!("GET /api/v1/upstreams/orders HTTP/1.1\r\nhost: localhost\r\n{follow}\r\n");
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    let mut until = async |text: &str| {
        let mut buffer = [0; 4096];
        while !read.contains(text) {
            let count = timeout(Duration::from_secs(30), stream.read(&mut buffer)).await.unwrap().unwrap();
            assert!(count > 0, "it ended: {read}");
            read.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    until("content-type: text/event-stream").await;
    until("data: {\"name\":\"orders\"").await;
    assert_eq!(api.post("/api/v1/upstreams/orders/pin", "").await.status, 200);
    until("\"cause\":\"pinned\"").await;
    drop(api.stop.take());
    until("\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn an_upstream_is_shown_with_its_endpoints_sources_and_history() {
    let api = Api::open().await;
    let upstream = api.get("/api/v1/upstreams/orders").await.json();
    assert_eq!(upstream["name"], "orders");
    assert_eq!(upstream["found"], false);
    assert_eq!(upstream["generation"], 1);
    assert_eq!(upstream["endpoint_count"], 2);
    assert_eq!(upstream["selector"], json!({ "plugin": "p2c-ewma", "settings": { "a": 1 } }));
    let source = &upstream["sources"][0];
    assert_eq!((&source["registry"], &source["service"]), (&json!("main"), &json!("orders")));
    assert_eq!(
        (&source["origin"], &source["instances"], &source["failure"]),
        (&json!("live"), &json!(2), &json!(null))
    );
    assert!(source["age_seconds"].as_f64().unwrap() < 60.0, "{source}");
    let endpoint =
        upstream["endpoints"].as_array().unwrap().iter().find(|of| of["address"] == "127.0.0.1:1001");
    let endpoint = endpoint.unwrap();
    assert_eq!(endpoint["labels"], json!({ "group": ["g", "h"], "zone": "x" }));
    assert_eq!(
        (&endpoint["weight"], &endpoint["requests"], &endpoint["latency_ms"]),
        (&json!(3), &json!(0), &json!(null))
    );
    assert_eq!((&endpoint["source"], &endpoint["connections"]), (&json!(0), &json!(0)));
    assert_eq!(upstream["workers"], json!(vec![json!({ "generation": 0, "selector_version": 0 }); 2]));
    let history = &upstream["history"][0];
    assert_eq!((&history["generation"], &history["registry"]), (&json!(1), &json!("main")));
    assert_eq!(history["added"]["count"], 2);
    assert!(history["at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn a_list_is_pinned_rolled_back_and_let_go() {
    let api = Api::open().await;
    let orders = "/api/v1/upstreams/orders";
    let pinned = api.post(&format!("{orders}/pin"), "").await;
    assert_eq!(pinned.status, 200, "{}", pinned.body);
    let pinned = pinned.json();
    assert_eq!(pinned["pinned"]["endpoints"], 2);
    let latest = &pinned["history"][0];
    assert_eq!((&latest["cause"], &latest["registry"]), (&json!("pinned"), &json!(null)));

    let empty = api.post(&format!("{orders}/rollback"), r#"{ "generation": 0 }"#).await.json();
    assert_eq!((&empty["endpoint_count"], &empty["pinned"]["endpoints"]), (&json!(0), &json!(0)));
    assert_eq!(empty["history"][0]["rolled_back_to"], 0);

    let followed = api.post(&format!("{orders}/unpin"), "{}").await.json();
    assert_eq!((&followed["pinned"], &followed["endpoint_count"]), (&json!(null), &json!(2)));
    assert_eq!(api.get(orders).await.json()["pinned"], json!(null));
}

#[tokio::test]
async fn an_endpoint_is_drained_and_let_go() {
    let api = Api::open().await;
    let orders = "/api/v1/upstreams/orders";
    let body = r#"{ "addresses": ["127.0.0.1:1001"] }"#;
    let drained = api.post(&format!("{orders}/drain"), body).await;
    assert_eq!(drained.status, 200, "{}", drained.body);
    let drained = drained.json();
    assert_eq!((&drained["endpoint_count"], &drained["draining_count"]), (&json!(1), &json!(1)));
    let draining = &drained["draining"][0];
    assert_eq!((&draining["address"], &draining["in_flight"]), (&json!("127.0.0.1:1001"), &json!(0)));
    assert!(draining["since"].as_str().unwrap().ends_with('Z'));
    assert_eq!(drained["standby"][0]["state"], "ready", "as its registry says");
    let latest = &drained["history"][0];
    assert_eq!((&latest["cause"], &latest["updated"]["count"]), (&json!("drained"), &json!(1)));

    let served = api.post(&format!("{orders}/undrain"), body).await.json();
    assert_eq!((&served["endpoint_count"], &served["draining"]), (&json!(2), &json!([])));
    assert_eq!(served["history"][0]["cause"], "undrained");
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_with_the_reason() {
    let api = Api::open().await;
    let check = async |order: &str, body: &str, status: u16, error: &str| {
        api.fails("POST", &format!("/api/v1/upstreams/orders/{order}"), "", body, status, error).await;
    };
    check("unpin", "", 409, "upstream orders: it is not pinned").await;
    check("rollback", r#"{ "generation": 9 }"#, 400, "upstream orders: generation 9 is not there yet").await;
    check("rollback", "", 400, "body: EOF").await;
    check("pin", r#"{ "generation": 9 }"#, 400, "unknown field `generation`").await;
    check("accept", "", 409, "upstream orders: no removal is held back").await;
    check("accept", r#"{ "source": "main" }"#, 409, "no removal is held back").await;
    check("accept", r#"{ "source": "other" }"#, 404, "no source in registry \"other\"").await;
    check("accept", r#"{ "source": 7 }"#, 400, "upstream orders: it has no source 7").await;
    check("accept", r#"{ "source": 1.5 }"#, 400, "expected the number of a source").await;
    check("drain", "", 400, "body: EOF").await;
    check("drain", r#"{ "addresses": [] }"#, 400, "addresses names no endpoint").await;
    let host = r#"{ "addresses": ["127.0.0.1:1001", "a.example:1"] }"#;
    check("drain", host, 400, r#"addresses[1] is "a.example:1", and no IP address with a port"#).await;
    let other = r#"{ "addresses": ["127.0.0.1:1001", "127.0.0.1:9"] }"#;
    check("drain", other, 404, r#"no endpoint "127.0.0.1:9""#).await;
    let serving = r#"{ "addresses": ["127.0.0.1:1001"] }"#;
    check("undrain", serving, 409, "endpoint 127.0.0.1:1001 does not drain by an order").await;
    api.fails("POST", "/api/v1/upstreams/none/drain", "", serving, 404, "no upstream \"none\"").await;
    api.fails("POST", "/api/v1/upstreams/none/pin", "", "", 404, "no upstream \"none\"").await;
    api.fails("GET", "/api/v1/upstreams/orders/pin", "", "", 405, "allowed: POST").await;

    let access = Access { token: Some(Secret("tea".into())), ..Access::default() };
    let api = Api::start(Scope::Everything, access).await;
    api.fails("POST", "/api/v1/upstreams/orders/pin", "", "", 401, "Authorization: Bearer").await;
    let given = api.send("POST", "/api/v1/upstreams/orders/pin", "authorization: Bearer tea\r\n", "").await;
    assert_eq!(given.status, 200, "{}", given.body);
}

#[tokio::test]
async fn the_failure_of_a_registry_is_shown() {
    let api = Api::open().await;
    let upstreams = api.once_down_is_frozen().await;
    let down = &upstreams["upstreams"][0];
    assert_eq!((&down["name"], &down["endpoint_count"]), (&json!("down"), &json!(2)));
    let failure = &down["sources"][0]["failure"];
    assert_eq!(failure["kind"], "unavailable");
    assert!(failure["error"].as_str().unwrap().contains("connection refused"), "{failure}");
    assert!(down["sources"][0]["age_seconds"].is_number());
    assert_eq!(upstreams["upstreams"][1]["name"], "orders");
    api.fails("GET", "/api/v1/upstreams/none", "", "", 404, "no upstream \"none\"").await;
}

#[tokio::test]
async fn shipped_plugins_are_shown_before_anything_uses_them() {
    let api = Api::open().await;
    let plugins = api.get("/api/v1/plugins").await.json();
    let found = plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == "p2c-ewma");
    let expected = json!({
        "name": "p2c-ewma", "kind": null, "origin": null, "file": null, "digest": null, "loaded_at": null,
        "compile_ms": null, "pick_ns": null, "memory": null, "upstreams": 2, "registries": [],
        "version": 0, "state": "unused", "trial_error": null, "faults": 0, "last_fault": null, "refusals": 0,
        "last_refusal": null,
    });
    assert_eq!(found, Some(&expected));
    assert_eq!(api.get("/api/v1/plugins/p2c-ewma").await.json(), expected);
    api.fails("GET", "/api/v1/plugins/none", "", "", 404, "no plugin \"none\"").await;
}

#[tokio::test]
async fn a_service_registers_renews_and_leaves() {
    let api = Api::open().await;
    let path = "/api/v1/services/hello/one";
    let body =
        json!({ "address": "127.0.0.1:7001", "weight": 2, "labels": { "zone": "x" }, "ttl_seconds": 60 });
    let first = api.put(path, body.clone()).await;
    assert_eq!(first.status, 201, "{}", first.body);
    assert_eq!(api.put(path, body.clone()).await.status, 200);

    let mut shown = api.get(path).await.json();
    let expires = shown.as_object_mut().unwrap().remove("expires_in_seconds").unwrap();
    assert!((1..=60).contains(&expires.as_u64().unwrap()));
    assert_eq!(shown["id"], "one");
    shown.as_object_mut().unwrap().remove("id");
    assert_eq!(shown, body);
    assert_eq!(
        api.get("/api/v1/services").await.json(),
        json!({ "services": [{ "service": "hello", "instances": 1 }] })
    );
    assert_eq!(api.get("/api/v1/services/hello").await.json()["instances"][0]["id"], "one");

    for _ in 0..2 {
        let answer = api.send("DELETE", path, "", "").await;
        assert_eq!((answer.status, &*answer.body), (204, ""));
    }
    api.fails("GET", path, "", "", 404, "no instance \"hello/one\"").await;
    assert_eq!(api.get("/api/v1/services/hello").await.json()["instances"], json!([]));
}

#[tokio::test]
async fn a_wrong_registration_is_refused_with_the_reason() {
    let api = Api::open().await;
    let path = "/api/v1/services/hello/one";
    let check = async |body: &str, error: &str| api.fails("PUT", path, "", body, 400, error).await;
    check("", "body: EOF").await;
    check("{}", "missing field `address`").await;
    check(r#"{ "address": "nowhere" }"#, "address \"nowhere\"").await;
    check(r#"{ "address": "a:1", "weight": -1 }"#, "invalid value: integer `-1`").await;
    check(r#"{ "address": "a:1", "ttl": 5 }"#, "unknown field `ttl`").await;
    api.fails(
        "PUT",
        "/api/v1/services/a%20b/one",
        "",
        r#"{ "address": "a:1" }"#,
        400,
        "service name \"a b\"",
    )
    .await;
    api.fails("PUT", path, "", &" ".repeat(65 * 1024), 413, "longer than 65536 bytes").await;
    assert_eq!(api.get("/api/v1/services").await.json(), json!({ "services": [] }));
}

#[tokio::test]
async fn changes_need_the_token_and_reading_does_not() {
    let access = Access { token: Some(Secret("tea".into())), ..Access::default() };
    let api = Api::start(Scope::Everything, access).await;
    let (path, body) = ("/api/v1/services/hello/one", r#"{ "address": "127.0.0.1:1" }"#);
    api.fails("PUT", path, "", body, 401, "Authorization: Bearer").await;
    api.fails(
        "DELETE",
        path,
        "authorization: Bearer coffee\r\n",
        "",
        401,
        "token is wrong: the right one is in the file that `token_file` names",
    )
    .await;
    assert!(api.send("PUT", path, "", body).await.head.contains("www-authenticate: bearer"));
    assert_eq!(api.send("PUT", path, "authorization: Bearer tea\r\n", body).await.status, 201);
    assert_eq!(api.get(path).await.status, 200);
}

#[tokio::test]
async fn pages_of_other_origins_are_turned_away() {
    let api = Api::open().await;
    let (path, body) = ("/api/v1/services/hello/one", r#"{ "address": "127.0.0.1:1" }"#);
    api.fails("PUT", path, "origin: https://example.com\r\n", body, 403, "https://example.com").await;
    api.fails("GET", "/healthz", "host: example.com\r\n", "", 421, "host \"example.com\"").await;
    let own = format!("origin: http://{}\r\n", api.address);
    assert_eq!(api.send("PUT", path, &own, body).await.status, 201);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let api = Api::open().await;
    api.fails("GET", "/nothing", "", "", 404, "nothing at \"/nothing\"").await;
    api.fails("POST", "/healthz", "", "", 405, "POST").await;
    let answer = api.send("POST", "/api/v1/services/a/b", "", "").await;
    assert!(answer.status == 405 && answer.head.contains("allow: get, head, put, delete"), "{}", answer.head);
}

#[tokio::test]
async fn the_listener_for_registrations_serves_nothing_else() {
    let api = Api::start(Scope::Registrations, Access::default()).await;
    assert_eq!(api.put("/api/v1/services/a/b", json!({ "address": "a:1" })).await.status, 201);
    assert_eq!(api.get("/healthz").await.status, 200);
    for path in ["/metrics", "/readyz", "/api/v1/upstreams"] {
        assert_eq!(api.get(path).await.status, 404, "{path}");
    }
}

fn discovery(token: Option<&str>, from: &[&str]) -> Access {
    let from = from.iter().map(|network| network.parse().unwrap()).collect();
    let token = token.map(|token| Secret(token.into()));
    Access { token, discovery: Some(Discovery { env: "prod".into(), from }), ..Access::default() }
}

/// A call of the API of service_discovery, as its clients make it.
async fn call(api: &Api, call: &str, body: Value) -> Value {
    let answer = api.post(&format!("/api/{call}"), &body.to_string()).await;
    assert_eq!(answer.status, 200, "{call} {body}: {}", answer.body);
    answer.json()
}

fn instance(hostname: &str, status: u32) -> Value {
    json!({ "env": "prod", "appid": "orders", "hostname": hostname, "status": status, "version": "2",
        "addrs": ["http://10.0.0.1:80/x", "grpc://10.0.0.1:81"], "latest_timestamp": 7 })
}

#[tokio::test]
async fn a_program_written_for_service_discovery_registers_and_finds_others() {
    let api = Api::start(Scope::Registrations, discovery(None, &[])).await;
    let fetch = |status: u32| json!({ "env": "prod", "appid": "orders", "status": status });
    assert_eq!(call(&api, "fetch", fetch(1)).await["code"], 404);
    assert_eq!(call(&api, "register", instance("h1", 1)).await["code"], 200);
    let stands = api.get("/api/v1/services/orders/h1").await.json();
    assert_eq!((&stands["address"], &stands["weight"]), (&json!("10.0.0.1:80"), &json!(1)), "{stands}");
    assert_eq!(stands["ttl_seconds"], 90, "{stands}");
    assert_eq!((&stands["labels"]["protocol"], &stands["labels"]["version"]), (&json!("http"), &json!("2")));

    let found = call(&api, "fetch", fetch(1)).await;
    let one = &found["data"]["instances"][0];
    for (name, value) in
        instance("h1", 1).as_object().unwrap().iter().filter(|(name, _)| *name != "latest_timestamp")
    {
        assert_eq!(&one[name], value, "{one}");
    }
    assert!(one["renew_timestamp"].as_i64().is_some_and(|at| at > 0), "{one}");

    // Out of traffic, it is found by those who ask for such.
    assert_eq!(call(&api, "register", instance("h1", 2)).await["code"], 200);
    assert_eq!(api.get("/api/v1/services/orders/h1").await.json()["weight"], 0);
    assert_eq!(call(&api, "fetch", fetch(1)).await["code"], 404);
    assert_eq!(call(&api, "fetch", fetch(3)).await["data"]["instances"][0]["status"], 2);
    assert_eq!(call(&api, "renew", instance("h1", 0)).await["code"], 200);
    assert_eq!(call(&api, "renew", instance("h2", 0)).await["code"], 404);

    // One that registered otherwise.
    api.put("/api/v1/services/orders/native", json!({ "address": "10.0.0.2:80" })).await;
    assert_eq!(
        call(&api, "fetch", fetch(1)).await["data"]["instances"][0]["addrs"],
        json!(["tcp://10.0.0.2:80"])
    );

    assert_eq!(call(&api, "cancel", instance("h1", 0)).await["code"], 200);
    assert_eq!(call(&api, "cancel", instance("h1", 0)).await["code"], 404);
    let nodes = call(&api, "nodes", json!({ "env": "prod" })).await;
    let node = &nodes["data"]["instances"][0];
    assert_eq!(node["addrs"], json!([format!("http://{}", api.address)]), "{nodes}");
    assert_eq!(node["appid"], "Kavin.discovery");
}

#[tokio::test]
async fn what_service_discovery_would_not_take_is_refused_by_its_code() {
    let api = Api::start(Scope::Registrations, discovery(None, &[])).await;
    let with = |name: &str, value: Value| {
        let mut body = instance("h1", 1);
        body[name] = value;
        body
    };
    for (body, why) in [
        (with("env", json!("dev")), "env \"dev\" is not served here"),
        (with("status", json!(0)), "status 0 is neither 1 nor 2"),
        (with("addrs", json!([])), "addrs: there is none"),
        (with("addrs", json!(["http://nowhere"])), "must be `host:port`"),
        (with("hostname", json!("")), "instance id"),
        (with("appid", json!("a b")), "service name"),
        (json!(7), "body: "),
    ] {
        let answer = call(&api, "register", body).await;
        assert_eq!(answer["code"], 400, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    let elsewhere = json!({ "env": "dev", "appid": "orders", "status": 3 });
    assert_eq!(call(&api, "fetch", elsewhere).await["code"], 404);
    assert_eq!(call(&api, "fetch", json!({ "env": "prod", "appid": "orders" })).await["code"], 404);
}

#[tokio::test]
async fn the_api_of_service_discovery_is_where_it_is_switched_on_for_those_who_may() {
    for (scope, access) in
        [(Scope::Registrations, Access::default()), (Scope::Everything, discovery(None, &[]))]
    {
        let api = Api::start(scope, access).await;
        api.fails("POST", "/api/fetch", "", "{}", 404, "nothing at").await;
    }
    let body = instance("h1", 1).to_string();
    let api = Api::start(Scope::Registrations, discovery(Some("tea"), &["10.0.0.0/8"])).await;
    api.fails("POST", "/api/register", "", &body, 401, "Authorization").await;
    let bearer = "authorization: Bearer tea\r\n";
    assert_eq!(api.send("POST", "/api/register", bearer, &body).await.json()["code"], 200);
    // Reading is everybody's.
    assert_eq!(api.post("/api/fetch", &body).await.json()["code"], 200);

    let api = Api::start(Scope::Registrations, discovery(Some("tea"), &["127.0.0.0/8"])).await;
    assert_eq!(api.post("/api/register", &body).await.json()["code"], 200);
    let native = json!({ "address": "a:1" }).to_string();
    api.fails("PUT", "/api/v1/services/orders/b", "", &native, 401, "Authorization").await;
    api.fails("GET", "/api/fetch", "", "", 405, "POST").await;
    api.fails("POST", "/api/register", "origin: https://example.com\r\n", &body, 403, "https://example.com")
        .await;
    api.fails("POST", "/api/register", "via: 1.1 proxy\r\n", &body, 403, "via").await;
}

fn eureka(token: Option<&str>, from: &[&str]) -> Access {
    let from = from.iter().map(|network| network.parse().unwrap()).collect();
    let token = token.map(|token| Secret(token.into()));
    Access { token, eureka: Some(EurekaSettings { from }), ..Access::default() }
}

const JSON: &str = "content-type: application/json\r\n";

/// The body of a registration as Eureka's client makes it.
fn eureka_instance(id: &str, status: &str) -> String {
    json!({ "instance": { "instanceId": id, "hostName": "h1.example", "app": "ORDERS", "ipAddr": "10.0.0.1",
        "status": status, "port": { "$": 8080, "@enabled": "true" }, "securePort": { "$": 443, "@enabled": "false" },
        "vipAddress": "orders", "secureVipAddress": "orders", "leaseInfo": { "durationInSecs": 60 },
        "metadata": { "version": "2" } } })
    .to_string()
}

#[tokio::test]
async fn a_program_with_eurekas_client_registers_and_finds_others() {
    let api = Api::start(Scope::Registrations, eureka(None, &[])).await;
    let apps = api.get("/eureka/apps/").await.json();
    assert_eq!(
        apps,
        json!({ "applications": { "versions__delta": "0", "apps__hashcode": "", "application": [] } })
    );
    assert_eq!(api.get("/eureka/apps/ORDERS").await.status, 404);
    let registered = api.send("POST", "/eureka/apps/ORDERS", JSON, &eureka_instance("h1", "UP")).await;
    assert_eq!(registered.status, 204, "{}", registered.body);
    let stands = api.get("/api/v1/services/orders/h1").await.json();
    assert_eq!(
        (&stands["address"], &stands["ttl_seconds"]),
        (&json!("10.0.0.1:8080"), &json!(60)),
        "{stands}"
    );
    // One that registered otherwise is found, too, and both in any case.
    api.put("/api/v1/services/orders/native", json!({ "address": "10.0.0.2:80", "weight": 2 })).await;
    let orders = api.get("/eureka/apps/Orders").await.json();
    let ids = |answer: &Value| {
        let list = answer["application"]["instance"].as_array().unwrap();
        list.iter().map(|one| one["instanceId"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids(&orders), &orders["application"]["name"]),
        (vec![json!("h1"), json!("native")], &json!("ORDERS"))
    );
    let native = &orders["application"]["instance"][1];
    assert_eq!(
        (&native["hostName"], &native["metadata"]["weight"]),
        (&json!("10.0.0.2"), &json!("2")),
        "{native}"
    );
    for path in ["/eureka/vips/orders", "/eureka/svips/ORDERS", "/eureka/v2/apps"] {
        let found = api.get(path).await.json();
        assert_eq!(
            found["applications"]["application"][0]["instance"].as_array().unwrap().len(),
            2,
            "{path}"
        );
    }
    for path in ["/eureka/instances/h1", "/eureka/apps/orders/h1"] {
        assert_eq!(api.get(path).await.json()["instance"]["metadata"], json!({ "version": "2" }), "{path}");
    }

    let status = "/eureka/apps/ORDERS/h1/status";
    assert_eq!(api.put(&format!("{status}?value=OUT_OF_SERVICE"), json!(null)).await.status, 200);
    assert_eq!(api.get("/api/v1/services/orders/h1").await.json()["weight"], 0);
    let again = api.send("POST", "/eureka/apps/ORDERS", JSON, &eureka_instance("h1", "UP")).await;
    assert_eq!(again.status, 204);
    assert_eq!(api.get("/api/v1/services/orders/h1").await.json()["weight"], 0, "it stays so");
    let delta = api.get("/eureka/apps/delta").await.json();
    assert_eq!(delta["applications"]["apps__hashcode"], "OUT_OF_SERVICE_1_UP_1_", "{delta}");
    assert_eq!(api.send("DELETE", &format!("{status}?value=UP"), "", "").await.status, 200);
    assert_eq!(api.get("/api/v1/services/orders/h1").await.json()["weight"], 1);
    assert_eq!(api.put("/eureka/apps/ORDERS/h1/metadata?build=7", json!(null)).await.status, 200);
    assert_eq!(api.get("/eureka/apps/orders/h1").await.json()["instance"]["metadata"]["build"], "7");

    assert_eq!(
        api.put("/eureka/apps/ORDERS/h1?status=UP&lastDirtyTimestamp=1", json!(null)).await.status,
        200
    );
    assert_eq!(api.send("DELETE", "/eureka/apps/ORDERS/h1", "", "").await.status, 200);
    assert_eq!(api.send("DELETE", "/eureka/apps/ORDERS/h1", "", "").await.status, 404);
    assert_eq!(api.put("/eureka/apps/ORDERS/h1", json!(null)).await.status, 404, "it is to register again");
    let delta = api.get("/eureka/apps/delta").await.json();
    let told = delta["applications"]["application"][0]["instance"].as_array().unwrap();
    assert_eq!(
        (&told.last().unwrap()["actionType"], &told.last().unwrap()["instanceId"]),
        (&json!("DELETED"), &json!("h1"))
    );
    assert_eq!(delta["applications"]["apps__hashcode"], "UP_1_", "{delta}");
}

#[tokio::test]
async fn what_is_not_spoken_of_eureka_is_told_and_only_those_may_who_may() {
    for (scope, access) in [(Scope::Registrations, Access::default()), (Scope::Everything, eureka(None, &[]))]
    {
        let api = Api::start(scope, access).await;
        api.fails("GET", "/eureka/apps", "", "", 404, "nothing at").await;
    }
    let api = Api::start(Scope::Registrations, eureka(None, &[])).await;
    api.fails("POST", "/eureka/peerreplication/batch/", "", "{}", 501, "there are apps, apps/delta").await;
    api.fails("GET", "/eureka/lastn", "", "", 501, "\"lastn\" of Eureka is not spoken").await;
    let xml = "content-type: application/xml\r\n";
    api.fails("POST", "/eureka/apps/ORDERS", xml, "<instance/>", 400, "application/json is").await;
    api.fails("POST", "/eureka/apps/ORDERS", JSON, "{}", 400, "missing field `instance`").await;
    let nowhere = json!({ "instance": { "port": { "$": 80, "@enabled": "true" } } }).to_string();
    api.fails("POST", "/eureka/apps/ORDERS", JSON, &nowhere, 400, "neither ipAddr nor hostName").await;
    api.fails("POST", "/eureka/apps", JSON, "{}", 405, "GET, HEAD").await;

    let body = eureka_instance("h1", "UP");
    let api = Api::start(Scope::Registrations, eureka(Some("tea"), &["10.0.0.0/8"])).await;
    api.fails("POST", "/eureka/apps/ORDERS", JSON, &body, 401, "Authorization").await;
    // anybody:tea
    for credential in ["Bearer tea", "Basic YW55Ym9keTp0ZWE="] {
        let headers = format!("{JSON}authorization: {credential}\r\n");
        assert_eq!(
            api.send("POST", "/eureka/apps/ORDERS", &headers, &body).await.status,
            204,
            "{credential}"
        );
    }
    assert_eq!(api.get("/eureka/apps").await.status, 200, "reading is everybody's");
    let api = Api::start(Scope::Registrations, eureka(Some("tea"), &["127.0.0.0/8"])).await;
    assert_eq!(api.send("POST", "/eureka/apps/ORDERS", JSON, &body).await.status, 204);
    let through = format!("{JSON}via: 1.1 proxy\r\n");
    api.fails("POST", "/eureka/apps/ORDERS", &through, &body, 403, "via").await;
}

#[tokio::test]
async fn metrics_tell_what_was_counted() {
    let api = Api::open().await;
    let orders = api.parts.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    orders.metrics.answered(1, 200, Took::of(Duration::from_millis(3)));
    orders.metrics.began(0);
    orders.metrics.retried(0, Cause::Connect);
    orders.metrics.refused(1);
    orders.metrics.learned(0, Evidence::TimedOut);
    api.post("/api/v1/upstreams/orders/pin", "").await;
    api.parts.metrics.unrouted.answered(0, 404, Took::of(Duration::ZERO));
    let _open = api.parts.metrics.listener(&"web".into()).accepted();
    api.put("/api/v1/services/a/b", json!({ "address": "a:1" })).await;

    api.once_down_is_frozen().await;
    let answer = api.get("/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    for line in [
        r#"witgate_requests_total{upstream="orders",code="2xx"} 1"#,
        r#"witgate_requests_total{upstream="orders",code="5xx"} 0"#,
        r#"witgate_request_duration_seconds_bucket{le="0.0025",upstream="orders"} 0"#,
        r#"witgate_request_duration_seconds_bucket{le="0.005",upstream="orders"} 1"#,
        r#"witgate_request_duration_seconds_bucket{le="+Inf",upstream="orders"} 1"#,
        r#"witgate_request_duration_seconds_count{upstream="orders"} 1"#,
        r#"witgate_tries_total{upstream="orders"} 2"#,
        r#"witgate_retries_total{upstream="orders",cause="connect"} 1"#,
        r#"witgate_retries_total{upstream="orders",cause="stale"} 0"#,
        r#"witgate_retries_refused_total{upstream="orders"} 1"#,
        r#"witgate_unrouted_requests_total{code="4xx"} 1"#,
        r#"witgate_endpoints{upstream="orders"} 2"#,
        r#"witgate_source_info{upstream="down",registry="main",service="down",origin="frozen"} 1"#,
        r#"witgate_source_failing{upstream="down",registry="main",service="down"} 1"#,
        r#"witgate_source_instances{upstream="orders",registry="main",service="orders"} 2"#,
        r#"witgate_endpoint_failures_total{upstream="orders",kind="timeout"} 1"#,
        r#"witgate_ejected_endpoints{upstream="orders",reason="checks"} 0"#,
        r#"witgate_panic{upstream="orders"} 0"#,
        r#"witgate_pinned{upstream="orders"} 1"#,
        r#"witgate_unsaved{upstream="orders"} 0"#,
        r#"witgate_source_age_seconds{upstream="orders",registry="main",service="orders"} 0.0"#,
        r#"witgate_source_stale{upstream="down",registry="main",service="down"} 0"#,
        r#"witgate_reserve_endpoints{upstream="orders",registry="main",service="orders"} 0"#,
        r#"witgate_reserve_offered{upstream="orders",registry="main",service="orders"} 0"#,
        r#"witgate_plugin_quarantined{plugin="p2c-ewma"} 0"#,
        r#"witgate_registered_instances 1"#,
        r#"witgate_connections{listener="web"} 1"#,
        r#"witgate_config_reloads_total{result="applied"} 0"#,
        r#"witgate_ready 0"#,
    ] {
        assert!(answer.body.lines().any(|found| found == line), "no {line} in\n{}", answer.body);
    }
    for metric in names::ALL {
        assert!(answer.body.contains(&format!("# TYPE {} ", metric.name)), "{} is not exposed", metric.name);
    }
    assert!(!answer.body.contains("# EOF"));
}

#[tokio::test]
async fn a_scraper_that_likes_openmetrics_gets_it() {
    let api = Api::open().await;
    let accept =
        "accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3\r\n";
    let answer = api.send("GET", "/metrics", accept, "").await;
    assert!(
        answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    assert!(answer.head.contains("vary: accept"), "{}", answer.head);
    for metric in names::ALL {
        let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        assert!(answer.body.contains(&format!("# TYPE {family} ")), "{} is not exposed", metric.name);
    }
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn after_shutdown_idle_connections_end_and_new_ones_are_refused() {
    let mut api = Api::open().await;
    let mut idle = TcpStream::connect(api.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    idle.read_exact(&mut byte).await.unwrap();

    api.stop.take().unwrap().send(()).unwrap();
    timeout(Duration::from_secs(10), &mut api.served).await.unwrap().unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
async fn who_has_connected_before_a_shutdown_and_speaks_after_it_has_an_answer() {
    const ASKS: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut api = Api::open().await;
    let mut silent = TcpStream::connect(api.address).await.unwrap();
    // It comes after the other, and is closed as soon as connections hear of the shutdown.
    let mut idle = TcpStream::connect(api.address).await.unwrap();
    idle.write_all(ASKS).await.unwrap();
    assert_eq!(idle.read_u8().await.unwrap(), b'H');
    api.stop.take().unwrap().send(()).unwrap();
    timeout(Duration::from_secs(10), idle.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    silent.write_all(ASKS).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(10), silent.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    timeout(Duration::from_secs(10), &mut api.served).await.unwrap().unwrap();
}

/// Browsers connect before they have anything to ask.
#[tokio::test]
async fn who_says_nothing_does_not_hold_up_a_shutdown_for_as_long_as_an_answer() {
    let mut api = Api::open().await;
    let mut silent = TcpStream::connect(api.address).await.unwrap();
    // It comes after the other, which is served by the time that this has its answer.
    assert_eq!(api.get("/healthz").await.status, 200);
    // Nothing but time ends the other one.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    api.stop.take().unwrap().send(()).unwrap();
    (&mut api.served).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn who_asks_again_and_again_is_told_of_rates_though_the_last_who_followed_has_left() {
    let api = Api::open().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin::new(&listener, false, api.parts.clone(), Scope::Everything, Access::default());
    let admin = Arc::new(admin);
    let rate = async || {
        let head = hyper::Request::get("/api/v1/overview").body(()).unwrap().into_parts().0;
        let answer = admin.clone().show(Resource::Overview, head).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&body).unwrap()["services"][0]["requests_per_second"].clone()
    };
    assert_eq!(rate().await, json!(null));
    drop(admin.overview.watch());
    // What is counted within half a second is counted once.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(rate().await, json!(0.0));
}

/// The same with TLS, where nobody has begun to shake hands.
#[tokio::test]
async fn who_has_not_begun_to_shake_hands_does_not_hold_up_a_shutdown_for_as_long_as_an_answer() {
    let (api, folder) = (Api::open().await, tempfile::tempdir().unwrap());
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, identity.cert.pem()).unwrap();
    std::fs::write(&key, identity.signing_key.serialize_pem()).unwrap();
    let certificates = vec![tls::PairFiles { certificate, key }];
    let settings = tls::ServerSettings { certificates, clients: None, ticket_keys: None };
    let tls = tls::Server::open(&settings, tls::Protocol::Http1, &api.parts.files).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (parts, access) = (api.parts.clone(), Access::default());
    let shutdown = async { drop(stopped.await) };
    let served =
        tokio::spawn(serve(listener, Some(Arc::new(tls)), parts, Scope::Everything, access, shutdown));
    let mut silent = TcpStream::connect(address).await.unwrap();
    // It comes after the other, and is refused.
    let mut other = TcpStream::connect(address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // With or without an alert, and reset where not all that it said was read.
    let _ = timeout(Duration::from_secs(10), other.read_to_end(&mut Vec::new())).await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    drop(stop);
    served.await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
}
