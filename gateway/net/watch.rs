//! The one mechanism that bounds waits: each worker looks at everything that waits, a few times per limit.
//!
//! What waits costs no timer, and what moves asks for no time: it changes a count, and whoever looks sees that the
//! count has changed since the last look. So a limit is never met early, and late by an eighth of itself at most (or
//! by a few milliseconds where that is more).

use std::{
    cell::{Cell, RefCell},
    future::pending,
    rc::Rc,
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Looks per limit. A standstill is first seen one look late, and its end found one look late.
const LOOKS: u32 = 16;
const MOST_OFTEN: Duration = Duration::from_millis(2);
const LEAST_OFTEN: Duration = Duration::from_millis(250);

/// Something that may wait too long.
pub trait Watched {
    /// Is called a few times within the limit that was told, and ends what has waited too long. Says whether it waits
    /// for anything still; otherwise it is not looked at until [`Place::wait`] says that it waits again.
    fn look(&self, now: Instant) -> bool;
}

/// What one worker looks at.
#[derive(Default)]
pub struct Watch {
    entries: RefCell<Slab<Entry>>,
    /// When the next look is due; none while nothing waits.
    due: Cell<Option<Instant>>,
    /// A look is due sooner than it was.
    sooner: Notify,
}

struct Entry {
    watched: Rc<dyn Watched>,
    /// None while it does not wait.
    every: Option<Duration>,
    next: Instant,
}

/// A place with the watch. Dropped, it is looked at no more.
pub struct Place {
    watch: Rc<Watch>,
    key: usize,
}

impl Watch {
    /// Something that does not wait yet.
    pub fn enter(self: &Rc<Self>, watched: Rc<dyn Watched>) -> Place {
        let key = self.entries.borrow_mut().insert(Entry { watched, every: None, next: Instant::now() });
        Place { watch: self.clone(), key }
    }

    /// Looks, for ever. Sleeps while nothing waits.
    pub async fn run(&self) {
        loop {
            let due = self.due.get();
            let sleeping = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = sleeping => self.look(Instant::now()),
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Looks at all whose time has come, and a little ahead, so that what comes due together is seen together.
    fn look(&self, now: Instant) {
        // Nothing is borrowed while something looks: what it finds may end others, and that leaves the watch.
        let mut ready = Vec::new();
        let mut due: Option<Instant> = None;
        for (key, entry) in self.entries.borrow_mut().iter_mut() {
            let Some(every) = entry.every else { continue };
            if entry.next <= now + every / 2 {
                entry.next = now + every;
                ready.push((key, entry.watched.clone()));
            }
            due = Some(due.map_or(entry.next, |due| due.min(entry.next)));
        }
        self.due.set(due);
        for (key, watched) in ready {
            if !watched.look(now)
                && let Some(entry) = self.entries.borrow_mut().get_mut(key)
                && Rc::ptr_eq(&entry.watched, &watched)
            {
                entry.every = None;
            }
        }
    }

    fn wait(&self, key: usize, limit: Option<Duration>) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        let every = limit.map(|limit| (limit / LOOKS).clamp(MOST_OFTEN, LEAST_OFTEN));
        if entry.every == every {
            return;
        }
        entry.every = every;
        if let Some(every) = every {
            entry.next = Instant::now() + every;
            if self.due.get().is_none_or(|due| due > entry.next) {
                self.due.set(Some(entry.next));
                self.sooner.notify_one();
            }
        }
    }
}

impl Place {
    /// From now on something waits, with limits of which this is the shortest; none: nothing waits any more.
    ///
    /// The same limit again costs nothing, and no time is asked for.
    pub fn wait(&self, limit: Option<Duration>) {
        self.watch.wait(self.key, limit);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.watch.entries.borrow_mut().try_remove(self.key);
    }
}

/// Since when one wait has seen nothing move.
pub struct Standstill<W>(Cell<Option<(W, u64, Instant)>>);

impl<W> Default for Standstill<W> {
    fn default() -> Self {
        Self(Cell::new(None))
    }
}

impl<W: Copy + PartialEq> Standstill<W> {
    /// How long this has been waited for without progress. Zero when it is another wait than at the last look, or the
    /// count of what it made of progress has changed.
    pub fn lasts(&self, now: Instant, wait: W, progress: u64) -> Duration {
        match self.0.get() {
            Some((before, count, since)) if before == wait && count == progress => {
                now.saturating_duration_since(since)
            }
            _ => {
                self.0.set(Some((wait, progress, now)));
                Duration::ZERO
            }
        }
    }

    /// Nothing is waited for.
    pub fn over(&self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Waits for one thing that may move.
    #[derive(Default)]
    struct Waiting {
        moved: Cell<u64>,
        standstill: Standstill<()>,
        over: Cell<Option<Instant>>,
    }

    impl Watched for Waiting {
        fn look(&self, now: Instant) -> bool {
            if self.standstill.lasts(now, (), self.moved.get()) >= LIMIT {
                assert!(self.over.replace(Some(now)).is_none(), "it waits no longer");
            }
            self.over.get().is_none()
        }
    }

    async fn watching<T>(watch: &Rc<Watch>, until: impl Future<Output = T>) -> T {
        tokio::select! {
            () = watch.run() => unreachable!("looks for ever"),
            done = until => done,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_met_late_by_an_eighth_at_most_and_never_early() {
        let (watch, waiting) = (Rc::<Watch>::default(), Rc::<Waiting>::default());
        let place = watch.enter(waiting.clone());
        watching(&watch, tokio::time::sleep(LIMIT * 2)).await;
        assert_eq!(waiting.over.get(), None, "it does not wait yet");

        place.wait(Some(LIMIT));
        for _ in 0..30 {
            watching(&watch, tokio::time::sleep(LIMIT / 3)).await;
            waiting.moved.set(waiting.moved.get() + 1);
        }
        let last = Instant::now();
        assert_eq!(waiting.over.get(), None);
        watching(&watch, tokio::time::sleep(LIMIT * 2)).await;
        let late = waiting.over.get().unwrap() - last;
        assert!((LIMIT..LIMIT * 9 / 8).contains(&late), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_limit_is_looked_at_sooner_and_what_has_left_never() {
        let watch = Rc::<Watch>::default();
        let (long, short) = (Rc::<Waiting>::default(), Rc::<Waiting>::default());
        let place = watch.enter(long.clone());
        place.wait(Some(Duration::from_secs(3600)));
        watching(&watch, tokio::time::sleep(Duration::from_secs(1))).await;
        let other = watch.enter(short.clone());
        other.wait(Some(Duration::from_millis(20)));
        watching(&watch, tokio::time::sleep(Duration::from_millis(5))).await;
        assert!(short.standstill.0.get().is_some());
        drop(other);
        assert_eq!(Rc::strong_count(&short), 1);
        place.wait(None);
        watching(&watch, tokio::time::sleep(LIMIT * 2)).await;
        assert_eq!(long.over.get(), None);
    }
}
