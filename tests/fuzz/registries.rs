//! What strangers write into registries. The first line of the input is a key, the rest its value.

#![no_main]

use guest::{
    entries::{Entry, check_address, identified},
    lists::ListOf,
    rpcx,
};
use libfuzzer_sys::fuzz_target;
use witgate::connector::mdns::wire as messages;

use crate::{
    claims::{Claims, Delta},
    layout::{Layout, Settings},
};

#[path = "../../plugins/consul/catalog.rs"]
mod catalog;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/etcd/claims.rs"]
mod claims;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/etcd/layout.rs"]
mod layout;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/consul/keys.rs"]
mod keys;
#[path = "../../plugins/consul/kv.rs"]
mod kv;
#[expect(dead_code, reason = "the connector uses more of it")]
#[path = "../../gateway/connector/zookeeper/wire.rs"]
mod wire;
#[path = "../../plugins/zookeeper/curator.rs"]
mod curator;
#[path = "../../plugins/zookeeper/dubbo.rs"]
mod dubbo;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/zookeeper/layout.rs"]
mod nodes;
#[expect(dead_code, reason = "the plugin asks, too")]
#[path = "../../plugins/discovery/answer.rs"]
mod discovery;
#[path = "../../plugins/eureka/answer.rs"]
mod applications;
#[expect(dead_code, reason = "the plugin asks, too")]
#[path = "../../plugins/kubernetes/answer.rs"]
mod events;
#[path = "../../plugins/discovery/instance.rs"]
mod registration;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/discovery/settings.rs"]
mod settings;
#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/dns/records.rs"]
mod records;
#[path = "../../plugins/kubernetes/slice.rs"]
mod slice;

#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/mdns/instance.rs"]
mod instance;

#[expect(dead_code, reason = "the plugin uses more of it")]
#[path = "../../plugins/nacos"]
mod nacos {
    pub mod answer;
    pub mod settings;
}

/// Every layout of etcd, with all that changes how it reads.
const LAYOUTS: [&str; 5] = [
    r#"{ "layout": "go-zero" }"#,
    r#"{ "layout": "rpcx", "base": "/rpcx" }"#,
    r#"{ "layout": "rpcx", "base": "", "networks": ["tcp", "quic"], "group": "blue" }"#,
    r#"{ "layout": "plain" }"#,
    r#"{ "layout": "json", "prefix": "services" }"#,
];

/// Every layout of ZooKeeper.
const NODES: [&str; 7] = [
    r#"{ "layout": "plain" }"#,
    r#"{ "layout": "json" }"#,
    r#"{ "layout": "rpcx", "base": "rpcx", "group": "blue" }"#,
    r#"{ "layout": "curator" }"#,
    r#"{ "layout": "curator", "secure": true }"#,
    r#"{ "layout": "dubbo", "group": "a", "protocols": ["tri"] }"#,
    r#"{ "layout": "dubbo", "by": "application" }"#,
];

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (key, value) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    for settings in LAYOUTS {
        if let Ok(Settings { layout, .. }) = Settings::read(settings) {
            etcd(layout, key, value);
        }
    }
    consul(value);
    held(key, value);
    zookeeper(key, value);
    frames(value);
    service_discovery(value);
    announced(key, value);
    eureka(value);
    kubernetes(value);
    nacos(value);
    dns(value);
    mdns(value);
    if let Ok(text) = str::from_utf8(value) {
        list(text);
        metadata(text);
    }
});

/// A key that is written twice tells its news once, and is gone when it is deleted.
fn etcd(layout: Layout, rest: &[u8], value: &[u8]) {
    let Ok(prefix) = layout.prefix("orders") else { return };
    let mut key = prefix.clone().into_bytes();
    key.extend_from_slice(rest);
    let mut claims = Claims::new(layout, prefix);
    let told = claims.put(key.clone(), value);
    assert!(matches!(told, None | Some(Delta::Put(..))));
    assert_eq!(claims.put(key.clone(), value), None);
    assert_eq!(claims.delete(&key), told.is_some().then_some(Delta::Remove(key)));
}

