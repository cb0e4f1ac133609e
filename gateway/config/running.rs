//! What runs: the configuration after everything in it was checked. Never parsed, never printed.
//!
//! Parts that are equal in two configurations keep running when one replaces the other, so all of them can be
//! compared.

mod heads;
mod tracing;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustc_hash::FxHashMap;

pub use self::{
    heads::{HeaderChanges, Heads, Redirect, Scheme, UpstreamHost},
    tracing::{OtlpEndpoint, OtlpProtocol, Tracing},
};
use crate::{
    connector,
    document::Secret,
    net::ProxyVersion,
    resilience::{BackupAfter, Bounds, BreakerPolicy, Causes, Mode, Rate, RetryPolicy},
    telemetry::access,
    tls,
    upstream::{HealthPolicy, OfferPolicy, TrustPolicy, UpstreamName},
};

/// One immutable value for the whole process.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Threads that serve connections; one per core by default.
    pub workers: usize,
    pub listeners: Vec<Listener>,
    pub admin: Admin,
    pub state: PathBuf,
    /// The DNS servers that are asked; none: those of the system.
    pub dns_servers: Vec<SocketAddr>,
    pub plugins: Plugins,
    /// None: nothing is traced.
    pub tracing: Option<Arc<Tracing>>,
    pub shutdown: Shutdown,
    /// How long a new process has to be ready.
    pub upgrade_timeout: Duration,
    pub registries: BTreeMap<String, Arc<Registry>>,
    pub upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
    /// The most specific first: a request takes the first that matches.
    pub routes: Vec<Route>,
    /// Those of connections that are passed on as they are, the most specific first.
    pub tcp_routes: Vec<TcpRoute>,
    /// Those of calls of rpcx: a call takes the first of its listener.
    pub rpcx_routes: Vec<RpcxRoute>,
}

impl Config {
    /// Where the routes lead, of requests, connections and calls.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        let of_requests = self.routes.iter().map(|route| &route.target);
        let of_connections = self.tcp_routes.iter().map(|route| &route.target);
        let of_calls = self.rpcx_routes.iter().map(|route| &route.target);
        of_requests.chain(of_connections).chain(of_calls)
    }

    /// A configuration that serves nothing, with every default in force and files below `folder`.
    pub fn empty(folder: PathBuf) -> Self {
        let mebibyte = 1 << 20;
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            listeners: Vec::new(),
            admin: Admin { address: None, registrations: None, access: Access::default(), tls: None },
            state: folder.join("state"),
            dns_servers: Vec::new(),
            plugins: Plugins {
                directory: folder.join("plugins"),
                memory_bytes: 8_192 * mebibyte,
                selector: SelectorLimits {
                    pick: Duration::from_millis(5),
                    update: Duration::from_millis(500),
                    memory_bytes: 64 * mebibyte,
                    table_elements: 10_000,
                    faults: 10,
                },
                registry: RegistryLimits {
                    cpu: Duration::from_secs(2),
                    memory_bytes: 128 * mebibyte,
                    table_elements: 10_000,
                },
            },
            tracing: None,
            shutdown: Shutdown { delay: Duration::from_secs(1), drain: Duration::from_secs(30) },
            upgrade_timeout: Duration::from_secs(60),
            registries: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            routes: Vec::new(),
            tcp_routes: Vec::new(),
            rpcx_routes: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Its name in routes, logs and metrics; the address when none was given.
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub protocol: ListenerProtocol,
    /// None: clients speak without TLS.
    pub tls: Option<tls::ServerSettings>,
    /// Networks whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// How what comes by it is logged, if it is.
    pub access_log: Option<access::Settings>,
    /// Requests of HTTP have ids.
    pub request_ids: bool,
    /// Whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a connection may stay open between requests.
    pub idle_timeout: Duration,
    /// How long a client may pause while it sends the body of a request.
    pub body_timeout: Duration,
    /// How long a client may take none of its answer.
    pub write_timeout: Duration,
    /// How long an upgraded connection may be silent.
    pub tunnel_idle: Duration,
    /// After which a connection takes no more requests, a tenth more or less. None: never.
    pub max_age: Option<Duration>,
    /// The longest request head that is taken, in bytes.
    pub max_header_bytes: usize,
}

