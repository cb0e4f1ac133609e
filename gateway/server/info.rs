//! One connection of a client, as whoever answers its requests knows it.

use std::{
    cell::{Cell, OnceCell},
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    orders::{Order, Orders},
    spread::Worker,
    upgraded::Upgraded,
};
use crate::{
    net::{Meter, Proxied},
    tls,
};

/// Goes on with the bytes of a client after HTTP. Gets what was read too far.
pub type Takeover = Box<dyn FnOnce(Upgraded, Vec<u8>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What was learned of a connection when it was made, and what may be asked of it. Lives on one worker.
pub struct ConnInfo {
    ends: Cell<Proxied>,
    /// Counts what goes through it.
    pub meter: Rc<Meter>,
    /// What was agreed with the client; empty without TLS, or before that.
    pub(super) tls: OnceCell<tls::Accepted>,
    pub(super) orders: Orders,
    /// Whose connection it is.
    pub(super) worker: Rc<Worker>,
    /// When it is to take no more requests.
    expires: Option<Instant>,
    /// Of a connection that is passed on as it is: one side has closed, and the other goes on.
    pub half_closed: Cell<bool>,
    takeover: Cell<Option<Takeover>>,
    reset: Cell<bool>,
}

impl ConnInfo {
    pub(super) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        meter: Rc<Meter>,
        worker: Rc<Worker>,
        max_age: Option<Duration>,
    ) -> Self {
        let (orders, takeover, reset) = (Orders::default(), Cell::default(), Cell::default());
        // A tenth more or less: those that came together do not all go together.
        let expires = max_age.map(|age| Instant::now() + age.mul_f64(0.9 + 0.2 * fastrand::f64()));
        let ends = Cell::new(Proxied { client: peer, server: local });
        let (tls, half_closed) = (OnceCell::new(), Cell::default());
        Self { ends, meter, tls, orders, worker, expires, half_closed, takeover, reset }
    }

    /// The client: the other end of the connection, or the one that a proxy in front told of.
    pub fn peer(&self) -> SocketAddr {
        self.ends.get().client
    }

    /// Where the client connected to: here, or at the proxy in front.
    pub fn local(&self) -> SocketAddr {
        self.ends.get().server
    }

    /// Both of these.
    pub fn ends(&self) -> Proxied {
        self.ends.get()
    }

    /// A proxy in front told who the client is. Before anything else has asked.
    pub(super) fn stands_for(&self, proxied: Proxied) {
        self.ends.set(proxied);
    }

    /// Looks at its age: from some time on every answer says that there is no other.
    pub(super) fn look_at_age(&self, now: Instant) {
        if self.expires.is_some_and(|expires| expires <= now) {
            self.orders.give(Order::Leave);
        }
    }

    /// What was agreed with the client. None: it speaks without TLS.
    pub fn tls(&self) -> Option<&tls::Accepted> {
        self.tls.get()
    }

    /// Whether it is to close as soon as what is under way has ended.
    pub fn is_to_finish(&self) -> bool {
        self.orders.current() >= Order::Finish
    }

    /// Has its task look at what is known of it.
    pub fn wake(&self) {
        self.orders.wake();
    }

    /// Hands over what the request came by as soon as its answer, a 101, is sent: the connection, or one stream of it.
    pub fn take_over(&self, takeover: Takeover) {
        self.takeover.set(Some(takeover));
    }

    /// Ends the connection with a reset, so that the client cannot take what it has got for whole, and the kernel keeps
    /// nothing for it.
    pub fn abort(&self) {
        self.reset.set(true);
        self.orders.give(Order::End);
    }

    pub(super) fn taken_over(&self) -> Option<Takeover> {
        self.takeover.take()
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.reset.get()
    }
}
