//! What `mdns-sd` has said of the instances of one type.

use std::{collections::BTreeSet, sync::Arc};

use mdns_sd::{ResolvedService, ScopedIp, ServiceEvent};

use super::list::{Instance, List, MOST_BYTES, MOST_INSTANCES, TOO_MANY, written};

pub struct Heard {
    /// What the full names of instances end with: `_http._tcp.local.`.
    kind: String,
    /// Loopback addresses lead somewhere from here.
    loopback: bool,
    pub list: List,
    /// Those that were heard of and cannot be reached yet.
    lacking: BTreeSet<String>,
    /// Those of both that have dots in their names.
    pub with_dots: BTreeSet<String>,
    /// Since somebody took note of it.
    pub dots_changed: bool,
    /// Of names and what is said of them.
    bytes: usize,
    /// Since somebody took note of it.
    pub changed: bool,
    pub some_left: bool,
    /// Why nothing more is heard.
    pub ended: Option<String>,
    /// Something was said that was not heard.
    pub missed: bool,
}

impl Heard {
    /// `kind` is a type like `_http._tcp.local.`, or a subtype of one.
    pub fn new(kind: &str, loopback: bool) -> Self {
        // Instances of a subtype have the names that they have in the type.
        let kind = kind.split_once("._sub.").map_or(kind, |(_, kind)| kind).to_owned();
        Self {
            kind,
            loopback,
            list: List::new(),
            lacking: BTreeSet::new(),
            with_dots: BTreeSet::new(),
            dots_changed: false,
            bytes: 0,
            changed: false,
            some_left: false,
            ended: None,
            missed: false,
        }
    }

    pub fn hear(&mut self, event: ServiceEvent) {
        match event {
            _ if self.ended.is_some() => return,
            ServiceEvent::ServiceFound(_, fullname) => {
                let Some(id) = self.id(&fullname) else { return };
                if !self.list.contains_key(&id) && self.lacking.insert(id.clone()) {
                    self.bytes += id.len();
                }
                self.note_dots(id);
            }
            ServiceEvent::ServiceResolved(found) => {
                let Some(id) = self.id(&found.fullname) else { return };
                self.remove(&id);
                if let Some(instance) = self.instance(&found) {
                    self.bytes += id.len() + length(&instance);
                    self.list.insert(id.clone(), Arc::new(instance));
                }
                self.note_dots(id);
                self.changed = true;
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                let Some(id) = self.id(&fullname) else { return };
                self.remove(&id);
                self.note_dots(id);
                (self.changed, self.some_left) = (true, true);
            }
            _ => return,
        }
        // What is too much is not kept in part: that would be a list that is cut at random.
        if self.list.len() + self.lacking.len() > MOST_INSTANCES || self.bytes > MOST_BYTES {
            self.list.clear();
            self.lacking.clear();
            self.with_dots.clear();
            self.dots_changed = true;
            self.ended = Some(TOO_MANY.to_owned());
        }
    }

    /// Nothing more is said to one who did not listen.
    pub fn end(&mut self) {
        self.missed = true;
        self.ended.get_or_insert_with(|| "was answered faster than it could be read".to_owned());
    }

    /// Whether something was heard of that cannot be reached yet.
    pub fn lacks(&self) -> bool {
        !self.lacking.is_empty()
    }

    fn note_dots(&mut self, id: String) {
        if !id.contains('.') {
            return;
        }
        let is_there = self.list.contains_key(&id) || self.lacking.contains(&id);
        self.dots_changed |= if is_there { self.with_dots.insert(id) } else { self.with_dots.remove(&id) };
    }

    fn id(&self, fullname: &str) -> Option<String> {
        Some(label(fullname, &self.kind)?.to_ascii_lowercase())
    }

    fn remove(&mut self, id: &str) {
        if self.lacking.remove(id) {
            self.bytes -= id.len();
        }
        if let Some(instance) = self.list.remove(id) {
            self.bytes -= id.len() + length(&instance);
        }
    }

    /// None: it has no address that leads anywhere from here.
    fn instance(&self, found: &ResolvedService) -> Option<Instance> {
        let address = |ip: &ScopedIp| {
            let interface = match ip {
                ScopedIp::V6(ip) => &*ip.scope_id().name,
                _ => "",
            };
            written(ip.to_ip_addr(), interface, self.loopback)
        };
        let mut addresses: Vec<String> = found.addresses.iter().filter_map(address).collect();
        addresses.sort();
        addresses.dedup();
        let text = |(key, value): (&str, Option<&[u8]>)| {
            let value = value.map(|value| [b"=", value].concat());
            [key.as_bytes(), &value.unwrap_or_default()].concat()
        };
        let texts = found.txt_properties.iter().map(|property| text((property.key(), property.val())));
        Some(Instance {
            name: label(&found.fullname, &self.kind)?.to_owned(),
            host: found.host.strip_suffix('.').unwrap_or(&found.host).to_owned(),
            addresses: Some(addresses).filter(|addresses| !addresses.is_empty())?,
            port: found.port,
            // They are in the record, and kept from us.
            priority: 0,
            weight: 0,
            texts: texts.collect(),
        })
    }
}

