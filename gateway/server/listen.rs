//! Sockets that listen, bound before anything is started.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::sync::watch;

use super::{capacity::Capacity, spread::Spread};
use crate::{
    config, net,
    telemetry::{ListenerCounters, ProcessMetrics, access::AccessLog, trace::Tracer},
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
    #[error("{0} is in use by another process (`witgate doctor` says by which)")]
    InUse(SocketAddr),
    #[error("may not listen on {0}: that needs CAP_NET_BIND_SERVICE, or a port above 1023")]
    Denied(SocketAddr),
    #[error("cannot listen on {address}: {error}")]
    Other { address: SocketAddr, error: io::Error },
}

impl BindError {
    pub fn new(address: SocketAddr, error: io::Error) -> Self {
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
    /// None: requests are not traced.
    pub tracer: Option<Arc<Tracer>>,
    pub(super) counters: Arc<ListenerCounters>,
    bound: Arc<Bound>,
}

/// What stays when the settings of a listener change, shared by all workers.
#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    /// By worker.
    sockets: Box<[WorkerSocket]>,
    /// `max_connections` counts for the listener.
    capacity: Arc<Capacity>,
    spread: Arc<Spread>,
    /// Each worker that accepts holds a receiver.
    accepting: watch::Sender<()>,
}

/// The socket of one worker.
#[derive(Debug, Default)]
struct WorkerSocket {
    /// Until the worker takes it.
    untaken: Mutex<Option<TcpListener>>,
    /// The same once more, while the worker accepts: what may be passed to another process.
    copy: Mutex<Option<OwnedFd>>,
    /// What it had in the process that it came from.
    inherited: Option<usize>,
    /// Another process accepts there.
    handed_over: AtomicBool,
}

impl WorkerSocket {
    fn new(socket: TcpListener) -> Self {
        Self { untaken: Mutex::new(Some(socket)), ..Self::default() }
    }

    fn copy(&self) -> Option<OwnedFd> {
        let untaken = held(&self.untaken);
        let copy = held(&self.copy);
        let socket = untaken.as_ref().map(|socket| socket.as_fd());
        socket.or(copy.as_ref().map(|copy| copy.as_fd()))?.try_clone_to_owned().ok()
    }
}

/// The sockets of a listener of another process, which accepts there, too.
#[derive(Debug)]
pub struct Inherited {
    pub name: Arc<str>,
    /// As its settings say; port 0 has become one in `address`.
    pub wanted: SocketAddr,
    pub address: SocketAddr,
    /// Each with the number by which that process knows it.
    pub sockets: Vec<(usize, TcpListener)>,
}

