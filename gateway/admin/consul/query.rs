//! What a request says beside its path, and lengths of time as programs in Go write them.

use std::time::Duration;

use crate::config;

/// How long an answer is held back where nothing else is said, and at most, as Consul does it.
const WAIT: Duration = Duration::from_secs(300);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The query of a request that reads.
#[derive(Debug, Default, PartialEq)]
pub(in crate::admin) struct Query {
    /// Only with all of these tags.
    pub tags: Vec<String>,
    pub passing: bool,
    /// The index that the client has, and how long it waits for another one.
    pub index: Option<u64>,
    pub wait: Duration,
}

impl Query {
    /// The error says what cannot be answered: whoever filters would take all for what it asked for.
    pub(super) fn read(query: Option<&str>, config: &config::Consul) -> Result<Self, String> {
        let mut read = Self { wait: WAIT, ..Self::default() };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let wrong = |what: &str| Err(format!("{name}: {value:?} {what}"));
            match &*name {
                "tag" => read.tags.push(value.into_owned()),
                "passing" => read.passing = !matches!(&*value, "0" | "false"),
                "index" => match value.parse() {
                    // As if it was not there.
                    Ok(0) => read.index = None,
                    Ok(index) => read.index = Some(index),
                    Err(_) => return wrong("is no index"),
                },
                "wait" => match duration(&value) {
                    Some(wait) => read.wait = wait.min(LONGEST_WAIT),
                    None => return wrong("is no time like 10s or 5m"),
                },
                "dc" if !value.is_empty() && value != config.datacenter => {
                    return wrong(&format!("is not known here, {:?} is", config.datacenter));
                }
                "filter" | "node-meta" if !value.is_empty() => {
                    return wrong("is not spoken here: filter what you get, by `tag` or yourself");
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

/// The first value of this name.
pub(super) fn value(query: Option<&str>, name: &str) -> Option<String> {
    let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    query.into_iter().find(|(other, _)| other == name).map(|(_, value)| value.into_owned())
}

/// `1m30s`, `500ms`, `1.5h` or `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let unit_ends = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, after) = unit.split_at(unit_ends);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(query: &str) -> Result<Query, String> {
        Query::read(Some(query), &config::Consul { from: Vec::new(), datacenter: "dc1".into() })
    }

    #[test]
    fn times_are_written_as_in_go() {
        for (text, millis) in
            [("10s", 10_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("250ms", 250)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1d", "1s x", "..s", "1e9s", "9999999999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_read_or_told() {
        let query = read("passing&tag=a&tag=b&index=7&wait=10s&dc=dc1&stale&near=_agent").unwrap();
        let wait = Duration::from_secs(10);
        let tags = ["a", "b"].map(str::to_owned).to_vec();
        assert_eq!(query, Query { tags, passing: true, index: Some(7), wait });
        assert_eq!(read("index=0&passing=false").unwrap(), Query { wait: WAIT, ..Query::default() });
        assert_eq!(read("wait=1h").unwrap().wait, LONGEST_WAIT);
        for (bad, why) in [
            ("index=x", "index: \"x\" is no index"),
            ("wait=10", "wait: \"10\" is no time like 10s or 5m"),
            ("dc=dc2", "dc: \"dc2\" is not known here, \"dc1\" is"),
            ("filter=a", "filter: \"a\" is not spoken here"),
        ] {
            assert!(read(bad).unwrap_err().starts_with(why), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_none(text in "[0-9.a-zµ]{0,12}") {
            let _ = duration(&text);
        }

        #[test]
        fn a_time_is_what_it_says(hours in 0u64..100, minutes in 0u64..100, seconds in 0u64..100) {
            let expected = Duration::from_secs(hours * 3600 + minutes * 60 + seconds);
            prop_assert_eq!(duration(&format!("{hours}h{minutes}m{seconds}s")), Some(expected));
        }
    }
}
