//! The tries of one request: the one loop that begins them, waits for them, judges how they ended and does what comes of
//! that. What is to be done is decided in `resilience`.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{HeaderValue, Request, Response, header, request::Parts};
use hyper::body::Incoming;

use super::{
    RequestError,
    attempt::{Attempt, Connecting, Dialing, Step, Tries, Try},
    exchange::{Exchange, Headed},
    forward, grpc, rpcx,
    seen::Seen,
    traced,
    upload::RequestBody,
    verdict::{self, Failed},
    waits::Wait,
};
use crate::{
    client::{self, Connection, Transport},
    config::{Heads, Protocol, Scheme, UpstreamHost},
    dispatch::{Choice, Opened, Picked},
    resilience::{BackupAfter, Cause, Event, Mode, Next},
    selector::{HttpFacts, RequestFacts},
    syntax::target::HostAndPath,
    telemetry::Fault,
    upstream::{Evidence, Member},
};

/// The label of an endpoint that says what it speaks.
pub(super) const PROTOCOL: &str = "protocol";

/// How a try ended: with the head of an answer, or without.
type Outcome = Result<Response<Incoming>, Failed>;

/// How a try begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct How {
    /// Over a new connection: an idle one was dead, and the others are as old.
    pub fresh: bool,
    /// Beside the first.
    pub backup: bool,
}

