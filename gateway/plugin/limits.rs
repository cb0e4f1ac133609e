//! How much memory a plugin's instance may have.

use wasmtime::ResourceLimiter;

/// Core instances, memories and tables inside one component. Languages that link dynamically need dozens.
const INSTANCES: usize = 256;

/// The caps of one instance. Growth beyond them fails inside the guest; what was hit is kept for the fault's text.
#[derive(Debug)]
pub(super) struct Limits {
    memory: Cap,
    table: Cap,
}

#[derive(Debug)]
struct Cap {
    used: usize,
    most: usize,
    hit: bool,
}

impl Limits {
    pub fn new(memory_bytes: usize, table_elements: usize) -> Self {
        let cap = |most| Cap { used: 0, most, hit: false };
        Self { memory: cap(memory_bytes), table: cap(table_elements) }
    }

    /// The limit that the guest has run into, in words.
    pub fn hit(&self) -> Option<String> {
        if self.memory.hit {
            return Some(format!("its memory limit of {} bytes is reached", self.memory.most));
        }
        self.table.hit.then(|| format!("its limit of {} table elements is reached", self.table.most))
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
        Ok(self.memory.grow(current, desired))
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
        let mut limits = Limits::new(100, 10);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 40, None).unwrap());
        assert_eq!(limits.hit(), None);
        assert!(!limits.memory_growing(40, 41, None).unwrap());
        assert_eq!(limits.hit().unwrap(), "its memory limit of 100 bytes is reached");
    }

    #[test]
    fn table_elements_are_capped() {
        let mut limits = Limits::new(100, 10);
        assert!(limits.table_growing(0, 10, None).unwrap());
        assert!(!limits.table_growing(10, usize::MAX, None).unwrap());
        assert_eq!(limits.hit().unwrap(), "its limit of 10 table elements is reached");
    }
}
