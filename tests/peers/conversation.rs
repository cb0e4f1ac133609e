//! Asks a real API server of Kubernetes what the adapter asks, so that a double can answer as it did. With `UPDATE_EXPECT=1`
//! the answers are written for `./dev test`; without, each must have the status that it has there.

use std::{collections::BTreeMap, fs, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    fault_table::Registry as _,
    kubernetes_server::Kubernetes,
    replayed::{Turn, file},
};

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=\
                      kubernetes.io%2Fservice-name%3Dorders";
const ENDPOINTS: &str = "/api/v1/namespaces/shop/endpoints?fieldSelector=metadata.name%3Dorders";

/// The server, and who asks it.
struct Recorder<'a> {
    kubernetes: &'a Kubernetes,
    token: String,
    turns: Vec<Turn>,
}

impl<'a> Recorder<'a> {
    fn new(kubernetes: &'a Kubernetes) -> Self {
        let token = fs::read_to_string(kubernetes.token_file()).unwrap();
        Self { kubernetes, token, turns: Vec::new() }
    }

    /// Asks, notes what is answered, and says it as JSON.
    async fn ask(&mut self, asked: &str) -> Value {
        let answer = self.kubernetes.ask_as_gateway(asked, &self.token).await;
        let content_type = answer.headers["content-type"].to_str().unwrap().to_owned();
        let (status, body) = (answer.status.as_u16(), answer.text());
        let read = serde_json::from_str(&body).unwrap_or_default();
        self.turns.push(Turn { asked: asked.to_owned(), status, content_type, body });
        read
    }

    /// Watches from a version on; what happens meanwhile is up to who calls. Says the version that it came to.
    async fn watch(&mut self, of: &str, from: &str, seconds: u64) -> String {
        let asked = format!(
            "{of}&watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}"
        );
        self.ask(&asked).await;
        let turn = self.turns.last().unwrap();
        let last = turn.body.lines().last().map(|line| serde_json::from_str::<Value>(line).unwrap());
        last.map_or(from.to_owned(), |last| version(&last["object"]))
    }
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn endpoint(ip: &str, ready: bool, terminating: bool) -> Value {
    json!({ "addresses": [ip], "zone": "a", "nodeName": "n1", "hostname": "web",
        "conditions": { "ready": ready, "serving": ready || terminating, "terminating": terminating },
        "targetRef": { "kind": "Pod", "namespace": "shop", "name": format!("orders-{ip}") } })
}

fn slice(name: &str, port: u16, endpoints: &[Value]) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "orders" } },
        "endpoints": endpoints, "ports": [{ "name": "http", "port": port }] })
}

pub async fn record() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    let mut all = BTreeMap::new();
    let objects = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
    for (name, ip) in [("orders-a", "100.64.0.1"), ("orders-b", "100.64.0.2"), ("orders-c", "100.64.0.3")] {
        kubernetes.create(objects, &slice(name, 8080, &[endpoint(ip, true, false)]).to_string()).await;
    }

    // A list in pages, changes, a bookmark, a version that is not known any more, and the list again.
    let mut recorder = Recorder::new(&kubernetes);
    let first = recorder.ask(&format!("{SLICES}&limit=2")).await;
    let more = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = recorder.ask(&format!("{SLICES}&limit=2&continue={more}")).await;
    let change = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let moving = slice("orders-a", 8080, &[endpoint("100.64.0.1", false, true)]);
        let answer =
            kubernetes.ask(Method::PUT, &format!("{objects}/orders-a"), &moving.to_string()).await.unwrap();
        assert!(answer.status.is_success(), "{}", answer.text());
        let new = slice(
            "orders-d",
            9090,
            &[endpoint("100.64.0.4", true, false), endpoint("100.64.0.5", false, false)],
        );
        kubernetes.create(objects, &new.to_string()).await;
        kubernetes.remove(&format!("{objects}/orders-b")).await;
    };
    let from = version(&second);
    let (last, ()) = tokio::join!(recorder.watch(SLICES, &from, 8), change);
    let mut turns = std::mem::take(&mut recorder.turns);
    kubernetes.remove(&format!("{objects}/orders-c")).await;
    // Others are written meanwhile, and what was before is forgotten.
    kubernetes.compact().await;
    let mut recorder = Recorder::new(&kubernetes);
    recorder.watch(SLICES, &last, 2).await;
    let list = recorder.ask(&format!("{SLICES}&limit=500")).await;
    recorder.watch(SLICES, &version(&list), 2).await;
    turns.append(&mut recorder.turns);
    all.insert("changes", turns);

    // A page that comes too late.
    let mut recorder = Recorder::new(&kubernetes);
    let first = recorder.ask(&format!("{SLICES}&limit=1")).await;
    let more = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let mut turns = std::mem::take(&mut recorder.turns);
    kubernetes
        .create(
            "/api/v1/namespaces",
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } }).to_string(),
        )
        .await;
    kubernetes.compact().await;
    let mut recorder = Recorder::new(&kubernetes);
    recorder.ask(&format!("{SLICES}&limit=1&continue={more}")).await;
    recorder.ask(SLICES).await;
    turns.append(&mut recorder.turns);
    all.insert("late page", turns);

    // Whom it does not know, and who may not.
    let mut recorder = Recorder::new(&kubernetes);
    recorder.token = "nobody".to_owned();
    recorder.ask(&format!("{SLICES}&limit=500")).await;
    all.insert("unknown", std::mem::take(&mut recorder.turns));
    kubernetes.remove("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/witgate").await;
    let mut recorder = Recorder::new(&kubernetes);
    recorder.ask(&format!("{SLICES}&limit=500")).await;
    all.insert("forbidden", std::mem::take(&mut recorder.turns));

    // A server that has no slices.
    kubernetes.restart_empty().await;
    kubernetes.restart_without_slices().await;
    let object = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "orders" }, "subsets": [{
        "addresses": [{ "ip": "100.64.0.1" }], "notReadyAddresses": [{ "ip": "100.64.0.2" }],
        "ports": [{ "name": "http", "port": 8080 }] }] });
    kubernetes.create("/api/v1/namespaces/shop/endpoints", &object.to_string()).await;
    let mut recorder = Recorder::new(&kubernetes);
    recorder.ask(&format!("{SLICES}&limit=500")).await;
    let list = recorder.ask(&format!("{ENDPOINTS}&limit=500")).await;
    recorder.watch(ENDPOINTS, &version(&list), 2).await;
    all.insert("endpoints", recorder.turns);

    let statuses: Vec<(&str, Vec<u16>)> =
        all.iter().map(|(about, turns)| (*about, turns.iter().map(|turn| turn.status).collect())).collect();
    let count = statuses.iter().map(|(_, statuses)| statuses.len() as u64).sum();
    let expected = [
        ("changes", vec![200; 6]),
        ("endpoints", vec![404, 200, 200]),
        ("forbidden", vec![403]),
        ("late page", vec![200, 410, 200]),
        ("unknown", vec![401]),
    ];
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file("kubernetes"), serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
    assert_eq!(statuses, expected);
    count
}
