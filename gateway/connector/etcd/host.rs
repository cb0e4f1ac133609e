//! etcd as plugins see it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::{Client, Feed, Grant, Lease};
use crate::{
    bindings::{registry::witgate::etcd::etcd as wit, wit::Failure},
    connector::{
        Connectors, HasConnectors, Memory,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        lock,
        refused::Asks,
    },
    registry,
};

/// Everything that follows the same registry shares one connection to it, until its table changes. A client holds no
/// connection unless something follows, so that those of removed registries cost nothing.
#[derive(Default)]
pub(crate) struct Shared(Mutex<HashMap<Arc<str>, Arc<Client>>>);

/// None: it is not granted.
pub(crate) type Lent = Option<Arc<Client>>;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, asks: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        let (grant, registry) = (grant?, &asks.registry);
        let mut clients = lock(&self.0);
        Some(match clients.get(registry) {
            Some(client) if client.granted() == grant => client.clone(),
            _ => {
                let client = Client::new(registry.clone(), grant.clone());
                clients.insert(registry.clone(), client.clone());
                client
            }
        })
    }
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    wit::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)
}

impl Follow for Feed {
    type Answer = wit::Answer;

    async fn next(&mut self) -> std::result::Result<wit::Answer, registry::Failure> {
        self.next().await
    }
}

impl Connectors {
    fn etcd(&self) -> std::result::Result<&Arc<Client>, Failure> {
        self.etcd.as_ref().ok_or_else(|| self.ungranted("etcd"))
    }
}

impl wit::Host for Connectors {
    async fn follow(&mut self, prefix: Vec<u8>) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let feed = self.etcd().map(|client| client.follow(prefix));
        Ok(feed.and_then(|feed| keep(&mut self.table, Followed::new(feed))))
    }

    async fn get(&mut self, key: Vec<u8>) -> Result<std::result::Result<Option<wit::Entry>, Failure>> {
        Ok(match self.etcd().cloned() {
            Ok(client) => {
                let entry = client.get(key).await;
                self.told(entry).await
            }
            Err(denied) => Err(denied),
        })
    }

    async fn grant(
        &mut self,
        ttl_seconds: u32,
    ) -> Result<std::result::Result<Resource<wit::Lease>, Failure>> {
        let client = match self.etcd() {
            Ok(client) => client.clone(),
            Err(denied) => return Ok(Err(denied)),
        };
        // Room first: a lease that is granted and cannot be kept would stay in etcd with nobody to end it.
        let room: Resource<()> = match keep(&mut self.table, ()) {
            Ok(room) => room,
            Err(full) => return Ok(Err(full)),
        };
        let lease = client.grant(ttl_seconds).await;
        let lease = self.told(lease).await;
        drop_kept::<(), _>(&mut self.table, room)?;
        Ok(lease.and_then(|lease| keep(&mut self.table, lease)))
    }
}

impl wit::HostFeed for Connectors {
    async fn next(&mut self, feed: Resource<wit::Feed>) -> Result<std::result::Result<wit::Answer, Failure>> {
        let feed: &mut Followed<Feed> = kept(&mut self.table, feed)?;
        let answer = feed.next().await;
        Ok(self.told(answer).await)
    }

    async fn subscribe(&mut self, feed: Resource<wit::Feed>) -> Result<Resource<DynPollable>> {
        subscribe::<Feed, _>(&mut self.table, feed)
    }

    async fn drop(&mut self, feed: Resource<wit::Feed>) -> Result<()> {
        drop_kept::<Followed<Feed>, _>(&mut self.table, feed)
    }
}

impl wit::HostLease for Connectors {
    async fn id(&mut self, lease: Resource<wit::Lease>) -> Result<i64> {
        Ok(kept::<Lease, _>(&mut self.table, lease)?.id())
    }

    async fn put(
        &mut self,
        lease: Resource<wit::Lease>,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), Failure>> {
        let lease: &mut Lease = kept(&mut self.table, lease)?;
        let put = lease.put(key, value).await;
        Ok(self.told(put).await)
    }

    async fn keep_alive(&mut self, lease: Resource<wit::Lease>) -> Result<std::result::Result<u32, Failure>> {
        let lease: &mut Lease = kept(&mut self.table, lease)?;
        let seconds = lease.keep_alive().await;
        Ok(self.told(seconds).await)
    }

    async fn revoke(&mut self, lease: Resource<wit::Lease>) -> Result<std::result::Result<(), Failure>> {
        let lease: &mut Lease = kept(&mut self.table, lease)?;
        let revoked = lease.revoke().await;
        Ok(self.told(revoked).await)
    }

    async fn drop(&mut self, lease: Resource<wit::Lease>) -> Result<()> {
        drop_kept::<Lease, _>(&mut self.table, lease)
    }
}
