//! What an instance says of itself, and how one is written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use guest::entries::{Entry, Labels, State};
use guest::rpcx;
use serde::Deserialize;

/// The longest text.
const LONGEST: usize = 255;

/// An instance as it was found.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    pub host: String,
    pub addresses: Vec<String>,
    pub port: u16,
    pub priority: u16,
    pub weight: u16,
    pub texts: Vec<Vec<u8>>,
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Of IPv4 first.
    #[default]
    Any,
    Ipv4,
    Ipv6,
}

/// None: its texts or its addresses are not those that are asked for.
pub fn of_dns_sd(found: &Instance, txt: &BTreeMap<String, String>, family: Family) -> Option<Entry> {
    let texts = read(&found.texts);
    let has = |(key, value): (&String, &String)| {
        texts.iter().any(|(name, text)| name.eq_ignore_ascii_case(key) && text == value)
    };
    if !txt.iter().all(has) {
        return None;
    }
    let address = best(&found.addresses, family)?;
    let mut entry = Entry {
        // 0 is usual, and means nothing of the kind.
        weight: u32::from(found.weight).max(1),
        priority: found.priority.into(),
        hostname: Some(found.host.clone()),
        ..Entry::plain(&at(address, found.port))
    };
    for (name, text) in texts {
        // What makes no sense is as good as not there.
        match &*name.to_ascii_lowercase() {
            "weight" => entry.weight = text.parse().unwrap_or(entry.weight),
            "priority" => entry.priority = text.parse().unwrap_or(entry.priority),
            "hostname" if !text.is_empty() => entry.hostname = Some(text),
            "zone" if !text.is_empty() => entry.zone = Some(text),
            "state" => {
                entry.state = match &*text {
                    "draining" => State::Draining,
                    "unwell" => State::Unwell,
                    _ => State::Ready,
                }
            }
            _ => entry.labels.push((name, text)),
        }
    }
    Some(entry)
}

/// `key=value`, of each key the first; a key alone has an empty value. What is no text is passed over.
fn read(texts: &[Vec<u8>]) -> Labels {
    let mut read = Labels::new();
    for text in texts {
        let Ok(text) = str::from_utf8(text) else { continue };
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if !key.is_empty() && !read.iter().any(|(known, _)| known.eq_ignore_ascii_case(key)) {
            read.push((key.to_owned(), value.to_owned()));
        }
    }
    read
}

