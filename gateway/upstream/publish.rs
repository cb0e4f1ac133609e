//! The one place where an upstream's list is exchanged.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{Change, Endpoint, Member, Offered, Snapshot, Stats, UpstreamName, slots::Slots};

/// How long statistics of an address are kept after it left, and of how many addresses. Each is looked at when the list
/// changes, so they are few; fewer yet are kept whatever their age.
const RETIRED_FOR: Duration = Duration::from_secs(600);
const RETIRED_MOST: usize = 1_000;
const RETIRED_FEW: usize = 256;

/// How long a worker may take to pick from a new list before it is said to be behind.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// One change to what an upstream offers, by identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    Put(Endpoint),
    Remove(SocketAddr),
}

/// What one generation did to the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    pub generation: u64,
    pub added: Vec<SocketAddr>,
    pub updated: Vec<SocketAddr>,
    pub removed: Vec<SocketAddr>,
}

/// The reading half: cheap to clone, never waits.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Shared {
    name: UpstreamName,
    current: ArcSwap<Snapshot>,
    /// Locked for a few lines by who publishes and who reads metrics; requests never look here.
    past: Mutex<Past>,
}

impl Shared {
    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the last generations were published: those of the last second, and the one in force before them.
#[derive(Debug, Default)]
struct Past(VecDeque<(Instant, u64)>);

impl Past {
    fn record(&mut self, generation: u64, now: Instant) {
        while self.0.get(1).is_some_and(|(at, _)| is_settled(*at, now)) {
            self.0.pop_front();
        }
        self.0.push_back((now, generation));
    }

    fn settled(&self, now: Instant) -> u64 {
        let settled = self.0.iter().rev().find(|(at, _)| is_settled(*at, now));
        settled.map_or(0, |(_, generation)| *generation)
    }
}

fn is_settled(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= SETTLED_AFTER
}

impl Reader {
    pub fn name(&self) -> &UpstreamName {
        &self.shared.name
    }

    /// The list as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current.load_full()
    }

    /// The list as it is now, and what tells of every list that is not this one; that closes when the upstream is
    /// gone.
    ///
    /// Both come from one call because of their order: who reads first and subscribes then never hears of what is
    /// published in between.
    pub fn follow(&self) -> (Arc<Snapshot>, watch::Receiver<u64>) {
        subscribe_then_read(&self.generation, || self.snapshot())
    }

    /// The newest generation that was published at least a second before `now`: whoever picks from an older one is
    /// behind. 0 while there is none.
    pub fn settled_generation(&self, now: Instant) -> u64 {
        self.shared.past().settled(now)
    }

    /// Whether both readers read the same upstream, not only one of the same name.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// Whatever is stored while `read` reads is told afterwards.
fn subscribe_then_read<R>(
    notice: &watch::Receiver<u64>,
    read: impl FnOnce() -> R,
) -> (R, watch::Receiver<u64>) {
    let mut notice = notice.clone();
    notice.mark_unchanged();
    (read(), notice)
}

/// The writing half. There is one, so changes need no lock.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    generation: watch::Sender<u64>,
    slots: Slots,
    members: HashMap<SocketAddr, Arc<Member>>,
    retired: HashMap<SocketAddr, (Instant, Arc<Stats>)>,
    /// Endpoints that one request at a time tries, whether they are offered or not.
    half_open: HashSet<SocketAddr>,
}

impl Publisher {
    pub fn new(name: UpstreamName) -> (Self, Reader) {
        let current = ArcSwap::from_pointee(Snapshot::empty());
        let shared = Arc::new(Shared { name, current, past: Mutex::default() });
        let (generation, receiver) = watch::channel(0);
        let reader = Reader { shared: shared.clone(), generation: receiver };
        let (slots, members, retired) = (Slots::new(), HashMap::new(), HashMap::new());
        (Self { shared, generation, slots, members, retired, half_open: HashSet::new() }, reader)
    }

    /// The number of the list in force.
    pub fn generation(&self) -> u64 {
        self.shared.current.load().generation()
    }

