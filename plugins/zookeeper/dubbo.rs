//! Providers as Dubbo writes them: by interface as a URL that is the name of a node, by application as JSON.

use guest::entries::{Entry, Labels};
use guest::json::metadata_labels;
use guest::rpcx::unescape;
use serde::Deserialize;

use crate::curator::Instance;

/// What Dubbo takes for the weight of a provider that has none.
const WEIGHT: u32 = 100;

/// What a provider says of itself that clients may choose by. There is much more, and most of it is new with each start.
const LABELS: [&str; 5] = ["application", "group", "version", "region", "zone"];

/// Which providers are asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub group: Option<String>,
    pub version: Option<String>,
    /// As Dubbo names them.
    pub protocols: Option<Vec<String>>,
}

impl Wanted {
    /// The provider that is named by a URL, escaped as a whole:
    /// `dubbo://10.0.0.1:20880/com.acme.Orders?application=orders&group=a&weight=50`.
    pub fn provider(&self, name: &str) -> Option<Entry> {
        let Some(url) = unescape(name).and_then(|url| Url::read(&url)) else {
            return Some(Entry::plain(name));
        };
        let is = |key: &str, wanted: &Option<String>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == "*" || url.says(key).unwrap_or_default() == wanted)
        };
        let provides = url.says("category").is_none_or(|category| category == "providers");
        // What stands for no provider at all, or for a rule.
        let kind = matches!(url.protocol.as_str(), "empty" | "consumer" | "override" | "condition" | "route");
        if !provides || kind || !self.speaks(&url.protocol) {
            return None;
        }
        if !is("group", &self.group) || !is("version", &self.version) {
            return None;
        }
        let off = url.says("disabled") == Some("true") || url.says("enabled") == Some("false");
        let weight = if off { 0 } else { url.says("weight").map_or(WEIGHT, weight) };
        let tag = url.says("dubbo.tag").map(|tag| ("tag".to_owned(), tag.to_owned()));
        let said = LABELS.into_iter().filter_map(|name| Some((name.to_owned(), url.says(name)?.to_owned())));
        let labels = [protocol_label(&url.protocol)].into_iter().chain(said).chain(tag).collect();
        Some(Entry { weight, labels, ..Entry::plain(&url.address) })
    }

    /// The instance of an application: JSON like Curator's, with the port of each protocol among its metadata.
    pub fn instance(&self, value: &str) -> Option<Entry> {
        let Ok(instance) = serde_json::from_str::<Instance>(value) else { return Some(Entry::plain(value)) };
        let endpoints = instance.metadata().get("dubbo.endpoints").and_then(serde_json::Value::as_str);
        let endpoints: Vec<Spoken> = serde_json::from_str(endpoints.unwrap_or_default()).unwrap_or_default();
        let spoken = endpoints.iter().find(|spoken| match &self.protocols {
            Some(_) => self.speaks(&spoken.protocol),
            // The one that Dubbo itself names the instance after.
            None => Some(spoken.port) == instance.port,
        });
        let port = match (spoken, &self.protocols) {
            (Some(spoken), _) => spoken.port,
            (None, Some(_)) => return None,
            (None, None) => match instance.port {
                Some(port) => port,
                None => return Some(Entry::plain(value)),
            },
        };
        let of_dubbo = |(name, _): &(String, String)| name.starts_with("dubbo.");
        let mut labels = metadata_labels(instance.metadata());
        labels.retain(|label| !of_dubbo(label));
        labels.extend(spoken.map(|spoken| protocol_label(&spoken.protocol)));
        Some(instance.entry(port, labels))
    }

    fn speaks(&self, protocol: &str) -> bool {
        let wanted = self.protocols.as_ref();
        wanted.is_none_or(|wanted| wanted.iter().any(|wanted| wanted == protocol))
    }
}

/// A protocol of an application, and where it is spoken.
#[derive(Deserialize)]
struct Spoken {
    port: u16,
    protocol: String,
}

struct Url {
    protocol: String,
    address: String,
    /// In order; a value is as it is written.
    parameters: Labels,
}

