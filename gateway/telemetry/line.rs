//! How an event becomes a line of the log: time, level, message, fields.
//!
//! Each value goes through [`shown`], whoever wrote it, so that an event is one line and that line is short. Spans, which
//! only libraries have, are left out.

use std::fmt::{self, Write as _};

use serde::Serialize;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::text::shown;

pub(super) enum Lines {
    /// For people: `2026-01-31T12:00:00.000000Z  WARN Check failed upstream=orders`.
    Text,
    /// For machines: an object with `timestamp`, `level`, `message` and the fields.
    Json,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match self {
            Self::Text => text(writer, event),
            Self::Json => json(writer, event),
        }
    }
}

fn text(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let style = Style { colours: writer.has_ansi_escapes() };
    writer.write_str(style.begin(DIM))?;
    SystemTime.format_time(&mut writer)?;
    writer.write_str(style.end())?;
    let level = event.metadata().level();
    write!(writer, " {}{level:>5}{}", style.begin(colour(level)), style.end())?;
    let mut fields = TextFields { writer, style, result: Ok(()) };
    event.record(&mut fields);
    fields.result?;
    writeln!(fields.writer)
}

fn json(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    let mut time = String::new();
    SystemTime.format_time(&mut Writer::new(&mut time))?;
    let mut fields = JsonFields { line: String::new() };
    fields.entry("timestamp", &time);
    fields.entry("level", event.metadata().level().as_str());
    event.record(&mut fields);
    writeln!(writer, "{}}}", fields.line)
}

const DIM: &str = "\x1b[2m";
const ITALIC: &str = "\x1b[3m";

fn colour(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

#[derive(Clone, Copy)]
struct Style {
    colours: bool,
}

impl Style {
    fn begin(self, sequence: &'static str) -> &'static str {
        if self.colours { sequence } else { "" }
    }

    fn end(self) -> &'static str {
        self.begin("\x1b[0m")
    }
}

struct TextFields<'a> {
    writer: Writer<'a>,
    style: Style,
    result: fmt::Result,
}

impl TextFields<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) -> fmt::Result {
        self.writer.write_char(' ')?;
        if field.name() != "message" {
            let (italic, dim, end) = (self.style.begin(ITALIC), self.style.begin(DIM), self.style.end());
            write!(self.writer, "{italic}{}{end}{dim}={end}", field.name())?;
        }
        write!(self.writer, "{}", shown(value))
    }
}

/// What is no text of its own comes here, too.
impl Visit for TextFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.result = self.result.and_then(|()| self.write(field, format_args!("{value:?}")));
    }
}

struct JsonFields {
    line: String,
}

impl JsonFields {
    fn entry(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.line.push(if self.line.is_empty() { '{' } else { ',' });
        // Neither texts nor numbers fail to become JSON, and a string takes all that is written to it.
        let (name, value) = (serde_json::to_string(name), serde_json::to_string(value));
        let _ = write!(self.line, "{}:{}", name.unwrap_or_default(), value.unwrap_or_default());
    }
}

impl Visit for JsonFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field.name(), &shown(format_args!("{value:?}")).to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field.name(), &shown(value).to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field.name(), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field.name(), &value);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing_subscriber::fmt;

    use super::*;
    use crate::telemetry::text::is_visible;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
            assert!(text.ends_with('\n'), "{text}");
            text.split_terminator('\n').map(str::to_owned).collect()
        }
    }

    impl io::Write for Written {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `log` makes of the lines of both formats.
    fn logged(log: impl Fn()) -> (String, Value) {
        let written = Written::default();
        let one = |written: &Written| {
            let [line] = &written.lines()[..] else { panic!("more than one line") };
            assert!(line.chars().all(is_visible) && line.len() < 20_000, "{line:?}");
            line.clone()
        };
        let to = written.clone();
        let text = fmt().with_ansi(false).with_writer(move || to.clone()).event_format(Lines::Text).finish();
        tracing::subscriber::with_default(text, &log);
        let text = one(&written);
        let to = written.clone();
        let json = fmt().with_ansi(false).with_writer(move || to.clone()).event_format(Lines::Json).finish();
        tracing::subscriber::with_default(json, &log);
        (text, serde_json::from_str(&one(&written)).unwrap())
    }

    #[test]
    fn a_line_is_time_level_message_and_fields() {
        let (text, mut json) = logged(|| {
            tracing::warn!(upstream = %"orders", ready = true, count = 3, below = -1, share = 0.5, line = "it \"fails\"",
                kinds = ?["a"], "Check failed");
        });
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{text}");
        assert_eq!(
            rest,
            " WARN Check failed upstream=orders ready=true count=3 below=-1 share=0.5 line=\"it \\\"fails\\\"\" kinds=[\"a\"]"
        );
        assert!(json["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
        json["timestamp"].take();
        assert_eq!(
            json,
            json!({ "timestamp": null, "level": "WARN", "message": "Check failed", "upstream": "orders", "ready": true,
                "count": 3, "below": -1, "share": 0.5, "line": "it \"fails\"", "kinds": "[\"a\"]" })
        );
    }

    #[test]
    fn no_value_makes_another_line_a_long_one_or_reaches_the_terminal() {
        let evil = format!(
            "k\r\n2026-01-01T00:00:00Z ERROR forged\u{1b}]0;t\u{7}\u{9b}31m\u{202e}{}",
            "v".repeat(1 << 20)
        );
        let error = io::Error::other(evil.clone());
        let (text, json) = logged(|| {
            let evil = evil.as_str();
            let source: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(shown = %evil, debug = ?evil, plain = evil, %error, source, "{}", evil);
        });
        assert_eq!(
            text.matches("k\\r\\n2026-01-01T00:00:00Z ERROR forged\\u{1b}]0;t\\u{7}\\u{9b}31m\\u{202e}vvv")
                .count(),
            6,
            "{text}"
        );
        for field in ["shown", "debug", "plain", "error", "source", "message"] {
            let value = json[field].as_str().unwrap();
            assert!(
                value.chars().all(is_visible) && value.contains("forged\\u{1b}]0;t\\u{7}"),
                "{field}: {value}"
            );
        }
    }

    #[test]
    fn colours_are_ours_alone() {
        let written = Written::default();
        let to = written.clone();
        let coloured =
            fmt().with_ansi(true).with_writer(move || to.clone()).event_format(Lines::Text).finish();
        tracing::subscriber::with_default(coloured, || tracing::error!(endpoint = %"\u{1b}[5m", "Failed"));
        let line = written.lines().concat();
        let (_, rest) = line.split_once("Z\u{1b}[0m ").unwrap();
        assert_eq!(
            rest,
            "\u{1b}[31mERROR\u{1b}[0m Failed \u{1b}[3mendpoint\u{1b}[0m\u{1b}[2m=\u{1b}[0m\\u{1b}[5m"
        );
    }
}
