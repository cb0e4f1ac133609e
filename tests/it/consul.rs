//! The registry `consul` with a real Consul: what it reads, and what it does not believe.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    consul::{self, Consul},
    fault_table::Registry as _,
    gateway::{Gateway, until},
    registering::Registering,
    service::{CLIENTS, becomes, endpoints, source},
    session::Session,
    tampered::Tampering,
    traffic::Traffic,
};

fn gateway(consul: &Consul, settings: &str) -> Gateway {
    with(&consul.registry(settings))
}

fn with(registry: &str) -> Gateway {
    let upstream = "[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n";
    Gateway::start(&format!("{registry}\n{upstream}\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n"))
}

async fn orders(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders").await
}

/// What is shown of an instance, wherever it stands.
async fn shown(gateway: &Gateway, backend: &Backend) -> Option<(&'static str, Value)> {
    let orders = orders(gateway).await;
    ["endpoints", "ejected", "standby"].into_iter().find_map(|place| {
        let list = orders[place].as_array()?;
        let at = |one: &&Value| one["address"] == json!(backend.address);
        Some((place, list.iter().find(at)?.clone()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_says_how_instances_stand_and_a_change_is_told_at_once() {
    let consul = Consul::start().await;
    let backends = Backend::several(5).await;
    let check = |id: &str, of: &str, status: &str| json!([{ "Node": "other", "CheckID": id, "ServiceID": of, "Status": status }]);
    let weights = json!({ "Passing": 5, "Warning": 2 });
    for (number, checks) in [
        check("c0", "c0", "passing"),
        check("c1", "c1", "warning"),
        check("c2", "c2", "critical"),
        check("_service_maintenance:c3", "c3", "critical"),
        json!([]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("c{number}");
        let more = json!({ "Checks": checks, "Weights": weights, "Tags": ["t"], "Meta": { "version": "2" } });
        consul.register_with(&id, backends[number].address, more).await;
    }
    // The default: an answer is held back for a minute.
    let gateway = gateway(&consul, "{}");
    until("all are there", || async { source(&gateway).await["instances"] == 5 }).await;
    for (number, place, weight) in [(0, "endpoints", 5), (1, "endpoints", 2), (4, "endpoints", 5)] {
        let (found, endpoint) = shown(&gateway, &backends[number]).await.unwrap();
        assert_eq!((found, &endpoint["weight"]), (place, &json!(weight)), "{endpoint}");
        assert_eq!(endpoint["labels"], json!({ "version": "2", "tag": "t" }), "{endpoint}");
    }
    let (place, endpoint) = shown(&gateway, &backends[2]).await.unwrap();
    assert_eq!((place, &endpoint["reason"]), ("ejected", &json!("unwell")), "{endpoint}");

    let since = Instant::now();
    consul.put("/v1/catalog/deregister", json!({ "Node": "other", "ServiceID": "c4" })).await;
    until("it is gone", || async { source(&gateway).await["instances"] == 4 }).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());

    let before = backends[3].requests();
    for _ in 0..50 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!(backends[3].requests(), before, "it is in maintenance");
    let asked = consul.between().seen();
    assert!(asked[0].path() == "/v1/health/service/orders", "{}", asked[0].path());
    assert!(asked[1].path().ends_with("&wait=60s"), "{}", asked[1].path());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_instances_with_the_tag_are_asked_for() {
    let consul = Consul::start().await;
    let backends = Backend::several(2).await;
    consul.register_with("a", backends[0].address, json!({ "Tags": ["blue"] })).await;
    consul.register_with("b", backends[1].address, json!({ "Tags": ["green"] })).await;
    let gateway = gateway(&consul, "{ tag = \"green\", datacenter = \"dc1\", wait_seconds = 1 }");
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "b1");
}

/// What newer servers, several servers and agents say of an answer that is not to be believed.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_consul_itself_doubts_freezes_the_list() {
    let consul = Consul::start().await;
    let backend = Backend::start("one").await;
    consul.register_with("a", backend.address, json!({})).await;
    let gateway = gateway(&consul, "{ wait_seconds = 1 }");
    endpoints(&gateway, 1).await;
    for (header, text) in [
        ("x-consul-results-filtered-by-acls: true\r\n", "left out what the token may not see"),
        ("x-consul-knownleader: false\r\n", "without a leader"),
        ("x-consul-lastcontact: 60000\r\n", "has not heard from the leader for 60s"),
    ] {
        consul.between().does(Tampering::Headers(header));
        until(text, || async {
            let failure = &source(&gateway).await["failure"];
            failure["kind"] == "suspect"
                && failure["error"].as_str().is_some_and(|error| error.contains(text))
        })
        .await;
        becomes(&gateway, "frozen").await;
        consul.between().does(Tampering::None);
        becomes(&gateway, "live").await;
    }
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// As rpcx's servers do it: a key that is held by a session, with metadata.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_rpcx_are_instances_as_long_as_their_sessions_live() {
    let consul = Consul::start().await;
    let backends = Backend::several(3).await;
    let mut sessions = Vec::new();
    for (number, backend) in backends.iter().enumerate() {
        let session = json!({ "Behavior": "delete", "TTL": "10s", "LockDelay": "1ms", "Checks": [] });
        let session: Value =
            serde_json::from_slice(&consul.put("/v1/session/create", session).await.body).unwrap();
        let session = session["ID"].as_str().unwrap().to_owned();
        let key = format!("/v1/kv/rpcx_test/orders/tcp@{}?acquire={session}", backend.address);
        consul.put_raw(&key, &format!("weight={}&group=a", number + 1)).await;
        sessions.push(session);
    }
    consul.put_raw("/v1/kv/rpcx_test/orders", "orders").await;
    consul.put_raw("/v1/kv/rpcx_test/orders2/tcp@127.0.0.1:1", "").await;
    let gateway =
        gateway(&consul, "{ layout = \"rpcx\", base = \"/rpcx_test\", group = \"a\", wait_seconds = 1 }");
    endpoints(&gateway, 3).await;
    let (_, endpoint) = shown(&gateway, &backends[2]).await.unwrap();
    assert_eq!(endpoint["weight"], 3, "{endpoint}");
    assert_eq!(
        endpoint["labels"],
        json!({ "group": "a", "network": "tcp", "protocol": "rpcx" }),
        "{endpoint}"
    );

    consul.put(&format!("/v1/session/destroy/{}", sessions[0]), Value::Null).await;
    endpoints(&gateway, 2).await;
    let key = format!("/v1/kv/rpcx_test/orders/tcp@{}", backends[1].address);
    consul.put_raw(&key, "state=inactive&group=a").await;
    until("only the last gets requests", || async {
        let before = backends[1].requests();
        for _ in 0..10 {
            assert!(gateway.get("/").await.status.is_success());
        }
        backends[1].requests() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_is_spoken_to_by_tls_with_a_certificate_of_the_gateway() {
    let consul = Consul::start_with_tls().await;
    let backend = Backend::start("one").await;
    consul.register_with("a", backend.address, json!({})).await;
    let gateway = gateway(&consul, "{ wait_seconds = 1 }");
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "one");
}

/// The leader of three is lost, then the quorum; what is left answers, and says itself that nobody leads.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_lost_one_after_the_other_cost_no_request() {
    let mut servers = Consul::three().await;
    let backends = Backend::several(3).await;
    servers[0].register_with("a", backends[0].address, json!({})).await;
    servers[0].register_with("b", backends[1].address, json!({})).await;
    let urls: Vec<_> = servers.iter().map(|server| format!("http://{}", server.between().address)).collect();
    let gateway =
        with(&consul::registry(&format!("{{ urls = {urls:?} }}"), "{ stale = true, wait_seconds = 1 }"));
    endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);

    let leader = loop {
        let mut leads = Vec::new();
        for server in &servers {
            leads.push(server.leads().await);
        }
        match leads.iter().position(|leads| *leads) {
            Some(leader) => break leader,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    servers[leader].kill9();
    let (second, last) = ((leader + 1) % 3, (leader + 2) % 3);
    servers[second].register_with("c", backends[2].address, json!({})).await;
    endpoints(&gateway, 3).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;

    servers[second].kill9();
    until("nobody leads", || async {
        let failure = source(&gateway).await["failure"].clone();
        let error = failure["error"].as_str().unwrap_or_default().to_owned();
        failure["kind"] == "suspect" && error.contains("without a leader")
    })
    .await;
    becomes(&gateway, "frozen").await;
    traffic.more(200).await;

    servers[second].restart().await;
    becomes(&gateway, "live").await;
    servers[last].withdraw("c").await;
    until("the change is heard", || async { source(&gateway).await["instances"] == 2 }).await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

/// A gateway that speaks Consul's API.
fn embedded(more: &str) -> Gateway {
    Gateway::start(&format!(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\nconsul = {{}}\n{more}\n\
         [[route]]\npath = \"/svc/{{service}}\"\nregistry = \"memory\"\n"
    ))
}

/// The embedded registry of one gateway is Consul for programs and for another gateway.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_registry_is_a_consul() {
    let backends = Backend::several(2).await;
    let server = embedded("");
    let place = server.registrations.unwrap();
    let put = |path: String, body: Value| async move {
        let request = http::Request::builder().method(Method::PUT).uri(format!("/v1/agent/{path}"));
        Session::new(place).send(request, body.to_string().into()).await.status
    };
    let register = |id: &str, number: usize, ttl: &str| {
        let address = backends[number].address;
        let check = json!({ "TTL": ttl, "Status": "passing", "DeregisterCriticalServiceAfter": "1h" });
        put(
            "service/register".to_owned(),
            json!({ "Name": "orders", "ID": id, "Address": address.ip().to_string(), "Port": address.port(),
                "Check": check }),
        )
    };
    assert_eq!(register("o0", 0, "1h").await, 200);
    until("its own routes find it", || async { server.get("/svc/orders").await.text() == "b0" }).await;
    let registry = consul::registry(&format!("{{ urls = [\"http://{place}\"] }}"), "{ wait_seconds = 30 }");
    let gateway = with(&registry);
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "b0");
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    // Nobody passes the check of this one.
    assert_eq!(register("o1", 1, "1s").await, 200);
    traffic.reaches("b1", Instant::now()).await;
    until("it is unwell", || async {
        matches!(shown(&gateway, &backends[1]).await, Some(("ejected", one)) if one["reason"] == "unwell")
    })
    .await;
    assert_eq!(put("check/update/service:o1".to_owned(), json!({ "Status": "passing" })).await, 200);
    traffic.reaches("b1", Instant::now()).await;
    assert_eq!(put("service/maintenance/o0?enable=true".to_owned(), json!(null)).await, 200);
    until("it takes no requests", || async {
        let before = backends[0].requests();
        let _ = put("check/pass/service:o1".to_owned(), json!(null)).await;
        traffic.more(50).await;
        backends[0].requests() == before
    })
    .await;
    assert_eq!(put("service/maintenance/o0?enable=false".to_owned(), json!(null)).await, 200);
    traffic.reaches("b0", Instant::now()).await;
    assert_eq!(put("service/deregister/o1".to_owned(), json!(null)).await, 200);
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
    traffic.stop().await.none_failed();

    // What is announced there is found, too.
    let address = backends[1].address.to_string();
    let flags = ["--registry", "main", "--service", "orders", "--address", &address];
    let mut registering = Registering::start(&registry, &flags, None);
    endpoints(&gateway, 2).await;
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    endpoints(&gateway, 1).await;
}

/// Consul's own program, told where the gateway is.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_of_consul_speaks_with_the_embedded_registry() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "opensesame").unwrap();
    let server = embedded(&format!("token_file = {token:?}"));
    let backend = Backend::start("one").await;
    let http = format!("-http-addr=http://{}", server.registrations.unwrap());
    let consul = |arguments: &[&str]| -> Output {
        let mut command = Command::new(Consul::program());
        command.args(arguments).env_clear().env("CONSUL_HTTP_TOKEN", "opensesame").output().unwrap()
    };
    let says = |arguments: &[&str]| {
        let Output { status, stdout, stderr } = consul(arguments);
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8_lossy(&stdout).into_owned()
    };
    let file = folder.path().join("service.json");
    let service = json!({ "service": { "name": "web", "id": "web-1", "tags": ["v1"], "meta": { "version": "2" },
        "address": "127.0.0.1", "port": backend.address.port(),
        "check": { "ttl": "60s", "status": "passing" } } });
    std::fs::write(&file, service.to_string()).unwrap();
    let said = says(&["services", "register", &http, file.to_str().unwrap()]);
    assert!(said.contains("Registered service: web"), "{said}");
    until("it is found", || async { server.get("/svc/web").await.text() == "one" }).await;
    let said = says(&["catalog", "services", "-tags", &http]);
    assert!(said.split_whitespace().collect::<Vec<_>>() == ["web", "v1"], "{said}");
    let said = says(&["catalog", "datacenters", &http]);
    assert_eq!(said.trim(), "dc1");
    says(&["maint", "-enable", "-service=web-1", "-reason=upgrade", &http]);
    let one = server.api("/api/v1/services/web/web-1").await;
    assert_eq!(
        (&one["weight"], &one["labels"]["consul.maintenance"]),
        (&json!(0), &json!("upgrade")),
        "{one}"
    );
    says(&["maint", "-disable", "-service=web-1", &http]);
    assert_eq!(server.api("/api/v1/services/web/web-1").await["weight"], 1);
    says(&["services", "deregister", &http, "-id=web-1"]);
    assert_eq!(says(&["catalog", "services", &http]).trim(), "");
    let Output { status, stderr, .. } = consul(&["catalog", "nodes", &http]);
    let said = String::from_utf8_lossy(&stderr);
    // It does not tell what is said with the status.
    assert!(!status.success() && said.contains("501"), "{said}");
}
