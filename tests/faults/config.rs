//! What may happen to the gateway's own files: its configuration, and the plugins folder.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        component::with_custom_section,
        etcd::Etcd,
        gateway::{PATIENCE, until},
        guest::guest,
        service::{self, Service},
        traffic::Traffic,
    },
};

/// How long each thing stands where the configuration should.
const LASTS: Duration = Duration::from_secs(4);

/// A file that is gone is looked for once a second at least.
const NOTICED: Duration = Duration::from_secs(1);

/// Room for a busy machine.
const ROOM: Duration = Duration::from_secs(2);

/// The configuration is gone, or something else is in its place, and a plugin is a link to nowhere: neither is tried
/// without a pause, nor told again and again, and a right configuration is in force soon.
pub async fn gone() -> Outcome {
    let etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let Service { gateway, backends: _backends, traffic } = service;
    let new = Backend::start("new").await;
    etcd.client().await.put("/services/others/new", new.address.to_string(), None).await.unwrap();
    fs::create_dir_all(gateway.folder().join("plugins")).unwrap();
    symlink("nowhere", gateway.folder().join("plugins/odd.wasm")).unwrap();
    let path = gateway.folder().join("witgate.toml");
    let in_the_way: [fn(&Path); 4] = [
        |_| {},
        |path| fs::create_dir(path).unwrap(),
        |path| symlink("nowhere", path).unwrap(),
        |path| fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
    ];
    let before = gateway.log().lines().count();
    for place in in_the_way {
        remove(&path);
        place(&path);
        tokio::time::sleep(LASTS).await;
    }
    let said = gateway.log().lines().count() - before;
    assert!(said <= 20, "{said} lines: {}", gateway.log());
    remove(&path);
    let config =
        service::config(&etcd.toml(None), "").replace("service = \"orders\"", "service = \"others\"");
    let since = Instant::now();
    gateway.reconfigure(&config);
    let right = traffic.reaches("new", since).await;
    assert!(right < NOTICED + ROOM, "in force after {right:?}");
    Outcome::without_failure(traffic.stop().await, right)
}

fn remove(path: &Path) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    if metadata.is_dir() { fs::remove_dir(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

/// Files in the plugins folder that have no end, or that nobody writes to, hold up nothing: health answers, plugins and
/// configuration are exchanged, and the gateway starts and ends as ever.
pub async fn odd_plugins() -> Outcome {
    let etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let Service { gateway, backends: _backends, traffic } = service;
    let plugins = gateway.folder().join("plugins");
    fs::create_dir_all(&plugins).unwrap();
    let made = std::process::Command::new("mkfifo").arg(plugins.join("pipe.wasm")).status().unwrap();
    assert!(made.success());
    symlink("/dev/zero", plugins.join("zero.wasm")).unwrap();
    fs::File::create(plugins.join("zeros.wasm")).unwrap().set_len(200 << 20).unwrap();
    let before = gateway.plugin("etcd").await["version"].clone();
    gateway.drop_plugin("etcd", &with_custom_section(&guest("etcd"), 3));
    let start = Instant::now();
    while gateway.plugin("etcd").await["version"] == before {
        assert!(start.elapsed() < PATIENCE, "the plugin beside them is not taken");
        healthy(&gateway).await;
    }
    let new = Backend::start("new").await;
    etcd.client().await.put("/services/others/new", new.address.to_string(), None).await.unwrap();
    let config =
        service::config(&etcd.toml(None), "").replace("service = \"orders\"", "service = \"others\"");
    let since = Instant::now();
    gateway.reconfigure(&config);
    let right = traffic.reaches("new", since).await;
    let tally = traffic.stop().await.none_failed();
    assert!(gateway.memory() < 200 << 20, "{} bytes", gateway.memory());
    let mut gateway = gateway.restart().await;
    let traffic = Traffic::mixed(gateway.address(), "/", service::CLIENTS);
    traffic.more(200).await;
    let tally = tally + traffic.stop().await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    Outcome::without_failure(tally, right)
}

async fn healthy(gateway: &crate::support::gateway::Gateway) {
    let asked = Instant::now();
    assert!(gateway.session_to_admin().get("/healthz").await.status.is_success());
    assert!(asked.elapsed() < ROOM, "health after {:?}", asked.elapsed());
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// The system's resolver does not answer. What is registered by its address counts at once all the same.
pub async fn silent_resolver() -> Outcome {
    // Nobody reads from it, and nobody refuses either.
    let silent = std::net::UdpSocket::bind("127.9.9.9:53").unwrap();
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        service::register(&mut client, &format!("b{number}"), backend.address).await;
    }
    for number in 0..3 {
        let address = format!("slow{number}.example:80");
        client.put(format!("/services/orders/slow{number}"), address, None).await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let resolver = folder.path().join("resolv.conf");
    fs::write(&resolver, "nameserver 127.9.9.9\noptions timeout:5 attempts:2\n").unwrap();
    let with = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolver.display());
    let program = ["unshare", "--mount", "sh", "-c", &with, "sh"];
    let config = service::config(&etcd.toml(None), "");
    let started = Instant::now();
    let gateway = crate::support::gateway::Gateway::start_by(&program, folder, &config);
    until("what needs no resolver is there", || async {
        let upstream = gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
        upstream["endpoint_count"].as_u64() >= Some(2)
    })
    .await;
    assert!(started.elapsed() < ROOM * 3, "the first list after {:?}", started.elapsed());
    let traffic = Traffic::mixed(gateway.address(), "/", service::CLIENTS);
    let mut right = Duration::ZERO;
    let mut all = backends;
    for number in 0..3 {
        let name = format!("new{number}");
        let later = format!("/services/orders/later{number}");
        client.put(later, format!("later{number}.example:80"), None).await.unwrap();
        let new = Backend::start(&name).await;
        service::register(&mut client, &name, new.address).await;
        right = right.max(traffic.reaches(&name, Instant::now()).await);
        all.push(new);
    }
    assert!(right < ROOM, "an address waits {right:?} for names");
    drop(silent);
    Outcome::without_failure(traffic.stop().await, right)
}
