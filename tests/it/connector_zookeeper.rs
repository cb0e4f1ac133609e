//! The ZooKeeper connector against the real ZooKeeper.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, net::TcpListener};
use witgate::{
    bindings::registry::witgate::zookeeper::zookeeper::{Child, Content, Event},
    connector::zookeeper::{Body, Client, Credential, Feed, Grant},
    document::Secret,
    registry::Failure,
};

use crate::support::{
    fault_table::Registry as _,
    gateway::until,
    zookeeper::{
        Version,
        Write::{Create, Delete, Set},
        ZooKeeper,
    },
};

/// Asks for the end of a session.
const CLOSE: i32 = -11;

/// An error that ends a session for the gateway.
const UNKNOWN: i32 = -3;

fn client(grant: Grant) -> Arc<Client> {
    Client::new("main".into(), grant, None)
}

fn follow(client: &Arc<Client>, path: &str) -> Feed {
    client.follow(path.to_owned(), true)
}

async fn next(feed: &mut Feed) -> Result<Content, Failure> {
    tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("the feed is silent")
}

async fn failure(feed: &mut Feed) -> Failure {
    loop {
        if let Err(failure) = next(feed).await {
            return failure;
        }
    }
}

/// What a reader of the feed knows: everything it said, applied.
#[derive(Default)]
struct Known {
    children: BTreeMap<String, String>,
    lists: usize,
}

impl Known {
    fn apply(&mut self, content: Content) {
        let text = |child: Child| (child.name, String::from_utf8(child.data).unwrap());
        match content {
            Content::All(children) => {
                self.children = children.into_iter().map(text).collect();
                self.lists += 1;
            }
            Content::Changes(events) => {
                for event in events {
                    match event {
                        Event::Put(child) => self.children.extend([text(child)]),
                        Event::Delete(name) => drop(self.children.remove(&name)),
                    }
                }
            }
            Content::Nothing => {}
        }
    }

