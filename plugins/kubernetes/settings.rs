//! What the operator wrote, checked, and which service is meant by its name.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where services are whose names say nothing of it.
    pub namespace: String,
    pub port: Option<Port>,
    pub family: Family,
    /// How long a watch is to last.
    pub watch: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "default")]
    namespace: String,
    port: Option<WrittenPort>,
    #[serde(default)]
    family: Family,
    #[serde(default = "a_minute")]
    watch_seconds: u64,
}

fn default() -> String {
    "default".to_owned()
}

fn a_minute() -> u64 {
    60
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenPort {
    Number(u64),
    Text(String),
}

/// Which port of an instance is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Port {
    /// The one that the service calls so.
    Name(String),
    /// That of the container, if the service has it.
    Number(u16),
    /// That of the container, whatever the service says.
    Any(u16),
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Of IPv4 first, where an instance has several.
    #[default]
    Any,
    Ipv4,
    Ipv6,
}

/// The service that is followed.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub namespace: String,
    pub name: String,
    pub port: Option<Port>,
    pub family: Family,
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written { namespace, port, family, watch_seconds } = guest::settings::read(text)?;
        if !is_label(&namespace) {
            return Err(format!("settings: namespace: {namespace:?} is no namespace"));
        }
        let port = match port {
            None => None,
            Some(WrittenPort::Number(number)) => Some(number.to_string()),
            Some(WrittenPort::Text(text)) => Some(text),
        };
        let port = port.map(|text| Port::read(&text)).transpose();
        let port = port.map_err(|error| format!("settings: port: {error}"))?;
        if !(1..=600).contains(&watch_seconds) {
            return Err(format!("settings: watch_seconds: {watch_seconds} is not between 1 and 600"));
        }
        Ok(Settings { namespace, port, family, watch: Duration::from_secs(watch_seconds) })
    }

    /// `orders`, `shop/orders` and `shop/orders:grpc`, or a target of go-zero, `k8s://shop/orders:8080`, which says the
    /// port of the container. The error says what is wrong with the name.
    pub fn wanted(&self, service: &str) -> Result<Wanted, String> {
        let wrong = |why: String| format!("service: {service:?}: {why}");
        let target = service.strip_prefix("k8s://");
        let (place, port) = match target.unwrap_or(service).split_once(':') {
            Some((place, port)) => (place, Some(Port::read(port).map_err(wrong)?)),
            None => (target.unwrap_or(service), None),
        };
        let (namespace, name) = match place.split_once('/') {
            // The default one, as with go-zero.
            Some(("", name)) if target.is_some() => (self.namespace.as_str(), name),
            Some((namespace, name)) => (namespace, name),
            None => (self.namespace.as_str(), place),
        };
        for (what, text) in [("namespace", namespace), ("name of a service", name)] {
            if !is_label(text) {
                return Err(wrong(format!("{text:?} is no {what}")));
            }
        }
        let port = match (target, port) {
            (Some(_), Some(Port::Number(number))) => Some(Port::Any(number)),
            (_, port) => port.or_else(|| self.port.clone()),
        };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(Wanted { namespace, name, port, family: self.family })
    }
}

impl Port {
    fn read(text: &str) -> Result<Port, String> {
        match text.parse() {
            Ok(0) => Err("0 is no port".to_owned()),
            Ok(number) => Ok(Port::Number(number)),
            // More than digits is a name.
            Err(_) if is_label(text) && !text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Port::Name(text.to_owned()))
            }
            Err(_) => Err(format!("{text:?} is neither the name of a port nor its number")),
        }
    }
}

/// What Kubernetes takes for a name of any of these.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"namespace":""}"#, r#"namespace: "" is no namespace"#),
            (r#"{"namespace":"Shop"}"#, r#"namespace: "Shop" is no namespace"#),
            (r#"{"port":0}"#, "port: 0 is no port"),
            (r#"{"port":70000}"#, r#"port: "70000" is neither the name of a port nor its number"#),
            (r#"{"port":"a b"}"#, r#"port: "a b" is neither"#),
            (r#"{"family":"ipv5"}"#, "family: unknown variant `ipv5`"),
            (r#"{"watch_seconds":0}"#, "watch_seconds: 0 is not between 1 and 600"),
            (r#"{"cluster":"a"}"#, "unknown field `cluster`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    fn wanted(settings: &str, service: &str) -> Result<(String, String, Option<Port>), String> {
        let wanted = Settings::read(settings).unwrap().wanted(service)?;
        Ok((wanted.namespace, wanted.name, wanted.port))
    }

    #[test]
    fn a_name_says_namespace_service_and_port() {
        let shop = r#"{"namespace":"shop","port":"http"}"#;
        for (settings, service, namespace, port) in [
            ("{}", "orders", "default", None),
            (shop, "orders", "shop", Some(Port::Name("http".into()))),
            (shop, "test/orders", "test", Some(Port::Name("http".into()))),
            (shop, "test/orders:grpc", "test", Some(Port::Name("grpc".into()))),
            (shop, "orders:8080", "shop", Some(Port::Number(8080))),
            ("{}", "k8s://shop/orders:8080", "shop", Some(Port::Any(8080))),
            ("{}", "k8s:///orders:8080", "default", Some(Port::Any(8080))),
            ("{}", "k8s://shop/orders", "shop", None),
            (r#"{"port":8080}"#, "orders", "default", Some(Port::Number(8080))),
        ] {
            let expected = (namespace.to_owned(), "orders".to_owned(), port);
            assert_eq!(wanted(settings, service), Ok(expected), "{service}");
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (service, why) in [
            ("", r#"service: "": "" is no name of a service"#),
            ("/orders", r#"service: "/orders": "" is no namespace"#),
            ("shop/orders/x", r#""orders/x" is no name of a service"#),
            ("shop/Orders", r#""Orders" is no name of a service"#),
            ("shop/../secrets", r#""../secrets" is no name of a service"#),
            ("orders:", r#""" is neither the name of a port nor its number"#),
            ("orders:0", "0 is no port"),
            ("k8s://orders?x=1", r#""orders?x=1" is no name of a service"#),
        ] {
            let error = wanted("{}", service).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
