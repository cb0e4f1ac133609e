//! An instance that leaves its registry, with the real gateway: what is under way there ends in time.

use std::{path::Path, time::Duration};

use serde_json::json;

use crate::support::{
    client::{Client, until},
    gateway::{self, Gateway},
    origin::{Origin, Reply},
};

/// As in the configuration.
const LIMIT: Duration = Duration::from_millis(300);

const CONFIG: &str = r#"
[registry.file]
plugin = "file"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "file"
leave_ms = 300

[[route]]
upstream = "orders"
"#;

/// Exchanged in one step, as an editor does.
fn write(folder: &Path, content: &str) {
    std::fs::write(folder.join("services.part"), content).unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

fn tell(folder: &Path, origins: &[&Origin]) {
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    write(folder, &json!({ "services": { "orders": addresses } }).to_string());
}

/// A request that is under way and is not sent twice, to which of the origins, and how long it has been.
async fn under_way(gateway: &Gateway, origins: &[Origin]) -> (Client, usize) {
    let before: Vec<usize> = origins.iter().map(|origin| origin.seen().len()).collect();
    let mut client = Client::connect(gateway.address()).await;
    client.send("POST /hang HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    let moved = || origins.iter().zip(&before).position(|(origin, before)| origin.seen().len() > *before);
    until("it is under way", || moved().is_some()).await;
    (client, moved().unwrap())
}

#[tokio::test]
async fn only_what_leaves_its_registry_ends_what_is_under_way() {
    let hang = || Origin::replying(|_| Reply::Hang);
    let origins = [hang().await, hang().await, hang().await, hang().await];
    let folder = tempfile::tempdir().unwrap();
    let all: Vec<&Origin> = origins.iter().collect();
    tell(folder.path(), &all);
    let gateway = Gateway::start_in(folder, CONFIG);
    let without = |which: usize| -> Vec<&Origin> {
        origins.iter().enumerate().filter(|(number, _)| *number != which).map(|(_, origin)| origin).collect()
    };
    let figure = async |key: &str| gateway.api("/api/v1/upstreams/orders").await[key].clone();

    let (mut patient, its) = under_way(&gateway, &origins).await;
    // What cannot be read freezes the list; nobody leaves.
    write(gateway.folder(), "{");
    let origin = async || figure("sources").await[0]["origin"].clone();
    gateway::until("it is frozen", || async { origin().await == "frozen" }).await;
    let (mut leaving, which) = loop {
        let (client, which) = under_way(&gateway, &origins).await;
        if which != its {
            break (client, which);
        }
    };
    tell(gateway.folder(), &without(which));
    let answer = leaving.answer().await;
    assert_eq!((answer.status, answer.reason()), (504, Some("endpoint-left")));

    // All of them at once is no removal that is believed: they are held.
    tell(gateway.folder(), &[]);
    let held = async || figure("sources").await[0]["reserve"]["count"].clone();
    gateway::until("they are held", || async { held().await == 4 }).await;
    let waited = tokio::time::timeout(LIMIT * 3, patient.answer()).await;
    assert!(waited.is_err(), "{waited:?}");
}