    /// Reads until the children are these.
    async fn until(&mut self, feed: &mut Feed, expected: &[(&str, &str)]) {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(name, data)| (name.to_string(), data.to_string())).collect();
        while self.lists == 0 || self.children != expected {
            self.apply(next(feed).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_feed_lists_and_then_tells_of_children_and_of_their_data() {
    for version in Version::ALL {
        let mut zookeeper = ZooKeeper::start_version(version).await;
        zookeeper.put("/svc/one", "1").await;
        zookeeper.put("/svc/one/below", "x").await;
        zookeeper.put("/svc2/other", "x").await;
        let client = client(zookeeper.grant());
        let mut feed = follow(&client, "/svc");
        let mut known = Known::default();
        known.until(&mut feed, &[("one", "1")]).await;
        zookeeper.put("/svc/two", "2").await;
        known.until(&mut feed, &[("one", "1"), ("two", "2")]).await;
        zookeeper.put("/svc/one", "changed").await;
        known.until(&mut feed, &[("one", "changed"), ("two", "2")]).await;
        zookeeper.delete("/svc/two").await;
        known.until(&mut feed, &[("one", "changed")]).await;
        assert_eq!(known.lists, 1);

        let mut names = client.follow("/".to_owned(), false);
        let mut known = Known::default();
        known.until(&mut names, &[("svc", ""), ("svc2", ""), ("zookeeper", "")]).await;
    }
}

#[tokio::test]
async fn what_changes_in_one_transaction_is_all_heard() {
    for version in Version::ALL {
        let mut zookeeper = ZooKeeper::start_version(version).await;
        for name in ["a", "b", "c"] {
            zookeeper.put(&format!("/svc/{name}"), name).await;
        }
        let mut feed = follow(&client(zookeeper.grant()), "/svc");
        let mut known = Known::default();
        known.until(&mut feed, &[("a", "a"), ("b", "b"), ("c", "c")]).await;
        for round in 0..20 {
            let (x, y) = (format!("/svc/x{round}"), format!("/svc/y{round}"));
            zookeeper
                .at_once(&[
                    Create(&x, "x"),
                    Set("/svc/b", &x),
                    Create(&y, "y"),
                    Delete("/svc/a"),
                    Create("/svc/a", &y),
                    Delete(&x),
                ])
                .await;
            let name = format!("y{round}");
            known.until(&mut feed, &[("a", &y), ("b", &x), ("c", "c"), (&name, "y")]).await;
            zookeeper.at_once(&[Delete(&y)]).await;
        }
        assert_eq!(known.lists, 1);
    }
}

#[tokio::test]
async fn a_node_may_come_and_go_while_it_is_followed() {
    let mut zookeeper = ZooKeeper::start().await;
    let mut feed = follow(&client(zookeeper.grant()), "/deep/svc");
    let mut known = Known::default();
    known.until(&mut feed, &[]).await;
    for round in 0..3 {
        let data = round.to_string();
        zookeeper.put("/deep/svc/one", &data).await;
        known.until(&mut feed, &[("one", &data)]).await;
        for path in ["/deep/svc/one", "/deep/svc", "/deep"] {
            zookeeper.delete(path).await;
        }
        known.until(&mut feed, &[]).await;
    }
    assert_eq!(known.lists, 1);
}

/// Watches end with their connection, and ZooKeeper tells nobody later what it has told nobody at the time.
#[tokio::test]
async fn what_changes_while_the_connection_is_lost_is_read_and_the_next_change_is_heard() {
    for version in Version::ALL {
        let mut zookeeper = ZooKeeper::start_version(version).await;
        zookeeper.put("/svc/one", "1").await;
        let client = client(zookeeper.grant());
        let mut known = Known::default();
        let mut feed = follow(&client, "/svc");
        known.until(&mut feed, &[("one", "1")]).await;
        for round in 0..5 {
            zookeeper.between().cut();
            until("it is cut", async || zookeeper.between().connections() == 0).await;
            let data = format!("while lost {round}");
            zookeeper.put("/svc/one", &data).await;
            zookeeper.between().to(zookeeper.address());
            // How long it was lost decides whether that was a failure of this feed.
            loop {
                match next(&mut feed).await {
                    Ok(content) => known.apply(content),
                    Err(failure) => {
                        assert_eq!(failure.kind(), "unavailable", "{failure:?}");
                        feed = follow(&client, "/svc");
                    }
                }
                if known.children["one"] == data {
                    break;
                }
            }
            let data = format!("and then {round}");
            zookeeper.put("/svc/one", &data).await;
            known.until(&mut feed, &[("one", &data)]).await;
        }
    }
}

/// ZooKeeper says that a session has expired when it is back, which may be never.
#[tokio::test]
async fn a_server_that_is_silent_is_unavailable_without_a_word_of_it() {
    let mut zookeeper = ZooKeeper::start().await;
    zookeeper.put("/svc/one", "1").await;
    let mut feed = follow(&client(zookeeper.grant()), "/svc");
    Known::default().until(&mut feed, &[("one", "1")]).await;
    zookeeper.freeze();
    let since = Instant::now();
    let failure = failure(&mut feed).await;
    assert_eq!(failure.kind(), "unavailable", "{failure:?}");
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    zookeeper.thaw();
}

/// To a server without its data the session is unknown, and what the client has seen is in its future.
#[tokio::test]
async fn a_server_that_lost_everything_gets_a_session_that_is_new() {
    let mut zookeeper = ZooKeeper::start().await;
    for number in 0..50 {
        zookeeper.put("/svc/one", &number.to_string()).await;
    }
    let client = client(zookeeper.grant());
    let mut known = Known::default();
    known.until(&mut follow(&client, "/svc"), &[("one", "49")]).await;
    zookeeper.restart_empty().await;
    let since = Instant::now();
    let mut feed = follow(&client, "/svc");
    while let Err(failure) = next(&mut feed).await {
        assert_eq!(failure.kind(), "unavailable", "{failure:?}");
        feed = follow(&client, "/svc");
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_password_says_who_the_gateway_is_and_another_one_is_taken_up() {
    for version in Version::ALL {
        let mut zookeeper = ZooKeeper::start_locked(version).await;
        zookeeper.put("/services/orders/b0", "1").await;
        zookeeper.put("/services/orders/b1", "2").await;
        let client = client(zookeeper.grant());
        let mut feed = follow(&client, "/services/orders");
        Known::default().until(&mut feed, &[("b0", "1"), ("b1", "2")]).await;
        let nobody = Grant { credential: None, ..zookeeper.grant() };
        let nobody = self::client(nobody);
        let failed = failure(&mut follow(&nobody, "/services/orders")).await;
        assert!(
            matches!(&failed, Failure::Denied(text) if text.ends_with(": /services/orders")),
            "{failed:?}"
        );

        // What everybody may read: with it the session lasts, which is to say who the gateway is again.
        let mut open = client.follow("/".to_owned(), false);
        next(&mut open).await.unwrap();
        zookeeper.revoke().await;
        assert_eq!(failure(&mut feed).await.kind(), "denied");
        zookeeper.grant_again().await;
        // Another session that has read it already says nothing for this one.
        let _other = client.open(5).await.unwrap();
        let mut feed = follow(&client, "/services/orders");
        // The first attempt finds out that there is another password.
        let mut content = next(&mut feed).await;
        if content.is_err() {
            feed = follow(&client, "/services/orders");
            content = next(&mut feed).await;
        }
        assert!(matches!(content, Ok(Content::All(all)) if all.len() == 2));
    }
}

/// ZooKeeper itself takes it for a node that is not there.
#[tokio::test]
async fn what_is_no_path_is_invalid() {
    let zookeeper = ZooKeeper::start().await;
    for path in ["", "a", "/a//b", "/a/", "/a/../b"] {
        let failed = failure(&mut follow(&client(zookeeper.grant()), path)).await;
        assert_eq!(failed, Failure::Invalid(format!("{path:?} is no path of a node")));
    }
}

#[tokio::test]
async fn many_feeds_share_one_session_which_ends_with_the_last_of_them() {
    let mut zookeeper = ZooKeeper::start().await;
    zookeeper.put("/svc/one", "1").await;
    let client = client(zookeeper.grant());
    let mut feeds: Vec<_> = (0..200).map(|_| (follow(&client, "/svc"), Known::default())).collect();
    for (feed, known) in &mut feeds {
        known.until(feed, &[("one", "1")]).await;
    }
    assert_eq!(zookeeper.between().connections(), 1);
    // What the others follow, too, goes on being watched.
    feeds.truncate(1);
    zookeeper.put("/svc/one", "2").await;
    let (feed, known) = &mut feeds[0];
    known.until(feed, &[("one", "2")]).await;
    drop(feeds);
    until("nobody uses it", async || zookeeper.between().connections() == 0).await;
}

#[tokio::test]
async fn a_feed_that_nobody_reads_holds_no_more_than_names() {
    let mut zookeeper = ZooKeeper::start().await;
    zookeeper.put("/svc/one", "").await;
    let mut feed = follow(&client(zookeeper.grant()), "/svc");
    let mut known = Known::default();
    known.until(&mut feed, &[("one", "")]).await;
    let long = |number: usize| format!("{number:>10}").repeat(90_000);
    for number in 0..30 {
        zookeeper.put("/svc/one", &long(number)).await;
    }
    let mut answers = 0;
    while known.children["one"] != long(29) {
        known.apply(next(&mut feed).await.unwrap());
        answers += 1;
    }
    assert!(answers <= 4, "{answers} answers");
}

#[tokio::test]
async fn tls_with_a_certificate_of_the_gateway() {
    let mut zookeeper = ZooKeeper::start_with_tls().await;
    zookeeper.put("/svc/one", "1").await;
    let (port, tls) = zookeeper.tls();
    let grant = Grant { servers: vec![format!("localhost:{port}")], ..zookeeper.direct() };
    let client = Client::new("main".into(), grant, Some(tls));
    Known::default().until(&mut follow(&client, "/svc"), &[("one", "1")]).await;
}

/// A name in the certificate, a length of a frame and an answer to nothing: each is told for what it is.
#[tokio::test]
async fn what_is_no_zookeeper_is_told_so() {
    for (says, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "a frame of 1213486160 bytes, which is no ZooKeeper's"),
        (b"\0\0\0\x02no", "an answer that ends too soon"),
        (b"\0\0\0\x29\0\0\0\0\0\0\0\0", "300ms"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let servers = vec![listener.local_addr().unwrap().to_string()];
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, says).await.unwrap();
            let mut asked = Vec::new();
            let _ = stream.read_to_end(&mut asked).await;
        });
        let (limit, session_timeout) = (Duration::from_millis(300), Duration::from_secs(3));
        let grant = Grant { servers, credential: None, tls: None, connect_timeout: limit, session_timeout };
        let text = format!("{:?}", failure(&mut follow(&client(grant), "/svc")).await);
        assert!(text.contains(expected), "{text}");
        serving.abort();
    }
}

/// Who withdraws something has to know whether it is gone.
#[tokio::test]
async fn a_session_whose_connection_is_lost_does_not_count_as_ended() {
    let zookeeper = ZooKeeper::start().await;
    let looks = client(zookeeper.direct()).open(30).await.unwrap();
    let session = client(zookeeper.grant()).open(3).await.unwrap();
    session.put("/there", b"").await.unwrap();
    zookeeper.between().cut();
    until("it is noticed", async || session.alive() == 0).await;
    let ended = session.end().await;
    assert!(
        matches!(&ended, Err(Failure::Unavailable(text)) if text.ends_with("what was written goes within 3s")),
        "{ended:?}"
    );
    until("it is gone", async || looks.get("/there").await.unwrap().is_none()).await;

    zookeeper.between().to(zookeeper.address());
    let session = client(zookeeper.grant()).open(30).await.unwrap();
    session.put("/there", b"").await.unwrap();
    for _ in 0..2 {
        session.end().await.unwrap();
        assert!(looks.get("/there").await.unwrap().is_none());
    }
}

/// What it was asked cannot be done, for a reason that says nothing of the session.
#[tokio::test]
async fn a_session_that_is_not_to_be_used_any_more_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = vec![listener.local_addr().unwrap().to_string()];
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let given = Body::default().int(0).int(60_000).long(7).bytes(&[0; 16]).framed();
        let failed = Body::default().int(1).long(0).int(UNKNOWN).framed();
        let closed = Body::default().int(2).long(0).int(0).framed();
        let mut asked = Vec::new();
        for answer in [given, failed, closed] {
            let length = stream.read_u32().await.unwrap() as usize;
            asked = vec![0; length];
            stream.read_exact(&mut asked).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, &answer).await.unwrap();
        }
        asked
    });
    let session_timeout = Duration::from_secs(60);
    let grant =
        Grant { servers, credential: None, tls: None, connect_timeout: session_timeout, session_timeout };
    let session = client(grant).open(60).await.unwrap();
    assert_eq!(session.put("/a", b"").await.unwrap_err().kind(), "unavailable");
    assert_eq!(session.alive(), 0);
    session.end().await.unwrap();
    assert_eq!(serving.await.unwrap(), Body::default().int(2).int(CLOSE).0);
}

