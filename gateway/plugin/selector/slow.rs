//! What a version of a selector takes long for: longer than requests may wait.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// What a plugin is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work<'a> {
    Instantiate,
    /// With these settings.
    Create(&'a str),
    /// So many endpoints of a list, from its beginning or going on with it.
    List(usize),
    /// So many changes.
    Changes(usize),
    Pick,
    Drop,
}

impl Work<'_> {
    /// As faults are told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instantiate => "instantiation",
            Self::Create(_) => "create",
            Self::List(_) | Self::Changes(_) => "update",
            Self::Pick => "pick",
            Self::Drop => "drop",
        }
    }
}

/// Learned by all workers together, and by the trial before there are any: what took long once is not tried between
/// requests again, so that each costs requests a moment once.
pub(super) struct Slow {
    plugin: Arc<str>,
    /// Something is known. Most plugins take long for nothing, and then nobody looks further.
    any: AtomicBool,
    /// Locked for a few lines, when a balancer is made or told of changes, never by a request.
    known: Mutex<Known>,
}

/// As many entries as settings and as upstreams that take long.
#[derive(Default)]
struct Known {
    /// To make an instance takes long, for all balancers together.
    instances: bool,
    /// Settings that take long to make a balancer of.
    settings: HashSet<Box<str>>,
    /// By upstream: this many endpoints or changes, and more, are too many.
    lists: HashMap<Box<str>, usize>,
    changes: HashMap<Box<str>, usize>,
    /// To drop a balancer takes long. One that is alone is not dropped by the plugin.
    drops: bool,
    /// The calls of which it was told that they take long.
    told: HashSet<&'static str>,
}

impl Slow {
    pub fn new(plugin: Arc<str>) -> Self {
        Self { plugin, any: AtomicBool::new(false), known: Mutex::default() }
    }

    /// Whether an instance may be made between requests.
    pub fn may_instantiate(&self) -> bool {
        let takes_long = self.any.load(Relaxed) && self.known().instances;
        !takes_long || self.takes_long(Work::Instantiate, None)
    }

    /// Whether a balancer with so many endpoints may be made between requests.
    pub fn may_make(&self, upstream: &str, settings: &str, endpoints: usize) -> bool {
        if !self.any.load(Relaxed) {
            return true;
        }
        let known = self.known();
        let work = match () {
            () if known.drops => Work::Drop,
            () if known.settings.contains(settings) => Work::Create(settings),
            () if !fits(&known.lists, upstream, endpoints) => Work::List(endpoints),
            () => return true,
        };
        drop(known);
        self.takes_long(work, Some(upstream))
    }

    /// Whether so many changes may be told between requests.
    pub fn may_tell(&self, upstream: &str, changes: usize) -> bool {
        let takes_long = self.any.load(Relaxed) && !fits(&self.known().changes, upstream, changes);
        !takes_long || self.takes_long(Work::Changes(changes), Some(upstream))
    }

    /// Tells it once of each call, and that is not to be made.
    fn takes_long(&self, work: Work<'_>, upstream: Option<&str>) -> bool {
        if self.known().told.insert(work.name()) {
            tracing::info!(plugin = %self.plugin, upstream, call = work.name(),
                "Selector takes longer than requests may wait, this is done beside them from now on");
        }
        false
    }

    /// This took long.
    pub fn note(&self, work: Work<'_>, upstream: &Option<Arc<str>>) {
        let mut known = self.known();
        match (work, upstream) {
            (Work::Instantiate, _) => known.instances = true,
            (Work::Create(settings), _) => drop(known.settings.insert(settings.into())),
            (Work::List(endpoints), Some(upstream)) => lower(&mut known.lists, upstream, endpoints),
            (Work::Changes(changes), Some(upstream)) => lower(&mut known.changes, upstream, changes),
            (Work::Drop, _) => known.drops = true,
            (Work::List(_) | Work::Changes(_), None) | (Work::Pick, _) => return,
        }
        drop(known);
        self.any.store(true, Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fits(known: &HashMap<Box<str>, usize>, upstream: &str, number: usize) -> bool {
    known.get(upstream).is_none_or(|too_many| number < *too_many)
}

/// Half of what took long is too many from now on: whatever the time depends on, few attempts find it out.
fn lower(known: &mut HashMap<Box<str>, usize>, upstream: &str, number: usize) {
    let half = number.div_ceil(2);
    known.entry(upstream.into()).and_modify(|too_many| *too_many = half.min(*too_many)).or_insert(half);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow() -> (Slow, Option<Arc<str>>) {
        (Slow::new("p".into()), Some("orders".into()))
    }

    #[test]
    fn what_takes_long_is_found_out_in_few_attempts_and_not_tried_again() {
        for number in [0, 1, 2, 3, 512, 100_000] {
            let (slow, orders) = slow();
            let mut attempts = 0;
            // Lists of any length take long, and they get shorter and shorter.
            for endpoints in (0..=number).rev() {
                if slow.may_make("orders", "{}", endpoints) {
                    slow.note(Work::List(endpoints), &orders);
                    attempts += 1;
                }
            }
            assert!(attempts <= 19, "{attempts} for {number}");
            assert!((0..=number).all(|endpoints| !slow.may_make("orders", "{}", endpoints)));
            assert!(slow.may_make("users", "{}", number) && slow.may_tell("orders", number));
        }
    }

    #[test]
    fn few_changes_may_be_quick_where_many_are_not() {
        let (slow, orders) = slow();
        slow.note(Work::Changes(400), &orders);
        assert!(!slow.may_tell("orders", 400) && slow.may_tell("orders", 199));
        assert!(slow.may_tell("users", 400) && slow.may_make("orders", "{}", 512));
    }

    #[test]
    fn settings_take_long_for_all_upstreams_and_a_slow_drop_for_all_settings() {
        let (slow, orders) = slow();
        slow.note(Work::Create("heavy"), &orders);
        assert!(!slow.may_make("users", "heavy", 0) && slow.may_make("users", "light", 0));
        slow.note(Work::Instantiate, &None);
        assert!(!slow.may_instantiate() && slow.may_make("users", "light", 0));
        slow.note(Work::Drop, &orders);
        assert!(!slow.may_make("users", "light", 0));
    }
}
