//! What is begun with an endpoint.

use std::{sync::Arc, time::Instant};

use super::Picked;
use crate::upstream::{HalfOpenTry, InFlight, Member};

/// What is begun with an endpoint before there is a connection. Dropping it ends it: the endpoint can be picked as if
/// this try had not been.
pub struct Opened {
    pub member: Arc<Member>,
    pub in_flight: InFlight,
    pub begun: Instant,
    /// If this request is the one that tries the endpoint.
    pub trial: Option<HalfOpenTry>,
}

impl Opened {
    pub fn begin(picked: Picked, begun: Instant) -> Self {
        let Picked { member, trial, place } = picked;
        Self { in_flight: place.unwrap_or_else(|| member.begin(begun)), member, begun, trial }
    }
}
