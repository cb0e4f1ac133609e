//! An instance as it is registered, shown and saved.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ttl::TtlCheck;
use crate::bindings::wit;

/// What a service says about one of its instances: the body of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// `host:port`.
    pub address: String,
    /// 0 means drained: registered, no new requests.
    #[serde(default = "one")]
    pub weight: u32,
    /// An object of texts; a name that occurs more than once has a list of them.
    #[serde(default, with = "label_object", skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<(String, String)>,
    /// How the instance stands, by its own word.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: State,
    /// 0 comes first: those of a greater number get requests while too few of a smaller one are well.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: u32,
    /// The name it goes by, where that is not the host of its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Seconds without a heartbeat after which the instance is removed; 0 means never.
    #[serde(default = "half_a_minute")]
    pub ttl_seconds: u32,
    /// What somebody has to pass again and again, or it is unwell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<TtlCheck>,
}

/// See the same words in `wit/registry.wit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Ready,
    Draining,
    Unwell,
}

impl From<wit::State> for State {
    fn from(state: wit::State) -> Self {
        match state {
            wit::State::Ready => Self::Ready,
            wit::State::Draining => Self::Draining,
            wit::State::Unwell => Self::Unwell,
        }
    }
}

impl From<State> for wit::State {
    fn from(state: State) -> Self {
        match state {
            State::Ready => Self::Ready,
            State::Draining => Self::Draining,
            State::Unwell => Self::Unwell,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> u32 {
    1
}

fn half_a_minute() -> u32 {
    30
}

impl Registration {
    /// What a plugin announces.
    pub fn of(endpoint: wit::Endpoint, ttl_seconds: u32) -> Self {
        let wit::Endpoint { id: _, address, weight, priority, state, hostname, zone, labels } = endpoint;
        let (state, checks) = (state.into(), Vec::new());
        Self { address, weight, labels, state, priority, hostname, zone, ttl_seconds, checks }
    }

    #[cfg(test)]
    pub(super) fn at(address: &str) -> Self {
        Self::of(wit::plain("", address), half_a_minute())
    }

    /// An instance that is ready, weighs 1 and stays, at this port of a name or an address.
    pub fn new(host: &str, port: u16) -> Self {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
        Self {
            address,
            weight: 1,
            labels: Vec::new(),
            state: State::Ready,
            priority: 0,
            hostname: None,
            zone: None,
            ttl_seconds: 0,
            checks: Vec::new(),
        }
    }

    /// The host of its address, without brackets, and the port.
    pub fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, "0"));
        (host.trim_matches(['[', ']']), port.parse().unwrap_or_default())
    }

    /// The first of this name.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// In the place of those of the same name.
    pub fn set_label(&mut self, name: &str, value: Option<&str>) {
        self.labels.retain(|(other, _)| other != name);
        self.labels.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// Labels by name, so that the same registration in another order changes nothing.
    pub(super) fn normalized(mut self) -> Self {
        self.labels.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }

    /// As followers see it.
    pub(super) fn endpoint(&self, id: &str) -> wit::Endpoint {
        let state = self.stands();
        let Self { address, weight, labels, priority, hostname, zone, .. } = self.clone();
        wit::Endpoint {
            id: id.into(),
            address,
            weight,
            priority,
            state: state.into(),
            hostname,
            zone,
            labels,
        }
    }

    /// Whether followers see no difference.
    pub(super) fn shows_as(&self, other: &Self) -> bool {
        let Self { address, weight, labels, state: _, priority, hostname, zone, ttl_seconds: _, checks: _ } =
            self;
        (address, weight, labels, self.stands())
            == (&other.address, &other.weight, &other.labels, other.stands())
            && (priority, hostname, zone) == (&other.priority, &other.hostname, &other.zone)
    }
}

/// An instance as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instance {
    #[serde(serialize_with = "shared")]
    pub id: Arc<str>,
    #[serde(flatten, serialize_with = "shared")]
    pub registration: Arc<Registration>,
    /// None: never.
    pub expires_in_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceSummary {
    #[serde(serialize_with = "shared")]
    pub service: Arc<str>,
    pub instances: usize,
}

/// What is shared is written as if it was not.
fn shared<T: Serialize + ?Sized, S: Serializer>(value: &Arc<T>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().serialize(to)
}

/// Labels as people write them: an object of texts, or of lists of them.
pub(crate) mod label_object {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Values {
        One(String),
        Many(Vec<String>),
    }

    pub fn serialize<S: Serializer>(labels: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
        let mut object = BTreeMap::<&str, Values>::new();
        for (name, value) in labels {
            let value = value.clone();
            match object.remove(name.as_str()) {
                None => object.insert(name, Values::One(value)),
                Some(Values::One(first)) => object.insert(name, Values::Many(vec![first, value])),
                Some(Values::Many(mut values)) => {
                    values.push(value);
                    object.insert(name, Values::Many(values))
                }
            };
        }
        object.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
        let object = BTreeMap::<String, Values>::deserialize(from)?;
        let pairs = object.into_iter().flat_map(|(name, values)| {
            let values = match values {
                Values::One(value) => vec![value],
                Values::Many(values) => values,
            };
            values.into_iter().map(move |value| (name.clone(), value))
        });
        Ok(pairs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_written_as_people_write_it() {
        let text = r#"{"address":"10.0.0.1:80","weight":3,"labels":{"tag":["a","b"],"zone":"x"},"state":"draining","priority":1,"hostname":"a.example","zone":"y","ttl_seconds":5}"#;
        let registration: Registration = serde_json::from_str(text).unwrap();
        assert_eq!(registration.labels, [("tag", "a"), ("tag", "b"), ("zone", "x")].map(pair));
        assert_eq!(serde_json::to_string(&registration).unwrap(), text);
    }

    #[test]
    fn only_the_address_is_needed() {
        let registration: Registration = serde_json::from_str(r#"{"address":"a:1"}"#).unwrap();
        assert_eq!((registration.weight, registration.ttl_seconds), (1, 30));
        assert_eq!((registration.state, registration.priority), (State::Ready, 0));
        assert!(registration.labels.is_empty());
    }

    #[test]
    fn a_misspelt_field_is_an_error() {
        let error = serde_json::from_str::<Registration>(r#"{"address":"a:1","ttl":5}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `ttl`"), "{error}");
    }

    fn pair((name, value): (&str, &str)) -> (String, String) {
        (name.into(), value.into())
    }
}
