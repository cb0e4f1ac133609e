//! An instance as Eureka's clients write it and read it, and as it stands in the embedded registry.
//!
//! What has no place there is kept as labels that begin with `eureka.`, so that others find it again.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::connector::memory::{InstanceState, Registration};

/// What a client says when it does not say it.
const LEASE_SECONDS: u32 = 90;
const RENEWAL_SECONDS: u64 = 30;

/// What begins the names of labels that are kept for Eureka's clients alone.
const KEPT: &str = "eureka.";

const VIP: &str = "eureka.vipAddress";
const SECURE_VIP: &str = "eureka.secureVipAddress";
const SECURE_PORT: &str = "eureka.securePort";
const RENEWAL: &str = "eureka.renewalIntervalInSecs";
const STATUS: &str = "eureka.status";
/// Of one that is out of service.
const WEIGHT: &str = "eureka.weight";
const OVERRULED: &str = "eureka.overriddenStatus";
/// As they are called there.
const PAGES: [&str; 4] = ["homePageUrl", "statusPageUrl", "healthCheckUrl", "secureHealthCheckUrl"];

const UP: &str = "UP";
const DOWN: &str = "DOWN";
const OUT: &str = "OUT_OF_SERVICE";
const STATUSES: [&str; 5] = [UP, DOWN, "STARTING", OUT, "UNKNOWN"];

/// The body of a registration.
#[derive(Deserialize)]
pub(super) struct Posted {
    instance: Written,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    instance_id: Option<String>,
    host_name: Option<String>,
    ip_addr: Option<String>,
    status: Option<String>,
    port: Option<Port>,
    secure_port: Option<Port>,
    vip_address: Option<String>,
    secure_vip_address: Option<String>,
    lease_info: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
    data_center_info: Option<Map<String, Value>>,
    /// The pages, and what is of no use here.
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: Value,
    #[serde(rename = "@enabled", default)]
    enabled: Value,
}

impl Port {
    /// None: not enabled.
    fn read(&self, name: &str) -> Result<Option<u16>, String> {
        let enabled = self.enabled.as_bool().unwrap_or_else(|| text(&self.enabled) == Some("true"));
        match number(&self.number).and_then(|number| u16::try_from(number).ok()) {
            Some(port) => Ok(enabled.then_some(port)),
            None if !enabled => Ok(None),
            None => Err(format!("instance.{name}: {} is no port", self.number)),
        }
    }
}

impl Posted {
    /// The id, and what stands in the embedded registry. The error names the field and the value.
    pub(super) fn registration(self, app: &str) -> Result<(String, Registration), String> {
        let Written { instance_id, host_name, ip_addr, status, port, secure_port, .. } = &self.instance;
        let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (host_name, ip_addr) = (there(host_name), there(ip_addr));
        let Some(host) = ip_addr.clone().or_else(|| host_name.clone()) else {
            return Err("instance: neither ipAddr nor hostName is there".to_owned());
        };
        let id = there(instance_id).or_else(|| host_name.clone()).unwrap_or_else(|| host.clone());
        let read = |port: &Option<Port>, name| port.as_ref().map_or(Ok(None), |port| port.read(name));
        let (plain, secure) = (read(port, "port")?, read(secure_port, "securePort")?);
        let Some(port) = plain.or(secure) else {
            return Err("instance: neither port nor securePort is enabled".to_owned());
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let status = read_status(status.as_deref().unwrap_or(UP))?;
        let hostname = host_name.filter(|name| name.trim_matches(['[', ']']) != bare);
        let mut registration =
            Registration { hostname, ttl_seconds: LEASE_SECONDS, ..Registration::new(&host, port) };
        self.instance.facts(app, plain.is_none(), secure, &mut registration)?;
        set_status(&mut registration, status);
        Ok((id, registration))
    }
}

impl Written {
    /// What is said of it beside its address and its status.
    fn facts(
        self,
        app: &str,
        only_secure: bool,
        secure: Option<u16>,
        registration: &mut Registration,
    ) -> Result<(), String> {
        let Self { vip_address, secure_vip_address, lease_info, metadata, data_center_info, more, .. } = self;
        add_metadata(registration, texts(metadata.unwrap_or_default()))?;
        if registration.zone.is_none() {
            let amazon = data_center_info.as_ref().and_then(|info| info.get("metadata"));
            let zone = amazon.and_then(|amazon| text(amazon.get("availability-zone")?));
            registration.zone = zone.map(str::to_owned);
        }
        let lease = lease_info.unwrap_or_default();
        let lease = |name: &str| lease.get(name).and_then(number).filter(|seconds| *seconds > 0);
        if let Some(seconds) = lease("durationInSecs") {
            registration.ttl_seconds = seconds.try_into().unwrap_or(u32::MAX);
        }
        let mut keep = |name: &str, value: String| registration.labels.push((name.to_owned(), value));
        if let Some(seconds) = lease("renewalIntervalInSecs").filter(|seconds| *seconds != RENEWAL_SECONDS) {
            keep(RENEWAL, seconds.to_string());
        }
        for (name, vip) in [(VIP, vip_address), (SECURE_VIP, secure_vip_address)] {
            if let Some(vip) = vip.filter(|vip| *vip != app.to_ascii_lowercase()) {
                keep(name, vip);
            }
        }
        match secure {
            // Where requests go speaks TLS.
            Some(_) if only_secure => keep("protocol", "https".to_owned()),
            Some(port) => keep(SECURE_PORT, port.to_string()),
            None => {}
        }
        for page in PAGES {
            if let Some(url) = more.get(page).and_then(text) {
                keep(&format!("{KEPT}{page}"), url.to_owned());
            }
        }
        Ok(())
    }
}

/// What is text of an object, or is written as one.
fn texts(object: Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::String(text) => Some(text),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect()
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| text(value)?.parse().ok())
}