impl Url {
    fn read(text: &str) -> Option<Url> {
        let (protocol, rest) = text.split_once("://")?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = place.split('/').next().unwrap_or_default();
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        if protocol.is_empty() || address.is_empty() {
            return None;
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Some(Url { protocol: protocol.to_owned(), address: bracketed(address), parameters })
    }

    fn says(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Dubbo writes IPv6 addresses without brackets, too.
fn bracketed(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        _ => address.to_owned(),
    }
}

/// In the words that mean the same everywhere, as far as there is one.
fn protocol_label(protocol: &str) -> (String, String) {
    let known = match protocol {
        "dubbo" => "tcp",
        "tri" | "grpc" => "grpc",
        "rest" | "http" | "hessian" => "http1",
        "https" => "https",
        other => other,
    };
    ("protocol".to_owned(), known.to_owned())
}

/// As Dubbo reads it: what is no number is as good as none, and what is below 0 gets nothing.
fn weight(text: &str) -> u32 {
    match text.parse::<i64>() {
        Ok(weight) => u32::try_from(weight.max(0)).unwrap_or(u32::MAX),
        Err(_) => WEIGHT,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REAL: &str = "dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.acme.Orders%3Fanyhost%3Dtrue%26application%3Dorders\
                        %26deprecated%3Dfalse%26dubbo%3D2.0.2%26dynamic%3Dtrue%26generic%3Dfalse%26group%3Da\
                        %26interface%3Dcom.acme.Orders%26methods%3Dfind%2Csave%26pid%3D42%26release%3D2.7.8\
                        %26side%3Dprovider%26timestamp%3D1700000000000%26version%3D1.0.0%26weight%3D50";

    fn escaped(url: &str) -> String {
        url.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn weight_of(url: &str) -> Option<u32> {
        Wanted::default().provider(&escaped(url)).map(|entry| entry.weight)
    }

    #[test]
    fn a_provider_is_a_url_that_is_a_name() {
        let said =
            labels(&[("protocol", "tcp"), ("application", "orders"), ("group", "a"), ("version", "1.0.0")]);
        let expected = Entry { weight: 50, labels: said, ..Entry::plain("10.0.0.1:20880") };
        assert_eq!(Wanted::default().provider(REAL), Some(expected));
        let address = |url: &str| Wanted::default().provider(&escaped(url)).unwrap().address;
        assert_eq!(address("tri://u:p@h.example:50051/x"), "h.example:50051");
        assert_eq!(address("dubbo://[fd00::1]:20880/x?a=b"), "[fd00::1]:20880");
        assert_eq!(address("dubbo://fd00::1:20880/x"), "[fd00::1]:20880");
    }

    #[test]
    fn weights_are_read_as_dubbo_does() {
        assert_eq!(weight_of("dubbo://a:1/x"), Some(100));
        assert_eq!(weight_of("dubbo://a:1/x?weight=0"), Some(0));
        assert_eq!(weight_of("dubbo://a:1/x?weight=-3"), Some(0));
        assert_eq!(weight_of("dubbo://a:1/x?weight=many"), Some(100));
        assert_eq!(weight_of("dubbo://a:1/x?weight=99999999999"), Some(u32::MAX));
        assert_eq!(weight_of("dubbo://a:1/x?disabled=true&weight=5"), Some(0));
        assert_eq!(weight_of("dubbo://a:1/x?enabled=false"), Some(0));
    }

    #[test]
    fn only_what_is_asked_for_is_there() {
        let wanted = |group: Option<&str>, version: Option<&str>, protocols: Option<&[&str]>| Wanted {
            group: group.map(str::to_owned),
            version: version.map(str::to_owned),
            protocols: protocols.map(|protocols| protocols.iter().map(|name| name.to_string()).collect()),
        };
        for (asked, there) in [
            (wanted(Some("a"), Some("1.0.0"), Some(&["tri", "dubbo"])), true),
            (wanted(Some("*"), None, None), true),
            (wanted(Some("b"), None, None), false),
            (wanted(None, Some("2"), None), false),
            (wanted(None, None, Some(&["tri"])), false),
        ] {
            assert_eq!(asked.provider(REAL).is_some(), there, "{asked:?}");
        }
        assert_eq!(weight_of("override://0.0.0.0/x?category=configurators"), None);
        assert_eq!(weight_of("consumer://10.0.0.1/x?category=consumers"), None);
        assert_eq!(Wanted::default().provider("what"), Some(Entry::plain("what")), "the gateway reports it");
        assert_eq!(Wanted::default().provider("dubbo%zz"), Some(Entry::plain("dubbo%zz")));
    }

    #[test]
    fn an_instance_of_an_application_says_where_each_protocol_is() {
        let endpoints = r#"[{"port":20880,"protocol":"dubbo"},{"port":50051,"protocol":"tri"}]"#;
        let value = json!({ "name": "orders", "id": "10.0.0.1:20880", "address": "10.0.0.1", "port": 20880,
            "payload": { "@class": "org.apache.dubbo.registry.zookeeper.ZookeeperInstance", "name": "orders",
                "metadata": { "dubbo.endpoints": endpoints, "dubbo.metadata.revision": "1f2e", "zone": "eu-1" } },
            "serviceType": "DYNAMIC" })
        .to_string();
        let read = |protocol: Option<&str>| {
            let protocols = protocol.map(|protocol| vec![protocol.to_owned()]);
            Wanted { protocols, ..Wanted::default() }.instance(&value)
        };
        let entry = |address: &str, protocol: &str| {
            let labels = labels(&[("zone", "eu-1"), ("protocol", protocol)]);
            Some(Entry { labels, ..Entry::plain(address) })
        };
        assert_eq!(read(None), entry("10.0.0.1:20880", "tcp"));
        assert_eq!(read(Some("tri")), entry("10.0.0.1:50051", "grpc"));
        assert_eq!(read(Some("rest")), None);
        assert_eq!(Wanted::default().instance("<html>"), Some(Entry::plain("<html>")));
    }
}
