//! Consul's API, spoken by the embedded registry.

use super::*;

fn consul(token: Option<&str>, from: &[&str]) -> Access {
    let from = from.iter().map(|network| network.parse().unwrap()).collect();
    let token = token.map(|token| Secret(token.into()));
    let consul = ConsulSettings { from, datacenter: "dc1".to_owned() };
    Access { token, consul: Some(consul), ..Access::default() }
}

async fn open() -> Api {
    Api::start(Scope::Registrations, consul(None, &[])).await
}

/// The body of a registration with a check that nobody has passed yet.
fn service(name: &str, id: &str, ttl: &str) -> Value {
    json!({ "Name": name, "ID": id, "Address": "10.0.0.1", "Port": 8080, "Tags": ["v1", "eu"],
        "Meta": { "version": "2" }, "Check": { "TTL": ttl } })
}

const REGISTER: &str = "/v1/agent/service/register";

impl Api {
    async fn done(&self, path: &str, body: Value) {
        let answer = self.put(path, body).await;
        assert_eq!((answer.status, &*answer.body), (200, ""), "{path}");
    }

    /// Until a client waits.
    async fn waits(&self) {
        while self.parts.memory.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// The ids of those that answer so.
    async fn ids(&self, path: &str) -> Vec<String> {
        let list = self.get(path).await.json();
        let id = |one: &Value| one["Service"]["ID"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(id).collect()
    }
}

/// What a client asks with the next time.
fn index(answer: &Answer) -> u64 {
    let line = answer.head.lines().find_map(|line| line.strip_prefix("x-consul-index: "));
    line.unwrap_or_else(|| panic!("{}", answer.head)).parse().unwrap()
}

#[tokio::test]
async fn a_program_registers_passes_its_check_and_finds_others() {
    let api = open().await;
    assert_eq!(api.get("/v1/health/service/orders").await.json(), json!([]));
    api.done(REGISTER, service("orders", "o1", "60s")).await;
    assert_eq!(api.ids("/v1/health/service/orders?passing").await, [""; 0], "nobody has passed it yet");
    api.done("/v1/agent/check/pass/service:o1?note=fine", json!(null)).await;
    // One that registered otherwise is found, too.
    api.put(
        "/api/v1/services/orders/native",
        json!({ "address": "[fd00::1]:80", "weight": 3, "zone": "eu-1" }),
    )
    .await;
    assert_eq!(api.ids("/v1/health/service/orders?passing=true").await, ["native", "o1"]);
    assert_eq!(api.ids("/v1/health/service/orders?passing&tag=v1&tag=eu").await, ["o1"]);
    assert_eq!(api.ids("/v1/health/service/orders?tag=v2").await, [""; 0]);

    let found = api.get("/v1/health/service/orders").await;
    assert!(
        found.head.contains("x-consul-knownleader: true") && found.head.contains("x-consul-lastcontact: 0")
    );
    let [native, one] = [0, 1].map(|at| found.json()[at].clone());
    let service = &native["Service"];
    assert_eq!((&service["Address"], &service["Port"]), (&json!("fd00::1"), &json!(80)), "{service}");
    assert_eq!(
        (&service["Weights"]["Passing"], &service["Locality"]),
        (&json!(3), &json!({ "Zone": "eu-1" }))
    );
    assert_eq!((&one["Node"]["Node"], &one["Service"]["Service"]), (&json!("witgate"), &json!("orders")));
    assert_eq!(
        (&one["Service"]["Tags"], &one["Service"]["Meta"]),
        (&json!(["v1", "eu"]), &json!({ "version": "2" }))
    );
    let check = &one["Checks"][0];
    assert_eq!(
        (&check["CheckID"], &check["Status"], &check["Output"]),
        (&json!("service:o1"), &json!("passing"), &json!("fine"))
    );
    assert_eq!(api.get("/v1/health/checks/orders").await.json(), json!([check]));

    let catalog = api.get("/v1/catalog/service/orders").await.json();
    assert_eq!(
        (&catalog[1]["ServiceID"], &catalog[1]["ServicePort"]),
        (&json!("o1"), &json!(8080)),
        "{catalog}"
    );
    assert_eq!(api.get("/v1/catalog/services").await.json(), json!({ "orders": ["eu", "v1"] }));
    let own = api.get("/v1/agent/services").await.json();
    assert_eq!(own.as_object().unwrap().keys().collect::<Vec<_>>(), ["o1"], "what this API registered");
    assert_eq!(api.get("/v1/agent/checks").await.json()["service:o1"]["ServiceID"], "o1");
    assert_eq!(api.get("/v1/agent/service/o1").await.json()["Service"], "orders");
    assert_eq!(api.get("/v1/agent/self").await.json()["Config"]["Datacenter"], "dc1");
    assert_eq!(api.get("/v1/status/leader").await.json(), json!(api.address.to_string()));
    assert_eq!(api.get("/v1/status/peers").await.json(), json!([api.address.to_string()]));
    assert_eq!(api.get("/v1/catalog/datacenters").await.json(), json!(["dc1"]));
}

#[tokio::test]
async fn how_an_instance_stands_is_said_by_its_checks() {
    let api = open().await;
    api.done(REGISTER, service("orders", "o1", "60s")).await;
    let more = json!({ "ServiceID": "o1", "Name": "disk", "TTL": "60s", "Status": "passing" });
    api.done("/v1/agent/check/register", more).await;
    let passes = || async { !api.ids("/v1/health/service/orders?passing").await.is_empty() };
    assert!(!passes().await);
    let update = json!({ "Status": "passing", "Output": "two\nlines" });
    api.done("/v1/agent/check/update/service:o1", update).await;
    assert!(passes().await);
    for (verb, status) in [("warn", "warning"), ("fail", "critical")] {
        api.done(&format!("/v1/agent/check/{verb}/disk"), json!(null)).await;
        assert!(!passes().await, "{verb}");
        let checks = api.get("/v1/health/checks/orders").await.json();
        assert_eq!(checks[1]["Status"], status, "{checks}");
    }
    api.done("/v1/agent/check/deregister/disk", json!(null)).await;
    assert!(passes().await);
    api.done("/v1/agent/service/maintenance/o1?enable=true&reason=upgrade", json!(null)).await;
    assert_eq!(api.get("/api/v1/services/orders/o1").await.json()["weight"], 0);
    api.done(REGISTER, service("orders", "o1", "60s")).await;
    let checks = api.get("/v1/health/checks/orders").await.json();
    assert_eq!(
        (&checks[0]["Status"], &checks[1]["CheckID"], &checks[1]["Output"]),
        (&json!("passing"), &json!("_service_maintenance:o1"), &json!("upgrade")),
        "registered again it stands as before"
    );
    api.done("/v1/agent/service/maintenance/o1?enable=false", json!(null)).await;
    assert!(passes().await);
    // An id is that of one service.
    api.done(REGISTER, service("users", "o1", "60s")).await;
    assert_eq!(api.get("/v1/catalog/services").await.json(), json!({ "users": ["eu", "v1"] }));
    api.done("/v1/agent/service/deregister/o1", json!(null)).await;
    for path in ["agent/service/deregister/o1", "agent/check/pass/service:o1"] {
        let answer = api.put(&format!("/v1/{path}"), json!(null)).await;
        assert_eq!((answer.status, answer.body.starts_with("Unknown ")), (404, true), "{}", answer.body);
    }
    assert_eq!(api.get("/v1/agent/service/o1").await.body, "Unknown service ID \"o1\"");
}

#[tokio::test]
async fn an_instance_whose_check_is_not_passed_is_critical_and_leaves() {
    let api = open().await;
    let mut body = service("orders", "o1", "1s");
    body["Check"]["Status"] = json!("passing");
    body["Check"]["DeregisterCriticalServiceAfter"] = json!("1s");
    api.done(REGISTER, body).await;
    let first = api.get("/v1/health/service/orders?passing").await;
    assert_eq!(first.json().as_array().unwrap().len(), 1);
    let next = |after: &Answer| format!("/v1/health/service/orders?index={}&wait=30s", index(after));
    let critical = api.get(&next(&first)).await;
    assert_eq!(critical.json()[0]["Checks"][0]["Status"], "critical", "{}", critical.body);
    assert_eq!(critical.json()[0]["Checks"][0]["Output"], "nobody passed it within 1 s");
    let gone = api.get(&next(&critical)).await;
    assert_eq!(gone.json(), json!([]));
}

#[tokio::test]
async fn a_question_with_an_index_waits_for_a_change_of_what_it_asks() {
    let api = open().await;
    api.done(REGISTER, service("orders", "o1", "60s")).await;
    let known = index(&api.get("/v1/health/service/orders").await);
    let path = |wait: &str| format!("/v1/health/service/orders?index={known}&wait={wait}");
    // Others change meanwhile.
    let short = path("100ms");
    let (later, ()) = tokio::join!(api.get(&short), async {
        api.done(REGISTER, service("users", "u1", "60s")).await;
    });
    assert_eq!(index(&later), known, "nothing has changed there");
    let (waits, ends) = (path("60s"), path("60s"));
    let (later, ()) = tokio::join!(api.get(&waits), async {
        api.waits().await;
        api.done("/v1/agent/check/pass/service:o1", json!(null)).await;
    });
    assert!(index(&later) > known);
    assert_eq!(later.json()[0]["Checks"][0]["Status"], "passing");
    // What it knows is old, or of another time.
    for old in [known, 1, u64::MAX] {
        let path = format!("/v1/health/service/orders?index={old}&wait=60s");
        assert_eq!(index(&api.get(&path).await), index(&later));
    }
    let services = index(&api.get("/v1/catalog/services").await);
    let follows = format!("/v1/catalog/services?index={services}&wait=60s");
    let (all, ()) = tokio::join!(api.get(&follows), async {
        api.waits().await;
        api.done("/v1/agent/service/deregister/u1", json!(null)).await;
    });
    assert_eq!(all.json(), json!({ "orders": ["eu", "v1"] }));
    assert!(timeout(Duration::from_secs(30), api.get(&ends)).await.is_ok());
}

#[tokio::test]
async fn who_waits_is_answered_when_the_listener_closes() {
    let mut api = open().await;
    api.done(REGISTER, service("orders", "o1", "60s")).await;
    let known = index(&api.get("/v1/catalog/services").await);
    let address = api.address;
    let waits = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let path = format!("/v1/catalog/services?index={known}&wait=60s");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    api.waits().await;
    api.stop.take().unwrap().send(()).unwrap();
    let answer = timeout(Duration::from_secs(10), waits).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn those_who_wait_leave_room_for_those_who_do_not() {
    let api = open().await;
    let known = index(&api.get("/v1/catalog/services").await);
    let request =
        format!("GET /v1/catalog/services?index={known}&wait=60s HTTP/1.1\r\nhost: {}\r\n\r\n", api.address);
    let mut waiting = Vec::new();
    for _ in 0..waiting::MOST_WAITING {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    let follows = format!("/v1/catalog/services?index={known}&wait=1ms");
    while api.get(&follows).await.status != 503 {}
    assert_eq!(api.get("/v1/catalog/services").await.status, 200);
    waiting.truncate(1);
    while api.get(&follows).await.status != 200 {}
}

#[tokio::test]
async fn what_is_not_spoken_of_consul_is_told_and_only_those_may_who_may() {
    for (scope, access) in [(Scope::Registrations, Access::default()), (Scope::Everything, consul(None, &[]))]
    {
        let api = Api::start(scope, access).await;
        api.fails("GET", "/v1/catalog/services", "", "", 404, "nothing at").await;
    }
    let api = open().await;
    for (method, path) in [
        ("PUT", "kv/a"),
        ("PUT", "session/create"),
        ("GET", "acl/tokens"),
        ("GET", "connect/ca/roots"),
        ("PUT", "catalog/register"),
        ("GET", "agent/members"),
    ] {
        let why = format!("\"{path}\" of Consul is not spoken here; there are agent/service/register");
        api.fails(method, &format!("/v1/{path}"), "", "{}", 501, &why).await;
    }
    api.fails("POST", REGISTER, "", "{}", 405, "PUT").await;
    api.fails("PUT", REGISTER, "", "{", 400, "body: ").await;
    api.fails("PUT", REGISTER, "", "{}", 400, "Name: there is none").await;
    api.fails("PUT", REGISTER, "", &"[".repeat(10_000), 400, "body: ").await;
    api.fails("PUT", REGISTER, "", &" ".repeat(70_000), 413, "longer than").await;
    let http = json!({ "Name": "a", "Port": 1, "Check": { "HTTP": "http://10.0.0.1/", "Interval": "10s" } });
    api.fails("PUT", REGISTER, "", &http.to_string(), 400, "Check: HTTP is not checked here").await;
    let name = json!({ "Name": "a b", "Port": 1 }).to_string();
    api.fails("PUT", REGISTER, "", &name, 400, "service name \"a b\"").await;
    api.fails("PUT", REGISTER, "via: 1.1 proxy\r\n", &service("a", "a", "9s").to_string(), 403, "via").await;
    api.fails("GET", "/v1/health/service/a?filter=x", "", "", 400, "filter").await;
    api.fails("GET", "/v1/health/service/a?dc=dc2", "", "", 400, "\"dc1\" is").await;
    api.fails("PUT", "/v1/agent/service/maintenance/a?enable=1", "", "", 400, "neither true nor false").await;
    api.fails("PUT", "/v1/agent/check/update/a", "", r#"{"Status":"ok"}"#, 400, "\"ok\" is none of").await;

    let body = service("orders", "o1", "9s").to_string();
    let api = Api::start(Scope::Registrations, consul(Some("tea"), &["10.0.0.0/8"])).await;
    api.fails("PUT", REGISTER, "", &body, 401, "Authorization").await;
    api.fails("PUT", REGISTER, "x-consul-token: coffee\r\n", &body, 401, "wrong").await;
    for (query, headers) in
        [("", "x-consul-token: tea\r\n"), ("?token=tea", ""), ("", "authorization: Bearer tea\r\n")]
    {
        let answer = api.send("PUT", &format!("{REGISTER}{query}"), headers, &body).await;
        assert_eq!(answer.status, 200, "{headers}{query}: {}", answer.body);
    }
    assert_eq!(api.get("/v1/health/service/orders").await.status, 200, "reading is everybody's");
    let api = Api::start(Scope::Registrations, consul(Some("tea"), &["127.0.0.0/8"])).await;
    assert_eq!(api.send("PUT", REGISTER, "", &body).await.status, 200);
}

#[tokio::test]
async fn a_page_of_another_origin_takes_no_place_of_those_who_wait() {
    let api = open().await;
    let known = index(&api.get("/v1/catalog/services").await);
    let path = format!("/v1/catalog/services?index={known}&wait=60s");
    api.fails("GET", &path, "sec-fetch-site: cross-site\r\n", "", 403, "may not follow").await;
}
