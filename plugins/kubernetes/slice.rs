//! What an API server says of a service: EndpointSlices, or the Endpoints of a server that has none of these.

use guest::entries::{Labels, State};
use serde::Deserialize;

/// Endpoints of a service that have their ports in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slice {
    pub kind: Kind,
    pub ports: Vec<Port>,
    pub endpoints: Vec<Endpoint>,
}

/// What addresses are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    #[default]
    Ipv4,
    Ipv6,
    Name,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Empty where the service has only one.
    pub name: String,
    /// None: any.
    pub number: Option<u16>,
    /// What is spoken there, in the words of the label `protocol`.
    pub speaks: Option<&'static str>,
}

/// One address of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Without brackets.
    pub host: String,
    pub state: State,
    /// Whose address it is, where that is told: an instance may have several.
    pub of: Option<String>,
    /// The name within its service.
    pub hostname: Option<String>,
    pub zone: Option<String>,
    pub labels: Labels,
}

/// An object of the API that says something of the service.
#[derive(Debug, PartialEq)]
pub struct Object {
    pub name: String,
    pub slices: Vec<Slice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub resource_version: String,
    #[serde(default, rename = "continue")]
    pub more: String,
}

/// `discovery.k8s.io/v1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    metadata: Metadata,
    address_type: String,
    endpoints: Option<Vec<SliceEndpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Target>,
    zone: Option<String>,
}

/// None: nothing is known.
#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlicePort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

