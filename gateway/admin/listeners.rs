//! What the API says of listeners and their connections.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Serialize;

use super::Parts;
use crate::telemetry::{Abuse, HandshakeFailure, ListenerCounts, ProxyRefusal};

#[derive(Serialize)]
pub(super) struct List {
    listeners: Vec<Listener>,
}

#[derive(Serialize)]
struct Listener {
    name: String,
    /// Null, like the next three, where it is gone and has connections yet.
    address: Option<SocketAddr>,
    protocol: Option<&'static str>,
    tls: Option<bool>,
    max_connections: Option<usize>,
    open: u64,
    /// Since the start, like all that follows.
    accepted: u64,
    handshakes: u64,
    sessions_resumed: u64,
    /// By reason, those that never were left out; like the next two.
    handshakes_failed: BTreeMap<&'static str, u64>,
    proxy_headers_refused: BTreeMap<&'static str, u64>,
    http2_abuse: BTreeMap<&'static str, u64>,
}

/// In the order of the configuration, then those that are gone.
pub(super) fn all(parts: &Parts) -> List {
    let table = parts.catalog.table();
    let configured = &table.config.listeners;
    let place = |name: &str| configured.iter().position(|of| *of.name == *name).unwrap_or(usize::MAX);
    let mut counts = parts.metrics.listeners();
    counts.sort_by_key(|of| place(&of.name));
    let one = |counts: ListenerCounts| {
        let settings = configured.get(place(&counts.name));
        Listener {
            name: counts.name.to_string(),
            address: settings.map(|of| of.address),
            protocol: settings.map(|of| of.protocol.as_str()),
            tls: settings.map(|of| of.tls.is_some()),
            max_connections: settings.map(|of| of.max_connections),
            open: counts.open,
            accepted: counts.accepted,
            handshakes: counts.handshakes[0],
            sessions_resumed: counts.handshakes[1],
            handshakes_failed: counted(
                HandshakeFailure::ALL.map(HandshakeFailure::as_str),
                counts.handshakes_failed,
            ),
            proxy_headers_refused: counted(ProxyRefusal::ALL.map(ProxyRefusal::as_str), counts.proxy_refused),
            http2_abuse: counted(Abuse::ALL.map(Abuse::as_str), counts.abused),
        }
    };
    List { listeners: counts.into_iter().map(one).collect() }
}

fn counted<const N: usize>(names: [&'static str; N], counts: [u64; N]) -> BTreeMap<&'static str, u64> {
    names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}
