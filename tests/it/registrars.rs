//! Announcing instances: the registrar of the `etcd` plugin against the real etcd, and that of `memory`.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::{Client, GetOptions, KeyValue, PutOptions};
use tempfile::TempDir;
use witgate::{
    bindings::wit,
    config::{self, Config},
    connector::{
        Grants, Lent, Memory, etcd,
        memory::{Grant, Registration as Registered},
    },
    document::Secret,
    plugin::{Announcement, Plugins, Uses},
    registry::{Failure, Registration, Standing},
};

use crate::support::{
    etcd::Etcd,
    gateway::{PATIENCE, until},
};

/// It is renewed every third of that, so that what stops a busy machine for some seconds ends no lease.
const TTL_SECONDS: i64 = 9;

/// A layout of keys, and what its clients expect to find.
struct Layout {
    settings: &'static str,
    prefix: &'static str,
    /// `LEASE` stands for the number of the lease.
    key: &'static str,
    value: &'static str,
}

const LAYOUTS: [Layout; 4] = [
    // zRPC lists `users.rpc/` and dials each value.
    Layout {
        settings: r#"{"layout":"go-zero","ttl_seconds":9}"#,
        prefix: "users.rpc/",
        key: "users.rpc/LEASE",
        value: "127.0.0.1:9001",
    },
    // rpcx takes the address from the key, and metadata from the value.
    Layout {
        settings: r#"{"layout":"rpcx","base":"/rpcx","ttl_seconds":9}"#,
        prefix: "/rpcx/users.rpc/",
        key: "/rpcx/users.rpc/tcp@127.0.0.1:9001",
        value: "weight=3&zone=a",
    },
    Layout {
        settings: r#"{"layout":"plain","prefix":"/plain","ttl_seconds":9}"#,
        prefix: "/plain/users.rpc/",
        key: "/plain/users.rpc/127.0.0.1:9001",
        value: "127.0.0.1:9001",
    },
    Layout {
        settings: r#"{"layout":"json","prefix":"/json","ttl_seconds":9}"#,
        prefix: "/json/users.rpc/",
        key: "/json/users.rpc/127.0.0.1:9001",
        value: r#"{"address":"127.0.0.1:9001","labels":[["zone","a"]],"weight":3}"#,
    },
];

pub(crate) struct Fixture {
    plugins: Plugins,
    memory: Arc<Memory>,
    _folder: TempDir,
}

pub(crate) fn start() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::empty(folder.path().to_owned());
    // Compiled once for all tests.
    config.state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let (memory, _) = Memory::open(folder.path().join("memory.json"));
    let plugins = Plugins::start(&config, Arc::new(Lent::new(memory.clone()))).unwrap();
    Fixture { plugins, memory, _folder: folder }
}

impl Fixture {
    pub(crate) async fn announce(&self, registry: &Arc<config::Registry>) -> Registration {
        self.load(registry).await;
        self.plugins.announce(registry, instance())
    }

    /// Announces, and waits until that is done.
    pub(crate) async fn announced(&self, registry: &Arc<config::Registry>) -> Registration {
        let registration = self.announce(registry).await;
        reaches(&registration, |standing| *standing == Standing::Announced).await;
        registration
    }

    async fn load(&self, registry: &config::Registry) {
        let one = witgate::plugin::RegistryUse {
            registry: registry.name.clone(),
            settings: registry.settings.clone(),
        };
        let registries = [(registry.plugin.clone(), vec![one])].into();
        self.plugins.set_uses(Uses { registries, ..Uses::default() }).await;
    }

    /// The list as this gateway reads it.
    pub(crate) async fn list(&self, registry: &Arc<config::Registry>) -> Vec<wit::Endpoint> {
        let mut subscription = self.plugins.registry(registry).follow("users.rpc").await.unwrap();
        match subscription.next().await.unwrap() {
            wit::News::Complete(list) => list,
            other => panic!("{other:?}"),
        }
    }
}

fn instance() -> Announcement {
    Announcement {
        service: "users.rpc".into(),
        address: "127.0.0.1:9001".into(),
        weight: 3,
        labels: vec![("zone".into(), "a".into())],
    }
}

