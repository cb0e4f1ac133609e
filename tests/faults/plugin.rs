//! What a registry plugin may do.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        component::with_custom_section,
        etcd::Etcd,
        gateway::{Gateway, PATIENCE, until},
        guest::guest,
        service::{self, CLIENTS, Service},
        traffic::Traffic,
    },
};

/// The registry's plugin is the file `adapter` in the plugins folder; `settings` is what it is told.
fn config(settings: &str) -> String {
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

fn settings(addresses: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    format!("{{ endpoints = {endpoints:?} }}")
}

/// A gateway with this adapter.
fn run(adapter: &str, settings: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/adapter.wasm"), guest(adapter)).unwrap();
    Gateway::start_in(folder, &config(settings))
}

/// One that behaves and has two instances, with clients.
async fn start() -> Service {
    let backends = Backend::several(2).await;
    let gateway = run("registry-echo", &settings(&[backends[0].address, backends[1].address]));
    service::endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    Service { gateway, backends, traffic }
}

/// Exchanges the plugin and waits until the other is in force.
async fn exchange(gateway: &Gateway, bytes: &[u8]) {
    let before = gateway.plugin("adapter").await["version"].clone();
    gateway.drop_plugin("adapter", bytes);
    until("the plugin is in force", || async { gateway.plugin("adapter").await["version"] != before }).await;
}

/// Puts one that behaves in its place, which knows of one more instance.
async fn repair(service: &mut Service) -> Duration {
    exchange(&service.gateway, &with_custom_section(&guest("registry-echo"), 1)).await;
    let new = Backend::start("new").await;
    let addresses = [service.backends[0].address, service.backends[1].address, new.address];
    service.backends.push(new);
    let since = Instant::now();
    service.gateway.reconfigure(&config(&settings(&addresses)));
    service.traffic.reaches("new", since).await
}

/// The list is kept while the plugin fails again and again.
async fn fails(bad: &str) -> Outcome {
    let mut service = start().await;
    exchange(&service.gateway, &guest(bad)).await;
    until("it has failed", || async {
        service::source(&service.gateway).await["failure"]["kind"] == "plugin"
    })
    .await;
    service.traffic.more(2_000).await;
    let right = repair(&mut service).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn traps() -> Outcome {
    // From its first list on it is asked for changes, and traps.
    let backends = Backend::several(2).await;
    let told = settings(&[backends[0].address, backends[1].address]).replace(" }", ", n = 3 }");
    let gateway = run("registry-trap", &told);
    service::endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    until("it has trapped", || async { gateway.plugin("adapter").await["faults"].as_u64() > Some(3) }).await;
    traffic.more(2_000).await;
    let new = Backend::start("new").await;
    let told = settings(&[backends[0].address, backends[1].address, new.address]).replace(" }", ", n = 3 }");
    let since = Instant::now();
    gateway.reconfigure(&config(&told));
    let right = traffic.reaches("new", since).await;
    Outcome::without_failure(traffic.stop().await, right)
}

pub async fn loops() -> Outcome {
    fails("registry-loop").await
}

pub async fn leaks() -> Outcome {
    fails("registry-leak").await
}

/// Two of the addresses that it answers make sense, and nobody listens there.
pub async fn garbage() -> Outcome {
    /// Until its two are known to be dead, requests may meet both of them: two refused connections take one out.
    const BOUND: u64 = 2 * 2 * CLIENTS as u64;
    let mut service = start().await;
    let since = Instant::now();
    exchange(&service.gateway, &guest("registry-garbage")).await;
    service.traffic.more(2_000).await;
    let wrong = service.traffic.last_wrong(since, &[]);
    assert!(wrong < Duration::from_secs(2), "requests failed for {wrong:?}");
    let right = repair(&mut service).await;
    Outcome::within(BOUND, service.traffic.stop().await, right)
}

/// A hundred addresses where nobody listens, in place of all it said before.
pub async fn dead() -> Outcome {
    /// The third that refuses takes all of them out: two requests, and what each client sends until workers hear of
    /// it. Once when they take the place of others, and once when others take theirs and they are the reserve.
    const BOUND: u64 = 2 * (2 + 2 * CLIENTS as u64);
    let mut service = start().await;
    // What it said before is known to the new source from there.
    let saved = service.gateway.folder().join("state/lists/orders.json");
    until("the list is on disk", || async { saved.exists() }).await;
    let addresses: Vec<SocketAddr> = (2..102).map(|last| ([127, 0, 0, last], 1).into()).collect();
    let since = Instant::now();
    service.gateway.reconfigure(&config(&settings(&addresses)));
    service.traffic.more(3_000).await;
    let wrong = service.traffic.last_wrong(since, &[]);
    assert!(wrong < Duration::from_secs(3), "requests failed for {wrong:?}");
    let right = repair(&mut service).await;
    Outcome::within(BOUND, service.traffic.stop().await, right)
}

pub async fn duplicates() -> Outcome {
    let mut service = start().await;
    let addresses = [0, 0, 1, 1, 0].map(|number: usize| service.backends[number].address);
    service.gateway.reconfigure(&config(&settings(&addresses)));
    service.traffic.more(1_000).await;
    service::endpoints(&service.gateway, 2).await;
    let right = repair(&mut service).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

/// Of another upstream: what it claims is not there.
pub async fn many() -> Outcome {
    let small = Backend::start("small").await;
    let text = format!(
        "{}\n[registry.memory]\nplugin = \"memory\"\nmemory = true\n\n[upstream.small]\nservice = \"small\"\n\
         registry = \"memory\"\n\n[[route]]\npath = \"/small\"\nupstream = \"small\"\n",
        config("{}")
    );
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/adapter.wasm"), guest("registry-echo")).unwrap();
    let gateway = Gateway::start_in(folder, &text);
    gateway.register("small", "1", small.address).await;
    until("it is there", || async { gateway.get("/small").await.status.is_success() }).await;
    let traffic = Traffic::mixed(gateway.address(), "/small", CLIENTS);
    exchange(&gateway, &guest("registry-many")).await;
    let since = Instant::now();
    let on_all_workers = || async {
        let upstream = gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
        let workers = upstream["workers"].as_array().unwrap();
        upstream["endpoint_count"] == 100_000
            && workers.iter().all(|worker| worker["generation"] == upstream["generation"])
    };
    while !on_all_workers().await {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let right = since.elapsed();
    traffic.more(500).await;
    let tally = traffic.stop().await;
    // A worker is away for a tenth of a second at most; the rest is room for a busy machine.
    assert!(tally.slowest < Duration::from_secs(2), "{tally}");
    Outcome::without_failure(tally, right)
}

/// Its balancers fail again and again. What is registered meanwhile gets requests as soon as ever.
pub async fn selector_traps() -> Outcome {
    const ROUNDS: usize = 8;
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        service::register(&mut client, &format!("b{number}"), backend.address).await;
    }
    // It passes its test and some requests. Never quarantined, so that it goes on failing.
    let config = service::config(&etcd.toml(None), "")
        .replace("\"round-robin\"", "{ plugin = \"mine\", settings = { after = 20 } }");
    let config = format!("[plugins]\nselector = {{ faults_per_minute = 1000000 }}\n{config}");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/mine.wasm"), guest("trap")).unwrap();
    let gateway = Gateway::start_in(folder, &config);
    service::endpoints(&gateway, 2).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    until("it has trapped", || async { gateway.plugin("mine").await["faults"].as_u64() > Some(12) }).await;
    let mut right = Duration::ZERO;
    let mut all = backends;
    for number in 0..ROUNDS {
        let name = format!("new{number}");
        let new = Backend::start(&name).await;
        service::register(&mut client, &name, new.address).await;
        let since = Instant::now();
        let known = || async {
            let upstream = gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
            let workers = upstream["workers"].as_array().unwrap();
            upstream["endpoint_count"] == all.len() + 1
                && workers.iter().all(|worker| worker["generation"] == upstream["generation"])
        };
        until("every worker knows it", known).await;
        right = right.max(since.elapsed());
        all.push(new);
    }
    assert!(right < Duration::from_secs(2), "a list waited {right:?} for a selector");
    Outcome::without_failure(traffic.stop().await, right)
}

pub async fn exchanged() -> Outcome {
    let mut etcd = Etcd::start().await;
    let mut service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    etcd.kill9();
    service.becomes("frozen").await;
    let before = service.gateway.plugin("etcd").await["version"].clone();
    service.gateway.drop_plugin("etcd", &with_custom_section(&guest("etcd"), 2));
    until("it is in force", || async { service.gateway.plugin("etcd").await["version"] != before }).await;
    service.traffic.more(2_000).await;
    etcd.restart().await;
    let right = service.reaches_a_new_one(etcd.client()).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}
