//! A plugin that takes long to compile.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        component::of_length,
        etcd::Etcd,
        gateway::{Gateway, until},
        guest::guest,
        service::{self, Service},
    },
};

/// As long as the interpreter of a language with its libraries.
const BYTES: usize = 12 << 20;

/// Health is asked for so many times meanwhile, and each answer comes within this. The machine is busy with compiling.
const ASKED: usize = 100;
const HEALTHY_WITHIN: Duration = Duration::from_secs(1);

/// From the change of the configuration to the first request that goes by it.
const RECONFIGURED_WITHIN: Duration = Duration::from_secs(3);

/// From SIGTERM to the end of a gateway that has nothing to wait for.
const ENDED_WITHIN: Duration = Duration::from_secs(3);

/// The selector of a service in use is exchanged for a large one. While that is compiled the old one picks, health
/// answers, the configuration is changed and, in the middle of it, the gateway ends.
pub async fn large() -> Outcome {
    let etcd = Etcd::start().await;
    let config = format!(
        "[shutdown]\ndelay_ms = 0\ndrain_ms = 0\n{}",
        service::config(&etcd.toml(None), "").replace("\"round-robin\"", "\"mine\"")
    );
    let small = guest("round-robin");
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join("plugins/mine.wasm"), &small).unwrap();
    let backends = Backend::several(2).await;
    let mut client = etcd.client().await;
    for (number, backend) in backends.iter().enumerate() {
        service::register(&mut client, &format!("b{number}"), backend.address).await;
    }
    let service = Service::on(Gateway::start_in(folder, &config), backends).await;
    let Service { mut gateway, backends: _backends, traffic } = service;
    let before = gateway.plugin("mine").await["version"].clone();
    gateway.drop_plugin("mine", &of_length(&small, BYTES));
    until("it is being compiled", || async { gateway.plugin("mine").await["state"] == "compiling" }).await;

    let (mut slowest, mut taken) = (Duration::ZERO, Duration::ZERO);
    let new = Backend::start("new").await;
    client.put("/services/others/new", new.address.to_string(), None).await.unwrap();
    for number in 0..ASKED {
        let asked = Instant::now();
        assert!(gateway.session_to_admin().get("/healthz").await.status.is_success());
        slowest = slowest.max(asked.elapsed());
        traffic.more(5).await;
        if number == ASKED / 2 {
            let since = Instant::now();
            gateway.reconfigure(&config.replace("service = \"orders\"", "service = \"others\""));
            taken = traffic.reaches("new", since).await;
        }
    }
    assert!(slowest < HEALTHY_WITHIN, "health after {slowest:?}");
    assert!(taken < RECONFIGURED_WITHIN, "the configuration in force after {taken:?}");
    let plugin = gateway.plugin("mine").await;
    assert_eq!((&plugin["state"], &plugin["version"]), (&"compiling".into(), &before), "{plugin}");
    // What is under way when a gateway ends is not what this is about.
    let tally = traffic.stop().await;
    assert_eq!(gateway.plugin("mine").await["state"], "compiling");
    let asked = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    let ended = asked.elapsed();
    assert!(ended < ENDED_WITHIN, "the end after {ended:?}");
    eprintln!(
        "a large plugin is compiled: the slowest answer about health took {slowest:.0?}, a changed configuration was in \
         force after {taken:.0?}, the process had ended {ended:.0?} after SIGTERM"
    );
    Outcome::without_failure(tally, taken)
}
