//! What is in an answer of a server.

use std::collections::BTreeMap;

use guest::entries::{Entry, Labels, State};
use guest::json::metadata_labels;
use guest::rpcx;
use serde::Deserialize;
use serde_json::Value;

use super::settings::{Api, CLUSTER, Layout, Settings};

/// Written by clients for the server, and of no use to others.
const FOR_THE_SERVER: &str = "preserved.";

/// Shares of traffic that are no whole numbers are counted in hundredths, all of them.
const PARTS: f64 = 100.0;

/// What is said of a service.
#[derive(Debug, PartialEq)]
pub struct List {
    pub instances: BTreeMap<String, Entry>,
    /// Why nobody should believe how they stand, if there is a reason.
    pub doubt: Option<String>,
}

/// What came of a question by its code, which stands in the answers of version 3.
#[derive(Debug, PartialEq)]
pub enum Said {
    List(List),
    Failed(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    hosts: Vec<Host>,
    #[serde(default)]
    reach_protection_threshold: Option<bool>,
}

#[derive(Deserialize)]
struct Wrapped {
    code: i64,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    data: Option<Vec<Host>>,
}

/// Programs write it, so what makes no sense is as good as not there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    ip: String,
    port: i64,
    #[serde(default)]
    weight: Value,
    #[serde(default)]
    healthy: Value,
    #[serde(default)]
    enabled: Value,
    #[serde(default)]
    cluster_name: Option<String>,
    #[serde(default)]
    metadata: Value,
}

impl Host {
    fn cluster(&self) -> &str {
        self.cluster_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(CLUSTER)
    }

    fn is_enabled(&self) -> bool {
        self.enabled != Value::Bool(false)
    }

    fn is_healthy(&self) -> bool {
        self.healthy != Value::Bool(false)
    }

    /// 1 if it says nothing.
    fn weight(&self) -> f64 {
        self.weight.as_f64().unwrap_or(1.0).max(0.0)
    }

    fn address(&self) -> String {
        let ip = self.ip.trim_matches(['[', ']']);
        if ip.contains(':') { format!("[{ip}]:{}", self.port) } else { format!("{ip}:{}", self.port) }
    }
}

/// What is in the answer to the question for all instances; the error says what the answer is instead.
pub fn read(settings: &Settings, body: &[u8]) -> Result<Said, String> {
    let wrong = |error: serde_json::Error| format!("no answer of Nacos: {error}");
    let (hosts, protects) = match settings.api {
        Api::V1 => {
            let Listed { hosts, reach_protection_threshold } = serde_json::from_slice(body).map_err(wrong)?;
            (hosts, reach_protection_threshold == Some(true))
        }
        Api::V3 => match serde_json::from_slice(body).map_err(wrong)? {
            Wrapped { code: 0, data: Some(hosts), .. } => (hosts, false),
            Wrapped { code: 0, data: None, .. } => return Err("no answer of Nacos: no `data`".to_owned()),
            Wrapped { code, message, .. } => {
                return Ok(Said::Failed(format!("code {code}: {}", message.unwrap_or_default())));
            }
        },
    };
    Ok(Said::List(list(settings, hosts, protects)))
}

fn list(settings: &Settings, mut hosts: Vec<Host>, protects: bool) -> List {
    // Not every server looks at what it was asked for.
    hosts.retain(|host| {
        settings.clusters.is_empty() || settings.clusters.iter().any(|name| name == host.cluster())
    });
    let whole = hosts.iter().all(|host| host.weight().fract() == 0.0);
    let parts = if whole { 1.0 } else { PARTS };
    let mut instances = BTreeMap::new();
    for host in &hosts {
        if let Some(entry) = entry(&settings.layout, host, parts) {
            instances.insert(format!("{}@{}", host.cluster(), entry.address), entry);
        }
    }
    let mut used = instances.values().filter(|entry: &&Entry| entry.weight > 0).peekable();
    let is_any = used.peek().is_some();
    let all_unwell = is_any && used.all(|entry| entry.state == State::Unwell);
    let count = instances.len();
    let doubt = if protects && is_any {
        Some(format!(
            "it calls all {count} instances healthy, because too few are: its protection threshold is reached"
        ))
    } else if all_unwell {
        Some(format!("it calls all {count} instances unhealthy: it may be the one that hears nobody"))
    } else {
        None
    };
    List { instances, doubt }
}

