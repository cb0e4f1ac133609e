//! What an owner knows, over restarts and from one owner to the next.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use super::{Owner, Pin, SourceName, now};
use crate::upstream::{
    Cause, Drains, HealthRecord, HealthState, Input, Origin, Saved, SavedPin, SavedSource, disk::Written,
};

impl Owner {
    /// What is on disk. Blocks on it for a moment.
    pub(super) fn load(&mut self) -> Option<Saved> {
        match self.list.as_ref()?.load() {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(upstream = %self.name, %error, "Saved list not used");
                self.unsaved = Some(error.to_string());
                None
            }
        }
    }

    /// Goes on with what was known, as if nothing had happened since.
    pub(super) fn restore(&mut self, mut saved: Saved) {
        // A clock that was turned back says that no time has passed.
        let passed = SystemTime::now().duration_since(saved.at).unwrap_or_default();
        saved.sources.iter_mut().for_each(|source| source.state.age(passed));
        if let Some(health) = &mut saved.health {
            health.age(passed);
            self.restore_health(health);
        }
        if saved.drains != Drains::default() {
            let endpoints = saved.drains.iter().count();
            tracing::info!(upstream = %self.name, endpoints, "Endpoints drain");
            // Also where no source says anything that would have it told.
            self.untold = true;
        }
        // Before there is a list, so that nobody of it is offered.
        self.drains = saved.drains;
        if let Some(pin) = saved.pin {
            let list: HashMap<_, _> =
                pin.list.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect();
            tracing::info!(upstream = %self.name, endpoints = list.len(), "List is pinned");
            self.pin = Some(Pin { since: pin.since, list: list.clone() });
            self.exchange(list, Cause::Pinned);
        }
        self.restore_sources(saved.sources);
        let unhealthy: Vec<_> =
            self.health.suspects().map(|address| (address, HealthState::Unhealthy)).collect();
        for source in 0..self.sources.len() {
            self.step(source, Input::Health(unhealthy.clone()), Cause::Restored);
        }
        if let Some(health) = &saved.health {
            let policy = self.policies.borrow().health;
            self.health.restore_joined(&health.new, &policy, now());
        }
        self.refresh();
    }

    fn restore_health(&mut self, known: &HealthRecord) {
        self.health.restore(known.conditions.clone(), now());
        for (address, _) in &known.conditions {
            self.publisher.suspect(*address, now());
        }
        for address in self.health.half_open() {
            self.publisher.set_half_open(address, true);
        }
    }

    fn restore_sources(&mut self, saved: Vec<SavedSource>) {
        let names: Vec<SourceName> =
            self.status.borrow().sources.iter().map(|source| source.name.clone()).collect();
        for (mut saved, place) in with_places(saved, &names) {
            saved.state.retain(|labels| self.wanted.suit(labels));
            self.step(place, Input::Restored(Box::new(saved.state)), Cause::Restored);
            self.tell(place, saved.heard, None);
        }
    }

    /// Writes what is known. Says why when it could not; then it is due again.
    pub(super) async fn save(&mut self) -> Result<(), String> {
        (self.unwritten, self.unwritten_health) = (false, false);
        self.due = None;
        let Some(list) = self.list.clone() else { return Ok(()) };
        let saved = self.saved();
        let saved = tokio::task::spawn_blocking(move || list.save(&saved)).await;
        self.written = tokio::time::Instant::now();
        let unsaved = match saved {
            Ok(Ok(Written::Yes)) => None,
            Ok(Ok(Written::NotOurs)) => {
                self.due = Some(self.written + self.saving.pause());
                return Err("another configuration of the upstream takes over just now".into());
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if unsaved.is_some() {
            self.due = Some(self.written + self.saving.pause());
        }
        match &unsaved {
            Some(error) => {
                if let Some(lasts) = self.failing.met(error) {
                    tracing::warn!(upstream = %self.name, error, for_seconds = lasts.for_seconds,
                        times = lasts.times, "List not saved");
                }
            }
            None => {
                self.saving.works();
                if let Some(lasted) = self.failing.over() {
                    tracing::info!(upstream = %self.name, for_seconds = lasted.for_seconds, "List saved again");
                }
            }
        }
        self.unsaved.clone_from(&unsaved);
        self.refresh();
        unsaved.map_or(Ok(()), Err)
    }

    pub(super) fn saved(&self) -> Saved {
        let (status, now) = (self.status.borrow(), now());
        let known = self.sources.iter().zip(&status.sources);
        let known = known.filter(|(source, _)| source.origin() != Origin::Unknown);
        let sources = known.map(|(source, status)| SavedSource {
            registry: status.name.registry.clone(),
            service: status.name.service.clone(),
            heard: status.heard,
            state: source.state(now),
        });
        let pin = self
            .pin
            .as_ref()
            .map(|pin| SavedPin { since: pin.since, list: pin.list.values().cloned().collect() });
        let health = self.health.record(&self.policies.borrow().health, now);
        let drains = self.drains.clone();
        Saved { at: SystemTime::now(), sources: sources.collect(), pin, drains, health: Some(health) }
    }
}

/// Which source goes on with which of those that were saved: the one of the same name; then, where another registry takes
/// over, the first that has none yet. What another service of the same registry said is of no use.
fn with_places(saved: Vec<SavedSource>, names: &[SourceName]) -> Vec<(SavedSource, usize)> {
    let same = |saved: &SavedSource, name: &SourceName| {
        (&saved.registry, &saved.service) == (&name.registry, &name.service)
    };
    let mut free: Vec<usize> =
        (0..names.len()).filter(|place| !saved.iter().any(|saved| same(saved, &names[*place]))).collect();
    let mut placed = Vec::new();
    for saved in saved {
        let place = names.iter().position(|name| same(&saved, name)).or_else(|| {
            let other = |place: &usize| !Arc::eq(&names[*place].registry, &saved.registry);
            let at = free.iter().position(other)?;
            Some(free.remove(at))
        });
        placed.extend(place.map(|place| (saved, place)));
    }
    placed
}