/// An answer of Consul is a list in a certain order, or it is told what it is instead.
fn consul(body: &[u8]) {
    let wanted = rpcx::Wanted::new(None, None);
    for list in
        [catalog::read(body, false), catalog::read(body, true), kv::read(body, "rpcx/orders/", &wanted)]
    {
        assert!(list.unwrap_or_default().is_sorted_by_key(|(id, _)| id.clone()));
    }
}

/// Whatever a key is called, it stays one path of a URL, and what Consul says of it is a value or told.
fn held(key: &[u8], body: &[u8]) {
    let _ = (keys::read(body), keys::session_id(body));
    let path = keys::path(&String::from_utf8_lossy(key));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte);
    assert!(path.starts_with("/v1/kv/") && path.bytes().all(plain), "{path}");
}

/// Whatever a node is called and holds, it is an instance that is asked for or none.
fn zookeeper(name: &[u8], data: &[u8]) {
    let Ok(name) = str::from_utf8(name) else { return };
    for settings in NODES {
        let Ok(layout) = nodes::Layout::of(settings) else { panic!("{settings}") };
        layout.read(name, data);
        if let Ok(path) = layout.path(name) {
            assert!(path.starts_with('/') && !path.contains("//") && !path.ends_with('/'), "{path}");
        }
    }
}

/// What answers at the address of a ZooKeeper: every frame of it as everything that a frame may be.
fn frames(mut bytes: &[u8]) {
    use wire::{Connected, Event, Head, Reader, Stat, first_frame};
    while let Ok(Some(length)) = first_frame(bytes) {
        let (frame, rest) = bytes[4..].split_at(length);
        let _ = Connected::read(frame);
        let mut reader = Reader(frame);
        if Head::read(&mut reader).is_ok() {
            if let Ok(event) = Event::read(&mut Reader(reader.0)) {
                assert!(event.place().is_none_or(|(parent, name)| !parent.is_empty() && !name.contains('/')));
            }
            let mut names = Reader(reader.0);
            if let Ok(names) = names.texts() {
                assert!(names.len() <= frame.len() / 4);
            }
            let _ = (Stat::read(&mut names), reader.bytes().map(drop), Stat::read(&mut reader));
        }
        bytes = rest;
    }
}

/// An answer of a node is a list in a certain order with an address each, or it is told what it is instead.
fn service_discovery(body: &[u8]) {
    for scheme in [None, Some("tcp".to_owned())] {
        let wanted = discovery::Wanted { env: "dev".to_owned(), appid: "orders".to_owned(), scheme };
        if let Ok(discovery::Said::List(list)) = wanted.read(body) {
            assert!(list.is_sorted_by_key(|(hostname, _)| hostname.clone()));
            assert!(list.iter().all(|(_, entry)| !entry.address.contains('/') && entry.weight <= 1));
        }
    }
}

