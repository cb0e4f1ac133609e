//! What tests of Kubernetes have in common, whether its API server is a real one or a double.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// Where the services of tests are.
pub const NAMESPACE: &str = "shop";

/// The table of a registry that asks an API server, with whatever else is granted.
pub fn registry(url: &str, more: &str, settings: &str) -> String {
    format!(
        "[registry.main]\nplugin = \"kubernetes\"\nhttp = {{ urls = [{url:?}]{more} }}\nsettings = {settings}\n"
    )
}

/// A slice of a service with these endpoints, which have their port in common.
pub fn slice(service: &str, addresses: &[SocketAddr], more: Value) -> Value {
    let port = addresses.first().map_or(80, SocketAddr::port);
    let kind = if addresses.first().is_some_and(SocketAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoints = addresses.iter().map(|address| {
        assert_eq!(address.port(), port, "endpoints of a slice have their ports in common");
        json!({ "addresses": [address.ip().to_string()], "conditions": { "ready": true } })
    });
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": kind,
        "metadata": { "namespace": NAMESPACE, "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints.collect::<Vec<_>>(), "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
    });
    merge(&mut slice, &more);
    slice
}

/// These by their ports, so many together at most.
pub fn in_slices(mut addresses: Vec<SocketAddr>, most: usize) -> Vec<Vec<SocketAddr>> {
    addresses.sort_by_key(SocketAddr::port);
    let same = addresses.chunk_by(|one, other| one.port() == other.port());
    same.flat_map(|same| same.chunks(most)).map(<[_]>::to_vec).collect()
}

/// The same with one endpoint, of which more is to be said.
pub fn slice_of(service: &str, address: SocketAddr, more: Value) -> Value {
    let mut slice = slice(service, &[address], json!({}));
    merge(&mut slice["endpoints"][0], &more);
    slice
}

fn merge(value: &mut Value, more: &Value) {
    for (name, more) in more.as_object().into_iter().flatten() {
        match more {
            Value::Object(_) if value[name].is_object() => merge(&mut value[name], more),
            more => value[name] = more.clone(),
        }
    }
}
