//! Where one connection stands between two requests: whose turn it is, and what is waited for.
//!
//! At most one request is under way: the head of the next is let through when the answer before it has ended and the
//! kernel has all of it.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::time::Instant;

use crate::{
    config,
    net::{Standstill, Watched},
    server::{Refusal, capacity::Seat, info::ConnInfo, orders::Order},
};

/// How long the rest of a request is waited for once its answer has ended.
const REST: Duration = Duration::from_secs(2);

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of a request has come.
    Idle,
    /// The head of a request has begun to come.
    Head,
    /// A request is being answered.
    Request,
    /// It has been answered, and its body has not come whole.
    Rest,
    /// The connection carries another protocol, or is about to.
    Switched,
    /// Its first bytes were those of HTTP/2.
    Http2,
}

/// What is waited for that may take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    FirstHead,
    Head,
    Idle,
    Rest,
    /// For room to write to the client.
    Room,
    /// For bytes either way, in another protocol.
    Bytes,
}

/// What the parts of a connection tell each other. Lives on one worker, so cells do.
pub(in crate::server) struct State {
    pub info: Rc<ConnInfo>,
    pub seat: Seat,
    limits: Limits,
    phase: Cell<Phase>,
    /// Heads that were let through.
    requests: Cell<u64>,
    /// What was let through, or refused, and has not come out of the parser yet.
    passed: Cell<Option<Result<(), Refusal>>>,
    /// The request that is under way has come whole.
    whole: Cell<bool>,
    /// What comes after a refusal is not understood, and not read.
    refused: Cell<bool>,
    /// The answer ends where the connection does.
    until_close: Cell<bool>,
    /// The parser wants to read and may not; whether the filter has bytes for it.
    held_back: Cell<Option<bool>>,
    /// What took too long.
    late: Cell<Option<Phase>>,
    standstill: Standstill<Wait>,
}

struct Limits {
    header: Duration,
    idle: Duration,
    write: Duration,
    tunnel: Duration,
}

impl Limits {
    fn shortest(&self) -> Duration {
        self.header.min(self.idle).min(self.write).min(self.tunnel).min(REST)
    }
}

