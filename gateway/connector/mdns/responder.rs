//! What the gateway itself says on the links: instances that are announced.
//!
//! A name is asked for three times before it is used (RFC 6762, 8.1), and who else has it keeps it: then a number makes
//! another of it. It knows no socket; time is what it is told.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::wire::{Data, Fact, Kind, Message, Name, Question, Service, Texts, local};

const PROBES: u8 = 3;
const BETWEEN_PROBES: Duration = Duration::from_millis(250);
/// Who has lost a name to somebody who wants it at the same time asks again after this.
const AFTER_TIE: Duration = Duration::from_secs(1);
/// After so many names that others had, the next is tried after a pause.
const QUICK_NAMES: u32 = 15;
const SLOW_NAMES: Duration = Duration::from_secs(5);

const ANNOUNCEMENTS: u8 = 2;
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_secs(1);

/// Several may answer a question at once. Where more of what is known comes, that is waited for.
const ANSWER_AFTER: std::ops::Range<u64> = 20..120;
const ANSWER_AFTER_MORE: std::ops::Range<u64> = 400..500;

/// A farewell is said twice, as any packet may be lost.
const SECOND_FAREWELL: Duration = Duration::from_millis(120);

/// The longest label of a name.
pub const LONGEST_LABEL: usize = 63;

/// What is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub kind: Name,
    /// The name of the instance, of at most 63 bytes.
    pub name: String,
    pub ip: IpAddr,
    pub port: u16,
    pub texts: Texts,
    /// Seconds.
    pub ttl: u32,
}

/// A message, and the address whose links it is for.
pub struct Saying {
    pub about: IpAddr,
    pub message: Message,
}

#[derive(Default)]
pub struct Responder {
    own: BTreeMap<u64, Own>,
    later: Vec<Later>,
}

struct Own {
    announcement: Announcement,
    /// 1 is none: the name is as it was asked for.
    number: u32,
    name: Name,
    host: Name,
    step: Step,
    /// Under this name, so that a goodbye is due.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Probing { sent: u8, due: Instant },
    Announcing { sent: u8, due: Instant },
    Standing,
}

/// What is said after a while.
struct Later {
    due: Instant,
    /// Whose it is; a farewell is nobody's.
    id: Option<u64>,
    saying: Saying,
}

impl Announcement {
    /// None: it makes no name that can be announced.
    fn named(&self, number: u32) -> Option<Name> {
        self.kind.prepend_label(self.label(number, LONGEST_LABEL).as_bytes()).ok()
    }

    /// The name with a number, unless that is 1, cut to so many bytes.
    pub fn label(&self, number: u32, most: usize) -> String {
        let number = if number == 1 { String::new() } else { format!(" ({number})") };
        let mut end = self.name.len().min(most - number.len());
        while !self.name.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{number}", &self.name[..end])
    }

    /// A host of its own for each address, so that nobody else has it with another.
    pub fn host(&self) -> String {
        format!("witgate-{}", self.ip.to_string().replace(['.', ':'], "-"))
    }
}

impl Own {
    fn service(&self) -> Fact {
        let (port, host) = (self.announcement.port, self.host.clone());
        self.fact(&self.name, Data::Service(Service { priority: 0, weight: 0, port, host }), true)
    }

    fn texts(&self) -> Fact {
        self.fact(&self.name, Data::Texts(self.announcement.texts.clone()), true)
    }

    fn address(&self) -> Fact {
        self.fact(&self.host, Data::Address(self.announcement.ip), true)
    }

    fn pointer(&self) -> Fact {
        self.fact(&self.announcement.kind, Data::Pointer(self.name.clone()), false)
    }

    fn fact(&self, name: &Name, data: Data, alone: bool) -> Fact {
        Fact { name: name.clone(), data, ttl: self.announcement.ttl, alone }
    }

    fn saying(&self, message: Message) -> Saying {
        Saying { about: self.announcement.ip, message }
    }

    /// All there is to say.
    fn all(&self) -> Saying {
        let facts = vec![self.pointer(), self.service(), self.texts(), self.address()];
        self.saying(Message { is_response: true, facts, ..Message::default() })
    }

    /// The host may be that of another announcement, too.
    fn farewell(&self) -> Saying {
        let facts = [self.pointer(), self.service(), self.texts()];
        let facts = facts.into_iter().map(|fact| Fact { ttl: 0, ..fact }).collect();
        self.saying(Message { is_response: true, facts, ..Message::default() })
    }

