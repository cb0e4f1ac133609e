//! Sockets that listen, bound before anything is started.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{capacity::Capacity, spread::Spread};
use crate::{
    config,
    telemetry::{ListenerCounters, ProcessMetrics},
    tls,
};

/// Connections that wait in the kernel's queue.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use by another process")]
    InUse(SocketAddr),
    #[error("may not listen on {0}")]
    Denied(SocketAddr),
    #[error("cannot listen on {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
}

impl BindError {
    fn new(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::PermissionDenied => Self::Denied(address),
            _ => Self::Other { address, error },
        }
    }
}

/// One worker's socket of a listener.
#[derive(Debug)]
pub struct Listening {
    pub settings: Arc<config::Listener>,
    /// Where it really listens; differs from the settings when those say port 0.
    pub address: SocketAddr,
    socket: TcpListener,
    tls: Option<Arc<tls::Server>>,
    /// Shared by all workers: `max_connections` counts for the listener.
    capacity: Arc<Capacity>,
    /// Shared by all workers, too.
    spread: Arc<Spread>,
    /// Which of the workers.
    index: usize,
    counters: Arc<ListenerCounters>,
}

impl Listening {
    /// The same for the calling worker's runtime.
    pub(super) fn register(self) -> io::Result<Accepting> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let Self { settings, address, tls, capacity, spread, index, counters, .. } = self;
        Ok(Accepting { settings, address, socket, tls, capacity, spread, index, counters })
    }
}

/// One worker's socket of a listener, in that worker's runtime.
pub(super) struct Accepting {
    pub settings: Arc<config::Listener>,
    pub address: SocketAddr,
    pub socket: tokio::net::TcpListener,
    /// None: clients speak without TLS.
    pub tls: Option<Arc<tls::Server>>,
    pub capacity: Arc<Capacity>,
    pub spread: Arc<Spread>,
    pub index: usize,
    pub counters: Arc<ListenerCounters>,
}

/// Binds one socket per worker, all to the same address. Connections wait in their queues from now on. With `tls` it is
/// ended here.
///
/// Fails when another process listens there, also one that shares ports as the workers do among each other.
pub fn bind(
    settings: Arc<config::Listener>,
    tls: Option<Arc<tls::Server>>,
    workers: usize,
    metrics: &ProcessMetrics,
) -> Result<Vec<Listening>, BindError> {
    let counters = metrics.listener(&settings.name);
    let wanted = settings.address;
    let capacity = Arc::new(Capacity::new(settings.max_connections));
    let workers = workers.max(1);
    let spread = Arc::new(Spread::new(workers));
    let address = probe(wanted).map_err(|error| BindError::new(wanted, error))?;
    (0..workers)
        .map(|index| {
            let socket = open(address).map_err(|error| BindError::new(address, error))?;
            let (settings, capacity, counters) = (settings.clone(), capacity.clone(), counters.clone());
            let (tls, spread) = (tls.clone(), spread.clone());
            Ok(Listening { settings, address, socket, tls, capacity, spread, index, counters })
        })
        .collect()
}

/// Binds without sharing the port, which is the only way to find a process that shares it. Chooses the port for 0.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this, connections that linger from the process before would count as use.
    socket.set_reuse_address(true)?;
    only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?;
    bound.as_socket().ok_or_else(|| io::Error::other("bound to something that is no IP address"))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `[::]` means IPv6 alone, whatever the system's default, so that `0.0.0.0` beside it is no conflict.
fn only_v6(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}