impl Listener {
    /// Whether a connection from there has to begin with a PROXY header.
    pub fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        !self.proxy_protocol.is_empty() && {
            let peer = peer.to_canonical();
            self.proxy_protocol.iter().any(|network| network.contains(&peer))
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// None: no admin listener.
    pub address: Option<SocketAddr>,
    /// The listener for registrations alone, if there is one, beside the one above.
    pub registrations: Option<Registrations>,
    pub access: Access,
    pub tls: Option<tls::ServerSettings>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Registrations {
    pub address: SocketAddr,
    pub access: Access,
    pub tls: Option<tls::ServerSettings>,
}

/// Who may do what on an admin listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// Asked for as `Authorization: Bearer`, of whoever changes something.
    pub token: Option<Secret>,
    /// The same, of whoever reads; that for changes is taken, too. None: everybody may read.
    pub read_token: Option<Secret>,
    /// Names of this listener in the `Host` of requests, beside its addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Proxies through which changes may come.
    pub trusted_proxies: Vec<IpNet>,
    /// The API of service_discovery, where it is spoken.
    pub discovery: Option<Discovery>,
    /// That of Eureka.
    pub eureka: Option<Eureka>,
    /// That of Consul.
    pub consul: Option<Consul>,
    /// That of Nacos.
    pub nacos: Option<Nacos>,
}

/// Nacos' API for instances, spoken by the embedded registry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Nacos {
    /// Whose clients need no token for it.
    pub from: Vec<IpNet>,
}

impl Nacos {
    pub fn needs_no_token(&self, peer: IpAddr) -> bool {
        contains(&self.from, peer)
    }
}

/// Consul's API for services, spoken by the embedded registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Consul {
    /// Whose clients need no token for it.
    pub from: Vec<IpNet>,
    pub datacenter: String,
}

impl Consul {
    pub fn needs_no_token(&self, peer: IpAddr) -> bool {
        contains(&self.from, peer)
    }
}

/// Eureka's REST, spoken by the embedded registry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Eureka {
    /// Whose clients need no token for it.
    pub from: Vec<IpNet>,
}

impl Eureka {
    pub fn needs_no_token(&self, peer: IpAddr) -> bool {
        contains(&self.from, peer)
    }
}

/// The API of service_discovery, spoken by the embedded registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// The environment that services register for.
    pub env: String,
    /// Whose clients need no token for it.
    pub from: Vec<IpNet>,
}

impl Discovery {
    pub fn needs_no_token(&self, peer: IpAddr) -> bool {
        contains(&self.from, peer)
    }
}

fn contains(networks: &[IpNet], peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    networks.iter().any(|network| network.contains(&peer))
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plugins {
    /// Scanned for `*.wasm`; need not exist.
    pub directory: PathBuf,
    /// Of all instances of all plugins together.
    pub memory_bytes: usize,
    pub selector: SelectorLimits,
    pub registry: RegistryLimits,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelectorLimits {
    pub pick: Duration,
    /// For `create` and `update`.
    pub update: Duration,
    pub memory_bytes: usize,
    pub table_elements: usize,
    /// Faults within a minute after which the plugin is quarantined.
    pub faults: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegistryLimits {
    /// CPU time between two waits.
    pub cpu: Duration,
    pub memory_bytes: usize,
    pub table_elements: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shutdown {
    /// Between "not ready" and closing the listeners.
    pub delay: Duration,
    /// How long connections may take to finish after that.
    pub drain: Duration,
}

/// A registry: its plugin, what the host holds for it, and what the plugin gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    pub name: Arc<str>,
    pub plugin: String,
    pub grants: connector::Grants,
    /// A JSON object, as text, for the plugin.
    pub settings: Arc<str>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: UpstreamName,
    /// At least one; the first wins where two differ.
    pub sources: Vec<Source>,
    /// Only instances that have all of these labels.
    pub labels: Vec<(String, String)>,
    pub selector: Selector,
    pub timeouts: Timeouts,
    pub protocol: Protocol,
    /// None: endpoints are spoken to without TLS.
    pub tls: Option<tls::ClientSettings>,
    /// With which header endpoints are told of clients. None: with none.
    pub proxy_protocol: Option<ProxyVersion>,
    pub pool: Pool,
    pub retries: RetryPolicy,
    /// How long what is under way at an endpoint may go on after it left the list. None: for ever.
    pub leave: Option<Duration>,
    /// None: nothing is refused because others failed.
    pub breaker: Option<BreakerPolicy>,
    /// None: any number of requests may be in flight.
    pub limits: Option<Limits>,
    pub reliability: Reliability,
    /// How those who are well share requests.
    pub offer: OfferPolicy,
}

/// How many requests may be in flight at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// To all endpoints together.
    pub bounds: Bounds,
    /// To one endpoint. None: any number.
    pub per_endpoint: Option<u32>,
    /// Requests that wait at once.
    pub queue: u32,
    /// How long one waits.
    pub queue_time: Duration,
}

/// How the lists of an upstream are believed, and its endpoints judged.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reliability {
    pub trust: TrustPolicy,
    /// Where a registry of its sources is believed otherwise than the rest, by its name.
    pub registries: BTreeMap<Arc<str>, TrustPolicy>,
    pub health: HealthPolicy,
    pub check: Check,
}

/// How endpoints are asked whether they answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// None: only the ejected and reserves are asked, by connecting.
    pub probe: Option<Probe>,
    /// Between two questions to an endpoint, give or take a fifth. 5 s by default.
    pub interval: Duration,
    /// 2 s by default.
    pub timeout: Duration,
}