    fn probe(&self) -> Saying {
        let questions = vec![(self.name.clone(), Kind::ANY)];
        let proposed = [self.service(), self.texts()].map(|fact| Fact { alone: false, ..fact });
        self.saying(Message { questions, proposed: proposed.into(), ..Message::default() })
    }

    /// What answers a question, and what is wanted next by who asks.
    fn answers(&self, (name, kind): &Question) -> (Vec<Fact>, Vec<Fact>) {
        let wants = |of: Kind| *kind == of || *kind == Kind::ANY;
        let address = self.address();
        if *name == self.announcement.kind && wants(Kind::PTR) {
            (vec![self.pointer()], vec![self.service(), self.texts(), address])
        } else if *name == self.name {
            let own = [(Kind::SRV, self.service()), (Kind::TXT, self.texts())];
            (own.into_iter().filter(|(of, _)| wants(*of)).map(|(_, fact)| fact).collect(), vec![address])
        } else if *name == self.host && wants(address.data.kind()) {
            (vec![address], Vec::new())
        } else {
            (Vec::new(), Vec::new())
        }
    }

    /// Whether others say something else of the name.
    fn disagrees(&self, fact: &Fact) -> bool {
        fact.name == self.name
            && fact.ttl > 0
            && match &fact.data {
                Data::Service(_) => fact.data != self.service().data,
                Data::Texts(_) => fact.data != self.texts().data,
                _ => false,
            }
    }

    /// Whether others who want the name at the same time have the better claim (RFC 6762, 8.2).
    fn yields(&self, proposed: &[Fact]) -> bool {
        let sorted = |facts: Vec<&Fact>| {
            let mut ranks: Vec<_> = facts.into_iter().map(|fact| fact.data.rank()).collect();
            ranks.sort();
            ranks
        };
        let theirs: Vec<_> = proposed.iter().filter(|fact| fact.name == self.name).collect();
        let (service, texts) = (self.service(), self.texts());
        !theirs.is_empty() && sorted(theirs) > sorted(vec![&service, &texts])
    }

    /// Somebody else has the name.
    fn rename(&mut self, now: Instant) {
        // A standing one first makes sure: what was heard may be old.
        let due = match self.step {
            Step::Standing | Step::Announcing { .. } => now,
            Step::Probing { .. } => {
                self.number += 1;
                self.told = false;
                if let Some(name) = self.announcement.named(self.number) {
                    self.name = name;
                }
                if self.number > QUICK_NAMES { now + SLOW_NAMES } else { now }
            }
        };
        self.step = Step::Probing { sent: 0, due };
    }
}

impl Responder {
    /// Begins to announce, under a new id. False: it has no name that can be announced.
    pub fn announce(&mut self, id: u64, announcement: Announcement, now: Instant) -> bool {
        let (own, mut number) = (&self.own, 1);
        let name = loop {
            let Some(name) = announcement.named(number) else { return false };
            // Those of this process do not hear each other.
            if !own.values().any(|own| own.name == name) {
                break name;
            }
            number += 1;
        };
        let Some(host) = local(&[announcement.host().as_bytes()]) else { return false };
        let due = now + Duration::from_millis(fastrand::u64(0..BETWEEN_PROBES.as_millis() as u64));
        let step = Step::Probing { sent: 0, due };
        self.own.insert(id, Own { announcement, number, name, host, step, told: false });
        true
    }

    /// The name under which it is known, as soon as it is.
    pub fn name(&self, id: u64) -> Option<&Name> {
        let own = self.own.get(&id)?;
        let announced = own.step == Step::Standing || matches!(own.step, Step::Announcing { sent: 1.., .. });
        announced.then_some(&own.name)
    }

    /// Says nothing of it any more. What was said ends by itself.
    pub fn forget(&mut self, id: u64) {
        self.own.remove(&id);
        self.later.retain(|later| later.id != Some(id));
    }

    /// A link has come, or has changed: names are asked for there, and announced again (RFC 6762, 8). `reaches` says
    /// whether it is one of those of an address.
    pub fn announce_again(&mut self, reaches: impl Fn(IpAddr) -> bool, now: Instant) {
        for own in self.own.values_mut().filter(|own| reaches(own.announcement.ip)) {
            own.step = Step::Probing { sent: 0, due: now };
        }
    }

