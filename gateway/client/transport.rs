//! How an endpoint is spoken to. Connections are shared by those only who speak to it in the same way.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{DialError, connect};
use crate::{
    net::{Stream, Tcp},
    tls::{Client, Protocol},
    upstream::Member,
};

/// Where an endpoint is, and how it is spoken to. Borrowed, so that looking for an idle connection counts nothing.
#[derive(Clone, Copy)]
pub struct Transport<'t> {
    pub address: SocketAddr,
    tls: Option<Tls<'t>>,
}

#[derive(Clone, Copy)]
struct Tls<'t> {
    policy: &'t Arc<Client>,
    /// The name of the endpoint, where it is not that of the policy or the address.
    name: Option<&'t str>,
}

/// The same for longer.
pub(super) struct OwnTransport {
    pub address: SocketAddr,
    pub tls: Option<OwnTls>,
}

#[derive(Clone)]
pub(super) struct OwnTls {
    policy: Arc<Client>,
    name: Option<Arc<str>>,
}

impl<'t> Transport<'t> {
    /// To an endpoint of an upstream with this policy, if it has one.
    pub fn to(member: &'t Member, policy: Option<&'t Arc<Client>>) -> Self {
        let tls = policy.map(|policy| {
            let name = policy.own_name(member.facts().hostname.as_deref());
            Tls { policy, name }
        });
        Self { address: member.address(), tls }
    }

    pub(super) fn to_own(self) -> OwnTransport {
        let tls =
            self.tls.map(|Tls { policy, name }| OwnTls { policy: policy.clone(), name: name.map(Arc::from) });
        OwnTransport { address: self.address, tls }
    }
}

/// What there is for each way to speak to one address. There is hardly ever more than one.
pub struct Ways<T>(Vec<(Option<OwnTls>, T)>);

impl<T> Default for Ways<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Ways<T> {
    pub(super) fn get_mut(&mut self, to: Transport<'_>) -> Option<&mut T> {
        self.0.iter_mut().find(|(tls, _)| is_same(tls.as_ref(), to.tls)).map(|(_, there)| there)
    }

    pub fn get_or_make(&mut self, to: Transport<'_>, make: impl FnOnce() -> T) -> &mut T {
        let place = self.0.iter().position(|(tls, _)| is_same(tls.as_ref(), to.tls));
        let place = place.unwrap_or_else(|| {
            self.0.push((to.to_own().tls, make()));
            self.0.len() - 1
        });
        &mut self.0[place].1
    }

    /// Drops what is not to be kept. Says whether anything is left.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) -> bool {
        self.0.retain_mut(|(_, there)| keep(there));
        !self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, there)| there)
    }
}

fn is_same(own: Option<&OwnTls>, tls: Option<Tls<'_>>) -> bool {
    match (own, tls) {
        (None, None) => true,
        (Some(own), Some(tls)) => Arc::ptr_eq(&own.policy, tls.policy) && own.name.as_deref() == tls.name,
        _ => false,
    }
}

impl OwnTransport {
    pub(super) fn lend(&self) -> Transport<'_> {
        let tls = self.tls.as_ref().map(|OwnTls { policy, name }| Tls { policy, name: name.as_deref() });
        Transport { address: self.address, tls }
    }

    /// Makes a connection for a protocol, within `limit`.
    pub(super) async fn open(&self, limit: Duration, protocol: Protocol) -> Result<Stream, DialError> {
        let address = self.address;
        let Some(OwnTls { policy, name }) = &self.tls else {
            return Ok(Tcp::new(connect(address, limit).await?).into());
        };
        // In a box: most connections have none of this.
        let opening = Box::pin(async {
            let tcp = Tcp::new(connect(address, limit).await?);
            let shaken = policy.connect(tcp, address.ip(), name.as_deref(), protocol).await;
            shaken.map(Stream::from).map_err(|error| DialError::Tls { address, error: Arc::new(error) })
        });
        let late = |_| Err(DialError::TimedOut { address, limit });
        tokio::time::timeout(limit, opening).await.unwrap_or_else(late)
    }
}
