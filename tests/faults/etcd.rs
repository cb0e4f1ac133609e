//! What etcd may do.

use std::time::{Duration, Instant};

use etcd_client::CompactionOptions;

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        cluster::Cluster,
        etcd::Etcd,
        gateway::until,
        network::{Disturbance, Network},
        service::{self, Service},
    },
};

async fn start() -> (Etcd, Service) {
    let etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    (etcd, service)
}

/// A new instance is found, and nothing has failed until then.
async fn recovers(etcd: &Etcd, mut service: Service) -> Outcome {
    let right = service.reaches_a_new_one(etcd.client()).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn killed() -> Outcome {
    let (mut etcd, service) = start().await;
    etcd.kill9();
    service.becomes("frozen").await;
    service.traffic.more(1_000).await;
    etcd.restart().await;
    recovers(&etcd, service).await
}

pub async fn down_for_a_minute() -> Outcome {
    let (mut etcd, service) = start().await;
    etcd.kill9();
    service.becomes("frozen").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    etcd.restart().await;
    recovers(&etcd, service).await
}

pub async fn stopped() -> Outcome {
    let (etcd, service) = start().await;
    etcd.stop();
    let since = Instant::now();
    service.becomes("frozen").await;
    let noticed = since.elapsed();
    assert!(noticed < Duration::from_secs(5), "half open for {noticed:?}, twice the silence is 2 s");
    service.traffic.more(1_000).await;
    etcd.cont();
    recovers(&etcd, service).await
}

pub async fn restarted() -> Outcome {
    let (mut etcd, service) = start().await;
    etcd.restart().await;
    recovers(&etcd, service).await
}

pub async fn restarted_empty() -> Outcome {
    let (mut etcd, service) = start().await;
    etcd.restart_empty().await;
    nothing_claimed(&service).await;
    service.traffic.more(1_000).await;
    recovers(&etcd, service).await
}

/// Two of three instances registered after the backup was made. They and one more register again later.
pub async fn restored_from_a_backup() -> Outcome {
    let mut etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let backends = Backend::several(3).await;
    service::register(&mut client, "b0", backends[0].address).await;
    let backup = etcd.back_up();
    for (number, backend) in backends.iter().enumerate().skip(1) {
        service::register(&mut client, &format!("b{number}"), backend.address).await;
    }
    let before = stands(&etcd).await;
    let mut service = Service::with(backends, &service::config(&etcd.toml(None), "")).await;
    etcd.restart_from(&backup).await;
    let after = stands(&etcd).await;
    assert!(after.0 != before.0 && after.1 < before.1, "cluster and revision: {before:?}, then {after:?}");
    until("the old state is heard", || async { service::source(&service.gateway).await["instances"] == 1 })
        .await;
    assert_eq!(service::source(&service.gateway).await["origin"], "live");
    service.traffic.more(1_000).await;
    let mut client = etcd.client().await;
    for number in [1, 2] {
        service::register(&mut client, &format!("b{number}"), service.backends[number].address).await;
    }
    let right = service.reaches_a_new_one(etcd.client()).await;
    service::withdraw(&mut client, "b0").await;
    service::endpoints(&service.gateway, 3).await;
    assert_eq!(service::source(&service.gateway).await["reserve"]["count"], 0);
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

/// Which cluster this is, and at which revision.
async fn stands(etcd: &Etcd) -> (u64, i64) {
    let answer = etcd.client().await.get("any", None).await.unwrap();
    let header = answer.header().unwrap();
    (header.cluster_id(), header.revision())
}

pub async fn leases_expired() -> Outcome {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        service::register_for(&mut client, &format!("b{number}"), backend.address, 4).await;
    }
    let service = Service::with(backends, &service::config(&etcd.toml(None), "")).await;
    nothing_claimed(&service).await;
    assert_eq!(service::source(&service.gateway).await["origin"], "live");
    service.traffic.more(1_000).await;
    recovers(&etcd, service).await
}

async fn nothing_claimed(service: &Service) {
    until("nothing is claimed", || async { service::source(&service.gateway).await["instances"] == 0 }).await;
}

pub async fn leader_killed() -> Outcome {
    let mut etcd = Cluster::start(3).await;
    let mut service = Service::start(etcd.client().await, &etcd.toml()).await;
    let leader = etcd.leader().await;
    etcd.kill9(leader);
    etcd.leader().await;
    let right = service.reaches_a_new_one(etcd.client()).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn quorum_lost() -> Outcome {
    let mut etcd = Cluster::start(3).await;
    let mut service = Service::start(etcd.client().await, &etcd.toml()).await;
    let leader = etcd.leader().await;
    let follower = (leader + 1) % 3;
    etcd.kill9(leader);
    etcd.kill9(follower);
    service.becomes("frozen").await;
    service.traffic.more(1_000).await;
    etcd.start_member(follower);
    etcd.leader().await;
    let right = service.reaches_a_new_one(etcd.client()).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn compacted() -> Outcome {
    let network = Network::new();
    let etcd = Cluster::inside(&network).await;
    let mut service = Service::start(etcd.client().await, &etcd.toml()).await;
    network.disturb(2379, Disturbance::Cut);
    service.becomes("frozen").await;
    let mut client = etcd.client().await;
    for _ in 0..100 {
        service::register(&mut client, "b1", service.backends[1].address).await;
    }
    service::withdraw(&mut client, "b0").await;
    let revision = client.get("any", None).await.unwrap().header().unwrap().revision();
    let physical = CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.unwrap();
    service.traffic.more(1_000).await;
    network.heal();
    let right = service.reaches_a_new_one(etcd.client()).await;
    service::endpoints(&service.gateway, 2).await;
    service.traffic.more(200).await;
    Outcome::without_failure(service.traffic.stop().await, right)
}

pub async fn password_revoked() -> Outcome {
    let mut etcd = Etcd::start().await;
    etcd.lock("gateway", "first", "/services/").await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("etcd.pass");
    std::fs::write(&password, "first\n").unwrap();
    let mut client = etcd.client().await;
    let service = Service::start(etcd.client().await, &etcd.toml(Some(("gateway", &password)))).await;
    client.user_change_password("gateway", "second").await.unwrap();
    etcd.restart().await;
    denied(&service).await;
    service.traffic.more(1_000).await;
    etcd.client().await.user_change_password("gateway", "first").await.unwrap();
    recovers(&etcd, service).await
}

pub async fn certificate_expired() -> Outcome {
    let mut etcd = Etcd::start_with_tls().await;
    // Another than the test's own.
    let pair = etcd.certs().client("gateway");
    let own = etcd.config().tls.unwrap().certificate.unwrap().0.display().to_string();
    let toml = etcd.toml(None).replace(&own, &pair.certificate.display().to_string());
    let own = etcd.config().tls.unwrap().certificate.unwrap().1.display().to_string();
    let toml = toml.replace(&own, &pair.key.display().to_string());
    let service = Service::start(etcd.client().await, &toml).await;
    etcd.certs().expired_client("gateway");
    etcd.restart().await;
    service.becomes("frozen").await;
    denied(&service).await;
    service.traffic.more(1_000).await;
    etcd.certs().client("gateway");
    recovers(&etcd, service).await
}

/// The operator is told that somebody must act.
async fn denied(service: &Service) {
    until("etcd denies", || async { service::source(&service.gateway).await["failure"]["kind"] == "denied" })
        .await;
}
