//! What the operator wrote, checked, and what is asked because of it.

use std::time::Duration;

use guest::escape::escape;
use guest::rpcx;
use serde::Deserialize;

/// The group of a service that names none.
const GROUP: &str = "DEFAULT_GROUP";

/// The cluster of an instance that names none.
pub const CLUSTER: &str = "DEFAULT";

/// After so many seconds without a heartbeat a server forgets an instance that says nothing else.
pub const TTL: u32 = 30;

#[derive(Clone, Debug)]
pub struct Settings {
    pub api: Api,
    pub layout: Layout,
    /// None: the one that is called `public`.
    pub namespace: Option<String>,
    group: String,
    /// Empty: all.
    pub clusters: Vec<String>,
    /// Between one answer and the next question.
    pub pause: Duration,
    /// How long an announcement outlives the gateway.
    pub ttl_seconds: u32,
}

/// Which API of the servers is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    #[default]
    V1,
    V3,
}

/// What metadata mean.
#[derive(Clone, Debug)]
pub enum Layout {
    /// They are labels.
    Nacos,
    /// Servers of rpcx wrote them.
    Rpcx(rpcx::Wanted),
}

/// A service by its two names.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub group: String,
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    api: Api,
    #[serde(default)]
    layout: Name,
    namespace: Option<String>,
    group: Option<String>,
    #[serde(default)]
    clusters: Vec<String>,
    #[serde(alias = "network")]
    networks: Option<Vec<String>>,
    rpcx_group: Option<String>,
    #[serde(default = "five")]
    poll_seconds: u64,
    #[serde(default = "ttl")]
    ttl_seconds: u32,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    #[default]
    Nacos,
    Rpcx,
}

fn five() -> u64 {
    5
}

fn ttl() -> u32 {
    TTL
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written {
            api,
            layout,
            namespace,
            group,
            clusters,
            networks,
            rpcx_group,
            poll_seconds,
            ttl_seconds,
        } = guest::settings::read(text)?;
        for (given, key) in [(networks.is_some(), "networks"), (rpcx_group.is_some(), "rpcx_group")] {
            if given && layout != Name::Rpcx {
                return Err(format!("settings: {key}: means nothing in this layout"));
            }
        }
        for (key, text) in [("namespace", &namespace), ("group", &group)] {
            if text.as_ref().is_some_and(String::is_empty) {
                return Err(format!("settings: {key}: \"\" is none"));
            }
        }
        let group = group.unwrap_or_else(|| GROUP.to_owned());
        if group.contains("@@") {
            return Err(format!("settings: group: {group:?} has @@, which stands behind a group"));
        }
        // Several are a list with commas there.
        if let Some((index, name)) =
            clusters.iter().enumerate().find(|(_, name)| name.is_empty() || name.contains(','))
        {
            return Err(format!("settings: clusters[{index}]: {name:?} is not one cluster"));
        }
        if !(1..=600).contains(&poll_seconds) {
            return Err(format!("settings: poll_seconds: {poll_seconds} is not between 1 and 600"));
        }
        if !(6..=86_400).contains(&ttl_seconds) {
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between 6 and 86400"));
        }
        let layout = match layout {
            Name::Nacos => Layout::Nacos,
            Name::Rpcx => Layout::Rpcx(rpcx::Wanted::new(networks, rpcx_group)),
        };
        let pause = Duration::from_secs(poll_seconds);
        Ok(Settings { api, layout, namespace, group, clusters, pause, ttl_seconds })
    }

    /// A name as an upstream has it: `orders`, or `GROUP@@orders` for one of another group.
    pub fn service(&self, text: &str) -> Result<Service, String> {
        let (group, name) = text.split_once("@@").unwrap_or((&self.group, text));
        if group.is_empty() || name.is_empty() || name.contains("@@") {
            return Err(format!("service: {text:?} is no service: write NAME or GROUP@@NAME"));
        }
        Ok(Service { group: group.to_owned(), name: name.to_owned() })
    }

    /// Where all instances of a service are, below the URL of a server.
    pub fn list(&self, service: &Service) -> String {
        let clusters = (!self.clusters.is_empty()).then(|| self.clusters.join(","));
        match self.api {
            Api::V1 => {
                let query = [self.names(service), query(&[("clusters", clusters.as_deref())])].concat();
                // Those that are unwell are wanted, too, since they have not left.
                format!("/v1/ns/instance/list?healthyOnly=false{query}")
            }
            Api::V3 => {
                let query = [self.names(service), query(&[("clusterName", clusters.as_deref())])].concat();
                format!("/v3/client/ns/instance/list?{}", query.trim_start_matches('&'))
            }
        }
    }

    /// The parameters that say which service is meant, each with an `&` in front.
    pub fn names(&self, service: &Service) -> String {
        let Service { group, name } = service;
        let namespace = ("namespaceId", self.namespace.as_deref());
        match self.api {
            Api::V1 => query(&[("serviceName", Some(&format!("{group}@@{name}"))), namespace]),
            Api::V3 => query(&[("serviceName", Some(name)), ("groupName", Some(group)), namespace]),
        }
    }
}

/// Parameters that are there, each with an `&` in front.
pub fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let there = parameters.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    there.map(|(name, value)| format!("&{name}={}", escape(value, false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(settings: &str, service: &str) -> String {
        let settings = Settings::read(settings).unwrap();
        settings.list(&settings.service(service).unwrap())
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"api":"v2"}"#, "api: unknown variant `v2`"),
            (r#"{"namespace":""}"#, r#"namespace: "" is none"#),
            (r#"{"group":"a@@b"}"#, r#"group: "a@@b" has @@"#),
            (r#"{"clusters":["a","b,c"]}"#, r#"clusters[1]: "b,c" is not one cluster"#),
            (r#"{"rpcx_group":"a"}"#, "rpcx_group: means nothing in this layout"),
            (r#"{"networks":["tcp"]}"#, "networks: means nothing in this layout"),
            (r#"{"poll_seconds":0}"#, "poll_seconds: 0 is not between 1 and 600"),
            (r#"{"ttl_seconds":5}"#, "ttl_seconds: 5 is not between 6 and 86400"),
            (r#"{"cluster":"a"}"#, "unknown field `cluster`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
        let settings = Settings::read("{}").unwrap();
        for name in ["", "@@orders", "a@@", "a@@b@@c"] {
            assert!(settings.service(name).unwrap_err().contains("is no service"), "{name}");
        }
    }

    #[test]
    fn a_server_is_asked_in_the_words_of_its_api() {
        for (settings, service, expected) in [
            ("{}", "orders", "/v1/ns/instance/list?healthyOnly=false&serviceName=DEFAULT_GROUP%40%40orders"),
            (
                r#"{"namespace":"dev","group":"G","clusters":["a","b"]}"#,
                "orders",
                "/v1/ns/instance/list?healthyOnly=false&serviceName=G%40%40orders&namespaceId=dev&clusters=a%2Cb",
            ),
            (
                r#"{"api":"v3","namespace":"dev","clusters":["a","b"]}"#,
                "H@@a b",
                "/v3/client/ns/instance/list?serviceName=a%20b&groupName=H&namespaceId=dev&clusterName=a%2Cb",
            ),
        ] {
            assert_eq!(list(settings, service), expected);
        }
    }
}
