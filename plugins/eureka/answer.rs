//! `/apps/NAME`, `/apps` and `/apps/delta`: what is in the answers of a server.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::time::Duration;

use guest::entries::{Entry, Labels, State};
use guest::json::metadata_labels;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde_json::{Map, Value};

/// What an instance lives on without a heartbeat, where it does not say it.
const LEASE: Duration = Duration::from_secs(90);

/// What is asked about.
pub struct Wanted {
    /// The name of the application, in any case.
    pub app: String,
    pub secure: bool,
    pub by_name: bool,
}

/// An instance of the application.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    pub id: String,
    /// By the clock of the server, in milliseconds.
    pub updated: i64,
    pub lease: Duration,
    pub entry: Entry,
}

/// What has changed in the last three minutes, the same again in each answer.
#[derive(Debug, PartialEq)]
pub struct Delta {
    /// Of all applications, when these have changed.
    pub counts: Counts,
    pub changes: Vec<Change>,
}

#[derive(Debug, PartialEq)]
pub struct Change {
    /// Stands for this change and, but for chance, for no other.
    pub print: u64,
    pub action: Action,
    /// That of the instance then.
    pub status: String,
    /// None: of another application.
    pub ours: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Added,
    Modified,
    Deleted,
}

/// How many instances have which status: what the hash of a server says.
pub type Counts = BTreeMap<String, i64>;

/// `DOWN_1_UP_3_`. The names of statuses have underlines, too.
pub fn counts(hash: &str) -> Option<Counts> {
    let (mut counts, mut name) = (Counts::new(), Vec::new());
    for word in hash.split_terminator('_') {
        match word.parse() {
            Ok(count) if !name.is_empty() => {
                counts.insert(name.join("_"), count);
                name.clear();
            }
            Ok(_) => return None,
            Err(_) if word.is_empty() => return None,
            Err(_) => name.push(word),
        }
    }
    name.is_empty().then_some(counts)
}

#[derive(Deserialize)]
struct One {
    application: Application,
}

#[derive(Deserialize)]
struct All {
    applications: Applications,
}

#[derive(Deserialize)]
struct Applications {
    #[serde(rename = "apps__hashcode")]
    hash: String,
    #[serde(default)]
    application: Several<Application>,
}

#[derive(Deserialize)]
struct Application {
    name: String,
    #[serde(default)]
    instance: Several<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    /// Old clients have none.
    instance_id: Option<String>,
    #[serde(default)]
    host_name: String,
    #[serde(default)]
    ip_addr: Option<String>,
    status: String,
    port: Option<Port>,
    secure_port: Option<Port>,
    data_center_info: Option<DataCenter>,
    lease_info: Option<Lease>,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    last_updated_timestamp: Value,
    #[serde(default)]
    action_type: Option<String>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: Value,
    #[serde(rename = "@enabled", default)]
    enabled: Value,
}

#[derive(Deserialize)]
struct DataCenter {
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lease {
    #[serde(default)]
    duration_in_secs: Value,
}

impl Wanted {
    /// The instances in a whole answer, of this application alone or of all. The error says what the answer is instead
    /// of one of Eureka.
    pub fn list(&self, body: &[u8], of_all: bool) -> Result<Vec<Known>, String> {
        let applications = match of_all {
            true => serde_json::from_slice(body).map(|All { applications }| applications.application.0),
            false => serde_json::from_slice(body).map(|One { application }| vec![application]),
        };
        let ours = applications.map_err(wrong)?.into_iter().filter(|one| self.is(&one.name));
        Ok(ours.flat_map(|one| one.instance.0).map(|instance| self.known(instance)).collect())
    }

