//! What `Accept` asks for. Which format of metrics a scraper gets: that which it likes best (RFC 9110, section 12.5.1),
//! and text if it likes none or does not say. And whether an answer is to go on.

use hyper::{HeaderMap, header::ACCEPT};

use crate::telemetry::Format;

/// A format and how it is asked for.
struct Offer {
    format: Format,
    kind: &'static str,
    subtype: &'static str,
    /// What a range may say besides, to be more exact. One that says something else of these does not mean it.
    parameters: &'static [(&'static str, &'static str)],
}

/// Where nothing else decides, the earlier one is taken.
const OFFERS: [Offer; 4] = [
    Offer { format: Format::Text, kind: "text", subtype: "plain", parameters: &[("version", "0.0.4")] },
    Offer {
        format: Format::OpenMetrics,
        kind: "application",
        subtype: "openmetrics-text",
        parameters: &[("version", "1.0.0")],
    },
    Offer {
        format: Format::EarlyOpenMetrics,
        kind: "application",
        subtype: "openmetrics-text",
        parameters: &[("version", "0.0.1")],
    },
    Offer {
        format: Format::Protobuf,
        kind: "application",
        subtype: "vnd.google.protobuf",
        parameters: &[("proto", "io.prometheus.client.MetricFamily"), ("encoding", "delimited")],
    },
];

/// One media range of the header.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    /// Without that of the quality.
    parameters: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    quality: u16,
}

pub(super) fn format(headers: &HeaderMap) -> Format {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges: Vec<Range<'_>> = lines.flat_map(|line| line.split(',')).filter_map(Range::read).collect();
    let mut best: Option<(Liking, Format)> = None;
    for offer in &OFFERS {
        if let Some(liking) = liking(offer, &ranges)
            && best.as_ref().is_none_or(|(other, _)| liking > *other)
        {
            best = Some((liking, offer.format));
        }
    }
    best.map_or(Format::Text, |(_, format)| format)
}

/// Whether an answer that goes on is asked for, by its name.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(Range::read).any(|range| {
        let named =
            range.kind.eq_ignore_ascii_case("text") && range.subtype.eq_ignore_ascii_case("event-stream");
        named && range.quality > 0
    })
}

/// How much an offer is liked: by the quality, then by how exactly it was named, then by being named earlier.
type Liking = (u16, u8, std::cmp::Reverse<usize>);

fn liking(offer: &Offer, ranges: &[Range<'_>]) -> Option<Liking> {
    let suits = ranges.iter().enumerate().filter_map(|(place, range)| {
        Some((range.exactness(offer)?, std::cmp::Reverse(place), range.quality))
    });
    // The most exact range decides, also when it says no.
    let (exactness, place, quality) = suits.max()?;
    (quality > 0).then_some((quality, exactness, place))
}

impl<'a> Range<'a> {
    /// None for what is no media range.
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let mut range = Self { kind, subtype, parameters: Vec::new(), quality: 1_000 };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match name.trim() {
                name if name.eq_ignore_ascii_case("q") => range.quality = quality(value)?,
                name => range.parameters.push((name, value)),
            }
        }
        Some(range)
    }

    /// How exactly it names the offer; none if it does not.
    fn exactness(&self, offer: &Offer) -> Option<u8> {
        let kind = self.kind.eq_ignore_ascii_case(offer.kind);
        match (self.kind, self.subtype) {
            ("*", "*") => Some(0),
            (_, "*") if kind => Some(1),
            (_, subtype) if kind && subtype.eq_ignore_ascii_case(offer.subtype) => {
                // Parameters of others, like that which says how names of metrics may be escaped, change nothing here.
                let said = self.parameters.iter().filter_map(|(name, value)| {
                    let known =
                        offer.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
                    Some(known.1 == *value)
                });
                said.map(|same| same.then_some(1)).sum::<Option<u8>>().map(|said| 2 + said)
            }
            _ => None,
        }
    }
}

/// In thousandths.
fn quality(text: &str) -> Option<u16> {
    let quality: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&quality).then_some((quality * 1_000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn check(accept: &[&'static str], expected: Format) {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        assert_eq!(format(&headers), expected, "{accept:?}");
    }

    #[test]
    fn whoever_does_not_say_gets_text() {
        for accept in [&[][..], &["*/*"], &["text/html"], &["application/json"], &[""], &["nonsense, ;q=1"]] {
            check(accept, Format::Text);
        }
    }

    #[test]
    fn scrapers_get_what_they_like_best() {
        // Prometheus from 3.0, with and without the binary format; before 2.50; from 2.5; and its agents.
        check(
            &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
               application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
               text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            Format::OpenMetrics,
        );
        check(
            &[
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
               application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ],
            Format::Protobuf,
        );
        check(
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
               text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ],
            Format::OpenMetrics,
        );
        check(
            &["application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
            Format::EarlyOpenMetrics,
        );
        check(&["text/plain;version=0.0.4;q=1,*/*;q=0.1"], Format::Text);
        check(&["text/plain"], Format::Text);
        check(&["application/openmetrics-text"], Format::OpenMetrics);
    }

    #[test]
    fn the_binary_format_is_for_who_names_it_as_it_is() {
        check(&["application/vnd.google.protobuf"], Format::Protobuf);
        check(&["application/vnd.google.protobuf;encoding=delimited, text/plain;q=0.9"], Format::Protobuf);
        check(&["application/vnd.google.protobuf;encoding=text, text/plain;q=0.1"], Format::Text);
        check(&["application/vnd.google.protobuf;proto=a.Thing;encoding=delimited"], Format::Text);
        check(&["application/vnd.google.protobuf;q=0, */*"], Format::Text);
        // By `*`, a text.
        check(&["application/*"], Format::OpenMetrics);
    }

    #[test]
    fn events_are_sent_to_who_names_them() {
        let wants = |accept: &'static str| {
            wants_events(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert!(wants("text/event-stream") && wants("application/json;q=0.5, Text/Event-Stream"));
        assert!(!wants("*/*") && !wants("text/*") && !wants("text/event-stream;q=0"));
        assert!(!wants_events(&HeaderMap::new()));
    }

    #[test]
    fn qualities_decide() {
        check(&["application/openmetrics-text;q=0.2, text/plain;q=0.7"], Format::Text);
        check(&["text/plain;q=0.2, application/openmetrics-text;q=0.7"], Format::OpenMetrics);
        check(&["text/plain;q=0.2", "application/openmetrics-text;q=0.7"], Format::OpenMetrics);
        check(&["application/openmetrics-text;q=0, */*"], Format::Text);
        check(&["text/plain;q=0, */*;q=0.1"], Format::OpenMetrics);
        check(&["text/*;q=0.3, application/*;q=0.4"], Format::OpenMetrics);
        check(&["*/*, application/openmetrics-text;version=1.0.0;q=0.5"], Format::Text);
        check(&["Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=1"], Format::OpenMetrics);
        check(&["application/openmetrics-text, text/plain"], Format::OpenMetrics);
        check(&["text/plain, application/openmetrics-text"], Format::Text);
    }

    #[test]
    fn versions_that_are_not_written_here_are_not_promised() {
        check(&["application/openmetrics-text;version=2.0.0, text/plain;q=0.1"], Format::Text);
        check(&["text/plain;version=1.0.0, application/openmetrics-text;q=0.1"], Format::OpenMetrics);
        check(&["text/plain;version=0.0.4;q=high, application/openmetrics-text;q=0.1"], Format::OpenMetrics);
    }
}
