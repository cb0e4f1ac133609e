//! An instance as Nacos' clients write it and read it, and as it stands in the embedded registry.
//!
//! What has no place there is kept as labels that begin with `nacos.`, so that others find it again.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::params::{Name, Params};
use crate::connector::memory::{CheckStatus, Instance, InstanceState, Registration, TtlCheck};

/// What begins the names of labels that are kept for Nacos' clients alone.
const KEPT: &str = "nacos.";

/// Whatever was registered by this API has it.
const CLUSTER: &str = "nacos.cluster";
/// As it was said, where that is not its weight.
const WEIGHT: &str = "nacos.weight";
const DISABLED: &str = "nacos.disabled";

const DEFAULT_CLUSTER: &str = "DEFAULT";

/// The check that beats pass.
pub(super) const BEAT: &str = "beat";

/// How often a client is asked to beat, when it is unwell without, and when it is removed, in milliseconds.
pub(super) const INTERVAL: u64 = 5_000;
const TIMEOUT: u64 = 15_000;
const DELETE: u64 = 30_000;

/// By which metadata a client says otherwise.
const ITS_INTERVAL: &str = "preserved.heart.beat.interval";
const ITS_TIMEOUT: &str = "preserved.heart.beat.timeout";
const ITS_DELETE: &str = "preserved.ip.delete.timeout";

const GREATEST_WEIGHT: f64 = 10_000.0;

/// Where an instance is, which is who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
    cluster: String,
}

/// What a beat says that says all.
#[derive(Deserialize)]
struct Beat {
    ip: String,
    port: u16,
    #[serde(default)]
    cluster: Option<String>,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(rename = "serviceName", default)]
    service: Option<String>,
}

impl Place {
    pub(super) fn of(params: &Params) -> Result<Self, String> {
        let host = params.need("ip")?.to_owned();
        let port = match params.number("port", 0)? {
            0 => return Err("port: there is none".to_owned()),
            port => port,
        };
        let cluster = params.get("clusterName").or_else(|| params.get("cluster")).unwrap_or(DEFAULT_CLUSTER);
        Ok(Self { host, port, cluster: cluster.to_owned() })
    }

    /// Its id in the embedded registry.
    pub(super) fn id(&self) -> String {
        let address = Registration::new(&self.host, self.port).address;
        match self.cluster.as_str() {
            DEFAULT_CLUSTER => address,
            cluster => format!("{address}@{cluster}"),
        }
    }
}

/// What a client registers.
pub(super) fn registration(params: &Params) -> Result<(Place, Registration), String> {
    let place = Place::of(params)?;
    if !params.flag("ephemeral", true)? {
        return Err("ephemeral: false means that Nacos checks it, which is not done here: let it beat, and let the gateway \
                    check it by `check` of its upstream"
            .to_owned());
    }
    let metadata = params.get("metadata").map(metadata).transpose()?.unwrap_or_default();
    let enabled = params.flag(if params.get("enable").is_some() { "enable" } else { "enabled" }, true)?;
    let healthy = params.flag("healthy", true)?;
    let registration = make(&place, params.number("weight", 1.0)?, metadata, enabled, healthy)?;
    Ok((place, registration))
}

/// What a beat says: whose it is, the service if it names it, and what is registered where nobody knows it.
pub(super) fn beat(text: &str) -> Result<(Place, Option<String>, Registration), String> {
    let beat: Beat = serde_json::from_str(text).map_err(|error| format!("beat: {error}"))?;
    let cluster = beat.cluster.filter(|cluster| !cluster.is_empty());
    let cluster = cluster.unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
    let place = Place { host: beat.ip, port: beat.port, cluster };
    let metadata = beat.metadata.map(texts).transpose()?.unwrap_or_default();
    let registration = make(&place, beat.weight.unwrap_or(1.0), metadata, true, true)?;
    Ok((place, beat.service, registration))
}

