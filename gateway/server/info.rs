//! One connection of a client, as whoever answers its requests knows it.

use std::{cell::Cell, future::Future, net::SocketAddr, pin::Pin, rc::Rc};

use super::orders::{Order, Orders};
use crate::net::{Meter, Stream};

/// Goes on with the bytes of a connection after HTTP. Gets what was read too far.
pub type Takeover = Box<dyn FnOnce(Stream, Vec<u8>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What was learned of a connection when it was made, and what may be asked of it. Lives on one worker.
pub struct ConnInfo {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// Counts what goes through it.
    pub meter: Rc<Meter>,
    pub(super) orders: Orders,
    takeover: Cell<Option<Takeover>>,
    reset: Cell<bool>,
}

impl ConnInfo {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, meter: Rc<Meter>) -> Self {
        let (orders, takeover, reset) = (Orders::default(), Cell::default(), Cell::default());
        Self { peer, local, meter, orders, takeover, reset }
    }

    /// Hands the connection over as soon as the answer, a 101, is sent.
    pub fn take_over(&self, takeover: Takeover) {
        self.takeover.set(Some(takeover));
    }

    /// Ends the connection with a reset, so that the client cannot take what it has got for whole.
    pub(super) fn abort(&self) {
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
