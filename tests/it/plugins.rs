//! Plugins that misbehave, in the real gateway: traffic goes on, the fault is counted, the plugin is quarantined and
//! comes back with a new file.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    backend::Backend,
    component::with_custom_section,
    gateway::{Gateway, PATIENCE, until},
    guest::guest,
    traffic::Traffic,
};

/// Every folder of `plugins/testing` and the test that uses it.
const GUESTS: [(&str, &str); 25] = [
    ("bad-create", "a_file_that_cannot_be_used_changes_nothing"),
    ("chatty", "what_a_plugin_prints_becomes_log_lines"),
    ("first", "a_dropped_selector_changes_the_next_picks"),
    ("forbidden-import", "a_file_that_cannot_be_used_changes_nothing"),
    ("hog", "a_selector_that_fails_costs_no_request_and_is_quarantined"),
    ("last", "a_dropped_selector_changes_the_next_picks"),
    ("loop", "a_selector_that_fails_costs_no_request_and_is_quarantined"),
    ("none", "a_selector_that_finds_nothing_is_believed"),
    ("out-of-range", "a_selector_that_fails_costs_no_request_and_is_quarantined"),
    ("ponder", "a_selector_that_computes_for_long_keeps_no_request_waiting"),
    ("reaching", "what_a_plugin_may_not_do_is_named_and_what_it_said_last_is_told"),
    ("registry-echo", "a_new_registry_plugin_takes_over_without_a_gap"),
    ("registry-empty-storm", "a_registry_plugin_that_fails_changes_no_list"),
    ("registry-garbage", "nonsense_in_a_list_is_left_out"),
    ("registry-http", "a_plugin_polls_and_each_request_carries_the_credential_that_it_never_sees"),
    ("registry-leak", "a_registry_plugin_that_fails_changes_no_list"),
    ("registry-loop", "a_registry_plugin_that_fails_changes_no_list"),
    ("registry-many", "a_hundred_thousand_endpoints_at_once_slow_nobody"),
    ("registry-suspect", "an_answer_that_is_suspect_freezes_the_list_and_is_shown"),
    ("registry-tcp", "a_plugin_reads_over_tcp_from_the_addresses_of_its_table"),
    ("registry-trap", "a_registry_plugin_that_fails_changes_no_list"),
    ("slow-start", "an_instance_that_is_long_in_the_making_keeps_no_request_waiting"),
    ("slow-update", "a_file_that_cannot_be_used_changes_nothing"),
    ("trap", "a_selector_that_fails_costs_no_request_and_is_quarantined"),
    ("wrong-world", "a_file_that_cannot_be_used_changes_nothing"),
];

