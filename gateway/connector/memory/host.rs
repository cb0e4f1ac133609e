//! The embedded registry as plugins see it.

use std::sync::Arc;

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::{ChangeNumber, Feed, Grant, Memory, Registration, Rejected};
use crate::{
    bindings::{
        registry::witgate::memory::memory as wit,
        wit::{Endpoint, Failure},
    },
    connector::{
        Connectors, HasConnectors,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        refused::Asks,
    },
    registry,
};

/// There is one for the whole process.
pub(crate) type Shared = Arc<Memory>;

/// None: it is not granted.
pub(crate) type Lent = Option<Arc<Memory>>;

pub(crate) fn share(memory: &Arc<Memory>) -> Shared {
    memory.clone()
}

impl Memory {
    pub(in crate::connector) fn lend(self: &Arc<Self>, _: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        grant.map(|Grant| self.clone())
    }
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    wit::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)
}

impl Follow for Feed {
    type Answer = wit::Content;

    async fn next(&mut self) -> std::result::Result<wit::Content, registry::Failure> {
        Ok(self.next().await)
    }
}

impl Connectors {
    fn memory(&self) -> std::result::Result<&Arc<Memory>, Failure> {
        self.memory.as_ref().ok_or_else(|| self.ungranted("memory"))
    }
}

impl wit::Host for Connectors {
    async fn follow(&mut self, service: String) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let feed = self.memory().and_then(|memory| Ok(memory.follow(&service)?));
        Ok(feed.and_then(|feed| keep(&mut self.table, Followed::new(feed))))
    }

    async fn put(
        &mut self,
        service: String,
        endpoint: Endpoint,
        ttl_seconds: u32,
    ) -> Result<std::result::Result<(), Failure>> {
        let id = endpoint.id.clone();
        let registration = Registration::of(endpoint, ttl_seconds);
        let put =
            self.memory().and_then(|memory| Ok((memory.clone(), memory.put(&service, &id, registration)?)));
        Ok(match put {
            Ok((memory, done)) => until_saved(&memory, done.change).await,
            Err(failure) => Err(failure),
        })
    }

    async fn remove(&mut self, service: String, id: String) -> Result<std::result::Result<(), Failure>> {
        let memory = self.memory().cloned();
        Ok(match memory {
            Ok(memory) => until_saved(&memory, memory.remove(&service, &id).1).await,
            Err(failure) => Err(failure),
        })
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

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::Invalid(rejected.to_string())
    }
}

/// A change that cannot be saved is in force all the same, and the gateway has said why it is not.
async fn until_saved(memory: &Memory, change: ChangeNumber) -> std::result::Result<(), Failure> {
    let _ = memory.saved(change).await;
    Ok(())
}
