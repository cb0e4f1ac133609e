//! What is counted for the whole process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::runtime::Handle;

use super::{Configured, UpstreamMetrics};

/// Counters that belong to no upstream.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Requests that reached no upstream: no route, no such service, malformed.
    pub unrouted: Arc<UpstreamMetrics>,
    pub configured: Configured,
    reloads: [AtomicU64; Reload::ALL.len()],
    /// As long as there is the listener, or a connection that came by it. Locked to add a listener and to scrape, never
    /// for a connection.
    listeners: Mutex<BTreeMap<Arc<str>, Weak<ListenerCounters>>>,
    /// By number. Locked to add a worker and to scrape.
    workers: Mutex<BTreeMap<usize, Handle>>,
}

impl ProcessMetrics {
    pub fn new(workers: usize) -> Self {
        Self {
            unrouted: Arc::new(UpstreamMetrics::new(workers)),
            configured: Configured::default(),
            reloads: Default::default(),
            listeners: Mutex::default(),
            workers: Mutex::default(),
        }
    }

    /// The configuration file changed, and this came of it.
    pub fn reloaded(&self, result: Reload) {
        self.reloads[result as usize].fetch_add(1, Relaxed);
    }

    pub fn reloads(&self) -> impl Iterator<Item = (Reload, u64)> {
        Reload::ALL.into_iter().map(|result| (result, self.reloads[result as usize].load(Relaxed)))
    }

    /// The counters of a listener; a listener of the same name shares them.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCounters> {
        let mut listeners = self.lock();
        listeners.retain(|_, counters| counters.strong_count() > 0);
        if let Some(counters) = listeners.get(name).and_then(Weak::upgrade) {
            return counters;
        }
        let counters = Arc::default();
        listeners.insert(name.clone(), Arc::downgrade(&counters));
        counters
    }

    pub fn listeners(&self) -> Vec<ListenerCounts> {
        let counts = |(name, counters): (&Arc<str>, &Weak<ListenerCounters>)| {
            let counters = counters.upgrade()?;
            let accepted = counters.accepted.load(Relaxed);
            let open = accepted.saturating_sub(counters.closed.load(Relaxed));
            let abused = std::array::from_fn(|kind| counters.abused[kind].load(Relaxed));
            let handshakes = std::array::from_fn(|kind| counters.handshakes[kind].load(Relaxed));
            let failed = std::array::from_fn(|reason| counters.handshakes_failed[reason].load(Relaxed));
            Some(ListenerCounts {
                name: name.clone(),
                accepted,
                open,
                abused,
                handshakes,
                handshakes_failed: failed,
                proxy_refused: std::array::from_fn(|reason| counters.proxy_refused[reason].load(Relaxed)),
            })
        };
        self.lock().iter().filter_map(counts).collect()
    }

    /// A worker begins, with this runtime.
    pub fn worker(&self, index: usize, runtime: Handle) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).insert(index, runtime);
    }

    /// Waits until every worker has come round to something new, as it does between requests. Says whether none has
    /// ended.
    pub async fn workers_answer(&self) -> bool {
        let ask = |runtime: &Handle| runtime.spawn(async {});
        let asked: Vec<_> =
            self.workers.lock().unwrap_or_else(PoisonError::into_inner).values().map(ask).collect();
        let mut all = true;
        for answer in asked {
            all &= answer.await.is_ok();
        }
        all
    }

    /// The tasks of each worker, by its number.
    pub fn tasks(&self) -> Vec<(usize, u64)> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|(index, runtime)| (*index, runtime.metrics().num_alive_tasks() as u64)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Weak<ListenerCounters>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a changed configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    Applied,
    /// It has mistakes.
    Invalid,
    /// It changes what only a restart can change.
    NeedsRestart,
}

impl Reload {
    pub const ALL: [Self; 3] = [Self::Applied, Self::Invalid, Self::NeedsRestart];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Invalid => "invalid",
            Self::NeedsRestart => "needs-restart",
        }
    }
}

/// Counters of one listener, shared by the workers: a connection is rare beside its requests.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    accepted: AtomicU64,
    closed: AtomicU64,
    abused: [AtomicU64; Abuse::ALL.len()],
    /// Handshakes of TLS: full ones, and those that took up a session.
    handshakes: [AtomicU64; 2],
    handshakes_failed: [AtomicU64; HandshakeFailure::ALL.len()],
    proxy_refused: [AtomicU64; ProxyRefusal::ALL.len()],
}

/// Why a client that wanted TLS did not get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// It left before the end.
    Closed,
    /// It took too long, or others needed its place.
    Late,
    /// It does not speak TLS.
    NoTls,
    /// It has no version, cipher or protocol that we have.
    Incompatible,
    /// It has no certificate, and needs one.
    NoCertificate,
    /// Its certificate is not believed.
    Certificate,
    /// It does not like ours, or something else, and says so.
    Refused,
    Other,
}

impl HandshakeFailure {
    pub const ALL: [Self; 8] = [
        Self::Closed,
        Self::Late,
        Self::NoTls,
        Self::Incompatible,
        Self::NoCertificate,
        Self::Certificate,
        Self::Refused,
        Self::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Late => "late",
            Self::NoTls => "no-tls",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no-certificate",
            Self::Certificate => "certificate",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }
}