    /// What is in an answer about changes.
    pub fn delta(&self, body: &[u8]) -> Result<Delta, String> {
        let All { applications: Applications { hash, application } } =
            serde_json::from_slice(body).map_err(wrong)?;
        let Some(counts) = counts(&hash) else {
            return Err(format!("no answer of Eureka: apps__hashcode {hash:?} is none"));
        };
        let mut changes = Vec::new();
        for Application { name, instance } in application.0 {
            let ours = self.is(&name);
            for instance in instance.0 {
                let action = match instance.action_type.as_deref() {
                    Some("DELETED") => Action::Deleted,
                    Some("MODIFIED") => Action::Modified,
                    // As Netflix's client takes it.
                    _ => Action::Added,
                };
                let status = instance.status.clone();
                let print =
                    print(&(&name, instance.id(), instance.updated(), &instance.action_type, &status));
                let ours = ours.then(|| self.known(instance));
                changes.push(Change { print, action, status, ours });
            }
        }
        Ok(Delta { counts, changes })
    }

    fn is(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(&self.app)
    }

    fn known(&self, instance: Instance) -> Known {
        let (id, updated) = (instance.id().to_owned(), instance.updated());
        let lease = instance.lease_info.as_ref().and_then(|lease| whole(&lease.duration_in_secs));
        let lease = lease.and_then(|seconds| seconds.try_into().ok()).map_or(LEASE, Duration::from_secs);
        Known { id, updated, lease, entry: self.entry(instance) }
    }

    fn entry(&self, instance: Instance) -> Entry {
        let host = self.host(&instance).to_owned();
        let address = self.address(&instance, &host);
        let Instance { host_name, status, data_center_info, metadata, .. } = instance;
        let (weight, state) = match status.as_str() {
            "UP" => (1, State::Ready),
            // Somebody switched it off.
            "OUT_OF_SERVICE" => (0, State::Ready),
            // DOWN, STARTING, UNKNOWN, and what nobody knows.
            _ => (1, State::Unwell),
        };
        let labels = metadata_labels(&metadata);
        let written =
            labels.iter().find(|(name, _)| name == "weight").and_then(|(_, value)| value.parse().ok());
        let labels: Labels =
            labels.into_iter().filter(|(name, _)| name != "weight" && !name.starts_with('@')).collect();
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let amazon = data_center_info.and_then(|info| info.metadata);
        let zone = text(&metadata["zone"])
            .or_else(|| amazon.and_then(|amazon| text(amazon.get("availability-zone")?)));
        let hostname = bare(&host_name);
        let hostname = (!hostname.is_empty() && hostname != host).then(|| hostname.to_owned());
        Entry {
            weight: if weight == 0 { 0 } else { written.unwrap_or(1) },
            state,
            hostname,
            zone,
            labels,
            ..Entry::plain(&address)
        }
    }

    fn host<'i>(&self, instance: &'i Instance) -> &'i str {
        let ip = instance.ip_addr.as_deref().filter(|ip| !ip.is_empty());
        let name = Some(instance.host_name.as_str()).filter(|name| !name.is_empty());
        bare(if self.by_name { name.or(ip) } else { ip.or(name) }.unwrap_or_default())
    }

    /// One that has no such port is told of as one with a wrong address: it is left out by the gateway, which says why.
    fn address(&self, instance: &Instance, host: &str) -> String {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let (port, called) = match self.secure {
            true => (&instance.secure_port, "securePort"),
            false => (&instance.port, "port"),
        };
        match port {
            Some(Port { number, enabled }) if is_true(enabled) => match whole(number) {
                Some(number) => format!("{host}:{number}"),
                None => format!("{host}:{number}"),
            },
            _ => format!("{host}, {called} is not enabled"),
        }
    }
}

impl Instance {
    fn id(&self) -> &str {
        self.instance_id.as_deref().unwrap_or(&self.host_name)
    }

    fn updated(&self) -> i64 {
        whole(&self.last_updated_timestamp).unwrap_or_default()
    }
}

/// An IPv6 address among the names has brackets, as it has in a URL.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn print(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn wrong(error: serde_json::Error) -> String {
    format!("no answer of Eureka: {error}")
}

/// Which are written as numbers and as texts.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

/// A list, which some servers leave out around a single one.
struct Several<T>(Vec<T>);

