//! Lists of endpoints written by hand, in settings or in a file.
//!
//! An entry is one of
//!
//! - `"10.0.0.1:8080"`
//! - `"tcp@10.0.0.1:8080"`, as rpcx writes an address
//! - `{ "address": "10.0.0.1:8080", "weight": 2, "labels": { "version": "2" } }`, where labels may also be a list of
//!   pairs, `[["version", "2"]]`, and a label with several values may have a list of them. Beside these an entry may have
//!   `priority` (0 comes first), `state` (`ready`, `draining` or `unwell`), `hostname` and `zone`
//! - `{ "key": "tcp@10.0.0.1:8080", "value": "weight=2&group=a" }`, an rpcx pair. `Key` and `Value` do as well.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};

use crate::{
    rpcx,
    usable::{Unusable, usable},
};

/// Labels in the order they were written. A name may occur more than once.
pub type Labels = Vec<(String, String)>;

/// One instance of a service, as a list names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: String,
    pub weight: u32,
    pub priority: u32,
    pub state: State,
    pub hostname: Option<String>,
    pub zone: Option<String>,
    pub labels: Labels,
}

impl Entry {
    /// An instance of which there is nothing to say but its address.
    pub fn plain(address: &str) -> Entry {
        let (priority, state, hostname, zone) = (0, State::Ready, None, None);
        Entry {
            address: address.to_owned(),
            weight: 1,
            priority,
            state,
            hostname,
            zone,
            labels: Labels::new(),
        }
    }
}

/// How an instance stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Ready,
    Draining,
    Unwell,
}

/// An entry as the `Endpoint` of the plugin that uses this. Each plugin has types of its own for what stands in the
/// WIT, and `Endpoint` and `State` are to be in scope.
#[macro_export]
macro_rules! endpoint {
    ($id:expr, $entry:expr) => {{
        let $crate::entries::Entry { address, weight, priority, state, hostname, zone, labels } = $entry;
        let state = match state {
            $crate::entries::State::Ready => State::Ready,
            $crate::entries::State::Draining => State::Draining,
            $crate::entries::State::Unwell => State::Unwell,
        };
        Endpoint { id: $id, address, weight, priority, state, hostname, zone, labels }
    }};
}

/// Gives every entry an id of its own: the address, with a number behind it when the list repeats one.
pub fn identified(entries: Vec<Entry>) -> impl Iterator<Item = (String, Entry)> {
    let mut seen = BTreeMap::<String, u32>::new();
    entries.into_iter().map(move |entry| {
        let times = seen.entry(entry.address.clone()).and_modify(|times| *times += 1).or_insert(1);
        let id = if *times == 1 { entry.address.clone() } else { format!("{}#{times}", entry.address) };
        (id, entry)
    })
}

/// Says what is wrong with an address that should be `host:port`. Whether anything can be reached there is another
/// question: an entry of which that is not so is left out by the gateway, and the rest of its list counts.
pub fn check_address(address: &str) -> Result<(), String> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} has no port"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let wrong = |one: char| one.is_whitespace() || one == '/';
    if host.is_empty() || host.contains(wrong) || (host.contains(':') && !bracketed) {
        return Err(format!("{host:?} in {address:?} is no host"));
    }
    match port.parse::<u16>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{port:?} in {address:?} is no port")),
    }
}

