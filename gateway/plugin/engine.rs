//! The engine that compiles and runs plugins, and the clock that ends those that loop.

use std::{
    num::NonZero,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        },
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::{Cache, CacheConfig, Config, OptLevel, Store, UpdateDeadline};

use super::memory::Total;
use crate::{selector::Beside, upstream::since_epoch};

/// The unit of deadlines.
const TICK: Duration = Duration::from_millis(5);

/// After so many ticks a guest that still runs holds the clock.
const HOLDS_AFTER: u64 = 8;

/// The clock rests when for so many ticks no guest has begun to run and none holds it. Must be more than a guest
/// runs before it holds the clock.
const RESTS_AFTER: u64 = 2 * HOLDS_AFTER;

/// `create` and `update` may take so many times their limit by the wall, on a machine that is short of CPU.
const WALL: u32 = 10;

/// Selectors that take long are made on as many threads as this is a share of the processors, so that the workers keep
/// most of them.
const BESIDE_SHARE: usize = 4;

/// The engine is of no use: this platform cannot run compiled WebAssembly.
#[derive(Debug, thiserror::Error)]
#[error("no engine for plugins: {0}")]
pub struct EngineError(pub(super) String);

/// One engine for all plugins. Cheap to clone; its clock's thread ends by itself when nobody has the clock any more.
#[derive(Clone)]
pub struct Engine {
    clock: Arc<Clock>,
    beside: Arc<Beside>,
    memory: Arc<Total>,
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
        let engine = wasmtime::Engine::new(&config).map_err(|error| EngineError(format!("{error:#}")))?;
        let clock = Arc::new(Clock::new(engine));
        let ticking = Arc::downgrade(&clock);
        let ticker = thread::Builder::new()
            .name("plugin-clock".into())
            .spawn(move || tick(&ticking))
            .map_err(|error| EngineError(error.to_string()))?;
        // Nobody else has the clock yet.
        let _ = clock.ticker.set(ticker.thread().clone());
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let beside = Beside::new((processors / BESIDE_SHARE).max(1));
        Ok(Self { clock, beside, memory: Arc::new(Total::new(usize::MAX)) })
    }

    /// Its instances have so much memory together.
    pub(super) fn with_memory(self, bytes: usize) -> Self {
        Self { memory: Arc::new(Total::new(bytes)), ..self }
    }

    /// The memory that all instances share.
    pub(super) fn memory(&self) -> &Arc<Total> {
        &self.memory
    }

    pub(super) fn inner(&self) -> &wasmtime::Engine {
        &self.clock.engine
    }

    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// Where balancers are made that take long.
    pub(super) fn beside(&self) -> &Arc<Beside> {
        &self.beside
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

// The clock is held weakly between ticks, so that this thread never keeps it alive.
fn tick(clock: &Weak<Clock>) {
    let mut quiet = 0;
    while let Some(there) = clock.upgrade() {
        quiet = there.tick(quiet);
        let rests = there.state.load(Acquire) == RESTING;
        drop(there);
        match rests {
            true => thread::park(),
            false => thread::sleep(TICK),
        }
    }
}

/// No guest runs, and no time passes for guests.
const RESTING: u8 = 0;
/// Time passes, and since the last tick nobody said that a guest runs.
const QUIET: u8 = 1;
/// Time passes, and a guest has run since the last tick.
const RUNNING: u8 = 2;

/// The clock of all guests: it ends those that loop, and says what time it is as of its last tick, which is a load
/// where asking the system would be a call.
///
/// It ticks only while guests run, so that an idle gateway sleeps. A call says that it begins with one load of what
/// is in the cache already; once per tick it is a store as well, and after a rest a system call. Calls that take
/// long are counted besides.
pub(super) struct Clock {
    engine: wasmtime::Engine,
    /// As of the statistics, which guests ask for.
    nanos: AtomicU64,
    state: AtomicU8,
    /// How many guests have run for long and still do.
    held: AtomicUsize,
    ticker: OnceLock<Thread>,
}

/// A guest that has run for long: the clock ticks until this is dropped.
pub(super) struct Held(Arc<Clock>);

impl Held {
    pub fn new(clock: &Arc<Clock>) -> Self {
        clock.held.fetch_add(1, SeqCst);
        clock.guest_runs();
        Self(clock.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
    }
}

impl Clock {
    fn new(engine: wasmtime::Engine) -> Self {
        let (nanos, state, held) = (AtomicU64::new(0), AtomicU8::new(RESTING), AtomicUsize::new(0));
        Self { engine, nanos, state, held, ticker: OnceLock::new() }
    }

    /// Says that a guest is about to run: the clock ticks from now on, [`RESTS_AFTER`] times at least. To be called
    /// after the deadline is set: the thread may lose its processor in between for longer than the clock waits, and
    /// then it is the deadline that has passed and not the guest that is forgotten.
    pub fn guest_runs(&self) {
        if self.state.load(Relaxed) != RUNNING && self.state.swap(RUNNING, AcqRel) == RESTING {
            self.set();
            self.wake();
        }
    }

    /// The time in nanoseconds since the epoch of statistics; a tick old at most while a guest runs.
    pub fn now(&self) -> u64 {
        self.nanos.load(Relaxed)
    }

    fn set(&self) {
        self.nanos.store(since_epoch(Instant::now()), Relaxed);
    }

    fn wake(&self) {
        if let Some(ticker) = self.ticker.get() {
            ticker.unpark();
        }
    }

    /// One tick, after so many quiet ones. Returns how many are quiet now.
    fn tick(&self, quiet: u64) -> u64 {
        self.engine.increment_epoch();
        self.set();
        // What is lost when a guest says that it runs between the two lines is told anew with the next call.
        if self.state.compare_exchange(RUNNING, QUIET, AcqRel, Relaxed).is_ok() {
            return 0;
        }
        if quiet >= RESTS_AFTER && self.held.load(SeqCst) == 0 {
            // An error says that a guest has just begun to run.
            let _ = self.state.compare_exchange(QUIET, RESTING, AcqRel, Relaxed);
        }
        quiet + 1
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.wake();
    }
}

/// So many ticks give a call at least this time.
fn ticks(limit: Duration) -> u64 {
    u64::try_from(limit.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX / 2) + 1
}

/// Ends synchronous calls that pass the deadline set before them.
pub(super) fn end_loops<T: HasDeadline>(store: &mut Store<T>) {
    store.epoch_deadline_callback(|mut store| {
        let clock = store.data().clock().clone();
        let deadline = store.data_mut().deadline();
        deadline.held.get_or_insert_with(|| Held::new(&clock));
        Ok(deadline.judge())
    });
}

/// How long a kind of call may take. Made once: a division per call would cost as much as the rest of its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    limit: Duration,
    ticks: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Quick,
    Exact,
    Brief,
}

impl Bound {
    /// For calls on the path of requests: they ask no clock when they begin.
    ///
    /// The limit passes by the wall, and a thread may not have run all that time. So the first time it passes starts
    /// a second account, of the thread's own CPU time, and only when that is used up, too, the call is ended: a
    /// machine that is short of CPU must not quarantine its plugins.
    pub fn quick(limit: Duration) -> Self {
        Self { limit, ticks: ticks(limit), kind: Kind::Quick }
    }

    /// For calls beside the path of requests: the limit is CPU time from their beginning, and ten times as much is
    /// the limit by the wall.
    pub fn exact(limit: Duration) -> Self {
        Self { limit, ticks: ticks(limit), kind: Kind::Exact }
    }

    /// For calls between requests, which can be made elsewhere: the limit is CPU time from their beginning. A machine
    /// that is short of CPU is so elsewhere, too.
    pub fn brief(limit: Duration) -> Self {
        Self { limit, ticks: ticks(limit), kind: Kind::Brief }
    }

    /// Begins a call that ends by itself when this is used up. The store must [`end_loops`].
    pub fn start<T: HasDeadline>(self, store: &mut Store<T>) {
        let account = match self.kind {
            Kind::Quick => Account::Quick,
            Kind::Exact => Account::Exact { cpu: cpu_time(), wall: Some(Instant::now()) },
            Kind::Brief => Account::Exact { cpu: cpu_time(), wall: None },
        };
        let first = self.ticks.min(HOLDS_AFTER);
        let left = self.ticks - first;
        *store.data_mut().deadline() =
            Deadline { limit: self.limit, left, account, passed: None, held: None };
        store.set_epoch_deadline(first);
        store.data().clock().guest_runs();
    }
}

/// The deadline of the call that runs now.
#[derive(Default)]
pub(super) struct Deadline {
    limit: Duration,
    /// Ticks before it is judged for the first time.
    left: u64,
    account: Account,
    passed: Option<Passed>,
    held: Option<Held>,
}

/// What a call has used, since when.
#[derive(Default)]
enum Account {
    #[default]
    Quick,
    /// A quick call whose limit has passed by the wall, and the CPU time of its thread then.
    Overdue(Duration),
    /// What the thread had used when the call began, and when that was if time by the wall counts.
    Exact { cpu: Duration, wall: Option<Instant> },
}

/// The limit that ended a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// It has computed for so long.
    Cpu(Duration),
    /// It has not, and is not done after so long.
    Wall(Duration),
}

