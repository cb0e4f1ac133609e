//! Types that are not of DNS-SD, like that of rpcx: asked for and announced by ourselves.
//!
//! The task ends when nobody follows or announces any more, or when a link is lost: what was heard there would run out
//! one by one, and nothing of that would be true. Then everybody who follows is told so, and begins again.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    cache::{Cache, Found, TooMany},
    engine::{LOOKS, Order, looked_at, on_no_link, unavailable},
    links::{Heard, Link},
    list::{GATHERED, Instance, List, MOST_INSTANCES, Teller},
    responder::{Announcement, Responder, Saying},
    wire::{Message, Name, label},
};
use crate::registry::Failure;

/// Packets that were read and not looked at yet. More wait in the kernel, or are lost as on the way.
const PACKETS: usize = 256;

pub struct Task {
    names: Vec<String>,
    links: BTreeMap<u32, (Link, Cache)>,
    heard: mpsc::Sender<Heard>,
    packets: mpsc::Receiver<Heard>,
    orders: mpsc::UnboundedReceiver<Order>,
    followed: HashMap<Name, Teller>,
    responder: Responder,
    /// Who waits for the name of an announcement.
    named: Vec<(u64, oneshot::Sender<String>)>,
    /// When the interfaces are looked at next.
    looks: Instant,
}

impl Task {
    /// On the interfaces of these names.
    pub fn start(names: &[String], orders: mpsc::UnboundedReceiver<Order>) -> Result<Self, Failure> {
        let (heard, packets) = mpsc::channel(PACKETS);
        let mut links = BTreeMap::new();
        for (index, at) in looked_at(names)? {
            let name = at.name.clone();
            match Link::open(index, at, &heard) {
                Ok(link) => links.insert(index, (link, Cache::default())),
                Err(error) => return Err(unavailable(format!("listening on {name}: {error}"))),
            };
        }
        let (names, looks) = (names.to_vec(), Instant::now() + LOOKS);
        let (followed, responder) = (HashMap::new(), Responder::default());
        Ok(Self { names, links, heard, packets, orders, followed, responder, named: vec![], looks })
    }

