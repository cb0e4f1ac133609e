//! Routes: which requests go where.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Breaker, Check, GrpcWeb, HeaderChanges, Health, Limits, Pool, Rate, Redirect, Selector, Subset, Tries,
    Trust, UpstreamTls, ZoneAware,
};
use crate::document::{HeaderIs, OneOrMore, SwitchOr, TextOr};

/// Which requests go where: everything that is given must match.
///
/// A route leads to an `upstream`, or takes the name of a service from the request: from its path
/// (`path = "/svc/{service}"`) or from a header (`service_header`). The keys from `registry` on are for the
/// second kind. Or it sends clients elsewhere (`redirect`).
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Route {
    /// The name of a listener, or several. Default: all listeners.
    pub listener: OneOrMore,
    /// A host name without port; `*.example.com` stands for any name below it. Default: every host.
    pub host: Option<String>,
    /// On a listener with `protocol = "tcp"`: the name that clients ask for in TLS; `*.example.com` stands for any name
    /// below it. Default: every connection.
    pub sni: Option<String>,
    /// A prefix of the path that ends where a segment ends: `/orders` matches `/orders` and `/orders/1`. As its last
    /// segment, `{service}` is the name of a service. Default: `/`, every path.
    pub path: Option<String>,
    /// Headers and their values; `true` for any value. Default: none.
    pub header: BTreeMap<String, HeaderIs>,
    /// Take the matched prefix, with the name of the service in it, away before forwarding. Default: false.
    pub strip_prefix: bool,
    /// Times for the requests of this route, instead of those of its upstream.
    pub timeouts: RouteTimeouts,
    /// As in an upstream, for the requests of this route: what is written takes the place of what the upstream says, key
    /// by key. For a route that takes the name of a service from the request, it is that of the services found by it.
    pub retries: Option<Tries>,
    /// Requests of this route ask for the same thing however often they are sent, whatever their method. Default: false.
    pub repeatable: bool,
    /// Headers of requests that are changed on their way to an instance.
    pub request_headers: HeaderChanges,
    /// Headers of answers that are changed on their way to the client, also in answers that the gateway makes itself.
    pub response_headers: HeaderChanges,
    /// The `Host` that an instance gets: `keep` for what the client sent, `endpoint` for the instance's own name (its
    /// hostname or the name in its address, or else its address), or a name. Default: `keep`.
    pub upstream_host: Option<String>,
    /// Sends clients elsewhere, instead of forwarding what they ask for.
    pub redirect: Option<Redirect>,
    /// Bytes that the body of a request may have; a longer one is answered with 413. Default: no limit.
    pub max_body_bytes: Option<u64>,
    /// Translates calls of gRPC-Web, for pages of these origins. Default: they are passed on as they are.
    pub grpc_web: Option<GrpcWeb>,
    /// How many requests are taken in a time; more are answered with 429. Default: no limit.
    pub rate: Option<Rate>,
    /// The name of an upstream, or several with their shares: `{ orders = 9, orders-next = 1 }`.
    pub upstream: Option<TextOr<BTreeMap<String, u64>>>,
    /// The header that names the service.
    pub service_header: Option<String>,
    /// The registry where services are found by name. Required for routes that take the name from the request.
    pub registry: Option<String>,
    /// What a name must match, as a whole. Default: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    pub pattern: Option<String>,
    /// Services that the registry knows by another name than requests do, with that of the registry. They need not match
    /// `pattern`. Default: none.
    pub services: BTreeMap<String, String>,
    /// Services followed at once; more are refused. Default: 1000.
    pub max_services: Option<u64>,
    /// Seconds without a request after which a service is not followed any more. Default: 600.
    pub unused_after_secs: Option<u64>,
    /// Milliseconds that the first request to a name waits for the first list. Default: 2000.
    pub first_list_timeout_ms: Option<u64>,
    /// Milliseconds that a name is remembered as unknown. Default: 5000.
    pub unknown_for_ms: Option<u64>,
    /// As in an upstream, for the services found by this route. Default: every instance.
    pub labels: Option<BTreeMap<String, String>>,
    /// As in an upstream, for the services found by this route. Default: `p2c-ewma`.
    pub selector: Option<TextOr<Selector>>,
    /// As in an upstream, for the services found by this route. Default: `auto`.
    pub protocol: Option<String>,
    /// As in an upstream, for the services found by this route. Default: false.
    pub tls: Option<SwitchOr<UpstreamTls>>,
    /// As in an upstream, for the services found by this route. Default: none.
    pub proxy_protocol: Option<String>,
    /// As in an upstream, for the services found by this route.
    pub pool: Option<Pool>,
    /// As in an upstream, for the services found by this route. Default: 0.
    pub leave_ms: Option<u64>,
    /// As in an upstream, for each of the services found by this route. Default: false.
    pub breaker: Option<SwitchOr<Breaker>>,
    /// As in an upstream, for each of the services found by this route. Default: no limit.
    pub limits: Option<Limits>,
    /// As in an upstream, for the services found by this route.
    pub trust: Option<Trust>,
    /// As in an upstream, for the services found by this route.
    pub health: Option<Health>,
    /// As in an upstream, for the services found by this route. Default: only those that failed are asked.
    pub check: Option<Check>,
    /// As in an upstream, for the services found by this route. Default: 0.
    pub slow_start_secs: Option<u64>,
    /// As in an upstream, for the services found by this route. Default: false.
    pub zone_aware: Option<SwitchOr<ZoneAware>>,
    /// As in an upstream, for the services found by this route. Default: 0.7.
    pub priority_threshold: Option<f64>,
    /// As in an upstream, for the services found by this route. Default: use all.
    pub subset: Option<Subset>,
}

/// Times for the requests of one route. What is left out is as the upstream says.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RouteTimeouts {
    /// As in an upstream; for routes that take the name of a service from the request. Default: 1000.
    pub connect_ms: Option<u64>,
    /// Milliseconds from the last byte of the request to the head of the answer; 0 is no limit.
    pub response_ms: Option<u64>,
    /// Milliseconds that an instance may pause within its answer; 0 is no limit.
    pub idle_ms: Option<u64>,
    /// Milliseconds from the head of the request to the end of the answer; 0 is no limit.
    pub request_ms: Option<u64>,
    /// As in an upstream; for routes that take the name of a service from the request. Default: 60000.
    pub write_ms: Option<u64>,
}
