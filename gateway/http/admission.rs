//! Whether a request may be sent: by the rate of its route, the length of its body, the breaker of its upstream, and how
//! many are in flight. One that has to wait does so here, before there is anything else of it.
//!
//! Whoever is refused is answered by the gateway, and no endpoint hears or is told of it.

use std::{
    future::{Future, poll_fn},
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, StatusCode, request::Parts};
use hyper::body::Body;
use tokio::time::timeout_at;

use super::{
    RequestError,
    exchange::Routed,
    forward,
    pick::{Choice, Picked},
    reply::ReplyBody,
    worker::Target,
};
use crate::{
    config::{self, RateBy, RouteRate},
    resilience::{Permit, Place, RateTable, Started},
    selector::RequestFacts,
    telemetry::{Fault, Refused},
};

/// An IPv6 client is its network: a host may take any address of it.
const HOST_BITS: u32 = 64;

/// The rate of a route.
pub(super) struct RateLimit {
    settings: RouteRate,
    table: Arc<RateTable>,
}

impl RateLimit {
    pub(super) fn new(settings: RouteRate, table: Arc<RateTable>) -> Self {
        Self { settings, table }
    }

    pub(super) fn take(&self, head: &Parts, client: IpAddr, now: Instant) -> Result<(), RequestError> {
        let RouteRate { rate, by, .. } = &self.settings;
        let taken = match by {
            RateBy::Route => self.table.take(*rate, (), now),
            RateBy::Client => self.table.take(*rate, network(client), now),
            RateBy::Header(name) => match head.headers.get(name) {
                Some(value) => self.table.take(*rate, value.as_bytes(), now),
                None => self.table.take(*rate, network(client), now),
            },
        };
        taken.map_err(|wait| RequestError::TooFast(whole_seconds(wait)))
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> HOST_BITS << HOST_BITS).into()),
    }
}

/// At least one: who comes again at once is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// A request that may be sent.
pub(super) struct Admitted {
    pub picked: Picked,
    /// Since when it is under way: waiting is nothing that an endpoint takes.
    pub at: Instant,
    pub held: Held,
}

/// What becomes of a request.
pub(super) enum Verdict {
    Admitted(Admitted),
    /// It waits in line.
    Waiting(Place),
    Refused(RequestError),
}

/// Resolves when a request has waited: it may be sent, or it is refused.
pub(super) type Waiting =
    Pin<Box<dyn Future<Output = (Box<Routed>, Rc<Target>, Result<Admitted, RequestError>)>>>;

/// Looks whether a request may be sent to an upstream, without waiting.
pub(super) fn admit(routed: &mut Routed, target: &Target) -> Verdict {
    target.upstream.touch(routed.record.started);
    routed.record.account = target.account.clone();
    match check(routed, target) {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Refused(error),
    }
}

fn check(routed: &Routed, target: &Target) -> Result<Verdict, RequestError> {
    let (upstream, now) = (&target.upstream, routed.record.started);
    if routed.manner.max_body.is_some_and(|most| routed.body.size_hint().lower() > most) {
        return Err(RequestError::BodyTooLarge);
    }
    if let (Some(breaker), Some(policy)) = (&upstream.breaker, &upstream.config.breaker)
        && breaker.refuses(policy, now)
    {
        return Err(RequestError::NotSent(Refused::BreakerOpen));
    }
    let (Some(line), Some(limits)) = (&target.line, &upstream.config.limits) else {
        return Ok(Verdict::Admitted(Admitted::new(pick(routed, target, now)?, target, None, now)));
    };
    let join = || match (limits.queue, line.join(limits.queue)) {
        (_, Some(place)) => Ok(place),
        (0, None) => Err(RequestError::NotSent(Refused::InFlightLimit)),
        (_, None) => Err(RequestError::NotSent(Refused::QueueFull)),
    };
    let Some(permit) = line.gate().enter() else { return join().map(Verdict::Waiting) };
    match pick(routed, target, now) {
        Ok(picked) => {
            permit.made_use();
            Ok(Verdict::Admitted(Admitted::new(picked, target, Some(permit), now)))
        }
        Err(RequestError::Full) => {
            let mut place = join()?;
            place.step_back(permit);
            Ok(Verdict::Waiting(place))
        }
        Err(error) => Err(error),
    }
}

