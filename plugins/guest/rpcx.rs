//! How rpcx writes an instance: `network@host:port` as the key, and metadata as a URL query.

use crate::entries::{Entry, Labels};

/// Networks that are TCP on the wire, the only ones that a gateway can dial.
pub const TCP: [&str; 5] = ["tcp", "tcp4", "tcp6", "reuseport", "iouring"];

/// Written by every rpcx server every minute. They say nothing about where to send a request, so they are
/// dropped before anything is compared.
const COUNTERS: [&str; 3] = ["calls", "connections", "tps"];

/// Splits `tcp@host:port`. Without a network rpcx takes tcp.
pub fn split_network(key: &str) -> (Option<&str>, &str) {
    match key.split_once('@') {
        Some((network, address)) => (Some(network), address),
        None => (None, key),
    }
}

/// What the metadata of an instance means to a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// 1 when it is missing or no integer, as rpcx has it. A negative weight is 0, which is drained: rpcx itself
    /// crashes on some of those. A greater one than fits is the greatest that does.
    pub weight: u32,
    /// `state=inactive`: clients are not to use this instance.
    pub inactive: bool,
    /// Everything else, in order, several values of one name included.
    pub labels: Labels,
}

impl Metadata {
    /// Reads a query. One that rpcx could not read either is as good as none: the instance is used.
    pub fn read(text: &str) -> Metadata {
        let pairs = parse_query(text).unwrap_or_default();
        let first = |name| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        Metadata {
            weight: first("weight").map_or(1, weight),
            inactive: first("state") == Some("inactive"),
            labels: pairs
                .iter()
                .filter(|(name, _)| name != "weight" && !COUNTERS.contains(&name.as_str()))
                .filter(|(name, value)| (name.as_str(), value.as_str()) != ("state", "inactive"))
                .cloned()
                .collect(),
        }
    }

    /// The labels, with the network among them when the key named one. Then it is rpcx that wrote it and that is spoken
    /// there, unless the metadata has a `protocol` of its own.
    pub fn labels_on(self, network: Option<&str>) -> Labels {
        let Some(network) = network else { return self.labels };
        let says = self.labels.iter().any(|(name, _)| name == "protocol");
        let protocol = (!says).then(|| ("protocol".to_owned(), "rpcx".to_owned()));
        [("network".to_owned(), network.to_owned())].into_iter().chain(protocol).chain(self.labels).collect()
    }
}

/// Which instances of a service are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub networks: Vec<String>,
    /// None: of any group.
    pub group: Option<String>,
}

impl Wanted {
    /// As the operator wrote it: networks that are TCP if none are named, any group if none or an empty one is.
    pub fn new(networks: Option<Vec<String>>, group: Option<String>) -> Wanted {
        let networks = networks.unwrap_or_else(|| TCP.map(str::to_owned).to_vec());
        Wanted { networks, group: group.filter(|group| !group.is_empty()) }
    }

    /// The endpoint that is claimed by `network@host:port` with this metadata. None when there is none: a folder, or an
    /// instance that is not asked for. One that is inactive has weight 0.
    pub fn read(&self, key: &str, value: &str) -> Option<Entry> {
        let (network, address) = split_network(key);
        let metadata = Metadata::read(value);
        let wanted = self.networks.iter().any(|wanted| wanted == network.unwrap_or("tcp"));
        // rpcx keeps its services' names under their own keys, which may stand beside instances.
        let is_folder = network.is_none() && key == value;
        if !wanted || is_folder || !self.in_group(&metadata, value) {
            return None;
        }
        let weight = if metadata.inactive { 0 } else { metadata.weight };
        Some(Entry { weight, labels: metadata.labels_on(network), ..Entry::plain(address) })
    }

    // What cannot be read is used, whatever its text says, because rpcx does that.
    fn in_group(&self, metadata: &Metadata, value: &str) -> bool {
        let Some(group) = &self.group else { return true };
        metadata.labels.iter().any(|(name, value)| name == "group" && value == group)
            || parse_query(value).is_none()
    }
}

fn weight(text: &str) -> u32 {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 1;
    }
    if text.starts_with('-') { 0 } else { digits.parse().unwrap_or(u32::MAX) }
}

/// Reads a URL query as Go's `url.ParseQuery` does. None where that one reports an error.
pub fn parse_query(text: &str) -> Option<Labels> {
    text.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            if part.contains(';') {
                return None;
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((unescape(name)?, unescape(value)?))
        })
        .collect()
}

