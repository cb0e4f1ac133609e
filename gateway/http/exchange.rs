//! One request until the head of its answer: pick, connect, send, and once more on another endpoint where that is safe.

use std::{
    mem,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;

use super::{
    RequestError,
    attempt::{Attempt, Dialing, Opened, Picked},
    forward,
    reply::{Ending, ReplyBody},
    seen::Seen,
    service::Peer,
    tunnel::tunnel,
    upload::{Course, RequestBody},
    verdict::{self, Failed, Progress},
    waits::{Limits, Waits},
    worker::Target,
};
use crate::{
    client::{self, Connection},
    config,
    resilience::{Attempts, repeatable},
    selector::{Altered, PickError, RequestFacts},
    server::ConnInfo,
    syntax::target::HostAndPath,
    telemetry::Record,
    upstream::{Admission, Evidence, Member, Slot},
};

/// Endpoints half-open that one request avoids, before it goes where it is sent: each costs another pick.
const AVOIDED_MOST: usize = 8;

/// A request whose route is known.
pub(super) struct Routed {
    pub peer: Rc<Peer>,
    pub inbound: Rc<ConnInfo>,
    pub asked: HostAndPath,
    pub seen: Seen,
    /// How many bytes of the path are not forwarded.
    pub strip: usize,
    pub timeouts: config::RouteTimeouts,
    pub record: Record,
    pub head: Parts,
    pub body: Incoming,
}

/// Everything a request needs until the head of its answer is there.
pub(super) struct Exchange {
    peer: Rc<Peer>,
    target: Rc<Target>,
    inbound: Rc<ConnInfo>,
    client: IpAddr,
    record: Record,
    waits: Waits,
    /// Of the request's body, if it has one.
    upload: Option<Rc<Course>>,
    asked: HostAndPath,
    /// What the client's head was before it became one for an endpoint, which it is not yet.
    altered: Option<Altered>,
    upgrading: bool,
    attempts: Attempts<Arc<Member>>,
    /// The try that is under way.
    opened: Option<Opened>,
    step: Step,
    /// The head of the answer, once it is there and accepted. Stays where it is until it is handed out: it is large.
    headed: Option<Headed>,
}

/// Where the try is that is under way.
enum Step {
    /// The endpoint has no idle connection.
    Dialing(Box<Dialing>),
    Sent(Attempt),
    Over,
}

/// How a try ended: with the head of an answer, or without.
type Outcome = Result<Response<Incoming>, Failed>;

/// The head of an answer, and what was learned from it.
struct Headed {
    response: Response<Incoming>,
    seen: Seen,
    at: Instant,
    /// The first verdict, for the endpoint's health and for its statistics.
    well: bool,
    success: bool,
}

impl Routed {
    /// Picks an endpoint, and sends the request if one of its connections is idle; otherwise it is sent once there is
    /// one.
    pub(super) fn send(mut self, target: Rc<Target>) -> Result<Box<Exchange>, Box<Response<ReplyBody>>> {
        let Self { peer, inbound, asked, seen, strip, timeouts, mut record, body, .. } = self;
        // Stays where it is: it is large.
        let head = &mut self.head;
        target.upstream.touch(record.started);
        record.account = target.account.clone();
        let waits = peer.worker.waits(record.started, &inbound.meter);
        waits.limit(Limits::new(&peer.listener, &timeouts.over(&target.upstream.config.timeouts)));
        let (body, upload) = RequestBody::new(body, &waits);
        let mut exchange = Box::new(Exchange {
            client: peer.sender.client(&head.headers, &peer.listener.trusted_proxies),
            attempts: Attempts::new(target.upstream.config.retries),
            peer,
            target,
            inbound,
            record,
            waits,
            upload,
            asked,
            altered: None,
            upgrading: false,
            opened: None,
            step: Step::Over,
            headed: None,
        });
        let picked = match exchange.pick(head) {
            Ok(picked) => picked,
            Err(error) => return Err(Box::new(exchange.fail(&error))),
        };
        let has_body = exchange.upload.is_some();
        let (upgrading, altered) =
            forward::request(head, &exchange.asked, &exchange.peer.sender, strip, has_body, seen);
        (exchange.upgrading, exchange.altered) = (upgrading, Some(altered));
        let begun = exchange.record.started;
        exchange.begin(picked, Request::from_parts(self.head, body), begun);
        Ok(exchange)
    }
}

impl Exchange {
    /// Waits for the head of an answer, or for the failure that no other try can mend.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        self.waits.remember(cx);
        loop {
            let outcome = match self.poll_step(cx) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => match self.waits.expired() {
                    Some(wait) => Err(Failed::sent(RequestError::Expired(wait))),
                    None => return Poll::Pending,
                },
            };
            if let Err(error) = self.conclude(outcome) {
                return Poll::Ready(Err(error));
            }
            if self.headed.is_some() {
                return Poll::Ready(Ok(()));
            }
            // Another try has begun.
        }
    }

    /// How the try ends that is under way.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Step::Dialing(dialing) = &mut self.step {
            let connected = ready!(dialing.connection.as_mut().poll(cx));
            let Step::Dialing(dialing) = mem::replace(&mut self.step, Step::Over) else {
                return Poll::Pending;
            };
            let Dialing { request, .. } = *dialing;
            match connected {
                Ok(connection) => self.send(connection, request),
                Err(error) => return Poll::Ready(Err(Failed::to_dial(error, request))),
            }
        }
        let Step::Sent(attempt) = &mut self.step else { return Poll::Pending };
        Poll::Ready(ready!(attempt.poll(cx)).map_err(|error| {
            let client = self.upload.as_ref().is_some_and(|upload| upload.has_failed());
            let spare = attempt.spare.take().and_then(|spare| spare.into_request());
            Failed::to_send(error, client, attempt.connection.reused, spare)
        }))
    }

    /// An endpoint that may be sent to. While another request tries one that is half-open, this one goes elsewhere
    /// where it can.
    fn pick(&self, head: &Parts) -> Result<Picked, RequestError> {
        let altered = self.altered.as_ref();
        let facts = RequestFacts { head, asked: &self.asked, client: self.client, altered };
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

    /// Begins a try: over an idle connection at once, or over a new one.
    fn begin(&mut self, picked: Picked, request: Request<RequestBody>, begun: Instant) {
        let opened = Opened::begin(picked, begun);
        let member = &opened.member;
        let (address, limit) = (member.address(), self.target.upstream.config.timeouts.connect);
        // An endpoint that is tried again had an idle connection die; its others are as old.
        let again = self.attempts.tried().contains(&member.slot());
        let careful = !repeatable(request.method(), !request.body().is_empty());
        let idle = if again { None } else { self.peer.worker.pool.take(address, begun, careful) };
        self.opened = Some(opened);
        match idle {
            Some(connection) => self.send(connection, request),
            None => {
                let connection = Box::pin(client::dial(address, limit));
                self.step = Step::Dialing(Box::new(Dialing { request, connection }));
            }
        }
    }

    fn send(&mut self, connection: Connection<RequestBody>, mut request: Request<RequestBody>) {
        // Clients of HTTP/1.0 may name no host; endpoints of 1.1 must be told one.
        if self.asked.authority().is_none()
            && let Some(opened) = &self.opened
            && let Ok(host) = HeaderValue::from_str(&opened.member.address().to_string())
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let again = connection.reused && repeatable(request.method(), !request.body().is_empty());
        let spare = again.then(|| self.peer.worker.spares.copy(&request));
        self.waits.sent(&connection.meter);
        self.step = Step::Sent(Attempt::send(connection, request, spare, self.upgrading));
    }

    /// Judges how a try ended. Where nothing is `headed` after it, another one has begun.
    fn conclude(&mut self, outcome: Outcome) -> Result<(), RequestError> {
        let seen = outcome.as_ref().map_or_else(|_| Seen::default(), |response| Seen::of(response.headers()));
        let outcome = outcome.and_then(|response| verdict::accept(response, seen, self.upgrading));
        let at = Instant::now();
        let (well, success) = self.learn(&outcome, at);
        match outcome {
            Ok(response) => {
                self.headed = Some(Headed { response, seen, at, well, success });
                Ok(())
            }
            Err(failed) => {
                self.step = Step::Over;
                self.next(failed)
            }
        }
    }

    /// The endpoint's statistics and its upstream's health learn of a try that ended just now. Says
    /// whether the one and the other have only good to remember.
    fn learn(&mut self, outcome: &Outcome, at: Instant) -> (bool, bool) {
        let Some(Opened { member, begun, trial, .. }) = &mut self.opened else { return (false, false) };
        let success = verdict::success(outcome);
        if let Some(success) = success {
            member.stats().record(at, at.saturating_duration_since(*begun), success);
        }
        let evidence = verdict::evidence(outcome);
        if let Some(evidence) = evidence {
            self.target.upstream.metrics.learned(self.peer.worker.index, evidence);
            // That an endpoint answers well is known at the end of the answer, but who waits for a trial waits no
            // longer than for the head.
            if evidence != Evidence::Answered || trial.is_some() {
                self.target.evidence.send(member.address(), member.stats(), evidence, trial.take());
            }
        }
        (evidence == Some(Evidence::Answered), success == Some(true))
    }

    /// Begins another try after one that failed, or says why there is none.
    fn next(&mut self, failed: Failed) -> Result<(), RequestError> {
        self.waits.unsent();
        let Failed { error, progress, again } = failed;
        let Some(Opened { member, .. }) = self.opened.take() else { return Err(error) };
        let more = self.attempts.failed(member.slot(), member);
        let Some(request) = again.filter(|_| more) else { return Err(error) };
        let (head, body) = request.into_parts();
        match self.pick(&head) {
            Ok(picked)
                if progress == Progress::Stale || !self.attempts.tried().contains(&picked.0.slot()) =>
            {
                self.target.upstream.metrics.retried(self.peer.worker.index);
                self.begin(picked, Request::from_parts(head, body), Instant::now());
                Ok(())
            }
            // Nobody else is there: the first failure says more.
            _ => Err(error),
        }
    }

    /// Hands on the answer whose head is there; its body goes by itself. None: no head is there.
    pub(super) fn answer(self: Box<Self>) -> Option<Response<ReplyBody>> {
        let Self { peer, target, inbound, mut record, waits, upload, opened, step, headed, .. } = *self;
        let (Some(headed), Some(opened), Step::Sent(attempt)) = (headed, opened, step) else { return None };
        let Headed { mut response, seen, at, well, success } = headed;
        let Attempt { connection, spare, switched, .. } = attempt;
        let interim = connection.interim();
        if interim > 0 {
            target.upstream.metrics.interim(peer.worker.index, interim);
        }
        if let Some(spare) = spare {
            peer.worker.spares.keep(spare);
        }
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        forward::response(response.headers_mut(), seen, switching);
        *response.version_mut() = Version::HTTP_11;
        record.answered(response.status().as_u16(), at);
        let Opened { member, in_flight, .. } = opened;
        Some(response.map(|incoming| match switched {
            Some(switched) if switching => {
                record.ended();
                in_flight.stats().confirm();
                inbound.take_over(tunnel(switched, in_flight));
                ReplyBody::Empty
            }
            _ => {
                let ending = Ending {
                    connection,
                    pool: peer.worker.pool.clone(),
                    address: member.address(),
                    keep: target.upstream.config.pool,
                    in_flight,
                    evidence: target.evidence.clone(),
                    well,
                    success,
                    upload,
                };
                ReplyBody::passing(incoming, ending, waits, record)
            }
        }))
    }

    /// Answers in the endpoint's place.
    pub(super) fn fail(mut self, error: &RequestError) -> Response<ReplyBody> {
        if let Some(upload) = &self.upload {
            upload.cut();
        }
        let (host, path) = (self.asked.host(), self.asked.path());
        tracing::debug!(client = %self.peer.sender.address, upstream = %self.target.upstream.name(), host, path, %error,
            "Request failed");
        let response = error.response();
        self.record.answered(response.status().as_u16(), Instant::now());
        self.record.ended();
        response
    }
}
