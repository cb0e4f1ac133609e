//! Requests on their way to an endpoint and answers on their way back.

use crate::{
    http_harness::{Gateway, Setup, put},
    support::{
        client::until,
        origin::{Origin, Reply, Seen, headers},
    },
};

#[tokio::test]
async fn requests_of_one_client_share_one_connection_to_the_endpoint() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for _ in 0..5 {
        let answer = client.get("/a?b=c").await;
        assert_eq!((answer.status, answer.text()), (200, "hello"));
    }
    let seen = origin.seen();
    assert_eq!((seen.len(), origin.connections()), (5, 1));
    assert!(seen.iter().all(|seen| seen.connection == 0));
    assert_eq!(seen[0].line(), "GET /a?b=c HTTP/1.1");
    assert_eq!(seen[0].header("host"), Some("test"));
}

#[tokio::test]
async fn how_long_connecting_took_is_known_of_the_endpoint() {
    let origin = Origin::start("hello").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let connect_time =
        || gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().connect_time_us();
    assert_eq!(connect_time(), 0);
    gateway.client().await.get("/").await;
    assert!((1..2_000_000).contains(&connect_time()), "{}", connect_time());
}

async fn seen(setup: impl FnOnce(&mut Setup), request: &str) -> Seen {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(setup));
    let mut client = gateway.client().await;
    client.send(request).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.head);
    origin.seen().remove(0)
}

fn trust(setup: &mut Setup) {
    setup.listener.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

#[tokio::test]
async fn what_concerns_one_connection_is_not_forwarded() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, x-mine\r\nkeep-alive: timeout=5\r\n\
        proxy-connection: keep-alive\r\nte: gzip\r\nx-mine: 1\r\nx-yours: 2\r\naccept: */*\r\n\r\n";
    let seen = seen(|_| {}, request).await;
    for name in ["connection", "keep-alive", "proxy-connection", "te", "x-mine"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!((seen.header("x-yours"), seen.header("accept")), (Some("2"), Some("*/*")));
}

#[tokio::test]
async fn the_client_is_named_to_the_endpoint() {
    let seen = seen(|_| {}, "GET / HTTP/1.1\r\nhost: shop.test:8080\r\n\r\n").await;
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("shop.test:8080"));
    assert_eq!(seen.header("host"), Some("shop.test:8080"));
}

const CLAIMS: &str = "GET / HTTP/1.1\r\nhost: inner\r\nx-forwarded-for: 9.9.9.9\r\nx-forwarded-for: 8.8.8.8\r\n\
    x-forwarded-proto: https\r\nx-forwarded-host: outer\r\nx-forwarded-port: 443\r\nforwarded: for=9.9.9.9\r\n\r\n";

#[tokio::test]
async fn the_word_of_strangers_about_clients_does_not_count() {
    let seen = seen(|_| {}, CLAIMS).await;
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("inner"));
    assert_eq!((seen.header("x-forwarded-port"), seen.header("forwarded")), (None, None));
}

#[tokio::test]
async fn the_word_of_trusted_proxies_is_continued() {
    let seen = seen(trust, CLAIMS).await;
    assert_eq!(seen.header("x-forwarded-for"), Some("9.9.9.9, 8.8.8.8, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("outer"));
    assert_eq!(seen.header("x-forwarded-port"), Some("443"));
}

#[tokio::test]
async fn clients_of_http_1_0_are_served_in_their_manner() {
    let origin = Origin::replying(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(rest.starts_with("HTTP/1.0 200 OK\r\n") && rest.ends_with("\r\n\r\nhello"), "{rest}");
    let seen = origin.seen().remove(0);
    assert_eq!(seen.line(), "GET / HTTP/1.1");
    assert_eq!(seen.header("host"), Some(origin.address.to_string().as_str()));
}

#[tokio::test]
async fn clients_of_http_1_0_may_keep_their_connection() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.text(), answer.header("connection")), ("ok", Some("keep-alive")));
    }
}

