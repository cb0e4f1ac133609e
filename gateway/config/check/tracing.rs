//! Traces: a collector, and what is recorded for it.

use super::Checker;
use crate::{
    config::{
        file,
        running::{OtlpEndpoint, OtlpProtocol, Tracing},
    },
    connector::http::Credential,
    document::{SwitchOr, Way, similar},
};

const GRPC: &str = "grpc";
const HTTP: &str = "http";

impl Checker<'_> {
    /// None where nothing is traced; `Some(None)`: it is wrong.
    pub(super) fn tracing(&mut self, way: &Way, tracing: Option<&file::Tracing>) -> Option<Option<Tracing>> {
        let Some(tracing) = tracing else { return Some(None) };
        let protocol = match tracing.protocol.as_str() {
            GRPC => Some(OtlpProtocol::Grpc),
            HTTP => Some(OtlpProtocol::Http),
            other => {
                let hint = similar::hint(other, [GRPC, HTTP]);
                self.wrong(&way.key("protocol"), format!("{other:?} is neither grpc nor http"))
                    .hint_if_any(hint);
                None
            }
        };
        let endpoint = self
            .required(way, "endpoint", &tracing.endpoint)
            .and_then(|text| self.collector(&way.key("endpoint"), text, protocol));
        let sample = self.share_of(&way.key("sample"), tracing.sample);
        let continue_from = self.networks(&way.key("continue_from"), &tracing.continue_from);
        let service = self.text(&way.key("service"), &tracing.service);
        let token = self.collector_token(way, tracing);
        let timeout = self.duration_ms(&way.key("timeout_ms"), tracing.timeout_ms);
        let is_tls = endpoint.as_ref().map(OtlpEndpoint::is_tls);
        let at = way.key("tls");
        if is_tls == Some(false) && matches!(tracing.tls, Some(SwitchOr::Is(true) | SwitchOr::Table(_))) {
            self.wrong_key(&at, "the collector is not spoken to by TLS")
                .hint("write `https://` in `endpoint`");
        }
        if is_tls == Some(true) && matches!(tracing.tls, Some(SwitchOr::Is(false))) {
            self.wrong(&at, "a collector at `https` is spoken to by TLS")
                .hint("write `http://` in `endpoint`");
        }
        let usual = SwitchOr::Is(is_tls == Some(true));
        let tls = self.upstream_tls(&at, Some(tracing.tls.as_ref().unwrap_or(&usual)));
        Some(Some(Tracing {
            endpoint: endpoint?,
            protocol: protocol?,
            sample,
            continue_from,
            service: service?.into(),
            instance: self.identity.instance(),
            token: token?,
            tls: tls?,
            timeout,
        }))
    }

    fn collector(&mut self, way: &Way, text: &str, protocol: Option<OtlpProtocol>) -> Option<OtlpEndpoint> {
        let parsed = OtlpEndpoint::parse(text, protocol.unwrap_or(OtlpProtocol::Grpc));
        if parsed.is_none() {
            self.wrong(way, format!("{text:?} is no URL of a collector"))
                .hint("write `http://HOST:PORT` or `https://HOST:PORT`; most listen at 4317 for gRPC, 4318 for HTTP");
        }
        parsed
    }

    fn collector_token(&mut self, way: &Way, tracing: &file::Tracing) -> Option<Option<Credential>> {
        let Some(file) = &tracing.token_file else {
            return match tracing.header {
                Some(_) => self.together(way, "header", "token_file"),
                None => Some(None),
            };
        };
        let at = way.key("token_file");
        let (secret, file) = (self.secret(&at, file), self.path(&at, file));
        let kind = crate::connector::http::token_kind(self, &way.key("header"), tracing.header.as_deref())?;
        Some(Some(Credential { kind, file: Some(file?), secret: secret? }))
    }
}