    /// Makes the offers visible to every request that starts after this returns, and wakes the workers.
    ///
    /// Requests already running keep the snapshot they hold. Offers that change nothing make no generation;
    /// returns what the new generation did if there is one.
    pub fn publish(&mut self, offers: Vec<impl Into<Offered>>, now: Instant) -> Option<Published> {
        let mut published = Published::default();
        let changes = offers.into_iter().filter_map(|offer| self.change(offer.into(), now, &mut published));
        let changes: Vec<Change> = changes.collect();
        if changes.is_empty() {
            return None;
        }
        let next = self.shared.current.load().apply(changes, SystemTime::now());
        published.generation = next.generation();
        self.shared.current.store(Arc::new(next));
        self.shared.past().record(published.generation, now);
        self.generation.send_replace(published.generation);
        Some(published)
    }

    /// Lets one request at a time to an endpoint, or all again. One that is about to be offered begins so.
    pub fn set_half_open(&mut self, address: SocketAddr, half_open: bool) {
        match half_open {
            true => drop(self.half_open.insert(address)),
            false => drop(self.half_open.remove(&address)),
        }
        if let Some(member) = self.members.get(&address) {
            member.stats().set_half_open(half_open);
        }
    }

    /// Wants to be told of the next success of an endpoint, as after a failure, whether it is offered or not.
    pub fn suspect(&mut self, address: SocketAddr, now: Instant) {
        self.stats(address, now).suspect(true);
    }

    /// Begins the averages of endpoints anew, with that of the others, so that no selector takes them for the fastest, or
    /// for what they were before they were out. Where nobody has an average, nothing changes.
    pub fn seed(&mut self, addresses: &[SocketAddr], now: Instant) {
        let seeded: HashSet<&SocketAddr> = addresses.iter().collect();
        let others = self.members.values().filter(|member| !seeded.contains(&member.address()));
        let known: Vec<u64> = others.map(|member| member.stats().latency_ns()).filter(|ns| *ns > 0).collect();
        let Some(average) = known.iter().sum::<u64>().checked_div(known.len() as u64) else { return };
        for address in addresses {
            self.stats(*address, now).seed(average, now);
        }
    }

    fn stats(&mut self, address: SocketAddr, now: Instant) -> &Stats {
        match self.members.get(&address) {
            Some(member) => member.stats(),
            None => &self.retired.entry(address).or_insert_with(|| (now, Arc::default())).1,
        }
    }

    /// What is counted of an endpoint, also of one that is not offered any more.
    pub fn stats_of(&self, address: SocketAddr) -> Option<&Arc<Stats>> {
        let retired = || self.retired.get(&address).map(|(_, stats)| stats);
        self.members.get(&address).map(|member| member.stats()).or_else(retired)
    }

    /// Whether an endpoint that is offered has ever answered a request, as far as anybody remembers.
    pub fn has_answered(&self, address: SocketAddr) -> bool {
        self.members.get(&address).is_some_and(|member| member.stats().has_answered())
    }

    /// Says of every endpoint that is not offered whether it has left, or is only out: `listed` says who is still in the
    /// list.
    pub fn tell_left(&mut self, listed: impl Fn(SocketAddr) -> bool, now: Instant) {
        for (address, (_, stats)) in &self.retired {
            stats.set_left(!listed(*address), now);
        }
        self.forget_retired(now);
    }

    fn change(&mut self, offer: Offered, now: Instant, published: &mut Published) -> Option<Change> {
        match offer {
            Offered::Put(endpoint, effective) => {
                let address = endpoint.address;
                let member = match self.members.get(&address) {
                    Some(known) if *known.endpoint() == endpoint && *known.effective() == effective => {
                        return None;
                    }
                    Some(known) => {
                        published.updated.push(address);
                        Member::new(known.lease().clone(), endpoint, effective, known.stats().clone())
                    }
                    None => {
                        published.added.push(address);
                        let stats = self.retired.remove(&address).map(|(_, stats)| stats).unwrap_or_default();
                        stats.set_half_open(self.half_open.contains(&address));
                        stats.set_left(false, now);
                        Member::new(self.slots.take(), endpoint, effective, stats)
                    }
                };
                let member = Arc::new(member);
                self.members.insert(address, member.clone());
                Some(Change::Put(member))
            }
            Offered::Remove(address) => {
                let member = self.members.remove(&address)?;
                published.removed.push(address);
                member.stats().close();
                self.retired.insert(address, (now, member.stats().clone()));
                Some(Change::Remove(member.slot()))
            }
        }
    }

