//! What a route writes into heads, and where it sends clients, over the wire. The tables of cases are beside the code.

use std::time::Instant;

use http::StatusCode;
use witgate::{
    config::{HeaderChanges, Redirect, Route, Scheme, Target, UpstreamHost},
    upstream::{Endpoint, Facts, Offer, Weight},
};

use crate::{
    http_harness::{Gateway, Setup, route, route_by_name},
    support::{
        client::Answer,
        origin::{Origin, Reply},
    },
};

fn lines<N: TryInto<http::HeaderName>>(lines: Vec<(N, &str)>) -> Vec<(http::HeaderName, http::HeaderValue)> {
    let line = |(name, value): (N, &str)| (name.try_into().ok().unwrap(), value.parse().unwrap());
    lines.into_iter().map(line).collect()
}

/// Removes, sets and adds one header each.
fn changes() -> HeaderChanges {
    HeaderChanges {
        remove: vec!["x-removed".parse().unwrap()],
        set: lines(vec![("x-set", "new")]),
        add: lines(vec![("x-added", "2"), ("x-added", "3")]),
    }
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\nx-removed: 1\r\nx-removed: 2\r\nx-set: old\r\n\
    x-set: older\r\nx-added: 1\r\nx-same: 1\r\n\r\n";

#[tokio::test]
async fn headers_of_requests_are_removed_set_and_added() {
    let origin = Origin::start("ok").await;
    let gateway =
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.routes[0].heads.request = changes()));
    let mut client = gateway.client().await;
    client.send(REQUEST).await;
    client.answer().await;
    let seen = &origin.seen()[0];
    assert_eq!((seen.all("x-removed"), seen.all("x-set")), (vec![], vec!["new"]));
    assert_eq!((seen.all("x-added"), seen.all("x-same")), (vec!["1", "2", "3"], vec!["1"]));
    assert_eq!(
        (seen.header("host"), seen.header("x-forwarded-host")),
        (Some("shop.test"), Some("shop.test"))
    );
}

#[tokio::test]
async fn headers_of_answers_are_too() {
    let origin = Origin::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-removed: 1\r\nx-set: old\r\nx-added: 1\r\n\r\n")
    })
    .await;
    let gateway =
        Gateway::start(Setup::to(&[&origin]).with(|setup| setup.routes[0].heads.response = changes()));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.header("x-removed"), answer.header("x-set")), (None, Some("new")));
    assert_eq!(crate::support::origin::headers(&answer.head, "x-added"), ["1", "2", "3"]);
}

#[tokio::test]
async fn answers_of_the_gateway_have_them_once_there_is_a_route() {
    let origin = Origin::replying(|_| Reply::Close(vec![])).await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.routes = vec![route("/broken", "main"), route_by_name("[a-z]+"), route("/none", "nobody")];
        setup.routes.iter_mut().for_each(|route| route.heads.response = changes());
    }));
    for (path, reason, there) in [
        ("/broken", "upstream-reset", Some("new")),
        ("/svc/Name", "unknown-service", Some("new")),
        ("/svc/name", "shutting-down", Some("new")),
        ("/none", "no-endpoints", Some("new")),
        ("/", "no-route", None),
    ] {
        let answer = gateway.client().await.get(path).await;
        assert_eq!((answer.reason(), answer.header("x-set")), (Some(reason), there), "{path}");
    }
}

/// Answers the first request of a connection, and closes it when the second has come.
async fn fickle() -> Origin {
    Origin::replying(|seen| match seen.path() {
        "/first" => Reply::text("ok"),
        _ => Reply::Close(vec![]),
    })
    .await
}

#[tokio::test]
async fn a_second_try_gets_the_same_headers_and_the_host_of_its_endpoint() {
    let origins = [fickle().await, fickle().await];
    let gateway = Gateway::start(Setup::to(&[&origins[0], &origins[1]]).in_turns().with(|setup| {
        setup.workers = 1;
        setup.routes[0].heads.request = changes();
        setup.routes[0].heads.host = UpstreamHost::Endpoint;
    }));
    let mut client = gateway.client().await;
    client.get("/first").await;
    client.get("/first").await;
    // Over a connection that dies with it, so that it is sent again.
    client.send(REQUEST.replacen("/", "/second", 1)).await;
    client.answer().await;
    let seen: Vec<_> = origins.iter().map(|origin| (origin, origin.seen())).collect();
    let tries: Vec<_> = seen
        .iter()
        .flat_map(|(origin, seen)| seen.iter().map(move |seen| (*origin, seen)))
        .filter(|(_, seen)| seen.path() == "/second")
        .collect();
    assert!(tries.len() > 1, "{}", tries.len());
    for (origin, seen) in tries {
        assert_eq!(seen.header("host"), Some(origin.address.to_string().as_str()));
        assert_eq!((seen.all("x-removed"), seen.all("x-set")), (vec![], vec!["new"]));
        assert_eq!(seen.all("x-added"), ["1", "2", "3"]);
    }
}

