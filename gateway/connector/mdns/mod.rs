//! Multicast DNS and DNS-SD (RFC 6762, RFC 6763): who is on the links of this machine, and being there oneself.
//!
//! There is nobody to ask but everybody, and nobody who knows all. A list is what was heard, for as long as it is good;
//! an empty one says that nobody answered. Only a link that is gone is a failure.
//!
//! Types of DNS-SD, `_x._tcp` and `_x._udp`, are asked for and announced with `mdns-sd` (`dns_sd.rs`). It refuses all
//! others, and that of rpcx is one of them: for these there are a small querier (`cache.rs`) and responder
//! (`responder.rs`) of our own (`own.rs`).

mod asking;
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
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

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

/// How long an announcement may take. A name is free after a second, and each that others have takes one more; on a
/// link that is down, nobody is ever asked.
const NAMED: Duration = Duration::from_secs(15);

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
        let no_names =
            || Failure::Invalid(format!("{kind:?} is followed by names without parts, which fit nothing"));
        let names = Names::new(names).ok_or_else(no_names)?;
        let kind = type_name(kind)?;
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
        let announcement = checked(kind, name, ip, port, texts, ttl)?;
        let engine = self.engine(&announcement.kind)?;
        announced(engine, announcement).await
    }
}

/// What can be announced.
fn checked(
    kind: &str,
    name: String,
    ip: &str,
    port: u16,
    texts: Vec<Vec<u8>>,
    ttl: u32,
) -> Result<Announcement, Failure> {
    let invalid = |text: String| Err(Failure::Invalid(text));
    let kind = type_name(kind)?;
    let Ok(ip) = ip.parse() else {
        return invalid(format!("{ip:?} is no IP address, and only addresses can be announced by mDNS"));
    };
    if let Some(text) = texts.iter().find(|text| text.len() > LONGEST_TEXT) {
        let (text, length) = (String::from_utf8_lossy(text), text.len());
        return invalid(format!("{name:?}: the text {text:?} has {length} bytes, and {LONGEST_TEXT} fit"));
    }
    let length: usize = texts.iter().map(Vec::len).sum();
    if length > MOST_TEXT {
        return invalid(format!("{name:?}: its texts have {length} bytes altogether, and {MOST_TEXT} fit"));
    }
    if name.is_empty() {
        return invalid(format!("the instance at {ip} port {port} has an empty name"));
    }
    if port == 0 {
        return invalid(format!("{name:?}: its port is 0, where nobody can be reached"));
    }
    if ttl == 0 {
        return invalid(format!("{name:?}: its time to live is 0 seconds, which says goodbye"));
    }
    let said = texts.into_iter().filter(|text| !text.is_empty());
    let texts: Texts = said.map(Vec::into_boxed_slice).collect();
    Ok(Announcement { kind, name, ip, port, texts, ttl })
}

/// Has it announced, and waits until it has a name. Dropping the future forgets the announcement, wherever it is.
async fn announced(engine: Arc<Engine>, announcement: Announcement) -> Result<Presence, Failure> {
    let ended = || Failure::Unavailable("mDNS: listening has ended".into());
    let name = announcement.name.clone();
    let (reply, begun) = oneshot::channel();
    // First, so that the order to forget it comes after that to announce it.
    let mut presence = Presence::new(engine.clone());
    engine.orders.send(Order::Announce(presence.id(), announcement, reply)).map_err(|_| ended())?;
    let named = begun.await.map_err(|_| ended())??;
    let Ok(named) = timeout(NAMED, named).await else {
        return Err(Failure::Unavailable(format!("mDNS: {name:?} could not be announced within {NAMED:?}")));
    };
    presence.set_name(named.map_err(|_| ended())?);
    Ok(presence)
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
    use std::{net::IpAddr, task::Poll};

    use tokio::{sync::mpsc, time::Instant};

    use super::*;

    /// An engine that begins to announce, and does not come to an end with it. What it is told comes out.
    fn stuck() -> (Arc<Engine>, mpsc::UnboundedReceiver<Order>) {
        let ((orders, mut taken), (pass, passed)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let task = async move {
            let mut unnamed = Vec::new();
            while let Some(order) = taken.recv().await {
                if let Order::Announce(id, announcement, reply) = order {
                    let (named, name) = oneshot::channel();
                    unnamed.push(named);
                    let _ = reply.send(Ok(name));
                    let _ = pass.send(Order::Announce(id, announcement, oneshot::channel().0));
                } else {
                    let _ = pass.send(order);
                }
            }
        };
        (Arc::new(Engine::of(orders, task)), passed)
    }

    fn announcement() -> Announcement {
        let (kind, name) = (type_name("_http._tcp").unwrap(), "orders".to_owned());
        Announcement { kind, name, ip: IpAddr::from([10, 0, 0, 1]), port: 80, texts: [].into(), ttl: 120 }
    }

    async fn is_begun_and_forgotten(passed: &mut mpsc::UnboundedReceiver<Order>) {
        let Some(Order::Announce(begun, ..)) = passed.recv().await else { panic!("it is not begun") };
        let Some(Order::Forget(forgotten)) = passed.recv().await else { panic!("it stays") };
        assert_eq!(begun, forgotten);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_announced_is_given_up() {
        let ((engine, mut passed), since) = (stuck(), Instant::now());
        let Err(Failure::Unavailable(error)) = announced(engine.clone(), announcement()).await else {
            panic!("it is announced")
        };
        assert_eq!((since.elapsed(), &*error), (NAMED, "mDNS: \"orders\" could not be announced within 15s"));
        is_begun_and_forgotten(&mut passed).await;
    }

    /// Whoever leaves may do so before the engine has even heard of it.
    #[tokio::test(start_paused = true)]
    async fn an_announcement_that_nobody_waits_for_is_forgotten() {
        for polls in 1..4 {
            let (engine, mut passed) = stuck();
            let mut waits = Box::pin(announced(engine.clone(), announcement()));
            for _ in 0..polls {
                let polled = std::future::poll_fn(|context| Poll::Ready(waits.as_mut().poll(context))).await;
                assert!(polled.is_pending());
                tokio::task::yield_now().await;
            }
            drop(waits);
            is_begun_and_forgotten(&mut passed).await;
        }
    }

    #[test]
    fn what_cannot_be_announced_is_named() {
        let text = |length| vec![b'x'; length];
        for (name, ip, port, texts, ttl, why) in [
            ("orders", "web-1:80", 80, vec![], 120, "\"web-1:80\" is no IP address"),
            ("orders", "10.0.0.1", 80, vec![text(256)], 120, "xxx\" has 256 bytes, and 255 fit"),
            ("orders", "10.0.0.1", 80, vec![text(250); 5], 120, "\"orders\": its texts have 1250 bytes"),
            ("", "10.0.0.1", 80, vec![], 120, "the instance at 10.0.0.1 port 80 has an empty name"),
            ("orders", "10.0.0.1", 0, vec![], 120, "\"orders\": its port is 0"),
            ("orders", "10.0.0.1", 80, vec![], 0, "\"orders\": its time to live is 0"),
        ] {
            let checked = checked("_http._tcp", name.to_owned(), ip, port, texts, ttl);
            let Err(Failure::Invalid(error)) = checked else { panic!("{why}") };
            assert!(error.contains(why), "{error}");
        }
        let texts = vec![text(250); 4].into_iter().chain([text(0)]).collect();
        let right = checked("_http._tcp", "orders".to_owned(), "fd00::1", 80, texts, 120).unwrap();
        assert_eq!((right.texts.len(), right.ip), (4, "fd00::1".parse().unwrap()));
    }

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
