//! The gateway itself is killed. Requests on their way are lost with it; each one after its start counts.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        cluster::Cluster,
        etcd::Etcd,
        gateway::{Gateway, until},
        network::{Disturbance, Network},
        service::{self, CLIENTS, Service},
        traffic::{Tally, Traffic},
    },
};

struct Stage {
    etcd: Etcd,
    gateway: Gateway,
    backends: Vec<Backend>,
    before: Tally,
}

/// A gateway that has written its list; nobody sends any more.
async fn start() -> Stage {
    let etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    let Service { gateway, backends, traffic } = service;
    until("the list is on disk", || async { list(&gateway).exists() }).await;
    Stage { etcd, gateway, backends, before: traffic.stop().await }
}

fn list(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("state/lists/orders.json")
}

pub async fn killed_while_etcd_is_down() -> Outcome {
    let Stage { mut etcd, gateway, backends: _backends, before } = start().await;
    etcd.kill9();
    let gateway = gateway.restart().await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(2_000).await;
    assert_eq!(service::source(&gateway).await["origin"], "restored");
    etcd.restart().await;
    let new = Backend::start("new").await;
    service::register(&mut etcd.client().await, "new", new.address).await;
    let right = traffic.reaches("new", Instant::now()).await;
    Outcome::without_failure(before + traffic.stop().await, right)
}

/// Nobody refuses, nobody answers: it serves nonetheless, and does not wait for that.
pub async fn killed_while_etcd_is_silent() -> Outcome {
    let network = Network::new();
    let etcd = Cluster::inside(&network).await;
    let service = Service::start(etcd.client().await, &etcd.toml()).await;
    let Service { gateway, backends: _backends, traffic } = service;
    until("the list is on disk", || async { list(&gateway).exists() }).await;
    let before = traffic.stop().await;
    network.disturb(2379, Disturbance::Cut);
    let killed = Instant::now();
    let gateway = gateway.restart().await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(5), "ready after {took:?}");
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(2_000).await;
    assert_eq!(service::source(&gateway).await["origin"], "restored");
    network.heal();
    let new = Backend::start("new").await;
    service::register(&mut etcd.client().await, "new", new.address).await;
    let right = traffic.reaches("new", Instant::now()).await;
    Outcome::without_failure(before + traffic.stop().await, right)
}

pub async fn killed_while_the_data_changes() -> Outcome {
    let Stage { etcd, gateway, backends, before } = start().await;
    // All of them move while the gateway is away.
    drop(backends);
    let mut client = etcd.client().await;
    for id in ["b0", "b1"] {
        service::withdraw(&mut client, id).await;
    }
    let new = Backend::start("new").await;
    service::register(&mut client, "new", new.address).await;
    let gateway = gateway.restart().await;
    let ready = Instant::now();
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    let right = traffic.reaches("new", ready).await;
    traffic.more(500).await;
    Outcome::without_failure(before + traffic.stop().await, right)
}

/// The instances were replaced one by one, and the old ones still answer. They get nothing, before and after.
pub async fn killed_after_all_were_replaced() -> Outcome {
    // Twice, so that more was removed than is believed at once.
    const OLD: [&str; 4] = ["b0", "b1", "n0", "n1"];
    let Stage { mut etcd, gateway, backends, before } = start().await;
    let mut client = etcd.client().await;
    let mut new = Vec::new();
    for (id, old) in ["n0", "n1", "m0", "m1"].into_iter().zip(OLD) {
        let backend = Backend::start(id).await;
        service::register(&mut client, id, backend.address).await;
        new.push(backend);
        service::withdraw(&mut client, old).await;
    }
    let last = Backend::start("last").await;
    service::register(&mut client, "last", last.address).await;
    // The last to come is in the list after the last that went.
    until("the list is on disk", || async {
        fs::read_to_string(list(&gateway)).is_ok_and(|list| list.contains(&last.address.to_string()))
    })
    .await;
    let met = |traffic: &Traffic| OLD.map(|old| traffic.answered_by(old));
    let live = Traffic::mixed(gateway.address(), "/", CLIENTS);
    live.more(200).await;
    assert_eq!(met(&live), [0; 4], "the old are in use");
    let before = before + live.stop().await;
    etcd.kill9();
    let gateway = gateway.restart().await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(1_000).await;
    assert_eq!(service::source(&gateway).await["origin"], "restored");
    assert_eq!(met(&traffic), [0; 4], "requests to the old after a restart");
    etcd.restart().await;
    let newest = Backend::start("newest").await;
    service::register(&mut etcd.client().await, "newest", newest.address).await;
    let right = traffic.reaches("newest", Instant::now()).await;
    drop(backends);
    Outcome::without_failure(before + traffic.stop().await, right)
}

pub async fn killed_and_its_state_damaged() -> Outcome {
    let Stage { etcd, mut gateway, backends: _backends, mut before } = start().await;
    let mut right = Duration::ZERO;
    let whole = fs::read(list(&gateway)).unwrap();
    let torn = whole[..whole.len() / 2].to_vec();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (number, damaged) in
        [torn, flipped, Vec::new(), vec![0; 4_096], b"{}".to_vec()].into_iter().enumerate()
    {
        // The gateway is not asked to end: what it writes at its end is not what is read.
        let file = list(&gateway);
        gateway.signal("STOP");
        fs::write(&file, damaged).unwrap();
        gateway = gateway.restart().await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        traffic.more(200).await;
        let (name, new) = (format!("new{number}"), Backend::start("new").await);
        service::register(&mut etcd.client().await, &name, new.address).await;
        right = right.max(traffic.reaches("new", Instant::now()).await);
        service::withdraw(&mut etcd.client().await, &name).await;
        service::endpoints(&gateway, 2).await;
        before = before + traffic.stop().await;
        until("the list is on disk", || async { list(&gateway).exists() }).await;
    }
    Outcome::without_failure(before, right)
}