/// Writes a URL query as Go's `url.Values.Encode` does: sorted by name, values of one name in their order.
pub fn write_query(pairs: &Labels) -> String {
    let mut pairs: Vec<_> = pairs.iter().collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    let parts: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    parts.join("&")
}

/// Metadata by which clients of rpcx weigh an instance. The network stands in its key.
pub fn write_metadata(weight: u32, labels: &Labels) -> String {
    let named = |(name, _): &&(String, String)| name != "network" && name != "weight";
    let mut pairs: Labels = labels.iter().filter(named).cloned().collect();
    // A client of rpcx crashes when all weights are 0.
    pairs.push(match weight {
        0 => ("state".to_owned(), "inactive".to_owned()),
        weight => ("weight".to_owned(), weight.to_string()),
    });
    write_query(&pairs)
}

/// The key of an instance behind that of its service, on the network that its label says, `tcp` without.
pub fn write_key(entry: &Entry) -> String {
    format!("{}@{}", network(entry), entry.address)
}

/// Says why a key would be that of something else.
pub fn check_key(entry: &Entry) -> Result<(), String> {
    let network = network(entry);
    if let Some(wrong) = [network, &entry.address].into_iter().find(|part| part.contains('/')) {
        return Err(format!("{wrong:?} has a slash, and would be the end of a service's name"));
    }
    match network.contains('@') {
        true => Err(format!("label network: {network:?} has an @")),
        false => Ok(()),
    }
}

fn network(entry: &Entry) -> &str {
    let network = entry.labels.iter().find(|(name, _)| name == "network");
    network.map_or("tcp", |(_, network)| network)
}

/// Text as it was before Go, or Java, escaped it for a query. None if it was not.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    Some(
        String::from_utf8(plain)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// Text as Go escapes it for a query.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, weight: u32, inactive: bool, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        assert_eq!(Metadata::read(text), Metadata { weight, inactive, labels }, "{text}");
    }

    #[test]
    fn metadata_means_what_rpcx_takes_it_for() {
        check("", 1, false, &[]);
        check("weight=7", 7, false, &[]);
        check("weight=%2B7", 7, false, &[]);
        check("weight=x", 1, false, &[]);
        check("weight=1.5", 1, false, &[]);
        check("weight=", 1, false, &[]);
        check("weight=0", 0, false, &[]);
        check("weight=-3", 0, false, &[]);
        check("weight=99999999999999999999", u32::MAX, false, &[]);
        check("weight=2&weight=3", 2, false, &[]);
        check("state=inactive&weight=2", 2, true, &[]);
        check("state=active", 1, false, &[("state", "active")]);
        check("group=a&group=b", 1, false, &[("group", "a"), ("group", "b")]);
        check("calls=1.00&connections=2.00&tps=3&zone=a+b%2Fc", 1, false, &[("zone", "a b/c")]);
        check("flag&&x=", 1, false, &[("flag", ""), ("x", "")]);
        // Go refuses both, and rpcx then uses the instance whatever its text says.
        check("state=inactive;weight=5", 1, false, &[]);
        check("state=inactive&weight=%zz", 1, false, &[]);
    }

    #[test]
    fn what_rpcx_wrote_speaks_it_unless_it_says_otherwise() {
        let labels = |network, text| {
            let labels = Metadata::read(text).labels_on(network).into_iter();
            labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
        };
        assert_eq!(labels(Some("tcp"), "group=a"), "network=tcp&protocol=rpcx&group=a");
        assert_eq!(labels(Some("tcp"), "protocol=http2"), "network=tcp&protocol=http2");
        assert_eq!(labels(None, "group=a"), "group=a");
    }

    #[test]
    fn networks_are_split_off() {
        assert_eq!(split_network("tcp@h:1"), (Some("tcp"), "h:1"));
        assert_eq!(split_network("h:1"), (None, "h:1"));
        assert_eq!(split_network("unix@/tmp/s@1"), (Some("unix"), "/tmp/s@1"));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".*") {
            Metadata::read(&text);
        }

        #[test]
        fn what_is_written_is_read(pairs in proptest::collection::vec((".{1,8}", ".{0,8}"), 0..8)) {
            let mut sorted = pairs.clone();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            prop_assert_eq!(parse_query(&write_query(&pairs)), Some(sorted));
        }
    }
}
