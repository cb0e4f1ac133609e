//! What the gateway runs out of is no fault of an endpoint, whatever is spoken.

use std::io::ErrorKind;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    client::Client,
    gateway::{Gateway, until},
    http2::in_time,
    origin::Origin,
    rpcx::{Frames, reason},
    tls,
};

/// More than a breaker takes for bad luck.
const TIMES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_no_endpoint_and_no_breaker_hears_of_a_failure() {
    let origin = Origin::start("well").await;
    let raw = Origin::connected(|mut stream, _, _| async move {
        let _ = stream.read_u8().await;
        let _ = stream.write_all(b"well").await;
    })
    .await;
    let calls = Origin::connected(|stream, _, _| async move {
        let mut frames = Frames::new(stream);
        while let Some(call) = frames.next().await {
            frames.answer(call).await;
        }
    })
    .await;
    let upstream = |name: &str, origin: &Origin| {
        format!(
            "[registry.{name}]
             plugin = 'static'
             settings = {{ endpoints = ['{}'] }}
             [upstream.{name}]
             service = '{name}'
             registry = '{name}'
             breaker = true
             [[route]]
             upstream = '{name}'
             ",
            origin.address
        )
    };
    let gateway = Gateway::start(&format!(
        "[[listener]]
         name = 'tcp'
         address = '127.0.0.1:0'
         protocol = 'tcp'
         [[listener]]
         name = 'calls'
         address = '127.0.0.1:0'
         protocol = 'rpcx'
         {} path = '/'
         {} listener = 'tcp'
         sni = 'raw.test'
         {} listener = 'calls'
         ",
        upstream("web", &origin),
        upstream("raw", &raw),
        upstream("calls", &calls)
    ));
    // These are there, and have asked for nothing.
    let mut web = Client::connect(gateway.address()).await;
    let mut caller = Frames::connect(gateway.listeners[2]).await;
    let mut clients = Vec::new();
    for _ in 0..TIMES {
        clients.push(TcpStream::connect(gateway.listeners[1]).await.unwrap());
    }
    let metrics = || async { gateway.session_to_admin().get("/metrics").await.text() };
    until("all are accepted", || async {
        let metrics = metrics().await;
        metrics.contains(&format!("witgate_connections{{listener=\"tcp\"}} {TIMES}\n"))
            && metrics.contains("witgate_connections{listener=\"calls\"} 1\n")
    })
    .await;

    let process = Pid::from_raw(gateway.pid() as i32);
    let none = Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) };
    let before = prlimit(process, Resource::Nofile, none).unwrap();
    for _ in 0..TIMES {
        let answer = web.get("/").await;
        assert_eq!((answer.status, answer.reason()), (502, Some("connect-failed")));
    }
    for mut client in clients {
        client.write_all(&tls::hello("raw.test")).await.unwrap();
        let read = in_time(client.read_u8()).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    for number in 0..TIMES as u64 {
        caller.call(number, b"x").await;
        let answer = in_time(caller.next()).await.unwrap();
        assert_eq!(reason(&answer).as_deref(), Some("connect-failed"));
    }
    prlimit(process, Resource::Nofile, before).unwrap();

    let metrics = metrics().await;
    for name in ["web", "raw", "calls"] {
        assert!(metrics.contains(&format!("witgate_breaker_open{{upstream=\"{name}\"}} 0\n")), "{metrics}");
        let failures = format!("witgate_endpoint_failures_total{{upstream=\"{name}\"");
        let failures: Vec<&str> = metrics.lines().filter(|line| line.starts_with(&failures)).collect();
        assert!(failures.iter().all(|line| line.ends_with(" 0")), "{failures:?}");
        let shown = gateway.api(&format!("/api/v1/upstreams/{name}")).await;
        assert_eq!(shown["ejected"].as_array().map(Vec::len), Some(0), "{shown}");
    }
    assert_eq!(web.get("/").await.text(), "well");
    let mut client = TcpStream::connect(gateway.listeners[1]).await.unwrap();
    client.write_all(&tls::hello("raw.test")).await.unwrap();
    assert_eq!(in_time(client.read_u8()).await.unwrap(), b'w');
    caller.call(0, b"x").await;
    assert_eq!(reason(&in_time(caller.next()).await.unwrap()), None);
}