/// What is written of an instance reads as that instance, with traffic if it has a weight.
fn announced(appid: &[u8], body: &[u8]) {
    let _ = registration::read(body);
    let Ok(appid) = str::from_utf8(appid) else { return };
    let Ok(entry) = serde_json::from_slice::<Entry>(body) else { return };
    for settings in [r#"{"env":"dev"}"#, r#"{"env":"dev","scheme":"tcp"}"#] {
        let Ok(settings) = settings::Settings::read(settings) else { panic!("{settings}") };
        let Ok(instance) = registration::Instance::new(&settings, appid, &entry) else { continue };
        let answer = format!(r#"{{"code":200,"data":{{"instances":[{}]}}}}"#, instance.register);
        let settings::Settings { env, scheme, .. } = settings;
        let wanted = discovery::Wanted { env, appid: appid.to_owned(), scheme };
        let Ok(discovery::Said::List(list)) = wanted.read(answer.as_bytes()) else { panic!("{answer}") };
        let [(_, read)] = &list[..] else { panic!("{answer}") };
        assert_eq!((&read.address, read.weight > 0), (&entry.address, entry.weight > 0), "{answer}");
    }
}

/// An answer of Eureka is a list, of which each instance has an id and an address, or it is told what it is instead.
fn eureka(body: &[u8]) {
    for secure in [false, true] {
        let wanted = applications::Wanted { app: "orders".to_owned(), secure, by_name: secure };
        for list in [wanted.list(body, false), wanted.list(body, true)] {
            assert!(list.unwrap_or_default().iter().all(|known| known.entry.address.contains([':', ','])));
        }
        if let Ok(delta) = wanted.delta(body) {
            assert!(delta.counts.keys().all(|status| !status.is_empty()));
        }
    }
}

/// What an API server of Kubernetes answers is a list, or lines of events, or it is told what it is instead.
fn kubernetes(body: &[u8]) {
    for api in [events::Api::Slices, events::Api::Endpoints] {
        if let Ok(page) = api.page(body) {
            assert!(!page.version.is_empty());
        }
        let mut lines = events::Lines::default();
        for line in body.chunks(7).flat_map(|part| lines.of(part).unwrap_or_default()) {
            assert!(line.ends_with(b"\n"));
            if let Ok(events::Event::Error(status)) = api.event(&line) {
                status.after("http://a");
            }
        }
    }
    events::Status::of(500, body).after("http://a");
}

/// An answer of Nacos is a list, of which each instance has an address, or it is told what it is instead.
fn nacos(body: &[u8]) {
    for settings in [r#"{"clusters":["a"]}"#, r#"{"layout":"rpcx"}"#, r#"{"api":"v3"}"#] {
        let Ok(settings) = nacos::settings::Settings::read(settings) else { continue };
        if let Ok(nacos::answer::Said::List(list)) = nacos::answer::read(&settings, body) {
            assert!(list.instances.iter().all(|(id, entry)| id.ends_with(&entry.address)));
        }
    }
    nacos::answer::done(body);
}

/// Whatever records there are, each place has one instance, with traffic.
fn dns(bytes: &[u8]) {
    let services = bytes.chunks(7).map(|chunk| {
        let number = |at: usize| u16::from(chunk.get(at).copied().unwrap_or_default());
        let target = String::from_utf8_lossy(chunk.get(3..).unwrap_or_default()).into_owned();
        records::Service { priority: number(0), weight: number(1), port: number(2), target }
    });
    let list = records::of_services(services.collect());
    assert!(list.iter().is_sorted_by(|(one, _), (other, _)| one < other));
    assert!(list.iter().all(|(_, entry)| entry.weight > 0));
}

/// Whatever packet comes, what is read of it is written as it was, and what its texts say is an instance or none.
fn mdns(packet: &[u8]) {
    let Some(message) = messages::Message::read(packet) else { return };
    let texts = message.facts.iter().filter_map(|fact| match &fact.data {
        messages::Data::Texts(texts) => Some(texts.iter().map(|text| text.to_vec()).collect()),
        _ => None,
    });
    for texts in texts {
        let found = instance::Instance {
            name: "orders".to_owned(),
            host: "web.local".to_owned(),
            addresses: vec!["10.0.0.1".to_owned()],
            port: 80,
            priority: 0,
            weight: 0,
            texts,
        };
        let read = instance::of_dns_sd(&found, &Default::default(), instance::Family::Any);
        assert!(read.is_some_and(|entry| entry.address == "10.0.0.1:80"));
        instance::of_rpcx(&found, "Arith", &rpcx::Wanted::new(None, None));
    }
    let again: Vec<_> =
        message.clone().write().iter().filter_map(|packet| messages::Message::read(packet)).collect();
    let facts =
        |message: &messages::Message| message.facts.len() + message.more.len() + message.proposed.len();
    assert_eq!(again.iter().map(facts).sum::<usize>(), facts(&message));
}

/// A list written by hand has addresses only, and an id for each.
fn list(text: &str) {
    let Ok(list) = ListOf("orders").read(text.as_bytes()) else { return };
    let mut ids: Vec<String> = identified(list)
        .map(|(id, entry)| {
            assert_eq!(check_address(&entry.address), Ok(()));
            id
        })
        .collect();
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

/// What is written from a query reads as the same pairs, in the order of their names.
fn metadata(text: &str) {
    rpcx::Metadata::read(text);
    let Some(mut pairs) = rpcx::parse_query(text) else { return };
    let written = rpcx::write_query(&pairs);
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(rpcx::parse_query(&written), Some(pairs), "{written}");
}
