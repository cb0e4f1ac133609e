//! What requests tell of an endpoint that came back by time alone, and the one that tries it.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use witgate::upstream::{Admission, Evidence, Stats};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        http2::in_time,
        origin::{Origin, read_head},
        rpcx::{Frames, reason},
    },
};

/// A gateway whose only endpoint is half-open, and thought ill of.
fn half_open(setup: Setup) -> (Gateway, Arc<Stats>) {
    let gateway = Gateway::start(setup);
    let stats = gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().clone();
    stats.set_half_open(true);
    stats.suspect(true);
    (gateway, stats)
}

#[tokio::test]
async fn a_trial_passes_with_the_head_of_an_answer_and_its_end_tells_what_the_head_told() {
    let go = Arc::new(Notify::new());
    let may_end = go.clone();
    let origin = Origin::connected(move |mut stream, _, _| {
        let may_end = may_end.clone();
        async move {
            read_head(&mut stream, &mut Vec::new()).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
            may_end.notified().await;
            stream.write_all(b"lf").await.unwrap();
            let _ = stream.read_u8().await;
        }
    })
    .await;
    let (mut gateway, stats) = half_open(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until("others may go there", || !stats.is_half_open()).await;
    assert_eq!(gateway.told("main"), [(origin.address, Evidence::Answered)]);
    // Another request has failed meanwhile.
    stats.suspect(true);
    go.notify_one();
    assert_eq!(client.answer().await.text(), "half");
    until("it is not thought ill of", || !stats.is_suspected()).await;
    assert_eq!(gateway.told("main"), [(origin.address, Evidence::Answered)]);
}

#[tokio::test]
async fn a_trial_of_a_connection_passes_when_it_is_there_and_fails_when_there_is_none() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        stream.write_all(b"x").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let (mut gateway, stats) = half_open(Setup::to(&[&origin]).for_tcp());
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    assert_eq!(in_time(client.read_u8()).await.unwrap(), b'x');
    assert!(!stats.is_half_open());
    assert_eq!(gateway.told("main"), [(origin.address, Evidence::Answered)]);

    let gone = { Origin::start("gone").await.address };
    let (mut gateway, stats) = half_open(Setup::to_addresses(&[gone]).for_tcp());
    // Who is reset at once may hear of it when it connects.
    let byte = async { TcpStream::connect(gateway.address).await?.read_u8().await };
    assert!(in_time(byte).await.is_err());
    assert_eq!(gateway.told("main"), [(gone, Evidence::ConnectFailed)]);
    assert!(matches!(stats.admit(), Admission::Refused), "nobody goes there before it is decided");
}

#[tokio::test]
async fn a_trial_by_a_call_of_rpcx_passes_with_its_answer() {
    let origin = Origin::connected(|stream, _, _| async move {
        let mut frames = Frames::new(stream);
        while let Some(call) = frames.next().await {
            frames.answer(call).await;
        }
    })
    .await;
    let (mut gateway, stats) = half_open(Setup::to(&[&origin]).for_rpcx());
    let mut client = Frames::connect(gateway.address).await;
    client.call(1, b"x").await;
    assert_eq!(reason(&in_time(client.next()).await.unwrap()), None);
    assert!(!stats.is_half_open());
    assert_eq!(gateway.told("main"), [(origin.address, Evidence::Answered)]);
}
