//! What is known of a type, and when it is told to those who follow it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::registry::Failure;

/// Instances of one type, and bytes of what is said of them.
pub const MOST_INSTANCES: usize = 10_000;
pub const MOST_BYTES: usize = 32 << 20;
pub const TOO_MANY: &str = "has more than 10000 instances, or more than 32 MiB are said of them";

/// How long answers to the first questions are waited for: the second follows after a second, in case the first was
/// lost. What cannot be reached by then is waited for a little longer.
const FIRST_LIST: Duration = Duration::from_millis(1_500);
const FIRST_LIST_AT_MOST: Duration = Duration::from_secs(3);

/// How often those who follow are told that all is as it was.
const FRESH: Duration = Duration::from_secs(30);

/// What is heard at once is told at once.
pub const GATHERED: Duration = Duration::from_millis(20);

/// By the first label of the name, in lower case.
pub type List = BTreeMap<String, Arc<Instance>>;

/// What is known of a type.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Nothing counts before it is complete.
    pub list: Arc<List>,
    pub complete: bool,
    /// Why there is no more to come.
    pub failed: Option<Failure>,
    /// Grows while nothing changes.
    pub fresh: u64,
}

/// An instance that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub host: String,
    /// Those that other machines are reached at; link-local ones of IPv6 with their interface.
    pub addresses: Vec<String>,
    pub port: u16,
    pub priority: u16,
    pub weight: u16,
    pub texts: Vec<Vec<u8>>,
}

/// An address that somebody said he is at, as it is written here. None: it leads nowhere from here, or back to whoever
/// dials it. `loopback`: what was heard comes from this machine, whose loopback it is.
pub fn written(ip: IpAddr, interface: &str, loopback: bool) -> Option<String> {
    // One of IPv4 may be written as one of IPv6, and is dialled as what it is.
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || (ip.is_loopback() && !loopback) {
        return None;
    }
    Some(match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => format!("{ip}%{interface}"),
        ip => ip.to_string(),
    })
}

/// Tells those who follow a type.
pub struct Teller {
    told: watch::Sender<Told>,
    begun: Instant,
    /// When everybody was asked.
    since: Instant,
    fresh: Instant,
    /// When a change is told.
    due: Option<Instant>,
}

impl Teller {
    pub fn new(now: Instant) -> Self {
        Self { told: watch::Sender::default(), begun: now, since: now, fresh: now, due: None }
    }

    pub fn subscribe(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    pub fn is_read(&self) -> bool {
        self.told.receiver_count() > 0
    }

    pub fn fail(&self, failure: Option<Failure>) {
        self.told.send_modify(|told| told.failed = failure);
    }

    /// Others are asked, too. While the first list is not complete it waits for them, but not for ever.
    pub fn note_asked(&mut self, now: Instant) {
        self.since = now.min(self.begun + FIRST_LIST_AT_MOST);
    }

    pub fn note_change(&mut self, now: Instant) {
        self.due.get_or_insert(now + GATHERED);
    }

    /// Whether `list` would be told now. `lacks`: something was heard of that cannot be reached yet.
    pub fn is_due(&self, now: Instant, lacks: impl FnOnce() -> bool) -> bool {
        match self.told.borrow().complete {
            true => self.due.is_some_and(|due| due <= now),
            false => now >= self.since + FIRST_LIST && (now >= self.since + FIRST_LIST_AT_MOST || !lacks()),
        }
    }

    pub fn tell(&mut self, list: List) {
        self.due = None;
        self.told.send_if_modified(|told| {
            let changed = !told.complete || *told.list != list;
            if changed {
                (told.complete, told.list) = (true, Arc::new(list));
            }
            changed
        });
    }

    pub fn refresh(&mut self, now: Instant) {
        if self.told.borrow().complete && self.fresh + FRESH <= now {
            self.fresh = now;
            self.told.send_modify(|told| told.fresh += 1);
        }
    }

    /// When there may be something to tell.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.told.borrow().complete {
            return self.due;
        }
        let first = self.since + FIRST_LIST;
        Some(if first > now { first } else { self.since + FIRST_LIST_AT_MOST })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_list_waits_for_those_who_are_asked_later_but_not_for_ever() {
        let now = Instant::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        let mut teller = Teller::new(now);
        assert!(!teller.is_due(after(1_499), || false) && teller.is_due(after(1_500), || false));
        teller.note_asked(after(1_000));
        assert!(!teller.is_due(after(2_499), || false) && teller.is_due(after(2_500), || false));
        assert!(!teller.is_due(after(3_999), || true) && teller.is_due(after(4_000), || true));
        (0..100).for_each(|round| teller.note_asked(after(round * 1_000)));
        assert!(teller.is_due(after(4_500), || false));
        teller.tell(List::new());
        teller.note_asked(after(5_000));
        assert!(!teller.is_due(after(9_000), || false), "nothing has changed");
    }

    #[test]
    fn an_address_counts_when_it_leads_to_who_said_it() {
        for (ip, elsewhere, here) in [
            ("10.0.0.1", Some("10.0.0.1"), Some("10.0.0.1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1"), Some("10.0.0.1")),
            ("fe80::1", Some("fe80::1%eth0"), Some("fe80::1%eth0")),
            ("fd00::1", Some("fd00::1"), Some("fd00::1")),
            ("127.0.0.1", None, Some("127.0.0.1")),
            ("127.9.9.9", None, Some("127.9.9.9")),
            ("::1", None, Some("::1")),
            ("::ffff:127.0.0.1", None, Some("127.0.0.1")),
            // The system takes these for the loopback, too.
            ("0.0.0.0", None, None),
            ("::", None, None),
            ("::ffff:0.0.0.0", None, None),
            ("224.0.0.251", None, None),
            ("ff02::fb", None, None),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(written(ip, "eth0", false).as_deref(), elsewhere, "{ip}");
            assert_eq!(written(ip, "eth0", true).as_deref(), here, "{ip}");
        }
    }
}
