//! How the API writes how old something is.

use std::time::SystemTime;

use crate::upstream::{Origin, SourceStatus};

/// How long the registry has not answered for a list, in seconds: 0 while it does, none while it never has.
pub(super) fn age_seconds(source: &SourceStatus, now: SystemTime) -> Option<f64> {
    let known = source.origin != Origin::Unknown && source.heard.is_some();
    known.then(|| source.age(now).as_millis() as f64 / 1e3)
}
