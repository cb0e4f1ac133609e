//! Plugins as the rest of the gateway sees them: shipped, dropped into the folder, replaced, removed.

use std::{fs, path::Path, rc::Rc, sync::Arc, time::Duration};

use super::{testing::guest, *};
use crate::{
    bindings::wit,
    config::RegistryLimits,
    connector::{Grants, Lent, Memory, etcd, memory},
    registry::{Failure, Standing},
    selector::{PickRequest, Place},
    upstream::{Change, Endpoint, Facts, Offer, Publisher, Reader, UpstreamName, Weight},
};

struct Fixture {
    plugins: Plugins,
    temp: tempfile::TempDir,
}

fn start() -> Fixture {
    start_with(|_| {})
}

/// With files that are in the folder from the beginning.
fn start_with(fill: impl FnOnce(&Path)) -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let mut config = Config::empty(temp.path().to_owned());
    config.plugins.registry =
        RegistryLimits { cpu: Duration::from_millis(50), memory_bytes: 32 << 20, table_elements: 10_000 };
    // Little enough to be used up before a pick has taken too long.
    config.plugins.selector.memory_bytes = 4 << 20;
    fs::create_dir(&config.plugins.directory).unwrap();
    fill(&config.plugins.directory);
    let plugins = Plugins::start(&config, Arc::new(Lent::new(Memory::unkept()))).unwrap();
    Fixture { plugins, temp }
}

