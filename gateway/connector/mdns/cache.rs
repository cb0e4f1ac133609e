//! What has been heard on one link, and what is to be asked there.
//!
//! Only what leads to an instance that is followed is kept: pointers of types that are followed, what these instances
//! say, and the addresses of their hosts. It knows no socket; time is what it is told.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    list::{MOST_BYTES, MOST_INSTANCES},
    wire::{Data, Fact, Kind, Message, Name, Question, Service, Texts},
};

/// Addresses of one host.
const MOST_ADDRESSES: usize = 32;

/// What says goodbye, or that what was said before is no longer so, may be taken back for so long.
const GRACE: Duration = Duration::from_secs(1);

/// Nothing is believed for longer, whatever it says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// Who asks at once asks with many others, so the first question waits for a moment.
const FIRST_QUESTION: std::ops::Range<u64> = 20..120;
/// Then pauses double. A lost announcement is noticed within the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is missing of an instance often comes with the next packet.
const MISSING_FOR: Duration = Duration::from_millis(100);

/// When a record is asked for again, in parts of a hundred of what it is good for.
const AGAIN: [u32; 4] = [80, 85, 90, 95];

#[derive(Default)]
pub struct Cache {
    followed: HashMap<Name, Followed>,
    /// By name. An instance that no pointer leads to is on its way out.
    instances: HashMap<Name, Instance>,
    hosts: HashMap<Name, Host>,
    bytes: usize,
    /// An instance has left its host, where it may have been the last.
    moved: bool,
    /// When `due` has something to do.
    due: Option<Instant>,
}

/// A type that is followed.
struct Followed {
    pointers: BTreeMap<Name, Life>,
    asks: Asks,
    changed: bool,
}

#[derive(Default)]
struct Instance {
    service: Option<(Service, Life)>,
    texts: Option<(Texts, Life)>,
    missing: Option<Asks>,
}

#[derive(Default)]
struct Host {
    addresses: Vec<(IpAddr, Life)>,
    missing: Option<Asks>,
}

/// How long a record is good for.
#[derive(Clone, Copy)]
struct Life {
    heard: Instant,
    ttl: Duration,
    ends: Instant,
    /// How often it was asked for again.
    asked: usize,
}

/// Questions with growing pauses.
struct Asks {
    due: Instant,
    pause: Duration,
}

/// There is more of a type than is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany(pub Name);

/// An instance with all that is needed to reach it.
pub struct Found<'a> {
    pub name: &'a Name,
    pub service: &'a Service,
    pub texts: &'a Texts,
    pub addresses: Vec<IpAddr>,
}

impl Life {
    fn new(ttl: u32, now: Instant) -> Self {
        let ttl = Duration::from_secs(ttl.into()).min(LONGEST_LIFE);
        Self { heard: now, ttl, ends: now + ttl, asked: 0 }
    }

    fn ends_soon(&mut self, now: Instant) {
        self.ends = self.ends.min(now + GRACE);
    }

    /// When it is asked for again; never when it is to end anyway.
    fn asks_again(&self) -> Option<Instant> {
        let part = AGAIN.get(self.asked).filter(|_| self.ends == self.heard + self.ttl)?;
        Some(self.heard + self.ttl * *part / 100)
    }

    fn asks_now(&mut self, now: Instant) -> bool {
        let asks = self.asks_again().is_some_and(|due| due <= now);
        while self.asks_again().is_some_and(|due| due <= now) {
            self.asked += 1;
        }
        asks
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.ends == self.heard + self.ttl && now < self.heard + self.ttl / 2
    }

    fn due(&self) -> Instant {
        self.asks_again().map_or(self.ends, |due| due.min(self.ends))
    }
}

impl Asks {
    fn after(wait: Duration, now: Instant) -> Self {
        Self { due: now + wait, pause: FIRST_PAUSE }
    }

    fn now(&mut self, now: Instant) -> bool {
        let due = self.due <= now;
        if due {
            self.due = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        due
    }
}

impl Cache {
    /// Begins to ask for a type.
    pub fn follow(&mut self, kind: &Name, now: Instant) {
        let wait = Duration::from_millis(fastrand::u64(FIRST_QUESTION));
        let asks = Asks::after(wait, now);
        let new = Followed { pointers: BTreeMap::new(), asks, changed: false };
        self.followed.entry(kind.clone()).or_insert(new);
        self.note_due();
    }