/// None if it is none that is asked for.
fn entry(layout: &Layout, host: &Host, parts: f64) -> Option<Entry> {
    let metadata = metadata_labels(&host.metadata);
    let mut entry = match layout {
        Layout::Nacos => of_nacos(host, metadata, parts),
        Layout::Rpcx(wanted) => of_rpcx(host, metadata, wanted)?,
    };
    if !host.is_enabled() {
        entry.weight = 0;
    }
    if !host.is_healthy() {
        entry.state = State::Unwell;
    }
    Some(entry)
}

fn of_nacos(host: &Host, mut labels: Labels, parts: f64) -> Entry {
    labels.retain(|(name, _)| !name.starts_with(FOR_THE_SERVER));
    if host.cluster() != CLUSTER && !labels.iter().any(|(name, _)| name == "cluster") {
        labels.push(("cluster".to_owned(), host.cluster().to_owned()));
    }
    let weight = match host.weight() {
        0.0 => 0,
        // A little is not nothing. What is too much is the greatest there is.
        weight => (weight * parts).round().max(1.0) as u32,
    };
    Entry { weight, labels, ..Entry::plain(&host.address()) }
}

/// Weights are those of rpcx, in the metadata. One without a network was written by somebody else.
fn of_rpcx(host: &Host, metadata: Labels, wanted: &rpcx::Wanted) -> Option<Entry> {
    let (network, rest): (Labels, Labels) = metadata.into_iter().partition(|(name, _)| name == "network");
    let (_, network) = network.first()?;
    wanted.read(&format!("{network}@{}", host.address()), &rpcx::write_query(&rest))
}

/// What came of something that a server was told to do.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Done,
    /// It knows no such instance.
    Unknown,
    Failed(String),
}

