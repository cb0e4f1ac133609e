//! The stage of TLS, before the protocol, on the connection's own task.

use super::{http1::State, stage::stage};
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
    let (info, client) = (&state.info, state.info.peer());
    match stage(state, tls.accept(tcp)).await {
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
