//! What a plugin writes to its standard streams, and what the host has to say of it, as log lines.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{connector, telemetry::text::shown_bytes};

/// Longer lines are cut.
const LONGEST: usize = 2_000;

/// Lines that one instance may log within [`WINDOW`].
const MOST: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

/// The last words of an instance: so many lines and bytes at most, and nothing that is so much older than the last.
const LAST_LINES: usize = 40;
const LAST_BYTES: usize = 1_600;
const ONE_BREATH: Duration = Duration::from_secs(1);

/// On whose behalf an instance runs, as far as that is known. Every log line of it says so.
#[derive(Debug, Clone)]
pub(in crate::plugin) struct Who {
    pub plugin: Arc<str>,
    pub registry: Option<Arc<str>>,
    pub service: Option<Arc<str>>,
    pub upstream: Option<Arc<str>>,
    /// The thread, if it is one that serves requests.
    pub worker: Option<u64>,
}

impl Who {
    /// A plugin on the thread that calls.
    pub fn new(plugin: Arc<str>) -> Self {
        let thread = std::thread::current();
        let worker = thread.name().and_then(|name| name.strip_prefix("worker-")?.parse().ok());
        Self { plugin, registry: None, service: None, upstream: None, worker }
    }
}

impl Who {
    /// From now on the instance serves this upstream. Called for every pick: one comparison where it is the same.
    pub fn serves(&mut self, upstream: &Option<Arc<str>>) {
        let address = |upstream: &Option<Arc<str>>| upstream.as_ref().map(|name| Arc::as_ptr(name).addr());
        if address(&self.upstream) != address(upstream) {
            self.upstream.clone_from(upstream);
        }
    }
}

/// Logs something with all that is known of [`Who`].
macro_rules! log {
    ($level:ident, $who:expr, $($rest:tt)*) => {
        tracing::$level!(
            plugin = %$who.plugin,
            registry = $who.registry.as_deref(),
            service = $who.service.as_deref(),
            upstream = $who.upstream.as_deref(),
            worker = $who.worker,
            $($rest)*
        )
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum Stream {
    Out,
    Err,
}

/// Both standard streams of one instance.
#[derive(Debug)]
pub(in crate::plugin) struct Lines {
    pub who: Who,
    out: Vec<u8>,
    err: Vec<u8>,
    said: Said,
    complained: Said,
    /// What was refused and told.
    refused: Vec<&'static str>,
    window: Option<Instant>,
    logged: u32,
    dropped: u32,
}

/// The last lines of a stream, with the time of each.
#[derive(Debug, Default)]
struct Said(VecDeque<(Instant, String)>);

impl Said {
    fn push(&mut self, line: String, now: Instant) {
        self.0.push_back((now, line));
        let bytes = |said: &Self| said.0.iter().map(|(_, line)| line.len()).sum::<usize>();
        while self.0.len() > LAST_LINES || (self.0.len() > 1 && bytes(self) > LAST_BYTES) {
            self.0.pop_front();
        }
    }

    /// What was said in one breath with the last line and `unfinished`.
    fn last(&self, unfinished: Option<String>) -> Option<String> {
        let last = self.0.back().map(|(at, _)| *at)?;
        let close = self.0.iter().filter(|(at, _)| last.saturating_duration_since(*at) < ONE_BREATH);
        let lines: Vec<&str> = close.map(|(_, line)| line.trim()).chain(unfinished.as_deref()).collect();
        Some(lines.join(" | "))
    }
}

impl Lines {
    pub fn new(who: Who) -> Self {
        Self {
            who,
            out: Vec::new(),
            err: Vec::new(),
            said: Said::default(),
            complained: Said::default(),
            refused: Vec::new(),
            window: None,
            logged: 0,
            dropped: 0,
        }
    }

    /// Takes in bytes and logs the lines that are complete with them.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Instant) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, complete) = match part.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (part, false),
            };
            let pending = self.pending(stream);
            let room = LONGEST - pending.len();
            pending.extend_from_slice(&line[..line.len().min(room)]);
            if complete {
                self.end_line(stream, now);
            }
        }
    }

    /// What was written last to standard error, or to standard output if nothing was, complete or not: what a plugin
    /// says before it gives up. Several lines, like a traceback, are told in one.
    pub fn last_words(&self) -> Option<String> {
        let of = |said: &Said, pending: &[u8]| said.last(text(pending)).or_else(|| text(pending));
        of(&self.complained, &self.err).or_else(|| of(&self.said, &self.out))
    }

    /// Tells once that something was refused, and what would grant it.
    pub fn refused(&mut self, what: &'static str) {
        if self.refused.contains(&what) {
            return;
        }
        self.refused.push(what);
        let granted_by = match &self.who.registry {
            Some(registry) if !registry.is_empty() => format!(
                "nothing: {} in [registry.{registry}] lends a client of the gateway's own",
                connectors()
            ),
            _ => {
                "nothing: a selector has no network, and a registry plugin has what [registry.NAME] lends it"
                    .into()
            }
        };
        log!(
            warn,
            self.who,
            refused = format_args!("wasi:{what}"),
            granted_by,
            "Plugin was refused something"
        );
    }

    /// Where the plugin was when it failed.
    pub fn backtrace(&self, frames: &str) {
        log!(warn, self.who, frames, "Plugin failed here");
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    fn end_line(&mut self, stream: Stream, now: Instant) {
        let line = text(self.pending(stream));
        self.pending(stream).clear();
        let Some(line) = line else { return };
        if self.may_log(now) {
            match stream {
                Stream::Out => log!(info, self.who, line, "Plugin says"),
                Stream::Err => log!(warn, self.who, line, "Plugin says"),
            }
        }
        match stream {
            Stream::Out => self.said.push(line, now),
            // Rust ends a panic with a hint that is of no use here.
            Stream::Err if line.starts_with("note: ") => {}
            Stream::Err => self.complained.push(line, now),
        }
    }

    fn may_log(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            if self.dropped > 0 {
                log!(warn, self.who, lines = self.dropped, "Plugin wrote too much, lines were dropped");
            }
            (self.window, self.logged, self.dropped) = (Some(now), 0, 0);
        }
        if self.logged < MOST {
            self.logged += 1;
            return true;
        }
        self.dropped += 1;
        false
    }
}

