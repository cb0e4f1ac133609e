//! The stage of TLS, between accept and protocol, on the connection's own task.
//!
//! It is part of the wait for the first head, and ends with it. Whoever is in it has a permit like any other client,
//! and is among the idle ones that leave when permits are short.

use std::{future::poll_fn, pin::pin, task::Poll};

use super::{http1::State, orders::Order};
use crate::{
    net::{Stream, Tcp},
    telemetry::{HandshakeFailure, ListenerCounters},
    tls,
};

/// Shakes hands. None: that failed, and is counted.
pub(super) async fn shake(
    tcp: Tcp,
    tls: &tls::Server,
    state: &State,
    counters: &ListenerCounters,
) -> Option<Stream> {
    let (info, client) = (&state.info, state.info.peer);
    let mut handshake = pin!(tls.accept(tcp));
    let shaken = poll_fn(|cx| {
        if info.orders.register(cx) {
            state.seat.register(cx.waker());
        }
        if state.seat.told_to_leave() || info.orders.current() >= Order::Finish {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(cx).map(Some)
    });
    match shaken.await {
        Some(Ok((stream, accepted))) => {
            counters.shook_hands(accepted.resumed);
            // Nobody else has set it.
            let _ = info.tls.set(accepted);
            Some(stream.into())
        }
        Some(Err(error)) => {
            let reason = tls::reason(&error);
            counters.handshake_failed(reason);
            tracing::debug!(%client, reason = reason.as_str(), %error, "Handshake failed");
            None
        }
        None => {
            let reason = HandshakeFailure::Late;
            counters.handshake_failed(reason);
            tracing::debug!(%client, reason = reason.as_str(), "Handshake did not end in time");
            None
        }
    }
}
