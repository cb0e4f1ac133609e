//! What is claimed, so that only what has changed is told.
//!
//! Every rpcx server rewrites its value once a minute, with new counters and nothing else new. Such a write changes
//! nothing here.

use guest::{claims, entries::Entry};

use crate::layout::Layout;

pub type Delta = claims::Delta<Vec<u8>>;

/// What is claimed below one prefix, by key.
pub struct Claims {
    layout: Layout,
    prefix: String,
    known: claims::Claims<Vec<u8>>,
}

impl Claims {
    pub fn new(layout: Layout, prefix: String) -> Claims {
        Claims { layout, prefix, known: claims::Claims::default() }
    }

    /// Forgets what was known; these are all keys.
    pub fn reset(
        &mut self,
        all: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> impl Iterator<Item = (&Vec<u8>, &Entry)> {
        let Claims { layout, prefix, known } = self;
        known.reset(
            all.filter_map(|(key, value)| read(layout, prefix, &key, &value).map(|entry| (key, entry))),
        )
    }

    /// A key was written. None when that changes nothing.
    pub fn put(&mut self, key: Vec<u8>, value: &[u8]) -> Option<Delta> {
        let entry = read(&self.layout, &self.prefix, &key, value);
        self.known.put(key, entry)
    }

    /// A key is gone. None when it was nobody's.
    pub fn delete(&mut self, key: &[u8]) -> Option<Delta> {
        self.known.delete(&key.to_vec())
    }
}

fn read(layout: &Layout, prefix: &str, key: &[u8], value: &[u8]) -> Option<Entry> {
    layout.read(key.strip_prefix(prefix.as_bytes())?, value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::layout::Settings;

    fn claims(settings: &str) -> Claims {
        let layout = Settings::read(settings).unwrap().layout;
        let prefix = layout.prefix("svc").unwrap();
        Claims::new(layout, prefix)
    }

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    #[test]
    fn new_counters_are_no_change() {
        let mut claims = claims(r#"{"layout":"rpcx","base":"/b"}"#);
        let all = [("/b/svc/tcp@a:1", "weight=2&calls=1.00"), ("/b/svc", "svc"), ("/b/svc2/tcp@b:1", "")];
        assert_eq!(claims.reset(all.into_iter().map(|(key, value)| (bytes(key), bytes(value)))).count(), 1);
        assert_eq!(claims.put(bytes("/b/svc/tcp@a:1"), b"calls=7.00&connections=3&weight=2"), None);
        assert!(matches!(claims.put(bytes("/b/svc/tcp@a:1"), b"weight=3"), Some(Delta::Put(..))));
    }

    #[test]
    fn an_endpoint_made_inactive_is_drained_and_comes_back() {
        let mut claims = claims(r#"{"layout":"rpcx","base":"/b"}"#);
        let key = || bytes("/b/svc/tcp@a:1");
        assert!(matches!(claims.put(key(), b""), Some(Delta::Put(..))));
        let drained = claims.put(key(), b"state=inactive");
        assert!(matches!(drained, Some(Delta::Put(_, Entry { weight: 0, .. }))), "{drained:?}");
        assert_eq!(claims.put(key(), b"state=inactive&calls=2"), None);
        assert!(matches!(claims.put(key(), b""), Some(Delta::Put(_, Entry { weight: 1, .. }))));
        assert_eq!(claims.delete(&key()), Some(Delta::Remove(key())));
    }

    #[test]
    fn two_keys_of_one_address_are_two_claims() {
        let mut claims = claims(r#"{"layout":"go-zero"}"#);
        assert!(matches!(claims.put(bytes("svc/1"), b"a:1"), Some(Delta::Put(..))));
        assert!(matches!(claims.put(bytes("svc/2"), b"a:1"), Some(Delta::Put(..))));
        assert_eq!(claims.delete(b"svc/1"), Some(Delta::Remove(bytes("svc/1"))));
        assert_eq!(claims.known.len(), 1);
    }

    proptest! {
        #[test]
        fn changes_lead_where_a_reset_would(
            writes in proptest::collection::vec((0..5u8, prop_oneof![Just(None), ".{0,12}".prop_map(Some)]), 0..40),
        ) {
            let settings = r#"{"layout":"rpcx","base":"/b"}"#;
            let (mut changed, mut told, mut content) = (claims(settings), BTreeMap::new(), BTreeMap::new());
            for (number, value) in writes {
                let key = format!("/b/svc/tcp@a:{number}").into_bytes();
                let delta = match value {
                    Some(value) => {
                        content.insert(key.clone(), bytes(&value));
                        changed.put(key, value.as_bytes())
                    }
                    None => {
                        content.remove(&key);
                        changed.delete(&key)
                    }
                };
                match delta {
                    Some(Delta::Put(key, entry)) => drop(told.insert(key, entry)),
                    Some(Delta::Remove(key)) => prop_assert!(told.remove(&key).is_some()),
                    None => {}
                }
            }
            let mut fresh = claims(settings);
            let all: BTreeMap<_, _> =
                fresh.reset(content.into_iter()).map(|(key, entry)| (key.clone(), entry.clone())).collect();
            prop_assert_eq!(told, all);
        }
    }
}
