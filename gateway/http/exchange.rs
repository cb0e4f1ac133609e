//! One request from the end of its routing to the head of its answer: what it is made of, how it begins and how it ends.
//! What is in between, the tries, is in `tries`.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, Request, Response, StatusCode, Version, request::Parts};
use hyper::body::Incoming;

use super::{
    RequestError,
    attempt::{Attempt, Step, Tries, Try},
    forward, grpc, logged,
    replay::Kept,
    reply::{Ending, ReplyBody},
    request_id,
    route::Manner,
    rpcx,
    seen::Seen,
    service::Peer,
    set_aside::Aside,
    tries::{How, speaks_http2},
    tunnel::tunnel,
    upload::{Course, Uploaded},
    waits::{Inbound, Limits, Waits},
};
use crate::{
    config::Heads,
    dispatch::{Admitted, Held, Opened, Target},
    resilience::{BackupAfter, History, Mode, RetryPolicy, Tried, idempotent, only_reads},
    selector::Altered,
    server::{ConnInfo, OpenStream},
    syntax::{target::HostAndPath, trace_context::TRACEPARENT, websocket::Accept},
    telemetry::{Fault, Record},
    upstream::Member,
};

/// A request whose route is known.
pub(super) struct Routed {
    pub peer: Rc<Peer>,
    pub inbound: Rc<ConnInfo>,
    /// If it came by HTTP/2.
    pub stream: Option<OpenStream>,
    pub client: IpAddr,
    pub asked: HostAndPath,
    pub seen: Seen,
    pub manner: Manner,
    pub record: Record,
    pub head: Parts,
    pub body: Incoming,
    /// It is a call of gRPC.
    pub is_call: bool,
    /// Its body is base64, as calls of gRPC-Web may have it.
    pub text: bool,
}

/// Everything a request needs until the head of its answer is there.
pub(super) struct Exchange {
    pub(super) peer: Rc<Peer>,
    pub(super) target: Rc<Target>,
    pub(super) inbound: Rc<ConnInfo>,
    pub(super) client: IpAddr,
    pub(super) record: Record,
    pub(super) waits: Waits,
    /// Of the request's body, if it has one.
    pub(super) upload: Option<Rc<Course>>,
    pub(super) asked: HostAndPath,
    /// What the route changes in heads, if anything.
    pub(super) heads: Option<Rc<Heads>>,
    /// What the client's head was before it became one for an endpoint, which it is not yet.
    pub(super) altered: Option<Altered>,
    pub(super) upgrading: bool,
    /// What has to be said to the key, of a WebSocket whose client speaks HTTP/2.
    pub(super) websocket: Option<Box<Accept>>,
    /// It is a call of gRPC.
    pub(super) is_call: bool,
    /// When the client of a call does not wait for its end any more.
    pub(super) deadline: Option<Instant>,
    /// If the request may be sent again.
    pub(super) kept: Option<Rc<Kept>>,
    /// If the route has its own.
    pub(super) own_policy: Option<Box<RetryPolicy>>,
    pub(super) history: History,
    pub(super) tried: Tried<Arc<Member>>,
    /// Those that are under way, or the one that has the answer.
    pub(super) tries: Tries,
    /// The head of the answer, once it is there and accepted. Stays where it is until it is handed out: it is large.
    pub(super) headed: Option<Headed>,
    /// The last answer, while there is hope for a better one.
    pub(super) aside: Option<Box<Aside>>,
    /// Given back last: whoever is let go by it finds the endpoint free.
    pub(super) held: Held,
}

/// The head of an answer, and what was learned from it.
pub(super) struct Headed {
    pub(super) response: Response<Incoming>,
    pub(super) seen: Seen,
    pub(super) at: Instant,
    /// The first verdict, for the endpoint's health and for its statistics.
    pub(super) well: bool,
    pub(super) success: bool,
}