impl<T> Default for Several<T> {
    fn default() -> Several<T> {
        Several(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Several<T>, D::Error> {
        deserializer.deserialize_any(OneOrSeveral(PhantomData))
    }
}

struct OneOrSeveral<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrSeveral<T> {
    type Value = Several<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or one of its kind")
    }

    fn visit_unit<E>(self) -> Result<Several<T>, E> {
        Ok(Several::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Several<T>, A::Error> {
        let mut several = Vec::new();
        while let Some(one) = list.next_element()? {
            several.push(one);
        }
        Ok(Several(several))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Several<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| Several(vec![one]))
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub fn wanted() -> Wanted {
        Wanted { app: "orders".into(), secure: false, by_name: false }
    }

    fn instance(more: Value) -> Value {
        let mut instance = json!({
            "instanceId": "h1:orders:80", "hostName": "h1.example", "app": "ORDERS", "ipAddr": "10.0.0.1",
            "status": "UP", "overriddenStatus": "UNKNOWN", "port": { "$": 8080, "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" }, "countryId": 1,
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
            "leaseInfo": { "renewalIntervalInSecs": 10, "durationInSecs": 30 },
            "metadata": { "version": "2", "@class": "java.util.Collections$EmptyMap" },
            "vipAddress": "orders", "lastUpdatedTimestamp": "1795893658133", "actionType": "ADDED",
        });
        for (name, value) in more.as_object().unwrap() {
            instance[name] = value.clone();
        }
        instance
    }

    fn list(wanted: &Wanted, instances: Value) -> Vec<Known> {
        let body = json!({ "application": { "name": "ORDERS", "instance": instances } });
        wanted.list(body.to_string().as_bytes(), false).unwrap()
    }

    fn entry(more: Value) -> Entry {
        list(&wanted(), json!([instance(more)])).remove(0).entry
    }

    #[test]
    fn an_instance_is_read_with_all_that_is_said_of_it() {
        let metadata = json!({ "zone": "a", "version": "2", "weight": "3" });
        let known = list(&wanted(), json!([instance(json!({ "metadata": metadata }))])).remove(0);
        let labels = [("version", "2"), ("zone", "a")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let entry = Entry {
            weight: 3,
            hostname: Some("h1.example".into()),
            zone: Some("a".into()),
            labels,
            ..Entry::plain("10.0.0.1:8080")
        };
        let (id, lease) = ("h1:orders:80".to_owned(), Duration::from_secs(30));
        assert_eq!(known, Known { id, updated: 1795893658133, lease, entry });
    }

    #[test]
    fn only_one_that_is_up_takes_requests() {
        for (status, weight, state) in [
            ("UP", 1, State::Ready),
            ("OUT_OF_SERVICE", 0, State::Ready),
            ("DOWN", 1, State::Unwell),
            ("STARTING", 1, State::Unwell),
            ("UNKNOWN", 1, State::Unwell),
            ("what is this", 1, State::Unwell),
        ] {
            // What it was overridden with is in the status already, whatever the field is called.
            let more = json!({ "status": status, "overriddenstatus": "UP", "overriddenStatus": "DOWN" });
            let entry = entry(more);
            assert_eq!((entry.weight, entry.state), (weight, state), "{status}");
        }
        assert_eq!(entry(json!({ "status": "OUT_OF_SERVICE", "metadata": { "weight": 3 } })).weight, 0);
        assert_eq!(entry(json!({ "metadata": { "weight": "heavy" } })).weight, 1);
    }

    #[test]
    fn the_settings_say_which_port_and_which_host() {
        let secure = json!({ "$": "8443", "@enabled": true });
        let address = |secure, by_name, more: Value| {
            let wanted = Wanted { secure, by_name, ..wanted() };
            list(&wanted, json!([instance(more)])).remove(0).entry
        };
        let is = |entry: Entry| (entry.address, entry.hostname);
        let name = || Some("h1.example".to_owned());
        assert_eq!(is(address(false, false, json!({}))), ("10.0.0.1:8080".into(), name()));
        let both = || json!({ "securePort": secure });
        assert_eq!(is(address(true, false, both())), ("10.0.0.1:8443".into(), name()));
        assert_eq!(is(address(true, true, both())), ("h1.example:8443".into(), None));
        let ip6 = address(false, false, json!({ "ipAddr": "fd00::1" }));
        assert_eq!(ip6.address, "[fd00::1]:8080");
        assert_eq!(is(address(false, false, json!({ "ipAddr": null }))), ("h1.example:8080".into(), None));
        // These are left out by the gateway, which says why.
        assert_eq!(address(true, false, json!({})).address, "10.0.0.1, securePort is not enabled");
        assert_eq!(address(false, false, json!({ "port": null })).address, "10.0.0.1, port is not enabled");
    }

    #[test]
    fn a_zone_may_be_that_of_amazon() {
        let amazon =
            json!({ "dataCenterInfo": { "name": "Amazon", "metadata": { "availability-zone": "us-1a" } } });
        assert_eq!(entry(amazon).zone.as_deref(), Some("us-1a"));
    }

    #[test]
    fn other_applications_are_passed_over_and_a_single_one_needs_no_list() {
        let application = |name: &str| json!({ "name": name, "instance": instance(json!({})) });
        let all = |applications: Value| {
            let body = json!({ "applications": { "apps__hashcode": "UP_1_", "application": applications } });
            wanted().list(body.to_string().as_bytes(), true).unwrap().len()
        };
        assert_eq!(all(json!([application("ORDERS"), application("USERS")])), 1);
        assert_eq!(all(application("Orders")), 1);
        assert_eq!(all(json!([])), 0);
    }

    #[test]
    fn a_delta_says_what_has_changed_and_how_many_there_are() {
        let delta = |updated: u64, action: &str| {
            let instance = instance(json!({ "lastUpdatedTimestamp": updated, "actionType": action }));
            let application = json!([{ "name": "ORDERS", "instance": [instance] }, { "name": "USERS", "instance": [instance] }]);
            let body =
                json!({ "applications": { "apps__hashcode": "DOWN_1_UP_3_", "application": application } });
            wanted().delta(body.to_string().as_bytes()).unwrap()
        };
        let Delta { counts, changes } = delta(1, "DELETED");
        assert_eq!(counts, [("DOWN".to_owned(), 1), ("UP".to_owned(), 3)].into());
        let [ours, other] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!((ours.action, &*ours.status, other.action), (Action::Deleted, "UP", Action::Deleted));
        assert!(ours.ours.is_some() && other.ours.is_none() && ours.print != other.print);
        assert_eq!(delta(1, "DELETED").changes[0].print, ours.print);
        for other in [delta(2, "DELETED"), delta(1, "ADDED")] {
            assert_ne!(other.changes[0].print, ours.print);
        }
    }

    #[test]
    fn a_hash_is_read_as_the_numbers_it_is_made_of() {
        let check = |hash: &str, expected: &[(&str, i64)]| {
            let expected = expected.iter().map(|(name, count)| (name.to_string(), *count)).collect();
            assert_eq!(counts(hash), Some(expected), "{hash}");
        };
        check("", &[]);
        check("UP_1_", &[("UP", 1)]);
        check("DOWN_1_OUT_OF_SERVICE_2_UP_3_", &[("DOWN", 1), ("OUT_OF_SERVICE", 2), ("UP", 3)]);
        for hash in ["1_", "_1_", "UP_", "UP", "UP_x_"] {
            assert_eq!(counts(hash), None, "{hash}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        for body in ["", "<html>", "[]", r#"{"sign":"in"}"#, r#"{"applications":{}}"#] {
            for of_all in [true, false] {
                let error = wanted().list(body.as_bytes(), of_all).unwrap_err();
                assert!(error.starts_with("no answer of Eureka: "), "{body}");
            }
            assert!(wanted().delta(body.as_bytes()).is_err(), "{body}");
        }
        let hash = r#"{"applications":{"apps__hashcode":"nonsense"}}"#;
        assert!(wanted().delta(hash.as_bytes()).unwrap_err().contains("\"nonsense\" is none"));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (wanted().list(&body, true), wanted().list(&body, false), wanted().delta(&body));
        }
    }
}