pub(crate) async fn reaches(registration: &Registration, wanted: impl FnMut(&Standing) -> bool) -> Standing {
    let mut standing = registration.standing();
    tokio::time::timeout(PATIENCE, standing.wait_for(wanted)).await.expect("in time").unwrap().clone()
}

fn in_etcd(etcd: &Etcd, settings: &str) -> Arc<config::Registry> {
    let grants = Grants { etcd: Some(etcd.config()), ..Grants::default() };
    Arc::new(config::Registry {
        name: "main".into(),
        plugin: "etcd".into(),
        grants,
        settings: settings.into(),
    })
}

/// The only key under a prefix.
async fn only(client: &mut Client, prefix: &str) -> Option<KeyValue> {
    let mut found = client.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap().take_kvs();
    assert!(found.len() <= 1, "{found:?}");
    found.pop()
}

/// The lease of what is announced, once that is as it should be.
async fn check(client: &mut Client, layout: &Layout) -> i64 {
    let found = only(client, layout.prefix).await.expect("nothing is announced");
    assert_ne!(found.lease(), 0, "it would stay for ever");
    assert_eq!(found.key_str().unwrap(), layout.key.replace("LEASE", &found.lease().to_string()));
    assert_eq!(found.value_str().unwrap(), layout.value);
    found.lease()
}

/// Waits until what is announced hangs on another lease than `before`.
async fn replaced(client: &Client, layout: &Layout, before: i64) {
    until("it is announced again", || {
        let mut client = client.clone();
        async move { only(&mut client, layout.prefix).await.is_some_and(|found| found.lease() != before) }
    })
    .await;
    check(&mut client.clone(), layout).await;
}

/// Waits until a lease of `TTL_SECONDS` that nobody renews has ended.
async fn one_ttl(client: &mut Client) {
    let lease = client.lease_grant(TTL_SECONDS, None).await.unwrap().id();
    let key = format!("unrenewed/{lease}");
    client.put(key.as_str(), "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    until("a lease nobody renews ends", || {
        let (mut client, key) = (client.clone(), key.clone());
        async move { only(&mut client, &key).await.is_none() }
    })
    .await;
}

#[tokio::test]
async fn what_is_announced_is_where_the_clients_of_a_layout_look() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let mut client = etcd.client().await;
    for layout in &LAYOUTS {
        let registry = in_etcd(&etcd, layout.settings);
        let registration = fixture.announced(&registry).await;
        let lease = check(&mut client, layout).await;
        let granted = client.lease_time_to_live(lease, None).await.unwrap().granted_ttl();
        assert!((TTL_SECONDS..10).contains(&granted), "{granted}");
        let list = fixture.list(&registry).await;
        assert_eq!(list.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>(), ["127.0.0.1:9001"]);

        registration.withdraw().await;
        assert!(only(&mut client, layout.prefix).await.is_none(), "{}", layout.settings);
        let left = client.lease_time_to_live(lease, None).await.unwrap().ttl();
        assert!(left <= 0, "the lease ends with it: {left}");
        assert!(fixture.list(&registry).await.is_empty());
    }
}

#[tokio::test]
async fn weight_and_labels_are_read_as_they_were_announced() {
    let (etcd, fixture) = (Etcd::start().await, start());
    // The other two have no place for them.
    for layout in [&LAYOUTS[1], &LAYOUTS[3]] {
        let registry = in_etcd(&etcd, layout.settings);
        let _registration = fixture.announced(&registry).await;
        let list = fixture.list(&registry).await;
        assert_eq!((list.len(), list[0].weight), (1, 3), "{list:?}");
        assert!(list[0].labels.contains(&("zone".into(), "a".into())), "{list:?}");
    }
}

#[tokio::test]
async fn an_announcement_lives_longer_than_its_lease_would() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let mut client = etcd.client().await;
    let mut announced = Vec::new();
    for layout in &LAYOUTS {
        let registration = fixture.announced(&in_etcd(&etcd, layout.settings)).await;
        announced.push((layout, registration, check(&mut client, layout).await));
    }
    for _ in 0..2 {
        one_ttl(&mut client).await;
        for (layout, _, lease) in &announced {
            assert_eq!(check(&mut client, layout).await, *lease, "renewed, not announced anew");
        }
    }
}