    pub fn unfollow(&mut self, kind: &Name) {
        self.followed.remove(kind);
        self.sweep();
        self.note_due();
    }

    /// Whether what there is of a type has changed since this was asked last.
    pub fn take_changed(&mut self, kind: &Name) -> bool {
        self.followed.get_mut(kind).is_some_and(|followed| std::mem::take(&mut followed.changed))
    }

    /// Whether a pointer leads to an instance of this type that cannot be reached yet.
    pub fn lacks(&self, kind: &Name) -> bool {
        let followed = self.followed.get(kind);
        followed.is_some_and(|followed| followed.pointers.keys().any(|name| self.found(name).is_none()))
    }

    /// What there is of a type.
    pub fn all(&self, kind: &Name) -> impl Iterator<Item = Found<'_>> {
        let pointers = self.followed.get(kind).into_iter().flat_map(|followed| followed.pointers.keys());
        pointers.filter_map(|name| self.found(name))
    }

    fn found<'a>(&'a self, name: &'a Name) -> Option<Found<'a>> {
        let instance = self.instances.get(name)?;
        let ((service, _), (texts, _)) = (instance.service.as_ref()?, instance.texts.as_ref()?);
        let host = self.hosts.get(&service.host).filter(|host| !host.addresses.is_empty())?;
        let addresses = host.addresses.iter().map(|(ip, _)| *ip).collect();
        Some(Found { name, service, texts, addresses })
    }

    /// Takes in what somebody said.
    pub fn hear(&mut self, message: &Message, now: Instant) -> Result<(), TooMany> {
        if !message.is_response || self.followed.is_empty() {
            return Ok(());
        }
        // Pointers first, then where they lead, then the hosts: in a message they are in any order.
        let facts = || message.facts.iter().chain(&message.more);
        let mut matters = false;
        for fact in facts() {
            if let Data::Pointer(to) = &fact.data {
                matters |= self.pointer(fact, to, now)?;
            }
        }
        for fact in facts() {
            matters |= match &fact.data {
                Data::Service(service) => self.service(fact, service, now)?,
                Data::Texts(texts) => self.texts(fact, texts, now)?,
                _ => false,
            };
        }
        for fact in facts() {
            if let Data::Address(ip) = fact.data {
                matters |= self.address(fact, ip, now);
            }
        }
        // What others say to each other is most of what there is to hear.
        if matters {
            if std::mem::take(&mut self.moved) {
                self.sweep();
            }
            self.note_missing(now);
            self.note_due();
        }
        Ok(())
    }

    /// False: it is of no type that is followed.
    fn pointer(&mut self, fact: &Fact, to: &Name, now: Instant) -> Result<bool, TooMany> {
        let Fact { name, ttl, .. } = fact;
        let Some(followed) = self.followed.get_mut(name) else { return Ok(false) };
        match followed.pointers.get_mut(to) {
            Some(life) if *ttl == 0 => life.ends_soon(now),
            Some(life) => *life = Life::new(*ttl, now),
            None if *ttl == 0 => {}
            None => {
                if followed.pointers.len() >= MOST_INSTANCES || self.bytes > MOST_BYTES {
                    return Err(TooMany(name.clone()));
                }
                followed.pointers.insert(to.clone(), Life::new(*ttl, now));
                followed.changed = true;
                self.bytes += to.len();
                self.instances.entry(to.clone()).or_default();
            }
        }
        Ok(true)
    }

    /// False: it is of no instance that is known.
    fn service(&mut self, fact: &Fact, service: &Service, now: Instant) -> Result<bool, TooMany> {
        let Fact { name, ttl, .. } = fact;
        let Some(instance) = self.instances.get_mut(name) else { return Ok(false) };
        match &mut instance.service {
            Some((known, life)) if known == service => match ttl {
                0 => life.ends_soon(now),
                _ => *life = Life::new(*ttl, now),
            },
            _ if *ttl == 0 => {}
            other => {
                let before = other.replace((service.clone(), Life::new(*ttl, now)));
                self.hosts.entry(service.host.clone()).or_default();
                self.moved |= before.as_ref().is_some_and(|(before, _)| before.host != service.host);
                let before = before.map_or(0, |(before, _)| before.host.len());
                self.differs(name, before, service.host.len())?;
            }
        }
        Ok(true)
    }

