//! One request and its answer: pick, connect, send, and once more on another endpoint where that is safe.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    net::IpAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::Sleep;

use super::{
    Failure,
    body::{Body, Sending, Settle, Upload},
    forward,
    service::Visitor,
    tunnel::tunnel,
    worker::Target,
};
use crate::{
    client::{self, Connection},
    resilience::{Attempts, repeatable},
    selector::RequestFacts,
    server::Link,
    upstream::{Admission, Evidence, InFlight, Member, Slot, Trial},
};

/// Endpoints on trial that one request avoids, before it goes where it is sent: each costs another pick.
const AVOIDED_MOST: usize = 8;

type Picked = (Arc<Member>, Option<Trial>);

/// Everything a request needs while it is answered.
pub(super) struct Exchange<'a> {
    pub visitor: &'a Visitor,
    pub target: &'a Target,
    pub client: IpAddr,
    pub started: Instant,
    /// How many bytes of the path are not forwarded.
    pub strip: usize,
    pub link: &'a Link,
}

/// A try that failed, and the request if it can be tried again.
struct Failed {
    failure: Failure,
    again: Option<Request<Sending>>,
    /// The connection had been idle: its end says nothing about the endpoint.
    stale: bool,
}

/// The answer of an endpoint before anything in it is changed.
struct Answer {
    response: Response<Incoming>,
    connection: Connection<Sending>,
    in_flight: InFlight,
    /// When its head was there.
    at: Instant,
}

impl Exchange<'_> {
    /// The answer for the client, and how long its head took.
    pub(super) async fn run(
        &self,
        mut head: Parts,
        body: Incoming,
    ) -> (Result<Response<Body>, Failure>, Duration) {
        let (body, upload) = Sending::new(body);
        let (mut member, mut trial) = match self.pick(&head, &Attempts::new(0)) {
            Ok(picked) => picked,
            Err(failure) => return (Err(failure), self.started.elapsed()),
        };
        forward::request(&mut head, &self.visitor.sender, self.strip, upload.is_some());
        let upgrading = head.headers.contains_key(header::UPGRADE);
        let mut request = Request::from_parts(head, body);
        let mut attempts = Attempts::new(self.target.upstream.config.retries);
        loop {
            let again = attempts.tried().contains(&member.slot());
            let number = attempts.number();
            match self.attempt(&member, trial, request, upload.as_deref(), number, again).await {
                Ok(answer) => {
                    let took = answer.at.saturating_duration_since(self.started);
                    return (self.pass_on(answer, &member, upgrading), took);
                }
                Err(Failed { failure, again, stale }) => {
                    let more = attempts.failed(member.slot(), member);
                    let Some(next) = again.filter(|_| more) else {
                        return (Err(failure), self.started.elapsed());
                    };
                    let (head, body) = next.into_parts();
                    (member, trial) = match self.pick(&head, &attempts) {
                        Ok(other) if stale || !attempts.tried().contains(&other.0.slot()) => other,
                        // Nobody else is there: the first failure says more.
                        _ => return (Err(failure), self.started.elapsed()),
                    };
                    self.target.upstream.metrics.retried(self.visitor.worker.index);
                    request = Request::from_parts(head, body);
                }
            }
        }
    }

    /// An endpoint, and the right to try it if it is on trial. While another request does that, this one goes
    /// elsewhere where it can.
    fn pick(&self, head: &Parts, attempts: &Attempts<Arc<Member>>) -> Result<Picked, Failure> {
        let facts = RequestFacts { head, client: self.client };
        let pick = |tried: &[Slot]| self.target.view.pick(&facts, attempts.number(), tried);
        let mut member = pick(attempts.tried())?;
        let mut tried = Vec::new();
        loop {
            match member.stats().admit() {
                Admission::Open => return Ok((member, None)),
                Admission::Trial(trial) => return Ok((member, Some(trial))),
                Admission::Refused if tried.len() == AVOIDED_MOST => return Ok((member, None)),
                Admission::Refused => {}
            }
            tried.push(member.slot());
            let avoided: Vec<Slot> = attempts.tried().iter().chain(&tried).copied().collect();
            member = match pick(&avoided) {
                Ok(other) if !avoided.contains(&other.slot()) => other,
                _ => return Ok((member, None)),
            };
        }
    }

    /// One try on one endpoint; its statistics learn of the outcome.
    async fn attempt(
        &self,
        member: &Member,
        trial: Option<Trial>,
        request: Request<Sending>,
        upload: Option<&Upload>,
        number: u32,
        again: bool,
    ) -> Result<Answer, Failed> {
        // The first try began with the request; the clock is asked again only for the others.
        let begun = if number == 0 { self.started } else { Instant::now() };
        let in_flight = member.begin(begun);
        // An endpoint that is tried again had an idle connection die; its others are as old.
        let idle = if again { None } else { self.visitor.worker.pool.take(member.address()) };
        let outcome = self.exchange(member, request, upload, idle, begun).await;
        let at = Instant::now();
        let success = match &outcome {
            Ok((response, _)) => Some(!response.status().is_server_error()),
            Err(failed) => failed.endpoint_failed().then_some(false),
        };
        if let Some(success) = success {
            member.stats().record(at, at.saturating_duration_since(begun), success);
        }
        if let Some(evidence) = evidence(&outcome) {
            let upstream = &self.target.upstream;
            upstream.report(member, evidence, trial);
            upstream.metrics.learned(self.visitor.worker.index, evidence);
        }
        let (response, connection) = outcome?;
        Ok(Answer { response, connection, in_flight, at })
    }

    /// Connects, unless a connection is idle, and sends.
    async fn exchange(
        &self,
        member: &Member,
        mut request: Request<Sending>,
        upload: Option<&Upload>,
        idle: Option<Connection<Sending>>,
        begun: Instant,
    ) -> Result<(Response<Incoming>, Connection<Sending>), Failed> {
        let timeouts = self.target.upstream.config.timeouts;
        let (mut connection, begun) = match idle {
            Some(connection) => (connection, begun),
            // Rare, and large: in a box it does not make the future of every request large.
            None => match Box::pin(client::dial(member.address(), timeouts.connect)).await {
                Ok(connection) => (connection, Instant::now()),
                Err(error) => {
                    return Err(Failed { failure: error.into(), again: Some(request), stale: false });
                }
            },
        };
        name_host(&mut request, member);
        let spare = spare(&request, connection.reused, upload.is_some());
        let sent = connection.sender.try_send_request(request);
        match self.visitor.deadline.bound(begun, timeouts.response, upload, sent).await {
            Some(Ok(response)) => Ok((response, connection)),
            Some(Err(error)) => Err(Failed::to_send(error, spare, connection.reused)),
            None => Err(Failed { failure: Failure::ResponseTimeout, again: None, stale: false }),
        }
    }

    /// Hands the answer on; its body goes by itself.
    fn pass_on(&self, answer: Answer, member: &Member, upgrading: bool) -> Result<Response<Body>, Failure> {
        let Answer { mut response, connection, in_flight, .. } = answer;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switching && !upgrading {
            return Err(Failure::BadAnswer("switches protocols unasked".into()));
        }
        let upgrade = switching.then(|| hyper::upgrade::on(&mut response));
        let (mut head, incoming) = response.into_parts();
        forward::response(&mut head.headers, switching);
        head.version = http::Version::HTTP_11;
        let body = match upgrade {
            Some(upgrade) => {
                self.link.take_over(tunnel(upgrade, in_flight));
                Body::Empty
            }
            None => {
                let pool = self.visitor.worker.pool.clone();
                let (address, keep) = (member.address(), self.target.upstream.config.pool);
                Body::passing(incoming, Settle { connection, pool, address, keep, in_flight })
            }
        };
        Ok(Response::from_parts(head, body))
    }
}

