//! Announcing in Consul, over HTTP: the requests of `agent.rs` and `keys.rs`.

use std::cell::RefCell;
use std::time::Duration;

use guest::announce::{self, Found, Step};
use guest::entries::Entry;
use guest::http::{self, Answer, Client, Failure as Failed, Limit};
use guest::rpcx;

use crate::agent::{self, Problem, Service};
use crate::exports::witgate::registry::registrar::{Announcement, Guest, GuestRegistration, Registration};
use crate::keys;
use crate::settings::Settings;
use crate::witgate::registry::types::Failure;
use crate::{Consul, settings};

/// How long Consul may take for one answer of its store. It holds nothing back here.
const PATIENCE: Limit = Limit::Whole(Duration::from_secs(5));

impl Guest for Consul {
    type Registration = RefCell<Announced>;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let announced = Announced::begin(&settings, &service, &entry);
        Ok(Registration::new(RefCell::new(announced.map_err(|failure| guest::failure!(failure))?)))
    }
}

impl GuestRegistration for RefCell<Announced> {
    fn renew(&self) -> Result<u32, Failure> {
        let renewed = self.borrow_mut().renew().map_err(|failure| guest::failure!(failure));
        // Two heartbeats may get lost before it counts as gone.
        Ok(renewed?.saturating_mul(1000) / 3)
    }

    fn withdraw(&self) -> Result<(), Failure> {
        self.borrow_mut().withdraw().map_err(|failure| guest::failure!(failure))
    }
}

/// An instance that is announced in one of the layouts.
pub enum Announced {
    Service { announced: agent::Announced, ttl_seconds: u32 },
    Key { announced: announce::Announced<Store>, store: Store },
}

impl Announced {
    fn begin(settings: &Settings, service: &str, entry: &Entry) -> Result<Announced, Failed> {
        let ttl_seconds = settings.ttl_seconds;
        match settings.announced(service, entry).map_err(Failed::Invalid)? {
            settings::Announced::Service { tag } => {
                let service = Service::new(service, entry, tag, ttl_seconds).map_err(Failed::Invalid)?;
                let announced = agent::Announced::begin(service, http::urls()?, put)?;
                Ok(Announced::Service { announced, ttl_seconds })
            }
            settings::Announced::Key(key) => {
                let store = Store(Client::granted()?);
                let written = (key, rpcx::write_metadata(entry.weight, &entry.labels));
                let mut announced = announce::Announced::new(ttl_seconds, Box::new(move |_| written.clone()));
                announced.renew(&store)?;
                Ok(Announced::Key { announced, store })
            }
        }
    }

    /// The seconds that it lives on without being renewed.
    fn renew(&mut self) -> Result<u32, Failed> {
        match self {
            Announced::Service { announced, ttl_seconds } => announced.renew(put).map(|()| *ttl_seconds),
            Announced::Key { announced, store } => {
                announced.renew(store).map(|Step { ttl_seconds }| ttl_seconds)
            }
        }
    }

    fn withdraw(&mut self) -> Result<(), Failed> {
        match self {
            Announced::Service { announced, .. } => announced.withdraw(put),
            Announced::Key { announced, store } => announced.withdraw(store),
        }
    }
}

fn put(url: &str, body: &str, patience: Duration) -> Result<(), Problem> {
    let answer = http::put(url, body.as_bytes(), Limit::Whole(patience)).map_err(Problem::NoAnswer)?;
    taken(&answer).map_err(|failure| match is_unknown(&answer) {
        true => Problem::Unknown(failure),
        false => Problem::Answer(failure),
    })
}

/// What an agent says of a service or a check that it does not know, from Consul 1.11 on. Anybody may answer that there
/// is no such page.
fn is_unknown(answer: &Answer) -> bool {
    answer.status == 404 && answer.body.starts_with(b"Unknown ")
}

/// What an answer says that is not the one that was hoped for.
fn taken(answer: &Answer) -> Result<(), Failed> {
    match answer.status {
        200 => Ok(()),
        400 => Err(Failed::Invalid(answer.said())),
        401 | 403 => Err(Failed::Denied(answer.said())),
        _ => Err(Failed::Unavailable(answer.said())),
    }
}

/// The key-value store, as what keeps an announcement alive wants it: a session is a lease.
pub struct Store(Client);

pub struct Session {
    id: String,
    ttl_seconds: u32,
}

impl Store {
    fn ask(&self, path: &str, body: &[u8]) -> Result<Answer, Failed> {
        self.0.put(path, body, PATIENCE)
    }

    /// Whether that was done: Consul answers that it was not where another session holds the key.
    fn does(&self, path: &str, body: &[u8]) -> Result<bool, Failed> {
        let answer = self.ask(path, body)?;
        taken(&answer)?;
        Ok(answer.body.trim_ascii() == b"true")
    }

    fn held(&self, key: &str) -> Result<Option<Found<String>>, Failed> {
        let answer = self.0.get(&keys::path(key), &[], PATIENCE)?;
        // Anybody may answer that there is no such page.
        if answer.status == 404 && answer.header("x-consul-index").is_some() {
            return Ok(None);
        }
        taken(&answer)?;
        keys::read(&answer.body)
            .map(Some)
            .map_err(|why| Failed::Unavailable(format!("{} answered {why}", answer.url)))
    }
}

impl announce::Registry for Store {
    type Id = String;
    type Lease = Session;
    type Failure = Failed;

    fn grant(&self, ttl_seconds: u32) -> Result<(String, Session), Failed> {
        let answer = self.ask("/v1/session/create", keys::session(ttl_seconds).as_bytes())?;
        taken(&answer)?;
        let id = keys::session_id(&answer.body)
            .map_err(|why| Failed::Unavailable(format!("{} answered {why}", answer.url)))?;
        Ok((id.clone(), Session { id, ttl_seconds }))
    }

    fn keep_alive(&self, Session { id, ttl_seconds }: &Session) -> Result<u32, Failed> {
        let answer = self.ask(&format!("/v1/session/renew/{id}"), b"")?;
        if answer.status == 404 {
            return Ok(0);
        }
        taken(&answer).map(|()| *ttl_seconds)
    }

    fn put(&self, Session { id, .. }: &Session, key: &str, value: &[u8]) -> Result<(), Failed> {
        if self.does(&keys::hold(key, id), value)? {
            return Ok(());
        }
        let Some(held) = self.held(key)?.filter(|held| !held.on.is_empty()) else {
            return Err(Failed::Unavailable(format!(
                "the key {key} cannot be held yet: a session that held it has just ended, and Consul keeps it from \
                 others for the LockDelay of that session"
            )));
        };
        // Somebody has announced the same instance and is gone: that session would take the key with it. The key is
        // there all the time.
        self.does(&keys::let_go(key, &held.on), value)?;
        match self.does(&keys::hold(key, id), value)? {
            true => Ok(()),
            false => Err(Failed::Unavailable(format!("the key {key} is held by another session"))),
        }
    }

    fn get(&self, _: &Session, key: &str) -> Result<Option<Found<String>>, Failed> {
        self.held(key)
    }

    fn revoke(&self, Session { id, .. }: &Session) -> Result<(), Failed> {
        taken(&self.ask(&format!("/v1/session/destroy/{id}"), b"")?)
    }
}