/// The names of all, as a reader takes them in.
fn connectors() -> String {
    let names: Vec<String> = connector::SETTINGS.iter().map(|(name, ..)| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

fn text(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_end();
    (!line.is_empty()).then(|| shown_bytes(line).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::new(Who::new("p".into()))
    }

    #[test]
    fn lines_are_joined_from_parts_and_control_characters_escaped() {
        let (mut lines, now) = (lines(), Instant::now());
        lines.write(Stream::Err, b"pan", now);
        assert_eq!(lines.last_words().unwrap(), "pan");
        lines.write(Stream::Err, b"icked \x1b[31mred\xff \xe2\x80\xaebidi\r\nnext", now);
        assert_eq!(lines.last_words().unwrap(), "panicked \\u{1b}[31mred\\xff \\u{202e}bidi | next");
    }

    #[test]
    fn a_traceback_is_told_whole_and_what_was_said_before_it_is_not() {
        let (mut lines, start) = (lines(), Instant::now());
        lines.write(Stream::Err, b"hello\n", start);
        let now = start + Duration::from_secs(60);
        lines.write(
            Stream::Err,
            b"Traceback (most recent call last):\n  File \"app.py\", line 7, in pick\n",
            now,
        );
        lines.write(Stream::Err, b"ZeroDivisionError: division by zero\n", now + Duration::from_millis(3));
        assert_eq!(
            lines.last_words().unwrap(),
            "Traceback (most recent call last): | File \"app.py\", line 7, in pick | ZeroDivisionError: division by zero"
        );
        lines.write(Stream::Err, &b"deeper and deeper\n".repeat(1_000), now);
        assert!(lines.last_words().unwrap().len() < 2 * LAST_BYTES);
    }

    #[test]
    fn standard_output_is_told_when_there_is_nothing_else() {
        let (mut lines, now) = (lines(), Instant::now());
        lines.write(Stream::Out, b"ReferenceError: x\n  at pick\n", now);
        assert_eq!(lines.last_words().unwrap(), "ReferenceError: x | at pick");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = lines();
        for _ in 0..10 {
            lines.write(Stream::Out, &[b'x'; 1_000], Instant::now());
        }
        assert_eq!(lines.out.len(), LONGEST);
    }

    #[test]
    fn so_many_lines_are_logged_within_a_window() {
        let (mut lines, now) = (lines(), Instant::now());
        lines.write(Stream::Out, &b"x\n".repeat(MOST as usize + 7), now);
        assert_eq!((lines.logged, lines.dropped), (MOST, 7));
        lines.write(Stream::Out, b"x\n", now + WINDOW);
        assert_eq!((lines.logged, lines.dropped), (1, 0));
    }
}
