//! Which upstream a request goes to, over the wire. The table of cases is beside the code.

use crate::{
    http_harness::{Gateway, Setup, route, route_by_name, upstream},
    support::origin::Origin,
};

#[tokio::test]
async fn routes_lead_to_their_upstreams_and_strip_their_prefix() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let gateway = Gateway::start(Setup::to(&[&a]).with(|setup| {
        setup.upstreams.push((upstream("other"), vec![b.address]));
        setup.routes = vec![route("/b", "other"), route("/a", "main")];
        setup.routes[0].strip_prefix = true;
    }));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/a/x").await.text(), "a");
    assert_eq!(client.get("/b/x?y=z").await.text(), "b");
    assert_eq!(client.get("/b?y").await.text(), "b");
    assert_eq!(client.get("/bx").await.reason(), Some("no-route"));
    let paths: Vec<String> = b.seen().iter().map(|seen| seen.path().to_owned()).collect();
    assert_eq!((a.seen()[0].path(), paths), ("/a/x", vec!["/x?y=z".to_owned(), "/?y".to_owned()]));
}

#[tokio::test]
async fn requests_without_a_route_are_counted() {
    let gateway = Gateway::start(Setup::to(&[]).with(|setup| setup.routes.clear()));
    let answer = gateway.client().await.get("/").await;
    assert_eq!((answer.status, answer.reason()), (404, Some("no-route")));
    assert_eq!(gateway.metrics.unrouted.counts().statuses[3], 1);
}

#[tokio::test]
async fn a_service_name_that_the_pattern_refuses_is_unknown() {
    let gateway = Gateway::start(Setup::to(&[]).with(|setup| setup.routes = vec![route_by_name("[a-z]+")]));
    let mut client = gateway.client().await;
    assert_eq!(client.get("/svc/No%2e").await.reason(), Some("unknown-service"));
    assert_eq!(client.get("/svc/").await.reason(), Some("no-route"));
    // This catalog finds nothing; the name was good enough to ask it.
    assert_eq!(client.get("/svc/orders/1").await.reason(), Some("shutting-down"));
}
