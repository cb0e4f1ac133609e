//! How many clients a listener takes, and who goes when there are more. Shared by the workers.
//!
//! A permit belongs to a client that is there, never to a worker that waits for one. When there are none left, the client
//! that has been idle for the longest is told to leave, on whichever worker it is. While none is idle, every answer says
//! that its connection closes.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Waker,
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

/// How often somebody is looked for who could leave, while a client waits and nobody could.
const AGAIN: Duration = Duration::from_millis(50);

/// A connection that has not carried a request yet is idle after so long: its request may be on its way.
const FRESH: Duration = Duration::from_secs(1);

/// The idle that one search finds, so that thousands of clients that come one after the other cost few searches.
const FOUND: usize = 64;

/// In the place of a time: it is not idle.
const BUSY: u64 = u64::MAX;

/// The room of one listener.
#[derive(Debug)]
pub(super) struct Capacity {
    permits: Arc<Semaphore>,
    /// Clients that have been accepted and wait for a permit.
    waiting: AtomicUsize,
    /// Clients that were told to leave and have not left.
    leaving: AtomicUsize,
    begun: Instant,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    taken: Slab<Arc<Client>>,
    /// Since when they are idle, and their keys; the longest last. Some may have become busy, or have left.
    idle: Vec<(u64, usize)>,
    /// How many there may be.
    most: usize,
    /// So many more are there, from before that was less: permits that nobody gets again.
    excess: usize,
}