/// When connections begin to wait in the queues of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listens {
    AtOnce,
    /// When the workers take them. Nobody is in the queue of a process that comes to nothing.
    WithWorkers,
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
        Self::bind_to(settings, tls, workers, metrics, ours, Listens::AtOnce)
    }

    /// The same, but nobody can connect before the workers take their sockets.
    pub fn bind_quietly(
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        workers: usize,
        metrics: &ProcessMetrics,
        ours: &[SocketAddr],
    ) -> Result<Self, BindError> {
        Self::bind_to(settings, tls, workers, metrics, ours, Listens::WithWorkers)
    }

    fn bind_to(
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        workers: usize,
        metrics: &ProcessMetrics,
        ours: &[SocketAddr],
        listens: Listens,
    ) -> Result<Self, BindError> {
        let wanted = settings.address;
        let address = match ours.iter().any(|our| overlap(wanted, *our)) {
            true => wanted,
            false => probe(wanted).map_err(|error| BindError::new(wanted, error))?,
        };
        let open = |_| open(address, listens).map(WorkerSocket::new);
        let sockets: io::Result<_> = (0..workers.max(1)).map(open).collect();
        Ok(Self::of(
            settings,
            tls,
            metrics,
            address,
            sockets.map_err(|error| BindError::new(address, error))?,
        ))
    }

    /// The same on sockets of another process, as many as there are workers for; further ones are bound beside them.
    pub fn inherit(
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        workers: usize,
        metrics: &ProcessMetrics,
        inherited: &Inherited,
    ) -> Result<Self, BindError> {
        let address = inherited.address;
        let socket = |worker: usize| match inherited.sockets.get(worker) {
            Some((number, socket)) => {
                Ok(WorkerSocket { inherited: Some(*number), ..WorkerSocket::new(socket.try_clone()?) })
            }
            None => open(address, Listens::WithWorkers).map(WorkerSocket::new),
        };
        let sockets: io::Result<_> = (0..workers.max(1)).map(socket).collect();
        Ok(Self::of(
            settings,
            tls,
            metrics,
            address,
            sockets.map_err(|error| BindError::new(address, error))?,
        ))
    }

    fn of(
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        metrics: &ProcessMetrics,
        address: SocketAddr,
        sockets: Box<[WorkerSocket]>,
    ) -> Self {
        let counters = metrics.listener(&settings.name);
        let bound = Bound {
            address,
            capacity: Arc::new(Capacity::new(settings.max_connections)),
            spread: Arc::new(Spread::new(sockets.len())),
            accepting: watch::Sender::new(()),
            sockets,
        };
        Self { settings, tls, access_log: None, tracer: None, counters, bound: Arc::new(bound) }
    }

    /// The same sockets with other settings, for clients that come from then on.
    pub fn with(
        &self,
        settings: Arc<config::Listener>,
        tls: Option<Arc<tls::Server>>,
        metrics: &ProcessMetrics,
    ) -> Self {
        let counters = metrics.listener(&settings.name);
        Self { settings, tls, access_log: None, tracer: None, counters, bound: self.bound.clone() }
    }

    /// The same with a log.
    pub fn logged(self, access_log: Option<Arc<AccessLog>>) -> Self {
        Self { access_log, ..self }
    }

    /// The same with traces.
    pub fn traced(self, tracer: Option<Arc<Tracer>>) -> Self {
        Self { tracer, ..self }
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

    /// What another process needs to accept here, too: workers, each with a copy of its socket. None for a listener
    /// that is gone.
    pub fn copies(&self) -> impl Iterator<Item = (usize, OwnedFd)> {
        let sockets = self.bound.sockets.iter().enumerate();
        sockets.filter_map(|(worker, socket)| Some((worker, socket.copy()?)))
    }

    /// Another process accepts on the socket of this worker: when the listener goes it is let go at once, with the
    /// clients that wait in its queue.
    pub fn hand_over(&self, worker: usize) {
        if let Some(socket) = self.bound.sockets.get(worker) {
            socket.handed_over.store(true, Relaxed);
        }
    }

    /// The numbers of the sockets that were another process'.
    pub fn inherited(&self) -> impl Iterator<Item = usize> {
        self.bound.sockets.iter().filter_map(|socket| socket.inherited)
    }

    pub(super) fn capacity(&self) -> &Arc<Capacity> {
        &self.bound.capacity
    }

    /// A worker's socket, in the calling worker's runtime. None: it has been taken.
    pub(super) fn open(&self, worker: usize) -> Option<io::Result<Open>> {
        let accepting = self.bound.accepting.subscribe();
        let socket = self.take(worker)?;
        *held(&self.bound.sockets[worker].copy) = socket.as_fd().try_clone_to_owned().ok();
        // One that listens already goes on as it did.
        let listening = SockRef::from(&socket).listen(BACKLOG);
        let socket = listening.and_then(|()| tokio::net::TcpListener::from_std(socket));
        let bound = self.bound.clone();
        Some(socket.map(|socket| Open { socket, worker, bound, _accepting: accepting }))
    }

    fn take(&self, worker: usize) -> Option<TcpListener> {
        held(&self.bound.sockets.get(worker)?.untaken).take()
    }
}

/// A lock is held for a line that leaves nothing half done.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One worker's socket of a listener, in that worker's runtime.
pub(super) struct Open {
    pub socket: tokio::net::TcpListener,
    pub worker: usize,
    bound: Arc<Bound>,
    _accepting: watch::Receiver<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        // A copy would keep the socket open.
        *held(&self.bound.sockets[self.worker].copy) = None;
    }
}

impl Open {
    pub(super) fn spread(&self) -> Arc<Spread> {
        self.bound.spread.clone()
    }

    /// Whether another process accepts here.
    pub(super) fn is_handed_over(&self) -> bool {
        self.bound.sockets[self.worker].handed_over.load(Relaxed)
    }

