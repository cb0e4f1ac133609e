//! What is registered now, when it ends, and who follows it. Guarded by one lock, held for a few lines.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use super::{
    Instance, Registration, Rejected, ServiceSummary,
    check::{MOST_BYTES, MOST_INSTANCES, bytes},
    records::{Change, Registrations},
    ttl::{Deadlines, Due},
};
use crate::bindings::wit;

/// Changes that wait for a follower before it is given the whole list instead. Each service that is followed has room for
/// all of them from the start, 32 bytes for one.
const MOST_CHANGES: usize = 32;

/// Changes that wait to be saved, and their bytes; with more, everything is saved instead.
const MOST_UNSAVED: usize = 16_384;
const MOST_UNSAVED_BYTES: usize = 16 << 20;

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

#[derive(Default)]
pub(super) struct State {
    services: BTreeMap<Arc<str>, Service>,
    count: usize,
    bytes: usize,
    /// When something happens to instances by itself, told apart by their serial numbers.
    due: BTreeMap<(Instant, u64), (Arc<str>, Arc<str>)>,
    serial: u64,
    followers: HashMap<Arc<str>, broadcast::Sender<Arc<wit::Change>>>,
    /// Who waits for any change of a service, and of all.
    watched: HashMap<Arc<str>, watch::Sender<()>>,
    all_watched: watch::Sender<()>,
    /// The number of the change after which a service had no instances any more, of the last that was so.
    vanished: u64,
    unsaved: Unsaved,
}

#[derive(Default)]
struct Service {
    /// By id.
    instances: BTreeMap<Arc<str>, Held>,
    /// The number of the latest change of any of them.
    changed: u64,
}

/// The instances of a service, by id.
pub(super) type Listed = Vec<(Arc<str>, Arc<Registration>)>;

/// One instance and what happens to it by itself.
struct Held {
    registration: Arc<Registration>,
    serial: u64,
    deadlines: Deadlines,
    /// The number of the change that made it so; 0 for what was restored.
    change: u64,
}

/// What has to be saved. Changes are numbered from 1.
#[derive(Default)]
struct Unsaved {
    /// The number of the latest change.
    latest: u64,
    /// The number of the latest change that was handed out to be saved.
    handed: u64,
    /// The changes between both, unless there are too many.
    changes: Vec<Change>,
    bytes: usize,
    /// They are not all there any more.
    too_many: bool,
}

/// What is to be saved next.
#[derive(Debug)]
pub(super) struct Batch {
    /// The number of the latest change in it.
    pub upto: u64,
    /// None: everything has to be saved.
    pub changes: Option<Vec<Change>>,
}

impl State {
    pub fn put(
        &mut self,
        service: &str,
        id: &str,
        registration: Registration,
        now: Instant,
    ) -> Result<(Outcome, u64), Rejected> {
        if let Some(change) = self.renew(service, id, &registration, now) {
            return Ok((Outcome::Renewed, change));
        }
        let known = self.held(service, id);
        let freed = known.map_or(0, |known| bytes(service, id, &known.registration));
        let needed = bytes(service, id, &registration);
        self.room(known.is_none().into(), needed.saturating_sub(freed))?;
        let outcome = if known.is_none() { Outcome::New } else { Outcome::Changed };
        let deadlines = Deadlines::new(&registration, now);
        Ok((outcome, self.replace(service, id, registration, deadlines)))
    }

    /// Changes an instance, and renews no more of it than its check `heard`. None where there is no such instance.
    pub fn edit<E: From<Rejected>>(
        &mut self,
        service: &str,
        id: &str,
        heard: Option<&str>,
        now: Instant,
        edit: impl FnOnce(Registration) -> Result<Registration, E>,
    ) -> Option<Result<(Outcome, u64), E>> {
        let Held { registration: before, deadlines, change, .. } = self.held(service, id)?;
        let (before, change) = (before.clone(), *change);
        let after = match edit((*before).clone()) {
            Ok(after) => after,
            Err(error) => return Some(Err(error)),
        };
        let deadlines = deadlines.after(&before, &after, heard, now);
        if after == *before {
            self.reschedule(service, id, deadlines);
            return Some(Ok((Outcome::Renewed, change)));
        }
        let more = bytes(service, id, &after).saturating_sub(bytes(service, id, &before));
        if let Err(rejected) = self.room(0, more) {
            return Some(Err(rejected.into()));
        }
        Some(Ok((Outcome::Changed, self.replace(service, id, after, deadlines))))
    }

