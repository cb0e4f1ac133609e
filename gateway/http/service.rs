//! The path of a request, step by step.

use std::{
    cell::OnceCell,
    future::Future,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{StatusCode, request::Parts};
use hyper::Response;

use super::{
    RequestError,
    admission::{self, Verdict, Waiting},
    cdn_loop,
    door::Door,
    exchange::{Exchange, Routed},
    forward::{self, Sender},
    grpc,
    grpc_web::{self, WebCall},
    logged, redirect,
    reply::ReplyBody,
    request_id,
    route::Manner,
    seen::Seen,
    traced,
    upload::RequestBody,
    worker::{Lookup, Worker},
};
use crate::{
    client::Pool,
    config::{self, Heads, Redirect},
    dispatch::{self, Target},
    net::Proxied,
    server::{Arrival, ConnInfo, Listener, Refusal},
    syntax::target::HostAndPath,
    telemetry::{KnownMethod, Record, access::AccessLog, trace::Tracer},
};

/// Whoever is at the other end of one connection.
pub(super) struct Peer {
    pub worker: Rc<Worker>,
    /// As it was when the client came.
    pub listener: Arc<config::Listener>,
    /// Of the listener, if it has one.
    pub access_log: Option<Arc<AccessLog>>,
    /// There if requests are traced.
    pub tracer: Option<Arc<Tracer>>,
    door: Rc<Door>,
    pub sender: Sender,
    /// What endpoints are told of the connection, where they are.
    pub ends: Proxied,
    /// Connections to those.
    own_pool: OnceCell<Rc<Pool<RequestBody>>>,
}

impl Peer {
    pub(super) fn new(
        worker: Rc<Worker>,
        listener: &Listener,
        door: Rc<Door>,
        connection: &ConnInfo,
    ) -> Self {
        let Listener { settings, access_log, tracer, .. } = listener.clone();
        let ends = connection.ends();
        let sender = Sender::new(ends.client, &settings.trusted_proxies, connection.tls());
        Self { worker, listener: settings, access_log, tracer, door, sender, ends, own_pool: OnceCell::new() }
    }

    /// Where idle connections to an upstream are. Those that began with the client's name are for nobody else, and close
    /// with it.
    pub(super) fn pool(&self, upstream: &config::Upstream) -> &Rc<Pool<RequestBody>> {
        match upstream.proxy_protocol {
            None => &self.worker.pool,
            Some(_) => self.own_pool.get_or_init(Pool::of_client),
        }
    }
}

/// Resolves to the answer for the client. Dropping it ends the request wherever it is.
///
/// The server moves it about before it is polled, and moving costs: so it is one pointer.
pub(super) enum Call {
    /// There was nothing to wait for. None: it has been handed out.
    Known(Option<Box<Response<ReplyBody>>>),
    /// Waits for the first list of a service that no request has named here before.
    Finding(Finding),
    /// Waits until there is room at its upstream.
    Waiting(Waiting),
    /// None: its answer has been handed out.
    Going(Option<Box<Exchange>>),
    /// One of these, of gRPC-Web.
    Web(Box<WebCall>),
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Self::Going(Some(exchange)) = self {
            exchange.abandon();
        }
    }
}

type Finding = Pin<Box<dyn Future<Output = (Box<Routed>, Result<Rc<Target>, RequestError>)>>>;

/// Answers a request: with what an endpoint says, or with why none does.
///
/// What can be done without waiting is done before this returns.
pub(super) fn answer(peer: &Rc<Peer>, arrival: Arrival) -> Call {
    let mut record = Record::new(Instant::now(), peer.worker.unrouted.clone());
    let Arrival { mut request, connection, stream } = arrival;
    // First, since the log names the trace.
    if let Some(tracer) = &peer.tracer
        && let Ok(request) = &mut request
    {
        record.trace = traced::begin(tracer, peer, request, record.started);
    }
    if let Some(log) = &peer.access_log {
        record.entry = Some(logged::entry(log, peer, &connection, record.started, request.as_ref().ok()));
    }
    // The check has been made: the server refuses what could be understood in two ways.
    let (mut head, body) = match request {
        Ok(mut request) => {
            if peer.listener.request_ids {
                let trusted = peer.sender.is_trusted();
                record.request_id = Some(request_id::assign(request.headers_mut(), trusted));
            }
            record.method = KnownMethod::of(request.method());
            request.into_parts()
        }
        Err(refusal) => return unrouted(peer, record, &refusal.into(), &None, false),
    };
    // What is large is not handed through a result: it would be copied.
    let (mut seen, mut manner) = (Seen::of(&head.headers), Manner::default());
    let client = peer.sender.client(&head.headers, &peer.listener.trusted_proxies);
    let found = route(peer, &head, seen, client, &mut record, &mut manner);
    let web = manner.cors.take().and_then(|cors| grpc_web::translate(cors, &mut head));
    if web.is_some() {
        seen = Seen::of(&head.headers);
    }
    let is_call = web.is_some() || grpc::is_call(&head);
    if let Some(trace) = &mut record.trace {
        trace.is_call = is_call;
    }
    let (asked, found) = match found {
        Ok(found) => found,
        Err(error) => return unrouted(peer, record, &error, &manner.heads, is_call).of(web),
    };
    let (peer, inbound) = (peer.clone(), connection);
    let text = web.as_ref().is_some_and(|web| web.from_text);
    let routed =
        Routed { peer, inbound, stream, client, asked, seen, manner, record, head, body, is_call, text };
    let call = match found {
        Lookup::Elsewhere(to) => Call::redirect(routed, &to),
        Lookup::Preflight(response) => Call::preflight(routed, *response),
        Lookup::To(dispatch::Lookup::Known(target)) => Call::begin(routed, target),
        Lookup::To(dispatch::Lookup::New(search)) => {
            let (worker, routed) = (routed.peer.worker.clone(), Box::new(routed));
            let found = async move { worker.targets.find(search).await.map_err(RequestError::from) };
            Call::Finding(Box::pin(async move { (routed, found.await) }))
        }
    };
    call.of(web)
}

