//! What the operator can order: pin, unpin, roll back, accept, drain, undrain.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::SystemTime,
};

use tokio::sync::oneshot;

use super::{Owner, Pin};
use crate::upstream::{Cause, Changed, Endpoint, Input, RollbackError};

/// What the operator wants of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// The list stays as it is now. News are recorded and change nothing.
    Pin,
    /// The list is what the sources offer again.
    Unpin,
    /// The list is pinned as it was at this generation.
    Rollback { generation: u64 },
    /// The removals that this source holds back are believed; those of every source when none is named.
    Accept { source: Option<usize> },
    /// These get no new requests while anybody else is well, and what is under way ends. All of them, or none.
    Drain { addresses: BTreeSet<SocketAddr> },
    /// These are what the list says again. All of them, or none.
    Undrain { addresses: BTreeSet<SocketAddr> },
}

/// Why an order was not carried out. Whoever tells it says of which upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("it is not pinned")]
    NotPinned,
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    #[error("it has no source {0}")]
    NoSource(usize),
    #[error("no removal is held back")]
    NothingHeld,
    #[error("it has no endpoint {0}")]
    NoEndpoint(SocketAddr),
    #[error("its endpoint {0} does not drain by an order")]
    NotDraining(SocketAddr),
    /// It holds for now, and would be forgotten by a restart.
    #[error("done, but not written to disk: {0}")]
    NotSaved(String),
    #[error("it is gone")]
    Gone,
}

/// An order and who waits for it. It is answered when it is in force and on disk.
#[derive(Debug)]
pub struct Command {
    pub order: Order,
    pub answer: oneshot::Sender<Result<(), OrderError>>,
}

impl Owner {
    pub(super) fn obey(&mut self, order: &Order) -> Result<(), OrderError> {
        match order {
            Order::Pin => {
                self.pin(self.listed(), Cause::Pinned);
            }
            Order::Unpin => {
                self.pin.take().ok_or(OrderError::NotPinned)?;
                let list = self.merge.iter().map(|endpoint| (endpoint.address, endpoint.clone())).collect();
                self.exchange(list, Cause::Unpinned);
            }
            Order::Rollback { generation } => {
                let (list, latest) = (self.listed(), self.publisher.generation());
                let list = self.status.borrow().history.list_at(*generation, latest, list)?;
                self.pin(list, Cause::RolledBack { to: *generation });
            }
            Order::Accept { source } => self.accept(*source)?,
            Order::Drain { addresses } => self.drain(addresses)?,
            Order::Undrain { addresses } => self.undrain(addresses)?,
        }
        Ok(())
    }

    fn drain(&mut self, addresses: &BTreeSet<SocketAddr>) -> Result<(), OrderError> {
        let list = self.listed();
        let is_known = |address: &SocketAddr| {
            list.contains_key(address) || self.knows(*address) || self.drains.has(*address)
        };
        if let Some(unknown) = addresses.iter().find(|address| !is_known(address)) {
            return Err(OrderError::NoEndpoint(*unknown));
        }
        let now = SystemTime::now();
        let begun: Vec<_> =
            addresses.iter().copied().filter(|address| self.drains.begin(*address, now)).collect();
        self.repeat(begun, &list, Cause::Drained);
        Ok(())
    }

    fn undrain(&mut self, addresses: &BTreeSet<SocketAddr>) -> Result<(), OrderError> {
        if let Some(other) = addresses.iter().find(|address| !self.drains.has(**address)) {
            return Err(OrderError::NotDraining(*other));
        }
        let list = self.listed();
        addresses.iter().for_each(|address| self.drains.end(*address));
        self.repeat(addresses.iter().copied(), &list, Cause::Undrained);
        Ok(())
    }

    /// The list says the same of these as before, and what is laid over it is something else. Of those that are not in it
    /// there is nothing to record.
    fn repeat(
        &mut self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        list: &HashMap<SocketAddr, Endpoint>,
        cause: Cause,
    ) {
        let listed = addresses.into_iter().filter_map(|address| list.get(&address));
        let same = |endpoint: &Endpoint| Changed {
            address: endpoint.address,
            before: Some(endpoint.clone()),
            after: Some(endpoint.clone()),
        };
        let changed: Vec<Changed> = listed.map(same).collect();
        self.untold = true;
        if !changed.is_empty() {
            self.relist(&changed);
            self.record(&changed, None, cause, &[], true);
        }
    }

    fn accept(&mut self, source: Option<usize>) -> Result<(), OrderError> {
        if let Some(source) = source.filter(|source| *source >= self.sources.len()) {
            return Err(OrderError::NoSource(source));
        }
        let holding: Vec<usize> = (0..self.sources.len())
            .filter(|number| source.is_none_or(|source| source == *number))
            .filter(|number| self.sources[*number].reserve().next().is_some())
            .collect();
        if holding.is_empty() {
            return Err(OrderError::NothingHeld);
        }
        holding.into_iter().for_each(|source| self.step(source, Input::Accept, Cause::Accepted));
        Ok(())
    }

    fn pin(&mut self, list: HashMap<SocketAddr, Endpoint>, cause: Cause) {
        self.pin = Some(Pin { since: SystemTime::now(), list: list.clone() });
        self.exchange(list, cause);
    }

    /// Puts this list in the place of the one in force.
    pub(super) fn exchange(&mut self, mut list: HashMap<SocketAddr, Endpoint>, cause: Cause) {
        let mut changed: Vec<Changed> = Vec::new();
        for (address, before) in self.listed() {
            let after = list.remove(&address);
            if after.as_ref() != Some(&before) {
                changed.push(Changed { address, before: Some(before), after });
            }
        }
        let added = list.into_iter().map(|(address, endpoint)| Changed {
            address,
            before: None,
            after: Some(endpoint),
        });
        changed.extend(added);
        self.relist(&changed);
        self.record(&changed, None, cause, &[], true);
    }
}