/// The same for an answer with status 200. Version 1 says `ok`, or to a heartbeat what has a code.
pub fn done(body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    struct Coded {
        code: i64,
        #[serde(default)]
        message: Option<String>,
    }
    match serde_json::from_slice(body) {
        Ok(Coded { code: 0 | 200 | 10_200, .. }) => Outcome::Done,
        Ok(Coded { code: 20_404 | 21_003, .. }) => Outcome::Unknown,
        Ok(Coded { code, message }) => {
            Outcome::Failed(format!("code {code}: {}", message.unwrap_or_default()))
        }
        Err(_) if body.trim_ascii() == b"ok" || body.starts_with(b"{\"clientBeatInterval\"") => Outcome::Done,
        Err(_) => Outcome::Failed(String::from_utf8_lossy(body).chars().take(200).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn said(settings: &str, body: &Value) -> Result<Said, String> {
        read(&Settings::read(settings).unwrap(), body.to_string().as_bytes())
    }

    fn listed(settings: &str, hosts: Value) -> List {
        match said(settings, &json!({ "hosts": hosts })) {
            Ok(Said::List(list)) => list,
            other => panic!("{other:?}"),
        }
    }

    fn host(port: u16, more: Value) -> Value {
        let mut host = json!({ "ip": "10.0.0.1", "port": port, "weight": 1.0, "healthy": true, "enabled": true,
            "clusterName": "DEFAULT", "ephemeral": true, "metadata": {} });
        for (name, value) in more.as_object().into_iter().flatten() {
            host[name] = value.clone();
        }
        host
    }

    fn labels(labels: &[(&str, &str)]) -> Labels {
        labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn an_instance_is_what_its_server_says_of_it() {
        let metadata = json!({ "version": "2", "zone": "a", "preserved.register.source": "SPRING_CLOUD" });
        let list = listed(
            "{}",
            json!([
                host(1, json!({ "metadata": metadata, "clusterName": "EU", "weight": 3.0 })),
                host(2, json!({ "healthy": false })),
                host(3, json!({ "enabled": false })),
                host(4, json!({ "weight": 0.0 })),
                { "ip": "fd00::1", "port": 5, "metadata": null },
            ]),
        );
        assert_eq!(list.doubt, None);
        let expected = [
            ("DEFAULT@10.0.0.1:2", Entry { state: State::Unwell, ..Entry::plain("10.0.0.1:2") }),
            ("DEFAULT@10.0.0.1:3", Entry { weight: 0, ..Entry::plain("10.0.0.1:3") }),
            ("DEFAULT@10.0.0.1:4", Entry { weight: 0, ..Entry::plain("10.0.0.1:4") }),
            ("DEFAULT@[fd00::1]:5", Entry::plain("[fd00::1]:5")),
            (
                "EU@10.0.0.1:1",
                Entry {
                    weight: 3,
                    labels: labels(&[("version", "2"), ("zone", "a"), ("cluster", "EU")]),
                    ..Entry::plain("10.0.0.1:1")
                },
            ),
        ];
        assert_eq!(list.instances, expected.map(|(id, entry)| (id.to_owned(), entry)).into());
    }

    #[test]
    fn weights_keep_their_proportions() {
        for (weights, expected) in [
            (vec![1.0, 2.0, 10_000.0], vec![1, 2, 10_000]),
            (vec![1.0, 0.5, 0.0], vec![100, 50, 0]),
            (vec![0.001, 1.0], vec![1, 100]),
            (vec![-1.0, 1e300], vec![0, u32::MAX]),
        ] {
            let hosts = weights.iter().zip(1..).map(|(weight, port)| host(port, json!({ "weight": weight })));
            let list = listed("{}", hosts.collect());
            assert_eq!(list.instances.values().map(|entry| entry.weight).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn clusters_are_looked_at_here_as_well() {
        let hosts = json!([host(1, json!({ "clusterName": "a" })), host(2, json!({ "clusterName": "b" }))]);
        let list = listed(r#"{"clusters":["b","c"]}"#, hosts);
        assert_eq!(list.instances.keys().collect::<Vec<_>>(), ["b@10.0.0.1:2"]);
    }

    #[test]
    fn how_instances_stand_is_doubted_when_all_stand_alike() {
        let ill = |port| host(port, json!({ "healthy": false }));
        let off = |port| host(port, json!({ "enabled": false, "healthy": false }));
        for (hosts, doubt) in [
            (json!([ill(1), ill(2)]), Some("calls all 2 instances unhealthy")),
            (json!([ill(1), off(2)]), Some("unhealthy")),
            (json!([ill(1), host(2, json!({}))]), None),
            (json!([off(1)]), None),
            (json!([]), None),
        ] {
            let found = listed("{}", hosts.clone()).doubt;
            assert_eq!(found.is_some(), doubt.is_some(), "{hosts}: {found:?}");
            assert!(found.unwrap_or_default().contains(doubt.unwrap_or_default()), "{hosts}");
        }
        for (hosts, doubted) in [(json!([host(1, json!({}))]), true), (json!([]), false)] {
            let body = json!({ "hosts": hosts, "reachProtectionThreshold": true });
            let Ok(Said::List(List { doubt, .. })) = said("{}", &body) else { panic!("{body}") };
            assert_eq!(doubt.is_some_and(|why| why.contains("protection threshold")), doubted);
        }
    }

    #[test]
    fn servers_of_rpcx_are_read_as_rpcx_reads_them() {
        let metadata = |metadata: Value| json!({ "metadata": metadata, "weight": 10.0 });
        let hosts = json!([
            host(1, metadata(json!({ "network": "tcp", "weight": "7", "group": "a", "calls": "1.00" }))),
            host(2, metadata(json!({ "network": "tcp", "state": "inactive" }))),
            host(3, metadata(json!({ "network": "quic" }))),
            host(4, metadata(json!({ "version": "2" }))),
        ]);
        let list = listed(r#"{"layout":"rpcx"}"#, hosts.clone());
        let one = labels(&[("network", "tcp"), ("protocol", "rpcx"), ("group", "a")]);
        let two = labels(&[("network", "tcp"), ("protocol", "rpcx")]);
        let expected = [
            ("DEFAULT@10.0.0.1:1", Entry { weight: 7, labels: one, ..Entry::plain("10.0.0.1:1") }),
            ("DEFAULT@10.0.0.1:2", Entry { weight: 0, labels: two, ..Entry::plain("10.0.0.1:2") }),
        ];
        assert_eq!(list.instances, expected.map(|(id, entry)| (id.to_owned(), entry)).into());
        let list = listed(r#"{"layout":"rpcx","rpcx_group":"b"}"#, hosts);
        assert!(list.instances.is_empty(), "{list:?}");
    }

    #[test]
    fn version_3_has_its_list_behind_a_code() {
        let v3 = r#"{"api":"v3"}"#;
        let Ok(Said::List(list)) = said(v3, &json!({ "code": 0, "data": [host(1, json!({}))] })) else {
            panic!("no list")
        };
        assert_eq!(list.instances.len(), 1);
        let failed = said(v3, &json!({ "code": 30000, "message": "server error", "data": null }));
        assert_eq!(failed, Ok(Said::Failed("code 30000: server error".to_owned())));
    }

    #[test]
    fn what_is_no_list_is_told() {
        for (settings, body) in [
            ("{}", json!({ "sign": "in" })),
            ("{}", json!({ "hosts": [{ "ip": 7, "port": 1 }] })),
            ("{}", json!({ "code": 0, "data": [] })),
            (r#"{"api":"v3"}"#, json!({ "hosts": [] })),
            (r#"{"api":"v3"}"#, json!({ "code": 0 })),
        ] {
            let why = said(settings, &body).unwrap_err();
            assert!(why.starts_with("no answer of Nacos: "), "{body}: {why}");
        }
    }

    #[test]
    fn the_code_says_what_came_of_it() {
        for (body, expected) in [
            ("ok", Outcome::Done),
            (r#"{"code":10200,"clientBeatInterval":5000,"lightBeatEnabled":true}"#, Outcome::Done),
            (r#"{"clientBeatInterval":5000}"#, Outcome::Done),
            (r#"{"code":0,"message":"success","data":"ok"}"#, Outcome::Done),
            (r#"{"code":20404,"clientBeatInterval":5000}"#, Outcome::Unknown),
            (r#"{"code":21003,"message":"instance not found","data":null}"#, Outcome::Unknown),
            (r#"{"code":30000,"message":"m"}"#, Outcome::Failed("code 30000: m".to_owned())),
            ("<html>", Outcome::Failed("<html>".to_owned())),
        ] {
            assert_eq!(done(body.as_bytes()), expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_hosts_are_read(
            hosts in proptest::collection::vec((any::<i64>(), any::<f64>(), any::<bool>(), "[A-C]?"), 0..6),
        ) {
            let hosts: Vec<_> = hosts.into_iter().map(|(port, weight, healthy, cluster)| {
                json!({ "ip": "10.0.0.1", "port": port, "weight": weight, "healthy": healthy, "clusterName": cluster })
            }).collect();
            let list = listed("{}", hosts.into());
            let well = list.instances.values().any(|entry| entry.state == State::Ready && entry.weight > 0);
            prop_assert!(!well || list.doubt.is_none());
        }
    }
}
