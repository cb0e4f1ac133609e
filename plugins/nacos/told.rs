//! What the gateway is told of a list, and what of it is doubted.
//!
//! A server that is not to be believed about how instances stand is believed that they are there: who comes is told of,
//! and nothing else is until it is to be believed again.

use std::collections::BTreeMap;

use guest::entries::Entry;

use crate::answer::List;

/// As the WIT has it.
#[derive(Debug, PartialEq)]
pub enum News {
    Complete(Vec<(String, Entry)>),
    Partial(Vec<(String, Entry)>),
    Unchanged,
    Suspect(String),
}

/// What the gateway has been told.
#[derive(Default)]
pub struct Told {
    list: BTreeMap<String, Entry>,
    /// Whether that is what a server said that was to be believed.
    whole: bool,
}

impl Told {
    pub fn hear(&mut self, List { instances, doubt }: List) -> News {
        let Some(why) = doubt else {
            if self.whole && self.list == instances {
                return News::Unchanged;
            }
            (self.list, self.whole) = (instances, true);
            return News::Complete(self.list.clone().into_iter().collect());
        };
        let new: Vec<_> = instances.into_iter().filter(|(id, _)| !self.list.contains_key(id)).collect();
        if new.is_empty() {
            return News::Suspect(why);
        }
        self.list.extend(new.iter().cloned());
        self.whole = false;
        News::Partial(new)
    }
}

#[cfg(test)]
mod tests {
    use guest::entries::State;

    use super::*;

    fn list(names: &[&str], doubt: Option<&str>) -> List {
        let instances = names.iter().map(|name| (name.to_string(), Entry::plain(name)));
        List { instances: instances.collect(), doubt: doubt.map(str::to_owned) }
    }

    fn all(names: &[&str]) -> Vec<(String, Entry)> {
        names.iter().map(|name| (name.to_string(), Entry::plain(name))).collect()
    }

    #[test]
    fn what_is_believed_is_told_when_it_changes() {
        let mut told = Told::default();
        assert_eq!(told.hear(list(&["a", "b"], None)), News::Complete(all(&["a", "b"])));
        assert_eq!(told.hear(list(&["a", "b"], None)), News::Unchanged);
        assert_eq!(told.hear(list(&["a"], None)), News::Complete(all(&["a"])));
        assert_eq!(told.hear(list(&[], None)), News::Complete(vec![]));
    }

    #[test]
    fn in_doubt_only_who_comes_is_told_of() {
        let mut told = Told::default();
        assert_eq!(told.hear(list(&["a", "b"], Some("why"))), News::Partial(all(&["a", "b"])));
        assert_eq!(told.hear(list(&["a"], Some("why"))), News::Suspect("why".to_owned()));
        assert_eq!(told.hear(list(&["a", "c"], Some("why"))), News::Partial(all(&["c"])));
        // The same list is news when it is believed.
        assert_eq!(told.hear(list(&["a", "b", "c"], None)), News::Complete(all(&["a", "b", "c"])));
        let mut ill = list(&["a", "b", "c"], Some("why"));
        ill.instances.values_mut().for_each(|entry| entry.state = State::Unwell);
        assert_eq!(told.hear(ill), News::Suspect("why".to_owned()));
    }
}