/// What a request is for, where it goes, and how its route has it treated, which is known once there is one.
fn route(
    peer: &Peer,
    head: &Parts,
    seen: Seen,
    client: IpAddr,
    record: &mut Record,
    manner: &mut Manner,
) -> Result<(HostAndPath, Lookup), RequestError> {
    let asked = HostAndPath::read(head).map_err(Refusal::from)?;
    if seen.is_expecting() {
        forward::expectation(&head.headers)?;
    }
    if seen.cdn_loop {
        cdn_loop::check(&head.headers)?;
    }
    let routes = peer.door.routes(&peer.worker);
    let scheme = || peer.sender.scheme(&head.headers);
    let route = routes.find(&peer.door.name(), head, &asked, scheme).ok_or(RequestError::NoRoute)?;
    *manner = route.manner;
    if let Some(entry) = &mut record.entry {
        entry.route = Some(route.name.clone());
    }
    if let Some(trace) = &mut record.trace {
        trace.route = Some((route.name.clone(), route.path.clone()));
    }
    if let Some(preflight) = manner.cors.as_ref().and_then(|cors| cors.preflight(head)) {
        return Ok((asked, Lookup::Preflight(Box::new(preflight?))));
    }
    if let Some(rate) = route.rate {
        rate.take(head, client, record.started)?;
    }
    let found = peer.worker.target(route.leads, head, &asked)?;
    Ok((asked, found))
}

/// The answer to a request that leads to no upstream.
fn unrouted(
    peer: &Peer,
    mut record: Record,
    error: &RequestError,
    heads: &Option<Rc<Heads>>,
    is_call: bool,
) -> Call {
    tracing::debug!(client = %peer.sender.address, %error, "Request failed");
    logged::failed(&mut record, error);
    Call::known(error.response(is_call), error.status(), record, heads)
}

impl Call {
    /// An answer of the gateway's own, for a request that leads to no upstream.
    fn known(
        mut response: Response<ReplyBody>,
        status: StatusCode,
        mut record: Record,
        heads: &Option<Rc<Heads>>,
    ) -> Self {
        if let Some(heads) = heads {
            forward::change(response.headers_mut(), &heads.response);
        }
        request_id::answer(&record, response.headers_mut());
        logged::sends(&mut record, &response);
        record.answered(status.as_u16(), Instant::now());
        record.ended();
        Self::Known(Some(Box::new(response)))
    }

    fn preflight(routed: Routed, response: Response<ReplyBody>) -> Self {
        let Routed { manner, record, .. } = routed;
        let status = response.status();
        Self::known(response, status, record, &manner.heads)
    }

    /// The same, answered as gRPC-Web if it is of that.
    fn of(self, web: Option<grpc_web::Translation>) -> Self {
        match web {
            None => self,
            Some(translation) => Self::Web(Box::new(WebCall::new(self, translation))),
        }
    }

    fn redirect(routed: Routed, to: &Redirect) -> Self {
        let Routed { peer, asked, manner, record, head, is_call, .. } = routed;
        match redirect::answer(to, &asked, peer.sender.scheme(&head.headers)) {
            Ok(response) => {
                let status = response.status();
                Self::known(response, status, record, &manner.heads)
            }
            Err(error) => unrouted(&peer, record, &error, &manner.heads, is_call),
        }
    }

    fn begin(mut routed: Routed, target: Rc<Target>) -> Self {
        match admission::admit(&mut routed, &target) {
            Verdict::Admitted(admitted) => Self::Going(Some(routed.send(target, admitted))),
            Verdict::Waiting(place) => Self::Waiting(admission::wait(Box::new(routed), target, place)),
            Verdict::Refused(error) => {
                Self::Known(Some(Box::new(admission::refuse(routed, &target, &error))))
            }
        }
    }
}

impl Future for Call {
    type Output = Response<ReplyBody>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<ReplyBody>> {
        let call = self.get_mut();
        if let Self::Finding(finding) = call {
            let (routed, found) = ready!(finding.as_mut().poll(cx));
            *call = match found {
                Ok(target) => Self::begin(*routed, target),
                Err(error) => {
                    let Routed { peer, record, manner, is_call, .. } = *routed;
                    unrouted(&peer, record, &error, &manner.heads, is_call)
                }
            };
        }
        if let Self::Waiting(waiting) = call {
            let (routed, target, admitted) = ready!(waiting.as_mut().poll(cx));
            *call = match admitted {
                Ok(admitted) => Self::Going(Some(routed.send(target, admitted))),
                Err(error) => Self::Known(Some(Box::new(admission::refuse(*routed, &target, &error)))),
            };
        }
        match call {
            Self::Going(exchange) => {
                let headed = match exchange {
                    Some(exchange) => ready!(exchange.poll(cx)),
                    // Nobody asks twice.
                    None => return Poll::Pending,
                };
                match (exchange.take(), headed) {
                    (Some(exchange), Ok(())) => Poll::Ready(exchange.answer()),
                    (Some(exchange), Err(error)) => Poll::Ready(exchange.fail(&error)),
                    (None, _) => Poll::Pending,
                }
            }
            Self::Known(response) => response.take().map_or(Poll::Pending, |response| Poll::Ready(*response)),
            Self::Web(web) => web.poll(cx),
            Self::Finding(_) | Self::Waiting(_) => Poll::Pending,
        }
    }
}
