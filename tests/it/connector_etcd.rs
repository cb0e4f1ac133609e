//! The etcd connector against the real etcd.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use etcd_client::{PutOptions, Txn, TxnOp};
use tokio::net::{TcpListener, TcpStream};
use witgate::{
    bindings::registry::witgate::etcd::etcd::{Answer, Content, Entry, Event},
    connector::{
        ClientTls,
        etcd::{Client, Feed, Grant},
    },
    document::Secret,
    registry::Failure,
};

use crate::support::{
    etcd::{Etcd, Version},
    forgetful::Forgetful,
};

fn client(config: Grant) -> Arc<Client> {
    Client::new("main".into(), config)
}

/// Long enough for an etcd that has to wait for a processor, and short enough to be waited for.
const SILENCE: Duration = Duration::from_secs(3);

fn impatient(etcd: &Etcd) -> Grant {
    Grant { silence: SILENCE, ..etcd.config() }
}

/// The same for each version of etcd, side by side.
async fn of_each_version<F: Future<Output = ()> + Send + 'static>(test: fn(Version) -> F) {
    let mut running: tokio::task::JoinSet<()> = Version::ALL.into_iter().map(test).collect();
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

async fn next(feed: &mut Feed) -> Result<Answer, Failure> {
    tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("the feed is silent")
}

fn pairs(entries: &[Entry]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    entries.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect()
}

/// What a reader of the feed knows: everything it said, applied.
#[derive(Default)]
struct Known {
    keys: BTreeMap<String, String>,
    lists: usize,
    cluster: u64,
    revision: i64,
}

impl Known {
    fn apply(&mut self, answer: Answer) {
        (self.cluster, self.revision) = (answer.cluster, answer.revision);
        match answer.content {
            Content::All(entries) => {
                self.keys = pairs(&entries).into_iter().collect();
                self.lists += 1;
            }
            Content::Changes(events) => events.into_iter().for_each(|event| self.change(event)),
            Content::Nothing => {}
        }
    }

    fn change(&mut self, event: Event) {
        match event {
            Event::Put(entry) => self.keys.extend(pairs(&[entry])),
            Event::Delete(key) => {
                self.keys.remove(std::str::from_utf8(&key).unwrap());
            }
        }
    }

