//! DNS as plugins see it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Semaphore;
use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi::p2::DynPollable;

use super::Grant;
use crate::{
    bindings::{registry::witgate::dns::dns as wit, wit::Failure},
    connector::{
        self, Connectors, Grants, HasConnectors, Memory,
        host::{Follow, Followed, drop_kept, keep, kept, subscribe},
        lock,
        refused::Asks,
    },
    registry::{self, Addresses, Reply, Resolver, Servers, Service},
};

/// Questions of all plugins of a registry at once: a gateway that starts asks about all its services. Names in their
/// lists have places of their own.
const AT_ONCE: usize = 64;

/// All instances for the same registry ask the same servers, until its table changes.
#[derive(Default)]
pub(crate) struct Shared(Mutex<HashMap<Arc<str>, Arc<Asked>>>);

/// Who is asked for one registry.
pub(crate) struct Asked {
    grant: Grant,
    /// The error says why they cannot be asked.
    servers: std::result::Result<Arc<Servers>, String>,
    /// Of the names in lists.
    resolver: Option<Resolver>,
    places: Semaphore,
}

/// None: it is not granted.
pub(crate) type Lent = Option<Arc<Asked>>;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared::default()
}

impl Shared {
    pub(in crate::connector) fn lend(&self, asks: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        grant.map(|grant| self.asked(&asks.registry, grant))
    }

    fn asked(&self, registry: &Arc<str>, grant: &Grant) -> Arc<Asked> {
        let mut all = lock(&self.0);
        match all.get(registry) {
            Some(asked) if asked.grant == *grant => asked.clone(),
            _ => {
                let servers = Servers::own(&grant.servers).map(Arc::new);
                let resolver = servers.as_ref().ok().cloned().map(Resolver::at);
                let (grant, places) = (grant.clone(), Semaphore::new(AT_ONCE));
                let asked = Arc::new(Asked { grant, servers, resolver, places });
                all.insert(registry.clone(), asked.clone());
                asked
            }
        }
    }
}

impl connector::Lent {
    /// Who resolves the names in the lists of a registry: the servers that it grants, if it grants any.
    pub fn resolver(&self, registry: &Arc<str>, grants: &Grants) -> Option<Resolver> {
        self.dns.asked(registry, grants.dns.as_ref()?).resolver.clone()
    }
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    wit::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)
}

impl Asked {
    /// Waits for a place to ask.
    async fn servers(&self) -> std::result::Result<(&Servers, impl Sized), registry::Failure> {
        let servers = self.servers.as_ref().map_err(|why| {
            registry::Failure::Other(format!("the servers of the table `dns` cannot be asked: {why}"))
        })?;
        // They are never closed.
        let place = self.places.acquire().await;
        Ok((&**servers, place))
    }
}

/// Who offers the service of a name.
struct Services {
    asked: Arc<Asked>,
    name: String,
}

impl Follow for Services {
    type Answer = wit::Services;

    async fn next(&mut self) -> std::result::Result<wit::Services, registry::Failure> {
        let (servers, _place) = self.asked.servers().await?;
        let (found, good_for) = match servers.services(&self.name).await {
            Reply::Found { found, good_for } => (found, good_for),
            Reply::Nothing { good_for, .. } => (Vec::new(), good_for),
            Reply::Refused(why) => return Err(registry::Failure::Denied(told(&self.name, &why))),
            Reply::Failed(why) => return Err(registry::Failure::Unavailable(told(&self.name, &why))),
        };
        let found = found.into_iter().map(|Service { priority, weight, port, target }| wit::Service {
            priority,
            weight,
            port,
            target,
        });
        Ok(wit::Services { found: found.collect(), ttl_seconds: seconds(good_for) })
    }
}

/// The addresses of a name.
struct AddressesOf {
    asked: Arc<Asked>,
    name: String,
}

impl Follow for AddressesOf {
    type Answer = wit::Addresses;

    async fn next(&mut self) -> std::result::Result<wit::Addresses, registry::Failure> {
        let (servers, _place) = self.asked.servers().await?;
        addresses(&self.name, servers.addresses(&self.name).await)
    }
}

/// A family that nobody answers for is no failure while there are addresses of the other: many servers answer for only
/// one.
fn addresses(name: &str, answer: Addresses) -> std::result::Result<wit::Addresses, registry::Failure> {
    let Addresses { v4, v6 } = &answer;
    let has_some = [v4, v6].iter().any(|reply| matches!(reply, Reply::Found { .. }));
    if !has_some {
        for reply in [v4, v6] {
            match reply {
                Reply::Refused(why) => return Err(registry::Failure::Denied(told(name, why))),
                Reply::Failed(why) => return Err(registry::Failure::Unavailable(told(name, why))),
                _ => {}
            }
        }
    }
    let good_for = [v4, v6].into_iter().filter_map(|reply| match reply {
        Reply::Found { good_for, .. } => Some(*good_for),
        // That a family has none is good for as long as the other has some.
        Reply::Nothing { good_for, .. } if !has_some => Some(*good_for),
        _ => None,
    });
    let ttl_seconds = seconds(good_for.min().unwrap_or_default());
    let family = |reply: Reply<IpAddr>| match reply {
        Reply::Found { found, .. } => Some(found.iter().map(ToString::to_string).collect()),
        Reply::Nothing { .. } => Some(Vec::new()),
        Reply::Refused(_) | Reply::Failed(_) => None,
    };
    Ok(wit::Addresses { v4: family(answer.v4), v6: family(answer.v6), ttl_seconds })
}

