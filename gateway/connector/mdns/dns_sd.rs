//! Types of DNS-SD, asked for and announced with `mdns-sd`.
//!
//! Its thread follows the interfaces itself, and takes what was heard on one that is gone for instances that have left.
//! Here a link that is lost is a failure of everything that is followed, so the interfaces are looked at before an
//! instance is believed to have left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use mdns_sd::{
    DaemonEvent, Error, IfKind, IfPredicate, Metrics, RRType, ServiceDaemon, ServiceInfo, TxtProperty,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    asking::Asking,
    engine::{LOOKS, Order, looked_at, lost, missing, on_no_link, unavailable},
    heard::{Heard, label, unescaped},
    links::{Interfaced, interfaces, is_wanted},
    list::{Teller, Told},
    responder::{Announcement, LONGEST_LABEL},
    wire::Name,
};
use crate::{connector::lock, registry::Failure};

/// How often the thread looks at the interfaces, in seconds. It asks on one that has come as soon as it sees it, which
/// must be before the first list is complete.
const ITS_LOOKS: u32 = 1;

/// Records of all kinds that the thread may keep. It has no bound of its own, and keeps what nobody asked for, too.
const MOST_RECORDS: i64 = 200_000;

/// The longest name of a type, without the underscore, that it can be made to announce.
const LONGEST_TYPE: u8 = 30;

/// It puts a number behind a name that others have, which must fit into the label.
const LONGEST_NAME: usize = LONGEST_LABEL - " (1000)".len();

/// A farewell is said twice, the second time after 120 ms.
const FAREWELLS: Duration = Duration::from_millis(200);

pub struct Task {
    names: Vec<String>,
    daemon: Daemon,
    /// What it says of announcements.
    said: mpsc::UnboundedReceiver<DaemonEvent>,
    links: BTreeMap<u32, Interfaced>,
    orders: mpsc::UnboundedReceiver<Order>,
    followed: HashMap<Name, Followed>,
    /// Something was heard of what is followed.
    news: Arc<Notify>,
    announced: BTreeMap<u64, Announced>,
    /// When the interfaces are looked at next.
    looks: Instant,
    /// Ends when the thread keeps too much.
    bound: JoinSet<()>,
    asking: Asking,
    /// Not all that is asked for is followed any more.
    unfollowed: bool,
    _reader: JoinSet<()>,
}

/// Dropping it ends the thread.
struct Daemon(ServiceDaemon);

struct Followed {
    teller: Teller,
    /// As it is browsed: `_http._tcp.local.`.
    kind: String,
    heard: Arc<Mutex<Heard>>,
    _reader: JoinSet<()>,
}

struct Announced {
    info: ServiceInfo,
    /// The full names that it was announced with and that it came to have, in lower case.
    names: [String; 2],
    /// Who waits for its name.
    named: Option<oneshot::Sender<String>>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The queue of its orders is short, and quickly empty.
        for _ in 0..100 {
            match self.0.shutdown() {
                Err(Error::Again) => std::thread::yield_now(),
                _ => return,
            }
        }
    }
}

fn failed(error: Error) -> Failure {
    unavailable(error.to_string())
}

impl Task {
    /// On the interfaces of these names.
    pub fn start(names: &[String], orders: mpsc::UnboundedReceiver<Order>) -> Result<Self, Failure> {
        let links = looked_at(names)?;
        let daemon = Daemon(ServiceDaemon::new().map_err(failed)?);
        let (reader, said) = begin(&daemon.0, names).map_err(failed)?;
        let mut bound = JoinSet::new();
        bound.spawn(keeps_too_much(daemon.0.clone(), MOST_RECORDS));
        Ok(Self {
            names: names.to_vec(),
            daemon,
            said,
            links,
            orders,
            followed: HashMap::new(),
            news: Arc::default(),
            announced: BTreeMap::new(),
            looks: Instant::now() + LOOKS,
            bound,
            asking: Asking::default(),
            unfollowed: false,
            _reader: reader,
        })
    }

