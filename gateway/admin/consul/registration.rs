//! An instance as Consul's clients write it, and as it stands in the embedded registry.
//!
//! What has no place there is kept as labels that begin with `consul.`, so that others find it again.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::query;
use crate::connector::memory::{CheckStatus, LONGEST_OUTPUT, Registration, TtlCheck};

/// What begins the names of labels that are kept for Consul's clients alone.
pub(super) const KEPT: &str = "consul.";

/// The weight while it warns. Whatever was registered by this API has it.
const WARNING_WEIGHT: &str = "consul.warningWeight";
/// The weight while it does not, where that is not its weight now.
const PASSING_WEIGHT: &str = "consul.passingWeight";
/// Somebody switched it off, and why.
const MAINTENANCE: &str = "consul.maintenance";

/// A tag is a label of this name.
const TAG: &str = "tag";

/// What somebody means who says no reason.
const NO_REASON: &str = "no reason was given";

const GREATEST_WEIGHT: u32 = 65_535;

/// Checks that Consul does itself.
const OTHER_CHECKS: [&str; 11] = [
    "http",
    "tcp",
    "udp",
    "grpc",
    "h2ping",
    "args",
    "scriptargs",
    "script",
    "dockercontainerid",
    "aliasservice",
    "osservice",
];

const NOT_CHECKED: &str = "is not checked here, only TTL is: let the program pass its check itself, as Spring Cloud does with \
     spring.cloud.consul.discovery.heartbeat.enabled=true, and let the gateway check it by `check` of its upstream";

/// What Consul does beside that.
const OTHER_WAYS: [&str; 4] = ["connect", "proxy", "kind", "socketpath"];