    /// Puts an instance in the place of what is there, tells of it and says the number of the change.
    fn replace(&mut self, service: &str, id: &str, registration: Registration, deadlines: Deadlines) -> u64 {
        let known = self.held(service, id);
        if known.is_none_or(|known| !known.registration.shows_as(&registration)) {
            self.tell(service, || wit::Change::Put(registration.endpoint(id)));
        }
        self.take(service, id);
        let (service, id) = (Arc::<str>::from(service), Arc::<str>::from(id));
        let registration = Arc::new(registration);
        let change = self.unsaved.note(
            bytes(&service, &id, &registration),
            Change::Put { service: service.clone(), id: id.clone(), registration: registration.clone() },
        );
        self.hold(service.clone(), id, registration, change, deadlines);
        self.has_changed(&service, change);
        change
    }

    /// Holds what was saved before, unless it is known already, as far as there is room. It has its whole time.
    pub fn restore(&mut self, saved: Registrations, now: Instant) -> Result<(), Rejected> {
        for ((service, id), registration) in saved {
            if self.held(&service, &id).is_some() {
                continue;
            }
            self.room(1, bytes(&service, &id, &registration))?;
            self.tell(&service, || wit::Change::Put(registration.endpoint(&id)));
            let deadlines = Deadlines::new(&registration, now);
            self.hold(service, id, registration, 0, deadlines);
        }
        Ok(())
    }

    /// Becomes exactly this: what is not in it leaves, and what is has its whole time. All of it is to be saved.
    pub fn turn_into(&mut self, all: Registrations, now: Instant) -> Result<(), Rejected> {
        let names = self
            .services
            .iter()
            .flat_map(|(service, of)| of.instances.keys().map(move |id| (service.clone(), id.clone())));
        let gone: Vec<_> = names.filter(|name| !all.contains_key(name)).collect();
        for (service, id) in gone {
            self.remove(&service, &id);
        }
        self.unsaved.everything();
        for ((service, id), registration) in all {
            self.put(&service, &id, (*registration).clone(), now)?;
        }
        Ok(())
    }

    /// Whether there is room for so much more.
    fn room(&self, instances: usize, bytes: usize) -> Result<(), Rejected> {
        match (self.count + instances <= MOST_INSTANCES, self.bytes + bytes <= MOST_BYTES) {
            (true, true) => Ok(()),
            (false, _) => Err(Rejected::Full),
            (_, false) => Err(Rejected::FullOfBytes),
        }
    }

    /// Tells whether there was one, and the number of the change after which it is gone.
    pub fn remove(&mut self, service: &str, id: &str) -> (bool, u64) {
        let Some((service, id)) = self.take(service, id) else { return (false, self.unsaved.latest) };
        self.tell(&service, || wit::Change::Remove(id.to_string()));
        let change = self.unsaved.note(0, Change::Remove { service: service.clone(), id });
        self.has_changed(&service, change);
        (true, change)
    }

    /// Removes what has ended by `now`, and takes for unwell whose checks nobody has passed, `most` at once. Tells whether
    /// there may be more.
    pub fn expire(&mut self, now: Instant, most: usize) -> bool {
        for _ in 0..most {
            let Some((&(at, _), (service, id))) = self.due.first_key_value() else { return false };
            if at > now {
                return false;
            }
            let (service, id) = (service.clone(), id.clone());
            let Some(Held { registration, deadlines, .. }) = self.held(&service, &id) else { continue };
            match deadlines.due(registration, now) {
                Due::End { check } => {
                    tracing::info!(%service, %id, check, "Registration expired");
                    self.remove(&service, &id);
                }
                Due::Becomes(after) => {
                    let deadlines = deadlines.after(registration, &after, None, now);
                    tracing::info!(%service, %id, "Registration unwell: a check was not passed in time");
                    self.replace(&service, &id, after, deadlines);
                }
                Due::Nothing => return false,
            }
        }
        true
    }