fn read_status(status: &str) -> Result<&'static str, String> {
    let known = STATUSES.into_iter().find(|known| *known == status);
    known.ok_or_else(|| format!("status {status:?} is none of {}", STATUSES.join(", ")))
}

/// Its weight, which one that is out of service keeps for when it is back.
fn weight(registration: &Registration) -> u32 {
    registration.label(WEIGHT).and_then(|weight| weight.parse().ok()).unwrap_or(match registration.weight {
        0 => 1,
        weight => weight,
    })
}

fn set_status(registration: &mut Registration, status: &'static str) {
    let weight = weight(registration);
    let is_out = status == OUT;
    registration.weight = if is_out { 0 } else { weight };
    let kept = (is_out && weight > 1).then(|| weight.to_string());
    registration.set_label(WEIGHT, kept.as_deref());
    registration.state = match status {
        UP | OUT => InstanceState::Ready,
        _ => InstanceState::Unwell,
    };
    let is_plain = matches!(status, UP | OUT | DOWN);
    registration.set_label(STATUS, (!is_plain).then_some(status));
}

/// What its clients are told. One that is drained otherwise takes no requests either.
pub(super) fn status(registration: &Registration) -> String {
    let status = match (registration.weight, registration.stands()) {
        (_, InstanceState::Unwell) => registration.label(STATUS).unwrap_or(DOWN),
        (0, _) | (_, InstanceState::Draining) => OUT,
        (_, InstanceState::Ready) => UP,
    };
    status.to_owned()
}

/// Somebody says how it stands, whatever itself says.
pub(super) fn overrule(registration: &mut Registration, status: Option<&str>) -> Result<(), String> {
    let status = read_status(status.ok_or("value: there is none, and it says which status")?)?;
    set_status(registration, status);
    registration.set_label(OVERRULED, Some(status));
    Ok(())
}

/// Its own word counts again. What that was is told, or nobody knows until it registers again.
pub(super) fn obey(registration: &mut Registration, status: Option<&str>) -> Result<(), String> {
    let status = read_status(status.unwrap_or("UNKNOWN"))?;
    set_status(registration, status);
    registration.set_label(OVERRULED, None);
    Ok(())
}

/// It registers again, and was overruled before. That it is down or starting itself knows best.
pub(super) fn keep_overruled(registration: &mut Registration, known: &Registration) {
    let Some(overruled) = known.label(OVERRULED).and_then(|status| read_status(status).ok()) else { return };
    let own = status(registration);
    if own == UP || own == OUT {
        set_status(registration, overruled);
    }
    registration.set_label(OVERRULED, Some(overruled));
}

/// Puts more to what is said of it, in the place of what has the same name.
pub(super) fn add_metadata(
    registration: &mut Registration,
    metadata: BTreeMap<String, String>,
) -> Result<(), String> {
    for (name, value) in metadata {
        match name.as_str() {
            "weight" => {
                let weight = value.parse().map_err(|_| format!("metadata.weight: {value:?} is no weight"))?;
                match registration.weight {
                    0 => registration.set_label(WEIGHT, Some(&value)),
                    _ => registration.weight = weight,
                }
            }
            // How Java writes of which kind the map is.
            "@class" => {}
            name if name.starts_with(KEPT) => {
                return Err(format!("metadata.{name}: what begins with `{KEPT}` is for this registry"));
            }
            name => registration.set_label(name, Some(&value)),
        }
        if name == "zone" && !value.is_empty() {
            registration.zone = Some(value);
        }
    }
    Ok(())
}

