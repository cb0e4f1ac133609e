//! The admin API: health, metrics, what the gateway knows, and the embedded registry.
//!
//! Runs on the control runtime, on listeners of its own, and reads what others publish. Field names of the answers
//! are public and documented in `docs/admin-api.md`.

mod answer;
mod body;
pub mod client;
mod door;
mod guard;
mod io;
mod metrics;
mod negotiate;
mod orders;
mod path;
mod plugins;
mod roster;
mod server;
mod services;
mod time;
mod upstreams;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::request::Parts as Head;
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderValue, VARY},
};
use tokio::{net::TcpListener, sync::Semaphore};

use self::{
    answer::{Body, Rejection, json, with_type},
    guard::Guard,
    path::Resource,
    roster::Client,
};
pub use self::{
    door::Door,
    server::{Listening, start},
};
pub use crate::config::Access;
use crate::{
    catalog::Catalog,
    connector::Memory,
    plugin::Plugins,
    telemetry::{ProcessMetrics, Readiness},
    tls,
};

/// Answers that may be long, and are made at once.
const LONG_ANSWERS: usize = 2;

/// Why an order is refused that might not outlive the process.
const UPGRADING: &str = "another process is about to take over, ask it in a moment";

/// What the API shows and changes.
pub struct Parts {
    pub catalog: Catalog,
    pub plugins: Plugins,
    pub memory: Arc<Memory>,
    /// Certificates and keys.
    pub files: Arc<tls::Files>,
    pub metrics: Arc<ProcessMetrics>,
    pub readiness: Readiness,
    /// Whether clients are taken, on listeners that were [`start`]ed.
    pub door: Door,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// `/api/v1/services` and `/healthz`, nothing else.
    Registrations,
}

/// Answers on `listener`, where `tls` is ended if there is any, until `shutdown`; then answers on their way have a
/// moment to end.
///
/// Dropping the future closes everything at once.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<tls::Server>>,
    parts: Arc<Parts>,
    scope: Scope,
    access: Access,
    shutdown: impl Future<Output = ()>,
) {
    let admin = Arc::new(Admin::new(&listener, parts, scope, access));
    server::serve(&listener, tls, admin, shutdown).await;
}

/// One listener's view of the API.
struct Admin {
    scope: Scope,
    guard: Guard,
    parts: Arc<Parts>,
    long_answers: Semaphore,
}

impl Admin {
    fn new(listener: &TcpListener, parts: Arc<Parts>, scope: Scope, access: Access) -> Self {
        let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let guard = Guard::new(access, loopback);
        Self { scope, guard, parts, long_answers: Semaphore::new(LONG_ANSWERS) }
    }

    /// Always answers: what goes wrong becomes a status and a JSON object with `error`.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        client: &Client,
    ) -> Response<Body> {
        let leaving = self.parts.door.clone();
        let answer = self.try_answer(request, peer.ip(), client).await;
        let mut answer = answer.unwrap_or_else(Rejection::into_response);
        if leaving.is_leaving() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn try_answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: IpAddr,
        client: &Client,
    ) -> Result<Response<Body>, Rejection> {
        let (head, body) = request.into_parts();
        let resource = self.admit(&head, peer)?;
        match resource {
            Resource::Health => Ok(json(&answer::Status { status: "ok" })),
            Resource::Ready => Ok(answer::readiness(&self.parts.readiness)),
            _ if client.only_health => Err(Rejection::Busy),
            resource if changes(&head.method) => {
                client.owes_now();
                let body = body::collect(body).await?;
                if !client.asked() {
                    return Err(Rejection::Busy);
                }
                self.change(resource, &head.method, body).await
            }
            resource => self.show(resource, head).await,
        }
    }

    /// The resource that is asked for, by somebody who may.
    fn admit(&self, head: &Head, peer: IpAddr) -> Result<Resource, Rejection> {
        self.guard.check_host(head)?;
        let path = head.uri.path();
        let resource = Resource::read(path)?;
        if self.scope == Scope::Registrations && !resource.is_for_registrations() {
            return Err(Rejection::NoResource(path.to_owned()));
        }
        resource.check_method(&head.method)?;
        match (changes(&head.method), resource.is_for_everybody()) {
            (true, _) => self.guard.check_change(head, peer)?,
            (false, false) => self.guard.check_read(head)?,
            (false, true) => {}
        }
        Ok(resource)
    }

    async fn change(
        &self,
        resource: Resource,
        method: &Method,
        body: Bytes,
    ) -> Result<Response<Body>, Rejection> {
        let Parts { catalog, memory, .. } = &*self.parts;
        match resource {
            // The process that takes over has read what is known of the upstream.
            Resource::Order(..) if self.parts.door.is_leaving() => {
                Err(Rejection::Conflict(UPGRADING.to_owned()))
            }
            Resource::Order(name, verb) => {
                let upstream = upstreams::find(catalog, &name)?;
                orders::carry_out(&upstream, verb, &body).await?;
                upstreams::one(catalog, &name).map(|upstream| json(&upstream))
            }
            Resource::Instance { service, id } if *method == Method::PUT => {
                services::put(memory, &service, &id, &body).await
            }
            Resource::Instance { service, id } => Ok(services::remove(memory, &service, &id).await),
            // No other resource takes the method of a change.
            other => Err(Rejection::NoResource(format!("{other:?}"))),
        }
    }

    /// Long answers are made beside this thread, a few at once: whoever asks about health comes between.
    async fn show(self: Arc<Self>, resource: Resource, head: Head) -> Result<Response<Body>, Rejection> {
        if let Resource::Instance { service, id } = &resource {
            return services::instance(&self.parts.memory, service, id).map(|instance| json(&instance));
        }
        // Nobody closes the semaphore.
        let Ok(_turn) = self.long_answers.acquire().await else { return Err(Rejection::Busy) };
        let parts = self.parts.clone();
        let made = tokio::task::spawn_blocking(move || long(&parts, resource, &head)).await;
        made.unwrap_or(Err(Rejection::Failed))
    }
}

fn long(parts: &Parts, resource: Resource, head: &Head) -> Result<Response<Body>, Rejection> {
    let Parts { catalog, plugins, memory, .. } = parts;
    match resource {
        Resource::Metrics => {
            let format = negotiate::format(&head.headers);
            let mut response = with_type(metrics::text(parts, format), format.content_type());
            response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            Ok(response)
        }
        Resource::Upstreams => Ok(json(&upstreams::all(catalog))),
        Resource::Upstream(name) => upstreams::one(catalog, &name).map(|upstream| json(&upstream)),
        Resource::Plugins => Ok(json(&plugins::all(plugins))),
        Resource::Plugin(name) => plugins::one(plugins, &name).map(|plugin| json(&plugin)),
        Resource::Services => Ok(json(&services::all(memory))),
        Resource::Service(service) => Ok(json(&services::one(memory, &service))),
        // Answered elsewhere.
        Resource::Health | Resource::Ready | Resource::Order(..) | Resource::Instance { .. } => {
            Err(Rejection::NoResource(head.uri.path().to_owned()))
        }
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests;
