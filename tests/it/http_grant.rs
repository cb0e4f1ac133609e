//! What the table `http` of a registry lends: requests to its URLs, with its credential, and to nothing else.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::{
    backend::Backend,
    certs::Certs,
    gateway::{Gateway, until},
    guest::guest,
    origin::{Origin, Reply, Seen, read_request},
    service::{becomes, endpoints, source},
    tls::{self, TlsOrigin},
};

const SECRET: &str = "s3cr3t";

/// A gateway whose registry is the guest, with these settings and this table.
fn gateway(http: &str, settings: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/listing.wasm"), guest("registry-http")).unwrap();
    std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let config = format!(
        "[registry.main]\nplugin = \"listing\"\nmemory = true\n{http}\nsettings = {settings}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    );
    // One whose registry fails is long in getting ready.
    Gateway::start_early(folder, &config)
}

fn json(list: &str, more: &str) -> Reply {
    Reply::raw(&format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{list}",
        list.len()
    ))
}

async fn failure(gateway: &Gateway) -> Value {
    source(gateway).await["failure"].clone()
}

async fn fails(gateway: &Gateway, kind: &str, text: &str) {
    until(text, || async {
        let failure = failure(gateway).await;
        failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_polls_and_each_request_carries_the_credential_that_it_never_sees() {
    let list = Arc::new(Mutex::new("[\"127.0.0.1:1\"]".to_owned()));
    let current = list.clone();
    let registry = Origin::replying(move |seen: &Seen| {
        let list = current.lock().unwrap().clone();
        let tag = format!("\"{}\"", list.len());
        match seen.header("if-none-match") == Some(&tag) {
            true => Reply::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 0\r\n\r\n"),
            false => json(&list, &format!("etag: {tag}\r\n")),
        }
    })
    .await;
    for (credential, header, value) in [
        ("token_file = \"secret\"", "authorization", format!("Bearer {SECRET}")),
        ("token_file = \"secret\", header = \"X-Consul-Token\"", "x-consul-token", SECRET.to_owned()),
        ("user = \"gw\", password_file = \"secret\"", "authorization", "Basic Z3c6czNjcjN0".to_owned()),
    ] {
        let http = format!("http = {{ urls = [\"http://{}/v1\"], {credential} }}", registry.address);
        *list.lock().unwrap() = "[\"127.0.0.1:1\"]".to_owned();
        let before = registry.seen().len();
        let gateway = gateway(&http, "{ poll = \"/list\" }");
        endpoints(&gateway, 1).await;
        *list.lock().unwrap() = "[\"127.0.0.1:1\", \"127.0.0.1:2\"]".to_owned();
        endpoints(&gateway, 2).await;
        let seen = registry.seen().split_off(before);
        assert!(seen.iter().all(|seen| seen.header(header) == Some(&value)), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.path() == "/v1/list"), "{seen:?}");
        let connections = seen.iter().map(|seen| seen.connection).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(connections.len(), 1, "connections are kept: {seen:?}");
        assert!(!gateway.log().contains(SECRET), "{}", gateway.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_of_a_registry_is_suspect_and_one_that_refuses_is_denied() {
    let (registry, plan) = planned(|| json("[\"127.0.0.1:1\"]", "")).await;
    let gateway =
        gateway(&format!("http = {{ urls = [\"http://{}\"] }}", registry.address), "{ poll = \"/\" }");
    endpoints(&gateway, 1).await;
    for (answer, kind, text) in [
        ("200 OK\r\ncontent-type: text/html\r\n", "suspect", "text/html"),
        ("200 OK\r\n", "suspect", "expected ident"),
        ("403 Forbidden\r\n", "denied", "answered 403"),
        ("503 Unavailable\r\n", "unavailable", "answered 503"),
        ("302 Found\r\nlocation: http://127.0.0.1:1/\r\n", "unavailable", "answered 302"),
    ] {
        *plan.lock().unwrap() = format!("HTTP/1.1 {answer}content-length: 5\r\n\r\nnever");
        fails(&gateway, kind, text).await;
        becomes(&gateway, "frozen").await;
    }
    *plan.lock().unwrap() = String::new();
    becomes(&gateway, "live").await;
}

/// Answers with what the test says, or with the usual where that is nothing.
async fn planned(usual: impl Fn() -> Reply + Send + Sync + 'static) -> (Origin, Arc<Mutex<String>>) {
    let plan = Arc::new(Mutex::new(String::new()));
    let current = plan.clone();
    let origin = Origin::replying(move |_| match &*current.lock().unwrap() {
        text if text.is_empty() => usual(),
        text => Reply::raw(text),
    })
    .await;
    (origin, plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_refused_and_the_log_names_the_setting() {
    let backend = Backend::start("b").await;
    let address = backend.address;
    let target = Origin::replying(move |_| json(&format!("[\"{address}\"]"), "")).await;
    let there = target.address;
    let registry = Origin::replying(move |seen: &Seen| {
        let to = seen.path().trim_start_matches("/v1").to_owned();
        Reply::raw(&format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{there}{to}\r\ncontent-length: 0\r\n\r\n"
        ))
    })
    .await;
    let urls = |more: &str| format!("http = {{ urls = [\"http://{}/v1\"{more}] }}", registry.address);
    let settings = "{ redirected = \"/list\" }";

    let refused = gateway(&urls(""), settings);
    fails(&refused, "denied", "does not grant it").await;
    refused.logged("refused=GET http://").await;
    refused.logged("`urls` of `http` in [registry.main]").await;
    assert!(target.seen().is_empty(), "{:?}", target.seen());

    let granted = gateway(&urls(&format!(", \"http://{there}\"")), settings);
    endpoints(&granted, 1).await;
    assert_eq!(granted.get("/").await.text(), "b");

    let nothing = gateway("", settings);
    fails(&nothing, "denied", "http = { urls = [").await;
}

/// One wait is for three things: a feed, a timer and an answer of HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_waits_for_several_things_at_once() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let registry = Origin::connected(move |mut stream, connection, _| {
        let gate = gate.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer, connection).await;
            while !gate.load(Relaxed) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap_or(());
        }
    })
    .await;
    let http = format!("http = {{ urls = [\"http://{}\"] }}", registry.address);
    let gateway = gateway(&http, "{ beside = \"/event\" }");
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        gateway.register("orders", &format!("b{number}"), backend.address).await;
        endpoints(&gateway, number + 1).await;
    }
    assert_eq!(registry.connections(), 1);
    open.store(true, Relaxed);
    gateway.logged("the event came with Some(204)").await;
    gateway.withdraw("orders", "b1").await;
    until("the feed goes on", || async { source(&gateway).await["instances"] == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_that_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("tls"));
    let (server, client) = (certs.server(), certs.client("gateway"));
    let config = tls::server(&server, Some(&certs.ca()), &["h2", "http/1.1"]);
    let registry = TlsOrigin::serving(config, |mut stream, _| async move {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n[\"127.0.0.1:1\"]";
        while tls::read_head(&mut stream).await.is_some() {
            stream.write_all(answer.as_bytes()).await.unwrap_or(());
        }
    })
    .await;
    let http = |host: &str, more: &str| {
        format!("http = {{ urls = [\"https://{host}:{}\"], {more} }}", registry.address.port())
    };
    let shown = format!("cert_file = {:?}, key_file = {:?}", client.certificate, client.key);
    let ca = format!("ca_file = {:?}", certs.ca());
    let both = gateway(&http("localhost", &format!("{ca}, {shown}")), "{ poll = \"/\" }");
    endpoints(&both, 1).await;
    let alone = gateway(&http("127.0.0.1", &ca), "{ poll = \"/\" }");
    fails(&alone, "unavailable", "CertificateRequired").await;
    let other = Certs::new(&folder.path().join("other"));
    let stranger =
        gateway(&http("127.0.0.1", &format!("ca_file = {:?}, {shown}", other.ca())), "{ poll = \"/\" }");
    fails(&stranger, "unavailable", "certificate").await;
}