impl Routed {
    /// Sends the request if a connection of the picked endpoint is idle; otherwise it is sent once there is one.
    pub(super) fn send(mut self, target: Rc<Target>, admitted: Admitted) -> Box<Exchange> {
        let Self { peer, inbound, stream, client, asked, seen, manner, record, body, is_call, text, .. } =
            self;
        let Manner { strip, timeouts, retries, repeatable, heads, max_body, .. } = manner;
        let Admitted { picked, at, held } = admitted;
        // Stays where it is: it is large.
        let head = &mut self.head;
        let websocket = head.extensions.remove().map(Box::new);
        let upstream = &target.upstream;
        upstream.metrics.began(peer.worker.index);
        let own_policy = retries.map(|retries| Box::new(retries.over(&upstream.config.retries)));
        let policy = own_policy.as_deref().unwrap_or(&upstream.config.retries);
        let may_repeat = repeatable || idempotent(&head.method);
        let backup = backup_after(policy, &head.method, repeatable, &target);
        let waits = peer.worker.waits(record.started, &inbound.meter);
        let mut limits = Limits::new(&peer.listener, &timeouts.over(&upstream.config.timeouts));
        let timeout = if is_call { grpc::timeout(&head.headers) } else { None };
        if is_call {
            limits.call(timeout);
        }
        let deadline = timeout.and_then(|timeout| record.started.checked_add(timeout));
        waits.limit(Limits { per_try: policy.per_try, backup, leave: upstream.config.leave, ..limits });
        if limits.whole.is_some() || upstream.config.leave.is_some() {
            waits.end_by(match stream {
                Some(stream) => Inbound::Stream(stream),
                None => Inbound::Connection(inbound.clone()),
            });
        }
        let shared = speaks_http2(upstream.config.protocol, is_call, &picked.member);
        let keep = ((may_repeat || shared) && policy.keeps()).then_some(policy.replay_bytes);
        let Uploaded { body, course: upload, kept } =
            Uploaded::new(body, &waits, max_body, keep, text, &record);
        let mut history = History::new(may_repeat, backup.is_some());
        if upload.is_some() && kept.is_none() {
            history.lose();
        }
        let mut exchange = Box::new(Exchange {
            client,
            peer,
            target,
            inbound,
            record,
            waits,
            upload,
            asked,
            heads,
            altered: None,
            upgrading: false,
            websocket,
            is_call,
            deadline,
            kept,
            own_policy,
            history,
            tried: Tried::default(),
            tries: Tries::None,
            headed: None,
            aside: None,
            held,
        });
        let has_body = exchange.upload.is_some();
        let (upgrading, mut altered) =
            forward::request(head, &exchange.asked, &exchange.peer.sender, strip, has_body, seen);
        if seen.trailer
            && let Some(upload) = &exchange.upload
        {
            upload.announces(&head.headers);
        }
        if let Some(heads) = &exchange.heads {
            forward::change_request(&mut head.headers, &heads.request, &mut altered);
        }
        if exchange.record.trace.is_some() {
            altered.overwrite(&head.headers, &TRACEPARENT);
        }
        (exchange.upgrading, exchange.altered) = (upgrading, Some(altered));
        let opened = Opened::begin(picked, at);
        exchange.begin(opened, Request::from_parts(self.head, body), How::default());
        exchange
    }
}

/// After how long a request gets a second try beside the first; none: never.
fn backup_after(
    policy: &RetryPolicy,
    method: &Method,
    repeatable: bool,
    target: &Target,
) -> Option<Duration> {
    if policy.mode != Mode::Failbackup || !(repeatable || only_reads(method)) {
        return None;
    }
    match policy.backup_after {
        BackupAfter::Time(after) => Some(after),
        BackupAfter::P95 => target.upstream.latencies.get(),
    }
}

impl Exchange {
    /// How its tries go on after a failure.
    pub(super) fn policy(&self) -> &RetryPolicy {
        self.own_policy.as_deref().unwrap_or(&self.target.upstream.config.retries)
    }