impl Exchange {
    /// Waits for the head of an answer, or for the failure that no other try can mend.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        self.waits.remember(cx);
        loop {
            let (place, outcome) = match self.poll_tries(cx) {
                Poll::Ready(ended) => ended,
                Poll::Pending => match self.waits.expired() {
                    Some(wait) => (0, Err(Failed::expired(wait))),
                    None if self.waits.is_late() => (0, Err(self.late())),
                    None if self.waits.has_left() => {
                        self.record.account.left();
                        (0, Err(Failed::expired(Wait::Leave)))
                    }
                    None if self.waits.is_backup_due() => {
                        self.hedge();
                        continue;
                    }
                    None => return Poll::Pending,
                },
            };
            if let Err(error) = self.conclude(place, outcome) {
                return Poll::Ready(Err(error));
            }
            if self.headed.is_some() {
                return Poll::Ready(Ok(()));
            }
            // Another try is under way.
        }
    }

    /// The place and the end of a try that has ended.
    fn poll_tries(&mut self, cx: &mut Context<'_>) -> Poll<(usize, Outcome)> {
        if let Poll::Ready(outcome) = self.poll_try(0, cx) {
            return Poll::Ready((0, outcome));
        }
        self.poll_try(1, cx).map(|outcome| (1, outcome))
    }

    fn poll_try(&mut self, place: usize, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(Try { opened, step, .. }) = self.tries.get_mut(place) else { return Poll::Pending };
        if let Step::Dialing(dialing) = step {
            let connected = ready!(dialing.connection.as_mut().poll(cx));
            let Step::Dialing(dialing) = mem::replace(step, Step::Over) else { return Poll::Pending };
            let Dialing { request, .. } = *dialing;
            match connected {
                Ok(connection) => {
                    // Others may have used it before.
                    if !connection.reused {
                        let stats = opened.member.stats();
                        stats.connected(Instant::now(), connection.took);
                        connection.meter().count(stats.opened());
                    }
                    self.send_over(place, connection, request);
                }
                Err(error) => return Poll::Ready(Err(Failed::to_connect(error.into(), request))),
            }
        }
        let Some(Try { step: Step::Sent(attempt), .. }) = self.tries.get_mut(place) else {
            return Poll::Pending;
        };
        Poll::Ready(ready!(attempt.poll(cx)).map_err(|error| {
            let spoilt = self.upload.as_ref().and_then(|upload| upload.spoilt());
            match self.waits.overdue().filter(|_| verdict::is_reset(error.error())) {
                Some(wait) => Failed::expired(wait),
                None => Failed::to_send(error, spoilt, &attempt.connection),
            }
        }))
    }

    /// The time of the first try is over. While it is being connected, nothing of the request has been sent.
    fn late(&mut self) -> Failed {
        let step = self.tries.get_mut(0).map(|of| &mut of.step);
        match step {
            Some(step @ Step::Dialing(_)) => match mem::replace(step, Step::Over) {
                Step::Dialing(dialing) => {
                    Failed::to_connect(RequestError::Expired(Wait::Try), dialing.request)
                }
                _ => Failed::expired(Wait::Try),
            },
            _ => Failed::expired(Wait::Try),
        }
    }

    /// What an endpoint for another try is chosen by.
    pub(super) fn choice<'a>(&'a self, head: &'a Parts) -> Choice<'a> {
        let altered = self.altered.as_ref();
        let request = Some(HttpFacts { head, asked: &self.asked, altered });
        let facts = RequestFacts { request, client: self.client, sni: None };
        Choice { target: &self.target, facts, attempt: self.history.number(), tried: self.tried.slots() }
    }

    /// Begins a try: over an idle connection at once, or over a new one.
    pub(super) fn begin(&mut self, opened: Opened, request: Request<RequestBody>, how: How) {
        let upstream = &self.target.upstream.config;
        let mut to = Transport::to(&opened.member, self.target.upstream.tls.as_ref());
        if let Some(version) = upstream.proxy_protocol {
            to = to.telling_of(&self.peer.ends, version);
        }
        let limit = upstream.timeouts.connect;
        let shared = self.is_shared(&opened.member);
        // What cannot be sent again if its connection is dead.
        let careful = !(self.history.may_repeat() && self.policy().retries() > 0);
        let pool = self.peer.pool(upstream);
        let idle = match (shared, how.fresh) {
            // What is dead is not among those that give streams.
            (true, _) => pool.take_stream(to),
            (false, true) => None,
            (false, false) => pool.take(to, opened.begun, careful),
        };
        if let Some(entry) = &mut self.record.entry {
            entry.tries(opened.member.address());
        }
        let span = match &mut self.record.trace {
            Some(trace) => trace.tries(opened.member.address(), opened.begun),
            None => 0,
        };
        let try_over = |opened, step| Try { opened, step, backup: how.backup, span };
        match idle {
            Some(connection) => {
                self.tries.add(try_over(opened, Step::Over));
                let place = usize::from(how.backup);
                self.send_over(place, connection, request);
            }
            None => {
                let connection: Connecting = match shared {
                    true => {
                        Box::pin(pool.wait_for_stream(to, opened.in_flight.stats(), limit, upstream.pool))
                    }
                    false => Box::pin(client::dial(to, limit)),
                };
                self.tries.add(try_over(opened, Step::Dialing(Box::new(Dialing { request, connection }))));
            }
        }
    }

    fn send_over(
        &mut self,
        place: usize,
        connection: Connection<RequestBody>,
        mut request: Request<RequestBody>,
    ) {
        // What is proved not to have been processed is not given back by a connection that others share.
        let scheme = if self.target.upstream.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let again = (self.history.may_repeat() || connection.is_shared()) && self.policy().keeps();
        let Some(Try { opened, step, span, .. }) = self.tries.get_mut(place) else { return };
        if let Some(trace) = &self.record.trace {
            trace.tell(*span, request.headers_mut());
        }
        if let Some(host) = host(self.heads.as_deref(), &self.asked, &opened.member, scheme) {
            request.headers_mut().insert(header::HOST, host);
        }
        if let Some(deadline) = self.deadline {
            grpc::set_timeout(request.headers_mut(), deadline.saturating_duration_since(Instant::now()));
        }
        if let Some(upload) = &self.upload {
            upload.goes_out(!connection.is_shared());
        }
        let spare = again.then(|| self.peer.worker.spares.copy(&request));
        if connection.is_shared() {
            forward::to_http2(&mut request, opened.member.address(), scheme);
        }
        // Of two at once, the first is the one that is watched.
        if place == 0 {
            self.waits.sent(&connection, opened.in_flight.stats());
        }
        *step = Step::Sent(Attempt::send(connection, request, spare, self.upgrading));
    }

    /// Judges how a try ended, and does what comes of it. Where nothing is `headed` after it, another one is under way.
    fn conclude(&mut self, place: usize, outcome: Outcome) -> Result<(), RequestError> {
        let seen = outcome.as_ref().map_or_else(|_| Seen::default(), |response| Seen::of(response.headers()));
        let outcome = outcome
            .and_then(|response| verdict::accept(response, seen, self.upgrading, self.websocket.as_deref()));
        let at = Instant::now();
        if let Some(trace) = &mut self.record.trace
            && let Some(Try { span, .. }) = self.tries.get_mut(place)
        {
            trace.tried(*span, traced::ended(&outcome), at);
        }
        let (well, success) = self.learn(place, &outcome, seen, at);
        if self.kept.as_ref().is_some_and(|kept| kept.is_lost()) {
            self.history.lose();
        }
        let next = self.step(verdict::event(&outcome, self.is_call), at);
        match outcome {
            Ok(response) => {
                self.headed = Some(Headed { response, seen, at, well, success });
                if matches!(next, Next::End | Next::Refused) {
                    self.won(place);
                } else {
                    self.unwanted(next, place);
                }
                Ok(())
            }
            Err(failed) => self.failed(next, place, failed),
        }
    }

    /// The endpoint's statistics and its upstream's health learn of a try that ended just now. Says
    /// whether the one and the other have only good to remember.
    fn learn(&mut self, place: usize, outcome: &Outcome, seen: Seen, at: Instant) -> (bool, bool) {
        let Some(Try { opened, backup, .. }) = self.tries.get_mut(place) else { return (false, false) };
        let (Opened { member, begun, trial, .. }, backup) = (opened, *backup);
        // A call that failed has an answer like any other.
        let failed = |response: &Response<Incoming>| grpc::failed(response.headers()) == Some(true);
        let failed = self.is_call && outcome.as_ref().is_ok_and(failed);
        let counted = |status| rpcx::answer_counts_as(status, seen, member);
        let success = if failed { Some(false) } else { verdict::success(outcome, counted) };
        let begun = *begun;
        // Of a call it is known at its end. Two samples for one would count by how far they are apart.
        let is_open = |response: &Response<Incoming>| self.is_call && !grpc::is_told(response.headers());
        if let Some(success) = success.filter(|_| !outcome.as_ref().is_ok_and(is_open)) {
            member.stats().record(at, at.saturating_duration_since(begun), success);
        }
        let evidence = if failed { Some(Evidence::GatewayError) } else { verdict::evidence(outcome) };
        if let Some(evidence) = evidence {
            self.target.upstream.metrics.learned(self.peer.worker.index, evidence);
            // That an endpoint answers well is known at the end of the answer, but who waits for a trial waits no
            // longer than for the head.
            if evidence != Evidence::Answered || trial.is_some() {
                self.target.evidence.send(member.address(), member.stats(), evidence, trial.take());
            }
        }
        if success == Some(true) && !backup {
            self.note_latency(begun, at);
        }
        (evidence == Some(Evidence::Answered), success == Some(true))
    }

    /// The client has gone before there was the head of an answer.
    pub(super) fn abandon(&mut self) {
        if let Some(wait @ Wait::WholeOfEndpoint) = self.waits.overdue() {
            let failed = Failed::expired(wait);
            self.held.failed();
            self.learn(0, &Err(failed), Seen::default(), Instant::now());
            self.record.cut(Fault::Endpoint);
        }
    }

    /// How long a first try took, or has taken so far, where somebody wants to know.
    pub(super) fn note_latency(&self, begun: Instant, at: Instant) {
        let policy = self.policy();
        if policy.mode == Mode::Failbackup && policy.backup_after == BackupAfter::P95 {
            self.target.upstream.latencies.record(at, at.saturating_duration_since(begun));
        }
    }

    /// What comes of an event.
    pub(super) fn step(&mut self, event: Event, at: Instant) -> Next {
        let Self { history, own_policy, target, peer, .. } = self;
        let upstream = &target.upstream;
        let policy = own_policy.as_deref().unwrap_or(&upstream.config.retries);
        let next = history.step(policy, event, || upstream.spend_retry(policy, at));
        if next == Next::Refused {
            upstream.metrics.refused(peer.worker.index);
        }
        next
    }

    /// An answer came, and it is not what is wanted.
    fn unwanted(&mut self, next: Next, place: usize) {
        let Some(mut ended) = self.tries.take(place) else { return };
        let member = ended.opened.member.clone();
        let Next::Retry(cause) = next else {
            self.tried.add(member.slot(), member);
            self.set_aside(ended);
            self.watch_the_rest();
            return;
        };
        match ended.request().and_then(|request| self.prepare(cause, &member, request)) {
            Some((opened, request)) => {
                self.set_aside(ended);
                self.retry(cause, opened, request);
            }
            // There is no better one.
            None => self.tries.add(ended),
        }
    }

    /// A try failed without an answer.
    fn failed(&mut self, next: Next, place: usize, failed: Failed) -> Result<(), RequestError> {
        let Failed { error, unsent, .. } = failed;
        let Some(mut ended) = self.tries.take(place) else { return Err(error) };
        let member = ended.opened.member.clone();
        match next {
            Next::Wait => {
                self.tried.add(member.slot(), member);
                self.watch_the_rest();
                return Ok(());
            }
            Next::Resend => {
                if let Some(request) = unsent.map(|unsent| *unsent).or_else(|| ended.request()) {
                    self.resend(ended, request);
                    return Ok(());
                }
            }
            Next::Retry(cause) => {
                let request = unsent.map(|unsent| *unsent).or_else(|| ended.request());
                drop(ended);
                if let Some(request) = request
                    && let Some((opened, request)) = self.prepare(cause, &member, request)
                {
                    self.retry(cause, opened, request);
                    return Ok(());
                }
            }
            Next::End | Next::Refused | Next::Backup => {}
        }
        // Whatever else is under way ends with this.
        self.tries = Tries::None;
        if self.take_aside(&error) { Ok(()) } else { Err(error) }
    }

    /// Gives a request its body, from its beginning, unless it has it already. Whoever was sending it before is cut off,
    /// if there is more to come from the client.
    pub(super) fn with_body(&self, mut request: Request<RequestBody>) -> Request<RequestBody> {
        if request.body().is_empty()
            && let Some(kept) = &self.kept
        {
            *request.body_mut() = RequestBody::Kept(kept.replay());
        }
        request
    }

    /// Finds an endpoint for a try after one on that member. None: there is no better one than before.
    fn prepare(
        &mut self,
        cause: Cause,
        member: &Arc<Member>,
        request: Request<RequestBody>,
    ) -> Option<(Opened, Request<RequestBody>)> {
        self.tried.add(member.slot(), member.clone());
        let same = self.policy().mode == Mode::Failtry;
        let ((head, body), now) = (request.into_parts(), Instant::now());
        let picked = match same.then(|| self.same(member, &head, now)).flatten() {
            Some(picked) => picked,
            None => {
                let picked = self.choice(&head).pick(now).ok()?;
                // Whoever refuses connections goes on to, for a moment.
                if cause == Cause::Connect && self.tried.contains(picked.member.slot()) {
                    return None;
                }
                picked
            }
        };
        Some((Opened::begin(picked, now), Request::from_parts(head, body)))
    }

    /// The same endpoint, while it is offered.
    fn same(&self, member: &Arc<Member>, head: &Parts, at: Instant) -> Option<Picked> {
        self.choice(head).pick_only(self.target.view.offered(member)?, at)
    }

    fn retry(&mut self, cause: Cause, opened: Opened, request: Request<RequestBody>) {
        self.target.upstream.metrics.retried(self.peer.worker.index, cause);
        self.held.tried();
        self.waits.again(opened.begun);
        let request = self.with_body(request);
        self.begin(opened, request, How { fresh: cause == Cause::Reset, backup: false });
    }

    /// Sends the request to the same endpoint over a new connection.
    fn resend(&mut self, ended: Try, request: Request<RequestBody>) {
        let Try { opened, backup, .. } = ended;
        let opened = Opened { begun: Instant::now(), ..opened };
        self.target.upstream.metrics.retried(self.peer.worker.index, Cause::Stale);
        let request = self.with_body(request);
        match self.tries.first() {
            None => self.waits.again(opened.begun),
            // The other one is the first from now on.
            Some(_) => self.watch_the_rest(),
        }
        self.begin(opened, request, How { fresh: true, backup });
    }

    /// Of two tries one has ended without winning, and the other is the one that is watched now.
    pub(super) fn watch_the_rest(&self) {
        let Some(Try { opened, step, .. }) = self.tries.first() else { return };
        self.waits.again(opened.begun);
        if let Step::Sent(attempt) = step {
            self.waits.sent(&attempt.connection, opened.in_flight.stats());
        }
    }

    /// Whether an endpoint is spoken to by HTTP/2, over connections that requests share.
    pub(super) fn is_shared(&self, member: &Member) -> bool {
        !self.upgrading && speaks_http2(self.target.upstream.config.protocol, self.is_call, member)
    }
}

/// Whether a request goes to an endpoint by HTTP/2.
pub(super) fn speaks_http2(protocol: Protocol, is_call: bool, member: &Member) -> bool {
    match protocol {
        Protocol::Http1 => false,
        Protocol::Http2 => true,
        Protocol::Auto => {
            match member.facts().labels.iter().find(|(name, _)| *name == PROTOCOL).map(|of| of.1) {
                Some("http2" | "h2" | "h2c" | "grpc") => true,
                Some("http" | "http1" | "http/1.1") => false,
                _ => is_call,
            }
        }
    }
}

/// The `Host` of a try on this endpoint, if it is not the client's.
fn host(heads: Option<&Heads>, asked: &HostAndPath, member: &Member, scheme: Scheme) -> Option<HeaderValue> {
    let name = match heads.map_or(&UpstreamHost::Keep, |heads| &heads.host) {
        UpstreamHost::Name(name) => return Some(name.clone()),
        UpstreamHost::Endpoint => member.facts().hostname.as_deref(),
        UpstreamHost::Keep if asked.authority().is_some() => return None,
        // Clients of HTTP/1.0 may name no host; endpoints of 1.1 must be told one.
        UpstreamHost::Keep => None,
    };
    forward::host_of(name, member.address(), scheme)
}
