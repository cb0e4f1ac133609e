//! The running process: what it gives to a new one, in which order, and how it takes it back.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use super::{
    Program, SocketOf, UpgradeError,
    candidate::{Candidate, Passed},
};
use crate::{
    admin::Door,
    catalog::Catalog,
    run::{Listeners, Remembering, Signals, blocking},
    server::Listener,
    upstream::Disk,
};

/// A running gateway that is to be followed by a new process.
pub(crate) struct Predecessor<'a, 'b> {
    pub program: &'a Program,
    pub limit: Duration,
    pub listeners: &'a Listeners,
    pub catalog: &'a Catalog,
    pub given: &'a mut Given<'b>,
}

/// What one process alone may have, and so passes to the new one at once.
pub(crate) struct Given<'a> {
    pub remembering: &'a mut Remembering,
    pub admins: &'a Admins,
    pub disk: &'a Disk,
    pub door: &'a Door,
}

/// Copies of the sockets of the admin API, with their addresses as the configuration says them.
#[derive(Debug, Default)]
pub(crate) struct Admins {
    pub admin: Option<(SocketAddr, OwnedFd)>,
    pub registrations: Option<(SocketAddr, OwnedFd)>,
}

/// The listener that has a socket, and the worker; none for those of the admin API.
type Owner = Option<(Listener, usize)>;

/// What came of it.
pub(crate) enum Upgraded {
    /// A new process serves, with this id.
    Yes(u32),
    No(UpgradeError),
    /// The gateway was told to stop before.
    Stopped,
}

impl Predecessor<'_, '_> {
    /// Starts the program anew and hands over to it. Whatever goes wrong, it is as if nothing had been.
    ///
    /// Must not be dropped on the way.
    pub(crate) async fn hand_over(mut self, signals: &mut Signals) -> Upgraded {
        // Whoever keeps a connection to the admin API learns that it will close.
        self.given.door.leave();
        tracing::info!(program = %self.program.path().display(), "Starting a new process");
        let outcome = match signals.unless_stopped(self.start()).await {
            Some(Ok((candidate, owners, taken))) => match self.give(candidate).await {
                Ok(id) => {
                    self.let_go(&owners, &taken).await;
                    return Upgraded::Yes(id);
                }
                Err(error) => Upgraded::No(error),
            },
            Some(Err(error)) => Upgraded::No(error),
            None => Upgraded::Stopped,
        };
        self.given.door.open();
        outcome
    }

    /// A new process that could take over, whose the sockets are that it was given, and which of them it takes.
    async fn start(&self) -> Result<(Candidate, Vec<Owner>, Vec<usize>), UpgradeError> {
        let registry = self.given.remembering.memory.text().await.map_err(UpgradeError::Registry)?;
        let table = self.catalog.table();
        let served = table.upstreams.iter().filter(|(_, upstream)| !upstream.reader.snapshot().is_empty());
        let upstreams = served.map(|(name, _)| name.to_string()).collect();
        let (owners, sockets) = self.sockets().into_iter().unzip();
        let passed = Passed { sockets, upstreams, registry };
        let (candidate, taken) = Candidate::start(self.program, passed, self.limit).await?;
        Ok((candidate, owners, taken))
    }

    /// All sockets that listen, with whose they are.
    fn sockets(&self) -> Vec<(Owner, (SocketOf, OwnedFd))> {
        // One that cannot be copied closes here like that of a listener that is removed.
        let copy = |socket: &OwnedFd| socket.try_clone().ok();
        let Admins { admin, registrations } = self.given.admins;
        let admin =
            admin.iter().filter_map(|(address, socket)| Some((SocketOf::Admin(*address), copy(socket)?)));
        let registrations = registrations
            .iter()
            .filter_map(|(address, socket)| Some((SocketOf::Registrations(*address), copy(socket)?)));
        let clients = self.listeners.running().iter().flat_map(|listener| {
            let of = SocketOf::Listener {
                name: listener.settings.name.to_string(),
                wanted: listener.settings.address,
                address: listener.address(),
            };
            let owned = move |(worker, copy)| (Some((listener.clone(), worker)), (of.clone(), copy));
            listener.copies().map(owned)
        });
        admin.chain(registrations).map(|socket| (None, socket)).chain(clients).collect()
    }

    /// Leaves everything that one process alone may have to the new one. When that does not accept then, takes it back.
    async fn give(&mut self, mut candidate: Candidate) -> Result<u32, UpgradeError> {
        self.given.door.close().await;
        self.given.remembering.stop().await;
        self.given.remembering.memory.release().await;
        let disk = self.given.disk.clone();
        blocking(move || disk.give()).await;
        let memory = self.given.remembering.memory.clone();
        let text = memory.text().await;
        let given = match &text {
            Ok(text) => candidate.take_over(text).await,
            Err(error) => Err(UpgradeError::Registry(error.clone())),
        };
        let id = candidate.id();
        // It ends here if it has not taken over, and with it what it had.
        drop(candidate);
        if given.is_err() {
            self.given.disk.take_back();
            // Heartbeats have waited meanwhile: each instance has its whole time again, as it would have there.
            for warning in text.and_then(|text| memory.take_over(&text)).unwrap_or_else(|error| vec![error]) {
                tracing::warn!(%warning, "Embedded registry not as it was left");
            }
            self.given.remembering.start();
        }
        given.map(|()| id)
    }

    /// Both accept until here.
    async fn let_go(&self, owners: &[Owner], taken: &[usize]) {
        for number in taken {
            if let Some(Some((listener, worker))) = owners.get(*number) {
                listener.hand_over(*worker);
            }
        }
        self.given.door.remove().await;
    }
}
