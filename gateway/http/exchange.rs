//! One request and its answer: pick, connect, send, and once more on another endpoint where that is safe.

use std::{
    future::Future,
    mem,
    net::IpAddr,
    ops::ControlFlow,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;

use super::{
    RequestError,
    attempt::{Attempt, Failed, Opened, Picked, evidence},
    body::{Body, Sending, Settle, Upload},
    forward,
    service::Visitor,
    tunnel::tunnel,
    worker::Target,
};
use crate::{
    client::{self, Connection, DialError},
    config,
    resilience::Attempts,
    selector::{PickError, RequestFacts},
    server::Link,
    upstream::{Admission, Member, Slot},
};

/// Endpoints half-open that one request avoids, before it goes where it is sent: each costs another pick.
const AVOIDED_MOST: usize = 8;

/// A request whose route is known.
pub(super) struct Routed {
    pub visitor: Rc<Visitor>,
    pub link: Rc<Link>,
    pub started: Instant,
    /// How many bytes of the path are not forwarded.
    pub strip: usize,
    pub timeouts: config::RouteTimeouts,
    pub head: Parts,
    pub body: Incoming,
}

/// Resolves to the answer for the client.
///
/// The server moves it about before it is polled, and moving costs: so what most requests need is small and flat, and
/// what few need is in a box.
pub(super) enum Answering {
    /// There was nothing to wait for.
    Known(Response<Body>),
    /// Sent at once, because the endpoint had an idle connection.
    Sent(Exchange, Attempt),
    /// Everything else.
    Long(Pin<Box<dyn Future<Output = Response<Body>>>>),
    /// Has been handed out.
    Over,
}

/// Everything a request needs while it is answered.
pub(super) struct Exchange {
    visitor: Rc<Visitor>,
    target: Rc<Target>,
    link: Rc<Link>,
    client: IpAddr,
    started: Instant,
    timeouts: config::RouteTimeouts,
    /// Clients of HTTP/1.0 may name no host; endpoints of 1.1 must be told one.
    nameless: bool,
    upgrading: bool,
    upload: Option<Rc<Upload>>,
    attempts: Attempts<Arc<Member>>,
}

/// How a try ended.
type Outcome = Result<(Response<Incoming>, Connection<Sending>), Failed>;

/// Another try: on this endpoint, with this request.
type Next = (Picked, Request<Sending>);

impl Routed {
    /// Picks an endpoint, and sends the request if one of its connections is idle.
    pub(super) fn send(mut self, target: Rc<Target>) -> Answering {
        let Self { visitor, link, started, strip, timeouts, body, .. } = self;
        // Stays where it is: it is large.
        let head = &mut self.head;
        target.upstream.touch(started);
        let client = visitor.sender.client(&head.headers, &visitor.listener.trusted_proxies);
        let (body, upload) = Sending::new(body);
        let attempts = Attempts::new(target.upstream.config.retries);
        let mut exchange = Exchange {
            visitor,
            target,
            link,
            client,
            started,
            timeouts,
            nameless: false,
            upgrading: false,
            upload,
            attempts,
        };
        let picked = match exchange.pick(head) {
            Ok(picked) => picked,
            Err(failure) => return Answering::Known(exchange.answered(Err(failure), Instant::now())),
        };
        let old = head.version != Version::HTTP_11;
        exchange.upgrading =
            forward::request(head, &exchange.visitor.sender, strip, exchange.upload.is_some());
        exchange.nameless = old && !head.headers.contains_key(header::HOST);
        let request = Request::from_parts(self.head, body);
        match exchange.visitor.worker.pool.take(picked.0.address()) {
            Some(connection) => {
                let opened = Opened::begin(picked, started);
                let attempt = exchange.attempt(opened, connection, request, started);
                Answering::Sent(exchange, attempt)
            }
            None => Answering::Long(Box::pin(exchange.go_on(picked, request))),
        }
    }
}

impl Future for Answering {
    type Output = Response<Body>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        let answering = self.get_mut();
        if let Self::Sent(_, attempt) = answering {
            let outcome = ready!(Pin::new(attempt).poll(cx));
            if let Self::Sent(mut exchange, attempt) = mem::replace(answering, Self::Over) {
                let (opened, outcome) = exchange.end(attempt, outcome);
                match exchange.conclude(opened, outcome) {
                    ControlFlow::Break(response) => return Poll::Ready(response),
                    ControlFlow::Continue((picked, request)) => {
                        *answering = Self::Long(Box::pin(exchange.go_on(picked, request)));
                    }
                }
            }
        }
        if let Self::Long(long) = answering {
            return long.as_mut().poll(cx);
        }
        match mem::replace(answering, Self::Over) {
            Self::Known(response) => Poll::Ready(response),
            // Nobody asks twice.
            _ => Poll::Pending,
        }
    }
}

