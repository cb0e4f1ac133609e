//! Whether a request may be sent: by the rate of its route, the length of its body, the breaker of its upstream, and how
//! many are in flight. One that has to wait does so here, before there is anything else of it.
//!
//! Whoever is refused is answered by the gateway, and no endpoint hears or is told of it.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, request::Parts};
use hyper::body::Body;

use super::{RequestError, exchange::Routed, forward, logged, reply::ReplyBody, request_id};
use crate::{
    config::{RateBy, RouteRate},
    dispatch::{self, Admission, Admitted, Choice, NotDispatched, Picked, Target},
    resilience::{Place, RateTable},
    selector::{HttpFacts, RequestFacts},
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
    let now = routed.record.started;
    target.upstream.touch(now);
    routed.record.account = match &routed.manner.route {
        Some(route) => target.account_of(route),
        None => target.account.clone(),
    };
    if let Some(entry) = &mut routed.record.entry {
        entry.upstream = Some(target.upstream.name().clone());
    }
    if let Some(trace) = &mut routed.record.trace {
        trace.upstream = Some(target.upstream.name().clone());
        trace.secured = target.upstream.tls.is_some();
    }
    if routed.manner.max_body.is_some_and(|most| routed.body.size_hint().lower() > most) {
        return Verdict::Refused(RequestError::BodyTooLarge);
    }
    match dispatch::admit(target, now, |at| pick(routed, target, at)) {
        Ok(Admission::Admitted(admitted)) => Verdict::Admitted(admitted),
        Ok(Admission::Waiting(place)) => Verdict::Waiting(place),
        Err(error) => Verdict::Refused(error.into()),
    }
}

/// Waits for the turn of a request. Dropped, it leaves the line.
pub(super) fn wait(routed: Box<Routed>, target: Rc<Target>, place: Place) -> Waiting {
    Box::pin(async move {
        let admitted = dispatch::turn(&target, place, |at| pick(&routed, &target, at)).await;
        (routed, target, admitted.map_err(RequestError::from))
    })
}

fn pick(routed: &Routed, target: &Target, at: Instant) -> Result<Picked, NotDispatched> {
    let Routed { head, asked, client, .. } = routed;
    let request = Some(HttpFacts { head, asked, altered: None });
    let facts = RequestFacts { request, client: *client, sni: None };
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
    request_id::answer(&record, response.headers_mut());
    logged::failed(&mut record, error);
    logged::sends(&mut record, &response);
    record.answered(error.status().as_u16(), Instant::now());
    record.ended();
    response
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