/// The body of a registration. Consul takes names in any case, and with underscores.
#[derive(Deserialize)]
struct Posted {
    #[serde(default)]
    name: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    port: Option<i64>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<Map<String, Value>>,
    #[serde(default)]
    weights: Option<Value>,
    #[serde(default)]
    locality: Option<Value>,
    #[serde(default)]
    check: Option<Value>,
    #[serde(default)]
    checks: Option<Vec<Value>>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
struct Weights {
    passing: Option<u32>,
    warning: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PostedCheck {
    checkid: Option<String>,
    id: Option<String>,
    name: Option<String>,
    status: Option<String>,
    notes: Option<String>,
    output: Option<String>,
    ttl: Value,
    deregistercriticalserviceafter: Value,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What is to be registered.
#[derive(Debug, PartialEq)]
pub(super) struct Read {
    pub service: String,
    pub id: String,
    pub registration: Registration,
    /// Checks of which the program does not say how they stand: as before, or critical.
    unsaid: Vec<String>,
}

impl Read {
    /// `from` is where the program is, if that is known: Consul takes the address of its agent, which is beside it. The
    /// error names the field and the value.
    pub(super) fn of(content: &[u8], from: Option<IpAddr>) -> Result<Self, String> {
        let posted: Value = serde_json::from_slice(content).map_err(|error| format!("body: {error}"))?;
        let posted: Posted =
            serde_json::from_value(folded(posted)).map_err(|error| format!("body: {error}"))?;
        if let Some(other) = OTHER_WAYS.into_iter().find(|name| posted.more.get(*name).is_some_and(says)) {
            return Err(format!("{other}: only services with an address and a port are registered here"));
        }
        let Posted { name, id, address, port, tags, meta, weights, locality, check, checks, .. } = posted;
        if name.is_empty() {
            return Err("Name: there is none".to_owned());
        }
        let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| name.clone());
        let port = port.ok_or("Port: there is none, and requests go to one")?;
        let number = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = number.ok_or_else(|| format!("Port: {port} is none, and requests go to one"))?;
        let given = address.filter(|address| !address.is_empty());
        let host = given.or_else(|| from.map(|from| from.to_canonical().to_string()));
        let host = host.ok_or("Address: there is none, and through a proxy comes who is somewhere else")?;
        let mut registration = Registration::new(&host, port);
        facts(&mut registration, tags, meta, locality)?;
        self::weights(&mut registration, weights)?;
        let all: Vec<Value> = check.into_iter().chain(checks.into_iter().flatten()).filter(says).collect();
        let mut unsaid = Vec::new();
        for (number, posted) in all.iter().enumerate() {
            let named =
                if all.len() == 1 { format!("service:{id}") } else { format!("service:{id}:{}", number + 1) };
            let (check, is_said) = self::check(posted.clone(), &named, &format!("Service '{name}' check"))?;
            if !is_said {
                unsaid.push(check.id.clone());
            }
            registration.checks.push(check);
        }
        settle(&mut registration);
        Ok(Self { service: name, id, registration, unsaid })
    }

    /// It was registered before: what others said of it stays so, and its own other checks do unless they are to be
    /// replaced.
    pub(super) fn keep(&mut self, known: &Registration, replace_checks: bool) {
        let Self { registration, unsaid, .. } = self;
        for check in registration.checks.iter_mut().filter(|check| unsaid.contains(&check.id)) {
            if let Some(known) = known.checks.iter().find(|known| known.id == check.id) {
                (check.status, check.output) = (known.status, known.output.clone());
            }
        }
        if !replace_checks {
            let others =
                known.checks.iter().filter(|known| !registration.checks.iter().any(|of| of.id == known.id));
            let others: Vec<TtlCheck> = others.cloned().collect();
            registration.checks.extend(others);
        }
        registration.set_label(MAINTENANCE, known.label(MAINTENANCE));
        settle(registration);
    }
}

/// A check that is put to a service that is there already: the id of that, and the check.
pub(super) fn more_check(content: &[u8]) -> Result<(String, TtlCheck), String> {
    let posted: Value = serde_json::from_slice(content).map_err(|error| format!("body: {error}"))?;
    let posted = folded(posted);
    let text = |name: &str| posted.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(service) = text("serviceid") else {
        return Err("ServiceID: there is none, and checks of the node are not done here".to_owned());
    };
    let name = text("name").ok_or("Name: there is none")?;
    let (check, _) = check(posted.clone(), name, name)?;
    Ok((service.to_owned(), check))
}

/// In the place of one of the same id.
pub(super) fn put_check(registration: &mut Registration, check: TtlCheck) {
    registration.checks.retain(|known| known.id != check.id);
    registration.checks.push(check);
    settle(registration);
}

pub(super) fn remove_check(registration: &mut Registration, id: &str) {
    registration.checks.retain(|check| check.id != id);
    settle(registration);
}

/// Somebody says how a check of it stands.
pub(super) fn say(registration: &mut Registration, id: &str, status: CheckStatus, output: &str) {
    for check in registration.checks.iter_mut().filter(|check| check.id == id) {
        (check.status, check.output) = (status, kept(output));
    }
    settle(registration);
}

pub(super) fn maintain(registration: &mut Registration, enable: bool, reason: Option<&str>) {
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or(NO_REASON);
    registration.set_label(MAINTENANCE, enable.then(|| kept(reason)).as_deref());
    settle(registration);
}

/// Whether this API registered it.
pub(super) fn is_ours(registration: &Registration) -> bool {
    registration.label(WARNING_WEIGHT).is_some()
}

/// Why it is switched off, if it is.
pub(super) fn maintenance(registration: &Registration) -> Option<&str> {
    registration.label(MAINTENANCE)
}

/// Its weights while it passes and while it warns, as Consul's clients can read them.
pub(super) fn both_weights(registration: &Registration) -> (u32, u32) {
    let passing = read_weight(registration, PASSING_WEIGHT).unwrap_or(registration.weight);
    let passing = passing.clamp(1, GREATEST_WEIGHT);
    (passing, read_weight(registration, WARNING_WEIGHT).unwrap_or(passing))
}

pub(super) fn tags(registration: &Registration) -> Vec<&str> {
    let tags = registration.labels.iter().filter(|(name, _)| name == TAG);
    tags.map(|(_, value)| value.as_str()).collect()
}

/// What is said of it beside its tags; of a name that is there more than once the first.
pub(super) fn meta(registration: &Registration) -> Map<String, Value> {
    let mut meta = Map::new();
    let labels = registration.labels.iter().filter(|(name, _)| name != TAG && !name.starts_with(KEPT));
    for (name, value) in labels {
        meta.entry(name.clone()).or_insert_with(|| value.clone().into());
    }
    if let Some(zone) = &registration.zone {
        meta.entry("zone").or_insert_with(|| zone.clone().into());
    }
    meta
}

fn facts(
    registration: &mut Registration,
    tags: Option<Vec<String>>,
    meta: Option<Map<String, Value>>,
    locality: Option<Value>,
) -> Result<(), String> {
    let labels = &mut registration.labels;
    labels.extend(tags.into_iter().flatten().map(|tag| (TAG.to_owned(), tag)));
    for (name, value) in meta.into_iter().flatten() {
        let Value::String(value) = value else { return Err(format!("Meta.{name}: {value} is no text")) };
        if name.starts_with(KEPT) {
            return Err(format!("Meta.{name}: what begins with `{KEPT}` is for this registry"));
        }
        labels.push((name, value));
    }
    let zone = locality.as_ref().and_then(|of| of.get("zone")?.as_str().map(str::to_owned));
    registration.zone = zone.or_else(|| registration.label("zone").map(str::to_owned));
    registration.zone.take_if(|zone| zone.is_empty());
    Ok(())
}

fn weights(registration: &mut Registration, posted: Option<Value>) -> Result<(), String> {
    let posted = posted.filter(|posted| !posted.is_null());
    let weights: Weights = match posted {
        Some(weights) => serde_json::from_value(weights).map_err(|error| format!("Weights: {error}"))?,
        None => Weights { passing: None, warning: None },
    };
    let (passing, warning) = (weights.passing.unwrap_or(1), weights.warning.unwrap_or(1));
    if passing == 0 || passing.max(warning) > GREATEST_WEIGHT {
        return Err(format!(
            "Weights: Passing {passing} is to be 1 to {GREATEST_WEIGHT}, and Warning {warning} no greater"
        ));
    }
    registration.weight = passing;
    registration.set_label(WARNING_WEIGHT, Some(&warning.to_string()));
    Ok(())
}

/// A check, and whether it says how it stands.
fn check(posted: Value, id: &str, name: &str) -> Result<(TtlCheck, bool), String> {
    let posted: PostedCheck = serde_json::from_value(posted).map_err(|error| format!("Check: {error}"))?;
    if let Some(other) = OTHER_CHECKS.into_iter().find(|name| posted.more.get(*name).is_some_and(says)) {
        return Err(format!("Check: {} {NOT_CHECKED}", other.to_ascii_uppercase()));
    }
    let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let ttl = seconds("TTL", &posted.ttl)?.ok_or_else(|| format!("Check: what has no TTL {NOT_CHECKED}"))?;
    let remove = seconds("DeregisterCriticalServiceAfter", &posted.deregistercriticalserviceafter)?;
    let status = there(&posted.status);
    let check = TtlCheck {
        id: there(&posted.checkid).or_else(|| there(&posted.id)).unwrap_or_else(|| id.to_owned()),
        ttl_seconds: ttl,
        remove_after_seconds: remove.unwrap_or(0),
        // As in Consul: nobody has passed it yet.
        status: status.as_deref().map_or(Ok(CheckStatus::Critical), read_status)?,
        name: there(&posted.name).unwrap_or_else(|| name.to_owned()),
        output: kept(&there(&posted.output).or_else(|| there(&posted.notes)).unwrap_or_default()),
    };
    Ok((check, status.is_some()))
}

pub(super) fn read_status(status: &str) -> Result<CheckStatus, String> {
    match status {
        "passing" => Ok(CheckStatus::Passing),
        "warning" => Ok(CheckStatus::Warning),
        "critical" => Ok(CheckStatus::Critical),
        other => Err(format!("Status: {other:?} is none of passing, warning, critical")),
    }
}

pub(super) fn status_text(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
    }
}

/// Whole seconds, more rather than less. Numbers are nanoseconds. None: nothing is said.
fn seconds(name: &str, value: &Value) -> Result<Option<u32>, String> {
    let duration = match value {
        value if !says(value) => return Ok(None),
        Value::String(text) => query::duration(text),
        value => value.as_u64().map(std::time::Duration::from_nanos),
    };
    let duration = duration.ok_or_else(|| format!("Check: {name}: {value} is no time like 10s or 5m"))?;
    let seconds = duration.as_secs().saturating_add((duration.subsec_nanos() > 0).into());
    Ok((seconds > 0).then(|| u32::try_from(seconds).unwrap_or(u32::MAX)))
}

/// Its weight, by what is said of it: none while it is switched off, another one while it warns.
fn settle(registration: &mut Registration) {
    let passing = read_weight(registration, PASSING_WEIGHT).unwrap_or(registration.weight);
    let warning = read_weight(registration, WARNING_WEIGHT).unwrap_or(passing);
    registration.weight = match registration.health() {
        _ if maintenance(registration).is_some() => 0,
        CheckStatus::Warning => warning,
        CheckStatus::Passing | CheckStatus::Critical => passing,
    };
    let kept = (registration.weight != passing).then(|| passing.to_string());
    registration.set_label(PASSING_WEIGHT, kept.as_deref());
}

fn read_weight(registration: &Registration, name: &str) -> Option<u32> {
    registration.label(name)?.parse().ok()
}

/// What is kept of a text that somebody says with a status: its beginning, in one line.
fn kept(text: &str) -> String {
    let mut kept: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    kept.truncate(kept.floor_char_boundary(LONGEST_OUTPUT));
    kept
}

/// Whether something is said by it: clients write what is empty, too.
fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => object.values().any(says),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    }
}

