//! How metrics are written: the text format 0.0.4 of Prometheus, OpenMetrics, and Prometheus' binary format, which alone
//! has native histograms.
//!
//! Names, labels and values are the same in all, so that a scraper that changes from one to the other goes on with
//! the same series.

use std::fmt::Write as _;

use super::{
    Latencies, Native,
    names::{Kind, Metric},
    protobuf::Binary,
    text::label,
};

/// The formats that scrapers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What Prometheus has always read, and everything that reads its format.
    Text,
    /// Of version 1.0.0.
    OpenMetrics,
    /// The draft before it, by its number; nothing that is written here differs.
    EarlyOpenMetrics,
    /// Messages of `io.prometheus.client`.
    Protobuf,
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::EarlyOpenMetrics => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Metrics that are written one after the other.
pub struct Exposition(Writer);

enum Writer {
    Text(Text),
    Binary(Binary),
}

struct Text {
    text: String,
    format: Format,
}

/// The series of one metric.
pub struct Family<'a> {
    writer: &'a mut Writer,
    metric: &'a Metric,
}

/// What a series says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Self(match format {
            Format::Protobuf => Writer::Binary(Binary::default()),
            format => Writer::Text(Text { text: String::new(), format }),
        })
    }

    /// Begins a metric. Each may be begun once.
    pub fn family<'a>(&'a mut self, metric: &'a Metric) -> Family<'a> {
        match &mut self.0 {
            Writer::Text(text) => text.family(metric),
            Writer::Binary(binary) => binary.family(metric),
        }
        Family { writer: &mut self.0, metric }
    }

    pub fn finish(self) -> Vec<u8> {
        match self.0 {
            Writer::Text(text) => text.finish().into_bytes(),
            Writer::Binary(binary) => binary.finish(),
        }
    }
}

impl Family<'_> {
    /// Writes one series. The values of labels stand in the order of the metric's labels.
    pub fn series<const N: usize>(&mut self, labels: [&str; N], value: impl Into<Value>) {
        match self.writer {
            Writer::Text(text) => text.line(self.metric, "", None, &labels, value.into()),
            Writer::Binary(binary) => binary.series(self.metric, &labels, value.into()),
        }
    }

    /// Writes one histogram, whose native buckets only the binary format has.
    pub fn histogram<const N: usize>(&mut self, labels: [&str; N], latencies: &Latencies, native: &Native) {
        match self.writer {
            Writer::Text(text) => text.histogram(self.metric, &labels, latencies),
            Writer::Binary(binary) => binary.histogram(self.metric, &labels, latencies, native),
        }
    }
}