    /// Forgets statistics of endpoints that have left. Only of these, and after they were told so: requests that are under
    /// way to an endpoint see in its statistics when it leaves. And not while there are any: whoever waits until an endpoint
    /// has nothing left would be told so, and one that comes back would begin as if it had nothing to do.
    fn forget_retired(&mut self, now: Instant) {
        for (most, age) in [(RETIRED_FEW, RETIRED_FOR), (RETIRED_MOST, Duration::ZERO)] {
            if self.retired.len() > most {
                let young = |since: Instant| now.saturating_duration_since(since) < age;
                self.retired
                    .retain(|_, (since, stats)| !stats.has_left() || stats.is_in_use() || young(*since));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{Admission, CatchUp, Facts, Slot, Weight};

    fn endpoint(port: u16, weight: u32) -> Endpoint {
        Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            weight: Weight::new(weight).unwrap(),
            facts: Facts::default(),
        }
    }

    #[test]
    fn an_offer_that_changes_nothing_makes_no_generation() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let now = Instant::now();
        assert_eq!(publisher.publish(vec![Offer::Put(endpoint(1, 1))], now).map(|p| p.generation), Some(1));
        assert_eq!(publisher.publish(vec![Offer::Put(endpoint(1, 1))], now), None);
        assert_eq!(publisher.publish(vec![Offer::Put(endpoint(1, 2))], now).map(|p| p.generation), Some(2));
        assert_eq!(reader.snapshot().generation(), 2);
    }

    #[tokio::test]
    async fn a_list_published_while_the_one_before_is_read_is_told() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        publisher.publish(vec![Offer::Put(endpoint(1, 1))], Instant::now());
        let (read, mut notice) = subscribe_then_read(&reader.generation, || {
            let read = reader.snapshot();
            publisher.publish(vec![Offer::Put(endpoint(2, 1))], Instant::now());
            read
        });
        assert_eq!(read.generation(), 1);
        assert!(notice.has_changed().unwrap(), "generation 2 was published in the gap");
        assert_eq!(*notice.borrow_and_update(), 2);

        let (read, notice) = reader.follow();
        assert_eq!((read.generation(), notice.has_changed().unwrap()), (2, false), "nothing is told twice");
    }

