//! An instance as a server is told of it.

use std::time::Duration;

use guest::entries::{Entry, check_address};
use guest::escape::escape;
use serde_json::{Map, Value, json};

use crate::settings::Settings;

/// An instance that is announced: what lies under the URL of a server, and what is sent there.
#[derive(Debug, PartialEq)]
pub struct Instance {
    pub application: String,
    pub register: String,
    /// Of this instance alone.
    pub path: String,
    pub ttl: Duration,
}

impl Instance {
    /// The error says what has no place in Eureka.
    pub fn new(settings: &Settings, app: &str, entry: &Entry) -> Result<Instance, String> {
        if app.is_empty() {
            return Err("service: \"\" is no application".to_owned());
        }
        check_address(&entry.address)?;
        let (host, port) = entry.address.rsplit_once(':').unwrap_or_default();
        let (port, bare) = (port.parse::<u16>().unwrap_or_default(), host.trim_matches(['[', ']']));
        let (mut metadata, mut name) = (Map::new(), host);
        for (label, value) in &entry.labels {
            if label == "hostname" {
                name = value;
            } else if label.starts_with('@') || label == "weight" {
                return Err(format!("label {label}: it means something else among Eureka's metadata"));
            } else if metadata.insert(label.clone(), json!(value)).is_some() {
                return Err(format!("label {label}: Eureka has one value for each name"));
            }
        }
        if name.is_empty() {
            return Err("label hostname: \"\" is none".to_owned());
        }
        if entry.weight > 1 {
            metadata.insert("weight".to_owned(), json!(entry.weight.to_string()));
        }
        let id = format!("{bare}:{}:{port}", app.to_ascii_lowercase());
        let (plain, secure) = if settings.secure { ("false", "true") } else { ("true", "false") };
        let mut instance = json!({
            "instanceId": id, "app": app.to_ascii_uppercase(), "hostName": name,
            "status": if entry.weight == 0 { "OUT_OF_SERVICE" } else { "UP" },
            "port": { "$": port, "@enabled": plain }, "securePort": { "$": port, "@enabled": secure },
            "vipAddress": app, "secureVipAddress": app, "countryId": 1,
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
            "leaseInfo": { "renewalIntervalInSecs": settings.ttl_seconds / 3, "durationInSecs": settings.ttl_seconds },
            "metadata": Value::Object(metadata),
        });
        // What is announced by its name has no other address that we know.
        if bare.parse::<std::net::IpAddr>().is_ok() {
            instance["ipAddr"] = json!(bare);
        }
        let application = format!("/apps/{}", escape(&app.to_ascii_uppercase(), false));
        let path = format!("{application}/{}", escape(&id, false));
        let ttl = Duration::from_secs(settings.ttl_seconds.into());
        Ok(Instance { application, register: json!({ "instance": instance }).to_string(), path, ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Wanted;

    fn entry(address: &str, weight: u32, labels: &[(&str, &str)]) -> Entry {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Entry { weight, labels, ..Entry::plain(address) }
    }

    fn instance(settings: &str, entry: &Entry) -> Result<(Value, Instance), String> {
        let instance = Instance::new(&Settings::read(settings).unwrap(), "Orders", entry)?;
        let body: Value = serde_json::from_str(&instance.register).unwrap();
        Ok((body["instance"].clone(), instance))
    }

    #[test]
    fn a_server_is_told_what_clients_need() {
        let labels = [("version", "2"), ("zone", "a"), ("hostname", "h1.example")];
        let (told, instance) = instance(r#"{"ttl_seconds":9}"#, &entry("10.0.0.1:80", 3, &labels)).unwrap();
        assert_eq!(
            told,
            json!({
                "instanceId": "10.0.0.1:orders:80", "app": "ORDERS", "hostName": "h1.example", "ipAddr": "10.0.0.1",
                "status": "UP", "port": { "$": 80, "@enabled": "true" },
                "securePort": { "$": 80, "@enabled": "false" }, "vipAddress": "Orders", "secureVipAddress": "Orders",
                "countryId": 1, "dataCenterInfo":
                    { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
                "leaseInfo": { "renewalIntervalInSecs": 3, "durationInSecs": 9 },
                "metadata": { "version": "2", "zone": "a", "weight": "3" },
            })
        );
        assert_eq!(instance.application, "/apps/ORDERS");
        assert_eq!(instance.path, "/apps/ORDERS/10.0.0.1%3Aorders%3A80");
    }

    #[test]
    fn it_reads_as_what_it_was() {
        let labels = [("version", "2"), ("zone", "a")];
        for (settings, secure, address, weight) in [
            ("{}", false, "10.0.0.1:80", 1),
            ("{}", false, "[fd00::1]:80", 7),
            ("{}", false, "h1.example:80", 0),
            (r#"{"secure":true}"#, true, "10.0.0.1:443", 2),
        ] {
            let entry = entry(address, weight, &labels);
            let (told, _) = instance(settings, &entry).unwrap();
            let body = json!({ "application": { "name": "ORDERS", "instance": told } }).to_string();
            let wanted = Wanted { app: "orders".into(), secure, by_name: false };
            let read = wanted.list(body.as_bytes(), false).unwrap().remove(0).entry;
            assert_eq!(read, Entry { zone: Some("a".into()), ..entry });
        }
    }

    #[test]
    fn what_has_no_place_is_named() {
        for (entry, part) in [
            (entry("10.0.0.1", 1, &[]), "\"10.0.0.1\" has no port"),
            (entry("10.0.0.1:80", 1, &[("a", "1"), ("a", "2")]), "label a: Eureka has one value"),
            (entry("10.0.0.1:80", 1, &[("@class", "1")]), "label @class: "),
            (entry("10.0.0.1:80", 1, &[("weight", "1")]), "label weight: "),
            (entry("10.0.0.1:80", 1, &[("hostname", "")]), "label hostname: "),
        ] {
            let error = instance("{}", &entry).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
