//! Connections of HTTP/2 to one endpoint, which requests share: who gets a stream on which, and who waits for one.
//!
//! The library would take any number of requests and queue them where nobody sees it, so streams are counted here: no more are
//! opened than the endpoint takes, and as connections fill up another one is made, one at a time. When there are as many as
//! there may be, requests wait in order.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    body::{Body, Bytes},
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, time::timeout};

use super::{DialError, Transport, transport::OwnTransport};
use crate::{
    backoff::Backoff,
    config,
    net::{self, Meter},
    tls::Protocol,
    upstream::Stats,
};

/// Streams on one connection, if the endpoint takes so many. They share a window, so it is large enough for all.
const STREAMS_MOST: usize = 32;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MOST as u32;

/// What is kept of one upload until the endpoint's window has room, in bytes, beside the piece that was read last.
const SEND_BUFFER: usize = 32 * 1024;

/// The longest head of an answer, in bytes.
const HEADERS_LONGEST: u32 = 32 * 1024;

/// Requests that wait for a stream to one endpoint, on one worker.
const WAITING_MOST: usize = 1024;

/// Pauses after a connection that could not be made while others carry on.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The connections of one worker to one endpoint.
pub(super) struct Connections<B> {
    to: OwnTransport,
    /// Those that whoever waited last knows: an endpoint that has left may come back with others.
    stats: RefCell<Arc<Stats>>,
    connections: RefCell<Vec<Rc<Multiplexed<B>>>>,
    /// One is being made, or that has failed and is not tried again yet.
    dialing: Cell<bool>,
    failing: RefCell<Backoff>,
    waiting: RefCell<VecDeque<Waiting<B>>>,
    /// How many connections there may be, and how long making one may take.
    connections_most: Cell<usize>,
    limit: Cell<Duration>,
    /// Begins to make a connection.
    dial: fn(&Rc<Self>),
}

type Waiting<B> = oneshot::Sender<Result<Stream<B>, DialError>>;

/// One connection. A task of its own drives it; it closes when this is dropped and the last stream has ended.
struct Multiplexed<B> {
    sender: SendRequest<B>,
    meter: Rc<Meter>,
    took: Duration,
    /// Streams that the endpoint takes at once.
    streams_most: Rc<Cell<usize>>,
    open: Cell<usize>,
    /// It has carried a request.
    used: Cell<bool>,
    /// The endpoint takes no more streams on it.
    leaving: Cell<bool>,
    idle_since: Cell<Instant>,
}

/// The right to one stream. Dropping it gives it to who waits.
pub(super) struct Stream<B> {
    connection: Rc<Multiplexed<B>>,
    all: Weak<Connections<B>>,
    reused: bool,
}

impl<B> Stream<B> {
    pub(super) fn sender(&self) -> SendRequest<B> {
        self.connection.sender.clone()
    }

    pub(super) fn meter(&self) -> &Rc<Meter> {
        &self.connection.meter
    }

    pub(super) fn took(&self) -> Duration {
        self.connection.took
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Nobody else is to use its connection: the endpoint said so, or it is broken. The others are as old.
    pub(super) fn leave(&self) {
        self.connection.leaving.set(true);
        if let Some(all) = self.all.upgrade() {
            all.connections.borrow().iter().for_each(|connection| connection.leaving.set(true));
        }
    }
}

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.open.set(connection.open.get() - 1);
        connection.idle_since.set(Instant::now());
        if let Some(all) = self.all.upgrade() {
            all.serve();
        }
    }
}

impl<B> Multiplexed<B> {
    fn is_over(&self) -> bool {
        self.leaving.get() || self.sender.is_closed()
    }

    fn has_room(&self) -> bool {
        !self.is_over() && self.open.get() < self.streams_most.get()
    }
}

impl<B> Connections<B> {
    /// A stream, if one is free and nobody waits for it: on the connection that has the fewest.
    pub(super) fn take(self: &Rc<Self>) -> Option<Stream<B>> {
        if !self.waiting.borrow().is_empty() {
            return None;
        }
        self.open()
    }

    fn open(self: &Rc<Self>) -> Option<Stream<B>> {
        let connections = self.connections.borrow();
        let free = connections.iter().filter(|connection| connection.has_room());
        let connection = free.min_by_key(|connection| connection.open.get())?.clone();
        connection.open.set(connection.open.get() + 1);
        let reused = connection.used.replace(true);
        Some(Stream { connection, all: Rc::downgrade(self), reused })
    }

