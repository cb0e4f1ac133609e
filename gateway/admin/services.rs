//! The embedded registry over HTTP: whoever writes here receives traffic.

use hyper::{Response, StatusCode};
use serde::Serialize;

use super::{
    answer::{Body, Rejection, json, nothing},
    body,
};
use crate::connector::memory::{Instance, Memory, Outcome, Rejected, ServiceSummary};

#[derive(Serialize)]
pub(super) struct Services {
    services: Vec<ServiceSummary>,
}

#[derive(Serialize)]
pub(super) struct Service<'a> {
    service: &'a str,
    instances: Vec<Instance>,
}

pub(super) fn all(memory: &Memory) -> Services {
    Services { services: memory.services() }
}

/// A service that nobody registered has no instances; it is not unknown, since any name may be registered.
pub(super) fn one<'a>(memory: &Memory, service: &'a str) -> Service<'a> {
    Service { service, instances: memory.instances(service) }
}

pub(super) fn instance(memory: &Memory, service: &str, id: &str) -> Result<Instance, Rejection> {
    let found = memory.instance(service, id);
    found.ok_or_else(|| Rejection::NotFound { kind: "instance", name: format!("{service}/{id}") })
}

/// What came of a change.
#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    instance: Option<Instance>,
    /// Why the change, which is in force, would be lost with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsaved: Option<String>,
}

/// Registers, or renews: 201 when there was no such instance, else 200.
pub(super) async fn put(
    memory: &Memory,
    service: &str,
    id: &str,
    body: &[u8],
) -> Result<Response<Body>, Rejection> {
    let done = memory.put(service, id, body::read(body)?)?;
    let instance = instance(memory, service, id)?;
    let unsaved = memory.saved(done.change).await.err().map(|unsaved| unsaved.to_string());
    let mut response = json(&Changed { instance: Some(instance), unsaved });
    if done.outcome == Outcome::New {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// 204, whether it was there or not: a service that leaves twice is gone. 200 when that may not outlive the process.
pub(super) async fn remove(memory: &Memory, service: &str, id: &str) -> Response<Body> {
    let (_, change) = memory.remove(service, id);
    match memory.saved(change).await {
        Ok(()) => nothing(),
        Err(unsaved) => json(&Changed { instance: None, unsaved: Some(unsaved.to_string()) }),
    }
}

impl From<Rejected> for Rejection {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Full | Rejected::FullOfBytes => Self::Full(rejected.to_string()),
            wrong => Self::Invalid(wrong.to_string()),
        }
    }
}
