//! What the operator wrote, checked, and what is asked because of it.

use std::time::Duration;

use guest::entries::Entry;
use guest::escape::escape;
use guest::rpcx::{self, Wanted};
use serde::Deserialize;

use crate::{catalog, kv};

#[derive(Clone, Debug)]
pub struct Settings {
    layout: Name,
    tag: Option<String>,
    passing: bool,
    base: String,
    wanted: Wanted,
    datacenter: Option<String>,
    stale: bool,
    /// How long Consul is to hold an answer back.
    pub wait: Duration,
    /// How long an announcement outlives the gateway.
    pub ttl_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    layout: Name,
    tag: Option<String>,
    passing: Option<bool>,
    base: Option<String>,
    #[serde(alias = "network")]
    networks: Option<Vec<String>>,
    group: Option<String>,
    datacenter: Option<String>,
    #[serde(default)]
    stale: bool,
    #[serde(default = "a_minute")]
    wait_seconds: u64,
    #[serde(default = "a_quarter")]
    ttl_seconds: u32,
}

fn a_minute() -> u64 {
    60
}

fn a_quarter() -> u32 {
    15
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Name {
    #[default]
    Catalog,
    Rpcx,
}

/// How an answer is read.
pub enum Layout {
    Catalog { passing: bool },
    Rpcx { prefix: String, wanted: Wanted },
}

/// Where an instance is announced.
#[derive(Debug, PartialEq)]
pub enum Announced<'s> {
    /// With the tag that is asked for, if one is.
    Service { tag: Option<&'s str> },
    /// At this key.
    Key(String),
}

impl Layout {
    /// The instances in an answer, each with its id; the error says what the answer is instead of a list.
    pub fn read(&self, body: &[u8]) -> Result<Vec<(String, Entry)>, String> {
        match self {
            Layout::Catalog { passing } => catalog::read(body, *passing),
            Layout::Rpcx { prefix, wanted } => kv::read(body, prefix, wanted),
        }
    }
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written {
            layout,
            tag,
            passing,
            base,
            networks,
            group,
            datacenter,
            stale,
            wait_seconds,
            ttl_seconds,
        } = guest::settings::read(text)?;
        let rpcx = layout == Name::Rpcx;
        for (given, key, allowed) in [
            (tag.is_some(), "tag", !rpcx),
            (passing.is_some(), "passing", !rpcx),
            (base.is_some(), "base", rpcx),
            (networks.is_some(), "networks", rpcx),
            (group.is_some(), "group", rpcx),
        ] {
            if given && !allowed {
                return Err(format!("settings: {key}: means nothing in this layout"));
            }
        }
        for (key, text) in [("tag", &tag), ("datacenter", &datacenter)] {
            if text.as_ref().is_some_and(String::is_empty) {
                return Err(format!("settings: {key}: \"\" is none"));
            }
        }
        // Consul itself holds nothing back for longer.
        if !(1..=600).contains(&wait_seconds) {
            return Err(format!("settings: wait_seconds: {wait_seconds} is not between 1 and 600"));
        }
        // Consul takes no other session.
        let least = if rpcx { 10 } else { 1 };
        if !(least..=86_400).contains(&ttl_seconds) {
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between {least} and 86400"));
        }
        let base = match (base, rpcx) {
            (None, true) => return Err("settings: base: missing, and rpcx has no default for it".to_owned()),
            (base, _) => base.unwrap_or_default().trim_matches('/').to_owned(),
        };
        Ok(Settings {
            layout,
            tag,
            passing: passing.unwrap_or_default(),
            base,
            wanted: Wanted::new(networks, group),
            datacenter,
            stale,
            wait: Duration::from_secs(wait_seconds),
            ttl_seconds,
        })
    }

    /// What is asked for a service: a path with a query, which more may be put to.
    pub fn path(&self, service: &str) -> String {
        let mut path = match self.layout {
            Name::Catalog => format!("/v1/health/service/{}?", escape(service, false)),
            Name::Rpcx => format!("/v1/kv/{}?recurse=true&", escape(&self.prefix(service), true)),
        };
        for (name, value) in [("tag", &self.tag), ("dc", &self.datacenter)] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={}&", escape(value, false)));
            }
        }
        if self.stale {
            path.push_str("stale&");
        }
        path
    }

    pub fn layout_of(self, service: &str) -> Layout {
        match self.layout {
            Name::Catalog => Layout::Catalog { passing: self.passing },
            Name::Rpcx => Layout::Rpcx { prefix: self.prefix(service), wanted: self.wanted },
        }
    }

    /// Where an instance is announced. The error says why nobody would find it.
    pub fn announced(&self, service: &str, entry: &Entry) -> Result<Announced<'_>, String> {
        if service.is_empty() {
            return Err("service: \"\" is none".to_owned());
        }
        if let Some(datacenter) = &self.datacenter {
            return Err(format!(
                "settings: datacenter: {datacenter:?} is for reading, an agent announces in its own"
            ));
        }
        if self.layout == Name::Catalog {
            return Ok(Announced::Service { tag: self.tag.as_deref() });
        }
        rpcx::check_key(entry)?;
        Ok(Announced::Key(self.prefix(service) + &rpcx::write_key(entry)))
    }

    /// What the keys of a service begin with. rpcx puts no slash in front of it, and the one at its end keeps `users`
    /// apart from `users2`.
    fn prefix(&self, service: &str) -> String {
        match self.base.as_str() {
            "" => format!("{service}/"),
            base => format!("{base}/{service}/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(settings: &str, service: &str) -> String {
        Settings::read(settings).unwrap_or_else(|error| panic!("{settings}: {error}")).path(service)
    }

    #[test]
    fn what_is_asked_has_what_the_settings_say() {
        assert_eq!(path("{}", "web"), "/v1/health/service/web?");
        assert_eq!(
            path(r#"{"tag":"v1&x","datacenter":"dc2","stale":true}"#, "a/b ?"),
            "/v1/health/service/a%2Fb%20%3F?tag=v1%26x&dc=dc2&stale&"
        );
        assert_eq!(
            path(r#"{"layout":"rpcx","base":"/rpcx_test/"}"#, "Arith"),
            "/v1/kv/rpcx_test/Arith/?recurse=true&"
        );
    }

    #[test]
    fn an_instance_is_announced_where_it_is_looked_for() {
        let on = |network: &str| Entry {
            labels: vec![("network".to_owned(), network.to_owned())],
            ..Entry::plain("10.0.0.1:80")
        };
        let announced = |settings: &str, service: &str, entry: &Entry| {
            let settings = Settings::read(settings).unwrap();
            settings.announced(service, entry).map(|announced| format!("{announced:?}"))
        };
        let rpcx = r#"{"layout":"rpcx","base":"/b/"}"#;
        for (settings, expected) in [
            (r#"{"tag":"v1"}"#, r#"Service { tag: Some("v1") }"#),
            ("{}", "Service { tag: None }"),
            (rpcx, r#"Key("b/web/quic@10.0.0.1:80")"#),
        ] {
            assert_eq!(announced(settings, "web", &on("quic")).as_deref(), Ok(expected));
        }
        for (settings, service, network, part) in [
            ("{}", "", "tcp", "service: \"\""),
            (r#"{"datacenter":"dc2"}"#, "web", "tcp", "datacenter: \"dc2\""),
            (rpcx, "web", "a/b", "has a slash"),
            (rpcx, "web", "a@b", "has an @"),
        ] {
            let error = announced(settings, service, &on(network)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"layout":"rpcx"}"#, "base: missing"),
            (r#"{"base":"/b"}"#, "base: means nothing in this layout"),
            (r#"{"layout":"rpcx","base":"b","tag":"t"}"#, "tag: means nothing"),
            (r#"{"wait_seconds":601}"#, "wait_seconds: 601 is not between 1 and 600"),
            (r#"{"ttl_seconds":0}"#, "ttl_seconds: 0 is not between 1 and 86400"),
            (r#"{"layout":"rpcx","base":"b","ttl_seconds":9}"#, "ttl_seconds: 9 is not between 10 and"),
            (r#"{"tag":""}"#, r#"tag: "" is none"#),
            (r#"{"token":"secret"}"#, "unknown field `token`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }
}