#[tokio::test]
async fn what_etcd_has_lost_is_announced_again() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let mut client = etcd.client().await;
    let mut lost = Vec::new();
    for layout in &LAYOUTS {
        let registration = fixture.announced(&in_etcd(&etcd, layout.settings)).await;
        let lease = check(&mut client, layout).await;
        client.lease_revoke(lease).await.unwrap();
        lost.push((layout, registration, lease));
    }
    for (layout, registration, lease) in lost {
        replaced(&client, layout, lease).await;
        registration.withdraw().await;
        assert!(only(&mut client, layout.prefix).await.is_none());
    }
}

#[tokio::test]
async fn a_key_that_somebody_deleted_is_written_again() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let mut client = etcd.client().await;
    let mut deleted = Vec::new();
    for layout in &LAYOUTS {
        let registration = fixture.announced(&in_etcd(&etcd, layout.settings)).await;
        let lease = check(&mut client, layout).await;
        client.delete(layout.key.replace("LEASE", &lease.to_string()), None).await.unwrap();
        deleted.push((layout, registration, lease));
    }
    for (layout, _, lease) in deleted {
        until("it is written again", || {
            let mut client = client.clone();
            async move { only(&mut client, layout.prefix).await.is_some() }
        })
        .await;
        assert_eq!(check(&mut client, layout).await, lease);
    }
}

#[tokio::test]
async fn an_etcd_that_lost_everything_hears_of_it_again() {
    let (mut etcd, fixture) = (Etcd::start().await, start());
    let registration = fixture.announced(&in_etcd(&etcd, LAYOUTS[0].settings)).await;
    let lease = check(&mut etcd.client().await, &LAYOUTS[0]).await;
    etcd.kill9();
    reaches(&registration, |standing| matches!(standing, Standing::Failing(Failure::Unavailable(_)))).await;
    etcd.restart_empty().await;
    replaced(&etcd.client().await, &LAYOUTS[0], lease).await;
    reaches(&registration, |standing| *standing == Standing::Announced).await;
}

#[tokio::test]
async fn an_announcement_that_is_dropped_ends_with_its_lease() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let client = etcd.client().await;
    let registration = fixture.announced(&in_etcd(&etcd, LAYOUTS[0].settings)).await;
    check(&mut client.clone(), &LAYOUTS[0]).await;
    drop(registration);
    check(&mut client.clone(), &LAYOUTS[0]).await;
    until("its lease has ended", || {
        let mut client = client.clone();
        async move { only(&mut client, LAYOUTS[0].prefix).await.is_none() }
    })
    .await;
}

#[tokio::test]
async fn an_announcement_waits_for_an_etcd_that_is_down() {
    let (mut etcd, fixture) = (Etcd::start().await, start());
    let registry = in_etcd(&etcd, LAYOUTS[2].settings);
    etcd.kill9();
    let registration = fixture.announce(&registry).await;
    reaches(&registration, |standing| matches!(standing, Standing::Failing(Failure::Unavailable(_)))).await;
    etcd.restart().await;
    reaches(&registration, |standing| *standing == Standing::Announced).await;
    check(&mut etcd.client().await, &LAYOUTS[2]).await;
}

/// Its instance is kept, and asked to renew again after pauses of a second and more; those of the connection end at a second.
#[tokio::test]
async fn an_announcement_whose_etcd_has_gone_is_renewed_less_and_less_often() {
    let (mut etcd, fixture) = (Etcd::start().await, start());
    let registration = fixture.announced(&in_etcd(&etcd, LAYOUTS[2].settings)).await;
    etcd.kill9();
    reaches(&registration, |standing| matches!(standing, Standing::Failing(_))).await;
    let (mut standing, mut attempts) = (registration.standing(), 0);
    let for_a_while = tokio::time::timeout(Duration::from_secs(16), async {
        loop {
            standing.changed().await.unwrap();
            attempts += 1;
        }
    });
    assert!(for_a_while.await.is_err());
    assert!((1..=6).contains(&attempts), "{attempts} attempts in 16 s");
}

