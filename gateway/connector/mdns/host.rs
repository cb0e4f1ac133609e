//! Multicast DNS as plugins see it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak},
};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::{Client, Feed, Grant, Presence};
use crate::{
    bindings::{registry::witgate::mdns::mdns as wit, wit::Failure},
    connector::{
        Connectors, HasConnectors, Memory,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        lock,
        refused::Asks,
    },
    registry,
};

/// All registries whose tables name the same links share one client.
#[derive(Default)]
pub(crate) struct Shared(Mutex<HashMap<Grant, Weak<Client>>>);

/// None: it is not granted.
pub(crate) type Lent = Option<Arc<Client>>;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, _: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        let grant = grant?;
        let mut clients = lock(&self.0);
        if let Some(client) = clients.get(grant).and_then(Weak::upgrade) {
            return Some(client);
        }
        let client = Client::new(grant.clone());
        clients.retain(|_, client| client.strong_count() > 0);
        clients.insert(grant.clone(), Arc::downgrade(&client));
        Some(client)
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
    fn mdns(&self) -> std::result::Result<Arc<Client>, Failure> {
        self.mdns.clone().ok_or_else(|| self.ungranted("mdns"))
    }
}

impl wit::Host for Connectors {
    async fn follow(
        &mut self,
        service_type: String,
        names: Vec<String>,
    ) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let client = match self.mdns() {
            Ok(client) => client,
            Err(denied) => return Ok(Err(denied)),
        };
        let feed = client.follow(&service_type, names).await;
        let feed = self.told(feed).await;
        Ok(feed.and_then(|feed| keep(&mut self.table, Followed::new(feed))))
    }

    async fn announce(
        &mut self,
        announcement: wit::Announcement,
    ) -> Result<std::result::Result<Resource<wit::Presence>, Failure>> {
        let client = match self.mdns() {
            Ok(client) => client,
            Err(denied) => return Ok(Err(denied)),
        };
        let wit::Announcement { service_type, name, ip, port, texts, ttl_seconds } = announcement;
        let presence = client.announce(&service_type, name, &ip, port, texts, ttl_seconds).await;
        let presence = self.told(presence).await;
        Ok(presence.and_then(|presence| keep(&mut self.table, presence)))
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

impl wit::HostPresence for Connectors {
    async fn name(&mut self, presence: Resource<wit::Presence>) -> Result<String> {
        Ok(kept::<Presence, _>(&mut self.table, presence)?.name().to_owned())
    }

    async fn alive(&mut self, presence: Resource<wit::Presence>) -> Result<bool> {
        Ok(kept::<Presence, _>(&mut self.table, presence)?.is_alive())
    }

    async fn withdraw(
        &mut self,
        presence: Resource<wit::Presence>,
    ) -> Result<std::result::Result<(), Failure>> {
        let presence: &mut Presence = kept(&mut self.table, presence)?;
        let withdrawn = presence.withdraw().await;
        Ok(self.told(withdrawn).await)
    }

    async fn drop(&mut self, presence: Resource<wit::Presence>) -> Result<()> {
        drop_kept::<Presence, _>(&mut self.table, presence)
    }
}
