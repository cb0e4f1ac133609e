//! Types that are not of DNS-SD, like that of rpcx: asked for and announced by ourselves.
//!
//! The task ends when nobody follows or announces any more, or when a link is lost: what was heard there would run out
//! one by one, and nothing of that would be true. Then everybody who follows is told so, and begins again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use super::{
    cache::{Cache, Found, TooMany},
    engine::{LOOKS, Order, looked_at, lost, missing, on_no_link, unavailable},
    links::{Heard, Interfaced, Link},
    list::{GATHERED, Instance, List, TOO_MANY, Teller, Told, written},
    responder::{Announcement, Responder, Saying},
    wire::{Message, Name, label},
};
use crate::registry::Failure;

/// Packets that were read and not looked at yet. More wait in the kernel, or are lost as on the way.
const PACKETS: usize = 256;

pub struct Task {
    names: Vec<String>,
    links: BTreeMap<u32, (Link, Cache)>,
    /// Why interfaces that are up are not listened on, by their names.
    unopened: BTreeMap<String, String>,
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
        Self::on(names, looked_at(names)?, orders)
    }

    /// On those that were found; one is enough.
    fn on(
        names: &[String],
        found: BTreeMap<u32, Interfaced>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Self, Failure> {
        let (heard, packets) = mpsc::channel(PACKETS);
        let mut task = Self {
            names: names.to_vec(),
            links: BTreeMap::new(),
            unopened: BTreeMap::new(),
            heard,
            packets,
            orders,
            followed: HashMap::new(),
            responder: Responder::default(),
            named: Vec::new(),
            looks: Instant::now() + LOOKS,
        };
        found.into_iter().for_each(|(index, at)| task.open(index, at, Instant::now()));
        if task.links.is_empty() {
            let why: Vec<String> = task.unopened.into_values().collect();
            return Err(unavailable(why.join(", ")));
        }
        Ok(task)
    }

    /// Listens on an interface, or notes why it cannot. It is tried again with each look.
    fn open(&mut self, index: u32, at: Interfaced, now: Instant) {
        let name = at.name.clone();
        match Link::open(index, at, &self.heard) {
            Ok(link) => {
                self.unopened.remove(&name);
                self.responder.announce_again(|ip| link.at.reaches(ip), now);
                let (_, cache) = self.links.entry(index).insert_entry((link, Cache::default())).into_mut();
                self.followed.keys().for_each(|kind| cache.follow(kind, now));
            }
            Err(error) => {
                let why = format!("listening on {name}: {error}");
                if self.unopened.insert(name.clone(), why).is_none() {
                    tracing::warn!(interface = name, %error, "Listening for mDNS failed");
                }
            }
        }
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
            Order::Follow(_, reply) if let Some(failure) = self.missing() => {
                let _ = reply.send(watch::channel(Told { failed: Some(failure), ..Told::default() }).1);
            }
            Order::Follow(kind, reply) => {
                let links = &mut self.links;
                let followed = self.followed.entry(kind).or_insert_with_key(|kind| {
                    links.values_mut().for_each(|(_, cache)| cache.follow(kind, now));
                    Teller::new(now)
                });
                let _ = reply.send(followed.subscribe());
            }
            Order::Announce(id, announcement, reply) => {
                let _ = reply.send(self.announce(id, announcement, now));
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

    /// Why a list would not be whole.
    fn missing(&self) -> Option<Failure> {
        let failure = missing(&self.names, self.links.values().map(|(link, _)| &link.at))?;
        let why = self.names.iter().find_map(|name| self.unopened.get(name));
        Some(why.map_or(failure, |why| unavailable(why.clone())))
    }

    fn announce(
        &mut self,
        id: u64,
        announcement: Announcement,
        now: Instant,
    ) -> Result<oneshot::Receiver<String>, Failure> {
        let (ip, name) = (announcement.ip, announcement.name.clone());
        if !self.links.values().any(|(link, _)| link.at.reaches(ip)) {
            return Err(on_no_link(ip, self.links.values().map(|(link, _)| &link.at)));
        }
        if !self.responder.announce(id, announcement, now) {
            return Err(Failure::Invalid(format!("mDNS: {name:?} can be no name of an instance")));
        }
        let (named, name) = oneshot::channel();
        self.named.push((id, named));
        Ok(name)
    }

    fn hear(&mut self, index: u32, packet: &[u8], now: Instant) {
        let Some(message) = Message::read(packet) else { return };
        let Some((link, cache)) = self.links.get_mut(&index) else { return };
        let at = &link.at;
        self.responder.hear(&message, |ip| at.reaches(ip), now);
        if let Err(TooMany(kind)) = cache.hear(&message, now) {
            // What is too much is not kept in part: that would be a list that is cut at random.
            self.unfollow(&kind, Some(unavailable(format!("{kind} {TOO_MANY}"))));
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
        let links = self.links.iter().map(|(index, (link, _))| (index, &link.at));
        if let Some(failure) = lost(links, &found) {
            return Err(failure);
        }
        let mut changed = Vec::new();
        for (index, (link, _)) in &mut self.links {
            // What was heard there is as true as before.
            if let Some(at) = found.remove(index).filter(|at| *at != link.at) {
                let name = at.name.clone();
                let open = Link::open(*index, at, &self.heard);
                *link = open.map_err(|error| unavailable(format!("listening on {name}: {error}")))?;
                changed.push(link.at.clone());
            }
        }
        self.responder.announce_again(|ip| changed.iter().any(|at| at.reaches(ip)), now);
        let reached = |ip| self.links.values().any(|(link, _)| link.at.reaches(ip));
        if let Some(ip) = self.responder.ips().find(|ip| !reached(*ip)) {
            return Err(unavailable(format!("{ip}, which is announced, is on no link any more")));
        }
        self.unopened.retain(|name, _| found.values().any(|at| at.name == *name));
        found.into_iter().for_each(|(index, at)| self.open(index, at, now));
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
        self.named.retain(|(_, named)| !named.is_closed());
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
    let addresses = found.addresses.iter().filter_map(|ip| written(*ip, interface, loopback));
    let addresses: Vec<String> = addresses.collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::mdns::{links::tests::loopback, wire::local};

    /// One that is listened on, and one that cannot be.
    fn found() -> BTreeMap<u32, Interfaced> {
        let (lo, at) = loopback();
        let (ip, netmask) = ("203.0.113.1".parse().unwrap(), "255.255.255.0".parse().unwrap());
        let address = if_addrs::Ifv4Addr { ip, netmask, prefixlen: 24, broadcast: None };
        let addresses = vec![if_addrs::IfAddr::V4(address)];
        [(lo, at), (999_999, Interfaced { name: "gone0".to_owned(), addresses })].into()
    }

    fn followed(names: &[&str]) -> Result<Option<Failure>, Failure> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut task = Task::on(&names, found(), mpsc::unbounded_channel().1)?;
        let (reply, mut followed) = oneshot::channel();
        task.obey(Order::Follow(local(&[b"_rpcxservices"]).unwrap(), reply), Instant::now());
        let told = followed.try_recv().unwrap().borrow().failed.clone();
        Ok(told)
    }

    #[tokio::test]
    async fn an_interface_that_cannot_be_listened_on_costs_only_those_who_name_it() {
        assert!(matches!(followed(&[]), Ok(None)));
        assert!(matches!(followed(&["lo"]), Ok(None)));
        let Ok(Some(Failure::Unavailable(text))) = followed(&["lo", "gone0"]) else {
            panic!("the list is not whole")
        };
        assert!(text.contains("listening on gone0: "), "{text}");
        let unheard = found().split_off(&999_999);
        let Err(Failure::Unavailable(text)) = Task::on(&[], unheard, mpsc::unbounded_channel().1) else {
            panic!("nothing is listened on")
        };
        assert!(text.contains("listening on gone0: "), "{text}");
    }
}
