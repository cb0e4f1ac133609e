//! Messages of multicast DNS: what is read of them, and how they are written.

use std::{net::IpAddr, sync::Arc};

pub use hickory_proto::rr::{Name, RecordType as Kind};
use hickory_proto::{
    op::{Message as Dns, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, RData, Record,
        rdata::{A, AAAA, PTR, SRV, TXT},
    },
};

/// What fits into a packet of Ethernet, with the headers of IPv6 and UDP.
const PACKET: usize = 1_440;
const HEADER: usize = 12;

/// Records of one message that are looked at.
const MOST_RECORDS: usize = 1_000;

/// What is asked for: a name and a kind of record, or any.
pub type Question = (Name, Kind);

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Pointer(Name),
    Service(Service),
    /// Strings, as they are.
    Texts(Texts),
    Address(IpAddr),
}

pub type Texts = Arc<[Box<[u8]>]>;

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub host: Name,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub name: Name,
    pub data: Data,
    /// Seconds that it is good for; 0 says goodbye.
    pub ttl: u32,
    /// What was heard before of this name and kind is no longer so.
    pub alone: bool,
}

/// A message, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// A response; a query otherwise.
    pub is_response: bool,
    /// More of what who asks knows comes with the next message.
    pub truncated: bool,
    pub questions: Vec<Question>,
    /// Of a query, what who asks knows already.
    pub facts: Vec<Fact>,
    /// What goes with the answers of a response.
    pub more: Vec<Fact>,
    /// Of a query: what who asks will say is so, when nobody objects.
    pub proposed: Vec<Fact>,
}

impl Data {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pointer(_) => Kind::PTR,
            Self::Service(_) => Kind::SRV,
            Self::Texts(_) => Kind::TXT,
            Self::Address(IpAddr::V4(_)) => Kind::A,
            Self::Address(IpAddr::V6(_)) => Kind::AAAA,
        }
    }

    fn of(data: RData) -> Option<Self> {
        Some(match data {
            RData::PTR(PTR(to)) => Self::Pointer(whole(to)),
            RData::SRV(SRV { priority, weight, port, target, .. }) => {
                Self::Service(Service { priority, weight, port, host: whole(target) })
            }
            // A string that is empty says nothing; one stands where there are none.
            RData::TXT(texts) => {
                Self::Texts(texts.txt_data.into_iter().filter(|text| !text.is_empty()).collect())
            }
            RData::A(A(ip)) => Self::Address(ip.into()),
            RData::AAAA(AAAA(ip)) => Self::Address(ip.into()),
            _ => return None,
        })
    }

    fn written(&self) -> RData {
        match self {
            Self::Pointer(to) => RData::PTR(PTR(to.clone())),
            Self::Service(Service { priority, weight, port, host }) => {
                RData::SRV(SRV::new(*priority, *weight, *port, host.clone()))
            }
            // A record of this kind has at least one string.
            Self::Texts(texts) if texts.is_empty() => RData::TXT(TXT::from_bytes(vec![b""])),
            Self::Texts(texts) => RData::TXT(TXT::from_bytes(texts.iter().map(|text| &**text).collect())),
            Self::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
            Self::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        }
    }

    /// By what two who want the same name are compared, the kind included.
    pub fn rank(&self) -> (u16, Vec<u8>) {
        let record = Record::from_rdata(Name::root(), 0, self.written());
        let mut bytes = Vec::new();
        let mut encoder = hickory_proto::serialize::binary::BinEncoder::new(&mut bytes);
        let _ = hickory_proto::serialize::binary::BinEncodable::emit(&record, &mut encoder);
        (self.kind().into(), bytes)
    }
}

impl Fact {
    fn of(record: Record) -> Option<Self> {
        if record.dns_class != DNSClass::IN {
            return None;
        }
        let (name, ttl, alone) = (whole(record.name), record.ttl, record.mdns_cache_flush);
        Some(Self { name, data: Data::of(record.data)?, ttl, alone })
    }

    fn written(&self) -> Record {
        let mut record = Record::from_rdata(self.name.clone(), self.ttl, self.data.written());
        record.mdns_cache_flush = self.alone;
        record
    }

    /// At least what it takes in a message.
    fn length(&self) -> usize {
        let data = match &self.data {
            Data::Pointer(to) => to.len(),
            Data::Service(service) => 6 + service.host.len(),
            Data::Texts(texts) => texts.iter().map(|text| 1 + text.len()).sum::<usize>().max(1),
            Data::Address(_) => 16,
        };
        self.name.len() + 12 + data
    }
}

