//! The connections of a listener on one worker, as far as ending them goes.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use slab::Slab;

use super::{info::ConnInfo, orders::Order};

/// Gives orders to all of them, those to come included.
#[derive(Default)]
pub(super) struct Drain {
    connections: RefCell<Slab<Rc<ConnInfo>>>,
    order: Cell<Order>,
}

/// Has a connection hear of orders as long as it is there.
pub(super) struct DrainHandle {
    drain: Rc<Drain>,
    key: usize,
}

impl Drain {
    pub(super) fn enter(self: &Rc<Self>, connection: &Rc<ConnInfo>) -> DrainHandle {
        connection.orders.give(self.order.get());
        let key = self.connections.borrow_mut().insert(connection.clone());
        DrainHandle { drain: self.clone(), key }
    }

    pub(super) fn order(&self, order: Order) {
        self.order.set(order);
        self.connections.borrow().iter().for_each(|(_, connection)| connection.orders.give(order));
    }
}

impl Drop for DrainHandle {
    fn drop(&mut self) {
        self.drain.connections.borrow_mut().remove(self.key);
    }
}