/// Who the gateway is belongs to making a session, and has the time of that.
#[tokio::test]
async fn a_server_that_gives_a_session_and_then_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = vec![listener.local_addr().unwrap().to_string()];
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let session = Body::default().int(0).int(60_000).long(7).bytes(&[0; 16]).framed();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &session).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let password = Secret("secret".into());
    let grant = Grant {
        servers,
        credential: Some(Credential { user: "gateway".into(), file: "/no/such/file".into(), password }),
        tls: None,
        connect_timeout: Duration::from_millis(300),
        session_timeout: Duration::from_secs(60),
    };
    let failed = failure(&mut follow(&client(grant), "/svc")).await;
    assert_eq!(failed.kind(), "unavailable");
    assert!(failed.text().contains("no session within 300ms"), "{failed:?}");
    serving.abort();
}

/// The leader of three is lost, and then whoever is connected to: the others go on.
#[tokio::test]
async fn servers_that_are_lost_one_after_the_other_are_followed_on_the_others() {
    let mut servers = ZooKeeper::three().await;
    servers[0].put("/svc/one", "0").await;
    let addresses = servers.iter().map(|server| server.between().address.to_string()).collect();
    let client = client(Grant { servers: addresses, ..servers[0].grant() });
    let mut known = Known::default();
    let mut feed = follow(&client, "/svc");
    known.until(&mut feed, &[("one", "0")]).await;
    for lost in 0..3 {
        servers[lost].kill9();
        let data = format!("without {lost}");
        servers[(lost + 1) % 3].put("/svc/one", &data).await;
        while known.children["one"] != data {
            match next(&mut feed).await {
                Ok(content) => known.apply(content),
                Err(failure) => {
                    assert_eq!(failure.kind(), "unavailable", "{failure:?}");
                    feed = follow(&client, "/svc");
                }
            }
        }
        servers[lost].restart().await;
    }
}
