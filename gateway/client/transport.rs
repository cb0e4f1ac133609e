//! How an endpoint is spoken to. Connections are shared by those only who speak to it in the same way.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::io::AsyncWriteExt as _;

use super::{DialError, connect};
use crate::{
    net::{Proxied, ProxyVersion, Stream, Tcp},
    tls::{Client, Protocol},
    upstream::Member,
};

/// Where an endpoint is, and how it is spoken to. Borrowed, so that looking for an idle connection counts nothing.
#[derive(Clone, Copy)]
pub struct Transport<'t> {
    pub address: SocketAddr,
    tls: Option<Tls<'t>>,
    /// Whom it is told of before anything else.
    proxied: Option<(ProxyVersion, &'t Proxied)>,
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
    way: OwnWay,
}

/// What is needed beside the address.
struct OwnWay {
    tls: Option<OwnTls>,
    proxied: Option<Box<(ProxyVersion, Proxied)>>,
}

struct OwnTls {
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
        Self { address: member.address(), tls, proxied: None }
    }

    /// The same, over connections that begin with a PROXY header of this client.
    pub fn telling_of(self, client: &'t Proxied, version: ProxyVersion) -> Self {
        Self { proxied: Some((version, client)), ..self }
    }

    pub(super) fn to_own(self) -> OwnTransport {
        let tls =
            self.tls.map(|Tls { policy, name }| OwnTls { policy: policy.clone(), name: name.map(Arc::from) });
        let proxied = self.proxied.map(|(version, client)| Box::new((version, *client)));
        OwnTransport { address: self.address, way: OwnWay { tls, proxied } }
    }
}

/// What there is for each way to speak to one address. There is hardly ever more than one: what is told of clients is in
/// pools of theirs.
pub struct Ways<T>(Vec<(OwnWay, T)>);

impl<T> Default for Ways<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Ways<T> {
    pub(super) fn get_mut(&mut self, to: Transport<'_>) -> Option<&mut T> {
        self.0.iter_mut().find(|(way, _)| way.is_of(to)).map(|(_, there)| there)
    }

    pub fn get_or_make(&mut self, to: Transport<'_>, make: impl FnOnce() -> T) -> &mut T {
        let place = self.0.iter().position(|(way, _)| way.is_of(to));
        let place = place.unwrap_or_else(|| {
            self.0.push((to.to_own().way, make()));
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

impl OwnWay {
    fn is_of(&self, to: Transport<'_>) -> bool {
        let same_tls = match (&self.tls, to.tls) {
            (None, None) => true,
            (Some(own), Some(tls)) => Arc::ptr_eq(&own.policy, tls.policy) && own.name.as_deref() == tls.name,
            _ => false,
        };
        same_tls && self.proxied() == to.proxied
    }

    fn proxied(&self) -> Option<(ProxyVersion, &Proxied)> {
        self.proxied.as_deref().map(|(version, client)| (*version, client))
    }
}

impl OwnTransport {
    pub(super) fn lend(&self) -> Transport<'_> {
        let OwnWay { tls, .. } = &self.way;
        let tls = tls.as_ref().map(|OwnTls { policy, name }| Tls { policy, name: name.as_deref() });
        Transport { address: self.address, tls, proxied: self.way.proxied() }
    }

    /// Makes a connection for a protocol, within `limit`.
    pub(super) async fn open(&self, limit: Duration, protocol: Protocol) -> Result<Stream, DialError> {
        let address = self.address;
        if let OwnWay { tls: None, proxied: None } = &self.way {
            return Ok(Tcp::new(connect(address, limit).await?).into());
        }
        // In a box: most connections have none of this.
        let opening = Box::pin(async {
            let mut tcp = Tcp::new(connect(address, limit).await?);
            if let Some((version, client)) = self.way.proxied() {
                let sent = tcp.write_all(&client.header(version)).await;
                sent.map_err(|error| DialError::Failed { address, error: Arc::new(error) })?;
            }
            let Some(OwnTls { policy, name }) = &self.way.tls else { return Ok(tcp.into()) };
            let shaken = policy.connect(tcp, address.ip(), name.as_deref(), protocol).await;
            shaken.map(Stream::from).map_err(|error| DialError::Tls { address, error: Arc::new(error) })
        });
        let late = |_| Err(DialError::TimedOut { address, limit });
        tokio::time::timeout(limit, opening).await.unwrap_or_else(late)
    }
}