fn told(name: &str, why: &str) -> String {
    format!("{name}: {why}")
}

fn seconds(good_for: Duration) -> u32 {
    // What is left of a second is one: the answer was good for that long a moment ago.
    let rounded = good_for.saturating_add(Duration::from_millis(999));
    u32::try_from(rounded.as_secs()).unwrap_or(u32::MAX)
}

impl wit::Host for Connectors {
    async fn services_of(
        &mut self,
        name: String,
    ) -> Result<std::result::Result<Resource<wit::ServicesQuestion>, Failure>> {
        Ok(match self.dns.clone() {
            Some(asked) => keep(&mut self.table, Followed::new(Services { asked, name })),
            None => Err(self.ungranted("dns")),
        })
    }

    async fn addresses_of(
        &mut self,
        name: String,
    ) -> Result<std::result::Result<Resource<wit::AddressesQuestion>, Failure>> {
        Ok(match self.dns.clone() {
            Some(asked) => keep(&mut self.table, Followed::new(AddressesOf { asked, name })),
            None => Err(self.ungranted("dns")),
        })
    }
}

impl wit::HostServicesQuestion for Connectors {
    async fn answer(
        &mut self,
        question: Resource<wit::ServicesQuestion>,
    ) -> Result<std::result::Result<wit::Services, Failure>> {
        let question: &mut Followed<Services> = kept(&mut self.table, question)?;
        let answer = question.next().await;
        Ok(self.told(answer).await)
    }

    async fn subscribe(
        &mut self,
        question: Resource<wit::ServicesQuestion>,
    ) -> Result<Resource<DynPollable>> {
        subscribe::<Services, _>(&mut self.table, question)
    }

    async fn drop(&mut self, question: Resource<wit::ServicesQuestion>) -> Result<()> {
        drop_kept::<Followed<Services>, _>(&mut self.table, question)
    }
}

impl wit::HostAddressesQuestion for Connectors {
    async fn answer(
        &mut self,
        question: Resource<wit::AddressesQuestion>,
    ) -> Result<std::result::Result<wit::Addresses, Failure>> {
        let question: &mut Followed<AddressesOf> = kept(&mut self.table, question)?;
        let answer = question.next().await;
        Ok(self.told(answer).await)
    }

    async fn subscribe(
        &mut self,
        question: Resource<wit::AddressesQuestion>,
    ) -> Result<Resource<DynPollable>> {
        subscribe::<AddressesOf, _>(&mut self.table, question)
    }

    async fn drop(&mut self, question: Resource<wit::AddressesQuestion>) -> Result<()> {
        drop_kept::<Followed<AddressesOf>, _>(&mut self.table, question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ips: &[&str], seconds: u64) -> Reply<IpAddr> {
        let found = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Reply::Found { found, good_for: Duration::from_secs(seconds) }
    }

    fn nothing(seconds: u64) -> Reply<IpAddr> {
        Reply::Nothing { why: "there is no such name".into(), good_for: Duration::from_secs(seconds) }
    }

    fn list(ips: &[&str]) -> Option<Vec<String>> {
        Some(ips.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_family_that_nobody_answers_for_is_told_apart_from_one_that_has_none() {
        let failed = || Reply::Failed("no answer".into());
        let refused = || Reply::Refused("the answer was REFUSED".into());
        for (v4, v6, expected) in [
            (found(&["10.0.0.1"], 9), found(&["::1"], 5), Ok((list(&["10.0.0.1"]), list(&["::1"]), 5))),
            (found(&["10.0.0.1"], 9), nothing(2), Ok((list(&["10.0.0.1"]), list(&[]), 9))),
            (failed(), found(&["::1"], 5), Ok((None, list(&["::1"]), 5))),
            (nothing(3), nothing(2), Ok((list(&[]), list(&[]), 2))),
            (nothing(3), failed(), Err("unavailable")),
            (refused(), failed(), Err("denied")),
            (failed(), failed(), Err("unavailable")),
        ] {
            let answer = addresses("db", Addresses { v4: v4.clone(), v6: v6.clone() });
            let answer = answer.map(|wit::Addresses { v4, v6, ttl_seconds }| (v4, v6, ttl_seconds));
            assert_eq!(answer.map_err(|failure| failure.kind()), expected, "{v4:?} {v6:?}");
        }
    }
}
