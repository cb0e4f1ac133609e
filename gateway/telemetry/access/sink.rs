//! The way of lines from the workers to an output: a buffer for each worker, and a thread that empties them.

use std::{
    io, mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{
    Destination,
    output::{Output, WriteError},
};
use crate::{backoff::Lasting, telemetry::text::shown};

/// What a worker's lines may take before more of them are lost, in bytes.
const MOST: usize = 4 << 20;

/// The thread takes so much at once without waiting for more, in bytes.
const PLENTY: usize = 64 << 10;

/// How long lines are gathered, so that not every line wakes the thread.
const GATHERED: Duration = Duration::from_millis(100);

/// A buffer that has grown beyond this is given back, in bytes.
const KEPT_MOST: usize = 256 << 10;

/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Dropped, it writes what it has, and its thread ends.
#[derive(Debug)]
pub(super) struct Sink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    destination: Destination,
    /// By worker. Each is locked by its worker and, for a moment, by the thread.
    buffers: Box<[Mutex<Vec<u8>>]>,
    todo: Mutex<Todo>,
    changed: Condvar,
    lost: &'static AtomicU64,
}

/// What the thread has to do.
#[derive(Debug, Default)]
struct Todo {
    write: bool,
    /// Without waiting for more.
    at_once: bool,
    reopen: bool,
    end: bool,
    ended: bool,
}

impl Sink {
    pub(super) fn open(
        destination: Destination,
        workers: usize,
        lost: &'static AtomicU64,
    ) -> io::Result<Self> {
        let output = Output::open(&destination)?;
        let (buffers, todo, changed) =
            ((0..workers).map(|_| Mutex::default()).collect(), Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { destination, buffers, todo, changed, lost });
        let own = shared.clone();
        thread::Builder::new().name("access-log".into()).spawn(move || own.run(output))?;
        Ok(Self(shared))
    }

    pub(super) fn destination(&self) -> &Destination {
        &self.0.destination
    }

    /// Takes a line of a worker. Waits for nothing but, seldom, the thread that takes the lines of that worker.
    pub(super) fn push(&self, worker: usize, line: &[u8]) {
        let Some(buffer) = self.0.buffers.get(worker) else { return };
        let mut buffer = lock(buffer);
        let before = buffer.len();
        let after = before + line.len();
        if after > MOST {
            self.0.lost.fetch_add(1, Relaxed);
            return;
        }
        buffer.extend_from_slice(line);
        drop(buffer);
        let (first, plenty) = (before == 0, before < PLENTY && after >= PLENTY);
        if first || plenty {
            self.0.ask(|todo| {
                todo.write = true;
                todo.at_once |= plenty;
            });
        }
    }

    pub(super) fn reopen(&self) {
        self.0.ask(|todo| todo.reopen = true);
    }

    /// Waits until everything is written, at most a second.
    pub(super) fn end(&self) {
        self.0.ask(|todo| todo.end = true);
        let todo = lock(&self.0.todo);
        // Whether the lines came out in time or not, the process may end.
        drop(self.0.changed.wait_timeout_while(todo, LAST_LINES, |todo| !todo.ended));
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.ask(|todo| todo.end = true);
    }
}

impl Shared {
    fn ask(&self, change: impl FnOnce(&mut Todo)) {
        change(&mut lock(&self.todo));
        self.changed.notify_all();
    }

    fn run(&self, mut output: Output) {
        let (mut lines, mut failing, mut losing) = (Vec::new(), Lasting::default(), Lasting::default());
        let mut told = self.lost.load(Relaxed);
        loop {
            let Todo { reopen, end, .. } = self.wait();
            for buffer in &self.buffers {
                mem::swap(&mut *lock(buffer), &mut lines);
                if !lines.is_empty() {
                    self.write(&mut output, &lines, &mut failing);
                    lines.clear();
                }
                if lines.capacity() > KEPT_MOST {
                    lines = Vec::new();
                }
            }
            // What was said before goes to the old file.
            if reopen && let Err(error) = output.reopen(&self.destination) {
                tracing::error!(output = %self.destination, %error, "Access log cannot be opened anew, going on with the old one");
            }
            let lost = self.lost.load(Relaxed);
            if lost == told {
                losing.over();
            } else if let Some(lasts) = losing.met("") {
                let lines = lost - told;
                tracing::warn!(output = %self.destination, lines, for_seconds = lasts.for_seconds, "Lines of access logs lost");
                told = lost;
            }
            if end {
                return self.ask(|todo| todo.ended = true);
            }
        }
    }

    /// Waits until there is something to do, and then for more of it.
    fn wait(&self) -> Todo {
        let until = |todo: &mut Todo| !(todo.write || todo.reopen || todo.end);
        let todo = self.changed.wait_while(lock(&self.todo), until).unwrap_or_else(PoisonError::into_inner);
        let gather = |todo: &mut Todo| !(todo.at_once || todo.reopen || todo.end);
        let gathered = self.changed.wait_timeout_while(todo, GATHERED, gather);
        let (mut todo, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        let left = Todo { end: todo.end, ended: todo.ended, ..Todo::default() };
        mem::replace(&mut todo, left)
    }

    fn write(&self, output: &mut Output, lines: &[u8], failing: &mut Lasting) {
        match output.write(&self.destination, lines) {
            Ok(()) => {
                if let Some(lasted) = failing.over() {
                    tracing::info!(output = %self.destination, for_seconds = lasted.for_seconds, "Access log can be written again");
                }
            }
            Err(WriteError { wrote, error }) => {
                let count = lines[wrote..].iter().filter(|byte| **byte == b'\n').count();
                self.lost.fetch_add(count as u64, Relaxed);
                let text = shown(&error).to_string();
                if let Some(lasts) = failing.met(&text) {
                    tracing::warn!(output = %self.destination, error = text, for_seconds = lasts.for_seconds,
                        "Access log cannot be written, its lines are lost");
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
