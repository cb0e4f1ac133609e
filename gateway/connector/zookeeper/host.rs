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

use super::{Client, Feed, Grant};
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

impl wit::Host for Connectors {
    async fn follow(
        &mut self,
        path: String,
        with_data: bool,
    ) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let Some(client) = &self.zookeeper else { return Ok(Err(self.ungranted("zookeeper"))) };
        let feed = client.follow(path, with_data);
        Ok(keep(&mut self.table, Followed::new(feed)))
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
