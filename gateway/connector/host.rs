//! The connectors as plugins see them: the generated traits, answered by [`Connectors`].

use std::sync::Arc;

use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource, ResourceTable},
};

use super::{
    Connectors, EtcdFeed, EtcdLease, FileFeed, Memory, MemoryFeed, etcd, file, memory, refused::Kind,
};
use crate::{
    bindings::wit::{self, Failure, etcd as wit_etcd, file as wit_file, memory as wit_memory, types},
    registry,
};

/// Gives every import of a registry plugin that is a connector to `linker`.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut Connectors,
) -> Result<()> {
    types::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;
    wit_etcd::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;
    wit_memory::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;
    wit_file::add_to_linker::<T, HasSelf<Connectors>>(linker, get)?;
    Ok(())
}

impl Connectors {
    fn etcd(&self) -> std::result::Result<&Arc<etcd::Client>, Failure> {
        self.etcd.as_ref().ok_or_else(|| self.ungranted(Kind::Etcd, "connector etcd"))
    }

    fn memory(&self) -> std::result::Result<&Arc<Memory>, Failure> {
        self.memory.as_ref().ok_or_else(|| self.ungranted(Kind::Memory, "connector memory"))
    }

    fn ungranted(&self, kind: Kind, what: &str) -> Failure {
        Failure::Denied(self.asks.refused(kind, &what))
    }

    /// A file that is not lent is told in the log, like everything else that is not.
    fn inside<T>(
        &self,
        found: std::result::Result<T, registry::Failure>,
    ) -> std::result::Result<T, registry::Failure> {
        found.map_err(|failure| match failure {
            registry::Failure::Denied(text) => {
                registry::Failure::Denied(self.asks.refused(Kind::Outside, &text))
            }
            failure => failure,
        })
    }
}

impl Connectors {
    /// What a guest is told of what it has waited for. One that asks again at once after each failure is told ever
    /// later, up to a second: its waits cost it no computing time, so that nothing else would stop it.
    async fn told<T>(
        &mut self,
        outcome: std::result::Result<T, registry::Failure>,
    ) -> std::result::Result<T, Failure> {
        match outcome {
            Ok(told) => {
                self.failing.works();
                Ok(told)
            }
            Err(failure) => {
                tokio::time::sleep(self.failing.pause()).await;
                Err(failure.into())
            }
        }
    }
}

/// A guest that holds too many resources is told so; it is not trapped, since it may let go of some.
fn keep<R: Send + 'static, W: 'static>(
    table: &mut ResourceTable,
    resource: R,
) -> std::result::Result<Resource<W>, Failure> {
    let kept = table.push(resource);
    kept.map(|kept| Resource::new_own(kept.rep()))
        .map_err(|error| Failure::Other(format!("too many feeds and leases: {error}")))
}

/// What stands behind a guest's resource. The generated types of resources are empty names, so that the bindings need
/// not know the connectors; the table knows what is behind each.
fn kept<R: 'static, W: 'static>(table: &mut ResourceTable, resource: Resource<W>) -> Result<&mut R> {
    Ok(table.get_mut(&Resource::new_borrow(resource.rep()))?)
}

fn drop_kept<R: 'static, W: 'static>(table: &mut ResourceTable, resource: Resource<W>) -> Result<()> {
    table.delete(Resource::<R>::new_own(resource.rep()))?;
    Ok(())
}

impl types::Host for Connectors {}

impl wit_etcd::Host for Connectors {
    async fn follow(
        &mut self,
        prefix: Vec<u8>,
    ) -> Result<std::result::Result<Resource<wit_etcd::Feed>, Failure>> {
        let feed = self.etcd().map(|client| client.follow(prefix));
        Ok(feed.and_then(|feed| keep(&mut self.table, feed)))
    }

