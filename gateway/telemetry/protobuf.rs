//! The binary format of Prometheus, the one that has native histograms: each metric is a message of
//! `io.prometheus.client` (metrics.proto of prometheus/client_model), with its length before it.

use prost::Message;

use super::{
    Latencies, Native,
    exposition::Value,
    histogram::SCHEMA,
    names::{Kind, Metric as Named},
    text::label,
};

/// What is written so far. A metric is written when it is complete, which is when the next one begins.
#[derive(Debug, Default)]
pub(super) struct Binary {
    written: Vec<u8>,
    open: Option<MetricFamily>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// Of a counter or a gauge.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    /// The first is a count, each other one by how much it is more than the one before.
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

/// Buckets that follow each other. The offset of the first span is the index of a bucket, that of each other one is how
/// many empty buckets are before it.
#[derive(Clone, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

impl Binary {
    pub(super) fn family(&mut self, metric: &Named) {
        self.close();
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        self.open = Some(MetricFamily {
            name: Some(metric.name.to_owned()),
            help: Some(metric.help.to_owned()),
            kind: Some(kind.into()),
            metric: Vec::new(),
        });
    }

    pub(super) fn series(&mut self, metric: &Named, labels: &[&str], value: Value) {
        let number = Number {
            value: Some(match value {
                Value::Whole(value) => value as f64,
                Value::Real(value) => value,
            }),
        };
        let mut series = Metric { label: pairs(metric, labels), ..Metric::default() };
        match metric.kind {
            Kind::Counter => series.counter = Some(number),
            Kind::Gauge | Kind::Histogram => series.gauge = Some(number),
        }
        self.push(series);
    }

    pub(super) fn histogram(
        &mut self,
        metric: &Named,
        labels: &[&str],
        latencies: &Latencies,
        native: &Native,
    ) {
        let histogram = Some(Histogram::of(latencies, native));
        self.push(Metric { label: pairs(metric, labels), histogram, ..Metric::default() });
    }

    fn push(&mut self, series: Metric) {
        if let Some(open) = &mut self.open {
            open.metric.push(series);
        }
    }

    /// A metric without series is none.
    fn close(&mut self) {
        if let Some(open) = self.open.take().filter(|open| !open.metric.is_empty()) {
            self.written.extend(open.encode_length_delimited_to_vec());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.written
    }
}

impl Histogram {
    /// Both are read while answers are counted, so that one may know of an answer that the other one does not. A reader
    /// believes none whose native buckets are not as many as it says, nor one with more in a classic bucket.
    fn of(latencies: &Latencies, native: &Native) -> Self {
        let (count, mut below) = (native.count(), 0);
        let bucket = latencies.buckets().into_iter().map(|(bound, in_it)| {
            below = count.min(below + in_it);
            Bucket { cumulative_count: Some(below), upper_bound: Some(bound) }
        });
        let mut histogram = Self {
            sample_count: Some(count),
            sample_sum: Some(latencies.sum.as_secs_f64()),
            bucket: bucket.collect(),
            schema: Some(SCHEMA),
            zero_threshold: Some(Native::threshold()),
            zero_count: Some(native.zeros()),
            ..Self::default()
        };
        let (mut next, mut before) = (0, 0);
        for run in native.runs() {
            let (offset, length) = (Some(run.first - next), Some(run.counts.len() as u32));
            histogram.positive_span.push(BucketSpan { offset, length });
            next = run.first + run.counts.len() as i32;
            for count in run.counts.iter().map(|count| *count as i64) {
                histogram.positive_delta.push(count - before);
                before = count;
            }
        }
        if histogram.positive_span.is_empty() {
            // What has no span at all is taken for a classic histogram.
            histogram.positive_span.push(BucketSpan { offset: Some(0), length: Some(0) });
        }
        histogram
    }
}

fn pairs(metric: &Named, labels: &[&str]) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, &&str)| LabelPair {
        name: Some((*name).to_owned()),
        value: Some(label(value).into_owned()),
    };
    metric.labels.iter().zip(labels).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::{Took, UpstreamMetrics, names};

    fn read(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
        }
        families
    }

    #[test]
    fn metrics_stand_one_after_the_other_and_those_without_series_do_not() {
        let mut binary = Binary::default();
        binary.family(&names::REQUESTS);
        binary.series(&names::REQUESTS, &["orders", "2xx"], Value::Whole(7));
        binary.series(&names::REQUESTS, &["a\nb", "5xx"], Value::Whole(0));
        binary.family(&names::TRIES);
        binary.family(&names::SOURCE_AGE);
        binary.series(&names::SOURCE_AGE, &["orders", "main", "orders"], Value::Real(1.5));
        let families = read(&binary.finish());
        let named: Vec<_> =
            families.iter().map(|family| (family.name(), family.kind(), family.metric.len())).collect();
        let (counter, gauge) = (MetricType::Counter, MetricType::Gauge);
        assert_eq!(named, [("witgate_requests_total", counter, 2), ("witgate_source_age_seconds", gauge, 1)]);
        let [first, second] = &families[0].metric[..] else { panic!("{families:?}") };
        assert_eq!(first.counter.as_ref().unwrap().value(), 7.0);
        let labels: Vec<_> = second.label.iter().map(|pair| (pair.name(), pair.value())).collect();
        assert_eq!(labels, [("upstream", "a\\nb"), ("code", "5xx")]);
        assert_eq!(families[1].metric[0].gauge.as_ref().unwrap().value(), 1.5);
    }

    #[test]
    fn a_histogram_has_both_kinds_of_buckets() {
        let metrics = UpstreamMetrics::new(1);
        for millis in [0, 1_000, 1_000, 1_050, 4_000] {
            metrics.answered(0, 200, Took::of(Duration::from_millis(millis)));
        }
        let histogram = Histogram::of(&metrics.counts().latencies, &metrics.native());
        assert_eq!((histogram.sample_count(), histogram.sample_sum()), (5, 7.05));
        let below: Vec<_> = histogram.bucket.iter().map(|bucket| bucket.cumulative_count()).collect();
        assert_eq!(below, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 5, 5, 5]);
        assert_eq!((histogram.schema(), histogram.zero_count()), (3, 1));
        let spans: Vec<_> =
            histogram.positive_span.iter().map(|span| (span.offset(), span.length())).collect();
        assert_eq!((spans, histogram.positive_delta), (vec![(0, 2), (14, 1)], vec![2, -1, 0]));
    }

    #[test]
    fn a_histogram_without_answers_is_a_native_one_and_one_is_never_at_odds_with_itself() {
        let empty = Histogram::of(&Latencies::default(), &Native::default());
        assert_eq!((empty.sample_count(), empty.positive_span.len()), (0, 1));
        let metrics = UpstreamMetrics::new(1);
        metrics.answered(0, 200, Took::of(Duration::from_millis(1)));
        let behind = Histogram::of(&metrics.counts().latencies, &Native::default());
        assert!(behind.bucket.iter().all(|bucket| bucket.cumulative_count() == 0), "{behind:?}");
    }
}
