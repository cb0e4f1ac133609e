//! The stage of the PROXY header, between accept and TLS, where the listener says that it comes from proxies.
//!
//! No byte behind the header is read: it is looked at where it is in the kernel, and taken from there when it is known to be
//! the header's. So whatever comes next finds the stream as if there had been no header.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead as _, ReadBuf};

use super::{http1::State, stage::stage};
use crate::{
    net::{
        Tcp,
        proxy_protocol::{ProxyError, ProxyHeader, parse},
    },
    telemetry::{ListenerCounters, ProxyRefusal},
};

/// Looked at in one go. Headers are shorter, if a proxy tells nothing but addresses.
const PIECE: usize = 512;

/// Takes the header, and what it says of the client as what is known of it. False: there is none that makes sense, which is
/// counted.
pub(super) async fn take(tcp: &mut Tcp, state: &State, counters: &ListenerCounters) -> bool {
    let (info, mut came) = (&state.info, Vec::new());
    let header = stage(state, poll_fn(|cx| poll(tcp, &mut came, cx))).await;
    let proxy = info.peer();
    match header.unwrap_or(Err(ProxyRefusal::Late)) {
        Ok(ProxyHeader::Client(proxied)) => {
            tracing::debug!(client = %proxied.client, %proxy, "Client of a proxy");
            info.stands_for(proxied);
            true
        }
        Ok(ProxyHeader::Own) => true,
        Err(reason) => {
            counters.refused_proxy_header(reason);
            tracing::debug!(client = %proxy, reason = reason.as_str(), "No PROXY header");
            false
        }
    }
}

/// Takes more of the header, of which `came` has come so far.
fn poll(tcp: &mut Tcp, came: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<Result<ProxyHeader, ProxyRefusal>> {
    let closed = |_| ProxyRefusal::Closed;
    loop {
        let (known, mut piece) = (came.len(), [0; PIECE]);
        let mut piece = ReadBuf::new(&mut piece);
        ready!(tcp.poll_peek(cx, &mut piece)).map_err(closed)?;
        if piece.filled().is_empty() {
            return Poll::Ready(Err(ProxyRefusal::Closed));
        }
        came.extend_from_slice(piece.filled());
        let parsed = parse(came).map_err(refusal)?;
        let end = parsed.map_or(came.len(), |(_, length)| length);
        came.truncate(known);
        piece.clear();
        let mut of_header = piece.take(end - known);
        ready!(Pin::new(&mut *tcp).poll_read(cx, &mut of_header)).map_err(closed)?;
        came.extend_from_slice(of_header.filled());
        if let Some((header, length)) = parsed
            && came.len() == length
        {
            return Poll::Ready(Ok(header));
        }
    }
}

fn refusal(error: ProxyError) -> ProxyRefusal {
    match error {
        ProxyError::Missing => ProxyRefusal::Missing,
        ProxyError::Invalid => ProxyRefusal::Invalid,
        ProxyError::TooLong => ProxyRefusal::TooLong,
    }
}