/// Names as Consul compares them: in lower case, without underscores. What programs name themselves stays as it is.
fn folded(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let pairs = object.into_iter().map(|(name, value)| {
                let name = name.replace('_', "").to_ascii_lowercase();
                let value = if name == "meta" { value } else { folded(value) };
                (name, value)
            });
            Value::Object(pairs.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(folded).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::connector::memory::InstanceState;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)));

    fn read(body: Value) -> Result<Read, String> {
        Read::of(body.to_string().as_bytes(), HERE)
    }

    fn registration(body: Value) -> Registration {
        read(body).unwrap().registration
    }

    fn labels(registration: &Registration) -> String {
        let mut labels: Vec<_> =
            registration.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labels.sort();
        labels.join(" ")
    }

    /// As Spring Cloud writes it.
    fn spring() -> Value {
        json!({ "Tags": ["v1"], "EnableTagOverride": false, "Meta": { "secure": "false", "zone": "a" }, "ID": "orders-1",
            "Name": "orders", "Address": "10.0.0.1", "Port": 8080,
            "Check": { "TTL": "3s", "DeregisterCriticalServiceAfter": null, "HTTP": null, "TLSSkipVerify": null } })
    }

    #[test]
    fn an_instance_is_what_its_program_says() {
        let read = read(spring()).unwrap();
        assert_eq!((&*read.service, &*read.id), ("orders", "orders-1"));
        let registration = read.registration;
        assert_eq!((&*registration.address, registration.weight), ("10.0.0.1:8080", 1));
        assert_eq!(labels(&registration), "consul.warningWeight=1 secure=false tag=v1 zone=a");
        assert_eq!((registration.zone.as_deref(), registration.ttl_seconds), (Some("a"), 0));
        let check = &registration.checks[0];
        assert_eq!((&*check.id, &*check.name), ("service:orders-1", "Service 'orders' check"));
        assert_eq!(
            (check.ttl_seconds, check.remove_after_seconds, check.status),
            (3, 0, CheckStatus::Critical)
        );
        assert_eq!(registration.stands(), InstanceState::Unwell, "until somebody passes it");
    }

    #[test]
    fn names_are_taken_in_any_case_and_what_is_not_said_is_usual() {
        let body = json!({ "name": "web", "port": 80, "check":
            { "ttl": "1500ms", "status": "passing", "deregister_critical_service_after": "1m" } });
        let Read { id, registration, .. } = read(body).unwrap();
        assert_eq!((&*id, &*registration.address), ("web", "10.0.0.9:80"));
        let check = &registration.checks[0];
        assert_eq!(
            (check.ttl_seconds, check.remove_after_seconds, check.status),
            (2, 60, CheckStatus::Passing)
        );
        let two = json!({ "Name": "web", "Port": 80, "Address": "::1", "Checks":
            [{ "TTL": 5_000_000_000u64 }, { "CheckID": "own", "Name": "mine", "TTL": "5s" }, {}] });
        let registration = read(two).unwrap().registration;
        assert_eq!(registration.address, "[::1]:80");
        let checks: Vec<_> =
            registration.checks.iter().map(|of| (&*of.id, &*of.name, of.ttl_seconds)).collect();
        assert_eq!(checks, [("service:web:1", "Service 'web' check", 5), ("own", "mine", 5)]);
    }

    #[test]
    fn what_cannot_be_registered_is_named() {
        for (body, why) in [
            (json!([]), "body: "),
            (json!({ "Port": 80 }), "Name: there is none"),
            (json!({ "Name": "a" }), "Port: there is none"),
            (json!({ "Name": "a", "Port": 0 }), "Port: 0 is none"),
            (json!({ "Name": "a", "Port": 70_000 }), "Port: 70000 is none"),
            (json!({ "Name": "a", "Port": 1, "Meta": { "n": 1 } }), "Meta.n: 1 is no text"),
            (json!({ "Name": "a", "Port": 1, "Meta": { "consul.x": "" } }), "Meta.consul.x: "),
            (json!({ "Name": "a", "Port": 1, "Weights": { "Passing": 0 } }), "Weights: Passing 0"),
            (json!({ "Name": "a", "Port": 1, "Weights": { "Passing": -1 } }), "Weights: "),
            (
                json!({ "Name": "a", "Port": 1, "Check": { "HTTP": "http://a/", "Interval": "9s" } }),
                "Check: HTTP is not",
            ),
            (
                json!({ "Name": "a", "Port": 1, "Check": { "Interval": "9s" } }),
                "Check: what has no TTL is not",
            ),
            (
                json!({ "Name": "a", "Port": 1, "Check": { "TTL": "soon" } }),
                "Check: TTL: \"soon\" is no time",
            ),
            (
                json!({ "Name": "a", "Port": 1, "Check": { "TTL": "1s", "Status": "fine" } }),
                "Status: \"fine\"",
            ),
            (json!({ "Name": "a", "Port": 1, "Connect": { "Native": true } }), "connect: only services"),
            (json!({ "Name": "a", "Port": 1, "Kind": "connect-proxy" }), "kind: only services"),
        ] {
            let error = read(body.clone()).unwrap_err();
            assert!(error.starts_with(why), "{body}: {error}");
        }
        let proxied = Read::of(br#"{"Name":"a","Port":1}"#, None).unwrap_err();
        assert!(proxied.starts_with("Address: there is none"), "{proxied}");
    }

    #[test]
    fn a_weight_is_that_of_how_it_stands() {
        let body = json!({ "Name": "a", "Port": 1, "Weights": { "Passing": 5, "Warning": 2 },
            "Check": { "TTL": "9s", "Status": "passing" } });
        let mut registration = registration(body);
        let check = "service:a";
        assert_eq!((registration.weight, both_weights(&registration)), (5, (5, 2)));
        say(&mut registration, check, CheckStatus::Warning, "so\nso");
        assert_eq!((registration.weight, both_weights(&registration)), (2, (5, 2)));
        assert_eq!(registration.checks[0].output, "so so");
        maintain(&mut registration, true, None);
        assert_eq!((registration.weight, maintenance(&registration)), (0, Some(NO_REASON)));
        say(&mut registration, check, CheckStatus::Passing, "");
        assert_eq!((registration.weight, both_weights(&registration)), (0, (5, 2)));
        maintain(&mut registration, false, None);
        assert_eq!((registration.weight, both_weights(&registration)), (5, (5, 2)));
        assert_eq!(labels(&registration), "consul.warningWeight=2");
    }

    #[test]
    fn who_registers_again_is_as_before_but_for_what_it_says() {
        let mut known = registration(spring());
        say(&mut known, "service:orders-1", CheckStatus::Passing, "");
        maintain(&mut known, true, Some("upgrade"));
        let more = br#"{"ServiceID":"orders-1","Name":"disk","TTL":"9s"}"#;
        put_check(&mut known, more_check(more).unwrap().1);
        let mut again = read(spring()).unwrap();
        again.keep(&known, false);
        assert_eq!(again.registration.checks, known.checks);
        assert_eq!(maintenance(&again.registration), Some("upgrade"));
        let mut again = read(spring()).unwrap();
        again.keep(&known, true);
        assert_eq!(again.registration.checks, known.checks[..1]);
        let mut body = spring();
        body["Check"]["Status"] = json!("critical");
        let mut again = read(body).unwrap();
        again.keep(&known, true);
        assert_eq!(again.registration.checks[0].status, CheckStatus::Critical);
    }

    proptest! {
        #[test]
        fn no_body_is_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Read::of(&body, HERE);
            let _ = more_check(&body);
        }

        /// However an instance fares, its weights are those that it was registered with.
        #[test]
        fn weights_come_back(
            passing in 1u32..=GREATEST_WEIGHT,
            warning in 0u32..=GREATEST_WEIGHT,
            steps in proptest::collection::vec(0u8..5, 0..20),
        ) {
            let mut one = registration(json!({ "Name": "a", "Port": 1,
                "Weights": { "Passing": passing, "Warning": warning }, "Check": { "TTL": "9s" } }));
            for step in steps {
                match step {
                    0 => maintain(&mut one, true, Some("x")),
                    1 => maintain(&mut one, false, None),
                    2 => say(&mut one, "service:a", CheckStatus::Passing, ""),
                    3 => say(&mut one, "service:a", CheckStatus::Warning, ""),
                    _ => say(&mut one, "service:a", CheckStatus::Critical, ""),
                }
                prop_assert_eq!(both_weights(&one), (passing, warning));
                let expected = match one.health() {
                    _ if maintenance(&one).is_some() => 0,
                    CheckStatus::Warning => warning,
                    _ => passing,
                };
                prop_assert_eq!(one.weight, expected);
            }
        }
    }
}
