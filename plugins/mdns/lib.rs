//! The registry that is multicast DNS: who announces a service on the links of this machine.
//!
//! | layout | instances | what they say |
//! |---|---|---|
//! | `dns-sd` | those of a type, by their names and texts | texts like `weight=2`, `zone=a`, and any as labels |
//! | `rpcx` | those of `_rpcxservices`, each of which may offer several services | a list in JSON, escaped for a URL |
//!
//! | setting | for | default | meaning |
//! |---|---|---|---|
//! | `layout` | | `dns-sd` | one of the two |
//! | `type` | | `_{service}._tcp`, or `_rpcxservices` | the type of services. `{service}` stands for the name of the service here, in `instance` and in `txt` |
//! | `instance` | dns-sd | `{service}`, or `*` if the type or the texts have that | the names of instances; `*` is anything |
//! | `txt` | dns-sd | none | texts that an instance must have: `{ env = "prod" }` |
//! | `family` | dns-sd | `any` | addresses that are used: `ipv4`, `ipv6`, or `any`, which prefers IPv4 |
//! | `networks` | rpcx | tcp, tcp4, tcp6, reuseport, iouring | endpoints of other networks are left out |
//! | `group` | rpcx | any | only instances of this group |
//! | `ttl_seconds` | rpcx, announcing | 120 | how long others believe an announcement when they hear no more |
//!
//! On which links is in the registry's table in the configuration, under `mdns`.
//!
//! For plugin authors: `settings.rs` says what is looked for, `instance.rs` what is found and what is announced. Neither
//! knows a link.

mod instance;
mod settings;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use exports::witgate::registry::registrar::{
    Announcement, Guest as Registrar, GuestRegistration, Registration,
};
use exports::witgate::registry::registry::{
    Change, Endpoint, Failure, Guest as Reader, GuestSubscription, News, Subscription,
};
use guest::claims::{Claims, Delta};
use guest::entries::Entry;
use instance::Instance;
use settings::Settings;
use witgate::mdns::mdns::{self, Content, Event, Feed, Presence};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Mdns);

struct Mdns;

impl Reader for Mdns {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let wanted = settings.wanted(&service).map_err(Failure::Invalid)?;
        let feed = mdns::follow(&wanted.kind, &wanted.names)?;
        Ok(Subscription::new(Following { feed, wanted, claims: RefCell::default() }))
    }
}

struct Following {
    feed: Feed,
    wanted: settings::Wanted,
    claims: RefCell<Known>,
}

/// What is claimed, and by which instance.
#[derive(Default)]
struct Known {
    claims: Claims<String>,
    of: BTreeMap<String, Vec<String>>,
}

impl Known {
    /// What it means that this instance offers this now.
    fn offers(&mut self, name: String, entries: Vec<(String, Entry)>) -> Vec<Delta<String>> {
        let ids = entries.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
        let before = self.of.remove(&name).unwrap_or_default();
        let gone: Vec<_> = before.into_iter().filter(|id| !ids.contains(id)).collect();
        let gone: Vec<_> = gone.iter().filter_map(|id| self.claims.delete(id)).collect();
        if !ids.is_empty() {
            self.of.insert(name, ids);
        }
        let new = entries.into_iter().filter_map(|(id, entry)| self.claims.put(id, Some(entry)));
        gone.into_iter().chain(new).collect()
    }
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let content = self.feed.next()?;
        let mut known = self.claims.borrow_mut();
        let mut changes = Vec::new();
        match content {
            Content::All(instances) => {
                *known = Known::default();
                let mut all = Vec::new();
                for found in instances {
                    let (name, entries) = self.read(found);
                    all.extend(known.offers(name, entries));
                }
                let endpoints = all.into_iter().filter_map(|delta| match delta {
                    Delta::Put(id, entry) => Some(guest::endpoint!(id, entry)),
                    Delta::Remove(_) => None,
                });
                return Ok(News::Complete(endpoints.collect()));
            }
            Content::Changes(events) => {
                for event in events {
                    let (name, entries) = match event {
                        Event::Put(found) => self.read(found),
                        Event::Delete(name) => (name, Vec::new()),
                    };
                    changes.extend(known.offers(name, entries));
                }
            }
            Content::Nothing => {}
        }
        let change = |delta: Delta<String>| match delta {
            Delta::Put(id, entry) => Change::Put(guest::endpoint!(id, entry)),
            Delta::Remove(id) => Change::Remove(id),
        };
        Ok(match changes.is_empty() {
            true => News::Unchanged,
            false => News::Changes(changes.into_iter().map(change).collect()),
        })
    }
}

impl Following {
    fn read(&self, found: mdns::Instance) -> (String, Vec<(String, Entry)>) {
        let mdns::Instance { name, host, addresses, port, priority, weight, texts } = found;
        let instance = Instance { name, host, addresses, port, priority, weight, texts };
        let entries = self.wanted.read(&instance);
        (instance.name, entries)
    }
}

impl Registrar for Mdns {
    type Registration = Announced;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let written = settings.written(&service, &entry).map_err(Failure::Invalid)?;
        let announcement = mdns::Announcement {
            service_type: written.kind,
            name: written.name,
            ip: written.ip,
            port: written.port,
            texts: written.texts,
            ttl_seconds: settings.ttl_seconds,
        };
        let presence = Cell::new(Some(mdns::announce(&announcement)?));
        Ok(Registration::new(Announced { announcement, presence }))
    }
}

struct Announced {
    announcement: mdns::Announcement,
    presence: Cell<Option<Presence>>,
}

impl GuestRegistration for Announced {
    fn renew(&self) -> Result<u32, Failure> {
        let alive = self.presence.take().filter(Presence::alive);
        let presence = match alive {
            Some(presence) => presence,
            None => mdns::announce(&self.announcement)?,
        };
        self.presence.set(Some(presence));
        // The connector answers by itself: this is how soon it is noticed that a link was lost.
        Ok(self.announcement.ttl_seconds.saturating_mul(1000) / 12)
    }

    fn withdraw(&self) -> Result<(), Failure> {
        match self.presence.take() {
            Some(presence) => presence.withdraw(),
            None => Ok(()),
        }
    }
}
