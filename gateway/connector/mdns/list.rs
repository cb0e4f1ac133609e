//! What is known of a type, and when it is told to those who follow it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::registry::Failure;

/// Instances of one type, and bytes of what is said of them.
pub const MOST_INSTANCES: usize = 10_000;
pub const MOST_BYTES: usize = 32 << 20;

/// How long answers to the first questions are waited for: the second follows after a second, in case the first was
/// lost. What cannot be reached by then is waited for a little longer.
const FIRST_LIST: Duration = Duration::from_millis(1_500);
const FIRST_LIST_AT_MOST: Duration = Duration::from_secs(3);

/// How often those who follow are told that all is as it was.
const FRESH: Duration = Duration::from_secs(30);

/// What is heard at once is told at once.
pub const GATHERED: Duration = Duration::from_millis(20);

/// By the first label of the name, in lower case.
pub type List = BTreeMap<String, Arc<Instance>>;

/// What is known of a type.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Nothing counts before it is complete.
    pub list: Arc<List>,
    pub complete: bool,
    /// Why there is no more to come.
    pub failed: Option<Failure>,
    /// Grows while nothing changes.
    pub fresh: u64,
}

/// An instance that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub host: String,
    /// Those that other machines are reached at; link-local ones of IPv6 with their interface.
    pub addresses: Vec<String>,
    pub port: u16,
    pub priority: u16,
    pub weight: u16,
    pub texts: Vec<Vec<u8>>,
}

/// Tells those who follow a type.
pub struct Teller {
    told: watch::Sender<Told>,
    since: Instant,
    fresh: Instant,
    /// When a change is told.
    due: Option<Instant>,
}

impl Teller {
    pub fn new(now: Instant) -> Self {
        Self { told: watch::Sender::default(), since: now, fresh: now, due: None }
    }

    pub fn subscribe(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    pub fn is_read(&self) -> bool {
        self.told.receiver_count() > 0
    }

    pub fn fail(&self, failure: Option<Failure>) {
        self.told.send_modify(|told| told.failed = failure);
    }

    pub fn note_change(&mut self, now: Instant) {
        self.due.get_or_insert(now + GATHERED);
    }

    /// Whether `list` would be told now. `lacks`: something was heard of that cannot be reached yet.
    pub fn is_due(&self, now: Instant, lacks: impl FnOnce() -> bool) -> bool {
        match self.told.borrow().complete {
            true => self.due.is_some_and(|due| due <= now),
            false => now >= self.since + FIRST_LIST && (now >= self.since + FIRST_LIST_AT_MOST || !lacks()),
        }
    }

    pub fn tell(&mut self, list: List) {
        self.due = None;
        self.told.send_if_modified(|told| {
            let changed = !told.complete || *told.list != list;
            if changed {
                (told.complete, told.list) = (true, Arc::new(list));
            }
            changed
        });
    }

    pub fn refresh(&mut self, now: Instant) {
        if self.told.borrow().complete && self.fresh + FRESH <= now {
            self.fresh = now;
            self.told.send_modify(|told| told.fresh += 1);
        }
    }

    /// When there may be something to tell.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.told.borrow().complete {
            return self.due;
        }
        let first = self.since + FIRST_LIST;
        Some(if first > now { first } else { self.since + FIRST_LIST_AT_MOST })
    }
}
