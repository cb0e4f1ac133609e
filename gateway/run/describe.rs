//! Upstreams as tables for a terminal, made of what the admin API says.

use std::{fmt::Write as _, net::SocketAddr};

use serde_json::Value;

use crate::telemetry::text::shown;

/// All upstreams, a line each.
pub(super) fn list(upstreams: &Value) -> String {
    let rows = items(&upstreams["upstreams"]).iter().map(|upstream| {
        let reserve: u64 =
            items(&upstream["sources"]).iter().map(|source| count(&source["reserve"]["count"])).sum();
        [
            text(&upstream["name"]),
            state(upstream),
            text(&upstream["endpoint_count"]),
            text(&upstream["ejected_count"]),
            reserve.to_string(),
            text(&upstream["generation"]),
        ]
    });
    let head = ["NAME", "STATE", "ENDPOINTS", "EJECTED", "RESERVE", "GENERATION"];
    table(head, rows)
}

/// One upstream: how it stands, its endpoints, and what changed last.
pub(super) fn one(upstream: &Value) -> String {
    let mut out = facts(upstream);
    let ejected = items(&upstream["ejected"]);
    let serving = items(&upstream["endpoints"]).iter();
    let rows = serving.map(|of| {
        let out = ejected.iter().find(|ejected| ejected["address"] == of["address"]);
        endpoint(of, out.map_or_else(|| parts(of), |out| format!("fails: {}", text(&out["reason"]))))
    });
    let taken_out = ejected
        .iter()
        .filter(|out| items(&upstream["endpoints"]).iter().all(|of| of["address"] != out["address"]));
    let taken_out = taken_out.map(|out| endpoint(out, format!("taken out: {}", text(&out["reason"]))));
    let draining = items(&upstream["draining"]);
    let standby = items(&upstream["standby"]).iter().map(|of| {
        let drains = draining.iter().any(|draining| draining["address"] == of["address"]);
        endpoint(of, if drains { "drains by order".into() } else { waits(of) })
    });
    let head = ["ENDPOINT", "WEIGHT", "IN FLIGHT", "REQUESTS", "FAILURES", "LATENCY", "STATE"];
    let _ = write!(out, "\n{}", table(head, rows.chain(taken_out).chain(standby)));
    let changes = items(&upstream["history"]).iter().map(change);
    let head = ["GENERATION", "AT", "CAUSE", "SOURCE", "ADDED", "UPDATED", "REMOVED", "HELD"];
    let _ = write!(out, "\n{}", table(head, changes));
    out
}

/// What came of an order to drain these.
pub(super) fn drained(upstream: &Value, addresses: &[SocketAddr]) -> String {
    let of_them = |key: &str| {
        let is_one = |of: &&Value| addresses.iter().any(|address| of["address"] == address.to_string());
        items(&upstream[key]).iter().filter(is_one).collect::<Vec<_>>()
    };
    let under_way: u64 = of_them("draining").iter().map(|of| count(&of["in_flight"])).sum();
    let drain = if addresses.len() == 1 { "drains" } else { "drain" };
    let (name, those) = (text(&upstream["name"]), names(addresses));
    let (requests, left) = (many(under_way, "request"), many(count(&upstream["endpoint_count"]), "endpoint"));
    let get = if addresses.len() == 1 { "gets" } else { "get" };
    match of_them("endpoints").is_empty() {
        true => format!("{those} of {name} {drain}, with {requests} under way; {name} has {left} left"),
        false => format!("{those} of {name} {drain}, and still {get} requests: no other endpoint is well"),
    }
}