    /// The addresses that are announced.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.own.values().map(|own| own.announcement.ip)
    }

    /// Takes it back. When the last word is said, if there is one.
    pub fn withdraw(&mut self, id: u64, now: Instant) -> Option<Instant> {
        let own = self.own.get(&id)?;
        let told = own.told;
        let farewells =
            [now, now + SECOND_FAREWELL].map(|due| Later { due, id: None, saying: own.farewell() });
        self.forget(id);
        if !told {
            return None;
        }
        self.later.extend(farewells);
        Some(now + SECOND_FAREWELL)
    }

    /// What somebody asked or said on a link. `reaches` says whether the link is one of those of an address.
    pub fn hear(&mut self, message: &Message, reaches: impl Fn(IpAddr) -> bool, now: Instant) {
        if message.is_response {
            let facts = || message.facts.iter().chain(&message.more);
            for own in self.own.values_mut() {
                if facts().any(|fact| own.disagrees(fact)) {
                    own.rename(now);
                }
            }
            return;
        }
        for (id, own) in &mut self.own {
            if let Step::Probing { .. } = own.step {
                if own.yields(&message.proposed) {
                    own.step = Step::Probing { sent: 0, due: now + AFTER_TIE };
                }
                continue;
            }
            if !reaches(own.announcement.ip) {
                continue;
            }
            let (mut answers, mut more) = (Vec::new(), Vec::new());
            for question in &message.questions {
                let (answer, next) = own.answers(question);
                answers.extend(answer);
                more.extend(next);
            }
            answers.retain(|fact| !is_known(fact, &message.facts));
            if !answers.is_empty() {
                more.retain(|fact| !answers.contains(fact));
                // Who asks before it takes a name waits no longer than for the next probe.
                let wait = match (message.truncated, message.proposed.is_empty()) {
                    (_, false) => Duration::ZERO,
                    (true, _) => Duration::from_millis(fastrand::u64(ANSWER_AFTER_MORE)),
                    (false, _) => Duration::from_millis(fastrand::u64(ANSWER_AFTER)),
                };
                let message = Message { is_response: true, facts: answers, more, ..Message::default() };
                self.later.push(Later { due: now + wait, id: Some(*id), saying: own.saying(message) });
            }
        }
        // What is known may come in messages of its own, after the question.
        if message.questions.is_empty() {
            for later in self.later.iter_mut().filter(|later| later.id.is_some()) {
                later.saying.message.facts.retain(|fact| !is_known(fact, &message.facts));
            }
            self.later.retain(|later| !later.saying.message.facts.is_empty());
        }
    }

    /// What is to be said now.
    pub fn due(&mut self, now: Instant) -> Vec<Saying> {
        let mut said = Vec::new();
        for own in self.own.values_mut() {
            match own.step {
                Step::Probing { sent, due } if due <= now => {
                    own.step = if sent < PROBES {
                        said.push(own.probe());
                        Step::Probing { sent: sent + 1, due: now + BETWEEN_PROBES }
                    } else {
                        said.push(own.all());
                        own.told = true;
                        Step::Announcing { sent: 1, due: now + BETWEEN_ANNOUNCEMENTS }
                    };
                }
                Step::Announcing { sent, due } if due <= now => {
                    said.push(own.all());
                    let due = now + BETWEEN_ANNOUNCEMENTS;
                    let sent = sent + 1;
                    own.step =
                        if sent < ANNOUNCEMENTS { Step::Announcing { sent, due } } else { Step::Standing };
                }
                _ => {}
            }
        }
        said.extend(self.later.extract_if(.., |later| later.due <= now).map(|later| later.saying));
        said
    }

    /// When `due` has something to say.
    pub fn next_due(&self) -> Option<Instant> {
        let steps = self.own.values().filter_map(|own| match own.step {
            Step::Probing { due, .. } | Step::Announcing { due, .. } => Some(due),
            Step::Standing => None,
        });
        steps.chain(self.later.iter().map(|later| later.due)).min()
    }
}

