//! Breaker, limits and rates.

use super::Checker;
use crate::{
    config::{
        file,
        running::{Limits, RateBy, RouteRate},
    },
    document::{Part, SwitchOr, Way},
    resilience::{Bounds, BreakerPolicy, LEAST_K, MOST_IN_FLIGHT, Rate},
};

/// More waiting requests than anybody has memory for.
const LONGEST_QUEUE: u64 = 1_000_000;

/// The least that a limit which finds itself goes down to.
const DEFAULT_MIN: u64 = 10;

const MOST_KEYS: u64 = 10_000_000;

impl Checker<'_> {
    /// None: there is no breaker.
    pub(super) fn breaker(
        &mut self,
        way: &Way,
        breaker: Option<&SwitchOr<file::Breaker>>,
    ) -> Option<BreakerPolicy> {
        let written = match breaker? {
            SwitchOr::Is(false) => return None,
            SwitchOr::Is(true) => file::Breaker::default(),
            SwitchOr::Table(table) => table.clone(),
        };
        if !(LEAST_K..=10.0).contains(&written.k) {
            self.wrong(&way.key("k"), format!("{} is out of range", written.k))
                .hint("write a number from 1.1 to 10");
        }
        let free = self.count(&way.key("free_requests"), written.free_requests, 0..=1_000_000);
        let at = way.key("statuses");
        let statuses = written.statuses.iter().enumerate();
        let statuses =
            statuses.map(|(index, status)| self.count(&at.index(index), *status, 400..=599) as u16);
        Some(BreakerPolicy { k: written.k, statuses: statuses.collect(), free: free as u32 })
    }

    /// None: nothing is limited.
    pub(super) fn limits(&mut self, way: &Way, limits: Option<&file::Limits>) -> Option<Limits> {
        let limits = limits?;
        let most = u64::from(MOST_IN_FLIGHT);
        let mut limit =
            |key, value: Option<u64>| value.map(|value| self.count(&way.key(key), value, 1..=most) as u32);
        let in_flight = limit("max_in_flight", limits.max_in_flight);
        let per_endpoint = limit("max_in_flight_per_endpoint", limits.max_in_flight_per_endpoint);
        if !["max_in_flight", "max_in_flight_per_endpoint"].iter().any(|key| self.mentions(&way.key(key))) {
            self.wrong_key(way, "this limits nothing")
                .hint("write `max_in_flight` or `max_in_flight_per_endpoint`");
            return None;
        }
        let queue = self.count(&way.key("queue"), limits.queue, 0..=LONGEST_QUEUE) as u32;
        let queue_time = self.duration_ms(&way.key("queue_ms"), limits.queue_ms);
        if queue == 0 && self.mentions(&way.key("queue_ms")) {
            self.wrong_key(&way.key("queue_ms"), "nothing waits without a queue")
                .hint("write `queue = 100` beside it");
        }
        let bounds = self.bounds(way, limits, in_flight);
        Some(Limits { bounds, per_endpoint, queue, queue_time })
    }

    fn bounds(&mut self, way: &Way, limits: &file::Limits, in_flight: Option<u32>) -> Bounds {
        let max = in_flight.unwrap_or(MOST_IN_FLIGHT);
        let at = way.key("min_in_flight");
        if !limits.adaptive {
            if self.mentions(&at) {
                self.wrong_key(&at, "the limit is not adaptive").hint("write `adaptive = true` beside it");
            }
            return Bounds { min: max, max };
        }
        if !self.mentions(&way.key("max_in_flight")) {
            self.wrong_key(&way.key("adaptive"), "there is no limit that could find itself")
                .hint("write `max_in_flight` beside it: the beginning, and the most");
        }
        let most = u64::from(max.max(1));
        let min = self.count(&at, limits.min_in_flight.unwrap_or(DEFAULT_MIN.min(most)), 1..=most);
        Bounds { min: min as u32, max }
    }

    pub(super) fn rate(&mut self, way: &Way, rate: &file::Rate) -> Option<RouteRate> {
        let most = u64::from(u32::MAX);
        let per = self.duration_secs(&way.key("per_secs"), rate.per_secs);
        let max_keys = self.count(&way.key("max_keys"), rate.max_keys, 1..=MOST_KEYS);
        let by = self.rate_by(&way.key("by"), &rate.by);
        let requests = *self.required(way, "requests", &rate.requests)?;
        let requests = self.count(&way.key("requests"), requests, 1..=most) as u32;
        let burst = rate.burst.map(|burst| self.count(&way.key("burst"), burst, 1..=most) as u32);
        let burst = burst.unwrap_or(requests);
        Some(RouteRate { rate: Rate { requests, per, burst }, by: by?, max_keys })
    }

    fn rate_by(&mut self, way: &Way, by: &str) -> Option<RateBy> {
        match by.split_once(':') {
            None if by == "client" => Some(RateBy::Client),
            None if by == "route" => Some(RateBy::Route),
            Some(("header", name)) => self.header_name(way, name, Part::Value).map(RateBy::Header),
            _ => {
                self.wrong(way, format!("{by:?} is nobody who could have a rate"))
                    .hint("write `\"client\"`, `\"route\"`, or a header like `\"header:x-user\"`");
                None
            }
        }
    }
}