pub(super) fn names(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn many(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn facts(upstream: &Value) -> String {
    let mut facts = vec![
        ("upstream", text(&upstream["name"])),
        ("state", state(upstream)),
        ("generation", text(&upstream["generation"])),
        ("selector", text(&upstream["selector"]["plugin"])),
    ];
    let pinned = &upstream["pinned"];
    if pinned.is_object() {
        facts.push((
            "pinned",
            format!("since {}, {} endpoints", text(&pinned["since"]), text(&pinned["endpoints"])),
        ));
    }
    for of in items(&upstream["draining"]) {
        let (address, since) = (text(&of["address"]), text(&of["since"]));
        let under_way = many(count(&of["in_flight"]), "request");
        facts.push(("draining", format!("{address} since {since}, {under_way} under way")));
    }
    if upstream["unsaved"].is_string() {
        facts.push(("unsaved", text(&upstream["unsaved"])));
    }
    for source in items(&upstream["sources"]) {
        let (service, registry) = (text(&source["service"]), text(&source["registry"]));
        let (instances, origin) = (text(&source["instances"]), text(&source["origin"]));
        let since = text(&source["since"]);
        facts.push((
            "source",
            format!("{service} in {registry}: {instances} instances, {origin} since {since}"),
        ));
        let failure = &source["failure"];
        if failure.is_object() {
            facts.push(("", format!("{}: {}", text(&failure["kind"]), text(&failure["error"]))));
        }
        if count(&source["reserve"]["count"]) > 0 {
            facts.push(("", reserve(&source["reserve"])));
        }
    }
    facts.iter().fold(String::new(), |mut out, (name, fact)| {
        let _ = writeln!(out, "{name:10}  {fact}");
        out
    })
}

fn reserve(reserve: &Value) -> String {
    let used = if reserve["offered"] == true { "they get requests" } else { "they get no requests" };
    let mut named: Vec<String> = items(&reserve["addresses"]).iter().map(text).collect();
    if count(&reserve["count"]) > named.len() as u64 {
        named.push("...".into());
    }
    let (held, since) = (text(&reserve["count"]), text(&reserve["since"]));
    format!("{held} removals held back since {since}, {used}: {}", named.join(" "))
}

/// How an upstream stands, in a few words; `live` when there is nothing to say.
fn state(upstream: &Value) -> String {
    let mut states = Vec::new();
    for (key, word) in [("pinned", "pinned"), ("unsaved", "unsaved")] {
        if !upstream[key].is_null() {
            states.push(word.to_owned());
        }
    }
    for word in ["panic", "drained"] {
        if upstream[word] == true {
            states.push(word.to_owned());
        }
    }
    if count(&upstream["draining_count"]) > 0 {
        states.push(format!("draining {}", text(&upstream["draining_count"])));
    }
    let sources = items(&upstream["sources"]);
    for source in sources {
        let of = match sources.len() {
            1 => String::new(),
            _ => format!("{} ", text(&source["registry"])),
        };
        let age = source["age_seconds"].as_f64().map_or_else(String::new, |age| format!(" {}", period(age)));
        match source["origin"].as_str() {
            Some("live") => {}
            _ if source["stale"] == true => states.push(format!("{of}stale{age}")),
            _ => states.push(format!("{of}{}{age}", text(&source["origin"]))),
        }
        if count(&source["reserve"]["count"]) > 0 {
            states.push(format!("{of}held {}", text(&source["reserve"]["count"])));
        }
    }
    if states.is_empty() { "live".into() } else { states.join(", ") }
}

fn endpoint(endpoint: &Value, state: String) -> [String; 7] {
    let latency =
        endpoint["latency_ms"].as_f64().map_or_else(String::new, |latency| format!("{latency:.1} ms"));
    let [address, weight, in_flight, requests, failures] =
        ["address", "weight", "in_flight", "requests", "failures"].map(|key| text(&endpoint[key]));
    [address, weight, in_flight, requests, failures, latency, state]
}

/// Behind whom an endpoint waits.
fn waits(endpoint: &Value) -> String {
    match endpoint["reason"] == "zone" {
        true => format!("waits: zone {}", text(&endpoint["zone"])),
        false => format!("waits: {}, priority {}", text(&endpoint["state"]), text(&endpoint["priority"])),
    }
}

/// What makes the weight of an endpoint less than it is.
fn parts(endpoint: &Value) -> String {
    let parts = [("slow_start", "slow start"), ("zone_part", "zone"), ("priority_part", "priority")];
    let parts = parts.map(|(key, word)| Some(format!("{word} {:.0} %", endpoint[key].as_f64()? * 100.0)));
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn change(change: &Value) -> [String; 8] {
    let cause = match (&change["rolled_back_to"], change["applied"].as_bool()) {
        (Value::Number(to), _) => format!("rolled back to {to}"),
        (_, Some(false)) => format!("{}, not applied", text(&change["cause"])),
        _ => text(&change["cause"]),
    };
    let source = match change["registry"].as_str() {
        Some(_) => format!("{} in {}", text(&change["service"]), text(&change["registry"])),
        None => "operator".into(),
    };
    let [added, updated, removed, held] =
        ["added", "updated", "removed", "held"].map(|kind| text(&change[kind]["count"]));
    [text(&change["generation"]), text(&change["at"]), cause, source, added, updated, removed, held]
}

/// `41s`, `12m`, `3h`, `2d`.
fn period(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// In one line: some of it comes from registries.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => shown(text).to_string(),
        other => shown(other).to_string(),
    }
}

/// Columns as wide as their widest cell; those of numbers stand right.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let is_number = |text: &String| text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(':');
    let right: [bool; N] = std::array::from_fn(|column| {
        !rows.is_empty() && rows.iter().all(|row| row[column].is_empty() || is_number(&row[column]))
    });
    let head = head.map(str::to_owned);
    std::iter::once(&head).chain(&rows).fold(String::new(), |mut out, row| {
        let mut line = String::new();
        for column in 0..N {
            let (cell, width) = (&row[column], widths[column]);
            let _ = match right[column] {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:width$}  "),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn source(registry: &str, origin: &str, reserve: u64) -> Value {
        json!({
            "registry": registry, "service": "orders", "origin": origin, "since": "T", "stale": false,
            "age_seconds": if origin == "live" { 0.0 } else { 300.0 }, "instances": 1, "failure": null,
            "reserve": { "count": reserve, "offered": true, "since": "T", "addresses": ["10.0.0.9:1"] },
        })
    }

    fn upstream(name: &str, sources: Vec<Value>) -> Value {
        json!({
            "name": name, "generation": 7, "endpoint_count": 12, "ejected_count": 0, "panic": false,
            "pinned": null, "unsaved": null, "selector": { "plugin": "p2c-ewma" }, "sources": sources,
            "endpoints": [], "ejected": [], "history": [],
        })
    }

    #[test]
    fn an_endpoint_says_why_it_gets_less_than_others() {
        let mut upstream = upstream("orders", vec![source("main", "live", 0)]);
        upstream["endpoints"] = json!([
            { "address": "10.0.0.1:1", "weight": 1, "slow_start": null, "zone_part": null },
            { "address": "10.0.0.2:1", "weight": 1, "slow_start": 0.3, "zone_part": 0.25, "priority_part": null },
        ]);
        upstream["standby"] = json!([
            { "address": "10.0.0.3:1", "state": "ready", "priority": 0, "zone": "b", "reason": "zone" },
            { "address": "10.0.0.4:1", "state": "draining", "priority": 2, "zone": "b", "reason": "rank" },
            { "address": "10.0.0.5:1", "state": "ready", "priority": 0, "zone": "b", "reason": "rank" },
        ]);
        upstream["draining"] = json!([{ "address": "10.0.0.5:1", "since": "T", "in_flight": 1 }]);
        let shown = one(&upstream);
        let state = |address| shown.lines().find_map(|line: &str| line.strip_prefix(address)).unwrap().trim();
        assert_eq!(state("10.0.0.1:1"), "1");
        assert!(state("10.0.0.2:1").ends_with(" slow start 30 %, zone 25 %"), "{shown}");
        assert!(state("10.0.0.3:1").ends_with("waits: zone b"), "{shown}");
        assert!(state("10.0.0.4:1").ends_with("waits: draining, priority 2"), "{shown}");
        assert!(state("10.0.0.5:1").ends_with("drains by order"), "{shown}");
        assert!(shown.contains("draining    10.0.0.5:1 since T, 1 request under way"), "{shown}");
    }

    #[test]
    fn a_drain_says_what_is_under_way_and_when_it_has_no_effect() {
        let mut upstream = upstream("orders", vec![source("main", "live", 0)]);
        let addresses: [SocketAddr; 2] = ["10.0.0.1:1".parse().unwrap(), "10.0.0.2:1".parse().unwrap()];
        upstream["draining"] =
            json!([{ "address": "10.0.0.1:1", "in_flight": 3 }, { "address": "10.0.0.2:1" }]);
        let expected = "10.0.0.1:1 of orders drains, with 3 requests under way; orders has 12 endpoints left";
        assert_eq!(drained(&upstream, &addresses[..1]), expected);
        upstream["endpoints"] = upstream["draining"].clone();
        let expected =
            "10.0.0.1:1, 10.0.0.2:1 of orders drain, and still get requests: no other endpoint is well";
        assert_eq!(drained(&upstream, &addresses), expected);
    }

    #[test]
    fn the_list_says_what_is_not_ordinary() {
        let several = vec![source("new", "live", 2), source("old", "frozen", 0)];
        let mut pinned = upstream("users", vec![source("main", "live", 0)]);
        pinned["pinned"] = json!({ "since": "T", "endpoints": 3 });
        let mut drained = upstream("z", vec![source("main", "live", 0)]);
        drained["drained"] = json!(true);
        drained["draining_count"] = json!(2);
        let live = upstream("a", vec![source("main", "live", 0)]);
        let all = json!({ "upstreams": [upstream("orders", several), pinned, live, drained] });
        let expected = "\
NAME    STATE                   ENDPOINTS  EJECTED  RESERVE  GENERATION
orders  new held 2, old frozen 5m         12        0        2           7
users   pinned                         12        0        0           7
a       live                           12        0        0           7
z       drained, draining 2            12        0        0           7
";
        let words = |text: &str| {
            text.lines()
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(words(&list(&all)), words(expected));
    }

    #[test]
    fn an_upstream_is_shown_with_what_is_taken_out_and_held_back() {
        let mut orders = upstream("orders", vec![source("main", "frozen", 1)]);
        orders["sources"][0]["failure"] = json!({ "kind": "unavailable", "error": "refused\u{1b}[31m" });
        orders["endpoints"] =
            json!([{ "address": "10.0.0.1:1", "weight": 1, "latency_ms": 1.25, "requests": 9 }]);
        orders["ejected"] = json!([{ "address": "10.0.0.2:1", "reason": "checks" }]);
        let counts = json!({ "count": 1 });
        orders["history"] = json!([
            { "generation": 7, "at": "T", "cause": "rolled back", "rolled_back_to": 5, "applied": true, "added": counts },
            { "generation": 6, "at": "T", "cause": "news", "applied": false, "registry": "main", "service": "orders" },
        ]);
        let shown = one(&orders);
        for part in [
            "frozen 5m, held 1",
            "unavailable: refused\\u{1b}[31m",
            "1 removals held back since T, they get requests: 10.0.0.9:1",
            "taken out: checks",
            "1.2 ms",
            "rolled back to 5",
            "news, not applied",
            "operator",
        ] {
            assert!(shown.contains(part), "no {part:?} in\n{shown}");
        }
    }
}
