//! How many requests of one upstream are in flight at once, over all workers, and how those that are too many wait.
//!
//! Whoever waits does so in the line of its own worker ([`Line`](super::Line)), with a ticket; tickets are numbered over all
//! workers. When a request ends while somebody waits, the line with the oldest ticket is woken, on whichever worker it is,
//! and with several places free as many lines are, so that a worker that is busy keeps nobody waiting elsewhere. While
//! nobody waits, nothing but two counts is touched.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Waker,
};

use super::aimd::{Adaptive, Bounds, Sample};

/// In the place of a ticket, or of a count of requests that have ended: nobody waits.
const NOBODY: u64 = u64::MAX;

/// The gate of one upstream.
#[derive(Debug)]
pub struct Gate {
    in_flight: AtomicU32,
    /// An [`Adaptive`].
    limit: AtomicU64,
    /// The lower half is the least, the upper half the greatest limit.
    bounds: AtomicU64,
    waiting: AtomicU32,
    tickets: AtomicU64,
    /// How many requests have ended; says whether trying again can come to anything else.
    ended: AtomicU64,
    /// How many had when somebody who waited had a place and found no endpoint for it.
    in_vain: AtomicU64,
    /// By worker.
    fronts: Box<[Front]>,
}

/// Whoever is first in the line of one worker.
#[derive(Debug)]
#[repr(align(64))]
struct Front {
    ticket: AtomicU64,
    /// Locked only while somebody waits.
    waker: Mutex<Option<Waker>>,
}

/// The right of one request to be in flight. Dropping it lets the next one go.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    /// Of the limit, when it was given.
    epoch: u16,
    in_flight: u32,
    /// How many requests had ended before it was looked for.
    pub(super) ended: u64,
    used: bool,
}

impl Gate {
    pub fn new(bounds: Bounds, workers: usize) -> Self {
        let front = |_| Front { ticket: AtomicU64::new(NOBODY), waker: Mutex::default() };
        Self {
            in_flight: AtomicU32::new(0),
            limit: AtomicU64::new(Adaptive::new(bounds.max).pack()),
            bounds: AtomicU64::new(pack(bounds)),
            waiting: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            in_vain: AtomicU64::new(NOBODY),
            fronts: (0..workers).map(front).collect(),
        }
    }

    /// Puts other bounds in force. A limit that has found itself stays where it is within them; a fixed one moves.
    pub fn set_bounds(&self, bounds: Bounds) {
        let before = unpack(self.bounds.swap(pack(bounds), SeqCst));
        if before == bounds {
            return;
        }
        self.change(|limit| limit.moved(before, bounds));
    }

    /// A place, if there is one and nobody waits who could use it.
    pub fn enter(self: &Arc<Self>) -> Option<Permit> {
        let is_free = self.waiting.load(SeqCst) == 0 || self.in_vain.load(Relaxed) == self.ended();
        is_free.then(|| self.take()).flatten()
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub fn limit(&self) -> u32 {
        self.adaptive().limit
    }

    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// A place, if there is one.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        let (ended, adaptive) = (self.ended(), self.adaptive());
        let more = |in_flight| (in_flight < adaptive.limit).then_some(in_flight + 1);
        let before = self.in_flight.fetch_update(SeqCst, SeqCst, more).ok()?;
        let (epoch, in_flight) = (adaptive.epoch(), before + 1);
        Some(Permit { gate: self.clone(), epoch, in_flight, ended, used: true })
    }

    /// The number of one more that waits, unless `most` do already.
    pub(super) fn join(&self, most: u32) -> Option<u64> {
        let more = |waiting| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(self.ticket())
    }

    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Relaxed)
    }

    /// One that waited does so no more.
    pub(super) fn left(&self) {
        self.waiting.fetch_sub(1, SeqCst);
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended.load(SeqCst)
    }

    /// Says who is first in the line of a worker, if anybody is.
    pub(super) fn set_first(&self, worker: usize, ticket: Option<u64>) {
        let Some(front) = self.fronts.get(worker) else { return };
        front.ticket.store(ticket.unwrap_or(NOBODY), SeqCst);
        if ticket.is_none() {
            // It would keep what is left of the last that waited.
            front.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Remembers whom to wake for the line of a worker. Whoever asks looks for a place after it, not before.
    pub(super) fn remember(&self, worker: usize, waker: &Waker) {
        if let Some(front) = self.fronts.get(worker) {
            let mut known = front.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *known {
                Some(known) => known.clone_from(waker),
                None => *known = Some(waker.clone()),
            }
        }
    }

    /// Wakes as many lines as there are places free, those that have waited longest.
    pub(super) fn call(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let free = self.limit().saturating_sub(self.in_flight.load(SeqCst)) as usize;
        let mut after = None;
        for _ in 0..free.min(self.fronts.len()) {
            let tickets = self.fronts.iter().map(|front| (front.ticket.load(SeqCst), front));
            let waiting =
                tickets.filter(|(ticket, _)| *ticket != NOBODY && after.is_none_or(|last| *ticket > last));
            let Some((ticket, front)) = waiting.min_by_key(|(ticket, _)| *ticket) else { return };
            after = Some(ticket);
            let waker = front.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn sample(&self, sample: Sample) {
        let bounds = unpack(self.bounds.load(Relaxed));
        if bounds.min < bounds.max {
            self.change(|limit| limit.after(sample, bounds));
        }
    }

    /// Whoever waits hears of it if there is more room.
    fn change(&self, next: impl Fn(Adaptive) -> Adaptive) {
        let changed = |packed| Some(next(Adaptive::unpack(packed)).pack()).filter(|next| *next != packed);
        let Ok(before) = self.limit.fetch_update(SeqCst, SeqCst, changed) else { return };
        if Adaptive::unpack(before).limit < self.limit() {
            self.call();
        }
    }

    fn adaptive(&self) -> Adaptive {
        Adaptive::unpack(self.limit.load(SeqCst))
    }
}

impl Permit {
    /// Tells how the request came out, for a limit that finds itself.
    pub fn learn(&self, lost: bool) {
        self.gate.sample(Sample { epoch: self.epoch, in_flight: self.in_flight, lost });
    }

    /// An endpoint of the upstream has got room, though the request goes on elsewhere.
    pub fn made_room(&self) {
        self.gate.ended.fetch_add(1, SeqCst);
        self.gate.call();
    }

    /// There is an endpoint for it: whoever waits in vain may find one, too.
    pub fn made_use(&self) {
        if self.gate.waiting.load(SeqCst) > 0 {
            self.made_room();
        }
    }

    /// Gives it back as if it had not been given, because there is no endpoint for it: nothing has ended.
    pub(super) fn give_back(mut self) {
        self.gate.in_vain.store(self.ended, Relaxed);
        self.used = false;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.used {
            self.gate.ended.fetch_add(1, SeqCst);
        }
        self.gate.in_flight.fetch_sub(1, SeqCst);
        self.gate.call();
    }
}

fn pack(bounds: Bounds) -> u64 {
    u64::from(bounds.min) | u64::from(bounds.max) << 32
}

fn unpack(packed: u64) -> Bounds {
    Bounds { min: packed as u32, max: (packed >> 32) as u32 }
}
