//! What the operator wrote, checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

/// What stands for the name of the service in `name`.
const SERVICE: &str = "{service}";

/// How soon and how late an answer may be asked for again.
const PAUSES: RangeInclusive<u64> = 1..=3_600;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub record: Record,
    name: String,
    floor: Duration,
    cap: Duration,
}

/// Which records say where instances are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Record {
    Srv,
    /// A and AAAA, at this port.
    A {
        port: u16,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    record: Kind,
    port: Option<u16>,
    name: Option<String>,
    #[serde(default = "five")]
    ttl_floor_seconds: u64,
    #[serde(default = "a_minute")]
    ttl_cap_seconds: u64,
}

fn five() -> u64 {
    5
}

fn a_minute() -> u64 {
    60
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Srv,
    A,
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written { record, port, name, ttl_floor_seconds: floor, ttl_cap_seconds: cap } =
            guest::settings::read(text)?;
        let record = match (record, port) {
            (Kind::Srv, None) => Record::Srv,
            (Kind::Srv, Some(port)) => {
                return Err(format!("settings: port: {port} means nothing with SRV, which has its own"));
            }
            (Kind::A, None) => return Err("settings: port: missing, and addresses say none".to_owned()),
            (Kind::A, Some(0)) => return Err("settings: port: 0 is no port".to_owned()),
            (Kind::A, Some(port)) => Record::A { port },
        };
        let name = name.unwrap_or_else(|| SERVICE.to_owned());
        if !name.contains(SERVICE) {
            return Err(format!("settings: name: {name:?} has no {SERVICE} in it"));
        }
        for (key, seconds) in [("ttl_floor_seconds", floor), ("ttl_cap_seconds", cap)] {
            if !PAUSES.contains(&seconds) {
                let (least, most) = PAUSES.into_inner();
                return Err(format!("settings: {key}: {seconds} is not between {least} and {most}"));
            }
        }
        if floor > cap {
            return Err(format!("settings: ttl_floor_seconds: {floor} is more than ttl_cap_seconds, {cap}"));
        }
        let (floor, cap) = (Duration::from_secs(floor), Duration::from_secs(cap));
        Ok(Settings { record, name, floor, cap })
    }

    /// What is asked for, for a service. The error says why that is no name.
    pub fn name(&self, service: &str) -> Result<String, String> {
        let name = self.name.replace(SERVICE, service);
        let name = name.strip_suffix('.').unwrap_or(&name);
        let label = |label: &str| {
            (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if service.is_empty() || name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("service: {name:?} cannot be a name in DNS"));
        }
        Ok(name.to_owned())
    }

    /// How long after an answer that is good for so long the next one is asked for.
    pub fn pause(&self, ttl_seconds: u32) -> Duration {
        Duration::from_secs(ttl_seconds.into()).clamp(self.floor, self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &str) -> Settings {
        Settings::read(settings).unwrap_or_else(|error| panic!("{settings}: {error}"))
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let settings = read("{}");
        assert_eq!(settings.record, Record::Srv);
        assert_eq!(settings.name("_http._tcp.orders.example.").as_deref(), Ok("_http._tcp.orders.example"));
        assert_eq!(read(r#"{"record":"a","port":80}"#).record, Record::A { port: 80 });
    }

    #[test]
    fn a_time_to_live_has_a_floor_and_a_cap() {
        let pause = |settings: &str, ttl| read(settings).pause(ttl).as_secs();
        assert_eq!([0, 5, 30, 60, 86_400].map(|ttl| pause("{}", ttl)), [5, 5, 30, 60, 60]);
        let settings = r#"{"ttl_floor_seconds":1,"ttl_cap_seconds":2}"#;
        assert_eq!([0, 2, 3].map(|ttl| pause(settings, ttl)), [1, 2, 2]);
    }

    #[test]
    fn a_service_has_its_place_in_the_name() {
        let settings = read(r#"{"name":"_http._tcp.{service}.prod.example."}"#);
        assert_eq!(settings.name("orders").as_deref(), Ok("_http._tcp.orders.prod.example"));
        for service in ["", "a..b", "a b", "ü", &"a".repeat(64)] {
            assert!(settings.name(service).is_err(), "{service:?}");
        }
        assert!(read("{}").name(&["a"; 128].join(".")).is_err());
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"record":"mx"}"#, "unknown variant `mx`"),
            (r#"{"port":80}"#, "port: 80 means nothing with SRV"),
            (r#"{"record":"a"}"#, "port: missing"),
            (r#"{"record":"a","port":0}"#, "port: 0 is no port"),
            (r#"{"name":"orders.example"}"#, r#"name: "orders.example" has no {service} in it"#),
            (r#"{"ttl_floor_seconds":0}"#, "ttl_floor_seconds: 0 is not between 1 and 3600"),
            (r#"{"ttl_cap_seconds":4}"#, "ttl_floor_seconds: 5 is more than ttl_cap_seconds, 4"),
            (r#"{"servers":[]}"#, "unknown field `servers`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }
}