    pub async fn run(mut self) {
        loop {
            let now = Instant::now();
            let followed = self.followed.values().filter_map(|followed| followed.teller.next_due(now));
            let due = followed.chain(self.asking.next_due()).fold(self.looks, Instant::min);
            let said = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.obey(order, Instant::now());
                        continue;
                    }
                    None => return,
                },
                said = self.said.recv() => match said {
                    Some(said) => {
                        self.hear(&said, Instant::now());
                        continue;
                    }
                    None => Err(unavailable("the thread of mdns-sd has ended".to_owned())),
                },
                Some(_) = self.bound.join_next() => {
                    Err(unavailable(format!("more than {MOST_RECORDS} records were heard")))
                }
                () = self.news.notified() => Ok(()),
                () = sleep_until(due) => Ok(()),
            };
            let now = Instant::now();
            let whole = said.and_then(|()| self.look_when_due(now));
            if let Err(failure) = whole {
                self.fail(&failure);
                return;
            }
            self.ask(now);
            self.tell(now);
        }
    }

    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::Follow(kind, reply) => {
                let followed = self.follow(kind, now);
                // One that fails at once is told so as any other.
                let _ = reply.send(followed.unwrap_or_else(|failure| {
                    watch::channel(Told { failed: Some(failure), ..Told::default() }).1
                }));
            }
            Order::Announce(id, announcement, reply) => {
                let _ = reply.send(self.announce(id, &announcement));
            }
            Order::Forget(id) => _ = self.withdraw(id),
            Order::Withdraw(id, done) => {
                let withdrawn = self.withdraw(id);
                tokio::spawn(async move {
                    if withdrawn {
                        // Whoever waits keeps the thread alive until it is said.
                        sleep_until(now + FAREWELLS).await;
                    }
                    let _ = done.send(());
                });
            }
        }
    }

    fn follow(&mut self, kind: Name, now: Instant) -> Result<watch::Receiver<Told>, Failure> {
        if let Some(followed) = self.followed.get(&kind) {
            return Ok(followed.teller.subscribe());
        }
        self.look(now);
        if self.links.is_empty() {
            looked_at(&self.names)?;
        }
        if let Some(failure) = missing(&self.names, self.links.values()) {
            return Err(failure);
        }
        let text = kind.to_utf8();
        let events = self.daemon.0.browse(&text).map_err(failed)?;
        let loopback = self.links.values().any(Interfaced::is_loopback);
        let heard = Arc::new(Mutex::new(Heard::new(&text, loopback)));
        let mut reader = JoinSet::new();
        // A reader that leaves a thousand events is given up, with what was heard kept for the next.
        let (to, news) = (heard.clone(), self.news.clone());
        reader.spawn(async move {
            while let Ok(event) = events.recv_async().await {
                lock(&to).hear(event);
                news.notify_one();
            }
            lock(&to).end();
            news.notify_one();
        });
        let teller = Teller::new(now);
        let told = teller.subscribe();
        self.followed.insert(kind, Followed { teller, kind: text, heard, _reader: reader });
        Ok(told)
    }

    fn unfollow(&mut self, kind: &Name, failure: Option<Failure>) {
        if let Some(followed) = self.followed.remove(kind) {
            self.unfollowed = true;
            let _ = self.daemon.0.stop_browse(&followed.kind);
            followed.teller.fail(failure);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let kinds: Vec<Name> = self.followed.keys().cloned().collect();
        kinds.iter().for_each(|kind| self.unfollow(kind, Some(failure.clone())));
    }

    fn announce(
        &mut self,
        id: u64,
        announcement: &Announcement,
    ) -> Result<oneshot::Receiver<String>, Failure> {
        let Announcement { kind, ip, port, texts, .. } = announcement;
        if !self.links.values().any(|at| at.reaches(*ip)) {
            return Err(on_no_link(*ip, self.links.values()));
        }
        let kind = kind.to_utf8();
        let texts = texts.iter().map(|text| property(text)).collect::<Result<Vec<_>, _>>()?;
        let host = format!("{}.local.", announcement.host());
        let mut number = 1;
        let (info, fullname) = loop {
            let name = announcement.label(number, LONGEST_NAME);
            let info = ServiceInfo::new(&kind, &name, &host, *ip, *port, texts.clone());
            let info = info.map_err(|error| Failure::Invalid(format!("mDNS: {name:?}: {error}")))?;
            let fullname = info.get_fullname().to_lowercase();
            // Those of this process do not ask each other.
            if !self.announced.values().any(|other| other.names.contains(&fullname)) {
                break (info, fullname);
            }
            number += 1;
        };
        let length = info.get_type().split('.').next().map_or(0, |kind| kind.len() - 1);
        if length > LONGEST_TYPE.into() {
            return Err(Failure::Invalid(format!(
                "mDNS: the type {kind:?} is longer than {LONGEST_TYPE} bytes, and is announced by nobody"
            )));
        }
        self.daemon.0.register(info.clone()).map_err(failed)?;
        let (named, name) = oneshot::channel();
        let names = [fullname.clone(), fullname];
        self.announced.insert(id, Announced { info, names, named: Some(named) });
        Ok(name)
    }

    /// It says goodbye.
    fn withdraw(&mut self, id: u64) -> bool {
        let Some(announced) = self.announced.remove(&id) else { return false };
        self.daemon.0.unregister(announced.info.get_fullname()).is_ok()
    }

    fn hear(&mut self, said: &DaemonEvent, now: Instant) {
        match said {
            // It has asked there for what is followed, and has not announced anything.
            DaemonEvent::IpAdd(_) => {
                self.followed.values_mut().for_each(|followed| followed.teller.note_asked(now));
                for announced in self.announced.values() {
                    let _ = self.daemon.0.register(announced.info.clone());
                }
            }
            DaemonEvent::NameChange(change) if matches!(change.rr_type, RRType::SRV | RRType::TXT) => {
                let original = change.original.to_lowercase();
                let mut all = self.announced.values_mut();
                if let Some(announced) = all.find(|announced| announced.names[0] == original) {
                    announced.names[1] = change.new_name.to_lowercase();
                }
            }
            DaemonEvent::Announce(fullname, _) => {
                let name = fullname.to_lowercase();
                let mut all = self.announced.values_mut();
                let Some(announced) = all.find(|announced| announced.names.contains(&name)) else { return };
                if let Some(named) = announced.named.take() {
                    let name = label(fullname, announced.info.get_type()).map(unescaped);
                    let _ = named.send(name.unwrap_or_default());
                }
            }
            _ => {}
        }
    }

    /// The failure is one of everything.
    fn look_when_due(&mut self, now: Instant) -> Result<(), Failure> {
        let mut looks = self.looks <= now;
        for followed in self.followed.values_mut() {
            let mut heard = lock(&followed.heard);
            // The thread would say all of it at once to whoever follows next, and be too fast again. Only another
            // begins with nothing.
            if let (true, Some(why)) = (heard.missed, &heard.ended) {
                return Err(unavailable(format!("{} {why}", followed.kind)));
            }
            if std::mem::take(&mut heard.changed) {
                followed.teller.note_change(now);
            }
            looks |= std::mem::take(&mut heard.some_left);
        }
        if looks {
            self.look(now);
        }
        Ok(())
    }

    /// Looks whether the interfaces are as they were.
    fn look(&mut self, now: Instant) {
        self.looks = now + LOOKS;
        let (failure, found) = match interfaces(&self.names) {
            Ok(found) => (lost(self.links.iter(), &found), found),
            Err(error) => (Some(unavailable(format!("interfaces: {error}"))), BTreeMap::new()),
        };
        if let Some(failure) = failure {
            self.fail(&failure);
        }
        self.links = found;
    }

    /// Asks for instances with dots in their names, and soon for new ones.
    fn ask(&mut self, now: Instant) {
        let mut changed = std::mem::take(&mut self.unfollowed);
        for followed in self.followed.values() {
            changed |= std::mem::take(&mut lock(&followed.heard).dots_changed);
        }
        if changed {
            let mut names = BTreeSet::new();
            for (kind, followed) in &self.followed {
                let (heard, kind) = (lock(&followed.heard), base_of(kind));
                let with_dots = heard.with_dots.iter();
                names.extend(with_dots.filter_map(|name| kind.prepend_label(name.as_bytes()).ok()));
            }
            self.asking.set(names, now);
        }
        self.asking.ask(&self.links, now);
    }

    /// Tells those who follow what has changed.
    fn tell(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for (kind, followed) in &mut self.followed {
            let heard = lock(&followed.heard);
            if let Some(why) = &heard.ended {
                ended.push((kind.clone(), Some(unavailable(format!("{} {why}", followed.kind)))));
            } else if !followed.teller.is_read() {
                ended.push((kind.clone(), None));
            } else if !heard.some_left && followed.teller.is_due(now, || heard.lacks()) {
                followed.teller.tell(heard.list.clone());
            }
            followed.teller.refresh(now);
        }
        ended.into_iter().for_each(|(kind, failure)| self.unfollow(&kind, failure));
    }
}