    #[test]
    fn a_list_is_settled_when_it_is_a_second_old() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(reader.settled_generation(at(0)), 0);
        for (milliseconds, weight) in [(0, 1), (900, 2), (1_100, 3), (1_200, 4)] {
            publisher.publish(vec![Offer::Put(endpoint(1, weight))], at(milliseconds));
        }
        let settled =
            [999, 1_000, 1_899, 1_900, 2_150, 2_200, 9_999].map(|ms| reader.settled_generation(at(ms)));
        assert_eq!(settled, [0, 1, 1, 2, 3, 4, 4]);
    }

    #[test]
    fn no_more_of_the_past_is_kept_than_a_second() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let start = Instant::now();
        for step in 0..10_000 {
            let now = start + Duration::from_millis(10) * step;
            publisher.publish(vec![Offer::Put(endpoint(1, step + 1))], now);
        }
        assert!(reader.shared.past().0.len() <= 102, "{}", reader.shared.past().0.len());
    }

    #[test]
    fn statistics_outlive_a_new_registration_of_the_same_address() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let now = Instant::now();
        publisher.publish(vec![Offer::Put(endpoint(1, 1))], now);
        let before = reader.snapshot().get(Slot(0)).unwrap().stats().clone();
        publisher.publish(vec![Offer::Remove(endpoint(1, 1).address)], now);
        publisher.publish(vec![Offer::Put(endpoint(1, 7))], now);
        let snapshot = reader.snapshot();
        assert!(Arc::ptr_eq(snapshot.iter().next().unwrap().stats(), &before));
    }

    #[test]
    fn who_is_forgotten_has_been_told_that_it_left() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let (now, ports) = (Instant::now(), 1..=3 * RETIRED_MOST as u16);
        publisher.publish(ports.clone().map(|port| Offer::Put(endpoint(port, 1))).collect(), now);
        let all: Vec<_> = reader.snapshot().iter().cloned().collect();
        publisher
            .publish(ports.map(|port| Offer::Remove(endpoint(port, 1).address)).collect::<Vec<_>>(), now);
        // A third of them is ejected, and still in the list.
        let listed = |address: SocketAddr| address.port().is_multiple_of(3);
        publisher.tell_left(listed, now);
        let told = |member: &Member, listed: &dyn Fn(SocketAddr) -> bool| {
            member.stats().has_left() != listed(member.address())
        };
        assert!(all.iter().all(|member| told(member, &listed)));
        assert_eq!(publisher.retired.len(), RETIRED_MOST);
        // Those are told when they leave, however late that is.
        publisher.tell_left(|_| false, now + RETIRED_FOR);
        assert!(all.iter().all(|member| told(member, &|_| false)));
        assert!(publisher.retired.is_empty());
    }

    #[test]
    fn an_endpoint_is_half_open_from_the_moment_it_is_offered() {
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let (now, address) = (Instant::now(), endpoint(1, 1).address);
        let half_open = || reader.snapshot().iter().next().unwrap().stats().is_half_open();
        publisher.set_half_open(address, true);
        publisher.publish(vec![Offer::Put(endpoint(1, 1))], now);
        assert!(half_open());
        publisher.set_half_open(address, false);
        assert!(!half_open());
        publisher.set_half_open(address, true);
        let behind = reader.snapshot();
        publisher.publish(vec![Offer::Remove(address)], now);
        publisher.set_half_open(address, false);
        let stats = behind.iter().next().unwrap().stats();
        assert!(matches!(stats.admit(), Admission::Refused), "where its removal is not known yet");
        publisher.publish(vec![Offer::Put(endpoint(1, 1))], now);
        assert!(!half_open(), "though its statistics are those of before");
    }

    proptest! {
        /// Whatever is offered in whatever order: addresses and slots are unique, the length is true, and a view
        /// that catches up from any generation sees the same list as one that starts anew.
        #[test]
        fn any_offers_leave_a_consistent_snapshot(
            steps in prop::collection::vec(prop::collection::vec((0u16..40, 0u32..3), 1..8), 1..40),
            behind in 0usize..40,
        ) {
            let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
            let mut snapshots = vec![reader.snapshot()];
            for step in steps {
                let offers = step.into_iter().map(|(port, weight)| match weight {
                    0 => Offer::Remove(endpoint(port, 1).address),
                    weight => Offer::Put(endpoint(port, weight)),
                });
                publisher.publish(offers.collect(), Instant::now());
                let snapshot = reader.snapshot();
                let addresses: std::collections::HashSet<_> = snapshot.iter().map(|m| m.address()).collect();
                let slots: std::collections::HashSet<_> = snapshot.iter().map(|m| m.slot()).collect();
                prop_assert_eq!(addresses.len(), snapshot.len());
                prop_assert_eq!(slots.len(), snapshot.len());
                snapshots.push(snapshot);
            }
            let last = snapshots.last().unwrap();
            let old = &snapshots[snapshots.len() - 1 - behind.min(snapshots.len() - 1)];
            let mut view: HashMap<Slot, SocketAddr> = old.iter().map(|m| (m.slot(), m.address())).collect();
            match last.since(old.generation()) {
                CatchUp::Reset => view = last.iter().map(|m| (m.slot(), m.address())).collect(),
                CatchUp::Changes(generations) => for change in generations.iter().flat_map(|g| &g.changes) {
                    match change {
                        Change::Put(member) => { view.insert(member.slot(), member.address()); }
                        Change::Remove(slot) => { view.remove(slot); }
                    }
                },
            }
            let expected: HashMap<Slot, SocketAddr> = last.iter().map(|m| (m.slot(), m.address())).collect();
            prop_assert_eq!(view, expected);
        }
    }
}