impl Fixture {
    /// Puts a file into the folder, whole or not at all.
    fn drop_in(&self, name: &str, bytes: &[u8]) {
        let folder = self.temp.path().join("plugins");
        let part = folder.join("part");
        fs::write(&part, bytes).unwrap();
        fs::rename(part, folder.join(format!("{name}.wasm"))).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.temp.path().join("plugins").join(format!("{name}.wasm"))).unwrap();
    }

    fn info(&self, name: &str) -> PluginInfo {
        self.plugins.list().into_iter().find(|info| &*info.name == name).unwrap()
    }

    async fn refused(&self, name: &str, bytes: &[u8]) -> LoadError {
        let before = self.plugins.list().iter().find(|info| &*info.name == name).map_or(0, |i| i.refusals);
        self.drop_in(name, bytes);
        loop {
            let info = self.plugins.list().into_iter().find(|info| &*info.name == name);
            match info.filter(|info| info.refusals > before) {
                Some(info) => return info.last_refusal.unwrap().reason,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn registry(&self, plugin: &str, settings: &str) -> Arc<dyn Registry> {
        self.plugins.registry(&Arc::new(registry(plugin, settings)))
    }
}

fn registry(plugin: &str, settings: &str) -> config::Registry {
    config::Registry {
        name: "main".into(),
        plugin: plugin.into(),
        grants: Grants { memory: Some(memory::Grant), ..Grants::default() },
        settings: settings.into(),
    }
}

fn list(endpoints: u16) -> Reader {
    let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
    let endpoint = |port| Endpoint {
        address: ([127, 0, 0, 1], port).into(),
        weight: Weight::ONE,
        facts: Facts::default(),
    };
    publisher
        .publish((1..=endpoints).map(|port| Offer::Put(endpoint(port))).collect(), std::time::Instant::now());
    reader
}

fn uses_selector(plugin: &str, settings: &str) -> Uses {
    let one = SelectorUse {
        upstream: UpstreamName::new("orders"),
        settings: settings.into(),
        reader: Some(list(700)),
    };
    Uses { selectors: [(plugin.to_owned(), vec![one])].into(), ..Uses::default() }
}

fn uses_registry(plugin: &str, settings: &str) -> Uses {
    let one = RegistryUse { registry: "main".into(), settings: settings.into() };
    Uses { registries: [(plugin.to_owned(), vec![one])].into(), ..Uses::default() }
}

/// What a fresh balancer of the version in force picks from four endpoints.
fn pick(current: &crate::selector::Current) -> u32 {
    let selector = current.borrow().clone().unwrap();
    let (mut balancer, _) = selector.on_worker().create("{}").unwrap();
    let snapshot = Rc::new(list(4).snapshot());
    let all: Vec<Change> = snapshot.iter().cloned().map(Change::Put).collect();
    balancer.update(Place::Beside, true, &all, &snapshot).unwrap();
    let request = PickRequest { hash: None, attempt: 0, tried: &[], attributes: &[] };
    balancer.pick(&request, &snapshot).unwrap().unwrap().0
}

#[tokio::test]
async fn a_shipped_plugin_is_loaded_when_it_is_used() {
    let fixture = start();
    assert_eq!(fixture.info("round-robin").state, State::Unused);
    fixture.plugins.set_uses(uses_selector("round-robin", "{}")).await;
    let current = fixture.plugins.selector("round-robin");
    assert!(current.borrow().is_some());
    let info = fixture.info("round-robin");
    assert_eq!(
        (info.state, info.origin, info.kind),
        (State::Running, Some(Origin::Shipped), Some(Kind::Selector))
    );
    drop(current);
    assert_eq!(fixture.info("round-robin").state, State::Loaded, "nobody uses it any more");
    assert!(fixture.temp.path().join("state/compiled-plugins").is_dir(), "compiled code is kept");
}

#[tokio::test]
async fn a_file_takes_the_place_of_what_runs_and_gives_it_back() {
    let fixture = start();
    fixture.plugins.set_uses(uses_selector("round-robin", "{}")).await;
    let mut current = fixture.plugins.selector("round-robin");
    current.mark_unchanged();

    fixture.drop_in("round-robin", &guest("last"));
    current.changed().await.unwrap();
    assert_eq!(pick(&current), 3);
    assert!(matches!(fixture.info("round-robin").origin, Some(Origin::File(_))));

    fixture.drop_in("round-robin", &guest("first"));
    current.changed().await.unwrap();
    assert_eq!(pick(&current), 0);

    fixture.remove("round-robin");
    current.changed().await.unwrap();
    assert_eq!(fixture.info("round-robin").origin, Some(Origin::Shipped));
}

#[tokio::test]
async fn a_name_that_is_not_shipped_comes_and_goes_with_its_file() {
    let fixture = start();
    let mut current = fixture.plugins.selector("mine");
    assert!(current.borrow_and_update().is_none());
    fixture.drop_in("mine", &guest("first"));
    current.changed().await.unwrap();
    assert!(current.borrow_and_update().is_some());
    fixture.remove("mine");
    current.changed().await.unwrap();
    assert!(current.borrow().is_none());
    assert_eq!(fixture.info("mine").state, State::Missing);
}

#[tokio::test]
async fn files_that_are_there_at_the_start_are_in_force_with_the_first_uses() {
    let fixture = start_with(|folder| fs::write(folder.join("mine.wasm"), guest("first")).unwrap());
    fixture.plugins.settled(uses_selector("mine", "{}")).await;
    assert_eq!(pick(&fixture.plugins.selector("mine")), 0);
}

#[tokio::test]
async fn what_may_not_run_is_refused_and_changes_nothing() {
    let fixture = start();
    fixture.plugins.set_uses(uses_selector("mine", "{}")).await;
    fixture.drop_in("mine", &guest("first"));
    let mut current = fixture.plugins.selector("mine");
    current.wait_for(Option::is_some).await.unwrap();
    let version = fixture.info("mine").version;

    let whole = guest("last");
    // A busy machine gives a guest so little of a processor that the limit in time by the clock comes first.
    let late = "update was not done after 5s";
    for (bytes, reason) in [
        (b"garbage".to_vec(), "not WebAssembly"),
        (whole[..whole.len() / 2].to_vec(), "half written"),
        (guest("wrong-world"), "exports neither"),
        (guest("forbidden-import"), "imports acme:secret/thing"),
        (guest("registry-echo"), "is a registry plugin, and upstream orders needs a selector"),
        (guest("bad-create"), "upstream orders: settings: refused on purpose"),
        (guest("trap"), "a trap on purpose"),
        (guest("loop"), "pick took longer than 5ms"),
        (guest("slow-update"), "update took longer than 500ms"),
        (guest("hog"), "memory limit"),
        (guest("out-of-range"), "was not offered"),
    ] {
        let refusal = fixture.refused("mine", &bytes).await.to_string();
        let is_late = reason.starts_with("update took longer") && refusal.contains(late);
        assert!(refusal.contains(reason) || is_late, "{reason}: {refusal}");
    }
    assert_eq!(fixture.info("mine").version, version);
    assert_eq!(pick(&current), 0);

    fixture.drop_in("mine", &whole);
    current.mark_unchanged();
    current.changed().await.unwrap();
    assert_eq!(pick(&current), 3);
}

#[tokio::test]
async fn a_selector_that_nobody_uses_is_loaded_and_its_trial_is_told() {
    let fixture = start();
    fixture.plugins.set_uses(Uses::default()).await;
    for (bytes, error) in
        [(guest("first"), None), (guest("bad-create"), Some("settings: refused on purpose"))]
    {
        let version = || {
            let plugins = fixture.plugins.list();
            plugins.iter().find(|plugin| &*plugin.name == "mine").map_or(0, |plugin| plugin.version)
        };
        let before = version();
        fixture.drop_in("mine", &bytes);
        while version() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let info = fixture.info("mine");
        assert_eq!((info.state, info.trial_error.as_deref()), (State::Loaded, error));
    }
    let _used = fixture.plugins.selector("mine");
    let info = fixture.info("mine");
    assert_eq!((info.state, info.trial_error), (State::Running, None), "its views say what comes of it");
}

#[tokio::test]
async fn a_bad_file_from_the_beginning_leaves_the_shipped_plugin() {
    let fixture = start_with(|folder| fs::write(folder.join("random.wasm"), "garbage").unwrap());
    fixture.plugins.settled(uses_selector("random", "{}")).await;
    let info = fixture.info("random");
    assert_eq!((info.origin, info.refusals), (Some(Origin::Shipped), 1));
}

#[tokio::test]
async fn a_benched_plugin_is_brought_back_by_a_new_file() {
    let fixture = start();
    fixture.plugins.set_uses(uses_selector("mine", r#"{"after":100}"#)).await;
    fixture.drop_in("mine", &guest("trap"));
    let mut current = fixture.plugins.selector("mine");
    let selector = current.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    while !selector.quarantined() {
        selector.count_fault(&crate::selector::Fault("picked a slot that was not offered".into()));
    }
    assert_eq!(fixture.info("mine").state, State::Quarantined);

    fixture.plugins.set_uses(uses_selector("mine", "{}")).await;
    fixture.drop_in("mine", &guest("first"));
    current.mark_unchanged();
    current.changed().await.unwrap();
    let info = fixture.info("mine");
    assert_eq!(info.state, State::Running);
    assert!(info.faults > 0, "faults are counted over all versions");
}

#[tokio::test]
async fn uses_are_checked_before_they_are_in_force() {
    let fixture = start();
    let problems = fixture.plugins.check(uses_registry("static", r#"{"service":{}}"#)).await;
    assert!(problems[0].text.contains("unknown field `service`"), "{problems:?}");
    assert_eq!(problems[0].used_by, "registry main");
    assert!(fixture.plugins.check(uses_registry("static", r#"{"endpoints":["a:1"]}"#)).await.is_empty());
    let problems = fixture.plugins.check(uses_selector("static", "{}")).await;
    assert!(problems[0].text.contains("is a registry plugin"), "{problems:?}");
    let problems = fixture.plugins.check(uses_selector("nobody", "{}")).await;
    assert!(problems[0].text.contains("no selector plugin"), "{problems:?}");
}

fn addresses(news: wit::News) -> Vec<String> {
    match news {
        wit::News::Complete(endpoints) => endpoints.into_iter().map(|endpoint| endpoint.address).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_registry_is_followed_and_waiting_costs_nothing() {
    let fixture = start();
    let settings = r#"{"endpoints":["127.0.0.1:1","127.0.0.1:2"]}"#;
    fixture.plugins.set_uses(uses_registry("static", settings)).await;
    let registry = fixture.registry("static", settings);
    let mut subscription = registry.follow("orders").await.unwrap();
    assert_eq!(addresses(subscription.next().await.unwrap()), ["127.0.0.1:1", "127.0.0.1:2"]);
    // The second one sleeps for an hour: longer than its CPU time, which it does not use.
    let waiting = tokio::time::timeout(Duration::from_millis(200), subscription.next()).await;
    assert!(waiting.is_err());
}

fn announcement() -> Announcement {
    Announcement { service: "orders".into(), address: "127.0.0.1:7".into(), weight: 1, labels: Vec::new() }
}

#[tokio::test]
async fn instances_registered_over_a_connector_are_found() {
    let fixture = start();
    fixture.plugins.set_uses(uses_registry("memory", "{}")).await;
    let registry = Arc::new(registry("memory", "{}"));
    let registration = fixture.plugins.announce(&registry, announcement());
    registration.standing().wait_for(|standing| *standing == Standing::Announced).await.unwrap();

    let mut subscription = fixture.plugins.registry(&registry).follow("orders").await.unwrap();
    assert_eq!(addresses(subscription.next().await.unwrap()), ["127.0.0.1:7"]);
    registration.withdraw().await;
    let news = subscription.next().await.unwrap();
    assert!(matches!(&news, wit::News::Changes(changes) if changes.len() == 1), "{news:?}");
}

/// A plugin that is refused what it needs, and one whose etcd is not there.
#[tokio::test(start_paused = true)]
async fn an_announcement_that_keeps_failing_is_tried_less_and_less_often() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let etcd = etcd::Grant {
        endpoints: vec![nobody.to_string()],
        credentials: None,
        tls: None,
        connect_timeout: Duration::from_millis(200),
        silence: Duration::from_secs(1),
    };
    let (denied, unavailable) = (Grants::default(), Grants { etcd: Some(etcd), ..Grants::default() });
    for (plugin, settings, grants) in
        [("memory", "{}", denied), ("etcd", r#"{"layout":"plain"}"#, unavailable)]
    {
        let fixture = start();
        fixture.plugins.set_uses(uses_registry(plugin, settings)).await;
        let registry = Arc::new(config::Registry { grants, ..registry(plugin, settings) });
        let registration = fixture.plugins.announce(&registry, announcement());
        let mut standing = registration.standing();
        let mut attempts = 0;
        let ten_minutes = tokio::time::timeout(Duration::from_secs(600), async {
            loop {
                standing.changed().await.unwrap();
                assert!(matches!(*standing.borrow_and_update(), Standing::Failing(_)));
                attempts += 1;
            }
        });
        assert!(ten_minutes.await.is_err());
        // Pauses of half a minute, or up to half less.
        assert!((20..=50).contains(&attempts), "{plugin}: {attempts} attempts in ten minutes");
    }
}

/// The failure of the first `next` that fails.
async fn failure(name: &str, settings: &str) -> String {
    let fixture = start_with(|folder| fs::write(folder.join("mine.wasm"), guest(name)).unwrap());
    fixture.plugins.settled(Uses::default()).await;
    let registry = fixture.registry("mine", settings);
    registry.changed().await;
    let mut subscription = registry.follow("orders").await.unwrap();
    for _ in 0..1_000 {
        match subscription.next().await {
            Ok(_) => {}
            Err(Failure::Plugin(text)) => {
                assert_eq!(fixture.info("mine").faults, 1);
                return text;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no failure");
}

#[tokio::test]
async fn a_registry_plugin_that_misbehaves_fails_as_a_plugin() {
    let text = failure("registry-trap", r#"{"endpoints":["a:1"],"n":2}"#).await;
    assert!(text.contains("a trap on purpose"), "{text}");
    let text = failure("registry-loop", r#"{"endpoints":["a:1"],"n":2}"#).await;
    assert!(text.contains("computed for longer than 50ms"), "{text}");
    let text = failure("registry-leak", r#"{"endpoints":["a:1"]}"#).await;
    assert!(text.contains("memory limit of 33554432 bytes"), "{text}");
}

#[tokio::test]
async fn a_file_that_was_invalid_is_worth_an_attempt_when_it_changes() {
    let fixture = start();
    fixture.plugins.set_uses(uses_registry("file", "{}")).await;
    let path = fixture.temp.path().join("services.json");
    fs::write(&path, "{").unwrap();
    let grants = Grants { file: Some(path.clone()), ..Grants::default() };
    let registry = fixture.plugins.registry(&Arc::new(config::Registry { grants, ..registry("file", "{}") }));
    let failure = registry.follow("orders").await.unwrap().next().await.unwrap_err();
    assert_eq!(failure.kind(), "invalid", "{failure}");
    fs::write(&path, r#"{"services":{"orders":["127.0.0.1:1"]}}"#).unwrap();
    tokio::time::timeout(Duration::from_secs(30), registry.changed()).await.expect("the change is told");
    let mut subscription = registry.follow("orders").await.unwrap();
    assert_eq!(addresses(subscription.next().await.unwrap()), ["127.0.0.1:1"]);
    let quiet = tokio::time::timeout(Duration::from_millis(50), registry.changed()).await;
    assert!(quiet.is_err(), "a file that is followed is no reason for another attempt");
}

#[tokio::test]
async fn a_new_version_of_a_registry_plugin_is_told() {
    let fixture = start();
    let settings = r#"{"endpoints":["127.0.0.1:1"]}"#;
    fixture.plugins.set_uses(uses_registry("mine", settings)).await;
    let registry = fixture.registry("mine", settings);
    let missing = registry.follow("orders").await.err().unwrap();
    assert!(missing.to_string().contains("no registry plugin \"mine\""), "{missing}");

    fixture.drop_in("mine", &guest("registry-echo"));
    registry.changed().await;
    registry.follow("orders").await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(50), registry.changed()).await;
    assert!(quiet.is_err(), "nothing has changed since");

    fixture.drop_in("mine", &guest("static"));
    registry.changed().await;
    registry.follow("orders").await.unwrap();
    assert_eq!(fixture.info("mine").kind, Some(Kind::Registry));
}
