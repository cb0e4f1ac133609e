//! Where one connection stands: how many requests are under way, what is waited for, and what the client has cost.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use slab::Slab;
use tokio::{task::AbortHandle, time::Instant};

use super::{frames::Scan, tunnel::Sending};
use crate::{
    config,
    net::{Standstill, Watched},
    server::{capacity::Seat, info::ConnInfo, orders::Order, spread::Begun},
    telemetry::{Abuse, ListenerCounters},
};

/// How long a client that was told that the connection takes no more requests may keep it open without one.
const REST: Duration = Duration::from_secs(2);

/// How long clients of requests that are under way are told that these end, when the connection has to.
const FAREWELL: Duration = Duration::from_secs(1);

/// The most of each kind that a client may send without doing anything, and at the beginning.
const BURST: u32 = 200;
/// So much work may be answered by that many more at once.
const EARNED_MOST: u32 = 10_000;
/// So many more each second, up to the burst.
const PER_SECOND: u32 = 20;
/// What a piece of an answer is worth: a client may open two windows for it, and measure the way with a ping. A long one may be
/// taken in steps of so many bytes.
const PER_PIECE: u32 = 3;
const STEP: usize = 256;

/// What is waited for that may take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Head,
    Idle,
    /// For the client to close.
    Close,
    /// For room to write to the client.
    Room,
}

/// What the parts of a connection tell each other. Lives on one worker, so cells do.
pub(in crate::server) struct State {
    pub info: Rc<ConnInfo>,
    pub seat: Seat,
    pub(super) scan: RefCell<Scan>,
    pub(super) budget: Budget,
    counters: Arc<ListenerCounters>,
    limits: Limits,
    /// Requests under way.
    open: RefCell<Slab<Rc<Course>>>,
    /// The key of the one that began last.
    newest: Cell<usize>,
    /// The tunnel whose answer was made just now.
    sends_next: Cell<Weak<Sending>>,
    /// Since when the connection has to end.
    ending: Cell<Option<Instant>>,
    /// Requests so far.
    requests: Cell<u64>,
    standstill: Standstill<Wait>,
}

struct Limits {
    header: Duration,
    idle: Duration,
    write: Duration,
    tunnel: Duration,
}

/// A request that is under way. Dropping it says that it is over.
pub(super) struct Open {
    state: Rc<State>,
    course: Rc<Course>,
    key: usize,
    _begun: Begun,
}

/// How a request fares.
#[derive(Default)]
struct Course {
    /// Pieces of the answer so far, its head among them.
    pieces: Cell<u64>,
    /// Whether it is the client's turn, who has to take the last one before there is another.
    sent: Cell<bool>,
    standstill: Standstill<bool>,
    /// Which answers it; of a tunnel, which sends to the client.
    task: Cell<Option<AbortHandle>>,
    /// Which carries the bytes of a tunnel both ways.
    tunnel: Cell<Option<AbortHandle>>,
    is_tunnel: Cell<bool>,
}

/// The stream of a request that is under way, for whoever has to end it whatever its client does.
pub struct OpenStream(Rc<Course>);

impl OpenStream {
    /// Resets it, so that the client cannot take what it has got for whole. Does nothing once it is over.
    pub fn reset(&self) {
        self.0.end();
    }
}

impl State {
    pub(in crate::server) fn new(
        info: Rc<ConnInfo>,
        seat: Seat,
        settings: &config::Listener,
        counters: Arc<ListenerCounters>,
    ) -> Self {
        let limits = Limits {
            header: settings.header_timeout,
            idle: settings.idle_timeout,
            write: settings.write_timeout,
            tunnel: settings.tunnel_idle,
        };
        Self {
            info,
            seat,
            scan: RefCell::new(Scan::new()),
            budget: Budget::default(),
            counters,
            limits,
            open: RefCell::default(),
            newest: Cell::new(0),
            sends_next: Cell::default(),
            ending: Cell::new(None),
            requests: Cell::new(0),
            standstill: Standstill::default(),
        }
    }

