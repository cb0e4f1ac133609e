//! Calls of a client by tonic to a server by tonic, through the gateway.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tonic::{Code, Request};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        http2::in_time,
        tonic_echo::{Dialer, EchoClient, Told, TonicEcho, with_timeout},
    },
};

const LARGE: usize = 4 << 20;
const SHORT: Duration = Duration::from_millis(300);

fn gateway(server: &TonicEcho) -> Gateway {
    Gateway::start(Setup::to_addresses(&[server.address]))
}

fn began(method: &str) -> Told {
    Told::Began(method.to_owned(), None)
}

#[tokio::test]
async fn calls_of_all_kinds_pass() {
    let mut server = TonicEcho::start().await;
    let gateway = gateway(&server);
    let mut client = EchoClient::new(gateway.address);
    let answer = in_time(client.unary("Unary", Request::new(Bytes::from("hello")))).await.unwrap();
    assert_eq!(
        (answer.get_ref(), answer.metadata().get("x-head").unwrap().as_bytes()),
        (&Bytes::from("hello"), &b"1"[..])
    );
    let uploaded = in_time(client.upload(vec![Bytes::from("abc"); 100])).await.unwrap();
    assert_eq!(uploaded, "100 of 300");
    let mut messages = in_time(client.download("100 3 0")).await.unwrap();
    for _ in 0..100 {
        assert_eq!(in_time(messages.message()).await.unwrap().unwrap(), "xxx");
    }
    assert_eq!(in_time(messages.message()).await.unwrap(), None);
    // The next is sent when the answer to the one before is there.
    let (sender, mut messages) = in_time(client.chat()).await.unwrap();
    for number in 0..100 {
        sender.send(number.to_string().into()).unwrap();
        assert_eq!(in_time(messages.message()).await.unwrap().unwrap(), format!("re: {number}"));
    }
    drop(sender);
    assert_eq!(in_time(messages.message()).await.unwrap(), None);
    for method in ["Unary", "Upload", "Download", "Chat"] {
        assert_eq!(server.tells().await, began(method));
    }
}

#[tokio::test]
async fn each_call_of_a_connection_is_balanced() {
    let mut servers = [TonicEcho::start().await, TonicEcho::start().await];
    let addresses = [servers[0].address, servers[1].address];
    let gateway = Gateway::start(Setup::to_addresses(&addresses).in_turns());
    let mut client = EchoClient::new(gateway.address);
    for _ in 0..20 {
        in_time(client.unary("Unary", Request::new(Bytes::new()))).await.unwrap();
    }
    assert_eq!(gateway.open(), 1);
    for server in &mut servers {
        for _ in 0..10 {
            assert_eq!(server.tells().await, began("Unary"));
        }
    }
}

#[tokio::test]
async fn an_empty_message_and_one_of_4_mib_pass_both_ways() {
    let server = TonicEcho::start().await;
    let gateway = gateway(&server);
    let mut client = EchoClient::new(gateway.address);
    for length in [0, LARGE] {
        let message = Bytes::from(vec![b'x'; length]);
        let answer = in_time(client.unary("Unary", Request::new(message.clone()))).await.unwrap();
        assert!(answer.into_inner() == message);
    }
    let uploaded = in_time(client.upload(vec![Bytes::from(vec![0; LARGE]); 4])).await.unwrap();
    assert_eq!(uploaded, format!("4 of {}", 4 * LARGE));
    let mut messages = in_time(client.download(&format!("4 {LARGE} 0"))).await.unwrap();
    for _ in 0..4 {
        assert_eq!(in_time(messages.message()).await.unwrap().unwrap().len(), LARGE);
    }
    assert_eq!(in_time(messages.message()).await.unwrap(), None);
}

#[tokio::test]
async fn a_status_arrives_with_all_that_belongs_to_it() {
    let server = TonicEcho::start().await;
    let gateway = gateway(&server);
    let mut client = EchoClient::new(gateway.address);
    // Nothing but trailers.
    for code in [3, 5, 9, 13, 16] {
        let mut request = Request::new(Bytes::new());
        request.metadata_mut().insert("x-fail", code.to_string().parse().unwrap());
        let status = in_time(client.unary("Unary", request)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::from(code), "100 % d\u{e9}j\u{e0}"));
        assert_eq!(
            (status.details(), status.metadata().get("x-why").unwrap().as_bytes()),
            (&[0, 255, 7][..], &b"because"[..])
        );
    }
    // Behind messages, and behind none.
    for count in [3, 0] {
        let mut messages = in_time(client.download(&format!("{count} 2 15"))).await.unwrap();
        for _ in 0..count {
            assert_eq!(in_time(messages.message()).await.unwrap().unwrap(), "xx");
        }
        let status = in_time(messages.message()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "in the end"));
    }
    let status = in_time(client.unary("Other", Request::new(Bytes::new()))).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "no such method"));
}

