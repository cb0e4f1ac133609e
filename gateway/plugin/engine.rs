//! The engine that compiles and runs plugins, and the clock that ends those that loop.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use wasmtime::{Cache, CacheConfig, Config, EngineWeak, OptLevel, Store, UpdateDeadline};

/// The unit of deadlines.
const TICK: Duration = Duration::from_millis(5);

/// The engine is of no use: this platform cannot run compiled WebAssembly.
#[derive(Debug, thiserror::Error)]
#[error("no engine for plugins: {0}")]
pub struct EngineError(pub(super) String);

/// One engine for all plugins. Cheap to clone; its ticker thread ends by itself when the last clone is gone.
#[derive(Clone)]
pub struct Engine {
    inner: wasmtime::Engine,
    clock: Arc<Clock>,
}

impl Engine {
    /// Keeps compiled code under `cache`. A folder that cannot be used is only a warning: plugins are then
    /// compiled at every start.
    pub fn new(cache: Option<&Path>) -> Result<Self, EngineError> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        // Calls into components cost more than twice as much with it.
        config.concurrency_support(false);
        config.cranelift_opt_level(OptLevel::Speed);
        config.cache(cache.and_then(open_cache));
        let inner = wasmtime::Engine::new(&config).map_err(|error| EngineError(format!("{error:#}")))?;
        let clock = Arc::new(Clock { start: Instant::now(), nanos: AtomicU64::new(0) });
        let (engine, ticking) = (inner.weak(), clock.clone());
        thread::Builder::new()
            .name("plugin-clock".into())
            .spawn(move || tick(&engine, &ticking))
            .map_err(|error| EngineError(error.to_string()))?;
        Ok(Self { inner, clock })
    }

    pub(super) fn inner(&self) -> &wasmtime::Engine {
        &self.inner
    }

    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

fn open_cache(directory: &Path) -> Option<Cache> {
    let mut config = CacheConfig::new();
    // Must be absolute. The folder may not exist yet, so it cannot be canonicalised.
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    config.with_directory(absolute);
    match Cache::new(config) {
        Ok(cache) => Some(cache),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(directory = %directory.display(), error, "Compiled plugins are not cached");
            None
        }
    }
}

// The engine is held weakly between ticks, so that this thread never keeps it alive.
fn tick(engine: &EngineWeak, clock: &Clock) {
    while let Some(engine) = engine.upgrade() {
        engine.increment_epoch();
        clock.nanos.store(clock.start.elapsed().as_nanos() as u64, Relaxed);
        drop(engine);
        thread::sleep(TICK);
    }
}

/// The time as of the last tick: a load where asking the system would be a call.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    nanos: AtomicU64,
}

impl Clock {
    pub fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.nanos.load(Relaxed))
    }
}

/// So many ticks give a call at least this time.
pub(super) fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2) + 1
}

/// Ends synchronous calls that pass the deadline set before them.
///
/// A deadline passes by the wall, and a thread may not have run all that time. So the first time it passes starts
/// a second account, of the thread's own CPU time, and only when that is used up, too, the call is ended: a machine
/// that is short of CPU must not quarantine its plugins.
pub(super) fn end_loops<T: HasDeadline>(store: &mut Store<T>) {
    store.epoch_deadline_callback(|mut store| {
        let deadline = store.data_mut().deadline();
        let now = cpu_time();
        match deadline.overdue_since {
            None => {
                deadline.overdue_since = Some(now);
                Ok(UpdateDeadline::Continue(1))
            }
            Some(since) if now.saturating_sub(since) < deadline.limit => Ok(UpdateDeadline::Continue(1)),
            Some(_) => {
                deadline.passed = true;
                Ok(UpdateDeadline::Interrupt)
            }
        }
    });
}

/// How long a kind of call may take. Made once: a division per call would cost as much as the rest of its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    limit: Duration,
    ticks: u64,
}

impl Bound {
    pub fn new(limit: Duration) -> Self {
        Self { limit, ticks: ticks(limit) }
    }

    /// Begins a call that ends by itself when this is used up. The store must [`end_loops`].
    pub fn start<T: HasDeadline>(self, store: &mut Store<T>) {
        *store.data_mut().deadline() = Deadline { limit: self.limit, overdue_since: None, passed: false };
        store.set_epoch_deadline(self.ticks);
    }
}

/// The deadline of the call that runs now.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    limit: Duration,
    overdue_since: Option<Duration>,
    passed: bool,
}

pub(super) trait HasDeadline: 'static {
    fn deadline(&mut self) -> &mut Deadline;
}

impl Deadline {
    /// The limit of the call that was ended, if one was.
    pub fn passed(&self) -> Option<Duration> {
        self.passed.then_some(self.limit)
    }
}

/// The CPU time that the calling thread has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
