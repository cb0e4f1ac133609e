//! The HTTP side of servers of rpcx, which say with status 200 that a call failed.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use crate::support::{
    etcd::Etcd,
    gateway::Gateway,
    rpcx::Service,
    session::{Answer, Session},
};

const WHY: &str = "x-rpcx-errormessage";

/// A gateway that knows an instance by rpcx's own registration, as `labelled`, and by an address and nothing else, as `plain`. Both
/// have these settings.
fn gateway(etcd: &Etcd, service: &Service, settings: &str) -> Gateway {
    Gateway::start(&format!(
        "[registry.etcd]
         plugin = 'etcd'
         etcd = {}
         settings = {{ layout = 'rpcx', base = '/rpcx' }}
         [registry.fixed]
         plugin = 'static'
         settings = {{ endpoints = ['{}'] }}
         [upstream.labelled]
         service = 'Test'
         registry = 'etcd'
         {settings}
         [upstream.plain]
         service = 'Test'
         registry = 'fixed'
         {settings}
         [[route]]
         path = '/labelled'
         upstream = 'labelled'
         [[route]]
         path = '/plain'
         upstream = 'plain'",
        etcd.toml(None),
        service.address
    ))
}

/// Calls a method with an argument in JSON. `serialization` says that it is, and a server answers with an error without it.
async fn call(session: &mut Session, path: &str, method: &str, serialization: Option<&str>) -> Answer {
    let call = Request::get(path).header("x-rpcx-servicepath", "Test").header("x-rpcx-servicemethod", method);
    let call = match serialization {
        Some(number) => call.header("x-rpcx-serializetype", number),
        None => call,
    };
    session.send(call, Bytes::from_static(br#"{"Text":"hello"}"#)).await
}

/// Answers of an upstream, by the first digit of the status that they count as.
async fn answers(gateway: &Gateway, upstream: &str, class: u8) -> u64 {
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let line = format!("witgate_requests_total{{upstream=\"{upstream}\",code=\"{class}xx\"}} ");
    metrics.lines().find_map(|of| of.strip_prefix(&line)).unwrap().parse().unwrap()
}

/// The only endpoint of an upstream, as the API shows it.
async fn endpoint(gateway: &Gateway, upstream: &str) -> Value {
    gateway.api(&format!("/api/v1/upstreams/{upstream}")).await["endpoints"][0].clone()
}

fn address(endpoint: &Value) -> SocketAddr {
    endpoint["address"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_error_with_status_200_counts_as_one_where_the_label_says_rpcx_and_passes_as_it_is() {
    const CALLS: u64 = 20;
    let etcd = Etcd::start().await;
    let service = Service::start("a", &etcd, &[]).await;
    // More than enough to be tried again and to be taken out, if it were a failure of the instance's.
    let settings = "retries = { most = 3, on = ['500'], budget = 1.0 }
         health = { failures = 3 }";
    let gateway = gateway(&etcd, &service, settings);
    let mut session = gateway.session();
    for upstream in ["labelled", "plain"] {
        let path = format!("/{upstream}");
        let well = call(&mut session, &path, "Echo", Some("1")).await;
        assert_eq!((well.status.as_u16(), well.headers.get(WHY)), (200, None));
        assert!(well.text().contains(r#""Text":"hello""#), "{}", well.text());
        for _ in 0..CALLS {
            let failed = call(&mut session, &path, "Echo", None).await;
            assert_eq!((failed.status.as_u16(), &*failed.body), (200, &b""[..]));
            assert_eq!(failed.headers[WHY], "empty serialized type");
            assert_eq!(failed.headers["x-rpcx-messagestatustype"], "Error");
        }
    }
    let counted = |upstream| {
        let gateway = &gateway;
        async move { (answers(gateway, upstream, 2).await, answers(gateway, upstream, 5).await) }
    };
    assert_eq!(counted("labelled").await, (1, CALLS));
    assert_eq!(counted("plain").await, (1 + CALLS, 0), "nobody said that it speaks rpcx");
    let (labelled, plain) = (endpoint(&gateway, "labelled").await, endpoint(&gateway, "plain").await);
    assert_eq!((&labelled["failures"], &plain["failures"]), (&CALLS.into(), &0.into()));
    // It has answered each time.
    assert_eq!((address(&labelled), address(&plain)), (service.address, service.address));
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let told = |line: &&str| {
        let names = ["witgate_retries_total", "witgate_endpoint_failures_total"];
        names.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
    };
    assert_eq!(metrics.lines().find(told), None);
}

#[tokio::test]
async fn errors_that_have_a_status_of_their_own_keep_it() {
    let etcd = Etcd::start().await;
    let service = Service::start("a", &etcd, &["-token", "right"]).await;
    let gateway = gateway(&etcd, &service, "");
    let answer = call(&mut gateway.session(), "/labelled", "Echo", Some("1")).await;
    assert_eq!((answer.status.as_u16(), &answer.headers[WHY]), (401, &"wrong token".parse().unwrap()));
    assert_eq!(answers(&gateway, "labelled", 4).await, 1);
    assert_eq!(answers(&gateway, "labelled", 5).await, 0);
}

#[tokio::test]
async fn a_breaker_opens_by_them() {
    let etcd = Etcd::start().await;
    let service = Service::start("a", &etcd, &[]).await;
    let gateway = gateway(&etcd, &service, "breaker = true");
    let mut session = gateway.session();
    let mut calls = 0;
    while call(&mut session, "/labelled", "Echo", None).await.reason() != Some("breaker-open") {
        calls += 1;
        assert!(calls < 500, "it stays closed");
    }
    for _ in 0..50 {
        assert_eq!(call(&mut session, "/plain", "Echo", None).await.status.as_u16(), 200);
    }
}
