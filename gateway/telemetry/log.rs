//! Log lines on standard error: as text for people or as JSON for machines.
//!
//! A line is handed to a thread that writes it, so that whoever logs never waits for a terminal or a pipe that is
//! full. When more lines wait than fit, new ones are dropped and counted.

use std::{
    io::{self, IsTerminal, Write},
    str::FromStr,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt, fmt::MakeWriter};

use super::line;
use crate::backoff::Lasting;

/// The variable that says what is logged, when no flag does.
pub const VARIABLE: &str = "WITGATE_LOG";

/// Lines that may wait for the writing thread.
const WAITING: usize = 8_192;

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

static LOST: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            wrong => Err(format!("log format {wrong:?} is neither text nor json")),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log filter {filter:?} is not understood: {reason}")]
    Filter { filter: String, reason: String },
    #[error("logging is set up already")]
    Twice,
    #[error("no thread for log lines: {0}")]
    Thread(#[from] io::Error),
}

/// Sets logging up for the whole process. Lines are written until the returned guard is dropped, which waits for
/// those on their way, at most a second.
///
/// `filter` is a level, then that of the gateway while the libraries below it only warn, or a list like
/// `info,witgate::registry=debug`. Without one the variable `WITGATE_LOG` counts, and without that `info`.
pub fn start(format: Format, filter: Option<&str>) -> Result<Guard, LogError> {
    let from_environment = std::env::var(VARIABLE).ok();
    let filter = read_filter(filter.or(from_environment.as_deref()).unwrap_or("info"))?;
    let (lines, guard) = Lines::to(io::stderr(), WAITING, &LOST)?;
    let (shape, colours) = match format {
        Format::Text => (line::Lines::Text, io::stderr().is_terminal()),
        Format::Json => (line::Lines::Json, false),
    };
    fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(lines)
        .event_format(shape)
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(guard)
}

/// Lines dropped since the start.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

fn read_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let spelled = match filter.parse::<tracing::Level>() {
        Ok(level) => format!("warn,witgate={level}"),
        Err(_) => filter.to_owned(),
    };
    EnvFilter::builder()
        .parse(spelled)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

enum Message {
    Line(Vec<u8>),
    End,
}

/// The way to the writing thread, and the count of what was dropped on it.
#[derive(Clone)]
struct Lines {
    lines: SyncSender<Message>,
    lost: &'static AtomicU64,
}

impl Lines {
    fn to(
        mut output: impl Write + Send + 'static,
        waiting: usize,
        lost: &'static AtomicU64,
    ) -> io::Result<(Self, Guard)> {
        let (sender, receiver) = sync_channel(waiting);
        let (ended, end) = sync_channel(1);
        thread::Builder::new().name("log".into()).spawn(move || {
            write_all(&mut output, &receiver, lost);
            let _ = ended.send(());
        })?;
        Ok((Self { lines: sender.clone(), lost }, Guard { lines: sender, end }))
    }
}

fn write_all(output: &mut impl Write, lines: &Receiver<Message>, all_lost: &AtomicU64) {
    let mut told = all_lost.load(Relaxed);
    let mut losing = Lasting::default();
    while let Ok(Message::Line(line)) = lines.recv() {
        // Whoever closed standard error does not want to hear of it.
        let _ = output.write_all(&line);
        let lost = all_lost.load(Relaxed);
        // Each report is a line, too, and may take the place of another.
        if lost == told {
            losing.over();
        } else if let Some(lasts) = losing.met("") {
            tracing::warn!(
                lines = lost - told,
                for_seconds = lasts.for_seconds,
                "Log lines lost: standard error is not read fast enough"
            );
            told = lost;
        }
    }
    let _ = output.flush();
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { to: self, text: Vec::new() }
    }
}

/// One line being made.
struct Line<'a> {
    to: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if self.to.lines.try_send(Message::Line(text)).is_err() {
            self.to.lost.fetch_add(1, Relaxed);
        }
    }
}

/// Keeps the lines being written. Dropping it ends that, after the last lines.
pub struct Guard {
    lines: SyncSender<Message>,
    end: Receiver<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.lines.try_send(Message::End).is_ok() {
            // Whether the lines came out in time or not, the process may end now.
            let _ = self.end.recv_timeout(LAST_LINES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(part);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that nobody reads: says when a line has reached it, and blocks until the other end is dropped.
    struct Stuck(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_last_shape_written_before_the_guard_is_gone() {
        let written = Written::default();
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (lines, guard) = Lines::to(written.clone(), 100, &LOST).unwrap();
        for number in 0..50 {
            writeln!(lines.make_writer(), "line {number}").unwrap();
        }
        drop(guard);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!((text.lines().count(), text.lines().next_back()), (50, Some("line 49")));
    }

    #[test]
    fn who_logs_never_waits_for_an_output_that_nobody_reads() {
        let (reached, reaches) = mpsc::channel();
        let (release, stuck) = mpsc::channel::<()>();
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (lines, guard) = Lines::to(Stuck(reached, stuck), 1, &LOST).unwrap();
        writeln!(lines.make_writer(), "blocks the output").unwrap();
        reaches.recv().unwrap();
        for _ in 0..100 {
            writeln!(lines.make_writer(), "one waits, the rest is dropped").unwrap();
        }
        assert_eq!(LOST.load(Relaxed), 99);
        drop(release);
        drop(guard);
    }

    /// An output that is so slow that with every second line another one is dropped.
    struct Slow(&'static AtomicU64, u64);

    impl Write for Slow {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.fetch_add(self.1 % 2, Relaxed);
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn that_lines_are_lost_all_the_time_is_told_seldom() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        const LINES: usize = 10_000;
        let (sender, receiver) = sync_channel(LINES + 1);
        for _ in 0..LINES {
            sender.send(Message::Line(b"line\n".to_vec())).unwrap();
        }
        sender.send(Message::End).unwrap();
        let reports = Written::default();
        let copy = reports.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || copy.clone()).finish();
        tracing::subscriber::with_default(log, || write_all(&mut Slow(&LOST, 0), &receiver, &LOST));
        assert_eq!(LOST.load(Relaxed), LINES as u64 / 2);
        let reports = String::from_utf8(reports.0.lock().unwrap().clone()).unwrap();
        assert!(reports.contains("lines=1 for_seconds=0"), "{reports}");
        // Once, and again when a busy machine takes long for it.
        assert!(reports.matches("Log lines lost").count() <= 4, "{reports}");
    }

    #[test]
    fn a_level_alone_is_that_of_the_gateway() {
        assert_eq!(read_filter("debug").unwrap().to_string(), "witgate=debug,warn");
        assert_eq!(read_filter("hyper=trace").unwrap().to_string(), "hyper=trace");
    }

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let error = read_filter("witgate=loud").unwrap_err().to_string();
        assert!(error.starts_with("log filter \"witgate=loud\" is not understood: "), "{error}");
    }
}
