//! What is on the screen, in lines. Whatever others wrote in it is shown as text, whatever it holds.

use serde_json::Value;

use super::super::describe::{count, items, table, text};
use crate::telemetry::text::shown;

/// How something looks. Where there are no colours, its glyph and its words say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Head,
    Faint,
    Ok,
    Degraded,
    Failing,
}

/// Pieces of one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line(pub Vec<(Style, String)>);

impl Line {
    fn new(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    fn empty() -> Self {
        Self(Vec::new())
    }

    fn and(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    pub fn text(&self) -> String {
        let text: String = self.0.iter().map(|(_, text)| text.as_str()).collect();
        text.trim_end().to_owned()
    }

    /// The part of it that is so wide.
    fn cut(mut self, mut columns: usize) -> Self {
        for (_, text) in &mut self.0 {
            let length = text.chars().count();
            if length > columns {
                *text = text.chars().take(columns).collect();
            }
            columns = columns.saturating_sub(length);
        }
        self
    }
}

/// What there is to show.
pub(super) struct Shown<'a> {
    /// The document, of now or of when the gateway answered last.
    pub overview: Option<&'a Value>,
    /// Why there is no answer, and since when.
    pub gone: Option<&'a str>,
    pub address: &'a str,
}

/// Lines of changes and of registries that are there beside many services.
const FEW: usize = 5;

/// Characters of a name that are shown.
const NAME: usize = 40;

/// The lines for so many columns and lines; all of them without a size.
pub(super) fn screen(what: &Shown<'_>, size: Option<(usize, usize)>) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(gone) = what.gone {
        lines.push(Line::new(Style::Failing, format!("✕ {}", shown(gone))));
        if what.overview.is_some() {
            lines.push(Line::new(Style::Faint, "  what is below is from before that"));
        }
    }
    let Some(overview) = what.overview else { return fitted(lines, size) };
    let verdict = &overview["verdict"];
    lines.push(mark(&verdict["state"]).and(Style::Head, text(&verdict["text"])));
    lines.push(Line::empty());

    let (mut registries, mut services, mut changes) =
        (registries(overview), services(overview), changes(overview));
    if let Some((_, height)) = size {
        // Headings, the empty lines between, and the last line.
        let room = height.saturating_sub(lines.len() + 6);
        if registries.len() + services.len() + changes.len() > room {
            let others = registries.len().min(FEW) + changes.len().min(FEW);
            clip(&mut services, room.saturating_sub(others).max(2));
            let left = room.saturating_sub(services.len());
            clip(&mut registries, left - changes.len().min(left / 2));
            clip(&mut changes, left.saturating_sub(registries.len()));
        }
    }
    lines.push(Line::new(Style::Head, "REGISTRIES"));
    lines.extend(registries);
    lines.push(Line::empty());
    lines.extend(services);
    lines.push(Line::empty());
    lines.push(Line::new(Style::Head, "LAST CHANGES"));
    lines.extend(changes);
    if size.is_some() {
        let version = text(&overview["version"]);
        let foot = format!("witgate {version} at {}, q quits", shown(what.address));
        lines.push(Line::new(Style::Faint, foot));
    }
    fitted(lines, size)
}

fn fitted(lines: Vec<Line>, size: Option<(usize, usize)>) -> Vec<Line> {
    let Some((columns, height)) = size else { return lines };
    lines.into_iter().take(height).map(|line| line.cut(columns)).collect()
}

/// Leaves so many lines, the last of which says how many there are more.
fn clip(lines: &mut Vec<Line>, most: usize) {
    let more = lines.len().saturating_sub(most.saturating_sub(1));
    if lines.len() > most {
        lines.truncate(most.saturating_sub(1));
        if most > 0 {
            lines.push(Line::new(Style::Faint, format!("  and {more} more lines")));
        }
    }
}

/// The glyph of a state, those of the dashboard.
fn mark(state: &Value) -> Line {
    let (style, glyph) = match state.as_str() {
        Some("ok") => (Style::Ok, "✓"),
        Some("degraded") => (Style::Degraded, "▲"),
        Some("failing") => (Style::Failing, "✕"),
        _ => (Style::Faint, "?"),
    };
    Line::new(style, format!("{glyph} "))
}

