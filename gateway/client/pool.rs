//! Idle connections of one worker, last in, first out: few stay warm instead of many lukewarm.

use std::{
    cell::RefCell,
    future::Future,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::{Body, Bytes};
use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{Connection, DialError, Transport, shared, transport::Ways};
use crate::{config, upstream::Stats};

/// How often idle connections are looked through; they close so much late at most.
const SWEEP: Duration = Duration::from_secs(1);

/// Idle connections by address. One per worker, so there is no lock.
pub struct Pool<B> {
    idle: RefCell<FxHashMap<SocketAddr, Ways<Vec<Idle<B>>>>>,
    /// Those of HTTP/2, which are not handed out.
    shared: RefCell<FxHashMap<SocketAddr, Ways<Sharing<B>>>>,
    /// There is something to sweep again.
    used: Rc<Notify>,
    /// They are those of one client, and no more than one endpoint may have otherwise.
    of_client: bool,
}

/// The connections of HTTP/2 to one endpoint, and how long they are kept idle.
struct Sharing<B> {
    connections: Rc<shared::Connections<B>>,
    keep: Duration,
}

struct Idle<B> {
    connection: Connection<B>,
    endpoint: Arc<Stats>,
    since: Instant,
    keep: Duration,
}

/// Idle for so long, a connection is looked at before it carries what must not be sent twice.
const LOOK_AFTER: Duration = Duration::from_millis(20);

impl<B> Drop for Pool<B> {
    fn drop(&mut self) {
        self.used.notify_one();
    }
}

impl<B: 'static> Pool<B> {
    /// Must be called where `spawn_local` works. The task that closes what was idle too long ends with the pool.
    pub fn new() -> Rc<Self> {
        Self::start(false)
    }

    /// The same, of one client, whose connections serve nobody else and close with it: `max_idle` is for all of them
    /// together.
    pub fn of_client() -> Rc<Self> {
        Self::start(true)
    }

    fn start(of_client: bool) -> Rc<Self> {
        let (idle, shared, used) = (RefCell::default(), RefCell::default(), Rc::default());
        let pool = Rc::new(Self { idle, shared, used, of_client });
        tokio::task::spawn_local(sweep(Rc::downgrade(&pool)));
        pool
    }

    /// An open connection to that endpoint, if there is one: the one that was used last. With `careful`, one that has
    /// been idle for a while is looked at once more.
    pub fn take(&self, to: Transport<'_>, now: Instant, careful: bool) -> Option<Connection<B>> {
        let mut idle = self.idle.borrow_mut();
        let stack = idle.get_mut(&to.address)?.get_mut(to)?;
        let open = |idle: &Idle<B>| {
            let unsure = careful && now.saturating_duration_since(idle.since) >= LOOK_AFTER;
            idle.connection.is_ready() && !(unsure && idle.connection.is_stale())
        };
        std::iter::from_fn(|| stack.pop()).find(open).map(|idle| idle.connection)
    }

    /// Keeps a connection that has carried a request. Closes it instead when there are enough already, or its endpoint
    /// has left, and soon when that leaves.
    pub fn put(&self, endpoint: Arc<Stats>, mut connection: Connection<B>, now: Instant, keep: config::Pool) {
        if endpoint.has_left() {
            return;
        }
        if self.is_full(keep) {
            return;
        }
        connection.reused = true;
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() && self.shared.borrow().is_empty() {
            self.used.notify_one();
        }
        let Some(to) = connection.transport() else { return };
        let stack = idle.entry(to.address).or_default().get_or_make(to, Vec::new);
        if stack.len() < keep.max_idle {
            stack.push(Idle { connection, endpoint, since: now, keep: keep.idle_timeout });
        }
    }

    /// A stream of HTTP/2 to that endpoint, if one is free.
    pub fn take_stream(&self, to: Transport<'_>) -> Option<Connection<B>> {
        let mut shared = self.shared.borrow_mut();
        shared.get_mut(&to.address)?.get_mut(to)?.connections.take().map(Connection::shared)
    }

    /// How many connections there are, those that carry HTTP/1 now not counted.
    pub fn len(&self) -> usize {
        let idle: usize = self.idle.borrow().values().flat_map(Ways::iter).map(Vec::len).sum();
        let shared = self.shared.borrow();
        let shared = shared.values().flat_map(Ways::iter);
        idle + shared.map(|sharing| sharing.connections.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a client has as many as one may.
    fn is_full(&self, keep: config::Pool) -> bool {
        self.of_client && self.len() >= keep.max_idle
    }

    fn sweep(&self) {
        let now = Instant::now();
        let is_kept = |idle: &Idle<B>| {
            now.saturating_duration_since(idle.since) < idle.keep
                && !idle.endpoint.has_left()
                && !idle.connection.is_closed()
        };
        self.idle.borrow_mut().retain(|_, ways| {
            ways.retain(|stack| {
                stack.retain(is_kept);
                !stack.is_empty()
            })
        });
        let is_used = |sharing: &mut Sharing<B>| sharing.connections.sweep(now, sharing.keep);
        self.shared.borrow_mut().retain(|_, ways| ways.retain(is_used));
    }

    fn is_swept(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Waits for a stream of HTTP/2 to that endpoint, no longer than `limit`; a connection is made for it if there may be
    /// one more. Dropping the future gives up the place in the line.
    pub fn wait_for_stream(
        &self,
        to: Transport<'_>,
        stats: &Arc<Stats>,
        limit: Duration,
        keep: config::Pool,
    ) -> impl Future<Output = Result<Connection<B>, DialError>> + use<B> {
        if self.is_swept() {
            self.used.notify_one();
        }
        let full = self.is_full(keep);
        let mut shared = self.shared.borrow_mut();
        if full {
            let now = Instant::now();
            shared.retain(|_, ways| ways.retain(|sharing| sharing.connections.sweep(now, Duration::ZERO)));
        }
        let new =
            || Sharing { connections: shared::Connections::new(to, stats.clone()), keep: keep.idle_timeout };
        let sharing = shared.entry(to.address).or_default().get_or_make(to, new);
        sharing.keep = keep.idle_timeout;
        let waiting = sharing.connections.wait(stats, limit, keep);
        async move { waiting.await.map(Connection::shared) }
    }
}

/// Sleeps while there is nothing to sweep.
async fn sweep<B: 'static>(pool: Weak<Pool<B>>) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let Some(there) = pool.upgrade() else { return };
        there.sweep();
        let swept = there.is_swept();
        let used = there.used.clone();
        drop(there);
        if swept {
            used.notified().await;
        }
        ticks.tick().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use hyper::body::Incoming;

    use super::*;
    use crate::{
        client,
        upstream::{Endpoint, Facts, Offer, Publisher, UpstreamName, Weight},
    };

    const KEEP: config::Pool =
        config::Pool { idle_timeout: Duration::from_secs(60), max_idle: 10, max_http2_connections: 1 };

    /// Nothing else runs between the end of the endpoint and the look, so that nobody else can have seen that end.
    #[tokio::test]
    async fn what_must_not_be_sent_twice_is_not_sent_over_a_connection_that_closed_just_now() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("main"));
        let endpoint = Endpoint { address, weight: Weight::ONE, facts: Facts::default() };
        publisher.publish(vec![Offer::Put(endpoint)], Instant::now());
        let snapshot = reader.snapshot();
        let member = snapshot.iter().next().unwrap();
        let to = Transport::to(member, None);
        let check = async |idle: Duration, closes: bool, careful: bool| {
            let pool = Pool::<Incoming>::new();
            let mut connection = client::dial(to, Duration::from_secs(5)).await.unwrap();
            assert!(connection.ready().await);
            let (peer, _) = listener.accept().unwrap();
            let now = Instant::now();
            pool.put(member.stats().clone(), connection, now, KEEP);
            let peer = Some(peer).filter(|_| !closes);
            let taken = pool.take(to, now + idle, careful).is_some();
            drop(peer);
            taken
        };
        tokio::task::LocalSet::new()
            .run_until(async {
                assert!(check(LOOK_AFTER, false, true).await);
                assert!(!check(LOOK_AFTER, true, true).await);
                assert!(check(LOOK_AFTER, true, false).await, "it can be sent again");
                assert!(check(Duration::ZERO, true, true).await, "it was used just now");
            })
            .await;
    }
}
