//! When an endpoint is taken out, and how it comes back.

use std::time::{Duration, Instant};

/// How endpoints of one upstream are judged. Every number has a default that suits a service nobody has looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Requests in a row that found no connection before the endpoint is taken out. 2 by default: a port that refuses
    /// is hardly ever a mistake.
    pub connect_failures: u32,
    /// Requests in a row that failed in any way: no connection, no answer in time, an answer that broke off, or a
    /// gateway error (502, 503, 504). 5 by default.
    pub failures: u32,
    /// How long it stays out the first time; twice as long the second time, three times the third. 10 s by default.
    pub eject_for: Duration,
    /// The longest it stays out, and how long it has to behave until its past is forgotten. 300 s by default.
    pub eject_most: Duration,
    /// The share of the list that failing requests may take out. 0.5 by default. Endpoints that were asked, and did not
    /// answer, are not counted.
    pub max_ejected: f64,
    /// With less than this share of the list well, or none at all, everything is offered. 0.1 by default: it is likelier
    /// then that the judgement is broken than that nine of ten endpoints are.
    pub panic: f64,
    /// With less than this share of those of a priority well, the next one gets requests, too. 0.7 by default.
    pub priority_threshold: f64,
    /// A new endpoint that refuses connections for so long is only starting: it comes back the moment it answers. 10 s
    /// by default.
    pub grace: Duration,
    /// Checks in a row that take an endpoint out. 3 by default.
    pub fall: u32,
    /// Checks in a row that bring it back. 2 by default.
    pub rise: u32,
    /// Whether what failing requests took out comes back by time and requests alone. No by default.
    pub traffic_decides: bool,
    /// What has not answered for so long is let go from a reserve. 60 s by default: longer than most disturbances of a
    /// network last.
    pub gone_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            connect_failures: 2,
            failures: 5,
            eject_for: Duration::from_secs(10),
            eject_most: Duration::from_secs(300),
            max_ejected: 0.5,
            panic: 0.1,
            priority_threshold: 0.7,
            grace: Duration::from_secs(10),
            fall: 3,
            rise: 2,
            traffic_decides: false,
            gone_after: Duration::from_secs(60),
        }
    }
}

impl Policy {
    /// How many of a list failing requests may take out.
    pub(super) fn may_be_out(&self, list: usize) -> usize {
        (list as f64 * self.max_ejected.clamp(0.0, 1.0)) as usize
    }

    /// Whether so few are well that all are offered. Those that are only starting are out by no judgement that could
    /// be broken, so many of them beside a few that are well are no panic.
    pub(super) fn is_panic(&self, well: usize, starting: usize, list: usize) -> bool {
        list > 0 && (well == 0 || (well as f64) < (list - starting) as f64 * self.panic)
    }

    /// Whether an endpoint that joined then is new.
    pub(super) fn is_new(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) < self.grace
    }

    /// How long an endpoint stays out that has been out so many times before.
    pub(super) fn pause(&self, times: u32) -> Duration {
        self.eject_for.saturating_mul(times.saturating_add(1)).min(self.eject_most)
    }
}