    /// Gives free streams to those who wait, in order.
    fn serve(self: &Rc<Self>) {
        loop {
            // Who has given up is passed over.
            while self.waiting.borrow().front().is_some_and(oneshot::Sender::is_closed) {
                self.waiting.borrow_mut().pop_front();
            }
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(stream) = self.open() else { return self.grow() };
            let waiting = self.waiting.borrow_mut().pop_front();
            // It is open as long as nothing else runs.
            let _ = waiting.map(|waiting| waiting.send(Ok(stream)));
        }
    }

    /// Makes another connection, if there may be one more: when those there are have no room.
    fn grow(self: &Rc<Self>) {
        if !self.dialing.get() && self.left() < self.connections_most.get() {
            self.dialing.set(true);
            (self.dial)(self);
        }
    }

    /// Forgets those that take no more requests. Says how many are left.
    fn left(&self) -> usize {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.is_over());
        connections.len()
    }

    /// A connection has ended, or could not be made. Says whether anybody goes on waiting: for what is left, or will be.
    fn ended(self: &Rc<Self>, error: &DialError) -> bool {
        let goes_on = self.left() > 0 || self.dialing.get();
        if !goes_on {
            for waiting in self.waiting.take() {
                let _ = waiting.send(Err(error.clone()));
            }
        }
        goes_on
    }

    /// Closes what is idle for too long or over. Says whether anything is left.
    pub(super) fn sweep(&self, now: Instant, keep: Duration) -> bool {
        let has_left = self.stats.borrow().has_left();
        let kept = |connection: &Rc<Multiplexed<B>>| {
            let idle = connection.open.get() == 0;
            let old = now.saturating_duration_since(connection.idle_since.get()) >= keep;
            !connection.is_over() && !(idle && (old || has_left))
        };
        self.connections.borrow_mut().retain(kept);
        !self.connections.borrow().is_empty() || self.dialing.get() || !self.waiting.borrow().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.connections.borrow().len()
    }
}

impl<B> Connections<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(to: Transport<'_>, stats: Arc<Stats>) -> Rc<Self> {
        Rc::new(Self {
            to: to.to_own(),
            stats: RefCell::new(stats),
            connections: RefCell::default(),
            dialing: Cell::new(false),
            failing: RefCell::new(Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)),
            waiting: RefCell::default(),
            connections_most: Cell::new(1),
            limit: Cell::default(),
            dial: Self::begin,
        })
    }

    /// Waits for a stream, no longer than `limit`. Another connection is made when those there are have no room.
    pub(super) fn wait(
        self: &Rc<Self>,
        stats: &Arc<Stats>,
        limit: Duration,
        keep: config::Pool,
    ) -> impl Future<Output = Result<Stream<B>, DialError>> + use<B> {
        let (sender, receiver) = oneshot::channel();
        let address = self.to.address;
        let is_full = self.waiting.borrow().len() >= WAITING_MOST;
        self.stats.borrow_mut().clone_from(stats);
        self.connections_most.set(keep.max_http2_connections);
        self.limit.set(limit);
        if !is_full {
            self.waiting.borrow_mut().push_back(sender);
            self.serve();
        }
        let this = self.clone();
        async move {
            let busy = || DialError::Busy { address, limit };
            if is_full {
                return Err(busy());
            }
            match timeout(limit, receiver).await {
                Ok(Ok(got)) => got,
                // Whoever began the first connection has as long as that, and may look at the clock before it.
                _ if this.left() == 0 => Err(DialError::TimedOut { address, limit }),
                // What makes a connection tells its failure itself; this is the wait for others to end.
                Ok(Err(_)) | Err(_) => Err(busy()),
            }
        }
    }

    fn begin(self: &Rc<Self>) {
        let this = self.clone();
        tokio::task::spawn_local(net::guarded("connecting", async move {
            let (address, limit) = (this.to.address, this.limit.get());
            let late = |_| Err(DialError::TimedOut { address, limit });
            let made = timeout(limit, this.make(limit)).await.unwrap_or_else(late);
            this.dialing.set(false);
            match made {
                Ok(connection) => {
                    this.failing.borrow_mut().works();
                    this.connections.borrow_mut().push(connection);
                }
                Err(error) => {
                    if !this.ended(&error) {
                        return;
                    }
                    tracing::debug!(endpoint = %address, %error, "Others carry on");
                    this.dialing.set(true);
                    let pause = this.failing.borrow_mut().pause();
                    tokio::time::sleep(pause).await;
                    this.dialing.set(false);
                }
            }
            this.serve();
        }));
    }

    /// Makes a connection, and waits until the endpoint has said how many streams it takes.
    async fn make(self: &Rc<Self>, limit: Duration) -> Result<Rc<Multiplexed<B>>, DialError> {
        let (address, began) = (self.to.address, Instant::now());
        let failed = move |error| DialError::Failed { address, error: Arc::new(error) };
        let stream = self.to.open(limit, Protocol::Http2).await?;
        let (took, meter) = (began.elapsed(), stream.meter().clone());
        let (streams_most, settings) = (Rc::new(Cell::new(0)), Settings::default());
        let (sender, driver) = http2::Builder::new(settings.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADERS_LONGEST)
            // How many it takes is known when its settings come, which is at once.
            .initial_max_send_streams(0)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(io::Error::other(error)))?;
        let (told, known) = oneshot::channel();
        let told = Rc::new(Cell::new(Some(told)));
        let driver = Rc::new(RefCell::new(driver));
        let learn = {
            let (driver, most, told, all) =
                (driver.clone(), streams_most.clone(), told.clone(), Rc::downgrade(self));
            Rc::new(move || {
                let now = driver.borrow().current_max_send_streams().min(STREAMS_MOST);
                if most.replace(now) >= now {
                    return;
                }
                match (told.take(), all.upgrade()) {
                    // It fails when nobody waits for the connection any more.
                    (Some(told), _) => drop(told.send(Ok(()))),
                    (None, Some(all)) => all.serve(),
                    (None, None) => {}
                }
            })
        };
        let most = streams_most.clone();
        settings.watch(learn.clone(), move || most.get() == 0);
        let all = Rc::downgrade(self);
        tokio::task::spawn_local(net::guarded("connection to an endpoint", async move {
            let driven = poll_fn(|cx| {
                let polled = Pin::new(&mut *driver.borrow_mut()).poll(cx);
                learn();
                polled
            });
            let ended = driven.await;
            settings.forget();
            let error = match ended {
                Ok(()) => io::ErrorKind::ConnectionAborted.into(),
                Err(error) => {
                    tracing::debug!(endpoint = %address, %error, "Connection ended");
                    io::Error::other(error)
                }
            };
            match (told.take(), all.upgrade()) {
                (Some(told), _) => drop(told.send(Err(error))),
                (None, Some(all)) if all.ended(&failed(error)) => all.serve(),
                (None, _) => {}
            }
        }));
        let gone = |_| Err(io::ErrorKind::ConnectionAborted.into());
        known.await.unwrap_or_else(gone).map_err(failed)?;
        Ok(Rc::new(Multiplexed {
            sender,
            meter,
            took,
            streams_most,
            open: Cell::new(0),
            used: Cell::new(false),
            leaving: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
        }))
    }
}

