//! The sockets that the gateway listens on: bound, or of the process before.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use super::{
    StartError,
    listeners::Listeners,
    say,
    upgrade::{self, Admins, Estate, InheritedAdmin},
};
use crate::{
    admin,
    config::{self, Config},
    server::Listener,
    telemetry::ProcessMetrics,
    tls::{self, ServerSettings},
};

/// The gateway with everything bound and nothing running yet.
pub(super) struct Sockets {
    pub admin: Option<AdminSocket>,
    pub registrations: Option<AdminSocket>,
    pub clients: Listeners,
    /// Copies of the first two, for a new process.
    pub copies: Admins,
    /// The numbers of those that the process before had.
    pub taken: Vec<usize>,
}

/// With what ends TLS there.
pub(super) type AdminSocket = (tokio::net::TcpListener, Option<Arc<tls::Server>>);

/// What somebody who joins the gateway at its start may know.
pub(crate) struct Started {
    pub admin: Option<SocketAddr>,
    pub listeners: Vec<SocketAddr>,
}

/// Binds what the process before does not have.
pub(super) async fn bind(
    config: &Config,
    metrics: &Arc<ProcessMetrics>,
    estate: &mut Estate,
) -> Result<Sockets, StartError> {
    let files = Arc::<tls::Files>::default();
    let config::Admin { address, registrations, tls, .. } = &config.admin;
    let (mut copies, mut taken) = (Admins::default(), Vec::new());
    let admin = match *address {
        Some(address) => {
            let inherited = take_admin(&mut estate.admin, address, &mut taken);
            let (socket, copy) = bind_admin(address, tls.as_ref(), &files, inherited).await?;
            copies.admin = Some((address, copy));
            Some(socket)
        }
        None => None,
    };
    let registrations = match registrations {
        Some(own) => {
            let inherited = take_admin(&mut estate.registrations, own.address, &mut taken);
            let (socket, copy) = bind_admin(own.address, own.tls.as_ref(), &files, inherited).await?;
            copies.registrations = Some((own.address, copy));
            Some(socket)
        }
        None => None,
    };
    // What nobody here listens on closes: clients would connect, and wait for ever.
    (estate.admin, estate.registrations) = (None, None);
    let admins = [&admin, &registrations].into_iter().flatten();
    let admins = admins.filter_map(|(listener, _)| listener.local_addr().ok()).collect();
    let mut clients = Listeners::new(files, metrics.clone(), admins);
    clients.begin(config, std::mem::take(&mut estate.listeners))?;
    taken.extend(upgrade::taken(clients.running()));
    Ok(Sockets { admin, registrations, clients, copies, taken })
}

/// The socket of the process before at this address.
fn take_admin(
    of: &mut Option<InheritedAdmin>,
    address: SocketAddr,
    taken: &mut Vec<usize>,
) -> Option<std::net::TcpListener> {
    let inherited = of.take_if(|inherited| inherited.address == address)?;
    taken.push(inherited.number);
    Some(inherited.socket)
}

async fn bind_admin(
    address: SocketAddr,
    tls: Option<&ServerSettings>,
    files: &tls::Files,
    inherited: Option<std::net::TcpListener>,
) -> Result<(AdminSocket, OwnedFd), StartError> {
    let tls = open_tls(address, tls, tls::Protocol::Http1, files)?;
    let failed = |error| StartError::Admin { address, error };
    let listener = match inherited {
        Some(listener) => tokio::net::TcpListener::from_std(listener),
        None => tokio::net::TcpListener::bind(address).await,
    };
    let listener = listener.map_err(failed)?;
    let copy = listener.as_fd().try_clone_to_owned().map_err(failed)?;
    Ok(((listener, tls), copy))
}

/// What ends TLS at an address. The files were right a moment ago, when the configuration was read.
pub(super) fn open_tls(
    address: SocketAddr,
    settings: Option<&ServerSettings>,
    protocol: tls::Protocol,
    files: &tls::Files,
) -> Result<Option<Arc<tls::Server>>, StartError> {
    let open = |settings| tls::Server::open(settings, protocol, files).map(Arc::new);
    let failed = |error: tls::FileError| StartError::Tls { address, reason: error.to_string() };
    settings.map(open).transpose().map_err(failed)
}

/// The admin API answers as long as the process lives, so that draining can be watched.
pub(super) fn serve_admin(
    config: &Config,
    admin: Option<AdminSocket>,
    registrations: Option<AdminSocket>,
    parts: Arc<admin::Parts>,
) -> Result<(), StartError> {
    let registrations = registrations.zip(config.admin.registrations.as_ref());
    let listeners = [
        admin.map(|listener| (listener, admin::Scope::Everything, &config.admin.access)),
        registrations.map(|(listener, own)| (listener, admin::Scope::Registrations, &own.access)),
    ];
    let listening = |((listener, tls), scope, access): (AdminSocket, _, &config::Access)| {
        Ok(admin::Listening { listener: listener.into_std()?, tls, scope, access: access.clone() })
    };
    let listenings: io::Result<Vec<_>> = listeners.into_iter().flatten().map(listening).collect();
    listenings.and_then(|listenings| admin::start(listenings, parts)).map_err(StartError::Threads)
}

/// Says on standard output where the gateway listens; port 0 has become a real one by now.
pub(super) fn announce(sockets: &Sockets) -> Started {
    let address = |(listener, _): &AdminSocket| listener.local_addr().ok();
    let admin = sockets.admin.as_ref().and_then(address);
    if let Some(address) = admin {
        say(&format!("listening admin {address}"));
    }
    if let Some(address) = sockets.registrations.as_ref().and_then(address) {
        say(&format!("listening registrations {address}"));
    }
    let running = sockets.clients.running().iter();
    let listeners = running.inspect(|listener| say_listening(listener)).map(Listener::address);
    Started { admin, listeners: listeners.collect() }
}

pub(super) fn say_listening(listener: &Listener) {
    say(&format!("listening {} {}", listener.settings.protocol.as_str(), listener.address()));
}
