//! Where the gateway listens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AccessLog, ListenerTls};

/// Where clients connect.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["address"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Listener {
    /// Its name in routes, logs and metrics. Default: the address.
    pub name: Option<String>,
    /// `IP:PORT`, like `0.0.0.0:8080` or `[::]:8080`. Required.
    pub address: Option<String>,
    /// What clients speak: `http` (HTTP/1.1 and HTTP/2), `tcp`, whose bytes are passed on as they are, or `rpcx`, each of
    /// whose calls goes its own way. Default: `http`.
    pub protocol: Option<String>,
    /// End TLS here: certificates, and what is asked of clients. Default: no TLS.
    pub tls: Option<ListenerTls>,
    /// Connections that begin with a PROXY header, which names the client. Default: none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A line for each request, call or connection. Default: none.
    pub access_log: Option<AccessLog>,
    /// Give each request an id, in `X-Request-Id`, for the endpoint, the client and the access log. That of a trusted proxy
    /// is kept. Default: whether there is an access log.
    pub request_ids: Option<bool>,
    /// Networks of proxies whose `X-Forwarded-*` is believed, like `10.0.0.0/8`. Default: none.
    pub trusted_proxies: Vec<String>,
    /// Connections at once; more wait in the kernel's queue. Default: 10000.
    pub max_connections: u64,
    /// Milliseconds that a client may take to send a request's head: from the connection on for its first, from the
    /// first byte on for those after it. Default: 10000.
    pub header_timeout_ms: u64,
    /// Milliseconds that a connection may stay open between an answer and the next request. Default: 60000.
    pub idle_timeout_ms: u64,
    /// Milliseconds that a client may pause while it sends the body of a request. Default: 60000.
    pub body_timeout_ms: u64,
    /// Milliseconds that a client may take none of its answer while there is something to take. Default: 60000.
    pub write_timeout_ms: u64,
    /// Milliseconds after which an upgraded connection that is silent both ways is closed. Default: 3600000.
    pub tunnel_idle_ms: u64,
    /// Milliseconds after which a connection takes no more requests; a tenth more or less, so that they do not all end at
    /// once. 0 is no limit. Default: 0.
    pub max_age_ms: u64,
    /// The longest request head that is taken, in bytes. Default: 65536.
    pub max_header_bytes: u64,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: None,
            address: None,
            protocol: None,
            tls: None,
            proxy_protocol: None,
            access_log: None,
            request_ids: None,
            trusted_proxies: Vec::new(),
            max_connections: 10_000,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            body_timeout_ms: 60_000,
            write_timeout_ms: 60_000,
            tunnel_idle_ms: 3_600_000,
            max_age_ms: 0,
            max_header_bytes: 65_536,
        }
    }
}

/// Connections that begin with a PROXY header, of version 1 or 2.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["from"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ProxyProtocol {
    /// The networks of the proxies that send it, like `10.0.0.0/8`. A connection from there without one is closed; from
    /// anywhere else none is taken. At least one. Required.
    pub from: Option<Vec<String>>,
}

/// The admin listener: health, metrics, the state of everything, and the embedded registry.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Admin {
    /// `IP:PORT`, or `off` for no admin listener. Default: `127.0.0.1:9901`.
    pub address: String,
    /// A file with the token that is asked for, as `Authorization: Bearer`, by whatever changes something. Required
    /// unless the address is one of this machine alone. Default: none.
    pub token_file: Option<String>,
    /// A file with the token that is asked for by whatever reads, except for `/healthz` and `/readyz`; the token for
    /// changes is taken, too. Default: none, everybody may read.
    pub read_token_file: Option<String>,
    /// Names of this listener, without a port, that are believed in the `Host` of a request. On a loopback address
    /// only these, `localhost` and loopback addresses are; on another address any name is unless there are names
    /// here. Default: none.
    pub hosts: Vec<String>,
    /// Networks of proxies through which changes may come, like `10.0.0.0/8`. A change with `X-Forwarded-*`,
    /// `Forwarded` or `Via` is refused from elsewhere. Default: none.
    pub trusted_proxies: Vec<String>,
    /// End TLS here, as a listener for clients does. Default: no TLS.
    pub tls: Option<ListenerTls>,
    /// A listener for registrations alone, beside the one above. Default: none.
    pub registrations: Option<Registrations>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:9901".into(),
            token_file: None,
            read_token_file: None,
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: None,
            registrations: None,
        }
    }
}

/// A listener where services register in the embedded registry, and nothing else.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["address"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Registrations {
    /// `IP:PORT`. Required.
    pub address: Option<String>,
    /// A file with the token that services send as `Authorization: Bearer`. Required unless the address is one of
    /// this machine alone. Default: none.
    pub token_file: Option<String>,
    /// A file with the token that is asked for by whatever reads, except for `/healthz`; the token for
    /// changes is taken, too. Default: none, everybody may read.
    pub read_token_file: Option<String>,
    /// Names of this listener, without a port, that are believed in the `Host` of a request. On a loopback address
    /// only these, `localhost` and loopback addresses are; on another address any name is unless there are names
    /// here. Default: none.
    pub hosts: Vec<String>,
    /// Networks of proxies through which changes may come, like `10.0.0.0/8`. A change with `X-Forwarded-*`,
    /// `Forwarded` or `Via` is refused from elsewhere. Default: none.
    pub trusted_proxies: Vec<String>,
    /// Speak the API of service_discovery, too, for programs written for that registry. Default: not spoken.
    pub discovery: Option<Discovery>,
    /// Speak Eureka's REST below `/eureka`, too, for programs with Eureka's client; `{}` switches it on. Default: not
    /// spoken.
    pub eureka: Option<Eureka>,
    /// Speak Consul's API for services below `/v1`, too, for programs that register with Consul's agent; `{}` switches it
    /// on. Default: not spoken.
    pub consul: Option<Consul>,
    /// Speak the first version of Nacos' API for instances below `/nacos/v1`, too, for programs with such a client; `{}`
    /// switches it on. Default: not spoken.
    pub nacos: Option<Nacos>,
    /// End TLS here, as a listener for clients does. Default: no TLS.
    pub tls: Option<ListenerTls>,
}

/// The API of service_discovery, spoken by the embedded registry.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["env"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Discovery {
    /// The environment that services register for; a service of the embedded registry is an `appid` in it. Required.
    pub env: Option<String>,
    /// Networks, like `10.0.0.0/8`, whose clients need no token for this API, since those of that registry have none.
    /// Default: none.
    pub from: Vec<String>,
}

/// Eureka's REST, spoken by the embedded registry.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Eureka {
    /// Networks, like `10.0.0.0/8`, whose clients need no token for it. Others may send it as the password of the URL
    /// that they are given, whoever the user is. Default: none.
    pub from: Vec<String>,
}

/// Consul's API for services, spoken by the embedded registry.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Consul {
    /// Networks, like `10.0.0.0/8`, whose clients need no token for it. Others may send it as `X-Consul-Token`, or as
    /// `token` in the query. Default: none.
    pub from: Vec<String>,
    /// The datacenter that is told, and taken where a client asks for one. Default: `dc1`, as Consul calls its own.
    pub datacenter: String,
}

impl Default for Consul {
    fn default() -> Self {
        Self { from: Vec::new(), datacenter: "dc1".to_owned() }
    }
}

/// Nacos' API for instances, spoken by the embedded registry.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Nacos {
    /// Networks, like `10.0.0.0/8`, whose clients need no token for it. Others may send it as the password that they are
    /// given, whoever the user is. Default: none.
    pub from: Vec<String>,
}
