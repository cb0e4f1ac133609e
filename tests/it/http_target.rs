//! What a request is for: its host and its path, as routes, endpoints and selectors see them.

use witgate::config;

use crate::{
    http_harness::{Gateway, Setup, route, route_by_name, upstream},
    support::origin::{Origin, Reply},
};

/// What an endpoint sees of a request: first line, `Host`, `X-Forwarded-Host`.
async fn seen(head: &str) -> [String; 3] {
    let origin = Origin::start("ok").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(head).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200, "{head:?}: {}", answer.head);
    let seen = origin.seen().remove(0);
    [seen.line(), seen.header("host").unwrap(), seen.header("x-forwarded-host").unwrap_or("")]
        .map(str::to_owned)
}

#[tokio::test]
async fn the_host_is_read_once() {
    let check = async |line: &str, host: &str, expected: [&str; 3]| {
        assert_eq!(seen(&format!("{line}\r\nHost: {host}\r\n\r\n")).await, expected, "{line} {host}");
    };
    for host in [
        "shop.test",
        "Shop.TEST.:8080",
        "a:",
        "10.0.0.1:80",
        "[::1]:80",
        "[::FFFF:10.0.0.1]",
        "caf%C3%A9",
        "_a-b~c!d",
    ] {
        check("GET /a HTTP/1.1", host, ["GET /a HTTP/1.1", host, host]).await;
    }
    for (target, sent, host) in [
        ("http://real.test/a?b", "/a?b", "real.test"),
        ("HTTPS://Real.Test:8443", "/", "Real.Test:8443"),
        ("http://real.test?b", "/?b", "real.test"),
        ("http://[::1]:/x", "/x", "[::1]:"),
    ] {
        let line = format!("GET {sent} HTTP/1.1");
        check(&format!("GET {target} HTTP/1.1"), "other.test", [&line, host, host]).await;
        check(&format!("GET {target} HTTP/1.1"), "", [&line, host, host]).await;
        check(&format!("GET {target} HTTP/1.0"), "other.test", [&line, host, host]).await;
    }
    check("OPTIONS * HTTP/1.1", "a", ["OPTIONS * HTTP/1.1", "a", "a"]).await;
}

#[tokio::test]
async fn the_bytes_of_a_path_go_on_as_they_came() {
    for target in ["//a/./%6f/../%2f%e2?x=%61&y=100%", "/a|b[c]{d}?a|b[c]{d}^`", "/..;/a\\b", "/?", "/%00"] {
        let [line, ..] = seen(&format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(line, format!("GET {target} HTTP/1.1"));
    }
}

#[tokio::test]
async fn routes_see_host_and_path_in_one_form() {
    let (shop, admin, rest) =
        (Origin::start("shop").await, Origin::start("admin").await, Origin::start("rest").await);
    let gateway = Gateway::start(Setup::to(&[&rest]).with(|setup| {
        setup.upstreams.push((upstream("shop"), vec![shop.address]));
        setup.upstreams.push((upstream("admin"), vec![admin.address]));
        let of_host =
            config::Matches { path: "/".into(), host: Some("shop.test".into()), ..Default::default() };
        let of_host = config::Route { matches: of_host, ..route("/", "shop") };
        let stripped = config::Route { strip_prefix: true, ..route("/admin", "admin") };
        setup.routes = vec![of_host, stripped, route("/", "main")];
    }));
    let check = async |target: &str, host: &str, expected: &str| {
        let mut client = gateway.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer().await.text(), expected, "{target} {host}");
    };
    for host in ["shop.test", "SHOP.test:80", "shop.test.", "sho%70.test"] {
        check("/", host, "shop").await;
    }
    check("http://Shop.test:1/admin", "other.test", "shop").await;
    check("http://other.test/", "shop.test", "rest").await;
    for path in
        ["/admin", "//admin", "/%61dmin/x", "/x/../admin/./x", "/x/%2e%2E/admin//x", "http://a/%61dmin/x?%61"]
    {
        check(path, "a", "admin").await;
    }
    for path in ["/admin%2fx", "/admin/..", "/admin/%2e%2e/x", "/adminx", "/x%2f..%2fadmin"] {
        check(path, "a", "rest").await;
    }
    let paths: Vec<String> = admin.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!(paths, ["/", "/", "/x", "/x", "/x", "/x?%61"]);
    assert_eq!(rest.seen().last().unwrap().path(), "/x%2f..%2fadmin");
}

#[tokio::test]
async fn a_service_is_named_by_the_path_in_its_normal_form() {
    let gateway = Gateway::start(Setup::to(&[]).with(|setup| setup.routes = vec![route_by_name("[a-z]+")]));
    let mut client = gateway.client().await;
    // This catalog finds nothing; a name that was good enough to ask it is one.
    for path in ["/svc/orders", "//svc//orders/1", "/svc/%6frders/1", "/svc/x/../orders", "/%73vc/./orders"] {
        assert_eq!(client.get(path).await.reason(), Some("shutting-down"), "{path}");
    }
    for path in ["/svc/orders/../..", "/svc/..", "/svc%2forders", "/svc//"] {
        assert_eq!(client.get(path).await.reason(), Some("no-route"), "{path}");
    }
    for path in ["/svc/a%2fb", "/svc/a%20"] {
        assert_eq!(client.get(path).await.reason(), Some("unknown-service"), "{path}");
    }
}

/// What is forwarded has another path, and not the header that the key names.
#[tokio::test]
async fn a_second_try_has_the_facts_of_the_first() {
    let origins = [Origin::start("a").await, Origin::start("b").await, Origin::start("c").await];
    let mut addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    // Nobody listens there any more.
    addresses.push(Origin::replying(|_| Reply::Hang).await.address);
    for key in ["header:x-user", "path", "host"] {
        let gateway = Gateway::start(Setup::to_addresses(&addresses).with(|setup| {
            setup.workers = 1;
            setup.upstream().selector = config::Selector {
                plugin: "consistent-hash".into(),
                settings: format!(r#"{{"key":"{key}","bound":0}}"#).into(),
            };
            setup.routes = vec![config::Route { strip_prefix: true, ..route("/p", "main") }];
        }));
        let mut client = gateway.client().await;
        let mut homes = std::collections::HashMap::new();
        for number in (0..24).cycle().take(24 * 8) {
            let request = format!(
                "GET http://h{number}/p/../p/{number} HTTP/1.1\r\nhost: x\r\nconnection: x-user\r\nx-user: {number}\r\n\r\n"
            );
            client.send(request).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{}", answer.head);
            let home = homes.entry(number).or_insert_with(|| answer.text().to_owned());
            assert_eq!(answer.text(), home, "{key} {number}");
        }
        assert!(
            gateway.upstream("main").metrics.counts().retried() > 0,
            "no key belongs to the one that is gone"
        );
        assert!(homes.values().collect::<std::collections::HashSet<_>>().len() == 3);
    }
}