#[tokio::test]
async fn a_deadline_reaches_the_server_and_ends_the_call_there_too() {
    let mut server = TonicEcho::start().await;
    let gateway = gateway(&server);
    let mut client = EchoClient::new(gateway.address);
    let begun = Instant::now();
    let status = in_time(client.unary("Hang", with_timeout("x", SHORT))).await.unwrap_err();
    // Tonic's client has a clock of its own, and calls its deadline so.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    assert!((SHORT..SHORT * 4).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let Told::Began(_, Some(timeout)) = server.tells().await else { panic!("it is told of no time") };
    let (number, unit) = timeout.split_at(timeout.len() - 1);
    let nanos = match unit {
        "n" => 1,
        "u" => 1_000,
        unit => panic!("{unit}"),
    };
    let told = Duration::from_nanos(number.parse::<u64>().unwrap() * nanos);
    assert!((SHORT / 2..=SHORT).contains(&told), "{told:?}");
    assert_eq!(server.tells().await, Told::Dropped);
}

#[tokio::test]
async fn the_gateways_own_deadline_is_a_deadline_to_the_client() {
    let mut server = TonicEcho::start().await;
    let setup = Setup::to_addresses(&[server.address]);
    let gateway = Gateway::start(setup.with(|setup| setup.upstream().timeouts.request = Some(SHORT)));
    let mut client = EchoClient::new(gateway.address);
    let begun = Instant::now();
    let status = in_time(client.unary("Hang", Request::new(Bytes::new()))).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().starts_with("request-timeout: "), "{status}");
    assert!((SHORT..SHORT * 4).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!((server.tells().await, server.tells().await), (began("Hang"), Told::Dropped));
    // A stream has its head already, and is told in the trailers.
    let (_sender, mut messages) = in_time(client.chat()).await.unwrap();
    let status = in_time(messages.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_the_server() {
    let mut server = TonicEcho::start().await;
    let gateway = gateway(&server);
    let member = gateway.upstream("main").reader.snapshot().iter().next().unwrap().clone();
    for _ in 0..5 {
        let mut client = EchoClient::new(gateway.address);
        let call = tokio::spawn(async move { client.unary("Hang", Request::new(Bytes::new())).await });
        assert_eq!(server.tells().await, began("Hang"));
        call.abort();
        assert_eq!(server.tells().await, Told::Dropped);
    }
    until("nothing is in flight", || member.stats().in_flight() == 0).await;
    assert_eq!(member.stats().figures().failures, 0, "it is not the server's fault");
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let address = { TonicEcho::start().await.address };
    let gateway = Gateway::start(Setup::to_addresses(&[address]));
    let status =
        EchoClient::new(gateway.address).unary("Unary", Request::new(Bytes::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("connect-failed: "), "{status}");
}

/// The channel dials anew when its connection takes no more calls, and by then another gateway is there.
#[tokio::test]
async fn streams_outlive_a_drain_and_new_calls_go_elsewhere() {
    let mut server = TonicEcho::start().await;
    let (mut leaving, other) = (gateway(&server), gateway(&server));
    let there = Arc::new(Mutex::new(leaving.address));
    let mut client = EchoClient::over(Dialer(there.clone()));
    let (sender, mut messages) = in_time(client.chat()).await.unwrap();
    let mut says = async |message: &'static str| {
        sender.send(message.into()).unwrap();
        in_time(messages.message()).await.map(|message| message.unwrap())
    };
    assert_eq!(says("before").await.unwrap(), "re: before");
    let hangs = {
        let mut client = client.clone();
        tokio::spawn(async move { client.unary("Hang", Request::new(Bytes::new())).await.unwrap_err() })
    };
    assert_eq!((server.tells().await, server.tells().await), (began("Chat"), began("Hang")));
    *there.lock().unwrap() = other.address;
    let begun = Instant::now();
    leaving.close(SHORT * 3);
    let requests = |gateway: &Gateway| gateway.upstream("main").metrics.requests();
    // Until the client has heard of it, calls may still come. None of them fails, but those that tonic had not sent
    // when it heard, and does not send again.
    in_time(async {
        while requests(&other) == 0 {
            match client.unary("Unary", Request::new(Bytes::from("new"))).await {
                Ok(answer) => assert_eq!(answer.into_inner(), "new"),
                Err(status) => assert_eq!(status.message(), "operation was canceled"),
            }
        }
    })
    .await;
    let before = requests(&leaving);
    for _ in 0..10 {
        in_time(client.unary("Unary", Request::new(Bytes::from("new")))).await.unwrap();
    }
    assert_eq!(requests(&leaving), before);
    assert_eq!(says("still").await.unwrap(), "re: still");
    let status = in_time(messages.message()).await.unwrap_err();
    assert!((SHORT * 3..SHORT * 9).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(in_time(hangs).await.unwrap().code(), Code::Unavailable);
    in_time(leaving.ended()).await;
    in_time(client.unary("Unary", Request::new(Bytes::from("new")))).await.unwrap();
}

#[tokio::test]
async fn a_drain_ends_with_the_last_stream() {
    let server = TonicEcho::start().await;
    let mut gateway = gateway(&server);
    let mut client = EchoClient::new(gateway.address);
    let (sender, mut messages) = in_time(client.chat()).await.unwrap();
    gateway.close(Duration::from_secs(600));
    sender.send("last".into()).unwrap();
    assert_eq!(in_time(messages.message()).await.unwrap().unwrap(), "re: last");
    drop(sender);
    assert_eq!(in_time(messages.message()).await.unwrap(), None, "it ends well");
    in_time(gateway.ended()).await;
}
