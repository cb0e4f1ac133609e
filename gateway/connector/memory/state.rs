//! What is registered now, when it ends, and who follows it. Guarded by one lock, held for a few lines.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::broadcast, time::Instant};

use super::{Instance, Registration, Rejected, SAVE_AFTER, ServiceSummary, check::MOST_INSTANCES};
use crate::registry::{RawChange, RawEndpoint};

/// Changes that wait for a follower before it is given the whole list instead.
const MOST_CHANGES: usize = 256;

/// What a registration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was no instance of this id.
    New,
    /// It was known with other facts.
    Changed,
    /// Nothing but its time changed: a heartbeat.
    Renewed,
}

pub(super) struct State {
    services: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Held>>,
    count: usize,
    ends: BTreeSet<(Instant, Arc<str>, Arc<str>)>,
    followers: HashMap<Arc<str>, broadcast::Sender<Arc<RawChange>>>,
    /// Something has to be saved by then.
    pub save_at: Option<Instant>,
}

/// One instance and when it ends.
struct Held {
    registration: Registration,
    end: Option<Instant>,
}

impl State {
    pub fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            count: 0,
            ends: BTreeSet::new(),
            followers: HashMap::new(),
            save_at: None,
        }
    }

    pub fn put(
        &mut self,
        service: &str,
        id: &str,
        registration: Registration,
        now: Instant,
    ) -> Result<Outcome, Rejected> {
        let known = self.take(service, id);
        if known.is_none() && self.count >= MOST_INSTANCES {
            return Err(Rejected::Full);
        }
        let outcome = match &known {
            None => Outcome::New,
            Some(known) if known.registration == registration => Outcome::Renewed,
            Some(_) => Outcome::Changed,
        };
        let shows =
            known.is_none_or(|known| endpoint(id, &known.registration) != endpoint(id, &registration));
        if shows {
            self.tell(service, || RawChange::Put(endpoint(id, &registration)));
        }
        self.hold(service.into(), id.into(), registration, now);
        if outcome != Outcome::Renewed {
            self.save_at.get_or_insert(now + SAVE_AFTER);
        }
        Ok(outcome)
    }

    pub fn remove(&mut self, service: &str, id: &str, now: Instant) -> bool {
        let removed = self.take(service, id).is_some();
        if removed {
            self.tell(service, || RawChange::Remove(id.into()));
            self.save_at.get_or_insert(now + SAVE_AFTER);
        }
        removed
    }

    /// Removes what has ended by `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some((end, service, id)) = self.ends.first().cloned()
            && end <= now
        {
            tracing::info!(%service, %id, "Registration expired");
            self.remove(&service, &id, now);
        }
    }

    /// When there is something to do next.
    pub fn due(&self) -> Option<Instant> {
        let end = self.ends.first().map(|(end, ..)| *end);
        end.into_iter().chain(self.save_at).min()
    }

    pub fn services(&self) -> Vec<ServiceSummary> {
        let summary = |(service, instances): (&Arc<str>, &BTreeMap<_, _>)| ServiceSummary {
            service: service.to_string(),
            instances: instances.len(),
        };
        self.services.iter().map(summary).collect()
    }

    pub fn instances(&self, service: &str, now: Instant) -> Vec<Instance> {
        let instance = |(id, held): (&Arc<str>, &Held)| Instance {
            id: id.to_string(),
            registration: held.registration.clone(),
            expires_in_seconds: held.end.map(|end| end.saturating_duration_since(now).as_secs()),
        };
        self.services.get(service).into_iter().flatten().map(instance).collect()
    }

    pub fn list(&self, service: &str) -> Vec<RawEndpoint> {
        let held = self.services.get(service).into_iter().flatten();
        held.map(|(id, held)| endpoint(id, &held.registration)).collect()
    }

    /// The list now, and what changes after it.
    pub fn subscribe(
        &mut self,
        service: &Arc<str>,
    ) -> (Vec<RawEndpoint>, broadcast::Receiver<Arc<RawChange>>) {
        let changes =
            self.followers.entry(service.clone()).or_insert_with(|| broadcast::Sender::new(MOST_CHANGES));
        let changes = changes.subscribe();
        (self.list(service), changes)
    }

    /// Forgets that somebody followed this service, if nobody does now.
    pub fn unsubscribed(&mut self, service: &str) {
        if self.followers.get(service).is_some_and(|changes| changes.receiver_count() == 0) {
            self.followers.remove(service);
        }
    }

    /// How many services are followed.
    #[cfg(test)]
    pub fn followed(&self) -> usize {
        self.followers.len()
    }

    pub fn registrations(&self) -> impl Iterator<Item = (&str, &str, &Registration)> {
        self.services.iter().flat_map(|(service, instances)| {
            instances.iter().map(move |(id, held)| (&**service, &**id, &held.registration))
        })
    }

    fn hold(&mut self, service: Arc<str>, id: Arc<str>, registration: Registration, now: Instant) {
        let ttl = Duration::from_secs(registration.ttl_seconds.into());
        let end = (!ttl.is_zero()).then(|| now + ttl);
        if let Some(end) = end {
            self.ends.insert((end, service.clone(), id.clone()));
        }
        self.services.entry(service).or_default().insert(id, Held { registration, end });
        self.count += 1;
    }

    fn take(&mut self, service: &str, id: &str) -> Option<Held> {
        let instances = self.services.get_mut(service)?;
        let held = instances.remove(id)?;
        self.count -= 1;
        if instances.is_empty() {
            self.services.remove(service);
        }
        if let Some(end) = held.end {
            self.ends.remove(&(end, service.into(), id.into()));
        }
        Some(held)
    }

    fn tell(&self, service: &str, change: impl FnOnce() -> RawChange) {
        if let Some(changes) = self.followers.get(service) {
            // An error says that nobody listens any more.
            let _ = changes.send(Arc::new(change()));
        }
    }
}

fn endpoint(id: &str, registration: &Registration) -> RawEndpoint {
    RawEndpoint {
        id: id.into(),
        address: registration.address.clone(),
        weight: registration.weight,
        labels: registration.labels.clone(),
    }
}
