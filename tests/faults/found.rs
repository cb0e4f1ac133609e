//! Services that are found by their names, which anybody can make up, and the workers that take them up.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        etcd::Etcd,
        gateway::{Gateway, until},
        service::{self, CLIENTS},
        session::Session,
        traffic::Traffic,
    },
};

const MOST: usize = 8;

fn config(registry: &str) -> String {
    format!(
        r#"
{registry}
[[route]]
path = "/svc/{{service}}"
registry = "main"
max_services = {MOST}
first_list_timeout_ms = 500
"#
    )
}

/// etcd is down, the gateway has been restarted, and strangers ask for names that nobody has. The service whose list
/// is on disk is served all the same.
pub async fn strangers_come_first() -> Outcome {
    let mut etcd = Etcd::start().await;
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        service::register(&mut etcd.client().await, &format!("b{number}"), backend.address).await;
    }
    let toml = etcd.toml(None).replacen('{', "{ connect_timeout_ms = 1000, silence_ms = 1000,", 1);
    let registry = format!(
        "[registry.main]\nplugin = \"etcd\"\netcd = {toml}\nsettings = {{ layout = \"plain\", prefix = \"/services/\" }}\n"
    );
    let gateway = Gateway::start(&config(&registry));
    until("it is found", || async { gateway.get("/svc/orders").await.status.is_success() }).await;
    let lists = gateway.folder().join("state/lists");
    until("the list is on disk", || async {
        std::fs::read_dir(&lists).is_ok_and(|files| {
            // What is still being written has another name.
            let lists = files
                .flatten()
                .map(|file| file.path())
                .filter(|path| path.extension() == Some("json".as_ref()));
            lists
                .map(std::fs::read_to_string)
                .any(|list| list.is_ok_and(|list| list.contains(&backends[1].address.to_string())))
        })
    })
    .await;
    etcd.kill9();
    let gateway = gateway.restart().await;
    let mut strangers = JoinSet::new();
    for number in 0..4 * MOST {
        let mut session = Session::new(gateway.address());
        strangers.spawn(async move { session.get(&format!("/svc/made-up-{number}")).await.status });
    }
    while let Some(status) = strangers.join_next().await {
        assert!(!status.unwrap().is_success());
    }
    let since = Instant::now();
    let traffic = Traffic::mixed(gateway.address(), "/svc/orders", CLIENTS);
    traffic.more(1_000).await;
    etcd.restart().await;
    let new = Backend::start("new").await;
    service::register(&mut etcd.client().await, "new", new.address).await;
    let back = Instant::now();
    let right = traffic.reaches("new", back).await;
    assert!(since.elapsed() < crate::support::gateway::PATIENCE * 2);
    Outcome::without_failure(traffic.stop().await, right)
}

/// Lists change in the moment in which workers take them up for the first time. No worker stays behind.
pub async fn changed_while_taken_up() -> Outcome {
    const SERVICES: usize = 100;
    let memory = "[registry.main]\nplugin = \"memory\"\nmemory = true\n";
    let gateway = Gateway::start(&config(memory).replace(&format!("= {MOST}"), "= 1000"));
    let backends = Backend::several(2).await;
    let [first, second] = [backends[0].address, backends[1].address];
    gateway.register("orders", "1", first).await;
    until("it is found", || async { gateway.get("/svc/orders").await.status.is_success() }).await;
    let traffic = Traffic::mixed(gateway.address(), "/svc/orders", CLIENTS);
    for number in 0..SERVICES {
        let service = format!("s{number}");
        gateway.register(&service, "1", first).await;
        let mut asking = JoinSet::new();
        for _ in 0..4 {
            // A connection each, so that every worker gets one.
            let (mut session, path) = (Session::new(gateway.address()), format!("/svc/{service}"));
            asking.spawn(async move { session.get(&path).await.status });
        }
        for id in ["2", "3"] {
            gateway.register(&service, id, second).await;
        }
        gateway.withdraw(&service, "3").await;
        while let Some(status) = asking.join_next().await {
            assert!(status.unwrap().is_success(), "{service}");
        }
    }
    let caught_up = async || {
        let upstreams = gateway.api("/api/v1/upstreams").await;
        let all = upstreams["upstreams"].as_array().unwrap().clone();
        assert!(all.len() > SERVICES);
        all.iter().all(|upstream| {
            let workers = upstream["workers"].as_array().unwrap();
            // A worker that nobody has asked for it has none of it.
            workers
                .iter()
                .all(|worker| worker["generation"] == 0 || worker["generation"] == upstream["generation"])
        })
    };
    let right = until("no worker is behind", caught_up).await;
    assert!(right < Duration::from_secs(2), "behind for {right:?}");
    Outcome::without_failure(traffic.stop().await, right)
}
