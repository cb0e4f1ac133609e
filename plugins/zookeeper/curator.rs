//! An instance as Apache Curator's service discovery writes it, and Spring Cloud with it.
//!
//! `{"name":"orders","id":"…","address":"10.0.0.1","port":8080,"sslPort":null,"payload":{…},"serviceType":"DYNAMIC",
//! "enabled":true}`. Spring Cloud's payload has `metadata`, a map of texts.

use guest::entries::{Entry, Labels, State};
use guest::json::metadata_labels;
use serde::Deserialize;
use serde_json::Value;

/// What is read of it. Whoever has a payload of their own adds to it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub address: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub ssl_port: Option<u16>,
    #[serde(default)]
    pub payload: Value,
    /// Older versions of Curator do not write it.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// The instance that a node claims. What makes no sense is passed on as the address.
pub fn read(value: &str, secure: bool) -> Entry {
    let Ok(instance) = serde_json::from_str::<Instance>(value) else { return Entry::plain(value) };
    let Instance { port, ssl_port, .. } = instance;
    let (port, is_tls) = match (port, ssl_port) {
        (_, Some(port)) if secure => (Some(port), true),
        (Some(port), _) => (Some(port), false),
        (None, port) => (port, port.is_some()),
    };
    let Some(port) = port else { return Entry::plain(value) };
    let mut labels = metadata_labels(instance.metadata());
    if is_tls && !labels.iter().any(|(name, _)| name == "protocol") {
        labels.push(("protocol".to_owned(), "https".to_owned()));
    }
    instance.entry(port, labels)
}

/// An instance as Spring Cloud finds it, with its labels as metadata. What has weight 0 is switched off.
pub fn write(service: &str, entry: &Entry, secure: bool) -> String {
    let Entry { address, weight, labels, .. } = entry;
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let port = port.parse::<u16>().ok();
    let metadata: serde_json::Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    serde_json::json!({
        "name": service, "id": address, "address": host.trim_start_matches('[').trim_end_matches(']'),
        "port": port.filter(|_| !secure), "sslPort": port.filter(|_| secure),
        "payload": { "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
            "id": address, "name": service, "metadata": metadata },
        "registrationTimeUTC": 0, "serviceType": "DYNAMIC", "enabled": *weight > 0,
        // How Spring Cloud makes a URI of it: without, it has one without a scheme.
        "uriSpec": { "parts": [
            { "value": "scheme", "variable": true }, { "value": "://", "variable": false },
            { "value": "address", "variable": true }, { "value": ":", "variable": false },
            { "value": "port", "variable": true },
        ] },
    })
    .to_string()
}

impl Instance {
    /// What the payload says of the instance, wherever in it that is.
    pub fn metadata(&self) -> &Value {
        self.payload.get("metadata").unwrap_or(&self.payload)
    }

