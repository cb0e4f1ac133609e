//! What a worker wants of one of its connections.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker},
};

/// Each is stronger than those before it, and replaces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Order {
    #[default]
    Serve,
    /// Say in every answer that the connection closes after it.
    Leave,
    /// Finish what is being answered, then close.
    Finish,
    /// Close now.
    End,
}

/// The order that counts, and whom to wake for the next: the task of the connection.
#[derive(Debug, Default)]
pub(super) struct Orders {
    current: Cell<Order>,
    waker: RefCell<Option<Waker>>,
}

impl Orders {
    pub(super) fn current(&self) -> Order {
        self.current.get()
    }

    pub(super) fn give(&self, order: Order) {
        if order > self.current.get() {
            self.current.set(order);
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Remembers whom to wake. Says whether that is somebody else than before.
    pub(super) fn register(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        let known = waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            *waker = Some(cx.waker().clone());
        }
        !known
    }

    /// What comes of it; none if the order to end comes first.
    pub(super) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.register(cx);
            match self.current.get() {
                Order::End => Poll::Ready(None),
                _ => work.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }
}