#[derive(Debug)]
struct Client {
    /// Nanoseconds since the listener began, or [`BUSY`].
    idle_since: AtomicU64,
    told: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// The permit of one client. Dropping it gives it back.
pub(super) struct Seat {
    capacity: Arc<Capacity>,
    client: Arc<Client>,
    key: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Capacity {
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(most)),
            waiting: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            begun: Instant::now(),
            seats: Mutex::new(Seats { most, ..Seats::default() }),
        }
    }

    /// Takes so many clients from now on. Those that are too many then stay, and leave one after the other while
    /// others wait.
    pub(super) fn allow(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let mut seats = self.seats();
        let more = most.saturating_sub(seats.most);
        let fewer = seats.most.saturating_sub(most);
        let paid = more.min(seats.excess);
        self.permits.add_permits(more - paid);
        seats.excess += fewer - self.permits.forget_permits(fewer);
        seats.excess -= paid;
        seats.most = most;
    }

    /// Waits until there is room for a client that is there. None if there will never be, which does not happen.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Seat> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Some(self.seat(permit));
        }
        let _waits = Waits::begin(&self.waiting);
        let mut permit = pin!(self.permits.clone().acquire_owned());
        loop {
            self.make_room();
            if let Ok(permit) = timeout(AGAIN, permit.as_mut()).await {
                return permit.ok().map(|permit| self.seat(permit));
            }
        }
    }

    /// Whether a client would have a permit at once.
    pub(super) fn has_room(&self) -> bool {
        self.permits.available_permits() > 0
    }

    fn seat(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Seat {
        // Idle, but not for long enough to be told to leave before its request is there.
        let idle_since = self.now() + FRESH.as_nanos() as u64;
        let client = Arc::new(Client {
            idle_since: AtomicU64::new(idle_since),
            told: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let key = self.seats().taken.insert(client.clone());
        Seat { capacity: self.clone(), client, key, permit: Some(permit) }
    }

    /// Tells clients that have been idle for the longest to leave, until enough are leaving. More than one only where
    /// more are there than there may be.
    fn make_room(&self) {
        let mut seats = self.seats();
        while self.leaving.load(SeqCst) < self.waiting.load(SeqCst) + seats.excess {
            let Some(client) = seats.next_idle().or_else(|| {
                seats.find_idle(self.now());
                seats.next_idle()
            }) else {
                return;
            };
            self.leaving.fetch_add(1, SeqCst);
            client.told.store(true, SeqCst);
            if let Some(waker) = &*lock(&client.waker) {
                waker.wake_by_ref();
            }
        }
    }

    fn now(&self) -> u64 {
        // Enough for centuries.
        self.begun.elapsed().as_nanos() as u64
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        lock(&self.seats)
    }
}

impl Seats {
    /// The one that has been idle for the longest, of those that were found and still are.
    fn next_idle(&mut self) -> Option<Arc<Client>> {
        while let Some((since, key)) = self.idle.pop() {
            let client = self.taken.get(key).filter(|client| client.idle_since.load(Relaxed) == since);
            if let Some(client) = client.filter(|client| !client.told.load(Relaxed)) {
                return Some(client.clone());
            }
        }
        None
    }

    fn find_idle(&mut self, now: u64) {
        let times = self.taken.iter().filter(|(_, client)| !client.told.load(Relaxed));
        let times = times.map(|(key, client)| (client.idle_since.load(Relaxed), key));
        self.idle.extend(times.filter(|(since, _)| *since <= now));
        if self.idle.len() > FOUND {
            self.idle.select_nth_unstable(FOUND);
            self.idle.truncate(FOUND);
        }
        self.idle.sort_unstable_by(|one, other| other.cmp(one));
    }
}

impl Seat {
    /// A request is on its way, or whatever else makes the client stay.
    pub(super) fn busy(&self) {
        self.client.idle_since.store(BUSY, Relaxed);
    }

    /// The client has nothing under way.
    pub(super) fn idle(&self) {
        self.client.idle_since.store(self.capacity.now(), Relaxed);
    }

    /// Whether other clients wait for a permit, more of them than leave.
    pub(super) fn is_wanted(&self) -> bool {
        self.capacity.waiting.load(Relaxed) > self.capacity.leaving.load(Relaxed)
    }

    pub(super) fn told_to_leave(&self) -> bool {
        self.client.told.load(Relaxed)
    }

    /// Whom to wake when it is told.
    pub(super) fn register(&self, waker: &Waker) {
        lock(&self.client.waker).replace(waker.clone());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.capacity.seats();
        seats.taken.try_remove(self.key);
        if self.client.told.load(Relaxed) {
            self.capacity.leaving.fetch_sub(1, SeqCst);
        }
        let permit = self.permit.take();
        if seats.excess > 0 {
            seats.excess -= 1;
            permit.into_iter().for_each(OwnedSemaphorePermit::forget);
        }
    }
}

/// One that waits. Dropping it says that it does not any more.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, SeqCst);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    async fn enter(capacity: &Arc<Capacity>) -> Seat {
        advance(Duration::from_millis(1)).await;
        capacity.enter().await.unwrap()
    }

    /// Waits at the door until somebody was told to leave, or for a while.
    async fn knock(capacity: &Arc<Capacity>) {
        assert!(timeout(AGAIN * 3, capacity.enter()).await.is_err(), "nobody has left");
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_idle_for_the_longest_leaves_for_a_newcomer() {
        let capacity = Arc::new(Capacity::new(4));
        let seats =
            [enter(&capacity).await, enter(&capacity).await, enter(&capacity).await, enter(&capacity).await];
        for index in [1, 0, 3] {
            advance(Duration::from_millis(1)).await;
            seats[index].idle();
        }
        seats[2].busy();
        let told = || seats.each_ref().map(Seat::told_to_leave);
        knock(&capacity).await;
        assert_eq!(told(), [false, true, false, false]);
        knock(&capacity).await;
        assert_eq!(told(), [false, true, false, false], "one leaves for one, and has not left yet");

        let [zero, one, two, three] = seats;
        drop(one);
        let new = enter(&capacity).await;
        three.busy();
        knock(&capacity).await;
        assert!(zero.told_to_leave() && !two.told_to_leave() && !three.told_to_leave());
        assert!(!new.told_to_leave());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_whose_first_request_may_be_on_its_way_is_left_alone() {
        let capacity = Arc::new(Capacity::new(1));
        let first = enter(&capacity).await;
        knock(&capacity).await;
        assert!(!first.told_to_leave());
        advance(FRESH).await;
        knock(&capacity).await;
        assert!(first.told_to_leave());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_else_has_to_go_while_the_idle_leave() {
        let capacity = Arc::new(Capacity::new(2));
        let (idle, busy) = (enter(&capacity).await, enter(&capacity).await);
        idle.idle();
        busy.busy();
        let wait = || {
            let capacity = capacity.clone();
            tokio::spawn(async move { capacity.enter().await })
        };
        let first = wait();
        tokio::task::yield_now().await;
        assert!(idle.told_to_leave() && !busy.is_wanted());
        let second = wait();
        tokio::task::yield_now().await;
        assert!(busy.is_wanted());
        drop((idle, busy));
        let _both = (first.await.unwrap(), second.await.unwrap());
        assert_eq!(capacity.leaving.load(SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_idle_leave_when_others_wait() {
        let capacity = Arc::new(Capacity::new(3));
        let seats = [enter(&capacity).await, enter(&capacity).await, enter(&capacity).await];
        seats.iter().for_each(Seat::idle);
        capacity.allow(1);
        capacity.allow(1);
        assert!(seats.iter().all(|seat| !seat.told_to_leave()), "nobody waits");
        knock(&capacity).await;
        assert!(seats.iter().all(Seat::told_to_leave), "none of them leaves room for two");
        let [one, two, three] = seats;
        drop((one, two));
        knock(&capacity).await;
        drop(three);
        let only = enter(&capacity).await;
        knock(&capacity).await;
        capacity.allow(2);
        let other = enter(&capacity).await;
        assert!(!capacity.has_room());
        drop((only, other));
        assert_eq!((capacity.permits.available_permits(), capacity.seats().excess), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn permits_that_are_given_back_pay_for_those_that_are_too_many() {
        let capacity = Arc::new(Capacity::new(4));
        let seats = [enter(&capacity).await, enter(&capacity).await, enter(&capacity).await];
        capacity.allow(1);
        assert_eq!((capacity.permits.available_permits(), capacity.seats().excess), (0, 2));
        capacity.allow(2);
        assert_eq!((capacity.permits.available_permits(), capacity.seats().excess), (0, 1));
        capacity.allow(5);
        assert_eq!((capacity.permits.available_permits(), capacity.seats().excess), (2, 0));
        drop(seats);
        assert_eq!(capacity.permits.available_permits(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_and_answers_say_so_meanwhile() {
        let capacity = Arc::new(Capacity::new(1));
        let first = enter(&capacity).await;
        first.busy();
        assert!(!first.is_wanted());
        let waiting = tokio::spawn({
            let capacity = capacity.clone();
            async move { capacity.enter().await }
        });
        tokio::task::yield_now().await;
        assert!(first.is_wanted());
        drop(first);
        let second = waiting.await.unwrap().unwrap();
        assert!(!second.is_wanted());
    }
}
