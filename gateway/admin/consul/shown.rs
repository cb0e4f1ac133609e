//! Instances as Consul's clients read them.

use serde_json::{Value, json};

use super::registration::{both_weights, is_ours, maintenance, meta, status_text, tags};
use crate::connector::memory::{Instance, InstanceState, Registration};

/// The one node, which everything is registered at.
pub(super) const NODE: &str = "witgate";

/// What is said of an instance that its checks do not say.
const OWN_WORD: &str = "by its own word";
const NO_REQUESTS: &str = "it takes no requests";

pub(super) struct Shown<'a> {
    pub service: &'a str,
    pub instance: &'a Instance,
    pub datacenter: &'a str,
}

impl Shown<'_> {
    /// As the health endpoint has it.
    pub(super) fn health(&self) -> Value {
        let (host, _) = self.instance.registration.host_and_port();
        json!({ "Node": { "ID": "", "Node": NODE, "Address": host, "Datacenter": self.datacenter,
                "TaggedAddresses": {}, "Meta": {} },
            "Service": self.service(), "Checks": self.checks() })
    }

    /// As the catalog has it.
    pub(super) fn catalog(&self) -> Value {
        let (registration, (host, port)) =
            (&self.instance.registration, self.instance.registration.host_and_port());
        let (passing, warning) = both_weights(registration);
        json!({ "ID": "", "Node": NODE, "Address": host, "Datacenter": self.datacenter, "TaggedAddresses": {},
            "NodeMeta": {}, "ServiceKind": "", "ServiceID": self.instance.id.as_ref(), "ServiceName": self.service,
            "ServiceTags": tags(registration), "ServiceAddress": host, "ServicePort": port,
            "ServiceWeights": { "Passing": passing, "Warning": warning }, "ServiceMeta": meta(registration),
            "ServiceEnableTagOverride": false })
    }

    /// As the agent has it.
    pub(super) fn service(&self) -> Value {
        let (registration, (host, port)) =
            (&self.instance.registration, self.instance.registration.host_and_port());
        let (passing, warning) = both_weights(registration);
        let mut service = json!({ "ID": self.instance.id.as_ref(), "Service": self.service,
            "Tags": tags(registration), "Meta": meta(registration), "Address": host, "Port": port,
            "TaggedAddresses": {}, "Weights": { "Passing": passing, "Warning": warning },
            "EnableTagOverride": false, "Datacenter": self.datacenter });
        if let Some(zone) = &registration.zone {
            service["Locality"] = json!({ "Zone": zone });
        }
        service
    }

    pub(super) fn checks(&self) -> Vec<Value> {
        let (registration, id) = (&self.instance.registration, &self.instance.id);
        let check = |check: &str, name: &str, status: &str, output: &str, kind: &str| {
            json!({ "Node": NODE, "CheckID": check, "Name": name, "Status": status, "Notes": "", "Output": output,
                "ServiceID": id.as_ref(), "ServiceName": self.service, "ServiceTags": tags(registration),
                "Type": kind, "Definition": {} })
        };
        let own = registration.checks.iter().map(|of| {
            let status = status_text(of.status);
            check(&of.id, &of.name, status, &of.output, "ttl")
        });
        let switched_off =
            maintenance(registration).or_else(|| takes_none(registration).then_some(NO_REQUESTS));
        let switched_off = switched_off.map(|why| {
            let name = "Service Maintenance Mode";
            check(&format!("_service_maintenance:{id}"), name, "critical", why, "maintenance")
        });
        let unwell = (registration.state == InstanceState::Unwell)
            .then(|| check(&format!("service:{id}"), "How it stands", "critical", OWN_WORD, ""));
        own.chain(switched_off).chain(unwell).collect()
    }

    pub(super) fn is_passing(&self) -> bool {
        self.checks().iter().all(|check| check["Status"] == "passing")
    }

    pub(super) fn has_tags(&self, wanted: &[String]) -> bool {
        let tags = tags(&self.instance.registration);
        wanted.iter().all(|wanted| tags.contains(&wanted.as_str()))
    }
}

/// Whether one that registered otherwise gets no new requests though it is well. What this API registers may weigh nothing
/// while it warns.
fn takes_none(registration: &Registration) -> bool {
    registration.state == InstanceState::Draining || (registration.weight == 0 && !is_ours(registration))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connector::memory::{CheckStatus, TtlCheck};

    fn checks(registration: Value) -> Vec<(String, String)> {
        let registration: Registration = serde_json::from_value(registration).unwrap();
        let instance =
            Instance { id: "a".into(), registration: Arc::new(registration), expires_in_seconds: None };
        let shown = Shown { service: "orders", instance: &instance, datacenter: "dc1" };
        let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
        let checks = shown.checks();
        let checks = checks.iter().map(|check| (text(check, "CheckID"), text(check, "Status")));
        checks.collect()
    }

    #[test]
    fn one_that_registered_otherwise_has_checks_that_say_how_it_stands() {
        let check = |id: &str| vec![(id.to_owned(), "critical".to_owned())];
        assert_eq!(checks(json!({ "address": "a:1" })), []);
        assert_eq!(checks(json!({ "address": "a:1", "state": "unwell" })), check("service:a"));
        for drained in
            [json!({ "address": "a:1", "weight": 0 }), json!({ "address": "a:1", "state": "draining" })]
        {
            assert_eq!(checks(drained), check("_service_maintenance:a"));
        }
        let warns = TtlCheck {
            id: "c".into(),
            ttl_seconds: 9,
            remove_after_seconds: 0,
            status: CheckStatus::Warning,
            name: String::new(),
            output: String::new(),
        };
        let warning = json!({ "address": "a:1", "weight": 0, "checks": [warns],
            "labels": { "consul.warningWeight": "0", "consul.passingWeight": "3" } });
        assert_eq!(checks(warning), [("c".to_owned(), "warning".to_owned())]);
    }
}