    /// False: it is of no instance that is known.
    fn texts(&mut self, fact: &Fact, texts: &Texts, now: Instant) -> Result<bool, TooMany> {
        let Fact { name, ttl, .. } = fact;
        let Some(instance) = self.instances.get_mut(name) else { return Ok(false) };
        match &mut instance.texts {
            Some((known, life)) if known == texts => match ttl {
                0 => life.ends_soon(now),
                _ => *life = Life::new(*ttl, now),
            },
            _ if *ttl == 0 => {}
            other => {
                let before = other.replace((texts.clone(), Life::new(*ttl, now)));
                let before = before.map_or(0, |(before, _)| length(&before));
                self.differs(name, before, length(texts))?;
            }
        }
        Ok(true)
    }

    /// False: it is of no host that is known.
    fn address(&mut self, Fact { name, ttl, alone, .. }: &Fact, ip: IpAddr, now: Instant) -> bool {
        let Some(host) = self.hosts.get_mut(name) else { return false };
        if *alone {
            // Of the same kind, and not said in the same breath.
            let others = host.addresses.iter_mut().filter(|(other, _)| *other != ip);
            for (other, life) in others {
                if other.is_ipv4() == ip.is_ipv4() && now > life.heard + GRACE {
                    life.ends_soon(now);
                }
            }
        }
        let full = host.addresses.len() >= MOST_ADDRESSES;
        match host.addresses.iter_mut().find(|(known, _)| *known == ip) {
            Some((_, life)) if *ttl == 0 => life.ends_soon(now),
            Some((_, life)) => *life = Life::new(*ttl, now),
            None if *ttl == 0 || full => {}
            None => {
                host.addresses.push((ip, Life::new(*ttl, now)));
                // Whose host it is would be longer to find out than to look.
                self.followed.values_mut().for_each(|followed| followed.changed = true);
            }
        }
        true
    }

    /// Notes that an instance says something else, in so many bytes instead of so many.
    fn differs(&mut self, name: &Name, before: usize, bytes: usize) -> Result<(), TooMany> {
        self.bytes = self.bytes + bytes - before;
        let mut kinds = self.followed.iter_mut().filter(|(_, followed)| followed.pointers.contains_key(name));
        let too_many = self.bytes > MOST_BYTES;
        kinds.try_for_each(|(kind, followed)| {
            followed.changed = true;
            if too_many { Err(TooMany(kind.clone())) } else { Ok(()) }
        })
    }