/// Runs what a connection has to do beside on its own worker, and looks whether the endpoint's settings have come: the library
/// reads them in one of these tasks, and tells nobody.
#[derive(Clone, Default)]
struct Settings(Rc<RefCell<Option<Look>>>);

#[derive(Clone)]
struct Look {
    learn: Rc<dyn Fn()>,
    wanted: Rc<dyn Fn() -> bool>,
}

impl Settings {
    fn watch(&self, learn: Rc<dyn Fn()>, wanted: impl Fn() -> bool + 'static) {
        learn();
        self.0.replace(Some(Look { learn, wanted: Rc::new(wanted) }));
    }

    fn forget(&self) {
        self.0.take();
    }

    fn look(&self) {
        let look = self.0.borrow().as_ref().filter(|look| (look.wanted)()).cloned();
        if let Some(look) = look {
            (look.learn)();
        }
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Settings {
    fn execute(&self, task: F) {
        let (settings, mut task) = (self.clone(), Box::pin(task));
        let looking = poll_fn(move |cx| {
            let polled = task.as_mut().poll(cx);
            settings.look();
            polled
        });
        tokio::task::spawn_local(net::guarded("stream to an endpoint", looking));
    }
}

#[cfg(test)]
mod tests {
    use hyper::body::Incoming;

    use super::*;
    use crate::upstream::{Endpoint, Facts, Offer, Publisher, UpstreamName, Weight};

    #[tokio::test]
    async fn who_is_one_too_many_to_wait_for_a_stream_is_told_so_at_once() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("main"));
        let address = "127.0.0.1:1".parse().unwrap();
        let endpoint = Endpoint { address, weight: Weight::ONE, facts: Facts::default() };
        publisher.publish(vec![Offer::Put(endpoint)], Instant::now());
        let snapshot = reader.snapshot();
        let member = snapshot.iter().next().unwrap();
        let connections = Connections::<Incoming>::new(Transport::to(member, None), member.stats().clone());
        // No connection may be made.
        let keep = config::Pool { idle_timeout: Duration::ZERO, max_idle: 0, max_http2_connections: 0 };
        let wait = || connections.wait(member.stats(), Duration::from_secs(60), keep);
        let _waiting: Vec<_> = (0..WAITING_MOST).map(|_| wait()).collect();
        assert!(matches!(wait().await, Err(DialError::Busy { .. })));
    }
}
