//! The instances of a type being followed: a list, then what becomes of each, for ever or until a failure.
//!
//! What is not read yet is no more than the latest list, however slow a reader is.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    engine::Engine,
    list::{Instance, List, Told},
    names::Names,
};
use crate::{
    bindings::registry::witgate::mdns::mdns::{Content, Event, Instance as Written},
    registry::Failure,
};

pub struct Feed {
    told: watch::Receiver<Told>,
    names: Names,
    /// What was told last, and how fresh it was; none before the first list.
    known: Option<(List, u64)>,
    failed: bool,
    _engine: Arc<Engine>,
}

impl Feed {
    pub(super) fn new(told: watch::Receiver<Told>, names: Names, engine: Arc<Engine>) -> Self {
        Self { told, names, known: None, failed: false, _engine: engine }
    }

    /// Waits for the next answer; the first is everything. After a failure the feed is dead.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Content, Failure> {
        if self.failed {
            return Err(Failure::Other("this feed has failed before; open another".into()));
        }
        loop {
            let Told { list, complete, failed, fresh } = self.told.borrow_and_update().clone();
            if let Some(failure) = failed {
                self.failed = true;
                return Err(failure);
            }
            if complete && let Some(content) = self.content(&list, fresh) {
                return Ok(content);
            }
            if self.told.changed().await.is_err() {
                self.failed = true;
                return Err(Failure::Unavailable("mDNS: listening has ended".into()));
            }
        }
    }

    /// What has changed; none: nothing that was asked for.
    fn content(&mut self, list: &List, fresh: u64) -> Option<Content> {
        let wanted = list.iter().filter(|(_, instance)| self.names.fit(&instance.name));
        let Some((known, told)) = &mut self.known else {
            let all: List = wanted.map(|(name, instance)| (name.clone(), instance.clone())).collect();
            let written = all.values().map(|instance| written(instance)).collect();
            self.known = Some((all, fresh));
            return Some(Content::All(written));
        };
        let mut events = Vec::new();
        known.retain(|name, instance| {
            let stays = list.contains_key(name);
            if !stays {
                events.push(Event::Delete(instance.name.clone()));
            }
            stays
        });
        for (name, instance) in wanted {
            let before = known.get(name);
            if before.is_none_or(|before| **before != **instance) {
                // In another spelling it is another id.
                if let Some(before) = before.filter(|before| before.name != instance.name) {
                    events.push(Event::Delete(before.name.clone()));
                }
                events.push(Event::Put(written(instance)));
                known.insert(name.clone(), instance.clone());
            }
        }
        match events.is_empty() {
            false => Some(Content::Changes(events)),
            true => (std::mem::replace(told, fresh) != fresh).then_some(Content::Nothing),
        }
    }
}

fn written(instance: &Instance) -> Written {
    let Instance { name, host, addresses, port, priority, weight, texts } = instance.clone();
    Written { name, host, addresses, port, priority, weight, texts }
}
