//! Sockets that listen, bound before anything is started.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::sync::watch;

use super::{capacity::Capacity, spread::Spread};
use crate::{
    config, net,
    telemetry::{ListenerCounters, ProcessMetrics, access::AccessLog},
    tls,
};

/// Connections that wait in the kernel's queue.
const BACKLOG: i32 = 4096;

/// Instructions of a socket filter.
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

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

/// A listener that is bound, with what is in force there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Listener {
    pub settings: Arc<config::Listener>,
    /// None: clients speak without TLS.
    pub tls: Option<Arc<tls::Server>>,
    /// None: what comes by it is not logged.
    pub access_log: Option<Arc<AccessLog>>,
    pub(super) counters: Arc<ListenerCounters>,
    bound: Arc<Bound>,
}

/// What stays when the settings of a listener change, shared by all workers.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    /// By worker, until it takes its own.
    sockets: Box<[Mutex<Option<TcpListener>>]>,
    /// `max_connections` counts for the listener.
    capacity: Arc<Capacity>,
    spread: Arc<Spread>,
    /// Each worker that accepts holds a receiver.
    accepting: watch::Sender<()>,
}

impl Listener {
    /// Binds one socket per worker, all to the same address. Connections wait in their queues from now on. With `tls`
    /// it is ended here.
    ///
    /// Fails when another process listens there, also one that shares ports as the workers do among each other.
    /// `ours` is where this process listens already: an address may come in the place of one that it overlaps.
    pub fn bind(
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        workers: usize,
        metrics: &ProcessMetrics,
        ours: &[SocketAddr],
    ) -> Result<Self, BindError> {
        let counters = metrics.listener(&settings.name);
        let wanted = settings.address;
        let address = match ours.iter().any(|our| overlap(wanted, *our)) {
            true => wanted,
            false => probe(wanted).map_err(|error| BindError::new(wanted, error))?,
        };
        let workers = workers.max(1);
        let open = |_| open(address).map(|socket| Mutex::new(Some(socket)));
        let sockets: io::Result<_> = (0..workers).map(open).collect();
        let bound = Bound {
            address,
            sockets: sockets.map_err(|error| BindError::new(address, error))?,
            capacity: Arc::new(Capacity::new(settings.max_connections)),
            spread: Arc::new(Spread::new(workers)),
            accepting: watch::Sender::new(()),
        };
        Ok(Self { settings, tls, access_log: None, counters, bound: Arc::new(bound) })
    }

    /// The same sockets with other settings, for clients that come from then on.
    pub fn with(
        &self,
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        metrics: &ProcessMetrics,
    ) -> Self {
        let counters = metrics.listener(&settings.name);
        Self { settings, tls, access_log: None, counters, bound: self.bound.clone() }
    }

    /// The same with a log.
    pub fn logged(self, access_log: Option<Arc<AccessLog>>) -> Self {
        Self { access_log, ..self }
    }

    /// Where it really listens; differs from the settings when those say port 0.
    pub fn address(&self) -> SocketAddr {
        self.bound.address
    }

    /// Whether these are the same sockets, whatever their settings.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bound, &other.bound)
    }

    /// Waits until no worker accepts here any more. Only for one that the workers were told is gone.
    pub async fn closed(&self) {
        (0..self.bound.sockets.len()).for_each(|worker| drop(self.take(worker)));
        self.bound.accepting.closed().await;
    }

    pub(super) fn capacity(&self) -> &Arc<Capacity> {
        &self.bound.capacity
    }

    /// A worker's socket, in the calling worker's runtime. None: it has been taken.
    pub(super) fn open(&self, worker: usize) -> Option<io::Result<Open>> {
        let accepting = self.bound.accepting.subscribe();
        let socket = tokio::net::TcpListener::from_std(self.take(worker)?);
        let spread = self.bound.spread.clone();
        Some(socket.map(|socket| Open { socket, worker, spread, _accepting: accepting }))
    }

    fn take(&self, worker: usize) -> Option<TcpListener> {
        self.bound.sockets.get(worker)?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One worker's socket of a listener, in that worker's runtime.
pub(super) struct Open {
    pub socket: tokio::net::TcpListener,
    pub worker: usize,
    pub spread: Arc<Spread>,
    _accepting: watch::Receiver<()>,
}

impl Open {
    /// From now on nobody begins to connect, and whoever has begun ends up in the queue. Without this, those would be
    /// reset who come between the last `accept` and the end of the socket.
    ///
    /// The packet with which a client begins is lost, so that it tries again, and is refused once the socket is closed.
    pub(super) fn refuse_new(&self) {
        // The flags of the TCP header: SYN without ACK is dropped, everything else passes.
        let filter = [
            SockFilter::new(LOAD_BYTE, 0, 0, 13),
            SockFilter::new(AND, 0, 0, 0x12),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0x02),
            SockFilter::new(RETURN, 0, 0, 0),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ];
        if let Err(error) = SockRef::from(&self.socket).attach_filter(&filter) {
            tracing::debug!(%error, "Clients that connect while a listener closes may be reset");
        }
    }
}

/// Whether a connection to one could arrive at the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
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
    net::prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `[::]` means IPv6 alone, whatever the system's default, so that `0.0.0.0` beside it is no conflict.
fn only_v6(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{net::TcpStream, time::timeout};

    use super::*;

    #[tokio::test]
    async fn nobody_begins_to_connect_to_a_socket_that_refuses_and_whoever_did_is_accepted() {
        let address = probe("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = tokio::net::TcpListener::from_std(open(address).unwrap()).unwrap();
        let (_accepting, accepting) = watch::channel(());
        let open = Open { socket, worker: 0, spread: Arc::new(Spread::new(1)), _accepting: accepting };
        let before = TcpStream::connect(address).await.unwrap();
        open.refuse_new();
        // Without an answer it would be tried again after a second.
        let after = timeout(Duration::from_millis(500), TcpStream::connect(address)).await;
        assert!(after.is_err(), "{after:?}");
        let (_, peer) = open.socket.accept().await.unwrap();
        assert_eq!(peer, before.local_addr().unwrap());
    }
}
