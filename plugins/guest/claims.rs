//! What is claimed, by key, so that only what has changed is told.

use std::collections::BTreeMap;

use crate::entries::Entry;

/// What is known of one service.
pub struct Claims<K>(BTreeMap<K, Entry>);

/// What a write to a registry means for the list.
#[derive(Debug, PartialEq)]
pub enum Delta<K> {
    Put(K, Entry),
    Remove(K),
}

impl<K> Default for Claims<K> {
    fn default() -> Claims<K> {
        Claims(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Claims<K> {
    /// Forgets what was known; this is all there is.
    pub fn reset(&mut self, all: impl Iterator<Item = (K, Entry)>) -> impl Iterator<Item = (&K, &Entry)> {
        self.0 = all.collect();
        self.0.iter()
    }

    /// This is what a key claims now; none: nothing. Nothing is told when that is no change.
    pub fn put(&mut self, key: K, entry: Option<Entry>) -> Option<Delta<K>> {
        let Some(entry) = entry else { return self.delete(&key) };
        if self.0.get(&key) == Some(&entry) {
            return None;
        }
        self.0.insert(key.clone(), entry.clone());
        Some(Delta::Put(key, entry))
    }

    /// A key is gone. None when it claimed nothing.
    pub fn delete(&mut self, key: &K) -> Option<Delta<K>> {
        self.0.remove_entry(key).map(|(key, _)| Delta::Remove(key))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_nothing_is_not_told() {
        let mut claims = Claims::default();
        let entry = || Some(Entry::plain("a:1"));
        assert_eq!(claims.put(1, entry()), Some(Delta::Put(1, Entry::plain("a:1"))));
        assert_eq!((claims.put(1, entry()), claims.delete(&2), claims.put(2, None)), (None, None, None));
        assert_eq!(claims.put(1, None), Some(Delta::Remove(1)));
        assert!(claims.is_empty());
    }
}