    pub fn entry(&self, port: u16, labels: Labels) -> Entry {
        let host = self.address.trim_start_matches('[').trim_end_matches(']');
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        // As Spring Cloud's instances say it of themselves.
        let status = self.metadata().get("instance_status").and_then(Value::as_str);
        let (weight, state) = match status {
            _ if !self.enabled => (0, State::Ready),
            Some("OUT_OF_SERVICE") => (0, State::Ready),
            Some("DOWN" | "STARTING") => (1, State::Unwell),
            _ => (1, State::Ready),
        };
        Entry { weight, state, labels, ..Entry::plain(&format!("{host}:{port}")) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spring(more: Value) -> Value {
        let mut instance = json!({ "name": "orders", "id": "1", "address": "10.0.0.1", "port": 8080, "sslPort": null,
            "payload": { "@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                "id": "application-1", "name": "orders", "metadata": { "zone": "eu-1", "version": "2" } },
            "registrationTimeUTC": 1_700_000_000_000u64, "serviceType": "DYNAMIC",
            "uriSpec": { "parts": [{ "value": "scheme", "variable": true }] } });
        for (name, value) in more.as_object().unwrap() {
            instance[name] = value.clone();
        }
        instance
    }

    fn entry(instance: Value, secure: bool) -> Entry {
        read(&instance.to_string(), secure)
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn an_instance_is_read_with_its_metadata() {
        let expected =
            Entry { labels: labels(&[("version", "2"), ("zone", "eu-1")]), ..Entry::plain("10.0.0.1:8080") };
        assert_eq!(entry(spring(json!({})), false), expected);
        for kind in ["STATIC", "PERMANENT", "DYNAMIC_SEQUENTIAL", "what is this"] {
            assert_eq!(entry(spring(json!({ "serviceType": kind })), false), expected, "{kind}");
        }
        assert_eq!(entry(spring(json!({ "address": "fd00::1" })), false).address, "[fd00::1]:8080");
        let plain = json!({ "address": "a", "port": 1, "payload": { "version": "3", "list": [] } });
        assert_eq!(entry(plain, false).labels, labels(&[("version", "3")]));
        assert_eq!(
            entry(json!({ "address": "a", "port": 1, "payload": "text" }), false),
            Entry::plain("a:1")
        );
    }

    /// Clients of Spring Cloud call what these parts, put together, are.
    #[test]
    fn what_is_written_has_a_uri() {
        let written = |secure| {
            let entry = Entry::plain("10.0.0.1:8080");
            let instance: Value = serde_json::from_str(&write("orders", &entry, secure)).unwrap();
            let scheme = if instance["sslPort"].is_null() { "http" } else { "https" };
            let port = instance["port"].as_u64().or(instance["sslPort"].as_u64()).unwrap().to_string();
            let parts = instance["uriSpec"]["parts"].as_array().unwrap().iter();
            let text = |part: &Value| match (part["value"].as_str().unwrap(), part["variable"] == true) {
                ("scheme", true) => scheme.to_owned(),
                ("address", true) => instance["address"].as_str().unwrap().to_owned(),
                ("port", true) => port.clone(),
                (literal, false) => literal.to_owned(),
                (name, true) => panic!("no variable: {name}"),
            };
            parts.map(text).collect::<String>()
        };
        assert_eq!(written(false), "http://10.0.0.1:8080");
        assert_eq!(written(true), "https://10.0.0.1:8080");
    }

    #[test]
    fn ports_may_be_missing_and_say_whether_it_is_tls() {
        let address = |ports: Value, secure| {
            let entry = entry(spring(ports), secure);
            let tls = entry.labels.iter().any(|label| *label == ("protocol".into(), "https".into()));
            (entry.address.rsplit_once(':').unwrap().1.to_owned(), tls)
        };
        assert_eq!(address(json!({ "port": 80, "sslPort": 443 }), false), ("80".into(), false));
        assert_eq!(address(json!({ "port": 80, "sslPort": 443 }), true), ("443".into(), true));
        assert_eq!(address(json!({ "port": null, "sslPort": 443 }), false), ("443".into(), true));
        assert_eq!(address(json!({ "port": 80, "sslPort": null }), true), ("80".into(), false));
        let none = spring(json!({ "port": null })).to_string();
        assert_eq!(read(&none, false), Entry::plain(&none), "the gateway reports it");
    }

    #[test]
    fn an_instance_may_be_switched_off_or_say_that_it_is_not_well() {
        let stands = |more: Value| {
            let entry = entry(spring(more), false);
            (entry.weight, entry.state)
        };
        assert_eq!(stands(json!({ "enabled": true })), (1, State::Ready));
        assert_eq!(stands(json!({ "enabled": false })), (0, State::Ready));
        let status = |status: &str| json!({ "payload": { "metadata": { "instance_status": status } } });
        assert_eq!(stands(status("UP")), (1, State::Ready));
        assert_eq!(stands(status("OUT_OF_SERVICE")), (0, State::Ready));
        assert_eq!(stands(status("DOWN")), (1, State::Unwell));
    }

    #[test]
    fn what_makes_no_sense_is_passed_on() {
        for value in ["", "<html>", "{}", r#"{"address":7,"port":1}"#, r#"{"address":"a","port":70000}"#] {
            assert_eq!(read(value, false), Entry::plain(value));
        }
    }
}
