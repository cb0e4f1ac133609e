//! Traces, and where they go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::UpstreamTls;
use crate::document::SwitchOr;

/// A span for each request of HTTP and for each of its tries, sent to a collector by OTLP.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["endpoint"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Tracing {
    /// Where the collector listens, `http://HOST:PORT` or `https://HOST:PORT`. Over HTTP `/v1/traces` is put behind it.
    /// Required.
    pub endpoint: Option<String>,
    /// `grpc` or `http`. Default: `grpc`.
    pub protocol: String,
    /// Of the traces that begin here, the share that is recorded, from 0 to 1. Of those that are continued it is what
    /// their `traceparent` says. Default: 1.
    pub sample: f64,
    /// Networks whose traces are continued, like `10.0.0.0/8`, beside the `trusted_proxies` of a listener. For
    /// everybody else a new one begins, with a link to theirs. Default: none.
    pub continue_from: Vec<String>,
    /// What the gateway is called in traces. Default: `witgate`.
    pub service: String,
    /// A file with a token that is sent to the collector. It is read again when it is older than ten seconds. Default:
    /// none.
    pub token_file: Option<String>,
    /// The header that the token is sent in. Default: `Authorization`, where `Bearer` is put before the token.
    pub header: Option<String>,
    /// TLS to a collector at `https`. Default: by the authorities of the system.
    pub tls: Option<SwitchOr<UpstreamTls>>,
    /// Milliseconds that the collector may take for a batch. Default: 10000.
    pub timeout_ms: u64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: "grpc".into(),
            sample: 1.0,
            continue_from: Vec::new(),
            service: "witgate".into(),
            token_file: None,
            header: None,
            tls: None,
            timeout_ms: 10_000,
        }
    }
}