    /// Hands on the answer whose head is there; its body goes by itself.
    pub(super) fn answer(mut self: Box<Self>) -> Response<ReplyBody> {
        if self.aside.is_some() {
            self.forget_aside();
        }
        let Self {
            peer,
            target,
            inbound,
            mut record,
            waits,
            upload,
            heads,
            tries,
            headed,
            mut held,
            is_call,
            ..
        } = *self;
        let (Tries::One(Try { opened, step: Step::Sent(attempt), span, .. }), Some(headed)) = (tries, headed)
        else {
            return missing(&target, record);
        };
        let Headed { mut response, seen, at, well, success } = headed;
        let counted = rpcx::answer_counts_as(response.status(), seen, &opened.member);
        held.answered(&target.upstream.config, counted, at);
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
        if let Some(heads) = &heads {
            forward::change(response.headers_mut(), &heads.response);
        }
        *response.version_mut() = Version::HTTP_11;
        request_id::answer(&record, response.headers_mut());
        record.answered(counted.as_u16(), at);
        let Opened { member, in_flight, begun, .. } = opened;
        if let Some(entry) = &mut record.entry {
            entry.endpoint = Some(member.address());
            entry.endpoint_took = Some(at.saturating_duration_since(begun));
            entry.grpc_status = is_call.then(|| grpc::status(response.headers())).flatten();
        }
        if let Some(trace) = &mut record.trace {
            trace.goes_on(span);
            trace.grpc_status = is_call.then(|| grpc::status(response.headers())).flatten();
        }
        let is_open = is_call && !grpc::is_told(response.headers());
        let open = is_open.then(|| at.saturating_duration_since(begun));
        // Any other answer says by itself that it is none to a call.
        let awaits_status = is_open && response.status() == StatusCode::OK;
        response.map(|incoming| match switched {
            Some(switched) if switching => {
                record.ended();
                in_flight.stats().confirm();
                let leave = target.upstream.config.leave;
                let leaving = leave.map(|limit| peer.worker.leaving(in_flight.stats(), limit));
                let mut entry = record.entry.take();
                if let Some(entry) = &mut entry {
                    entry.request_id = record.request_id.take().map(|id| *id);
                    entry.finish(Some(StatusCode::SWITCHING_PROTOCOLS.as_u16()), None);
                }
                inbound.take_over(tunnel(switched, in_flight, leaving, record.account.clone(), held, entry));
                ReplyBody::Empty
            }
            _ => {
                let ending = Ending {
                    connection,
                    pool: peer.pool(&target.upstream.config).clone(),
                    address: member.address(),
                    keep: target.upstream.config.pool,
                    in_flight,
                    evidence: target.evidence.clone(),
                    well,
                    success,
                    open,
                    upload,
                    held,
                };
                ReplyBody::passing(incoming, ending, waits, record, is_call, awaits_status)
            }
        })
    }

    /// Answers in the endpoint's place.
    pub(super) fn fail(mut self, error: &RequestError) -> Response<ReplyBody> {
        if error.fault() == Fault::Endpoint {
            self.held.failed();
        }
        if let Some(refused) = error.refused() {
            self.target.upstream.metrics.not_sent(self.peer.worker.index, refused);
        }
        let (host, path) = (self.asked.host(), self.asked.path());
        tracing::debug!(client = %self.peer.sender.address, upstream = %self.target.upstream.name(), host, path, %error,
            "Request failed");
        let mut response = error.response(self.is_call);
        if let Some(heads) = &self.heads {
            forward::change(response.headers_mut(), &heads.response);
        }
        request_id::answer(&self.record, response.headers_mut());
        logged::failed(&mut self.record, error);
        logged::sends(&mut self.record, &response);
        self.record.answered(error.status().as_u16(), Instant::now());
        self.record.ended();
        response
    }
}

/// Answers where an answer was to be and is not: a mistake of ours that nobody may wait for.
fn missing(target: &Target, mut record: Record) -> Response<ReplyBody> {
    tracing::error!(upstream = %target.upstream.name(), "An answer was lost; please report this");
    let response = RequestError::Lost.response(false);
    record.answered(response.status().as_u16(), Instant::now());
    record.ended();
    response
}
