//! What the stages between accept and protocol have in common.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::{http1::State, orders::Order};

/// What comes of a stage. None: it took too long, or others needed the place of the client.
///
/// It is part of the wait for the first head, and ends with it. Whoever is in it has a permit like any other client, and
/// is among the idle ones that leave when permits are short.
pub(super) async fn stage<T>(state: &State, work: impl Future<Output = T>) -> Option<T> {
    let orders = &state.info.orders;
    let mut work = pin!(work);
    poll_fn(|cx| {
        if orders.register(cx) {
            state.seat.register(cx.waker());
        }
        if state.seat.told_to_leave() || orders.current() >= Order::Finish {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
