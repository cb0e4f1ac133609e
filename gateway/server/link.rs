//! What the parts of one connection tell each other. Lives on one worker, so cells do.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Waker},
};

use tokio::time::Instant;

use super::Refusal;
use crate::net::Stream;

/// Goes on with the bytes of a connection after HTTP. Gets what was read too far.
pub type Takeover = Box<dyn FnOnce(Stream, Vec<u8>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// One connection of a client.
pub struct Link {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub(super) accepted: Instant,
    /// Heads that the guard let through.
    heads: Cell<u64>,
    /// Heads that the parser handed out.
    calls: Cell<u64>,
    answers: Cell<u64>,
    refusal: Cell<Option<Refusal>>,
    /// Since when a head is half read.
    pub(super) partial: Cell<Option<Instant>>,
    upgrade: Cell<Upgrade>,
    takeover: RefCell<Option<Takeover>>,
    /// Counts reads and writes.
    pub(super) activity: Cell<u64>,
    pub(super) order: Cell<Directive>,
    waker: RefCell<Option<Waker>>,
}

/// Whether the bytes after the last head are HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    No,
    /// Not known before the answer.
    Asked,
    Yes,
}

/// What the worker wants of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directive {
    Serve,
    /// Finish what is being answered, then close.
    Finish,
    /// The head of a request takes too long.
    HeadTimeout,
    /// Close now.
    End,
}

impl Link {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer,
            local,
            accepted: Instant::now(),
            heads: Cell::new(0),
            calls: Cell::new(0),
            answers: Cell::new(0),
            refusal: Cell::new(None),
            partial: Cell::new(None),
            upgrade: Cell::new(Upgrade::No),
            takeover: RefCell::new(None),
            activity: Cell::new(0),
            order: Cell::new(Directive::Serve),
            waker: RefCell::new(None),
        }
    }

    /// Hands the connection over as soon as the answer, a 101, is sent.
    pub fn take_over(&self, takeover: Takeover) {
        self.takeover.replace(Some(takeover));
    }

    pub(super) fn taken_over(&self) -> Option<Takeover> {
        self.takeover.take()
    }

    /// The guard lets a head through.
    pub(super) fn vouch(&self, upgrade: bool) {
        self.heads.set(self.heads.get() + 1);
        self.partial.set(None);
        if upgrade {
            self.upgrade.set(Upgrade::Asked);
        }
    }

    /// The guard puts a stand-in in the place of the next head.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.vouch(false);
        self.refusal.set(Some(refusal));
    }

    pub(super) fn was_refused(&self) -> bool {
        self.refusal.get().is_some()
    }

    /// The parser hands a head out: is it one that the guard let through?
    pub(super) fn called(&self) -> Result<(), Refusal> {
        let call = self.calls.get() + 1;
        self.calls.set(call);
        match self.refusal.get() {
            Some(refusal) if call == self.heads.get() => Err(refusal),
            _ if call > self.heads.get() => Err(Refusal::Unvouched),
            _ => Ok(()),
        }
    }

    /// An answer's head is about to be sent.
    pub(super) fn answered(&self, switching: bool) {
        self.answers.set(self.answers.get() + 1);
        if self.upgrade.get() == Upgrade::Asked {
            self.upgrade.set(if switching { Upgrade::Yes } else { Upgrade::No });
            self.wake();
        }
    }

    pub(super) fn upgrade(&self) -> Upgrade {
        self.upgrade.get()
    }

    pub(super) fn answering(&self) -> bool {
        self.answers.get() != self.calls.get()
    }

    pub(super) fn fresh(&self) -> bool {
        self.calls.get() == 0
    }

    pub(super) fn acted(&self) {
        self.activity.set(self.activity.get().wrapping_add(1));
    }

    pub(super) fn give(&self, order: Directive) {
        self.order.set(order);
        self.wake();
    }

    /// Remembers whom to wake: the task of the connection.
    pub(super) fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}