/// The `Host` that an endpoint of this hostname gets.
async fn host_sent(host: UpstreamHost, hostname: Option<&str>, request: &str) -> (String, String) {
    let origin = Origin::start("ok").await;
    let mut gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.routes[0].heads.host = host));
    let facts = Facts { hostname: hostname.map(Into::into), ..Facts::default() };
    gateway.offer("main", vec![Offer::Put(Endpoint { address: origin.address, weight: Weight::ONE, facts })]);
    let started = Instant::now();
    loop {
        let mut client = gateway.client().await;
        client.send(request).await;
        client.answer().await;
        // Workers take the list up a moment later.
        let sent = origin.seen().last().unwrap().header("host").unwrap().to_owned();
        let address = origin.address.to_string();
        if hostname.is_none() || sent != address || started.elapsed().as_secs() > 1 {
            return (sent, address);
        }
    }
}

const PLAIN: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
const WITHOUT_HOST: &str = "GET / HTTP/1.0\r\n\r\n";

#[tokio::test]
async fn an_endpoint_gets_the_host_that_the_route_says() {
    let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
    let (sent, _) = host_sent(UpstreamHost::Keep, Some("one.internal"), PLAIN).await;
    assert_eq!(sent, "shop.test");
    let (sent, address) = host_sent(UpstreamHost::Endpoint, Some("one.internal"), PLAIN).await;
    assert_eq!(sent, format!("one.internal:{}", port(&address)));
    let (sent, address) = host_sent(UpstreamHost::Endpoint, None, PLAIN).await;
    assert_eq!(sent, address);
    for request in [PLAIN, WITHOUT_HOST] {
        let name = UpstreamHost::Name("other.internal:1".parse().unwrap());
        assert_eq!(host_sent(name, None, request).await.0, "other.internal:1");
    }
}

fn redirect(scheme: Option<Scheme>, host: Option<&str>) -> Route {
    let to =
        Redirect { scheme, host: host.map(Into::into), port: None, status: StatusCode::PERMANENT_REDIRECT };
    Route { target: Target::Redirect(to), ..route("/", "") }
}

fn location(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("location"))
}

#[tokio::test]
async fn clients_are_sent_elsewhere_with_all_that_they_asked_for() {
    let gateway = Gateway::start(Setup::to(&[]).with(|setup| {
        setup.routes = vec![redirect(Some(Scheme::Https), None)];
        setup.routes[0].heads.response = changes();
    }));
    let mut client = gateway.client().await;
    let answer = client.get("//evil.test/../%6f?a=%61&b").await;
    assert_eq!(location(&answer), (308, Some("https://test//evil.test/../%6f?a=%61&b")));
    assert_eq!((answer.header("x-set"), answer.reason()), (Some("new"), None));
    client.send("HEAD / HTTP/1.1\r\nhost: Shop.test:8080\r\n\r\n").await;
    assert_eq!(location(&client.answer_to_head().await), (308, Some("https://shop.test/")));
    client.send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(location(&client.answer().await), (308, Some("https://a/x")));
    assert_eq!(gateway.metrics.unrouted.counts().statuses[2], 3);
    client.send(WITHOUT_HOST).await;
    assert_eq!(client.answer().await.reason(), Some("bad-request-host"));
}

#[tokio::test]
async fn behind_a_proxy_that_ends_tls_a_redirect_to_https_leads_there_once() {
    let origin = Origin::start("ok").await;
    let setup = |trusted: &str| {
        let trusted = vec![trusted.parse().unwrap()];
        Setup::to(&[&origin]).with(|setup| {
            setup.listener.trusted_proxies = trusted;
            setup.routes.insert(0, redirect(Some(Scheme::Https), None));
        })
    };
    let encrypted = "GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-proto: https\r\n\r\n";
    for (trusted, expected) in [("127.0.0.0/8", 200), ("10.0.0.0/8", 308)] {
        let gateway = Gateway::start(setup(trusted));
        let mut client = gateway.client().await;
        client.send(encrypted).await;
        assert_eq!(client.answer().await.status, expected, "{trusted}");
        assert_eq!(client.get("/").await.status, 308, "{trusted}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_for_all_others() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| {
        setup.routes.insert(0, redirect(None, Some("shop.test")));
    }));
    let mut client = gateway.client().await;
    assert_eq!(location(&client.get("/a").await), (308, Some("http://shop.test/a")));
    client.send("GET /a HTTP/1.1\r\nhost: SHOP.test.\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok");
}