impl Exchange {
    /// An endpoint that may be sent to. While another request tries one that is half-open, this one goes elsewhere
    /// where it can.
    fn pick(&self, head: &Parts) -> Result<Picked, RequestError> {
        let facts = RequestFacts { head, client: self.client };
        let pick = |tried: &[Slot]| self.target.view.pick(&facts, self.attempts.number(), tried);
        let mut member = pick(self.attempts.tried()).map_err(|error| self.not_picked(error))?;
        let mut tried = Vec::new();
        loop {
            match member.stats().admit() {
                Admission::Open => return Ok((member, None)),
                Admission::HalfOpen(trial) => return Ok((member, Some(trial))),
                Admission::Refused if tried.len() == AVOIDED_MOST => return Ok((member, None)),
                Admission::Refused => {}
            }
            tried.push(member.slot());
            let avoided: Vec<Slot> = self.attempts.tried().iter().chain(&tried).copied().collect();
            member = match pick(&avoided) {
                Ok(other) if !avoided.contains(&other.slot()) => other,
                _ => return Ok((member, None)),
            };
        }
    }

    /// Why there is no endpoint. Only looked for when there is none.
    fn not_picked(&self, error: PickError) -> RequestError {
        match error {
            PickError::NoEndpoints(_) if self.target.upstream.status().drained => RequestError::Drained,
            error => error.into(),
        }
    }

    /// Tries until there is an answer or no other try may be made.
    async fn go_on(mut self, mut picked: Picked, mut request: Request<Sending>) -> Response<Body> {
        loop {
            let begun = if self.attempts.number() == 0 { self.started } else { Instant::now() };
            let opened = Opened::begin(picked, begun);
            let (opened, outcome) = match self.connect(&opened.member).await {
                Ok(connection) => {
                    let mut attempt = self.attempt(opened, connection, request, Instant::now());
                    let outcome = (&mut attempt).await;
                    self.end(attempt, outcome)
                }
                Err(error) => (opened, Err(Failed::to_dial(error, request))),
            };
            match self.conclude(opened, outcome) {
                ControlFlow::Break(response) => return response,
                ControlFlow::Continue(next) => (picked, request) = next,
            }
        }
    }

    /// An idle connection, or a new one.
    async fn connect(&self, member: &Member) -> Result<Connection<Sending>, DialError> {
        let (address, limit) = (member.address(), self.target.upstream.config.timeouts.connect);
        // An endpoint that is tried again had an idle connection die; its others are as old.
        let again = self.attempts.tried().contains(&member.slot());
        match if again { None } else { self.visitor.worker.pool.take(address) } {
            Some(connection) => Ok(connection),
            None => client::dial(address, limit).await,
        }
    }

    /// Sends over a connection. The time for the answer counts from `now`.
    fn attempt(
        &self,
        mut opened: Opened,
        connection: Connection<Sending>,
        mut request: Request<Sending>,
        now: Instant,
    ) -> Attempt {
        if self.nameless
            && let Ok(host) = HeaderValue::from_str(&opened.member.address().to_string())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        opened.switched = self.upgrading.then(|| connection.switched());
        let limit = self.timeouts.over(&self.target.upstream.config.timeouts).response;
        let kept = &self.visitor.kept;
        let timer = kept.timer(now.into(), limit, self.upload.clone());
        Attempt::send(opened, connection, request, timer, kept)
    }

