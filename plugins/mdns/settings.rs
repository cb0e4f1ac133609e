//! What the operator wrote, checked.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use guest::entries::Entry;
use guest::rpcx;
use serde::Deserialize;

use crate::instance::{self, Family, Instance};

/// What stands for the name of the service.
const SERVICE: &str = "{service}";

const TTL: RangeInclusive<u32> = 10..=4_500;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    kind: String,
    instance: String,
    reads: Reads,
    pub ttl_seconds: u32,
}

/// What is looked for, for one service.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub kind: String,
    /// The literal parts of names.
    pub names: Vec<String>,
    service: String,
    reads: Reads,
}

#[derive(Clone, Debug, PartialEq)]
enum Reads {
    DnsSd { txt: BTreeMap<String, String>, family: Family },
    Rpcx(rpcx::Wanted),
}

/// What is announced of one instance.
#[derive(Debug, PartialEq)]
pub struct Written {
    pub kind: String,
    pub name: String,
    pub ip: String,
    pub port: u16,
    pub texts: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    layout: Layout,
    #[serde(rename = "type")]
    kind: Option<String>,
    instance: Option<String>,
    txt: Option<BTreeMap<String, String>>,
    family: Option<Family>,
    #[serde(alias = "network")]
    networks: Option<Vec<String>>,
    group: Option<String>,
    ttl_seconds: Option<u32>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Layout {
    #[default]
    DnsSd,
    Rpcx,
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Text { layout, kind, instance, txt, family, networks, group, ttl_seconds } =
            guest::settings::read(text)?;
        let rpcx = layout == Layout::Rpcx;
        for (given, key, allowed) in [
            (instance.is_some(), "instance", !rpcx),
            (txt.is_some(), "txt", !rpcx),
            (family.is_some(), "family", !rpcx),
            (networks.is_some(), "networks", rpcx),
            (group.is_some(), "group", rpcx),
            (ttl_seconds.is_some(), "ttl_seconds", rpcx),
        ] {
            if given && !allowed {
                return Err(format!("settings: {key}: means nothing in this layout"));
            }
        }
        let kind = kind.unwrap_or_else(|| if rpcx { "_rpcxservices" } else { "_{service}._tcp" }.to_owned());
        check_type(&kind.replace(SERVICE, "x")).map_err(|why| format!("settings: type: {kind:?} {why}"))?;
        let txt = txt.unwrap_or_default();
        let told = kind.contains(SERVICE) || txt.values().any(|value| value.contains(SERVICE));
        let instance = instance.unwrap_or_else(|| if told || rpcx { "*" } else { SERVICE }.to_owned());
        if !rpcx && !told && !instance.contains(SERVICE) {
            return Err(format!(
                "settings: instance: {instance:?} has no {SERVICE} in it, and neither have `type` and `txt`, so that \
                 all services would be the same"
            ));
        }
        let ttl_seconds = ttl_seconds.unwrap_or(120);
        if !TTL.contains(&ttl_seconds) {
            let (least, most) = TTL.into_inner();
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between {least} and {most}"));
        }
        let reads = match layout {
            Layout::DnsSd => Reads::DnsSd { txt, family: family.unwrap_or_default() },
            Layout::Rpcx => Reads::Rpcx(rpcx::Wanted::new(networks, group)),
        };
        Ok(Settings { kind, instance, reads, ttl_seconds })
    }

    /// What is looked for, for a service. The error says why there is no such service.
    pub fn wanted(&self, service: &str) -> Result<Wanted, String> {
        let kind = self.kind(service)?;
        let names = self.instance.split('*').map(|part| part.replace(SERVICE, service)).collect();
        let reads = match &self.reads {
            Reads::Rpcx(wanted) => Reads::Rpcx(wanted.clone()),
            Reads::DnsSd { txt, family } => {
                let txt = txt.iter().map(|(key, value)| (key.clone(), value.replace(SERVICE, service)));
                Reads::DnsSd { txt: txt.collect(), family: *family }
            }
        };
        Ok(Wanted { kind, names, service: service.to_owned(), reads })
    }

    fn kind(&self, service: &str) -> Result<String, String> {
        if service.is_empty() {
            return Err("service: a name that is empty".to_owned());
        }
        let kind = self.kind.replace(SERVICE, service);
        // A dot in the name of the service would be another type.
        if kind.split('.').count() != self.kind.split('.').count() {
            return Err(format!("service: {service:?} cannot be part of a type of services"));
        }
        check_type(&kind)
            .map_err(|why| format!("service: {service:?} makes the type {kind:?}, which {why}"))?;
        Ok(kind)
    }

    /// What is announced, for an instance of a service. The error says why it cannot be.
    pub fn written(&self, service: &str, entry: &Entry) -> Result<Written, String> {
        let kind = self.kind(service)?;
        let (ip, port) = instance::ip_and_port(&entry.address)?;
        let place = format!("{ip}-{port}").replace(['.', ':', '%'], "-");
        let (name, texts) = match &self.reads {
            Reads::DnsSd { txt, .. } => {
                let txt = txt.iter().map(|(key, value)| (key.clone(), value.replace(SERVICE, service)));
                // Where any name will do, nobody else has this one.
                let name = self.instance.replace('*', &place).replace(SERVICE, service);
                (name, instance::texts(entry, txt)?)
            }
            Reads::Rpcx(_) => (place, instance::rpcx_texts(service, entry)?),
        };
        Ok(Written { kind, name, ip, port, texts })
    }
}

