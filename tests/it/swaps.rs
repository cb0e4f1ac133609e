//! Everything changes at once while clients send: endpoints, the selector plugin, the registry plugin.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    guest::{guest, with_custom_section},
};

const SWAPS: usize = 50;
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 4;

/// One upstream whose selector and whose registry adapter are both files in the plugins folder.
const CONFIG: &str = r#"
[registry.memory]
plugin = "memory"
memory = true

[upstream.orders]
service = "orders"
registry = "memory"
selector = "p2c-ewma"

[[route]]
path = "/"
upstream = "orders"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_everything_is_exchanged() {
    let gateway = Arc::new(Gateway::start(CONFIG));
    let backends = Backend::several(8).await;
    // Two that never leave, so that an answer is always possible.
    for number in [0, 1] {
        gateway.register("orders", &format!("b{number}"), backends[number].address).await;
    }
    until("the list is there", || async { gateway.get("/").await.status.is_success() }).await;

    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (mut session, stop, sent) = (gateway.session(), stop.clone(), sent.clone());
        clients.spawn(async move {
            while !stop.load(Relaxed) {
                let answer = session.get("/").await;
                assert!(answer.status.is_success(), "{}: {}", answer.status, answer.text());
                sent.fetch_add(1, Relaxed);
            }
        });
    }

    let changes = tokio::spawn(change_endpoints(
        gateway.clone(),
        backends.iter().map(|b| b.address).collect(),
        stop.clone(),
    ));
    let (selectors, registries) = (["first", "last", "p2c-ewma"], ["memory"]);
    let mut last = (String::new(), String::new());
    for swap in 0..SWAPS {
        // The same component with another custom section is another file, with another digest.
        let selector = with_custom_section(&guest(selectors[swap % 3]), swap);
        let registry = with_custom_section(&guest(registries[0]), swap);
        gateway.drop_plugin("p2c-ewma", &selector);
        gateway.drop_plugin("memory", &registry);
        last = (digest(&selector), digest(&registry));
        for (name, digest) in [("p2c-ewma", &last.0), ("memory", &last.1)] {
            until("the plugin is exchanged", || async { gateway.plugin(name).await["digest"] == **digest })
                .await;
        }
    }
    until("enough requests were sent", || async { sent.load(Relaxed) >= REQUESTS }).await;
    stop.store(true, Relaxed);
    let changed = changes.await.unwrap();
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(changed.per_second > 90.0, "{changed:?}");

    // Every worker ends on the last list and the last plugin.
    until("every worker has caught up", || async {
        let upstream = gateway.api("/api/v1/upstreams/orders").await;
        let version = gateway.plugin("p2c-ewma").await["version"].clone();
        upstream["workers"].as_array().unwrap().iter().all(|worker| {
            worker["generation"] == upstream["generation"] && worker["selector_version"] == version
        })
    })
    .await;
    assert_eq!(gateway.plugin("p2c-ewma").await["digest"], *last.0);
    assert_eq!(gateway.plugin("memory").await["digest"], *last.1);
    let upstream = gateway.api("/api/v1/upstreams/orders").await;
    assert_eq!(upstream["sources"][0]["origin"], "live");
    let offered = upstream["endpoints"].as_array().unwrap().len();
    let registered = gateway.api("/api/v1/services/orders").await["instances"].as_array().unwrap().len();
    assert_eq!(offered, registered);
}

#[derive(Debug)]
struct Changed {
    per_second: f64,
}

/// Registers and withdraws endpoints, a hundred times a second.
async fn change_endpoints(
    gateway: Arc<Gateway>,
    addresses: Vec<std::net::SocketAddr>,
    stop: Arc<AtomicBool>,
) -> Changed {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut admin = gateway.session_to_admin();
    let (start, mut changes) = (Instant::now(), 0usize);
    while !stop.load(Relaxed) {
        ticks.tick().await;
        let number = 2 + changes / 2 % (addresses.len() - 2);
        let path = format!("/api/v1/services/orders/b{number}");
        let answer = match changes % 2 {
            0 => admin.put(&path, format!(r#"{{"address":"{}"}}"#, addresses[number])).await,
            _ => admin.delete(&path).await,
        };
        assert!(answer.status.is_success(), "{}", answer.text());
        changes += 1;
    }
    Changed { per_second: changes as f64 / start.elapsed().as_secs_f64() }
}

fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
