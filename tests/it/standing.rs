//! How instances stand as their registry sees them, and what it says that is not to be believed.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    guest::guest,
    session::Session,
};

const CONFIG: &str = r#"
[registry.file]
plugin = "PLUGIN"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "file"

[[route]]
path = "/orders"
upstream = "orders"
"#;

/// Exchanged in one step, as an editor does.
fn write(folder: &Path, content: &str) {
    std::fs::write(folder.join("services.part"), content).unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

fn instance(backend: &Backend, state: &str, priority: u32) -> Value {
    json!({ "address": backend.address, "state": state, "priority": priority })
}

fn tell(gateway: &Gateway, instances: &[Value]) {
    write(gateway.folder(), &json!({ "services": { "orders": instances } }).to_string());
}

fn start(instances: &[Value]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &json!({ "services": { "orders": instances } }).to_string());
    Gateway::start_in(folder, &CONFIG.replace("PLUGIN", "file"))
}

async fn orders(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders").await
}

async fn until_shown(gateway: &Gateway, field: &str, expected: &Value) {
    until("it is shown", || async { orders(gateway).await[field] == *expected }).await;
}

/// Waits until all requests of a while go to these and to nobody else, and all of them succeed.
async fn until_requests_go_to(gateway: &Gateway, names: &[&str]) {
    until("requests go where they should", || async {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let answer = gateway.get("/orders").await;
            assert!(answer.status.is_success(), "{:?}", answer.reason());
            seen.insert(answer.text());
        }
        seen.iter().map(String::as_str).eq(names.iter().copied())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_gets_new_requests_only_while_nobody_is_ready() {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let gateway = start(&[instance(&old, "ready", 0), instance(&new, "ready", 0)]);
    until_requests_go_to(&gateway, &["new", "old"]).await;
    tell(&gateway, &[instance(&old, "draining", 0), instance(&new, "ready", 0)]);
    let standby = json!([{ "address": old.address, "source": 0, "state": "draining", "priority": 0, "zone": null, "reason": "rank" }]);
    until_shown(&gateway, "standby", &standby).await;
    assert_eq!(orders(&gateway).await["standby_count"], 1);
    until_requests_go_to(&gateway, &["new"]).await;
    tell(&gateway, &[instance(&old, "draining", 0), instance(&new, "draining", 0)]);
    until_requests_go_to(&gateway, &["new", "old"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_serves_while_nobody_before_it_answers() {
    let (first, standby) = (Backend::start("first").await, Backend::start("standby").await);
    let address = first.address;
    let gateway = start(&[instance(&first, "ready", 0), instance(&standby, "ready", 5)]);
    until_requests_go_to(&gateway, &["first"]).await;
    assert_eq!(standby.requests(), 0);
    drop(first);
    // Requests that meet the dead one are tried again; nothing is left to try before it is out.
    until("the standby serves", || async { gateway.get("/orders").await.text() == "standby" }).await;
    until("the first is out", || async { orders(&gateway).await["ejected"][0]["address"] == json!(address) })
        .await;
    until_requests_go_to(&gateway, &["standby"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_registry_calls_unwell_is_out_as_after_a_failed_check() {
    let all = [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let as_is = |states: [&str; 3]| -> Vec<Value> {
        all.iter().zip(states).map(|(backend, state)| instance(backend, state, 0)).collect()
    };
    let gateway = start(&as_is(["ready", "ready", "ready"]));
    until_requests_go_to(&gateway, &["a", "b", "c"]).await;
    tell(&gateway, &as_is(["ready", "unwell", "ready"]));
    until("it is shown", || async {
        let shown = orders(&gateway).await["ejected"].clone();
        let since = shown[0]["since"].clone();
        let out = json!({ "address": all[1].address, "source": 0, "weight": 1, "zone": null, "reason": "unwell", "since": since });
        shown == json!([out]) && since.is_string()
    })
    .await;
    until_requests_go_to(&gateway, &["a", "c"]).await;

    // A restarted gateway knows it, whether there is a registry or not.
    let saved = gateway.folder().join("state/lists/orders.json");
    until("it is on disk", || async {
        std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("unwell"))
    })
    .await;
    std::fs::remove_file(gateway.folder().join("services.json")).unwrap();
    let gateway = gateway.restart().await;
    let before = all[1].requests();
    until_requests_go_to(&gateway, &["a", "c"]).await;
    assert_eq!(all[1].requests(), before);

    // It finds nobody well: nothing of that is believed.
    tell(&gateway, &as_is(["unwell", "unwell", "unwell"]));
    until_requests_go_to(&gateway, &["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_says_in_the_embedded_registry_how_it_stands() {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    let gateway = Gateway::start(
        "[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n\n[[route]]\npath = \"/orders\"\nupstream = \"orders\"\n",
    );
    let put = async |id: &str, backend: &Backend, rest: Value| {
        let mut body = json!({ "address": backend.address, "ttl_seconds": 0 });
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let path = format!("/api/v1/services/orders/{id}");
        Session::new(gateway.admin).put(&path, body.to_string()).await
    };
    put("one", &one, json!({ "zone": "x", "hostname": "one.example" })).await;
    put("other", &other, json!({ "state": "draining" })).await;
    until_requests_go_to(&gateway, &["one"]).await;
    let endpoint = &orders(&gateway).await["endpoints"][0];
    assert_eq!((&endpoint["zone"], &endpoint["hostname"]), (&json!("x"), &json!("one.example")));
    put("one", &one, json!({ "state": "draining" })).await;
    put("other", &other, json!({ "state": "ready" })).await;
    until_requests_go_to(&gateway, &["other"]).await;
    let refused = put("one", &one, json!({ "state": "gone" })).await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("unknown variant `gone`"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_suspect_freezes_the_list_and_is_shown() {
    let (one, other) = (Backend::start("one").await, Backend::start("other").await);
    let folder = tempfile::tempdir().unwrap();
    let list = json!([one.address, other.address]).to_string();
    write(folder.path(), &list);
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/doubting.wasm"), guest("registry-suspect")).unwrap();
    let gateway = Gateway::start_in(folder, &CONFIG.replace("PLUGIN", "doubting"));
    until_requests_go_to(&gateway, &["one", "other"]).await;

    write(gateway.folder(), "suspect: cut by missing rights\u{1b}[2J");
    let source = || async { orders(&gateway).await["sources"][0].clone() };
    until("it is frozen", || async { source().await["origin"] == "frozen" }).await;
    let failure = source().await["failure"].clone();
    let shown = json!({ "kind": "suspect", "error": "suspect: cut by missing rights\\u{1b}[2J" });
    assert_eq!(failure, shown);
    until_requests_go_to(&gateway, &["one", "other"]).await;
    gateway.logged("suspect, list kept").await;

    // As an answer to the first question, too.
    let gateway = gateway.restart().await;
    let source = || async { orders(&gateway).await["sources"][0].clone() };
    until("it is suspect", || async { source().await["failure"]["kind"] == "suspect" }).await;
    assert_eq!(source().await["origin"], "restored");
    until_requests_go_to(&gateway, &["one", "other"]).await;

    write(gateway.folder(), &json!([other.address]).to_string());
    until("it is believed again", || async { source().await["origin"] == "live" }).await;
    assert_eq!(source().await["failure"], Value::Null);
    until_requests_go_to(&gateway, &["other"]).await;
}
