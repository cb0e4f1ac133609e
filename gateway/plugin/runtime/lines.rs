//! What a plugin writes to its standard streams, as log lines.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::telemetry::text::shown_bytes;

/// Longer lines are cut.
const LONGEST: usize = 2_000;

/// Lines that one instance may log within [`WINDOW`].
const MOST: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum Stream {
    Out,
    Err,
}

/// Both standard streams of one instance.
#[derive(Debug)]
pub(in crate::plugin) struct Lines {
    plugin: Arc<str>,
    out: Vec<u8>,
    err: Vec<u8>,
    last: Option<String>,
    window: Option<Instant>,
    logged: u32,
    dropped: u32,
}

impl Lines {
    pub fn new(plugin: Arc<str>) -> Self {
        Self { plugin, out: Vec::new(), err: Vec::new(), last: None, window: None, logged: 0, dropped: 0 }
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

    /// The last line written to standard error, complete or not: what a plugin says before it gives up.
    pub fn last_words(&self) -> Option<String> {
        match text(&self.err) {
            Some(unfinished) => Some(unfinished),
            None => self.last.clone(),
        }
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
                Stream::Out => tracing::info!(plugin = %self.plugin, line, "Plugin says"),
                Stream::Err => tracing::warn!(plugin = %self.plugin, line, "Plugin says"),
            }
        }
        // Rust ends a panic with a hint that is of no use here.
        if stream == Stream::Err && !line.starts_with("note: ") {
            self.last = Some(line);
        }
    }

    fn may_log(&mut self, now: Instant) -> bool {
        if self.window.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            if self.dropped > 0 {
                tracing::warn!(plugin = %self.plugin, lines = self.dropped, "Plugin wrote too much, lines were dropped");
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

fn text(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii_end();
    (!line.is_empty()).then(|| shown_bytes(line).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::new("p".into())
    }

    #[test]
    fn lines_are_joined_from_parts_and_control_characters_escaped() {
        let (mut lines, now) = (lines(), Instant::now());
        lines.write(Stream::Err, b"pan", now);
        assert_eq!(lines.last_words().unwrap(), "pan");
        lines.write(Stream::Err, b"icked \x1b[31mred\xff \xe2\x80\xaebidi\r\nnext", now);
        assert_eq!(lines.last.as_deref(), Some("panicked \\u{1b}[31mred\\xff \\u{202e}bidi"));
        assert_eq!(lines.last_words().unwrap(), "next");
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
