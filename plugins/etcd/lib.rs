//! The registry that is etcd, as the frameworks use it: what servers of go-zero, rpcx or gRPC write there is read,
//! and what this gateway announces is found by their clients.
//!
//! | layout | key | value |
//! |---|---|---|
//! | `go-zero` | `SERVICE/INSTANCE`, the instance being the lease's number or what `Etcd.ID` says | `host:port` |
//! | `rpcx` | `BASE/SERVICE/NETWORK@host:port` | metadata as a URL query: `weight=2&group=a` |
//! | `plain` | `PREFIX/SERVICE/INSTANCE` | `host:port` |
//! | `json` | `PREFIX/SERVICE/INSTANCE` | `{"address":"host:port","weight":2,"labels":{"version":"2"}}`, with `priority`, `state`, `hostname` and `zone` if there are any, or gRPC's `{"Op":0,"Addr":"host:port","Metadata":{}}` |
//!
//! In every layout an instance is what stands behind the last slash of a key: one part, not empty. What stands before
//! that slash is the service, as it is written, slashes included. So each key belongs to one service: `user.rpc/1` to
//! `user.rpc`, `user.rpc/eu/1` to `user.rpc/eu`, `user.rpc2/1` to `user.rpc2`, and `user.rpc//1` to `user.rpc/`. A key
//! that ends in a slash belongs to nobody. Keys are bytes: ids show what is no UTF-8 in them as `\xNN`, and a backslash
//! as `\\`.
//!
//! | setting | for | default | meaning |
//! |---|---|---|---|
//! | `layout` | | none, must be given | one of the four |
//! | `base` | rpcx | none, must be given | the base path. A slash in front is significant |
//! | `networks` | rpcx | tcp, tcp4, tcp6, reuseport, iouring | endpoints of other networks are left out |
//! | `group` | rpcx | any | only endpoints of this group |
//! | `prefix` | plain, json | none | what stands before the service; a slash is put between if there is none |
//! | `ttl_seconds` | announcing | 10, rpcx 30, as their servers do | how long an announcement outlives the gateway |
//!
//! Where the endpoints of other servers come from is the registry's table in the configuration; addresses and
//! credentials never get here.
//!
//! For plugin authors: `layout.rs` says what a key and its value mean, `claims.rs` what has changed, `announce.rs` in `guest`
//! keeps an announcement alive. None of them knows a connection. The connector lists and watches; it comes back with
//! `all` when the watch has missed something, and then the gateway finds the difference.

mod claims;
mod layout;

use std::cell::RefCell;

use claims::{Claims, Delta};
use exports::witgate::registry::registrar::{
    Announcement, Guest as Registrar, GuestRegistration, Registration,
};
use exports::witgate::registry::registry::{
    Change, Endpoint, Failure, Guest as Reader, GuestSubscription, News, Subscription,
};
use guest::announce::{Announced, Found, Registry, Step};
use guest::entries::Entry;
use layout::Settings;
use witgate::etcd::etcd::{self, Content, Event, Feed, Lease};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Etcd);

struct Etcd;

impl Reader for Etcd {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let prefix = settings.layout.prefix(&service).map_err(Failure::Invalid)?;
        let feed = etcd::follow(prefix.as_bytes())?;
        let claims = RefCell::new(Claims::new(settings.layout, prefix));
        Ok(Subscription::new(Following { feed, claims }))
    }
}

struct Following {
    feed: Feed,
    claims: RefCell<Claims>,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let content = self.feed.next()?.content;
        let mut claims = self.claims.borrow_mut();
        let changes = match content {
            Content::All(entries) => {
                let all = claims.reset(entries.into_iter().map(|entry| (entry.key, entry.value)));
                return Ok(News::Complete(all.map(|(key, entry)| endpoint(key, entry)).collect()));
            }
            Content::Changes(events) => events.into_iter().filter_map(|event| match event {
                Event::Put(entry) => claims.put(entry.key, &entry.value),
                Event::Delete(key) => claims.delete(&key),
            }),
            Content::Nothing => return Ok(News::Unchanged),
        };
        let changes: Vec<_> = changes
            .map(|delta| match delta {
                Delta::Put(key, entry) => Change::Put(endpoint(&key, &entry)),
                Delta::Remove(key) => Change::Remove(id(&key)),
            })
            .collect();
        Ok(if changes.is_empty() { News::Unchanged } else { News::Changes(changes) })
    }
}

fn endpoint(key: &[u8], entry: &Entry) -> Endpoint {
    guest::endpoint!(id(key), entry.clone())
}

/// A key is bytes, and an id is text. No two keys have one id.
fn id(key: &[u8]) -> String {
    guest::bytes::as_text(key)
}

impl Registrar for Etcd {
    type Registration = RefCell<Announced<Connector>>;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let Settings { layout, ttl_seconds } = settings;
        layout.check(&service, &entry).map_err(Failure::Invalid)?;
        let written = move |lease: &i64| layout.write(&service, &entry, *lease);
        let mut announced = Announced::new(ttl_seconds, Box::new(written));
        announced.renew(&Connector)?;
        Ok(Registration::new(RefCell::new(announced)))
    }
}

impl GuestRegistration for RefCell<Announced<Connector>> {
    fn renew(&self) -> Result<u32, Failure> {
        self.borrow_mut().renew(&Connector).map(|Step { ttl_seconds }| {
            // Two heartbeats may get lost before the lease does.
            ttl_seconds.saturating_mul(1000) / 3
        })
    }

    fn withdraw(&self) -> Result<(), Failure> {
        self.borrow_mut().withdraw(&Connector)
    }
}

/// The connector, as what keeps an announcement alive wants it.
struct Connector;

impl Registry for Connector {
    type Id = i64;
    type Lease = Lease;
    type Failure = Failure;

    fn grant(&self, ttl_seconds: u32) -> Result<(i64, Lease), Failure> {
        let lease = etcd::grant(ttl_seconds)?;
        match lease.id() {
            // etcd takes it for "no lease", and the key would stay for ever.
            0 => Err(Failure::Other("etcd granted lease 0".to_owned())),
            id => Ok((id, lease)),
        }
    }

    fn keep_alive(&self, lease: &Lease) -> Result<u32, Failure> {
        lease.keep_alive()
    }

    fn put(&self, lease: &Lease, key: &str, value: &[u8]) -> Result<(), Failure> {
        lease.put(key.as_bytes(), value)
    }

    fn get(&self, _: &Lease, key: &str) -> Result<Option<Found<i64>>, Failure> {
        Ok(etcd::get(key.as_bytes())?.map(|entry| Found { value: entry.value, on: entry.lease }))
    }

    fn revoke(&self, lease: &Lease) -> Result<(), Failure> {
        lease.revoke()
    }
}
