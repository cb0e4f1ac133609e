//! Files as plugins see them.

use std::{path::PathBuf, sync::Arc};

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::{Feed, Grant, follow, follow_inside};
use crate::{
    bindings::{registry::witgate::file::file as wit, wit::Failure},
    connector::{
        self, Connectors, Grants, HasConnectors, Memory,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        refused::{Asks, Refused},
    },
    files::{Folders, Subscription},
    registry,
};

/// The folders that are watched.
#[derive(Default)]
pub(crate) struct Shared(Arc<Folders>);

/// None: it is not granted.
pub(crate) type Lent = Option<(PathBuf, Arc<Folders>)>;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, _: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        grant.map(|path| (path.clone(), self.0.clone()))
    }
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    wit::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)
}

impl Follow for Feed {
    type Answer = Vec<u8>;

    async fn next(&mut self) -> std::result::Result<Vec<u8>, registry::Failure> {
        self.next().await
    }
}

impl Connectors {
    /// A file that is not lent is told in the log, like everything else that is not.
    fn inside<T>(
        &self,
        found: std::result::Result<T, registry::Failure>,
    ) -> std::result::Result<T, registry::Failure> {
        found.map_err(|failure| match failure {
            registry::Failure::Denied(text) => {
                registry::Failure::Denied(self.asks.refused(Refused::Outside, &text))
            }
            failure => failure,
        })
    }
}

impl connector::Lent {
    /// Tells of changes of the file that a registry grants, from now on; none if it grants none.
    pub fn file_changes(&self, grants: &Grants) -> Option<Subscription> {
        grants.file.as_deref().map(|path| self.file.0.changes(path))
    }
}

impl wit::Host for Connectors {
    async fn follow(
        &mut self,
        name: Option<String>,
    ) -> Result<std::result::Result<Resource<wit::Feed>, Failure>> {
        let feed = match (&self.file, name) {
            (Some((path, folders)), None) => Ok(follow(path, folders.clone())),
            (Some((path, folders)), Some(name)) => {
                self.inside(follow_inside(path, &name, folders.clone())).map_err(Failure::from)
            }
            (None, _) => Err(self.ungranted("file")),
        };
        Ok(feed.and_then(|feed| keep(&mut self.table, Followed::new(feed))))
    }
}

impl wit::HostFeed for Connectors {
    async fn next(&mut self, feed: Resource<wit::Feed>) -> Result<std::result::Result<Vec<u8>, Failure>> {
        let feed: &mut Followed<Feed> = kept(&mut self.table, feed)?;
        let content = feed.next().await;
        let content = self.inside(content);
        Ok(self.told(content).await)
    }

    async fn subscribe(&mut self, feed: Resource<wit::Feed>) -> Result<Resource<DynPollable>> {
        subscribe::<Feed, _>(&mut self.table, feed)
    }

    async fn drop(&mut self, feed: Resource<wit::Feed>) -> Result<()> {
        drop_kept::<Followed<Feed>, _>(&mut self.table, feed)
    }
}