pub(super) trait HasDeadline: 'static {
    fn deadline(&mut self) -> &mut Deadline;
    fn clock(&self) -> &Arc<Clock>;
}

impl Deadline {
    /// The limit that ended the call, if one did.
    pub fn passed(&self) -> Option<Passed> {
        self.passed
    }

    /// What the thread has computed since an exact call began.
    pub fn used(&self) -> Duration {
        match self.account {
            Account::Exact { cpu, .. } => cpu_time().saturating_sub(cpu),
            _ => Duration::ZERO,
        }
    }

    /// The call is over, and the clock may rest.
    pub fn end(&mut self) {
        self.held = None;
    }

    /// Lets the call go on, for some ticks, or ends it.
    fn judge(&mut self) -> UpdateDeadline {
        if self.left > 0 {
            return UpdateDeadline::Continue(std::mem::take(&mut self.left));
        }
        let passed = match self.account {
            Account::Quick => {
                self.account = Account::Overdue(cpu_time());
                None
            }
            Account::Overdue(since) => self.passed_cpu(since),
            Account::Exact { cpu, wall } => self.passed_cpu(cpu).or_else(|| {
                let most = self.limit.saturating_mul(WALL);
                wall.is_some_and(|began| began.elapsed() >= most).then_some(Passed::Wall(most))
            }),
        };
        self.passed = passed;
        if passed.is_some() { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) }
    }

    fn passed_cpu(&self, since: Duration) -> Option<Passed> {
        (cpu_time().saturating_sub(since) >= self.limit).then_some(Passed::Cpu(self.limit))
    }
}

