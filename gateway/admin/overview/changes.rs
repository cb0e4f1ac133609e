//! The last changes of all lists together: who added or removed what, and whether it was believed.

use std::{cmp::Reverse, sync::Arc};

use serde::Serialize;

use crate::{
    admin::upstreams::{self, Generation},
    catalog::Upstream,
    upstream::Status,
};

/// Changes told.
const MOST: usize = 10;

#[derive(Serialize)]
pub(super) struct Change {
    upstream: String,
    #[serde(flatten)]
    made: Generation,
}

/// The latest first.
pub(super) fn last(upstreams: &[(Arc<Upstream>, Arc<Status>)]) -> Vec<Change> {
    let of = |(upstream, status): &'_ (Arc<Upstream>, Arc<Status>)| {
        let name = upstream.name();
        let change = move |made| Change { upstream: name.to_string(), made };
        let times = status.history.iter().rev().map(|entry| entry.at);
        times.zip(upstreams::history(status).map(change)).take(MOST).collect::<Vec<_>>()
    };
    let mut changes: Vec<_> = upstreams.iter().flat_map(of).collect();
    changes.sort_by_key(|(at, change)| (Reverse(*at), Reverse(change.made.generation)));
    changes.truncate(MOST);
    changes.into_iter().map(|(_, change)| change).collect()
}
