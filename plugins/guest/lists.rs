//! Lists of endpoints by service, or one list for any.
//!
//! `{ "services": { "orders": [ENTRY, ...] } }` or `{ "endpoints": [ENTRY, ...] }`; `Endpoints` does as well, as in a
//! go-zero client's configuration.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use crate::entries::{Entry, check_usable};

const NEITHER: &str = "neither `services` nor `endpoints` is given";
const BOTH: &str = "`services` and `endpoints` are both given, where one is enough";

/// What each service has.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "Written")]
pub enum Lists {
    ByService(BTreeMap<String, Vec<Entry>>),
    One(Vec<Entry>),
}

impl Lists {
    /// Says which address nothing can be reached at.
    pub fn check_usable(&self) -> Result<(), String> {
        let (lists, under): (Vec<_>, _) = match self {
            Lists::ByService(services) => {
                (services.iter().map(|(name, list)| (name.as_str(), list)).collect(), "services.")
            }
            Lists::One(list) => (vec![("endpoints", list)], ""),
        };
        for (name, list) in lists {
            for (index, entry) in list.iter().enumerate() {
                check_usable(&entry.address)
                    .map_err(|why| format!("settings: {under}{name}[{index}]: {why}"))?;
            }
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    services: Option<BTreeMap<String, Vec<Entry>>>,
    #[serde(alias = "Endpoints")]
    endpoints: Option<Vec<Entry>>,
}

impl TryFrom<Written> for Lists {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Lists, &'static str> {
        match written {
            Written { services: Some(services), endpoints: None } => Ok(Lists::ByService(services)),
            Written { services: None, endpoints: Some(endpoints) } => Ok(Lists::One(endpoints)),
            Written { services: None, endpoints: None } => Err(NEITHER),
            _ => Err(BOTH),
        }
    }
}

/// The list of one service out of all; a service that is not there has no endpoints.
///
/// The lists of others are read as strictly, but not kept: there is an instance of a plugin for each service, and each
/// gets to see all lists.
#[derive(Clone, Copy)]
pub struct ListOf<'a>(pub &'a str);

impl ListOf<'_> {
    pub fn read(self, text: &[u8]) -> serde_json::Result<Vec<Entry>> {
        let mut from = serde_json::Deserializer::from_slice(text);
        let list = self.deserialize(&mut from)?;
        from.end()?;
        Ok(list)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Services,
    #[serde(alias = "Endpoints")]
    Endpoints,
}

impl<'de> DeserializeSeed<'de> for ListOf<'_> {
    type Value = Vec<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Entry>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListOf<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `services` or `endpoints`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
        let mut list = None;
        while let Some(key) = map.next_key()? {
            if list.is_some() {
                return Err(A::Error::custom(BOTH));
            }
            list = Some(match key {
                Key::Services => map.next_value_seed(Services(self.0))?,
                Key::Endpoints => map.next_value()?,
            });
        }
        list.ok_or_else(|| A::Error::custom(NEITHER))
    }
}

/// The value of `services`.
struct Services<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Services<'_> {
    type Value = Vec<Entry>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Entry>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Services<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("lists by the names of services")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
        let mut wanted = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let list = map.next_value()?;
            if name == self.0 {
                wanted = list;
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn addresses(text: &str, service: &str) -> Vec<String> {
        let list = ListOf(service).read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        list.into_iter().map(|entry| entry.address).collect()
    }

    #[test]
    fn a_service_has_its_own_list() {
        let text = r#"{"services":{"orders":["a:1","tcp@b:2"],"users":[]}}"#;
        assert_eq!(addresses(text, "orders"), ["a:1", "b:2"]);
        assert!(addresses(text, "users").is_empty());
        assert!(addresses(text, "nobody").is_empty());
    }

    #[test]
    fn one_list_serves_every_name() {
        assert_eq!(addresses(r#"{"endpoints":["a:1"]}"#, "x"), ["a:1"]);
        assert_eq!(addresses(r#"{"Endpoints":["a:1"]}"#, "y"), ["a:1"]);
    }

    #[test]
    fn addresses_that_nothing_answers_at_are_named() {
        for (text, part) in [
            (
                r#"{"services":{"orders":["a:1","0.0.0.0:80"]}}"#,
                r#"settings: services.orders[1]: "0.0.0.0:80" names no host"#,
            ),
            (r#"{"endpoints":["a:0"]}"#, r#"settings: endpoints[0]: "a:0" has port 0"#),
            (r#"{"endpoints":["10.0.0.1:0"]}"#, r#""10.0.0.1:0" has port 0"#),
            (r#"{"endpoints":["[fe80::1]:80"]}"#, r#"settings: endpoints[0]: "[fe80::1]:80" is link-local"#),
            (
                r#"{"endpoints":["tcp@[::ffff:169.254.169.254]:80"]}"#,
                "is where a cloud keeps the credentials",
            ),
        ] {
            let lists: Lists = settings::read(text).unwrap();
            let error = lists.check_usable().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let lists: Lists = settings::read(r#"{"endpoints":["127.0.0.1:9901","a:1"]}"#).unwrap();
        assert_eq!(lists.check_usable(), Ok(()));
    }

    #[test]
    fn mistakes_name_key_and_value() {
        for (text, part) in [
            ("{}", "neither `services` nor"),
            (r#"{"services":{},"endpoints":[]}"#, "both given"),
            (r#"{"services":{"orders":["a"]}}"#, r#"services.orders[0]: "a" has no port"#),
            (r#"{"endpoints":["a:1","b:x"]}"#, r#"endpoints[1]: "x" in "b:x" is no port"#),
            (r#"{"service":{}}"#, "unknown field `service`"),
        ] {
            let error = settings::read::<Lists>(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            // Also who asks for the list of another.
            let error = ListOf("users").read(text.as_bytes()).unwrap_err().to_string();
            let what = part.rsplit(": ").next().unwrap();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert!(ListOf("users").read(b"{\"endpoints\":[]} {}").is_err());
    }
}