    /// When something happens next.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn services(&self) -> Vec<ServiceSummary> {
        let summary = |(service, of): (&Arc<str>, &Service)| ServiceSummary {
            service: service.clone(),
            instances: of.instances.len(),
        };
        self.services.iter().map(summary).collect()
    }

    pub fn instances(&self, service: &str, now: Instant) -> Vec<Instance> {
        self.all_of(service).map(|(id, held)| held.instance(id, now)).collect()
    }

    pub fn instance(&self, service: &str, id: &str, now: Instant) -> Option<Instance> {
        let (id, held) = self.services.get(service)?.instances.get_key_value(id)?;
        Some(held.instance(id, now))
    }

    /// The number of the latest change of a service, or of anything.
    pub fn version(&self, service: Option<&str>) -> u64 {
        match service {
            Some(service) => self.services.get(service).map_or(self.vanished, |of| of.changed),
            None => self.unsaved.latest,
        }
    }

    /// Is told whenever a service changes, or any.
    pub fn watch(&mut self, service: Option<&Arc<str>>) -> watch::Receiver<()> {
        match service {
            Some(service) => self.watched.entry(service.clone()).or_default().subscribe(),
            None => self.all_watched.subscribe(),
        }
    }

    /// Forgets that somebody watched this service, if nobody does now.
    pub fn unwatched(&mut self, service: &str) {
        if self.watched.get(service).is_some_and(|changes| changes.receiver_count() == 0) {
            self.watched.remove(service);
        }
    }

    /// The list now, and what changes after it.
    pub fn subscribe(&mut self, service: &Arc<str>) -> (Listed, broadcast::Receiver<Arc<wit::Change>>) {
        let changes =
            self.followers.entry(service.clone()).or_insert_with(|| broadcast::Sender::new(MOST_CHANGES));
        let changes = changes.subscribe();
        (self.all_of(service).map(|(id, held)| (id.clone(), held.registration.clone())).collect(), changes)
    }

    /// Forgets that somebody followed this service, if nobody does now.
    pub fn unsubscribed(&mut self, service: &str) {
        if self.followers.get(service).is_some_and(|changes| changes.receiver_count() == 0) {
            self.followers.remove(service);
        }
    }

    /// How many services are followed or watched.
    #[cfg(test)]
    pub fn followed(&self) -> usize {
        self.followers.len() + self.watched.len()
    }

    /// How many watch a service or all.
    #[cfg(test)]
    pub fn watching(&self) -> usize {
        self.watched.values().chain([&self.all_watched]).map(watch::Sender::receiver_count).sum()
    }

    /// Whether something changed that nobody has saved.
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.latest > self.unsaved.handed
    }

    /// Hands out what is to be saved.
    pub fn batch(&mut self) -> Batch {
        let Unsaved { latest, handed, changes, bytes, too_many } = &mut self.unsaved;
        (*handed, *bytes) = (*latest, 0);
        let changes = std::mem::take(changes);
        Batch { upto: *latest, changes: (!std::mem::take(too_many)).then_some(changes) }
    }

    /// What was handed out is not saved, so that everything has to be.
    pub fn not_saved(&mut self) {
        let Unsaved { latest, handed, changes, bytes, too_many } = &mut self.unsaved;
        changes.clear();
        (*bytes, *too_many) = (0, true);
        // Zero changes are nothing to save.
        *handed = latest.saturating_sub(1).min(*handed);
    }

    /// As registrations, those that follow `after` in their order, `most` of them.
    pub fn page(&self, after: Option<(&str, &str)>, most: usize) -> Vec<Change> {
        let (from, id) = after.map_or((Bound::Unbounded, ""), |(service, id)| (Bound::Included(service), id));
        let services = self.services.range::<str, _>((from, Bound::Unbounded));
        let instances = services.flat_map(|(service, of)| {
            let begun = after.is_some_and(|(begun, _)| begun == &**service);
            let from = if begun { Bound::Excluded(id) } else { Bound::Unbounded };
            of.instances.range::<str, _>((from, Bound::Unbounded)).map(move |(id, held)| (service, id, held))
        });
        let put = |(service, id, held): (&Arc<str>, &Arc<str>, &Held)| Change::Put {
            service: service.clone(),
            id: id.clone(),
            registration: held.registration.clone(),
        };
        instances.take(most).map(put).collect()
    }

    /// Gives an instance its whole time again, if it is registered just so. Costs the same however many there are.
    fn renew(&mut self, service: &str, id: &str, registration: &Registration, now: Instant) -> Option<u64> {
        let held = self.held(service, id)?;
        if *held.registration != *registration {
            return None;
        }
        let change = held.change;
        self.reschedule(service, id, Deadlines::new(registration, now));
        Some(change)
    }

    /// From now on this is when something happens to an instance.
    fn reschedule(&mut self, service: &str, id: &str, deadlines: Deadlines) {
        let held = self.services.get_mut(service).and_then(|of| of.instances.get_mut(id));
        let Some(held) = held else { return };
        let (before, after) = (held.deadlines.next(), deadlines.next());
        held.deadlines = deadlines;
        if before == after {
            return;
        }
        let known = before.and_then(|before| self.due.remove(&(before, held.serial)));
        if let Some(after) = after {
            let name = known.unwrap_or_else(|| (service.into(), id.into()));
            self.due.insert((after, held.serial), name);
        }
    }

    fn hold(
        &mut self,
        service: Arc<str>,
        id: Arc<str>,
        registration: Arc<Registration>,
        change: u64,
        deadlines: Deadlines,
    ) {
        self.serial += 1;
        let serial = self.serial;
        if let Some(next) = deadlines.next() {
            self.due.insert((next, serial), (service.clone(), id.clone()));
        }
        self.count += 1;
        self.bytes += bytes(&service, &id, &registration);
        let of = self.services.entry(service).or_default();
        of.instances.insert(id, Held { registration, serial, deadlines, change });
    }

    /// Takes an instance out, with the names it was held under.
    fn take(&mut self, service: &str, id: &str) -> Option<(Arc<str>, Arc<str>)> {
        let name = self.services.get_key_value(service)?.0.clone();
        let of = self.services.get_mut(service)?;
        let (id, held) = of.instances.remove_entry(id)?;
        if of.instances.is_empty() {
            self.services.remove(service);
        }
        self.count -= 1;
        self.bytes -= bytes(service, &id, &held.registration);
        if let Some(next) = held.deadlines.next() {
            self.due.remove(&(next, held.serial));
        }
        Some((name, id))
    }

    fn held(&self, service: &str, id: &str) -> Option<&Held> {
        self.services.get(service)?.instances.get(id)
    }

    fn all_of(&self, service: &str) -> impl Iterator<Item = (&Arc<str>, &Held)> {
        self.services.get(service).into_iter().flat_map(|of| &of.instances)
    }

    /// Tells those who watch.
    fn has_changed(&mut self, service: &str, change: u64) {
        match self.services.get_mut(service) {
            Some(of) => of.changed = change,
            None => self.vanished = change,
        }
        for watched in self.watched.get(service).into_iter().chain([&self.all_watched]) {
            watched.send_replace(());
        }
    }

    fn tell(&self, service: &str, change: impl FnOnce() -> wit::Change) {
        if let Some(changes) = self.followers.get(service) {
            // An error says that nobody listens any more.
            let _ = changes.send(Arc::new(change()));
        }
    }
}

impl Held {
    fn instance(&self, id: &Arc<str>, now: Instant) -> Instance {
        Instance {
            id: id.clone(),
            registration: self.registration.clone(),
            expires_in_seconds: self.deadlines.end().map(|end| end.saturating_duration_since(now).as_secs()),
        }
    }
}

impl Unsaved {
    /// Whatever changed, all of it has to be saved.
    fn everything(&mut self) {
        self.latest += 1;
        self.changes.clear();
        (self.bytes, self.too_many) = (0, true);
    }

    /// The number of the change.
    fn note(&mut self, bytes: usize, change: Change) -> u64 {
        self.latest += 1;
        self.bytes += bytes;
        if self.changes.len() >= MOST_UNSAVED || self.bytes > MOST_UNSAVED_BYTES {
            self.changes.clear();
            (self.bytes, self.too_many) = (0, true);
        }
        if !self.too_many {
            self.changes.push(change);
        }
        self.latest
    }
}