/// Whether who asks knows this, and will for a while.
fn is_known(fact: &Fact, known: &[Fact]) -> bool {
    known.iter().any(|known| known.name == fact.name && known.data == fact.data && known.ttl >= fact.ttl / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: &str = "10.0.0.1";

    fn announcement(name: &str, port: u16) -> Announcement {
        let kind = local(&[b"_http", b"_tcp"]).unwrap();
        let texts = [b"a=1".to_vec().into_boxed_slice()].into();
        Announcement { kind, name: name.to_owned(), ip: IP.parse().unwrap(), port, texts, ttl: 120 }
    }

    fn name(label: &str) -> Name {
        announcement("", 1).kind.prepend_label(label.as_bytes()).unwrap()
    }

    fn announce(responder: &mut Responder, announcement: Announcement, now: Instant) -> u64 {
        let id = responder.own.keys().max().map_or(0, |last| last + 1);
        assert!(responder.announce(id, announcement, now));
        id
    }

    /// Lets time pass until then, and says what was said.
    fn until(responder: &mut Responder, end: Instant) -> Vec<(Instant, Message)> {
        let mut said = Vec::new();
        while let Some(due) = responder.next_due().filter(|due| *due <= end) {
            said.extend(responder.due(due).into_iter().map(|Saying { message, .. }| (due, message)));
            assert!(responder.next_due().is_none_or(|next| next > due), "it would go round without end");
        }
        said
    }

    /// Messages of one go to the other.
    fn talk(one: &mut Responder, other: &mut Responder, end: Instant) {
        loop {
            let due = [&*one, &*other].iter().filter_map(|responder| responder.next_due()).min();
            let Some(due) = due.filter(|due| *due <= end) else { return };
            let (from_one, from_other) = (one.due(due), other.due(due));
            for (said, to) in [(from_one, &mut *other), (from_other, &mut *one)] {
                said.iter().for_each(|saying| to.hear(&saying.message, |_| true, due));
            }
        }
    }

    fn announced(port: u16) -> (Responder, u64, Instant) {
        let (mut responder, start) = (Responder::default(), Instant::now());
        let id = announce(&mut responder, announcement("orders", port), start);
        until(&mut responder, start + Duration::from_secs(5));
        (responder, id, start + Duration::from_secs(5))
    }

    fn asks(question: Question) -> Message {
        Message { questions: vec![question], ..Message::default() }
    }

    fn known(fact: Fact, ttl: u32) -> Message {
        Message { facts: vec![Fact { ttl, ..fact }], ..Message::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_three_times_then_announced_twice() {
        let (mut responder, start) = (Responder::default(), Instant::now());
        let id = announce(&mut responder, announcement("orders", 80), start);
        assert_eq!(responder.name(id), None);
        let said = until(&mut responder, start + Duration::from_secs(10));
        let (probes, announcements) = said.split_at(3);
        for (_, probe) in probes {
            assert_eq!(probe.questions, [(name("orders"), Kind::ANY)]);
            assert_eq!(probe.proposed.len(), 2);
        }
        assert_eq!(announcements.len(), 2);
        assert_eq!(announcements[1].0 - announcements[0].0, BETWEEN_ANNOUNCEMENTS);
        assert!(announcements.iter().all(|(_, message)| message.is_response && message.facts.len() == 4));
        assert_eq!(responder.name(id), Some(&name("orders")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_somebody_has_gets_a_number() {
        let (mut first, _, now) = announced(80);
        let mut second = Responder::default();
        let id = announce(&mut second, announcement("orders", 81), now);
        talk(&mut first, &mut second, now + Duration::from_secs(10));
        assert_eq!(second.name(id), Some(&name("orders (2)")));
        // Nobody else in this process, either.
        let third = announce(&mut second, announcement("orders (2)", 82), now);
        assert_eq!(second.own[&third].name, name("orders (2) (2)"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_want_a_name_at_once_one_has_it() {
        for (one, other) in [(80, 81), (81, 80)] {
            let (mut first, mut second, now) = (Responder::default(), Responder::default(), Instant::now());
            let a = announce(&mut first, announcement("orders", one), now);
            let b = announce(&mut second, announcement("orders", other), now);
            talk(&mut first, &mut second, now + Duration::from_secs(10));
            let mut names = [first.name(a).unwrap().clone(), second.name(b).unwrap().clone()];
            names.sort();
            assert_eq!(names, [name("orders"), name("orders (2)")]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_said_by_another_is_no_conflict() {
        let ((mut first, _, now), mut second) = (announced(80), Responder::default());
        let id = announce(&mut second, announcement("orders", 80), now);
        talk(&mut first, &mut second, now + Duration::from_secs(10));
        assert_eq!(second.name(id), Some(&name("orders")));
    }

    /// What a link brings back of what was said there.
    #[tokio::test(start_paused = true)]
    async fn what_it_says_itself_is_no_conflict() {
        let (mut responder, now) = (Responder::default(), Instant::now());
        let id =
            announce(&mut responder, Announcement { texts: [].into(), ..announcement("orders", 80) }, now);
        while let Some(due) = responder.next_due() {
            for Saying { message, .. } in responder.due(due) {
                for packet in message.write() {
                    responder.hear(&Message::read(&packet).unwrap(), |_| true, due);
                }
            }
        }
        assert_eq!(responder.name(id), Some(&name("orders")));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_answered_on_the_links_of_the_address_unless_the_answer_is_known() {
        let (mut responder, id, now) = announced(80);
        let own = &responder.own[&id];
        let (kind, host, pointer) = (own.announcement.kind.clone(), own.host.clone(), own.pointer());
        for (question, answers, more) in [
            ((kind.clone(), Kind::PTR), 1, 3),
            ((name("ORDERS"), Kind::SRV), 1, 1),
            ((name("orders"), Kind::ANY), 2, 1),
            ((host.clone(), Kind::A), 1, 0),
        ] {
            responder.hear(&asks(question.clone()), |_| true, now);
            let said = until(&mut responder, now + Duration::from_secs(1));
            let lengths: Vec<_> = said.iter().map(|(_, said)| (said.facts.len(), said.more.len())).collect();
            assert_eq!(lengths, [(answers, more)], "{question:?}");
        }
        for question in [(host, Kind::AAAA), (name("other"), Kind::ANY), (kind.clone(), Kind::SRV)] {
            responder.hear(&asks(question.clone()), |_| true, now);
            assert_eq!(until(&mut responder, now + Duration::from_secs(1)), [], "{question:?}");
        }
        responder.hear(&asks((kind.clone(), Kind::PTR)), |_| false, now);
        assert_eq!(until(&mut responder, now + Duration::from_secs(1)), []);
        // Known for long enough, in the question or in what follows it.
        let asked =
            |ttl| Message { questions: vec![(kind.clone(), Kind::PTR)], ..known(pointer.clone(), ttl) };
        responder.hear(&asked(60), |_| true, now);
        assert_eq!(until(&mut responder, now + Duration::from_secs(1)), []);
        responder.hear(&asked(59), |_| true, now);
        assert_eq!(until(&mut responder, now + Duration::from_secs(1)).len(), 1);
        responder.hear(&Message { truncated: true, ..asks((kind.clone(), Kind::PTR)) }, |_| true, now);
        responder.hear(&known(pointer.clone(), 100), |_| true, now + Duration::from_millis(300));
        assert_eq!(until(&mut responder, now + Duration::from_secs(1)), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_is_said_twice_and_nothing_after_it() {
        let (mut responder, id, now) = announced(80);
        let last = responder.withdraw(id, now).unwrap();
        let said = until(&mut responder, now + Duration::from_secs(10));
        assert_eq!(said.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [now, last]);
        assert!(said.iter().all(|(_, said)| said.is_response && said.facts.iter().all(|fact| fact.ttl == 0)));
        responder.hear(&asks((name("orders"), Kind::ANY)), |_| true, now);
        assert_eq!(until(&mut responder, now + Duration::from_secs(10)), []);
        // What was never said needs no goodbye.
        let id = announce(&mut responder, announcement("orders", 80), now);
        assert_eq!(responder.withdraw(id, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_link_that_has_changed_it_is_announced_again() {
        let (mut responder, id, now) = announced(80);
        responder.announce_again(|_| false, now);
        assert_eq!(until(&mut responder, now + Duration::from_secs(5)), []);
        responder.announce_again(|ip| ip == IP.parse::<IpAddr>().unwrap(), now);
        let said = until(&mut responder, now + Duration::from_secs(5));
        assert_eq!(
            said.iter().map(|(_, said)| said.is_response).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        assert_eq!(responder.name(id), Some(&name("orders")));
        assert_eq!(responder.ips().collect::<Vec<_>>(), [IP.parse::<IpAddr>().unwrap()]);
        // One that is withdrawn meanwhile was announced before.
        responder.announce_again(|_| true, now);
        assert!(responder.withdraw(id, now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_name_is_cut_between_letters_and_keeps_its_number() {
        let long = announcement(&"é".repeat(40), 80);
        let label =
            |number| String::from_utf8(long.named(number).unwrap().iter().next().unwrap().to_vec()).unwrap();
        assert_eq!(label(1), "é".repeat(31));
        assert_eq!(label(12), format!("{} (12)", "é".repeat(29)));
    }
}