/// Of `v1`.
#[derive(Deserialize)]
pub struct Endpoints {
    metadata: Metadata,
    subsets: Option<Vec<Subset>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subset {
    addresses: Option<Vec<Address>>,
    not_ready_addresses: Option<Vec<Address>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    ip: String,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Target>,
}

impl Conditions {
    /// None: it is over with it.
    fn state(&self) -> Option<State> {
        let ready = self.ready.unwrap_or(true);
        let serving = self.serving.unwrap_or(ready);
        match (ready, serving, self.terminating.unwrap_or(false)) {
            // Ready, although it ends, where the service publishes addresses that are not ready.
            (true, _, true) | (_, true, true) => Some(State::Draining),
            (_, false, true) => None,
            (true, _, false) => Some(State::Ready),
            (false, _, false) => Some(State::Unwell),
        }
    }
}

impl From<EndpointSlice> for Object {
    fn from(slice: EndpointSlice) -> Object {
        let EndpointSlice { metadata, address_type, endpoints, ports } = slice;
        let kind = match address_type.as_str() {
            "IPv4" => Kind::Ipv4,
            "IPv6" => Kind::Ipv6,
            _ => Kind::Name,
        };
        let endpoints = endpoints.into_iter().flatten().filter_map(|endpoint| {
            let SliceEndpoint { addresses, conditions, hostname, node_name, target_ref, zone } = endpoint;
            // They are the same, whichever is asked.
            let host = addresses.into_iter().next()?;
            let (of, labels) = told(target_ref, node_name);
            Some(Endpoint { host, state: conditions.state()?, of, hostname, zone, labels })
        });
        let slice = Slice { kind, ports: read_ports(ports), endpoints: endpoints.collect() };
        Object { name: metadata.name, slices: vec![slice] }
    }
}

impl From<Endpoints> for Object {
    fn from(endpoints: Endpoints) -> Object {
        let Endpoints { metadata, subsets } = endpoints;
        let mut slices = Vec::new();
        for Subset { addresses, not_ready_addresses, ports } in subsets.into_iter().flatten() {
            let ports = read_ports(ports);
            let ready = addresses.into_iter().flatten().map(|address| (address, State::Ready));
            let not_ready = not_ready_addresses.into_iter().flatten();
            let all = ready.chain(not_ready.map(|address| (address, State::Unwell)));
            let read = |(address, state)| {
                let Address { ip: host, hostname, node_name, target_ref } = address;
                let (of, labels) = told(target_ref, node_name);
                Endpoint { host, state, of, hostname, zone: None, labels }
            };
            let (v6, v4) = all.map(read).partition(|endpoint| endpoint.host.contains(':'));
            for (kind, endpoints) in [(Kind::Ipv4, v4), (Kind::Ipv6, v6)] {
                slices.push(Slice { kind, ports: ports.clone(), endpoints });
            }
        }
        Object { name: metadata.name, slices }
    }
}

/// Whose address it is, and what is to be said of that.
fn told(target: Option<Target>, node: Option<String>) -> (Option<String>, Labels) {
    let pod = target.as_ref().filter(|target| target.kind == "Pod").map(|target| target.name.clone());
    let of = target.map(|target| match target.uid.is_empty() {
        true => format!("{}/{}", target.kind, target.name),
        false => target.uid,
    });
    let labels = [("pod", pod), ("node", node)];
    let labels = labels.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    (of, labels.filter(|(_, value)| !value.is_empty()).collect())
}

/// Those of TCP.
fn read_ports(ports: Option<Vec<SlicePort>>) -> Vec<Port> {
    let tcp = |port: &SlicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let read = |port: SlicePort| Port {
        name: port.name.unwrap_or_default(),
        number: port.port,
        speaks: port.app_protocol.as_deref().and_then(speaks),
    };
    ports.into_iter().flatten().filter(tcp).map(read).collect()
}

/// Of `http`, which may be any version of it, there is nothing to say.
fn speaks(app_protocol: &str) -> Option<&'static str> {
    match app_protocol {
        "kubernetes.io/h2c" | "h2c" => Some("http2"),
        "grpc" => Some("grpc"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(address_type: &str, endpoints: Value, ports: Value) -> Slice {
        let value = json!({ "metadata": { "name": "orders-x" }, "addressType": address_type,
            "endpoints": endpoints, "ports": ports });
        let object = Object::from(serde_json::from_value::<EndpointSlice>(value).unwrap());
        assert_eq!((object.name.as_str(), object.slices.len()), ("orders-x", 1));
        object.slices.into_iter().next().unwrap()
    }

    #[test]
    fn an_endpoint_is_read_with_all_that_is_said_of_it() {
        let read = slice(
            "IPv4",
            json!([{ "addresses": ["10.0.0.1", "10.0.0.9"], "hostname": "web-0", "nodeName": "n1", "zone": "a",
                "targetRef": { "kind": "Pod", "name": "web-0", "uid": "u" } }]),
            json!([{ "name": "http", "port": 8080, "appProtocol": "kubernetes.io/h2c" },
                { "name": "dns", "port": 53, "protocol": "UDP" }]),
        );
        let labels = [("pod", "web-0"), ("node", "n1")].map(|(name, value)| (name.into(), value.into()));
        let endpoint = Endpoint {
            host: "10.0.0.1".into(),
            state: State::Ready,
            of: Some("u".into()),
            hostname: Some("web-0".into()),
            zone: Some("a".into()),
            labels: labels.to_vec(),
        };
        let port = Port { name: "http".into(), number: Some(8080), speaks: Some("http2") };
        assert_eq!(read, Slice { kind: Kind::Ipv4, ports: vec![port], endpoints: vec![endpoint] });
    }

    #[test]
    fn conditions_say_how_an_endpoint_stands() {
        let state = |conditions: Value| {
            let endpoints = json!([{ "addresses": ["10.0.0.1"], "conditions": conditions }]);
            slice("IPv4", endpoints, json!([])).endpoints.first().map(|endpoint| endpoint.state)
        };
        let (ready, draining, unwell) = (Some(State::Ready), Some(State::Draining), Some(State::Unwell));
        for (conditions, expected) in [
            (json!({}), ready),
            (json!({ "ready": null }), ready),
            (json!({ "ready": true, "serving": true, "terminating": false }), ready),
            (json!({ "ready": false }), unwell),
            (json!({ "ready": false, "serving": false, "terminating": false }), unwell),
            (json!({ "ready": false, "serving": true, "terminating": true }), draining),
            // A service that publishes addresses that are not ready.
            (json!({ "ready": true, "serving": true, "terminating": true }), draining),
            (json!({ "ready": false, "serving": false, "terminating": true }), None),
            (json!({ "ready": false, "terminating": true }), None),
        ] {
            assert_eq!(state(conditions.clone()), expected, "{conditions}");
        }
    }

    #[test]
    fn endpoints_of_a_server_without_slices_are_read() {
        let value = json!({ "metadata": { "name": "orders" }, "subsets": [{
            "addresses": [{ "ip": "10.0.0.1", "nodeName": "n1" }, { "ip": "fd00::1" }],
            "notReadyAddresses": [{ "ip": "10.0.0.2" }],
            "ports": [{ "port": 80 }] }, {}] });
        let object = Object::from(serde_json::from_value::<Endpoints>(value).unwrap());
        let told: Vec<_> = object
            .slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().map(|one| (slice.kind, one.host.as_str(), one.state)))
            .collect();
        let expected = [
            (Kind::Ipv4, "10.0.0.1", State::Ready),
            (Kind::Ipv4, "10.0.0.2", State::Unwell),
            (Kind::Ipv6, "fd00::1", State::Ready),
        ];
        assert_eq!(told, expected);
        assert_eq!(object.slices[0].ports, [Port { name: String::new(), number: Some(80), speaks: None }]);
    }
}