    /// Reads until the keys are these.
    async fn until(&mut self, feed: &mut Feed, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        while self.keys != expected {
            self.apply(next(feed).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_feed_lists_and_then_tells_of_changes() {
    for version in Version::ALL {
        let etcd = Etcd::start_version(version).await;
        let mut writer = etcd.client().await;
        writer.put("user.rpc/1", "10.0.0.1:80", None).await.unwrap();
        writer.put("user.rpc2/1", "10.0.0.9:80", None).await.unwrap();
        let mut feed = client(etcd.config()).follow(b"user.rpc/".into());

        let first = next(&mut feed).await.unwrap();
        assert!(first.cluster != 0 && first.revision == 3, "{first:?}");
        let mut known = Known::default();
        known.apply(first);
        assert_eq!(known.keys, BTreeMap::from([("user.rpc/1".into(), "10.0.0.1:80".into())]));

        writer.put("user.rpc/2", "10.0.0.2:80", None).await.unwrap();
        known.until(&mut feed, &[("user.rpc/1", "10.0.0.1:80"), ("user.rpc/2", "10.0.0.2:80")]).await;
        writer.delete("user.rpc/1", None).await.unwrap();
        known.until(&mut feed, &[("user.rpc/2", "10.0.0.2:80")]).await;
        assert_eq!((known.lists, known.revision), (1, 5));
    }
}

#[tokio::test]
async fn an_empty_prefix_is_everything_and_a_key_can_be_read() {
    let etcd = Etcd::start().await;
    etcd.client().await.put("a", "1", None).await.unwrap();
    let client = client(etcd.config());
    let Content::All(entries) = next(&mut client.follow(vec![])).await.unwrap().content else { panic!() };
    assert_eq!(pairs(&entries), [("a".into(), "1".into())]);
    assert_eq!(client.get(b"a".into()).await.unwrap().as_ref(), entries.first());
    assert_eq!(client.get(b"b".into()).await.unwrap(), None);
    assert_eq!(client.get(vec![]).await.unwrap_err().kind(), "invalid");
}

#[tokio::test]
async fn a_lease_keeps_its_keys_until_it_expires() {
    let etcd = Etcd::start().await;
    let client = client(etcd.config());
    let mut feed = client.follow(b"s/".into());
    let mut known = Known::default();

    let mut lease = client.grant(2).await.unwrap();
    assert_ne!(lease.id(), 0);
    lease.put(b"s/1".into(), b"x".into()).await.unwrap();
    known.until(&mut feed, &[("s/1", "x")]).await;
    let entry = client.get(b"s/1".into()).await.unwrap().unwrap();
    assert_eq!(entry.lease, lease.id());
    assert_eq!(lease.keep_alive().await, Ok(2));
    assert_eq!(lease.keep_alive().await, Ok(2));

    known.until(&mut feed, &[]).await;
    assert_eq!(lease.keep_alive().await, Ok(0));
    assert_eq!(lease.put(b"s/1".into(), b"x".into()).await.unwrap_err().kind(), "unavailable");
    assert_eq!(lease.revoke().await, Ok(()));
    assert_eq!(client.grant(0).await.err().unwrap().kind(), "invalid");
}

#[tokio::test]
async fn a_revoked_lease_takes_its_keys_along() {
    let etcd = Etcd::start().await;
    let client = client(etcd.config());
    let mut feed = client.follow(b"s/".into());
    let mut lease = client.grant(60).await.unwrap();
    lease.put(b"s/1".into(), b"x".into()).await.unwrap();
    let mut known = Known::default();
    known.until(&mut feed, &[("s/1", "x")]).await;
    lease.revoke().await.unwrap();
    known.until(&mut feed, &[]).await;
}

#[tokio::test]
async fn a_reader_that_was_overtaken_by_compaction_gets_everything_again() {
    for version in Version::ALL {
        let etcd = Etcd::start_version(version).await;
        let mut writer = etcd.client().await;
        writer.put("s/1", "0", None).await.unwrap();
        let mut feed = client(etcd.config()).follow(b"s/".into());
        let mut known = Known::default();
        known.until(&mut feed, &[("s/1", "0")]).await;

        // More than the feed keeps for a reader, while nobody reads; then the history goes away.
        let value = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            writer.put("s/1", value.clone(), None).await.unwrap();
        }
        let revision = writer.put("s/1", "last", None).await.unwrap().header().unwrap().revision();
        writer.compact(revision, None).await.unwrap();

        known.until(&mut feed, &[("s/1", "last")]).await;
        assert_eq!(known.lists, 2);
        writer.put("s/2", "new", None).await.unwrap();
        known.until(&mut feed, &[("s/1", "last"), ("s/2", "new")]).await;
    }
}

#[tokio::test]
async fn user_and_password_over_tls() {
    let mut etcd = Etcd::start_with_tls().await;
    etcd.client().await.put("svc/1", "x", None).await.unwrap();
    etcd.lock("gateway", "secret", "svc/").await;
    let with_password = |password: &str| {
        let credentials = Some(("gateway".to_string(), Secret(password.into())));
        client(Grant { credentials, ..etcd.config() })
    };

    let good = with_password("secret");
    let mut known = Known::default();
    let mut feed = good.follow(b"svc/".into());
    known.until(&mut feed, &[("svc/1", "x")]).await;
    etcd.client().await.put("svc/2", "y", None).await.unwrap();
    known.until(&mut feed, &[("svc/1", "x"), ("svc/2", "y")]).await;
    let outside = next(&mut good.follow(b"other/".into())).await.unwrap_err();
    assert_eq!(outside.kind(), "denied", "{outside}");

    let wrong = next(&mut with_password("wrong").follow(b"svc/".into())).await.unwrap_err();
    assert_eq!(wrong.kind(), "denied", "{wrong}");
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let mut etcd = Etcd::start_with(Version::V35, &["--auth-token-ttl", "1"]).await;
    etcd.lock("gateway", "secret", "svc/").await;
    let credentials = Some(("gateway".to_string(), Secret("secret".into())));
    let client = client(Grant { credentials, ..etcd.config() });
    let mut feed = client.follow(b"svc/".into());
    next(&mut feed).await.unwrap();
    let mut lease = client.grant(60).await.unwrap();

    // A token lives on while it is used, so that only one that was left alone for long enough tells.
    let mut other = etcd.client().await;
    let mut pause = Duration::from_secs(1);
    while other.get("svc/1", None).await.is_ok() {
        tokio::time::sleep(pause).await;
        pause += Duration::from_millis(500);
    }
    assert_eq!(lease.keep_alive().await, Ok(60));
    lease.put(b"svc/1".into(), b"x".into()).await.unwrap();
    let mut known = Known::default();
    known.until(&mut feed, &[("svc/1", "x")]).await;
    known.until(&mut client.follow(b"svc/".into()), &[("svc/1", "x")]).await;
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() {
    let etcd = Etcd::start_with_tls().await;
    let tls = etcd.config().tls.unwrap();
    let failure = async |tls: ClientTls| {
        let config = Grant { tls: Some(tls), ..etcd.config() };
        next(&mut client(config).follow(b"s/".into())).await.unwrap_err()
    };

    // With TLS 1.3 the server refuses after our handshake is done: sometimes its reason is lost with the
    // connection, and a later attempt tells it.
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"denied") {
        kinds.push(failure(ClientTls { certificate: None, ..tls.clone() }).await.kind());
        assert!(kinds.len() < 50 && ["denied", "unavailable"].contains(kinds.last().unwrap()), "{kinds:?}");
    }

    let missing = failure(ClientTls { ca_file: "/nowhere/ca.crt".into(), ..tls.clone() }).await;
    assert_eq!(missing.kind(), "invalid", "{missing}");
    assert!(missing.to_string().contains("/nowhere/ca.crt"), "{missing}");

    let other = failure(ClientTls { server_name: Some("example.com".into()), ..tls }).await;
    assert_eq!(other.kind(), "unavailable", "{other}");
    assert!(other.to_string().contains("certificate"), "{other}");
}

#[tokio::test]
async fn a_renewed_certificate_counts_for_the_next_connection() {
    let mut etcd = Etcd::start_with_tls().await;
    let config = etcd.config();
    let (certificate, key) = config.tls.clone().unwrap().certificate.unwrap();
    std::fs::write(&certificate, "renewed later").unwrap();
    let client = client(config);
    assert!(next(&mut client.follow(b"s/".into())).await.is_err());

    let renewed = etcd.certs().client("renewed");
    std::fs::copy(renewed.certificate, certificate).unwrap();
    std::fs::copy(renewed.key, key).unwrap();
    let mut feed = client.follow(b"s/".into());
    assert!(next(&mut feed).await.is_ok());
    etcd.restart().await;
    assert_eq!(next(&mut feed).await.unwrap_err().kind(), "unavailable");
    assert!(next(&mut client.follow(b"s/".into())).await.is_ok());
}

/// However many ask, and however soon again.
#[tokio::test]
async fn an_etcd_that_ends_every_connection_is_connected_to_seldom() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counted.fetch_add(1, Relaxed);
        }
    });
    let config = Grant {
        endpoints: vec![address.to_string()],
        connect_timeout: Duration::from_millis(200),
        silence: Duration::from_secs(1),
        credentials: None,
        tls: None,
    };
    let client = client(config);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        asking.spawn(async move {
            loop {
                next(&mut client.follow(b"s/".into())).await.unwrap_err();
            }
        });
    }
    // Connections are made by attempts that each last until their limit, at first with short pauses between.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let attempts = made.load(Relaxed);
    assert!((1..=60).contains(&attempts), "{attempts} connections in 3 s");
}

