//! Announcing instances: the registrar of the `zookeeper` plugin against the real ZooKeeper.

use std::sync::Arc;

use witgate::{
    config,
    connector::{
        Grants,
        zookeeper::{Client, Presence},
    },
    registry::{Failure, Standing},
};

use crate::{
    registrars::{reaches, start},
    support::{
        fault_table::Registry as _,
        gateway::until,
        zookeeper::{Version, ZooKeeper},
    },
};

/// A layout, and what its clients expect to find.
const LAYOUTS: [(&str, &str, &str); 3] = [
    (r#"{"layout":"plain","ttl_seconds":6}"#, "/users.rpc/127.0.0.1:9001", "127.0.0.1:9001"),
    (
        r#"{"layout":"rpcx","base":"/rpcx","ttl_seconds":6}"#,
        "/rpcx/users.rpc/tcp@127.0.0.1:9001",
        "weight=3&zone=a",
    ),
    (
        r#"{"layout":"json","base":"/json","ttl_seconds":6}"#,
        "/json/users.rpc/127.0.0.1:9001",
        r#"{"address":"127.0.0.1:9001","labels":[["zone","a"]],"weight":3}"#,
    ),
];

const RPCX: (&str, &str, &str) = LAYOUTS[1];

fn in_zookeeper(zookeeper: &ZooKeeper, settings: &str) -> Arc<config::Registry> {
    let grants = Grants { zookeeper: Some(zookeeper.grant()), ..Grants::default() };
    Arc::new(config::Registry {
        name: "main".into(),
        plugin: "zookeeper".into(),
        grants,
        settings: settings.into(),
    })
}

/// Who looks, and is nobody in particular.
async fn looks(zookeeper: &ZooKeeper) -> Presence {
    Client::new("test".into(), zookeeper.direct(), None).open(30).await.unwrap()
}

/// The data of a node and whose it is.
async fn found(looks: &Presence, node: &str) -> Option<(String, i64)> {
    let found = looks.get(node).await.unwrap()?;
    Some((String::from_utf8(found.bytes).unwrap(), found.stat.owner))
}

#[tokio::test]
async fn what_is_announced_is_where_the_clients_of_a_layout_look_and_goes_when_it_is_withdrawn() {
    let (zookeeper, fixture) = (ZooKeeper::start().await, start());
    let looks = looks(&zookeeper).await;
    for (settings, node, data) in LAYOUTS {
        let registry = in_zookeeper(&zookeeper, settings);
        let registration = fixture.announced(&registry).await;
        let (written, owner) = found(&looks, node).await.expect("nothing is announced");
        assert_eq!(written, data);
        assert_ne!(owner, 0, "it would stay for ever");
        let list = fixture.list(&registry).await;
        assert_eq!(list.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>(), ["127.0.0.1:9001"]);

        registration.withdraw().await;
        assert_eq!(found(&looks, node).await, None);
        assert!(fixture.list(&registry).await.is_empty());
    }
}

#[tokio::test]
async fn a_session_that_is_lost_is_replaced_and_the_node_is_never_gone() {
    let (zookeeper, fixture) = (ZooKeeper::start().await, start());
    let looks = looks(&zookeeper).await;
    let registration = fixture.announced(&in_zookeeper(&zookeeper, RPCX.0)).await;
    let (_, mut before) = found(&looks, RPCX.1).await.unwrap();
    for _ in 0..2 {
        zookeeper.between().cut();
        until("it is cut", async || zookeeper.between().connections() == 0).await;
        zookeeper.between().to(zookeeper.address());
        until("it is announced by another session", async || {
            let (data, owner) = found(&looks, RPCX.1).await.expect("it is gone");
            assert_eq!(data, RPCX.2);
            owner != before
        })
        .await;
        before = found(&looks, RPCX.1).await.unwrap().1;
    }
    registration.withdraw().await;
    assert_eq!(found(&looks, RPCX.1).await, None);
}

#[tokio::test]
async fn a_zookeeper_that_lost_everything_hears_of_it_again() {
    let (mut zookeeper, fixture) = (ZooKeeper::start().await, start());
    let registration = fixture.announced(&in_zookeeper(&zookeeper, RPCX.0)).await;
    zookeeper.kill9();
    reaches(&registration, |standing| matches!(standing, Standing::Failing(Failure::Unavailable(_)))).await;
    zookeeper.restart_empty().await;
    let looks = looks(&zookeeper).await;
    until("it is announced again", async || found(&looks, RPCX.1).await.is_some()).await;
    reaches(&registration, |standing| *standing == Standing::Announced).await;
}

#[tokio::test]
async fn an_edit_stays_and_a_node_that_somebody_deleted_is_written_again() {
    let (mut zookeeper, fixture) = (ZooKeeper::start().await, start());
    let looks = looks(&zookeeper).await;
    let _registration = fixture.announced(&in_zookeeper(&zookeeper, RPCX.0)).await;
    zookeeper.put(RPCX.1, "state=inactive").await;
    // Whoever deletes and makes it anew takes it off the session as well.
    until("it is put back", async || {
        let (data, owner) = found(&looks, RPCX.1).await.unwrap_or_default();
        owner != 0 && data == "state=inactive"
    })
    .await;
    zookeeper.delete(RPCX.1).await;
    until("it is written again", async || found(&looks, RPCX.1).await.is_some()).await;
    zookeeper.delete(RPCX.1).await;
    zookeeper.put(RPCX.1, "weight=7").await;
    until("it goes away with the announcement again", async || {
        let (data, owner) = found(&looks, RPCX.1).await.unwrap();
        owner != 0 && data == "weight=7"
    })
    .await;
}

#[tokio::test]
async fn a_node_with_others_below_it_is_not_replaced_and_that_is_told() {
    let (mut zookeeper, fixture) = (ZooKeeper::start().await, start());
    let looks = looks(&zookeeper).await;
    let below = format!("{}/below", RPCX.1);
    zookeeper.put(&below, "").await;
    let registration = fixture.announce(&in_zookeeper(&zookeeper, RPCX.0)).await;
    let standing = reaches(&registration, |standing| *standing != Standing::Starting).await;
    assert!(
        matches!(&standing, Standing::Failing(Failure::Unavailable(text))
            if text.contains("has others below it") && text.contains(RPCX.1)),
        "{standing:?}"
    );
    assert_eq!(found(&looks, RPCX.1).await.unwrap().1, 0, "it was replaced");
    zookeeper.delete(&below).await;
    reaches(&registration, |standing| *standing == Standing::Announced).await;
    assert_ne!(found(&looks, RPCX.1).await.unwrap().1, 0);
}

#[tokio::test]
async fn an_announcement_that_is_dropped_ends_with_its_session() {
    let (zookeeper, fixture) = (ZooKeeper::start().await, start());
    let looks = looks(&zookeeper).await;
    let registration = fixture.announced(&in_zookeeper(&zookeeper, RPCX.0)).await;
    drop(registration);
    assert!(found(&looks, RPCX.1).await.is_some());
    until("its session has ended", async || found(&looks, RPCX.1).await.is_none()).await;
}

#[tokio::test]
async fn what_a_gateway_with_a_password_announces_can_be_read_by_all() {
    let (zookeeper, fixture) = (ZooKeeper::start_locked(Version::V38).await, start());
    let _registration = fixture.announced(&in_zookeeper(&zookeeper, RPCX.0)).await;
    assert!(found(&looks(&zookeeper).await, RPCX.1).await.is_some());
}

#[tokio::test]
async fn nothing_is_announced_to_clients_that_ask_for_more() {
    let (zookeeper, fixture) = (ZooKeeper::start().await, start());
    let registration = fixture.announce(&in_zookeeper(&zookeeper, r#"{"layout":"dubbo"}"#)).await;
    let standing = reaches(&registration, |standing| matches!(standing, Standing::Failing(_))).await;
    assert!(
        matches!(&standing, Standing::Failing(Failure::Invalid(text)) if text.contains("Dubbo")),
        "{standing:?}"
    );
}