fn make(
    place: &Place,
    weight: f64,
    metadata: Vec<(String, String)>,
    enabled: bool,
    healthy: bool,
) -> Result<Registration, String> {
    if !(0.0..=GREATEST_WEIGHT).contains(&weight) {
        return Err(format!("weight: {weight} is to be 0 to {GREATEST_WEIGHT}"));
    }
    let mut registration = Registration::new(&place.host, place.port);
    for (name, value) in metadata {
        if name.starts_with(KEPT) {
            return Err(format!("metadata.{name}: what begins with `{KEPT}` is for this registry"));
        }
        if name == "zone" && !value.is_empty() {
            registration.zone = Some(value.clone());
        }
        registration.labels.push((name, value));
    }
    registration.set_label(CLUSTER, Some(&place.cluster));
    // One that weighs little weighs something.
    let whole = if weight > 0.0 { weight.round().max(1.0) } else { 0.0 };
    registration.weight = if enabled { whole as u32 } else { 0 };
    let is_told = weight == f64::from(registration.weight);
    registration.set_label(WEIGHT, (!is_told).then(|| weight.to_string()).as_deref());
    registration.set_label(DISABLED, (!enabled).then_some("true"));
    let timeout = millis(&registration, ITS_TIMEOUT, TIMEOUT)?;
    let delete = millis(&registration, ITS_DELETE, DELETE)?;
    millis(&registration, ITS_INTERVAL, INTERVAL)?;
    registration.checks.push(TtlCheck {
        id: BEAT.to_owned(),
        ttl_seconds: seconds(timeout),
        remove_after_seconds: seconds(delete.saturating_sub(timeout)),
        status: if healthy { CheckStatus::Passing } else { CheckStatus::Critical },
        name: String::new(),
        output: String::new(),
    });
    Ok(registration)
}

/// Somebody has heard of it.
pub(super) fn hear(registration: &mut Registration) {
    for check in registration.checks.iter_mut().filter(|check| check.id == BEAT) {
        check.status = CheckStatus::Passing;
        check.output.clear();
    }
}

/// How often its client is asked to beat, in milliseconds.
pub(super) fn interval(registration: &Registration) -> u64 {
    millis(registration, ITS_INTERVAL, INTERVAL).unwrap_or(INTERVAL)
}

fn millis(registration: &Registration, name: &str, otherwise: u64) -> Result<u64, String> {
    match registration.label(name) {
        None => Ok(otherwise),
        Some(text) => {
            let number = text.parse().ok().filter(|millis| *millis > 0);
            number.ok_or_else(|| format!("metadata.{name}: {text:?} is no number of milliseconds"))
        }
    }
}

/// More rather than less, and never none, which would be for ever.
fn seconds(millis: u64) -> u32 {
    u32::try_from(millis.div_ceil(1_000).max(1)).unwrap_or(u32::MAX)
}

/// An object, or pairs as `a=1,b=2`.
fn metadata(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.trim_start().starts_with('{') {
        return texts(serde_json::from_str(text).map_err(|error| format!("metadata: {error}"))?);
    }
    let pair = |pair: &str| {
        let pair = pair.split_once('=').filter(|(name, _)| !name.is_empty());
        pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let pairs = text.split(',').filter(|text| !text.is_empty());
    pairs.map(|text| pair(text).ok_or_else(|| format!("metadata: {text:?} is no name=value"))).collect()
}

fn texts(value: Value) -> Result<Vec<(String, String)>, String> {
    let object = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(object) => object,
        other => return Err(format!("metadata: {other} is no object")),
    };
    let text = |(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(_) | Value::Bool(_) => Ok((name, value.to_string())),
        other => Err(format!("metadata.{name}: {other} is no text")),
    };
    object.into_iter().map(text).collect()
}

pub(super) fn cluster(registration: &Registration) -> &str {
    registration.label(CLUSTER).unwrap_or(DEFAULT_CLUSTER)
}

pub(super) fn is_healthy(registration: &Registration) -> bool {
    registration.stands() != InstanceState::Unwell
}

/// What Nacos tells nobody of.
pub(super) fn is_disabled(registration: &Registration) -> bool {
    registration.label(DISABLED).is_some()
}