impl Failed {
    /// Sending failed. The request comes back unsent, or is sent again if the connection was an old one that may
    /// have died while it was idle.
    fn to_send(
        mut error: TrySendError<Request<Sending>>,
        spare: Option<Request<Sending>>,
        reused: bool,
    ) -> Self {
        let unsent = error.take_message();
        let error = error.into_error();
        if error.is_user() {
            return Self { failure: Failure::Aborted(error), again: None, stale: false };
        }
        if error.is_parse() {
            return Self { failure: Failure::BadAnswer(error.to_string()), again: None, stale: false };
        }
        let again = unsent.or_else(|| spare.filter(|_| reused));
        Self { failure: Failure::Reset(error), again, stale: reused }
    }

    /// Whether this counts against the endpoint.
    fn endpoint_failed(&self) -> bool {
        !self.stale && !matches!(self.failure, Failure::Aborted(_))
    }
}

/// What a try says of the endpoint's health; nothing if its failure was the client's or the gateway's own.
fn evidence<C>(outcome: &Result<(Response<Incoming>, C), Failed>) -> Option<Evidence> {
    let failed = match outcome {
        Ok((response, _)) if matches!(response.status().as_u16(), 502..=504) => {
            return Some(Evidence::GatewayError);
        }
        Ok(_) => return Some(Evidence::Answered),
        Err(failed) if failed.endpoint_failed() => failed,
        Err(_) => return None,
    };
    match &failed.failure {
        Failure::Dial(error) => (!error.is_own()).then_some(Evidence::ConnectFailed),
        Failure::ResponseTimeout => Some(Evidence::TimedOut),
        _ => Some(Evidence::Broke),
    }
}

/// Clients of HTTP/1.0 may name no host; endpoints of 1.1 must be told one.
fn name_host(request: &mut Request<Sending>, member: &Member) {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&member.address().to_string())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// A copy to send again, made only for requests that could be: what is sent is gone otherwise.
fn spare(request: &Request<Sending>, reused: bool, has_body: bool) -> Option<Request<Sending>> {
    if !reused || !repeatable(request.method(), has_body) {
        return None;
    }
    let mut copy = Request::new(Sending::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// A timer that is used again and again. Moving it further away costs next to nothing, making a new one does not.
pub(super) struct Deadline(RefCell<Option<Pin<Box<Sleep>>>>);

impl Deadline {
    pub(super) fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// The future's output, or none when `limit` has passed since `begun`. While the body of the request is under way every frame of it
    /// counts as a beginning.
    async fn bound<T>(
        &self,
        begun: Instant,
        limit: Duration,
        upload: Option<&Upload>,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut sleep = self.0.take().unwrap_or_else(|| Box::pin(tokio::time::sleep(limit)));
        sleep.as_mut().reset(tokio::time::Instant::from_std(begun) + limit);
        let mut frames = upload.map_or(0, Upload::frames);
        let output = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            loop {
                std::task::ready!(sleep.as_mut().poll(cx));
                let now = upload.map_or(0, Upload::frames);
                if now == frames {
                    return Poll::Ready(None);
                }
                frames = now;
                sleep.as_mut().reset(tokio::time::Instant::now() + limit);
            }
        })
        .await;
        self.0.replace(Some(sleep));
        output
    }
}