impl Default for Check {
    fn default() -> Self {
        Self { probe: None, interval: Duration::from_secs(5), timeout: Duration::from_secs(2) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// It takes a connection.
    Tcp,
    Http(HttpProbe),
    /// The health service of gRPC says that this service is in use; empty: the server.
    Grpc(Arc<str>),
}

/// A `GET`, and what the answer must be like.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// `/` by default.
    pub path: Arc<str>,
    /// The `Host` header; the address by default.
    pub host: Option<Arc<str>>,
    /// 200 to 299 by default.
    pub status: RangeInclusive<u16>,
    /// A text that is in the first 64 KiB of the answer as it was sent. With it, or the header, another service that
    /// got the address does not pass.
    pub body: Option<Arc<str>>,
    /// A header, and its whole value.
    pub header: Option<(Arc<str>, Arc<str>)>,
}

impl Default for HttpProbe {
    fn default() -> Self {
        Self { path: "/".into(), host: None, status: 200..=299, body: None, header: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    pub registry: Arc<str>,
    /// The name of the service in that registry.
    pub service: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selector {
    pub plugin: Arc<str>,
    /// A JSON object, as text.
    pub settings: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From the last byte of the request to the head of the answer. None: for ever.
    pub response: Option<Duration>,
    /// Between two pieces of the answer. None: for ever.
    pub idle: Option<Duration>,
    /// From the head of the request to the end of the answer. None: for ever.
    pub request: Option<Duration>,
    /// Without the endpoint taking anything of the request.
    pub write: Duration,
}

/// What a route says of the times of its upstream. None: nothing; `Some(None)`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouteTimeouts {
    pub response: Option<Option<Duration>>,
    pub idle: Option<Option<Duration>>,
    pub request: Option<Option<Duration>>,
}

impl RouteTimeouts {
    /// What counts for a request of the route that goes to an upstream with these times.
    pub fn over(&self, upstream: &Timeouts) -> Timeouts {
        Timeouts {
            response: self.response.unwrap_or(upstream.response),
            idle: self.idle.unwrap_or(upstream.idle),
            request: self.request.unwrap_or(upstream.request),
            ..*upstream
        }
    }
}

/// What a route says of the retries of its upstream. None: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RouteRetries {
    pub mode: Option<Mode>,
    pub most: Option<u32>,
    pub on: Option<Causes>,
    pub budget: Option<f64>,
    pub budget_min: Option<u32>,
    /// `Some(None)`: for ever.
    pub per_try: Option<Option<Duration>>,
    pub backup_after: Option<BackupAfter>,
    pub replay_bytes: Option<usize>,
}

impl RouteRetries {
    /// What counts for a request of the route that goes to an upstream with this policy.
    pub fn over(&self, upstream: &RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            mode: self.mode.unwrap_or(upstream.mode),
            most: self.most.unwrap_or(upstream.most),
            on: self.on.unwrap_or(upstream.on),
            budget: self.budget.unwrap_or(upstream.budget),
            budget_min: self.budget_min.unwrap_or(upstream.budget_min),
            per_try: self.per_try.unwrap_or(upstream.per_try),
            backup_after: self.backup_after.unwrap_or(upstream.backup_after),
            replay_bytes: self.replay_bytes.unwrap_or(upstream.replay_bytes),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    pub idle_timeout: Duration,
    /// Idle connections kept per endpoint and worker.
    pub max_idle: usize,
    /// Connections of HTTP/2 per endpoint and worker.
    pub max_http2_connections: usize,
}

/// What the clients of a listener speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListenerProtocol {
    #[default]
    Http,
    /// Bytes that are passed on as they are.
    Tcp,
    /// Calls of rpcx, each of which goes its own way.
    Rpcx,
}

impl ListenerProtocol {
    pub const ALL: [Self; 3] = [Self::Http, Self::Tcp, Self::Rpcx];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Rpcx => "rpcx",
        }
    }
}

/// What endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/2 for gRPC, HTTP/1.1 for the rest, unless a label of the endpoint says otherwise.
    #[default]
    Auto,
    Http1,
    Http2,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Http1, Self::Http2];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// Where the connections of some listeners go.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpRoute {
    /// Its place in the file, for logs and errors: `route[0]`.
    pub name: Arc<str>,
    pub listeners: Vec<Arc<str>>,
    /// The name that the client asks for in TLS. None: whatever it asks for.
    pub sni: Option<Arc<str>>,
    /// What takes the place of the retries of the upstream.
    pub retries: Option<RouteRetries>,
    /// Never a redirect.
    pub target: Target,
}