    /// Forgets what has ended, and says what is to be asked now. It costs nothing before there is something to do.
    pub fn due(&mut self, now: Instant) -> Option<Message> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.end(now);
        let mut asked = Message::default();
        self.ask_for_types(now, &mut asked);
        let leading: HashSet<&Name> =
            self.followed.values().flat_map(|followed| followed.pointers.keys()).collect();
        for (name, instance) in &mut self.instances {
            if leading.contains(name) {
                instance.ask(name, now, &mut asked.questions);
            }
        }
        for (name, host) in &mut self.hosts {
            host.ask(name, now, &mut asked.questions);
        }
        self.note_missing(now);
        self.note_due();
        (!asked.questions.is_empty()).then_some(asked)
    }

    fn ask_for_types(&mut self, now: Instant, asked: &mut Message) {
        for (kind, followed) in &mut self.followed {
            let again =
                followed.pointers.values_mut().filter_map(|life| life.asks_now(now).then_some(())).count();
            if followed.asks.now(now) || again > 0 {
                asked.questions.push((kind.clone(), Kind::PTR));
                // Who is known and fresh need not answer.
                let fresh = followed.pointers.iter().filter(|(_, life)| life.is_fresh(now));
                asked.facts.extend(fresh.map(|(to, life)| {
                    let left = life.ends.saturating_duration_since(now).as_secs();
                    let ttl = u32::try_from(left).unwrap_or(u32::MAX);
                    Fact { name: kind.clone(), data: Data::Pointer(to.clone()), ttl, alone: false }
                }));
            }
        }
    }

    fn end(&mut self, now: Instant) {
        let mut ended = false;
        for followed in self.followed.values_mut() {
            let before = followed.pointers.len();
            followed.pointers.retain(|_, life| life.ends > now);
            if followed.pointers.len() < before {
                followed.changed = true;
                ended = true;
            }
        }
        let mut lost = false;
        for instance in self.instances.values_mut() {
            let had = (instance.service.is_some(), instance.texts.is_some());
            instance.service.take_if(|(_, life)| life.ends <= now);
            instance.texts.take_if(|(_, life)| life.ends <= now);
            lost |= had != (instance.service.is_some(), instance.texts.is_some());
        }
        for host in self.hosts.values_mut() {
            let before = host.addresses.len();
            host.addresses.retain(|(_, life)| life.ends > now);
            lost |= host.addresses.len() < before;
        }
        if lost {
            self.followed.values_mut().for_each(|followed| followed.changed = true);
        }
        if ended || lost {
            self.sweep();
        }
    }

    /// Forgets what leads nowhere any more.
    fn sweep(&mut self) {
        let leading: HashSet<&Name> =
            self.followed.values().flat_map(|followed| followed.pointers.keys()).collect();
        self.instances.retain(|name, _| leading.contains(name));
        let services = || self.instances.values().filter_map(|instance| instance.service.as_ref());
        let hosts: HashSet<&Name> = services().map(|(service, _)| &service.host).collect();
        self.hosts.retain(|name, _| hosts.contains(name));
        let of_services = services().map(|(service, _)| service.host.len()).sum::<usize>();
        let texts = self.instances.values().filter_map(|instance| instance.texts.as_ref());
        let of_texts = texts.map(|(texts, _)| length(texts)).sum::<usize>();
        self.bytes = self.instances.keys().map(Name::len).sum::<usize>() + of_services + of_texts;
    }

    /// When `due` has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.due
    }

    fn note_due(&mut self) {
        let followed = self
            .followed
            .values()
            .flat_map(|followed| followed.pointers.values().map(Life::due).chain([followed.asks.due]));
        let instances = self.instances.values().flat_map(|instance| {
            let service = instance.service.as_ref().map(|(_, life)| life.due());
            let texts = instance.texts.as_ref().map(|(_, life)| life.due());
            let missing = instance.missing.as_ref().map(|asks| asks.due);
            [service, texts, missing].into_iter().flatten()
        });
        let hosts = self.hosts.values().flat_map(|host| {
            let missing = host.missing.as_ref().map(|asks| asks.due);
            host.addresses.iter().map(|(_, life)| life.due()).chain(missing)
        });
        self.due = followed.chain(instances).chain(hosts).min();
    }

    /// Notes what is missing of what was heard, so that it will be asked for.
    fn note_missing(&mut self, now: Instant) {
        for instance in self.instances.values_mut() {
            note(instance.service.is_none() || instance.texts.is_none(), &mut instance.missing, now);
        }
        for host in self.hosts.values_mut() {
            note(host.addresses.is_empty(), &mut host.missing, now);
        }
    }
}

fn length(texts: &Texts) -> usize {
    texts.iter().map(|text| text.len()).sum()
}

fn note(lacks: bool, missing: &mut Option<Asks>, now: Instant) {
    match lacks {
        false => *missing = None,
        true => {
            missing.get_or_insert_with(|| Asks::after(MISSING_FOR, now));
        }
    }
}

impl Instance {
    fn ask(&mut self, name: &Name, now: Instant, questions: &mut Vec<Question>) {
        let asks = self.missing.as_mut().is_some_and(|asks| asks.now(now));
        let service = self.service.as_mut().map_or(asks, |(_, life)| life.asks_now(now));
        let texts = self.texts.as_mut().map_or(asks, |(_, life)| life.asks_now(now));
        let wanted = [(service, Kind::SRV), (texts, Kind::TXT)];
        questions.extend(wanted.into_iter().filter(|(asks, _)| *asks).map(|(_, kind)| (name.clone(), kind)));
    }
}