fn registries(overview: &Value) -> Vec<Line> {
    let of = |registry: &Value| {
        let since = moment(&text(&registry["since"]));
        let words = match registry["word"].as_str() {
            Some("fresh") => "fresh".to_owned(),
            Some("silent") => format!("silent, lists frozen since {since}"),
            Some("suspect") => format!("not believed, lists frozen since {since}"),
            Some("denied") => format!("access denied, lists frozen since {since}"),
            Some("unheard") => "never answered".to_owned(),
            Some("unused") => "no service is read from it".to_owned(),
            _ => text(&registry["word"]),
        };
        let name = format!("{} ({}): ", name(&registry["name"]), text(&registry["plugin"]));
        let (live, lists) = (count(&registry["live"]), count(&registry["lists"]));
        let counted = if lists == 0 { String::new() } else { format!("; {live} of {lists} lists live") };
        let line = mark(&registry["state"]).and(Style::Plain, name + &words).and(Style::Faint, counted);
        let reason = registry["reason"]
            .is_string()
            .then(|| Line::new(Style::Faint, format!("    {}", text(&registry["reason"]))));
        std::iter::once(line).chain(reason).collect::<Vec<_>>()
    };
    items(&overview["registries"]).iter().flat_map(of).collect()
}

/// A heading, and a line for each; below it the reasons of those that are not ok.
fn services(overview: &Value) -> Vec<Line> {
    let all = items(&overview["services"]);
    let head = [
        "SERVICES",
        "ROUTABLE",
        "REQ/S",
        "SUCCESS",
        "P50 MS",
        "P99 MS",
        "EJECTED",
        "RETRIES/S",
        "BUDGET",
        "LIST",
    ];
    let rows = table(head, all.iter().map(row));
    let mut rows = rows.lines().map(str::to_owned);
    let heading = Line::new(Style::Head, format!("  {}", rows.next().unwrap_or_default()));
    let of = |(service, row): (&Value, String)| {
        let reasons: Vec<String> = items(&service["reasons"]).iter().map(text).collect();
        let why =
            (!reasons.is_empty()).then(|| Line::new(Style::Faint, format!("    {}", reasons.join("; "))));
        std::iter::once(mark(&service["state"]).and(Style::Plain, row)).chain(why).collect::<Vec<_>>()
    };
    let mut lines: Vec<Line> = std::iter::once(heading).chain(all.iter().zip(rows).flat_map(of)).collect();
    let hidden = count(&overview["service_count"]).saturating_sub(all.len() as u64);
    if hidden > 0 {
        lines.push(Line::new(Style::Faint, format!("  and {hidden} more services")));
    }
    lines
}

fn row(service: &Value) -> [String; 10] {
    let number = |value: &Value, digits: usize| {
        value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
    };
    let success = service["success"].as_f64();
    let budget = &service["retry_budget"];
    let budget = match budget.is_object() {
        true => format!("{} / {}", text(&budget["left"]), text(&budget["all"])),
        false => "-".to_owned(),
    };
    let lists: Vec<String> = items(&service["sources"])
        .iter()
        .map(|source| format!("{} {}", name(&source["registry"]), text(&source["origin"])))
        .collect();
    let pinned = if service["pinned"] == true { " (pinned)" } else { "" };
    [
        format!("{}{pinned}", name(&service["name"])),
        format!("{} / {}", text(&service["routable"]), text(&service["total"])),
        number(&service["requests_per_second"], 1),
        success.map_or_else(|| "-".to_owned(), |success| format!("{:.2} %", success * 100.0)),
        number(&service["p50_ms"], 1),
        number(&service["p99_ms"], 1),
        text(&service["ejected"]),
        number(&service["retries_per_second"], 1),
        budget,
        lists.join(", "),
    ]
}

fn changes(overview: &Value) -> Vec<Line> {
    let of = |change: &Value| {
        let number = |sign: &str, kind: &str| {
            let count = count(&change[kind]["count"]);
            (count > 0).then(|| format!("{sign}{count}"))
        };
        let counts = [number("+", "added"), number("~", "updated"), number("-", "removed")];
        let held = number("held ", "held");
        let counts: Vec<String> = counts.into_iter().chain([held]).flatten().collect();
        let by =
            change["registry"].as_str().map_or_else(|| "operator".to_owned(), |by| shown(by).to_string());
        let applied = if change["applied"] == false { ", not applied" } else { "" };
        let (at, of, cause) =
            (moment(&text(&change["at"])), name(&change["upstream"]), text(&change["cause"]));
        Line::new(Style::Faint, format!("  {at}  "))
            .and(Style::Plain, format!("{of}: {cause} of {by}, {}{applied}", counts.join(" ")))
    };
    items(&overview["changes"]).iter().map(of).collect()
}

