//! Requests on their way to an endpoint and answers on their way back.

use crate::{
    http_harness::{Gateway, Setup},
    support::origin::Origin,
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
    assert_eq!(seen[0].line(), "GET /a?b=c HTTP/1.1");
    assert_eq!(seen[0].header("host"), Some("test"));
}