impl Host {
    fn ask(&mut self, name: &Name, now: Instant, questions: &mut Vec<Question>) {
        let missing = self.missing.as_mut().is_some_and(|asks| asks.now(now));
        let (mut v4, mut v6) = (missing, missing);
        for (ip, life) in &mut self.addresses {
            if life.asks_now(now) {
                *(if ip.is_ipv4() { &mut v4 } else { &mut v6 }) = true;
            }
        }
        let wanted = [(v4, Kind::A), (v6, Kind::AAAA)];
        questions.extend(wanted.into_iter().filter(|(asks, _)| *asks).map(|(_, kind)| (name.clone(), kind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::mdns::wire::local;

    fn kind() -> Name {
        local(&[b"_http", b"_tcp"]).unwrap()
    }

    fn host() -> Name {
        local(&[b"web-1"]).unwrap()
    }

    fn name(label: &str) -> Name {
        kind().prepend_label(label.as_bytes()).unwrap()
    }

    fn pointer(label: &str, ttl: u32) -> Fact {
        Fact { name: kind(), data: Data::Pointer(name(label)), ttl, alone: false }
    }

    fn service(label: &str, port: u16, ttl: u32) -> Fact {
        let service = Service { priority: 0, weight: 0, port, host: host() };
        Fact { name: name(label), data: Data::Service(service), ttl, alone: true }
    }

    fn texts(label: &str, text: &str, ttl: u32) -> Fact {
        let texts = [text.as_bytes().to_vec().into_boxed_slice()].into();
        Fact { name: name(label), data: Data::Texts(texts), ttl, alone: true }
    }

    fn address(ip: &str, ttl: u32) -> Fact {
        Fact { name: host(), data: Data::Address(ip.parse().unwrap()), ttl, alone: true }
    }

    fn whole(label: &str, ttl: u32) -> Vec<Fact> {
        vec![address("10.0.0.1", ttl), texts(label, "a=1", ttl), service(label, 80, ttl), pointer(label, ttl)]
    }

    /// A cache that follows one type, from some moment on.
    struct Test {
        cache: Cache,
        start: Instant,
    }

    impl Test {
        fn new() -> Self {
            let (mut cache, start) = (Cache::default(), Instant::now());
            cache.follow(&kind(), start);
            Self { cache, start }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn hear(&mut self, seconds: f64, facts: Vec<Fact>) -> Result<(), TooMany> {
            let message = Message { is_response: true, facts, ..Message::default() };
            self.cache.hear(&message, self.at(seconds))
        }

        /// Lets time pass until then, and says what was asked, and when.
        fn asks_until(&mut self, seconds: f64) -> Vec<(f64, Message)> {
            let mut asked = Vec::new();
            while let Some(due) = self.cache.next_due().filter(|due| *due <= self.at(seconds)) {
                let message = self.cache.due(due);
                assert!(self.cache.next_due().is_none_or(|next| next > due), "it would go round without end");
                asked.extend(message.map(|message| ((due - self.start).as_secs_f64(), message)));
            }
            asked
        }

        fn found(&self) -> Vec<String> {
            let kind = kind();
            let found = self.cache.all(&kind).map(|found| {
                let label = crate::connector::mdns::wire::label(found.name).unwrap();
                format!("{label} {:?}:{}", found.addresses, found.service.port)
            });
            found.collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_type_is_asked_for_with_pauses_that_grow_to_a_minute() {
        let mut test = Test::new();
        let asked: Vec<f64> = test.asks_until(400.0).into_iter().map(|(at, _)| at - 0.12).collect();
        let expected = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0, 243.0, 303.0, 363.0];
        assert_eq!(asked.len(), expected.len(), "{asked:?}");
        assert!(asked.iter().zip(expected).all(|(at, expected)| (at - expected).abs() <= 0.1), "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_asked_for_and_what_is_known_is_said() {
        let mut test = Test::new();
        test.hear(0.2, vec![pointer("a.b", 4_500)]).unwrap();
        assert!(test.found().is_empty() && test.cache.lacks(&kind()));
        let asked = test.asks_until(0.5);
        assert_eq!(asked.last().unwrap().1.questions, [(name("a.b"), Kind::SRV), (name("a.b"), Kind::TXT)]);
        test.hear(0.6, vec![service("a.b", 80, 120), texts("a.b", "", 120)]).unwrap();
        let asked = test.asks_until(0.8);
        assert_eq!(asked.last().unwrap().1.questions, [(host(), Kind::A), (host(), Kind::AAAA)]);
        test.hear(0.9, vec![address("10.0.0.1", 120)]).unwrap();
        assert_eq!(test.found(), ["a.b [10.0.0.1]:80"]);
        assert!(!test.cache.lacks(&kind()));
        let asked = test.asks_until(4.0);
        assert!(asked.iter().all(|(_, message)| message.questions == [(kind(), Kind::PTR)]), "{asked:?}");
        let known = &asked.last().unwrap().1.facts;
        assert!(matches!(&known[..], [fact] if fact.data == Data::Pointer(name("a.b")) && fact.ttl > 4_490));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_about_to_run_out_is_asked_for_four_times_and_then_it_is_gone() {
        let mut test = Test::new();
        test.hear(0.2, vec![pointer("a", 4_500), texts("a", "", 4_500), address("10.0.0.1", 4_500)]).unwrap();
        test.hear(0.2, vec![pointer("a", 4_500), service("a", 80, 100), texts("a", "", 4_500)]).unwrap();
        test.hear(0.2, vec![address("10.0.0.1", 4_500)]).unwrap();
        let asked = test.asks_until(100.1);
        let of_service =
            asked.iter().filter(|(_, message)| message.questions.contains(&(name("a"), Kind::SRV)));
        let times: Vec<f64> = of_service.map(|(at, _)| (at - 0.2).round()).collect();
        assert_eq!(times, [80.0, 85.0, 90.0, 95.0]);
        assert_eq!(test.found(), ["a [10.0.0.1]:80"]);
        test.cache.take_changed(&kind());
        test.asks_until(100.3);
        assert!(test.found().is_empty() && test.cache.take_changed(&kind()));
        // It is still looked for: its name has not run out.
        test.hear(200.0, vec![service("a", 81, 100)]).unwrap();
        test.hear(200.0, vec![address("10.0.0.1", 100)]).unwrap();
        assert_eq!(test.found(), ["a [10.0.0.1]:81"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_renews() {
        let mut test = Test::new();
        test.hear(0.2, whole("a", 100)).unwrap();
        assert!(test.cache.take_changed(&kind()));
        for round in 1..5 {
            test.asks_until(f64::from(round) * 82.0);
            test.hear(f64::from(round) * 82.0, whole("a", 100)).unwrap();
            assert!(!test.cache.take_changed(&kind()), "nothing is new");
            assert_eq!(test.found().len(), 1);
        }
    }

    /// RFC 6762, 10.1: another responder may say that it is still there.
    #[tokio::test(start_paused = true)]
    async fn a_goodbye_counts_after_a_second_unless_it_is_taken_back() {
        let mut test = Test::new();
        test.hear(0.2, whole("a", 4_500)).unwrap();
        test.hear(5.0, vec![pointer("a", 0)]).unwrap();
        test.asks_until(5.9);
        assert_eq!(test.found().len(), 1);
        test.hear(5.9, vec![pointer("a", 4_500)]).unwrap();
        test.asks_until(10.0);
        assert_eq!(test.found().len(), 1);
        test.hear(10.0, vec![pointer("a", 0)]).unwrap();
        test.asks_until(11.1);
        assert!(test.found().is_empty());
        // Nobody's goodbye is nothing.
        test.hear(12.0, vec![pointer("b", 0), service("b", 80, 0), address("10.0.0.1", 0)]).unwrap();
        assert!(test.cache.instances.is_empty() && test.cache.hosts.is_empty());
        assert_eq!(test.cache.bytes, 0);
    }

    /// RFC 6762, 10.2: what was said in the same second is of the same answer.
    #[tokio::test(start_paused = true)]
    async fn a_new_address_takes_the_place_of_old_ones_of_its_family() {
        let mut test = Test::new();
        test.hear(0.2, whole("a", 4_500)).unwrap();
        test.hear(0.7, vec![address("10.0.0.2", 4_500), address("fd00::1", 4_500)]).unwrap();
        test.asks_until(3.0);
        assert_eq!(test.found(), ["a [10.0.0.1, 10.0.0.2, fd00::1]:80"]);
        test.hear(3.0, vec![address("10.0.0.3", 4_500)]).unwrap();
        test.asks_until(4.1);
        assert_eq!(test.found(), ["a [fd00::1, 10.0.0.3]:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn another_place_or_text_is_a_change_and_case_is_none() {
        let mut test = Test::new();
        test.hear(0.2, whole("a", 4_500)).unwrap();
        test.cache.take_changed(&kind());
        test.hear(1.0, whole("A", 4_500)).unwrap();
        assert!(!test.cache.take_changed(&kind()));
        test.hear(2.0, vec![service("a", 81, 4_500)]).unwrap();
        assert!(test.cache.take_changed(&kind()));
        test.hear(3.0, vec![texts("a", "a=2", 4_500)]).unwrap();
        assert!(test.cache.take_changed(&kind()));
        assert_eq!(test.found(), ["a [10.0.0.1]:81"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_follows_is_not_kept() {
        let mut test = Test::new();
        let other = local(&[b"_ipp", b"_tcp"]).unwrap();
        test.hear(0.2, vec![Fact { name: other, ..pointer("a", 4_500) }]).unwrap();
        test.hear(0.3, vec![service("x", 80, 4_500), texts("x", "", 4_500), address("10.0.0.1", 4_500)])
            .unwrap();
        assert!(test.cache.instances.is_empty() && test.cache.hosts.is_empty());
        test.hear(0.4, whole("a", 4_500)).unwrap();
        test.cache.unfollow(&kind());
        assert!(test.cache.instances.is_empty() && test.cache.hosts.is_empty() && test.cache.bytes == 0);
    }

    /// An instance that moves from host to host, or says ever something else, takes the room of one.
    #[tokio::test(start_paused = true)]
    async fn what_was_replaced_takes_no_room() {
        let mut test = Test::new();
        test.hear(0.2, whole("a", 4_500)).unwrap();
        test.hear(0.2, whole("b", 4_500)).unwrap();
        let (bytes, long) = (test.cache.bytes, "x".repeat(1 << 20));
        for round in 0..100 {
            let host = local(&[format!("box-{round}").as_bytes()]).unwrap();
            let service = Service { priority: 0, weight: 0, port: 80, host: host.clone() };
            let moved = Fact { data: Data::Service(service), ..texts("a", "", 4_500) };
            let there = Fact { name: host, ..address("10.0.0.2", 4_500) };
            test.hear(1.0, vec![moved, texts("a", &format!("{long}{round}"), 4_500), there]).unwrap();
            assert_eq!(test.cache.hosts.len(), 2, "that of b, and where a is");
        }
        for round in 0..100 {
            test.hear(1.0, vec![texts("a", &format!("{round}{long}"), 4_500)]).unwrap();
        }
        test.hear(2.0, whole("a", 4_500)).unwrap();
        assert_eq!((test.cache.bytes, test.cache.hosts.len()), (bytes, 1));
        assert_eq!(test.found(), ["a [10.0.0.1]:80", "b [10.0.0.1]:80"]);
    }

    /// Every packet on the link is followed by a look at what is due.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_through_before_something_is_due() {
        let mut test = Test::new();
        let all = (0..5_000).flat_map(|number| whole(&number.to_string(), 4_500));
        test.hear(0.2, all.collect()).unwrap();
        test.asks_until(100.0);
        let (other, since) = (local(&[b"_ipp", b"_tcp"]).unwrap(), std::time::Instant::now());
        for _ in 0..5_000 {
            test.hear(100.0, vec![Fact { name: other.clone(), ..pointer("a", 4_500) }]).unwrap();
            assert_eq!(test.cache.due(test.at(100.0)), None);
        }
        // To look through it so often takes minutes.
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_instances_and_too_much_said_of_them_are_told() {
        let mut test = Test::new();
        let many = (0..MOST_INSTANCES).map(|number| pointer(&number.to_string(), 4_500)).collect();
        test.hear(0.2, many).unwrap();
        assert_eq!(test.hear(0.3, vec![pointer("one more", 4_500)]), Err(TooMany(kind())));

        let mut test = Test::new();
        let long = "x".repeat(8 << 20);
        let all = (0..6).map(|number| {
            test.hear(0.2, vec![pointer(&number.to_string(), 9), texts(&number.to_string(), &long, 9)])
        });
        assert!(all.collect::<Result<(), _>>().is_err());
    }
}