    /// A request begins.
    pub(super) fn open(self: &Rc<Self>) -> Open {
        let (mut open, course) = (self.open.borrow_mut(), Rc::<Course>::default());
        if open.is_empty() {
            self.seat.busy();
        }
        let key = open.insert(course.clone());
        self.newest.set(key);
        self.sends_next.take();
        self.requests.set(self.requests.get() + 1);
        Open { state: self.clone(), course, key, _begun: self.info.worker.begin() }
    }

    /// The request that began last is answered by this task.
    pub(super) fn runs(&self, task: AbortHandle) {
        if let Some(course) = self.open.borrow().get(self.newest.get()) {
            course.task.set(Some(task));
        }
    }

    /// The answer to a request makes a tunnel of its stream, and the next task is that which sends to the client.
    pub(super) fn sends_next(&self, sending: &Rc<Sending>) {
        self.sends_next.set(Rc::downgrade(sending));
    }

    /// The tunnel whose task comes now, if it is that of one.
    pub(super) fn sending(&self) -> Option<Rc<Sending>> {
        self.sends_next.take().upgrade()
    }

    /// The connection has to end. Says whether clients are still being told so, each by the end of its request.
    pub(super) fn takes_leave(&self) -> bool {
        let open = self.open.borrow();
        if self.info.is_aborted() {
            return false;
        }
        match self.ending.get() {
            Some(since) => since.elapsed() < FAREWELL,
            None if open.is_empty() => false,
            None => {
                self.ending.set(Some(Instant::now()));
                self.info.meter.end();
                open.iter().filter(|(_, course)| course.is_tunnel.get()).for_each(|(_, course)| course.end());
                true
            }
        }
    }

    /// The client has sent more of something than its budget for it.
    pub(super) fn abused(&self, kind: Abuse) {
        tracing::debug!(client = %self.info.peer(), kind = kind.as_str(), "Client floods, connection closed");
        self.counters.abused(kind);
        self.info.abort();
    }

    /// The shortest time that anything here may take.
    pub(in crate::server) fn shortest_wait(&self) -> Duration {
        let Limits { header, idle, write, tunnel } = self.limits;
        header.min(idle).min(write).min(tunnel).min(REST)
    }

    fn waits(&self) -> Option<(Wait, u64, Duration)> {
        let (limits, meter, requests) = (&self.limits, &self.info.meter, self.requests.get());
        if meter.is_blocked() {
            return Some((Wait::Room, meter.written(), limits.write));
        }
        if self.scan.borrow().is_in_head() {
            return Some((Wait::Head, requests, limits.header));
        }
        match (self.open.borrow().is_empty(), self.info.orders.current()) {
            (true, Order::Serve) => Some((Wait::Idle, requests, limits.idle)),
            (true, _) => Some((Wait::Close, requests, REST)),
            // Whoever answers has limits of its own.
            (false, _) => None,
        }
    }

    /// Ends what its client does not take, and tunnels that are silent.
    fn look_at_requests(&self, now: Instant) {
        for (_, course) in &*self.open.borrow() {
            let sent = course.sent.get();
            let limit = match (sent, course.is_tunnel.get()) {
                (true, _) => self.limits.write,
                (false, true) => self.limits.tunnel,
                (false, false) => {
                    course.standstill.over();
                    continue;
                }
            };
            if course.standstill.lasts(now, sent, course.pieces.get()) >= limit {
                course.end();
            }
        }
    }
}

impl Course {
    /// Ends it. What a silent tunnel has sent arrives, and that there is no more.
    fn end(&self) {
        let tunnel = self.tunnel.take();
        if (tunnel.is_none() || self.sent.get())
            && let Some(task) = self.task.take()
        {
            task.abort();
        }
        if let Some(tunnel) = tunnel {
            tunnel.abort();
        }
    }
}

impl Watched for State {
    fn look(&self, now: Instant) -> bool {
        self.info.look_at_age(now);
        self.budget.refill(now);
        self.look_at_requests(now);
        if self.ending.get().is_some() {
            self.info.orders.wake();
        }
        let Some((wait, progress, limit)) = self.waits() else {
            self.standstill.over();
            return true;
        };
        if self.standstill.lasts(now, wait, progress) >= limit {
            match wait {
                Wait::Room => self.info.abort(),
                Wait::Idle => self.info.orders.give(Order::Finish),
                Wait::Head | Wait::Close => self.info.orders.give(Order::End),
            }
        }
        true
    }
}