/// Waits for the turn of a request. Dropped, it leaves the line.
pub(super) fn wait(routed: Box<Routed>, target: Rc<Target>, place: Place) -> Waiting {
    Box::pin(async move {
        let admitted = turn(&routed, &target, place).await;
        (routed, target, admitted)
    })
}

async fn turn(routed: &Routed, target: &Target, mut place: Place) -> Result<Admitted, RequestError> {
    let patience = target.upstream.config.limits.map_or(Duration::ZERO, |limits| limits.queue_time);
    let until = tokio::time::Instant::now() + patience;
    loop {
        let turn = timeout_at(until, poll_fn(|cx| place.poll_turn(cx))).await;
        let permit = turn.map_err(|_| RequestError::NotSent(Refused::QueueTimeout))?;
        let now = Instant::now();
        match pick(routed, target, now) {
            Ok(picked) => return Ok(Admitted::new(picked, target, Some(permit), now)),
            Err(RequestError::Full) => place.step_back(permit),
            Err(error) => return Err(error),
        }
    }
}

fn pick(routed: &Routed, target: &Target, at: Instant) -> Result<Picked, RequestError> {
    let Routed { head, asked, client, .. } = routed;
    let facts = RequestFacts { head, asked, client: *client, altered: None };
    Choice { target, facts, attempt: 0, tried: &[] }.pick(at)
}

/// Answers a request that is not sent.
pub(super) fn refuse(routed: Routed, target: &Target, error: &RequestError) -> Response<ReplyBody> {
    let Routed { peer, asked, manner, mut record, is_call, .. } = routed;
    let (host, path, upstream) = (asked.host(), asked.path(), &target.upstream);
    tracing::debug!(client = %peer.sender.address, upstream = %upstream.name(), host, path, %error, "Request refused");
    if let Some(refused) = error.refused() {
        upstream.metrics.not_sent(peer.worker.index, refused);
    }
    let mut response = error.response(is_call);
    if let Some(heads) = &manner.heads {
        forward::change(response.headers_mut(), &heads.response);
    }
    record.answered(error.status().as_u16(), Instant::now());
    record.ended();
    response
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
pub(super) struct Held(Option<Box<Holding>>);

struct Holding {
    permit: Option<Permit>,
    started: Option<Started>,
}

impl Held {
    /// The head of the answer is there.
    pub(super) fn answered(&mut self, upstream: &config::Upstream, status: StatusCode, at: Instant) {
        let Some(holding) = &mut self.0 else { return };
        let lost = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let failed = |policy: &crate::resilience::BreakerPolicy| policy.statuses.contains(&status.as_u16());
        holding.ended(lost, upstream.breaker.as_ref().is_some_and(failed), at);
    }

    /// No answer will come. What is not the endpoint's fault says nothing.
    pub(super) fn failed(&mut self, error: &RequestError) {
        if let Some(holding) = self.0.as_mut().filter(|_| error.fault() == Fault::Endpoint) {
            holding.ended(true, true, Instant::now());
        }
    }

    /// The answer broke off, and the endpoint did that.
    pub(super) fn broke_off(&mut self) {
        if let Some(started) = self.0.as_mut().and_then(|holding| holding.started.as_mut()) {
            started.ended(false, Instant::now());
        }
    }

    /// A try is over, and the request goes on.
    pub(super) fn tried(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_ipv6_is_its_network() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }

    #[test]
    fn nobody_is_told_to_come_back_too_soon() {
        let seconds = |millis| whole_seconds(Duration::from_millis(millis));
        assert_eq!([0, 1, 1000, 1001].map(seconds), [1, 1, 1, 2]);
    }
}
