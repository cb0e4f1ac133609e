//! An instance as a server is told of it: all that is said stands in the query of a request.

use std::time::Duration;

use guest::entries::{Entry, Labels, check_address};
use guest::rpcx;
use serde_json::{Map, Value, json};

use crate::settings::{Api, CLUSTER, Layout, Service, Settings, TTL, query};

/// Nacos takes no greater one.
const HEAVIEST: u32 = 10_000;

/// An instance that is announced: what is asked for below the URL of a server.
#[derive(Debug, PartialEq)]
pub struct Instance {
    pub register: String,
    pub beat: String,
    pub withdraw: String,
    pub beats: Beats,
}

/// How a server is told that an instance lives.
#[derive(Debug, PartialEq)]
pub struct Beats {
    pub api: Api,
    pub pause: Duration,
}

impl Instance {
    /// The error says what has no place in Nacos.
    pub fn new(settings: &Settings, service: &Service, entry: &Entry) -> Result<Instance, String> {
        check_address(&entry.address)?;
        let (host, port) = entry.address.rsplit_once(':').unwrap_or_default();
        let ip = host.trim_matches(['[', ']']);
        if entry.weight > HEAVIEST {
            return Err(format!("weight: {} is more than Nacos takes, which is {HEAVIEST}", entry.weight));
        }
        let (cluster, labels): (Labels, Labels) =
            entry.labels.iter().cloned().partition(|(name, _)| name == "cluster");
        let cluster = cluster.first().map(|(_, name)| name.as_str());
        let cluster = cluster.or(settings.clusters.first().map(String::as_str)).unwrap_or(CLUSTER);
        if cluster.is_empty() || cluster.contains(',') {
            return Err(format!("label cluster: {cluster:?} is not one cluster"));
        }
        let metadata = metadata(settings, entry.weight, labels)?;
        let names = settings.names(service);
        let place = query(&[
            ("ip", Some(ip)),
            ("port", Some(port)),
            ("clusterName", Some(cluster)),
            ("ephemeral", Some("true")),
        ]);
        let weight = entry.weight.to_string();
        let more = query(&[
            ("weight", Some(&weight)),
            ("enabled", Some("true")),
            ("healthy", Some("true")),
            ("metadata", Some(&Value::Object(metadata.clone()).to_string())),
        ]);
        let at = match settings.api {
            Api::V1 => "/v1/ns/instance",
            Api::V3 => "/v3/client/ns/instance",
        };
        let which = format!("{names}{place}");
        let which = which.trim_start_matches('&');
        let beat = match settings.api {
            // A server that has forgotten the instance takes it from what is said of it here.
            Api::V1 => {
                let Service { group, name } = service;
                let said = json!({ "serviceName": format!("{group}@@{name}"), "ip": ip,
                    "port": port.parse::<u16>().unwrap_or_default(), "cluster": cluster, "weight": entry.weight,
                    "metadata": metadata, "scheduled": true });
                format!("{at}/beat?{which}{}", query(&[("beat", Some(&said.to_string()))]))
            }
            Api::V3 => format!("{at}?{which}{more}&heartBeat=true"),
        };
        let beats = Beats { api: settings.api, pause: Duration::from_secs(settings.ttl_seconds.into()) / 6 };
        Ok(Instance {
            register: format!("{at}?{which}{more}"),
            beat,
            withdraw: format!("{at}?{which}"),
            beats,
        })
    }
}

