//! The last changes of all lists together: who added or removed what, and whether it was believed.

use std::{cmp::Reverse, net::SocketAddr, sync::Arc};

use serde::Serialize;

use crate::{
    catalog::Upstream,
    telemetry::rfc3339,
    upstream::{Addresses, Cause, Entry, SourceName, Status},
};

/// Changes told, and addresses named of each kind.
const MOST: usize = 10;
const NAMED: usize = 3;

#[derive(Serialize)]
pub(super) struct Change {
    upstream: String,
    generation: u64,
    at: String,
    /// Null, like the service, where the operator ordered it.
    registry: Option<String>,
    service: Option<String>,
    cause: &'static str,
    /// Null, unless the cause is a roll-back.
    rolled_back_to: Option<u64>,
    /// False: the list was pinned.
    applied: bool,
    added: Changed,
    updated: Changed,
    removed: Changed,
    /// Removed by the registry, and not believed.
    held: Changed,
}

#[derive(Serialize)]
struct Changed {
    count: usize,
    addresses: Vec<SocketAddr>,
}

/// The latest first.
pub(super) fn last(upstreams: &[(Arc<Upstream>, Arc<Status>)]) -> Vec<Change> {
    let of = |(upstream, status): &'_ (Arc<Upstream>, Arc<Status>)| {
        let names: Vec<&SourceName> = status.sources.iter().map(|source| &source.name).collect();
        let entries = status.history.iter().rev().take(MOST);
        entries.map(|entry| (entry.at, change(upstream, entry, &names))).collect::<Vec<_>>()
    };
    let mut changes: Vec<_> = upstreams.iter().flat_map(of).collect();
    changes.sort_by_key(|(at, change)| (Reverse(*at), Reverse(change.generation)));
    changes.truncate(MOST);
    changes.into_iter().map(|(_, change)| change).collect()
}

fn change(upstream: &Upstream, entry: &Entry, names: &[&SourceName]) -> Change {
    let source = entry.source.and_then(|source| names.get(source));
    Change {
        upstream: upstream.name().to_string(),
        generation: entry.generation,
        at: rfc3339(entry.at),
        registry: source.map(|source| source.registry.to_string()),
        service: source.map(|source| source.service.to_string()),
        cause: entry.cause.as_str(),
        rolled_back_to: match entry.cause {
            Cause::RolledBack { to } => Some(to),
            _ => None,
        },
        applied: entry.applied,
        added: changed(&entry.added),
        updated: changed(&entry.updated),
        removed: changed(&entry.removed),
        held: changed(&entry.held),
    }
}

fn changed(addresses: &Addresses) -> Changed {
    Changed { count: addresses.count, addresses: addresses.first.iter().take(NAMED).copied().collect() }
}
