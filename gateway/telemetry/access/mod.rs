//! The access log: a line for each request, call or connection of a listener, when it is over.
//!
//! Whoever serves a request collects what its line will say in an [`Entry`], which goes with the record of the request.
//! Dropped, it is written: into a buffer of the worker, which a thread of the log empties. So no request waits for a disk
//! or a reader, and lines that find no room are lost and counted.

mod entry;
mod line;
mod output;
mod sink;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::HeaderName;

pub use self::entry::{Entry, Failure, flag};
use self::sink::Sink;

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines of all access logs that were lost since the start: whoever reads them, or the disk, is too slow or gone.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// How the requests of a listener are logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub format: Format,
    pub destination: Destination,
    /// Of those that went well, the share that has a line, from 0 to 1. All others have one.
    pub sample: f64,
    /// Parameters of queries whose values are left out; `*` stands for all.
    pub hide_query: Vec<String>,
    /// Headers of requests whose values are left out.
    pub hide_headers: Vec<HeaderName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time method path protocol status`, and the rest as `name=value`.
    Text,
    /// An object for each line, with every field.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Appended to; opened anew when the gateway is told to.
    File(PathBuf),
    /// A Unix socket that somebody listens at, as a stream or for datagrams.
    Socket(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) | Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// The access log of a listener.
#[derive(Debug)]
pub struct AccessLog {
    settings: Settings,
    sink: Arc<Sink>,
}

impl AccessLog {
    fn hides(&self, header: &HeaderName) -> bool {
        self.settings.hide_headers.contains(header)
    }
}

/// Where access logs go. Listeners with the same destination share it.
///
/// Dropping it waits for the last lines, at most a second for each.
#[derive(Debug, Default)]
pub struct AccessLogs {
    sinks: Mutex<Vec<Weak<Sink>>>,
}

impl AccessLogs {
    /// Fails when the file cannot be opened. A socket may begin to listen later.
    pub fn open(&self, settings: &Settings, workers: usize) -> io::Result<Arc<AccessLog>> {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.strong_count() > 0);
        let same = |sink: &Arc<Sink>| *sink.destination() == settings.destination;
        let sink = match sinks.iter().filter_map(Weak::upgrade).find(same) {
            Some(sink) => sink,
            None => {
                let sink = Arc::new(Sink::open(settings.destination.clone(), workers, &LOST)?);
                sinks.push(Arc::downgrade(&sink));
                sink
            }
        };
        Ok(Arc::new(AccessLog { settings: settings.clone(), sink }))
    }

    /// Opens the files anew, after they were moved away.
    pub fn reopen(&self) {
        for sink in self.sinks.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade)
        {
            sink.reopen();
        }
    }
}

impl Drop for AccessLogs {
    fn drop(&mut self) {
        for sink in
            self.sinks.get_mut().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade)
        {
            sink.end();
        }
    }
}
