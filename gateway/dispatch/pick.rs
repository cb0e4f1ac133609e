//! An endpoint that something may be sent to.

use std::{sync::Arc, time::Instant};

use super::{NotDispatched, Target};
use crate::{
    selector::{PickError, RequestFacts},
    upstream::{Admission, HalfOpenTry, InFlight, Member, Slot},
};

/// Endpoints half-open that one request avoids, before it goes where it is sent: each costs another pick.
const HALF_OPEN_MOST: usize = 8;

/// Endpoints at their limit that one request avoids, before it gives up.
const FULL_MOST: usize = 32;

/// What an endpoint is chosen by.
pub struct Choice<'a> {
    pub target: &'a Target,
    pub facts: RequestFacts<'a>,
    /// How many tries there were, and where.
    pub attempt: u32,
    pub tried: &'a [Slot],
}

/// An endpoint, and the right to try it if it is half-open.
pub struct Picked {
    pub member: Arc<Member>,
    pub trial: Option<HalfOpenTry>,
    /// Its place among the requests to that endpoint, where these are limited.
    pub place: Option<InFlight>,
}

/// Why an endpoint is avoided.
enum Avoid {
    HalfOpen,
    Full,
}

impl Choice<'_> {
    /// Avoids endpoints at their limit, and those that are half-open while another request tries them. If there is nothing
    /// else it takes one of the latter.
    pub fn pick(&self, at: Instant) -> Result<Picked, NotDispatched> {
        let mut member = self.offered(self.tried).map_err(|error| self.nobody(error))?;
        let (mut avoided, mut half_open) = (Vec::new(), None);
        loop {
            let slot = member.slot();
            match self.admitted(&member, at) {
                Ok((trial, place)) => return Ok(Picked { member, trial, place }),
                Err(Avoid::HalfOpen) => half_open = Some(member),
                Err(Avoid::Full) => {}
            }
            avoided.push(slot);
            let most = if half_open.is_some() { HALF_OPEN_MOST } else { FULL_MOST };
            match self.other(&avoided).filter(|_| avoided.len() <= most) {
                Some(other) => member = other,
                None => break,
            }
        }
        let picked = half_open.and_then(|member| {
            let place = self.place(&member, at).ok()?;
            Some(Picked { member, trial: None, place })
        });
        picked.ok_or(NotDispatched::Full)
    }

    /// That endpoint, if it may be sent to.
    pub fn pick_only(&self, member: Arc<Member>, at: Instant) -> Option<Picked> {
        let (trial, place) = self.admitted(&member, at).ok()?;
        Some(Picked { member, trial, place })
    }

    fn offered(&self, tried: &[Slot]) -> Result<Arc<Member>, PickError> {
        self.target.view.pick(&self.facts, self.attempt, tried)
    }

    /// One that is not avoided either.
    fn other(&self, avoided: &[Slot]) -> Option<Arc<Member>> {
        let all: Vec<Slot> = self.tried.iter().chain(avoided).copied().collect();
        self.offered(&all).ok().filter(|other| !all.contains(&other.slot()))
    }

    /// The right to try it, if it takes that, and its place, if these are counted.
    fn admitted(
        &self,
        member: &Arc<Member>,
        at: Instant,
    ) -> Result<(Option<HalfOpenTry>, Option<InFlight>), Avoid> {
        let trial = match member.stats().admit() {
            Admission::Open => None,
            Admission::HalfOpen(trial) => Some(trial),
            Admission::Refused => return Err(Avoid::HalfOpen),
        };
        Ok((trial, self.place(member, at)?))
    }

    fn place(&self, member: &Member, at: Instant) -> Result<Option<InFlight>, Avoid> {
        match self.target.upstream.config.limits.and_then(|limits| limits.per_endpoint) {
            Some(most) => member.stats().begin_within(at, most).map(Some).ok_or(Avoid::Full),
            None => Ok(None),
        }
    }

    /// Why there is no endpoint. Only looked for when there is none.
    fn nobody(&self, error: PickError) -> NotDispatched {
        match error {
            PickError::NoEndpoints(_) if self.target.upstream.status().drained => NotDispatched::Drained,
            error => error.into(),
        }
    }
}