impl State {
    pub(in crate::server) fn new(info: Rc<ConnInfo>, seat: Seat, settings: &config::Listener) -> Self {
        Self {
            info,
            seat,
            limits: Limits {
                header: settings.header_timeout,
                idle: settings.idle_timeout,
                write: settings.write_timeout,
                tunnel: settings.tunnel_idle,
            },
            phase: Cell::new(Phase::Idle),
            requests: Cell::new(0),
            passed: Cell::new(None),
            whole: Cell::new(true),
            refused: Cell::new(false),
            until_close: Cell::new(false),
            held_back: Cell::new(None),
            late: Cell::new(None),
            standstill: Standstill::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether bytes of the client may go to the parser, or be looked at.
    pub(super) fn may_read(&self) -> bool {
        match self.phase.get() {
            // What the parser writes would be the answer to what it reads.
            Phase::Idle | Phase::Head => !self.info.meter.is_blocked(),
            Phase::Request | Phase::Rest => !self.whole.get(),
            Phase::Switched | Phase::Http2 => false,
        }
    }

    /// The parser wanted to read, and may not yet. Says whether the filter has bytes for it.
    pub(super) fn hold_back(&self, bytes: Option<bool>) {
        self.held_back.set(bytes);
    }

    pub(super) fn held_back(&self) -> Option<bool> {
        self.held_back.get()
    }

    /// The first bytes of a head are there.
    pub(super) fn begins(&self) {
        if self.phase.get() == Phase::Idle {
            self.phase.set(Phase::Head);
            self.seat.busy();
        }
    }

    /// A head is let through; `whole`: nothing follows it.
    pub(super) fn passes(&self, whole: bool) {
        self.next(Ok(()));
        self.whole.set(whole);
    }

    /// The body of the request is there.
    pub(super) fn came_whole(&self) {
        self.whole.set(true);
        if self.phase.get() == Phase::Rest {
            self.idle();
        }
    }

    /// Something harmless is let through in the place of a head that is refused.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.next(Err(refusal));
        self.whole.set(true);
        self.refused.set(true);
    }

    fn next(&self, passed: Result<(), Refusal>) {
        self.phase.set(Phase::Request);
        self.seat.busy();
        self.requests.set(self.requests.get() + 1);
        self.passed.set(Some(passed));
        self.until_close.set(false);
    }

    /// Whether the parser has what was let through and has not made a request of it.
    pub(super) fn is_unclaimed(&self) -> bool {
        let passed = self.passed.take();
        self.passed.set(passed);
        passed.is_some()
    }

    /// The parser has a request: is it the one that was let through?
    pub(super) fn claim(&self) -> Result<(), Refusal> {
        self.passed.take().unwrap_or_else(|| {
            self.refused.set(true);
            Err(Refusal::Unclear)
        })
    }

    /// Whether the answer that is about to be sent is the last one.
    pub(super) fn is_last(&self) -> bool {
        self.refused.get()
            || !self.whole.get()
            || self.info.orders.current() >= Order::Leave
            || self.seat.is_wanted()
    }

    /// The answer will end where the connection does.
    pub(super) fn answers_until_close(&self) {
        self.until_close.set(true);
    }

    pub(super) fn turns_to_http2(&self) {
        self.phase.set(Phase::Http2);
    }

    /// Gives up the place of the client, for whoever goes on with it.
    pub(in crate::server) fn into_seat(self) -> Seat {
        self.seat
    }

    pub(super) fn switches(&self) {
        self.phase.set(Phase::Switched);
    }

    /// It carries another protocol from its first byte on.
    pub(in crate::server) fn carries(&self) {
        self.seat.busy();
        self.switches();
    }

    /// The answer has ended.
    pub(super) fn answered(&self) {
        if self.phase.get() == Phase::Request {
            match self.whole.get() {
                true => self.idle(),
                false => self.phase.set(Phase::Rest),
            }
        }
    }

    fn idle(&self) {
        self.phase.set(Phase::Idle);
        self.seat.idle();
    }

    /// Whether the client may be in the middle of sending something.
    pub(super) fn is_cut_short(&self) -> bool {
        self.refused.get() || !self.whole.get()
    }

    /// Whether a client would take what it has got for whole although it is not.
    pub(super) fn is_deceptive(&self) -> bool {
        self.phase.get() == Phase::Request && self.until_close.get()
    }

    /// Whether this is what has taken too long.
    pub(super) fn is_late(&self, phase: Phase) -> bool {
        self.late.get() == Some(phase) && self.phase.get() == phase
    }

    /// The shortest time that anything here may take.
    pub(in crate::server) fn shortest_wait(&self) -> Duration {
        self.limits.shortest()
    }

    fn waits(&self) -> Option<(Wait, u64, Duration)> {
        let (limits, meter, requests) = (&self.limits, &self.info.meter, self.requests.get());
        if meter.is_blocked() {
            return Some((Wait::Room, meter.written(), limits.write));
        }
        match self.phase.get() {
            Phase::Idle | Phase::Head if requests == 0 => Some((Wait::FirstHead, 0, limits.header)),
            Phase::Idle => Some((Wait::Idle, requests, limits.idle)),
            Phase::Head => Some((Wait::Head, requests, limits.header)),
            // Whoever answers has limits of its own.
            Phase::Request | Phase::Http2 => None,
            Phase::Rest => Some((Wait::Rest, requests, REST)),
            Phase::Switched => {
                // Who has closed waits for what is still to come, and not for something to happen some day.
                let limit =
                    if self.info.half_closed.get() { limits.idle.min(limits.tunnel) } else { limits.tunnel };
                Some((Wait::Bytes, meter.read() + meter.written(), limit))
            }
        }
    }

    fn waited_too_long(&self, wait: Wait) {
        let orders = &self.info.orders;
        match (wait, self.phase.get()) {
            (Wait::Room, _) => self.info.abort(),
            (Wait::Bytes, _) => orders.give(Order::End),
            (_, Phase::Idle) => orders.give(Order::Finish),
            (_, phase) => {
                self.late.set(Some(phase));
                orders.wake();
            }
        }
    }
}

impl Watched for State {
    fn look(&self, now: Instant) -> bool {
        self.info.look_at_age(now);
        match self.waits() {
            None => self.standstill.over(),
            Some((wait, progress, limit)) => {
                if self.standstill.lasts(now, wait, progress) >= limit {
                    self.waited_too_long(wait);
                }
            }
        }
        true
    }
}
