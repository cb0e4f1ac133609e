//! ZooKeeper as plugins see it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::{Client, Feed, Grant, Presence, wire::Data};
use crate::{
    bindings::{registry::witgate::zookeeper::zookeeper as wit, wit::Failure},
    connector::{
        Connectors, HasConnectors, Memory,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        lock,
        refused::Asks,
    },
    registry,
    tls::Files,
};

/// Everything that follows the same registry shares one session with it, until its table changes. A client holds no
/// connection unless something follows, so that those of removed registries cost nothing.
#[derive(Default)]
pub(crate) struct Shared {
    clients: Mutex<HashMap<Arc<str>, Arc<Client>>>,
    /// The files of TLS, followed, so that renewed certificates count.
    files: Files,
}

/// None: it is not granted.
pub(crate) type Lent = Option<Arc<Client>>;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, asks: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        let (grant, registry) = (grant?, &asks.registry);
        let mut clients = lock(&self.clients);
        Some(match clients.get(registry) {
            Some(client) if client.granted() == grant => client.clone(),
            _ => {
                let tls = grant.tls.as_ref().map(|settings| self.files.client(settings));
                let client = Client::new(registry.clone(), grant.clone(), tls);
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
    type Answer = wit::Content;

    async fn next(&mut self) -> std::result::Result<wit::Content, registry::Failure> {
        self.next().await
    }
}

impl Connectors {
    fn zookeeper(&self) -> std::result::Result<&Arc<Client>, Failure> {
        self.zookeeper.as_ref().ok_or_else(|| self.ungranted("zookeeper"))
    }
}

impl wit::Host for Connectors {
    async fn follow(
        &mut self,
        path: String,
        with_data: bool,
    ) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let feed = self.zookeeper().map(|client| client.follow(path, with_data));
        Ok(feed.and_then(|feed| keep(&mut self.table, Followed::new(feed))))
    }

    async fn open(
        &mut self,
        timeout_seconds: u32,
    ) -> Result<std::result::Result<Resource<wit::Session>, Failure>> {
        let client = match self.zookeeper() {
            Ok(client) => client.clone(),
            Err(denied) => return Ok(Err(denied)),
        };
        let session = client.open(timeout_seconds).await;
        let session = self.told(session).await;
        Ok(session.and_then(|session| keep(&mut self.table, session)))
    }
}

impl wit::HostFeed for Connectors {
    async fn next(
        &mut self,
        feed: Resource<wit::Feed>,
    ) -> Result<std::result::Result<wit::Content, Failure>> {
        let feed: &mut Followed<Feed> = kept(&mut self.table, feed)?;
        let content = feed.next().await;
        Ok(self.told(content).await)
    }

    async fn subscribe(&mut self, feed: Resource<wit::Feed>) -> Result<Resource<DynPollable>> {
        subscribe::<Feed, _>(&mut self.table, feed)
    }

    async fn drop(&mut self, feed: Resource<wit::Feed>) -> Result<()> {
        drop_kept::<Followed<Feed>, _>(&mut self.table, feed)
    }
}

impl wit::HostSession for Connectors {
    async fn id(&mut self, session: Resource<wit::Session>) -> Result<i64> {
        Ok(kept::<Presence, _>(&mut self.table, session)?.id())
    }

    async fn put(
        &mut self,
        session: Resource<wit::Session>,
        path: String,
        data: Vec<u8>,
    ) -> Result<std::result::Result<(), Failure>> {
        let session: &mut Presence = kept(&mut self.table, session)?;
        let put = session.put(&path, &data).await;
        Ok(self.told(put).await)
    }

    async fn get(
        &mut self,
        session: Resource<wit::Session>,
        path: String,
    ) -> Result<std::result::Result<Option<wit::Child>, Failure>> {
        let session: &mut Presence = kept(&mut self.table, session)?;
        let found = session.get(&path).await;
        let child = |found: Data| {
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            wit::Child { name, data: found.bytes, mzxid: found.stat.mzxid, owner: found.stat.owner }
        };
        Ok(self.told(found).await.map(|found| found.map(child)))
    }

    async fn alive(&mut self, session: Resource<wit::Session>) -> Result<u32> {
        Ok(kept::<Presence, _>(&mut self.table, session)?.alive())
    }

    async fn end(&mut self, session: Resource<wit::Session>) -> Result<std::result::Result<(), Failure>> {
        let session: &mut Presence = kept(&mut self.table, session)?;
        let ended = session.end().await;
        Ok(self.told(ended).await)
    }

    async fn drop(&mut self, session: Resource<wit::Session>) -> Result<()> {
        drop_kept::<Presence, _>(&mut self.table, session)
    }
}
