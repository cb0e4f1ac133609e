//! Types of DNS-SD, asked for and announced with `mdns-sd`.
//!
//! Its thread follows the interfaces itself, and takes what was heard on one that is gone for instances that have left.
//! Here a link that is lost is a failure of everything that is followed, so the interfaces are looked at before an
//! instance is believed to have left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::{Arc, Mutex},
    time::Duration,
};

use mdns_sd::{
    DaemonEvent, Error, IfKind, IfPredicate, Metrics, RRType, Receiver, ServiceDaemon, ServiceInfo,
    TxtProperty,
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    engine::{LOOKS, Order, looked_at, on_no_link, unavailable},
    heard::{Heard, label, unescaped},
    links::{Interfaced, Link, is_wanted},
    list::{Teller, Told},
    responder::{Announcement, LONGEST_LABEL},
    wire::{Kind, Message, Name},
};
use crate::{connector::lock, registry::Failure};

/// How often the thread looks at the interfaces, in seconds.
const ITS_LOOKS: u32 = 2;

/// Records of all kinds that the thread may keep. It has no bound of its own, and keeps what nobody asked for, too.
const MOST_RECORDS: i64 = 200_000;

/// The longest name of a type, without the underscore, that it can be made to announce.
const LONGEST_TYPE: u8 = 30;

/// It puts a number behind a name that others have, which must fit into the label.
const LONGEST_NAME: usize = LONGEST_LABEL - " (1000)".len();

/// How often instances with dots in their names are asked for. What says where one is, is good for two minutes.
const ASKS: Duration = Duration::from_secs(40);

/// A name of which only part was heard is asked for after this.
const MISSING_FOR: Duration = Duration::from_millis(100);

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
    last: u64,
    /// When the interfaces are looked at next.
    looks: Instant,
    metrics: Option<Receiver<Metrics>>,
    /// While there are names with dots.
    asking: Option<Asking>,
    _reader: JoinSet<()>,
}