/// A user who may be granted leases, and may not write where the instances go.
#[tokio::test]
async fn a_lease_of_an_announcement_that_etcd_refuses_is_given_back() {
    let (mut etcd, fixture) = (Etcd::start().await, start());
    etcd.lock("gateway", "secret", "elsewhere/").await;
    let config =
        etcd::Grant { credentials: Some(("gateway".into(), Secret("secret".into()))), ..etcd.config() };
    let registry = Arc::new(config::Registry {
        name: "main".into(),
        plugin: "etcd".into(),
        grants: Grants { etcd: Some(config), ..Grants::default() },
        settings: r#"{"layout":"plain","ttl_seconds":86400}"#.into(),
    });
    let registration = fixture.announce(&registry).await;
    reaches(&registration, |standing| matches!(standing, Standing::Failing(Failure::Denied(_)))).await;
    let leases = etcd.client().await.leases().await.unwrap();
    assert!(leases.leases().is_empty(), "{leases:?}");
    registration.withdraw().await;
}

#[tokio::test]
async fn settings_that_are_wrong_are_told() {
    let (etcd, fixture) = (Etcd::start().await, start());
    let registration = fixture.announce(&in_etcd(&etcd, r#"{"layout":"rpcx"}"#)).await;
    let standing = reaches(&registration, |standing| matches!(standing, Standing::Failing(_))).await;
    assert!(
        matches!(&standing, Standing::Failing(Failure::Invalid(text)) if text.contains("base")),
        "{standing:?}"
    );
    registration.withdraw().await;
}

#[tokio::test]
async fn a_plugin_that_announces_nothing_says_so() {
    let fixture = start();
    let registry = Arc::new(config::Registry {
        name: "main".into(),
        plugin: "static".into(),
        grants: Grants::default(),
        settings: r#"{"endpoints":["127.0.0.1:1"]}"#.into(),
    });
    let registration = fixture.announce(&registry).await;
    let standing = reaches(&registration, |standing| matches!(standing, Standing::Failing(_))).await;
    assert!(format!("{standing:?}").contains("cannot announce"), "{standing:?}");
}

fn in_memory() -> Arc<config::Registry> {
    let grants = Grants { memory: Some(Grant), ..Grants::default() };
    let settings = r#"{"ttl_seconds":1}"#.into();
    Arc::new(config::Registry { name: "memory".into(), plugin: "memory".into(), grants, settings })
}

async fn instances(memory: &Memory, service: &str, wanted: usize) {
    until("the instances are these", || async { memory.instances(service).len() == wanted }).await;
}

#[tokio::test]
async fn an_instance_in_the_embedded_registry_lives_while_it_is_announced() {
    let fixture = start();
    let memory = fixture.memory.clone();
    let _expiry = tokio::spawn(async move { memory.run(std::future::pending()).await });
    let registration = fixture.announced(&in_memory()).await;

    let found = fixture.memory.instances("users.rpc");
    assert_eq!((found.len(), &*found[0].registration.address), (1, "127.0.0.1:9001"));
    assert_eq!((found[0].registration.weight, found[0].registration.ttl_seconds), (3, 1));
    assert_eq!(found[0].registration.labels, [("zone".to_owned(), "a".to_owned())]);
    assert_eq!(fixture.list(&in_memory()).await.len(), 1);

    // Twice as long as one lives that has no heartbeat.
    for _ in 0..2 {
        let silent = serde_json::json!({ "address": "127.0.0.1:1", "ttl_seconds": 1 });
        let silent: Registered = serde_json::from_value(silent).unwrap();
        fixture.memory.put("silent", "1", silent).unwrap();
        instances(&fixture.memory, "silent", 0).await;
        assert_eq!(fixture.memory.instances("users.rpc").len(), 1);
    }

    registration.withdraw().await;
    assert!(fixture.memory.instances("users.rpc").is_empty());
}

#[tokio::test]
async fn an_instance_in_the_embedded_registry_expires_when_it_is_dropped() {
    let fixture = start();
    let memory = fixture.memory.clone();
    let _expiry = tokio::spawn(async move { memory.run(std::future::pending()).await });
    let registration = fixture.announced(&in_memory()).await;
    let dropped = Instant::now();
    drop(registration);
    assert_eq!(fixture.memory.instances("users.rpc").len(), 1, "nothing is withdrawn");
    instances(&fixture.memory, "users.rpc", 0).await;
    assert!(dropped.elapsed() < Duration::from_secs(10), "its ttl, not another");
}
