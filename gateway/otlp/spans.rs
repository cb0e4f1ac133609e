//! How a trace becomes spans: one of the request and one for each try, by OpenTelemetry's conventions for HTTP and RPC.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::Method;

use super::messages::{AnyValue, Attribute, Code, Kind, Link, Span, Status, Value};
use crate::{
    syntax::{grpc, trace_context::TraceParent},
    telemetry::{
        Fault, KnownMethod,
        trace::{Asked, Ended, Trace, Try},
    },
};

/// Bits of a span's flags: it is known whether its parent is another process', and it is.
const KNOWN: u32 = 1 << 8;
const REMOTE: u32 = 1 << 9;

/// The span of the request, and one for each try.
pub(super) fn of(trace: &Trace) -> impl Iterator<Item = Span> {
    let tries = trace.tries.iter().enumerate().map(|(number, of)| of_try(trace, number, of));
    std::iter::once(of_request(trace)).chain(tries)
}

fn of_request(trace: &Trace) -> Span {
    let mut attributes = Attributes::default();
    let method = trace.asked.as_ref().map_or("HTTP", |asked| method(&asked.method));
    let mut name = method.to_owned();
    if let Some(asked) = &trace.asked {
        attributes.asked(asked);
        attributes.text("url.path", &asked.path);
        attributes.text("url.scheme", asked.scheme);
        attributes.authority(&asked.authority);
        attributes.text("network.protocol.version", asked.version);
        if let Some(agent) = &asked.user_agent {
            attributes.text("user_agent.original", agent);
        }
        if is_answered(trace) {
            name = call(&asked.path).to_owned();
        }
    }
    if let Some((route, path)) = &trace.route {
        attributes.text("http.route", &**path);
        attributes.text("witgate.route", &**route);
        if !is_answered(trace) {
            name = format!("{method} {path}");
        }
    }
    if let Some(client) = trace.client {
        attributes.text("client.address", client.ip().to_canonical().to_string());
        attributes.number("client.port", client.port().into());
    }
    if let Some(listener) = &trace.listener {
        attributes.text("witgate.listener", &**listener);
    }
    if let Some(upstream) = &trace.upstream {
        attributes.text("witgate.upstream", upstream.as_str());
    }
    attributes.call(trace);
    if let Some(status) = trace.status {
        attributes.number("http.response.status_code", status.into());
    }
    if let Some(reason) = trace.reason {
        attributes.text("witgate.reason", reason);
    }
    // What a client did wrong is no error of the server.
    let code = trace.grpc_status.and_then(grpc::Code::of);
    let failed_call = trace.is_call && code.is_some_and(grpc::Code::is_servers_fault);
    let error = match (trace.cut, trace.status) {
        (Some(Fault::Endpoint), _) => Some(trace.reason.unwrap_or("upstream-broke-off").to_owned()),
        (Some(Fault::Local), _) => Some(trace.reason.unwrap_or("ended-by-gateway").to_owned()),
        (_, Some(status @ 500..)) => Some(trace.reason.map_or_else(|| status.to_string(), str::to_owned)),
        _ => trace.grpc_status.filter(|_| failed_call).map(grpc_status),
    };
    if trace.cut == Some(Fault::Client) {
        attributes.flag("witgate.client_left", true);
    }
    let parent = trace.parent.map(|parent| (parent.get(), REMOTE));
    let links = trace.link.iter().map(link).collect();
    Span {
        links,
        ..span(trace, &trace.own, parent, Kind::Server, name, (Duration::ZERO, trace.took), attributes, error)
    }
}

fn of_try(trace: &Trace, number: usize, of: &Try) -> Span {
    let mut attributes = Attributes::default();
    let mut name = "HTTP".to_owned();
    let Try { endpoint, began, took, ended, .. } = *of;
    if let Some(asked) = &trace.asked {
        attributes.asked(asked);
        let scheme = if trace.secured { "https" } else { "http" };
        attributes.text("url.full", format!("{scheme}://{}{}", plain(endpoint), asked.path));
        name = match is_answered(trace) {
            true => call(&asked.path).to_owned(),
            false => method(&asked.method).to_owned(),
        };
    }
    let address = endpoint.ip().to_canonical().to_string();
    for [address_of, port_of] in
        [["server.address", "server.port"], ["network.peer.address", "network.peer.port"]]
    {
        attributes.text(address_of, &*address);
        attributes.number(port_of, endpoint.port().into());
    }
    if let Some(upstream) = &trace.upstream {
        attributes.text("witgate.upstream", upstream.as_str());
    }
    if number > 0 {
        attributes.number("http.request.resend_count", number as i64);
    }
    let error = match ended {
        Ended::Cancelled => {
            attributes.flag("witgate.cancelled", true);
            None
        }
        Ended::Answered(status) => {
            attributes.number("http.response.status_code", status.into());
            (status >= 400).then(|| status.to_string())
        }
        Ended::Failed(reason) => Some(reason.to_owned()),
    };
    // That of the last answer is the call's.
    let is_last = number + 1 == trace.tries.len() && matches!(ended, Ended::Answered(_));
    if is_last {
        attributes.call(trace);
    }
    let failed = trace.grpc_status.filter(|code| trace.is_call && is_last && *code != 0);
    let error = error.or_else(|| failed.map(grpc_status));
    let own = trace.own.with_span(of.span);
    let parent = Some((trace.own.span.get(), 0));
    let times = (began, began + took.unwrap_or_default());
    span(trace, &own, parent, Kind::Client, name, times, attributes, error)
}

