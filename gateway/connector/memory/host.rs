//! The embedded registry as plugins see it.

use std::sync::Arc;

use wasmtime::{Result, component::Resource};

use super::{ChangeNumber, Feed, Grant, Memory, Registration, Rejected};
use crate::{
    bindings::{
        registry::witgate::memory::memory as wit,
        wit::{Endpoint, Failure},
    },
    connector::{
        Connectors,
        host::{drop_kept, keep, kept},
    },
};

/// There is one for the whole process.
pub(crate) type Shared = Arc<Memory>;

pub(crate) type Lent = Arc<Memory>;

pub(crate) fn share(memory: &Arc<Memory>) -> Shared {
    memory.clone()
}

impl Memory {
    pub(crate) fn lend(self: &Arc<Self>, _: &Arc<str>, _: &Grant) -> Lent {
        self.clone()
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
        Ok(feed.and_then(|feed| keep(&mut self.table, feed)))
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
        let feed: &mut Feed = kept(&mut self.table, feed)?;
        Ok(Ok(feed.next().await))
    }

    async fn drop(&mut self, feed: Resource<wit::Feed>) -> Result<()> {
        drop_kept::<Feed, _>(&mut self.table, feed)
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
