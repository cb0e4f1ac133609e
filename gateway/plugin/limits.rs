//! How much memory a plugin's instance may have, and all instances together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use wasmtime::ResourceLimiter;

use super::memory::{Memory, Total};

/// Core instances, memories and tables inside one component. Languages that link dynamically need dozens.
const INSTANCES: usize = 256;

/// The caps of one instance. Growth beyond them fails inside the guest; what was hit is kept for the fault's text.
#[derive(Debug)]
pub(super) struct Limits {
    memory: Cap,
    table: Cap,
    total: Arc<Total>,
    /// What it has, for whoever looks.
    told: Arc<AtomicUsize>,
    /// All instances together had no more to give.
    total_hit: bool,
}

#[derive(Debug)]
struct Cap {
    used: usize,
    most: usize,
    hit: bool,
}

impl Limits {
    pub fn new(memory_bytes: usize, table_elements: usize, of_plugin: &Memory) -> Self {
        let cap = |most| Cap { used: 0, most, hit: false };
        let (total, told) = (of_plugin.total.clone(), of_plugin.join());
        Self { memory: cap(memory_bytes), table: cap(table_elements), total, told, total_hit: false }
    }

    /// The limit that the guest has run into, in words.
    pub fn hit(&self) -> Option<String> {
        if self.memory.hit {
            return Some(format!("its memory limit of {} bytes is reached", self.memory.most));
        }
        if self.total_hit {
            return Some(format!(
                "all plugins together have {} bytes of memory, and no more",
                self.total.most
            ));
        }
        self.table.hit.then(|| format!("its limit of {} table elements is reached", self.table.most))
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.total.give_back(self.memory.used);
    }
}

impl Cap {
    /// All memories of an instance share one cap, and so do all tables.
    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        self.hit |= used > self.most;
        if used <= self.most {
            self.used = used;
        }
        used <= self.most
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let before = self.memory.used;
        if !self.memory.grow(current, desired) {
            return Ok(false);
        }
        let taken = self.total.take(self.memory.used - before);
        if !taken {
            self.memory.used = before;
            self.total_hit = true;
        }
        self.told.store(self.memory.used, Relaxed);
        Ok(taken)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.table.grow(current, desired))
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_share_one_cap_and_the_limit_that_was_hit_is_told() {
        let mut limits = Limits::new(100, 10, &Memory::new(Arc::new(Total::new(1_000))));
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 40, None).unwrap());
        assert_eq!(limits.hit(), None);
        assert!(!limits.memory_growing(40, 41, None).unwrap());
        assert_eq!(limits.hit().unwrap(), "its memory limit of 100 bytes is reached");
    }

    #[test]
    fn table_elements_are_capped() {
        let mut limits = Limits::new(100, 10, &Memory::new(Arc::new(Total::new(1_000))));
        assert!(limits.table_growing(0, 10, None).unwrap());
        assert!(!limits.table_growing(10, usize::MAX, None).unwrap());
        assert_eq!(limits.hit().unwrap(), "its limit of 10 table elements is reached");
    }

    #[test]
    fn all_instances_share_what_there_is_and_give_it_back_when_they_go() {
        let total = Arc::new(Total::new(100));
        let (first, second) = (Memory::new(total.clone()), Memory::new(total.clone()));
        let (mut one, mut other) = (Limits::new(80, 10, &first), Limits::new(80, 10, &second));
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(!other.memory_growing(0, 60, None).unwrap());
        assert_eq!(other.hit().unwrap(), "all plugins together have 100 bytes of memory, and no more");
        assert!(other.memory_growing(0, 40, None).unwrap());
        assert_eq!((first.used().bytes, second.used().bytes), (60, 40), "what was refused is not counted");
        drop(one);
        assert_eq!(first.used().instances, 0);
        assert!(other.memory_growing(40, 80, None).unwrap());
        drop(other);
        assert_eq!(total.used(), 0);
    }
}