fn length(instance: &Instance) -> usize {
    let Instance { name, host, addresses, texts, .. } = instance;
    let addresses = addresses.iter().map(String::len).sum::<usize>();
    name.len() + host.len() + addresses + texts.iter().map(Vec::len).sum::<usize>()
}

/// The first label of a full name, which may have dots in it. None: it is the name of another type.
pub fn label<'a>(fullname: &'a str, kind: &str) -> Option<&'a str> {
    let (label, rest) = fullname.split_at_checked(fullname.len().checked_sub(kind.len() + 1)?)?;
    let of_kind = rest.strip_prefix('.').is_some_and(|rest| rest.eq_ignore_ascii_case(kind));
    (of_kind && !label.is_empty()).then_some(label)
}

/// A label as it is, of one that `mdns-sd` wrote: it puts a backslash before dots and backslashes.
pub fn unescaped(label: &str) -> String {
    let mut letters = label.chars();
    let mut text = String::with_capacity(label.len());
    while let Some(letter) = letters.next() {
        text.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    text
}

#[cfg(test)]
mod tests {
    use mdns_sd::ServiceInfo;

    use super::*;

    const KIND: &str = "_http._tcp.local.";

    fn found(name: &str) -> ServiceEvent {
        ServiceEvent::ServiceFound(KIND.to_owned(), format!("{name}.{KIND}"))
    }

    fn resolved(name: &str, ips: &str, text: &str) -> ServiceEvent {
        let texts = vec![("a", text).into(), mdns_sd::TxtProperty::from("b")];
        let info = ServiceInfo::new(KIND, "x", "web-1.local.", ips, 80, texts).unwrap();
        let mut service = info.as_resolved_service();
        service.fullname = format!("{name}.{KIND}");
        ServiceEvent::ServiceResolved(Box::new(service))
    }

    fn removed(name: &str) -> ServiceEvent {
        ServiceEvent::ServiceRemoved(KIND.to_owned(), format!("{name}.{KIND}"))
    }

    #[test]
    fn instances_come_and_go_whatever_the_case_of_their_names() {
        let mut heard = Heard::new(KIND, false);
        heard.hear(found("Web v1.2"));
        assert!(heard.lacks() && heard.list.is_empty());
        heard.hear(found("web"));
        assert_eq!(heard.with_dots.iter().collect::<Vec<_>>(), ["web v1.2"]);
        assert!(std::mem::take(&mut heard.dots_changed));
        heard.hear(found("Web v1.2"));
        assert!(!heard.dots_changed);
        heard.hear(removed("web"));
        assert!(std::mem::take(&mut heard.some_left));
        heard.hear(resolved("Web v1.2", "10.0.0.1,127.0.0.1,fd00::1", "1"));
        let instance = &heard.list["web v1.2"];
        assert_eq!((&*instance.name, &*instance.host, instance.port), ("Web v1.2", "web-1.local", 80));
        assert_eq!(instance.addresses, ["10.0.0.1", "fd00::1"]);
        assert_eq!(instance.texts, [b"a=1".to_vec(), b"b".to_vec()]);
        assert!(!heard.lacks() && heard.changed && !heard.some_left);
        heard.hear(removed("WEB v1.2"));
        assert!(heard.list.is_empty() && heard.with_dots.is_empty() && heard.some_left && heard.bytes == 0);
        assert!(heard.dots_changed);
        heard.hear(resolved("here", "127.0.0.1,::ffff:127.0.0.1", "1"));
        assert!(heard.list.is_empty(), "the loopback of another machine leads nowhere");
    }

    #[test]
    fn instances_of_a_subtype_have_the_names_of_the_type() {
        let mut heard = Heard::new("_printer._sub._http._tcp.local.", false);
        heard.hear(resolved("web", "10.0.0.1", "1"));
        assert_eq!(heard.list.keys().collect::<Vec<_>>(), ["web"]);
        assert_eq!(label("web._ipp._tcp.local.", KIND), None);
        assert_eq!(label("_http._tcp.local.", KIND), None);
        assert_eq!(unescaped("a\\.b\\\\c"), "a.b\\c");
    }

    #[test]
    fn too_many_instances_and_too_much_said_of_them_are_told() {
        let mut heard = Heard::new(KIND, false);
        (0..MOST_INSTANCES).for_each(|number| heard.hear(found(&number.to_string())));
        assert_eq!(heard.ended, None);
        heard.hear(found("one more"));
        assert!(heard.ended.is_some() && !heard.lacks());

        let (mut heard, long) = (Heard::new(KIND, false), "x".repeat(200));
        // The same again is not more.
        for _ in 0..200_000 {
            heard.hear(resolved("web", "10.0.0.1", &long));
        }
        assert_eq!(heard.ended, None);
        heard.bytes = MOST_BYTES;
        heard.hear(resolved("other", "10.0.0.1", &long));
        assert!(heard.ended.is_some());
    }
}
