//! The admin API: health, metrics, what the gateway knows, and the embedded registry.
//!
//! Runs on the control runtime, on listeners of its own, and reads what others publish. Field names of the answers
//! are public and documented in `docs/admin-api.md`.

mod answer;
mod body;
pub mod client;
mod guard;
mod metrics;
mod orders;
mod path;
mod plugins;
mod server;
mod services;
mod time;
mod upstreams;

use std::{future::Future, sync::Arc};

use hyper::{Method, Request, Response, body::Incoming};
use tokio::net::TcpListener;

use self::{
    answer::{Body, Rejection, json},
    guard::Guard,
    metrics::Exposition,
    path::Resource,
};
use crate::{
    catalog::Catalog,
    config::Secret,
    connector::Memory,
    plugin::Plugins,
    telemetry::{ProcessMetrics, Readiness},
};

/// What the API shows and changes.
pub struct Parts {
    pub catalog: Catalog,
    pub plugins: Plugins,
    pub memory: Arc<Memory>,
    pub metrics: Arc<ProcessMetrics>,
    pub readiness: Readiness,
}

/// Who may do what on one listener.
#[derive(Debug, Clone)]
pub struct Access {
    pub scope: Scope,
    /// Asked for by every change, when there is one.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// `/api/v1/services` and `/healthz`, nothing else.
    Registrations,
}

/// Answers on `listener` until `shutdown`; then answers on their way have a moment to end.
///
/// Dropping the future closes everything at once.
pub async fn serve(
    listener: TcpListener,
    parts: Arc<Parts>,
    access: Access,
    shutdown: impl Future<Output = ()>,
) {
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let admin = Admin {
        scope: access.scope,
        guard: Guard::new(access.token, loopback),
        exposition: Exposition::new(parts.clone()),
        parts,
    };
    server::serve(listener, Arc::new(admin), shutdown).await;
}

/// One listener's view of the API.
struct Admin {
    scope: Scope,
    guard: Guard,
    exposition: Exposition,
    parts: Arc<Parts>,
}

impl Admin {
    /// Always answers: what goes wrong becomes a status and a JSON object with `error`.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.try_answer(request).await.unwrap_or_else(Rejection::into_response)
    }

    async fn try_answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Rejection> {
        self.guard.check_host(request.headers())?;
        let resource = Resource::read(request.uri().path())?;
        if self.scope == Scope::Registrations && !resource.is_for_registrations() {
            return Err(Rejection::NoResource(request.uri().path().to_owned()));
        }
        resource.check_method(request.method())?;
        if changes(request.method()) {
            self.guard.check_change(request.headers())?;
        }
        self.act(resource, request).await
    }

    async fn act(&self, resource: Resource, request: Request<Incoming>) -> Result<Response<Body>, Rejection> {
        let Parts { catalog, plugins, memory, readiness, .. } = &*self.parts;
        match resource {
            Resource::Health => Ok(json(&answer::Status { status: "ok" })),
            Resource::Ready => Ok(answer::readiness(readiness)),
            Resource::Metrics => self.exposition.answer(),
            Resource::Upstreams => Ok(json(&upstreams::all(catalog))),
            Resource::Upstream(name) => upstreams::one(catalog, &name).map(|upstream| json(&upstream)),
            Resource::Order(name, verb) => {
                let upstream = upstreams::find(catalog, &name)?;
                orders::carry_out(&upstream, verb, request.into_body()).await?;
                upstreams::one(catalog, &name).map(|upstream| json(&upstream))
            }
            Resource::Plugins => Ok(json(&plugins::all(plugins))),
            Resource::Plugin(name) => plugins::one(plugins, &name).map(|plugin| json(&plugin)),
            Resource::Services => Ok(json(&services::all(memory))),
            Resource::Service(service) => Ok(json(&services::one(memory, &service))),
            Resource::Instance { service, id } => match *request.method() {
                Method::PUT => services::put(memory, &service, &id, request.into_body()).await,
                Method::DELETE => Ok(services::remove(memory, &service, &id).await),
                _ => services::instance(memory, &service, &id).map(|instance| json(&instance)),
            },
        }
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests;