    /// From now on nobody begins to connect, and whoever has begun ends up in the queue. Without this, those would be
    /// reset who come between the last `accept` and the end of the socket.
    ///
    /// The packet with which a client begins is lost, so that it tries again, and is refused once the socket is closed.
    ///
    /// Where another process accepts nobody is turned away.
    pub(super) fn refuse_new(&self) {
        if self.is_handed_over() {
            return;
        }
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
pub fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this, connections that linger from the process before would count as use.
    socket.set_reuse_address(true)?;
    only_v6(&socket, address)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?;
    bound.as_socket().ok_or_else(|| io::Error::other("bound to something that is no IP address"))
}

fn open(address: SocketAddr, listens: Listens) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    only_v6(&socket, address)?;
    net::prepare(&socket)?;
    socket.bind(&address.into())?;
    if listens == Listens::AtOnce {
        socket.listen(BACKLOG)?;
    }
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

    fn settings() -> Arc<config::Listener> {
        let text = "[[listener]]\naddress = '127.0.0.1:0'\n";
        let config = config::parse(text, std::path::Path::new("witgate.toml")).unwrap();
        Arc::new(config.listeners[0].clone())
    }

    fn listener(workers: usize) -> Listener {
        Listener::bind(settings(), None, workers, &ProcessMetrics::new(workers), &[]).unwrap()
    }

    /// As another process has it that was given all sockets, with this many workers.
    fn successor(of: &Listener, workers: usize) -> Listener {
        let socket = |(worker, copy): (usize, OwnedFd)| (10 + worker, TcpListener::from(copy));
        let inherited = Inherited {
            name: of.settings.name.clone(),
            wanted: of.settings.address,
            address: of.address(),
            sockets: of.copies().map(socket).collect(),
        };
        Listener::inherit(settings(), None, workers, &ProcessMetrics::new(workers), &inherited).unwrap()
    }

    #[tokio::test]
    async fn another_process_accepts_whoever_waits_in_a_queue_and_the_old_socket_ends_without_a_reset() {
        let old = listener(1);
        let client = TcpStream::connect(old.address()).await.unwrap();
        let old_socket = old.open(0).unwrap().unwrap();
        let new = successor(&old, 1);
        assert_eq!(new.inherited().collect::<Vec<_>>(), [10]);
        old.hand_over(0);
        assert!(old_socket.is_handed_over());
        // It turns nobody away.
        old_socket.refuse_new();
        drop(old_socket);
        assert_eq!(old.copies().count(), 0, "a listener that is gone holds no socket");
        let later = TcpStream::connect(new.address()).await.unwrap();
        let new_socket = new.open(0).unwrap().unwrap();
        for client in [client, later] {
            let (_, peer) = new_socket.socket.accept().await.unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn a_process_with_more_workers_listens_on_what_it_adds_when_they_take_it() {
        let old = listener(1);
        let new = successor(&old, 3);
        let number = |of: &Listener| of.inherited().collect::<Vec<_>>();
        assert_eq!((number(&new), new.copies().count()), (vec![10], 3));
        let old_socket = old.open(0).unwrap().unwrap();
        // Whoever connects is in the one queue that there is.
        for _ in 0..32 {
            let client = TcpStream::connect(old.address()).await.unwrap();
            let (_, peer) =
                timeout(Duration::from_secs(10), old_socket.socket.accept()).await.unwrap().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        drop(old_socket);
        let sockets = [0, 1, 2].map(|worker| new.open(worker).unwrap().unwrap());
        let client = TcpStream::connect(new.address()).await.unwrap();
        let accepted = tokio::select! {
            accepted = sockets[0].socket.accept() => accepted,
            accepted = sockets[1].socket.accept() => accepted,
            accepted = sockets[2].socket.accept() => accepted,
        };
        assert_eq!(accepted.unwrap().1, client.local_addr().unwrap());
        assert_eq!(successor(&new, 2).inherited().collect::<Vec<_>>(), [10, 11]);
    }

    #[tokio::test]
    async fn nobody_begins_to_connect_to_a_socket_that_refuses_and_whoever_did_is_accepted() {
        let open = listener(1).open(0).unwrap().unwrap();
        let address = open.bound.address;
        let before = TcpStream::connect(address).await.unwrap();
        open.refuse_new();
        // Without an answer it would be tried again after a second.
        let after = timeout(Duration::from_millis(500), TcpStream::connect(address)).await;
        assert!(after.is_err(), "{after:?}");
        let (_, peer) = open.socket.accept().await.unwrap();
        assert_eq!(peer, before.local_addr().unwrap());
    }
}
