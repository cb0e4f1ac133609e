//! `/v1/health/service/NAME`: the instances of a service, each with the checks of it and of its node.

use guest::entries::{Entry, Labels, State};
use serde::Deserialize;
use serde_json::Value;

/// What is read of an instance. Consul adds to it with each version.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    node: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    #[serde(default = "one")]
    passing: i64,
    #[serde(default = "one")]
    warning: i64,
}

fn one() -> i64 {
    1
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locality {
    #[serde(default)]
    zone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(rename = "CheckID", default)]
    id: String,
    #[serde(default)]
    status: String,
}

/// The worst that a check says; `serfHealth`, whether the node itself is there, is one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Passing,
    Warning,
    Critical,
    /// Somebody switched it off on purpose.
    Maintenance,
}

impl Check {
    fn health(&self) -> Health {
        if self.id == "_node_maintenance" || self.id.starts_with("_service_maintenance") {
            return Health::Maintenance;
        }
        match self.status.as_str() {
            "passing" => Health::Passing,
            "warning" => Health::Warning,
            "maintenance" => Health::Maintenance,
            _ => Health::Critical,
        }
    }
}

/// The instances in an answer; the error says what the answer is instead of a list. `passing`: one that warns is no
/// better than one that is critical.
pub fn read(body: &[u8], passing: bool) -> Result<Vec<(String, Entry)>, String> {
    let instances: Vec<Instance> =
        serde_json::from_slice(body).map_err(|error| format!("no list of instances: {error}"))?;
    let mut list: Vec<_> = instances.into_iter().map(|instance| instance.entry(passing)).collect();
    // Consul gives them in any order.
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(list)
}

impl Instance {
    fn entry(self, passing: bool) -> (String, Entry) {
        let Instance { node, service, checks } = self;
        let health = checks.iter().flatten().map(Check::health).max().unwrap_or(Health::Passing);
        let weights = service.weights.unwrap_or(Weights { passing: 1, warning: 1 });
        let (weight, state) = match health {
            Health::Passing => (weights.passing, State::Ready),
            Health::Warning if !passing => (weights.warning, State::Ready),
            Health::Warning | Health::Critical => (weights.passing, State::Unwell),
            Health::Maintenance => (0, State::Ready),
        };
        let host = if service.address.is_empty() { node.address } else { service.address };
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let meta = service.meta.into_iter().flatten().filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text)),
            _ => None,
        });
        let tags = service.tags.into_iter().flatten().map(|tag| ("tag".to_owned(), tag));
        let labels: Labels = meta.chain(tags).collect();
        let locality = [service.locality, node.locality].into_iter().flatten();
        let zone = locality.map(|locality| locality.zone).find(|zone| !zone.is_empty());
        let entry = Entry {
            weight: u32::try_from(weight.max(0)).unwrap_or(u32::MAX),
            state,
            zone,
            labels,
            ..Entry::plain(&format!("{host}:{}", service.port))
        };
        // The id of a service is its own on each node only.
        (format!("{}/{}", node.node, service.id), entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn instance(service: Value, checks: Value) -> Value {
        json!({ "Node": { "Node": "n1", "Address": "10.0.0.9" }, "Service": service, "Checks": checks })
    }

    fn one_of(service: Value, checks: Value, passing: bool) -> (String, Entry) {
        let body = json!([instance(service, checks)]).to_string();
        read(body.as_bytes(), passing).unwrap().remove(0)
    }

    fn stands(checks: Value, passing: bool) -> (u32, State) {
        let service = json!({ "ID": "w1", "Address": "10.0.0.1", "Port": 80,
            "Weights": { "Passing": 5, "Warning": 2 } });
        let (_, entry) = one_of(service, checks, passing);
        (entry.weight, entry.state)
    }

    #[test]
    fn an_instance_is_read_with_all_that_is_said_of_it() {
        let service = json!({ "ID": "w1", "Service": "web", "Address": "10.0.0.1", "Port": 8080,
            "Tags": ["v1", "canary"], "Meta": { "version": "2", "protocol": "http2" },
            "Weights": { "Passing": 5, "Warning": 1 }, "Locality": { "Region": "eu", "Zone": "eu-1" } });
        let (id, entry) = one_of(service, json!([]), false);
        let labels = [("protocol", "http2"), ("version", "2"), ("tag", "v1"), ("tag", "canary")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let zone = Some("eu-1".to_owned());
        let expected = Entry { weight: 5, zone, labels, ..Entry::plain("10.0.0.1:8080") };
        assert_eq!((id.as_str(), entry), ("n1/w1", expected));
    }

    #[test]
    fn a_service_without_an_address_is_at_that_of_its_node() {
        let address = |service: Value| one_of(service, json!(null), false).1.address;
        assert_eq!(address(json!({ "ID": "w", "Address": "", "Port": 80 })), "10.0.0.9:80");
        assert_eq!(address(json!({ "ID": "w", "Port": 80 })), "10.0.0.9:80");
        assert_eq!(address(json!({ "ID": "w", "Address": "fd00::1", "Port": 80 })), "[fd00::1]:80");
        assert_eq!(address(json!({ "ID": "w", "Address": "db.example", "Port": 80 })), "db.example:80");
    }

    #[test]
    fn the_worst_check_says_how_an_instance_stands() {
        let check = |id: &str, status: &str| json!({ "CheckID": id, "Status": status });
        let (good, bad) = (check("serfHealth", "passing"), check("serfHealth", "critical"));
        assert_eq!(stands(json!([good, check("c", "passing")]), false), (5, State::Ready));
        assert_eq!(stands(json!([good, check("c", "warning")]), false), (2, State::Ready));
        assert_eq!(stands(json!([good, check("c", "warning")]), true), (5, State::Unwell));
        assert_eq!(stands(json!([good, check("c", "critical")]), false), (5, State::Unwell));
        assert_eq!(stands(json!([bad, check("c", "passing")]), false), (5, State::Unwell));
        assert_eq!(stands(json!([good, check("c", "what is this")]), false), (5, State::Unwell));
        assert_eq!(stands(json!([bad, check("_node_maintenance", "critical")]), false), (0, State::Ready));
        let of_service = check("_service_maintenance:w1", "critical");
        assert_eq!(stands(json!([good, of_service]), false), (0, State::Ready));
    }

    #[test]
    fn weights_are_what_a_gateway_can_use() {
        let weight = |weights: Value| {
            one_of(json!({ "ID": "w", "Port": 80, "Weights": weights }), json!([]), false).1.weight
        };
        assert_eq!(weight(json!(null)), 1);
        assert_eq!(weight(json!({})), 1);
        assert_eq!(weight(json!({ "Passing": 0 })), 0);
        assert_eq!(weight(json!({ "Passing": -3 })), 0);
        assert_eq!(weight(json!({ "Passing": 1u64 << 40 })), u32::MAX);
    }

    #[test]
    fn the_same_instances_in_another_order_are_the_same_list() {
        let service = |id: &str| instance(json!({ "ID": id, "Port": 80 }), json!([]));
        let list = |ids: [&str; 2]| read(json!(ids.map(service)).to_string().as_bytes(), false).unwrap();
        assert_eq!(list(["a", "b"]), list(["b", "a"]));
    }

    #[test]
    fn what_is_no_list_is_told() {
        for body in ["", "<html>", "{}", "null", r#"[{"Node":{}}]"#, r#"[{"Node":{"Node":"n"},"Service":7}]"#]
        {
            assert!(
                read(body.as_bytes(), false).unwrap_err().starts_with("no list of instances: "),
                "{body}"
            );
        }
        assert_eq!(read(b"[]", false), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&body, false);
        }
    }
}
