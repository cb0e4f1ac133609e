//! The admin API: health, metrics, what the gateway knows, and the embedded registry.
//!
//! Runs on the control runtime, on listeners of its own, and reads what others publish. Field names of the answers
//! are public and documented in `docs/admin-api.md`.

mod answer;
mod body;
pub mod client;
mod configuration;
mod consul;
mod dashboard;
mod discovery;
mod door;
mod eureka;
mod feeds;
mod guard;
mod io;
mod listeners;
mod metrics;
mod nacos;
mod negotiate;
mod orders;
mod overview;
mod path;
mod plugins;
mod roster;
mod server;
mod services;
mod time;
mod upstreams;
mod waiting;

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
    answer::{Body, Rejection, document, events, json, with_json, with_type},
    consul::Consul,
    eureka::Eureka,
    feeds::Feeds,
    guard::Guard,
    overview::Overview,
    path::Resource,
    roster::Client,
    waiting::Waiting,
};
pub use self::{
    door::Door,
    server::{Listening, start},
};
pub use crate::config::{
    Access, Consul as ConsulSettings, Discovery, Eureka as EurekaSettings, Nacos as NacosSettings,
};
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
    /// `/api/v1/services`, `/healthz` and, where they are switched on, the APIs of service_discovery, Eureka, Consul and Nacos;
    /// nothing else.
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
    let admin = Arc::new(Admin::new(&listener, tls.is_some(), parts, scope, access));
    server::serve(&listener, tls, admin, shutdown).await;
}

/// One listener's view of the API.
struct Admin {
    scope: Scope,
    /// How clients come here.
    scheme: &'static str,
    guard: Guard,
    /// The API of service_discovery, if it is spoken here.
    discovery: Option<Discovery>,
    /// That of Eureka.
    eureka: Option<Eureka>,
    /// That of Consul.
    consul: Option<Consul>,
    /// That of Nacos.
    nacos: Option<NacosSettings>,
    parts: Arc<Parts>,
    long_answers: Semaphore,
    overview: Overview,
    feeds: Arc<Feeds>,
    waiting: Waiting,
}

