//! The path of a request, step by step.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use http::request::Parts;
use hyper::Response;

use super::{
    RequestError,
    body::Body,
    exchange::{Answering, Routed},
    forward::Sender,
    kept::Kept,
    worker::{Lookup, Worker},
};
use crate::{config, server::Arrival};

/// Whoever is at the other end of one connection.
pub(super) struct Visitor {
    pub worker: Rc<Worker>,
    pub listener: Arc<config::Listener>,
    pub sender: Sender,
    pub kept: Kept,
}

impl Visitor {
    pub(super) fn new(worker: Rc<Worker>, listener: Arc<config::Listener>, peer: SocketAddr) -> Self {
        let sender = Sender::new(peer, &listener.trusted_proxies);
        Self { worker, listener, sender, kept: Kept::default() }
    }
}

/// Answers a request: with what an endpoint says, or with why none does.
///
/// What can be done without waiting is done before this returns.
pub(super) fn answer(visitor: &Rc<Visitor>, arrival: Arrival) -> Answering {
    let started = Instant::now();
    let Arrival { request, link } = arrival;
    // The check has been made: the server refuses what could be understood in two ways.
    let (head, body) = match request {
        Ok(request) => request.into_parts(),
        Err(refusal) => return Answering::Known(unrouted(visitor, started, &refusal.into())),
    };
    // What is large is not handed through a result: it would be copied.
    let (found, strip, timeouts) = match route(visitor, &head) {
        Ok(found) => found,
        Err(failure) => return Answering::Known(unrouted(visitor, started, &failure)),
    };
    let routed = Routed { visitor: visitor.clone(), link, started, strip, timeouts, head, body };
    match found {
        Lookup::Known(target) => routed.send(target),
        Lookup::New(search) => Answering::Long(Box::pin(async move {
            match routed.visitor.worker.find(search).await {
                Ok(target) => routed.send(target).await,
                Err(failure) => unrouted(&routed.visitor, started, &failure),
            }
        })),
    }
}

/// Where a request goes, how many bytes of its path are not forwarded, and the route's own times.
fn route(visitor: &Visitor, head: &Parts) -> Result<(Lookup, usize, config::RouteTimeouts), RequestError> {
    let routes = visitor.worker.routes();
    let route = routes.find(&visitor.listener.name, head).ok_or(RequestError::NoRoute)?;
    Ok((visitor.worker.target(route.goal, head)?, route.strip, route.timeouts))
}

/// The answer to a request that leads to no upstream.
fn unrouted(visitor: &Visitor, started: Instant, failure: &RequestError) -> Response<Body> {
    tracing::debug!(client = %visitor.sender.address, error = %failure, "Request failed");
    let response = failure.response();
    let Worker { index, metrics, .. } = &*visitor.worker;
    metrics.unrouted.answered(*index, response.status().as_u16(), started.elapsed());
    response
}