#[tokio::test]
async fn headers_of_answers_are_passed_on_without_what_concerns_the_connection() {
    let origin = Origin::replying(|_| {
        Reply::raw(
            "HTTP/1.1 404 Nowhere\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\n\
             x-hop: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\r\nno",
        )
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.text(), answer.reason()), (404, "no", None));
    for name in ["connection", "keep-alive", "x-hop"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(headers(&answer.head, "set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn an_answer_in_a_coding_that_is_not_spoken_is_none() {
    let origin = Origin::replying(|seen| {
        let coding = seen.path()[1..].replace('+', " ").replace('|', "\r\ntransfer-encoding: ");
        Reply::Close(
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n4\r\nbody\r\n0\r\n\r\n").into(),
        )
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.upstream().retries.most = 0));
    let mut client = gateway.client().await;
    for coding in ["chunked", "Chunked", ",+chunked"] {
        assert_eq!(client.get(&format!("/{coding}")).await.text(), "body", "{coding}");
    }
    for coding in [
        "gzip,+chunked",
        "gzip|chunked",
        "chunked,+gzip",
        "chunked|chunked",
        "gzip",
        "identity",
        "chunked,",
        "chunked|,",
        "chunked;a=b",
    ] {
        let answer = client.get(&format!("/{coding}")).await;
        assert_eq!((answer.status, answer.reason()), (502, Some("upstream-transfer-encoding")), "{coding}");
    }
    let stats = gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().figures();
    assert_eq!(stats.failures, 9);
}

#[tokio::test]
async fn an_answer_that_says_its_length_twice_says_it_once_to_the_client() {
    for lines in ["content-length: 4, 4", "content-length: 4\r\ncontent-length: 4", "content-length: 4,4"] {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\nbody");
        let origin = Origin::replying(move |_| Reply::raw(&answer)).await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let answer = gateway.client().await.get("/").await;
        assert_eq!((answer.header("content-length"), answer.text()), (Some("4"), "body"), "{lines}");
    }
}

#[tokio::test]
async fn expectations_other_than_to_be_asked_for_the_body_fail() {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    for line in ["Expect: 200-ok", "Expect: 100-continue, x", "Expect: 100-continue\r\nExpect: x"] {
        let mut client = gateway.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{line}\r\nContent-Length: 5\r\n\r\nhello")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (417, Some("expectation-failed")), "{line}");
    }
    assert!(origin.seen().is_empty());
    let mut client = gateway.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.text(), "ok");
    assert_eq!(origin.seen().remove(0).header("expect"), None);
}

#[tokio::test]
async fn headers_that_would_stand_for_ours_are_dropped() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\nX_User: anna\r\n\r\n";
    for trusted in [false, true] {
        let seen = seen(
            |setup| {
                if trusted {
                    trust(setup)
                }
            },
            request,
        )
        .await;
        assert_eq!((seen.header("x_forwarded_for"), seen.header("x-forwarded_proto")), (None, None));
        assert_eq!(
            (seen.header("x-forwarded-for"), seen.header("x_user")),
            (Some("127.0.0.1"), Some("anna"))
        );
    }
}

#[tokio::test]
async fn a_gateway_names_itself_behind_those_that_were_before_it() {
    let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: cdn-loop\r\ncdn-loop: a.example;x=\"1,2\"\r\ncdn-loop: b\r\n\r\n";
    let seen = seen(|_| {}, request).await;
    let all = seen.header("cdn-loop").unwrap();
    assert!(all.starts_with("a.example;x=\"1,2\", b, witgate-"), "{all}");
    let own = all.rsplit(' ').next().unwrap().to_owned();

    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for (visits, status) in [(2, 200), (3, 508)] {
        let line = [own.as_str()].repeat(visits).join(", ");
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\ncdn-loop: {line}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, status);
    }
}

#[tokio::test]
async fn a_request_that_goes_round_in_a_circle_is_refused() {
    let mut gateway = Gateway::start(Setup::to(&[]));
    gateway.offer("main", vec![put(gateway.address)]);
    let upstream = gateway.upstream("main");
    let latest = upstream.reader.snapshot().generation();
    until("the workers know", || upstream.progress.iter().all(|worker| worker.generation() == latest)).await;
    let mut client = gateway.client().await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncdn-loop: \"\r\nconnection: cdn-loop\r\ncontent-length: 1\r\n\r\na",
    ] {
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (508, Some("loop-detected")));
    }
    assert_eq!(gateway.upstream("main").metrics.counts().statuses[4], 6);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::replying(|seen| Reply::text(seen.path())).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    let all: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    client.send(all).await;
    for n in 0..50 {
        assert_eq!(client.answer().await.text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn answers_and_statistics_are_counted() {
    let origin = Origin::replying(|seen| match seen.path() {
        "/bad" => Reply::status(500),
        _ => Reply::text("ok"),
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.get("/").await;
    client.get("/bad").await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.statuses[1], counts.statuses[4]), (1, 1));
    let figures = gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().figures();
    assert_eq!((figures.requests, figures.failures, figures.in_flight), (2, 1, 0));
    assert!(figures.latency > std::time::Duration::ZERO);
}
