//! Who is connected, and who goes when room is needed.
//!
//! A client owes us something while its request is not whole, while it has not read its answer, and while it says
//! nothing: it can be told to leave, the one that has owed for the longest first. One that waits for our answer cannot.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{sync::Notify, time::Instant};

/// Connections at once.
pub(super) const MOST_CONNECTIONS: usize = 256;

/// Connections beyond, while all of the others wait for our answer. They are asked about health and nothing else.
const FOR_HEALTH: usize = 32;

/// Bytes of answers that clients have not read yet.
const MOST_UNREAD: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Roster {
    /// In the order of their arrival.
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
}

/// One connection.
pub(super) struct Client {
    /// Since when it owes us something; none while we owe it an answer.
    owes: Mutex<Option<Instant>>,
    /// Bytes of its answer that it has not read.
    unread: AtomicUsize,
    pub(super) only_health: bool,
    told: AtomicBool,
    leave: Notify,
}

/// A place on the roster. Dropping it says that the connection is gone.
pub(super) struct Place {
    roster: Arc<Roster>,
    id: u64,
    pub(super) client: Arc<Client>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.clients().remove(&self.id);
    }
}

impl Roster {
    /// Makes room for a client. None if everybody else waits for our answer, and enough ask about health already.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut clients = self.clients();
        let regular = clients.values().filter(|client| !client.only_health).count();
        let mut only_health = false;
        if regular >= MOST_CONNECTIONS && !dismiss(&mut clients, |client| !client.only_health) {
            only_health = true;
            if clients.len() - regular >= FOR_HEALTH && !dismiss(&mut clients, |client| client.only_health) {
                return None;
            }
        }
        let id = self.next.fetch_add(1, Relaxed);
        let client = Arc::new(Client {
            owes: Mutex::new(Some(Instant::now())),
            unread: AtomicUsize::new(0),
            only_health,
            told: AtomicBool::new(false),
            leave: Notify::new(),
        });
        clients.insert(id, client.clone());
        Some(Place { roster: self.clone(), id, client })
    }

    /// Hands `client` an answer of so many bytes. Where too much lies unread, others leave for it.
    pub(super) fn answer(&self, client: &Client, bytes: usize) {
        let mut clients = self.clients();
        let unread = |clients: &BTreeMap<u64, Arc<Client>>| {
            clients.values().map(|client| client.unread.load(Relaxed)).sum::<usize>()
        };
        while unread(&clients).saturating_add(bytes) > MOST_UNREAD
            && dismiss(&mut clients, |client| client.unread.load(Relaxed) > 0)
        {}
        client.unread.store(bytes, Relaxed);
        *client.owes() = Some(Instant::now());
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the one to leave that has owed for the longest, of those that `may`. False if there is none.
fn dismiss(clients: &mut BTreeMap<u64, Arc<Client>>, may: impl Fn(&Client) -> bool) -> bool {
    let owing = clients.iter().filter(|(_, client)| may(client));
    let longest = owing.filter_map(|(id, client)| Some(((*client.owes())?, *id))).min();
    let Some(client) = longest.and_then(|(_, id)| clients.remove(&id)) else { return false };
    client.told.store(true, Relaxed);
    client.leave.notify_one();
    true
}

impl Client {
    /// Its request has arrived as far as it is needed: now we owe it an answer. False if it was told to leave.
    pub(super) fn asked(&self) -> bool {
        *self.owes() = None;
        self.unread.store(0, Relaxed);
        !self.told.load(Relaxed)
    }

    /// It owes us something again, such as the rest of its request.
    pub(super) fn owes_now(&self) {
        *self.owes() = Some(Instant::now());
    }

    /// It has read so many bytes.
    pub(super) fn read(&self, bytes: usize) {
        let left = self.unread.load(Relaxed).saturating_sub(bytes);
        self.unread.store(left, Relaxed);
    }

    /// It has taken all that it was sent. Where more follows by and by, it does not owe since the beginning.
    pub(super) fn has_read(&self) {
        if let Some(since) = &mut *self.owes() {
            *since = Instant::now();
        }
    }

    /// Waits until it has to leave.
    pub(super) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    fn owes(&self) -> MutexGuard<'_, Option<Instant>> {
        self.owes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn told(place: &Place) -> bool {
        place.client.told.load(Relaxed)
    }

    async fn enter(roster: &Arc<Roster>) -> Place {
        advance(Duration::from_millis(1)).await;
        roster.enter().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_owed_for_the_longest_leaves_first() {
        let roster = Arc::new(Roster::default());
        let mut places = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            places.push(enter(&roster).await);
        }
        assert!(!places.iter().any(told));
        // The first waits for its answer, and the second has just got one.
        assert!(places[0].client.asked());
        roster.answer(&places[1].client, 10);
        let new = enter(&roster).await;
        let gone: Vec<usize> = (0..places.len()).filter(|i| told(&places[*i])).collect();
        assert_eq!(gone, [2]);
        assert!(!new.client.only_health);
        places[2].client.told_to_leave().await;
        assert!(!places[2].client.asked(), "its request came too late");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_an_answer_stays_and_health_has_room_beyond() {
        let roster = Arc::new(Roster::default());
        let mut places = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            let place = enter(&roster).await;
            place.client.asked();
            places.push(place);
        }
        let mut health = Vec::new();
        for _ in 0..FOR_HEALTH {
            health.push(enter(&roster).await);
        }
        assert!(health.iter().all(|place| place.client.only_health));
        let more = enter(&roster).await;
        assert!(more.client.only_health && told(&health[0]));
        assert!(!places.iter().any(told));
        for place in health.iter().chain([&more]) {
            place.client.asked();
        }
        assert!(roster.enter().is_none());
        drop(places.pop());
        assert!(!enter(&roster).await.client.only_health);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_reads_make_room_for_others() {
        let roster = Arc::new(Roster::default());
        let (slow, reads, new) = (enter(&roster).await, enter(&roster).await, enter(&roster).await);
        for place in [&slow, &reads] {
            place.client.asked();
            roster.answer(&place.client, MOST_UNREAD / 2);
        }
        reads.client.read(MOST_UNREAD);
        new.client.asked();
        roster.answer(&new.client, MOST_UNREAD);
        assert!(told(&slow) && !told(&reads) && !told(&new));
    }
}