/// The names by which clients ask for it.
pub(super) fn vip<'r>(registration: &'r Registration, service: &'r str, secure: bool) -> &'r str {
    registration.label(if secure { SECURE_VIP } else { VIP }).unwrap_or(service)
}

/// An instance as clients read it. Times are in milliseconds; nobody keeps when it came first.
pub(super) fn shown(service: &str, id: &str, registration: &Registration, updated: u64) -> Value {
    let (host, port) = registration.host_and_port();
    let only_secure = registration.label("protocol") == Some("https");
    let enabled = |enabled: bool| if enabled { "true" } else { "false" };
    let secure = registration.label(SECURE_PORT).and_then(|port| port.parse::<u16>().ok());
    let (secure, has_secure) =
        if only_secure { (port, true) } else { (secure.unwrap_or(443), secure.is_some()) };
    let mut metadata = Map::new();
    let labels = registration.labels.iter().filter(|(name, _)| !name.starts_with(KEPT));
    metadata.extend(labels.map(|(name, value)| (name.clone(), json!(value))));
    if let Some(zone) = &registration.zone {
        metadata.insert("zone".to_owned(), json!(zone));
    }
    match weight(registration) {
        1 => {}
        weight => drop(metadata.insert("weight".to_owned(), json!(weight.to_string()))),
    }
    let renewal =
        registration.label(RENEWAL).and_then(|seconds| seconds.parse().ok()).unwrap_or(RENEWAL_SECONDS);
    let ttl = if registration.ttl_seconds == 0 { LEASE_SECONDS } else { registration.ttl_seconds };
    let mut shown = json!({
        "instanceId": id,
        "app": service.to_ascii_uppercase(),
        "hostName": registration.hostname.as_deref().unwrap_or(host),
        "ipAddr": host,
        "status": status(registration),
        "overriddenStatus": registration.label(OVERRULED).unwrap_or("UNKNOWN"),
        "port": { "$": port, "@enabled": enabled(!only_secure) },
        "securePort": { "$": secure, "@enabled": enabled(has_secure) },
        "countryId": 1,
        "dataCenterInfo":
            { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
        "leaseInfo": { "renewalIntervalInSecs": renewal, "durationInSecs": ttl, "registrationTimestamp": updated,
            "lastRenewalTimestamp": updated, "evictionTimestamp": 0, "serviceUpTimestamp": updated },
        "metadata": metadata,
        "vipAddress": vip(registration, service, false),
        "secureVipAddress": vip(registration, service, true),
        "isCoordinatingDiscoveryServer": "false",
        "lastUpdatedTimestamp": updated.to_string(),
        "lastDirtyTimestamp": updated.to_string(),
    });
    for page in PAGES {
        if let Some(url) = registration.label(&format!("{KEPT}{page}")) {
            shown[page] = json!(url);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(more: Value) -> Value {
        let mut instance = json!({
            "instanceId": "h1:orders:8080", "hostName": "h1.example", "app": "ORDERS", "ipAddr": "10.0.0.1",
            "status": "UP", "overriddenStatus": "UNKNOWN", "port": { "$": 8080, "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" }, "countryId": 1,
            "dataCenterInfo": { "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn" },
            "leaseInfo": { "renewalIntervalInSecs": 5, "durationInSecs": 15, "registrationTimestamp": 0,
                "lastRenewalTimestamp": 0, "evictionTimestamp": 0, "serviceUpTimestamp": 0 },
            "metadata": { "management.port": "8081", "zone": "a", "weight": "3" },
            "homePageUrl": "http://h1.example:8080/", "statusPageUrl": "http://h1.example:8080/actuator/info",
            "healthCheckUrl": "http://h1.example:8080/actuator/health",
            "vipAddress": "Orders", "secureVipAddress": "orders", "isCoordinatingDiscoveryServer": "false",
            "lastUpdatedTimestamp": "1", "lastDirtyTimestamp": "1",
        });
        for (name, value) in more.as_object().unwrap() {
            instance[name] = value.clone();
        }
        instance
    }

    fn read(more: Value) -> Result<(String, Registration), String> {
        let body = json!({ "instance": written(more) });
        serde_json::from_value::<Posted>(body).unwrap().registration("ORDERS")
    }

    fn registered(more: Value) -> Registration {
        read(more).unwrap().1
    }

    #[test]
    fn what_is_written_is_what_others_read() {
        let (id, registration) = read(json!({})).unwrap();
        assert_eq!(id, "h1:orders:8080");
        assert_eq!((&*registration.address, registration.weight), ("10.0.0.1:8080", 3));
        assert_eq!(registration.hostname.as_deref(), Some("h1.example"));
        assert_eq!((registration.zone.as_deref(), registration.ttl_seconds), (Some("a"), 15));
        assert_eq!(registration.label("management.port"), Some("8081"));
        let shown = shown("orders", &id, &registration, 7);
        let mut expected = written(json!({ "lastUpdatedTimestamp": "7", "lastDirtyTimestamp": "7" }));
        for name in ["registrationTimestamp", "lastRenewalTimestamp", "serviceUpTimestamp"] {
            expected["leaseInfo"][name] = json!(7);
        }
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_instance_has_the_port_that_is_enabled() {
        let port = |number: Value, enabled: Value| json!({ "$": number, "@enabled": enabled });
        let off = || port(json!(80), json!("false"));
        let only = registered(json!({ "port": off(), "securePort": port(json!("8443"), json!(true)) }));
        assert_eq!((&*only.address, only.label("protocol")), ("10.0.0.1:8443", Some("https")));
        let again = shown("orders", "a", &only, 7);
        assert_eq!(again["securePort"], port(json!(8443), json!("true")));
        assert_eq!(again["port"]["@enabled"], "false");
        let both = registered(json!({ "securePort": port(json!(8443), json!("true")) }));
        assert_eq!((&*both.address, both.label("protocol")), ("10.0.0.1:8080", None));
        assert_eq!(shown("orders", "a", &both, 7)["securePort"], port(json!(8443), json!("true")));
        let ip6 = registered(json!({ "ipAddr": "fd00::1", "hostName": "[fd00::1]" }));
        assert_eq!((&*ip6.address, ip6.hostname), ("[fd00::1]:8080", None));
    }

    #[test]
    fn how_it_stands_is_told_in_either_way() {
        for (told, weight, state) in [
            (UP, 3, InstanceState::Ready),
            (OUT, 0, InstanceState::Ready),
            (DOWN, 3, InstanceState::Unwell),
            ("STARTING", 3, InstanceState::Unwell),
            ("UNKNOWN", 3, InstanceState::Unwell),
        ] {
            let registration = registered(json!({ "status": told }));
            assert_eq!((registration.weight, registration.state), (weight, state), "{told}");
            assert_eq!(status(&registration), told);
            assert_eq!(shown("orders", "a", &registration, 7)["metadata"]["weight"], "3");
        }
    }

    #[test]
    fn what_is_overruled_stays_so_when_it_registers_again_and_is_taken_back() {
        let mut known = registered(json!({}));
        overrule(&mut known, Some(OUT)).unwrap();
        assert_eq!((known.weight, &*status(&known)), (0, OUT));
        let mut again = registered(json!({}));
        keep_overruled(&mut again, &known);
        assert_eq!((again.weight, &*status(&again)), (0, OUT));
        let mut down = registered(json!({ "status": "DOWN" }));
        keep_overruled(&mut down, &again);
        assert_eq!(status(&down), DOWN);
        obey(&mut again, Some(UP)).unwrap();
        assert_eq!((again.weight, &*status(&again), again.label(OVERRULED)), (3, UP, None));
        assert!(overrule(&mut again, Some("FINE")).unwrap_err().contains("status \"FINE\" is none of UP, "));
        assert!(overrule(&mut again, None).unwrap_err().contains("value: "));
    }

    #[test]
    fn mistakes_name_the_field_and_the_value() {
        let off = json!({ "$": 80, "@enabled": "false" });
        for (more, part) in [
            (json!({ "ipAddr": null, "hostName": "" }), "neither ipAddr nor hostName"),
            (json!({ "port": off }), "neither port nor securePort is enabled"),
            (json!({ "port": { "$": 70_000, "@enabled": "true" } }), "instance.port: 70000 is no port"),
            (json!({ "status": "FINE" }), "status \"FINE\""),
            (json!({ "metadata": { "weight": "heavy" } }), "metadata.weight: \"heavy\""),
            (json!({ "metadata": { "eureka.status": "UP" } }), "metadata.eureka.status: "),
        ] {
            let error = read(more).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
