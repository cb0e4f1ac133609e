//! A client for etcd v3: follow a prefix, read a key, hold a lease.
//!
//! It never gives an empty answer for an error, and it finds a connection that is half open by itself.

mod error;
mod feed;
mod host;
mod keys;
mod lease;
mod list;
mod session;

use std::sync::{Arc, Mutex};

use self::{
    error::failure,
    session::{Session, Sessions},
};
pub use self::{feed::Feed, keys::Grant, lease::Lease};
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{Etcd as Keys, INTERFACES, SETTING, USERS, grant},
};
use super::lock;
use crate::{
    backoff::{self, Lasting},
    bindings::registry::witgate::etcd::etcd::{Answer, Content, Entry, Event},
    registry::Failure,
};

/// One etcd as one registry's table names it. Everything that follows it shares a connection, which is made when
/// first needed, closed when nothing needs it, and made anew when it fails.
pub struct Client {
    registry: Arc<str>,
    sessions: Sessions,
    newest: Mutex<Option<Position>>,
    /// That etcd is not the one it was: two behind one address are each other's successor with every answer.
    odd: Mutex<Lasting>,
}

/// Where a cluster was when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    cluster: u64,
    revision: i64,
}

impl From<&etcd_client::ResponseHeader> for Position {
    fn from(header: &etcd_client::ResponseHeader) -> Self {
        Self { cluster: header.cluster_id(), revision: header.revision() }
    }
}

impl Client {
    /// Contacts nobody yet. `registry` is its name in logs.
    pub fn new(registry: Arc<str>, grant: Grant) -> Arc<Self> {
        let sessions = Sessions::new(registry.clone(), grant);
        Arc::new(Self { registry, sessions, newest: Mutex::default(), odd: Mutex::default() })
    }

    pub fn granted(&self) -> &Grant {
        self.sessions.grant()
    }

    /// Follows all keys that begin with `prefix`. The feed lists and watches by itself; failures come out of it.
    ///
    /// Dropping the feed ends the watch.
    pub fn follow(self: &Arc<Self>, prefix: Vec<u8>) -> Feed {
        Feed::start(self.clone(), prefix)
    }

    /// Reads one key.
    pub async fn get(&self, key: Vec<u8>) -> Result<Option<Entry>, Failure> {
        let session = self.session().await?;
        let mut kv = session.kv();
        let mut answer =
            session.within(kv.get(key, None)).await.map_err(|error| self.failed(&session, &error))?;
        Ok(answer.take_kvs().into_iter().next().map(Entry::from))
    }

    /// Takes a lease of at least so many seconds.
    pub async fn grant(self: &Arc<Self>, ttl_seconds: u32) -> Result<Lease, Failure> {
        Lease::grant(self.clone(), ttl_seconds).await
    }

    async fn session(&self) -> Result<Arc<Session>, Failure> {
        self.sessions.get().await
    }

    /// What the error means. A session that may be at fault is not used again.
    fn failed(&self, session: &Session, error: &etcd_client::Error) -> Failure {
        if error::ends_session(error) {
            session.end();
        }
        let endpoint = session.endpoint();
        failure(error, |text| format!("etcd at {endpoint}: {text}"))
    }

    /// Whether it is worth a line in the log.
    fn odd(&self, what: &str) -> Option<backoff::Report> {
        lock(&self.odd).happened(what)
    }

    fn newest(&self) -> Option<Position> {
        *lock(&self.newest)
    }

    /// Notes where etcd is, by a linearizable answer to a question asked when `before` was the newest position.
    ///
    /// Each such answer is at least as new as all that were complete before it was asked for, so that an older
    /// one means that the data was exchanged: a restored backup, an emptied disk, another cluster.
    fn observe(&self, before: Option<Position>, now: Position) {
        match before {
            Some(before) if before.cluster != now.cluster && self.odd("another").is_some() => tracing::warn!(
                registry = %self.registry,
                before = format_args!("{:x}", before.cluster),
                now = format_args!("{:x}", now.cluster),
                "Another etcd cluster answers"
            ),
            Some(before)
                if before.cluster == now.cluster
                    && before.revision > now.revision
                    && self.odd("older").is_some() =>
            {
                tracing::warn!(
                    registry = %self.registry,
                    before = before.revision,
                    now = now.revision,
                    "The revision of etcd went back: was it restored?"
                );
            }
            _ => {}
        }
        let mut newest = lock(&self.newest);
        let older = newest.is_some_and(|newest| {
            before == Some(newest) || newest.cluster == now.cluster && newest.revision < now.revision
        });
        if older || newest.is_none() {
            *newest = Some(now);
        }
    }
}

impl From<etcd_client::KeyValue> for Entry {
    fn from(pair: etcd_client::KeyValue) -> Self {
        let (mod_revision, lease) = (pair.mod_revision(), pair.lease());
        let (key, value) = pair.into_key_value();
        Self { key, value, mod_revision, lease }
    }
}
