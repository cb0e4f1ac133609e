//! Multicast DNS and DNS-SD (RFC 6762, RFC 6763): who is on the links of this machine, and being there oneself.
//!
//! There is nobody to ask but everybody, and nobody who knows all. A list is what was heard, for as long as it is good;
//! an empty one says that nobody answered. Only a link that is gone is a failure.
//!
//! Types of DNS-SD, `_x._tcp` and `_x._udp`, are asked for and announced with `mdns-sd` (`dns_sd.rs`). It refuses all
//! others, and that of rpcx is one of them: for these there are a small querier (`cache.rs`) and responder
//! (`responder.rs`) of our own (`own.rs`).

mod cache;
mod dns_sd;
mod engine;
mod feed;
mod heard;
mod host;
mod keys;
mod links;
mod list;
mod names;
mod own;
mod presence;
mod responder;
pub mod wire;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::oneshot;

use self::{
    engine::{Engine, Order},
    names::Names,
    responder::Announcement,
    wire::{Name, Texts},
};
pub use self::{feed::Feed, keys::Grant, presence::Presence};
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{INTERFACES, Mdns as Keys, SETTING, USERS, grant},
};
use super::lock;
use crate::registry::Failure;

/// The longest string in a record of the kind TXT, and the most bytes of all of them that go into one packet with the
/// rest.
const LONGEST_TEXT: usize = 255;
const MOST_TEXT: usize = 1_000;

/// The links that some tables name. Everything that follows or announces types of DNS-SD there shares a task, and so
/// does everything else. Each is begun when first needed and ends when nothing needs it.
pub struct Client {
    grant: Grant,
    dns_sd: Mutex<Weak<Engine>>,
    own: Mutex<Weak<Engine>>,
}

impl Client {
    /// Listens to nobody yet.
    pub fn new(grant: Grant) -> Arc<Self> {
        Arc::new(Self { grant, dns_sd: Mutex::default(), own: Mutex::default() })
    }

    fn engine(&self, kind: &Name) -> Result<Arc<Engine>, Failure> {
        let of_dns_sd = is_of_dns_sd(kind);
        let mut current = lock(if of_dns_sd { &self.dns_sd } else { &self.own });
        if let Some(engine) = current.upgrade().filter(|engine| !engine.has_ended()) {
            return Ok(engine);
        }
        let start = if of_dns_sd { Engine::dns_sd } else { Engine::own };
        let engine = Arc::new(start(&self.grant.interfaces)?);
        *current = Arc::downgrade(&engine);
        Ok(engine)
    }

    /// Follows the instances of a type whose names fit.
    pub async fn follow(&self, kind: &str, names: Vec<String>) -> Result<Feed, Failure> {
        let kind = type_name(kind)?;
        let names = Names::new(names).ok_or_else(|| Failure::Invalid("no part of a name is given".into()))?;
        let engine = self.engine(&kind)?;
        let (reply, followed) = oneshot::channel();
        let ended = || Failure::Unavailable("mDNS: listening has ended".into());
        engine.orders.send(Order::Follow(kind, reply)).map_err(|_| ended())?;
        Ok(Feed::new(followed.await.map_err(|_| ended())?, names, engine))
    }

    /// Announces an instance, and waits until it has a name.
    pub async fn announce(
        &self,
        kind: &str,
        name: String,
        ip: &str,
        port: u16,
        texts: Vec<Vec<u8>>,
        ttl: u32,
    ) -> Result<Presence, Failure> {
        let kind = type_name(kind)?;
        let ip: IpAddr = ip.parse().map_err(|_| {
            Failure::Invalid(format!("{ip:?} is no IP address, and only addresses can be announced by mDNS"))
        })?;
        let length: usize = texts.iter().map(Vec::len).sum();
        if let Some(text) = texts.iter().find(|text| text.len() > LONGEST_TEXT) {
            let text = String::from_utf8_lossy(text);
            return Err(Failure::Invalid(format!("{text:?} is longer than {LONGEST_TEXT} bytes")));
        }
        if length > MOST_TEXT || ttl == 0 || port == 0 || name.is_empty() {
            return Err(Failure::Invalid(format!(
                "an announcement has a name, a port, a time to live, and {MOST_TEXT} bytes of text at most"
            )));
        }
        let said = texts.into_iter().filter(|text| !text.is_empty());
        let texts: Texts = said.map(Vec::into_boxed_slice).collect();
        let engine = self.engine(&kind)?;
        let announcement = Announcement { kind, name, ip, port, texts, ttl };
        let (reply, begun) = oneshot::channel();
        let ended = || Failure::Unavailable("mDNS: listening has ended".into());
        engine.orders.send(Order::Announce(announcement, reply)).map_err(|_| ended())?;
        let (id, named) = begun.await.map_err(|_| ended())??;
        // From here on dropping the future forgets the announcement.
        let mut presence = Presence::new(String::new(), id, engine);
        presence.set_name(named.await.map_err(|_| ended())?);
        Ok(presence)
    }
}

/// A type as it is written, like `_http._tcp`, as the name that it has on a link.
fn type_name(text: &str) -> Result<Name, Failure> {
    let labels: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
    let right = |label: &&[u8]| {
        let name = label.strip_prefix(b"_").unwrap_or_default();
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=62).contains(&name.len()) && name.iter().all(letter)
    };
    let name = (labels.len() <= 4 && labels.iter().all(right)).then(|| wire::local(&labels)).flatten();
    name.ok_or_else(|| Failure::Invalid(format!("{text:?} is no type of services: they are like _http._tcp")))
}

/// Whether it is a type of DNS-SD, which ends with a protocol.
fn is_of_dns_sd(kind: &Name) -> bool {
    let mut labels = kind.iter().rev().skip(1);
    let protocol = labels.next();
    let of = |name: &[u8]| protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case(name));
    (of(b"_tcp") || of(b"_udp")) && labels.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_labels_that_begin_with_an_underscore() {
        for text in ["_http._tcp", "_rpcxservices", "_printer._sub._http._tcp"] {
            assert!(type_name(text).is_ok(), "{text}");
        }
        for text in ["", "http._tcp", "_http._tcp.", "_._tcp", "_a b._tcp", "_a.b._tcp", "_http._tcp.local"] {
            let Err(Failure::Invalid(error)) = type_name(text) else { panic!("{text}") };
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_type_of_dns_sd_ends_with_a_protocol() {
        for (text, is) in [
            ("_http._tcp", true),
            ("_http._UDP", true),
            ("_printer._sub._http._tcp", true),
            ("_rpcxservices", false),
            ("_tcp", false),
            ("_tcp._http", false),
        ] {
            assert_eq!(is_of_dns_sd(&type_name(text).unwrap()), is, "{text}");
        }
    }
}
