//! The API over real sockets, with a catalog whose one registry is fixed.

use std::{collections::BTreeMap, time::Duration};

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
    telemetry::names,
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
async fn an_order_that_makes_no_sense_is_refused_with_the_reason() {
    let api = Api::open().await;
    let check = async |order: &str, body: &str, status: u16, error: &str| {
        api.fails("POST", &format!("/api/v1/upstreams/orders/{order}"), "", body, status, error).await;
    };
    check("unpin", "", 409, "not pinned").await;
    check("rollback", r#"{ "generation": 9 }"#, 400, "generation 9 is not there yet").await;
    check("rollback", "", 400, "body: EOF").await;
    check("pin", r#"{ "generation": 9 }"#, 400, "unknown field `generation`").await;
    check("accept", "", 409, "no removal is held back").await;
    check("accept", r#"{ "source": "main" }"#, 409, "no removal is held back").await;
    check("accept", r#"{ "source": "other" }"#, 404, "no source in registry \"other\"").await;
    check("accept", r#"{ "source": 7 }"#, 400, "no source 7").await;
    check("accept", r#"{ "source": 1.5 }"#, 400, "expected the number of a source").await;
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
        "version": 0, "state": "unused", "trial_error": null, "faults": 0, "refusals": 0, "last_refusal": null,
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
    api.fails("DELETE", path, "authorization: Bearer coffee\r\n", "", 401, "token is wrong").await;
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

#[tokio::test]
async fn metrics_tell_what_was_counted() {
    let api = Api::open().await;
    let orders = api.parts.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    orders.metrics.answered(1, 200, Duration::from_millis(3));
    orders.metrics.began(0);
    orders.metrics.retried(0, Cause::Connect);
    orders.metrics.refused(1);
    orders.metrics.learned(0, Evidence::TimedOut);
    api.post("/api/v1/upstreams/orders/pin", "").await;
    api.parts.metrics.unrouted.answered(0, 404, Duration::ZERO);
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
