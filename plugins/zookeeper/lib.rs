//! The registry that is ZooKeeper: what servers of rpcx, Spring Cloud, Dubbo and others write there is read.
//!
//! A service is a node, and each node under it an instance.
//!
//! | layout | node of an instance | data |
//! |---|---|---|
//! | `plain` | `BASE/SERVICE/INSTANCE` | `host:port`; if empty, the instance's name is that |
//! | `json` | `BASE/SERVICE/INSTANCE` | `{"address":"host:port","weight":2,"labels":{"version":"2"}}`, with `priority`, `state`, `hostname` and `zone` if there are any |
//! | `rpcx` | `BASE/SERVICE/NETWORK@host:port` | metadata as a URL query: `weight=2&group=a` |
//! | `curator` | `BASE/SERVICE/ID` | JSON of Curator's `ServiceInstance`, which is Spring Cloud's, too |
//! | `dubbo` | `BASE/INTERFACE/providers/URL`, or `BASE/APPLICATION/host:port` | none, or JSON like Curator's |
//!
//! | setting | for | default | meaning |
//! |---|---|---|---|
//! | `layout` | | none, must be given | one of the five |
//! | `base` | | rpcx must be given it; curator `/services`; dubbo `/dubbo` or, by application, `/services`; else `/` | the path above the services. Slashes around it mean nothing |
//! | `networks` | rpcx | tcp, tcp4, tcp6, reuseport, iouring | endpoints of other networks are left out |
//! | `group` | rpcx, dubbo | any | only instances of this group |
//! | `secure` | curator | false | the port for TLS, where an instance has both |
//! | `by` | dubbo | `interface` | what a service is: an `interface` or an `application` |
//! | `version` | dubbo, by interface | any | only providers of this version |
//! | `protocols` | dubbo | any | only what speaks one of these, like `tri` |
//! | `ttl_seconds` | announcing | 10 | how long an announcement outlives the gateway |
//!
//! Where ZooKeeper is and who the gateway is there is in the registry's table in the configuration, under `zookeeper`.
//!
//! For plugin authors: `layout.rs` says what a node is, `curator.rs` and `dubbo.rs` what is in it. None of them knows a
//! session, and neither does what keeps an announcement alive, `announce.rs` in `guest`. The connector lists and
//! watches; it comes back with `all` when the watch may have missed something.

mod curator;
mod dubbo;
mod layout;

use std::cell::RefCell;

use exports::witgate::registry::registrar::{
    Announcement, Guest as Registrar, GuestRegistration, Registration,
};
use exports::witgate::registry::registry::{
    Change, Endpoint, Failure, Guest as Reader, GuestSubscription, News, Subscription,
};
use guest::announce::{Announced, Found, Registry, Step};
use guest::claims::{Claims, Delta};
use guest::entries::Entry;
use layout::Layout;
use witgate::registry::types::State;
use witgate::zookeeper::zookeeper::{self, Child, Content, Event, Feed, Session};

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(ZooKeeper);

struct ZooKeeper;

impl Reader for ZooKeeper {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Layout::of(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let layout = Layout::of(&settings).map_err(Failure::Invalid)?;
        let path = layout.path(&service).map_err(Failure::Invalid)?;
        let feed = zookeeper::follow(&path, layout.has_data())?;
        Ok(Subscription::new(Following { feed, layout, claims: RefCell::default() }))
    }
}

struct Following {
    feed: Feed,
    layout: Layout,
    /// By the names of nodes, which are the ids of endpoints.
    claims: RefCell<Claims<String>>,
}

impl Following {
    fn read(&self, child: Child) -> (String, Option<Entry>) {
        let entry = self.layout.read(&child.name, &child.data);
        (child.name, entry)
    }
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let content = self.feed.next()?;
        let mut claims = self.claims.borrow_mut();
        let changes: Vec<_> = match content {
            Content::All(children) => {
                let read = children.into_iter().map(|child| self.read(child));
                let all = claims.reset(read.filter_map(|(name, entry)| Some((name, entry?))));
                return Ok(News::Complete(all.map(|(name, entry)| endpoint(name, entry)).collect()));
            }
            Content::Changes(events) => events
                .into_iter()
                .filter_map(|event| match event {
                    Event::Put(child) => {
                        let (name, entry) = self.read(child);
                        claims.put(name, entry)
                    }
                    Event::Delete(name) => claims.delete(&name),
                })
                .collect(),
            Content::Nothing => Vec::new(),
        };
        let change = |delta: Delta<String>| match delta {
            Delta::Put(name, entry) => Change::Put(endpoint(&name, &entry)),
            Delta::Remove(name) => Change::Remove(name),
        };
        Ok(match changes.is_empty() {
            true => News::Unchanged,
            false => News::Changes(changes.into_iter().map(change).collect()),
        })
    }
}

fn endpoint(name: &str, entry: &Entry) -> Endpoint {
    guest::endpoint!(name.to_owned(), entry.clone())
}

impl Registrar for ZooKeeper {
    type Registration = RefCell<Announced<Connector>>;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let layout = Layout::of(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        layout.check(&service, &entry).map_err(Failure::Invalid)?;
        let ttl_seconds = layout.ttl_seconds;
        let written = move |_: &i64| layout.write(&service, &entry);
        let mut announced = Announced::new(ttl_seconds, Box::new(written));
        announced.renew(&Connector)?;
        Ok(Registration::new(RefCell::new(announced)))
    }
}

impl GuestRegistration for RefCell<Announced<Connector>> {
    fn renew(&self) -> Result<u32, Failure> {
        // The session is kept alive by the connector: this is how soon it is noticed that it has ended.
        self.borrow_mut().renew(&Connector).map(|Step { ttl_seconds }| ttl_seconds.saturating_mul(1000) / 3)
    }

    fn withdraw(&self) -> Result<(), Failure> {
        self.borrow_mut().withdraw(&Connector)
    }
}

/// The connector, as what keeps an announcement alive wants it: a session is a lease.
struct Connector;

impl Registry for Connector {
    type Id = i64;
    type Lease = Session;
    type Failure = Failure;

    fn grant(&self, ttl_seconds: u32) -> Result<(i64, Session), Failure> {
        let session = zookeeper::open(ttl_seconds)?;
        Ok((session.id(), session))
    }

    fn keep_alive(&self, session: &Session) -> Result<u32, Failure> {
        Ok(session.alive())
    }

    fn put(&self, session: &Session, key: &str, value: &[u8]) -> Result<(), Failure> {
        session.put(key, value)
    }

    fn get(&self, session: &Session, key: &str) -> Result<Option<Found<i64>>, Failure> {
        Ok(session.get(key)?.map(|found| Found { value: found.data, on: found.owner }))
    }

    fn revoke(&self, session: &Session) -> Result<(), Failure> {
        session.end()
    }
}