/// Where the calls of some listeners go.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcxRoute {
    /// Its place in the file, for logs and errors: `route[0]`.
    pub name: Arc<str>,
    pub listeners: Vec<Arc<str>>,
    pub timeouts: RouteTimeouts,
    /// What takes the place of the retries of the upstream.
    pub retries: Option<RouteRetries>,
    /// Calls may be sent again though an endpoint may have carried them out.
    pub repeatable: bool,
    /// Never a redirect.
    pub target: Target,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its place in the file, for logs and errors: `route[0]`.
    pub name: Arc<str>,
    pub matches: Matches,
    /// Take the matched prefix away before forwarding, with the name of the service if that stands in the path.
    pub strip_prefix: bool,
    pub timeouts: RouteTimeouts,
    pub retries: Option<RouteRetries>,
    /// Requests may be sent more than once, whatever their method.
    pub repeatable: bool,
    pub heads: Heads,
    /// Bytes that the body of a request may have. None: any number.
    pub max_body: Option<u64>,
    pub grpc_web: Option<GrpcWeb>,
    pub rate: Option<RouteRate>,
    pub target: Target,
}

/// That gRPC-Web is translated, and for pages of which other origins.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcWeb {
    /// As browsers write them: `https://app.example.com`.
    pub allow_origins: Vec<Arc<str>>,
    /// What pages may send, besides what gRPC-Web needs.
    pub allow_headers: Vec<http::HeaderName>,
    /// What pages may read, besides how a call went.
    pub expose_headers: Vec<http::HeaderName>,
    /// How long a browser need not ask again.
    pub max_age: Duration,
    /// Cookies may be sent.
    pub allow_credentials: bool,
}

/// How many requests a route takes in a time, and from whom.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRate {
    pub rate: Rate,
    pub by: RateBy,
    /// Keys that are remembered.
    pub max_keys: usize,
}

/// Who has a rate of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum RateBy {
    /// Each address, or each network of 64 bits of IPv6.
    Client,
    /// Each value; requests without it count by their client.
    Header(http::HeaderName),
    /// Nobody: there is one for all.
    Route,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matches {
    /// Names of listeners; empty for all.
    pub listeners: Vec<Arc<str>>,
    /// Lower case, without port; `*.example.com` matches any one or more labels before it.
    pub host: Option<Arc<str>>,
    /// A prefix that ends at a `/` or at the end of the path: `/orders` matches `/orders` and `/orders/1`.
    /// It is `/` for every path, and `/svc/` for `/svc/{service}`.
    pub path: Arc<str>,
    pub headers: Vec<HeaderMatch>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    pub name: http::HeaderName,
    /// None: any value.
    pub value: Option<http::HeaderValue>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    Upstream(UpstreamName),
    /// Upstreams and their shares, each at least 1.
    Weighted(Vec<(UpstreamName, u32)>),
    /// The request names the service.
    ByName(ByName),
    /// The client is sent elsewhere.
    Redirect(Redirect),
}

/// Upstreams that exist because a request asks for them.
#[derive(Debug, Clone, PartialEq)]
pub struct ByName {
    pub registry: Arc<str>,
    pub from: NameFrom,
    /// A service name must match this as a whole, unless it is one of `services`.
    pub pattern: NamePattern,
    /// What is called otherwise in the registry than in requests, by the name in requests.
    pub services: FxHashMap<Arc<str>, Arc<str>>,
    /// What upstreams found this way are like: everything but name and sources counts.
    pub template: Arc<Upstream>,
    /// Services of the registry followed at once; more are refused.
    pub max_services: usize,
    /// Dropped after so long without a request, while its list is live.
    pub unused_after: Duration,
    /// How long the first request to a name waits for its first list.
    pub first_list_timeout: Duration,
    /// How long an unknown name is remembered.
    pub unknown_for: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum NameFrom {
    /// The path segment after this prefix (`/svc/` of `/svc/{service}`).
    Path(Arc<str>),
    Header(http::HeaderName),
    /// What the client asks for in TLS.
    Sni,
    /// The service path of a call of rpcx.
    ServicePath,
}

/// A compiled pattern with its text.
#[derive(Debug, Clone)]
pub struct NamePattern(pub regex_lite::Regex);

impl NamePattern {
    pub fn accepts(&self, name: &str) -> bool {
        self.0.find(name).is_some_and(|whole| whole.as_str() == name)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}