/// Each list is told, and each is out of date as soon as it is watched.
#[tokio::test]
async fn an_etcd_that_forgets_every_change_is_listed_seldom() {
    let etcd = Forgetful::start().await;
    let config = Grant {
        endpoints: vec![etcd.endpoint.clone()],
        connect_timeout: Duration::from_secs(10),
        silence: Duration::from_secs(10),
        credentials: None,
        tls: None,
    };
    let client = client(config);
    let mut feed = client.follow(b"s/".into());
    let reading = async {
        let (mut lists, mut changes) = (0, 0);
        loop {
            match next(&mut feed).await.unwrap().content {
                Content::All(_) => lists += 1,
                Content::Changes(_) => changes += 1,
                Content::Nothing => {}
            }
            // It goes on, and what is told between is not lost.
            if lists >= 3 && changes >= 1 {
                return;
            }
        }
    };
    reading.await;
    let (before, start) = (etcd.lists(), Instant::now());
    let reading = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            next(&mut feed).await.unwrap();
        }
    });
    assert!(reading.await.is_err());
    let lists = etcd.lists() - before;
    assert!(lists <= 8, "{lists} lists in {:?}", start.elapsed());
}

#[tokio::test]
async fn a_killed_etcd_is_unavailable_at_once_and_back_with_a_new_feed() {
    for version in Version::ALL {
        let mut etcd = Etcd::start_version(version).await;
        let client = client(etcd.config());
        let mut feed = client.follow(b"s/".into());
        next(&mut feed).await.unwrap();

        etcd.kill9();
        let killed = Instant::now();
        assert_eq!(next(&mut feed).await.unwrap_err().kind(), "unavailable");
        assert_eq!(next(&mut client.follow(b"s/".into())).await.unwrap_err().kind(), "unavailable");
        assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());

        etcd.restart().await;
        next(&mut client.follow(b"s/".into())).await.unwrap();
    }
}