/// Asks for instances with dots in their names. `mdns-sd` takes each dot for the end of a label when it asks, and
/// nobody has such a name. The answers go to everybody on the link, and it does take those for what they are.
struct Asking {
    links: BTreeMap<u32, Link>,
    due: Instant,
    /// Those that were there when they were asked for last.
    known: BTreeSet<Name>,
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
        Ok(Self {
            names: names.to_vec(),
            daemon,
            said,
            links,
            orders,
            followed: HashMap::new(),
            news: Arc::default(),
            announced: BTreeMap::new(),
            last: 0,
            looks: Instant::now() + LOOKS,
            metrics: None,
            asking: None,
            _reader: reader,
        })
    }

    pub async fn run(mut self) {
        loop {
            let now = Instant::now();
            let followed = self.followed.values().filter_map(|followed| followed.teller.next_due(now));
            let asking = self.asking.iter().map(|asking| asking.due);
            let due = followed.chain(asking).fold(self.looks, Instant::min);
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
                        self.hear(&said);
                        continue;
                    }
                    None => Err(unavailable("the thread of mdns-sd has ended".to_owned())),
                },
                () = self.news.notified() => Ok(()),
                () = sleep_until(due) => Ok(()),
            };
            let now = Instant::now();
            let bounded = said.and_then(|()| self.look_when_due(now));
            if let Err(failure) = bounded {
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
            Order::Announce(announcement, reply) => {
                let _ = reply.send(self.announce(&announcement));
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
        let text = kind.to_utf8();
        let events = self.daemon.0.browse(&text).map_err(failed)?;
        let loopback = self.links.values().any(Interfaced::is_loopback);
        let heard = Arc::new(Mutex::new(Heard::new(&text, loopback)));
        let mut reader = JoinSet::new();
        // A reader that leaves a thousand events is given up.
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
            let _ = self.daemon.0.stop_browse(&followed.kind);
            followed.teller.fail(failure);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let kinds: Vec<Name> = self.followed.keys().cloned().collect();
        kinds.iter().for_each(|kind| self.unfollow(kind, Some(failure.clone())));
    }

    fn announce(&mut self, announcement: &Announcement) -> Result<(u64, oneshot::Receiver<String>), Failure> {
        let Announcement { kind, ip, port, texts, .. } = announcement;
        if !self.links.values().any(|at| at.reaches(*ip)) {
            return Err(on_no_link(*ip));
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
        self.last += 1;
        self.announced.insert(self.last, Announced { info, names, named: Some(named) });
        Ok((self.last, name))
    }

    /// It says goodbye.
    fn withdraw(&mut self, id: u64) -> bool {
        let Some(announced) = self.announced.remove(&id) else { return false };
        self.daemon.0.unregister(announced.info.get_fullname()).is_ok()
    }

    fn hear(&mut self, said: &DaemonEvent) {
        match said {
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

    /// The failure is one of everything: more is kept than there is room for.
    fn look_when_due(&mut self, now: Instant) -> Result<(), Failure> {
        let mut looks = self.looks <= now;
        for followed in self.followed.values_mut() {
            let mut heard = lock(&followed.heard);
            if std::mem::take(&mut heard.changed) {
                followed.teller.note_change(now);
            }
            looks |= std::mem::take(&mut heard.some_left);
        }
        if looks {
            self.look(now);
            let metrics = self.metrics.take().and_then(|metrics| metrics.try_recv().ok()).unwrap_or_default();
            let records = metrics.iter().filter(|(name, _)| name.starts_with("cached-"));
            let records: i64 = records.map(|(_, count)| count).sum();
            if records > MOST_RECORDS {
                return Err(unavailable(format!("more than {MOST_RECORDS} records were heard")));
            }
            self.metrics = self.daemon.0.get_metrics().ok();
        }
        Ok(())
    }

    /// Looks whether the interfaces are as they were.
    fn look(&mut self, now: Instant) {
        self.looks = now + LOOKS;
        let found = looked_at(&self.names);
        let lost = |found: &BTreeMap<u32, Interfaced>| {
            let lost = self.links.iter().find(|(index, _)| !found.contains_key(index));
            lost.map(|(_, at)| unavailable(format!("{} is no longer up", at.name)))
        };
        let (failure, found) = match found {
            Ok(found) => (lost(&found), found),
            Err(failure) => (Some(failure), BTreeMap::new()),
        };
        if let Some(failure) = failure {
            self.fail(&failure);
        }
        if found != self.links {
            // At once, and not when the thread looks next.
            let _ = self.daemon.0.enable_interface(wanted(&self.names));
            if found.keys().any(|index| !self.links.contains_key(index)) {
                for announced in self.announced.values() {
                    let _ = self.daemon.0.register(announced.info.clone());
                }
            }
        }
        self.links = found;
    }

    /// Asks for instances with dots in their names, and soon for new ones.
    fn ask(&mut self, now: Instant) {
        let mut names = BTreeSet::new();
        for (kind, followed) in &self.followed {
            let heard = lock(&followed.heard);
            let kind = base_of(kind);
            names.extend(heard.with_dots.iter().filter_map(|name| kind.prepend_label(name.as_bytes()).ok()));
        }
        if names.is_empty() {
            self.asking = None;
            return;
        }
        let asking = self.asking.get_or_insert_with(|| Asking {
            links: BTreeMap::new(),
            due: now + MISSING_FOR,
            known: BTreeSet::new(),
        });
        if !names.is_subset(&asking.known) {
            asking.due = asking.due.min(now + MISSING_FOR);
        }
        asking.known.extend(names.iter().cloned());
        asking.links.retain(|index, link| self.links.get(index) == Some(&link.at));
        for (index, at) in &self.links {
            if let Entry::Vacant(vacant) = asking.links.entry(*index)
                && let Ok(link) = Link::open(*index, at.clone(), &mpsc::channel(1).0)
            {
                vacant.insert(link);
            }
        }
        if asking.due <= now {
            let questions =
                names.iter().flat_map(|name| [Kind::SRV, Kind::TXT].map(|kind| (name.clone(), kind)));
            let packets = Message { questions: questions.collect(), ..Message::default() }.write();
            asking.links.values().for_each(|link| packets.iter().for_each(|packet| link.say(packet)));
            (asking.due, asking.known) = (now + ASKS, names);
        }
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
            } else if followed.teller.is_due(now, || heard.lacks()) {
                followed.teller.tell(heard.list.clone());
            }
            followed.teller.refresh(now);
        }
        ended.into_iter().for_each(|(kind, failure)| self.unfollow(&kind, failure));
    }
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
            if matches!(event, DaemonEvent::Announce(..) | DaemonEvent::NameChange(_)) {
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
