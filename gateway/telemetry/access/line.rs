//! How an entry becomes a line.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use http::HeaderValue;

use super::entry::Entry;
use crate::telemetry::{rfc3339, text::shown};

/// A longer value is cut.
const LONGEST: usize = 8_192;

enum Value<'a> {
    Missing,
    Text(Cow<'a, str>),
    Number(u64),
}

/// An object with every field; what is not known is `null`.
pub(super) fn json(entry: &Entry) -> String {
    let mut line = String::with_capacity(640);
    fields(entry, |name, value| {
        line.push(if line.is_empty() { '{' } else { ',' });
        // A string takes all that is written to it.
        let _ = match value {
            Value::Missing => write!(line, "\"{name}\":null"),
            Value::Number(number) => write!(line, "\"{name}\":{number}"),
            // Text never fails to become JSON.
            Value::Text(text) => {
                write!(line, "\"{name}\":{}", serde_json::to_string(cut(&text)).unwrap_or_default())
            }
        };
    });
    line.push_str("}\n");
    line
}

/// The first five without their names, and then what is known with it.
pub(super) fn text(entry: &Entry) -> String {
    let mut line = String::with_capacity(320);
    let mut place = 0;
    fields(entry, |name, value| {
        let named = place >= NAMELESS;
        place += 1;
        if named && matches!(value, Value::Missing) {
            return;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        if named {
            line.push_str(name);
            line.push('=');
        }
        let _ = match value {
            Value::Missing => write!(line, "-"),
            Value::Number(number) => write!(line, "{number}"),
            Value::Text(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                write!(line, "{}", shown(format_args!("{:?}", cut(&text))))
            }
            Value::Text(text) => write!(line, "{}", shown(&text)),
        };
    });
    line.push('\n');
    line
}

/// Fields of the text whose place says what they are.
const NAMELESS: usize = 5;

fn fields<'a>(entry: &'a Entry, mut field: impl FnMut(&'static str, Value<'a>)) {
    let text =
        |text: &'a Option<String>| text.as_deref().map_or(Value::Missing, |text| Value::Text(text.into()));
    let header = |value: &'a Option<HeaderValue>| match value {
        Some(value) => Value::Text(String::from_utf8_lossy(value.as_bytes())),
        None => Value::Missing,
    };
    let number = |number: Option<u64>| number.map_or(Value::Missing, Value::Number);
    let shared = |text: Option<&'a str>| text.map_or(Value::Missing, |text| Value::Text(text.into()));
    field("start_time", Value::Text(rfc3339(entry.at).into()));
    field("method", text(&entry.method));
    field("path", text(&entry.path));
    field("protocol", shared(Some(entry.protocol)));
    field("response_code", Value::Number(entry.status.into()));
    field("response_flags", shared(entry.failure.and_then(|failure| failure.flag)));
    field("response_code_details", shared(entry.failure.map(|failure| failure.reason)));
    field("upstream_transport_failure_reason", text(&entry.transport_failure));
    field("bytes_received", Value::Number(entry.received.get()));
    field("bytes_sent", Value::Number(entry.sent));
    field("duration", Value::Number(millis(entry.took)));
    field("upstream_service_time", number(entry.endpoint_took.map(millis)));
    field(
        "upstream_host",
        entry.endpoint.map_or(Value::Missing, |address| Value::Text(address.to_string().into())),
    );
    field("upstream_cluster", shared(entry.upstream.as_ref().map(|name| name.as_str())));
    field("attempts", Value::Number(entry.attempts.into()));
    field("downstream_remote_address", Value::Text(entry.client.to_string().into()));
    field("x_forwarded_for", header(&entry.forwarded_for));
    field("user_agent", header(&entry.user_agent));
    field("request_id", header(&entry.request_id));
    let trace = entry.trace.map(|trace| format!("{trace:032x}"));
    field("trace_id", trace.map_or(Value::Missing, |trace| Value::Text(trace.into())));
    field("authority", text(&entry.authority));
    field("requested_server_name", text(&entry.server_name));
    field("listener", shared(Some(&entry.listener)));
    field("route_name", shared(entry.route.as_deref()));
    field("grpc_status", number(entry.grpc_status.map(u64::from)));
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}