impl Open {
    pub(super) fn stream(&self) -> OpenStream {
        OpenStream(self.course.clone())
    }

    /// The head of the answer is on its way.
    pub(super) fn answered(&self) {
        self.sends(0);
    }

    /// A piece of it is.
    pub(super) fn sends(&self, bytes: usize) {
        self.state.budget.earn(PER_PIECE + (bytes / STEP) as u32);
        self.course.pieces.set(self.course.pieces.get() + 1);
        self.course.sent.set(true);
    }

    /// It goes on as a tunnel, which this task carries.
    pub(super) fn carries(&self, task: AbortHandle) {
        self.course.is_tunnel.set(true);
        self.course.tunnel.set(Some(task));
    }

    /// What the tunnel has for the client is sent by this task.
    pub(super) fn is_sent_by(&self, task: AbortHandle) {
        self.course.task.set(Some(task));
    }

    /// Nothing more is sent: the stream is reset once the tunnel is over.
    pub(super) fn stop_sending(&self) {
        if let Some(task) = self.course.task.take() {
            task.abort();
        }
    }

    /// Something came from the client, in a tunnel.
    pub(super) fn moves(&self) {
        self.course.pieces.set(self.course.pieces.get() + 1);
    }

    /// There is no room for what the tunnel has for the client.
    pub(super) fn is_blocked(&self) {
        self.course.sent.set(true);
    }

    /// The client has taken what there was, and there is no more yet.
    pub(super) fn waits(&self) {
        self.course.sent.set(false);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.state.open.borrow_mut();
        open.try_remove(self.key);
        if open.is_empty() {
            self.state.seat.idle();
        }
    }
}

/// What a client may still send, by kind.
pub(super) struct Budget {
    left: [Cell<u32>; Abuse::ALL.len()],
    /// When time gave something last.
    refilled: Cell<Option<Instant>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: std::array::from_fn(|_| Cell::new(BURST)), refilled: Cell::new(None) }
    }
}

impl Budget {
    /// Says whether there was something left.
    pub(super) fn spend(&self, kind: Abuse) -> bool {
        let cell = &self.left[kind as usize];
        match cell.get().checked_sub(1) {
            Some(left) => {
                cell.set(left);
                true
            }
            None => false,
        }
    }

    fn earn(&self, more: u32) {
        for cell in &self.left {
            cell.set((cell.get() + more).min(EARNED_MOST));
        }
    }

    fn refill(&self, now: Instant) {
        let since = self.refilled.get().unwrap_or(now);
        let more = now.saturating_duration_since(since).as_secs_f64() * f64::from(PER_SECOND);
        if more < 1.0 {
            self.refilled.set(Some(since));
            return;
        }
        self.refilled.set(Some(now));
        for cell in self.left.iter().filter(|cell| cell.get() < BURST) {
            cell.set((cell.get() + more.min(f64::from(BURST)) as u32).min(BURST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(budget: &Budget, kind: Abuse) -> u32 {
        (0..).take_while(|_| budget.spend(kind)).count() as u32
    }

    #[test]
    fn who_does_nothing_has_a_burst_and_a_few_each_second() {
        let (budget, start) = (Budget::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(left(&budget, Abuse::Ping), BURST);
        assert_eq!(left(&budget, Abuse::Settings), BURST, "each kind has its own");
        budget.refill(at(0));
        assert_eq!(left(&budget, Abuse::Ping), 0);
        // However often somebody looks.
        (1..=200).for_each(|look| budget.refill(start + Duration::from_millis(10) * look));
        assert_eq!(left(&budget, Abuse::Ping), 2 * PER_SECOND);
        budget.refill(at(1_000));
        assert_eq!(left(&budget, Abuse::Ping), BURST);
    }

    #[test]
    fn work_earns_more_and_not_without_end() {
        let budget = Budget::default();
        budget.earn(PER_PIECE);
        assert_eq!(left(&budget, Abuse::Window), BURST + PER_PIECE);
        (0..EARNED_MOST).for_each(|_| budget.earn(PER_PIECE));
        budget.refill(Instant::now());
        assert_eq!(left(&budget, Abuse::Window), EARNED_MOST);
    }
}