impl Message {
    /// None: it is no message, or says nothing that matters.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let dns = Dns::from_vec(bytes).ok()?;
        if dns.metadata.op_code != OpCode::Query || dns.metadata.response_code != ResponseCode::NoError {
            return None;
        }
        let is_response = dns.metadata.message_type == MessageType::Response;
        let facts = |records: Vec<Record>| -> Vec<Fact> {
            records.into_iter().take(MOST_RECORDS).filter_map(Fact::of).collect()
        };
        let (proposed, more) = match is_response {
            false => (facts(dns.authorities), Vec::new()),
            true => (Vec::new(), facts(dns.additionals)),
        };
        let questions = dns.queries.into_iter().take(MOST_RECORDS);
        Some(Self {
            is_response,
            truncated: dns.metadata.truncation,
            questions: questions.map(|asked| (whole(asked.name), asked.query_type)).collect(),
            facts: facts(dns.answers),
            more,
            proposed,
        })
    }

    /// As packets: what does not fit into one goes on in the next.
    pub fn write(self) -> Vec<Vec<u8>> {
        let Self { is_response, questions, facts, more, proposed, .. } = self;
        let mut packets = Packets { is_response, packets: Vec::new(), open: Self::default(), length: HEADER };
        packets.open.is_response = is_response;
        for question in questions {
            packets.room(question.0.len() + 4);
            packets.open.questions.push(question);
        }
        for fact in proposed {
            packets.room(fact.length());
            packets.open.proposed.push(fact);
        }
        for fact in facts {
            packets.room(fact.length());
            packets.open.facts.push(fact);
        }
        for fact in more {
            packets.room(fact.length());
            packets.open.more.push(fact);
        }
        packets.finish(false);
        packets.packets
    }

    fn is_empty(&self) -> bool {
        let facts = self.facts.len() + self.more.len() + self.proposed.len();
        facts == 0 && self.questions.is_empty()
    }
}

struct Packets {
    is_response: bool,
    packets: Vec<Vec<u8>>,
    open: Message,
    length: usize,
}

impl Packets {
    /// Sees to it that there is room for so many bytes.
    fn room(&mut self, length: usize) {
        if self.length + length > PACKET && !self.open.is_empty() {
            self.finish(!self.is_response);
        }
        self.length += length;
    }

    fn finish(&mut self, truncated: bool) {
        let open = std::mem::take(&mut self.open);
        self.open.is_response = self.is_response;
        self.length = HEADER;
        if open.is_empty() {
            return;
        }
        let kind = if self.is_response { MessageType::Response } else { MessageType::Query };
        let mut dns = Dns::new(0, kind, OpCode::Query);
        dns.metadata.recursion_desired = false;
        dns.metadata.authoritative = self.is_response;
        dns.metadata.truncation = truncated;
        dns.add_queries(open.questions.into_iter().map(|(name, kind)| Query::query(name, kind)));
        dns.add_answers(open.facts.iter().map(Fact::written));
        dns.add_authorities(open.proposed.iter().map(Fact::written));
        dns.add_additionals(open.more.iter().map(Fact::written));
        // A name that was read or checked can be written.
        self.packets.extend(dns.to_vec().ok());
    }
}

/// Names are compared as they are only when both end with the root.
fn whole(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

/// The name that these labels make below `local`.
pub fn local(labels: &[&[u8]]) -> Option<Name> {
    let all = labels.iter().copied().chain([&b"local"[..]]);
    Name::from_labels(all).ok().map(whole)
}

/// The first label of a name, if it is text.
pub fn label(name: &Name) -> Option<&str> {
    str::from_utf8(name.iter().next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(number: usize) -> Fact {
        let kind = local(&[b"_http", b"_tcp"]).unwrap();
        let to = kind.prepend_label(format!("Web v1.{number} of a rather long name").as_bytes()).unwrap();
        Fact { name: kind, data: Data::Pointer(to), ttl: 4_500, alone: false }
    }

    #[test]
    fn what_is_written_can_be_read_with_dots_in_names() {
        let host = local(&[b"web-1"]).unwrap();
        let name = local(&[b"a.b \xc3\xa9", b"_http", b"_tcp"]).unwrap();
        let fact = |data, alone| Fact { name: name.clone(), data, ttl: 120, alone };
        let service = Service { priority: 1, weight: 2, port: 80, host };
        let message = Message {
            is_response: true,
            facts: vec![
                fact(Data::Service(service), true),
                fact(Data::Texts([b"a=1".to_vec().into(), b"b".to_vec().into()].into()), true),
                fact(Data::Address("fe80::1".parse().unwrap()), true),
            ],
            more: vec![pointer(1)],
            ..Message::default()
        };
        let packets = message.clone().write();
        assert_eq!(
            packets.iter().map(|packet| Message::read(packet).unwrap()).collect::<Vec<_>>(),
            [message]
        );
        assert_eq!(label(&name), Some("a.b é"));
    }

    #[test]
    fn what_does_not_fit_goes_on_in_the_next_packet() {
        let known: Vec<Fact> = (0..200).map(pointer).collect();
        let asked = Message {
            questions: vec![(known[0].name.clone(), Kind::PTR)],
            facts: known.clone(),
            ..Message::default()
        };
        let packets = asked.write();
        assert!(packets.len() > 2 && packets.iter().all(|packet| packet.len() <= PACKET));
        let read: Vec<_> = packets.iter().map(|packet| Message::read(packet).unwrap()).collect();
        let last = read.len() - 1;
        assert!(read.iter().enumerate().all(|(at, message)| message.truncated == (at < last)));
        assert_eq!(read.iter().map(|message| message.questions.len()).sum::<usize>(), 1);
        assert_eq!(read.into_iter().flat_map(|message| message.facts).collect::<Vec<_>>(), known);
    }

    #[test]
    fn what_is_no_message_is_none() {
        let whole = Message { is_response: true, facts: vec![pointer(1)], ..Message::default() }.write();
        for end in 0..whole[0].len() {
            assert_eq!(Message::read(&whole[0][..end]), None, "{end}");
        }
        assert_eq!(Message::read(b"<html>Sign in</html>"), None);
    }
}
