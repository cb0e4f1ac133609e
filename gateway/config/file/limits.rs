//! What keeps an upstream from being asked for more than it can do: breaker, limits, rates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Refuses the more requests the more of them fail, until they succeed again.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Breaker {
    /// So many requests are sent for each one that succeeded within the last ten seconds; 1.1 to 10. The less, the sooner it
    /// opens. Default: 1.5.
    pub k: f64,
    /// Requests within ten seconds that are sent whatever becomes of them. Default: 5.
    pub free_requests: u64,
    /// Statuses of answers that count as failures, beside no answer. Default: `[500, 502, 503, 504]`.
    pub statuses: Vec<u64>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { k: 1.5, free_requests: 5, statuses: vec![500, 502, 503, 504] }
    }
}

/// How many requests are in flight at once: from when they are sent until their answer has ended, upgraded connections
/// included. Those that are too many wait, or are answered with 503.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Requests in flight to all instances together. Default: no limit.
    pub max_in_flight: Option<u64>,
    /// Requests in flight to one instance. Default: no limit.
    pub max_in_flight_per_endpoint: Option<u64>,
    /// Requests that wait for others to end, in the order in which they came. More are answered with 503. Default: 0.
    pub queue: u64,
    /// Milliseconds that one waits at most. Default: 500.
    pub queue_ms: u64,
    /// `max_in_flight` is only the beginning and the most: the limit goes down by a tenth when requests are lost (no
    /// connection, no answer, 503 or 504), and up by one for each limit's worth of successes. Default: false.
    pub adaptive: bool,
    /// The least that an adaptive limit goes down to. Default: 10, or `max_in_flight` if that is less.
    pub min_in_flight: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_in_flight: None,
            max_in_flight_per_endpoint: None,
            queue: 0,
            queue_ms: 500,
            adaptive: false,
            min_in_flight: None,
        }
    }
}

/// How many requests a route takes in a time. More are answered with 429 and `Retry-After`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["requests"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Rate {
    /// Requests within `per_secs`. Required.
    pub requests: Option<u64>,
    /// Seconds for `requests`. Default: 1.
    pub per_secs: u64,
    /// Requests at once, after a pause. Default: as `requests`.
    pub burst: Option<u64>,
    /// Who has a rate of its own: each `client` (by its address; of an IPv6 address the first 64 bits), each value of a
    /// header (`header:x-user`; requests without it count by their client), or nobody: the `route` has one. Default:
    /// `client`.
    pub by: String,
    /// Clients, or values, that are remembered; whoever has been quiet for the longest is forgotten first. Default: 10000.
    pub max_keys: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { requests: None, per_secs: 1, burst: None, by: "client".into(), max_keys: 10_000 }
    }
}
