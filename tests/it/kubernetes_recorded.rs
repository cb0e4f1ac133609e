//! The registry `kubernetes` with what a real API server has answered, which `./dev peers` asks again.

use serde_json::Value;

use crate::support::{
    gateway::{Gateway, until},
    kubernetes::registry,
    replayed::{Replayed, conversations},
    service::source,
};

/// A gateway that follows `orders` in a conversation.
async fn gateway(about: &str) -> (Gateway, Replayed) {
    let turns = conversations("kubernetes").remove(about).unwrap();
    let server = Replayed::start(turns).await;
    let registry = registry(&server.url(), "", "{ namespace = \"shop\" }");
    let gateway = Gateway::start_early(
        tempfile::tempdir().unwrap(),
        &format!(
            "{registry}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n[[route]]\nupstream = \"orders\"\n"
        ),
    );
    (gateway, server)
}

/// Waits until so many instances are claimed, and says what is known of them.
async fn claimed(gateway: &Gateway, count: usize) -> Vec<Value> {
    until(&format!("{count} instances"), || async { source(gateway).await["instances"] == count }).await;
    let orders = gateway.api("/api/v1/upstreams/orders").await;
    [&orders["endpoints"], &orders["ejected"]]
        .iter()
        .flat_map(|list| list.as_array().unwrap().clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_changes_and_a_version_that_expired_are_what_a_real_server_says() {
    let (gateway, server) = gateway("changes").await;
    // Two pages.
    server.answers(2);
    let all = claimed(&gateway, 3).await;
    let one = all.iter().find(|one| one["address"] == "100.64.0.1:8080").unwrap();
    assert_eq!((&one["zone"], &one["hostname"]), (&"a".into(), &"web.orders.shop.svc".into()), "{one}");
    assert_eq!(one["labels"]["pod"], "orders-100.64.0.1", "{one}");
    // One begins to end, two are new, one of them not ready, and one has left.
    server.answers(1);
    let all = claimed(&gateway, 4).await;
    let ejected: Vec<_> =
        all.iter().filter(|one| one["reason"] == "unwell").map(|one| &one["address"]).collect();
    assert_eq!(ejected, ["100.64.0.5:9090"]);
    // It does not know the version any more, and has another list: one has left.
    server.answers(2);
    claimed(&gateway, 3).await;
    server.answers(1);
    server.all_was_asked_as_then();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_comes_too_late_leads_to_the_whole_list() {
    let (gateway, server) = gateway("late page").await;
    server.answers(3);
    claimed(&gateway, 3).await;
    server.all_was_asked_as_then();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_real_server_refuses_is_told_in_its_words() {
    for (about, text) in [
        ("unknown", "answered 401: Unauthorized"),
        (
            "forbidden",
            "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:witgate:witgate\"",
        ),
    ] {
        let (gateway, server) = gateway(about).await;
        server.answers(1);
        until(text, || async {
            let failure = &source(&gateway).await["failure"];
            failure["kind"] == "denied" && failure["error"].as_str().is_some_and(|error| error.contains(text))
        })
        .await;
        server.all_was_asked_as_then();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_without_slices_is_asked_for_endpoints() {
    let (gateway, server) = gateway("endpoints").await;
    server.answers(3);
    let all = claimed(&gateway, 2).await;
    assert!(
        all.iter().any(|one| one["address"] == "100.64.0.2:8080" && one["reason"] == "unwell"),
        "{all:?}"
    );
    server.all_was_asked_as_then();
}
