//! How often a plugin failed, and when that is too often.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use wasmtime::{Trap, WasmBacktrace};

use super::{
    engine::{Deadline, Passed},
    limits::Limits,
    runtime::Lines,
};
use crate::backoff::{Lasting, Report};

const WINDOW: Duration = Duration::from_secs(60);

/// Counts the faults of one version of a plugin, over all workers. A quarantined version stays quarantined.
#[derive(Debug)]
pub(super) struct Faults {
    plugin: Arc<str>,
    /// Faults within a minute after which the plugin is quarantined; 0 for never.
    most: u32,
    recent: Mutex<Recent>,
    total: AtomicU64,
    quarantined: AtomicBool,
}

/// Faults of late.
#[derive(Debug, Default)]
struct Recent {
    times: VecDeque<Instant>,
    report: Lasting,
    last: Option<LastFault>,
}

/// When a plugin failed last, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFault {
    pub at: SystemTime,
    pub text: Arc<str>,
}

impl Faults {
    pub fn new(plugin: Arc<str>, most: u32) -> Self {
        let (total, quarantined) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { plugin, most, recent: Mutex::default(), total, quarantined }
    }

    pub fn quarantined(&self) -> bool {
        self.quarantined.load(Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    pub fn last(&self) -> Option<LastFault> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).last.clone()
    }

    pub fn count(&self, text: &str, now: Instant) {
        self.total.fetch_add(1, Relaxed);
        let (report, too_many) = self.note(text, now);
        if let Some(report) = report {
            tracing::warn!(plugin = %self.plugin, error = text, for_seconds = report.for_seconds,
                times = report.times, "Plugin failed");
        }
        if too_many && !self.quarantined.swap(true, Relaxed) {
            tracing::error!(plugin = %self.plugin, faults = self.most, error = text,
                "Plugin quarantined, native round robin picks until its file changes");
        }
    }

    /// Whether this is worth a report, and whether it is one too many.
    fn note(&self, text: &str, now: Instant) -> (Option<Report>, bool) {
        // Held for a few lines, and only when a plugin has failed.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let Recent { times, report, last } = &mut *recent;
        *last = Some(LastFault { at: SystemTime::now(), text: text.into() });
        times.push_back(now);
        while times.front().is_some_and(|first| now.saturating_duration_since(*first) > WINDOW)
            || times.len() > self.most as usize
        {
            times.pop_front();
        }
        (report.happened(text), self.most > 0 && times.len() >= self.most as usize)
    }
}

/// What went wrong in a call, for logs, metrics and the API: the cause first, then what explains it.
pub(super) fn describe(
    call: &str,
    error: &wasmtime::Error,
    deadline: Option<&Deadline>,
    limits: &Limits,
    said: &Lines,
) -> Arc<str> {
    let passed = deadline.and_then(Deadline::passed);
    let mut text = match (passed, error.downcast_ref::<Trap>()) {
        (Some(Passed::Cpu(limit)), _) => format!("{call} took longer than {limit:?}"),
        (Some(Passed::Wall(limit)), _) => format!("{call} was not done after {limit:?}"),
        (None, Some(trap)) => format!("{call}: {trap}"),
        (None, None) => format!("{call}: {}", causes(error)),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        said.backtrace(&frames(backtrace));
    }
    if let Some(limit) = limits.hit() {
        text = format!("{text}; {limit}");
    }
    if let Some(words) = said.last_words() {
        text = format!("{text}; last words: {words}");
    }
    text.into()
}

/// What went wrong and why, without where: that is logged once and by itself.
fn causes(error: &wasmtime::Error) -> String {
    let all = error.chain().map(ToString::to_string);
    let causes: Vec<String> =
        all.filter(|cause| !cause.starts_with("error while executing at wasm backtrace")).collect();
    causes.join(": ")
}

/// The functions that the plugin was in, the innermost first, by name where it has names.
fn frames(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    let names = text.lines().filter_map(|line| line.split_once(" - ")).map(|(_, name)| name.trim());
    names.collect::<Vec<_>>().join(" < ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_faults_within_a_minute_bench_and_fewer_do_not() {
        let faults = Faults::new("p".into(), 3);
        let start = Instant::now();
        for at in [0, 40, 80, 120] {
            faults.count("trap", start + Duration::from_secs(at));
        }
        assert!(!faults.quarantined());
        faults.count("trap", start + Duration::from_secs(130));
        assert!(faults.quarantined());
        assert_eq!(faults.total(), 5);
    }

    #[test]
    fn a_fault_that_comes_again_and_again_is_reported_seldom_and_counted_each_time() {
        let faults = Faults::new("p".into(), 0);
        let told = (0..1_000).filter(|_| faults.note("trap", Instant::now()).0.is_some()).count();
        // As long as this takes less than ten seconds.
        assert!((1..=2).contains(&told), "{told}");
        assert!(faults.note("another trap", Instant::now()).0.is_some(), "another reason is told");
    }

    #[test]
    fn zero_means_never() {
        let faults = Faults::new("p".into(), 0);
        (0..100).for_each(|_| faults.count("trap", Instant::now()));
        assert!(!faults.quarantined());
    }
}