/// One instance is one endpoint, whatever addresses it has: the first of those that reach farthest.
fn best(addresses: &[String], family: Family) -> Option<&str> {
    let rank = |address: &&String| {
        let ip = address.split('%').next()?.parse::<IpAddr>().ok()?;
        let (v4, near) = match ip {
            IpAddr::V4(ip) => (true, ip.is_link_local()),
            IpAddr::V6(ip) => (false, ip.is_unicast_link_local()),
        };
        let wanted = match family {
            Family::Any => true,
            Family::Ipv4 => v4,
            Family::Ipv6 => !v4,
        };
        wanted.then_some((near, !v4, ip))
    };
    let ranked = addresses.iter().filter_map(|address| Some((rank(&address)?, address)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, address)| &**address)
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// One of the services that an instance of rpcx offers.
#[derive(Deserialize)]
struct Offered {
    #[serde(default)]
    service: String,
    #[serde(default)]
    meta: String,
    #[serde(default)]
    service_address: String,
}

/// What an instance of rpcx offers of a service. Clients of rpcx take whatever it offers; a gateway does not.
pub fn of_rpcx(found: &Instance, service: &str, wanted: &rpcx::Wanted) -> Vec<(String, Entry)> {
    let text = found.texts.concat();
    let text = str::from_utf8(&text).ok().and_then(rpcx::unescape);
    let offered = text.and_then(|text| serde_json::from_str::<Vec<Offered>>(&text).ok()).unwrap_or_default();
    let of = offered.into_iter().filter(|offered| offered.service == service);
    let mut list: Vec<(String, Entry)> = of
        .filter_map(|Offered { meta, service_address, .. }| {
            let entry = wanted.read(&service_address, &meta)?;
            Some((format!("{}/{service_address}", found.name), entry))
        })
        .collect();
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    list.dedup_by(|(one, _), (other, _)| one == other);
    list
}

/// The texts of an instance, with some that it must have.
pub fn texts(entry: &Entry, more: impl Iterator<Item = (String, String)>) -> Result<Vec<Vec<u8>>, String> {
    let mut texts: Labels = more.collect();
    if entry.weight != 1 {
        texts.push(("weight".to_owned(), entry.weight.to_string()));
    }
    texts.extend(entry.labels.iter().cloned());
    let text = |(key, value): (String, String)| {
        let right = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b'=';
        if key.is_empty() || !key.bytes().all(right) {
            return Err(format!("label {key:?}: its name can be no key of a text"));
        }
        let text = format!("{key}={value}").into_bytes();
        match text.len() <= LONGEST {
            true => Ok(text),
            false => Err(format!("label {key:?}: with its value it is longer than {LONGEST} bytes")),
        }
    };
    texts.into_iter().map(text).collect()
}

/// The text of an instance of rpcx, as rpcx writes it.
pub fn rpcx_texts(service: &str, entry: &Entry) -> Result<Vec<Vec<u8>>, String> {
    let meta = rpcx::write_metadata(entry.weight, &entry.labels);
    let network = entry.labels.iter().find(|(name, _)| name == "network").map_or("tcp", |(_, value)| value);
    let address = format!("{network}@{}", entry.address);
    let json = serde_json::json!([{ "service": service, "meta": meta, "service_address": address }]);
    let text = rpcx::escape(&json.to_string());
    match text.len() <= LONGEST {
        true => Ok(vec![text.into_bytes()]),
        false => Err(format!(
            "{service:?} with its labels is {} bytes long, and rpcx has room for {LONGEST}",
            text.len()
        )),
    }
}

/// What can be announced is an IP address.
pub fn ip_and_port(address: &str) -> Result<(String, u16), String> {
    match address.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok((address.ip().to_string(), address.port())),
        _ => Err(format!(
            "address: {address:?} is no IP address with a port, and nothing else is announced by mDNS"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(addresses: &[&str], texts: &[&str]) -> Instance {
        Instance {
            name: "orders".to_owned(),
            host: "web-1.local".to_owned(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            port: 80,
            priority: 0,
            weight: 0,
            texts: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        }
    }

    fn entry(addresses: &[&str], texts: &[&str]) -> Entry {
        of_dns_sd(&instance(addresses, texts), &BTreeMap::new(), Family::Any).unwrap()
    }

    #[test]
    fn one_instance_is_one_endpoint_at_the_address_that_reaches_farthest() {
        let all = ["fe80::1%eth0", "fd00::1", "169.254.0.1", "10.0.0.2", "10.0.0.1"];
        for (family, leave, address) in [
            (Family::Any, 5, Some("10.0.0.1:80")),
            (Family::Any, 3, Some("[fd00::1]:80")),
            (Family::Ipv4, 3, Some("169.254.0.1:80")),
            (Family::Ipv4, 2, None),
            (Family::Ipv6, 5, Some("[fd00::1]:80")),
            (Family::Any, 1, Some("[fe80::1%eth0]:80")),
        ] {
            let read = of_dns_sd(&instance(&all[..leave], &[]), &BTreeMap::new(), family);
            assert_eq!(read.as_ref().map(|entry| &*entry.address), address, "{family:?} {leave}");
        }
    }

    #[test]
    fn texts_are_facts_and_labels() {
        let read = entry(
            &["10.0.0.1"],
            &["Weight=7", "weight=9", "zone=a", "state=draining", "version=2", "tls", "=odd", "priority=x"],
        );
        let labels = [("version", "2"), ("tls", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((read.weight, read.priority, read.state), (7, 0, State::Draining));
        assert_eq!((read.zone.as_deref(), read.hostname.as_deref()), (Some("a"), Some("web-1.local")));
        assert_eq!(read.labels, labels);
    }

    #[test]
    fn weight_0_of_a_record_is_1_and_that_of_a_text_is_a_drain() {
        assert_eq!(entry(&["10.0.0.1"], &[]).weight, 1);
        assert_eq!(entry(&["10.0.0.1"], &["weight=0"]).weight, 0);
        let weighted = Instance { weight: 5, priority: 2, ..instance(&["10.0.0.1"], &[]) };
        let read = of_dns_sd(&weighted, &BTreeMap::new(), Family::Any).unwrap();
        assert_eq!((read.weight, read.priority), (5, 2));
    }

    #[test]
    fn an_instance_without_the_texts_that_are_asked_for_is_none() {
        let wanted: BTreeMap<_, _> = [("env".to_owned(), "prod".to_owned())].into();
        let has = |texts| of_dns_sd(&instance(&["10.0.0.1"], texts), &wanted, Family::Any).is_some();
        assert!(has(&["ENV=prod"]) && has(&["a=b", "env=prod"]));
        assert!(!has(&[]) && !has(&["env=Prod"]) && !has(&["env=test", "env=prod"]));
    }

    #[test]
    fn of_rpcx_only_the_service_counts_that_is_asked_for() {
        // As rpcx writes it: two services at one address.
        let text = "%5B%7B%22service%22%3A%22Arith%22%2C%22meta%22%3A%22weight%3D3%26group%3Da%22%2C\
                    %22service_address%22%3A%22tcp%4010.0.0.1%3A8972%22%7D%2C%7B%22service%22%3A%22Echo%22%2C\
                    %22service_address%22%3A%22quic%4010.0.0.1%3A8973%22%7D%5D";
        let found = instance(&["10.0.0.9"], &[text]);
        let any = rpcx::Wanted::new(None, None);
        let read = of_rpcx(&found, "Arith", &any);
        assert_eq!(read.len(), 1);
        assert_eq!((&*read[0].1.address, read[0].1.weight), ("10.0.0.1:8972", 3));
        assert_eq!(of_rpcx(&found, "Echo", &any), [], "QUIC is nothing that a gateway dials");
        assert_eq!(of_rpcx(&found, "Arith", &rpcx::Wanted::new(None, Some("b".to_owned()))), []);
        assert_eq!(of_rpcx(&instance(&[], &["garbage%"]), "Arith", &any), []);
    }

    proptest! {
        #[test]
        fn whatever_is_said_is_an_instance_or_none(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
            addresses in proptest::collection::vec("[0-9a-f:.%]{0,12}", 0..4),
        ) {
            let found = Instance { texts, addresses, ..instance(&[], &[]) };
            of_dns_sd(&found, &BTreeMap::new(), Family::Any);
            of_rpcx(&found, "", &rpcx::Wanted::new(None, None));
        }
    }
}