fn metadata(settings: &Settings, weight: u32, labels: Labels) -> Result<Map<String, Value>, String> {
    let labels = match settings.layout {
        Layout::Nacos => labels,
        Layout::Rpcx(_) => {
            let network = labels.iter().find(|(name, _)| name == "network");
            let network = network.cloned().unwrap_or_else(|| ("network".to_owned(), "tcp".to_owned()));
            let written = rpcx::parse_query(&rpcx::write_metadata(weight, &labels)).unwrap_or_default();
            [network].into_iter().chain(written).collect()
        }
    };
    let mut metadata = Map::new();
    for (name, value) in labels {
        if metadata.insert(name.clone(), json!(value)).is_some() {
            return Err(format!("label {name}: Nacos has one value for each name"));
        }
    }
    // Servers count in milliseconds.
    if settings.ttl_seconds != TTL {
        let ttl = u64::from(settings.ttl_seconds) * 1_000;
        for (name, time) in [
            ("preserved.heart.beat.interval", ttl / 6),
            ("preserved.heart.beat.timeout", ttl / 2),
            ("preserved.ip.delete.timeout", ttl),
        ] {
            metadata.entry(name).or_insert_with(|| json!(time.to_string()));
        }
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use guest::rpcx::parse_query;

    use super::*;
    use crate::answer::{Said, read};

    fn entry(address: &str, weight: u32, labels: &[(&str, &str)]) -> Entry {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Entry { weight, labels, ..Entry::plain(address) }
    }

    fn instance(settings: &str, entry: &Entry) -> Result<Instance, String> {
        let settings = Settings::read(settings).unwrap();
        Instance::new(&settings, &settings.service("orders").unwrap(), entry)
    }

    /// The path, and the parameters by their names.
    fn parts(text: &str) -> (&str, Map<String, Value>) {
        let (path, query) = text.split_once('?').unwrap();
        let pairs = parse_query(query).unwrap();
        (path, pairs.into_iter().map(|(name, value)| (name, json!(value))).collect())
    }

    #[test]
    fn a_server_is_told_what_clients_need() {
        let told = instance(r#"{"namespace":"dev"}"#, &entry("10.0.0.1:80", 3, &[("version", "2")])).unwrap();
        let (path, said) = parts(&told.register);
        assert_eq!(path, "/v1/ns/instance");
        let expected = json!({ "serviceName": "DEFAULT_GROUP@@orders", "namespaceId": "dev", "ip": "10.0.0.1",
            "port": "80", "clusterName": "DEFAULT", "ephemeral": "true", "weight": "3", "enabled": "true",
            "healthy": "true", "metadata": "{\"version\":\"2\"}" });
        assert_eq!(Value::Object(said), expected);
        let (path, said) = parts(&told.beat);
        assert_eq!(path, "/v1/ns/instance/beat");
        let beat: Value = serde_json::from_str(said["beat"].as_str().unwrap()).unwrap();
        let expected = json!({ "serviceName": "DEFAULT_GROUP@@orders", "ip": "10.0.0.1", "port": 80,
            "cluster": "DEFAULT", "weight": 3, "metadata": { "version": "2" }, "scheduled": true });
        assert_eq!(beat, expected);
        assert!(parts(&told.withdraw).1.keys().eq([
            "clusterName",
            "ephemeral",
            "ip",
            "namespaceId",
            "port",
            "serviceName"
        ]));
        assert_eq!(told.beats.pause, Duration::from_secs(5));
    }

    #[test]
    fn version_3_has_one_place_for_all_of_it() {
        let told = instance(r#"{"api":"v3","ttl_seconds":6}"#, &entry("[fd00::1]:80", 0, &[])).unwrap();
        let (path, said) = parts(&told.register);
        assert_eq!((path, &said["groupName"]), ("/v3/client/ns/instance", &json!("DEFAULT_GROUP")));
        assert_eq!((&said["ip"], &said["weight"]), (&json!("fd00::1"), &json!("0")));
        let metadata: Value = serde_json::from_str(said["metadata"].as_str().unwrap()).unwrap();
        let expected = json!({ "preserved.heart.beat.interval": "1000", "preserved.heart.beat.timeout": "3000",
            "preserved.ip.delete.timeout": "6000" });
        assert_eq!(metadata, expected);
        assert_eq!(told.beat, format!("{}&heartBeat=true", told.register));
        assert_eq!(told.beats.pause, Duration::from_secs(1));
    }

    #[test]
    fn it_reads_as_what_it_was() {
        let labels = [("version", "2"), ("zone", "a"), ("cluster", "EU")];
        let rpcx = [("network", "tcp"), ("protocol", "rpcx"), ("group", "a")];
        for (settings, entry) in [
            ("{}", entry("10.0.0.1:80", 1, &labels)),
            (r#"{"ttl_seconds":60}"#, entry("[fd00::1]:80", 7, &labels[..2])),
            (r#"{"clusters":["EU"]}"#, entry("h1.example:80", 0, &labels)),
            (r#"{"layout":"rpcx"}"#, entry("10.0.0.1:80", 7, &rpcx)),
            (r#"{"layout":"rpcx"}"#, entry("10.0.0.1:80", 0, &rpcx)),
        ] {
            let told = instance(settings, &entry).unwrap();
            let (_, said) = parts(&told.register);
            let text = |name: &str| said[name].as_str().unwrap().to_owned();
            let number = |name: &str| text(name).parse::<f64>().unwrap();
            let metadata: Value = serde_json::from_str(&text("metadata")).unwrap();
            let body = json!({ "hosts": [{ "ip": text("ip"), "port": number("port") as u16, "metadata": metadata,
                "weight": number("weight"), "clusterName": text("clusterName") }] });
            let settings = Settings::read(settings).unwrap();
            let Ok(Said::List(list)) = read(&settings, body.to_string().as_bytes()) else { panic!("{body}") };
            let mut read = list.instances.into_values().next().unwrap();
            let mut entry = entry;
            read.labels.sort();
            entry.labels.sort();
            assert_eq!(read, entry);
        }
    }

    #[test]
    fn what_has_no_place_is_named() {
        for (settings, entry, part) in [
            ("{}", entry("10.0.0.1", 1, &[]), "\"10.0.0.1\" has no port"),
            ("{}", entry("10.0.0.1:80", 1, &[("a", "1"), ("a", "2")]), "label a: Nacos has one value"),
            ("{}", entry("10.0.0.1:80", 1, &[("cluster", "")]), "label cluster: \"\" is not one"),
            ("{}", entry("10.0.0.1:80", 10_001, &[]), "weight: 10001 is more than Nacos takes"),
        ] {
            let error = instance(settings, &entry).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