    pub async fn run(mut self) {
        loop {
            let due = self.next_due();
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order, Instant::now()),
                    None => return,
                },
                Some((index, packet)) = self.packets.recv() => self.hear(index, &packet, Instant::now()),
                () = sleep_until(due) => {}
            }
            let now = Instant::now();
            if self.looks <= now
                && let Err(failure) = self.look(now)
            {
                self.fail(&failure);
                return;
            }
            self.speak(now);
            self.tell(now);
        }
    }

    fn obey(&mut self, order: Order, now: Instant) {
        match order {
            Order::Follow(kind, reply) => {
                let links = &mut self.links;
                let followed = self.followed.entry(kind).or_insert_with_key(|kind| {
                    links.values_mut().for_each(|(_, cache)| cache.follow(kind, now));
                    Teller::new(now)
                });
                let _ = reply.send(followed.subscribe());
            }
            Order::Announce(announcement, reply) => {
                let _ = reply.send(self.announce(announcement, now));
            }
            Order::Forget(id) => self.responder.forget(id),
            Order::Withdraw(id, done) => {
                let last = self.responder.withdraw(id, now);
                tokio::spawn(async move {
                    if let Some(last) = last {
                        // Whoever waits keeps this task alive until it is said.
                        sleep_until(last + GATHERED).await;
                    }
                    let _ = done.send(());
                });
            }
        }
    }

    fn announce(
        &mut self,
        announcement: Announcement,
        now: Instant,
    ) -> Result<(u64, oneshot::Receiver<String>), Failure> {
        let (ip, name) = (announcement.ip, announcement.name.clone());
        if !self.links.values().any(|(link, _)| link.at.reaches(ip)) {
            return Err(on_no_link(ip));
        }
        let id = self.responder.announce(announcement, now);
        let id =
            id.ok_or_else(|| Failure::Invalid(format!("mDNS: {name:?} can be no name of an instance")))?;
        let (named, name) = oneshot::channel();
        self.named.push((id, named));
        Ok((id, name))
    }

    fn hear(&mut self, index: u32, packet: &[u8], now: Instant) {
        let Some(message) = Message::read(packet) else { return };
        let Some((link, cache)) = self.links.get_mut(&index) else { return };
        let at = &link.at;
        self.responder.hear(&message, |ip| at.reaches(ip), now);
        if let Err(TooMany(kind)) = cache.hear(&message, now) {
            // What is too much is not kept in part: that would be a list that is cut at random.
            let text =
                format!("{kind} has more than {MOST_INSTANCES} instances, or too much is said of them");
            self.unfollow(&kind, Some(unavailable(text)));
        }
    }

    fn unfollow(&mut self, kind: &Name, failed: Option<Failure>) {
        self.links.values_mut().for_each(|(_, cache)| cache.unfollow(kind));
        if let Some(followed) = self.followed.remove(kind) {
            followed.fail(failed);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        for followed in self.followed.values() {
            followed.fail(Some(failure.clone()));
        }
    }

    /// Looks whether the interfaces are as they were. New ones are listened on.
    fn look(&mut self, now: Instant) -> Result<(), Failure> {
        self.looks = now + LOOKS;
        let mut found = looked_at(&self.names)?;
        for (index, (link, _)) in &mut self.links {
            let name = &link.at.name;
            let at = found.remove(index).ok_or_else(|| unavailable(format!("{name} is no longer up")))?;
            // With another address it is the same link.
            if at != link.at {
                let open = Link::open(*index, at, &self.heard);
                *link = open.map_err(|error| unavailable(format!("listening on {name}: {error}")))?;
            }
        }
        for (index, at) in found {
            // Not ready yet; it is tried again with the next look.
            let Ok(link) = Link::open(index, at, &self.heard) else { continue };
            let mut cache = Cache::default();
            self.followed.keys().for_each(|kind| cache.follow(kind, now));
            self.links.insert(index, (link, cache));
        }
        Ok(())
    }

    /// Asks what is to be asked, and says what is to be said.
    fn speak(&mut self, now: Instant) {
        for (link, cache) in self.links.values_mut() {
            if let Some(asked) = cache.due(now) {
                asked.write().iter().for_each(|packet| link.say(packet));
            }
        }
        for Saying { about, message } in self.responder.due(now) {
            let packets = message.write();
            for (link, _) in self.links.values().filter(|(link, _)| link.at.reaches(about)) {
                packets.iter().for_each(|packet| link.say(packet));
            }
        }
        let responder = &self.responder;
        for (id, named) in self.named.extract_if(.., |(id, _)| responder.name(*id).is_some()) {
            let name = responder.name(id).and_then(label).unwrap_or_default();
            let _ = named.send(name.to_owned());
        }
    }

    /// Tells those who follow what has changed.
    fn tell(&mut self, now: Instant) {
        let unread: Vec<Name> = self
            .followed
            .iter()
            .filter(|(_, followed)| !followed.is_read())
            .map(|(kind, _)| kind.clone())
            .collect();
        unread.iter().for_each(|kind| self.unfollow(kind, None));
        let loopback = self.links.values().any(|(link, _)| link.at.is_loopback());
        for (kind, followed) in &mut self.followed {
            for (_, cache) in self.links.values_mut() {
                if cache.take_changed(kind) {
                    followed.note_change(now);
                }
            }
            let lacks = || self.links.values().any(|(_, cache)| cache.lacks(kind));
            if followed.is_due(now, lacks) {
                followed.tell(listed(&self.links, kind, loopback));
            }
            followed.refresh(now);
        }
    }

    fn next_due(&self) -> Instant {
        let caches = self.links.values().filter_map(|(_, cache)| cache.next_due());
        let now = Instant::now();
        let followed = self.followed.values().filter_map(|followed| followed.next_due(now));
        caches.chain(followed).chain(self.responder.next_due()).fold(self.looks, Instant::min)
    }
}

/// What there is of a type on all links together. An instance may be heard on several.
fn listed(links: &BTreeMap<u32, (Link, Cache)>, kind: &Name, loopback: bool) -> List {
    let mut list = BTreeMap::<String, Instance>::new();
    for (link, cache) in links.values() {
        for found in cache.all(kind) {
            let Some(instance) = instance(&found, &link.at.name, loopback) else { continue };
            let id = instance.name.to_ascii_lowercase();
            match list.get_mut(&id) {
                Some(known) => known.addresses.extend(instance.addresses),
                None => _ = list.insert(id, instance),
            }
        }
    }
    let ready = |(id, mut instance): (String, Instance)| {
        instance.addresses.sort();
        instance.addresses.dedup();
        (id, Arc::new(instance))
    };
    list.into_iter().map(ready).collect()
}

/// None: it has no name that is text, or no address that leads anywhere from here.
fn instance(found: &Found<'_>, interface: &str, loopback: bool) -> Option<Instance> {
    let service = found.service;
    let host = service.host.to_utf8();
    let addresses: Vec<String> = found
        .addresses
        .iter()
        // The loopback of another machine is not this one's.
        .filter(|ip| loopback || !ip.is_loopback())
        .map(|ip| match ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => format!("{ip}%{interface}"),
            ip => ip.to_string(),
        })
        .collect();
    Some(Instance {
        name: label(found.name)?.to_owned(),
        host: host.strip_suffix('.').unwrap_or(&host).to_owned(),
        addresses: Some(addresses).filter(|addresses| !addresses.is_empty())?,
        port: service.port,
        priority: service.priority,
        weight: service.weight,
        texts: found.texts.iter().map(|text| text.to_vec()).collect(),
    })
}
