//! The registry `eureka` with real servers: what it reads, and what it makes of servers that know less than they should.

use std::{net::SocketAddr, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    eureka::{self, Eureka},
    fault_table::Registry as _,
    gateway::{Gateway, until},
    registering::Registering,
    service::{CLIENTS, becomes, endpoints, source},
    session::Session,
    tampered::Tampering,
    traffic::Traffic,
};

const IMPATIENT: &str = "{ poll_seconds = 1 }";

/// A gateway that finds `orders` by this registry.
fn gateway(registry: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = \"Orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ))
}

/// A table with several servers.
fn several(servers: &[&Eureka]) -> String {
    let urls: Vec<_> = servers.iter().map(|eureka| eureka.url()).collect();
    format!("[registry.main]\nplugin = \"eureka\"\nhttp = {{ urls = {urls:?} }}\nsettings = {IMPATIENT}\n")
}

/// Waits until the list is frozen for this reason.
async fn fails(gateway: &Gateway, kind: &str, text: &str) {
    until(text, || async {
        let failure = &source(gateway).await["failure"];
        failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
    becomes(gateway, "frozen").await;
}

/// What the server was asked for.
fn asked(eureka: &Eureka) -> Vec<String> {
    eureka.between().seen().iter().map(|seen| seen.line().to_owned()).collect()
}

async fn secured(eureka: &mut Eureka, id: &str, address: SocketAddr) {
    let more = json!({ "port": { "$": 80, "@enabled": "false" },
        "securePort": { "$": address.port(), "@enabled": "true" }, "metadata": { "zone": "a", "version": "2" } });
    eureka.register_with(id, address, more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_how_instances_stand() {
    let mut eureka = Eureka::start().await;
    let backends = Backend::several(6).await;
    for (number, status) in ["UP", "DOWN", "STARTING", "UP", "UP", "UP"].into_iter().enumerate() {
        let metadata = json!({ "zone": "a", "version": "2", "weight": "3" });
        let more = json!({ "status": status, "metadata": metadata });
        eureka.register_with(&format!("h{number}"), backends[number].address, more).await;
    }
    eureka.tell(Method::PUT, "/apps/ORDERS/h3/status?value=OUT_OF_SERVICE").await;
    let gateway = gateway(&eureka.registry(IMPATIENT));
    until("all are there", || async { source(&gateway).await["instances"] == 6 }).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    let shown = orders["endpoints"].as_array().unwrap();
    let shown = shown.iter().find(|one| one["address"] == json!(backends[0].address)).unwrap();
    assert_eq!(shown["labels"], json!({ "version": "2", "zone": "a" }), "{shown}");
    assert_eq!((&shown["hostname"], &shown["zone"]), (&json!("h0.example"), &json!("a")), "{shown}");
    assert_eq!(shown["weight"], 3, "{shown}");
    let ejected = orders["ejected"].as_array().unwrap();
    assert!(ejected.len() == 2 && ejected.iter().all(|one| one["reason"] == "unwell"), "{orders}");
    for _ in 0..30 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!([1, 2, 3].map(|number| backends[number].requests()), [0, 0, 0]);

    // What has been said of it is taken back, and it comes up.
    eureka.tell(Method::DELETE, "/apps/ORDERS/h3/status?value=UP").await;
    eureka.tell(Method::PUT, "/apps/ORDERS/h1/status?value=UP").await;
    until("they get requests", || async {
        assert!(gateway.get("/").await.status.is_success());
        backends[3].requests() > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_whole_list_it_is_changes_that_are_asked_for() {
    let mut eureka = Eureka::start().await;
    let backends = Backend::several(3).await;
    eureka.register("h0", backends[0].address).await;
    let gateway = gateway(&eureka.registry(IMPATIENT));
    endpoints(&gateway, 1).await;
    eureka.register("h1", backends[1].address).await;
    endpoints(&gateway, 2).await;
    eureka.withdraw("h0").await;
    endpoints(&gateway, 1).await;
    until("the other one answers", || async { gateway.get("/").await.text() == "b1" }).await;
    let asked = asked(&eureka);
    let whole = asked.iter().filter(|line| line.starts_with("GET /eureka/apps/ORDERS "));
    assert_eq!(whole.count(), 1, "{asked:?}");
    assert!(asked.len() > 3 && asked[0] == "GET /eureka/apps/delta HTTP/1.1", "{asked:?}");

    // Changes that do not come to the numbers: the whole list is asked for.
    eureka.between().does(Tampering::Instead(
        "content-type: application/json\r\n",
        r#"{"applications":{"versions__delta":"9","apps__hashcode":"UP_7_","application":[]}}"#,
    ));
    until("it is asked for", || async {
        let whole = self::asked(&eureka);
        whole.iter().filter(|line| line.starts_with("GET /eureka/apps/ORDERS ")).count() > 1
    })
    .await;
    eureka.between().does(Tampering::None);
    becomes(&gateway, "live").await;
    endpoints(&gateway, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_at_their_secure_ports_if_that_is_wanted() {
    let mut eureka = Eureka::start().await;
    let backend = Backend::start("one").await;
    secured(&mut eureka, "h0", backend.address).await;
    eureka.register("plain", "127.0.0.1:9".parse().unwrap()).await;
    let gateway = gateway(&eureka.registry("{ poll_seconds = 1, secure = true }"));
    endpoints(&gateway, 1).await;
    let source = source(&gateway).await;
    let left_out = source["left_out"].to_string();
    assert!(left_out.contains("127.0.0.1, securePort is not enabled"), "{source}");
    let endpoint = &gateway.api("/api/v1/upstreams/orders").await["endpoints"][0];
    assert_eq!(endpoint["address"], json!(backend.address), "{endpoint}");
}

/// A server that has just started and knows only who has registered since.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_missing_without_a_word_is_kept_until_its_lease_is_over() {
    let (mut old, mut new) = (Eureka::start().await, Eureka::start().await);
    let backends = Backend::several(3).await;
    let lease = json!({ "leaseInfo": { "renewalIntervalInSecs": 3, "durationInSecs": 9 } });
    for number in [0, 1] {
        old.register_with(&format!("h{number}"), backends[number].address, lease.clone()).await;
    }
    let gateway = gateway(&old.registry(IMPATIENT));
    endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    old.between().to(new.address());
    fails(&gateway, "suspect", "knows nothing of 2 instances, h0 among them").await;
    assert_eq!(source(&gateway).await["instances"], 2);
    // Those that come are there at once.
    new.register_with("h1", backends[1].address, lease.clone()).await;
    new.register_with("h2", backends[2].address, lease).await;
    endpoints(&gateway, 3).await;
    fails(&gateway, "suspect", "knows nothing of 1 instances, h0 among them").await;
    endpoints(&gateway, 2).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_lost_one_after_the_other_cost_no_request() {
    let [mut one, mut other] = Eureka::two().await;
    let backends = Backend::several(3).await;
    one.register("h0", backends[0].address).await;
    until("the other one has heard of it", || async { other.instances("ORDERS").await.len() == 1 }).await;
    let gateway = gateway(&several(&[&one, &other]));
    endpoints(&gateway, 1).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    // One hangs, whichever it is that was asked, and the other one answers.
    one.freeze();
    other.register("h1", backends[1].address).await;
    endpoints(&gateway, 2).await;
    becomes(&gateway, "live").await;
    one.thaw();
    until("that is heard of", || async { one.instances("ORDERS").await.len() == 2 }).await;
    other.kill9();
    one.register("h2", backends[2].address).await;
    endpoints(&gateway, 3).await;
    becomes(&gateway, "live").await;
    traffic.more(100).await;
    one.kill9();
    fails(&gateway, "unavailable", "; ").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_warms_up_is_asked_again() {
    let mut eureka = Eureka::start_with(&[
        "eureka.server.use-read-only-response-cache=false",
        "eureka.server.wait-time-in-ms-when-sync-empty=12000",
        // Spring Cloud counts one instance where there is none, and so does not wait unless it is told to count none.
        "eureka.instance.registry.default-open-for-traffic-count=0",
    ])
    .await;
    let backend = Backend::start("one").await;
    eureka.register("h0", backend.address).await;
    let gateway = gateway(&eureka.registry(IMPATIENT));
    until("it says why it knows nothing", || async {
        let failure = &source(&gateway).await["failure"];
        failure["kind"] == "unavailable" && failure.to_string().contains("answered 403")
    })
    .await;
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_of_no_changes_is_asked_for_the_whole_list() {
    let mut eureka = Eureka::start_with(&[
        "eureka.server.response-cache-update-interval-ms=500",
        "eureka.server.disable-delta=true",
    ])
    .await;
    let backends = Backend::several(2).await;
    eureka.register("h0", backends[0].address).await;
    let gateway = gateway(&eureka.registry(IMPATIENT));
    endpoints(&gateway, 1).await;
    eureka.register("h1", backends[1].address).await;
    endpoints(&gateway, 2).await;
    eureka.withdraw("h0").await;
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
}

/// The server of one region tells of another as well.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_remote_region_are_found_where_they_are_wanted() {
    let mut remote = Eureka::start().await;
    let backends = Backend::several(2).await;
    remote.register("there", backends[0].address).await;
    let eu = format!("eureka.server.remote-region-urls-with-name.eu=http://{}/eureka/", remote.address());
    let mut local = Eureka::start_with(&[
        "eureka.server.use-read-only-response-cache=false",
        "eureka.server.remote-region-registry-fetch-interval=1",
        "eureka.server.response-cache-auto-expiration-in-seconds=1",
        &eu,
    ])
    .await;
    local.register("here", backends[1].address).await;
    let alone = gateway(&local.registry(IMPATIENT));
    let both = gateway(&local.registry("{ poll_seconds = 1, region = \"eu\" }"));
    endpoints(&both, 2).await;
    endpoints(&alone, 1).await;
    let asked = asked(&local);
    assert!(asked.iter().any(|line| line == "GET /eureka/apps?regions=eu HTTP/1.1"), "{asked:?}");
    assert_eq!(alone.get("/").await.text(), "b1");
    remote.withdraw("there").await;
    tokio::time::timeout(Duration::from_secs(60), endpoints(&both, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_is_no_empty_list() {
    let mut eureka = Eureka::start().await;
    let backend = Backend::start("one").await;
    eureka.register("h0", backend.address).await;
    let registry = eureka.registry(IMPATIENT).replace("/eureka", "");
    let gateway = gateway(&registry);
    until("it says what is wrong", || async {
        let failure: Value = source(&gateway).await["failure"].clone();
        failure["kind"] == "unavailable" && failure.to_string().contains("answered 404")
    })
    .await;
}

/// The embedded registry of one gateway is a server for programs and for another gateway.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_registry_is_a_server_of_eureka() {
    let backends = Backend::several(2).await;
    let server = Gateway::start(
        "[admin.registrations]\naddress = \"127.0.0.1:0\"\neureka = {}\n\n\
         [[route]]\npath = \"/svc/{service}\"\nregistry = \"memory\"\n",
    );
    let place = server.registrations.unwrap();
    let tell = |method: Method, path: String, body: Value| async move {
        let request = http::Request::builder().method(method).uri(format!("/eureka{path}"));
        let request = request.header("content-type", "application/json");
        Session::new(place).send(request, body.to_string().into()).await.status
    };
    let register = |id: &str, number: usize| {
        let instance = eureka::instance(id, backends[number].address, json!({}));
        tell(Method::POST, "/apps/ORDERS".to_owned(), json!({ "instance": instance }))
    };
    assert_eq!(register("h0", 0).await, 204);
    until("its own routes find it", || async { server.get("/svc/orders").await.text() == "b0" }).await;
    let registry = format!(
        "[registry.main]\nplugin = \"eureka\"\nhttp = {{ urls = [\"http://{place}/eureka\"] }}\nsettings = {IMPATIENT}\n"
    );
    let gateway = gateway(&registry);
    endpoints(&gateway, 1).await;
    assert_eq!(gateway.get("/").await.text(), "b0");
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    assert_eq!(register("h1", 1).await, 204);
    endpoints(&gateway, 2).await;
    let out = "/apps/ORDERS/h0/status?value=OUT_OF_SERVICE".to_owned();
    assert_eq!(tell(Method::PUT, out, json!(null)).await, 200);
    until("it takes no requests", || async {
        let before = backends[0].requests();
        traffic.more(50).await;
        backends[0].requests() == before
    })
    .await;
    assert_eq!(tell(Method::DELETE, "/apps/ORDERS/h0/status?value=UP".to_owned(), json!(null)).await, 200);
    until("it does again", || async {
        let before = backends[0].requests();
        traffic.more(50).await;
        backends[0].requests() > before
    })
    .await;
    assert_eq!(tell(Method::PUT, "/apps/ORDERS/h0".to_owned(), json!(null)).await, 200);
    assert_eq!(tell(Method::DELETE, "/apps/ORDERS/h0".to_owned(), json!(null)).await, 200);
    endpoints(&gateway, 1).await;
    becomes(&gateway, "live").await;
    traffic.stop().await.none_failed();

    // What is announced there is found, too.
    let address = backends[0].address.to_string();
    let flags = ["--registry", "main", "--service", "orders", "--address", &address];
    let mut registering = Registering::start(&registry, &flags, None);
    endpoints(&gateway, 2).await;
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    endpoints(&gateway, 1).await;
}
