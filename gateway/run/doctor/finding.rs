//! What was found, and how it is told.

use std::fmt::Write as _;

use super::{super::describe::many, Examination};
use crate::telemetry::text::{shown, shown_lines};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    level: Level,
    /// What kind of thing.
    about: &'static str,
    text: String,
    /// What to do.
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    /// It works, and may not when something else happens.
    Warning,
    /// It does not work.
    Error,
}

impl Finding {
    pub fn ok(about: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, about, text: text.into(), advice: None }
    }

    pub fn warning(about: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(about, text) }
    }

    pub fn error(about: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::ok(about, text) }
    }

    /// Says what to do about it.
    pub fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// A line for each, what to do below it, and a last line that counts.
pub(super) fn told(findings: &[Finding]) -> Examination {
    let mut text = String::new();
    for Finding { level, about, text: found, advice } in findings {
        let mark = match level {
            Level::Ok => "✓ ok",
            Level::Warning => "▲ warning",
            Level::Error => "✕ error",
        };
        // Problems of a configuration have lines of their own, which are ours.
        let mut lines = found.lines();
        let _ = writeln!(text, "{mark:9}  {about:13}  {}", shown(lines.next().unwrap_or_default()));
        for line in lines {
            let _ = writeln!(text, "    {}", shown_lines(line));
        }
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:26}to do: {}", "", shown(advice));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let _ = writeln!(text, "{}, {}", many(errors as u64, "error"), many(warnings as u64, "warning"));
    Examination { text, has_errors: errors > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_glyph_a_word_and_what_to_do() {
        let findings = [
            Finding::ok("state", "state: may be written"),
            Finding::warning("clock", "ahead\u{1b}[31m").advice("set it"),
            Finding::error("port", "taken"),
        ];
        let expected = "\
✓ ok       state          state: may be written
▲ warning  clock          ahead\\u{1b}[31m
                          to do: set it
✕ error    port           taken
1 error, 1 warning
";
        assert_eq!(told(&findings), Examination { text: expected.into(), has_errors: true });
        assert!(!told(&findings[..2]).has_errors);
    }
}