/// Ends when the thread keeps more records than `most`.
async fn keeps_too_much(daemon: ServiceDaemon, most: i64) {
    loop {
        // However long it takes to answer: it is asked for the next count after it has given the last.
        let metrics = match daemon.get_metrics() {
            Ok(metrics) => metrics.recv_async().await.unwrap_or_default(),
            Err(_) => Metrics::default(),
        };
        if records(&metrics) > most {
            return;
        }
        sleep(LOOKS).await;
    }
}

/// Of all kinds.
fn records(metrics: &Metrics) -> i64 {
    metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count).sum()
}

/// Has the thread listen on the interfaces that are wanted, and hands on what it says of announcements.
fn begin(
    daemon: &ServiceDaemon,
    names: &[String],
) -> Result<(JoinSet<()>, mpsc::UnboundedReceiver<DaemonEvent>), Error> {
    daemon.disable_interface(IfKind::All)?;
    daemon.enable_interface(wanted(names))?;
    daemon.set_ip_check_interval(ITS_LOOKS)?;
    daemon.set_service_name_len_max(LONGEST_TYPE)?;
    let events = daemon.monitor()?;
    let (say, said) = mpsc::unbounded_channel();
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        while let Ok(event) = events.recv_async().await {
            if matches!(event, DaemonEvent::Announce(..) | DaemonEvent::NameChange(_) | DaemonEvent::IpAdd(_))
            {
                let _ = say.send(event);
            }
        }
    });
    Ok((reader, said))
}