#[expect(clippy::too_many_arguments, reason = "it is what spans have in common")]
fn span(
    trace: &Trace,
    own: &TraceParent,
    parent: Option<(u64, u32)>,
    kind: Kind,
    name: String,
    (start, end): (Duration, Duration),
    mut attributes: Attributes,
    error: Option<String>,
) -> Span {
    let code = if error.is_some() { Code::Error } else { Code::Unset };
    if let Some(error) = error {
        attributes.text("error.type", error);
    }
    let (parent, remote) = parent.unzip();
    Span {
        trace_id: own.trace.get().to_be_bytes().into(),
        span_id: own.span.get().to_be_bytes().into(),
        trace_state: trace.state.clone(),
        parent_span_id: parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
        name,
        kind: kind.into(),
        start: nanoseconds(trace.at + start),
        end: nanoseconds(trace.at + end),
        attributes: attributes.0,
        links: Vec::new(),
        status: (code == Code::Error).then(|| Status { code: code.into() }),
        flags: u32::from(own.flags()) | KNOWN | remote.unwrap_or_default(),
    }
}

fn link(to: &TraceParent) -> Link {
    Link {
        trace_id: to.trace.get().to_be_bytes().into(),
        span_id: to.span.get().to_be_bytes().into(),
        flags: u32::from(to.flags()) | KNOWN | REMOTE,
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// As spans are named. What a client has made up must not be a name.
fn method(method: &Method) -> &'static str {
    match KnownMethod::of(method) {
        KnownMethod::Other => "HTTP",
        known => known.as_str(),
    }
}

/// Whether it is a call that an endpoint has, so that spans may be named by it: strangers make up others without end.
fn is_answered(trace: &Trace) -> bool {
    let is_known = trace.grpc_status.is_some_and(|code| code != grpc::Code::Unimplemented as u32);
    // What the gateway says of a call says nothing of its name.
    trace.is_call && trace.route.is_some() && trace.reason.is_none() && is_known
}

/// `package.Service/Method`.
fn call(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn grpc_status(code: u32) -> String {
    grpc::Code::of(code).map_or_else(|| code.to_string(), |code| code.as_str().to_owned())
}

/// Without a scope, which says something on this machine only.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[derive(Default)]
pub(super) struct Attributes(pub Vec<Attribute>);

impl Attributes {
    pub(super) fn text(&mut self, key: &str, text: impl Into<String>) {
        self.add(key, Value::Text(text.into()));
    }

    fn number(&mut self, key: &str, number: i64) {
        self.add(key, Value::Number(number));
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.add(key, Value::Flag(flag));
    }

    fn add(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(Attribute { key: key.to_owned(), value });
    }

    fn asked(&mut self, asked: &Asked) {
        let known = KnownMethod::of(&asked.method);
        self.text("http.request.method", known.as_str());
        if known == KnownMethod::Other {
            self.text("http.request.method_original", Asked::cut(asked.method.as_str()));
        }
    }

    fn authority(&mut self, authority: &str) {
        if authority.is_empty() {
            return;
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (authority, None),
        };
        self.text("server.address", host.trim_start_matches('[').trim_end_matches(']'));
        if let Some(port) = port {
            self.number("server.port", port);
        }
    }

    fn call(&mut self, trace: &Trace) {
        if !trace.is_call {
            return;
        }
        self.text("rpc.system.name", "grpc");
        if let Some(asked) = &trace.asked {
            self.text("rpc.method", call(&asked.path));
        }
        if let Some(code) = trace.grpc_status {
            self.text("rpc.status_code", grpc_status(code));
        }
    }
}
