//! How requests are tried again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::NumberOr;

/// How requests are tried again: how many tries there may be after the first, or a table that says more.
///
/// A number is `failover` with so many. In a route, what is written here takes the place of what its upstream says, key
/// by key.
pub(in crate::config) type Tries = NumberOr<Retries>;

/// How requests are tried again after a failure.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Retries {
    /// Where another try goes: `failover` (to another instance), `failtry` (to the same), `failbackup` (to another, beside
    /// the first when that takes long), or `failfast` (nowhere). Default: `failover`.
    pub mode: Option<String>,
    /// Tries after the first, at most 10. That of `failbackup` beside the first is not counted. Default: 1.
    pub most: Option<u64>,
    /// After what there is another try: `connect`, `reset`, `timeout` (of `per_try_ms`), `500`, `502`, `503`, `504`, and of
    /// gRPC `cancelled`, `unknown`, `deadline-exceeded`, `resource-exhausted`, `internal`, `unavailable`. Default:
    /// `connect`, `reset`, `timeout`, `502`, `503`, `unavailable`.
    pub on: Option<Vec<String>>,
    /// The share of the requests to the upstream in the last ten seconds, 0 to 1, that may be sent once more although
    /// they may have been processed. Default: 0.2.
    pub budget: Option<f64>,
    /// So many may always be, within ten seconds. Default: 10.
    pub budget_min: Option<u64>,
    /// Milliseconds from the beginning of a try, or the last byte of the request, to the head of its answer; 0 is no
    /// limit. Default: 0.
    pub per_try_ms: Option<u64>,
    /// Milliseconds after which `failbackup` begins its second try, or `p95`: after as long as 19 of 20 requests to the
    /// upstream took lately. Default: 50.
    pub backup_after_ms: Option<BackupAfter>,
    /// The longest body that is kept for another try, in bytes, at most 16777216. A request with a longer one is not
    /// tried again once it was sent. Default: 65536.
    pub replay_bytes: Option<u64>,
}

/// When a second try begins beside the first.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(inline)]
#[serde(untagged, expecting = "expected a whole number that is not negative, or \"p95\"")]
pub(in crate::config) enum BackupAfter {
    Milliseconds(u64),
    Percentile(String),
}