    fn end(&self, attempt: Attempt, outcome: Result<Response<Incoming>, Failed>) -> (Opened, Outcome) {
        let Attempt { opened, connection, timer, spare, .. } = attempt;
        self.visitor.kept.keep(timer, spare);
        (opened, outcome.map(|response| (response, connection)))
    }

    /// Makes of the outcome of a try the answer for the client, or the next try.
    fn conclude(&mut self, mut opened: Opened, outcome: Outcome) -> ControlFlow<Response<Body>, Next> {
        let at = self.learn(&mut opened, &outcome);
        let response = match outcome {
            Ok((response, connection)) => self.pass_on(response, connection, opened),
            Err(failed) => match self.next(opened.end(), failed) {
                Ok(next) => return ControlFlow::Continue(next),
                Err(failure) => Err(failure),
            },
        };
        ControlFlow::Break(self.answered(response, at))
    }

    /// The endpoint's statistics and its upstream's health learn of a try that ended just now.
    fn learn(&self, opened: &mut Opened, outcome: &Outcome) -> Instant {
        let Opened { member, begun, trial, .. } = opened;
        let at = Instant::now();
        let success = match outcome {
            Ok((response, _)) => Some(!response.status().is_server_error()),
            Err(failed) => failed.endpoint_failed().then_some(false),
        };
        if let Some(success) = success {
            member.stats().record(at, at.saturating_duration_since(*begun), success);
        }
        if let Some(evidence) = evidence(outcome) {
            let upstream = &self.target.upstream;
            upstream.report(member, evidence, trial.take());
            upstream.metrics.learned(self.visitor.worker.index, evidence);
        }
        at
    }

    /// The next try after one that failed, or why there is none.
    fn next(&mut self, member: Arc<Member>, failed: Failed) -> Result<Next, RequestError> {
        let Failed { failure, again, stale } = failed;
        let more = self.attempts.failed(member.slot(), member);
        let Some(request) = again.filter(|_| more) else { return Err(failure) };
        let (head, body) = request.into_parts();
        match self.pick(&head) {
            Ok(picked) if stale || !self.attempts.tried().contains(&picked.0.slot()) => {
                self.target.upstream.metrics.retried(self.visitor.worker.index);
                Ok((picked, Request::from_parts(head, body)))
            }
            // Nobody else is there: the first failure says more.
            _ => Err(failure),
        }
    }

    /// Hands the answer on; its body goes by itself.
    fn pass_on(
        &self,
        mut response: Response<Incoming>,
        connection: Connection<Sending>,
        opened: Opened,
    ) -> Result<Response<Body>, RequestError> {
        let Opened { member, in_flight, switched, .. } = opened;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switching && !self.upgrading {
            return Err(RequestError::BadAnswer("switches protocols unasked".into()));
        }
        forward::response(response.headers_mut(), switching);
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|incoming| match switched {
            Some(switched) if switching => {
                self.link.take_over(tunnel(switched, in_flight));
                Body::Empty
            }
            _ => {
                let pool = self.visitor.worker.pool.clone();
                let (address, keep) = (member.address(), self.target.upstream.config.pool);
                Body::passing(incoming, Settle { connection, pool, address, keep, in_flight })
            }
        }))
    }

    /// The answer is there: counts it.
    fn answered(&self, outcome: Result<Response<Body>, RequestError>, at: Instant) -> Response<Body> {
        let upstream = &self.target.upstream;
        let response = outcome.unwrap_or_else(|failure| {
            tracing::debug!(client = %self.visitor.sender.address, upstream = %upstream.name(),
                error = %failure, "Request failed");
            failure.response()
        });
        let took = at.saturating_duration_since(self.started);
        upstream.metrics.answered(self.visitor.worker.index, response.status().as_u16(), took);
        response
    }
}