/// The CPU time that the calling thread has used.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(clock: &Clock) -> bool {
        clock.state.load(Acquire) == RESTING
    }

    fn wait_for(what: &str, fact: impl Fn() -> bool) {
        let start = Instant::now();
        while !fact() {
            assert!(start.elapsed() < Duration::from_secs(30), "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_clock_ticks_while_guests_run_and_rests_when_none_does() {
        let engine = Engine::new(None).unwrap();
        let clock = engine.clock();
        assert!(rests(clock));
        for _ in 0..3 {
            let before = since_epoch(Instant::now());
            clock.guest_runs();
            assert!(clock.now() >= before, "the time is right after a rest");
            let told = clock.now();
            wait_for("the clock ticks", || {
                clock.guest_runs();
                clock.now() > told + (TICK * 50).as_nanos() as u64
            });
            assert!(!rests(clock));
            wait_for("the clock rests", || rests(clock));
        }
    }

    /// A clock that ticks when the test says so.
    fn by_hand() -> Arc<Clock> {
        Arc::new(Clock::new(wasmtime::Engine::default()))
    }

    #[test]
    fn the_clock_ticks_for_longer_than_a_guest_is_silent() {
        let (clock, mut quiet) = (by_hand(), 0);
        clock.guest_runs();
        for tick in 0..=HOLDS_AFTER {
            quiet = clock.tick(quiet);
            assert!(!rests(&clock), "after {tick} ticks");
        }
        (0..RESTS_AFTER).for_each(|_| quiet = clock.tick(quiet));
        assert!(rests(&clock));
    }

    #[test]
    fn the_clock_does_not_rest_while_it_is_held() {
        let (clock, mut quiet) = (by_hand(), 0);
        let (one, other) = (Held::new(&clock), Held::new(&clock));
        drop(one);
        (0..RESTS_AFTER * 10).for_each(|_| quiet = clock.tick(quiet));
        assert!(!rests(&clock));
        drop(other);
        clock.tick(quiet);
        assert!(rests(&clock));
    }

    struct Guest(Deadline, Arc<Clock>);

    impl HasDeadline for Guest {
        fn deadline(&mut self) -> &mut Deadline {
            &mut self.0
        }
        fn clock(&self) -> &Arc<Clock> {
            &self.1
        }
    }

    #[test]
    fn a_call_beside_requests_is_judged_by_all_that_it_has_computed() {
        let limit = Duration::from_millis(50);
        let passed = |bound: Bound| {
            let clock = by_hand();
            let mut store = Store::new(&clock.engine, Guest(Deadline::default(), clock.clone()));
            bound.start(&mut store);
            let began = cpu_time();
            while cpu_time() - began < limit {
                std::hint::spin_loop();
            }
            let deadline = store.data_mut().deadline();
            deadline.judge();
            assert_eq!(deadline.passed(), None, "before its ticks are over");
            deadline.judge();
            deadline.passed()
        };
        assert_eq!(passed(Bound::exact(limit)), Some(Passed::Cpu(limit)));
        assert_eq!(passed(Bound::brief(limit)), Some(Passed::Cpu(limit)));
        assert_eq!(passed(Bound::quick(limit)), None, "a pick asked no clock when it began");
    }

    #[test]
    fn a_call_beside_requests_that_gets_no_cpu_ends_at_ten_times_its_limit() {
        let limit = Duration::from_millis(50);
        let judged = |ago: Duration| {
            // All that this thread has used is no more than it had used then.
            let account = Account::Exact { cpu: Duration::MAX, wall: Some(Instant::now() - ago) };
            let mut deadline = Deadline { limit, account, ..Deadline::default() };
            deadline.judge();
            deadline.passed()
        };
        assert_eq!(judged(limit * 9), None);
        assert_eq!(judged(limit * 10), Some(Passed::Wall(limit * 10)));
    }

    #[test]
    fn the_thread_ends_with_the_last_clock() {
        let engine = Engine::new(None).unwrap();
        let clock = Arc::downgrade(engine.clock());
        wait_for("the thread holds no clock while it rests", || Arc::strong_count(engine.clock()) == 1);
        drop(engine);
        assert!(clock.upgrade().is_none());
    }
}