#[tokio::test]
async fn an_etcd_that_hangs_is_unavailable_within_twice_the_silence() {
    of_each_version(|version| async move {
        let etcd = Etcd::start_version(version).await;
        let client = client(impatient(&etcd));
        let mut tries = Vec::new();
        // What else the machine does can only make it later: the soonest of some attempts counts.
        while tries.last().is_none_or(|took| *took > SILENCE * 9 / 4) {
            assert!(tries.len() < 5, "silent for {tries:?}");
            let mut feed = client.follow(b"s/".into());
            next(&mut feed).await.unwrap();
            // By the first sign of life the watch is known to be open.
            assert_eq!(next(&mut feed).await.unwrap().content, Content::Nothing);

            etcd.stop();
            let stopped = Instant::now();
            let failure = loop {
                match next(&mut feed).await {
                    Ok(answer) => assert_eq!(answer.content, Content::Nothing),
                    Err(failure) => break failure,
                }
            };
            assert_eq!(failure.kind(), "unavailable");
            // A connection whose pings are not answered is given up as well, later.
            let told = failure.to_string().contains("silent");
            tries.push(if told { stopped.elapsed() } else { Duration::MAX });
            etcd.cont();
        }

        etcd.stop();
        // A new connection is taken by the kernel of a stopped process, and nobody answers on it.
        assert_eq!(next(&mut client.follow(b"s/".into())).await.unwrap_err().kind(), "unavailable");
        etcd.cont();
        next(&mut client.follow(b"s/".into())).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_watch_without_changes_says_that_it_is_alive() {
    of_each_version(|version| async move {
        let etcd = Etcd::start_version(version).await;
        let mut feed = client(impatient(&etcd)).follow(b"s/".into());
        next(&mut feed).await.unwrap();
        for _ in 0..3 {
            assert_eq!(next(&mut feed).await.unwrap().content, Content::Nothing);
        }
    })
    .await;
}

#[tokio::test]
async fn a_dead_member_is_passed_over() {
    let etcd = Etcd::start().await;
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let endpoints = vec![dead.clone(), etcd.endpoint(), dead];
    let config = Grant { endpoints, ..etcd.config() };
    for _ in 0..5 {
        next(&mut client(config.clone()).follow(b"s/".into())).await.unwrap();
    }
}

#[tokio::test]
async fn an_etcd_that_was_emptied_is_another_cluster() {
    let mut etcd = Etcd::start().await;
    etcd.client().await.put("s/1", "x", None).await.unwrap();
    let client = client(etcd.config());
    let before = next(&mut client.follow(b"s/".into())).await.unwrap();
    etcd.restart_empty().await;
    let after = loop {
        // The first may still be told of the connection that broke.
        if let Ok(answer) = next(&mut client.follow(b"s/".into())).await {
            break answer;
        }
    };
    assert_eq!(after.content, Content::All(vec![]));
    assert!(after.cluster != before.cluster && after.revision < before.revision, "{before:?} {after:?}");
}

#[tokio::test]
async fn twenty_thousand_keys_are_listed_at_one_revision() {
    let etcd = Etcd::start().await;
    let mut writer = etcd.client().await;
    let value = "x".repeat(300);
    for batch in 0..200 {
        let put =
            |i| TxnOp::put(format!("s/{:05}", batch * 100 + i), value.as_str(), Some(PutOptions::new()));
        writer.txn(Txn::new().and_then((0..100).map(put).collect::<Vec<_>>())).await.unwrap();
    }
    let mut feed = client(etcd.config()).follow(b"s/".into());
    let answer = next(&mut feed).await.unwrap();
    assert_eq!(answer.revision, 201);
    let Content::All(entries) = answer.content else { panic!("not a list") };
    assert_eq!(entries.len(), 20_000);
    assert!(entries.windows(2).all(|pair| pair[0].key < pair[1].key));
}

#[tokio::test]
async fn hundreds_of_feeds_share_one_connection() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let client = client(Grant { endpoints: vec![proxy.endpoint.clone()], ..etcd.config() });
    let mut feeds: Vec<_> = (0..300).map(|i| client.follow(format!("s{i}/").into_bytes())).collect();
    for feed in &mut feeds {
        next(feed).await.unwrap();
    }
    etcd.client().await.put("s299/1", "x", None).await.unwrap();
    let mut known = Known::default();
    known.until(&mut feeds[299], &[("s299/1", "x")]).await;
    assert_eq!(proxy.connections.load(Relaxed), 1);
}

/// Counts the connections that pass through it.
struct Proxy {
    endpoint: String,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                counter.fetch_add(1, Relaxed);
                let mut to = TcpStream::connect(&to).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
            }
        });
        Self { endpoint, connections }
    }
}