impl Admin {
    fn new(listener: &TcpListener, secured: bool, parts: Arc<Parts>, scope: Scope, access: Access) -> Self {
        let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let discovery = access.discovery.clone();
        let eureka = access.eureka.clone().map(Eureka::new);
        let consul = access.consul.clone().map(Consul::new);
        let nacos = access.nacos.clone();
        Self {
            scope,
            scheme: if secured { "https" } else { "http" },
            guard: Guard::new(access, loopback),
            discovery,
            eureka,
            consul,
            nacos,
            parts,
            long_answers: Semaphore::new(LONG_ANSWERS),
            overview: Overview::default(),
            feeds: Arc::default(),
            waiting: Waiting::default(),
        }
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
            Resource::Page(name) if !client.only_health => Ok(dashboard::answer(name, &head.headers)),
            _ if client.only_health => Err(Rejection::Busy),
            resource if changes(&head.method) => {
                client.owes_now();
                let body = body::collect(body).await?;
                if !client.asked() {
                    return Err(Rejection::Busy);
                }
                self.change(resource, &head, body, peer).await
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
        if let Resource::Discovery(call) = resource {
            let discovery = self.discovery.as_ref().filter(|_| self.scope == Scope::Registrations);
            let discovery = discovery.ok_or_else(|| Rejection::NoResource(path.to_owned()))?;
            self.guard.check_sender(head, peer)?;
            // Through a proxy comes who is somewhere else.
            if !discovery.needs_no_token(peer) || guard::of_proxy(&head.headers).is_some() {
                self.guard.check_token(head, call.changes())?;
            }
            return Ok(resource);
        }
        let spoken = match &resource {
            Resource::Eureka(_) => {
                let exempt = self.eureka.as_ref().map(|eureka| eureka.config.needs_no_token(peer));
                Some((exempt, guard::password(&head.headers)))
            }
            Resource::Consul(_) => {
                let exempt = self.consul.as_ref().map(|consul| consul.config.needs_no_token(peer));
                Some((exempt, Consul::token(head)))
            }
            Resource::Nacos(_) => {
                let nacos = self.nacos.as_ref().filter(|_| self.scope == Scope::Registrations);
                let nacos = nacos.ok_or_else(|| Rejection::NoResource(path.to_owned()))?;
                // Who changes something may send the token in the body, and who logs in has none yet.
                if changes(&head.method) {
                    self.guard.check_sender(head, peer)?;
                    return Ok(resource);
                }
                let params = nacos::Params::read(head, &[]);
                Some((Some(nacos.needs_no_token(peer)), params.token().map(str::to_owned)))
            }
            _ => None,
        };
        if let Some((exempt, given)) = spoken {
            let exempt = exempt.filter(|_| self.scope == Scope::Registrations);
            let exempt = exempt.ok_or_else(|| Rejection::NoResource(path.to_owned()))?;
            self.admit_client(head, peer, exempt, given.as_deref())?;
            return Ok(resource);
        }
        match (changes(&head.method), resource.is_for_everybody()) {
            (true, _) => self.guard.check_change(head, peer)?,
            (false, false) => self.guard.check_read(head)?,
            (false, true) => {}
        }
        Ok(resource)
    }

    /// A client of another registry's API, `exempt` where it needs no token.
    fn admit_client(
        &self,
        head: &Head,
        peer: IpAddr,
        exempt: bool,
        given: Option<&str>,
    ) -> Result<(), Rejection> {
        let changes = changes(&head.method);
        if changes {
            self.guard.check_sender(head, peer)?;
        }
        match exempt && guard::of_proxy(&head.headers).is_none() {
            true => Ok(()),
            false => self.guard.check_given(head, changes, given),
        }
    }

    async fn change(
        self: Arc<Self>,
        resource: Resource,
        head: &Head,
        body: Bytes,
        peer: IpAddr,
    ) -> Result<Response<Body>, Rejection> {
        let parts = self.parts.clone();
        let Parts { catalog, memory, .. } = &*parts;
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
            Resource::Discovery(call) => {
                let url = format!("{}://{}", self.scheme, guard::host(head)?.unwrap_or_default());
                discovery::answer(self, call, &url, &body).await
            }
            Resource::Eureka(call) => {
                let Some(eureka) = &self.eureka else { return Err(Rejection::Failed) };
                eureka.change(memory, call, head, &body).await
            }
            Resource::Consul(call) => {
                let Some(consul) = &self.consul else { return Err(Rejection::Failed) };
                let from = guard::of_proxy(&head.headers).is_none().then_some(peer);
                consul.change(memory, call, head, &body, from).await
            }
            Resource::Nacos(call) => {
                let Some(nacos) = &self.nacos else { return Err(Rejection::Failed) };
                let params = nacos::Params::read(head, &body);
                if call == nacos::Call::Login {
                    return nacos::login(&params, |token| self.guard.knows(token));
                }
                self.admit_client(head, peer, nacos.needs_no_token(peer), params.token())?;
                nacos::change(memory, call, &head.method, &params).await
            }
            Resource::Instance { service, id } if head.method == Method::PUT => {
                services::put(memory, &service, &id, &body).await
            }
            Resource::Instance { service, id } => Ok(services::remove(memory, &service, &id).await),
            // No other resource takes the method of a change.
            other => Err(Rejection::NoResource(format!("{other:?}"))),
        }
    }

    async fn show(self: Arc<Self>, resource: Resource, head: Head) -> Result<Response<Body>, Rejection> {
        match resource {
            Resource::Instance { service, id } => {
                services::instance(&self.parts.memory, &service, &id).map(|instance| json(&instance))
            }
            Resource::Metrics => {
                let format = negotiate::format(&head.headers);
                let all = self.beside(move |admin| Ok(metrics::all(&admin.parts, format))).await?;
                let mut response = with_type(all, format.content_type());
                response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
                Ok(response)
            }
            Resource::Consul(call) => self.show_consul(call, head).await,
            Resource::Nacos(call) => {
                let params = nacos::Params::read(&head, &[]);
                let show = move |admin: &Self| nacos::show(&admin.parts.memory, &call, &params);
                self.beside(show).await.map(with_json)
            }
            resource if resource.is_document() && negotiate::wants_events(&head.headers) => {
                self.guard.check_follow(&head)?;
                self.follow(resource).await
            }
            resource => {
                self.overview.asked();
                self.make(resource).await.map(with_json)
            }
        }
    }

