//! Whether an upstream takes something more: by its breaker, and by how much is in flight. What has to wait does so here.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::time::timeout_at;

use super::{NotDispatched, Picked, Target};
use crate::{
    config,
    resilience::{Permit, Place, Started},
    telemetry::Refused,
};

/// What may be sent.
pub struct Admitted {
    pub picked: Picked,
    /// Since when it is under way: waiting is nothing that an endpoint takes.
    pub at: Instant,
    pub held: Held,
}

/// What becomes of something that is to be sent.
pub enum Admission {
    Admitted(Admitted),
    /// It waits in line.
    Waiting(Place),
}

/// Looks whether an upstream takes something more, without waiting. `pick` picks an endpoint for it.
pub fn admit(
    target: &Target,
    now: Instant,
    pick: impl Fn(Instant) -> Result<Picked, NotDispatched>,
) -> Result<Admission, NotDispatched> {
    let upstream = &target.upstream;
    if let (Some(breaker), Some(policy)) = (&upstream.breaker, &upstream.config.breaker)
        && breaker.refuses(policy, now)
    {
        return Err(NotDispatched::Refused(Refused::BreakerOpen));
    }
    let (Some(line), Some(limits)) = (&target.line, &upstream.config.limits) else {
        return Ok(Admission::Admitted(Admitted::new(pick(now)?, target, None, now)));
    };
    let join = || match (limits.queue, line.join(limits.queue)) {
        (_, Some(place)) => Ok(place),
        (0, None) => Err(NotDispatched::Refused(Refused::InFlightLimit)),
        (_, None) => Err(NotDispatched::Refused(Refused::QueueFull)),
    };
    let Some(permit) = line.gate().enter() else { return join().map(Admission::Waiting) };
    match pick(now) {
        Ok(picked) => {
            permit.made_use();
            Ok(Admission::Admitted(Admitted::new(picked, target, Some(permit), now)))
        }
        Err(NotDispatched::Full) => {
            let mut place = join()?;
            place.step_back(permit);
            Ok(Admission::Waiting(place))
        }
        Err(error) => Err(error),
    }
}

/// Waits for the turn of something that is in line, for as long as the upstream says. Dropped, it leaves the line.
pub async fn turn(
    target: &Target,
    mut place: Place,
    pick: impl Fn(Instant) -> Result<Picked, NotDispatched>,
) -> Result<Admitted, NotDispatched> {
    let patience = target.upstream.config.limits.map_or(Duration::ZERO, |limits| limits.queue_time);
    let until = tokio::time::Instant::now() + patience;
    loop {
        let turn = timeout_at(until, poll_fn(|cx| place.poll_turn(cx))).await;
        let permit = turn.map_err(|_| NotDispatched::Refused(Refused::QueueTimeout))?;
        let now = Instant::now();
        match pick(now) {
            Ok(picked) => return Ok(Admitted::new(picked, target, Some(permit), now)),
            Err(NotDispatched::Full) => place.step_back(permit),
            Err(error) => return Err(error),
        }
    }
}

impl Admitted {
    fn new(picked: Picked, target: &Target, permit: Option<Permit>, at: Instant) -> Self {
        let started = target.upstream.breaker.as_ref().map(|breaker| breaker.begin(at));
        let holds = permit.is_some() || started.is_some();
        Self { picked, at, held: Held(holds.then(|| Box::new(Holding { permit, started }))) }
    }
}

/// What a request holds of its upstream until its answer has ended; nothing where there is neither limit nor breaker.
/// Dropping it gives it back.
pub struct Held(Option<Box<Holding>>);

struct Holding {
    permit: Option<Permit>,
    started: Option<Started>,
}

impl Held {
    /// The head of the answer is there.
    pub fn answered(&mut self, upstream: &config::Upstream, status: StatusCode, at: Instant) {
        let Some(holding) = &mut self.0 else { return };
        let lost = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let failed = |policy: &crate::resilience::BreakerPolicy| policy.statuses.contains(&status.as_u16());
        holding.ended(lost, upstream.breaker.as_ref().is_some_and(failed), at);
    }

    /// There is a connection to the endpoint, and nothing else was asked of it. How long it lasts says nothing.
    pub fn connected(&mut self, at: Instant) {
        if let Some(holding) = &mut self.0 {
            holding.ended(false, false, at);
        }
    }

    /// No answer will come, and that is the endpoint's fault.
    pub fn failed(&mut self) {
        if let Some(holding) = &mut self.0 {
            holding.ended(true, true, Instant::now());
        }
    }

    /// The answer broke off, and the endpoint did that.
    pub fn broke_off(&mut self) {
        if let Some(started) = self.0.as_mut().and_then(|holding| holding.started.as_mut()) {
            started.ended(false, Instant::now());
        }
    }

    /// A try is over, and the request goes on.
    pub fn tried(&self) {
        if let Some(permit) = self.0.as_ref().and_then(|holding| holding.permit.as_ref()) {
            permit.made_room();
        }
    }
}

impl Holding {
    fn ended(&mut self, lost: bool, failed: bool, at: Instant) {
        if let Some(permit) = &self.permit {
            permit.learn(lost);
        }
        if let Some(started) = &mut self.started {
            started.ended(!failed, at);
        }
    }
}