fn wanted(names: &[String]) -> IfKind {
    let names = names.to_vec();
    IfKind::Predicate(IfPredicate::new(move |interface| is_wanted(&names, interface)))
}

/// The type of which another is a subtype: the names of instances end with it.
fn base_of(kind: &Name) -> Name {
    kind.trim_to(3)
}

fn property(text: &[u8]) -> Result<TxtProperty, Failure> {
    let end = text.iter().position(|byte| *byte == b'=');
    let key = str::from_utf8(&text[..end.unwrap_or(text.len())]);
    let key = key.map_err(|_| Failure::Invalid(format!("{:?} has no key", String::from_utf8_lossy(text))))?;
    Ok(end.map_or_else(|| key.into(), |end| (key, &text[end + 1..]).into()))
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::connector::mdns::wire::local;

    fn kind() -> Name {
        local(&[b"_orders", b"_tcp"]).unwrap()
    }

    fn task() -> (Task, mpsc::UnboundedSender<Order>) {
        let (orders, taken) = mpsc::unbounded_channel();
        (Task::start(&["lo".to_owned()], taken).unwrap(), orders)
    }

    /// Whoever follows fails, and the task ends: what follows next begins with a thread that has heard nothing.
    async fn ends(mut task: Task, why: &str) {
        let told = task.follow(kind(), Instant::now()).unwrap();
        timeout(Duration::from_secs(20), task.run()).await.expect("it goes on");
        let Some(Failure::Unavailable(text)) = &told.borrow().failed else { panic!("it has not failed") };
        assert!(text.contains(why), "{text}");
    }

    #[tokio::test]
    async fn answers_that_were_missed_end_the_task() {
        let (mut task, _orders) = task();
        let _told = task.follow(kind(), Instant::now()).unwrap();
        lock(&task.followed[&kind()].heard).end();
        task.news.notify_one();
        ends(task, "_orders._tcp.local. was answered faster").await;
    }

    #[tokio::test]
    async fn records_without_bound_end_the_task() {
        let (mut task, _orders) = task();
        task.bound = JoinSet::new();
        task.bound.spawn(keeps_too_much(task.daemon.0.clone(), -1));
        ends(task, "more than 200000 records").await;
    }

    #[tokio::test]
    async fn records_of_all_kinds_are_counted() {
        let (task, _orders) = task();
        let metrics = task.daemon.0.get_metrics().unwrap().recv_async().await.unwrap();
        let of_records = metrics.keys().filter(|name| name.starts_with("cached-"));
        let mut of_records: Vec<&str> = of_records.map(String::as_str).collect();
        of_records.sort_unstable();
        assert_eq!(of_records.len(), 6, "{of_records:?}");
        let counted = of_records.iter().map(|name| ((*name).to_owned(), 2)).chain([("timer".to_owned(), 9)]);
        assert_eq!(records(&counted.collect()), 12);
    }
}