    /// At once, or when something has changed that the client waits for.
    async fn show_consul(
        self: Arc<Self>,
        call: consul::Call,
        head: Head,
    ) -> Result<Response<Body>, Rejection> {
        let Some(consul) = &self.consul else { return Err(Rejection::Failed) };
        let (query, memory) = (consul.query(&head)?, &*self.parts.memory);
        if let Some(known) = consul.waits_for(memory, &call, &query) {
            self.guard.check_follow(&head)?;
            self.waiting.wait(Consul::wait(memory, known, &query)).await?;
        }
        let host = guard::host(&head)?.unwrap_or_default().to_owned();
        let show = move |admin: &Self| {
            let Some(consul) = &admin.consul else { return Err(Rejection::Failed) };
            consul.show(&admin.parts.memory, &call, &query, &host)
        };
        self.clone().beside(show).await.map(consul::Shows::into_response)
    }

    /// Tells of a document again and again.
    async fn follow(self: Arc<Self>, resource: Resource) -> Result<Response<Body>, Rejection> {
        let place = self.feeds.enter().ok_or(Rejection::Busy)?;
        let place = match self.feeds.join(&resource, place) {
            Ok(feed) => return Ok(events(feed)),
            Err(place) => place,
        };
        let first = self.clone().make(resource.clone()).await?;
        let (admin, wanted, watch) = (Arc::downgrade(&self), resource.clone(), self.overview.watch());
        let make = move || {
            let _ = &watch;
            let (admin, wanted) = (admin.upgrade(), wanted.clone());
            async move { admin?.make(wanted).await.ok() }
        };
        self.feeds.start(resource, place, &first, make).map(events).ok_or(Rejection::Busy)
    }

    async fn make(self: Arc<Self>, resource: Resource) -> Result<Bytes, Rejection> {
        let sources = match &resource {
            Resource::Upstream(name) => upstreams::find(&self.parts.catalog, name)?.sources().await,
            _ => None,
        };
        self.beside(move |admin| admin.document(resource, sources.unwrap_or_default())).await
    }

    /// Does what may take long beside this thread, a few at once: whoever asks about health comes between.
    async fn beside<T: Send + 'static>(
        self: Arc<Self>,
        act: impl FnOnce(&Self) -> Result<T, Rejection> + Send + 'static,
    ) -> Result<T, Rejection> {
        let admin = self.clone();
        // Nobody closes the semaphore.
        let Ok(_turn) = self.long_answers.acquire().await else { return Err(Rejection::Busy) };
        tokio::task::spawn_blocking(move || act(&admin)).await.unwrap_or(Err(Rejection::Failed))
    }

    /// `sources` says where the endpoints of an upstream are from.
    fn document(&self, resource: Resource, sources: upstreams::Sources) -> Result<Bytes, Rejection> {
        let Parts { catalog, plugins, memory, .. } = &*self.parts;
        match resource {
            Resource::Overview => Ok(document(&self.overview.look(&self.parts))),
            Resource::Upstreams => Ok(document(&upstreams::all(catalog))),
            Resource::Upstream(name) => {
                let upstream = upstreams::find(catalog, &name)?;
                let standing = self.overview.of(&self.parts, &upstream);
                Ok(document(&upstreams::one(catalog, &name)?.with(standing, &sources)))
            }
            Resource::Plugins => Ok(document(&plugins::all(plugins, &catalog.table().config))),
            Resource::Plugin(name) => {
                plugins::one(plugins, &catalog.table().config, &name).map(|plugin| document(&plugin))
            }
            Resource::Listeners => Ok(document(&listeners::all(&self.parts))),
            Resource::Configuration => Ok(document(&configuration::of(&self.parts))),
            Resource::Services => Ok(document(&services::all(memory))),
            Resource::Service(service) => Ok(document(&services::one(memory, &service))),
            Resource::Eureka(call) => self.eureka.as_ref().ok_or(Rejection::Failed)?.show(memory, &call),
            // Answered elsewhere.
            other => Err(Rejection::NoResource(format!("{other:?}"))),
        }
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests;
