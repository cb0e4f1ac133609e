//! `witgate upstream`: the operator sees how lists stand, holds, turns back and lets go of them, and drains endpoints.

use std::{net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    traffic::Traffic,
};

const CONFIG: &str = r#"
[registry.file]
plugin = "file"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "file"

[[route]]
path = "/"
upstream = "orders"
"#;

/// Exchanged in one step, as an editor does.
fn tell(folder: &Path, backends: &[&Backend]) {
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let text = json!({ "services": { "orders": addresses } }).to_string();
    std::fs::write(folder.join("services.part"), text).unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

fn start(backends: &[&Backend]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    tell(folder.path(), backends);
    Gateway::start_in(folder, CONFIG)
}

/// `witgate upstream` with these arguments: its exit code, and what it says.
fn witgate(admin: SocketAddr, arguments: &[&str]) -> (Option<i32>, String) {
    let admin = admin.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_witgate"))
        .args(["upstream", "--admin", &admin])
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn done(gateway: &Gateway, arguments: &[&str]) -> String {
    let (code, said) = witgate(gateway.admin, arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {said}");
    said
}

async fn orders(gateway: &Gateway) -> Value {
    gateway.api("/api/v1/upstreams/orders").await
}

async fn until_endpoints(gateway: &Gateway, count: usize) {
    until("the list is so long", || async { orders(gateway).await["endpoint_count"] == count }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_outlives_a_restart_and_says_so_everywhere() {
    let all = Backend::several(3).await;
    let gateway = start(&[&all[0], &all[1]]);
    assert_eq!(done(&gateway, &["pin", "orders"]), "orders is pinned, with 2 endpoints\n");
    tell(gateway.folder(), &[&all[0], &all[1], &all[2]]);
    until("the news are recorded", || async {
        let latest = &orders(&gateway).await["history"][0];
        latest["cause"] == "news" && latest["applied"] == false
    })
    .await;

    let gateway = gateway.restart().await;
    until("the registry has answered", || async { orders(&gateway).await["sources"][0]["origin"] == "live" })
        .await;
    let said = done(&gateway, &["list"]);
    let line = said.lines().find(|line| line.starts_with("orders ")).unwrap();
    assert_eq!(line.split_whitespace().take(3).collect::<Vec<_>>(), ["orders", "pinned", "2"], "{said}");
    let shown = done(&gateway, &["show", "orders"]);
    assert!(shown.contains("pinned      since 20"), "{shown}");
    let upstream = orders(&gateway).await;
    assert_eq!((&upstream["endpoint_count"], &upstream["pinned"]["endpoints"]), (&json!(2), &json!(2)));
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(metrics.lines().any(|line| line == r#"witgate_pinned{upstream="orders"} 1"#), "{metrics}");
    gateway.logged("List is pinned").await;

    let said = done(&gateway, &["unpin", "orders"]);
    assert_eq!(said, "orders is what its sources say again, with 3 endpoints\n");
    assert!(!done(&gateway, &["list"]).contains("pinned"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_rolled_back_to_what_it_was() {
    let all = Backend::several(3).await;
    let gateway = start(&[&all[0], &all[1]]);
    until_endpoints(&gateway, 2).await;
    let good = orders(&gateway).await["generation"].to_string();
    tell(gateway.folder(), &[&all[0], &all[1], &all[2]]);
    until_endpoints(&gateway, 3).await;

    let said = done(&gateway, &["rollback", "orders", &good]);
    assert_eq!(said, format!("orders is pinned as it was at generation {good}, with 2 endpoints\n"));
    let shown = done(&gateway, &["show", "orders"]);
    assert!(shown.contains(&format!("rolled back to {good}")) && shown.contains("operator"), "{shown}");
    until("the workers know", || async {
        let orders = orders(&gateway).await;
        let workers = orders["workers"].as_array().unwrap();
        workers.iter().all(|of| of["generation"] == 0 || of["generation"] == orders["generation"])
    })
    .await;
    let before = all[2].requests();
    for _ in 0..20 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!(all[2].requests(), before, "it is not in the list any more");
    done(&gateway, &["unpin", "orders"]);
    until_endpoints(&gateway, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_are_held_back_until_they_are_accepted() {
    let all = Backend::several(2).await;
    let gateway = start(&[&all[0], &all[1]]);
    until_endpoints(&gateway, 2).await;
    tell(gateway.folder(), &[]);
    until("they are held back", || async { orders(&gateway).await["sources"][0]["reserve"]["count"] == 2 })
        .await;
    assert!(gateway.get("/").await.status.is_success());
    assert!(done(&gateway, &["list"]).contains("held 2"));
    let shown = done(&gateway, &["show", "orders"]);
    assert!(
        shown.contains("2 removals held back since 20") && shown.contains("they get requests"),
        "{shown}"
    );

    let (code, said) = witgate(gateway.admin, &["accept", "orders", "--source", "other"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no source in registry \"other\""), "{said}");
    let said = done(&gateway, &["accept", "orders", "--source", "file"]);
    assert_eq!(said, "removals of orders are accepted, 0 endpoints left\n");
    until("nobody is left", || async { gateway.get("/").await.reason() == Some("no-endpoints") }).await;
}

/// Waits until this one gets more requests.
async fn until_used(backend: &Backend) {
    let before = backend.requests();
    until("it gets requests", || async { backend.requests() > before + 20 }).await;
}

/// Sends requests of which this one gets all.
async fn used_alone(gateway: &Gateway, backend: &Backend) {
    let before = backend.requests();
    for _ in 0..20 {
        assert!(gateway.get("/").await.status.is_success());
    }
    assert_eq!(backend.requests(), before + 20);
}

/// Every worker picks from the list in force, and what began before that is over.
async fn until_settled(gateway: &Gateway, drained: &Backend) {
    let address = drained.address.to_string();
    until("nothing is under way to it any more", || async {
        let orders = orders(gateway).await;
        let workers = orders["workers"].as_array().unwrap();
        let draining = orders["draining"].as_array().unwrap();
        workers.iter().all(|of| of["generation"] == 0 || of["generation"] == orders["generation"])
            && draining.iter().any(|of| of["address"] == *address && of["in_flight"] == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_endpoint_gets_nothing_new_until_it_is_undrained() {
    let all = Backend::several(3).await;
    let gateway = start(&[&all[0], &all[1]]);
    until_endpoints(&gateway, 2).await;
    let (name, address) = ("orders", all[0].address.to_string());
    let traffic = Traffic::start(gateway.address(), "/", 4);
    until_used(&all[0]).await;
    let said = done(&gateway, &["drain", name, &address]);
    assert!(said.starts_with(&format!("{address} of orders drains, with ")), "{said}");
    assert!(said.ends_with(" under way; orders has 1 endpoint left\n"), "{said}");
    until_settled(&gateway, &all[0]).await;
    let drained = all[0].requests();
    until_used(&all[1]).await;

    // The list changes, and it leaves and comes back.
    tell(gateway.folder(), &[&all[1], &all[2]]);
    until_used(&all[2]).await;
    tell(gateway.folder(), &[&all[0], &all[1], &all[2]]);
    until("it is back", || async { orders(&gateway).await["standby_count"] == 1 }).await;
    until_used(&all[1]).await;
    let shown = done(&gateway, &["show", name]);
    assert!(shown.contains(&format!("draining    {address} since 20")), "{shown}");
    assert!(shown.contains("drains by order"), "{shown}");
    let line = |said: String| said.lines().find(|line| line.starts_with("orders ")).unwrap().to_owned();
    assert!(line(done(&gateway, &["list"])).contains(" draining 1 "));
    traffic.more(20).await;
    traffic.stop().await.none_failed();

    let gateway = gateway.restart().await;
    gateway.logged("Endpoints drain").await;
    let traffic = Traffic::start(gateway.address(), "/", 4);
    until("the registry has answered", || async { orders(&gateway).await["sources"][0]["origin"] == "live" })
        .await;
    until_used(&all[2]).await;
    assert_eq!(all[0].requests(), drained, "nothing new, whatever happened");
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(metrics.contains("witgate_draining_endpoints{upstream=\"orders\"} 1\n"), "{metrics}");

    let said = done(&gateway, &["undrain", name, &address]);
    assert_eq!(said, format!("{address} of orders is drained no more, orders has 3 endpoints\n"));
    until_used(&all[0]).await;
    traffic.more(20).await;
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_to_an_endpoint_that_drains_comes_to_its_end() {
    let all = Backend::several(2).await;
    let gateway = start(&[&all[0]]);
    until_endpoints(&gateway, 1).await;
    let mut upload = TcpStream::connect(gateway.address()).await.unwrap();
    upload.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nhal").await.unwrap();
    until("it is under way", || async { orders(&gateway).await["endpoints"][0]["in_flight"] == 1 }).await;
    tell(gateway.folder(), &[&all[0], &all[1]]);
    until_endpoints(&gateway, 2).await;
    let address = all[0].address.to_string();
    let said = done(&gateway, &["drain", "orders", &address]);
    let expected =
        format!("{address} of orders drains, with 1 request under way; orders has 1 endpoint left\n");
    assert_eq!(said, expected);
    used_alone(&gateway, &all[1]).await;
    assert_eq!(orders(&gateway).await["draining"][0]["in_flight"], 1);
    upload.write_all(b"ves").await.unwrap();
    let mut answer = vec![0; 12];
    upload.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    until_settled(&gateway, &all[0]).await;
    assert_eq!(all[0].requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drains_serves_where_nobody_else_is_well() {
    let all = Backend::several(2).await;
    let gateway = start(&[&all[0], &all[1]]);
    until_endpoints(&gateway, 2).await;
    let addresses = [all[0].address.to_string(), all[1].address.to_string()];
    let traffic = Traffic::start(gateway.address(), "/", 4);
    let said = done(&gateway, &["drain", "orders", &addresses[0], &addresses[1]]);
    let expected = format!(
        "{}, {} of orders drain, and still get requests: no other endpoint is well\n",
        addresses[0], addresses[1]
    );
    assert_eq!(said, expected);
    until_used(&all[0]).await;
    until_used(&all[1]).await;
    traffic.stop().await.none_failed();

    let check = |arguments: &[&str], code: i32, part: &str| {
        let (found, said) = witgate(gateway.admin, arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    };
    check(&["drain", "orders", "127.0.0.1:9"], 1, "no endpoint \"127.0.0.1:9\"");
    check(&["drain", "nobody", "127.0.0.1:9"], 1, "no upstream \"nobody\"");
    check(&["drain", "orders", "localhost:9"], 2, "localhost:9");
    check(&["drain", "orders"], 2, "<ADDRESS>");
    done(&gateway, &["undrain", "orders", &addresses[0]]);
    check(&["undrain", "orders", &addresses[0]], 1, "does not drain by an order");
    check(&["drain", "--help"], 0, "witgate upstream drain orders 10.0.0.5:9000");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_exits_with_1_and_says_why() {
    let backend = Backend::start("one").await;
    let folder = tempfile::tempdir().unwrap();
    tell(folder.path(), &[&backend]);
    std::fs::write(folder.path().join("token"), "tea\n").unwrap();
    let config = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"token\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n{CONFIG}"
    );
    std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
    let gateway = Gateway::run(folder);
    let token = gateway.folder().join("token").display().to_string();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let check = |admin, arguments: &[&str], expected: i32, part: &str| {
        let (code, said) = witgate(admin, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    };
    check(gateway.admin, &["pin", "orders"], 1, "name a file with the token by --token-file");
    check(gateway.admin, &["pin", "orders", "--token-file", &token], 0, "orders is pinned, with 1 endpoint");
    let wrong = gateway.folder().join("wrong").display().to_string();
    std::fs::write(&wrong, "coffee\n").unwrap();
    let hint = "; what was sent is in the file that --token-file names";
    check(gateway.admin, &["pin", "orders", "--token-file", &wrong], 1, hint);
    check(gateway.admin, &["pin", "orders", "--token-file", "/no/such/file"], 1, "/no/such/file");
    check(gateway.admin, &["show", "nothing"], 1, "no upstream \"nothing\"");
    check(
        gateway.admin,
        &["rollback", "orders", "99", "--token-file", &token],
        1,
        "generation 99 is not there",
    );
    check(gateway.admin, &["rollback", "orders", "many"], 2, "many");
    check(nobody, &["list"], 1, "no gateway answers at");
    check(backend.address, &["list"], 1, "did not answer like a gateway");
    check(gateway.admin, &["list"], 0, "orders");
}