    async fn get(&mut self, key: Vec<u8>) -> Result<std::result::Result<Option<wit_etcd::Entry>, Failure>> {
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
    ) -> Result<std::result::Result<Resource<wit_etcd::Lease>, Failure>> {
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

impl wit_etcd::HostFeed for Connectors {
    async fn next(
        &mut self,
        feed: Resource<wit_etcd::Feed>,
    ) -> Result<std::result::Result<wit_etcd::Answer, Failure>> {
        let feed: &mut EtcdFeed = kept(&mut self.table, feed)?;
        let answer = feed.next().await;
        Ok(self.told(answer).await)
    }

    async fn drop(&mut self, feed: Resource<wit_etcd::Feed>) -> Result<()> {
        drop_kept::<EtcdFeed, _>(&mut self.table, feed)
    }
}

impl wit_etcd::HostLease for Connectors {
    async fn id(&mut self, lease: Resource<wit_etcd::Lease>) -> Result<i64> {
        Ok(kept::<EtcdLease, _>(&mut self.table, lease)?.id())
    }

    async fn put(
        &mut self,
        lease: Resource<wit_etcd::Lease>,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<std::result::Result<(), Failure>> {
        let lease: &mut EtcdLease = kept(&mut self.table, lease)?;
        let put = lease.put(key, value).await;
        Ok(self.told(put).await)
    }

    async fn keep_alive(
        &mut self,
        lease: Resource<wit_etcd::Lease>,
    ) -> Result<std::result::Result<u32, Failure>> {
        let lease: &mut EtcdLease = kept(&mut self.table, lease)?;
        let seconds = lease.keep_alive().await;
        Ok(self.told(seconds).await)
    }

    async fn revoke(&mut self, lease: Resource<wit_etcd::Lease>) -> Result<std::result::Result<(), Failure>> {
        let lease: &mut EtcdLease = kept(&mut self.table, lease)?;
        let revoked = lease.revoke().await;
        Ok(self.told(revoked).await)
    }

    async fn drop(&mut self, lease: Resource<wit_etcd::Lease>) -> Result<()> {
        drop_kept::<EtcdLease, _>(&mut self.table, lease)
    }
}

impl wit_memory::Host for Connectors {
    async fn follow(
        &mut self,
        service: String,
    ) -> Result<std::result::Result<Resource<wit_memory::Feed>, Failure>> {
        let feed = self.memory().and_then(|memory| Ok(memory.follow(&service)?));
        Ok(feed.and_then(|feed| keep(&mut self.table, feed)))
    }

    async fn put(
        &mut self,
        service: String,
        endpoint: wit::Endpoint,
        ttl_seconds: u32,
    ) -> Result<std::result::Result<(), Failure>> {
        let id = endpoint.id.clone();
        let registration = memory::Registration::of(endpoint, ttl_seconds);
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

impl wit_memory::HostFeed for Connectors {
    async fn next(
        &mut self,
        feed: Resource<wit_memory::Feed>,
    ) -> Result<std::result::Result<wit_memory::Content, Failure>> {
        let feed: &mut MemoryFeed = kept(&mut self.table, feed)?;
        Ok(Ok(feed.next().await))
    }

    async fn drop(&mut self, feed: Resource<wit_memory::Feed>) -> Result<()> {
        drop_kept::<MemoryFeed, _>(&mut self.table, feed)
    }
}

impl wit_file::Host for Connectors {
    async fn follow(
        &mut self,
        name: Option<String>,
    ) -> Result<std::result::Result<Resource<wit_file::Feed>, Failure>> {
        let feed = match (&self.file, name) {
            (Some((path, folders)), None) => Ok(file::follow(path, folders.clone())),
            (Some((path, folders)), Some(name)) => {
                self.inside(file::follow_inside(path, &name, folders.clone())).map_err(Failure::from)
            }
            (None, _) => Err(self.ungranted(Kind::File, "connector file")),
        };
        Ok(feed.and_then(|feed| keep(&mut self.table, feed)))
    }
}

impl wit_file::HostFeed for Connectors {
    async fn next(
        &mut self,
        feed: Resource<wit_file::Feed>,
    ) -> Result<std::result::Result<Vec<u8>, Failure>> {
        let feed: &mut FileFeed = kept(&mut self.table, feed)?;
        let content = feed.next().await;
        let content = self.inside(content);
        Ok(self.told(content).await)
    }

    async fn drop(&mut self, feed: Resource<wit_file::Feed>) -> Result<()> {
        drop_kept::<FileFeed, _>(&mut self.table, feed)
    }
}

impl From<registry::Failure> for Failure {
    fn from(failure: registry::Failure) -> Self {
        match failure {
            registry::Failure::Unavailable(text) => Self::Unavailable(text),
            registry::Failure::Denied(text) => Self::Denied(text),
            registry::Failure::Invalid(text) => Self::Invalid(text),
            registry::Failure::Other(text) | registry::Failure::Plugin(text) => Self::Other(text),
        }
    }
}

impl From<memory::Rejected> for Failure {
    fn from(rejected: memory::Rejected) -> Self {
        Self::Invalid(rejected.to_string())
    }
}

/// A change that cannot be saved is in force all the same, and the gateway has said why it is not.
async fn until_saved(memory: &Memory, change: memory::ChangeNumber) -> std::result::Result<(), Failure> {
    let _ = memory.saved(change).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, connector::Lent};

    fn connectors(grants: config::Grants) -> Connectors {
        Lent::new(Memory::unkept()).connectors(&config::Registry {
            name: "main".into(),
            plugin: "any".into(),
            grants,
            settings: "{}".into(),
        })
    }

    fn denied<T>(answer: Result<std::result::Result<T, Failure>>) -> String {
        match answer.unwrap() {
            Err(Failure::Denied(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("granted"),
        }
    }

    #[tokio::test]
    async fn what_is_not_granted_is_denied_and_names_the_setting() {
        let mut none = connectors(config::Grants::default());
        let endpoint = wit::plain("a", "a:1");
        for (text, setting) in [
            (denied(wit_etcd::Host::follow(&mut none, vec![]).await), "etcd = { endpoints = [...] }"),
            (denied(wit_etcd::Host::get(&mut none, vec![]).await), "etcd = { endpoints = [...] }"),
            (denied(wit_etcd::Host::grant(&mut none, 5).await), "etcd = { endpoints = [...] }"),
            (denied(wit_memory::Host::follow(&mut none, "a".into()).await), "memory = true"),
            (denied(wit_memory::Host::put(&mut none, "a".into(), endpoint, 5).await), "memory = true"),
            (denied(wit_memory::Host::remove(&mut none, "a".into(), "a".into()).await), "memory = true"),
            (denied(wit_file::Host::follow(&mut none, None).await), "file = \"PATH\""),
        ] {
            assert!(text.contains(&format!("`{setting}` in [registry.main]")), "{text}");
        }
    }

    #[tokio::test]
    async fn a_check_of_settings_is_not_told_that_a_setting_would_grant_more() {
        let mut checks = Lent::new(Memory::unkept()).nothing("any", "main");
        let text = denied(wit_memory::Host::follow(&mut checks, "a".into()).await);
        assert!(text.contains("while settings are checked") && !text.contains("[registry"), "{text}");
    }

    #[tokio::test]
    async fn a_file_outside_of_the_folder_is_denied() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hosts", folder.path().join("link")).unwrap();
        let file = Some(folder.path().to_owned());
        let mut connectors = connectors(config::Grants { file, ..Default::default() });
        let text = denied(wit_file::Host::follow(&mut connectors, Some("../secret".into())).await);
        assert!(text.contains("../secret"), "{text}");
        let feed = wit_file::Host::follow(&mut connectors, Some("link".into())).await.unwrap().unwrap();
        let text = denied(wit_file::HostFeed::next(&mut connectors, feed).await);
        assert!(text.contains("leads out of"), "{text}");
    }

    /// A file that is not there: each attempt takes the guest no computing time at all.
    #[tokio::test(start_paused = true)]
    async fn a_guest_that_asks_again_at_once_hears_of_failures_ever_later() {
        let nowhere = Some("/nowhere/at/all".into());
        let mut connectors = connectors(config::Grants { file: nowhere, ..Default::default() });
        let mut attempts = 0;
        let asks = async {
            loop {
                let feed = wit_file::Host::follow(&mut connectors, None).await.unwrap().unwrap();
                let (used, owned) = (Resource::new_borrow(feed.rep()), feed);
                wit_file::HostFeed::next(&mut connectors, used).await.unwrap().unwrap_err();
                wit_file::HostFeed::drop(&mut connectors, owned).await.unwrap();
                attempts += 1;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(2), asks).await.unwrap_err();
        assert!((2..=12).contains(&attempts), "{attempts} attempts");
    }

    #[tokio::test]
    async fn a_guest_that_holds_too_much_is_told_so() {
        let mut connectors = connectors(config::Grants { memory: true, ..Default::default() });
        let mut feeds = Vec::new();
        let failure = loop {
            match wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap() {
                Ok(feed) => feeds.push(feed),
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, Failure::Other(text) if text.contains("too many")));
        assert_eq!(feeds.len(), crate::connector::MOST_RESOURCES);
        wit_memory::HostFeed::drop(&mut connectors, feeds.pop().unwrap()).await.unwrap();
        assert!(wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_memory_of_the_process_is_seen_by_its_followers() {
        let mut connectors = connectors(config::Grants { memory: true, ..Default::default() });
        let feed = wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap().unwrap();
        let endpoint = wit::plain("a", "a:1");
        let put = wit_memory::Host::put(&mut connectors, "orders".into(), endpoint, 0).await;
        assert!(put.unwrap().is_ok());
        let content = wit_memory::HostFeed::next(&mut connectors, feed).await.unwrap();
        assert!(matches!(content, Ok(wit_memory::Content::All(all)) if all.len() == 1));
    }
}
