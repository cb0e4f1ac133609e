//! What all connectors have in common where plugins call them.

use wasmtime::{
    Result,
    component::{Resource, ResourceTable},
};
use wasmtime_wasi::{
    async_trait,
    p2::{DynPollable, Pollable},
};

use super::{Connectors, refused::Refused};
use crate::{
    bindings::wit::{Failure, types},
    registry,
};

impl Connectors {
    /// What a guest is told that calls a connector which its registry's table does not name.
    pub(super) fn ungranted(&self, connector: &'static str) -> Failure {
        Failure::Denied(
            self.asks.refused(Refused::Connector(connector), &format_args!("connector {connector}")),
        )
    }

    /// What a guest is told of what it has waited for. One that asks again at once after each failure is told ever
    /// later, up to a second: its waits cost it no computing time, so that nothing else would stop it.
    pub(super) async fn told<T>(
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

/// What is waited for again and again. Dropping the future loses nothing.
pub(super) trait Follow: Send + 'static {
    type Answer: Send;

    fn next(&mut self) -> impl Future<Output = std::result::Result<Self::Answer, registry::Failure>> + Send;
}

/// What a guest follows: it asks for the next answer, or waits beside other things until there is one.
pub(super) struct Followed<F: Follow> {
    feed: F,
    /// Was waited for and not asked for yet.
    ahead: Option<std::result::Result<F::Answer, registry::Failure>>,
}

impl<F: Follow> Followed<F> {
    pub fn new(feed: F) -> Self {
        Self { feed, ahead: None }
    }

    pub async fn next(&mut self) -> std::result::Result<F::Answer, registry::Failure> {
        match self.ahead.take() {
            Some(answer) => answer,
            None => self.feed.next().await,
        }
    }
}

#[async_trait]
impl<F: Follow> Pollable for Followed<F> {
    async fn ready(&mut self) {
        if self.ahead.is_none() {
            self.ahead = Some(self.feed.next().await);
        }
    }
}

/// What a guest waits with for the next answer of a [`Followed`].
pub(super) fn subscribe<F: Follow, W: 'static>(
    table: &mut ResourceTable,
    feed: Resource<W>,
) -> Result<Resource<DynPollable>> {
    wasmtime_wasi::p2::subscribe(table, Resource::<Followed<F>>::new_borrow(feed.rep()))
}

/// A guest that holds too many resources is told so; it is not trapped, since it may let go of some.
pub(super) fn keep<R: Send + 'static, W: 'static>(
    table: &mut ResourceTable,
    resource: R,
) -> std::result::Result<Resource<W>, Failure> {
    let kept = table.push(resource);
    kept.map(|kept| Resource::new_own(kept.rep()))
        .map_err(|error| Failure::Other(format!("too many resources: {error}")))
}

/// What stands behind a guest's resource. The generated types of resources are empty names, so that the bindings need
/// not know the connectors; the table knows what is behind each.
pub(super) fn kept<R: 'static, W: 'static>(
    table: &mut ResourceTable,
    resource: Resource<W>,
) -> Result<&mut R> {
    Ok(table.get_mut(&Resource::new_borrow(resource.rep()))?)
}

pub(super) fn drop_kept<R: 'static, W: 'static>(
    table: &mut ResourceTable,
    resource: Resource<W>,
) -> Result<()> {
    table.delete(Resource::<R>::new_own(resource.rep()))?;
    Ok(())
}

impl types::Host for Connectors {}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bindings::{
            registry::witgate::{
                dns::dns as wit_dns, etcd::etcd as wit_etcd, file::file as wit_file, http::http as wit_http,
                mdns::mdns as wit_mdns, memory::memory as wit_memory, tcp::tcp as wit_tcp,
                zookeeper::zookeeper as wit_zookeeper,
            },
            wit,
        },
        connector::{Grants, Lent, MOST_RESOURCES, Memory, memory},
    };

    fn connectors(grants: Grants) -> Connectors {
        Lent::new(Memory::unkept()).connectors("any", &"main".into(), &grants)
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
        let mut none = connectors(Grants::default());
        let endpoint = wit::plain("a", "a:1");
        for (text, setting) in [
            (
                denied(wit_etcd::Host::follow(&mut none, vec![]).await),
                r#"etcd = { endpoints = ["HOST:2379"] }"#,
            ),
            (denied(wit_etcd::Host::get(&mut none, vec![]).await), r#"etcd = { endpoints = ["HOST:2379"] }"#),
            (denied(wit_etcd::Host::grant(&mut none, 5).await), r#"etcd = { endpoints = ["HOST:2379"] }"#),
            (denied(wit_memory::Host::follow(&mut none, "a".into()).await), "memory = true"),
            (denied(wit_memory::Host::put(&mut none, "a".into(), endpoint, 5).await), "memory = true"),
            (denied(wit_memory::Host::remove(&mut none, "a".into(), "a".into()).await), "memory = true"),
            (denied(wit_file::Host::follow(&mut none, None).await), r#"file = "services.json""#),
            (denied(wit_http::Host::urls(&mut none).await), r#"http = { urls = ["http://HOST:PORT"] }"#),
            (denied(wit_tcp::Host::addresses(&mut none).await), r#"tcp = { addresses = ["HOST:PORT"] }"#),
            (
                denied(wit_zookeeper::Host::follow(&mut none, "/a".into(), true).await),
                r#"zookeeper = { servers = ["HOST:2181"] }"#,
            ),
            (
                denied(wit_dns::Host::services_of(&mut none, "a".into()).await),
                r#"dns = { servers = ["IP:53"] }"#,
            ),
            (
                denied(wit_mdns::Host::follow(&mut none, "_http._tcp".into(), vec![String::new()]).await),
                r#"mdns = { interfaces = ["eth0"] }"#,
            ),
            (
                denied(wit_dns::Host::addresses_of(&mut none, "a".into()).await),
                r#"dns = { servers = ["IP:53"] }"#,
            ),
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
        let mut connectors = connectors(Grants { file, ..Default::default() });
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
        let mut connectors = connectors(Grants { file: nowhere, ..Default::default() });
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
        let mut connectors = connectors(Grants { memory: Some(memory::Grant), ..Default::default() });
        let mut feeds = Vec::new();
        let failure = loop {
            match wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap() {
                Ok(feed) => feeds.push(feed),
                Err(failure) => break failure,
            }
        };
        assert!(matches!(failure, Failure::Other(text) if text.contains("too many")));
        assert_eq!(feeds.len(), MOST_RESOURCES);
        wit_memory::HostFeed::drop(&mut connectors, feeds.pop().unwrap()).await.unwrap();
        assert!(wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_memory_of_the_process_is_seen_by_its_followers() {
        let mut connectors = connectors(Grants { memory: Some(memory::Grant), ..Default::default() });
        let feed = wit_memory::Host::follow(&mut connectors, "orders".into()).await.unwrap().unwrap();
        let endpoint = wit::plain("a", "a:1");
        let put = wit_memory::Host::put(&mut connectors, "orders".into(), endpoint, 0).await;
        assert!(put.unwrap().is_ok());
        let content = wit_memory::HostFeed::next(&mut connectors, feed).await.unwrap();
        assert!(matches!(content, Ok(wit_memory::Content::All(all)) if all.len() == 1));
    }
}
