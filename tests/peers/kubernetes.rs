//! A real API server of Kubernetes: the table of faults, the rights of the example and its manifests, a kubeconfig, and a pod.

use std::{fs, time::Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Method;
use serde_json::{Value, json};

use crate::{
    go_zero::well,
    support::{
        backend::Backend,
        fault_table::Registry as _,
        gateway::{Gateway, bound_to_test, until},
        go_zero,
        kubernetes_server::{Kubernetes, collection, manifests},
        service::{CLIENTS, answers, becomes, endpoints},
        traffic::Traffic,
    },
};

/// The rest of a configuration that finds `orders`.
const ORDERS: &str = "[upstream.orders]\nservice = \"shop/orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
                      [[route]]\npath = \"/\"\nupstream = \"orders\"\n";

/// A gateway that has found the first of two instances finds the second, and loses the first, without a failed request.
async fn follows(kubernetes: &mut Kubernetes, gateway: Gateway) -> u64 {
    let backends = Backend::several(2).await;
    kubernetes.register("b0", backends[0].address).await;
    endpoints(&gateway, 1).await;
    answers(&gateway).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    kubernetes.register("b1", backends[1].address).await;
    traffic.reaches("b1", Instant::now()).await;
    kubernetes.withdraw("b0").await;
    endpoints(&gateway, 1).await;
    traffic.more(200).await;
    becomes(&gateway, "live").await;
    traffic.stop().await.none_failed().sent
}

/// As from outside of a cluster, over TLS: with the token that stands in the file, and then with a certificate.
pub async fn kubeconfig() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    let data = |path: &std::path::Path| BASE64_STANDARD.encode(fs::read(path).unwrap());
    let admin = kubernetes.admin();
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: token\nclusters:\n- name: test\n  cluster:\n    \
         server: https://{}\n    certificate-authority-data: {}\nusers:\n- name: token\n  user:\n    tokenFile: {}\n\
         - name: certificate\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n\
         - name: token\n  context:\n    cluster: test\n    user: token\n- name: certificate\n  context:\n    \
         cluster: test\n    user: certificate\n",
        kubernetes.address(),
        data(&kubernetes.ca()),
        kubernetes.token_file().display(),
        data(&admin.certificate),
        data(&admin.key),
    );
    let file = kubernetes.folder().join("kubeconfig");
    fs::write(&file, config).unwrap();
    let mut sent = 0;
    for context in ["", ", context = \"certificate\""] {
        let registry = format!(
            "[registry.main]\nplugin = \"kubernetes\"\nhttp = {{ kubeconfig = {file:?}{context} }}\n\n"
        );
        let gateway = Gateway::start(&(registry + ORDERS));
        sent += follows(&mut kubernetes, gateway).await;
        kubernetes.withdraw("b1").await;
    }
    sent
}

/// As in a pod: with its environment, and its service account in a file system that only it sees.
pub async fn in_cluster() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    let address = kubernetes.address();
    let account = kubernetes.folder().join("account");
    fs::create_dir(&account).unwrap();
    fs::copy(kubernetes.token_file(), account.join("token")).unwrap();
    fs::copy(kubernetes.ca(), account.join("ca.crt")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("pod.sh");
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    fs::write(
        &script,
        format!(
            "set -e\nmount -t tmpfs none /run\nmkdir -p {place}\nmount --bind {account:?} {place}\nexec \"$@\"\n"
        ),
    )
    .unwrap();
    let mut command = bound_to_test();
    command.args(["unshare", "--mount", "sh"]).arg(&script).arg(env!("CARGO_BIN_EXE_witgate"));
    command.env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
    let registry = "[registry.main]\nplugin = \"kubernetes\"\nhttp = \"in-cluster\"\n\n";
    let mut gateway = Gateway::start_early_by(command, folder, &(registry.to_owned() + ORDERS));
    gateway.until_ready();
    follows(&mut kubernetes, gateway).await
}

/// What the example would make in a cluster is what the server takes, as it stands and with nothing left out.
pub async fn manifests_are_taken() -> u64 {
    let kubernetes = Kubernetes::start().await;
    let mut taken = 0;
    for object in manifests("deployment.yaml") {
        let path = format!("{}?dryRun=All&fieldValidation=Strict", collection(&object));
        kubernetes.create(&path, &object).await;
        taken += 1;
    }
    // Those were made when it started, by the same rules.
    let rules = manifests("rbac.yaml").len() as u64;
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/witgate";
    let role: Value =
        serde_json::from_str(&kubernetes.ask(Method::GET, role, "").await.unwrap().text()).unwrap();
    assert_eq!(role["rules"][0]["resources"], json!(["endpointslices"]), "{role}");
    // More than it needs it may not do.
    let token = fs::read_to_string(kubernetes.token_file()).unwrap();
    for (path, expected) in [
        ("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", 200),
        ("/api/v1/namespaces/shop/secrets", 403),
        ("/api/v1/namespaces/shop/pods", 403),
    ] {
        assert_eq!(kubernetes.ask_as_gateway(path, &token).await.status, expected, "{path}");
    }
    taken + rules
}

/// The versions that the gateway knows are forgotten while the server is away: it says so, and the list is asked for again.
pub async fn compacted() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    let backends = Backend::several(2).await;
    kubernetes.register("b0", backends[0].address).await;
    let gateway = Gateway::start(&(kubernetes.toml() + "\n" + ORDERS));
    endpoints(&gateway, 1).await;
    answers(&gateway).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    kubernetes.register("b1", backends[1].address).await;
    kubernetes.compact().await;
    traffic.reaches("b1", Instant::now()).await;
    becomes(&gateway, "live").await;
    traffic.more(200).await;
    traffic.stop().await.none_failed().sent
}

/// A service of go-zero that is called as its clients name it. Whether they or the gateway find it, calls go to the port
/// of its container.
pub async fn called_as_go_zero_does() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    let service = go_zero::Service::start("a", None, "").await;
    kubernetes.register("a", service.address).await;
    let port = kubernetes.reached(service.address).await.port();
    let gateway = Gateway::start(&format!(
        "{}\n[upstream.orders]\nservice = \"k8s://shop/orders:{port}\"\nregistry = \"main\"\n\n[[route]]\n\
         path = \"/{}\"\nupstream = \"orders\"\n",
        kubernetes.toml(),
        go_zero::SERVICE
    ));
    endpoints(&gateway, 1).await;
    let client = go_zero::Client::start(gateway.address(), "");
    client.more(200).await;
    well(client.stop().await.statuses)
}

/// A server without EndpointSlices is asked for Endpoints.
pub async fn without_slices() -> u64 {
    let mut kubernetes = Kubernetes::start().await;
    kubernetes.restart_without_slices().await;
    let backend = Backend::start("b0").await;
    let reached = kubernetes.reached(backend.address).await;
    let object = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "orders" }, "subsets": [{
        "addresses": [{ "ip": reached.ip() }], "ports": [{ "name": "http", "port": reached.port() }] }] });
    kubernetes.create("/api/v1/namespaces/shop/endpoints", &object.to_string()).await;
    let gateway = Gateway::start(&(kubernetes.toml() + "\n" + ORDERS));
    endpoints(&gateway, 1).await;
    answers(&gateway).await;
    let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
    traffic.more(100).await;
    kubernetes.remove("/api/v1/namespaces/shop/endpoints/orders").await;
    until("that is heard of", || async {
        gateway.api("/api/v1/upstreams/orders?endpoints=false").await["sources"][0]["instances"] == 0
    })
    .await;
    traffic.more(100).await;
    traffic.stop().await.none_failed().sent
}
