//! How metrics are written: the text format 0.0.4 of Prometheus, and OpenMetrics.
//!
//! Names, labels and values are the same in both, so that a scraper that changes from one to the other goes on with
//! the same series.

use std::fmt::Write as _;

use super::{
    Latencies,
    names::{Kind, Metric},
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
}

impl Format {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::EarlyOpenMetrics => "application/openmetrics-text; version=0.0.1; charset=utf-8",
        }
    }
}

/// A text that grows metric by metric.
pub struct Exposition {
    text: String,
    format: Format,
}

/// The series of one metric.
pub struct Family<'a> {
    text: &'a mut String,
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
        Self { text: String::new(), format }
    }

    /// Begins a metric. Each may be begun once.
    pub fn family<'a>(&'a mut self, metric: &'a Metric) -> Family<'a> {
        // OpenMetrics names a counter without the ending that its series have.
        let name = match self.format {
            Format::Text => metric.name,
            Format::OpenMetrics | Format::EarlyOpenMetrics => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
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
        Family { text: &mut self.text, metric }
    }

    pub fn finish(mut self) -> String {
        if self.format != Format::Text {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// Writes one series. The values of labels stand in the order of the metric's labels.
    pub fn series<const N: usize>(&mut self, labels: [&str; N], value: impl Into<Value>) {
        self.line("", None, &labels, value.into());
    }

    /// Writes one histogram.
    pub fn histogram<const N: usize>(&mut self, labels: [&str; N], latencies: &Latencies) {
        let mut below = 0;
        for (bound, count) in latencies.buckets() {
            below += count;
            self.line("_bucket", Some(bound), &labels, Value::Whole(below));
        }
        self.line("_sum", None, &labels, Value::Real(latencies.sum.as_secs_f64()));
        self.line("_count", None, &labels, Value::Whole(below));
    }

    fn line(&mut self, ending: &str, bound: Option<f64>, labels: &[&str], value: Value) {
        self.text.push_str(self.metric.name);
        self.text.push_str(ending);
        let mut open = '{';
        if let Some(bound) = bound {
            self.text.push_str("{le=\"");
            real(self.text, bound);
            self.text.push('"');
            open = ',';
        }
        for (name, value) in self.metric.labels.iter().zip(labels) {
            self.text.push(open);
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(self.text, &label(value));
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
            Value::Real(value) => real(self.text, value),
        }
        self.text.push('\n');
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
    use crate::telemetry::{UpstreamMetrics, names};

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        let mut requests = exposition.family(&names::REQUESTS);
        requests.series(["orders", "2xx"], 7u64);
        requests.series(["a\\b\"c\nd", "5xx"], 0u64);
        exposition.family(&names::SOURCE_AGE).series(["orders", "main", "orders"], 1.0);
        exposition.family(&names::READY).series([], 1u64);
        exposition.finish()
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
        metrics.answered(0, 200, Duration::from_millis(1));
        metrics.answered(0, 200, Duration::from_millis(3));
        metrics.answered(0, 200, Duration::from_secs(20));
        let mut exposition = Exposition::new(Format::Text);
        exposition.family(&names::REQUEST_DURATION).histogram(["a"], &metrics.counts().latencies);
        let text = exposition.finish();
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