#[test]
fn every_guest_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders: BTreeSet<String> = std::fs::read_dir(root.join("plugins/testing"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested: BTreeSet<String> = GUESTS.iter().map(|(guest, _)| guest.to_string()).collect();
    assert_eq!(folders, tested);
    let read = |file: &str| std::fs::read_to_string(root.join("tests/it").join(file)).unwrap();
    let source = read("plugins.rs") + &read("standing.rs") + &read("http_grant.rs") + &read("tcp_grant.rs");
    for (guest, test) in GUESTS {
        assert!(source.contains(&format!("fn {test}(")), "{guest}: no test {test}");
    }
}

/// An upstream with three backends and the selector `mine`, which is a file in the plugins folder or nothing.
const CONFIG: &str = r#"
[plugins]
selector = { faults_per_minute = 3 }

[upstream.orders]
service = "orders"
registry = "memory"
# The bad ones pass their self-test and some requests first.
selector = { plugin = "mine", settings = { after = 100 } }

[[route]]
path = "/"
upstream = "orders"
"#;

async fn start() -> (Gateway, Vec<Backend>) {
    let gateway = Gateway::start(CONFIG);
    let backends = Backend::several(3).await;
    // One by one, so that they stand in the list in this order: together they would be in that of their ports.
    for (number, backend) in backends.iter().enumerate() {
        gateway.register("orders", &format!("b{number}"), backend.address).await;
        until("the endpoint on every worker", || async {
            let upstream = gateway.api("/api/v1/upstreams/orders").await;
            upstream["endpoints"].as_array().unwrap().len() == number + 1
                && upstream["workers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|w| w["generation"] == upstream["generation"])
        })
        .await;
    }
    (gateway, backends)
}

/// Who answers so many requests, over several connections so that all workers take part.
async fn answers(gateway: &Gateway, requests: usize) -> BTreeSet<String> {
    let mut met = BTreeSet::new();
    for _ in 0..requests / 10 {
        let mut session = gateway.session();
        for _ in 0..10 {
            let answer = session.get("/").await;
            assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
            met.insert(answer.text());
        }
    }
    met
}

async fn state(gateway: &Gateway, name: &str, state: &str) {
    until(&format!("{name} is {state}"), || async { gateway.plugin(name).await["state"] == state }).await;
}

/// Waits until all workers use the version of `mine` that is in force.
async fn on_all_workers(gateway: &Gateway) {
    until("all workers use the plugin", || async {
        let version = gateway.plugin("mine").await["version"].clone();
        let upstream = gateway.api("/api/v1/upstreams/orders").await;
        version.as_u64() > Some(0)
            && upstream["workers"]
                .as_array()
                .unwrap()
                .iter()
                .all(|worker| worker["selector_version"] == version)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_selector_changes_the_next_picks() {
    let (gateway, _backends) = start().await;
    assert_eq!(answers(&gateway, 60).await.len(), 3, "the native round robin");
    gateway.drop_plugin("mine", &guest("first"));
    on_all_workers(&gateway).await;
    assert_eq!(answers(&gateway, 60).await, BTreeSet::from(["b0".to_owned()]));
    let before = gateway.plugin("mine").await["version"].clone();
    let path = gateway.drop_plugin("mine", &guest("last"));
    until("the new file is in force", || async { gateway.plugin("mine").await["version"] != before }).await;
    on_all_workers(&gateway).await;
    assert_eq!(answers(&gateway, 60).await, BTreeSet::from(["b2".to_owned()]));
    std::fs::remove_file(path).unwrap();
    until("the native round robin is back", || async { answers(&gateway, 60).await.len() == 3 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let (gateway, _backends) = start().await;
    gateway.drop_plugin("mine", &guest("first"));
    on_all_workers(&gateway).await;
    let digest = gateway.plugin("mine").await["digest"].clone();
    let whole = guest("last");
    let candidates: [(&str, Vec<u8>, &str); 8] = [
        ("garbage", b"this is no component".to_vec(), "is not WebAssembly"),
        ("half a file", whole[..whole.len() / 2].to_vec(), "half written"),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "core module"),
        ("a plugin of the other kind", guest("registry-echo"), "selector"),
        ("another world", guest("wrong-world"), "exports neither"),
        ("a forbidden import", guest("forbidden-import"), "acme:secret"),
        ("a selector that refuses the settings", guest("bad-create"), "refused on purpose"),
        ("a selector that loops in update", guest("slow-update"), "update"),
    ];
    for (what, bytes, reason) in candidates {
        gateway.drop_plugin("mine", &bytes);
        until(&format!("{what} is refused"), || async {
            let refusal = gateway.plugin("mine").await["last_refusal"]["reason"].to_string();
            refusal.contains(reason)
        })
        .await;
        assert_eq!(gateway.plugin("mine").await["digest"], digest, "{what}");
        assert_eq!(answers(&gateway, 20).await, BTreeSet::from(["b0".to_owned()]), "{what}");
    }
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    assert!(metrics.contains("witgate_plugin_refusals_total"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_fails_costs_no_request_and_is_quarantined() {
    let (gateway, _backends) = start().await;
    for (number, bad) in ["trap", "loop", "out-of-range", "hog"].into_iter().enumerate() {
        gateway.drop_plugin("mine", &guest(bad));
        until(&format!("{bad} is quarantined"), || async {
            // Every request is answered, faults or not.
            assert!(!answers(&gateway, 20).await.is_empty());
            gateway.plugin("mine").await["state"] == "quarantined"
        })
        .await;
        assert!(gateway.plugin("mine").await["faults"].as_u64() >= Some(3), "{bad}");
        assert_eq!(answers(&gateway, 60).await.len(), 3, "{bad}: the native round robin");
        gateway.drop_plugin("mine", &with_custom_section(&guest("first"), number));
        state(&gateway, "mine", "running").await;
        on_all_workers(&gateway).await;
        assert_eq!(answers(&gateway, 20).await, BTreeSet::from(["b0".to_owned()]), "back after {bad}");
    }
}

/// How long the guest computes each time, far more than a request takes even on a busy machine.
const PONDERS: Duration = Duration::from_millis(2_000);

/// Three upstreams: one whose balancer is long in the making, one that is long in taking in a list, one that is long in
/// taking in a change of it.
fn pondering() -> String {
    let upstream = |name: &str, what: &str| {
        let ms = PONDERS.as_millis();
        format!(
            "[upstream.{name}]\nservice = \"orders\"\nregistry = \"memory\"\n\
             selector = {{ plugin = \"mine\", settings = {{ {what} = {ms} }} }}\n\
             [[route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n"
        )
    };
    let limits = "[plugins]\nselector = { update_timeout_ms = 20000 }\n";
    let upstreams = [("create", "create_ms"), ("list", "list_ms"), ("change", "change_ms")];
    let upstreams = upstreams.map(|(name, what)| upstream(name, what));
    format!("{limits}{}", upstreams.concat())
}

/// Waits until all workers use the plugin for the latest list of an upstream.
async fn settled(gateway: &Gateway, name: &str) {
    until(&format!("all workers pick with the plugin for {name}"), || async {
        let version = gateway.plugin("mine").await["version"].clone();
        let upstream = gateway.api(&format!("/api/v1/upstreams/{name}")).await;
        let picks = |worker: &serde_json::Value| {
            worker["selector_version"] == version && worker["generation"] == upstream["generation"]
        };
        version.as_u64() > Some(0) && upstream["workers"].as_array().unwrap().iter().all(picks)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_computes_for_long_keeps_no_request_waiting() {
    let gateway = Gateway::start(&pondering());
    let backends = Backend::several(3).await;
    for (number, backend) in backends.iter().take(2).enumerate() {
        gateway.register("orders", &format!("b{number}"), backend.address).await;
    }
    let paths = ["/create", "/list", "/change"];
    for path in paths {
        until("there are endpoints", || async { gateway.get(path).await.status.is_success() }).await;
    }
    let clients = paths.map(|path| Traffic::start(gateway.address(), path, 2));

    gateway.drop_plugin("mine", &guest("ponder"));
    for name in ["create", "list", "change"] {
        settled(&gateway, name).await;
    }
    // Another list while it is in force.
    let joined = Instant::now();
    gateway.register("orders", "b2", backends[2].address).await;
    gateway.withdraw("orders", "b0").await;
    for (name, clients) in ["create", "list", "change"].into_iter().zip(&clients) {
        settled(&gateway, name).await;
        clients.more(50).await;
    }
    let left = gateway.api("/api/v1/upstreams/change").await;
    assert_eq!(left["endpoints"].as_array().unwrap().len(), 2);
    for (path, clients) in paths.into_iter().zip(clients) {
        let last = clients.last_wrong(joined, &["b0"]);
        assert!(last < PONDERS / 2, "{path}: what has left gets nothing, and got it after {last:?}");
        let tally = clients.stop().await;
        assert_eq!(tally.failed, 0, "{path}: {tally}");
        assert!(tally.slowest < PONDERS / 2, "{path}: {tally}");
    }
    let plugin = gateway.plugin("mine").await;
    assert_eq!((&plugin["state"], &plugin["faults"]), (&json!("running"), &json!(0)), "{plugin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_long_in_the_making_keeps_no_request_waiting() {
    let limits = "selector = { faults_per_minute = 3, update_timeout_ms = 20000 }";
    let gateway = Gateway::start(&CONFIG.replace("selector = { faults_per_minute = 3 }", limits));
    let backend = Backend::start("b0").await;
    gateway.register("orders", "b0", backend.address).await;
    until("there is an endpoint", || async { gateway.get("/").await.status.is_success() }).await;
    let clients = Traffic::start(gateway.address(), "/", 4);
    gateway.drop_plugin("mine", &guest("slow-start"));
    settled(&gateway, "orders").await;
    clients.more(50).await;
    let tally = clients.stop().await;
    assert_eq!(tally.failed, 0, "{tally}");
    assert_eq!(gateway.plugin("mine").await["faults"], 0);
    let log = gateway.log();
    let told = log.lines().filter(|line| line.contains("takes longer than requests may wait"));
    assert!(told.clone().all(|line| line.contains("call=\"instantiation\"")) && told.count() == 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_when_its_workers_have_balancers_that_are_long_in_the_making() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/mine.wasm"), guest("ponder")).unwrap();
    let gateway = Gateway::start_in(folder, &pondering());
    let version = gateway.plugin("mine").await["version"].clone();
    for name in ["create", "list", "change"] {
        let upstream = gateway.api(&format!("/api/v1/upstreams/{name}")).await;
        let workers = upstream["workers"].as_array().unwrap();
        assert!(workers.iter().all(|worker| worker["selector_version"] == version), "{upstream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_finds_nothing_is_believed() {
    let (gateway, _backends) = start().await;
    gateway.drop_plugin("mine", &guest("none"));
    on_all_workers(&gateway).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status.as_u16(), answer.reason()), (503, Some("nothing-suits")), "{}", answer.text());
    assert_eq!(gateway.plugin("mine").await["faults"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_prints_becomes_log_lines() {
    let (gateway, _backends) = start().await;
    gateway.drop_plugin("mine", &guest("chatty"));
    on_all_workers(&gateway).await;
    until("its lines are in the log", || async {
        answers(&gateway, 10).await;
        gateway.log().contains("plugin=mine")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_may_not_do_is_named_and_what_it_said_last_is_told() {
    for (does, reasons, log) in [
        (
            "lookup",
            &["was told", "was told"][..],
            &["wasi:sockets/ip-name-lookup", "upstream=orders", "[registry.NAME]"][..],
        ),
        ("socket", &["was told"], &["wasi:sockets/udp-create-socket", "plugin=mine"]),
        ("leave-well", &["exit with success"], &["Plugin failed here", "exit with success"]),
        ("leave-badly", &["exit with failure"], &["Plugin failed here", "exit with failure"]),
        ("code-42", &["exit with code 42"], &["Plugin failed here", "exit with code 42"]),
        ("trap", &["unreachable"], &["stumble"]),
        (
            "traceback",
            &["Traceback (most recent call last): | File", "ZeroDivisionError: division by zero"],
            &["ZeroDivisionError"],
        ),
    ] {
        let text = CONFIG.replace("after = 100", &format!("does = \"{does}\""));
        let gateway = Gateway::start_in(tempfile::tempdir().unwrap(), &text);
        gateway.drop_plugin("mine", &guest("reaching"));
        until("it is refused", || async { gateway.plugin("mine").await["refusals"] == 1 }).await;
        let reason = gateway.plugin("mine").await["last_refusal"]["reason"].to_string();
        for part in reasons {
            assert!(reason.contains(part), "{does}: {part}: {reason}");
        }
        assert!(!reason.contains("borrow handles") && !reason.contains("wasm backtrace"), "{does}: {reason}");
        until("the log says so", || async { log.iter().all(|part| gateway.log().contains(part)) }).await;
        assert_eq!(
            gateway.log().matches("Plugin was refused").count(),
            usize::from(log[0].contains("wasi:"))
        );
    }
}

/// Three plugins that ask for connectors which the tables of their registries do not grant, for two services each.
#[tokio::test(flavor = "multi_thread")]
async fn a_connector_that_is_not_granted_is_named_with_the_setting_that_would() {
    let cases = [
        ("etcd", "settings = { layout = \"plain\" }", r#"`etcd = { endpoints = ["HOST:2379"] }`"#),
        ("memory", "", "`memory = true`"),
        ("file", "", "`file = \"services.json\"`"),
    ];
    let table = |(plugin, settings, _): &(&str, &str, &str)| {
        let upstream = |service: &str| {
            format!("[upstream.{plugin}-{service}]\nservice = \"{service}\"\nregistry = \"my-{plugin}\"\n\n")
        };
        let services = upstream("orders") + &upstream("users");
        format!("[registry.my-{plugin}]\nplugin = \"own-{plugin}\"\n{settings}\n\n{services}")
    };
    let config: String = cases.iter().map(table).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    // By names of their own, for what the shipped ones need is known, and a configuration without is refused.
    for (plugin, ..) in &cases {
        std::fs::write(folder.path().join(format!("plugins/own-{plugin}.wasm")), guest(plugin)).unwrap();
    }
    let gateway = Gateway::start_in(folder, &config);
    let lines = |plugin: &str| -> Vec<String> {
        let log = gateway.log().replace("\\\"", "\"");
        let of = log.lines().filter(|line| line.contains("Plugin was refused something"));
        of.filter(|line| line.contains(&format!("plugin=own-{plugin} "))).map(str::to_owned).collect()
    };
    for (plugin, _, setting) in &cases {
        for service in ["orders", "users"] {
            until(&format!("{plugin} and {service} are told"), || async {
                lines(plugin).iter().any(|line| line.contains(&format!("service=\"{service}\"")))
            })
            .await;
        }
        for line in lines(plugin) {
            for part in [
                format!("registry=\"my-{plugin}\""),
                format!("connector {plugin}"),
                format!("{setting} in [registry.my-{plugin}]"),
            ] {
                assert!(line.contains(&part), "{part}: {line}");
            }
        }
    }
}

/// An upstream whose registry adapter is the file `adapter` in the plugins folder.
fn adapter(settings: &str) -> String {
    format!(
        r#"
[plugins]
registry = {{ cpu_timeout_ms = 200, memory_mib = 32 }}

[registry.mine]
plugin = "adapter"
settings = {settings}

[upstream.orders]
service = "orders"
registry = "mine"
selector = "round-robin"

[[route]]
path = "/"
upstream = "orders"
"#
    )
}

/// A folder with an adapter in it.
fn folder_with(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/adapter.wasm"), guest(name)).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_plugin_that_fails_changes_no_list() {
    let backend = Backend::start("one").await;
    let settings = format!(r#"{{ endpoints = ["{}"] }}"#, backend.address);
    let gateway = Gateway::start_in(folder_with("registry-echo"), &adapter(&settings));
    until("the list is there", || async { gateway.get("/").await.text() == "one" }).await;
    for bad in ["registry-trap", "registry-loop", "registry-leak", "registry-empty-storm"] {
        let before = gateway.plugin("adapter").await["version"].clone();
        gateway.drop_plugin("adapter", &guest(bad));
        until(&format!("{bad} is in force"), || async {
            gateway.plugin("adapter").await["version"] != before
        })
        .await;
        if bad != "registry-empty-storm" {
            until(&format!("{bad} has failed"), || async {
                let source = gateway.api("/api/v1/upstreams/orders").await["sources"][0].clone();
                source["failure"].to_string().contains("plugin")
            })
            .await;
        }
        assert_eq!(answers(&gateway, 30).await, BTreeSet::from(["one".to_owned()]), "{bad}");
    }
    gateway.drop_plugin("adapter", &guest("registry-echo"));
    until("the list is live again", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["origin"] == "live"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_registry_plugin_takes_over_without_a_gap() {
    let backend = Backend::start("one").await;
    let settings = format!(r#"{{ endpoints = ["{}"] }}"#, backend.address);
    let gateway = Gateway::start_in(folder_with("registry-echo"), &adapter(&settings));
    until("the list is there", || async { gateway.get("/").await.text() == "one" }).await;
    let generation = gateway.api("/api/v1/upstreams/orders").await["generation"].clone();
    let before = gateway.plugin("adapter").await["version"].clone();
    let taken = Instant::now();
    gateway.drop_plugin("adapter", &with_custom_section(&guest("registry-echo"), 7));
    until("it is in force", || async { gateway.plugin("adapter").await["version"] != before }).await;
    // It tells its list at once, and not again within the hour.
    until("it has told its list", || async {
        let age = gateway.api("/api/v1/upstreams/orders").await["sources"][0]["age_seconds"].as_f64();
        age < Some(taken.elapsed().as_secs_f64())
    })
    .await;
    assert_eq!(
        gateway.api("/api/v1/upstreams/orders").await["generation"],
        generation,
        "the same list, no flap"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_a_list_is_left_out() {
    let gateway = Gateway::start_in(folder_with("registry-garbage"), &adapter("{}"));
    until("the list is heard", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["origin"] == "live"
    })
    .await;
    let endpoints = gateway.api("/api/v1/upstreams/orders").await["endpoints"].clone();
    let addresses: Vec<_> = endpoints.as_array().unwrap().iter().map(|e| e["address"].to_string()).collect();
    assert_eq!(addresses.len(), addresses.iter().collect::<BTreeSet<_>>().len(), "{addresses:?}");
    assert!(!addresses.is_empty());
    gateway.logged("Endpoint left out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_endpoints_at_once_slow_nobody() {
    let text = format!(
        "{}\n[upstream.small]\nservice = \"small\"\nregistry = \"memory\"\n\n[registry.memory]\nplugin = \"memory\"\nmemory = true\n\n[[route]]\npath = \"/small\"\nupstream = \"small\"\n",
        adapter("{}")
    );
    let backend = Backend::start("small").await;
    // What else the machine does can only make it later: the soonest of some attempts counts.
    let mut tries = Vec::new();
    while tries.last().is_none_or(|slowest| *slowest >= Duration::from_secs(1)) {
        assert!(tries.len() < 5, "the slowest requests: {tries:?}");
        tries.push(slowest_beside_many(&text, &backend).await);
    }
}

/// How long the slowest request to `small` takes while another upstream gets a hundred thousand endpoints.
async fn slowest_beside_many(config: &str, small: &Backend) -> Duration {
    let gateway = Gateway::start_in(folder_with("registry-echo"), config);
    gateway.register("small", "1", small.address).await;
    until("traffic flows", || async { gateway.get("/small").await.status.is_success() }).await;
    gateway.drop_plugin("adapter", &guest("registry-many"));
    let mut slowest = Duration::ZERO;
    let mut session = gateway.session();
    let start = Instant::now();
    loop {
        let sent = Instant::now();
        assert_eq!(session.get("/small").await.text(), "small");
        slowest = slowest.max(sent.elapsed());
        let upstream = gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
        let all =
            upstream["workers"].as_array().unwrap().iter().all(|w| w["generation"] == upstream["generation"]);
        if upstream["endpoint_count"] == 100_000 && all {
            return slowest;
        }
        assert!(start.elapsed() < PATIENCE * 2, "{upstream}");
    }
}