impl Wanted {
    /// The instances of the service that one of the links is, each with an id of its own.
    pub fn read(&self, found: &Instance) -> Vec<(String, Entry)> {
        match &self.reads {
            Reads::Rpcx(wanted) => instance::of_rpcx(found, &self.service, wanted),
            Reads::DnsSd { txt, family } => {
                let entry = instance::of_dns_sd(found, txt, *family);
                entry.map(|entry| (found.name.clone(), entry)).into_iter().collect()
            }
        }
    }
}

fn check_type(kind: &str) -> Result<(), &'static str> {
    let label = |label: &str| {
        label.strip_prefix('_').is_some_and(|name| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=62).contains(&name.len()) && name.bytes().all(letter)
        })
    };
    match kind.split('.').all(label) && kind.split('.').count() <= 4 {
        true => Ok(()),
        false => Err("is no type of services: they are like _http._tcp"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(settings: &str, service: &str) -> (String, Vec<String>) {
        let wanted = Settings::read(settings).unwrap().wanted(service).unwrap();
        (wanted.kind, wanted.names)
    }

    #[test]
    fn a_service_has_its_place_in_the_type_or_in_names() {
        for (settings, kind, names) in [
            ("{}", "_orders._tcp", &["", ""][..]),
            (r#"{"type":"_http._tcp"}"#, "_http._tcp", &["orders"]),
            (r#"{"type":"_http._tcp","instance":"{service} on *"}"#, "_http._tcp", &["orders on ", ""]),
            (r#"{"type":"_http._tcp","txt":{"app":"{service}"}}"#, "_http._tcp", &["", ""]),
            (r#"{"instance":"blue*"}"#, "_orders._tcp", &["blue", ""]),
            (r#"{"layout":"rpcx"}"#, "_rpcxservices", &["", ""]),
        ] {
            let names = names.iter().map(ToString::to_string).collect();
            assert_eq!(wanted(settings, "orders"), (kind.to_owned(), names), "{settings}");
        }
        // What is anything in the settings is nothing but a star in the name of a service.
        assert_eq!(wanted(r#"{"type":"_http._tcp"}"#, "*").1, ["*"]);
        for service in ["", "a.b", "a b", "ü", &"a".repeat(63)] {
            assert!(Settings::read("{}").unwrap().wanted(service).is_err(), "{service:?}");
        }
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"layout":"avahi"}"#, "layout: unknown variant `avahi`"),
            (r#"{"type":"http.tcp"}"#, r#"type: "http.tcp" is no type of services"#),
            (r#"{"type":"_http._tcp","instance":"*"}"#, r#"instance: "*" has no {service} in it"#),
            (r#"{"family":"ipv5"}"#, "family: unknown variant `ipv5`"),
            (r#"{"group":"a"}"#, "group: means nothing in this layout"),
            (r#"{"layout":"rpcx","txt":{}}"#, "txt: means nothing in this layout"),
            (r#"{"ttl_seconds":60}"#, "ttl_seconds: means nothing in this layout"),
            (r#"{"layout":"rpcx","ttl_seconds":5}"#, "ttl_seconds: 5 is not between 10 and 4500"),
            (r#"{"interfaces":[]}"#, "unknown field `interfaces`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    #[test]
    fn what_is_announced_is_what_is_looked_for() {
        let entry = |address: &str| Entry {
            weight: 3,
            labels: vec![("zone".to_owned(), "a".to_owned())],
            ..Entry::plain(address)
        };
        for (settings, name) in [
            ("{}", "10-0-0-1-80"),
            (r#"{"type":"_http._tcp"}"#, "orders"),
            (
                r#"{"type":"_http._tcp","instance":"{service} on *","txt":{"env":"prod"}}"#,
                "orders on 10-0-0-1-80",
            ),
            (r#"{"layout":"rpcx"}"#, "10-0-0-1-80"),
        ] {
            let settings = Settings::read(settings).unwrap();
            let written = settings.written("orders", &entry("10.0.0.1:80")).unwrap();
            assert_eq!((&*written.name, &*written.ip, written.port), (name, "10.0.0.1", 80));
            let found = Instance {
                name: written.name,
                host: "h.local".to_owned(),
                addresses: vec![written.ip],
                port: written.port,
                priority: 0,
                weight: 0,
                texts: written.texts,
            };
            let read = settings.wanted("orders").unwrap().read(&found);
            assert_eq!(
                (read.len(), read[0].1.weight, &*read[0].1.address),
                (1, 3, "10.0.0.1:80"),
                "{settings:?}"
            );
        }
        let settings = Settings::read("{}").unwrap();
        for address in ["web:80", "10.0.0.1", "10.0.0.1:0"] {
            let error = settings.written("orders", &entry(address)).unwrap_err();
            assert!(error.contains(address), "{error}");
        }
        assert!(settings.written("or ders", &entry("10.0.0.1:80")).is_err());
    }
}
