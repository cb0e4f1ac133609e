//! `witgate init`: what it writes is valid as it stands, and a gateway with it answers requests.

use std::{net::SocketAddr, path::Path, process::Command};

use serde_json::json;

use crate::support::{
    backend::Backend,
    bind::Dnsmasq,
    discovery_double::DiscoveryDouble,
    etcd::{Etcd, Version},
    eureka::Eureka,
    fault_table::Registry as _,
    gateway::{Gateway, until},
    kubernetes::slice,
    kubernetes_double::{Kind, KubernetesDouble},
    nacos_double::NacosDouble,
};

const REGISTRIES: [&str; 10] =
    ["consul", "discovery", "dns", "etcd", "eureka", "file", "kubernetes", "memory", "nacos", "zookeeper"];

/// `witgate` in a folder: its exit code, and what it says.
fn witgate(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_witgate"));
    let output = command.current_dir(folder).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// A gateway with what is written for a registry at this address.
fn gateway(folder: tempfile::TempDir, registry: &str, address: Option<&str>) -> Gateway {
    let mut arguments = vec!["init", registry, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    arguments.extend(address.iter().flat_map(|address| ["--address", address]));
    let (code, said) = witgate(folder.path(), &arguments);
    assert_eq!(code, Some(0), "{said}");
    Gateway::run(folder)
}

async fn answers(gateway: &Gateway, service: &str, name: &str) {
    let path = format!("/svc/{service}/1");
    until("a request is answered", || async { gateway.get(&path).await.text() == name }).await;
}

#[test]
fn what_it_writes_is_valid_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (_, help) = witgate(folder.path(), &["init", "--help"]);
    // In lines as wide as the terminal.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains(&format!("[possible values: {}]", REGISTRIES.join(", "))), "{help}");
    for registry in REGISTRIES {
        let file = format!("{registry}.toml");
        let (code, said) = witgate(folder.path(), &["init", registry, "--output", &file]);
        assert_eq!((code, said.contains(&format!("witgate check {file}"))), (Some(0), true), "{said}");
        let (code, said) = witgate(folder.path(), &["check", &file]);
        assert_eq!(code, Some(0), "{registry}: {said}");
        assert!(said.contains(&format!("registry  main (plugin {registry})")), "{said}");
        assert!(!said.contains("warning"), "{said}");
        let (code, printed) = witgate(folder.path(), &["init", registry, "--output", "-"]);
        assert_eq!(code, Some(0), "{printed}");
        assert_eq!(printed, std::fs::read_to_string(folder.path().join(file)).unwrap());
    }
}

#[test]
fn a_file_that_is_there_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("witgate.toml");
    std::fs::write(&file, "mine").unwrap();
    let (code, said) = witgate(folder.path(), &["init", "etcd"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("witgate.toml is there") && said.contains("--output"), "{said}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
    let (code, said) = witgate(folder.path(), &["init", "etcd", "--output", "no/such/folder.toml"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no/such/folder.toml") && said.contains("No such file"), "{said}");
}

#[test]
fn what_would_not_be_valid_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, why) in [
        (vec!["init", "dns", "--address", "dns.example.com"], "\"dns.example.com\""),
        (vec!["init", "consul", "--address", "ftp://10.0.0.1"], "\"ftp://10.0.0.1\""),
        (vec!["init", "memory", "--address", "10.0.0.1:1"], "inside the gateway"),
        (vec!["init", "etcd", "--listen", "127.0.0.1:9901"], "127.0.0.1:9901"),
        (vec!["init", "etcd", "--admin", "0.0.0.0:9901"], "others can reach 0.0.0.0:9901"),
        (vec!["init", "etcd", "--admin", "0.0.0.0:9901"], "give --admin an address of this machine alone"),
    ] {
        let (code, said) = witgate(folder.path(), &arguments);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(witgate(folder.path(), &["init", "carrier-pigeon"]).0, Some(2));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_of_a_file() {
    let (folder, backend) = (tempfile::tempdir().unwrap(), Backend::start("one").await);
    let list = json!({ "services": { "orders": [backend.address] } });
    std::fs::write(folder.path().join("services.json"), list.to_string()).unwrap();
    answers(&gateway(folder, "file", None), "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_that_register_in_it() {
    let (gateway, backend) =
        (gateway(tempfile::tempdir().unwrap(), "memory", None), Backend::start("one").await);
    gateway.register("orders", "1", backend.address).await;
    answers(&gateway, "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_in_etcd() {
    let (etcd, backend) = (Etcd::start_version(Version::V35).await, Backend::start("one").await);
    let gateway = gateway(tempfile::tempdir().unwrap(), "etcd", Some(&etcd.endpoint()));
    etcd.client().await.put("orders.rpc/7587", backend.address.to_string(), None).await.unwrap();
    answers(&gateway, "orders.rpc", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_of_service_discovery() {
    let (node, backend) = (DiscoveryDouble::start().await, Backend::start("one").await);
    // The environment of the double is another one.
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = witgate(
        folder.path(),
        &["init", "discovery", "--address", &node.url(), "--listen", "127.0.0.1:0", "--output", "-"],
    );
    assert_eq!(code, Some(0), "{text}");
    let text = text.replace("env = \"prod\"", "env = \"dev\"").replace("127.0.0.1:9901", "127.0.0.1:0");
    std::fs::write(folder.path().join("witgate.toml"), text).unwrap();
    node.register_with("one", backend.address, json!({}));
    answers(&Gateway::run(folder), "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_applications_of_eureka() {
    let (mut eureka, backend) = (Eureka::start().await, Backend::start("one").await);
    eureka.register("one", backend.address).await;
    let gateway = gateway(tempfile::tempdir().unwrap(), "eureka", Some(&eureka.address().to_string()));
    answers(&gateway, "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_of_kubernetes() {
    let (kubernetes, backend) = (KubernetesDouble::start().await, Backend::start("one").await);
    kubernetes.put_in("default", Kind::Slices, "a", slice("orders", &[backend.address], json!({})));
    let gateway = gateway(tempfile::tempdir().unwrap(), "kubernetes", Some(&kubernetes.url()));
    answers(&gateway, "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_of_nacos() {
    let (nacos, backend) = (NacosDouble::<1>::start().await, Backend::start("one").await);
    nacos.register_with("orders", backend.address, &[]);
    let gateway = gateway(tempfile::tempdir().unwrap(), "nacos", Some(&nacos.address().to_string()));
    answers(&gateway, "orders", "one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_it_answers_for_services_that_dns_knows() {
    let backend = Backend::start("one").await;
    let dnsmasq = Dnsmasq::start(&[
        format!("--srv-host=_http._tcp.orders.example.com,one.test,{},1,1", backend.address.port()),
        "--host-record=one.test,127.0.0.1".to_owned(),
    ])
    .await;
    let address: SocketAddr = dnsmasq.address;
    let gateway = gateway(tempfile::tempdir().unwrap(), "dns", Some(&address.to_string()));
    answers(&gateway, "orders", "one").await;
}