/// Says why nothing can be reached at an address that is an IP address; names are the gateway's to look up.
pub fn check_usable(address: &str) -> Result<(), String> {
    match address.parse() {
        Ok(socket) => usable(socket).map(drop).map_err(|why| format!("{address:?} {why}")),
        Err(_) if address.ends_with(":0") => Err(format!("{address:?} {}", Unusable::NoPort)),
        Err(_) => Ok(()),
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("\"host:port\" or an object with \"address\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
        let (_, address) = rpcx::split_network(text);
        check_address(address).map_err(E::custom)?;
        Ok(Entry::plain(address))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        let object = Object::deserialize(MapAccessDeserializer::new(map))?;
        let is_pair = object.is_pair();
        let entry = match (object.address, object.key) {
            (Some(address), None) if object.value.is_none() => Entry {
                address,
                weight: object.weight.unwrap_or(1),
                priority: object.priority.unwrap_or(0),
                state: object.state.unwrap_or_default(),
                hostname: object.hostname,
                zone: object.zone,
                labels: object.labels.unwrap_or_default().0,
            },
            (None, Some(key)) if is_pair => {
                let (network, address) = rpcx::split_network(&key);
                let metadata = rpcx::Metadata::read(&object.value.unwrap_or_default());
                let weight = if metadata.inactive { 0 } else { metadata.weight };
                Entry { weight, labels: metadata.labels_on(network), ..Entry::plain(address) }
            }
            _ => {
                let text = "an entry has \"address\" (with \"weight\", \"labels\" and others) or \"key\" (with \"value\")";
                return Err(de::Error::custom(text));
            }
        };
        check_address(&entry.address).map_err(de::Error::custom)?;
        Ok(entry)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    address: Option<String>,
    weight: Option<u32>,
    priority: Option<u32>,
    state: Option<State>,
    hostname: Option<String>,
    zone: Option<String>,
    labels: Option<WrittenLabels>,
    #[serde(alias = "Key")]
    key: Option<String>,
    #[serde(alias = "Value")]
    value: Option<String>,
}

impl Object {
    /// Whether there is nothing beside `key` and `value`.
    fn is_pair(&self) -> bool {
        (self.weight, self.priority, self.state) == (None, None, None)
            && self.hostname.is_none()
            && self.zone.is_none()
            && self.labels.is_none()
    }
}

/// Labels written as a map or as a list of pairs.
#[derive(Default)]
pub struct WrittenLabels(pub Labels);

impl<'de> Deserialize<'de> for WrittenLabels {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<WrittenLabels, D::Error> {
        deserializer.deserialize_any(LabelsVisitor).map(WrittenLabels)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("labels: { \"name\": \"value\" } or [[\"name\", \"value\"]]")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::new();
        while let Some((name, values)) = map.next_entry::<String, OneOrMany>()? {
            labels.extend(values.0.into_iter().map(|value| (name.clone(), value)));
        }
        Ok(labels)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Labels, A::Error> {
        let mut labels = Labels::new();
        while let Some(pair) = seq.next_element()? {
            labels.push(pair);
        }
        Ok(labels)
    }
}

struct OneOrMany(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor).map(OneOrMany)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<String>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, address: &str, weight: u32, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let entry = serde_json::from_str::<Entry>(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(entry, Entry { weight, labels, ..Entry::plain(address) }, "{json}");
    }

    #[test]
    fn every_way_to_write_an_entry() {
        check(r#""10.0.0.1:80""#, "10.0.0.1:80", 1, &[]);
        check(r#""[::1]:80""#, "[::1]:80", 1, &[]);
        check(r#""tcp@a.example:80""#, "a.example:80", 1, &[]);
        check(r#"{"address":"a:1"}"#, "a:1", 1, &[]);
        check(r#"{"address":"a:1","weight":0}"#, "a:1", 0, &[]);
        check(
            r#"{"address":"a:1","labels":{"zone":"a","group":["x","y"]}}"#,
            "a:1",
            1,
            &[("zone", "a"), ("group", "x"), ("group", "y")],
        );
        check(
            r#"{"address":"a:1","labels":[["zone","a"],["zone","b"]]}"#,
            "a:1",
            1,
            &[("zone", "a"), ("zone", "b")],
        );
        check(
            r#"{"key":"tcp@a:1","value":"weight=2&group=a&calls=1.5"}"#,
            "a:1",
            2,
            &[("network", "tcp"), ("protocol", "rpcx"), ("group", "a")],
        );
        check(r#"{"Key":"tcp@a:1","Value":""}"#, "a:1", 1, &[("network", "tcp"), ("protocol", "rpcx")]);
        check(r#"{"key":"a:1"}"#, "a:1", 1, &[]);
        check(r#"{"key":"a:1","value":"state=inactive&weight=3"}"#, "a:1", 0, &[]);
    }

    #[test]
    fn an_entry_says_how_its_instance_stands() {
        let json = r#"{"address":"a:1","priority":1,"state":"draining","hostname":"a.example","zone":"x"}"#;
        let (hostname, zone) = (Some("a.example".to_owned()), Some("x".to_owned()));
        let expected = Entry { priority: 1, state: State::Draining, hostname, zone, ..Entry::plain("a:1") };
        assert_eq!(serde_json::from_str::<Entry>(json).unwrap(), expected);
    }

    #[test]
    fn mistakes_are_named() {
        for (json, part) in [
            (r#""a""#, r#""a" has no port"#),
            (r#""a:http""#, r#""http" in "a:http" is no port"#),
            (r#""a:65536""#, "is no port"),
            (r#""::1:80""#, r#""::1" in "::1:80" is no host"#),
            (r#""a/b:80""#, r#""a/b" in "a/b:80" is no host"#),
            (r#"{"adress":"a:1"}"#, "unknown field `adress`"),
            (r#"{"weight":1}"#, "an entry has"),
            (r#"{"address":"a:1","key":"a:1"}"#, "an entry has"),
            (r#"{"address":"a:1","state":"gone"}"#, "unknown variant `gone`"),
            (r#"{"key":"a:1","zone":"x"}"#, "an entry has"),
            (r#"{"address":"a:1","weight":-1}"#, "invalid value: integer `-1`"),
            (r#"{"address":"a:1","labels":{"a":1}}"#, "a string or a list of strings"),
            ("7", "invalid type: integer `7`"),
        ] {
            let error = serde_json::from_str::<Entry>(json).unwrap_err().to_string();
            assert!(error.contains(part), "{json}: {error}");
            assert!(error.contains("line 1"), "{json}: {error}");
        }
    }

    #[test]
    fn repeated_addresses_have_ids_of_their_own() {
        let entries = ["a:1", "b:1", "a:1"].map(Entry::plain).to_vec();
        let ids: Vec<_> = identified(entries).map(|(id, _)| id).collect();
        assert_eq!(ids, ["a:1", "b:1", "a:1#2"]);
    }
}