/// A name that leaves room for others.
fn name(value: &Value) -> String {
    let name = text(value);
    match name.chars().count() > NAME {
        true => name.chars().take(NAME - 1).chain(['…']).collect(),
        false => name,
    }
}

/// A time without its milliseconds.
pub(super) fn moment(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn overview(services: usize) -> Value {
        let service = |number: usize| {
            json!({
                "name": format!("s{number}\u{1b}[31m"), "state": "degraded", "reasons": ["1 endpoint\u{7} taken out"],
                "routable": 11, "total": 12, "ejected": 1, "pinned": true, "requests_per_second": 1843.25,
                "success": 0.9994, "p50_ms": 2.1, "p99_ms": null, "retries_per_second": 1.3,
                "retry_budget": { "left": 355, "all": 369 },
                "sources": [{ "registry": "main", "origin": "frozen" }],
            })
        };
        json!({
            "version": "0.1.0",
            "verdict": { "state": "degraded", "text": "all 2 services served; etcd main silent" },
            "registries": [{
                "name": "main", "plugin": "etcd", "state": "degraded", "word": "silent", "lists": 2, "live": 0,
                "since": "2026-03-01T12:00:00.000Z", "reason": "refused\n\u{202e}",
            }],
            "service_count": services + 3,
            "services": (0..services).map(service).collect::<Vec<_>>(),
            "changes": [{
                "upstream": "s0", "at": "2026-03-01T12:00:01.500Z", "cause": "news", "registry": "main",
                "applied": false, "added": { "count": 2 }, "removed": { "count": 0 }, "held": { "count": 1 },
            }],
        })
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(Line::text).collect()
    }

    #[test]
    fn everything_is_said_and_nothing_is_obeyed() {
        let overview = overview(1);
        let said = texts(&screen(&Shown { overview: Some(&overview), gone: None, address: "a:1" }, None));
        assert_eq!(
            said,
            [
                "▲ all 2 services served; etcd main silent",
                "",
                "REGISTRIES",
                "▲ main (etcd): silent, lists frozen since 2026-03-01T12:00:00Z; 0 of 2 lists live",
                "    refused\\n\\u{202e}",
                "",
                "  SERVICES               ROUTABLE   REQ/S  SUCCESS  P50 MS  P99 MS  EJECTED  RETRIES/S     BUDGET  LIST",
                "▲ s0\\u{1b}[31m (pinned)   11 / 12  1843.2  99.94 %     2.1  -             1        1.3  355 / 369  main frozen",
                "    1 endpoint\\u{7} taken out",
                "  and 3 more services",
                "",
                "LAST CHANGES",
                "  2026-03-01T12:00:01Z  s0: news of main, +2 held 1, not applied",
            ]
        );
    }

    #[test]
    fn a_small_screen_has_the_worst_and_says_what_is_missing() {
        let overview = overview(50);
        for size in [(80, 24), (40, 12), (200, 60), (10, 3), (1, 1)] {
            let lines = screen(&Shown { overview: Some(&overview), gone: None, address: "a:1" }, Some(size));
            assert!(lines.len() <= size.1, "{size:?}: {lines:?}");
            let wide =
                |line: &Line| line.0.iter().map(|(_, text)| text.chars().count()).sum::<usize>() > size.0;
            assert!(!lines.iter().any(wide), "{size:?}: {lines:?}");
        }
        let said =
            texts(&screen(&Shown { overview: Some(&overview), gone: None, address: "a:1" }, Some((120, 24))));
        assert!(said[6].starts_with("  SERVICES") && said[7].contains("s0"), "{said:#?}");
        assert!(
            said.iter().any(|line| line.starts_with("  and ") && line.ends_with(" more lines")),
            "{said:#?}"
        );
        assert!(said.last().unwrap().contains("q quits"), "{said:#?}");
    }

    #[test]
    fn a_gateway_that_is_gone_is_the_first_that_is_said() {
        let overview = overview(1);
        let shown =
            Shown { overview: Some(&overview), gone: Some("no gateway answers, since T"), address: "a:1" };
        let said = texts(&screen(&shown, Some((80, 24))));
        assert_eq!(said[0], "✕ no gateway answers, since T");
        assert!(said[1].contains("from before") && said[2].starts_with("▲ all 2"), "{said:#?}");
        let said = texts(&screen(&Shown { overview: None, ..shown }, Some((80, 24))));
        assert_eq!(said, ["✕ no gateway answers, since T"]);
    }
}