impl Text {
    fn family(&mut self, metric: &Metric) {
        // OpenMetrics names a counter without the ending that its series have.
        let name = match self.format {
            Format::OpenMetrics | Format::EarlyOpenMetrics => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
            Format::Text | Format::Protobuf => metric.name,
        };
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Help is ours: it has no quotes, line feeds or backslashes to escape, which the formats do differently.
        let help = metric.help;
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn histogram(&mut self, metric: &Metric, labels: &[&str], latencies: &Latencies) {
        let mut below = 0;
        for (bound, count) in latencies.buckets() {
            below += count;
            self.line(metric, "_bucket", Some(bound), labels, Value::Whole(below));
        }
        self.line(metric, "_sum", None, labels, Value::Real(latencies.sum.as_secs_f64()));
        self.line(metric, "_count", None, labels, Value::Whole(below));
    }

    fn line(&mut self, metric: &Metric, ending: &str, bound: Option<f64>, labels: &[&str], value: Value) {
        self.text.push_str(metric.name);
        self.text.push_str(ending);
        let mut open = '{';
        if let Some(bound) = bound {
            self.text.push_str("{le=\"");
            real(&mut self.text, bound);
            self.text.push('"');
            open = ',';
        }
        for (name, value) in metric.labels.iter().zip(labels) {
            self.text.push(open);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, &label(value));
            self.text.push('"');
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        self.text.push(' ');
        match value {
            Value::Whole(value) => {
                let _ = write!(self.text, "{value}");
            }
            Value::Real(value) => real(&mut self.text, value),
        }
        self.text.push('\n');
    }

    fn finish(mut self) -> String {
        if self.format != Format::Text {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// With a point always: OpenMetrics wants it in bounds, and a series must not change its name between formats.
fn real(text: &mut String, value: f64) {
    if value.is_infinite() {
        text.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(text, "{value:?}");
    }
}

/// In both formats these three would end a value or a line. Other characters that are not what they look like are
/// escaped before, by [`label`].
fn escape(text: &mut String, value: &str) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::{Took, UpstreamMetrics, names};

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        let mut requests = exposition.family(&names::REQUESTS);
        requests.series(["orders", "2xx"], 7u64);
        requests.series(["a\\b\"c\nd", "5xx"], 0u64);
        exposition.family(&names::SOURCE_AGE).series(["orders", "main", "orders"], 1.0);
        exposition.family(&names::READY).series([], 1u64);
        String::from_utf8(exposition.finish()).unwrap()
    }

    #[test]
    fn text_names_a_counter_as_its_series_and_ends_with_them() {
        assert_eq!(
            written(Format::Text),
            r#"# HELP witgate_requests_total Answers of an upstream, or of the gateway for it, by class of status
# TYPE witgate_requests_total counter
witgate_requests_total{upstream="orders",code="2xx"} 7
witgate_requests_total{upstream="a\\b\"c\\nd",code="5xx"} 0
# HELP witgate_source_age_seconds Time since the registry answered last; 0 while it does, absent while it never has
# TYPE witgate_source_age_seconds gauge
witgate_source_age_seconds{upstream="orders",registry="main",service="orders"} 1.0
# HELP witgate_ready 1 while the gateway wants traffic
# TYPE witgate_ready gauge
witgate_ready 1
"#
        );
    }

    #[test]
    fn openmetrics_differs_in_the_names_of_counters_and_in_its_end() {
        let expected = written(Format::Text)
            .replace("HELP witgate_requests_total", "HELP witgate_requests")
            .replace("TYPE witgate_requests_total", "TYPE witgate_requests");
        assert_eq!(written(Format::OpenMetrics), expected + "# EOF\n");
        assert_eq!(written(Format::EarlyOpenMetrics), written(Format::OpenMetrics));
    }

    #[test]
    fn buckets_of_a_histogram_hold_those_below() {
        let metrics = UpstreamMetrics::new(1);
        metrics.answered(0, 200, Took::of(Duration::from_millis(1)));
        metrics.answered(0, 200, Took::of(Duration::from_millis(3)));
        metrics.answered(0, 200, Took::of(Duration::from_secs(20)));
        let mut exposition = Exposition::new(Format::Text);
        exposition.family(&names::REQUEST_DURATION).histogram(
            ["a"],
            &metrics.counts().latencies,
            &metrics.native(),
        );
        let text = String::from_utf8(exposition.finish()).unwrap();
        for line in [
            r#"witgate_request_duration_seconds_bucket{le="0.0005",upstream="a"} 0"#,
            r#"witgate_request_duration_seconds_bucket{le="0.001",upstream="a"} 1"#,
            r#"witgate_request_duration_seconds_bucket{le="0.005",upstream="a"} 2"#,
            r#"witgate_request_duration_seconds_bucket{le="10.0",upstream="a"} 2"#,
            r#"witgate_request_duration_seconds_bucket{le="+Inf",upstream="a"} 3"#,
            r#"witgate_request_duration_seconds_count{upstream="a"} 3"#,
            r#"witgate_request_duration_seconds_sum{upstream="a"} 20.004"#,
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn help_needs_no_escaping() {
        for metric in names::ALL {
            assert!(!metric.help.contains(['"', '\\', '\n']), "{}", metric.name);
        }
    }
}