/// Why a connection without a PROXY header, where one has to be, was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyRefusal {
    /// It begins with something else.
    Missing,
    /// It makes no sense.
    Invalid,
    TooLong,
    /// The proxy left before its end.
    Closed,
    /// It took too long, or others needed the place.
    Late,
}

impl ProxyRefusal {
    pub const ALL: [Self; 5] = [Self::Missing, Self::Invalid, Self::TooLong, Self::Closed, Self::Late];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Invalid => "invalid",
            Self::TooLong => "too-long",
            Self::Closed => "closed",
            Self::Late => "late",
        }
    }
}

/// What a client of HTTP/2 can send without end, at little cost to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abuse {
    Reset,
    Settings,
    Ping,
    Window,
    /// A window opened by a few bytes.
    SmallWindow,
    /// A frame with nothing in it.
    Empty,
    /// A frame that nobody heeds.
    Ignored,
}

impl Abuse {
    pub const ALL: [Self; 7] = [
        Self::Reset,
        Self::Settings,
        Self::Ping,
        Self::Window,
        Self::SmallWindow,
        Self::Empty,
        Self::Ignored,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Settings => "settings",
            Self::Ping => "ping",
            Self::Window => "window",
            Self::SmallWindow => "small-window",
            Self::Empty => "empty",
            Self::Ignored => "ignored",
        }
    }
}

impl ListenerCounters {
    /// Counts a connection as open until the guard is dropped.
    pub fn accepted(self: &Arc<Self>) -> Connection {
        self.accepted.fetch_add(1, Relaxed);
        Connection(self.clone())
    }

    /// A connection was closed because its client sent too much of this.
    pub fn abused(&self, kind: Abuse) {
        self.abused[kind as usize].fetch_add(1, Relaxed);
    }

    /// A client has TLS; `resumed`: it took up a session.
    pub fn shook_hands(&self, resumed: bool) {
        self.handshakes[usize::from(resumed)].fetch_add(1, Relaxed);
    }

    /// A client that wanted TLS did not get it.
    pub fn handshake_failed(&self, reason: HandshakeFailure) {
        self.handshakes_failed[reason as usize].fetch_add(1, Relaxed);
    }

    /// A connection was closed because it had no PROXY header.
    pub fn refused_proxy_header(&self, reason: ProxyRefusal) {
        self.proxy_refused[reason as usize].fetch_add(1, Relaxed);
    }
}

/// An open connection. Dropping it says that it is closed.
#[derive(Debug)]
pub struct Connection(Arc<ListenerCounters>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Relaxed);
    }
}

/// What a listener has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerCounts {
    pub name: Arc<str>,
    pub accepted: u64,
    pub open: u64,
    /// Connections that were closed for this, by kind.
    pub abused: [u64; Abuse::ALL.len()],
    /// Full ones, and those that took up a session.
    pub handshakes: [u64; 2],
    pub handshakes_failed: [u64; HandshakeFailure::ALL.len()],
    /// Connections that were closed for this, by reason.
    pub proxy_refused: [u64; ProxyRefusal::ALL.len()],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let metrics = ProcessMetrics::new(1);
        let listener = metrics.listener(&"web".into());
        let first = listener.accepted();
        let _second = metrics.listener(&"web".into()).accepted();
        drop(first);
        let counted = metrics.listeners();
        assert_eq!((&*counted[0].name, counted[0].accepted, counted[0].open), ("web", 2, 1));
    }

    #[test]
    fn a_listener_is_forgotten_with_its_last_connection() {
        let metrics = ProcessMetrics::new(1);
        let connection = metrics.listener(&"web".into()).accepted();
        assert_eq!(metrics.listeners().len(), 1);
        drop(connection);
        assert_eq!(metrics.listeners(), []);
    }

    /// Threads with a runtime each, as workers have them, that end when they are told to.
    fn worker(metrics: &ProcessMetrics, index: usize) -> (Handle, tokio::sync::oneshot::Sender<()>) {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (begun, runtime) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            begun.send(runtime.handle().clone()).unwrap();
            runtime.block_on(async { ended.await.unwrap_or_default() });
        });
        let runtime = runtime.recv().unwrap();
        metrics.worker(index, runtime.clone());
        (runtime, end)
    }

    #[tokio::test]
    async fn a_worker_that_is_stuck_does_not_answer_and_one_that_has_ended_is_told() {
        let metrics = ProcessMetrics::new(2);
        let (_, end) = worker(&metrics, 0);
        let (other, _end) = worker(&metrics, 1);
        assert!(metrics.workers_answer().await);
        let (go_on, stuck) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        other.spawn(async move {
            begun.send(()).unwrap();
            // As a loop in native code: nothing else runs on that thread.
            let _ = stuck.recv();
        });
        has_begun.await.unwrap();
        let answer = metrics.workers_answer();
        tokio::pin!(answer);
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut answer).await;
        assert!(early.is_err(), "it answers although a worker is stuck");
        drop(go_on);
        assert!(answer.await);
        drop(end);
        while metrics.workers_answer().await {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn reloads_are_counted_by_what_came_of_them() {
        let metrics = ProcessMetrics::new(1);
        metrics.reloaded(Reload::Invalid);
        let counted: Vec<_> = metrics.reloads().map(|(result, count)| (result.as_str(), count)).collect();
        assert_eq!(counted, [("applied", 0), ("invalid", 1), ("needs-restart", 0)]);
    }
}
