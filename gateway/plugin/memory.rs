//! How much memory plugins have: all instances together, and those of one plugin.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The memory of all instances, in bytes, as far as they have asked for it.
#[derive(Debug)]
pub(super) struct Total {
    used: AtomicUsize,
    pub most: usize,
}

impl Total {
    pub fn new(most: usize) -> Self {
        Self { used: AtomicUsize::new(0), most }
    }

    /// Whether there is so much more.
    pub fn take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// The memory of the instances of one version of a plugin.
#[derive(Debug)]
pub(super) struct Memory {
    pub total: Arc<Total>,
    instances: Mutex<Vec<Weak<AtomicUsize>>>,
}

/// What the instances of a plugin have asked for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    pub instances: usize,
    pub bytes: usize,
    pub largest: usize,
}

impl Memory {
    pub fn new(total: Arc<Total>) -> Self {
        Self { total, instances: Mutex::default() }
    }

    /// Where one more instance tells what it has. It is there as long as that is kept.
    pub fn join(&self) -> Arc<AtomicUsize> {
        let used = Arc::default();
        let mut instances = self.instances();
        instances.retain(|of| of.strong_count() > 0);
        instances.push(Arc::downgrade(&used));
        used
    }

    pub fn used(&self) -> MemoryUse {
        let instances = self.instances();
        let used = instances.iter().filter_map(Weak::upgrade).map(|of| of.load(Relaxed));
        used.fold(MemoryUse::default(), |all, bytes| MemoryUse {
            instances: all.instances + 1,
            bytes: all.bytes + bytes,
            largest: all.largest.max(bytes),
        })
    }

    /// Held for a few lines, by who makes an instance and by who looks.
    fn instances(&self) -> MutexGuard<'_, Vec<Weak<AtomicUsize>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_plugin_is_that_of_its_instances_while_they_are_there() {
        let memory = Memory::new(Arc::new(Total::new(100)));
        assert_eq!(memory.used(), MemoryUse::default());
        let (one, other) = (memory.join(), memory.join());
        one.store(30, Relaxed);
        other.store(50, Relaxed);
        assert_eq!(memory.used(), MemoryUse { instances: 2, bytes: 80, largest: 50 });
        drop(other);
        assert_eq!(memory.used(), MemoryUse { instances: 1, bytes: 30, largest: 30 });
        let _third = memory.join();
        assert_eq!(memory.instances().len(), 2, "those that are gone are forgotten");
    }
}
