//! What is traced, and where traces go.

use std::{fmt, time::Duration};

use http::{
    HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};
use ipnet::IpNet;

use crate::{
    connector::http::{Credential, place},
    tls,
};

/// Where a collector of OTLP takes traces over HTTP.
const TRACES: &str = "/v1/traces";
/// And over gRPC.
const SERVICE: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    pub endpoint: OtlpEndpoint,
    pub protocol: OtlpProtocol,
    /// Of the traces that begin here, the share that is recorded.
    pub sample: f64,
    /// Whose traces are continued, beside those of trusted proxies.
    pub continue_from: Vec<IpNet>,
    /// What the gateway is called.
    pub service: String,
    /// What tells it from others of that name.
    pub instance: String,
    pub token: Option<Credential>,
    /// There if the collector is spoken to by TLS.
    pub tls: Option<tls::ClientSettings>,
    /// How long a collector may take for a batch.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    Grpc,
    Http,
}

/// Where a collector takes traces.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpEndpoint {
    /// With the path of the service.
    uri: Uri,
    authority: HeaderValue,
    host: String,
    port: u16,
}

impl OtlpEndpoint {
    /// None if it is no `http://HOST:PORT` or `https://HOST:PORT`, over HTTP maybe with a path.
    pub fn parse(text: &str, protocol: OtlpProtocol) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let (host, port) = place(&uri)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut parts = uri.into_parts();
        let (scheme, authority) = (parts.scheme.as_ref()?, parts.authority.as_ref()?);
        let is_spoken = *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
        let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path).trim_end_matches('/');
        let plain = !authority.as_str().contains('@') && !text.contains(['?', '#']);
        if !is_spoken || !plain || (protocol == OtlpProtocol::Grpc && !path.is_empty()) {
            return None;
        }
        let authority = HeaderValue::from_str(authority.as_str()).ok()?;
        let path = match protocol {
            OtlpProtocol::Grpc => SERVICE.to_owned(),
            OtlpProtocol::Http => format!("{}{TRACES}", path.strip_suffix(TRACES).unwrap_or(path)),
        };
        parts.path_and_query = Some(path.try_into().ok()?);
        Some(Self { uri: Uri::from_parts(parts).ok()?, authority, host, port })
    }

    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_tls(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.uri.scheme_str().unwrap_or("http"),
            String::from_utf8_lossy(self.authority.as_bytes())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_url_and_its_service_is_put_behind_it() {
        let parsed = |text: &str, protocol| {
            let endpoint = OtlpEndpoint::parse(text, protocol)?;
            Some((endpoint.uri().to_string(), endpoint.host().to_owned(), endpoint.port()))
        };
        let http = |text| parsed(text, OtlpProtocol::Http);
        let expected = |uri: &str, host: &str, port| Some((uri.to_owned(), host.to_owned(), port));
        assert_eq!(http("http://c:4318"), expected("http://c:4318/v1/traces", "c", 4318));
        assert_eq!(http("https://c/otlp/"), expected("https://c/otlp/v1/traces", "c", 443));
        assert_eq!(http("http://[::1]/v1/traces"), expected("http://[::1]/v1/traces", "::1", 80));
        let grpc = |text| parsed(text, OtlpProtocol::Grpc);
        assert_eq!(grpc("http://c:4317/"), expected(&format!("http://c:4317{SERVICE}"), "c", 4317));
        assert_eq!(grpc("http://c:4317/path"), None);
        for wrong in [
            "c:4317",
            "ftp://c",
            "http://u:p@c",
            "http://c/?a=b",
            "http://c:99999",
            "http://c:",
            "http://",
            "/v1/traces",
            "",
        ] {
            assert_eq!(http(wrong), None, "{wrong}");
        }
    }
}
