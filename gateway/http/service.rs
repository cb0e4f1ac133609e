//! The path of a request, step by step.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

use hyper::Response;

use super::{
    Failure,
    body::Body,
    exchange::{Deadline, Exchange},
    forward::Sender,
    worker::{Target, Worker},
};
use crate::{config, server::Arrival};

/// Whoever is at the other end of one connection.
pub(super) struct Visitor {
    pub worker: Rc<Worker>,
    pub listener: Arc<config::Listener>,
    pub sender: Sender,
    /// One timer for all requests of the connection, which come one after the other.
    pub deadline: Deadline,
}

impl Visitor {
    pub(super) fn new(worker: Rc<Worker>, listener: Arc<config::Listener>, peer: SocketAddr) -> Self {
        let sender = Sender::new(peer, &listener.trusted_proxies);
        Self { worker, listener, sender, deadline: Deadline::new() }
    }
}

/// Answers a request: with what an endpoint says, or with why none does.
pub(super) async fn answer(visitor: &Visitor, arrival: Arrival) -> Response<Body> {
    let started = Instant::now();
    match forward(visitor, arrival, started).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(client = %visitor.sender.address, error = %failure, "Request failed");
            let response = failure.response();
            let Worker { index, metrics, .. } = &*visitor.worker;
            metrics.unrouted.answered(*index, response.status().as_u16(), started.elapsed());
            response
        }
    }
}

async fn forward(visitor: &Visitor, arrival: Arrival, started: Instant) -> Result<Response<Body>, Failure> {
    let Arrival { request, link } = arrival;
    // The check has been made: the server refuses what could be understood in two ways.
    let (head, body) = request?.into_parts();
    let routes = visitor.worker.routes();
    let route = routes.find(&visitor.listener.name, &head).ok_or(Failure::NoRoute)?;
    let target = visitor.worker.target(route.goal, &head).await?;
    target.upstream.touch(started);
    let client = visitor.sender.client(&head.headers, &visitor.listener.trusted_proxies);
    let exchange = Exchange { visitor, target: &target, client, started, strip: route.strip, link: &link };
    let (outcome, took) = exchange.run(head, body).await;
    let response = outcome.unwrap_or_else(|failure| failed(visitor, &target, &failure));
    target.upstream.metrics.answered(visitor.worker.index, response.status().as_u16(), took);
    Ok(response)
}

fn failed(visitor: &Visitor, target: &Target, failure: &Failure) -> Response<Body> {
    tracing::debug!(client = %visitor.sender.address, upstream = %target.upstream.name(), error = %failure,
        "Request failed");
    failure.response()
}