/// An instance as clients read it.
pub(super) fn shown(name: &Name, instance: &Instance) -> Value {
    let registration = &*instance.registration;
    let (host, port) = registration.host_and_port();
    let cluster = cluster(registration);
    let weight = match registration.state {
        InstanceState::Draining => 0.0,
        _ => {
            let said = registration.label(WEIGHT).and_then(|weight| weight.parse().ok());
            said.unwrap_or(f64::from(registration.weight))
        }
    };
    let mut metadata = Map::new();
    let labels = registration.labels.iter().filter(|(name, _)| !name.starts_with(KEPT));
    for (name, value) in labels {
        metadata.entry(name.clone()).or_insert_with(|| value.clone().into());
    }
    if let Some(zone) = &registration.zone {
        metadata.entry("zone").or_insert_with(|| zone.clone().into());
    }
    let time = |name, otherwise| millis(registration, name, otherwise).unwrap_or(otherwise);
    json!({
        "instanceId": format!("{host}#{port}#{cluster}#{}", name.grouped()), "serviceName": name.grouped(),
        "service": name.grouped(), "clusterName": cluster, "ip": host, "port": port, "weight": weight,
        "healthy": is_healthy(registration), "valid": is_healthy(registration), "marked": false,
        "enabled": !is_disabled(registration), "ephemeral": true, "metadata": metadata,
        "instanceHeartBeatInterval": interval(registration), "instanceHeartBeatTimeOut": time(ITS_TIMEOUT, TIMEOUT),
        "ipDeleteTimeout": time(ITS_DELETE, DELETE),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> Result<(Place, Registration), String> {
        let request = hyper::Request::get("/").body(()).unwrap();
        registration(&Params::read(&request.into_parts().0, query.as_bytes()))
    }

    fn labels(registration: &Registration) -> String {
        let mut labels: Vec<_> =
            registration.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labels.sort();
        labels.join(" ")
    }

    #[test]
    fn an_instance_is_what_its_program_says() {
        let metadata = "%7B%22version%22%3A%222%22%2C%22zone%22%3A%22a%22%2C%22n%22%3A7%7D";
        let (place, registration) =
            read(&format!("ip=10.0.0.1&port=80&weight=2.0&metadata={metadata}")).unwrap();
        assert_eq!((place.id(), &*registration.address), ("10.0.0.1:80".to_owned(), "10.0.0.1:80"));
        assert_eq!(labels(&registration), "n=7 nacos.cluster=DEFAULT version=2 zone=a");
        assert_eq!((registration.weight, registration.zone.as_deref()), (2, Some("a")));
        let check = &registration.checks[0];
        assert_eq!(
            (check.ttl_seconds, check.remove_after_seconds, check.status),
            (15, 15, CheckStatus::Passing)
        );

        let own = "preserved.heart.beat.timeout=2500,preserved.ip.delete.timeout=2600";
        let query = format!("ip=::1&port=80&clusterName=b&weight=0.4&healthy=false&metadata={own}");
        let (place, registration) = read(&query).unwrap();
        assert_eq!((place.id(), registration.weight), ("[::1]:80@b".to_owned(), 1));
        assert_eq!((registration.label(WEIGHT), registration.stands()), (Some("0.4"), InstanceState::Unwell));
        let check = &registration.checks[0];
        assert_eq!((check.ttl_seconds, check.remove_after_seconds), (3, 1));

        let (_, disabled) = read("ip=10.0.0.1&port=80&enabled=false").unwrap();
        assert!(is_disabled(&disabled) && disabled.weight == 0);
    }

    #[test]
    fn what_cannot_be_registered_is_named() {
        for (query, why) in [
            ("port=80", "ip: there is none"),
            ("ip=a", "port: there is none"),
            ("ip=a&port=70000", "port: \"70000\" is no such number"),
            ("ip=a&port=80&weight=-1", "weight: -1 is to be 0 to 10000"),
            ("ip=a&port=80&weight=NaN", "weight: NaN is to be"),
            ("ip=a&port=80&ephemeral=false", "ephemeral: false means that Nacos checks it"),
            ("ip=a&port=80&enable=maybe", "enable: \"maybe\" is neither"),
            ("ip=a&port=80&metadata=%7B", "metadata: "),
            ("ip=a&port=80&metadata=a", "metadata: \"a\" is no name=value"),
            ("ip=a&port=80&metadata=%7B%22a%22%3A%5B%5D%7D", "metadata.a: [] is no text"),
            ("ip=a&port=80&metadata=nacos.x=1", "metadata.nacos.x: "),
            (
                "ip=a&port=80&metadata=preserved.heart.beat.timeout=soon",
                "metadata.preserved.heart.beat.timeout: ",
            ),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.starts_with(why), "{query}: {error}");
        }
    }

    #[test]
    fn a_beat_says_who_it_is_and_what_to_register() {
        let text = r#"{"ip":"10.0.0.1","port":80,"cluster":"b","weight":3,"serviceName":"g@@a","metadata":{"v":"1"}}"#;
        let (place, service, registration) = beat(text).unwrap();
        assert_eq!((place.id(), service.as_deref()), ("10.0.0.1:80@b".to_owned(), Some("g@@a")));
        assert_eq!((registration.weight, registration.label("v")), (3, Some("1")));
        let mut unheard = registration.clone();
        unheard.checks[0].status = CheckStatus::Critical;
        hear(&mut unheard);
        assert_eq!(unheard, registration);
        for bad in ["", "{}", "[]", r#"{"ip":"a","port":-1}"#] {
            assert!(beat(bad).unwrap_err().starts_with("beat: "), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "\\PC{0,60}") {
            let _ = (beat(&text), metadata(&text));
        }

        /// Nobody who is to get requests weighs nothing.
        #[test]
        fn a_weight_is_near_what_was_said(weight in 0.0f64..=GREATEST_WEIGHT) {
            let (_, registration) = read(&format!("ip=a&port=80&weight={weight}")).unwrap();
            prop_assert_eq!(registration.weight == 0, weight == 0.0);
            prop_assert!((f64::from(registration.weight) - weight).abs() <= 1.0);
        }
    }
}
