//! What a plugin's sockets may do.

use std::{net::SocketAddr, sync::Arc};

use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use super::{Grant, keys::Address};
use crate::{
    bindings::{registry::witgate::tcp::tcp as wit, wit::Failure},
    connector::{
        Connectors, HasConnectors, Memory,
        refused::{Asks, Refused},
    },
    registry::HostPort,
};

/// Connections belong to those who make them.
pub(crate) struct Shared;

pub(crate) fn share(_: &Arc<Memory>) -> Shared {
    Shared
}

impl Shared {
    pub(in crate::connector) fn lend(&self, asks: &Arc<Asks>, grant: Option<&Grant>) -> Lent {
        let addresses = grant.map(|grant| grant.addresses.clone()).unwrap_or_default();
        Arc::new(Sockets { addresses, asks: asks.clone() })
    }
}

pub(crate) type Lent = Arc<Sockets>;

/// Says of each use of a socket whether it is granted, and tells the log if it is not.
pub(crate) struct Sockets {
    /// None: nothing is granted.
    addresses: Vec<Address>,
    asks: Arc<Asks>,
}

impl Sockets {
    pub fn are_granted(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// Whether a socket may be made at all.
    pub fn may_be_made(&self) -> bool {
        if !self.are_granted() {
            self.asks.refused(Refused::Connector("tcp"), &"connector tcp");
        }
        self.are_granted()
    }

    /// Whether a name may be looked up: one that the table has.
    pub fn may_look_up(&self, name: &str) -> bool {
        let has = |address: &Address| match &address.place {
            HostPort::Name(host, _) => host.eq_ignore_ascii_case(name),
            HostPort::Ip(ip) => name.parse().is_ok_and(|name: std::net::IpAddr| ip.ip() == name),
        };
        let may = self.addresses.iter().any(has);
        if self.may_be_made() && !may {
            self.asks.refused(Refused::Address, &format_args!("lookup of {name}"));
        }
        may
    }

    /// Whether a connection to this address may be made: one of the table, or what one of its names is now.
    pub async fn may_connect(&self, address: SocketAddr) -> bool {
        let here = SocketAddr::new(address.ip().to_canonical(), address.port());
        for granted in &self.addresses {
            let found = match &granted.place {
                HostPort::Ip(ip) => *ip == here,
                HostPort::Name(host, port) if *port == here.port() => {
                    let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                    found.is_ok_and(|mut found| found.any(|found| found.ip().to_canonical() == here.ip()))
                }
                HostPort::Name(..) => false,
            };
            if found {
                return true;
            }
        }
        self.asks.refused(Refused::Address, &format_args!("connection to {address}"));
        false
    }

    /// It is never granted.
    pub fn refuse(&self, what: &str) -> bool {
        self.asks.refused(Refused::Address, &what);
        false
    }
}

impl Connectors {
    /// What sockets may do.
    pub(crate) fn sockets(&self) -> &Arc<Sockets> {
        &self.tcp
    }
}

pub(crate) fn add_to_linker<T: HasConnectors>(linker: &mut Linker<T>) -> Result<()> {
    wit::add_to_linker::<T, HasSelf<Connectors>>(linker, T::connectors)
}

impl wit::Host for Connectors {
    async fn addresses(&mut self) -> Result<std::result::Result<Vec<String>, Failure>> {
        Ok(match self.tcp.are_granted() {
            true => Ok(self.tcp.addresses.iter().map(|address| address.text.clone()).collect()),
            false => Err(self.ungranted("tcp")),
        })
    }
}
